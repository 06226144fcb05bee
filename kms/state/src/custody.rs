//! Custody of the root key: a new split of it, or of a new root key, step by step.
//!
//! Owns which split is in force, which is to come, and what each step takes. The split in force stays so until every
//! share of the next one has been shown to the KMS and, for a new root key, every KEK is wrapped under it; then one
//! command exchanges both at once, so that whatever a region dies at, its shares are either the old or the new ones.
//! Refuses a custodian that is not enrolled or holds two shares, a split that one person could open, and a change
//! without dual control. Holds no share and no key: public records of splits, and wrapped keys.

pub(crate) mod hold;
pub(crate) mod retire;
pub(crate) mod rewrap;
pub(crate) mod token;

use std::collections::BTreeSet;

use prost::Message as _;
use proto::ids::{Identity, Role};
use proto::store::Reader;
use proto::v1::{
    AbandonCustody, BeginCustody, ConfirmShare, CustodyPlan, CustodyRecord, FinishCustody, KmsDone,
    KmsRegion, RootEpochRecord, ShareHolder, SplitRecord,
};
use serde::Serialize;
use tlog::{Kind, Purpose, VerifierKey};

use self::rewrap::Rewrapped;
use crate::append::{Applying, details, stated};
use crate::apply::Stop;
use crate::authority::Authority;
use crate::layout;
use crate::members::{CHECK_BYTES_MAX, DualControlled, SHARES_FLOOR, of_operator};
use crate::read;
use crate::refusal::Refusal;
use crate::witnesses::WitnessRule;

/// Custodians that a split may have: one byte numbers its shares.
pub const CUSTODIANS_MAX: usize = 255;
/// Splits of one root key that are remembered, and root keys: a region that changes custodians monthly has room for
/// decades if it rotates its root key every few years, which it is told to by then.
pub(crate) const SPLITS_MAX: usize = 64;
/// Root epochs of one region.
pub(crate) const EPOCHS_MAX: usize = 1_024;
const SET_ID_BYTES: usize = 16;
const LOG_KEY_BYTES_MAX: usize = 512;

#[derive(Serialize)]
pub(crate) struct SplitDetails {
    root_epoch: u32,
    root_check: String,
    new_root: bool,
    split: String,
    shares_needed: u32,
    custodians: Vec<String>,
    log_key: String,
    keks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    access_keys: u64,
    #[serde(skip_serializing_if = "is_zero")]
    hand_over_keys: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    without_token: bool,
}

