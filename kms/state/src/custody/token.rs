//! Seals of the root key by a token and a person: made, used and given up.
//!
//! Owns which of them are on record, and what a change of root key and the end of one ask about them. Refuses a seal of
//! a root key that is neither in force nor under way, a holder who is no enrolled custodian, and to forget a token that
//! still gives its half. Holds no half: a sealed root key, which opens with both.

use std::collections::BTreeSet;

use proto::ids::{Identity, Role};
use proto::store::Reader;
use proto::v1::{
    CustodyPlan, CustodyRecord, DropSeal, KmsDone, ProvisionSeal, RootEpochRecord, TokenSealRecord,
};
use serde::Serialize;
use tlog::Kind;

use super::{CUSTODIANS_MAX, custody, loaded, store};
use crate::append::{Applying, array};
use crate::apply::Stop;
use crate::authority::Authority;
use crate::members::DualControlled;
use crate::refusal::Refusal;

/// Token seals that one root key may have at a time.
pub const TOKEN_SEALS_MAX: usize = 8;
const SEALED_ROOT_BYTES_MAX: usize = 512;
const NAME_BYTES_MAX: usize = 128;

#[derive(Serialize)]
struct SealDetails<'a> {
    seal: String,
    root_epoch: u32,
    token_serial: &'a str,
    token_label: &'a str,
    holders: &'a [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    lost: bool,
}

impl<'a> SealDetails<'a> {
    fn of(seal: &'a TokenSealRecord, lost: bool) -> Self {
        Self {
            seal: hex::encode(&seal.seal_id),
            root_epoch: seal.root_epoch,
            token_serial: &seal.token_serial,
            token_label: &seal.token_label,
            holders: &seal.holders,
            lost,
        }
    }
}

/// Every token seal on record: of the root key in force, of former ones that are not retired, and of the one under way.
pub fn token_seals(state: &dyn Reader) -> Vec<TokenSealRecord> {
    custody(state).map_or_else(Vec::new, |custody| all(&custody).cloned().collect())
}

/// A token seal by its name.
pub fn token_seal(state: &dyn Reader, seal_id: &[u8]) -> Option<TokenSealRecord> {
    let custody = custody(state)?;
    all(&custody).find(|seal| seal.seal_id == seal_id).cloned()
}

fn all(custody: &CustodyRecord) -> impl Iterator<Item = &TokenSealRecord> {
    let of_epochs = custody.epochs.iter().flat_map(|epoch| &epoch.token_seals);
    of_epochs.chain(custody.pending.iter().flat_map(|plan| &plan.token_seals))
}

/// The seals of the root key of an epoch, in force or under way.
fn of_epoch(custody: &mut CustodyRecord, epoch: u32) -> Option<&mut Vec<TokenSealRecord>> {
    let CustodyRecord {
        epochs, pending, ..
    } = custody;
    let in_force = epochs.last_mut()?;
    if in_force.epoch == epoch {
        return Some(&mut in_force.token_seals);
    }
    let next = pending.as_mut().filter(|plan| plan.root_epoch == epoch)?;
    Some(&mut next.token_seals)
}

pub(crate) fn provision(
    applying: &mut Applying<'_>,
    command: &ProvisionSeal,
) -> Result<KmsDone, Stop> {
    let mut seal = command.seal.clone().ok_or(Refusal::Malformed("no seal"))?;
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    check_seal(&seal, &change.authority)?;
    let (_, mut custody) = loaded(applying)?;
    if all(&custody).any(|other| other.seal_id == seal.seal_id) {
        return Err(Refusal::WrongState.into());
    }
    let to = custody.epochs.last().map_or(0, |epoch| epoch.epoch);
    let seals = of_epoch(&mut custody, seal.root_epoch).ok_or(Refusal::RootMoved { to })?;
    if seals.len() >= TOKEN_SEALS_MAX {
        return Err(Refusal::WrongState.into());
    }
    let done = change.record(
        applying,
        Kind::SealProvisioned,
        &SealDetails::of(&seal, false),
    );
    seal.provisioned_leaf = done.leaf_index;
    seals.push(seal);
    store(applying, custody);
    Ok(done)
}

