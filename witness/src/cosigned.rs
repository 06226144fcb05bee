//! What was cosigned of each log: the only thing a witness must never forget.
//!
//! Owns the folder of each log, the newest checkpoint in it, and the one lock that stands from reading it until its
//! successor is on the disk. Refuses: a second process on the same state, a state file that is damaged, and one that is
//! gone although the log is known: any of them could have the witness cosign a second history.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tlog::{
    AddCheckpoint, Checkpoint, Latest, NOTE_BYTES_MAX, Note, OriginLine, SignError, SignerKey,
    UnixSeconds, VerifierKey, WitnessRefused, WitnessedLog, decide, sha256,
};
use transport::SharedClock;

use crate::alarm::{Alarm, Alarms, Evidence, Rule};
use crate::config::LogConfig;
use crate::durable;

/// What the state file of a log says that was never cosigned. A missing file is another thing: it was lost.
const NOTHING: &[u8] = b"nothing cosigned\n";
/// A clock that says less is not set; a cosignature under it would say nothing.
const EARLIEST: u64 = 1_767_225_600;

/// Why the state was not opened.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Files could not be read or written.
    #[error("state in {}", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("another process uses {}", .0.display())]
    InUse(PathBuf),
    /// A state file that is damaged.
    #[error("{} is damaged: restore nothing older, ask the log's operator and other witnesses", .0.display())]
    Damaged(PathBuf),
    /// A state file that is gone.
    #[error("{} is gone although this log is known here: what was cosigned of it is lost; retire this witness's key", .0.display())]
    Lost(PathBuf),
    /// A state file of another log.
    #[error("{} is of another log", .0.display())]
    OtherLog(PathBuf),
}

