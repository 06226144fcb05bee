//! The end of a relocation: keys of both sides are destroyed, the certificate is made and judged, the root key is retired.
//!
//! Owns the order. What is destroyed cannot be brought back, so it follows the comparison of everything.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::super::table::Table;
use super::clock::RegionClock;
use super::people::{auditor, until};
use super::{DESTINATION, Relocation, SOURCE};

/// As short as keys may wait for their end.
const WAIT_DAYS: u64 = 7;
const WAIT_DAYS_WORD: &str = "7";

/// Both sides shred; time passes; the destination calls it certified.
pub(super) async fn shred(
    relocation: &Relocation<'_>,
    clock: &mut RegionClock,
    table: &mut Table,
) -> Result<()> {
    let (source, destination) = (relocation.source, relocation.destination);
    let plan = &relocation.plan[..];
    until("the hold is over", async || {
        destination.approved(&["relocate", "shred", plan]).await
    })
    .await?;
    let words = destination.file("destination.words");
    destination
        .operator(&["relocate", "words", plan, "--out", &words])
        .await?;
    let shred = ["relocate", "shred", plan, &words, "--days", WAIT_DAYS_WORD];
    source.approved(&shred).await?;
    let early = source.operator(&["relocate", "finalize", plan]).await;
    ensure!(early.is_err(), "the key ended before its time");
    clock.pass(WAIT_DAYS, [source, destination]).await?;
    until("every replica has destroyed the key", async || {
        source.operator(&["relocate", "finalize", plan]).await
    })
    .await?;
    let words = source.file("source.words");
    source
        .operator(&["relocate", "words", plan, "--out", &words])
        .await?;
    until("the destination heard of it", async || {
        let finalize = ["relocate", "finalize", plan, "--words", &words];
        destination.operator(&finalize).await
    })
    .await?;
    let status = relocation.status().await?;
    ensure!(status["phase"] == "certified", "{status}");
    table.row(
        "shred",
        format!(
            "approved in both regions, {WAIT_DAYS} days of region time passed, the key of {SOURCE} is destroyed on every replica"
        ),
    );
    Ok(())
}

/// The certificate is made, and judged offline by the fingerprints that operators told.
pub(super) async fn certify(relocation: &Relocation<'_>, table: &mut Table) -> Result<()> {
    let (source, destination) = (relocation.source, relocation.destination);
    let file = destination.file("certificate.json");
    let contexts = [auditor(SOURCE), auditor(DESTINATION)];
    let make = ["relocate", "certificate", &relocation.plan, "--out", &file];
    let from = ["--source-context", &contexts[0]];
    let to = ["--destination-context", &contexts[1]];
    destination
        .operator(&[&make[..], &from, &to].concat())
        .await?;
    let pins = [
        source.fingerprint().await?,
        destination.fingerprint().await?,
    ];
    let judged = |source: &str, destination: &str| {
        let words = [
            "verify",
            &file,
            "--source-fingerprint",
            source,
            "--destination-fingerprint",
            destination,
        ];
        words.map(str::to_owned)
    };
    let words = judged(&pins[0], &pins[1]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    destination.operator(&words).await?;
    let swapped = judged(&pins[1], &pins[0]);
    let swapped: Vec<_> = swapped.iter().map(String::as_str).collect();
    ensure!(
        destination.operator(&swapped).await.is_err(),
        "the certificate holds by other fingerprints too"
    );
    let bytes = std::fs::metadata(&file)?.len();
    table.row(
        "certificate",
        format!(
            "signed by both KMSs, {bytes} bytes, verified offline; by swapped fingerprints refused"
        ),
    );
    Ok(())
}

/// A new root key takes over, custodians erase the old shares, the old epoch is retired. What is left of the old shares,
/// one fewer than rebuild it, goes to `enemy`; the names of their holders.
pub(super) async fn retire(
    relocation: &Relocation<'_>,
    enemy: &Path,
    table: &mut Table,
) -> Result<Vec<String>> {
    let people = relocation.source;
    let old = people.region.dir.join("shares");
    let custodians = custodians(relocation);
    let needed = usize::try_from(people.region.shares_needed)?;
    ensure!(custodians.len() >= needed, "too few custodians");
    std::fs::create_dir_all(enemy)?;
    let (left, erased) = custodians.split_at(needed - 1);
    for name in left {
        std::fs::copy(share(&old, name), share(enemy, name))?;
    }
    let fresh = people.file("new-shares");
    let threshold = needed.to_string();
    let begin = ["custody", "begin", "--needed", &threshold, "--new-root"];
    people
        .approved(&[&begin[..], &["--folder", &fresh]].concat())
        .await?;
    for name in &custodians {
        let shown = share(Path::new(&fresh), name).display().to_string();
        let key = people.region.identity_files(name).1;
        let key = key.with_extension("hpke").display().to_string();
        let confirm = ["custody", "confirm", "--share", &shown, "--hpke-key", &key];
        people.said(name, &confirm).await?;
    }
    until("the new root key is in force", async || {
        people.operator(&["custody", "finish"]).await
    })
    .await?;
    let backup = people.file("kms-after.backup");
    people
        .operator(&["kms", "backup", "--out", &backup])
        .await?;
    for name in erased {
        let shown = share(&old, name).display().to_string();
        people
            .said(name, &["custody", "erased", "--share", &shown])
            .await?;
        std::fs::remove_file(&shown)?;
    }
    until("the old root key is retired", async || {
        people.approved(&["custody", "retire", "1"]).await
    })
    .await?;
    // From now on the region unseals by these.
    for name in &custodians {
        std::fs::copy(share(Path::new(&fresh), name), share(&old, name))?;
    }
    table.row(
        "root epoch of ru-mow",
        format!(
            "1 retired: {} of {} custodians signed that their share is erased",
            erased.len(),
            custodians.len()
        ),
    );
    Ok(left.to_vec())
}

/// Names of the source's custodians.
pub(super) fn custodians(relocation: &Relocation<'_>) -> Vec<String> {
    let identities = relocation.source.region.identities.iter();
    let mut names: Vec<_> = identities
        .filter(|name| name.starts_with("custodian-"))
        .cloned()
        .collect();
    names.sort();
    names
}

pub(super) fn share(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.share"))
}
