//! KEKs: birth, versions, states (NIST SP 800-57 part 1 §7, as DESIGN §5 names them).
//!
//! Owns which state leads where and what each change takes. Refuses: a change decided on a state that moved, a
//! destruction without dual control or before its time, and anything in a wrapped key's place that is too short
//! to be wrapped.

use std::ops::{ControlFlow, RangeInclusive};

use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, Identity, Role, UnixMs};
use proto::v1::{
    ChangeKeyState, Claim, ConfirmShard, CreateKek, KekRecord, KekVersionRecord, KeyState, KmsDone,
    RegisterShard, RotateKek,
};
use serde::Serialize;
use tlog::{Field, Kind, Purpose};

use crate::append::{Appended, Applying, Private, array, details, stated};
use crate::apply::Stop;
use crate::changing::{Changing, begin};
use crate::custody::rewrap;
use crate::destroy;
use crate::erase;
use crate::kek_rows;
use crate::layout;
use crate::read;
use crate::refusal::Refusal;
use crate::requests::ChangeRequest;

/// Versions that a KEK may have.
pub const KEK_VERSIONS_MAX: u32 = 1_024;
/// Bytes of a wrapped key: salt 24, commitment 32, key 32, tag 16, and a header.
pub const WRAPPED_BYTES: RangeInclusive<usize> = 104..=512;
/// Days that a destruction may be asked to wait.
pub const DESTRUCTION_DAYS: RangeInclusive<u32> = 7..=30;
const DAY_MS: u64 = 24 * 3_600_000;

#[derive(Serialize)]
pub(crate) struct KeyDetails {
    dataset: String,
    kek: String,
    kek_version: u32,
    root_epoch: u32,
    state_version: u64,
    destroy_after_ms: u64,
    shard: u64,
}

impl KeyDetails {
    pub(crate) fn of(key: &KekRecord) -> Self {
        Self {
            dataset: hex::encode(&key.dataset_id),
            kek: hex::encode(&key.kek_id),
            kek_version: key.current_version,
            root_epoch: key.versions.last().map_or(0, |version| version.root_epoch),
            state_version: key.state_version,
            destroy_after_ms: key.destroy_after_ms,
            shard: key.shard,
        }
    }
}

pub(crate) fn create(applying: &mut Applying<'_>, command: &CreateKek) -> Result<KmsDone, Stop> {
    let dataset = dataset_id(&command.dataset_id)?;
    let kek_id = array::<16>(&command.kek_id).ok_or(Refusal::Malformed("KEK id"))?;
    let pseudonym = array::<16>(&command.pseudonym).ok_or(Refusal::Malformed("pseudonym"))?;
    let request_id = array::<16>(&command.request_id).ok_or(Refusal::Malformed("request id"))?;
    let (purpose, mut private) = requested(applying, command.claim.as_ref())?;
    if let Some(key) = read::key(&*applying.state, &dataset) {
        // The same request again, at whatever time: it has effect once and gets the same answer.
        let again = key.created_by_request == request_id.as_slice();
        return if again {
            Ok(of_key(applying, &key, key.created_leaf))
        } else {
            Err(Refusal::KeyExists.into())
        };
    }
    let taken = |key: &[u8]| applying.state.value(key).is_some();
    if taken(&layout::kek_id(&kek_id)) || taken(&layout::pseudonym(&pseudonym)) {
        return Err(Refusal::KeyExists.into());
    }
    let version = checked_version(applying, command.version.as_ref(), 1)?;
    let mut key = KekRecord {
        format: 1,
        kek_id: command.kek_id.clone(),
        dataset_id: command.dataset_id.clone(),
        pseudonym: command.pseudonym.clone(),
        state: KeyState::Enabled.into(),
        state_version: 1,
        current_version: 1,
        min_version: 1,
        versions: vec![version],
        created_at_ms: applying.now.0,
        created_by_request: command.request_id.clone(),
        ..KekRecord::default()
    };
    private
        .fields
        .insert(Field::RequestId, hex::encode(request_id));
    let leaf = append(applying, Kind::KeyCreated, purpose, &mut key, private);
    key.created_leaf = leaf.index.0;
    applying.state.put(&layout::kek_id(&kek_id), &dataset.0);
    applying
        .state
        .put(&layout::pseudonym(&pseudonym), &dataset.0);
    Ok(store(applying, &dataset, &key, &leaf))
}

