//! Every key that a region ever held, looked for on its disks and in the memory of its storage nodes.
//!
//! Owns the search with its positive controls. Nothing exports keys, so the daemons of a build with
//! `danger_scannable_keys` append a salted fingerprint of each key to the file that `REDUIT_FINGERPRINTS` names; the
//! keys of this process, which is the client, are looked for as well.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::{CreateOptions, PutOptions, Region, Tuning};
use envelope::fingerprints::{self, Fingerprint, Salt, Scanner};
use local::{Kind, Local, search};

use crate::demo::s3;
use crate::demo::table::Table;
use crate::full::with_gateway;

/// Bytes that a key takes at least, less one: what windows have to overlap by.
const OVERLAP: usize = 31;
const SMALL: usize = 60;
const LARGE_BYTES: usize = 3 << 20;

pub(crate) async fn run() -> Result<()> {
    let fingerprints = std::env::var("REDUIT_FINGERPRINTS")
        .context("REDUIT_FINGERPRINTS names no file: `cargo xtask promises` sets it")?;
    let salt = std::env::var("REDUIT_FINGERPRINT_SALT").context("no REDUIT_FINGERPRINT_SALT")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(&salt, &mut bytes).context("the salt is 32 bytes in hex")?;
    fingerprints::install(Salt(bytes), |_| {})?;

    let fingerprints = Path::new(&fingerprints);
    with_gateway(async |local| story(local, fingerprints).await).await
}

async fn story(local: &mut Local, fingerprints: &Path) -> Result<()> {
    let context = local.federation.region("ch-zrh")?.context("app-1");
    let region = Region::connect(&context, Tuning::default()).await?;
    for name in ["keys-a", "keys-b"] {
        let dataset = region
            .create_dataset(&name.parse()?, &CreateOptions::default())
            .await?;
        for number in 0..SMALL {
            let key = format!("small/{number}").parse()?;
            dataset
                .put(
                    &key,
                    format!("body {number}").into_bytes(),
                    &PutOptions::default(),
                )
                .await?;
            dataset.get_bytes(&key).await?;
        }
        let (key, body) = ("large".parse()?, Bytes::from(vec![b'x'; LARGE_BYTES]));
        dataset
            .put(&key, body.clone(), &PutOptions::default())
            .await?;
        ensure!(
            dataset.get_bytes(&key).await? == body,
            "the large object differs"
        );
    }
    // By S3 too: the gateway holds keys of what it seals and opens, and the secret that requests are signed with.
    let by_s3 = s3::store(local, &mut Table::start()).await?;
    // A restart replays the log and unseals: keys pass through another life of the process.
    let names: Vec<_> = local
        .services()
        .map(|service| service.name.clone())
        .collect();
    for name in &names {
        local.restart(name).await?;
    }
    let dataset = region.dataset(&"keys-a".parse()?).await?;
    dataset.get_bytes(&"large".parse()?).await?;

    let backup = by_s3.back_up(local).await?;
    let scanner = scanner(fingerprints)?;
    let (mut files, mut searched) = (0_u64, 0_u64);
    let of_services = local
        .services()
        .flat_map(|service| [&service.data, &service.log, &service.config]);
    for place in of_services.chain([&backup]) {
        search::walk(place, &mut |path| {
            // A file that a living store has removed meanwhile holds nothing any more.
            let Ok(content) = std::fs::read(path) else {
                return Ok(());
            };
            (files, searched) = (files + 1, searched + content.len() as u64);
            let hits = scanner.scan(&content);
            ensure!(
                hits.is_empty(),
                "key bytes in {} at {}",
                path.display(),
                hits[0]
            );
            Ok(())
        })?;
    }
    ensure!(
        files > 20 && searched > 1_000_000,
        "only {files} files, {searched} bytes searched"
    );
    println!(
        "keys: 0 on disks, in {files} files of {} MB",
        searched / 1_000_000
    );

    let (mut nodes, mut in_kms) = (0, 0);
    for service in local.services() {
        let (read, hits) = in_memory(service.pid, &scanner)?;
        match service.kind {
            Kind::Kms => in_kms += usize::from(hits > 0),
            Kind::Node => {
                ensure!(hits == 0, "{hits} keys in the memory of {}", service.name);
                ensure!(
                    read > 1_000_000,
                    "only {read} bytes of {} read",
                    service.name
                );
                nodes += 1;
            }
            // It holds keys as clients do: what it was given, and for as long.
            Kind::Gateway => {}
        }
    }
    println!("keys: 0 in the memory of {nodes} storage nodes");
    controls(local, fingerprints, in_kms)
}

/// What is there is found: keys in the memory of every unsealed KMS replica and of this process, a share planted on
/// a disk and held in this process.
fn controls(local: &Local, fingerprints: &Path, in_kms: usize) -> Result<()> {
    let replicas = local
        .services()
        .filter(|service| service.kind == Kind::Kms)
        .count();
    ensure!(
        in_kms == replicas,
        "keys were found in {in_kms} of {replicas} KMS replicas"
    );
    let root = envelope::RootKey::generate(proto::ids::RootEpoch(9))?;
    let (_, shares) = root.split(2, 2)?;
    let planted = shares[0].to_bytes();
    envelope::combine(&shares)?;
    let scanner = scanner(fingerprints)?;
    let service = local.services().next().context("a service")?;
    let path = service.data.join("planted.bin");
    std::fs::write(&path, [&[0; 5000][..], &planted[..]].concat())?;
    let found = scanner.scan(&std::fs::read(&path)?);
    std::fs::remove_file(&path)?;
    ensure!(found.len() == 1, "the planted key is not found");
    let (_, hits) = in_memory(std::process::id(), &scanner)?;
    ensure!(
        hits > 0,
        "no key is found in this process, which holds some"
    );
    println!("keys: controls found in {in_kms} KMS replicas, in this process and on a disk");
    Ok(())
}

/// Looks for the keys of this process and of every daemon so far.
fn scanner(fingerprints: &Path) -> Result<Scanner> {
    let (salt, mut keys) = fingerprints::all();
    let lines = std::fs::read_to_string(fingerprints)
        .context("the daemons wrote no fingerprints: are they built with danger_scannable_keys?")?;
    let theirs: Vec<Fingerprint> = lines
        .lines()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .context("a fingerprint of a daemon")?;
    // Root and KEKs in three replicas, and a key for each open.
    ensure!(
        theirs.len() > 2 * SMALL,
        "the daemons held only {} keys",
        theirs.len()
    );
    ensure!(
        keys.len() > 2 * SMALL,
        "this process held only {} keys",
        keys.len()
    );
    keys.extend(theirs);
    println!("keys: looking for {}", keys.len());
    Ok(Scanner::new(salt, keys))
}

fn in_memory(pid: u32, scanner: &Scanner) -> Result<(u64, usize)> {
    let (mut read, mut hits) = (0, 0);
    search::memory(pid, OVERLAP, &mut |window| {
        read += window.len() as u64;
        hits += scanner.scan(window).len();
    })?;
    Ok((read, hits))
}
