//! A drill: a backup, opened by the keys of the region that lives.
//!
//! Owns what is opened, and that it is on record: every page, and of the objects a sample or all, each by an open of the KMS
//! for the purpose [`DRILL`]. What opens, has the commitments that its manifest names and is as long as its entry says, a
//! restore would bring back. Refuses to ask a storage node for anything: every byte is the backup's.

use std::collections::BTreeMap;

use bytes::Bytes;
use envelope::{Manifest, ManifestPart, NameCommitment, NameSalt, OpenDek, StreamHeader, Suite};
use proto::ids::{DatasetId, ObjectKey, ObjectVersionId};
use proto::storage_backup::IndexFile;
use proto::v1;
use proto::v1::backup_item::Item;
use rand::Rng as _;

use super::check::Checker;
use super::folder::blocking;
use super::pages::read_block;
use super::reading::Reading;
use super::{DRILL, Folder, Outcome, StorageBackupError};
use crate::dataset::agree;
use crate::error::Error;
use crate::opens::{self, Ask, Opened};
use crate::region::Region;

/// Objects opened by one request.
const OBJECTS_AT_ONCE: usize = 32;

/// How many objects of a dataset are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sample {
    /// About so many of all versions, chosen at random.
    About(u64),
    /// Every version.
    All,
}

/// What a drill opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Drilled {
    /// Pages.
    pub pages: u64,
    /// Versions and delete markers that those tell of.
    pub versions: u64,
    /// Versions whose content was opened, to the end.
    pub opened: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// What did not open, or is not what it has to be.
    pub problems: Vec<String>,
}

/// A version that was chosen, and the parts that came after it.
struct Picked {
    version: v1::BackedVersion,
    parts: Vec<v1::ListedPart>,
    token: Bytes,
}

impl Picked {
    fn is(&self, version: &Bytes) -> bool {
        let entry = self.version.entry.as_ref();
        entry.is_some_and(|entry| entry.version_id == *version)
    }
}

impl Region {
    /// Opens a backup's pages, and objects out of it. `progress` is told of what has been opened so far.
    pub async fn drill(
        &self,
        folder: &Folder,
        file: &IndexFile,
        sample: Sample,
        progress: impl Fn(&Drilled),
    ) -> Outcome<Drilled> {
        let mut done = Drilled::default();
        for dataset in &file.index.datasets {
            let mut drill = Drill {
                region: self,
                folder,
                dataset: DatasetId::try_from(&dataset.dataset_id[..]).map_err(Error::from)?,
                chance: chance(sample, dataset.totals.unwrap_or_default().versions),
                picked: Vec::new(),
                done: &mut done,
                progress: &progress,
            };
            drill.dataset(file, dataset).await?;
        }
        Ok(done)
    }
}

/// With which each version is chosen, in parts of a million.
fn chance(sample: Sample, versions: u64) -> u64 {
    const ALL: u64 = 1_000_000;
    match sample {
        Sample::All => ALL,
        Sample::About(count) => (count.saturating_mul(ALL))
            .checked_div(versions)
            .map_or(ALL, |chance| chance.clamp(1, ALL)),
    }
}

struct Drill<'a> {
    region: &'a Region,
    folder: &'a Folder,
    dataset: DatasetId,
    chance: u64,
    picked: Vec<Picked>,
    done: &'a mut Drilled,
    progress: &'a dyn Fn(&Drilled),
}

