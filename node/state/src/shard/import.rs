//! Imports: what a mover brings of the source, taken as one batch or not at all.
//!
//! Owns the way from a batch to its parts and what is known of each unit afterwards. Which are taken is decided by
//! [`crate::relocation::Arrival::take`]. Refuses a batch of which any part could not be stored, before it stores the first.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, KekId, LogIndex, ObjectKey, ObjectVersionId, RelocationId, RequestId};
use proto::v1;
use proto::v1::import::Span as Asked;
use proto::v1::imported_unit::Content as Brought;

use super::arrive::Arriving;
use super::refusal::{Answer, malformed, of, refuse};
use super::relocation::relocation_id;
use super::{Apply, Dataset};
use crate::keys;
use crate::limits::{DIGEST_BYTES, IMPORTS_MAX};
use crate::record;
use crate::relocation::{
    Batch, Content, Effect, Import, ImportRefused, Known, Position, Span, Unit,
};

pub(super) mod settings;
#[cfg(test)]
mod tests;
mod version;

pub use version::LATE_PARTS_LEVEL;

impl Apply<'_> {
    pub(super) fn import(&mut self, verdict: v1::Verdict, import: &v1::Import) -> Answer {
        let relocation = relocation_id(&import.relocation_id)?;
        let batch = batch(relocation, import)?;
        let crossed = crossed(import)?;
        let mut dataset = self.held(&import.dataset_id)?;
        let arriving = self.arriving(&dataset.id);
        let here = dataset.record.status() == v1::DatasetStatus::Arriving;
        let Some(mut arriving) = arriving.filter(|_| here) else {
            return refuse(v1::Refusal::NotTaking);
        };
        let settings_index = arriving.settings_index;
        let known = |unit: &Unit| match unit {
            Unit::Settings => (settings_index > 0).then_some(Known {
                index: LogIndex(settings_index),
                stored: true,
            }),
            _ => self.known(&dataset.id, unit).map(|held| Known {
                index: LogIndex(held.index),
                stored: held.stored,
            }),
        };
        let taken = arriving.arrival.clone().take(self.index, &batch, known);
        let (after, effects) = taken.map_err(import_refused)?;
        let units = || {
            let judged = batch.imports.iter().zip(&import.units).zip(&effects);
            judged.filter(|(_, effect)| **effect != Effect::Nothing)
        };
        let mut fresh = Fresh::default();
        for (((unit, _), brought), _) in units() {
            let of_this = fresh.has(unit);
            self.importable(verdict, (&dataset, of_this), unit, brought)?;
            fresh.note(unit, brought)?;
        }
        arriving.arrival = after;
        for (((unit, one), brought), _) in units() {
            self.take_in(&mut dataset, &mut arriving, (unit, one.index), brought);
        }
        for (id, kept) in crossed {
            let place = keys::crossed(&dataset.id, &id);
            self.state.put(&place, &kept.encode_to_vec());
        }
        self.save_arrival(&arriving);
        self.save(&dataset);
        Ok(self.done())
    }

    /// What is known of an object's unit.
    fn known(&self, dataset: &DatasetId, unit: &Unit) -> Option<v1::KnownRecord> {
        record::load(&*self.state, &known_key(dataset, unit)?)
    }

    /// Whether it could be stored; `of_this` says that the batch itself brings the version that it is of.
    fn importable(
        &self,
        verdict: v1::Verdict,
        (dataset, of_this): (&Dataset, bool),
        unit: &Unit,
        brought: &v1::ImportedUnit,
    ) -> Result<(), v1::Refused> {
        let of_version = || {
            let stands = self.standing(dataset, unit);
            match of_this || stands.is_some_and(|version| !version.head.delete_marker) {
                true => Ok(()),
                false => malformed(),
            }
        };
        match &brought.content {
            Some(Brought::Version(version)) => {
                self.version_importable(verdict, dataset, unit, brought.index, version)
            }
            Some(Brought::Lock(_)) => of_version(),
            Some(Brought::Metadata(metadata)) => {
                version::metadata_well_formed(metadata)?;
                self.key_allows(verdict, dataset)?;
                of_version()
            }
            Some(Brought::Settings(settings)) => settings::well_formed(settings),
            Some(Brought::Gone(_)) => Ok(()),
            None => malformed(),
        }
    }

    fn take_in(
        &mut self,
        dataset: &mut Dataset,
        arriving: &mut Arriving,
        (unit, index): (&Unit, LogIndex),
        brought: &v1::ImportedUnit,
    ) {
        let digest = match &brought.content {
            Some(Brought::Settings(settings)) => {
                self.take_settings(dataset, settings);
                arriving.settings_index = index.0;
                return;
            }
            Some(Brought::Version(version)) => {
                self.take_version(dataset, unit, index, version);
                version.source_digest.clone()
            }
            Some(Brought::Lock(lock)) => {
                self.take_lock(dataset, unit, lock);
                let held = self.known(&dataset.id, unit);
                held.map(|held| held.source_digest).unwrap_or_default()
            }
            Some(Brought::Metadata(metadata)) => {
                self.take_metadata(dataset, unit, metadata);
                metadata.source_digest.clone()
            }
            Some(Brought::Gone(_)) | None => {
                self.take_away(dataset, unit);
                Bytes::new()
            }
        };
        let known = v1::KnownRecord {
            index: index.0,
            stored: !matches!(brought.content, Some(Brought::Gone(_)) | None),
            source_digest: digest,
        };
        if let Some(place) = known_key(&dataset.id, unit) {
            self.state.put(&place, &known.encode_to_vec());
        }
    }
}

