//! A client's way into a region that may be dead.
//!
//! Owns the patience: contact and datasets are asked for until they are there or the run ends. Deadlines are short, so
//! that an operation of unknown outcome is known to be one soon.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use client::{CreateOptions, Dataset, Error, Fault, Region, Tuning};
use proto::ids::DatasetName;
use tokio::time::{Instant, timeout};

use super::{Access, Stop};

/// How long one request of an operation may take, tries included.
const DEADLINE: Duration = Duration::from_secs(4);
const TRY: Duration = Duration::from_millis(1_500);
/// Between two attempts to reach a region.
const PAUSE: Duration = Duration::from_millis(200);
/// The last look is patient: the region has been healed.
const LAST_DEADLINE: Duration = Duration::from_secs(20);
/// How long one last look may be tried.
pub(super) const LAST_LOOK_MAX: Duration = Duration::from_secs(90);
/// How long the first contact may take when it is only one attempt.
const CONTACT_MAX: Duration = Duration::from_secs(10);

/// Short deadlines, one try after the other.
pub(super) fn tuning() -> Tuning {
    Tuning {
        deadline: DEADLINE,
        try_timeout: TRY,
        ..Tuning::default()
    }
}

impl Access {
    /// One attempt at a connection of its own.
    pub(super) async fn attempt(&self, identity: &str) -> Result<Region, Error> {
        let context = self.region.context(identity);
        let contact = Region::connect(&context, tuning());
        timeout(CONTACT_MAX, contact).await.unwrap_or_else(|_| {
            Err(Error::Unavailable {
                reason: "late".to_owned(),
                message: "no contact in time".to_owned(),
            })
        })
    }

    /// A connection, unless the run ends before there is one.
    pub(super) async fn connect(&self, identity: &str, stop: &mut Stop) -> Result<Option<Region>> {
        while !stop.is_now() {
            match self.attempt(identity).await {
                Ok(region) => return Ok(Some(region)),
                Err(error) if is_ours(&error) => return Err(error).context("connecting"),
                Err(_) => stop.pause(PAUSE).await,
            }
        }
        Ok(None)
    }

    /// The workload's dataset, made if it is not there; none if the run ends before.
    pub(super) async fn dataset(
        &self,
        region: &Region,
        name: &str,
        versioning: bool,
        stop: &mut Stop,
    ) -> Result<Option<Dataset>> {
        let name: DatasetName = format!("{name}-{:x}", self.seed).parse()?;
        let options = CreateOptions { versioning };
        while !stop.is_now() {
            let found = match region.dataset(&name).await {
                Err(Error::NoSuchDataset) => region.create_dataset(&name, &options).await,
                found => found,
            };
            match found {
                Ok(dataset) => return Ok(Some(dataset)),
                Err(error) if is_ours(&error) => return Err(error).context("making a dataset"),
                Err(_) => stop.pause(PAUSE).await,
            }
        }
        Ok(None)
    }

    /// A connection of its own and the workload's dataset on it: who leads is learnt by each client for itself, so
    /// that one goes on asking a deposed leader while another has found the next. None if the run ends before.
    pub(super) async fn contact(
        &self,
        identity: &str,
        name: &str,
        versioning: bool,
        stop: &mut Stop,
    ) -> Result<Option<Dataset>> {
        match self.connect(identity, stop).await? {
            Some(region) => self.dataset(&region, name, versioning, stop).await,
            None => Ok(None),
        }
    }

    /// A connection for the last look. It has to come about.
    pub(super) async fn last_connect(&self, identity: &str) -> Result<Region> {
        let tuning = Tuning {
            deadline: LAST_DEADLINE,
            ..Tuning::default()
        };
        let context = self.region.context(identity);
        let end = Instant::now() + LAST_LOOK_MAX;
        loop {
            match Region::connect(&context, tuning.clone()).await {
                Ok(region) => return Ok(region),
                Err(error) if Instant::now() > end => {
                    return Err(error).context("connecting for the last look");
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// The workload's dataset for the last look.
    pub(super) async fn last_dataset(&self, region: &Region, name: &str) -> Result<Dataset> {
        let name: DatasetName = format!("{name}-{:x}", self.seed).parse()?;
        insist("finding the dataset", async || region.dataset(&name).await).await
    }
}

/// Tries until it works or the last look has taken too long.
pub(super) async fn insist<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, Error>,
) -> Result<T> {
    let end = Instant::now() + LAST_LOOK_MAX;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => bail!("{what}: {error}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// No fault of the region explains it: files or names of this harness are wrong.
fn is_ours(error: &Error) -> bool {
    error.fault() == Fault::Caller
        && matches!(
            error.reason(),
            "bad-ca" | "bad-identity" | "other-region" | "bad-id"
        )
}
