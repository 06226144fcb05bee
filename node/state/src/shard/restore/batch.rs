//! What a restore brings, taken as one batch or not at all: tokens, versions, parts of a version that is to come.
//!
//! Owns where a restored version stands: its own log index orders it, as everything here, and its index in the shard that was
//! lost is kept beside it, as for imports. Refuses a batch that does not go on where the last one ended, a version under a
//! newer one of its key, a token under a key version that has ended, and content that is not as durable as a commit's. No
//! quota stands in the way: what was taken once is taken.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::ids::{LeaseId, ObjectVersionId};
use proto::v1;

use super::Restoring;
use crate::keys::{self, table};
use crate::limits::{DIGEST_BYTES, RESTORED_MAX, TOKEN_BYTES_MAX};
use crate::record;
use crate::shard::put::Commit;
use crate::shard::refusal::{Answer, malformed, of, refuse};
use crate::shard::{Apply, Dataset};

impl Apply<'_> {
    pub(super) fn restore_batch(
        &mut self,
        mut restoring: Restoring,
        batch: &v1::RestoreBatch,
    ) -> Answer {
        let record = &restoring.record;
        if record.phase() != v1::RestorePhase::Filling {
            return refuse(v1::Refusal::NotRestoring);
        }
        let Some(through) = end_of(batch) else {
            return malformed();
        };
        // Sent again by who did not see the answer.
        if batch.from < through && through <= record.taken {
            return Ok(self.done());
        }
        if batch.from != record.taken {
            return Err(v1::Refused {
                moved_to: record.taken,
                ..of(v1::Refusal::RestoreGap)
            });
        }
        if through > record.items {
            return malformed();
        }
        for token in &batch.tokens {
            self.token_restorable(&restoring, token)?;
        }
        let mut fresh = Fresh::default();
        for version in &batch.versions {
            self.version_restorable(&restoring.dataset, version)?;
            fresh.note(version)?;
        }
        if let Some(parts) = &batch.parts {
            self.restore_parts(&mut restoring.dataset, parts)?;
        }
        for token in &batch.tokens {
            self.take_token(&restoring.dataset, token);
        }
        for version in &batch.versions {
            self.take_restored(&mut restoring.dataset, version);
        }
        restoring.record.taken = through;
        self.save(&restoring.dataset);
        self.save_restore(&restoring.dataset.id, restoring.record);
        Ok(self.done())
    }

    /// Whose it is and until when is the KMS's word, which the leader has verified.
    fn token_restorable(
        &self,
        restoring: &Restoring,
        restored: &v1::RestoredToken,
    ) -> Result<(), v1::Refused> {
        let (Some(token), Ok(lease)) = (
            &restored.token,
            LeaseId::try_from(restored.lease_id.as_ref()),
        ) else {
            return malformed();
        };
        let shape = (1..=TOKEN_BYTES_MAX).contains(&token.token.len())
            && token.holder.len() == DIGEST_BYTES
            && token.dataset_id == restoring.dataset.id.as_bytes()[..]
            && token.kek_version > 0;
        if !shape {
            return malformed();
        }
        if token.kek_version < restoring.record.oldest_kek_version {
            return refuse(v1::Refusal::TokenTooOld);
        }
        match self.token(&restoring.dataset, &lease) {
            Ok(held) if held.holder != token.holder => refuse(v1::Refusal::TokenNotHolders),
            _ => Ok(()),
        }
    }

    /// One that came before stays: another wrap of it may have taken its place meanwhile.
    fn take_token(&mut self, dataset: &Dataset, restored: &v1::RestoredToken) {
        let lease = LeaseId::try_from(restored.lease_id.as_ref());
        let lease = lease.expect("checked before the first was stored");
        let place = keys::token(table::TOKEN, &dataset.id, &lease);
        if let (Some(token), None) = (&restored.token, self.state.value(&place)) {
            self.state.put(&place, &token.encode_to_vec());
        }
    }

    fn version_restorable(
        &self,
        dataset: &Dataset,
        version: &v1::RestoredVersion,
    ) -> Result<(), v1::Refused> {
        let Some(entry) = &version.entry else {
            return malformed();
        };
        let Ok(id) = ObjectVersionId::try_from(entry.version_id.as_ref()) else {
            return malformed();
        };
        let index = entry.finished_index;
        let current = self.current(&dataset.id, &version.key);
        let follows = current.is_none_or(|head| head.source_index < index);
        if index == 0 || !follows || entry.parts as usize != version.parts.len() {
            return malformed();
        }
        if entry.delete_marker {
            return self.marker_restorable(&id, version);
        }
        let Ok(lease) = LeaseId::try_from(entry.lease_id.as_ref()) else {
            return malformed();
        };
        let token = self.token(dataset, &lease)?;
        // As it would be asked for, but for what apply said of it once.
        let asked = v1::ObjectEntry {
            finished_index: 0,
            finished_at_ms: 0,
            versioned: false,
            parts: 0,
            ..entry.clone()
        };
        Commit::new(&version.key, None, &asked, &token.holder)?;
        let kept = entry.retention.is_some() || entry.legal_hold;
        let mode = |held: v1::Retention| held.mode() != v1::RetentionMode::Unspecified;
        if !entry.retention.is_none_or(mode) || (kept && dataset.record.lock.is_none()) {
            return malformed();
        }
        if !version.parts.is_empty() {
            let of = (version.key.as_str(), &lease);
            return self.parts_there(dataset, of, entry, &version.parts);
        }
        self.unused(&id)?;
        self.durable(entry, &version.receipts)
    }

    fn marker_restorable(
        &self,
        id: &ObjectVersionId,
        version: &v1::RestoredVersion,
    ) -> Result<(), v1::Refused> {
        let entry = version.entry.clone().unwrap_or_default();
        let marker = v1::ObjectEntry {
            format: entry.format,
            version_id: entry.version_id.clone(),
            finished_index: entry.finished_index,
            finished_at_ms: entry.finished_at_ms,
            delete_marker: true,
            versioned: entry.versioned,
            ..Default::default()
        };
        let key = version.key.parse::<proto::ids::ObjectKey>();
        match entry == marker && key.is_ok() && version.receipts.is_empty() {
            true => self.unused(id),
            false => malformed(),
        }
    }

    fn take_restored(&mut self, dataset: &mut Dataset, version: &v1::RestoredVersion) {
        let entry = version.entry.clone().unwrap_or_default();
        let standing = (entry.versioned, entry.finished_index);
        self.stand(dataset, &version.key, entry, &version.parts, standing);
    }
}

