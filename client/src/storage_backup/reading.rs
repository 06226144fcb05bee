//! Pages of one dataset of a backup, opened in order.
//!
//! Owns that they are whole, as the index names them, and together a dataset: each is read by its digest, opened by the
//! region's KMS on record, and its items follow from those before. Refuses what does not come to what the index states.

use std::ops::Range;

use proto::ids::DatasetId;
use proto::storage_backup::{IndexFile, PageFile};
use proto::v1;
use proto::v1::backup_item::Item;

use super::check::{Checker, Told};
use super::folder::blocking;
use super::pages::{self, read};
use super::{Folder, Outcome, StorageBackupError, hex_id};
use crate::error::Error;
use crate::opens::{self, Ask};
use crate::region::Region;

/// Pages opened by one request: each is in memory.
pub(super) const PAGES_AT_ONCE: usize = 8;

impl Region {
    /// Opens the pages of one dataset of a backup and gives each item of it to `take`, in order. Answers how many pages there
    /// were, and refuses what does not come to what the index states.
    pub async fn open_pages(
        &self,
        folder: &Folder,
        file: &IndexFile,
        dataset: &v1::BackupDataset,
        purpose: &str,
        mut take: impl FnMut(v1::BackupItem),
    ) -> Outcome<u64> {
        let mut reading = Reading::new(self, folder, file, dataset, purpose)?;
        while let Some(items) = reading.next().await? {
            items.into_iter().for_each(&mut take);
        }
        Ok(reading.finish()?.0)
    }
}

/// Pages of one dataset, opened in order.
pub(super) struct Reading<'a> {
    region: &'a Region,
    folder: &'a Folder,
    file: &'a IndexFile,
    dataset: &'a v1::BackupDataset,
    id: DatasetId,
    claim: v1::Claim,
    at: usize,
    pub(super) checker: Checker,
    /// Versions, delete markers and parts of each page so far.
    pub(super) rows: Vec<u64>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        region: &'a Region,
        folder: &'a Folder,
        file: &'a IndexFile,
        dataset: &'a v1::BackupDataset,
        purpose: &str,
    ) -> Outcome<Self> {
        let id = DatasetId::try_from(&dataset.dataset_id[..]).map_err(Error::from)?;
        Ok(Self {
            region,
            folder,
            file,
            dataset,
            id,
            claim: v1::Claim {
                purpose: purpose.to_owned(),
                ..v1::Claim::default()
            },
            at: 0,
            checker: Checker::new(id),
            rows: Vec::new(),
        })
    }

    /// Items of the next pages; `None` after the last.
    pub(super) async fn next(&mut self) -> Outcome<Option<Vec<v1::BackupItem>>> {
        let end = self.dataset.pages.len().min(self.at + PAGES_AT_ONCE);
        if self.at == end {
            return Ok(None);
        }
        let opened = self.opened(self.at..end).await?;
        self.at = end;
        let mut all = Vec::new();
        for (page, items) in opened {
            for item in &items {
                let new = self.checker.take(item);
                new.map_err(|what| self.unsound(what))?;
                let listed = |block: &v1::BlockRef| {
                    let same = |listed: &v1::BlockRef| listed.digest.cmp(&block.digest);
                    page.header.blocks.binary_search_by(same).is_ok()
                };
                if !super::cut::blocks(item).iter().all(listed) {
                    return Err(self.unsound("a page does not list a block that its items name"));
                }
            }
            self.rows
                .push(items.iter().filter(|item| is_row(item)).count() as u64);
            all.extend(items);
        }
        Ok(Some(all))
    }

    /// Some pages, each whole, with their items: whether those follow from others is not asked.
    pub(super) async fn opened(
        &self,
        which: Range<usize>,
    ) -> Outcome<Vec<(PageFile, Vec<v1::BackupItem>)>> {
        let named = self.dataset.pages.get(which).unwrap_or_default().to_vec();
        let folder = self.folder.clone();
        let region = self.file.index.region.clone();
        let dataset = self.dataset.dataset_id.clone();
        let read = move || {
            let one = |named: &v1::BackupPage| read(&folder, &region, &dataset, named);
            named.iter().map(one).collect::<Outcome<Vec<_>>>()
        };
        let pages = blocking(read).await?;
        let ask = |page| pages::ask(page, self.region.id(), self.id);
        let asks: Vec<Ask> = pages.iter().map(ask).collect::<Result<_, _>>()?;
        let opened = opens::request(&self.region.0, self.id, self.claim.clone(), asks).await?;
        let items = pages.into_iter().zip(opened).map(|(page, opened)| {
            let items = pages::open(&page, &opened?.dek).map_err(|what| self.unsound(what))?;
            Ok::<_, StorageBackupError>((page, items))
        });
        items.collect()
    }

    pub(super) fn finish(self) -> Outcome<(u64, Told)> {
        let id = hex_id(&self.dataset.dataset_id);
        let unsound = |what| StorageBackupError::Unsound {
            dataset: id.clone(),
            what,
        };
        let told = self.checker.finish().map_err(unsound)?;
        let versions = &self.dataset.kek_versions;
        let known = told
            .kek_versions
            .iter()
            .all(|version| versions.contains(version));
        if Some(told.totals) != self.dataset.totals || !known {
            return Err(unsound("its pages say something else than its index"));
        }
        Ok((self.at as u64, told))
    }

    fn unsound(&self, what: &'static str) -> StorageBackupError {
        StorageBackupError::Unsound {
            dataset: hex_id(&self.dataset.dataset_id),
            what,
        }
    }
}

/// Whether an item is a version, a delete marker or a part.
fn is_row(item: &v1::BackupItem) -> bool {
    matches!(item.item, Some(Item::Version(_) | Item::Part(_)))
}
