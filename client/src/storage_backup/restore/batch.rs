//! What is brought together: versions of one batch, parts of one, and the uploads of their blocks.
//!
//! Owns the bounds of a batch, which is one entry of the shard's log, and that at most one version of a key is in it.

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use proto::ids::{LeaseId, ObjectVersionId};
use proto::v1;

use super::{Outcome, Place, Stream, stated};
use crate::error::Error;
use crate::region::Region;
use crate::storage_backup::Folder;
use crate::storage_backup::folder::blocking;
use crate::storage_backup::pages::read_block;
use crate::upload;

/// Bytes of one batch of versions or parts, besides its receipts: an entry has 1,000,000.
const BATCH_BYTES_MAX: usize = 512 << 10;
const VERSIONS_MAX: usize = 500;
const PARTS_MAX: usize = 100;
/// Streams uploaded at once: a window of blocks of each is in memory.
const UPLOADS_AT_ONCE: usize = 4;

/// Versions that are brought by the next command.
pub(super) struct Batch {
    from: u64,
    items: u64,
    bytes: usize,
    keys: BTreeSet<String>,
    versions: Vec<v1::RestoredVersion>,
}

impl Batch {
    /// What comes after so many items.
    pub(super) fn new(from: u64) -> Self {
        Self {
            from,
            items: 0,
            bytes: 0,
            keys: BTreeSet::new(),
            versions: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Whether a version may come with those that are in it. One in parts follows what was brought, and its own parts.
    pub(super) fn has_room(&self, version: &v1::BackedVersion, parts: usize) -> bool {
        self.is_empty()
            || (parts == 0
                && !self.keys.contains(&version.key)
                && self.versions.len() < VERSIONS_MAX
                && self.bytes + version.encoded_len() <= BATCH_BYTES_MAX)
    }

    pub(super) fn push(&mut self, version: v1::BackedVersion, parts: &[v1::ListedPart]) {
        self.bytes += version.encoded_len();
        self.items += 1 + parts.len() as u64;
        self.keys.insert(version.key.clone());
        let name = |listed: &v1::ListedPart| {
            let part = listed.part.as_ref()?;
            Some(v1::PartName {
                number: part.number,
                part_id: part.part_id.clone(),
            })
        };
        // Apply says where it stands; its order in the lost log stays with it.
        let entry = version.entry.map(|entry| v1::ObjectEntry {
            null_index: 0,
            changed_index: 0,
            source_index: 0,
            metadata_index: 0,
            ..entry
        });
        self.versions.push(v1::RestoredVersion {
            key: version.key,
            entry,
            receipts: Vec::new(),
            parts: parts.iter().filter_map(name).collect(),
        });
    }

    /// All of it, and how many items were taken once it was; the next batch begins there.
    pub(super) fn take(&mut self) -> (v1::RestoreBatch, u64) {
        let through = self.from + self.items;
        let taken = std::mem::replace(self, Self::new(through));
        let batch = v1::RestoreBatch {
            from: taken.from,
            versions: taken.versions,
            ..v1::RestoreBatch::default()
        };
        (batch, through)
    }
}

/// Parts in batches.
pub(super) fn of_parts(parts: Vec<v1::ListedPart>) -> Vec<Vec<v1::ListedPart>> {
    let (mut batches, mut bytes) = (Vec::<Vec<_>>::new(), 0);
    for part in parts {
        let more = part.encoded_len();
        match batches.last_mut() {
            Some(last) if last.len() < PARTS_MAX && bytes + more <= BATCH_BYTES_MAX => {
                bytes += more;
                last.push(part);
            }
            _ => {
                bytes = more;
                batches.push(vec![part]);
            }
        }
    }
    batches
}

/// Parts as they are brought: under an upload of what their version will be.
pub(super) fn parts_of(
    version: &v1::BackedVersion,
    parts: Vec<v1::ListedPart>,
    upload_epoch: u64,
) -> v1::RestoredParts {
    let entry = version.entry.clone().unwrap_or_default();
    let one = |listed: v1::ListedPart| v1::RestoredPart {
        upload_epoch: match listed.blocks.is_empty() {
            true => 0,
            false => upload_epoch,
        },
        part: listed.part,
        inline: listed.inline,
        blocks: listed.blocks,
        receipts: Vec::new(),
    };
    v1::RestoredParts {
        key: version.key.clone(),
        upload: Some(v1::UploadRecord {
            format: 1,
            version_id: entry.version_id,
            lease_id: entry.lease_id,
            dek_salt: entry.dek_salt,
            name_salt: entry.name_salt,
            placement: entry.placement,
            ..v1::UploadRecord::default()
        }),
        parts: parts.into_iter().map(one).collect(),
    }
}

/// Uploads streams, some at a time; the receipts of each, in order. One without blocks has none.
pub(super) async fn uploaded(
    region: &Region,
    folder: &Folder,
    place: &Place,
    streams: &[Stream],
) -> Outcome<Vec<v1::Receipts>> {
    stream::iter(streams)
        .map(|stream| one(region, folder, place, stream))
        .buffered(UPLOADS_AT_ONCE)
        .try_collect()
        .await
}

async fn one(
    region: &Region,
    folder: &Folder,
    place: &Place,
    stream: &Stream,
) -> Outcome<v1::Receipts> {
    if stream.blocks.is_empty() {
        return Ok(v1::Receipts::default());
    }
    let part_of = stream.part_of.as_ref();
    let part_of = part_of.map(|of| ObjectVersionId::try_from(&of[..]));
    let target = upload::Target {
        shard: place.shard,
        dataset: place.dataset,
        version: stream.id()?,
        part_of: part_of.transpose().map_err(Error::from)?,
        upload_epoch: place.upload_epoch,
        lease: LeaseId::try_from(&stream.lease[..]).map_err(Error::from)?,
        replicas: place.replicas.clone(),
        stated: stated(),
    };
    let read = |block: v1::BlockRef| {
        let folder = folder.clone();
        blocking(move || read_block(&folder, &block))
    };
    let receipts = upload::resend(region, target, &stream.blocks, read).await?;
    Ok(v1::Receipts { receipts })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn version(key: &str, inline: usize) -> v1::BackedVersion {
        v1::BackedVersion {
            key: key.to_owned(),
            entry: Some(v1::ObjectEntry {
                inline: Bytes::from(vec![7; inline]),
                null_index: 5,
                finished_index: 9,
                ..v1::ObjectEntry::default()
            }),
        }
    }

    fn part(number: u32, inline: usize) -> v1::ListedPart {
        v1::ListedPart {
            part: Some(v1::PartRecord {
                number,
                ..v1::PartRecord::default()
            }),
            inline: Bytes::from(vec![7; inline]),
            ..v1::ListedPart::default()
        }
    }

    #[test]
    fn a_batch_has_one_version_of_a_key_and_is_bounded() {
        let mut batch = Batch::new(7);
        assert!(batch.has_room(&version("a", BATCH_BYTES_MAX), 3), "alone");
        batch.push(version("a", 10), &[]);
        assert!(!batch.has_room(&version("a", 10), 0), "the same key");
        assert!(!batch.has_room(&version("b", BATCH_BYTES_MAX), 0));
        assert!(
            !batch.has_room(&version("b", 10), 1),
            "its parts come first"
        );
        assert!(batch.has_room(&version("b", 10), 0));
        batch.push(version("b", 10), &[part(1, 0), part(4, 0)]);
        let (sent, through) = batch.take();
        assert_eq!((sent.from, through, sent.versions.len()), (7, 11, 2));
        let entry = sent.versions[0].entry.clone().expect("an entry");
        assert_eq!((entry.null_index, entry.finished_index), (0, 9));
        assert_eq!(sent.versions[1].parts[1].number, 4);
        assert!(batch.is_empty() && batch.take().1 == 11);
    }

    #[test]
    fn parts_are_batched_in_order_by_number_and_bytes() {
        let parts = (1..=250).map(|number| part(number, 10)).collect();
        let batches = of_parts(parts);
        let lengths: Vec<_> = batches.iter().map(Vec::len).collect();
        assert_eq!(lengths, [100, 100, 50]);
        let large = (1..=3).map(|number| part(number, BATCH_BYTES_MAX / 2));
        assert_eq!(of_parts(large.collect()).len(), 3);
    }
}