impl Drill<'_> {
    async fn dataset(&mut self, file: &IndexFile, dataset: &v1::BackupDataset) -> Outcome<()> {
        let mut reading = Reading::new(self.region, self.folder, file, dataset, DRILL)?;
        loop {
            match reading.next().await {
                Ok(Some(items)) => self.pick(items, &reading.checker),
                Ok(None) => break,
                Err(error) => return self.problem(error),
            }
            // The last one's parts may be on the next page.
            while self.picked.len() > OBJECTS_AT_ONCE {
                let batch = self.picked.drain(..OBJECTS_AT_ONCE).collect();
                self.open(batch).await?;
            }
            (self.progress)(self.done);
        }
        match reading.finish() {
            Ok((pages, told)) => {
                self.done.pages += pages;
                self.done.versions += told.totals.versions + told.totals.delete_markers;
            }
            Err(error) => self.problem(error)?,
        }
        let batch = std::mem::take(&mut self.picked);
        self.open(batch).await?;
        (self.progress)(self.done);
        Ok(())
    }

    /// What is wrong with the backup is counted; what is wrong with the region, or this caller, ends the drill.
    fn problem(&mut self, error: StorageBackupError) -> Outcome<()> {
        match error {
            StorageBackupError::Damaged { .. }
            | StorageBackupError::Malformed { .. }
            | StorageBackupError::Unsound { .. }
            | StorageBackupError::Region(Error::NotAuthentic(_)) => {
                self.done.problems.push(crate::region::chain(&error));
                Ok(())
            }
            error => Err(error),
        }
    }

    fn pick(&mut self, items: Vec<v1::BackupItem>, checker: &Checker) {
        for item in items {
            match item.item {
                Some(Item::Version(version)) => {
                    let entry = version.entry.as_ref();
                    let lease = entry.filter(|entry| !entry.delete_marker);
                    let token = lease.and_then(|entry| checker.token(&entry.lease_id));
                    let Some(token) = token.filter(|_| self.is_chosen()) else {
                        continue;
                    };
                    self.picked.push(Picked {
                        token: token.clone(),
                        version,
                        parts: Vec::new(),
                    });
                }
                Some(Item::Part(part)) => {
                    let last = self.picked.last_mut();
                    if let Some(picked) = last.filter(|picked| picked.is(&part.version_id)) {
                        picked.parts.extend(part.part);
                    }
                }
                _ => {}
            }
        }
    }

    fn is_chosen(&self) -> bool {
        rand::rng().random_range(0..1_000_000) < self.chance
    }

    /// Opens objects by one recorded open and reads each to its end.
    async fn open(&mut self, batch: Vec<Picked>) -> Outcome<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let claim = v1::Claim {
            purpose: DRILL.to_owned(),
            ..v1::Claim::default()
        };
        let ask = |picked: &Picked| self.ask(picked);
        let asks: Vec<Ask> = batch.iter().map(ask).collect::<Result<_, _>>()?;
        let opened = opens::request(&self.region.0, self.dataset, claim, asks).await?;
        for (picked, opened) in batch.into_iter().zip(opened) {
            let read = match opened {
                Ok(opened) => self.read(&picked, opened).await,
                Err(error) => Err(error.into()),
            };
            match read {
                Ok(bytes) => {
                    self.done.opened += 1;
                    self.done.bytes += bytes;
                }
                Err(error) => self.problem(error)?,
            }
        }
        Ok(())
    }

    fn ask(&self, picked: &Picked) -> Result<Ask, Error> {
        let entry = picked.version.entry.clone().unwrap_or_default();
        let key: ObjectKey = picked.version.key.parse()?;
        let version = ObjectVersionId::try_from(&entry.version_id[..])?;
        let name_salt = NameSalt::try_from(&entry.name_salt[..]).map_err(|_| Error::Protocol {
            what: "a name salt of another length",
        })?;
        Ok(Ask {
            context: envelope::ObjectContext {
                suite: Suite::Cobblestone256,
                region: self.region.id().clone(),
                dataset: self.dataset,
                version,
                name: NameCommitment::of(&name_salt, &key),
            },
            token: picked.token.clone(),
            dek_salt: entry.dek_salt,
            plain_bytes: entry.plain_bytes,
        })
    }

    /// Opens every stream of a version to its end; its plaintext bytes.
    async fn read(&self, picked: &Picked, opened: Opened) -> Outcome<u64> {
        let entry = picked.version.entry.clone().unwrap_or_default();
        let manifest = opened.dek.open_manifest(&entry.sealed_manifest);
        let manifest = manifest.map_err(Error::NotAuthentic)?;
        agree(&manifest, &entry)?;
        let streams = streams(&manifest, &entry, &picked.parts)?;
        let mut dek = opened.dek;
        for (part, inline, blocks) in streams {
            dek = self.stream(dek, part, inline, blocks).await?;
        }
        Ok(manifest.plain_total())
    }

    /// One stream. Its key goes to where reading may wait, and comes back.
    async fn stream(
        &self,
        dek: OpenDek,
        part: ManifestPart,
        inline: Bytes,
        blocks: Vec<v1::BlockRef>,
    ) -> Outcome<OpenDek> {
        let folder = self.folder.clone();
        blocking(move || {
            open_stream(&folder, &dek, &part, inline, &blocks)?;
            Ok(dek)
        })
        .await
    }
}

/// What each part of the manifest lies in.
fn streams(
    manifest: &Manifest,
    entry: &v1::ObjectEntry,
    listed: &[v1::ListedPart],
) -> Result<Vec<(ManifestPart, Bytes, Vec<v1::BlockRef>)>, Error> {
    if entry.parts == 0 {
        let one = |part: &ManifestPart| (*part, entry.inline.clone(), entry.blocks.clone());
        return Ok(manifest.parts().iter().map(one).collect());
    }
    let number = |listed: &v1::ListedPart| listed.part.as_ref().map_or(0, |part| part.number);
    let listed: BTreeMap<_, _> = listed.iter().map(|part| (number(part), part)).collect();
    let one = |part: &ManifestPart| {
        let found = listed.get(&part.number.0);
        let found = found.ok_or(Error::NotAuthentic(envelope::OpenError))?;
        Ok((*part, found.inline.clone(), found.blocks.clone()))
    };
    manifest.parts().iter().map(one).collect()
}

/// Opens a stream to its end. *Blocks.*
fn open_stream(
    folder: &Folder,
    dek: &OpenDek,
    part: &ManifestPart,
    inline: Bytes,
    blocks: &[v1::BlockRef],
) -> Outcome<()> {
    let refused = || StorageBackupError::Region(Error::NotAuthentic(envelope::OpenError));
    let mut sealed = blocks.iter().map(|block| read_block(folder, block));
    let first = match blocks.is_empty() {
        true => inline,
        false => sealed.next().ok_or_else(refused)??,
    };
    let (header, rest) = StreamHeader::split(&first).map_err(|_| refused())?;
    if !part.matches(&header) {
        return Err(refused());
    }
    let opener = dek.opener(part.number, &header);
    let mut opener = opener.map_err(|_| refused())?;
    let (mut plain, mut bytes) = (Vec::new(), 0);
    let mut count = |plain: &mut Vec<u8>| {
        bytes += plain.len() as u64;
        plain.clear();
    };
    opener.update(rest, &mut plain).map_err(|_| refused())?;
    count(&mut plain);
    for block in sealed {
        opener.update(&block?, &mut plain).map_err(|_| refused())?;
        count(&mut plain);
    }
    opener.finish(&mut plain).map_err(|_| refused())?;
    count(&mut plain);
    match bytes == part.plain {
        true => Ok(()),
        false => Err(refused()),
    }
}
