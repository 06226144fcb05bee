//! Hand-over keys wrapped under the root key that is to come, beside those under the one in force: as KEKs are.
//!
//! Owns the table of them until the command that puts every key in place. Refuses to put any in place while one is missing.

use proto::ids::RelocationId;
use proto::store::{Reader, prefix_end};
use proto::v1::{HandOverKeyRecord, RewrappedHandOverKey};

use super::{hand_over_key, hand_over_keys, put_key, relocation_id};
use crate::append::Applying;
use crate::keys::WRAPPED_BYTES;
use crate::layout;
use crate::refusal::Refusal;

/// Living hand-over keys that are not yet wrapped under the root key under way, up to `limit`.
pub fn hand_over_keys_not_rewrapped(state: &dyn Reader, limit: usize) -> Vec<HandOverKeyRecord> {
    let missing = |record: &HandOverKeyRecord| {
        let relocation = RelocationId::try_from(&record.relocation_id[..]);
        let relocation = relocation.expect("state holds what this machine wrote");
        let row = layout::rewrapped_hand_over(&relocation);
        !record.destroyed && state.value(&row).is_none()
    };
    let all = hand_over_keys(state).into_iter();
    all.filter(missing).take(limit).collect()
}

/// Rows that a command brings, checked.
pub(crate) fn rewrap(
    applying: &Applying<'_>,
    keys: &[RewrappedHandOverKey],
) -> Result<Vec<(Vec<u8>, bytes::Bytes)>, Refusal> {
    let mut rows = Vec::new();
    for key in keys {
        let relocation = relocation_id(&key.relocation_id)?;
        // 32 bytes here would be a key in the clear, replicated for ever.
        if !WRAPPED_BYTES.contains(&key.wrapped_private.len()) {
            return Err(Refusal::Malformed("a hand-over key is not wrapped"));
        }
        // Destroyed since the leader looked: its copy under the new root key is not wanted.
        let living = hand_over_key(&*applying.state, &relocation).is_some_and(|key| !key.destroyed);
        if living {
            let row = layout::rewrapped_hand_over(&relocation);
            rows.push((row, key.wrapped_private.clone()));
        }
    }
    Ok(rows)
}

/// Puts every rewrapped key in place; says how many. The caller has seen that none is missing.
pub(crate) fn complete(applying: &mut Applying<'_>, root_epoch: u32) -> Result<u64, Refusal> {
    let mut keys = 0;
    for mut record in hand_over_keys(&*applying.state) {
        if record.destroyed {
            continue;
        }
        let relocation = relocation_id(&record.relocation_id)?;
        let wrapped = applying
            .state
            .value(&layout::rewrapped_hand_over(&relocation));
        let wrapped = wrapped.ok_or(Refusal::NotRewrapped)?;
        let row = layout::hand_over_private(&relocation);
        applying.state.put(&row, &wrapped);
        record.root_epoch = root_epoch;
        put_key(applying, &relocation, &record);
        keys += 1;
    }
    Ok(keys)
}

/// Drops the table.
pub(crate) fn forget(applying: &mut Applying<'_>) {
    let start = [layout::REWRAPPED_HAND_OVERS];
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
