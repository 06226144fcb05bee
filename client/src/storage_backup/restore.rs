//! A dataset, restored from a backup into a region whose KMS has its key.
//!
//! Owns the order: every page is opened once, from the first to the last, before anything is written, so that a backup that
//! lacks something begins nothing; then the last item comes first, so that of each key the oldest version does. A batch says
//! how many items were taken before it: a restore that was killed goes on where the shard says it is. Refuses another backup
//! than the one that was approved, and one that has a token under a key version which the KMS has not.

mod batch;
mod front;

use bytes::Bytes;
use proto::ids::{DatasetId, DatasetName, GroupId, NodeId, ObjectVersionId, UploadEpoch};
use proto::storage_backup::{DIGEST_BYTES, IndexFile};
use proto::v1;
use proto::v1::backup_item::Item;
use proto::v1::restore_step_request::Step;
use proto::v1::restores_client::RestoresClient;
use proto::v1::shard_answer::Answer;
use transport::{RegionTrust, Stated};

use self::batch::Batch;
use self::front::Front;
use super::reading::{PAGES_AT_ONCE, Reading};
use super::{Folder, Outcome, RESTORE, StorageBackupError, Warrant, hex_id, signer_of};
use crate::error::Error;
use crate::operator::sha256;
use crate::region::Region;

/// How far a restore of one dataset has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Pages opened before the first was written, for whether all is there.
    pub pages: u64,
    /// Versions, delete markers and parts that there are.
    pub items: u64,
    /// That are in the shard.
    pub taken: u64,
    /// That were in it when this run began.
    pub found: u64,
    /// Blocks uploaded by this run.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
}

/// Names an index as it is: BLAKE3-256 of its file.
pub fn index_digest(file: &IndexFile) -> [u8; DIGEST_BYTES] {
    blake3::hash(&file.to_bytes()).into()
}

fn stated() -> Stated {
    Stated {
        purpose: RESTORE.to_owned(),
        ..Stated::default()
    }
}

impl Folder {
    /// Refuses a backup whose index nobody signed whom the region's CA certified for when it says to have been made.
    pub fn check_signer(&self, file: &IndexFile, trust: &RegionTrust) -> Outcome<()> {
        signer_of(&file.name(), file, trust)
    }
}

impl Region {
    /// The names of a backup's datasets, which are sealed in it: the first page of each is opened, on record.
    pub async fn names_in(
        &self,
        folder: &Folder,
        file: &IndexFile,
    ) -> Outcome<Vec<(DatasetId, DatasetName)>> {
        let mut names = Vec::new();
        for dataset in &file.index.datasets {
            let reading = Reading::new(self, folder, file, dataset, RESTORE)?;
            let first = reading.opened(0..1).await?;
            let items = first.into_iter().flat_map(|(_, items)| items);
            let record = items.into_iter().find_map(|item| match item.item {
                Some(Item::Dataset(dataset)) => dataset.record,
                _ => None,
            });
            let record =
                record.ok_or_else(|| unsound(dataset, "its first page tells no dataset"))?;
            let id = DatasetId::try_from(&dataset.dataset_id[..]).map_err(Error::from)?;
            names.push((id, record.name.parse().map_err(Error::from)?));
        }
        Ok(names)
    }

