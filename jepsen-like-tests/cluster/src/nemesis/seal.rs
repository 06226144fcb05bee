//! Seals of KMS replicas: an operator seals, the others or the custodians unseal.

use anyhow::Result;
use local::{Kind, ceremony};
use proto::ids::NodeId;
use rand::rngs::StdRng;

use super::{Done, Fault, some};
use crate::world::World;

pub(super) async fn inject(fault: Fault, world: &mut World, rng: &mut StdRng) -> Result<Done> {
    let replicas = world.living(Some(Kind::Kms));
    let count = match fault {
        Fault::SealReplica => 1,
        _ => replicas.len(),
    };
    let victims = some(&replicas, count, rng);
    let operator = world.operator().await?;
    for replica in replicas.iter().filter(|r| victims.contains(&r.name)) {
        operator.seal(NodeId(replica.node_id)).await?;
    }
    let says = format!("sealed {}", victims.join(", "));
    Ok(Done::to(victims, says))
}

/// Every replica that runs is unsealed.
pub(super) async fn heal(world: &mut World) -> Result<Vec<String>> {
    ceremony::unseal(world.home()?).await?;
    Ok(Vec::new())
}
