//! A page of the source, cut into batches that a shard takes.
//!
//! Owns their bounds: no two versions of a key, which would stand at one log index; a number of units; encoded bytes with room
//! for what the shard's leader puts in; sealed bytes that are read of the source for it; a version in parts
//! alone. Each batch ends at a place, so that a
//! mover that dies goes on there.

use std::collections::HashSet;

use prost::Message as _;
use proto::v1;
use proto::v1::imported_unit::Content;

/// Units of one batch at most.
const UNITS_MAX: usize = 1_000;
/// Encoded bytes of one batch at most, with what is reserved.
const BYTES_MAX: usize = 900_000;
/// Sealed bytes of its versions at most, but for one that has more by itself: what is read again where a mover dies.
pub(super) const SEALED_MAX: u64 = 64 << 20;
/// What a leader puts in of every version: holder, key and the tags of both.
const LEADERS_BYTES: usize = 64;
/// And of one in blocks: what the receipts of all replicas come to.
const RECEIPTS_BYTES: usize = 1_024;

/// Units that are imported together, and the place that they end at.
#[derive(Debug, PartialEq)]
pub(super) struct Batch<T> {
    pub(super) units: Vec<v1::ImportedUnit>,
    pub(super) through: T,
}

/// Cuts a page, or changes, of which one key's may lie anywhere; the last batch ends where all of them do. After a unit that
/// has no place nothing is cut: what follows belongs to its batch, however much that is.
pub(super) fn split<T>(
    units: Vec<v1::ImportedUnit>,
    end: T,
    place: impl Fn(&v1::ImportedUnit) -> Option<T>,
) -> Vec<Batch<T>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes, mut sealed) = (Vec::<v1::ImportedUnit>::new(), 0, 0_u64);
    let mut keys = HashSet::new();
    for unit in units {
        let size = size(&unit);
        let again = is_version(&unit) && keys.contains(&unit.key);
        let reads = sealed_bytes(&unit);
        let full = batch.len() >= UNITS_MAX
            || bytes + size > BYTES_MAX
            || sealed.saturating_add(reads) > SEALED_MAX;
        let alone = is_in_parts(&unit) || batch.last().is_some_and(is_in_parts);
        if (again || full || alone)
            && let Some(through) = batch.last().and_then(&place)
        {
            let units = std::mem::take(&mut batch);
            batches.push(Batch { units, through });
            keys.clear();
            (bytes, sealed) = (0, 0);
        }
        if is_version(&unit) {
            keys.insert(unit.key.clone());
        }
        bytes += size;
        sealed = sealed.saturating_add(reads);
        batch.push(unit);
    }
    batches.push(Batch {
        units: batch,
        through: end,
    });
    batches
}

/// Where a unit of a listing stands; the dataset's settings, which come first, stand nowhere.
pub(super) fn place_of(unit: &v1::ImportedUnit) -> Option<v1::Place> {
    (!unit.key.is_empty()).then(|| v1::Place {
        key: unit.key.clone(),
        within: unit.index,
        end: false,
    })
}

fn is_version(unit: &v1::ImportedUnit) -> bool {
    matches!(unit.content, Some(Content::Version(_)))
}

/// It may take longer to bring than a lease lasts; what is sealed in one stream beside it would be too late with it.
fn is_in_parts(unit: &v1::ImportedUnit) -> bool {
    match &unit.content {
        Some(Content::Version(version)) => {
            version.entry.as_ref().is_some_and(|entry| entry.parts > 0)
        }
        _ => false,
    }
}

fn sealed_bytes(unit: &v1::ImportedUnit) -> u64 {
    match &unit.content {
        Some(Content::Version(version)) => {
            version.entry.as_ref().map_or(0, |entry| entry.sealed_bytes)
        }
        _ => 0,
    }
}

