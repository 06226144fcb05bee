//! A state that comes from a backup instead of from its own log.
//!
//! Owns the rows on their way in, and the one command that brings the restored region into force. Until then nothing of
//! it counts: records that have a key of their own wait aside, so that every reader finds a pristine state. Refuses a
//! cluster that has a region, rows of two backups, approvers who have other keys here than in the backup, access keys and
//! trusted regions in force, of which some may have been revoked since, and leaves lost without a word: the log then goes
//! on under the next origin, with the old leaves in it, so that no two trees of one origin are ever signed.

use prost::Message as _;
use proto::ids::{
    AccessKeyId, DatasetId, HandOverKeyId, Identity, NodeId, RelocationId, Role, UnixMs,
};
use proto::store::{Reader, Writer};
use proto::v1::{
    AccessKeyRecord, ApprovedRestore, CustodyRecord, EnrolmentSet, EraseRecord, FinishRestore,
    HandOverGrantRecord, HandOverKeyRecord, HandOverStage, KekRecord, KmsAnswer, KmsCommand,
    KmsDone, KmsRegion, LeaseRecord, RequestMemory, RestoreProgress, RestoreRows, StateRow,
    UnsealRecord, WitnessPolicy,
};
use serde::Serialize;
use tlog::{Frontier, Kind, Origin};

use crate::access_keys;
use crate::append::{Applying, details, done, stated};
use crate::apply::{At, Stop};
use crate::approvals::check_approvals;
use crate::authority::Authority;
use crate::backup::{self, BackupDetails};
use crate::custody;
use crate::erase;
use crate::hand_over;
use crate::labels::ALIAS_BYTES_MAX;
use crate::layout;
use crate::members::{own_member_id, store_authority};
use crate::read;
use crate::refusal::Refusal;
use crate::regions::{self, KnownRegion};
use crate::witnesses::WitnessRule;

/// Versions of the enrolment set between the backup's and the restored one: more than a region makes between a backup
/// and its loss, so that nobody who holds the newest one of the lost cluster takes the restored one for an older.
pub const AUTHORITY_STEP: u64 = 1_000_000;
const FORMAT: u32 = 1;
const SALTS_BYTES: usize = 32;
const REGION_ID_BYTES_MAX: usize = 32;

/// How far a restore has come, where one is under way.
pub fn restoring(state: &dyn Reader) -> Option<RestoreProgress> {
    let bytes = state.value(layout::RESTORE)?;
    Some(RestoreProgress::decode(bytes).expect("state holds what this machine wrote"))
}

/// Takes one frame of a backup.
pub(crate) fn rows(state: &mut dyn Writer, command: &RestoreRows) -> Result<KmsAnswer, Stop> {
    let mut progress = match restoring(state) {
        Some(progress) => progress,
        None => RestoreProgress {
            format: FORMAT,
            digest: command.digest.clone(),
            ..RestoreProgress::default()
        },
    };
    if progress.digest != command.digest || command.digest.len() != 32 {
        return Err(Refusal::OtherRestore.into());
    }
    // Sent again by who did not see the answer.
    if command.number < progress.next {
        return Ok(done(KmsDone::default()));
    }
    if command.number > progress.next {
        return Err(Refusal::OtherRestore.into());
    }
    let mut last = &progress.last_key;
    for row in &command.rows {
        if row.key <= *last {
            return Err(Refusal::Malformed("the rows are not in order").into());
        }
        check_row(row)?;
        last = &row.key;
    }
    progress.last_key = last.clone();
    for row in &command.rows {
        state.put(&place(&row.key), &row.value);
    }
    progress.next += 1;
    progress.rows += command.rows.len() as u64;
    state.put(layout::RESTORE, &progress.encode_to_vec());
    Ok(done(KmsDone::default()))
}

/// Where a row waits: in its table, or aside if it is a record of its own.
fn place(key: &[u8]) -> Vec<u8> {
    match key {
        [_] => layout::restored(key),
        _ => key.to_vec(),
    }
}

