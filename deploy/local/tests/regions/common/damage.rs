//! Damage to the segment files of a storage node that runs.
//!
//! Owns what is damaged, and which blocks that takes: it reads segments by `docs/FORMATS.md` and by none of the store's
//! code. Refuses to damage what no reader could notice: padding, what was unlinked, and what was damaged before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const SECTOR_BYTES: usize = 512;
const RECORDS_AT: usize = 4096;
const UNIT_BYTES: usize = 64 << 10;
const SEGMENT_HEADER_BYTES: usize = 40;
const RECORD_HEADER_BYTES: usize = 160;
const SEGMENT_MAGIC: &[u8] = b"RDUTSEG\0";
const RECORD_MAGIC: &[u8] = b"RDUTBLK\0";
const BLOCK: u8 = 1;
/// Records at the end of a file that are left alone: they may be on their way in, and be written over.
const LAST_LEFT: usize = 2;
/// Files that are left, so that there is something to damage.
const FILES_LEFT: usize = 2;

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flip,
    FlipHeader,
    Cut,
    Remove,
}

/// One block's record.
#[derive(Debug, Clone)]
struct Record {
    path: PathBuf,
    offset: usize,
    /// Version and number.
    key: [u8; 20],
    bytes: usize,
}

/// What was done to a folder of segments.
pub(crate) struct Damage {
    dir: PathBuf,
    rng: StdRng,
    /// As each file was before anything happened to it.
    salts: BTreeMap<PathBuf, [u8; 8]>,
    hit: BTreeSet<(PathBuf, usize)>,
    headers: BTreeSet<PathBuf>,
    done: BTreeMap<&'static str, usize>,
}

