//! Whether items, one after the other, are a dataset.
//!
//! Owns the order in which they come, and what they have to agree on: every version with a token for its lease, every
//! part after its version, as many versions as the shard counts. Refuses the rest: a backup that lacks something is worse
//! than none.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use prost::Message as _;
use proto::ids::DatasetId;
use proto::v1;
use proto::v1::backup_item::Item;

/// What the items of one dataset come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) record: v1::DatasetRecord,
    pub(super) totals: v1::BackupTotals,
    /// That tokens are under.
    pub(super) kek_versions: BTreeSet<u32>,
}

/// Follows items.
pub(super) struct Checker {
    dataset: DatasetId,
    record: Option<v1::DatasetRecord>,
    tokens: HashMap<Bytes, Bytes>,
    last_lease: Bytes,
    kek_versions: BTreeSet<u32>,
    totals: v1::BackupTotals,
    last: Option<Last>,
    blocks: BTreeSet<Bytes>,
}

/// The version told last.
struct Last {
    key: String,
    index: u64,
    id: Bytes,
    parts_left: u32,
    number: u32,
}

type Holds = Result<(), &'static str>;

fn holds(it: bool, otherwise: &'static str) -> Holds {
    match it {
        true => Ok(()),
        false => Err(otherwise),
    }
}

impl Checker {
    pub(super) fn new(dataset: DatasetId) -> Self {
        Self {
            dataset,
            record: None,
            tokens: HashMap::new(),
            last_lease: Bytes::new(),
            kek_versions: BTreeSet::new(),
            totals: v1::BackupTotals::default(),
            last: None,
            blocks: BTreeSet::new(),
        }
    }

    /// The token of a lease that was told.
    pub(super) fn token(&self, lease: &Bytes) -> Option<&Bytes> {
        self.tokens.get(lease)
    }

    /// The dataset's record, once it was told.
    pub(super) fn record(&self) -> Option<&v1::DatasetRecord> {
        self.record.as_ref()
    }

    /// Takes the next item; answers the blocks it names that none before it did.
    pub(super) fn take(
        &mut self,
        item: &v1::BackupItem,
    ) -> Result<Vec<v1::BlockRef>, &'static str> {
        match item.item.as_ref().ok_or("an item that is none")? {
            Item::Dataset(dataset) => self.dataset(dataset)?,
            Item::Token(token) => self.take_token(token)?,
            Item::Version(version) => self.version(version)?,
            Item::Part(part) => self.part(part)?,
        }
        let mut new = Vec::new();
        for block in super::cut::blocks(item) {
            holds(
                block.digest.len() == 32 && block.bytes > 0,
                "a block that is none",
            )?;
            if self.blocks.insert(block.digest.clone()) {
                self.totals.blocks += 1;
                self.totals.block_bytes += u64::from(block.bytes);
                new.push(block.clone());
            }
        }
        Ok(new)
    }

    fn dataset(&mut self, dataset: &v1::BackedDataset) -> Holds {
        let record = dataset
            .record
            .as_ref()
            .ok_or("a dataset without its record")?;
        holds(self.record.is_none(), "its record comes twice")?;
        holds(record.format == 1, "a record of a later build")?;
        let is_asked = record.dataset_id == self.dataset.as_bytes()[..];
        holds(is_asked, "another dataset's record")?;
        self.record = Some(record.clone());
        Ok(())
    }

    fn take_token(&mut self, told: &v1::BackedToken) -> Holds {
        let record = self.record.as_ref().ok_or("a token before the dataset")?;
        holds(self.last.is_none(), "a token after a version")?;
        holds(told.lease_id > self.last_lease, "tokens in another order")?;
        let token = told.token.as_ref().ok_or("a token that is none")?;
        let kek = kek_of(&token.token).ok_or("a token that does not decode")?;
        let agrees = kek.lease == told.lease_id
            && kek.dataset == self.dataset.as_bytes()[..]
            && kek.id == record.kek_id
            && kek.version == token.kek_version;
        holds(agrees, "a token of another lease, dataset or key")?;
        self.last_lease = told.lease_id.clone();
        self.kek_versions.insert(kek.version);
        self.totals.tokens += 1;
        self.tokens
            .insert(told.lease_id.clone(), token.token.clone());
        Ok(())
    }

    fn version(&mut self, version: &v1::BackedVersion) -> Holds {
        holds(self.record.is_some(), "a version before the dataset")?;
        let entry = version.entry.as_ref().ok_or("a version that is none")?;
        if let Some(last) = &self.last {
            holds(last.parts_left == 0, "parts of a version are missing")?;
            let follows = match version.key == last.key {
                true => entry.finished_index < last.index,
                false => version.key > last.key,
            };
            holds(follows, "versions in another order")?;
        }
        if entry.delete_marker {
            self.totals.delete_markers += 1;
        } else {
            let known = self.tokens.contains_key(&entry.lease_id);
            holds(known, "a version without a token for its lease")?;
            self.totals.versions += 1;
            self.totals.sealed_bytes += entry.sealed_bytes;
        }
        self.last = Some(Last {
            key: version.key.clone(),
            index: entry.finished_index,
            id: entry.version_id.clone(),
            parts_left: entry.parts,
            number: 0,
        });
        Ok(())
    }

    fn part(&mut self, told: &v1::BackedPart) -> Holds {
        let last = self.last.as_mut().ok_or("a part before a version")?;
        let part = told.part.as_ref().and_then(|part| part.part.as_ref());
        let part = part.ok_or("a part that is none")?;
        let follows = told.version_id == last.id && part.number > last.number;
        holds(follows && last.parts_left > 0, "a part of another version")?;
        last.number = part.number;
        last.parts_left -= 1;
        self.totals.parts += 1;
        Ok(())
    }

    /// All were told.
    pub(super) fn finish(self) -> Result<Told, &'static str> {
        let record = self.record.ok_or("nothing was told")?;
        let left = self.last.map_or(0, |last| last.parts_left);
        holds(left == 0, "parts of a version are missing")?;
        let versions = self.totals.versions + self.totals.delete_markers;
        holds(
            versions == record.versions,
            "not as many versions as its shard counts",
        )?;
        Ok(Told {
            record,
            totals: self.totals,
            kek_versions: self.kek_versions,
        })
    }
}