    /// Restores one dataset, or goes on with it. When it is done the dataset is read and takes no changes: see
    /// [`Self::confirm_restore`]. `progress` is told of what has been done so far.
    pub async fn restore_dataset(
        &self,
        folder: &Folder,
        file: &IndexFile,
        (warrant, id): (&Warrant, DatasetId),
        progress: impl Fn(&Restored),
    ) -> Outcome<Restored> {
        warrant.is_to(v1::RestoreWhat::Restore)?;
        warrant.is_of(file)?;
        let dataset = file
            .index
            .datasets
            .iter()
            .find(|dataset| dataset.dataset_id[..] == id.as_bytes()[..]);
        let dataset = dataset.ok_or_else(|| StorageBackupError::Warrant {
            why: format!("the backup has no dataset {id}"),
        })?;
        let mut done = Restored::default();
        let mut reading = Reading::new(self, folder, file, dataset, RESTORE)?;
        let front = Front::read(&mut reading, &mut done, &progress).await?;
        let rows = std::mem::take(&mut reading.rows);
        reading.finish()?;
        front.allowed(warrant, &id)?;
        let standing = match self.restore_standing(id).await {
            Ok(standing) if self.is_bringing(warrant, &standing) => standing,
            _ => self.begin_restore(warrant, &front, done.items).await?,
        };
        let mut restoring = Restoring {
            region: self,
            folder,
            reading: Reading::new(self, folder, file, dataset, RESTORE)?,
            place: Place::of(&standing, id, warrant.id()),
            done,
            progress: &progress,
        };
        let restore = standing.restore.unwrap_or_default();
        if restore.phase() != v1::RestorePhase::Filling {
            restoring.done.taken = restore.taken;
            restoring.done.found = restore.taken;
            return Ok(restoring.done);
        }
        restoring.done.found = restore.taken;
        restoring.done.taken = restore.taken;
        restoring.tokens(front.tokens).await?;
        restoring.rows(&rows).await?;
        restoring.step(Step::End(true)).await?;
        Ok(restoring.done)
    }

    /// Whether rows are taken from this identity already: to go on takes no warrant that still counts.
    fn is_bringing(&self, warrant: &Warrant, standing: &v1::RestoreStanding) -> bool {
        let me = sha256(self.0.local.public_key().as_spki());
        standing.restore.as_ref().is_some_and(|held| {
            held.restore_id == warrant.id() && held.restorer[..] == me && held.taken > 0
        })
    }

    async fn begin_restore(
        &self,
        warrant: &Warrant,
        front: &Front,
        items: u64,
    ) -> Outcome<v1::RestoreStanding> {
        let request = v1::BeginRestoreRequest {
            warrant: warrant.encoded(),
            dataset: Some(front.record.clone()),
            configs: front.configs.clone(),
            items,
        };
        let begun = self.restores(GroupId::CATALOG, move |mut restores| {
            let request = stated().of(request.clone());
            async move { Ok(restores.begin(request).await?.into_inner()) }
        });
        Ok(begun.await?)
    }

    /// Where a dataset's restore is.
    pub async fn restore_standing(&self, id: DatasetId) -> Result<v1::RestoreStanding, Error> {
        self.standing_of(id, Bytes::new()).await
    }

    async fn standing_of(
        &self,
        id: DatasetId,
        version_id: Bytes,
    ) -> Result<v1::RestoreStanding, Error> {
        let request = v1::FindRestoreRequest {
            dataset_id: id.into(),
            version_id,
        };
        self.restores(GroupId::CATALOG, move |mut restores| {
            let request = stated().of(request.clone());
            async move { Ok(restores.find_restore(request).await?.into_inner()) }
        })
        .await
    }

    /// Ends a restore that is not confirmed: what came goes, and the name is free.
    pub async fn abandon_restore(
        &self,
        warrant: &Warrant,
        id: DatasetId,
    ) -> Outcome<v1::RestoreStanding> {
        warrant.is_to(v1::RestoreWhat::Restore)?;
        warrant.of_dataset(&id)?;
        let request = v1::AbandonRestoreRequest {
            dataset_id: id.into(),
            restore_id: warrant.id(),
        };
        let abandoned = self.restores(GroupId::CATALOG, move |mut restores| {
            let request = stated().of(request.clone());
            async move { Ok(restores.abandon(request).await?.into_inner()) }
        });
        Ok(abandoned.await?)
    }

    /// Lets a restored dataset take changes again, by a warrant that confirms it.
    pub async fn confirm_restore(&self, warrant: &Warrant, id: DatasetId) -> Outcome<()> {
        warrant.is_to(v1::RestoreWhat::Confirm)?;
        warrant.of_dataset(&id)?;
        let standing = self.restore_standing(id).await?;
        let restore = standing.restore.clone().unwrap_or_default();
        let place = Place::of(&standing, id, restore.restore_id);
        self.restore_step(&place, Step::Confirm(warrant.encoded()))
            .await
            .map(drop)
    }

