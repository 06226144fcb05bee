//! One group while its records are read back.
//!
//! Owns what each record does to the group, as it did when it was accepted. Refuses what no accepted record can be:
//! a gap, a truncation beyond the end, a moved entry that is not held.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex};

use super::LogError;
use super::accepted::{Group, Location, Point, Segment};
use super::header::{GroupMeta, Purged};
use super::record::{Kind, RecordHeader, record_bytes};

/// One group while its records are read.
pub(super) struct Replayed {
    pub(super) meta: GroupMeta,
    entries: BTreeMap<u64, Location>,
}

impl Replayed {
    pub(super) fn at(meta: &GroupMeta) -> Self {
        Self {
            meta: meta.clone(),
            entries: BTreeMap::new(),
        }
    }

    pub(super) fn apply(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        at: Point,
    ) -> Result<(), &'static str> {
        let position = (header.term, header.index);
        let location = Location {
            at,
            payload_bytes: header.payload_bytes,
            term: header.term,
        };
        let last = self.meta.last.map(|(_, index)| index.0);
        let purged = self.meta.purged.as_ref().map(|purged| purged.index.0);
        match header.kind {
            Kind::Entry => {
                if last.is_some_and(|last| last + 1 != header.index.0) {
                    return Err("an entry does not follow the one before it");
                }
                self.entries.insert(header.index.0, location);
                self.meta.last = Some(position);
            }
            Kind::Moved => {
                let live = last.is_some_and(|last| header.index.0 <= last)
                    && purged.is_none_or(|purged| header.index.0 > purged);
                if !live {
                    return Err("a moved entry is not one the group holds");
                }
                self.entries.insert(header.index.0, location);
            }
            Kind::Vote => self.meta.vote = Some(Bytes::copy_from_slice(payload)),
            Kind::Committed => self.meta.committed = Some(Bytes::copy_from_slice(payload)),
            Kind::TruncateAfter => {
                if last.is_none_or(|last| header.index.0 > last) {
                    return Err("a truncation is beyond the last entry");
                }
                self.entries.split_off(&(header.index.0 + 1));
                self.meta.last = Some(position);
            }
            Kind::TruncateAll => {
                self.entries.clear();
                self.meta.last = None;
            }
            Kind::Purge => {
                self.entries = self.entries.split_off(&(header.index.0 + 1));
                if last.is_none_or(|last| last <= header.index.0) {
                    self.meta.last = Some(position);
                }
                let log_id = Bytes::copy_from_slice(payload);
                let (term, index) = position;
                self.meta.purged = Some(Purged {
                    term,
                    index,
                    log_id,
                });
            }
            Kind::Mark => {}
        }
        Ok(())
    }

    /// Checks that every entry that should be held is, and counts it in its segment.
    pub(super) fn finish(
        self,
        id: GroupId,
        segments: &mut BTreeMap<u32, Segment>,
    ) -> Result<Group, LogError> {
        let Self { meta, entries } = self;
        let purged = meta.purged.as_ref().map(|purged| purged.index);
        let last = meta
            .last
            .map(|(_, index)| index)
            .filter(|last| Some(*last) != purged);
        let hole = |index| LogError::Hole {
            group: id,
            index: LogIndex(index),
        };
        let first = match (purged, entries.keys().next()) {
            (Some(purged), _) => purged.0 + 1,
            (None, Some(first)) => *first,
            (None, None) => last.map_or(0, |last| last.0),
        };
        let mut group = Group {
            meta,
            first,
            ..Group::default()
        };
        let end = last.map_or(first, |last| last.0 + 1);
        for index in first..end {
            let location = *entries.get(&index).ok_or_else(|| hole(index))?;
            let segment = segments
                .get_mut(&location.at.segment)
                .ok_or_else(|| hole(index))?;
            segment.live += 1;
            group.bytes += u64::from(record_bytes(location.payload_bytes));
            group.entries.push_back(location);
        }
        Ok(group)
    }
}

pub(super) fn agrees(
    groups: &BTreeMap<GroupId, Replayed>,
    header: &BTreeMap<GroupId, GroupMeta>,
) -> bool {
    let empty = GroupMeta::default();
    let told = |id| header.get(id).unwrap_or(&empty);
    groups.iter().all(|(id, group)| &group.meta == told(id))
        && header
            .iter()
            .all(|(id, meta)| groups.contains_key(id) || *meta == empty)
}