impl SplitDetails {
    fn of(plan: &CustodyPlan, in_force: u32, rewrapped: Rewrapped) -> Self {
        let named = plan.custodians.iter().map(|holder| holder.identity.clone());
        Self {
            root_epoch: plan.root_epoch,
            root_check: hex::encode(&plan.root_check),
            new_root: plan.root_epoch != in_force,
            split: hex::encode(&plan.set_id),
            shares_needed: plan.shares_needed,
            custodians: named.collect(),
            log_key: plan.log_key.clone(),
            keks: rewrapped.keks,
            access_keys: rewrapped.secrets,
            hand_over_keys: rewrapped.hand_overs,
            without_token: false,
        }
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The name of a split in its public record (`envelope::ShareSet`): the 16 bytes after the format's.
pub fn set_id(share_set: &[u8]) -> Vec<u8> {
    match share_set.get(1..=SET_ID_BYTES) {
        Some(id) => id.to_vec(),
        // No split's record is that short; state only needs a name that stays the same.
        None => tlog::sha256(&[share_set]).0[..SET_ID_BYTES].to_vec(),
    }
}

/// Custody as it stands; as the ceremony left it where nothing has changed since.
pub fn custody(state: &dyn Reader) -> Option<CustodyRecord> {
    let region = read::region(state)?;
    let stored = state.value(layout::CUSTODY);
    Some(match stored {
        Some(bytes) => {
            CustodyRecord::decode(&bytes[..]).expect("state holds what this machine wrote")
        }
        None => CustodyRecord {
            format: 1,
            epochs: vec![RootEpochRecord {
                epoch: region.root_epoch,
                root_check: region.root_check.clone(),
                splits: vec![SplitRecord {
                    set_id: set_id(&region.share_set).into(),
                    shares_needed: region.shares_needed,
                    custodians: region.custodians,
                    ..SplitRecord::default()
                }],
                ..RootEpochRecord::default()
            }],
            ..CustodyRecord::default()
        },
    })
}

/// Goes up with every change of custody; 0 before the first.
pub fn custody_version(state: &dyn Reader) -> u64 {
    if state.value(layout::CUSTODY).is_none() {
        return 0;
    }
    custody(state).map_or(0, |custody| custody.version)
}

/// Epochs of root keys under which copies of a key may still be opened: of those that its wrapped form ever stood
/// under, the ones that are not retired.
pub fn recoverable_under(state: &dyn Reader, key: &proto::v1::KekRecord) -> Vec<u32> {
    let Some(custody) = custody(state) else {
        return Vec::new();
    };
    let stood_under = |epoch: &RootEpochRecord| {
        key.versions.iter().any(|version| {
            let born_by_then =
                epoch.superseded_at_ms == 0 || epoch.superseded_at_ms >= version.created_at_ms;
            born_by_then && epoch.epoch <= version.root_epoch
        })
    };
    let epochs = custody.epochs.iter();
    epochs
        .filter(|epoch| epoch.retired_at_ms == 0 && stood_under(epoch))
        .map(|epoch| epoch.epoch)
        .collect()
}

pub(crate) fn loaded(applying: &Applying<'_>) -> Result<(KmsRegion, CustodyRecord), Refusal> {
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    let custody = custody(&*applying.state).ok_or(Refusal::NotInitialised)?;
    Ok((region, custody))
}

pub(crate) fn store(applying: &mut Applying<'_>, mut custody: CustodyRecord) {
    custody.version += 1;
    let bytes = custody.encode_to_vec();
    applying.state.put(layout::CUSTODY, &bytes);
}

/// The plan under way, where it is the one named.
pub(crate) fn under_way<'a>(
    custody: &'a mut CustodyRecord,
    set_id: &[u8],
) -> Result<&'a mut CustodyPlan, Refusal> {
    let named = custody.pending.as_mut();
    named
        .filter(|plan| plan.set_id == set_id)
        .ok_or(Refusal::NoSuchSplit)
}

pub(crate) fn all_confirmed(plan: &CustodyPlan) -> bool {
    plan.confirmed.len() == plan.custodians.len()
}

pub(crate) fn begin(applying: &mut Applying<'_>, command: &BeginCustody) -> Result<KmsDone, Stop> {
    let mut plan = command.plan.clone().ok_or(Refusal::Malformed("no split"))?;
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let (region, mut custody) = loaded(applying)?;
    let same_root = plan.root_epoch == region.root_epoch && plan.root_check == region.root_check;
    let new_root = plan.root_epoch == region.root_epoch + 1 && plan.root_check != region.root_check;
    if !same_root && !new_root {
        return Err(Refusal::RootMoved {
            to: region.root_epoch,
        }
        .into());
    }
    check_plan(&plan, &region, &change.authority)?;
    let known = |split: &SplitRecord| split.set_id == plan.set_id;
    let splits = custody.epochs.last().map_or(0, |epoch| epoch.splits.len());
    if custody
        .epochs
        .iter()
        .flat_map(|epoch| &epoch.splits)
        .any(known)
        || (same_root && splits >= SPLITS_MAX)
        || custody.epochs.len() >= EPOCHS_MAX
    {
        return Err(Refusal::WrongState.into());
    }
    // One that was begun and not finished gives way, with what was wrapped for it.
    rewrap::forget(applying);
    let shown = SplitDetails::of(&plan, region.root_epoch, Rewrapped::default());
    let done = change.record(applying, Kind::CustodyBegun, &shown);
    plan.begun_leaf = done.leaf_index;
    custody.pending = Some(plan);
    store(applying, custody);
    Ok(done)
}

