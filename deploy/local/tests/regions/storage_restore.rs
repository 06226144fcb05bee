//! A region that is lost whole, with its KMS, and comes back from a backup: as clients saw it, and by two people's word.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip.

mod content;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::content::same;
use crate::common::grants::grant;
use crate::common::reduit::Reduit;
use crate::common::{key, region_as, with_region};
use anyhow::{Context as _, Result, ensure};
use client::storage_backup::{BACKUP, RESTORE};
use client::{Precondition, PutOptions};
use content::{DATASETS, all_same, all_seen, create, fill, seen};
use local::files::{CLIENTS, OPERATORS};
use local::{Local, ceremony};
use proto::v1::Action::{Create, List, Read, Write};
use serde_json::Value;

const REGION: &str = "ch-zrh";
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a read is tried that is refused for now.
const BRIEFLY: Duration = Duration::from_secs(3);
/// Who uses the region and restores it, and who makes backups.
const RESTORER: &str = CLIENTS[0];
const BACKER: &str = CLIENTS[1];
const BODY: &str = "what the watch saw that night, word for word";

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn json(reduit: &Reduit, who: &str, text: &str) -> Result<Value> {
    let said = reduit.said(who, &[&words(text)[..], &["--json"]].concat())?;
    Ok(serde_json::from_str(said.trim())?)
}

