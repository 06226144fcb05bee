//! Secrets wrapped under the root key that is to come, beside those under the one in force: as KEKs are.
//!
//! Owns the table of them until the command that puts every key in place. Refuses to put any in place while one is missing.

use prost::Message as _;
use proto::ids::AccessKeyId;
use proto::store::{Reader, prefix_end};
use proto::v1::{AccessKeyRecord, RewrappedSecret};

use super::{access_key, access_keys, id_of, put};
use crate::append::Applying;
use crate::keys::WRAPPED_BYTES;
use crate::layout;
use crate::refusal::Refusal;

/// Access keys whose secrets are not yet wrapped under the root key under way, up to `limit`.
pub fn secrets_not_rewrapped(state: &dyn Reader, limit: usize) -> Vec<AccessKeyRecord> {
    let mut missing = Vec::new();
    let (start, end) = ([layout::ACCESS_KEYS], [layout::ACCESS_KEYS + 1]);
    state.scan(&start, &end, &mut |row, value| {
        let id = AccessKeyId::try_from(&row[1..]).expect("state holds what this machine wrote");
        if missing.len() < limit && state.value(&layout::rewrapped_secret(&id)).is_none() {
            let record = AccessKeyRecord::decode(value);
            missing.push(record.expect("state holds what this machine wrote"));
        }
        missing.len() < limit
    });
    missing
}

/// Rows that a command brings, checked.
pub(crate) fn rewrap(
    applying: &Applying<'_>,
    secrets: &[RewrappedSecret],
) -> Result<Vec<(Vec<u8>, bytes::Bytes)>, Refusal> {
    let mut rows = Vec::new();
    for secret in secrets {
        let id = id_of(&secret.access_key_id)?;
        // 32 bytes here would be a secret in the clear, replicated for ever.
        if !WRAPPED_BYTES.contains(&secret.wrapped_secret.len()) {
            return Err(Refusal::Malformed("a secret is not wrapped"));
        }
        // Deleted since the leader looked: its copy under the new root key is not wanted.
        if access_key(&*applying.state, &id).is_some() {
            rows.push((layout::rewrapped_secret(&id), secret.wrapped_secret.clone()));
        }
    }
    Ok(rows)
}

/// Puts every rewrapped secret in place; says how many. The caller has seen that none is missing.
pub(crate) fn complete(applying: &mut Applying<'_>, root_epoch: u32) -> Result<u64, Refusal> {
    let mut secrets = 0;
    for mut record in access_keys(&*applying.state, None, usize::MAX) {
        let id = id_of(&record.access_key_id)?;
        let wrapped = applying.state.value(&layout::rewrapped_secret(&id));
        let wrapped = wrapped.ok_or(Refusal::NotRewrapped)?;
        applying.state.put(&layout::access_secret(&id), &wrapped);
        record.root_epoch = root_epoch;
        put(applying, &id, &record);
        secrets += 1;
    }
    Ok(secrets)
}

/// Drops the table.
pub(crate) fn forget(applying: &mut Applying<'_>) {
    let start = [layout::REWRAPPED_SECRETS];
    let end = prefix_end(&start).expect("the table's byte is not 0xFF");
    let mut rows = Vec::new();
    applying.state.scan(&start, &end, &mut |row, _| {
        rows.push(row.to_vec());
        true
    });
    for row in rows {
        applying.state.delete(&row);
    }
}
