//! Backups of datasets: whole, of one moment, and only of what is new; verified from their files and opened for a drill.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::grants::grant;
use crate::common::reduit::Reduit;
use crate::common::{contains, key, region_as, with_region};
use anyhow::{Context as _, Result, ensure};
use client::ids::NodeId;
use client::storage_backup::{BACKUP, DRILL, Folder, Wanted};
use client::{
    CompleteOptions, CreateOptions, Dataset, GetOptions, PartOptions, Precondition, PutOptions,
};
use local::files::{CLIENTS, OPERATORS};
use local::{Local, ceremony};
use proto::v1;
use proto::v1::Action::{List, Read, Write};
use proto::v1::backup_item::Item;
use proto::v1::backups_client::BackupsClient;
use transport::Stated;

const PATIENCE: Duration = Duration::from_secs(60);
/// Who makes backups, and who holds drills.
const DRILLER: &str = CLIENTS[0];
const BACKER: &str = CLIENTS[1];
const BODY: &str = "what the watch saw that night, word for word";
const SECRET_NAME: &str = "observed/near-the-north-gate";
const LARGE: usize = 20 << 20;

fn json(reduit: &Reduit, who: &str, words: &str) -> Result<serde_json::Value> {
    let words: Vec<_> = words.split_whitespace().chain(["--json"]).collect();
    Ok(serde_json::from_str(&reduit.said(who, &words)?)?)
}

fn refused(reduit: &Reduit, who: &str, words: &str, code: i32) -> Result<String> {
    let words: Vec<_> = words.split_whitespace().collect();
    reduit.refused(who, &words, code)
}

/// A versioned dataset with every kind of content: two versions of a key, a delete marker, blocks, parts, an upload under
/// way, and names and metadata that nobody outside shall see.
async fn dataset_of_all_kinds(local: &Local) -> Result<Dataset> {
    let region = local.federation.region("ch-zrh")?;
    let app = ceremony::connect(region, DRILLER).await?;
    let options = CreateOptions { versioning: true };
    let dataset = app.create_dataset(&"northwatch".parse()?, &options).await?;
    let described = PutOptions {
        metadata: [("source".to_owned(), "sensor-seven".to_owned())].into(),
        ..PutOptions::default()
    };
    for body in ["before", BODY] {
        dataset.put(&key(SECRET_NAME), body, &described).await?;
    }
    for n in 0..40 {
        let name = format!("observed/{n:03}");
        dataset
            .put(&key(&name), BODY.repeat(80).into_bytes(), &described)
            .await?;
    }
    dataset.put(&key("gone"), BODY, &described).await?;
    dataset
        .delete(&key("gone"), None, Precondition::Any)
        .await?;
    let large = BODY.repeat(LARGE / BODY.len()).into_bytes();
    dataset.put(&key("large"), large, &described).await?;
    let upload = dataset.create_upload(&key("parts"), &described).await?;
    let mut named = Vec::new();
    for (number, bytes) in [(2, 100_000), (3, 9 << 20), (7, 10)] {
        let body = vec![number as u8; bytes];
        let options = PartOptions::default();
        let part = dataset.upload_part(&upload, number, body, &options).await?;
        named.push((number, part.id));
    }
    let complete = CompleteOptions::default();
    dataset.complete_upload(&upload, &named, &complete).await?;
    dataset.create_upload(&key("under way"), &described).await?;
    Ok(dataset)
}

#[test]
fn a_backup_is_whole_the_next_copies_what_is_new_and_a_drill_opens_it() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        let dataset = dataset_of_all_kinds(local).await?;
        let create = "backup create --to b --operator op-1";
        refused(&reduit, BACKER, create, 5)?;
        grant(local, BACKER, &[List, Write], BACKUP).await?;
        ceremony::until("the grant is known to the nodes", async || {
            json(&reduit, BACKER, create).map(drop)
        })
        .await?;
        nodes_tell_nothing_without_grant_and_lease(local, &dataset).await?;
        let folder = reduit.folder.join("b");
        first_is_whole(&reduit, &folder)?;
        the_next_copies_what_is_new(&reduit, &dataset).await?;
        a_drill_opens_it(local, &reduit).await?;
        damage_is_found_and_mended(&reduit, &folder)?;
        old_ones_go(&reduit, &dataset).await?;
        keys_that_ended_are_not_relied_on(local, &reduit).await
    });
}