/// What the readers of this state rely on: a record that does not decode would end every replica that reads it. Of a
/// table that is not named here nothing is known but that its backup opened under the root key.
fn check_row(row: &StateRow) -> Result<(), Refusal> {
    let malformed = Err(Refusal::Malformed("a row of no table"));
    let (key, value) = (&row.key[..], &row.value[..]);
    let Some((table, rest)) = key.split_first() else {
        return malformed;
    };
    let decodes = match (key, *table, rest.len()) {
        (layout::AUTHORITY, ..) => EnrolmentSet::decode(value).is_ok(),
        (layout::WITNESSES, ..) => WitnessPolicy::decode(value).is_ok(),
        (layout::CUSTODY, ..) => CustodyRecord::decode(value).is_ok(),
        (layout::FRONTIER, ..) => Frontier::parse(value).is_ok(),
        (layout::TIME | layout::AUTHORITY_VERSION, ..) => value.len() == 8,
        (layout::LEASE_QUEUE_HEAD | layout::REQUEST_QUEUE_HEAD, ..) => true,
        (_, layout::KEKS, 16) => KekRecord::decode(value).is_ok(),
        (_, layout::PSEUDONYMS | layout::KEK_IDS, 16) => DatasetId::try_from(value).is_ok(),
        (_, layout::ALIASES, 1..=ALIAS_BYTES_MAX) => DatasetId::try_from(value).is_ok(),
        (_, layout::LEASES, 32) => LeaseRecord::decode(value).is_ok(),
        (_, layout::LEASE_QUEUE, 40) | (_, layout::REQUEST_QUEUE, 24) => value.is_empty(),
        (_, layout::REQUEST_QUEUE, 16) => value.len() % 16 == 0 && !value.is_empty(),
        (_, layout::REQUESTS, 16) => RequestMemory::decode(value).is_ok(),
        (_, layout::USED_APPROVALS, 16) => value.len() == 8,
        (_, layout::BOOTS, 16) => UnsealRecord::decode(value).is_ok(),
        (_, layout::MEMBERS, 9) => {
            let text = std::str::from_utf8(value).ok();
            text.is_some_and(|text| text.parse::<Identity>().is_ok())
        }
        (_, layout::LEAVES | layout::OPENINGS, 8) => true,
        (_, layout::HASHES, 9) => value.len() == 32,
        (_, layout::REWRAPPED, 20) | (_, layout::WRAPPED, 21) => true,
        (_, layout::ACCESS_KEYS, AccessKeyId::BYTES) => {
            AccessKeyId::try_from(rest).is_ok() && AccessKeyRecord::decode(value).is_ok()
        }
        (_, layout::ACCESS_SECRETS | layout::REWRAPPED_SECRETS, AccessKeyId::BYTES) => {
            AccessKeyId::try_from(rest).is_ok()
        }
        (_, layout::APPROVED_RESTORES, 16) => ApprovedRestore::decode(value).is_ok(),
        (_, layout::HAND_OVER_GRANTS, RelocationId::BYTES) => is_grant(value),
        (_, layout::HAND_OVER_KEYS, RelocationId::BYTES) => is_hand_over_key(value),
        (_, layout::HAND_OVER_PRIVATES | layout::REWRAPPED_HAND_OVERS, RelocationId::BYTES) => true,
        (_, layout::REGIONS, 1..=REGION_ID_BYTES_MAX) => KnownRegion::decode(value)
            .is_some_and(|known| known.descriptor.region().as_str().as_bytes() == rest),
        (layout::ERASE, ..) => EraseRecord::decode(value).is_ok(),
        (layout::REGION | layout::RESTORE, ..) | (_, layout::RESTORED, _) => return malformed,
        // A key of another length than its table's.
        (
            _,
            layout::KEKS
            | layout::PSEUDONYMS
            | layout::KEK_IDS
            | layout::ALIASES
            | layout::LEASES
            | layout::LEASE_QUEUE
            | layout::REQUESTS
            | layout::REQUEST_QUEUE
            | layout::USED_APPROVALS
            | layout::BOOTS
            | layout::MEMBERS
            | layout::LEAVES
            | layout::OPENINGS
            | layout::HASHES
            | layout::REWRAPPED
            | layout::WRAPPED
            | layout::ACCESS_KEYS
            | layout::ACCESS_SECRETS
            | layout::REWRAPPED_SECRETS
            | layout::APPROVED_RESTORES
            | layout::HAND_OVER_GRANTS
            | layout::HAND_OVER_KEYS
            | layout::HAND_OVER_PRIVATES
            | layout::REWRAPPED_HAND_OVERS
            | layout::REGIONS,
            _,
        ) => return malformed,
        _ => true,
    };
    match decodes {
        true => Ok(()),
        false => Err(Refusal::Malformed("a row that does not decode")),
    }
}

