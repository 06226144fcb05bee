//! Where services live: addresses, data folders, and how a daemon is started there.
//!
//! Owns the hook by which tests put services into network namespaces and onto faulty volumes. Refuses to know what is
//! started: identities, configurations and processes are the launcher's.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};

use crate::federation::Service;

/// Where one service lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it listens, `host:port`.
    pub endpoint: String,
    /// Where its health port is.
    pub health: String,
    /// Where a KMS replica serves the log's checkpoints and hash tiles.
    pub log_http: String,
    /// Where a gateway serves S3 over TLS.
    pub https: String,
    /// Its data folder.
    pub data: PathBuf,
}

/// Gives services their places.
pub trait Places: fmt::Debug + Send + Sync {
    /// A place for the service `name`, before it has keys or a configuration. Its other files lie at `base`.
    fn make(&self, name: &str, base: &Path) -> Result<Place>;

    /// What was made so far is used from now on.
    fn settled(&self);

    /// How its daemon is started. The process that is started has to become the daemon, by exec; its configuration is
    /// added to the arguments.
    fn command(&self, service: &Service, binary: &Path) -> Command;

    /// The service is gone for good.
    fn vacated(&self, service: &Service) -> Result<()>;
}

/// Ports of 127.0.0.1.
///
/// They are found by binding them; the listeners are held until all are chosen, so that none is given twice.
#[derive(Debug, Default)]
pub struct Loopback(Mutex<Vec<TcpListener>>);

/// Ports of services: below those that the system gives to connections, which would take the port of a service that
/// is down for a moment.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const PORT_TRIES: usize = 1_000;

impl Loopback {
    fn take(&self) -> Result<String> {
        for _ in 0..PORT_TRIES {
            let port = rand::random_range(PORTS);
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                let address = listener.local_addr()?.to_string();
                self.held().push(listener);
                return Ok(address);
            }
        }
        bail!(
            "no free port on 127.0.0.1 from {} to {}",
            PORTS.start,
            PORTS.end
        )
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Vec<TcpListener>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places for Loopback {
    fn make(&self, _: &str, base: &Path) -> Result<Place> {
        Ok(Place {
            endpoint: self.take()?,
            health: self.take()?,
            log_http: self.take()?,
            https: self.take()?,
            data: base.to_owned(),
        })
    }

    fn settled(&self) {
        self.held().clear();
    }

    fn command(&self, _: &Service, binary: &Path) -> Command {
        Command::new(binary)
    }

    fn vacated(&self, _: &Service) -> Result<()> {
        Ok(())
    }
}