/// What a node tells, it tells who may back up, and has its lease on record.
async fn nodes_tell_nothing_without_grant_and_lease(
    local: &Local,
    dataset: &Dataset,
) -> Result<()> {
    let told = async |who: &str, purpose: &str| {
        let region = region_as(local, who, PATIENCE).await?;
        let nodes = region.status().await.nodes;
        let node = nodes.into_iter().find_map(|(_, _, status)| status.ok());
        let node = NodeId(node.context("a node")?.node_id);
        let stated = Stated {
            purpose: purpose.to_owned(),
            ..Stated::default()
        };
        let request = v1::ReadBackupRequest {
            shard: dataset.shard().0,
            dataset_id: dataset.id().into(),
            token: bytes::Bytes::from_static(b"none"),
        };
        let mut backups = BackupsClient::new(region.node_channel(node)?);
        let answer = backups.read_dataset(stated.of(request)).await;
        let refused = answer.err().context("it is refused")?;
        Ok::<_, anyhow::Error>(transport::fault::reason(&refused).map(str::to_owned))
    };
    // Everyday service is no backup, and who reads and writes every day has no grant for one.
    for (who, purpose) in [(BACKER, "service"), (BACKER, DRILL), (DRILLER, BACKUP)] {
        let why = told(who, purpose).await?;
        ensure!(
            why.as_deref() == Some("not-granted"),
            "{who} for {purpose}: {why:?}"
        );
    }
    let why = told(BACKER, BACKUP).await?;
    ensure!(why.as_deref() == Some("token-malformed"), "{why:?}");
    Ok(())
}

fn first_is_whole(reduit: &Reduit, folder: &Path) -> Result<()> {
    let listed = json(reduit, BACKER, "backup ls --from b")?;
    let of = &listed["datasets"][0];
    ensure!(
        of["versions"] == 45 && of["delete_markers"] == 1 && of["parts"] == 3,
        "{listed}"
    );
    ensure!(
        of["uploads_left_out"] == 1 && listed["whole_region"] == true,
        "{listed}"
    );
    // 20 MiB and 9 MiB in blocks of 8 MiB, and a part of 100,000 bytes.
    ensure!(of["blocks"] == 3 + 2 + 1, "{listed}");
    ensure!(
        listed["kms"]["confirmed_leaf"].as_u64() > Some(0),
        "{listed}"
    );
    let seen = json(reduit, BACKER, "backup verify --from b")?;
    ensure!(
        seen["whole"] == true && seen["problems"] == serde_json::json!([]),
        "{seen}"
    );
    ensure!(
        seen["blocks"] == 6
            && seen["not_known"]
                .as_array()
                .is_some_and(|all| all.len() == 4),
        "{seen}"
    );
    for word in [BODY, SECRET_NAME, "northwatch", "sensor-seven", "observed/"] {
        let found = contains(folder, word.as_bytes())?;
        ensure!(found.is_none(), "{word} lies open in {found:?}");
    }
    Ok(())
}

async fn the_next_copies_what_is_new(reduit: &Reduit, dataset: &Dataset) -> Result<()> {
    let create = "backup create --to b --operator op-1";
    let same = json(reduit, BACKER, create)?;
    let copied = &same["copied"];
    // Its record, with its counters, is the same: nobody wrote.
    ensure!(
        copied["pages"] == 0 && copied["blocks"] == 0 && copied["blocks_there"] == 6,
        "{same}"
    );
    ensure!(same["datasets"][0]["name"] == "northwatch", "{same}");
    let new = BODY.repeat((9 << 20) / BODY.len()).into_bytes();
    dataset
        .put(&key("zz-new"), new, &PutOptions::default())
        .await?;
    let next = json(reduit, BACKER, create)?;
    let copied = &next["copied"];
    ensure!(
        copied["blocks"] == 2 && copied["blocks_there"] == 6,
        "{next}"
    );
    ensure!(copied["pages_there"].as_u64() > Some(0), "{next}");
    ensure!(next["datasets"][0]["versions"] == 46, "{next}");
    let seen = json(reduit, BACKER, "backup verify --from b")?;
    ensure!(seen["whole"] == true && seen["blocks"] == 8, "{seen}");
    Ok(())
}