fn lines(reduit: &Reduit, who: &str, text: &str) -> Result<Vec<Value>> {
    let said = reduit.said(who, &[&words(text)[..], &["--json"]].concat())?;
    Ok(said
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

/// The files of one kind in a backup's folder, the largest last.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for inner in std::fs::read_dir(folder)? {
        for file in std::fs::read_dir(inner?.path())? {
            let file = file?;
            found.push((file.metadata()?.len(), file.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

async fn backed_up(local: &Local, reduit: &Reduit) -> Result<PathBuf> {
    ceremony::until("the grants are known to the nodes", async || {
        json(reduit, BACKER, "backup create --to b --operator op-1").map(drop)
    })
    .await?;
    json(reduit, BACKER, "backup verify --from b")?;
    ensure!(local.federation.region(REGION)?.founded);
    let kms = files(&reduit.folder.join("b/kms"))?;
    kms.into_iter().next_back().context("a backup of the kms")
}

/// Has `request` signed by these operators, and what `allow` takes of it.
fn signed(reduit: &Reduit, request: &str, by: &[&str]) -> Result<String> {
    let mut allow = format!("backup allow {request} -o {request}.warrant");
    for who in by {
        let approval = format!("{request}.{who}");
        std::fs::remove_file(reduit.folder.join(&approval)).ok();
        let sign = format!("approve sign {request} -o {approval}");
        reduit.said(who, &words(&sign))?;
        allow.push_str(&format!(" --approval {approval}"));
    }
    Ok(allow)
}

/// Asks for what `ask` says, as two others approve it, and gets the warrant.
fn allowed(reduit: &Reduit, ask: &str, request: &str) -> Result<Value> {
    let ask = format!("{ask} --operator op-1 -o {request}");
    reduit.said(RESTORER, &words(&ask))?;
    let allow = signed(reduit, request, &OPERATORS[1..])?;
    json(reduit, OPERATORS[0], &allow)
}

#[test]
fn a_region_that_was_lost_whole_comes_back_as_it_was() {
    with_region(3, async |local| {
        let reduit = Reduit::new(local)?;
        grant(local, BACKER, &[List, Write], BACKUP).await?;
        grant(local, RESTORER, &[Read, Write], RESTORE).await?;
        let app = region_as(local, RESTORER, PATIENCE).await?;
        fill(&app).await?;
        let before = all_seen(&app).await?;
        let kms = backed_up(local, &reduit).await?;

        local.lose(REGION)?;
        local.rebuild(REGION, &kms).await?;
        let app = region_as(local, RESTORER, PATIENCE).await?;
        ensure!(app.datasets().await?.is_empty(), "nothing is back yet");

        two_others_have_to_approve(&reduit)?;
        what_is_damaged_begins_nothing(&reduit)?;
        let restored = lines(
            &reduit,
            RESTORER,
            "backup restore --from b --warrant r.warrant",
        )?;
        ensure!(restored.len() == DATASETS.len(), "{restored:?}");
        ensure!(
            restored
                .iter()
                .all(|one| one["taken"] == one["items"] && one["found"] == 0),
            "{restored:?}"
        );
        all_same(&before, &all_seen(&app).await?)?;
        it_takes_no_changes_until_two_say_so(local, &reduit).await?;
        all_same(&before, &all_seen(&app).await?)?;
        it_lives_on(local).await
    });
}

fn two_others_have_to_approve(reduit: &Reduit) -> Result<()> {
    let ask = "backup ask-restore --from b --operator op-1 -o r";
    // Whoever may not open for this purpose does not learn the names in it.
    reduit.refused(BACKER, &words(ask), 5)?;
    reduit.said(RESTORER, &words(ask))?;
    let shown = reduit.said(OPERATORS[1], &["approve", "show", "r"])?;
    for name in DATASETS {
        ensure!(shown.contains(name), "{shown}");
    }
    let one = signed(reduit, "r", &OPERATORS[1..2])?;
    reduit.refused(OPERATORS[0], &words(&one), 5)?;
    let twice = format!("{one} --approval r.{}", OPERATORS[1]);
    reduit.refused(OPERATORS[0], &words(&twice), 5)?;
    let allow = signed(reduit, "r", &OPERATORS[1..])?;
    let first = json(reduit, OPERATORS[0], &allow)?;
    // Asked again, for the answer that was lost, it is the same restore, and no further leaf.
    let again = json(reduit, OPERATORS[0], &allow)?;
    ensure!(first["leaf"] == again["leaf"], "{first}, {again}");
    forged(reduit, "r.warrant", "f.warrant")?;
    let restore = "backup restore --from b --warrant f.warrant";
    let why = reduit.refused(RESTORER, &words(restore), 5)?;
    ensure!(why.contains("warrant"), "{why}");
    Ok(())
}

/// The same warrant with another signature.
fn forged(reduit: &Reduit, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(reduit.folder.join(from))?;
    let mut file: Value = serde_json::from_str(&text)?;
    let mut hex = file["warrant"].as_str().context("a warrant")?.to_owned();
    let last = hex.pop().context("bytes")?;
    hex.push(if last == '0' { '1' } else { '0' });
    file["warrant"] = hex.into();
    std::fs::write(reduit.folder.join(to), file.to_string())?;
    Ok(())
}

fn what_is_damaged_begins_nothing(reduit: &Reduit) -> Result<()> {
    let restore = "backup restore --from b --warrant r.warrant --dataset northwatch";
    let pages = files(&reduit.folder.join("b/pages"))?;
    let path = pages.last().context("a page")?;
    let whole = std::fs::read(path)?;
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(path, flipped)?;
    reduit.refused(RESTORER, &words(restore), 8)?;
    std::fs::write(path, whole)?;
    let standing = lines(reduit, RESTORER, "backup standing --warrant r.warrant")?;
    ensure!(
        standing.iter().all(|one| one["phase"] == "not begun"),
        "{standing:?}"
    );
    Ok(())
}

async fn it_takes_no_changes_until_two_say_so(local: &Local, reduit: &Reduit) -> Result<()> {
    let app = region_as(local, RESTORER, PATIENCE).await?;
    for name in DATASETS {
        let dataset = app.dataset(&name.parse()?).await?;
        let put = dataset.put(&key("new"), BODY, &PutOptions::default()).await;
        let why = put.err().map(|error| error.reason().to_owned());
        ensure!(why.as_deref() == Some("dataset-unconfirmed"), "{why:?}");
    }
    let dropped = app.delete_dataset(&"empty".parse()?, false).await;
    let why = dropped.err().map(|error| error.reason().to_owned());
    ensure!(why.as_deref() == Some("dataset-unconfirmed"), "{why:?}");
    let standing = lines(reduit, RESTORER, "backup standing --warrant r.warrant")?;
    ensure!(
        standing.iter().all(|one| one["phase"] == "unconfirmed"),
        "{standing:?}"
    );
    // A warrant to restore confirms nothing.
    let confirm = "backup confirm --warrant r.warrant";
    reduit.refused(RESTORER, &words(confirm), 4)?;
    allowed(reduit, "backup ask-confirm --warrant r.warrant", "c")?;
    let confirmed = lines(reduit, RESTORER, "backup confirm --warrant c.warrant")?;
    ensure!(
        confirmed.len() == DATASETS.len()
            && confirmed.iter().all(|one| one["phase"] == "confirmed"),
        "{confirmed:?}"
    );
    Ok(())
}

/// What was restored is used as before: locks hold, versions go on, and a backup of it is whole.
async fn it_lives_on(local: &Local) -> Result<()> {
    let app = region_as(local, RESTORER, PATIENCE).await?;
    let evidence = app.dataset(&"evidence".parse()?).await?;
    let at = key("case/1");
    for (key, versions) in evidence.histories("case/1").await? {
        for version in versions {
            let removed = evidence
                .delete(&key, Some(version.version), Precondition::Any)
                .await;
            let why = removed.err().map(|error| error.reason().to_owned());
            ensure!(why.as_deref() == Some("object-locked"), "{why:?}");
        }
    }
    let put = evidence.put(&at, "later", &PutOptions::default()).await?;
    let head = evidence.head(&at, None).await?;
    ensure!(
        head.version == put.version && put.replaced.is_some() && head.retention.is_some(),
        "{head:?}"
    );
    let northwatch = app.dataset(&"northwatch".parse()?).await?;
    let large = vec![9; 9 << 20];
    northwatch
        .put(&key("sized/1"), large, &PutOptions::default())
        .await?;
    let read = northwatch.get_bytes(&key("sized/1")).await?;
    ensure!(read.len() == 9 << 20);
    let reduit = Reduit::new(local)?;
    json(&reduit, BACKER, "backup create --to b2 --operator op-1")?;
    let seen = json(&reduit, BACKER, "backup verify --from b2")?;
    ensure!(seen["whole"] == true, "{seen}");
    Ok(())
}

#[test]
fn a_restore_that_was_killed_goes_on_and_one_that_is_given_up_frees_the_name() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        grant(local, BACKER, &[List, Write], BACKUP).await?;
        // To give one up is to end a dataset.
        grant(local, RESTORER, &[Create, Read, Write], RESTORE).await?;
        let app = region_as(local, RESTORER, PATIENCE).await?;
        let dataset = create(&app, "big", false).await?;
        // The last come first: what is small is there while the blocks of what is large are on their way.
        for n in 0..700 {
            let name = format!("small/{n:04}");
            dataset
                .put(&key(&name), BODY, &PutOptions::default())
                .await?;
        }
        for n in 0..4 {
            let name = format!("large/{n}");
            let body = vec![n; 40 << 20];
            dataset
                .put(&key(&name), body, &PutOptions::default())
                .await?;
        }
        let before = seen(&app, "big").await?;
        let kms = backed_up(local, &reduit).await?;
        local.lose(REGION)?;
        local.rebuild(REGION, &kms).await?;
        allowed(&reduit, "backup ask-restore --from b", "r")?;

        let standing = "backup standing --warrant r.warrant";
        let mut child = reduit.started(
            RESTORER,
            &words("backup restore --from b --warrant r.warrant"),
        )?;
        let found = loop {
            let now = json(&reduit, RESTORER, standing)?;
            if now["taken"].as_u64().is_some_and(|taken| taken > 0) {
                break now;
            }
            ensure!(child.try_wait()?.is_none(), "it ended before: {now}");
        };
        child.kill()?;
        child.wait()?;
        ensure!(found["phase"] == "filling", "{found}");
        let app = region_as(local, RESTORER, BRIEFLY).await?;
        ceremony::until("it says that it is being filled", async || {
            let early = match app.dataset(&"big".parse()?).await {
                Ok(dataset) => dataset.get_bytes(&key("small/0699")).await.map(drop),
                Err(error) => Err(error),
            };
            let why = early.err().map(|error| error.reason().to_owned());
            ensure!(why.as_deref() == Some("dataset-arriving"), "{why:?}");
            Ok(())
        })
        .await?;

        let done = json(
            &reduit,
            RESTORER,
            "backup restore --from b --warrant r.warrant",
        )?;
        ensure!(
            done["found"].as_u64() >= found["taken"].as_u64() && done["taken"] == done["items"],
            "{found}, {done}"
        );
        let app = region_as(local, RESTORER, PATIENCE).await?;
        same(&before, &seen(&app, "big").await?)?;
        // Again, it is done already.
        let again = json(
            &reduit,
            RESTORER,
            "backup restore --from b --warrant r.warrant",
        )?;
        ensure!(
            again["blocks"] == 0 && again["found"] == again["items"],
            "{again}"
        );

        let abandon = "backup abandon --warrant r.warrant --dataset big";
        let given_up = json(&reduit, RESTORER, abandon)?;
        ensure!(given_up["phase"] == "abandoned", "{given_up}");
        let gone = app.dataset_info(&"big".parse()?).await;
        ensure!(
            matches!(gone, Err(client::Error::NoSuchDataset)),
            "{gone:?}"
        );
        let other = create(&app, "big", false).await?;
        other.put(&key("a"), BODY, &PutOptions::default()).await?;
        Ok(())
    });
}