fn size(unit: &v1::ImportedUnit) -> usize {
    let added = match &unit.content {
        Some(Content::Version(version)) => {
            let entry = version.entry.as_ref();
            let blocks = entry.is_some_and(|entry| !entry.blocks.is_empty());
            // Of each part its number and id are named.
            let parts = entry.map_or(0, |entry| entry.parts as usize * 32);
            LEADERS_BYTES + parts + if blocks { RECEIPTS_BYTES } else { 0 }
        }
        _ => 0,
    };
    unit.encoded_len() + added + 8
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn version(key: &str, index: u64, bytes: usize) -> v1::ImportedUnit {
        v1::ImportedUnit {
            index,
            key: key.to_owned(),
            version_id: Bytes::copy_from_slice(&[index as u8; 16]),
            content: Some(Content::Version(v1::ImportedVersion {
                entry: Some(v1::ObjectEntry {
                    inline: vec![0; bytes].into(),
                    ..v1::ObjectEntry::default()
                }),
                ..v1::ImportedVersion::default()
            })),
        }
    }

    fn lock(key: &str, index: u64) -> v1::ImportedUnit {
        v1::ImportedUnit {
            content: Some(Content::Lock(v1::ImportedLock::default())),
            ..version(key, index, 0)
        }
    }

    fn ends(batches: &[Batch<u64>]) -> Vec<(usize, u64)> {
        let end = |batch: &Batch<u64>| (batch.units.len(), batch.through);
        batches.iter().map(end).collect()
    }

    #[test]
    fn no_batch_has_two_versions_of_a_key() {
        let page = vec![
            version("a", 3, 1),
            lock("a", 4),
            version("a", 5, 1),
            version("b", 2, 1),
        ];
        let batches = split(page.clone(), 99, |unit| Some(unit.index));
        assert_eq!(ends(&batches), [(2, 4), (2, 99)]);
        // Of changes one key's are not beside each other.
        let changes = vec![
            version("a", 1, 1),
            version("b", 2, 1),
            version("a", 3, 1),
            version("b", 4, 1),
        ];
        assert_eq!(
            ends(&split(changes, 9, |unit| Some(unit.index))),
            [(2, 2), (2, 9)]
        );
        let place = place_of(&page[0]).expect("a version stands somewhere");
        assert_eq!(
            (place.key.as_str(), place.within, place.end),
            ("a", 3, false)
        );
    }

    #[test]
    fn a_batch_is_bounded_and_one_that_is_too_large_stands_alone() {
        let page: Vec<_> = (1..=5)
            .map(|n| version(&n.to_string(), n, 400_000))
            .collect();
        assert_eq!(
            ends(&split(page.clone(), 5, |unit| Some(unit.index))),
            [(2, 2), (2, 4), (1, 5)]
        );
        assert_eq!(
            ends(&split(page, 7, |unit| Some(unit.index))),
            [(2, 2), (2, 4), (1, 7)]
        );
        let many: Vec<_> = (1..=1_001).map(|n| lock("k", n)).collect();
        assert_eq!(
            ends(&split(many, 2_000, |unit| Some(unit.index))),
            [(1_000, 1_000), (1, 2_000)]
        );
    }

    #[test]
    fn a_batch_reads_so_much_and_no_more_but_of_one_version() {
        let large = |key: &str, index, sealed_bytes| {
            let mut unit = version(key, index, 0);
            if let Some(Content::Version(version)) = &mut unit.content {
                let entry = version.entry.as_mut().expect("made with one");
                entry.sealed_bytes = sealed_bytes;
            }
            unit
        };
        let page = vec![
            large("a", 1, SEALED_MAX / 2),
            large("b", 2, SEALED_MAX / 2),
            large("c", 3, 1),
            large("d", 4, 2 * SEALED_MAX),
            large("e", 5, u64::MAX),
        ];
        assert_eq!(
            ends(&split(page, 5, |unit| Some(unit.index))),
            [(2, 2), (1, 3), (1, 4), (1, 5)]
        );
    }

    #[test]
    fn a_version_in_parts_makes_no_other_one_wait_for_it() {
        let mut parts = version("b", 2, 0);
        if let Some(Content::Version(version)) = &mut parts.content {
            version.entry.as_mut().expect("made with one").parts = 2;
        }
        let page = vec![version("a", 1, 0), parts, version("c", 3, 0), lock("c", 4)];
        assert_eq!(
            ends(&split(page, 9, |unit| Some(unit.index))),
            [(1, 1), (1, 2), (2, 9)]
        );
    }

    /// A batch that ends after the settings would end nowhere, and be refused for ever.
    #[test]
    fn a_large_first_version_comes_with_the_settings_before_it() {
        let settings = v1::ImportedUnit {
            content: Some(Content::Settings(v1::ImportedSettings::default())),
            ..version("", 0, 0)
        };
        let mut large = version("a", 1, 0);
        if let Some(Content::Version(version)) = &mut large.content {
            let entry = version.entry.as_mut().expect("made with one");
            entry.sealed_bytes = 2 * SEALED_MAX;
        }
        let page = vec![settings, large, version("b", 2, 0)];
        let end = v1::Place {
            end: true,
            ..v1::Place::default()
        };
        let batches = split(page, end.clone(), place_of);
        let ends: Vec<_> = batches
            .iter()
            .map(|b| (b.units.len(), b.through.key.as_str()))
            .collect();
        assert_eq!(ends, [(2, "a"), (1, "")]);
        assert_eq!(batches[1].through, end);
    }

    #[test]
    fn an_empty_page_is_one_batch_that_moves_the_cursor() {
        assert_eq!(
            ends(&split(Vec::new(), 7, |unit| Some(unit.index))),
            [(0, 7)]
        );
    }
}
