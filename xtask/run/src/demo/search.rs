//! The search: every file of every service, and the memory of every storage node, for one text.
//!
//! Owns the positive controls: the same text planted in each kind of place must be found there.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use local::{Kind, Local};

use super::table::Table;

const WINDOW: usize = 4 << 20;

pub(crate) fn run(local: &Local, canary: &str, table: &mut Table) -> Result<()> {
    let needle = canary.as_bytes();
    let (mut files, mut bytes, mut hits) = (0_u64, 0_u64, Vec::new());
    for service in local.services() {
        for place in [&service.data, &service.log, &service.config] {
            walk(place, &mut |path| {
                files += 1;
                let (read, found) = in_file(path, needle)?;
                bytes += read;
                if found {
                    hits.push(path.to_owned());
                }
                Ok(())
            })?;
        }
    }
    ensure!(
        files > 20 && bytes > 1_000_000,
        "the search saw only {files} files with {bytes} bytes"
    );
    ensure!(hits.is_empty(), "the canary is in {}", hits[0].display());
    table.row(
        "canary on disks",
        format!("0 hits in {files} files, {} MB", bytes / 1_000_000),
    );

    let (mut scanned, mut nodes) = (0, 0);
    for service in local
        .services()
        .filter(|service| service.kind == Kind::Node)
    {
        let (read, found) = in_memory(service.pid, needle)?;
        ensure!(!found, "the canary is in the memory of {}", service.name);
        ensure!(
            read > 1_000_000,
            "only {read} bytes of {}'s memory could be read",
            service.name
        );
        scanned += read;
        nodes += 1;
    }
    table.row(
        "canary in node memory",
        format!(
            "0 hits in {nodes} storage nodes, {} MB",
            scanned / 1_000_000
        ),
    );
    controls(local, needle, table)
}

/// The search finds what is there: in data, in a log, across a window's edge, and in a living process's memory.
fn controls(local: &Local, needle: &[u8], table: &mut Table) -> Result<()> {
    let service = local.services().next().context("a service")?;
    let mut edge = vec![b'.'; WINDOW - needle.len() / 2];
    edge.extend_from_slice(needle);
    let planted: [(PathBuf, &[u8]); 3] = [
        (service.data.join("planted.bin"), needle),
        (service.data.join("planted-at-an-edge.bin"), &edge),
        (service.log.with_extension("planted.log"), needle),
    ];
    for (path, content) in &planted {
        std::fs::write(path, content)?;
        let found = in_file(path, needle)?.1;
        std::fs::remove_file(path)?;
        ensure!(
            found,
            "the search does not find what was planted in {}",
            path.display()
        );
    }
    // This process holds the canary: it made it.
    ensure!(
        in_memory(std::process::id(), needle)?.1,
        "the search does not find the canary in its own memory"
    );
    table.row(
        "positive controls",
        "planted in data, log and memory: found in each".to_owned(),
    );
    Ok(())
}

pub(crate) fn walk(place: &Path, visit: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
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

fn in_file(path: &Path, needle: &[u8]) -> Result<(u64, bool)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((0, false)),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let finder = memchr::memmem::Finder::new(needle);
    let (mut window, mut total) = (Vec::new(), 0);
    loop {
        let kept = window.len().min(needle.len().saturating_sub(1));
        window.drain(..window.len() - kept);
        let read = (&mut file)
            .take((WINDOW - kept) as u64)
            .read_to_end(&mut window)?;
        total += read as u64;
        if finder.find(&window).is_some() {
            return Ok((total, true));
        }
        if read == 0 {
            return Ok((total, false));
        }
    }
}

/// Looks for a text in the writable memory of a process of ours: bytes read, and whether it is there.
fn in_memory(pid: u32, needle: &[u8]) -> Result<(u64, bool)> {
    let finder = memchr::memmem::Finder::new(needle);
    let (mut total, mut found) = (0, false);
    memory(pid, needle.len(), &mut |window| {
        total += window.len() as u64;
        found = found || finder.find(window).is_some();
    })?;
    Ok((total, found))
}

/// Hands out the writable memory of a process of ours, in windows that overlap by `overlap` bytes.
pub(crate) fn memory(pid: u32, overlap: usize, visit: &mut dyn FnMut(&[u8])) -> Result<()> {
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