fn check_plan(
    plan: &CustodyPlan,
    region: &KmsRegion,
    authority: &Authority,
) -> Result<(), Refusal> {
    let lengths_ok = plan.share_set.len() <= CHECK_BYTES_MAX
        && plan.set_id.len() == SET_ID_BYTES
        && plan.set_id == set_id(&plan.share_set)
        && !plan.root_check.is_empty()
        && plan.root_check.len() <= CHECK_BYTES_MAX;
    let unused = plan.confirmed.is_empty() && plan.token_seals.is_empty() && plan.begun_leaf == 0;
    if !lengths_ok || !unused {
        return Err(Refusal::Malformed("the record of the split"));
    }
    let log_key = Some(plan.log_key.as_str()).filter(|key| key.len() <= LOG_KEY_BYTES_MAX);
    let log_key = log_key.and_then(|key| key.parse::<VerifierKey>().ok());
    if log_key.is_none_or(|key| key.name().as_str() != region.log_origin) {
        return Err(Refusal::Malformed("the log key of the split"));
    }
    check_holders(&plan.custodians, plan.shares_needed, authority)
}

fn check_holders(
    holders: &[ShareHolder],
    needed: u32,
    authority: &Authority,
) -> Result<(), Refusal> {
    let mut people = BTreeSet::new();
    for (index, holder) in (1..).zip(holders) {
        let identity: Identity = holder
            .identity
            .parse()
            .map_err(|_| Refusal::Malformed("custodian"))?;
        if holder.share_index != index || holder.share_check.len() > CHECK_BYTES_MAX {
            return Err(Refusal::Malformed("shares are not numbered from 1"));
        }
        if identity.role() != Role::Custodian || authority.enrolment(&identity).is_none() {
            return Err(Refusal::NotEnrolled);
        }
        // Two shares in one hand would make k of n mean less than k people.
        if !people.insert(identity) {
            return Err(Refusal::AlreadyEnrolled);
        }
    }
    let split_ok = (SHARES_FLOOR..=u32::MAX).contains(&needed)
        && people.len() >= needed as usize
        && people.len() <= CUSTODIANS_MAX;
    if split_ok {
        Ok(())
    } else {
        Err(Refusal::Malformed(
            "the root key takes at least two custodians",
        ))
    }
}

#[derive(Serialize)]
pub(crate) struct ShareDetails {
    pub(crate) root_epoch: u32,
    pub(crate) split: String,
    pub(crate) share: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) statement_sha256: String,
}

/// The holder of a share, being the requester.
pub(crate) fn own_share(
    applying: &Applying<'_>,
    custodians: &[ShareHolder],
    index: u32,
) -> Result<(), Refusal> {
    let authority = applying.authority()?;
    let requester = applying.requester(&authority)?.to_string();
    let held = custodians
        .iter()
        .any(|holder| holder.share_index == index && holder.identity == requester);
    if held {
        Ok(())
    } else {
        Err(Refusal::NotEnrolled)
    }
}

/// Adds a number to an ordered list; `false` if it is there.
pub(crate) fn noted(list: &mut Vec<u32>, number: u32) -> bool {
    match list.binary_search(&number) {
        Ok(_) => false,
        Err(at) => {
            list.insert(at, number);
            true
        }
    }
}

pub(crate) fn confirm(
    applying: &mut Applying<'_>,
    command: &ConfirmShare,
) -> Result<KmsDone, Stop> {
    let (_, mut custody) = loaded(applying)?;
    let plan = under_way(&mut custody, &command.set_id)?;
    own_share(applying, &plan.custodians, command.index)?;
    if !noted(&mut plan.confirmed, command.index) {
        return Ok(applying.answer());
    }
    let shown = ShareDetails {
        root_epoch: plan.root_epoch,
        split: hex::encode(&plan.set_id),
        share: command.index,
        statement_sha256: String::new(),
    };
    store(applying, custody);
    Ok(of_requester(applying, Kind::ShareConfirmed, &shown))
}

