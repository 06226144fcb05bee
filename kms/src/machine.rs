//! The state machine as the consensus host runs it.
//!
//! Owns the step from the host's contract to `kms-state`, and the word to this process's drivers that the authority
//! or custody of the root key may have changed. Holds no key and no clock: wrapped keys pass through unread.

use bytes::Bytes;
use proto::ids::{FeatureLevel, LogIndex};
use proto::store::{Reader, Writer};
use replica::machine::{Machine, Position, UnknownCommand};
use tokio::sync::watch;

/// The highest feature level this build understands.
pub(crate) const LEVEL_MAX: FeatureLevel = kms_state::LEVEL_MAX;

/// The version of enrolments and grants that is applied here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Changes {
    /// 0 before the init ceremony.
    pub(crate) authority_version: u64,
    /// 0 before custody of the root key first changes.
    pub(crate) custody_version: u64,
    /// Snapshots that have replaced the state in this life of the process.
    pub(crate) installs: u64,
}

/// The machine of the KMS's only group.
pub(crate) struct KmsMachine {
    changes: watch::Sender<Changes>,
}

impl KmsMachine {
    /// The machine, and where it tells of changes.
    pub(crate) fn new() -> (Self, watch::Receiver<Changes>) {
        let (changes, seen) = watch::channel(Changes::default());
        (Self { changes }, seen)
    }

    fn look(&self, state: &dyn Reader) {
        let authority_version = kms_state::authority_version(state);
        let custody_version = kms_state::custody_version(state);
        self.changes.send_if_modified(|changes| {
            let now = Changes {
                authority_version,
                custody_version,
                ..*changes
            };
            let changed = *changes != now;
            *changes = now;
            changed
        });
    }
}

impl Machine for KmsMachine {
    fn level_max(&self) -> FeatureLevel {
        LEVEL_MAX
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        _local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        let voters = u32::try_from(at.voters.all().len()).expect("a group has few voters");
        let at = kms_state::At {
            index: at.index,
            voters,
            level: at.level,
        };
        let answer = kms_state::apply(at, command, state).map_err(|unknown| UnknownCommand {
            index: at.index,
            what: unknown.what.to_owned(),
        })?;
        // Seen before it is readable: the driver waits for the state to show what it was told of.
        self.look(&*state);
        Ok(answer)
    }

    fn installed(&self, _through: LogIndex, state: &dyn Reader, _local: &mut dyn Writer) {
        self.look(state);
        self.changes.send_modify(|changes| changes.installs += 1);
    }
}
