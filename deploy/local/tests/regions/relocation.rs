//! A dataset moves from one region of real processes to another, by people with the `reduit` command and by gateways.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip.

mod content;
mod writers;

use std::time::{Duration, Instant};

use crate::common::content::same;
use crate::common::federated::{People, trust_each_other};
use crate::common::{connected, key, with_plan};
use anyhow::{Context as _, Result, bail, ensure};
use client::{Error, PutOptions};
use content::{KEPT, S3, fill, seen};
use local::Local;
use local::files::{CLIENTS, OPERATORS};
use serde_json::Value;
use writers::Writers;

const ZURICH: &str = "ch-zrh";
const FRANKFURT: &str = "de-fra";
const APP: &str = CLIENTS[0];
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a relocation may take to get somewhere on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(250);
/// Writes wait no longer than a fence lasts.
const PAUSE_MS_MAX: u64 = 5_000;

/// The people of both regions, and one relocation between them.
struct Relocation<'a> {
    source: &'a People,
    destination: &'a People,
    plan: String,
    id: String,
}

impl<'a> Relocation<'a> {
    /// Planned in the source, begun in the destination; not granted yet.
    fn begun(source: &'a People, destination: &'a People, dataset: &str) -> Result<Self> {
        let file = |people: &People, name: &str| {
            let path = people.reduit.folder.join(format!("{dataset}.{name}"));
            path.display().to_string()
        };
        let plan = file(source, "plan.json");
        let planned = [
            "relocate", "plan", dataset, "--to", FRANKFURT, "--out", &plan,
        ];
        source.json(&planned)?;
        let written: Value = serde_json::from_slice(&std::fs::read(&plan)?)?;
        let id = written["relocation"].as_str().context("an id")?.to_owned();
        let offer = file(destination, "offer.bin");
        let begin = ["relocate", "begin", &plan, "--out", &offer].map(str::to_owned);
        destination.said(&[&begin[..], &destination.by(&OPERATORS[1..])].concat())?;
        ensure!(std::fs::exists(&offer)?, "no offer");
        Ok(Self {
            source,
            destination,
            plan,
            id,
        })
    }

    fn granted(&self) -> Result<()> {
        let offer = self.plan.replace("plan.json", "offer.bin");
        let offer = offer.replace(
            &self.source.reduit.folder.display().to_string(),
            &self.destination.reduit.folder.display().to_string(),
        );
        let grant = ["relocate", "grant", &self.plan, &offer].map(str::to_owned);
        let approved = self.source.by(&OPERATORS[1..]);
        self.source.said(&[&grant[..], &approved].concat())?;
        Ok(())
    }

    /// By an operator of the destination.
    fn operator(&self, command: &str, words: &[&str]) -> Result<String> {
        let all = [&["relocate", command, &self.id][..], words].concat();
        self.destination.reduit.said(OPERATORS[0], &all)
    }

    fn status(&self) -> Result<Value> {
        self.destination.json(&["relocate", "status", &self.id])
    }

