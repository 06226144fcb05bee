//! Access keys: secrets by which clients of gateways sign, and the service principals that they act for.
//!
//! Owns their records, the leaf of each change, and which service principals the enrolment set names: those with an
//! enabled access key, so that a verdict on what a gateway asks for one is bound to the version that names it. Refuses a
//! principal of another role or region, to bring one in without dual control, and to delete what may still be used. A
//! wrapped secret has a row of its own, which only birth, a new root key and the end write.

mod issue;
mod rewrap;

use prost::Message as _;
use proto::ids::{AccessKeyId, Identity, RegionId, Role};
use proto::store::Reader;
use proto::transcript;
use proto::v1::{
    AccessKeyRecord, AccessKeyState, Claim, CreateAccessKey, DeleteAccessKey, EnrolmentSet,
    KmsDone, SetAccessKeyState,
};
use serde::Serialize;
use tlog::{Kind, Purpose};

pub use issue::ACCESS_GIVEN_MS_MAX;
pub(crate) use issue::issue;
pub use rewrap::secrets_not_rewrapped;
pub(crate) use rewrap::{complete, forget, rewrap};

use crate::append::{Applying, Private, array, details, stated};
use crate::apply::Stop;
use crate::authority::{Authority, is_human_purpose};
use crate::custody::loaded;
use crate::erase;
use crate::keys::WRAPPED_BYTES;
use crate::layout;
use crate::members::{DualControlled, of_operator, store_authority};
use crate::refusal::Refusal;

/// Access keys that a region may have. Their principals stand in the enrolment set, which every node fetches.
pub const ACCESS_KEYS_MAX: usize = 10_000;
/// Bytes of the enrolment set with which a principal still comes in: it travels in one message, and a set that did not fit
/// would reach nobody.
pub(crate) const SET_BYTES_MAX: usize = 900_000;
const FORMAT: u32 = 1;

/// The id of the access key that a request of this single-use id makes.
pub fn access_key_id(single_use_id: &[u8; 16]) -> AccessKeyId {
    let made_of = transcript::access_key_id(single_use_id);
    AccessKeyId::of_request(&tlog::sha256(&[&made_of]).0)
}

/// An access key, without its secret.
pub fn access_key(state: &dyn Reader, id: &AccessKeyId) -> Option<AccessKeyRecord> {
    let bytes = state.value(&layout::access_key(id))?;
    Some(AccessKeyRecord::decode(bytes).expect("state holds what this machine wrote"))
}

/// An access key's secret, wrapped under the root key that its record names.
pub fn access_secret(state: &dyn Reader, id: &AccessKeyId) -> Option<bytes::Bytes> {
    state.value(&layout::access_secret(id))
}

/// Up to `limit` access keys in order of their ids, from the first after `after`.
pub fn access_keys(
    state: &dyn Reader,
    after: Option<&AccessKeyId>,
    limit: usize,
) -> Vec<AccessKeyRecord> {
    let mut start = vec![layout::ACCESS_KEYS];
    if let Some(after) = after {
        start = layout::access_key(after);
        start.push(0);
    }
    let mut found = Vec::new();
    state.scan(&start, &[layout::ACCESS_KEYS + 1], &mut |_, value| {
        if found.len() < limit {
            let record = AccessKeyRecord::decode(value);
            found.push(record.expect("state holds what this machine wrote"));
        }
        found.len() < limit
    });
    found
}

#[derive(Serialize)]
struct AccessKeyDetails<'a> {
    access_key: String,
    principal: &'a str,
    state_version: u64,
    root_epoch: u32,
    /// The operator to whom the secret was shown.
    #[serde(skip_serializing_if = "str::is_empty")]
    shown_to: &'a str,
    /// In force with this change; the version of before where it brought in or took out no principal.
    authority_version: u64,
}

impl<'a> AccessKeyDetails<'a> {
    fn of(record: &'a AccessKeyRecord, authority_version: u64) -> Self {
        Self {
            access_key: String::from_utf8_lossy(&record.access_key_id).into_owned(),
            principal: &record.principal,
            state_version: record.state_version,
            root_epoch: record.root_epoch,
            shown_to: "",
            authority_version,
        }
    }
}

fn id_of(bytes: &[u8]) -> Result<AccessKeyId, Refusal> {
    AccessKeyId::try_from(bytes).map_err(|_| Refusal::Malformed("access key id"))
}

fn principal_of(text: &str, region: &RegionId) -> Result<Identity, Refusal> {
    let principal: Identity = text.parse().map_err(|_| Refusal::Malformed("principal"))?;
    if principal.region() != region {
        return Err(Refusal::WrongJurisdiction);
    }
    match principal.role() {
        Role::Service => Ok(principal),
        _ => Err(Refusal::Malformed("principal")),
    }
}

