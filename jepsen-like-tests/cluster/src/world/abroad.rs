//! Leaders in any region of the world, where faults happen to more than the first one.
//!
//! Owns the question alone: who is killed and what heals is the caller's.

use anyhow::Result;
use client::Region;
use local::{RegionEntry, process};

use super::{CLAIM_MAX, Claims, Group, LEADER_MAX, World, claims_of, until};

impl World {
    /// The service that leads a group of a region, as soon as one does and runs, as an operator of that region sees it.
    pub(crate) async fn leader_in(
        &self,
        region: &RegionEntry,
        operator: &Region,
        group: Group,
    ) -> Result<String> {
        let what = format!("a leader of {group} in {}", region.region);
        until(&what, LEADER_MAX, async || {
            let living: Vec<_> = region
                .living(group.kind)
                .filter(|service| process::is_running(service))
                .collect();
            let asked = living.iter().map(|service| async move {
                let asked = tokio::time::timeout(CLAIM_MAX, claims_of(operator, service));
                asked.await.ok().and_then(Result::ok).unwrap_or_default()
            });
            let mut claims = Claims::default();
            for said in futures::future::join_all(asked).await.into_iter().flatten() {
                claims.groups.entry(said.group).or_default().push(said);
            }
            let id = claims.leader(group);
            let leads = living.iter().find(|service| Some(service.node_id) == id);
            Ok(leads.map(|service| service.name.clone()))
        })
        .await
    }
}