pub(crate) fn rotate(applying: &mut Applying<'_>, command: &RotateKek) -> Result<KmsDone, Stop> {
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let key = &mut changing.key;
    if !matches!(key.state(), KeyState::Enabled | KeyState::Compromised) {
        return Err(Refusal::KeyDisabled.into());
    }
    if key.current_version >= KEK_VERSIONS_MAX {
        return Err(Refusal::WrongState.into());
    }
    let next = key.current_version + 1;
    key.versions
        .push(checked_version(applying, command.version.as_ref(), next)?);
    key.current_version = next;
    if let Some(rotation) = &mut key.rotation {
        rotation.uses = 0;
    }
    Ok(changing.finish(applying, Kind::KeyRotated, KeyDetails::of))
}

pub(crate) fn change_state(
    applying: &mut Applying<'_>,
    command: &ChangeKeyState,
) -> Result<KmsDone, Stop> {
    let Ok(target) = KeyState::try_from(command.state) else {
        return Err(Stop::Unknown("a key state this build does not know"));
    };
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let Changing { key, private, .. } = &mut changing;
    let kind = transition(key, target).ok_or(Refusal::WrongState)?;
    let days = command.destruction_days;
    let destroys = matches!(target, KeyState::PendingDestruction | KeyState::Destroyed);
    let days_ok = if target == KeyState::PendingDestruction {
        DESTRUCTION_DAYS.contains(&days)
    } else {
        days == 0
    };
    if !days_ok {
        return Err(Refusal::Malformed("a destruction waits 7 to 30 days").into());
    }
    if target == KeyState::Destroyed && applying.now.0 < key.destroy_after_ms {
        return Err(Refusal::WrongState.into());
    }
    // A relocation's own way to the end takes evidence: this one takes its grant to be closed.
    if target == KeyState::PendingDestruction && !key.relocation_id.is_empty() {
        return Err(Refusal::RelocationUnderWay.into());
    }
    if destroys {
        let authority = applying.authority()?;
        let approved = applying.approvals(&authority, authority.approvals_min())?;
        applying.use_approvals(&approved, private);
    }
    match target {
        KeyState::PendingDestruction => pend(key, days, applying.now),
        _ => key.destroy_after_ms = 0,
    }
    if target == KeyState::Destroyed {
        destroy::purge(key);
        erase::ended(applying, key);
    }
    key.set_state(target);
    Ok(changing.finish(applying, kind, KeyDetails::of))
}

/// Has a key wait for its destruction.
pub(crate) fn pend(key: &mut KekRecord, days: u32, now: UnixMs) {
    key.state_before_destruction = key.state;
    key.destroy_after_ms = now.0 + u64::from(days) * DAY_MS;
    key.set_state(KeyState::PendingDestruction);
}

/// Which kind of event leads from a key's state to `target`, where any does.
pub(crate) fn transition(key: &KekRecord, target: KeyState) -> Option<Kind> {
    use KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};
    match (key.state(), target) {
        (Disabled, Enabled) => Some(Kind::KeyEnabled),
        (Enabled, Disabled) => Some(Kind::KeyDisabled),
        (Enabled | Disabled, Compromised) => Some(Kind::KeyCompromised),
        (Disabled | Compromised, PendingDestruction) => Some(Kind::KeyDestructionPending),
        (PendingDestruction, Destroyed) => Some(Kind::KeyDestroyed),
        // Cancelled: a compromised key stays one, or waiting would launder it.
        (PendingDestruction, Disabled) if key.state_before_destruction() == Disabled => {
            Some(Kind::KeyDisabled)
        }
        (PendingDestruction, Compromised) if key.state_before_destruction() == Compromised => {
            Some(Kind::KeyCompromised)
        }
        _ => None,
    }
}

