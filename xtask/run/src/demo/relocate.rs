//! `cargo xtask demo --relocate`: a dataset moves from ru-mow to ch-zrh while it is written, and what ru-mow kept opens
//! nothing.
//!
//! Owns the story. People act by the `reduit` command, data is moved by gateways of ch-zrh; a step that does not hold ends
//! it.

mod attack;
mod clock;
mod content;
mod ending;
mod people;
mod writers;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use client::CreateOptions;
use client::ids::{DatasetId, Identity, Role};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use local::files::OPERATORS;
use local::s3::{Client, Credentials, Endpoint, Method, Request, StatusCode};
use local::{FederationPlan, Kind, Local, RegionPlan, ceremony};
use serde_json::Value;

pub(crate) use self::clock::RegionClock;
use self::content::{Content, HUGE};
use self::people::{People, until};
use self::writers::{By, Load, Written};
use super::search::{self, Needle};
use super::table::Table;
use super::{DATASET, Options, connect};

const SOURCE: &str = "ru-mow";
const DESTINATION: &str = "ch-zrh";
/// Who reads and writes by the SDK.
const APP: &str = "app-1";
/// Writes wait no longer.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a copy may take.
const COPY_MAX: Duration = Duration::from_secs(4 * 3_600);
const LOOK: Duration = Duration::from_secs(2);
/// Writes that each kind of writers has acknowledged after the move before they end.
const WRITES_AFTER: usize = 30;

/// One relocation and the people of both its regions.
struct Relocation<'a> {
    source: &'a People,
    destination: &'a People,
    dataset: DatasetId,
    plan: String,
    id: String,
}

/// Three of each in both, and a gateway.
pub(crate) fn plan() -> FederationPlan {
    let region = |id: &str, jurisdiction: &str| RegionPlan {
        region: id.parse().expect("a valid region id"),
        jurisdiction: jurisdiction.parse().expect("a valid jurisdiction"),
        nodes: 3,
        kms: 3,
        gateways: 1,
        shards: 1,
        custodians: (5, 3),
    };
    FederationPlan {
        regions: vec![region(DESTINATION, "CH"), region(SOURCE, "RU")],
        upload_epoch_seconds: None,
    }
}

pub(crate) async fn story(
    local: &mut Local,
    options: &Options,
    clock: &mut RegionClock,
    table: &mut Table,
) -> Result<()> {
    let mow = People::of(local, SOURCE, clock.file())?;
    let zrh = People::of(local, DESTINATION, clock.file())?;
    table.row(
        "regions",
        format!("{SOURCE}, {DESTINATION}: 3 nodes, 3 KMS replicas, a gateway each"),
    );
    table.step("people of both regions trust the other one, by fingerprints");
    let (of_zrh, of_mow) = (mow.trust(&zrh).await?, zrh.trust(&mow).await?);
    mow.heard().await?;
    zrh.heard().await?;
    table.row(
        "trust",
        format!("two approvals each: {SOURCE} {of_mow}, {DESTINATION} {of_zrh}"),
    );

    table.step("store the tree and the large objects in ru-mow");
    let content = Content::collect(local, options)?;
    let app = connect(local, SOURCE, APP).await?;
    let dataset = app
        .create_dataset(&DATASET.parse()?, &CreateOptions::default())
        .await?;
    content.store(&dataset, table).await?;
    table.step("the enemy takes copies of disks and a backup");
    let loot = attack::take(local, dataset.id(), table).await?;

    table.step("writers by SDK and S3 begin; plan, begin, grant");
    app.follow_to([local.federation.region(DESTINATION)?.context(APP)]);
    let here = endpoint(local, SOURCE).await?;
    let there = endpoint(local, DESTINATION).await?;
    let load = Load::begin(&app, &here, &there).await?;
    let relocation = begun(&mow, &zrh, dataset.id(), table).await?;
    table.step("gateways of ch-zrh copy while it is written");
    copied(&relocation, &load, table).await?;
    table.step("cutover");
    let written = cut_over(&relocation, load, table).await?;

    table.step("compare every object in ch-zrh, byte for byte");
    let moved = connect(local, DESTINATION, APP).await?;
    let moved = moved.dataset(&DATASET.parse()?).await?;
    ensure!(moved.id() == dataset.id(), "another dataset");
    content.is_in(&moved, &written, table).await?;
    gone_from(local, &here, table).await?;

    table.step("shred both sides; a week of region time passes; the certificate");
    ending::shred(&relocation, clock, table).await?;
    ending::certify(&relocation, table).await?;
    table.step("ru-mow's root key is replaced and the old one retired");
    attack::shares_suffice(&relocation)?;
    let shares = local.federation.dir.join("enemy-shares");
    let holders = ending::retire(&relocation, &shares, table).await?;

    table.step("the enemy: all of ru-mow, and fewer old shares than it takes");
    let left = (shares.as_path(), &holders[..]);
    attack::run(local, &relocation, &loot, left, table).await?;
    table.step("search every disk, the backup and memory for the canary");
    let needles = [Needle::new("the canary", content.work.canary.as_bytes())];
    // What is read meanwhile lies open in the gateway, and nowhere else.
    let reading = Reading::begin(&there, &content).await?;
    search::run(local, &needles, &loot.backup, table)?;
    attack::memory(local, &needles, table)?;
    reading.rest().await
}

