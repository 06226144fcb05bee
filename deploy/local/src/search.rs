//! The search of a region's disks and of its processes' memory.
//!
//! Owns how files and memory are read whole, in windows that overlap so that nothing hides at an edge. Refuses to judge
//! what is found.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Bytes looked at as one.
pub const WINDOW: usize = 4 << 20;

/// Visits every file below `place`, or `place` itself.
pub fn walk(place: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    if place.is_file() {
        return visit(place);
    }
    for entry in std::fs::read_dir(place).with_context(|| format!("reading {}", place.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            // A folder that vanishes while a living store is walked held nothing that stays.
            if path.exists() {
                walk(&path, visit)
                    .or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?;
            }
        } else if path.is_file() {
            visit(&path)?;
        }
    }
    Ok(())
}

/// Hands out a file in windows that overlap by `overlap` bytes. One that a living store has removed meanwhile holds
/// nothing any more.
pub fn file(path: &Path, overlap: usize, visit: &mut dyn FnMut(&[u8])) -> Result<u64> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let (mut window, mut total) = (Vec::new(), 0);
    loop {
        let kept = window.len().min(overlap);
        window.drain(..window.len() - kept);
        let read = (&mut file)
            .take((WINDOW - kept) as u64)
            .read_to_end(&mut window)?;
        total += read as u64;
        if read == 0 {
            return Ok(total);
        }
        visit(&window);
    }
}

/// Hands out the writable memory of a process of ours, in windows that overlap by `overlap` bytes.
pub fn memory(pid: u32, overlap: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))
        .with_context(|| format!("process {pid} has no memory to read"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))
        .with_context(|| format!("memory of process {pid}"))?;
    let mut window = vec![0; WINDOW + overlap];
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (Some(range), Some(mode)) = (fields.next(), fields.next()) else {
            continue;
        };
        if !mode.starts_with("rw") {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else {
            continue;
        };
        let (mut at, end) = (
            u64::from_str_radix(start, 16)?,
            u64::from_str_radix(end, 16)?,
        );
        while at < end {
            let want = window.len().min((end - at) as usize);
            // Pages that cannot be read (guard pages, memory given back meanwhile) hold nothing for us.
            let Ok(read) = memory.read_at(&mut window[..want], at) else {
                break;
            };
            if read == 0 {
                break;
            }
            visit(&window[..read]);
            // The next window starts early enough to see what lies across the edge.
            at += if read == want && want > overlap && at + (read as u64) < end {
                (read - overlap) as u64
            } else {
                read as u64
            };
        }
    }
    Ok(())
}
