//! The search: every file of every service, a backup, and the memory of every storage node, for what must not be there.
//!
//! Owns the positive controls: each needle, planted in each kind of place, must be found there, and what the gateway
//! reads for a client is found in its memory, where it has to be.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use local::search::{self, WINDOW};
use local::{Kind, Local};
use memchr::memmem::Finder;

use super::table::Table;

/// What is looked for.
pub(crate) struct Needle {
    what: &'static str,
    finder: Finder<'static>,
}

impl Needle {
    pub(crate) fn new(what: &'static str, bytes: &[u8]) -> Self {
        let finder = Finder::new(bytes).into_owned();
        Self { what, finder }
    }
}

pub(crate) fn run(
    local: &Local,
    needles: &[Needle],
    backup: &Path,
    table: &mut Table,
) -> Result<()> {
    let (mut files, mut bytes) = (0_u64, 0_u64);
    let of_services = local
        .services()
        .flat_map(|service| [&service.data, &service.log, &service.config]);
    for place in of_services.map(PathBuf::as_path).chain([backup]) {
        search::walk(place, &mut |path| {
            files += 1;
            let (read, found) = in_file(path, needles)?;
            bytes += read;
            match found {
                Some(what) => bail!("{what} is in {}", path.display()),
                None => Ok(()),
            }
        })?;
    }
    ensure!(
        files > 20 && bytes > 1_000_000,
        "the search saw only {files} files with {bytes} bytes"
    );
    table.row(
        "canaries on disks",
        format!(
            "0 hits of {} needles in {files} files, a backup of the KMS among them, {} MB",
            needles.len(),
            bytes / 1_000_000
        ),
    );

    let (mut scanned, mut nodes) = (0, 0);
    for service in local
        .services()
        .filter(|service| service.kind == Kind::Node)
    {
        let (read, found) = in_memory(service.pid, needles)?;
        if let Some(what) = found {
            bail!("{what} is in the memory of {}", service.name);
        }
        ensure!(
            read > 1_000_000,
            "only {read} bytes of {}'s memory could be read",
            service.name
        );
        scanned += read;
        nodes += 1;
    }
    table.row(
        "canaries in node memory",
        format!(
            "0 hits in {nodes} storage nodes, {} MB",
            scanned / 1_000_000
        ),
    );
    controls(local, needles, table)
}

/// The search finds what is there: in data, in a log, across a window's edge, and in the memory of a living process.
fn controls(local: &Local, needles: &[Needle], table: &mut Table) -> Result<()> {
    let service = local.services().next().context("a service")?;
    let data = service.data.join("planted.bin");
    let log = service.log.with_extension("planted.log");
    for needle in needles {
        let bytes = needle.finder.needle();
        let mut edge = vec![b'.'; WINDOW - bytes.len() / 2];
        edge.extend_from_slice(bytes);
        for (path, content) in [(&data, bytes), (&data, &edge), (&log, bytes)] {
            std::fs::write(path, content)?;
            let found = in_file(path, needles)?.1;
            std::fs::remove_file(path)?;
            ensure!(
                found == Some(needle.what),
                "the search does not find {} planted in {}",
                needle.what,
                path.display()
            );
        }
    }
    let gateway = local
        .services()
        .find(|service| service.kind == Kind::Gateway)
        .context("a gateway")?;
    ensure!(
        in_memory(gateway.pid, needles)?.1.is_some(),
        "the search does not find what the gateway reads in its memory"
    );
    table.row(
        "positive controls",
        "planted in data and log: found in each; what is read, found in the gateway's memory"
            .to_owned(),
    );
    Ok(())
}

/// Looks in a file: bytes read, and what is there.
fn in_file(path: &Path, needles: &[Needle]) -> Result<(u64, Option<&'static str>)> {
    let mut found = None;
    let read = search::file(path, overlap(needles), &mut |window| {
        found = found.or_else(|| first(needles, window));
    })?;
    Ok((read, found))
}

/// Looks in the writable memory of a process of ours: bytes read, and what is there.
pub(crate) fn in_memory(pid: u32, needles: &[Needle]) -> Result<(u64, Option<&'static str>)> {
    let (mut total, mut found) = (0, None);
    search::memory(pid, overlap(needles), &mut |window| {
        total += window.len() as u64;
        found = found.or_else(|| first(needles, window));
    })?;
    Ok((total, found))
}

fn first(needles: &[Needle], window: &[u8]) -> Option<&'static str> {
    let found = |needle: &&Needle| needle.finder.find(window).is_some();
    needles.iter().find(found).map(|needle| needle.what)
}

/// What windows have to overlap by.
fn overlap(needles: &[Needle]) -> usize {
    let bytes = needles.iter().map(|needle| needle.finder.needle().len());
    bytes.max().unwrap_or(0)
}
