//! The end of a root key: its shares erased, one custodian's signed word at a time, then the epoch retired.
//!
//! Owns the count. Refuses to retire an epoch while any split of it has k holders left who have not signed, and the
//! word of anybody but the holder, or about a split that is in force; and to retire one that the newest backup stands
//! under. A token's half of it goes with it ([`super::token`]).

use proto::ids::FeatureLevel;
use proto::store::Reader;
use proto::v1::{EraseShare, KmsDone, RetireEpoch, RootEpochRecord, SplitRecord};
use serde::Serialize;
use tlog::Kind;

use super::{ShareDetails, loaded, noted, of_requester, own_share, store};
use crate::append::Applying;
use crate::apply::Stop;
use crate::backup::check_backed_up;
use crate::members::DualControlled;
use crate::refusal::Refusal;

pub(crate) fn erase(applying: &mut Applying<'_>, command: &EraseShare) -> Result<KmsDone, Stop> {
    if command.statement_hash.len() != 32 {
        return Err(Refusal::Malformed("the hash of the custodian's statement").into());
    }
    let (_, mut custody) = loaded(applying)?;
    let mut epochs = custody.epochs.iter_mut();
    let split = epochs
        .find(|epoch| epoch.epoch == command.root_epoch)
        .and_then(|epoch| {
            let mut splits = epoch.splits.iter_mut();
            splits.find(|split| split.set_id == command.set_id)
        })
        .ok_or(Refusal::NoSuchSplit)?;
    own_share(applying, &split.custodians, command.index)?;
    if !split.superseded {
        return Err(Refusal::WrongState.into());
    }
    if !noted(&mut split.erased, command.index) {
        return Ok(applying.answer());
    }
    store(applying, custody);
    let shown = ShareDetails {
        root_epoch: command.root_epoch,
        split: hex::encode(&command.set_id),
        share: command.index,
        statement_sha256: hex::encode(&command.statement_hash),
    };
    Ok(of_requester(applying, Kind::ShareErased, &shown))
}

/// Whether so many have erased their shares that the others are too few to rebuild the root key.
fn beyond_rebuilding(split: &SplitRecord) -> bool {
    let left = split.custodians.len() - split.erased.len().min(split.custodians.len());
    left < split.shares_needed as usize
}

#[derive(Serialize)]
struct RetireDetails {
    root_epoch: u32,
    root_check: String,
    splits: usize,
    superseded_at_ms: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    token_seals: Vec<String>,
}

/// Refuses what [`retire`] would refuse whatever becomes of the tokens: asked before their objects are deleted.
pub fn retirable(state: &dyn Reader, level: FeatureLevel, root_epoch: u32) -> Result<(), Refusal> {
    let custody = super::custody(state).ok_or(Refusal::NotInitialised)?;
    let mut epochs = custody.epochs.iter();
    let epoch = epochs.find(|epoch| epoch.epoch == root_epoch);
    check(epoch.ok_or(Refusal::NoSuchSplit)?)?;
    check_backed_up(level, custody.backup.as_ref(), root_epoch)
}

fn check(epoch: &RootEpochRecord) -> Result<(), Refusal> {
    if epoch.superseded_at_ms == 0 || epoch.retired_at_ms != 0 {
        return Err(Refusal::WrongState);
    }
    match epoch.splits.iter().all(beyond_rebuilding) {
        true => Ok(()),
        false => Err(Refusal::NotErased),
    }
}

pub(crate) fn retire(applying: &mut Applying<'_>, command: &RetireEpoch) -> Result<KmsDone, Stop> {
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let (_, mut custody) = loaded(applying)?;
    let now = applying.now.0.max(1);
    let level = applying.at.level;
    let backed_up = check_backed_up(level, custody.backup.as_ref(), command.root_epoch);
    let mut epochs = custody.epochs.iter_mut();
    let epoch = epochs
        .find(|epoch| epoch.epoch == command.root_epoch)
        .ok_or(Refusal::NoSuchSplit)?;
    check(epoch)?;
    backed_up?;
    let token_seals = super::token::ended(epoch, &command.seals_deleted, &command.seals_lost)?;
    let shown = RetireDetails {
        root_epoch: epoch.epoch,
        root_check: hex::encode(&epoch.root_check),
        splits: epoch.splits.len(),
        superseded_at_ms: epoch.superseded_at_ms,
        token_seals,
    };
    let done = change.record(applying, Kind::RootEpochRetired, &shown);
    epoch.retired_at_ms = now;
    epoch.retired_leaf = done.leaf_index;
    epoch.token_seals.clear();
    store(applying, custody);
    Ok(done)
}
