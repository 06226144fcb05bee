//! Damage to files, and how it is known to be mended.
//!
//! Owns where a byte is changed: within what was written, never where nothing is. Refuses to damage what no test
//! could notice.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use local::launch;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::world::{LOOK, World};

/// How long the scrubber is waited for. What it has not read twice by then counts as not mended: it reads slowly, and
/// a region of many blocks takes it many minutes. Such a node stays the only one whose blocks may be damaged.
const MENDED_MAX: Duration = Duration::from_secs(10);
/// Rounds in which every stored block has been read since the damage: the first may have been past it.
const ROUNDS: u64 = 2;
/// What a disk loses as one.
const SECTOR_BYTES: u64 = 512;
const SECTORS: u64 = 8;
/// Places tried for one where something is written.
const TRIES: usize = 2_000;
/// Bytes on either side that are written too.
const AROUND: u64 = 8;

/// What happens to a file.
#[derive(Clone, Copy)]
pub(super) enum Damage {
    /// One bit flips.
    Bit,
    /// Some sectors read as zeros.
    Sectors,
}

/// Damages a file below `dir` whose name ends so, if there is one with something in it; says where.
pub(super) fn below(
    dir: &Path,
    extension: &str,
    damage: Damage,
    rng: &mut StdRng,
) -> Result<Option<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    let Some(path) = files.choose(rng) else {
        return Ok(None);
    };
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    // Not near the end: a last record that does not check is a torn write, and may be cut off.
    let until = used(&file)? / 4 * 3;
    for _ in 0..TRIES {
        let at = rng.random_range(0..until.max(1));
        if let Some(says) = at_offset(&file, at, damage, rng)? {
            file.sync_all()?;
            let name = path.file_name().unwrap_or_default().display();
            return Ok(Some(format!("{says} in {name}")));
        }
    }
    Ok(None)
}

/// Bytes up to the last one that is not zero: files are made longer than what is in them.
fn used(file: &File) -> Result<u64> {
    const STEP: u64 = 1 << 20;
    let mut end = file.metadata()?.len();
    let mut held = Vec::new();
    while end > 0 {
        let start = (end - 1) / STEP * STEP;
        // At most one step.
        held.resize((end - start) as usize, 0);
        file.read_exact_at(&mut held, start)?;
        if let Some(last) = held.iter().rposition(|byte| *byte != 0) {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn at_offset(file: &File, at: u64, damage: Damage, rng: &mut StdRng) -> Result<Option<String>> {
    // Surrounded by what was written: records are padded, and padding proves nothing.
    let mut around = [0; 2 * AROUND as usize + 1];
    let Some(from) = at.checked_sub(AROUND) else {
        return Ok(None);
    };
    let read = file.read_at(&mut around, from)?;
    if read < around.len() || around.contains(&0) {
        return Ok(None);
    }
    match damage {
        Damage::Bit => {
            let bit = rng.random_range(0..8);
            let byte = around[AROUND as usize] ^ (1 << bit);
            file.write_all_at(&[byte], at)?;
            Ok(Some(format!("bit {bit} of byte {at} flipped")))
        }
        Damage::Sectors => {
            let start = at / SECTOR_BYTES * SECTOR_BYTES;
            let end = (start + SECTORS * SECTOR_BYTES).min(file.metadata()?.len());
            // A few sectors.
            file.write_all_at(&vec![0; (end - start) as usize], start)?;
            Ok(Some(format!("bytes {start} to {end} lost")))
        }
    }
}

/// Waits until the scrubber of every damaged node has read everything and nothing is missing there.
pub(super) async fn mended(world: &mut World) -> Result<Vec<String>> {
    let mut says = Vec::new();
    for name in world.damaged.clone() {
        let end = Instant::now() + MENDED_MAX;
        let began = Instant::now();
        let first = rounds(world, &name).unwrap_or_default();
        loop {
            let now = rounds(world, &name).unwrap_or(first);
            // A restarted process counts from nothing.
            let seen = now.checked_sub(first).unwrap_or(now);
            if seen >= ROUNDS && missing(world, &name).await? == Some(0) {
                world.damaged.remove(&name);
                says.push(format!(
                    "blocks of {name} whole after {:?}",
                    began.elapsed()
                ));
                break;
            }
            if Instant::now() > end {
                says.push(format!("blocks of {name} not whole within {MENDED_MAX:?}"));
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(says)
}

fn rounds(world: &World, name: &str) -> Option<u64> {
    let service = world.local.federation.service(name).ok()?;
    let (_, metrics) = launch::http(&service.health, "/metrics").ok()?;
    let mut lines = metrics.lines();
    lines
        .find_map(|line| line.strip_prefix("reduit_scrub_rounds_total "))?
        .trim()
        .parse()
        .ok()
}

/// Blocks that a node says it misses; `None` while it does not answer.
async fn missing(world: &World, name: &str) -> Result<Option<u64>> {
    let claims = world.claims().await?;
    let own: Vec<_> = claims.of(world.local.federation.service(name)?).collect();
    let missing = own.iter().map(|claim| claim.missing_blocks).sum();
    Ok((!own.is_empty()).then_some(missing))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn damaged(content: &[u8], damage: Damage) -> (Option<String>, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.log");
        fs::write(&path, content).expect("room");
        fs::write(dir.path().join("other"), [1; 64]).expect("room");
        let mut rng = StdRng::seed_from_u64(7);
        let says = below(dir.path(), "log", damage, &mut rng).expect("it can be read");
        (says, fs::read(path).expect("it is there"))
    }

    #[test]
    fn one_bit_flips_where_something_is_written_and_not_at_the_end() {
        let mut content = vec![0xA5; 10_000];
        content.resize(3 << 20, 0);
        let (says, now) = damaged(&content, Damage::Bit);
        let changed: Vec<_> = (0..now.len())
            .filter(|at| now[*at] != content[*at])
            .collect();
        assert_eq!(changed.len(), 1, "{says:?}");
        assert!(changed[0] < 7_500, "{changed:?}");
        assert_eq!((now[changed[0]] ^ 0xA5).count_ones(), 1);
    }

    #[test]
    fn sectors_are_lost_whole() {
        let content = vec![0xA5; 64 << 10];
        let (says, now) = damaged(&content, Damage::Sectors);
        let lost = now.iter().filter(|byte| **byte == 0).count() as u64;
        assert_eq!(lost, SECTORS * SECTOR_BYTES, "{says:?}");
        assert_eq!(now.len(), content.len());
    }

    #[test]
    fn a_file_without_anything_in_it_is_left_alone() {
        let content = vec![0; 1 << 20];
        let (says, now) = damaged(&content, Damage::Bit);
        assert_eq!((says, now), (None, content));
    }
}