/// A gateway of a region, with an access key of a service there.
async fn endpoint(local: &Local, region: &str) -> Result<Endpoint> {
    let region = local.federation.region(region)?;
    let gateway = region.living(Kind::Gateway).next().context("a gateway")?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let principal = Identity::new(region.region.clone(), Role::Service, "demo")?;
    let approvers = ceremony::approvers(region)?;
    let key = operator.create_access_key(&principal, &approvers).await?;
    Ok(Endpoint {
        address: gateway.endpoint.clone(),
        region: region.region.to_string(),
        credentials: Credentials::new(key.secret.id().to_string(), key.secret.text().as_str()),
    })
}

/// Planned and granted by the source's people, begun by the destination's.
async fn begun<'a>(
    source: &'a People,
    destination: &'a People,
    dataset: DatasetId,
    table: &mut Table,
) -> Result<Relocation<'a>> {
    let plan = source.file("plan.json");
    let make = ["relocate", "plan", DATASET, "--to", DESTINATION];
    source
        .operator(&[&make[..], &["--out", &plan]].concat())
        .await?;
    let written: Value = serde_json::from_slice(&std::fs::read(&plan)?)?;
    let id = written["relocation"].as_str().context("an id")?.to_owned();
    table.row("plan", format!("no blockers; relocation {id}"));
    let began = Instant::now();
    let offer = destination.file("offer.bin");
    destination
        .approved(&["relocate", "begin", &plan, "--out", &offer])
        .await?;
    source
        .approved(&["relocate", "grant", &plan, &offer])
        .await?;
    table.row(
        "begin and grant",
        format!(
            "two approvals each, {} ms; from here on gateways act",
            began.elapsed().as_millis()
        ),
    );
    Ok(Relocation {
        source,
        destination,
        dataset,
        plan,
        id,
    })
}

impl Relocation<'_> {
    async fn status(&self) -> Result<Value> {
        self.destination
            .json(&["relocate", "status", &self.id])
            .await
    }
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or_default()
}

/// Waits until writes are all that is left to follow and compare.
async fn copied(relocation: &Relocation<'_>, load: &Load, table: &mut Table) -> Result<()> {
    let began = Instant::now();
    let mut phase = Value::Null;
    let status = loop {
        // A moment without an answer is no failure of it.
        let status = relocation.status().await.unwrap_or_default();
        if status["phase"] != phase && status["phase"].is_string() {
            phase = status["phase"].clone();
            table.step(&format!("  it is {}", phase.as_str().unwrap_or_default()));
        }
        let (versions, compared) = (number(&status, "versions"), number(&status, "compared"));
        // Writers go on: some of the newest are always still to be compared.
        if phase == "verifying" && versions > 0 && compared * 100 >= versions * 95 {
            break status;
        }
        load.holds()?;
        if began.elapsed() > COPY_MAX {
            bail!("not copied in time: {status}");
        }
        tokio::time::sleep(LOOK).await;
    };
    let took = began.elapsed();
    table.rate(
        "copied and compared while written",
        number(&status, "versions"),
        number(&status, "moved_bytes"),
        took,
    );
    table.row(
        "copies compared before the cutover",
        format!(
            "{} of {}, {} failed tries of the mover",
            number(&status, "compared"),
            number(&status, "versions"),
            number(&status, "failures")
        ),
    );
    Ok(())
}