/// What a batch itself brings, which is not stored while it is being checked.
#[derive(Default)]
struct Fresh<'a> {
    units: BTreeSet<&'a Unit>,
    keys: BTreeSet<&'a ObjectKey>,
    ids: BTreeSet<&'a [u8]>,
}

impl<'a> Fresh<'a> {
    fn has(&self, unit: &Unit) -> bool {
        self.units.contains(unit)
    }

    /// Refuses a second version of a key, which would stand at the same log index, and of an id.
    fn note(&mut self, unit: &'a Unit, brought: &'a v1::ImportedUnit) -> Result<(), v1::Refused> {
        let (Some(Brought::Version(version)), Some(key)) = (&brought.content, unit.key()) else {
            return Ok(());
        };
        let entry = version.entry.as_ref();
        let id = entry.map_or(&[][..], |entry| entry.version_id.as_ref());
        if !(self.keys.insert(key) && self.ids.insert(id)) {
            return malformed();
        }
        if entry.is_some_and(|entry| !entry.delete_marker) {
            self.units.insert(unit);
        }
        Ok(())
    }
}

/// Where it stands what is known of an object's unit.
fn known_key(dataset: &DatasetId, unit: &Unit) -> Option<Vec<u8>> {
    match unit {
        Unit::Settings => None,
        Unit::Null(key) => Some(keys::known(dataset, key.as_str(), None)),
        Unit::Version(key, id) => Some(keys::known(dataset, key.as_str(), Some(id))),
    }
}

/// The batch that is brought, if it is one.
fn batch(relocation: RelocationId, import: &v1::Import) -> Result<Batch, v1::Refused> {
    let indexes = |span: &v1::IndexSpan| (LogIndex(span.after), LogIndex(span.through));
    let span = match &import.span {
        Some(Asked::Page(page)) => {
            let places = (
                Position::stored(page.after.as_ref()),
                Position::stored(page.through.as_ref()),
            );
            let (Some(after), Some(through)) = places else {
                return malformed();
            };
            let at = LogIndex(page.at);
            Span::Page { after, through, at }
        }
        Some(Asked::Changes(span)) => {
            let (after, through) = indexes(span);
            Span::Changes { after, through }
        }
        Some(Asked::Requests(span)) => {
            let (after, through) = indexes(span);
            Span::Requests { after, through }
        }
        None => return malformed(),
    };
    if import.units.len() > IMPORTS_MAX {
        return malformed();
    }
    let imports: Result<_, _> = import.units.iter().map(unit).collect();
    Ok(Batch {
        relocation,
        pass: LogIndex(import.pass),
        span,
        imports: imports?,
    })
}

