//! The running process: listeners, one thread a followed log, one stop for all.
//!
//! Owns starting in an order in which nothing is half there, and stopping. Refuses to start without its state, its keys
//! and its ports; a log that cannot be reached does not keep it from starting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tlog::VerifierKey;
use tokio::sync::watch;
use tokio::task::JoinSet;
use transport::SharedClock;

use crate::alarm::Alarms;
use crate::config::Config;
use crate::cosigned::{CosignedLog, StateError, StateFolder};
use crate::keys::{self, KeyFileError};
use crate::monitor::{Follower, MonitorError, Watched};
use crate::status::{self, Board};
use crate::submit::Submissions;
use crate::{durable, http};

/// Why a witness did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was cosigned before cannot be used.
    #[error("the witness's state")]
    State(#[from] StateError),
    /// A key to cosign with.
    #[error("the witness's keys")]
    Key(#[from] KeyFileError),
    /// Two files of one key.
    #[error("the key {0:?} is configured twice")]
    KeyTwice(VerifierKey),
    /// A log cannot be followed as configured.
    #[error("the monitor of {origin}")]
    Monitor {
        /// Which log.
        origin: String,
        /// Why.
        #[source]
        source: Box<MonitorError>,
    },
    /// A port or folder.
    #[error("{what}")]
    Io {
        /// What it is for.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A witness and its monitors, serving.
pub struct Witness {
    address: SocketAddr,
    status_address: Option<SocketAddr>,
    board: Arc<Board>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// Other processes may use the state once this is dropped, after the tasks have ended.
    _state: StateFolder,
}

impl Witness {
    /// Starts everything that `config` names.
    pub async fn start(config: &Config, clock: SharedClock) -> Result<Self, StartError> {
        let state = StateFolder::take(&config.state_dir)?;
        let signers = config.keys.iter().map(|path| keys::load(path));
        let signers = signers.collect::<Result<Vec<_>, _>>()?;
        let own: Vec<_> = signers.iter().map(|s| s.verifier().clone()).collect();
        for (at, key) in own.iter().enumerate() {
            if own[..at].contains(key) {
                return Err(StartError::KeyTwice(key.clone()));
            }
        }
        let alarms_file = config.alarms_file();
        let above = alarms_file
            .parent()
            .filter(|above| !above.as_os_str().is_empty());
        above
            .map_or(Ok(()), durable::create_folder)
            .map_err(|source| io_error("the folder of alarms", source))?;
        let alarms = Arc::new(Alarms::to_file(alarms_file));
        let (mut logs, mut followers) = (Vec::new(), Vec::new());
        for of in &config.logs {
            let log = Arc::new(CosignedLog::open(&state, of, alarms.clone())?);
            if let Some(monitor) = &of.monitor {
                let watched = Watched {
                    log: log.clone(),
                    alarms: alarms.clone(),
                    clock: clock.clone(),
                };
                let follower = Follower::open(watched, monitor);
                let failed = |source| StartError::Monitor {
                    origin: of.origin.to_string(),
                    source: Box::new(source),
                };
                followers.push(follower.map_err(failed)?);
            }
            logs.push(log);
        }
        let board = Arc::new(Board::new(
            own,
            &logs,
            followers.iter().map(Follower::status),
            alarms,
            clock.clone(),
        ));
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let submissions = Submissions::new(&logs, signers, clock);
        let router = submissions.router(&config.submission_prefix, &config.monitoring_prefix);
        let listener = bind(config.listen, "listen").await?;
        let address = local(&listener)?;
        let mut status_address = None;
        if let Some(listen) = config.status_listen {
            let listener = bind(listen, "status_listen").await?;
            status_address = Some(local(&listener)?);
            tasks.spawn(http::serve(
                listener,
                status::router(board.clone()),
                stopped.clone(),
            ));
        }
        tasks.spawn(http::serve(listener, router, stopped.clone()));
        for follower in followers {
            let stopped = stopped.clone();
            tasks.spawn_blocking(move || follower.run(stopped));
        }
        tracing::info!(%address, logs = logs.len(), "serving");
        Ok(Self {
            address,
            status_address,
            board,
            stop,
            tasks,
            _state: state,
        })
    }

    /// Where it listens for logs.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for people.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status_address
    }

    /// How it stands.
    pub fn status(&self) -> status::Status {
        self.board.status()
    }

    /// Lets running requests end, then ends.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn bind(address: SocketAddr, key: &str) -> Result<tokio::net::TcpListener, StartError> {
    let bound = http::bind(address).await;
    bound.map_err(|source| io_error(&format!("{key} = {address}"), source))
}

fn local(listener: &tokio::net::TcpListener) -> Result<SocketAddr, StartError> {
    let address = listener.local_addr();
    address.map_err(|source| io_error("the bound address", source))
}

fn io_error(what: &str, source: io::Error) -> StartError {
    StartError::Io {
        what: what.to_owned(),
        source,
    }
}