/// What a token's header says, which its KMS signed.
pub(super) struct Kek {
    pub(super) id: Bytes,
    pub(super) version: u32,
    pub(super) dataset: Bytes,
    pub(super) lease: Bytes,
}

/// Under which key version a token is.
pub(super) fn kek_of(token: &Bytes) -> Option<Kek> {
    let token = v1::LeaseToken::decode(token.clone()).ok()?;
    let header = v1::LeaseHeader::decode(token.header).ok()?;
    (header.format == 1).then_some(Kek {
        id: header.kek_id,
        version: header.kek_version,
        dataset: header.dataset_id,
        lease: header.lease_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATASET: DatasetId = DatasetId([0xD5; 16]);

    fn item(item: Item) -> v1::BackupItem {
        v1::BackupItem { item: Some(item) }
    }

    fn dataset(versions: u64) -> v1::BackupItem {
        let record = v1::DatasetRecord {
            format: 1,
            dataset_id: DATASET.into(),
            kek_id: vec![4; 16].into(),
            versions,
            ..Default::default()
        };
        item(Item::Dataset(v1::BackedDataset {
            record: Some(record),
            configs: Vec::new(),
        }))
    }

    fn token(lease: u8, kek_version: u32) -> v1::BackupItem {
        let header = v1::LeaseHeader {
            format: 1,
            dataset_id: DATASET.into(),
            kek_id: vec![4; 16].into(),
            kek_version,
            lease_id: vec![lease; 16].into(),
            ..Default::default()
        };
        let token = v1::LeaseToken {
            header: header.encode_to_vec().into(),
            ..Default::default()
        };
        item(Item::Token(v1::BackedToken {
            lease_id: vec![lease; 16].into(),
            token: Some(v1::TokenRecord {
                token: token.encode_to_vec().into(),
                kek_version,
                ..Default::default()
            }),
        }))
    }

    fn version(key: &str, index: u64, lease: u8, parts: u32) -> v1::BackupItem {
        item(Item::Version(v1::BackedVersion {
            key: key.to_owned(),
            entry: Some(v1::ObjectEntry {
                version_id: vec![index as u8; 16].into(),
                finished_index: index,
                lease_id: vec![lease; 16].into(),
                sealed_bytes: 10,
                parts,
                ..Default::default()
            }),
        }))
    }

    fn part(version: u8, number: u32) -> v1::BackupItem {
        item(Item::Part(v1::BackedPart {
            version_id: vec![version; 16].into(),
            part: Some(v1::ListedPart {
                part: Some(v1::PartRecord {
                    number,
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }))
    }

    fn told(items: &[v1::BackupItem]) -> Result<Told, &'static str> {
        let mut checker = Checker::new(DATASET);
        for item in items {
            checker.take(item)?;
        }
        checker.finish()
    }

    #[test]
    fn a_dataset_is_counted() {
        let told = told(&[
            dataset(3),
            token(1, 1),
            token(2, 3),
            version("a", 9, 2, 0),
            version("a", 7, 1, 2),
            part(7, 1),
            part(7, 4),
            version("b", 8, 1, 0),
        ]);
        let told = told.expect("it fits");
        let totals = told.totals;
        assert_eq!((totals.tokens, totals.versions, totals.parts), (2, 3, 2));
        assert_eq!(totals.sealed_bytes, 30);
        assert_eq!(told.kek_versions, BTreeSet::from([1, 3]));
    }

    #[test]
    fn what_is_missing_or_out_of_order_is_refused() {
        let refused = |items: &[v1::BackupItem]| told(items).expect_err("it does not fit");
        let whole = [dataset(1), token(1, 1), version("a", 9, 1, 1), part(9, 1)];
        told(&whole).expect("it fits");
        for lost in 0..whole.len() {
            let mut items = whole.to_vec();
            items.remove(lost);
            refused(&items);
            let mut items = whole.to_vec();
            items.insert(lost, whole[lost].clone());
            refused(&items);
        }
        for swapped in 1..whole.len() {
            let mut items = whole.to_vec();
            items.swap(swapped - 1, swapped);
            refused(&items);
        }
        refused(&[]);
        let order = [version("b", 9, 1, 0), version("a", 8, 1, 0)];
        refused(&[&[dataset(2), token(1, 1)][..], &order].concat());
        let order = [version("a", 8, 1, 0), version("a", 9, 1, 0)];
        refused(&[&[dataset(2), token(1, 1)][..], &order].concat());
        refused(&[dataset(1), token(1, 1), version("a", 9, 1, 1), part(8, 1)]);
        let mut checker = Checker::new(DatasetId([1; 16]));
        checker.take(&dataset(0)).expect_err("another dataset");
    }
}
