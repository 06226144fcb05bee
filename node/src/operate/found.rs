//! Founding a region's storage: the catalog on every enrolled node, then the shards it names.
//!
//! Owns an order in which a crash leaves nothing that the same call does not finish. Refuses other shards than the
//! region was founded with.

use std::collections::BTreeSet;
use std::time::Duration;

use node_state::ShardMeta;
use node_state::catalog::SHARDS_MAX;
use proto::ids::{GroupId, NodeId, Role};
use proto::v1;
use proto::v1::catalog_command::Command;
use proto::v1::change_group_request::Change as Step;
use replica::host::{FoundError, Group};
use tokio::time::Instant;

use crate::core::Core;
use crate::error::CallError;
use crate::machine::LEVEL_MAX;

/// How long one group may take to elect its first leader.
const LEADER_MAX: Duration = Duration::from_secs(30);
/// How long one group may take to get to the newest level.
const RAISE_MAX: Duration = Duration::from_secs(5);

impl Core {
    /// Founds the region with `shards` shards, or finishes that; answers its groups.
    pub(crate) async fn found(&self, shards: u32) -> Result<Vec<GroupId>, CallError> {
        let _one = self.membership.lock().await;
        let count = shards as usize;
        if !(1..=SHARDS_MAX).contains(&count) {
            return Err(CallError::Malformed("a region has 1 to 31 shards"));
        }
        let shards: Vec<u64> = (GroupId::FIRST_SHARD..).take(count).collect();
        let catalog = &self.groups.catalog;
        self.found_group(catalog).await?;
        // Only its leader can go on; who asked finds it by the hint.
        self.leading(catalog)?;
        let new = {
            let (view, _) = self.view(catalog)?;
            node_state::catalog::region(&*view.state).is_none()
        };
        if new {
            self.raise_new(catalog).await;
        }
        let (region, jurisdiction) = {
            let table = self.enrolments.current();
            (table.region().to_string(), table.jurisdiction().to_string())
        };
        let found = v1::FoundRegion {
            region,
            jurisdiction,
            shards: shards.clone(),
        };
        self.decide_catalog(|_, _| Ok(Command::FoundRegion(found.clone())))
            .await?;
        self.groups
            .open_shards()
            .await
            .map_err(|error| CallError::NoAnswer {
                group: GroupId::CATALOG,
                why: transport::fault::Chain(&error).to_string(),
            })?;
        let mut groups = vec![GroupId::CATALOG];
        for shard in shards {
            let replica = self.shard(shard)?;
            self.found_group(&replica.group).await?;
            let empty = {
                let (view, _) = self.view(&replica.group)?;
                let meta = ShardMeta::load(&*view.state);
                meta.datasets == 0 && meta.sealed_bytes == 0
            };
            // In a region that is older than this build the level is the operator's to raise.
            if empty && catalog.level() >= LEVEL_MAX {
                self.raise_new(&replica.group).await;
            }
            groups.push(GroupId(shard));
        }
        tracing::info!(groups = groups.len(), "region founded");
        Ok(groups)
    }

    /// A new group begins at the newest level, unless a founder does not answer or is of an older build: then an
    /// operator raises it later, as in an upgrade.
    async fn raise_new(&self, group: &Group) {
        let deadline = Instant::now() + RAISE_MAX;
        let step = Step::RaiseLevel(LEVEL_MAX.0);
        let raised = self.change_at_leader(group.id(), step, deadline, &|_| {});
        if let Err(error) = raised.await {
            tracing::warn!(
                group = group.id().0,
                error = %transport::fault::Chain(&error),
                "founded below the newest feature level: raise it when all members run"
            );
        }
    }

    /// Founds one group on every enrolled node, unless it has a history. The same founders on two nodes found the
    /// same group: whoever is asked may do it.
    async fn found_group(&self, group: &Group) -> Result<(), CallError> {
        let founders: BTreeSet<NodeId> = self
            .enrolments
            .members(Role::Node)
            .iter()
            .filter_map(|node| node.node_id)
            .collect();
        match group.initialize(founders).await {
            Ok(()) | Err(FoundError::NotPristine) => {}
            Err(FoundError::Stopped) => {
                return Err(CallError::Propose(replica::host::ProposeError::Stopped));
            }
            Err(FoundError::NotAFounder) => return Err(CallError::NotEnrolled(self.node_id)),
            Err(FoundError::NotEnrolled(node)) => return Err(CallError::NotEnrolled(node)),
        }
        let led = tokio::time::timeout(LEADER_MAX, group.led()).await;
        match led {
            Ok(Some(_)) => Ok(()),
            Ok(None) | Err(_) => Err(CallError::NoAnswer {
                group: group.id(),
                why: "no leader was elected: are all enrolled nodes running?".to_owned(),
            }),
        }
    }
}
