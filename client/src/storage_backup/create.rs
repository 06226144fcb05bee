//! A backup, made.
//!
//! Owns the order: the catalog is listed; of each dataset its shard tells everything as of one log index, which is sealed
//! into pages; the blocks that those name are copied; the KMS is backed up, so that every key version of what was told is
//! in it; the index comes last. A block that is gone by the time it is asked for was of a version that was deleted
//! meanwhile: the dataset is told once more, as of a later index, and what was copied is not copied again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use proto::ids::{BackupId, DatasetId, DatasetName, UnixMs};
use proto::storage_backup::{DIGEST_BYTES, IndexFile, Kind, LABEL_INDEX};
use proto::v1;
use proto::v1::backup_item::Item;
use proto::v1::backups_client::BackupsClient;
use transport::Stated;

use super::check::{Checker, Told};
use super::cut::Cutter;
use super::folder::{Lock, blocking};
use super::pages::{Plain, Tags};
use super::{BACKUP, Folder, Outcome, StorageBackupError, hex_id, signed_by};
use crate::backup::Held;
use crate::dataset::{Dataset, GetOptions};
use crate::download::{Found, Stored, whole_block};
use crate::error::Error;
use crate::kms::now;
use crate::lease::SealLease;
use crate::region::{Region, random};

/// How often a dataset is told before blocks that are not to be had count as lost.
const ROUNDS: u32 = 5;
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Blocks on their way at once: each is in memory.
const BLOCKS_IN_FLIGHT: usize = 4;
const LEASE_SECONDS: u32 = 3600;
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// How long the shard may tell nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const DATASETS_PAGE: u32 = 500;

/// What is to be in a backup.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// These datasets; none named means all that the region shows.
    pub datasets: Vec<DatasetName>,
    /// Of all, not these.
    pub except: Vec<DatasetName>,
}

/// What was written, and what was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Pages sealed.
    pub pages: u64,
    /// Their bytes.
    pub page_bytes: u64,
    /// Pages that an earlier backup had.
    pub pages_there: u64,
    /// Blocks copied.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Blocks that were there.
    pub blocks_there: u64,
    /// Times that a dataset was told anew.
    pub again: u64,
}

/// A backup that is whole.
pub struct Created {
    /// What it says.
    pub file: IndexFile,
    /// Names of its datasets: they are sealed in it.
    pub names: BTreeMap<DatasetId, DatasetName>,
    /// What was written for it.
    pub copied: Copied,
}

impl Region {
    /// Backs up datasets into a folder, as an identity that holds leases and may list and seal for [`BACKUP`]. `operator`
    /// is the same region as seen by an operator, who backs up its KMS at the end; without one the backup has none, and
    /// who restores needs one that was taken later. `progress` is told of what has been written so far.
    pub async fn back_up(
        &self,
        folder: &Folder,
        wanted: &Wanted,
        operator: Option<&Region>,
        progress: impl Fn(&Copied),
    ) -> Outcome<Created> {
        let locked = folder.clone();
        let lock = blocking(move || locked.lock()).await?;
        let made = self.make(folder, &lock, wanted, operator, progress).await;
        blocking(move || {
            lock.release();
            made
        })
        .await
    }

    async fn make(
        &self,
        folder: &Folder,
        lock: &Lock,
        wanted: &Wanted,
        operator: Option<&Region>,
        progress: impl Fn(&Copied),
    ) -> Outcome<Created> {
        let id = BackupId(random().map_err(StorageBackupError::from)?);
        let begun = now();
        let (catalog_index, datasets) = self.wanted_datasets(wanted).await?;
        let mut making = Making {
            region: self.clone(),
            folder: folder.clone(),
            known: self.known_pages(folder).await?,
            copied: Copied::default(),
            progress: &progress,
        };
        let mut backed = Vec::new();
        for dataset in &datasets {
            backed.push(making.dataset(dataset).await?);
        }
        backed.sort_by(|a, b| a.dataset_id.cmp(&b.dataset_id));
        let kms = match operator {
            Some(operator) => Some(back_up_kms(operator, folder, &id).await?),
            None => None,
        };
        if let Some(kms) = &kms {
            for dataset in &backed {
                holds_keys(kms, dataset)?;
            }
        }
        let index = v1::BackupIndex {
            format: 1,
            backup_id: id.into(),
            region: self.id().to_string(),
            signer: self.identity().to_string(),
            begun_ms: begun.0,
            ended_ms: UnixMs(now().0.max(begun.0)).0,
            catalog_index,
            datasets: backed,
            kms,
        };
        let file = self.signed(index);
        let (name, bytes, kept) = (file.name(), file.to_bytes(), folder.clone());
        // Who else had the folder may have removed what this one found in it.
        lock.is_held()?;
        blocking(move || {
            // What it names first.
            kept.settle()?;
            kept.write(&name, &bytes.into())?;
            kept.settle()
        })
        .await?;
        let named = |dataset: &Dataset| (dataset.id(), dataset.name().clone());
        Ok(Created {
            file,
            names: datasets.iter().map(named).collect(),
            copied: making.copied,
        })
    }

