//! S3 in front of a real region, as others' tools use it, unmodified: awscli, rclone, restic, s3cmd and s3fs.
//!
//! Each has a region of its own and a session, a script of `tests/s3/tools`, which compares what it wrote with what it
//! reads. `cargo xtask test` says where the tools are (`REDUIT_S3_TOOLS`), and none may be missing then; else they are
//! taken from the path, and the tests say that they skip where one is not there, or the daemons are not. What is stored
//! is MITRE's cti, whose archive `REDUIT_CTI` names, a part of it without `REDUIT_FULL`; else this project's documents.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::common::s3::{access_key, session};
use crate::common::with_plan;

/// Who is at the other end of the sessions.
const PRINCIPAL: &str = "tools";
/// What of cti serves where tests may not take long.
const SHORT: &str = "cti/ics-attack";
/// A session that takes longer hangs.
const SECONDS_MAX: &str = "7200";

fn full() -> bool {
    std::env::var_os("REDUIT_FULL").is_some()
}

fn tools() -> Option<PathBuf> {
    std::env::var_os("REDUIT_S3_TOOLS").map(PathBuf::from)
}

/// Where a session finds its programs; none where one of them is missing and need not be there.
fn path_to(programs: &[&str]) -> Option<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = tools()
        .into_iter()
        .chain(std::env::split_paths(&path))
        .collect();
    let there = |program: &str| folders.iter().any(|dir| dir.join(program).is_file());
    let missing: Vec<_> = programs
        .iter()
        .copied()
        .filter(|program| !there(program))
        .collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        assert!(tools().is_none(), "{missing}: not there");
        println!("skipped: {missing} not on the path, and REDUIT_S3_TOOLS is not set");
        return None;
    }
    Some(std::env::join_paths(folders).expect("they were in a path, or a folder without a colon"))
}

/// Whether this machine lets s3fs mount.
fn mounts() -> bool {
    let root = Command::new("id").arg("-u").output();
    if !root.is_ok_and(|output| output.stdout == b"0\n") {
        println!("skipped: s3fs is mounted by root alone");
        return false;
    }
    let mut device = std::fs::OpenOptions::new();
    if let Err(error) = device.read(true).write(true).open("/dev/fuse") {
        assert!(tools().is_none(), "/dev/fuse: {error}");
        println!("skipped: the device /dev/fuse cannot be opened: {error}");
        return false;
    }
    true
}

/// The folder that sessions store, unpacked below `dir`.
fn tree(dir: &Path) -> Result<PathBuf> {
    let Some(archive) = std::env::var_os("REDUIT_CTI") else {
        let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        return documents.canonicalize().context("this project's documents");
    };
    let part = if full() { "cti" } else { SHORT };
    let mut tar = Command::new("tar");
    tar.args(["--zstd", "-xf"]).arg(archive);
    tar.arg("-C").arg(dir).arg(part);
    ensure!(tar.status()?.success(), "REDUIT_CTI does not unpack");
    Ok(dir.join(part))
}

/// A session of its own folder and nothing of this process's environment, on a region of so many nodes.
fn passes(script: &str, programs: &[&str], members: u32) {
    let Some(path) = path_to(programs) else {
        return;
    };
    with_plan(&[("ch-zrh", "CH", members)], 1, async |local| {
        let key = access_key(local, PRINCIPAL).await?;
        let (unpacked, folder) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3/tools");
        let mut command = Command::new("timeout");
        command
            .args(["-k", "10", SECONDS_MAX, "sh"])
            .arg(scripts.join(script))
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", &path)
            .env("HOME", folder.path())
            .env("S3_TREE", tree(unpacked.path())?);
        let said = session(command, local, &key).await?;
        print!("{said}");
        Ok(())
    });
}

/// 200 MiB by parts, a tree there and back, links, conditional writes, checksums, locks, and what is refused.
#[test]
fn awscli_reads_what_it_wrote() {
    passes("awscli.sh", &["aws", "curl"], 3);
}

/// A tree there and back, checked by hash and by byte, parts, copies, versions, links.
#[test]
fn rclone_finds_no_difference() {
    passes("rclone.sh", &["rclone", "curl"], 3);
}

/// Backups that are checked by their data, restored, compared, forgotten and pruned.
#[test]
fn restic_restores_what_it_backed_up() {
    passes("restic.sh", &["restic"], 3);
}

/// Parts, a tree there and back, what is known of an object, versions, and what is refused.
#[test]
fn s3cmd_reads_what_it_wrote() {
    passes("s3cmd.sh", &["s3cmd", "curl"], 3);
}

/// A folder that is changed in each way files are is what a local one is, and so it is when mounted again.
#[test]
fn s3fs_is_a_folder_like_a_local_one() {
    if mounts() {
        passes("s3fs.sh", &["s3fs", "s3cmd"], 3);
    }
}

/// 5 GiB by parts. On one node: three would need 20 GiB of disk for it.
#[test]
fn five_gib_by_parts_read_as_they_were() {
    if full() {
        passes("giant.sh", &["aws", "curl"], 1);
    } else {
        println!("skipped: 5 GiB take a minute and 10 GiB of disk: REDUIT_FULL=1");
    }
}