fn check_seal(seal: &TokenSealRecord, authority: &Authority) -> Result<(), Refusal> {
    let names = [&seal.token_serial, &seal.token_label, &seal.key_label];
    let lengths_ok = array::<16>(&seal.seal_id).is_some()
        && (1..=SEALED_ROOT_BYTES_MAX).contains(&seal.sealed_root.len())
        && names.iter().all(|name| name.len() <= NAME_BYTES_MAX)
        && seal.provisioned_leaf == 0;
    if !lengths_ok {
        return Err(Refusal::Malformed("the record of the token's seal"));
    }
    let mut people = BTreeSet::new();
    for holder in &seal.holders {
        let identity: Identity = holder.parse().map_err(|_| Refusal::Malformed("holder"))?;
        if identity.role() != Role::Custodian || authority.enrolment(&identity).is_none() {
            return Err(Refusal::NotEnrolled);
        }
        people.insert(identity);
    }
    let holders_ok = (1..=CUSTODIANS_MAX).contains(&people.len());
    if holders_ok && people.len() == seal.holders.len() {
        Ok(())
    } else {
        Err(Refusal::Malformed("the holders of the person's half"))
    }
}

pub(crate) fn drop(applying: &mut Applying<'_>, command: &DropSeal) -> Result<KmsDone, Stop> {
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let (_, mut custody) = loaded(applying)?;
    let named = |seal: &TokenSealRecord| seal.seal_id == command.seal_id;
    let seal = all(&custody).find(|seal| named(seal)).cloned();
    let seal = seal.ok_or(Refusal::NoSuchSeal)?;
    for epoch in &mut custody.epochs {
        epoch.token_seals.retain(|seal| !named(seal));
    }
    if let Some(plan) = &mut custody.pending {
        plan.token_seals.retain(|seal| !named(seal));
    }
    let shown = SealDetails::of(&seal, command.lost);
    let done = change.record(applying, Kind::SealDropped, &shown);
    store(applying, custody);
    Ok(done)
}

/// Refuses an unseal by a seal that is not of the root key in force.
pub(crate) fn in_force(state: &dyn Reader, seal_id: &[u8]) -> Result<(), Refusal> {
    let custody = custody(state).ok_or(Refusal::NotInitialised)?;
    let seals = custody.epochs.last().map(|epoch| &epoch.token_seals);
    match seals.is_some_and(|seals| seals.iter().any(|seal| seal.seal_id == seal_id)) {
        true => Ok(()),
        false => Err(Refusal::NoSuchSeal),
    }
}

/// A new root key has as many kinds of seals as the one before, unless it is said that it shall not.
pub(crate) fn check_next(
    custody: &CustodyRecord,
    plan: &CustodyPlan,
    without_token: bool,
) -> Result<(), Refusal> {
    let had = custody.epochs.last();
    let had = had.is_some_and(|epoch| !epoch.token_seals.is_empty());
    match had && plan.token_seals.is_empty() && !without_token {
        true => Err(Refusal::SealMissing),
        false => Ok(()),
    }
}

/// The seals of an epoch that ends, each with whether its token is lost; every one of them has to be named as deleted
/// or lost.
pub(crate) fn ended(
    epoch: &RootEpochRecord,
    deleted: &[bytes::Bytes],
    lost: &[bytes::Bytes],
) -> Result<Vec<String>, Refusal> {
    let ended = epoch.token_seals.iter().map(|seal| {
        let name = hex::encode(&seal.seal_id);
        match (
            deleted.contains(&seal.seal_id),
            lost.contains(&seal.seal_id),
        ) {
            (true, _) => Ok(format!("{name} deleted")),
            (false, true) => Ok(format!("{name} lost")),
            (false, false) => Err(Refusal::SealNotDeleted),
        }
    });
    ended.collect()
}