/// How many items were taken once a batch was. `None` where it mixes what one batch must not, or is too large.
fn end_of(batch: &v1::RestoreBatch) -> Option<u64> {
    let kinds = [
        batch.tokens.len(),
        batch.versions.len(),
        batch.parts.as_ref().map_or(0, |parts| parts.parts.len()),
    ];
    let one = kinds.iter().filter(|count| **count > 0).count() == 1;
    let empty_parts = batch.parts.is_some() && kinds[2] == 0;
    if !one || empty_parts || kinds.iter().any(|count| *count > RESTORED_MAX) {
        return None;
    }
    let items = |version: &v1::RestoredVersion| 1 + version.parts.len() as u64;
    batch
        .from
        .checked_add(batch.versions.iter().map(items).sum())
}

/// Keys and ids of one batch, which is not stored while it is being checked.
#[derive(Default)]
struct Fresh<'a> {
    keys: BTreeSet<&'a str>,
    ids: BTreeSet<&'a [u8]>,
}

impl<'a> Fresh<'a> {
    /// Refuses a second version of a key, which would stand at the same log index, and of an id.
    fn note(&mut self, version: &'a v1::RestoredVersion) -> Result<(), v1::Refused> {
        let entry = version.entry.as_ref();
        let id = entry.map_or(&[][..], |entry| entry.version_id.as_ref());
        match self.keys.insert(&version.key) && self.ids.insert(id) {
            true => Ok(()),
            false => malformed(),
        }
    }
}

/// A part's row, where it is there.
pub(super) fn held_part(
    apply: &Apply<'_>,
    of: &ObjectVersionId,
    number: u32,
) -> Option<v1::PartRecord> {
    record::load(&*apply.state, &keys::part(of, number))
}