    fn signed(&self, index: v1::BackupIndex) -> IndexFile {
        let local = &self.0.local;
        let signature = local.sign(LABEL_INDEX, &IndexFile::signed(&index));
        IndexFile {
            signature: v1::BackupSignature {
                certificate: local.certificate().into(),
                signature: Bytes::copy_from_slice(&signature),
            },
            index,
        }
    }

    /// Pages by tag, of backups that this identity made. Who else can write into the folder names none.
    async fn known_pages(&self, folder: &Folder) -> Outcome<HashMap<Bytes, v1::BackupPage>> {
        let (folder, key) = (folder.clone(), self.0.local.public_key());
        let region = self.id().to_string();
        blocking(move || {
            let mut known = HashMap::new();
            for file in folder.readable_backups()? {
                if file.index.region == region && signed_by(&file, &key) {
                    let pages = file.index.datasets.into_iter().flat_map(|one| one.pages);
                    known.extend(pages.map(|page| (page.tag.clone(), page)));
                }
            }
            Ok(known)
        })
        .await
    }

    /// The catalog's log index where all datasets are wanted, and the datasets.
    async fn wanted_datasets(&self, wanted: &Wanted) -> Outcome<(u64, Vec<Dataset>)> {
        let (index, names) = match wanted.datasets.is_empty() {
            true => self.all_datasets().await?,
            false => (0, wanted.datasets.clone()),
        };
        let names: BTreeSet<_> = names.into_iter().collect();
        let options = GetOptions {
            purpose: BACKUP.to_owned(),
            ..GetOptions::default()
        };
        let mut datasets = Vec::new();
        for name in names {
            if !wanted.except.contains(&name) {
                datasets.push(self.dataset_for(&name, &options).await?);
            }
        }
        Ok((index, datasets))
    }

    async fn all_datasets(&self) -> Result<(u64, Vec<DatasetName>), Error> {
        let (mut index, mut names, mut start_after) = (0, Vec::new(), String::new());
        loop {
            let request = v1::ListDatasetsRequest {
                start_after: start_after.clone(),
                limit: DATASETS_PAGE,
            };
            let page = self
                .catalog(move |mut catalog| {
                    let request = stated().of(request.clone());
                    async move { Ok(catalog.list_datasets(request).await?.into_inner()) }
                })
                .await?;
            if index == 0 {
                index = page.at_index;
            }
            for record in page.datasets {
                names.push(record.name.parse()?);
            }
            match page.truncated {
                true => start_after = page.next_start_after,
                false => return Ok((index, names)),
            }
        }
    }
}

fn stated() -> Stated {
    Stated {
        purpose: BACKUP.to_owned(),
        ..Stated::default()
    }
}

/// A backup under way.
struct Making<'a> {
    region: Region,
    folder: Folder,
    known: HashMap<Bytes, v1::BackupPage>,
    copied: Copied,
    progress: &'a dyn Fn(&Copied),
}

/// A block that has to be copied: under whose id and number nodes have it.
struct Wanting {
    id: Bytes,
    number: usize,
    block: v1::BlockRef,
}

/// A dataset as of one log index.
struct Snapshot {
    at_index: u64,
    pages: Vec<v1::BackupPage>,
    wanting: Vec<Wanting>,
    told: Told,
}

