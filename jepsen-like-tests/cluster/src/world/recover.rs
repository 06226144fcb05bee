//! The way back: every fault taken away, everybody up, unsealed, ready and led.
//!
//! Owns the order. Refuses to call a region recovered of which one member is not ready or one group not led.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use local::{Service, ServiceStatus, launch, process};

use super::{LOOK, World};
use crate::nemesis;

/// How long a region without faults may take to be whole again: members that rejoin fetch every block.
const WHOLE_MAX: Duration = Duration::from_secs(180);

/// How a region came back.
#[derive(Debug, Clone, Default)]
pub struct Recovery {
    /// From the first step to everything ready and led.
    pub took: Duration,
    /// Of that, the time after the last fault was gone and the last process had been started.
    pub settled_after: Duration,
    /// What was healed, in words.
    pub healed: Vec<String>,
}

impl World {
    /// Heals everything, restarts what is down, replaces what is lost, unseals, and waits until the region is whole.
    pub async fn heal_all(&mut self) -> Result<Recovery> {
        let began = Instant::now();
        let healed = nemesis::heal_everything(self).await?;
        let faultless = Instant::now();
        self.whole().await?;
        Ok(Recovery {
            took: began.elapsed(),
            settled_after: faultless.elapsed(),
            healed,
        })
    }

    /// Waits until every member is ready and every group is led.
    pub async fn whole(&self) -> Result<()> {
        let end = Instant::now() + WHOLE_MAX;
        loop {
            let unready = self.unready().await?;
            let lacks = match unready.first() {
                Some(status) => format!("{} is not ready: {}", status.name, status.says.trim()),
                None => match self.headless().await {
                    Ok(None) => return Ok(()),
                    Ok(Some(group)) => format!("{group} has no leader"),
                    Err(error) => format!("{error:#}"),
                },
            };
            if let Some(ended) = unready.iter().find(|status| !status.running) {
                bail!("{} has ended: {}", ended.name, self.last_words(&ended.name));
            }
            if Instant::now() > end {
                bail!("the region is not whole within {WHOLE_MAX:?}: {lacks}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn headless(&self) -> Result<Option<super::Group>> {
        Ok(self.claims().await?.headless())
    }

    /// Members that do not say they are ready.
    async fn unready(&self) -> Result<Vec<ServiceStatus>> {
        let services: Vec<Service> = self.services(None);
        let asked = tokio::task::spawn_blocking(move || {
            let statuses = services.iter().map(launch::ask);
            statuses.filter(|status| !status.ready).collect()
        });
        asked.await.context("asking who is ready")
    }

    /// The end of a service's log.
    pub fn last_words(&self, name: &str) -> String {
        const LINES: usize = 4;
        let log = self.local.federation.service(name).map(|s| s.log.clone());
        let text = log.ok().and_then(|log| std::fs::read(log).ok());
        let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    /// Starts every member that is down and not lost: all at once, as after a power cut.
    pub(crate) fn start_stopped(&mut self) -> Result<Vec<String>> {
        let mut names: Vec<_> = self.services(None);
        names.retain(|s| !process::is_running(s) && !self.lost.contains_key(&s.name));
        let names: Vec<_> = names.into_iter().map(|service| service.name).collect();
        tokio::task::block_in_place(|| self.local.start_all_of(&names))?;
        Ok(names)
    }
}
