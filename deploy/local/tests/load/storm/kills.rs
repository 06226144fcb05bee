//! Kill -9 of any one process every two seconds, by its own id, and what brings it back: a supervisor that starts it
//! again at once, and operators who have its peers unseal it. And the same without hurry: a rolling restart.
//!
//! Owns the deck: each process once, in an order by chance, before any comes again. Refuses to kill one that is not up
//! again yet: it waits for its turn.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use local::launch::ask;
use local::{Local, RegionEntry, Service, ceremony};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const REGION: &str = "ch-zrh";
const EVERY: Duration = Duration::from_secs(2);
/// How long one look at who is sealed may take, before it is looked again at who runs.
const UNSEAL_MAX: Duration = Duration::from_secs(5);
const UNSEAL_PAUSE: Duration = Duration::from_millis(200);
/// How long the region may take to be ready once nobody is killed any more.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// How often each process was killed.
pub(crate) type Kills = BTreeMap<String, u32>;

/// Kills until `length` is over, and waits until everybody is up, unsealed and ready.
pub(crate) async fn storm(local: &mut Local, mut rng: StdRng, length: Duration) -> Result<Kills> {
    let (runs, running) = watch::channel(local.federation.region(REGION)?.clone());
    let unsealing = operators(running)?;
    let (mut kills, mut deck) = (Kills::new(), Vec::new());
    let end = Instant::now() + length;
    let mut turns = interval(EVERY);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    turns.tick().await;
    loop {
        turns.tick().await;
        if Instant::now() >= end {
            break;
        }
        if deck.is_empty() {
            deck = local
                .services()
                .map(|service| service.name.clone())
                .collect();
            deck.shuffle(&mut rng);
        }
        // Started again at once, so that it runs by the time of the next turn.
        let Some(name) = deck.pop() else { continue };
        tokio::task::block_in_place(|| {
            local.kill(&name)?;
            local.start(&name)
        })
        .with_context(|| format!("after {kills:?}, {name}"))?;
        *kills.entry(name).or_default() += 1;
        runs.send_replace(local.federation.region(REGION)?.clone());
    }
    drop(runs);
    let ended = tokio::task::block_in_place(|| unsealing.join());
    ensure!(ended.is_ok(), "who unseals has panicked");
    ceremony::unseal(local.federation.region(REGION)?).await?;
    ready(local).await?;
    Ok(kills)
}

/// Asks each process in turn to end, starts it again and waits until everybody is ready. How often each was.
pub(crate) async fn rolling_restart(local: &mut Local) -> Result<Kills> {
    let names: Vec<String> = local.services().map(|one| one.name.clone()).collect();
    let mut restarts = Kills::new();
    for name in names {
        local.restart(&name).await.with_context(|| name.clone())?;
        ready(local).await?;
        *restarts.entry(name).or_default() += 1;
    }
    Ok(restarts)
}

/// A thread of those who unseal whoever is sealed, until nobody says any more who runs. What they do cannot move between
/// threads, and is to go on while a process is waited for.
fn operators(running: watch::Receiver<RegionEntry>) -> Result<JoinHandle<()>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build()?;
    let unsealing = async move |mut running: watch::Receiver<RegionEntry>| {
        loop {
            let region = running.borrow_and_update().clone();
            match timeout(UNSEAL_MAX, ceremony::unseal(&region)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = format!("{error:#}"), "not unsealed"),
                Err(_) => tracing::debug!("not unsealed in time"),
            }
            // One that was started is sealed a moment later, which nobody tells: they look again.
            if let Ok(Err(_)) = timeout(UNSEAL_PAUSE, running.changed()).await {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("operators".to_owned());
    Ok(thread.spawn(move || runtime.block_on(unsealing(running)))?)
}

async fn ready(local: &Local) -> Result<()> {
    let end = Instant::now() + READY_MAX;
    loop {
        let services: Vec<Service> = local.services().cloned().collect();
        let asked = tokio::task::spawn_blocking(move || {
            let mut statuses = services.iter().map(ask);
            statuses.find(|status| !status.ready)
        });
        match asked.await? {
            None => return Ok(()),
            Some(status) if Instant::now() > end => {
                bail!("{} is not ready: {}", status.name, status.says.trim())
            }
            Some(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