pub(crate) fn register_shard(
    applying: &mut Applying<'_>,
    command: &RegisterShard,
) -> Result<KmsDone, Stop> {
    let dataset = dataset_id(&command.dataset_id)?;
    of_replica(applying)?;
    let mut key = read::key(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
    if command.shard == 0 {
        return Err(Refusal::Malformed("shard").into());
    }
    if key.shard == command.shard {
        return Ok(of_key(applying, &key, 0));
    }
    if key.shard != 0 {
        return Err(Refusal::WrongState.into());
    }
    key.shard = command.shard;
    let private = applying.private_of_requester();
    let leaf = append(
        applying,
        Kind::ShardRegistered,
        Purpose::service(),
        &mut key,
        private,
    );
    Ok(store(applying, &dataset, &key, &leaf))
}

pub(crate) fn confirm_shard(
    applying: &mut Applying<'_>,
    command: &ConfirmShard,
) -> Result<KmsDone, Stop> {
    of_replica(applying)?;
    let (dataset, mut key) = moved_by(applying, &command.dataset_id, command.state_version)?;
    if key.shard == 0 {
        return Err(Refusal::WrongState.into());
    }
    if key.confirmed_state_version == key.state_version {
        return Ok(of_key(applying, &key, 0));
    }
    key.confirmed_state_version = key.state_version;
    let private = applying.private_of_requester();
    let kind = Kind::KeyStateAcknowledged;
    let leaf = append(applying, kind, Purpose::service(), &mut key, private);
    Ok(store(applying, &dataset, &key, &leaf))
}

pub(crate) fn dataset_id(bytes: &[u8]) -> Result<DatasetId, Refusal> {
    DatasetId::try_from(bytes).map_err(|_| Refusal::Malformed("dataset id"))
}

/// The answer to a change that was made before. It looks at nothing else: what the change did may be why it could
/// not be made again.
pub(crate) fn done_before(
    applying: &Applying<'_>,
    dataset: &[u8],
    request: Option<&ChangeRequest>,
) -> Result<Option<KmsDone>, Refusal> {
    let Some(request) = request else {
        return Ok(None);
    };
    let Some(memory) = request.known(applying.now)? else {
        return Ok(None);
    };
    let dataset = dataset_id(dataset)?;
    let key = read::key(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
    Ok(Some(of_key(applying, &key, memory.leaf_index)))
}

/// The key, still at the version the leader decided on.
pub(crate) fn moved_by(
    applying: &Applying<'_>,
    dataset: &[u8],
    decided_on: u64,
) -> Result<(DatasetId, KekRecord), Refusal> {
    let dataset = dataset_id(dataset)?;
    let key = read::key(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
    check_state_version(&key, decided_on)?;
    Ok((dataset, key))
}

pub(crate) fn check_state_version(key: &KekRecord, decided_on: u64) -> Result<(), Refusal> {
    if key.state_version == decided_on || broken(Switch::UnboundVerdict) {
        Ok(())
    } else {
        Err(Refusal::KeyStateMoved {
            to: key.state_version,
        })
    }
}

/// The claim of a request about a key: its actor is the requester, and enrolled.
pub(crate) fn requested(
    applying: &Applying<'_>,
    claim: Option<&Claim>,
) -> Result<(Purpose, Private), Refusal> {
    let (actor, purpose, private) = stated(claim)?;
    let authority = applying.authority()?;
    if applying.requester(&authority)? != actor {
        return Err(Refusal::Malformed("the claim's actor is not the requester"));
    }
    Ok((purpose, private))
}

/// What shards say reaches the log by a KMS replica alone.
pub(crate) fn of_replica(applying: &Applying<'_>) -> Result<Identity, Refusal> {
    let authority = applying.authority()?;
    let requester = applying.requester(&authority)?;
    if requester.role() == Role::Kms {
        Ok(requester)
    } else {
        Err(Refusal::NotEnrolled)
    }
}

fn checked_version(
    applying: &Applying<'_>,
    version: Option<&KekVersionRecord>,
    number: u32,
) -> Result<KekVersionRecord, Refusal> {
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    let mut version = version
        .cloned()
        .ok_or(Refusal::Malformed("no KEK version"))?;
    if version.root_epoch != region.root_epoch {
        return Err(Refusal::RootMoved {
            to: region.root_epoch,
        });
    }
    if version.version != number {
        return Err(Refusal::Malformed("KEK version"));
    }
    // 32 bytes here would be a key in the clear, replicated for ever.
    let wrapped = [
        version.wrapped_kek.len(),
        version.wrapped_metadata_key.len(),
    ];
    if !wrapped.iter().all(|length| WRAPPED_BYTES.contains(length)) {
        return Err(Refusal::Malformed("a key is not wrapped"));
    }
    version.created_at_ms = applying.now.0;
    Ok(version)
}

pub(crate) fn append(
    applying: &mut Applying<'_>,
    kind: Kind,
    purpose: Purpose,
    key: &mut KekRecord,
    mut private: Private,
) -> Appended {
    details(&mut private, &KeyDetails::of(key));
    applying.append(kind, purpose, Some(key), private)
}

pub(crate) fn store(
    applying: &mut Applying<'_>,
    dataset: &DatasetId,
    key: &KekRecord,
    leaf: &Appended,
) -> KmsDone {
    kek_rows::put(applying.state, applying.at.level, dataset, key);
    rewrap::forget_purged(applying, dataset, key);
    of_key(applying, key, leaf.index.0)
}

fn of_key(applying: &Applying<'_>, key: &KekRecord, leaf_index: u64) -> KmsDone {
    KmsDone {
        leaf_index,
        state_version: key.state_version,
        version: key.current_version,
        kek_id: key.kek_id.clone(),
        pseudonym: key.pseudonym.clone(),
        ..applying.answer()
    }
}