impl Making<'_> {
    async fn dataset(&mut self, dataset: &Dataset) -> Outcome<v1::BackupDataset> {
        let (mut rounds, mut missed) = (0, BTreeSet::new());
        loop {
            rounds += 1;
            let snapshot = match self.snapshot(dataset).await {
                Ok(snapshot) => snapshot,
                // A leader that went, a stream that was cut: its pages were of one moment, and so are the next ones.
                Err(StorageBackupError::Region(error))
                    if rounds < ROUNDS && error.fault().retriable() =>
                {
                    tracing::debug!(%error, "the dataset is told anew");
                    self.copied.again += 1;
                    tokio::time::sleep(ROUND_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let gone = self.copy(dataset, &snapshot).await?;
            let Some((_, source)) = gone.iter().next() else {
                return Ok(backed(dataset, snapshot));
            };
            // Named again by a later moment, it is no deleted version's.
            let still: Vec<_> = gone
                .keys()
                .filter(|digest| missed.contains(*digest))
                .collect();
            if !still.is_empty() || rounds >= ROUNDS {
                return Err(StorageBackupError::Missing {
                    dataset: dataset.id().to_string(),
                    blocks: still.len().max(1),
                    source: Error::Damaged {
                        message: source.clone(),
                    },
                });
            }
            missed.extend(gone.into_keys());
            self.copied.again += 1;
        }
    }

    /// Everything as of one moment: pages are written, blocks are not.
    async fn snapshot(&mut self, dataset: &Dataset) -> Outcome<Snapshot> {
        let claim = v1::Claim {
            purpose: BACKUP.to_owned(),
            ..v1::Claim::default()
        };
        let keys = self.region.keys();
        let mut lease =
            SealLease::request(keys, dataset.id(), (claim.clone(), 0), LEASE_SECONDS).await?;
        let mut replies = self.replies(dataset, &lease).await?;
        let tags = Tags::of(&keys.local, &dataset.id());
        let (mut cutter, mut checker) = (Cutter::default(), Checker::new(dataset.id()));
        let (mut pages, mut wanting, mut at_index) = (Vec::new(), Vec::new(), None);
        loop {
            let reply = tokio::time::timeout(SILENCE_MAX, replies.message()).await;
            let late = |_| tonic::Status::unavailable("the shard tells nothing any more");
            let reply = reply.map_err(late).and_then(|reply| reply);
            let reply = reply.map_err(|status| Error::from_status(&status))?;
            let cut = Error::Unavailable {
                reason: "cut-off".to_owned(),
                message: "the shard stopped in the middle".to_owned(),
            };
            let reply = reply.ok_or(cut)?;
            if *at_index.get_or_insert(reply.at_index) != reply.at_index {
                return Err(unsound(dataset, "it is told of two moments"));
            }
            let mut closed = Vec::new();
            for item in reply.items {
                let new = checker.take(&item).map_err(|what| unsound(dataset, what))?;
                wanting.extend(located(&item, new));
                closed.extend(cutter.push(item));
            }
            if reply.end {
                closed.extend(std::mem::take(&mut cutter).finish());
            }
            for page in closed {
                if !lease.fresh(now()) {
                    lease = SealLease::request(
                        self.region.keys(),
                        dataset.id(),
                        (claim.clone(), 0),
                        LEASE_SECONDS,
                    )
                    .await?;
                }
                let record = checker.record();
                let kek_version_min = record.map_or(0, |record| record.min_kek_version);
                let page = Plain::of(page, &tags);
                pages.push(self.page(dataset, page, &lease, kek_version_min).await?);
            }
            if reply.end {
                break;
            }
        }
        Ok(Snapshot {
            at_index: at_index.unwrap_or_default(),
            pages,
            wanting,
            told: checker.finish().map_err(|what| unsound(dataset, what))?,
        })
    }

    async fn replies(
        &self,
        dataset: &Dataset,
        lease: &SealLease,
    ) -> Result<tonic::Streaming<v1::ReadBackupReply>, Error> {
        let request = v1::ReadBackupRequest {
            shard: dataset.shard().0,
            dataset_id: dataset.id().into(),
            token: lease.token.clone(),
        };
        let region = &self.region.0;
        region
            .nodes
            .on_leader(dataset.shard(), &region.tuning, |_, channel| {
                let client = BackupsClient::new(channel);
                let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
                let request = stated().of(request.clone());
                async move { Ok(client.read_dataset(request).await?.into_inner()) }
            })
            .await
    }

    /// A page that is there already, under a key version that has not ended, or this one, sealed.
    async fn page(
        &mut self,
        dataset: &Dataset,
        page: Plain,
        lease: &SealLease,
        kek_version_min: u32,
    ) -> Outcome<v1::BackupPage> {
        let known = self.known.get(&page.tag[..]);
        let usable = known.filter(|known| {
            let name = Kind::Page.name(&digest_of(&known.digest));
            known.kek_version >= kek_version_min && self.folder.length(&name) == Some(known.bytes)
        });
        if let Some(known) = usable {
            self.copied.pages_there += 1;
            return Ok(known.clone());
        }
        let sealed = page.seal(lease, self.region.id(), dataset.id())?;
        let kek = super::check::kek_of(&lease.token);
        let kek = kek.ok_or_else(|| unsound(dataset, "a lease's token does not decode"))?;
        let bytes = Bytes::from(sealed.to_bytes());
        let digest: [u8; DIGEST_BYTES] = blake3::hash(&bytes).into();
        let named = v1::BackupPage {
            digest: Bytes::copy_from_slice(&digest),
            bytes: bytes.len() as u64,
            tag: Bytes::copy_from_slice(&page.tag),
            kek_version: kek.version,
        };
        self.folder.put(Kind::Page.name(&digest), bytes).await?;
        self.copied.pages += 1;
        self.copied.page_bytes += named.bytes;
        (self.progress)(&self.copied);
        self.known.insert(named.tag.clone(), named.clone());
        Ok(named)
    }

    /// Copies what is not there; answers what no replica has, and why.
    async fn copy(
        &mut self,
        dataset: &Dataset,
        snapshot: &Snapshot,
    ) -> Outcome<BTreeMap<Bytes, String>> {
        let found = Arc::new(Found {
            dataset: dataset.clone(),
            key: proto::storage_backup::PAGE_KEY
                .parse()
                .map_err(Error::from)?,
            entry: v1::ObjectEntry::default(),
            token: Bytes::new(),
            replicas: dataset.replicas().await?,
            options: GetOptions {
                purpose: BACKUP.to_owned(),
                ..GetOptions::default()
            },
            arriving: None,
        });
        let is_there = |wanting: &&Wanting| {
            let name = Kind::Block.name(&digest_of(&wanting.block.digest));
            self.folder.length(&name) == Some(u64::from(wanting.block.bytes))
        };
        let all = snapshot.wanting.iter();
        let (there, missing): (Vec<_>, Vec<_>) = all.partition(is_there);
        self.copied.blocks_there += there.len() as u64;
        let folder = self.folder.clone();
        let copies = stream::iter(missing).map(|wanting| {
            let (found, folder) = (found.clone(), folder.clone());
            async move { (wanting, copy_block(&found, &folder, wanting).await) }
        });
        let mut copies = copies.buffer_unordered(BLOCKS_IN_FLIGHT);
        let mut gone = BTreeMap::new();
        while let Some((wanting, copied)) = copies.next().await {
            match copied {
                Ok(()) => {
                    self.copied.blocks += 1;
                    self.copied.block_bytes += u64::from(wanting.block.bytes);
                    (self.progress)(&self.copied);
                }
                Err(StorageBackupError::Region(Error::Damaged { message })) => {
                    gone.insert(wanting.block.digest.clone(), message);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }
}

async fn copy_block(found: &Found, folder: &Folder, wanting: &Wanting) -> Outcome<()> {
    let stored = Stored {
        id: &wanting.id,
        number: wanting.number,
        block: &wanting.block,
    };
    let bytes = whole_block(found, stored).await?;
    let name = Kind::Block.name(&digest_of(&wanting.block.digest));
    folder.put(name, bytes).await
}

/// Where the blocks of an item are that are new.
fn located(item: &v1::BackupItem, new: Vec<v1::BlockRef>) -> Vec<Wanting> {
    let (id, blocks) = match &item.item {
        Some(Item::Version(version)) => {
            let entry = version.entry.as_ref();
            entry.map_or((None, &[][..]), |entry| {
                (Some(&entry.version_id), &entry.blocks[..])
            })
        }
        Some(Item::Part(part)) => {
            let listed = part.part.as_ref();
            let id = listed.and_then(|listed| listed.part.as_ref());
            let blocks = listed.map_or(&[][..], |listed| &listed.blocks[..]);
            (id.map(|part| &part.part_id), blocks)
        }
        _ => (None, &[][..]),
    };
    let place = |block: v1::BlockRef| {
        let number = blocks.iter().position(|one| one.digest == block.digest)?;
        Some(Wanting {
            id: id?.clone(),
            number,
            block,
        })
    };
    new.into_iter().filter_map(place).collect()
}

fn backed(dataset: &Dataset, snapshot: Snapshot) -> v1::BackupDataset {
    let told = snapshot.told;
    let mut kek_versions = told.kek_versions;
    kek_versions.extend(snapshot.pages.iter().map(|page| page.kek_version));
    v1::BackupDataset {
        dataset_id: dataset.id().into(),
        shard: dataset.shard().0,
        at_index: snapshot.at_index,
        kek_id: told.record.kek_id,
        kek_versions: kek_versions.into_iter().collect(),
        pages: snapshot.pages,
        totals: Some(told.totals),
        uploads: told.record.uploads,
    }
}

/// Backs up the KMS after everything else, and states which key versions are in it for certain: those that were there
/// before it was begun and are there after it was confirmed, since an ended one never comes back.
async fn back_up_kms(operator: &Region, folder: &Folder, id: &BackupId) -> Outcome<v1::BackupKms> {
    let (place, id) = (folder.clone(), *id);
    let incoming = blocking(move || place.incoming(&id)).await?;
    let before = versions(operator.keys().inventory().await?);
    let held: Held = operator.backup_kms(&incoming, |_| ()).await?;
    let after = versions(operator.keys().inventory().await?);
    let name = Kind::Kms.name(&digest_of(&held.backup.digest));
    let kept = folder.clone();
    blocking(move || kept.take(&incoming, &name)).await?;
    let both = |((dataset, kek), versions): (&(Bytes, Bytes), &BTreeSet<u32>)| {
        let after = after.get(&(dataset.clone(), kek.clone()))?;
        Some(v1::BackupKey {
            dataset_id: dataset.clone(),
            kek_id: kek.clone(),
            versions: versions.intersection(after).copied().collect(),
        })
    };
    Ok(v1::BackupKms {
        keys: before.iter().filter_map(both).collect(),
        record: Some(held.backup),
        confirmed_leaf: held.confirmed_leaf,
    })
}

type Versions = BTreeMap<(Bytes, Bytes), BTreeSet<u32>>;

fn versions(keys: Vec<v1::KeyInfo>) -> Versions {
    let mut all = Versions::new();
    for info in keys {
        let Some(key) = info.key else { continue };
        if key.state() == v1::KeyState::Destroyed {
            continue;
        }
        let living = key.versions.iter().map(|version| version.version);
        let living = living.filter(|version| *version >= info.oldest_version);
        all.insert((key.dataset_id, key.kek_id), living.collect());
    }
    all
}

/// Refuses a dataset with a token under a key version that may not be in the KMS's backup.
pub(super) fn holds_keys(kms: &v1::BackupKms, dataset: &v1::BackupDataset) -> Outcome<()> {
    let key = kms
        .keys
        .iter()
        .find(|key| key.dataset_id == dataset.dataset_id && key.kek_id == dataset.kek_id);
    let all = key.is_some_and(|key| {
        let has = |version: &u32| key.versions.contains(version);
        dataset.kek_versions.iter().all(has)
    });
    match all {
        true => Ok(()),
        false => Err(StorageBackupError::KeyEnded {
            dataset: hex_id(&dataset.dataset_id),
        }),
    }
}

fn unsound(dataset: &Dataset, what: &'static str) -> StorageBackupError {
    StorageBackupError::Unsound {
        dataset: dataset.id().to_string(),
        what,
    }
}

/// A digest that was checked to be one.
pub(super) fn digest_of(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    bytes.try_into().unwrap_or_default()
}
