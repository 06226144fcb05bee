//! The search: every file of every service, and the memory of every storage node, for one text.
//!
//! Owns the positive controls: the same text planted in each kind of place must be found there.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use local::search::{self, WINDOW};
use local::{Kind, Local};

use super::table::Table;

pub(crate) fn run(local: &Local, canary: &str, table: &mut Table) -> Result<()> {
    let needle = canary.as_bytes();
    let (mut files, mut bytes, mut hits) = (0_u64, 0_u64, Vec::new());
    for service in local.services() {
        for place in [&service.data, &service.log, &service.config] {
            search::walk(place, &mut |path| {
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

/// Looks for a text in a file: bytes read, and whether it is there.
fn in_file(path: &Path, needle: &[u8]) -> Result<(u64, bool)> {
    let (finder, mut found) = (memchr::memmem::Finder::new(needle), false);
    let read = search::file(path, needle.len(), &mut |window| {
        found = found || finder.find(window).is_some();
    })?;
    Ok((read, found))
}

/// Looks for a text in the writable memory of a process of ours: bytes read, and whether it is there.
fn in_memory(pid: u32, needle: &[u8]) -> Result<(u64, bool)> {
    let finder = memchr::memmem::Finder::new(needle);
    let (mut total, mut found) = (0, false);
    search::memory(pid, needle.len(), &mut |window| {
        total += window.len() as u64;
        found = found || finder.find(window).is_some();
    })?;
    Ok((total, found))
}