async fn a_drill_opens_it(local: &Local, reduit: &Reduit) -> Result<()> {
    // Who makes backups, and everybody else, opens none of it.
    for who in [BACKER, DRILLER] {
        refused(reduit, who, "backup drill --from b", 5)?;
    }
    grant(local, DRILLER, &[Read], DRILL).await?;
    let drilled = json(reduit, DRILLER, "backup drill --from b --all")?;
    ensure!(
        drilled["opened"] == 46 && drilled["versions"] == 47,
        "{drilled}"
    );
    ensure!(
        drilled["bytes"].as_u64() > Some(LARGE as u64 + (9 << 20)),
        "{drilled}"
    );
    refused(reduit, BACKER, "backup drill --from b", 5)?;
    Ok(())
}

/// The largest file of a kind.
fn largest(folder: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for inner in std::fs::read_dir(folder)? {
        for file in std::fs::read_dir(inner?.path())? {
            let file = file?;
            found.push((file.metadata()?.len(), file.path()));
        }
    }
    let (_, path) = found.into_iter().max().context("a file")?;
    Ok(path)
}

fn damage_is_found_and_mended(reduit: &Reduit, folder: &Path) -> Result<()> {
    let words: Vec<_> = "backup verify --from b --json".split(' ').collect();
    let drill: Vec<_> = "backup drill --from b --all --json".split(' ').collect();
    for kind in ["blocks", "pages", "kms"] {
        let path = largest(&folder.join(kind))?;
        let whole = std::fs::read(&path)?;
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [Some(flipped), Some(whole[..whole.len() - 1].to_vec()), None] {
            match &damaged {
                Some(bytes) => std::fs::write(&path, bytes)?,
                None => std::fs::remove_file(&path)?,
            }
            let output = reduit.run(BACKER, &words)?;
            ensure!(output.status.code() == Some(8), "{kind}: {output:?}");
            let seen: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            ensure!(
                seen["problems"]
                    .as_array()
                    .is_some_and(|all| !all.is_empty()),
                "{kind}: {seen}"
            );
            let output = reduit.run(DRILLER, &drill)?;
            let code = if kind == "kms" { Some(0) } else { Some(8) };
            ensure!(output.status.code() == code, "{kind}: {output:?}");
        }
        std::fs::write(&path, &whole)?;
    }
    json(reduit, BACKER, "backup verify --from b")?;
    // Another one's signature, or none that holds.
    let index = std::fs::read_dir(folder.join("index"))?.map(|one| Ok(one?.path()));
    let index: Vec<PathBuf> = index.collect::<std::io::Result<_>>()?;
    let newest = index.iter().max().context("an index")?;
    let whole = std::fs::read(newest)?;
    let mut forged = whole.clone();
    *forged.last_mut().context("bytes")? ^= 1;
    std::fs::write(newest, forged)?;
    let said = reduit.run(BACKER, &words)?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(
        said.status.code() == Some(8) && text.contains("signature does not verify"),
        "{said:?}"
    );
    std::fs::write(newest, whole)?;
    // A block that is damaged is put aside, and copied again.
    let path = largest(&folder.join("blocks"))?;
    let mut flipped = std::fs::read(&path)?;
    flipped[100] ^= 1;
    std::fs::write(&path, flipped)?;
    refused(reduit, BACKER, "backup verify --from b --set-aside", 8)?;
    ensure!(!path.exists(), "it is aside");
    let again = json(reduit, BACKER, "backup create --to b --operator op-1")?;
    ensure!(again["copied"]["blocks"] == 1, "{again}");
    json(reduit, BACKER, "backup verify --from b")?;
    Ok(())
}