    /// Steps of a restore have effect once however often they are sent.
    async fn restore_step(&self, place: &Place, step: Step) -> Outcome<v1::Done> {
        let request = v1::RestoreStepRequest {
            shard: place.shard.0,
            dataset_id: place.dataset.into(),
            restore_id: place.restore_id.clone(),
            restorer: Bytes::new(),
            step: Some(step),
        };
        let answer = self.restores(place.shard, move |mut restores| {
            let request = stated().of(request.clone());
            async move { Ok(restores.step(request).await?.into_inner()) }
        });
        match answer.await?.answer {
            Some(Answer::Done(done)) => Ok(done),
            Some(Answer::Refused(_)) | None => Err(Error::Protocol {
                what: "a step of a restore without an answer",
            }
            .into()),
        }
    }

    async fn restores<T, F, Fut>(&self, group: GroupId, call: F) -> Result<T, Error>
    where
        F: Fn(RestoresClient<tonic::transport::Channel>) -> Fut,
        Fut: Future<Output = Result<T, tonic::Status>>,
    {
        let (nodes, tuning) = (&self.0.nodes, &self.0.tuning);
        nodes
            .on_leader(group, tuning, |_, channel| {
                call(RestoresClient::new(channel))
            })
            .await
    }
}

fn unsound(dataset: &v1::BackupDataset, what: &'static str) -> StorageBackupError {
    StorageBackupError::Unsound {
        dataset: hex_id(&dataset.dataset_id),
        what,
    }
}

/// Where a dataset is restored to.
struct Place {
    shard: GroupId,
    dataset: DatasetId,
    restore_id: Bytes,
    upload_epoch: UploadEpoch,
    replicas: Vec<NodeId>,
}

impl Place {
    fn of(standing: &v1::RestoreStanding, dataset: DatasetId, restore_id: Bytes) -> Self {
        Self {
            shard: GroupId(standing.shard),
            dataset,
            restore_id,
            upload_epoch: UploadEpoch(standing.upload_epoch),
            replicas: standing.replicas.iter().copied().map(NodeId).collect(),
        }
    }
}

/// A restore under way.
struct Restoring<'a> {
    region: &'a Region,
    folder: &'a Folder,
    reading: Reading<'a>,
    place: Place,
    done: Restored,
    progress: &'a dyn Fn(&Restored),
}

