//! What this replica says of a relocation, signed: what it has applied, and no more.
//!
//! Owns how a statement follows from the state. Refuses to say anything of a dataset that was restored and is not confirmed:
//! it may be another region's.

use bytes::Bytes;
use node_state::relocation::{Arrival, Authority, Opened, Standing, State, moved_record};
use node_state::{ShardMeta, read};
use prost::Message as _;
use proto::ids::{LogIndex, RegionId, Role};
use proto::relocation::Named;
use proto::relocation::words::FORMAT;
use proto::store::Reader;
use proto::transcript;
use proto::v1;
use transport::Peer;

use super::depart::leads_there;
use super::roots::root_at;
use crate::core::Core;
use crate::error::CallError;
use crate::groups::Shard;

/// Who says it, and as of when.
struct By {
    region: String,
    replica: String,
    shard: u64,
    applied: LogIndex,
}

impl Core {
    /// This replica's word on a relocation out of the shard. `follow` asks it to have the catalog's root at hand.
    pub(super) async fn departure_word(
        &self,
        peer: &Peer,
        request: v1::DepartureStateRequest,
    ) -> Result<v1::SignedDepartureState, CallError> {
        let who = self.who(peer)?;
        let (shard, named) = self.relocated(request.of.as_ref())?;
        let (mut state, reads) = {
            let (view, index) = self.view(&shard.group)?;
            let reads = leads_there(&*view.state, &who, &named).is_ok();
            let state = departure(&*view.state, self.by(&shard, index), &named)?;
            (state, reads)
        };
        let follow = request.follow;
        // A root takes reading: it is not for who only knows two ids.
        if state.under_way && state.moved.is_none() && reads && (follow || state.fence > 0) {
            let held = self.roots.slot(&named.dataset).lock_owned().await;
            // Not before: what is held may not be ahead of what is looked at.
            let (view, index) = self.view(&shard.group)?;
            state = departure(&*view.state, self.by(&shard, index), &named)?;
            let root = root_at(held, named.dataset, view, index).await?;
            if state.fence > 0 {
                let root = root.ok_or(CallError::NoSuchDataset)?;
                state.root = Bytes::copy_from_slice(&root.0);
            }
        }
        let state = Bytes::from(state.encode_to_vec());
        Ok(v1::SignedDepartureState {
            signature: self.signed(transcript::LABEL_DEPARTURE_STATE, &state),
            signer: self.signer(),
            state,
        })
    }

    /// This replica's word on a relocation into the shard. `follow` asks a leader to have what all copies come to at hand.
    pub(super) async fn arrival_word(
        &self,
        peer: &Peer,
        request: v1::ArrivalStateRequest,
    ) -> Result<v1::SignedArrivalState, CallError> {
        let (shard, named) = self.relocated(request.of.as_ref())?;
        // Of itself a KMS asks to know whether a dataset is served.
        if peer.identity.role() != Role::Kms {
            self.may_move(&self.enrolments.current(), peer, &named.dataset)?;
        }
        let state = {
            let (view, index) = self.view(&shard.group)?;
            arrival(&*view.state, self.by(&shard, index), &named)?
        };
        let filling = [v1::ArrivalPhase::CatchUp, v1::ArrivalPhase::Verifying];
        if request.follow && filling.contains(&state.phase()) && shard.group.is_leader() {
            self.counted(&shard, &named).await?;
        }
        let state = Bytes::from(state.encode_to_vec());
        Ok(v1::SignedArrivalState {
            signature: self.signed(transcript::LABEL_ARRIVAL_STATE, &state),
            signer: self.signer(),
            state,
        })
    }

    fn by(&self, shard: &Shard, applied: LogIndex) -> By {
        let identity = self.local.identity();
        By {
            region: identity.region().to_string(),
            replica: identity.to_string(),
            shard: shard.group.id().0,
            applied,
        }
    }

