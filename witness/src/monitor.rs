//! The monitor of one log: looks, verifies, hashes again, reads, remembers, and alarms.
//!
//! Owns the order of a look: a checkpoint is verified and held against the one before; then every new leaf's hash goes
//! into a tree of our own, which must come to the signed root; then the entries are read. Refuses to take back anything
//! once held, and to follow a log any further that was caught. Runs on a thread of its own and waits there.

mod copy;
mod fetch;
mod position;
mod reader;
mod steps;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tlog::{OriginLine, Policy, PolicyError, TileRefused};
use tokio::runtime::Handle;
use tokio::sync::watch;
use transport::SharedClock;

use crate::alarm::{Alarm, Alarms, Rule};
use crate::config::MonitorConfig;
use crate::cosigned::{CosignedLog, origin_hash};
use crate::durable;
use crate::status::MonitorStatus;
use copy::Copy;
use fetch::{Fetch, FetchError};
use position::Position;

pub use position::{PositionError, parse_position};
pub(crate) use reader::kind_name;
pub use reader::{DATASETS_MAX, Finding, PURPOSES_MAX, Reader};

/// Looks that must fail or show older checkpoints, one after the other, before that is more than a moment's trouble:
/// replicas of a log differ by a little.
const ROUNDS_OF_GRACE: u32 = 3;

