//! Relocations at a storage node: a dataset that leaves for another region, and one that comes from there.
//!
//! Owns who may ask what of either, and the way from a request to a step of the log. Refuses to believe another region, or
//! the own KMS, but by signed words of a majority of its replicas; whether a step follows is decided by apply alone.

use std::sync::Arc;

use node_state::read;
use node_state::shard::RELOCATION_LEVEL;
use proto::ids::{DatasetId, RegionId, Role};
use proto::relocation::Named;
use proto::v1;
use proto::v1::Action;
use transport::Peer;
use transport::enrolment::EnrolmentTable;

use crate::core::Core;
use crate::error::CallError;
use crate::groups::Shard;
use crate::shard::at_level;

mod admit;
mod arrive;
mod copies;
mod depart;
mod feed;
mod import;
mod roots;
mod service;
mod states;
mod status;

pub(crate) use copies::Copies;
pub(crate) use roots::Roots;
pub(crate) use service::{DeparturesService, RelocationsService};

/// What gateways state as their purpose while they move a dataset.
const PURPOSE: &str = "relocation";

/// Who asks of a departure.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    /// An operator of this region.
    Operator,
    /// A KMS replica of this region.
    OwnKms,
    /// A gateway or KMS replica of another one.
    Abroad(RegionId),
}

impl Core {
    /// The shard, and what is named. Without a shard's number, whichever has the dataset.
    fn relocated(&self, of: Option<&v1::Relocated>) -> Result<(Arc<Shard>, Named), CallError> {
        let of = of.ok_or(CallError::Malformed("it names no relocation"))?;
        let named = Named::parse(&of.dataset_id, &of.relocation_id)?;
        let shard = match of.shard {
            0 => self.shard_with(&named.dataset)?,
            id => self.shard(id)?,
        };
        at_level(&shard.group, RELOCATION_LEVEL)?;
        Ok((shard, named))
    }

    fn shard_with(&self, dataset: &DatasetId) -> Result<Arc<Shard>, CallError> {
        for shard in self.groups.shards() {
            let (view, _) = self.view(&shard.group)?;
            if read::dataset(&*view.state, dataset).is_some() {
                return Ok(shard);
            }
        }
        Err(CallError::NoSuchDataset)
    }

    fn who(&self, peer: &Peer) -> Result<Who, CallError> {
        let region = peer.identity.region();
        let own = region == self.local.identity().region();
        match (own, peer.identity.role()) {
            (true, Role::Operator) => Ok(Who::Operator),
            (true, Role::Kms) => Ok(Who::OwnKms),
            (false, Role::Gateway | Role::Kms) => Ok(Who::Abroad(region.clone())),
            _ => Err(CallError::NotGranted {
                identity: peer.identity.clone(),
            }),
        }
    }

    /// Refuses who neither moves datasets here nor operates this region: gateways that may write it for this purpose, and
    /// operators who may change its key.
    fn may_move(
        &self,
        table: &EnrolmentTable,
        peer: &Peer,
        dataset: &DatasetId,
    ) -> Result<(), CallError> {
        let needed = moves_by(peer)?;
        self.check(table, peer, Some(dataset), &[needed])
    }
}

/// What whoever moves a dataset has to be allowed in it.
fn moves_by(peer: &Peer) -> Result<Action, CallError> {
    let moves = peer.identity.role() == Role::Gateway && peer.stated.purpose == PURPOSE;
    match (moves, peer.identity.role()) {
        (true, _) => Ok(Action::Write),
        (false, Role::Operator) => Ok(Action::Keys),
        _ => Err(CallError::NotGranted {
            identity: peer.identity.clone(),
        }),
    }
}
