//! Where services live: addresses, data folders, and how a daemon is started there.
//!
//! Owns the hook by which tests put services into network namespaces and onto faulty volumes. Refuses to know what is
//! started: identities, configurations and processes are the launcher's.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

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
    /// Where a KMS replica or a storage node listens for other regions.
    pub federation: String,
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
/// They are found by binding them; the listeners are held until all are chosen, so that none is given twice. Between
/// then and the moment a daemon listens, and whenever one is down, a port is free for anyone: so each is claimed as
/// well, among all launchers of this machine, for as long as this value lives.
#[derive(Debug, Default)]
pub struct Loopback {
    listeners: Mutex<Vec<TcpListener>>,
    claims: Mutex<Vec<File>>,
}

/// Ports of services: below those that the system gives to connections, which would take the port of a service that
/// is down for a moment.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
const PORT_TRIES: usize = 1_000;

impl Loopback {
    fn take(&self) -> Result<String> {
        for _ in 0..PORT_TRIES {
            let port = rand::random_range(PORTS);
            let Some(claim) = claim(port)? else {
                continue;
            };
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                let address = listener.local_addr()?.to_string();
                locked(&self.listeners).push(listener);
                locked(&self.claims).push(claim);
                return Ok(address);
            }
        }
        bail!(
            "no free port on 127.0.0.1 from {} to {}",
            PORTS.start,
            PORTS.end
        )
    }
}

/// Claims a port among all launchers of this user: an empty file under the system's temporary folder, locked while it
/// is open. `None` where another launcher has it.
fn claim(port: u16) -> Result<Option<File>> {
    let user = fs::metadata("/proc/self")
        .context("asking who we are")?
        .uid();
    let dir = std::env::temp_dir().join(format!("reduit-ports-{user}"));
    fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    // Everybody may make folders there, and links.
    let made = fs::symlink_metadata(&dir)?;
    ensure!(
        made.is_dir() && made.uid() == user,
        "{} is somebody else's",
        dir.display()
    );
    let path = dir.join(port.to_string());
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("creating {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("locking {}", path.display()))
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places for Loopback {
    fn make(&self, _: &str, base: &Path) -> Result<Place> {
        Ok(Place {
            endpoint: self.take()?,
            health: self.take()?,
            log_http: self.take()?,
            https: self.take()?,
            federation: self.take()?,
            data: base.to_owned(),
        })
    }

    fn settled(&self) {
        locked(&self.listeners).clear();
    }

    fn command(&self, _: &Service, binary: &Path) -> Command {
        Command::new(binary)
    }

    fn vacated(&self, _: &Service) -> Result<()> {
        Ok(())
    }
}
