//! How far a log was followed, so that a restart goes on from there.
//!
//! Owns the file `position.json` in the log's folder. Refuses one that is damaged, of another log, or that contradicts
//! itself: a monitor that began anew in silence would forget what it knew of the log.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tlog::{Checkpoint, Frontier, Latest, OriginLine};

use super::reader::Reader;
use crate::durable;

const FORMAT: u32 = 1;
const FILE: &str = "position.json";
/// About 150 bytes a dataset.
const POSITION_BYTES_MAX: u64 = 256 << 20;

/// Why a position was not read.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// The file could not be read.
    #[error("the monitor's position could not be read")]
    File(#[from] io::Error),
    /// Not what [`Position::save`] wrote.
    #[error("the monitor's position is damaged")]
    Damaged,
    /// Of another log.
    #[error("the monitor's position is of another log")]
    OtherLog,
    /// Written by a newer build.
    #[error("the monitor's position has format {0}, which this build does not know")]
    UnknownFormat(u32),
}

/// How far a log was followed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Position {
    /// The largest checkpoint that was verified: nothing smaller and nothing else is ever believed again.
    pub(crate) held: Option<Latest>,
    /// The leaves that were hashed again.
    pub(crate) frontier: Frontier,
    /// Leaves whose entries were read.
    pub(crate) read: u64,
    /// Leaves whose hash tiles were copied.
    pub(crate) copied: u64,
    /// The newest time that a cosigner stated, in Unix seconds.
    pub(crate) cosigned_s: u64,
    /// The log was caught: it is not followed any further.
    pub(crate) is_stopped: bool,
    pub(crate) reader: Reader,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved<R> {
    format: u32,
    origin: String,
    held: Option<String>,
    frontier: String,
    read: u64,
    copied: u64,
    cosigned_s: u64,
    is_stopped: bool,
    reader: R,
}

impl Position {
    /// Reads what was saved; the beginning where nothing was.
    pub(crate) fn load(folder: &Path, origin: &OriginLine) -> Result<Self, PositionError> {
        match durable::read(&folder.join(FILE), POSITION_BYTES_MAX)? {
            Some(bytes) => Self::parse(&bytes, origin),
            None => Ok(Self::default()),
        }
    }

    /// Reads the bytes of a position.
    pub(crate) fn parse(bytes: &[u8], origin: &OriginLine) -> Result<Self, PositionError> {
        #[derive(Deserialize)]
        struct FormatOnly {
            format: u32,
        }
        let damaged = |_| PositionError::Damaged;
        let FormatOnly { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format != FORMAT {
            return Err(PositionError::UnknownFormat(format));
        }
        let saved: Saved<Reader> = serde_json::from_slice(bytes).map_err(damaged)?;
        if saved.origin != origin.as_str() {
            return Err(PositionError::OtherLog);
        }
        let held = saved.held.map(|note| Latest::parse(note.as_bytes()));
        let held = held.transpose().map_err(|_| PositionError::Damaged)?;
        let frontier = hex::decode(&saved.frontier).map_err(|_| PositionError::Damaged)?;
        let position = Self {
            held,
            frontier: Frontier::parse(&frontier).map_err(|_| PositionError::Damaged)?,
            read: saved.read,
            copied: saved.copied,
            cosigned_s: saved.cosigned_s,
            is_stopped: saved.is_stopped,
            reader: saved.reader,
        };
        match position.agrees(origin) {
            true => Ok(position),
            false => Err(PositionError::Damaged),
        }
    }

    /// Whether the parts can stand beside one another.
    fn agrees(&self, origin: &OriginLine) -> bool {
        let size = self.size();
        let hashed = self.frontier.size();
        let held = self.held.as_ref().map(Latest::checkpoint);
        let same_root = |held: &Checkpoint| hashed < size || held.root() == self.frontier.root();
        hashed <= size
            && self.read <= hashed
            && self.copied <= hashed
            // A log that was caught may have been caught by exactly this.
            && (self.is_stopped || held.is_none_or(same_root))
            && held.is_none_or(|held| held.origin() == origin)
    }

    /// Has it on the disk when it returns.
    pub(crate) fn save(&self, folder: &Path, origin: &OriginLine) -> io::Result<()> {
        durable::replace(&folder.join(FILE), &self.to_bytes(origin)?)
    }

    pub(crate) fn to_bytes(&self, origin: &OriginLine) -> io::Result<Vec<u8>> {
        let saved = Saved {
            format: FORMAT,
            origin: origin.as_str().to_owned(),
            held: self.held.as_ref().map(|held| held.note().to_string()),
            frontier: hex::encode(self.frontier.to_bytes()),
            read: self.read,
            copied: self.copied,
            cosigned_s: self.cosigned_s,
            is_stopped: self.is_stopped,
            reader: &self.reader,
        };
        Ok(serde_json::to_vec(&saved)?)
    }

    /// Leaves of the checkpoint held.
    pub(crate) fn size(&self) -> u64 {
        self.held
            .as_ref()
            .map_or(0, |held| held.checkpoint().size())
    }
}

/// Whether these are the bytes of a position of this log, and those it is saved as again.
pub fn parse_position(bytes: &[u8], origin: &OriginLine) -> Result<Vec<u8>, PositionError> {
    Ok(Position::parse(bytes, origin)?.to_bytes(origin)?)
}