/// Why a checkpoint was not cosigned.
#[derive(Debug, thiserror::Error)]
pub enum CosignError {
    /// The log did not show what it must.
    #[error(transparent)]
    Refused(#[from] WitnessRefused),
    /// The disk: nothing was signed.
    #[error("the checkpoint could not be remembered")]
    Disk(#[source] io::Error),
    /// Signing failed.
    #[error("the checkpoint could not be signed")]
    Sign(#[source] SignError),
    /// The clock is not set.
    #[error("the clock here is not set")]
    Clock,
}

/// The folder of all state, held by this process alone.
#[derive(Debug)]
pub(crate) struct StateFolder {
    root: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Takes the folder, made where it is not there.
    pub(crate) fn take(root: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::File {
            path: root.to_owned(),
            source,
        };
        durable::create_folder(&root.join("logs")).map_err(failed)?;
        let lock = File::create(root.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err(std::fs::TryLockError::WouldBlock) => Err(StateError::InUse(root.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Where everything of one log is.
    fn of(&self, origin: &OriginLine) -> PathBuf {
        self.root.join("logs").join(origin_hash(origin))
    }
}

/// By this a log stands in paths: C2SP tlog-witness and folders alike.
pub(crate) fn origin_hash(origin: &OriginLine) -> String {
    hex::encode(sha256(&[origin.as_str().as_bytes()]).0)
}

/// One log and what was cosigned of it.
pub struct CosignedLog {
    origin: OriginLine,
    keys: Vec<VerifierKey>,
    folder: PathBuf,
    /// Held from reading until what replaces it is on the disk.
    latest: Mutex<Option<Latest>>,
    /// The same for those who only look, who do not wait for a disk; with our cosignatures since the start.
    shown: RwLock<Option<Note>>,
    alarms: Arc<Alarms>,
    answered: Mutex<BTreeMap<u16, u64>>,
    last_time_s: AtomicU64,
}

impl CosignedLog {
    pub(crate) fn open(
        state: &StateFolder,
        config: &LogConfig,
        alarms: Arc<Alarms>,
    ) -> Result<Self, StateError> {
        let folder = state.of(&config.origin);
        let latest = load(&folder, &config.origin)?;
        let failed = |source| StateError::File {
            path: folder.clone(),
            source,
        };
        let origin = config.origin.as_str();
        alarms.remember(origin, &folder).map_err(failed)?;
        Ok(Self {
            origin: config.origin.clone(),
            keys: config.keys.clone(),
            folder,
            shown: RwLock::new(latest.as_ref().map(|latest| latest.note().clone())),
            latest: Mutex::new(latest),
            alarms,
            answered: Mutex::default(),
            last_time_s: AtomicU64::new(0),
        })
    }

    /// The log.
    pub fn origin(&self) -> &OriginLine {
        &self.origin
    }

    /// Its public keys.
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
    }

    /// Where everything of this log is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The checkpoint cosigned last, as monitors get it.
    pub fn shown(&self) -> Option<Note> {
        self.shown.read().clone()
    }

    /// What that checkpoint says.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let note = self.shown()?;
        note.text().parse().ok()
    }

    /// Answers since the start, by status.
    pub fn answered(&self) -> BTreeMap<u16, u64> {
        self.answered.lock().clone()
    }

    /// When it was last cosigned since the start, in Unix seconds.
    pub fn last_time(&self) -> Option<u64> {
        Some(self.last_time_s.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    pub(crate) fn count(&self, status: u16) {
        *self.answered.lock().entry(status).or_default() += 1;
    }

    /// Decides, remembers, signs; in this order and under one lock. Blocks on the disk.
    pub(crate) fn add(
        &self,
        request: &AddCheckpoint,
        signers: &[SignerKey],
        clock: &SharedClock,
    ) -> Result<String, CosignError> {
        let mut latest = self.latest.lock();
        let log = WitnessedLog {
            keys: &self.keys,
            latest: latest.as_ref(),
        };
        let accepted =
            decide(request, Some(&log)).inspect_err(|refused| self.caught(refused, clock))?;
        let time = UnixSeconds::new(clock.now().0 / 1000)
            .filter(|time| time.get() >= EARLIEST)
            .ok_or(CosignError::Clock)?;
        let persisted = accepted
            .persist(|new| {
                // The same again is on the disk already; only its time is new.
                if latest.as_ref().is_none_or(|old| old.note() != new.note()) {
                    let path = self.folder.join("checkpoint");
                    durable::replace(&path, new.note().to_string().as_bytes())?;
                }
                *latest = Some(new.clone());
                Ok(())
            })
            .map_err(CosignError::Disk)?;
        tracing::debug!(
            origin = %self.origin,
            size = request.checkpoint().size(),
            "remembered"
        );
        let answer = persisted.cosign(signers, time).map_err(CosignError::Sign)?;
        self.last_time_s.store(time.get(), Ordering::Relaxed);
        let note = latest.as_ref().map(|latest| latest.note().clone());
        *self.shown.write() = note.map(|note| with_lines(note, &answer));
        Ok(answer)
    }

    /// Two trees of one size: the log is caught, and its own signatures show it.
    fn caught(&self, refused: &WitnessRefused, clock: &SharedClock) {
        let WitnessRefused::Forked { fork, .. } = refused else {
            return;
        };
        let fork = fork.as_ref();
        let checkpoints = fork.map(|fork| fork.checkpoints().map(|c| c.note().to_string()));
        let alarm = Alarm::new(
            clock.now(),
            self.origin.as_str(),
            Rule::Fork,
            refused.to_string(),
        );
        let evidence = Evidence {
            alarm,
            checkpoints: checkpoints.into_iter().flatten().collect(),
        };
        if let Err(error) = self.alarms.catch(&self.folder, evidence) {
            tracing::error!(origin = %self.origin, %error, "evidence of a fork could not be kept");
        }
    }
}

/// The note with the cosignatures just made. One that finds no room is left out: monitors check what they get.
fn with_lines(note: Note, answer: &str) -> Note {
    let lines = answer.lines().filter_map(|line| line.parse().ok());
    lines.fold(note, |note, line| note.clone().with(line).unwrap_or(note))
}

fn load(folder: &Path, origin: &OriginLine) -> Result<Option<Latest>, StateError> {
    let failed = |source| StateError::File {
        path: folder.to_owned(),
        source,
    };
    let (name, state) = (folder.join("origin"), folder.join("checkpoint"));
    let known = durable::read(&name, 4096).map_err(failed)?;
    let Some(known) = known else {
        // The state first: a crash between the two leaves a log that is not known yet.
        durable::create_folder(folder).map_err(failed)?;
        let found = durable::read(&state, NOTE_BYTES_MAX as u64).map_err(failed)?;
        if found.is_some_and(|found| found != NOTHING) {
            return Err(StateError::Damaged(state));
        }
        durable::replace(&state, NOTHING).map_err(failed)?;
        durable::replace(&name, format!("{origin}\n").as_bytes()).map_err(failed)?;
        return Ok(None);
    };
    if known != format!("{origin}\n").as_bytes() {
        return Err(StateError::OtherLog(name));
    }
    let bytes = durable::read(&state, NOTE_BYTES_MAX as u64).map_err(failed)?;
    match bytes.as_deref() {
        None => Err(StateError::Lost(state)),
        Some(NOTHING) => Ok(None),
        Some(bytes) => {
            let latest = Latest::parse(bytes).map_err(|_| StateError::Damaged(state.clone()))?;
            if latest.checkpoint().origin() != origin {
                return Err(StateError::OtherLog(state));
            }
            Ok(Some(latest))
        }
    }
}