/// What the pure value that is made of it takes for granted.
fn is_grant(value: &[u8]) -> bool {
    HandOverGrantRecord::decode(value).is_ok_and(|grant| {
        let terms = grant.terms.as_ref();
        RelocationId::try_from(&grant.relocation_id[..]).is_ok()
            && DatasetId::try_from(&grant.dataset_id[..]).is_ok()
            && grant.stage() != HandOverStage::Unspecified
            && terms.is_none_or(|terms| is_key_id(&terms.hand_over_key_id))
    })
}

fn is_hand_over_key(value: &[u8]) -> bool {
    HandOverKeyRecord::decode(value).is_ok_and(|key| {
        RelocationId::try_from(&key.relocation_id[..]).is_ok() && is_key_id(&key.hand_over_key_id)
    })
}

fn is_key_id(bytes: &[u8]) -> bool {
    HandOverKeyId::try_from(bytes).is_ok()
}

#[derive(Serialize)]
struct Details {
    backup: BackupDetails,
    replicas: Vec<String>,
    authority_version: u64,
    origin_before: String,
    origin: String,
    witnessed_size: u64,
    lost_leaves: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    policy_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_keys_disabled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hand_overs_closed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hand_over_keys_destroyed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    regions_distrusted: Option<u64>,
}

/// The name the log goes on under where leaves are lost.
pub fn next_origin(origin: &str) -> Option<String> {
    let origin: Origin = origin.parse().ok()?;
    let next = origin.epoch().checked_add(1)?;
    let next = Origin::new(origin.region().clone(), origin.stream(), next).ok()?;
    Some(next.to_string())
}