    fn signed(&self, label: &'static str, state: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&self.local.sign(label, state))
    }

    fn signer(&self) -> Bytes {
        Bytes::copy_from_slice(self.local.public_key().as_spki())
    }
}

/// Whereto a relocation takes a dataset, while it is under way or has taken it.
pub(super) fn leaving(state: &dyn Reader, named: &Named) -> Option<RegionId> {
    let authority = Authority::stored(&read::dataset(state, &named.dataset)?);
    let departure = authority.departure()?;
    (departure.relocation == named.relocation).then(|| departure.destination.clone())
}

fn departure(state: &dyn Reader, by: By, named: &Named) -> Result<v1::DepartureState, CallError> {
    let dataset = read::dataset(state, &named.dataset).ok_or(CallError::NoSuchDataset)?;
    if dataset.status() == v1::DatasetStatus::Arriving {
        return Err(CallError::refused(v1::Refusal::DatasetArriving));
    }
    let authority = Authority::stored(&dataset);
    let departure = authority
        .departure()
        .filter(|departure| departure.relocation == named.relocation);
    let (fence, moved, diverged) = match authority.standing() {
        Standing::Active => (LogIndex(0), None, false),
        Standing::Fenced { at } if departure.is_some() => (at, None, false),
        // Of another relocation.
        Standing::Fenced { .. } => (LogIndex(0), None, false),
        Standing::Moved(moved) => (LogIndex(0), Some(moved), false),
        Standing::Diverged(moved) => (LogIndex(0), Some(moved), true),
        Standing::Unconfirmed => return Err(CallError::refused(v1::Refusal::DatasetUnconfirmed)),
    };
    let request_epoch = match fence {
        LogIndex(0) => 0,
        _ => ShardMeta::load(state).upload_epoch.0 + dataset.request_offset,
    };
    Ok(v1::DepartureState {
        format: FORMAT,
        region: by.region,
        replica: by.replica,
        shard: by.shard,
        relocation_id: named.relocation.into(),
        dataset_id: named.dataset.into(),
        applied_index: by.applied.0,
        epoch: dataset.epoch,
        version: authority.version().0,
        under_way: departure.is_some(),
        taken: departure.map_or(0, |departure| departure.taken.0),
        fence: fence.0,
        root: Bytes::new(),
        request_epoch,
        moved: moved.as_ref().map(moved_record),
        diverged,
    })
}

fn arrival(state: &dyn Reader, by: By, named: &Named) -> Result<v1::ArrivalState, CallError> {
    let record = read::arrival(state, &named.dataset)
        .filter(|record| record.relocation_id == named.relocation.as_bytes()[..])
        .ok_or_else(|| CallError::refused(v1::Refusal::NotUnderWay))?;
    let arrival = Arrival::stored(named.dataset, &record);
    let (proposes, cut) = match arrival.state() {
        State::Fenced(fenced) => (fenced.proposal(), None),
        State::CutOver(cut) => (None, Some(*cut)),
        State::Held(held) => (None, Some(held.cut())),
        State::Shredding(shredding) => (None, Some(shredding.cut())),
        State::Certified(certified) => (None, Some(certified.cut)),
        State::Plan
        | State::Prepared(_)
        | State::Copying(_)
        | State::CatchingUp(_)
        | State::Verifying(_)
        | State::Aborting(_)
        | State::Aborted(_) => (None, None),
    };
    Ok(v1::ArrivalState {
        format: FORMAT,
        region: by.region,
        replica: by.replica,
        shard: by.shard,
        relocation_id: named.relocation.into(),
        dataset_id: named.dataset.into(),
        applied_index: by.applied.0,
        phase: record.phase,
        proposes: proposes.as_ref().map(moved_record),
        moved: cut.as_ref().map(|cut| moved_record(&cut.moved())),
        by_force: cut.is_some_and(|cut| cut.opened() == Opened::ByForce),
    })
}