impl Restoring<'_> {
    async fn step(&mut self, step: Step) -> Outcome<()> {
        let done = self.region.restore_step(&self.place, step).await?;
        self.place.upload_epoch = UploadEpoch(done.upload_epoch);
        Ok(())
    }

    async fn bring(&mut self, batch: v1::RestoreBatch, receipts: Vec<v1::Receipts>) -> Outcome<()> {
        let batch = Some(batch);
        self.step(Step::Batch(v1::BroughtBatch { batch, receipts }))
            .await
    }

    /// All of them, whatever was brought before: one that is there stays.
    async fn tokens(&mut self, tokens: Vec<v1::RestoredToken>) -> Outcome<()> {
        for some in front::batches(tokens) {
            let batch = v1::RestoreBatch {
                from: self.done.taken,
                tokens: some,
                ..v1::RestoreBatch::default()
            };
            self.bring(batch, Vec::new()).await?;
        }
        Ok(())
    }

    /// The rows of every page, from the last one on. `rows` says how many each has.
    async fn rows(&mut self, rows: &[u64]) -> Outcome<()> {
        let first = rows.iter().position(|rows| *rows > 0);
        let first = first.unwrap_or(rows.len());
        let (mut skip, mut end) = (self.done.taken, rows.len());
        while end > first && skip >= rows[end - 1] {
            end -= 1;
            skip -= rows[end];
        }
        let mut batch = Batch::new(self.done.taken);
        let mut parts = Vec::new();
        while end > first {
            let start = end.saturating_sub(PAGES_AT_ONCE).max(first);
            let opened = self.reading.opened(start..end).await?;
            end = start;
            let pages = opened.into_iter().rev();
            for item in pages.flat_map(|(_, items)| items.into_iter().rev()) {
                let is_row = matches!(item.item, Some(Item::Version(_) | Item::Part(_)));
                if is_row && skip > 0 {
                    skip -= 1;
                    continue;
                }
                match item.item {
                    Some(Item::Part(part)) => parts.extend(part.part),
                    Some(Item::Version(version)) => {
                        let mut parts = std::mem::take(&mut parts);
                        parts.reverse();
                        self.version(&mut batch, version, parts).await?;
                    }
                    _ => {}
                }
            }
        }
        self.flush(&mut batch).await
    }

    /// Puts a version into the batch, after what has to come before it.
    async fn version(
        &mut self,
        batch: &mut Batch,
        version: v1::BackedVersion,
        parts: Vec<v1::ListedPart>,
    ) -> Outcome<()> {
        if !batch.has_room(&version, parts.len()) {
            self.flush(batch).await?;
        }
        if !parts.is_empty() {
            self.parts(&version, &parts).await?;
        }
        batch.push(version, &parts);
        Ok(())
    }

    /// Brings what the batch has, its blocks first.
    async fn flush(&mut self, batch: &mut Batch) -> Outcome<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (mut sent, through) = batch.take();
        let streams = sent.versions.iter().map(|version| {
            let entry = version.entry.clone().unwrap_or_default();
            Stream {
                id: entry.version_id,
                part_of: None,
                lease: entry.lease_id,
                blocks: entry.blocks,
            }
        });
        let receipts = self.upload(streams.collect()).await?;
        let epoch = self.place.upload_epoch.0;
        for version in &mut sent.versions {
            let entry = version.entry.as_mut();
            if let Some(entry) = entry.filter(|entry| !entry.blocks.is_empty()) {
                entry.upload_epoch = epoch;
            }
        }
        self.bring(sent, receipts).await?;
        self.done.taken = through;
        (self.progress)(&self.done);
        Ok(())
    }

    /// Brings the parts of a version that is to come, but for those that are there.
    async fn parts(
        &mut self,
        version: &v1::BackedVersion,
        parts: &[v1::ListedPart],
    ) -> Outcome<()> {
        let entry = version.entry.clone().unwrap_or_default();
        let of = self.place.dataset;
        let standing = self.region.standing_of(of, entry.version_id.clone());
        let there = standing.await?.parts;
        let missing = parts.iter().filter(|listed| {
            let number = listed.part.as_ref().map_or(0, |part| part.number);
            !there.contains(&number)
        });
        for some in batch::of_parts(missing.cloned().collect()) {
            let streams = some.iter().map(|listed| Stream {
                id: listed
                    .part
                    .as_ref()
                    .map(|part| part.part_id.clone())
                    .unwrap_or_default(),
                part_of: Some(entry.version_id.clone()),
                lease: entry.lease_id.clone(),
                blocks: listed.blocks.clone(),
            });
            let receipts = self.upload(streams.collect()).await?;
            let epoch = self.place.upload_epoch.0;
            let sent = v1::RestoreBatch {
                from: self.done.taken,
                parts: Some(batch::parts_of(version, some, epoch)),
                ..v1::RestoreBatch::default()
            };
            self.bring(sent, receipts).await?;
            (self.progress)(&self.done);
        }
        Ok(())
    }

    /// Uploads streams, some at a time; a list of receipts for each, in their order.
    async fn upload(&mut self, streams: Vec<Stream>) -> Outcome<Vec<v1::Receipts>> {
        let first = batch::uploaded(self.region, self.folder, &self.place, &streams).await;
        let receipts = match first {
            // Replicas went, or are others by now, or an epoch has passed: once more, with what is known now.
            Err(StorageBackupError::Region(error)) if error.fault().retriable() => {
                tracing::debug!(%error, "uploading again");
                let standing = self.region.restore_standing(self.place.dataset).await?;
                let restore_id = self.place.restore_id.clone();
                self.place = Place::of(&standing, self.place.dataset, restore_id);
                batch::uploaded(self.region, self.folder, &self.place, &streams).await?
            }
            other => other?,
        };
        for block in streams.iter().flat_map(|stream| &stream.blocks) {
            self.done.blocks += 1;
            self.done.block_bytes += u64::from(block.bytes);
        }
        Ok(receipts)
    }
}

/// A stream that is sealed already, and under which id its blocks are kept.
struct Stream {
    id: Bytes,
    part_of: Option<Bytes>,
    lease: Bytes,
    blocks: Vec<v1::BlockRef>,
}

impl Stream {
    fn id(&self) -> Result<ObjectVersionId, Error> {
        Ok(ObjectVersionId::try_from(&self.id[..])?)
    }
}