/// Brings the restored region into force.
pub(crate) fn finish(
    at: At,
    state: &mut dyn Writer,
    command: &KmsCommand,
    restore: &FinishRestore,
) -> Result<KmsAnswer, Stop> {
    let malformed = |what| Stop::Refused(Refusal::Malformed(what));
    let backup = restore.backup.as_ref().ok_or(malformed("no backup"))?;
    backup::check(backup)?;
    let progress = restoring(state).ok_or(Refusal::OtherRestore)?;
    if progress.digest != backup.digest || progress.rows != restore.rows {
        return Err(Refusal::OtherRestore.into());
    }
    let aside = |key: &[u8]| state.value(&layout::restored(key));
    let frontier = aside(layout::FRONTIER).ok_or(malformed("no tree in the backup"))?;
    let frontier = Frontier::parse(&frontier).map_err(|_| malformed("the backup's tree"))?;
    if frontier.size() != backup.tree_size || frontier.root().0[..] != backup.root_hash[..] {
        return Err(malformed("another tree than the backup's record states"));
    }
    let before = aside(layout::AUTHORITY).ok_or(malformed("no enrolment set in the backup"))?;
    let before = EnrolmentSet::decode(before).map_err(|_| malformed("the backup's enrolments"))?;
    let before = Authority::parse(before)?;
    let genesis = EnrolmentSet::decode(&restore.enrolment_set[..])
        .map_err(|_| malformed("the enrolment set does not decode"))?;
    let genesis = Authority::parse(genesis)?;
    let stood_at = aside(layout::TIME).map_or(0, |bytes| number(&bytes));
    let mut region = restore.region.clone().ok_or(malformed("no region"))?;
    check_same_region(&region, &before, &genesis)?;
    let policy = aside(layout::WITNESSES);
    let lost = restore.witnessed_size.saturating_sub(backup.tree_size);
    let origin_before = region.log_origin.clone();
    let policy = after_a_gap(
        lost,
        &mut region,
        policy.as_deref(),
        restore.policy.as_ref(),
    )?;
    let after = with_replicas_of(&before, &genesis, &*state)?;
    let now = UnixMs(stood_at.max(command.now_ms));
    let (actor, purpose, mut private) = stated(restore.claim.as_ref())?;
    if command.requester != actor.to_string() {
        return Err(malformed("the claim's actor is not the requester"));
    }
    // Of the backup, whose used ids stand in their table already; the cluster's first set is what its operator made it,
    // and has to agree on every key.
    let approved = check_approvals(&*state, &before, command, now, before.approvals_min())?;
    check_people(command, &before, &genesis)?;
    let policy_sha256 = policy
        .as_ref()
        .map(|policy| hex::encode(tlog::sha256(&[&policy.policy]).0));
    if command.salts.len() != SALTS_BYTES {
        return Err(malformed("salts are not 32 bytes"));
    }
    // From here on nothing fails.
    bring_in(state);
    erase::restored(at, state);
    state.put(layout::REGION, &region.encode_to_vec());
    if let Some(policy) = policy {
        state.put(layout::WITNESSES, &policy.encode_to_vec());
    }
    let mut applying = Applying::new(at, state, command, now)?;
    let disabled = access_keys::restored(&mut applying);
    let ended = hand_over::restored(&mut applying);
    let distrusted = regions::restored(&mut applying);
    store_authority(&mut applying, after.set());
    for (identity, enrolment) in after.of_role(Role::Kms) {
        own_member_id(
            &mut applying,
            Role::Kms,
            NodeId(enrolment.node_id),
            identity,
        );
    }
    let shown = Details {
        backup: BackupDetails::of(backup),
        replicas: after
            .of_role(Role::Kms)
            .map(|(id, _)| id.to_string())
            .collect(),
        authority_version: after.version(),
        origin_before,
        origin: region.log_origin,
        witnessed_size: restore.witnessed_size,
        lost_leaves: lost,
        policy_sha256: policy_sha256.unwrap_or_default(),
        access_keys_disabled: (disabled > 0).then_some(disabled),
        hand_overs_closed: (ended.grants > 0).then_some(ended.grants),
        hand_over_keys_destroyed: (ended.keys > 0).then_some(ended.keys),
        regions_distrusted: (distrusted > 0).then_some(distrusted),
    };
    details(&mut private, &shown);
    applying.use_approvals(&approved, &mut private);
    let leaf = applying.append(Kind::Restored, purpose, None, private);
    let answer = KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    };
    // What opened is there: a former root key may end.
    if let Some(mut custody) = custody::custody(&*applying.state) {
        custody.backup = Some(backup.clone());
        custody::store(&mut applying, custody);
    }
    applying.finish();
    Ok(done(answer))
}

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

/// The record was in force once: who holds its shares need not be enrolled any more, and region and jurisdiction have
/// to be those of both sets.
fn check_same_region(
    region: &KmsRegion,
    before: &Authority,
    genesis: &Authority,
) -> Result<(), Refusal> {
    for set in [before, genesis] {
        if set.region().as_str() != region.region
            || set.jurisdiction().as_str() != region.jurisdiction
        {
            return Err(Refusal::WrongJurisdiction);
        }
    }
    let whole = region.format == 1 && region.root_epoch != 0 && !region.share_set.is_empty();
    match (whole, region.log_origin.parse::<Origin>()) {
        (true, Ok(_)) => Ok(()),
        _ => Err(Refusal::Malformed("the region's record")),
    }
}