/// The access key, at the version that the leader decided on.
fn decided_on(
    applying: &Applying<'_>,
    id: &AccessKeyId,
    version: u64,
) -> Result<AccessKeyRecord, Refusal> {
    let record = access_key(&*applying.state, id).ok_or(Refusal::NoSuchAccessKey)?;
    match record.state_version == version {
        true => Ok(record),
        false => Err(Refusal::KeyStateMoved {
            to: record.state_version,
        }),
    }
}

fn put(applying: &mut Applying<'_>, id: &AccessKeyId, record: &AccessKeyRecord) {
    let row = layout::access_key(id);
    applying.state.put(&row, &record.encode_to_vec());
}

/// The set as it is once one access key is `enabled` or not; none where it names the same principals as before.
fn set_after(
    applying: &Applying<'_>,
    authority: &Authority,
    changed: &AccessKeyRecord,
    enabled: bool,
) -> Option<EnrolmentSet> {
    let by_another = || {
        let held = access_keys(&*applying.state, None, usize::MAX);
        held.iter().any(|held| {
            held.access_key_id != changed.access_key_id
                && held.principal == changed.principal
                && held.state() == AccessKeyState::Enabled
        })
    };
    let mut set = authority.set().clone();
    match (
        set.service_principals.binary_search(&changed.principal),
        enabled,
    ) {
        (Err(at), true) => set.service_principals.insert(at, changed.principal.clone()),
        (Ok(at), false) if !by_another() => drop(set.service_principals.remove(at)),
        _ => return None,
    }
    set.version += 1;
    Some(set)
}

/// On a restored cluster: what was disabled or deleted since the backup was taken is in it enabled, and nothing in it says
/// so. All are disabled, as an operator's alarm would; says how many. The caller's set names no service principal.
pub(crate) fn restored(applying: &mut Applying<'_>) -> u64 {
    let mut enabled = Vec::new();
    let (start, end) = ([layout::ACCESS_KEYS], [layout::ACCESS_KEYS + 1]);
    applying.state.scan(&start, &end, &mut |row, value| {
        let record = AccessKeyRecord::decode(value).expect("decoded on its way in");
        if record.state() == AccessKeyState::Enabled {
            enabled.push((row.to_vec(), record));
        }
        true
    });
    for (row, record) in &mut enabled {
        record.set_state(AccessKeyState::Disabled);
        record.state_version += 1;
        applying.state.put(row, &record.encode_to_vec());
    }
    enabled.len() as u64
}

/// A set with a principal more than before, if it is one that nodes can take.
fn small_enough(set: &EnrolmentSet) -> Result<(), Refusal> {
    match set.encoded_len() <= SET_BYTES_MAX {
        true => Ok(()),
        false => Err(Refusal::TooManyAccessKeys),
    }
}

