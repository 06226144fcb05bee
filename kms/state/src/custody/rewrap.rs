//! KEKs wrapped under the root key that is to come, beside those under the one in force; access keys' secrets and hand-over
//! keys with them.
//!
//! Owns the table of them until one command puts all of them in place. Refuses to put any in place while one is
//! missing: a region whose keys stood under two root keys would need the shares of both.

use proto::ids::DatasetId;
use proto::store::{Reader, prefix_end};
use proto::v1::{KekRecord, KmsDone, RewrapKeks};

use super::{all_confirmed, loaded, under_way};
use crate::access_keys;
use crate::append::Applying;
use crate::apply::Stop;
use crate::erase;
use crate::hand_over;
use crate::kek_rows;
use crate::keys::{WRAPPED_BYTES, dataset_id, of_replica};
use crate::layout;
use crate::read;
use crate::refusal::Refusal;

/// KEKs that one command rewraps: some 50 KB of an entry.
pub const REWRAP_MAX: usize = 256;

/// Versions of KEKs that are not yet wrapped under the root key under way, up to `limit`.
pub fn not_rewrapped(state: &dyn Reader, limit: usize) -> Vec<(DatasetId, u32, KekRecord)> {
    let mut missing = Vec::new();
    state.scan(&[layout::KEKS], &[layout::KEKS + 1], &mut |_, value| {
        let key = kek_rows::filled(state, value);
        let dataset = dataset_id(&key.dataset_id).expect("state holds what this machine wrote");
        for version in living(&key) {
            let row = layout::rewrapped(&dataset, version);
            if state.value(&row).is_none() && missing.len() < limit {
                missing.push((dataset, version, key.clone()));
            }
        }
        missing.len() < limit
    });
    missing
}

fn living(key: &KekRecord) -> impl Iterator<Item = u32> + '_ {
    let held = key.versions.iter();
    held.filter(|version| !version.wrapped_kek.is_empty())
        .map(|version| version.version)
}

pub(crate) fn rewrap(applying: &mut Applying<'_>, command: &RewrapKeks) -> Result<KmsDone, Stop> {
    of_replica(applying)?;
    let (region, mut custody) = loaded(applying)?;
    let plan = under_way(&mut custody, &command.set_id)?;
    if plan.root_epoch == region.root_epoch {
        return Err(Refusal::WrongState.into());
    }
    // Nothing stands under a root key that its custodians might not be able to rebuild.
    if !all_confirmed(plan) {
        return Err(Refusal::NotConfirmed.into());
    }
    let longest = command.keks.len().max(command.secrets.len());
    if longest.max(command.hand_over_keys.len()) > REWRAP_MAX {
        return Err(Refusal::Malformed("too many keys in one command").into());
    }
    let mut rows = Vec::new();
    for kek in &command.keks {
        let dataset = dataset_id(&kek.dataset_id)?;
        // 32 bytes here would be a key in the clear, replicated for ever.
        if !WRAPPED_BYTES.contains(&kek.wrapped_kek.len()) {
            return Err(Refusal::Malformed("a key is not wrapped").into());
        }
        let key = read::key(&*applying.state, &dataset).ok_or(Refusal::NoSuchKey)?;
        // Destroyed since the leader looked: its copy under the new root key is not wanted.
        if living(&key).any(|version| version == kek.version) {
            rows.push((layout::rewrapped(&dataset, kek.version), &kek.wrapped_kek));
        }
    }
    let secrets = access_keys::rewrap(applying, &command.secrets)?;
    let hand_overs = hand_over::rewrap(applying, &command.hand_over_keys)?;
    let wanted = rows.len() + secrets.len() + hand_overs.len();
    let given = command.keks.len() + command.secrets.len() + command.hand_over_keys.len();
    for (row, wrapped) in rows {
        applying.state.put(&row, wrapped);
    }
    for (row, wrapped) in secrets.into_iter().chain(hand_overs) {
        applying.state.put(&row, &wrapped);
    }
    if wanted < given {
        erase::brought_again(applying);
    }
    Ok(applying.answer())
}

/// How many keys were put in place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rewrapped {
    pub(crate) keks: u64,
    pub(crate) secrets: u64,
    pub(crate) hand_overs: u64,
}

/// Puts every rewrapped key in place; says how many.
pub(crate) fn complete(applying: &mut Applying<'_>, root_epoch: u32) -> Result<Rewrapped, Refusal> {
    let whole = not_rewrapped(&*applying.state, 1).is_empty()
        && access_keys::secrets_not_rewrapped(&*applying.state, 1).is_empty()
        && hand_over::hand_over_keys_not_rewrapped(&*applying.state, 1).is_empty();
    if !whole {
        return Err(Refusal::NotRewrapped);
    }
    let mut keks = 0;
    for mut key in read::keys(&*applying.state, None, usize::MAX) {
        let dataset = dataset_id(&key.dataset_id)?;
        for version in &mut key.versions {
            let row = layout::rewrapped(&dataset, version.version);
            let Some(wrapped) = applying.state.value(&row) else {
                continue;
            };
            version.wrapped_kek = wrapped.to_vec().into();
            version.root_epoch = root_epoch;
            keks += 1;
        }
        kek_rows::put(applying.state, applying.at.level, &dataset, &key);
    }
    let secrets = access_keys::complete(applying, root_epoch)?;
    let hand_overs = hand_over::complete(applying, root_epoch)?;
    forget(applying);
    Ok(Rewrapped {
        keks,
        secrets,
        hand_overs,
    })
}

/// Drops the tables.
pub(crate) fn forget(applying: &mut Applying<'_>) {
    access_keys::forget(applying);
    hand_over::forget(applying);
    let start = [layout::REWRAPPED];
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

/// Drops what a key that was just stored no longer has.
pub(crate) fn forget_purged(applying: &mut Applying<'_>, dataset: &DatasetId, key: &KekRecord) {
    for version in &key.versions {
        if version.wrapped_kek.is_empty() {
            let row = layout::rewrapped(dataset, version.version);
            if applying.state.value(&row).is_some() {
                applying.state.delete(&row);
            }
        }
    }
}
