//! Equality of replicas: what each holds at one applied index.
//!
//! Owns the waiting until all have applied the same. Refuses to compare digests of different indices.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use local::Kind;
use proto::ids::NodeId;

use super::{Group, World, until};

/// How long replicas at rest may take to be at one index. Timers of the region move it now and then.
const EQUAL_MAX: Duration = Duration::from_secs(60);

/// The state of one replica of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaDigest {
    /// Which service.
    pub service: String,
    /// What it had applied.
    pub applied_index: u64,
    /// BLAKE3 over its state, in hex.
    pub blake3: String,
}

/// The states of all replicas, by group.
#[derive(Debug, Clone, Default)]
pub struct Digests {
    /// Every replica of every group; those of one group at one applied index.
    pub groups: BTreeMap<Group, Vec<ReplicaDigest>>,
}

impl Digests {
    /// Groups whose replicas hold different states at the same index: a promise broken.
    pub fn forked(&self) -> Vec<Group> {
        let forked = |replicas: &Vec<ReplicaDigest>| {
            replicas
                .windows(2)
                .any(|two| two[0].blake3 != two[1].blake3)
        };
        let groups = self.groups.iter();
        groups
            .filter(|(_, replicas)| forked(replicas))
            .map(|(group, _)| *group)
            .collect()
    }
}

impl World {
    /// The state of every replica of every group of the home region, each group's at one applied index. The region
    /// has to be whole and at rest.
    pub async fn digests(&self) -> Result<Digests> {
        let mut digests = Digests::default();
        for group in self.groups().await? {
            let what = format!("replicas of {group} at one applied index");
            let replicas = until(&what, EQUAL_MAX, async || {
                let replicas = self.digests_of(group).await?;
                let first = replicas.first().map(|replica| replica.applied_index);
                let level = replicas.iter().all(|r| Some(r.applied_index) == first);
                Ok(level.then_some(replicas))
            })
            .await?;
            ensure!(!replicas.is_empty(), "{group} has no replicas");
            digests.groups.insert(group, replicas);
        }
        Ok(digests)
    }

    async fn digests_of(&self, group: Group) -> Result<Vec<ReplicaDigest>> {
        let operator = self.operator().await?;
        let services = self.services(Some(group.kind));
        let asked = services.into_iter().map(|service| {
            let operator = operator.clone();
            async move {
                let id = NodeId(service.node_id);
                let (applied_index, blake3) = match service.kind {
                    Kind::Node => {
                        let reply = operator.digest(id, group.id).await?;
                        (reply.applied_index, reply.blake3)
                    }
                    Kind::Kms => {
                        let reply = operator.kms_digest(id).await?;
                        (reply.applied_index, reply.blake3)
                    }
                    Kind::Gateway => anyhow::bail!("a gateway has no state"),
                };
                anyhow::Ok(ReplicaDigest {
                    service: service.name,
                    applied_index,
                    blake3: hex::encode(blake3),
                })
            }
        });
        futures::future::try_join_all(asked).await
    }
}