    /// Its status, once it is so.
    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status().unwrap_or_default();
            if wanted(&status) {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("{what}: not in time: {status}");
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or_default()
}

/// All copies are found equal, and writes are not stopped yet.
fn compared(status: &Value) -> bool {
    let versions = number(status, "versions");
    status["phase"] == "verifying" && versions > 0 && number(status, "compared") == versions
}

async fn killed_in_the_middle(local: &mut Local, relocation: &Relocation<'_>) -> Result<()> {
    let gateway = format!("{FRANKFURT}/g1");
    let copies = |status: &Value| status["phase"] == "copying";
    relocation.until("it is being copied", copies).await?;
    // Somewhere in the first bytes that it reads.
    tokio::time::sleep(Duration::from_secs(5)).await;
    local.kill(&gateway)?;
    local.start(&gateway)?;
    relocation.operator("throttle", &["off"])?;
    // Writers go on: what was there a moment ago is compared.
    let verifying = |status: &Value| status["phase"] == "verifying";
    let status = relocation.until("it is verified", verifying).await?;
    let there = number(&status, "versions");
    let so_far = |status: &Value| there > 0 && number(status, "compared") >= there;
    relocation
        .until("what there was is compared", so_far)
        .await?;
    Ok(())
}

#[test]
fn a_dataset_moves_while_it_is_written_and_its_writers_follow() {
    let regions = [(ZURICH, "CH", 3), (FRANKFURT, "DE", 3)];
    with_plan(&regions, 1, async |local| {
        let zurich = People::of(local, ZURICH)?;
        let frankfurt = People::of(local, FRANKFURT)?;
        trust_each_other(&zurich, &frankfurt).await?;
        let app = connected(local, ZURICH, APP, DEADLINE).await?;
        let there = connected(local, FRANKFURT, APP, DEADLINE).await?;
        let dataset = fill(&app, "case").await?;
        let mut old = S3::of(local, ZURICH, "case").await?;
        old.put_kept().await?;
        let before = seen(&dataset, KEPT).await?;

        let following = connected(local, ZURICH, APP, DEADLINE).await?;
        following.follow_to([frankfurt.region.context(APP)]);
        let writers = Writers::begin(&following, "case");
        let relocation = Relocation::begun(&zurich, &frankfurt, "case")?;
        relocation.operator("throttle", &["1MiB"])?;
        relocation.granted()?;
        killed_in_the_middle(local, &relocation).await?;
        same(&before, &seen(&dataset, KEPT).await?).context("the source serves until then")?;

        relocation.operator("cutover", &[])?;
        let served = |status: &Value| status["phase"] == "hold";
        let status = relocation.until("it is served there", served).await?;
        let pause = number(&status, "pause_ms");
        ensure!(0 < pause && pause <= PAUSE_MS_MAX, "{status}");
        let followed = tokio::time::timeout(PATIENCE, writers.all_followed()).await;
        followed.context("writers do not follow it")?;
        let written = writers.end().await?;
        println!("a write took {:?} at most", written.longest);

        let moved = there.dataset(&"case".parse()?).await?;
        ensure!(moved.id() == dataset.id(), "another dataset");
        same(&before, &seen(&moved, KEPT).await?)?;
        written.is_in(&moved).await?;
        S3::of(local, FRANKFURT, "case")
            .await?
            .still_has_it()
            .await?;
        old.says_it_is_elsewhere().await?;
        let told = app.dataset(&"case".parse()?).await.err();
        match told.context("the source still has it")? {
            Error::Moved {
                region: Some(region),
            } => ensure!(region.as_str() == FRANKFURT, "{region}"),
            error => bail!("{error}"),
        }
        Ok(())
    });
}

#[test]
fn an_abort_leaves_the_source_as_it_was() {
    let regions = [(ZURICH, "CH", 3), (FRANKFURT, "DE", 3)];
    with_plan(&regions, 1, async |local| {
        let zurich = People::of(local, ZURICH)?;
        let frankfurt = People::of(local, FRANKFURT)?;
        trust_each_other(&zurich, &frankfurt).await?;
        let app = connected(local, ZURICH, APP, DEADLINE).await?;
        let dataset = fill(&app, "case").await?;
        let before = seen(&dataset, "").await?;
        let relocation = Relocation::begun(&zurich, &frankfurt, "case")?;
        relocation.granted()?;
        relocation.until("it is compared", compared).await?;
        relocation.operator("pause", &[])?;
        let paused = |status: &Value| status["failure"] == "paused";
        relocation.until("it is paused", paused).await?;
        relocation.operator("resume", &[])?;

        // It says for whom it waits, until the source has ended it too and the hand-over key is gone.
        let abort = ["relocate", "abort", &relocation.id];
        let over = |status: &Value| {
            relocation.destination.reduit.run(OPERATORS[0], &abort).ok();
            status["phase"] == "aborted"
        };
        let status = relocation.until("it is over", over).await?;
        ensure!(number(&status, "released_versions") > 0, "{status}");
        same(&before, &seen(&dataset, "").await?)?;
        let (at, options) = (key("after"), PutOptions::default());
        let put = dataset.put(&at, "is served", &options).await;
        put.context("the source serves as before")?;
        Ok(())
    });
}
