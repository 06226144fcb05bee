//! How a command fails: words for people, JSON for programs, one exit code a kind.

use std::process::ExitCode;

use client::storage_backup::StorageBackupError;
use client::{Error, Fault, SettingsError};

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] Error),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{doing}")]
    File {
        doing: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Id(#[from] client::ids::IdError),
    #[error("{0}")]
    Usage(String),
    #[error("{failed} of {total} objects were not copied")]
    Partly { failed: usize, total: usize },
    #[error("{0} problems found")]
    Unhealthy(usize),
    #[error(
        "{0} blocks are still missing: no node that could be reached gave them; `reduit region status` says where"
    )]
    StillMissing(u64),
    #[error("the raft log of {0} is damaged: replace it under a new id while it serves")]
    LogDamaged(String),
    #[error("the backup is not whole: {0} problems")]
    BadBackup(usize),
    #[error(transparent)]
    Backup(Box<StorageBackupError>),
    #[error("{0} things are in the way of the relocation")]
    Blocked(usize),
    /// It has not come to its end, for this reason.
    #[error("not over yet: it waits for {0}")]
    Waits(String),
    /// The answer is no, and printed already.
    #[error("no")]
    No,
    /// A question of yes or no has no answer.
    #[error("{0}")]
    NoAnswer(String),
}

impl Failure {
    fn code(&self) -> u8 {
        let fault = match self {
            Self::Client(error) => by_reason(error.reason()).unwrap_or_else(|| error.fault()),
            Self::Settings(SettingsError::NoSuchContext(_) | SettingsError::NoneCurrent) => {
                Fault::Missing
            }
            Self::Settings(_)
            | Self::File { .. }
            | Self::Partly { .. }
            | Self::Unhealthy(_)
            | Self::No => {
                return 1;
            }
            Self::Blocked(_) | Self::Waits(_) => Fault::Precondition,
            Self::StillMissing(_) => Fault::Unavailable,
            Self::LogDamaged(_) | Self::BadBackup(_) => Fault::Damaged,
            Self::Backup(error) => match **error {
                StorageBackupError::NoSuchBackup(_) => Fault::Missing,
                StorageBackupError::InUse
                | StorageBackupError::Warrant { .. }
                | StorageBackupError::NoKeyVersion { .. } => Fault::Precondition,
                StorageBackupError::Store(ref error) => match error.status() {
                    Some(401 | 403) => Fault::Denied,
                    Some(404) => Fault::Missing,
                    _ => Fault::Unavailable,
                },
                StorageBackupError::KeyEnded { .. } => Fault::Unavailable,
                StorageBackupError::Damaged { .. }
                | StorageBackupError::Malformed { .. }
                | StorageBackupError::Signature { .. }
                | StorageBackupError::Unsound { .. }
                | StorageBackupError::Missing { .. } => Fault::Damaged,
                StorageBackupError::File { .. }
                | StorageBackupError::Region(_)
                | StorageBackupError::Kms(_) => return 1,
            },
            Self::Id(_) | Self::Usage(_) | Self::NoAnswer(_) => return 2,
        };
        match fault {
            Fault::Missing => 3,
            Fault::Precondition | Fault::Exists => 4,
            Fault::Denied | Fault::Unauthenticated => 5,
            Fault::Unavailable | Fault::Busy => 6,
            Fault::Unknown => 7,
            Fault::Damaged => 8,
            Fault::Caller | Fault::Internal | Fault::Unsupported => 1,
        }
    }

    /// It and everything it comes from.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }

    /// Prints it and gives the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if matches!(self, Self::No) {
            return ExitCode::from(self.code());
        }
        let text = self.chain();
        if json {
            let reason = match self {
                Self::Client(error) => error.reason(),
                Self::Settings(_) => "settings",
                Self::File { .. } => "file",
                Self::Id(_) | Self::Usage(_) => "usage",
                Self::Partly { .. } => "partly",
                Self::Unhealthy(_) => "unhealthy",
                Self::StillMissing(_) => "still-missing",
                Self::LogDamaged(_) => "log-damaged",
                Self::BadBackup(_) => "bad-backup",
                Self::Backup(_) => "backup",
                Self::Blocked(_) => "blocked",
                Self::Waits(_) => "waits",
                Self::No => "no",
                Self::NoAnswer(_) => "no-answer",
            };
            let error = serde_json::json!({ "error": { "reason": reason, "message": text, "exit": self.code() } });
            eprintln!("{error}");
        } else {
            eprintln!("reduit: {text}");
        }
        ExitCode::from(self.code())
    }
}

/// What is not there, and states that have to change first, where the SDK says no more than that the caller acts next.
fn by_reason(reason: &str) -> Option<Fault> {
    const STATES: [&str; 30] = [
        "access-key-disabled",
        "access-key-enabled",
        "access-key-moved",
        "dataset-departing",
        "dataset-held",
        "dataset-unconfirmed",
        "departure-moved",
        "descriptor-expired",
        "descriptor-not-good",
        "descriptor-older",
        "fence-over",
        "hand-over-closed",
        "hand-over-ended",
        "hold-not-over",
        "level-too-low",
        "metadata-moved",
        "not-equal",
        "not-moved",
        "not-served",
        "not-under-way",
        "other-hand-over",
        "other-hand-over-key",
        "out-of-order",
        "relocation-moved",
        "relocation-under-way",
        "source-not-moved",
        "still-granted",
        "too-few-words",
        "too-many-regions",
        "wrong-key-state",
    ];
    match reason {
        "region-not-trusted" => Some(Fault::Missing),
        missing if missing.starts_with("no-such-") => Some(Fault::Missing),
        state if STATES.contains(&state) => Some(Fault::Precondition),
        _ => None,
    }
}

/// Names what was being done to a file.
pub(crate) fn file(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> Failure {
    move |source| Failure::File {
        doing: doing.into(),
        source,
    }
}