/// A leaf about what the requester did itself.
pub(crate) fn of_requester(
    applying: &mut Applying<'_>,
    kind: Kind,
    shown: &impl Serialize,
) -> KmsDone {
    let mut private = applying.private_of_requester();
    details(&mut private, shown);
    let leaf = applying.append(kind, Purpose::service(), None, private);
    KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    }
}

pub(crate) fn finish(
    applying: &mut Applying<'_>,
    command: &FinishCustody,
) -> Result<KmsDone, Stop> {
    let authority = applying.authority()?;
    of_operator(applying, &authority)?;
    let (mut region, mut custody) = loaded(applying)?;
    let plan = under_way(&mut custody, &command.set_id)?.clone();
    if !all_confirmed(&plan) {
        return Err(Refusal::NotConfirmed.into());
    }
    let new_root = plan.root_epoch != region.root_epoch;
    let mut rewrapped = Rewrapped::default();
    if new_root {
        check_log_key(applying, &region, &plan)?;
        token::check_next(&custody, &plan, command.without_token)?;
        rewrapped = rewrap::complete(applying, plan.root_epoch)?;
    }
    let shown = SplitDetails {
        without_token: new_root && command.without_token,
        ..SplitDetails::of(&plan, region.root_epoch, rewrapped)
    };
    let in_force = custody.epochs.last_mut().ok_or(Refusal::NotInitialised)?;
    for split in &mut in_force.splits {
        split.superseded = true;
    }
    let split = SplitRecord {
        set_id: plan.set_id.clone(),
        shares_needed: plan.shares_needed,
        custodians: plan.custodians.clone(),
        ..SplitRecord::default()
    };
    if new_root {
        in_force.superseded_at_ms = applying.now.0.max(1);
        custody.epochs.push(RootEpochRecord {
            epoch: plan.root_epoch,
            root_check: plan.root_check.clone(),
            splits: vec![split],
            token_seals: plan.token_seals,
            ..RootEpochRecord::default()
        });
    } else {
        in_force.splits.push(split);
    }
    custody.pending = None;
    region.root_epoch = plan.root_epoch;
    region.root_check = plan.root_check;
    region.shares_needed = plan.shares_needed;
    region.custodians = plan.custodians;
    region.share_set = plan.share_set;
    applying.state.put(layout::REGION, &region.encode_to_vec());
    store(applying, custody);
    Ok(of_requester(applying, Kind::CustodyFinished, &shown))
}

/// The log is signed by a key of the root key: a region that releases nothing without witnesses would release nothing
/// once they are shown checkpoints of a key that they do not know.
fn check_log_key(
    applying: &Applying<'_>,
    region: &KmsRegion,
    plan: &CustodyPlan,
) -> Result<(), Refusal> {
    let Some(stored) = read::witness_policy(&*applying.state) else {
        return Ok(());
    };
    let rule = WitnessRule::parse(&stored, &region.region, &region.log_origin)?;
    let mut logs = rule.policy().logs().iter();
    if logs.any(|log| log.key.to_string() == plan.log_key) {
        Ok(())
    } else {
        Err(Refusal::LogKeyUnknown)
    }
}

pub(crate) fn abandon(
    applying: &mut Applying<'_>,
    command: &AbandonCustody,
) -> Result<KmsDone, Stop> {
    let (actor, purpose, mut private) = stated(command.claim.as_ref())?;
    let authority = applying.authority()?;
    if of_operator(applying, &authority)? != actor {
        return Err(Refusal::Malformed("the claim's actor is not the requester").into());
    }
    let (region, mut custody) = loaded(applying)?;
    let plan = under_way(&mut custody, &command.set_id)?.clone();
    rewrap::forget(applying);
    custody.pending = None;
    store(applying, custody);
    let shown = SplitDetails::of(&plan, region.root_epoch, Rewrapped::default());
    details(&mut private, &shown);
    let leaf = applying.append(Kind::CustodyAbandoned, purpose, None, private);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}