fn unit(brought: &v1::ImportedUnit) -> Result<(Unit, Import), v1::Refused> {
    let unit = match (brought.key.is_empty(), brought.version_id.is_empty()) {
        (true, true) => Unit::Settings,
        (true, false) => return malformed(),
        (false, of_null) => {
            let Ok(key) = brought.key.parse() else {
                return malformed();
            };
            match ObjectVersionId::try_from(brought.version_id.as_ref()) {
                Ok(id) => Unit::Version(key, id),
                Err(_) if of_null => Unit::Null(key),
                Err(_) => return malformed(),
            }
        }
    };
    let content = match (&brought.content, &unit) {
        (Some(Brought::Settings(_)), Unit::Settings) => Content::Unsealed,
        (_, Unit::Settings) | (Some(Brought::Settings(_)) | None, _) => return malformed(),
        // No token names the key that metadata is sealed under: that it opens here is shown when copies are compared.
        (Some(Brought::Lock(_) | Brought::Metadata(_)), _) => Content::Unsealed,
        (Some(Brought::Gone(_)), _) => Content::Tombstone,
        (Some(Brought::Version(version)), _) => {
            let marker = version.entry.as_ref().is_some_and(|e| e.delete_marker);
            match KekId::try_from(version.kek_id.as_ref()) {
                Ok(kek) if !marker => Content::Sealed(kek),
                Err(_) if marker && version.kek_id.is_empty() => Content::Unsealed,
                _ => return malformed(),
            }
        }
    };
    let index = LogIndex(brought.index);
    Ok((unit, Import { index, content }))
}

/// Request ids of the source with their answers, if each lies within the span they are all of.
fn crossed(import: &v1::Import) -> Result<Vec<(RequestId, v1::RequestRecord)>, v1::Refused> {
    let (after, through) = match &import.span {
        Some(Asked::Requests(span)) => (span.after, span.through),
        _ if import.crossed.is_empty() => return Ok(Vec::new()),
        _ => return malformed(),
    };
    if import.crossed.len() > IMPORTS_MAX {
        return malformed();
    }
    let one = |crossed: &v1::CrossedRequest| {
        let id = RequestId::try_from(crossed.request_id.as_ref()).ok()?;
        let shape = after < crossed.index
            && crossed.index <= through
            && crossed.request_hash.len() == DIGEST_BYTES
            && v1::ShardAnswer::decode(crossed.answer.clone()).is_ok();
        let kept = v1::RequestRecord {
            request_hash: crossed.request_hash.clone(),
            answer: crossed.answer.clone(),
            ..Default::default()
        };
        shape.then_some((id, kept))
    };
    let all: Option<Vec<_>> = import.crossed.iter().map(one).collect();
    all.map_or_else(malformed, Ok)
}

/// How a batch is refused.
fn import_refused(refused: ImportRefused) -> v1::Refused {
    let at = |reason, moved_to: LogIndex| v1::Refused {
        moved_to: moved_to.0,
        ..of(reason)
    };
    match refused {
        ImportRefused::NotTaking(_) => of(v1::Refusal::NotTaking),
        ImportRefused::Malformed => of(v1::Refusal::Malformed),
        ImportRefused::Gap => of(v1::Refusal::ImportGap),
        ImportRefused::OtherPass(base) => at(v1::Refusal::OtherPass, base),
        ImportRefused::FoundEqual(fence) => at(v1::Refusal::FoundEqual, fence),
        ImportRefused::NotResealed(_) => of(v1::Refusal::NotResealed),
    }
}
