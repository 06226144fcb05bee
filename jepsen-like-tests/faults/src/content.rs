//! One file: what is on the platter, and the pages above it that are not.
//!
//! Owns which bytes a read sees, a sync keeps and a power cut leaves. Refuses order: pages reach the platter in any
//! order and sector by sector, as a device without a barrier between them would write them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rand::Rng;
use rand::rngs::StdRng;

use crate::volume::Counts;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes the device writes or loses as one.
pub const SECTOR_BYTES: usize = 512;

/// The content of one file.
pub struct Content {
    platter: File,
    platter_bytes: u64,
    bytes: u64,
    /// Below this, what is on the platter is still the file's; it was cut shorter since the last sync otherwise.
    valid: u64,
    pages: BTreeMap<u64, Page>,
}

struct Page {
    data: Box<[u8; PAGE_BYTES as usize]>,
    /// A sync that failed has given it up: readable, never written, unless it is written to anew.
    given_up: bool,
}

/// What of the unsynced survives a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// Each page, each length and each name as the seed says: kept, lost or (pages) torn.
    Mixed,
}

impl Content {
    /// The content of a file on the platter.
    pub fn new(platter: File) -> io::Result<Self> {
        let bytes = platter.metadata()?.len();
        Ok(Self {
            platter,
            platter_bytes: bytes,
            bytes,
            valid: bytes,
            pages: BTreeMap::new(),
        })
    }

    /// Length in bytes as reads see it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pages that a power cut would lose.
    pub fn unsynced_pages(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Up to `length` bytes from `offset`; fewer at the end of the file.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(length as u64).min(self.bytes);
        if offset >= end {
            return Ok(Vec::new());
        }
        let mut out = vec![0; (end - offset) as usize];
        let below = self.valid.min(end);
        if offset < below {
            let held = &mut out[..(below - offset) as usize];
            self.platter.read_exact_at(held, offset)?;
        }
        for (number, page) in self
            .pages
            .range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES))
        {
            let start = number * PAGE_BYTES;
            let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES));
            if from < to {
                // Differences of offsets within one read or one page: they fit.
                let source = &page.data[(from - start) as usize..(to - start) as usize];
                out[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        Ok(out)
    }

    /// Writes `data` at `offset` into the cache.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let number = at / PAGE_BYTES;
            let start = number * PAGE_BYTES;
            let to = end.min(start + PAGE_BYTES);
            let page = self.page(number)?;
            page.given_up = false;
            page.data[(at - start) as usize..(to - start) as usize]
                .copy_from_slice(&data[(at - offset) as usize..(to - offset) as usize]);
            at = to;
        }
        self.bytes = self.bytes.max(end);
        Ok(())
    }

    /// Makes a stretch read as zeros; the length stays.
    pub fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length).min(self.bytes);
        let zeros = [0; PAGE_BYTES as usize];
        let mut at = offset;
        while at < end {
            let to = end.min((at / PAGE_BYTES + 1) * PAGE_BYTES);
            self.write(at, &zeros[..(to - at) as usize])?;
            at = to;
        }
        Ok(())
    }

    /// Cuts the file short or extends it with zeros, in the cache.
    pub fn resize(&mut self, bytes: u64) -> io::Result<()> {
        if bytes < self.bytes {
            self.valid = self.valid.min(bytes);
            self.pages.split_off(&bytes.div_ceil(PAGE_BYTES));
            // The rest of the last page must read as zeros if the file grows again.
            let within = (bytes % PAGE_BYTES) as usize;
            if within > 0 && self.pages.contains_key(&(bytes / PAGE_BYTES)) {
                self.page(bytes / PAGE_BYTES)?.data[within..].fill(0);
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    fn page(&mut self, number: u64) -> io::Result<&mut Page> {
        if !self.pages.contains_key(&number) {
            let mut data = Box::new([0; PAGE_BYTES as usize]);
            let held = self.read(number * PAGE_BYTES, PAGE_BYTES as usize)?;
            data[..held.len()].copy_from_slice(&held);
            let page = Page {
                data,
                given_up: false,
            };
            self.pages.insert(number, page);
        }
        self.pages
            .get_mut(&number)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Brings everything to the platter.
    pub fn sync(&mut self) -> io::Result<()> {
        self.sync_length()?;
        let bytes = self.bytes;
        let mut given_up = BTreeMap::new();
        for (number, page) in std::mem::take(&mut self.pages) {
            if page.given_up {
                given_up.insert(number, page);
                continue;
            }
            let start = number * PAGE_BYTES;
            let length = bytes.saturating_sub(start).min(PAGE_BYTES) as usize;
            self.platter.write_all_at(&page.data[..length], start)?;
        }
        self.pages = given_up;
        Ok(())
    }

    /// Brings the length alone to the platter: what was cut off is gone, what was added reads as zeros.
    fn sync_length(&mut self) -> io::Result<()> {
        if self.valid < self.platter_bytes {
            self.platter.set_len(self.valid)?;
        }
        self.platter.set_len(self.bytes)?;
        (self.platter_bytes, self.valid) = (self.bytes, self.bytes);
        Ok(())
    }

    /// What the kernel does after a failed write-back: the pages stay readable and count as clean.
    pub fn give_up(&mut self) {
        for page in self.pages.values_mut() {
            page.given_up = true;
        }
    }

    /// The power goes: of what was not synced that much survives.
    pub fn cut(
        &mut self,
        survival: Survival,
        rng: &mut StdRng,
        counts: &mut Counts,
    ) -> io::Result<()> {
        let bytes = self.bytes;
        if survival == Survival::Mixed && rng.random() {
            self.sync_length()?;
        }
        for (number, page) in std::mem::take(&mut self.pages) {
            let start = number * PAGE_BYTES;
            let length = bytes.saturating_sub(start).min(PAGE_BYTES) as usize;
            let fate = match survival {
                Survival::Nothing => 0,
                Survival::Mixed => rng.random_range(0..3),
            };
            let keep = match fate {
                _ if page.given_up => 0,
                1 => length,
                2 => (rng.random_range(0..PAGE_BYTES as usize) / SECTOR_BYTES * SECTOR_BYTES)
                    .min(length),
                _ => 0,
            };
            match keep {
                0 => counts.pages_lost += 1,
                keep if keep == length => counts.pages_kept += 1,
                _ => counts.pages_torn += 1,
            }
            if keep > 0 {
                self.platter.write_all_at(&page.data[..keep], start)?;
            }
        }
        self.platter_bytes = self.platter.metadata()?.len();
        (self.bytes, self.valid) = (self.platter_bytes, self.platter_bytes);
        Ok(())
    }
}