async fn old_ones_go(reduit: &Reduit, dataset: &Dataset) -> Result<()> {
    dataset
        .delete(&key("zz-new"), None, Precondition::Any)
        .await?;
    let history = dataset.histories("zz-new").await?;
    for version in &history[0].1 {
        let id = Some(version.version);
        dataset
            .delete(&key("zz-new"), id, Precondition::Any)
            .await?;
    }
    json(reduit, BACKER, "backup create --to b --operator op-1")?;
    refused(reduit, BACKER, "backup prune --from b --keep 0", 2)?;
    let all = json(reduit, BACKER, "backup prune --from b --keep 100")?;
    ensure!(all["backups"] == 0, "{all}");
    let kept = all["kept"].as_u64().context("a number")?;
    ensure!(kept >= 5, "{all}");
    let pruned = json(reduit, BACKER, "backup prune --from b --keep 1")?;
    ensure!(
        pruned["backups"] == kept - 1 && pruned["kept"] == 1,
        "{pruned}"
    );
    // The two blocks that only older ones named, with pages and backups of the KMS.
    ensure!(pruned["bytes"].as_u64() > Some(9 << 20), "{pruned}");
    let seen = json(reduit, BACKER, "backup verify --from b")?;
    ensure!(seen["blocks"] == 6, "{seen}");
    let drilled = json(reduit, DRILLER, "backup drill --from b --all")?;
    ensure!(drilled["opened"] == 45, "{drilled}");
    Ok(())
}

/// A page that is sealed under a version that may have ended is sealed again; a backup of before says in its index that it
/// is under one, and finds it in its own backup of the KMS.
async fn keys_that_ended_are_not_relied_on(local: &Local, reduit: &Reduit) -> Result<()> {
    let operator = |words: &str| {
        let words: Vec<_> = words.split_whitespace().collect();
        reduit.said(OPERATORS[0], &words)
    };
    operator("key rotate northwatch")?;
    operator("key rewrap northwatch")?;
    let region = local.federation.region("ch-zrh")?;
    let mut end = "key end-versions northwatch".to_owned();
    for name in &OPERATORS[1..] {
        let (certificate, key) = region.identity_files(name);
        end.push_str(&format!(
            " --certificate {} --key {}",
            certificate.display(),
            key.display()
        ));
    }
    operator(&end)?;
    let before = json(reduit, BACKER, "backup ls --from b")?;
    ensure!(
        before["datasets"][0]["kek_versions"] == serde_json::json!([1]),
        "{before}"
    );
    json(reduit, BACKER, "backup verify --from b")?;
    let old = before["backup"].as_str().context("an id")?.to_owned();
    let made = json(reduit, BACKER, "backup create --to b --operator op-1")?;
    ensure!(
        made["datasets"][0]["kek_versions"] == serde_json::json!([2]),
        "{made}"
    );
    ensure!(
        made["copied"]["pages_there"] == 0 && made["copied"]["blocks"] == 0,
        "{made}"
    );
    json(reduit, BACKER, "backup verify --from b")?;
    json(reduit, DRILLER, "backup drill --from b --all")?;
    // The living region has ended that version; a KMS restored from that backup's own has it.
    let drill = format!("backup drill --from b --backup {old}");
    let words: Vec<_> = drill.split_whitespace().collect();
    let output = reduit.run(DRILLER, &words)?;
    ensure!(!output.status.success(), "{output:?}");
    Ok(())
}

