//! Rooms: where the world puts each service.
//!
//! Owns, a service, its namespace and address, its volume where disks are to fail, and its clock where clocks are to
//! move; and how its daemon is started in all three. Refuses to know what a service is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use faults::control::Command as ToVolume;
use faults::mount::Mounted;
use faults::volume::Counts;
use local::Service;
use local::place::{Place, Places};
use parking_lot::Mutex;

use crate::net::{Net, namespace_file};

/// Services' ports; every service has an address of its own.
const PORT: u16 = 7_000;
const HEALTH_PORT: u16 = 7_001;
const LOG_PORT: u16 = 7_002;
const HTTPS_PORT: u16 = 7_003;
/// Where nodes and KMS replicas listen for other regions.
pub(crate) const FEDERATION_PORT: u16 = 7_004;
/// No volume outlives this: longer than any run.
const VOLUME_LIVES_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Where Debian puts libfaketime for programs with threads.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// What libfaketime calls its page of shared memory and its semaphore; the process id follows.
const CLOCK_PAGES: [&str; 2] = ["faketime_shm_", "sem.faketime_sem_"];
/// The offset of a clock that is right.
pub(crate) const RIGHT: f64 = 0.0;

/// What every room has.
#[derive(Debug, Clone, Default)]
pub struct Furniture {
    /// The program `reduit-faultfs`: data folders are on volumes of it.
    pub volumes: Option<PathBuf>,
    /// Daemons run under libfaketime.
    pub clocks: bool,
    /// Their environment, besides this process's own.
    pub environment: Vec<(String, String)>,
}

/// The places of a world's services.
pub struct Rooms {
    pub(crate) net: Net,
    dir: PathBuf,
    furniture: Furniture,
    volumes: Mutex<BTreeMap<String, Arc<Mounted>>>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("dir", &self.dir).finish()
    }
}

impl Rooms {
    /// Rooms on `net`; volumes and clocks lie below `dir`.
    pub(crate) fn new(net: Net, dir: &Path, furniture: Furniture) -> Result<Self> {
        if furniture.clocks && !Path::new(FAKETIME).is_file() {
            bail!("{FAKETIME} is missing: apt-get install --no-install-recommends libfaketime");
        }
        std::fs::create_dir_all(dir.join("clocks"))?;
        Ok(Self {
            net,
            dir: dir.to_owned(),
            furniture,
            volumes: Mutex::default(),
        })
    }

    /// Whether clocks can be moved.
    pub(crate) fn has_clocks(&self) -> bool {
        self.furniture.clocks
    }

    /// Whether disks can fail.
    pub(crate) fn has_volumes(&self) -> bool {
        self.furniture.volumes.is_some()
    }

    /// Moves a service's wall clock to `seconds` beside the real one.
    pub(crate) fn set_clock(&self, name: &str, seconds: f64) -> Result<()> {
        let path = self.clock(name);
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, format!("{seconds:+.3}\n"))?;
        // Replaced whole: it is read at any moment.
        std::fs::rename(fresh, path).with_context(|| format!("moving the clock of {name}"))
    }

    /// Has a service's volume do something.
    pub(crate) fn volume(&self, name: &str, command: ToVolume) -> Result<Counts> {
        let volume = self.volumes.lock().get(name).cloned();
        let volume = volume.with_context(|| format!("{name} has no volume"))?;
        volume
            .send(command)
            .with_context(|| format!("{command:?} to the volume of {name}"))
    }

    /// What is on the platter of a service's volume.
    pub(crate) fn backing(&self, name: &str) -> PathBuf {
        self.room(name).join("backing")
    }

    fn room(&self, name: &str) -> PathBuf {
        self.dir.join("volumes").join(name.replace('/', "."))
    }

    fn clock(&self, name: &str) -> PathBuf {
        self.dir.join("clocks").join(name.replace('/', "."))
    }

    /// What stands before the daemon's own name.
    pub(crate) fn before(&self, name: &str) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["nsenter".into()];
        words.push(format!("--net={}", namespace_file(name).display()).into());
        words.push("env".into());
        for (key, value) in &self.furniture.environment {
            words.push(format!("{key}={value}").into());
        }
        if self.furniture.clocks {
            words.push(format!("LD_PRELOAD={FAKETIME}").into());
            let mut file = OsString::from("FAKETIME_TIMESTAMP_FILE=");
            file.push(self.clock(name));
            words.push(file);
            words.push("FAKETIME_NO_CACHE=1".into());
            words.push("FAKETIME_DONT_FAKE_MONOTONIC=1".into());
            words.push("DONT_FAKE_MONOTONIC=1".into());
        }
        words
    }
}

impl Places for Rooms {
    fn make(&self, name: &str, base: &Path) -> Result<Place> {
        let address = self.net.attach(name)?;
        self.set_clock(name, RIGHT)?;
        let mut data = base.to_owned();
        if let Some(faultfs) = &self.furniture.volumes {
            let room = self.room(name);
            std::fs::create_dir_all(&room)?;
            let Some(volume) = Mounted::or_skip(faultfs, &room, VOLUME_LIVES_MAX)? else {
                bail!("volumes cannot be mounted here");
            };
            data = volume.path().join("data");
            std::fs::create_dir(&data)?;
            // Who makes a folder makes its name durable: the daemon that is given it does not.
            std::fs::File::open(volume.path())?.sync_all()?;
            self.volumes
                .lock()
                .insert(name.to_owned(), Arc::new(volume));
        }
        Ok(Place {
            endpoint: format!("{address}:{PORT}"),
            health: format!("{address}:{HEALTH_PORT}"),
            log_http: format!("{address}:{LOG_PORT}"),
            https: format!("{address}:{HTTPS_PORT}"),
            federation: format!("{address}:{FEDERATION_PORT}"),
            data,
        })
    }

    fn settled(&self) {}

    fn command(&self, service: &Service, binary: &Path) -> Command {
        if self.furniture.clocks {
            drop_dead_clocks(Path::new("/dev/shm"), Path::new("/proc"));
        }
        let words = self.before(&service.name);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(binary);
        command
    }

    fn vacated(&self, service: &Service) -> Result<()> {
        self.volumes.lock().remove(&service.name);
        self.net.detach(&service.name)
    }
}

/// Removes what libfaketime left of processes that are gone. Who is killed leaves it behind, process ids come round,
/// and a process that finds another's page without its semaphore ends before its first line.
fn drop_dead_clocks(shm: &Path, proc: &Path) {
    for entry in std::fs::read_dir(shm).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = CLOCK_PAGES.iter().find_map(|page| name.strip_prefix(page));
        if pid.is_some_and(|pid| !proc.join(pid).exists()) {
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_the_dead_are_dropped_and_those_of_the_living_and_others_files_stay() {
        let dir = tempfile::tempdir().expect("a folder");
        let (shm, proc) = (dir.path().join("shm"), dir.path().join("proc"));
        std::fs::create_dir_all(proc.join("7")).expect("a process");
        std::fs::create_dir(&shm).expect("shared memory");
        for page in CLOCK_PAGES {
            for pid in ["7", "8"] {
                std::fs::write(shm.join(format!("{page}{pid}")), "").expect("a page");
            }
        }
        std::fs::write(shm.join("sem.of-others"), "").expect("a file");
        drop_dead_clocks(&shm, &proc);
        let left = std::fs::read_dir(&shm).expect("readable");
        let mut left: Vec<_> = left
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(
            left,
            ["faketime_shm_7", "sem.faketime_sem_7", "sem.of-others"]
        );
    }
}