pub(crate) fn create(
    applying: &mut Applying<'_>,
    command: &CreateAccessKey,
) -> Result<KmsDone, Stop> {
    let id = id_of(&command.access_key_id)?;
    let request_id = array::<16>(&command.request_id).ok_or(Refusal::Malformed("request id"))?;
    if id != access_key_id(&request_id) {
        return Err(Refusal::Malformed("the access key id is of another request").into());
    }
    let authority = applying.authority()?;
    let principal = principal_of(&command.principal, authority.region())?;
    // A person's purpose waits for witnesses, and a secret that is shown does not: as when one is given.
    let (_, purpose, _) = stated(command.claim.as_ref())?;
    if is_human_purpose(&purpose) {
        return Err(Refusal::NotGranted.into());
    }
    if let Some(held) = access_key(&*applying.state, &id) {
        return created_before(applying, &authority, command, &held);
    }
    let (region, _) = loaded(applying)?;
    if command.root_epoch != region.root_epoch {
        return Err(Refusal::RootMoved {
            to: region.root_epoch,
        }
        .into());
    }
    // 32 bytes here would be a secret in the clear, replicated for ever.
    if !WRAPPED_BYTES.contains(&command.wrapped_secret.len()) {
        return Err(Refusal::Malformed("a secret is not wrapped").into());
    }
    // Used up with the approvals, for ever: no id is born again, and nothing decided on one access key meets another.
    let approvals = &applying.command.approvals;
    if approvals
        .iter()
        .any(|one| one.single_use_id != request_id[..])
    {
        return Err(Refusal::Malformed("the approvals are of another request").into());
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    if access_keys(&*applying.state, None, ACCESS_KEYS_MAX).len() >= ACCESS_KEYS_MAX {
        return Err(Refusal::TooManyAccessKeys.into());
    }
    let record = AccessKeyRecord {
        format: FORMAT,
        access_key_id: command.access_key_id.clone(),
        principal: principal.to_string(),
        state: AccessKeyState::Enabled.into(),
        state_version: 1,
        created_at_ms: applying.now.0,
        created_leaf: applying.next_leaf().0,
        created_by_request: bytes::Bytes::copy_from_slice(&request_id),
        created_by: applying.command.requester.clone(),
        root_epoch: command.root_epoch,
        given_until_ms: 0,
    };
    let after = set_after(applying, &authority, &record, true);
    after.as_ref().map_or(Ok(()), small_enough)?;
    put(applying, &id, &record);
    let secret = layout::access_secret(&id);
    applying.state.put(&secret, &command.wrapped_secret);
    let version = after
        .as_ref()
        .map_or(authority.version(), |set| set.version);
    let shown = AccessKeyDetails {
        shown_to: &record.created_by,
        ..AccessKeyDetails::of(&record, version)
    };
    let done = match &after {
        Some(set) => change.commit(applying, Kind::AccessKeyCreated, &shown, set),
        None => change.record(applying, Kind::AccessKeyCreated, &shown),
    };
    Ok(KmsDone {
        state_version: record.state_version,
        ..done
    })
}

/// The same request again by who made it: its secret was shown to the same operator, by the same leaf.
fn created_before(
    applying: &Applying<'_>,
    authority: &Authority,
    command: &CreateAccessKey,
    held: &AccessKeyRecord,
) -> Result<KmsDone, Stop> {
    let operator = of_operator(applying, authority)?;
    let again = held.created_by_request == command.request_id
        && held.created_by == operator.to_string()
        && held.principal == command.principal;
    if !again {
        return Err(Refusal::AccessKeyExists.into());
    }
    Ok(KmsDone {
        leaf_index: held.created_leaf,
        state_version: held.state_version,
        ..applying.answer()
    })
}

/// What one operator may change alone: the requester, being the claim's actor.
fn by_one(
    applying: &Applying<'_>,
    authority: &Authority,
    claim: Option<&Claim>,
) -> Result<(Purpose, Private), Refusal> {
    let (actor, purpose, private) = stated(claim)?;
    match of_operator(applying, authority)? == actor {
        true => Ok((purpose, private)),
        false => Err(Refusal::Malformed("the claim's actor is not the requester")),
    }
}

pub(crate) fn set_state(
    applying: &mut Applying<'_>,
    command: &SetAccessKeyState,
) -> Result<KmsDone, Stop> {
    let Ok(target) = AccessKeyState::try_from(command.state) else {
        return Err(Stop::Unknown(
            "a state of an access key this build does not know",
        ));
    };
    let id = id_of(&command.access_key_id)?;
    let authority = applying.authority()?;
    of_operator(applying, &authority)?;
    let mut record = decided_on(applying, &id, command.state_version)?;
    if record.state() == target {
        return Ok(KmsDone {
            state_version: record.state_version,
            ..applying.answer()
        });
    }
    record.set_state(target);
    record.state_version += 1;
    let enabled = target == AccessKeyState::Enabled;
    let after = set_after(applying, &authority, &record, enabled);
    let version = after
        .as_ref()
        .map_or(authority.version(), |set| set.version);
    let shown = AccessKeyDetails::of(&record, version);
    let done = match target {
        // It brings a principal back, as creating brings one in.
        AccessKeyState::Enabled => {
            let change = DualControlled::check(applying, command.claim.as_ref())?;
            after.as_ref().map_or(Ok(()), small_enough)?;
            put(applying, &id, &record);
            match &after {
                Some(set) => change.commit(applying, Kind::AccessKeyEnabled, &shown, set),
                None => change.record(applying, Kind::AccessKeyEnabled, &shown),
            }
        }
        // The alarm, which waits for nobody and loses nothing.
        AccessKeyState::Disabled => {
            let (purpose, private) = by_one(applying, &authority, command.claim.as_ref())?;
            put(applying, &id, &record);
            if let Some(set) = &after {
                store_authority(applying, set);
            }
            logged(
                applying,
                Kind::AccessKeyDisabled,
                (purpose, private),
                &shown,
            )
        }
        AccessKeyState::Unspecified => return Err(Refusal::Malformed("state").into()),
    };
    Ok(KmsDone {
        state_version: record.state_version,
        ..done
    })
}

pub(crate) fn delete(
    applying: &mut Applying<'_>,
    command: &DeleteAccessKey,
) -> Result<KmsDone, Stop> {
    let id = id_of(&command.access_key_id)?;
    let authority = applying.authority()?;
    let by = by_one(applying, &authority, command.claim.as_ref())?;
    let record = decided_on(applying, &id, command.state_version)?;
    if record.state() != AccessKeyState::Disabled {
        return Err(Refusal::WrongState.into());
    }
    erase::note(applying);
    for row in [
        layout::access_key(&id),
        layout::access_secret(&id),
        layout::rewrapped_secret(&id),
    ] {
        applying.state.delete(&row);
    }
    let shown = AccessKeyDetails::of(&record, authority.version());
    Ok(logged(applying, Kind::AccessKeyDeleted, by, &shown))
}

fn logged(
    applying: &mut Applying<'_>,
    kind: Kind,
    (purpose, mut private): (Purpose, Private),
    shown: &AccessKeyDetails<'_>,
) -> KmsDone {
    details(&mut private, shown);
    let leaf = applying.append(kind, purpose, None, private);
    KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    }
}