/// One key, then the other, each time one byte longer: at no moment is the second longer than the first, or shorter by
/// more than one.
#[test]
fn a_backup_is_of_one_moment_while_others_write() {
    with_region(1, async |local| {
        grant(local, BACKER, &[List, Write], BACKUP).await?;
        grant(local, BACKER, &[Read], DRILL).await?;
        let app = region_as(local, DRILLER, PATIENCE).await?;
        let options = CreateOptions { versioning: false };
        let dataset = app.create_dataset(&"moving".parse()?, &options).await?;
        // Between the two, in order of keys, are pages of others: they are told at different times.
        for n in 0..600 {
            let name = format!("m/{n:04}");
            dataset
                .put(&key(&name), vec![b'x'; 8000], &PutOptions::default())
                .await?;
        }
        let done = Arc::new(AtomicBool::new(false));
        let (ended, writer) = (done.clone(), dataset.clone());
        let writing = tokio::spawn(async move {
            let mut length = 0;
            while !ended.load(Ordering::Acquire) {
                length += 1;
                for name in ["a", "z"] {
                    let body = vec![b'x'; length];
                    writer.put(&key(name), body, &PutOptions::default()).await?;
                }
                // A large one, replaced each time: its blocks become garbage while it is copied.
                let large = vec![length as u8; 300_000];
                writer
                    .put(&key("m/large"), large, &PutOptions::default())
                    .await?;
            }
            Ok::<_, client::Error>(length)
        });
        let backer = region_as(local, BACKER, PATIENCE).await?;
        let place = local.federation.dir.join("moving");
        let folder = Folder::create(&place)?;
        ceremony::until("the grant is known to the nodes", async || {
            let made = backer
                .back_up(&folder, &Wanted::default(), None, |_| ())
                .await;
            made.map(drop).map_err(Into::into)
        })
        .await?;
        let mut seen = Vec::new();
        for _ in 0..6 {
            let made = backer
                .back_up(&folder, &Wanted::default(), None, |_| ())
                .await?;
            let of = &made.file.index.datasets[0];
            let mut lengths = BTreeMap::new();
            backer
                .open_pages(&folder, &made.file, of, DRILL, |item| {
                    if let Some(Item::Version(version)) = item.item {
                        let bytes = version.entry.map_or(0, |entry| entry.plain_bytes);
                        lengths.insert(version.key, bytes);
                    }
                })
                .await?;
            ensure!(lengths.len() == 603, "{}", lengths.len());
            let (a, z) = (lengths["a"], lengths["z"]);
            ensure!(
                a == z || a == z + 1,
                "a has {a}, z has {z}: not of one moment"
            );
            seen.push(a);
        }
        done.store(true, Ordering::Release);
        let written = writing.await??;
        ensure!(written as u64 >= *seen.last().context("some")?, "{written}");
        ensure!(
            seen.is_sorted() && seen[0] < seen[5],
            "they wrote meanwhile: {seen:?}"
        );
        // What was told is what is stored.
        let got = dataset.get(&key("a"), &GetOptions::default()).await?;
        ensure!(got.info.bytes == written as u64, "{written}");
        Ok(())
    });
}

#[test]
fn a_backup_that_was_killed_goes_on_where_it_was() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        grant(local, BACKER, &[List, Write], BACKUP).await?;
        let app = region_as(local, DRILLER, PATIENCE).await?;
        let dataset = app
            .create_dataset(&"big".parse()?, &CreateOptions::default())
            .await?;
        for n in 0..6 {
            let body = vec![n; 40 << 20];
            dataset
                .put(&key(&format!("{n}")), body, &PutOptions::default())
                .await?;
        }
        let blocks = reduit.folder.join("k/blocks");
        let words = ["backup", "create", "--to", "k", "--operator", OPERATORS[0]];
        let mut killed = 0;
        ceremony::until(
            "the grant is known, and a backup is at its blocks",
            async || {
                let mut child = reduit.started(BACKER, &words)?;
                loop {
                    let count = files(&blocks, false)?.len();
                    if count > 5 {
                        child.kill()?;
                        child.wait()?;
                        killed = count;
                        return Ok(());
                    }
                    if let Some(status) = child.try_wait()? {
                        anyhow::bail!("it ended before: {status}");
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            },
        )
        .await?;
        let none = refused(&reduit, BACKER, "backup verify --from k", 3)?;
        ensure!(none.contains("none that is whole"), "{none}");
        let made = json(&reduit, BACKER, "backup create --to k --operator op-1")?;
        let there = made["copied"]["blocks_there"]
            .as_u64()
            .context("a number")?;
        ensure!(
            there >= killed as u64 && killed > 5,
            "{killed} when it was killed: {made}"
        );
        ensure!(
            made["copied"]["blocks"].as_u64() == Some(36 - there),
            "{made}"
        );
        let seen = json(&reduit, BACKER, "backup verify --from k")?;
        ensure!(seen["blocks"] == 36, "{seen}");
        // What was cut off on its way goes with the next prune.
        json(&reduit, BACKER, "backup prune --from k --keep 1")?;
        let left = files(&reduit.folder.join("k"), true)?;
        ensure!(left.is_empty(), "{left:?}");
        json(&reduit, BACKER, "backup verify --from k")?;
        Ok(())
    });
}

/// Files under a folder: those that are whole, or those that are not yet.
fn files(folder: &Path, unfinished: bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, unfinished)?);
        } else if path.extension().is_some_and(|found| found == "part") == unfinished {
            found.push(path);
        }
    }
    Ok(found)
}