/// The dataset is served in ch-zrh, and its writers have followed.
async fn cut_over(relocation: &Relocation<'_>, load: Load, table: &mut Table) -> Result<Written> {
    let asked = Instant::now();
    let cutover = ["relocate", "cutover", &relocation.id, "--pause-ms", "5000"];
    let wait = ["--hold-days", "0", "--wait"];
    relocation
        .destination
        .operator(&[&cutover[..], &wait].concat())
        .await?;
    let served = Instant::now();
    until("writers go on in ch-zrh", async || {
        for by in [By::Sdk, By::S3] {
            let writes = load.since(by, served);
            ensure!(writes >= WRITES_AFTER, "{writes} writes by {by:?} so far");
        }
        Ok(())
    })
    .await?;
    load.holds()?;
    let pauses = [By::Sdk, By::S3].map(|by| load.longest_pause(by, asked));
    let written = load.end().await?;
    let status = relocation.status().await?;
    let pause_ms = number(&status, "pause_ms");
    table.row(
        "load",
        format!(
            "{} requests, 0 failed after retry, {} retried, longest {} ms",
            written.requests,
            written.retried,
            written.longest.as_millis()
        ),
    );
    table.row(
        "write pause",
        format!(
            "{pause_ms} ms from fence to move; as writers saw it {} ms by SDK, {} ms by S3",
            pauses[0].as_millis(),
            pauses[1].as_millis()
        ),
    );
    ensure!(status["phase"] == "hold", "{status}");
    ensure!(
        0 < pause_ms && Duration::from_millis(pause_ms) <= PAUSE_MAX,
        "writes were paused for {pause_ms} ms"
    );
    ensure!(
        pauses.iter().all(|pause| *pause <= PAUSE_MAX),
        "writers waited longer than {} s: {pauses:?}",
        PAUSE_MAX.as_secs()
    );
    ensure!(
        written.redirected > 0,
        "nobody was told by S3 where it is now"
    );
    table.row(
        "writers by S3",
        format!(
            "{} were answered 301 by {SOURCE} and went on in {DESTINATION}",
            written.redirected
        ),
    );
    Ok(written)
}

/// The source serves it no more, and says where it is.
async fn gone_from(local: &Local, here: &Endpoint, table: &mut Table) -> Result<()> {
    let mut s3 = Client::new(here, DATASET)?;
    let answer = s3.ask(&Request::new(Method::Get, HUGE)).await?;
    let status = answer.status();
    ensure!(
        status == StatusCode::MOVED_PERMANENTLY,
        "the old endpoint answers {status}"
    );
    // Somebody who knows no other region.
    let region = connect(local, SOURCE, APP).await?;
    match region.dataset(&DATASET.parse()?).await {
        Err(client::Error::Moved {
            region: Some(region),
        }) => ensure!(
            region.as_str() == DESTINATION,
            "it is said to be in {region}"
        ),
        Ok(_) => bail!("{SOURCE} still serves it"),
        Err(error) => bail!("{SOURCE} does not say where it is: {error}"),
    }
    table.row(
        "asked in ru-mow",
        format!("301 by S3; by SDK: it is in {DESTINATION}"),
    );
    Ok(())
}

/// A read that is under way: the gateway has opened what nobody has taken yet.
struct Reading {
    s3: Client,
    answer: UnsyncBoxBody<Bytes, anyhow::Error>,
}

impl Reading {
    async fn begin(there: &Endpoint, content: &Content) -> Result<Self> {
        let mut s3 = Client::new(there, DATASET)?;
        let answer = s3.ask(&Request::new(Method::Get, HUGE)).await?;
        let status = answer.status();
        ensure!(status == StatusCode::OK, "S3 says {status}");
        let answer = answer.into_body().map_err(anyhow::Error::from);
        let mut answer = answer.boxed_unsync();
        let first = answer.frame().await.context("a first piece")??;
        let first = first.into_data().ok().context("bytes")?;
        ensure!(
            content.huge.starts_with(&first),
            "a read begins with other bytes"
        );
        Ok(Self { s3, answer })
    }

    /// Reads the rest, which is whole.
    async fn rest(mut self) -> Result<()> {
        while let Some(frame) = self.answer.frame().await {
            frame.context("the rest of a read")?;
        }
        self.s3.hang_up();
        Ok(())
    }
}