impl Damage {
    pub(crate) fn to(dir: &Path, seed: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            rng: StdRng::seed_from_u64(seed),
            salts: BTreeMap::new(),
            hit: BTreeSet::new(),
            headers: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    /// Blocks whose only copy here was damaged.
    pub(crate) fn blocks(&self) -> u64 {
        self.hit.len() as u64
    }

    /// Files that are still there whose header was damaged: the node removes those of which nothing is needed.
    pub(crate) fn headers(&self) -> u64 {
        self.headers.iter().filter(|path| path.exists()).count() as u64
    }

    /// How often each kind happened.
    pub(crate) fn done(&self, kind: Kind) -> usize {
        self.done.get(name(kind)).copied().unwrap_or_default()
    }

    /// Mostly single bits; now and then a file cut short, or removed.
    pub(crate) fn any_kind(&mut self) -> Kind {
        match self.rng.random_range(0..100) {
            0..88 => Kind::Flip,
            88..92 => Kind::FlipHeader,
            92..97 => Kind::Cut,
            _ => Kind::Remove,
        }
    }

    /// Damages something of this kind, if there is something left to damage.
    pub(crate) fn one(&mut self, kind: Kind) -> Result<bool> {
        let records = self.records()?;
        let mut keys: BTreeMap<[u8; 20], usize> = BTreeMap::new();
        for record in &records {
            *keys.entry(record.key).or_default() += 1;
        }
        let happened = match kind {
            Kind::Flip => {
                let mut candidates = Vec::new();
                for path in self.files()? {
                    let of_file = records.iter().filter(|record| record.path == path);
                    let of_file: Vec<_> = of_file.collect();
                    let settled = of_file.len().saturating_sub(LAST_LEFT);
                    candidates.extend(of_file[..settled].iter().copied());
                }
                candidates.retain(|record| self.is_whole(&keys, record));
                let Some(record) = candidates.choose(&mut self.rng).copied() else {
                    return Ok(false);
                };
                let at = record.offset + self.place_in(record.bytes);
                self.flip(&record.path, at)?;
                self.hit.insert((record.path.clone(), record.offset));
                true
            }
            Kind::FlipHeader => {
                // Once each: the same bit twice would be none.
                let mut files = self.files()?;
                files.retain(|path| self.salts.contains_key(path) && !self.headers.contains(path));
                let Some(path) = files.choose(&mut self.rng).cloned() else {
                    return Ok(false);
                };
                let copy = SECTOR_BYTES * self.rng.random_range(0..2_usize);
                let at = copy + self.rng.random_range(0..SEGMENT_HEADER_BYTES);
                self.flip(&path, at)?;
                self.headers.insert(path);
                true
            }
            // Before a record: one that is being written there is lost with its header.
            Kind::Cut => {
                let Some(first) = records.choose(&mut self.rng).cloned() else {
                    return Ok(false);
                };
                for record in &records {
                    let behind = record.path == first.path && record.offset >= first.offset;
                    if behind && self.is_whole(&keys, record) {
                        self.hit.insert((record.path.clone(), record.offset));
                    }
                }
                let file = OpenOptions::new().write(true).open(&first.path)?;
                file.set_len(first.offset as u64)?;
                true
            }
            Kind::Remove => {
                let files = self.files()?;
                let Some(path) = files.choose(&mut self.rng) else {
                    return Ok(false);
                };
                if files.len() <= FILES_LEFT {
                    return Ok(false);
                }
                for record in records.iter().filter(|record| record.path == *path) {
                    if self.is_whole(&keys, record) {
                        self.hit.insert((record.path.clone(), record.offset));
                    }
                }
                fs::remove_file(path)?;
                self.salts.remove(path);
                self.headers.remove(path);
                true
            }
        };
        *self.done.entry(name(kind)).or_default() += usize::from(happened);
        Ok(happened)
    }

    /// Whether it is the only copy here and was not hit yet. Where there are two, one has taken the other's place, or
    /// is about to.
    fn is_whole(&self, keys: &BTreeMap<[u8; 20], usize>, record: &Record) -> bool {
        let at = (record.path.clone(), record.offset);
        keys.get(&record.key) == Some(&1) && !self.hit.contains(&at)
    }

    /// Somewhere in a record where every byte counts: header, checksums, data.
    fn place_in(&mut self, bytes: usize) -> usize {
        let covered = RECORD_HEADER_BYTES + 4 * bytes.div_ceil(UNIT_BYTES);
        let data_at = covered.next_multiple_of(SECTOR_BYTES);
        match self.rng.random_range(0..4) {
            0 => self.rng.random_range(0..covered),
            _ => data_at + self.rng.random_range(0..bytes),
        }
    }

    fn flip(&mut self, path: &Path, at: usize) -> Result<()> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64)
            .with_context(|| format!("byte {at} of {}", path.display()))?;
        let bit = self.rng.random_range(0..8);
        byte[0] ^= 1 << bit;
        file.write_all_at(&byte, at as u64)?;
        Ok(())
    }

    /// The segment files there are.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == "blocks") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Every block's record that has a whole header.
    fn records(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for path in self.files()? {
            let content = match fs::read(&path) {
                // Nothing of it was needed any more.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                content => content?,
            };
            if content.len() < RECORDS_AT {
                // Being made.
                continue;
            }
            let salt = match self.salts.get(&path) {
                Some(salt) => *salt,
                None => {
                    ensure!(content.starts_with(SEGMENT_MAGIC), "{}", path.display());
                    let salt: [u8; 8] = content[24..32].try_into()?;
                    self.salts.insert(path.clone(), salt);
                    salt
                }
            };
            let sectors = content.chunks_exact(SECTOR_BYTES).enumerate();
            for (sector, head) in sectors.skip(RECORDS_AT / SECTOR_BYTES) {
                if head[..8] != *RECORD_MAGIC || head[16..24] != salt || head[124] != BLOCK {
                    continue;
                }
                let mut key = [0; 20];
                key[..16].copy_from_slice(&head[24..40]);
                key[16..].copy_from_slice(&head[80..84]);
                records.push(Record {
                    path: path.clone(),
                    offset: sector * SECTOR_BYTES,
                    key,
                    bytes: u32::from_le_bytes(head[84..88].try_into()?) as usize,
                });
            }
        }
        Ok(records)
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Flip => "flip",
        Kind::FlipHeader => "flip-header",
        Kind::Cut => "cut",
        Kind::Remove => "remove",
    }
}
