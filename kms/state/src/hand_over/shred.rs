//! The end of a source's key: scheduled on the evidence of both shards that the dataset is elsewhere.
//!
//! Owns what counts as that evidence, and the grant's end with it. Refuses one side's word alone. When the key ends, and
//! that replicas erase it, is as for every destruction.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proto::v1::{KekRecord, KeyState, KmsDone, ShredKey, Vouch};
use serde::Serialize;
use tlog::Kind;

use super::{at_level, hand_over_grant, put_grant, relocation_id};
use crate::append::Applying;
use crate::apply::Stop;
use crate::changing::{Changing, begin};
use crate::keys::{DESTRUCTION_DAYS, KeyDetails, pend};
use crate::members::of_operator;
use crate::refusal::Refusal;
use crate::relocation::stored::moved;
use crate::relocation::{HandOverGrant, may_shred};

#[derive(Serialize)]
struct ShredDetails {
    #[serde(flatten)]
    key: KeyDetails,
    relocation: String,
    destination: String,
    /// Of the dataset there.
    epoch: u64,
    fence: u64,
    catalog_root: String,
    signers: Vec<u64>,
    voters: Vec<u64>,
    descriptor_version: u64,
}

/// Whether distinct signers are a majority of the voters, all of them voters.
fn is_majority(vouch: &Vouch) -> bool {
    let of = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
    let (signers, voters) = (of(&vouch.signers), of(&vouch.voters));
    signers.is_subset(&voters) && 2 * signers.len() > voters.len()
}

pub(crate) fn shred(applying: &mut Applying<'_>, command: &ShredKey) -> Result<KmsDone, Stop> {
    at_level(applying)?;
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let authority = applying.authority()?;
    of_operator(applying, &authority)?;
    let relocation = relocation_id(&command.relocation_id)?;
    let mut record = hand_over_grant(&*applying.state, &relocation)
        .filter(|record| record.dataset_id == command.dataset_id)
        .ok_or(Refusal::NoSuchRelocation)?;
    // Closed before it was granted, nothing can have moved by it.
    let terms = record.terms.clone().ok_or(Refusal::NoSuchRelocation)?;
    let vouch = command.served_by.clone().unwrap_or_default();
    // By an older descriptor, replicas that are gone could still speak.
    let counts = is_majority(&vouch) && vouch.descriptor_version >= terms.descriptor_version;
    let said = |stated: &Option<_>| match stated {
        None => Ok(None),
        Some(stated) => moved(stated)
            .map(Some)
            .ok_or(Refusal::Malformed("the record that moved the dataset")),
    };
    let (ours, theirs) = (said(&command.moved)?, said(&command.served)?);
    let held = HandOverGrant::of(&record);
    may_shred(Some(&held), ours, theirs.filter(|_| counts)).map_err(Refusal::from)?;
    let Changing { key, private, .. } = &mut changing;
    if !DESTRUCTION_DAYS.contains(&command.days) {
        return Err(Refusal::Malformed("a destruction waits 7 to 30 days").into());
    }
    match key.state() {
        // What moved is not used here any more, and a cancelled destruction does not bring it back into use.
        KeyState::Enabled => key.set_state(KeyState::Disabled),
        KeyState::Disabled | KeyState::Compromised => {}
        _ => return Err(Refusal::WrongState.into()),
    }
    let approved = applying.approvals(&authority, authority.approvals_min())?;
    applying.use_approvals(&approved, private);
    pend(key, command.days, applying.now);
    if key.relocation_id == command.relocation_id {
        key.relocation_id.clear();
    }
    record.moved.clone_from(&command.moved);
    let closed = HandOverGrant::close(Some(held), relocation);
    put_grant(applying, &relocation, &closed, &mut record);
    let evidence = command.moved.clone().unwrap_or_default();
    let said = |key: &KekRecord| ShredDetails {
        key: KeyDetails::of(key),
        relocation: relocation.to_string(),
        destination: terms.destination,
        epoch: evidence.epoch,
        fence: evidence.fence,
        catalog_root: hex::encode(&evidence.root),
        signers: vouch.signers,
        voters: vouch.voters,
        descriptor_version: vouch.descriptor_version,
    };
    Ok(changing.finish(applying, Kind::KeyDestructionPending, said))
}
