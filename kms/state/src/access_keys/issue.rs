//! A gateway is given an access key's secret: in a leaf, before it is released.
//!
//! Owns the record of it and its bound in time. Refuses everybody but a gateway of the region, an access key that is not
//! enabled or was changed since the decision, and an hour and more.

use proto::ids::Role;
use proto::v1::{AccessKeyIssue, AccessKeyState, Record, RecordAnswer};
use serde::Serialize;
use tlog::{Field, Kind};

use super::{decided_on, id_of, put};
use crate::append::{Applying, array, details, stated};
use crate::authority::is_human_purpose;
use crate::records::{answer_of, request_hash};
use crate::refusal::Refusal;
use crate::requests::Request;

/// Milliseconds for which a gateway may use a secret, counted from the leaf: then it asks again.
pub const ACCESS_GIVEN_MS_MAX: u64 = 3_600_000;

#[derive(Serialize)]
struct GivenDetails<'a> {
    access_key: String,
    principal: &'a str,
    expires_at_ms: u64,
}

pub(crate) fn issue(
    applying: &mut Applying<'_>,
    record: &Record,
    asked: &AccessKeyIssue,
    region: &str,
) -> Result<RecordAnswer, Refusal> {
    let request_id = array::<16>(&record.request_id).ok_or(Refusal::Malformed("request id"))?;
    if !record.dataset_id.is_empty() {
        return Err(Refusal::Malformed("an access key is of no dataset"));
    }
    let id = id_of(&asked.access_key_id)?;
    let (actor, purpose, mut private) = stated(record.claim.as_ref())?;
    if actor.region().as_str() != region {
        return Err(Refusal::WrongJurisdiction);
    }
    if actor.role() != Role::Gateway || is_human_purpose(&purpose) {
        return Err(Refusal::NotGranted);
    }
    let lasts_ms = u64::from(asked.seconds) * 1_000;
    if !(1..=ACCESS_GIVEN_MS_MAX).contains(&lasts_ms) {
        return Err(Refusal::Malformed("a secret is given for up to an hour"));
    }
    let mut key = decided_on(applying, &id, record.state_version)?;
    if key.state() != AccessKeyState::Enabled {
        return Err(Refusal::AccessKeyDisabled);
    }
    let request = Request::look(applying, request_id, request_hash(record));
    if let Some(memory) = request.known(applying.now)? {
        return Ok(answer_of(memory, true));
    }
    let expires_at_ms = applying.now.0.saturating_add(lasts_ms);
    private.fields.insert(Field::RequestId, request.hex());
    let shown = GivenDetails {
        access_key: id.to_string(),
        principal: &key.principal,
        expires_at_ms,
    };
    details(&mut private, &shown);
    let leaf = applying.append(Kind::AccessSecret, purpose, None, private);
    let memory = request.memory_of(&leaf, applying.now);
    request.remember(applying.state, &memory);
    key.given_until_ms = key.given_until_ms.max(expires_at_ms);
    put(applying, &id, &key);
    Ok(answer_of(&memory, false))
}