/// Why a log is not followed.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// How far it was followed.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// Its policy file could not be read.
    #[error("the policy could not be read")]
    PolicyFile(#[source] io::Error),
    /// Its policy is none.
    #[error("the policy is not valid")]
    Policy(#[from] PolicyError),
    /// The folder of the copy.
    #[error("the folder of the copy")]
    Copy(#[source] io::Error),
    /// The identity that entries are asked for with.
    #[error("the identity to fetch entries with")]
    Identity(#[from] transport::IdentityError),
    /// The region's CA.
    #[error("the region's CA")]
    Ca(#[from] transport::CertificateError),
    /// Not `host:port`.
    #[error("the endpoint {endpoint}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it.
        #[source]
        source: tonic::transport::Error,
    },
}

/// What a look ends with when it does not get to its end.
#[derive(Debug)]
enum Trouble {
    /// Our disk: nothing may be passed over, so the look is done again from what is on the disk.
    Disk(io::Error),
    /// The log is not there, or this process stops.
    Absent(FetchError),
    /// The log shows what does not hold.
    Refused(Rule, String),
    /// The log was caught.
    Caught,
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// What a monitor shares with the rest of the process.
#[derive(Clone)]
pub(crate) struct Watched {
    pub(crate) log: Arc<CosignedLog>,
    pub(crate) alarms: Arc<Alarms>,
    pub(crate) clock: SharedClock,
}

/// Follows one log.
pub struct Follower {
    watched: Watched,
    config: MonitorConfig,
    policy: Option<Policy>,
    fetch: Arc<Fetch>,
    copy: Option<Copy>,
    position: Position,
    /// When something newer was last seen, by the clock here; at first when this process began to look.
    news_ms: u64,
    older_rounds: u32,
    entry_rounds: u32,
    /// What the witness cosigned that was found in the tree too.
    compared: Option<(u64, tlog::Hash)>,
    status: Arc<Mutex<MonitorStatus>>,
}

impl Follower {
    /// Goes on from where this log was last followed to. Within a runtime.
    pub(crate) fn open(watched: Watched, config: &MonitorConfig) -> Result<Self, MonitorError> {
        let policy = match &config.policy {
            Some(path) => {
                let bytes = durable::read(path, tlog::POLICY_BYTES_MAX as u64)
                    .and_then(|bytes| bytes.ok_or(io::ErrorKind::NotFound.into()));
                Some(Policy::parse(&bytes.map_err(MonitorError::PolicyFile)?)?)
            }
            None => None,
        };
        let origin = watched.log.origin();
        let copy = match &config.copy_dir {
            Some(folder) => {
                let folder = folder.join(origin_hash(origin));
                Some(Copy::at(folder).map_err(MonitorError::Copy)?)
            }
            None => None,
        };
        let position = Position::load(watched.log.folder(), origin)?;
        let fetch = Fetch::new(config.url.clone(), config.entries.as_ref(), &watched.clock)?;
        let news_ms = watched.clock.now().0;
        let follower = Self {
            config: config.clone(),
            policy,
            fetch: Arc::new(fetch),
            copy,
            position,
            news_ms,
            older_rounds: 0,
            entry_rounds: 0,
            compared: None,
            status: Arc::default(),
            watched,
        };
        follower.publish(None);
        Ok(follower)
    }

    /// The log, and how it stands.
    pub(crate) fn status(&self) -> (OriginLine, Arc<Mutex<MonitorStatus>>) {
        (self.watched.log.origin().clone(), self.status.clone())
    }

    /// Looks again and again until `stop` says so. On a thread that may wait.
    pub(crate) fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.fetch.stop_with(stop.clone());
        let (handle, poll) = (Handle::current(), self.config.poll());
        while !*stop.borrow() {
            self.round();
            handle.block_on(async {
                let stopped = stop.wait_for(|stop| *stop);
                let _: Result<_, _> = tokio::time::timeout(poll, stopped).await;
            });
        }
    }

    /// One look.
    pub(crate) fn round(&mut self) {
        self.fetch.begin();
        let outcome = match self.position.is_stopped {
            true => Ok(()),
            false => self.look().and_then(|()| self.silence()),
        };
        // Silence is judged even where the look did not get so far, and the first trouble is the one that is told.
        let outcome = match outcome {
            Err(Trouble::Refused(rule, text)) => {
                let begun = self.begin(rule, text.clone()).and_then(|()| self.silence());
                begun.map(|()| Some(text))
            }
            Err(Trouble::Absent(error)) => self.silence().map(|()| Some(error.to_string())),
            Err(other) => Err(other),
            Ok(()) => Ok(None),
        };
        let error = match outcome {
            Ok(error) => error,
            Err(Trouble::Disk(error)) => Some(self.start_over(&error)),
            Err(Trouble::Absent(error)) => Some(error.to_string()),
            Err(Trouble::Refused(_, text)) => Some(text),
            Err(Trouble::Caught) => None,
        };
        self.publish(error);
    }

    /// After trouble with our own disk: what was not remembered, or not told, has not happened.
    fn start_over(&mut self, error: &io::Error) -> String {
        let origin = self.watched.log.origin();
        tracing::error!(%origin, %error, "the monitor's state could not be written");
        match Position::load(self.watched.log.folder(), origin) {
            Ok(position) => self.position = position,
            Err(error) => tracing::error!(%origin, %error, "nor read"),
        }
        format!("the state here cannot be written: {error}")
    }

    fn silence(&self) -> Result<(), Trouble> {
        let now = self.watched.clock.now();
        let silent = Duration::from_millis(now.0.saturating_sub(self.news_ms));
        let minutes = self.config.rules.silence_minutes;
        if silent >= Duration::from_secs(minutes * 60) && !self.position.is_stopped {
            let text = format!("no newer checkpoint for {minutes} minutes");
            self.begin(Rule::Silence, text)
        } else {
            self.end(Rule::Silence)
        }
    }

    fn alarm(&self, rule: Rule, text: String) -> Alarm {
        let origin = self.watched.log.origin().as_str();
        Alarm::new(self.watched.clock.now(), origin, rule, text)
    }

    fn begin(&self, rule: Rule, text: String) -> Result<(), Trouble> {
        Ok(self.watched.alarms.begin(self.alarm(rule, text))?)
    }

    fn end(&self, rule: Rule) -> Result<(), Trouble> {
        let origin = self.watched.log.origin().as_str();
        Ok(self
            .watched
            .alarms
            .end(self.watched.clock.now(), origin, rule)?)
    }

    /// Why a tile was not used: it could not be fetched, or the log does not have what it signed.
    fn refused(&self, rule: Rule, refused: TileRefused) -> Trouble {
        match (self.fetch.take_trouble(), &refused) {
            (Some(error), TileRefused::Missing(_)) => Trouble::Absent(error),
            _ => {
                let mut text = refused.to_string();
                if let Some(source) = std::error::Error::source(&refused) {
                    text = format!("{text}: {source}");
                }
                Trouble::Refused(rule, text)
            }
        }
    }

    fn save(&self) -> io::Result<()> {
        let log = &self.watched.log;
        self.position.save(log.folder(), log.origin())
    }

    fn publish(&self, error: Option<String>) {
        let (position, reader) = (&self.position, &self.position.reader);
        let kinds = reader.kinds().iter().map(|(k, n)| (kind_name(*k), *n));
        *self.status.lock() = MonitorStatus {
            url: self.config.url.as_str().to_owned(),
            size: position.size(),
            root: position
                .held
                .as_ref()
                .map(|held| held.checkpoint().root().to_string()),
            hashed: position.frontier.size(),
            read: self.fetch.has_entries().then_some(position.read),
            copied: self.copy.as_ref().map(|_| position.copied),
            datasets: reader.datasets() as u64,
            kinds: kinds.collect(),
            strange: reader.strange(),
            purposes: reader.purposes().map(ToString::to_string).collect(),
            cosigned_s: Some(position.cosigned_s).filter(|time| *time > 0),
            news_ms: self.news_ms,
            looked_ms: self.watched.clock.now().0,
            is_stopped: position.is_stopped,
            error,
        };
    }
}

#[cfg(test)]
mod tests;