/// Requester and approvers have the same keys in both sets.
fn check_people(
    command: &KmsCommand,
    before: &Authority,
    genesis: &Authority,
) -> Result<(), Refusal> {
    let approvers = command.approvals.iter().map(|approval| &approval.approver);
    for person in std::iter::once(&command.requester).chain(approvers) {
        let identity: Identity = person
            .parse()
            .map_err(|_| Refusal::Malformed("an identity"))?;
        let (old, new) = (before.enrolment(&identity), genesis.enrolment(&identity));
        let (old, new) = old.zip(new).ok_or(Refusal::NotEnrolled)?;
        if identity.role() != Role::Operator {
            return Err(Refusal::NotEnrolled);
        }
        if old.public_key != new.public_key {
            return Err(Refusal::OtherKey);
        }
    }
    Ok(())
}

/// Where leaves are lost, the log's next origin and a witness policy of it: no witness ever sees two trees of one
/// origin. A policy may be stated without that too, because replicas that it names are gone.
fn after_a_gap(
    lost: u64,
    region: &mut KmsRegion,
    stored: Option<&[u8]>,
    stated: Option<&WitnessPolicy>,
) -> Result<Option<WitnessPolicy>, Refusal> {
    if lost > 0 {
        region.log_origin = next_origin(&region.log_origin).ok_or(Refusal::Malformed("origin"))?;
    }
    match stated {
        Some(policy) => {
            WitnessRule::parse(policy, &region.region, &region.log_origin)?;
            Ok(Some(policy.clone()))
        }
        // The stored one is of the origin that is left behind.
        None if lost > 0 && stored.is_some() => Err(Refusal::Gap),
        None => Ok(None),
    }
}

/// The backup's enrolments, with this cluster's replicas in place of the lost one's, no service principal and no trusted
/// region: see [`access_keys::restored`] and [`regions::restored`].
fn with_replicas_of(
    before: &Authority,
    genesis: &Authority,
    state: &dyn Reader,
) -> Result<Authority, Refusal> {
    let mut set = before.set().clone();
    let is_replica = |identity: &str| {
        let parsed = identity.parse::<Identity>();
        parsed.is_ok_and(|identity| identity.role() == Role::Kms)
    };
    set.enrolments.retain(|held| !is_replica(&held.identity));
    for (identity, enrolment) in genesis.of_role(Role::Kms) {
        let owner = read::member(state, Role::Kms, NodeId(enrolment.node_id));
        if owner.is_some_and(|owner| owner != *identity) {
            return Err(Refusal::AlreadyEnrolled);
        }
        set.enrolments.push(enrolment.clone());
    }
    set.enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    set.service_principals.clear();
    set.trusted_regions.clear();
    set.version += AUTHORITY_STEP;
    if genesis.of_role(Role::Kms).next().is_none() {
        return Err(Refusal::LocksOut);
    }
    Authority::parse(set)
}

/// Puts the records that waited aside where they belong.
fn bring_in(state: &mut dyn Writer) {
    let start = layout::restored(&[]);
    let end = proto::store::prefix_end(&start).expect("the table's byte is not 0xFF");
    let mut waiting = Vec::new();
    state.scan(&start, &end, &mut |key, value| {
        waiting.push((key.to_vec(), value.to_vec()));
        true
    });
    for (key, value) in waiting {
        state.delete(&key);
        if let Some(own) = key.strip_prefix(&start[..]).filter(|own| !own.is_empty()) {
            state.put(own, &value);
        }
    }
    state.delete(layout::RESTORE);
}
