//! Taking a backup of the KMS: one moment of the state, sealed to whoever can rebuild the root key.
//!
//! Owns the file's order: header in the clear, every row, the newest checkpoint, a checksum. Refuses to begin before the
//! backup is on record, and to confirm one that no holder of the root key made. Keys in it stay wrapped under the root
//! key, and the whole is sealed under a key derived from it: in the file no key is unwrapped, and no name, log entry or
//! policy is readable.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use envelope::{KeyError, RootKey, SealError, Sealer};
use prost::Message as _;
use proto::backup::{FRAME_BYTES_TARGET, Malformed, Start, framed, row_bytes};
use proto::ids::{Identity, LeafIndex, Role, RootEpoch};
use proto::store::Reader;
use proto::transcript;
use proto::v1;
use proto::v1::kms_backup_frame::Frame;
use proto::v1::kms_command::Command as What;
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, mpsc};
use transport::Peer;

use crate::core::{Core, LevelTooLow, StaleError};
use crate::ledger::{Command, CommitError};
use crate::seal::Sealed;

/// Parts of a backup that wait for a slow operator.
const WAITING_MAX: usize = 8;
/// How long the next part may wait: what is being read keeps a whole moment of the state from being compacted.
const TAKEN_MAX: Duration = Duration::from_secs(60);

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only operators take backups.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
    /// One at a time.
    #[error("this replica is sending a backup already")]
    UnderWay,
    /// A record that no frame holds.
    #[error("a record of {0} bytes does not fit into a backup")]
    RowTooLong(usize),
    /// The header.
    #[error("the backup has no header")]
    Header(#[source] Malformed),
    /// No room for the backup's key.
    #[error("no key memory")]
    Key(#[source] KeyError),
    /// Longer than a sealed stream may be.
    #[error("the backup could not be sealed")]
    Seal(#[source] SealError),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// A confirmation of something else.
    #[error("no holder of the root key in force made this backup: take one again")]
    NotOurs,
    /// Not recorded.
    #[error("not recorded")]
    Commit(#[from] CommitError),
    /// Who asked is gone.
    #[error("nobody takes the backup any more")]
    Gone,
}

type Part = Result<v1::BackupChunk, BackupError>;

/// Where parts go, from a thread that may block.
struct Parts {
    to: mpsc::Sender<Part>,
    runtime: Handle,
    patience: Duration,
}

impl Parts {
    /// Refuses to wait for one who takes nothing any more.
    fn send(&self, part: Part) -> Result<(), BackupError> {
        let sent = self.to.send_timeout(part, self.patience);
        self.runtime.block_on(sent).map_err(|_| BackupError::Gone)
    }
}

impl Core {
    /// Records that a backup leaves, then sends it.
    pub(crate) async fn backup(
        &self,
        peer: &Peer,
        request: v1::BackupRequest,
    ) -> Result<mpsc::Receiver<Part>, BackupError> {
        self.may_back_up(peer)?;
        let one = self.backing_up.clone().try_lock_owned();
        let one = one.map_err(|_| BackupError::UnderWay)?;
        let claim = Some(v1::Claim {
            actor: peer.identity.to_string(),
            ..request.claim.unwrap_or_default()
        });
        let what = What::BeginBackup(v1::BeginBackup { claim });
        let leaf = self.record_backup(peer, what).await?.leaf_index;
        // Applied here before it was answered, so the record is in the backup.
        let state = self.reader().map_err(StaleError::State)?;
        let region = kms_state::region(&*state).unwrap_or_default();
        let root = self.seal.root_of(RootEpoch(region.root_epoch))?;
        let newest = self.checkpoints.now().newest;
        let checkpoint = newest.map(|newest| newest.note.to_string().into_bytes());
        let level = self.group.level().0;
        let (to, taken) = mpsc::channel(WAITING_MAX);
        let parts = Parts {
            to,
            runtime: Handle::current(),
            patience: TAKEN_MAX,
        };
        let writer = Writer {
            root,
            region,
            leaf: LeafIndex(leaf),
            level,
            checkpoint: checkpoint.unwrap_or_default().into(),
            _one: one,
        };
        // Reads of the state wait for the disk. It ends when nobody takes the parts any more.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = writer.write(&*state, &parts) {
                // Nobody to tell is no news.
                let _ = parts.send(Err(error));
            }
        });
        Ok(taken)
    }

    /// An operator has it whole, on a disk: from here on former root keys may end.
    pub(crate) async fn confirm_backup(
        &self,
        peer: &Peer,
        request: v1::ConfirmBackupRequest,
    ) -> Result<v1::KmsDone, BackupError> {
        self.may_back_up(peer)?;
        let backup = request.backup.unwrap_or_default();
        let made = transcript::backup_made(self.config.region.as_str(), &backup);
        // By what is on record, as the backup was made: what is held follows the record of a new root key by a moment.
        let state = self.reader().map_err(StaleError::State)?;
        let in_force = kms_state::region(&*state).unwrap_or_default().root_epoch;
        let root = self.seal.root_of(RootEpoch(in_force))?;
        drop(state);
        if !root.proves(&made, &request.proof) {
            return Err(BackupError::NotOurs);
        }
        let claim = Some(v1::Claim {
            actor: peer.identity.to_string(),
            ..request.claim.unwrap_or_default()
        });
        let backup = Some(backup);
        let what = What::ConfirmBackup(v1::ConfirmBackup { backup, claim });
        self.record_backup(peer, what).await
    }

    fn may_back_up(&self, peer: &Peer) -> Result<(), BackupError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(BackupError::NotOperator(peer.identity.clone()));
        }
        Ok(self.at_level(kms_state::LEVEL_RESTORE)?)
    }

    async fn record_backup(&self, peer: &Peer, what: What) -> Result<v1::KmsDone, BackupError> {
        self.ledger
            .command::<BackupError>(&peer.identity, self.deadline(), |state: &dyn Reader| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await
    }
}

/// One backup on its way out.
struct Writer {
    root: Arc<RootKey>,
    region: v1::KmsRegion,
    leaf: LeafIndex,
    level: u32,
    checkpoint: Bytes,
    _one: OwnedMutexGuard<()>,
}

/// What was sent so far.
struct Out<'a> {
    parts: &'a Parts,
    digest: Context,
    bytes: u64,
}

impl Out<'_> {
    fn send(&mut self, bytes: Vec<u8>) -> Result<(), BackupError> {
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        let part = v1::BackupChunk {
            bytes: bytes.into(),
            made: None,
        };
        self.parts.send(Ok(part))
    }
}

impl Writer {
    fn write(&self, state: &dyn Reader, parts: &Parts) -> Result<(), BackupError> {
        let tree = kms_state::frontier(state);
        let taken_at_ms = kms_state::region_time(state).0;
        let header = v1::KmsBackupHeader {
            format: 1,
            region: Some(self.region.clone()),
            tree_size: tree.size(),
            root_hash: tree.root().0.to_vec().into(),
            taken_at_ms,
            level: self.level,
        };
        let start = Start::new(header).map_err(BackupError::Header)?.bytes;
        let mut sealer = self.root.seal_backup(&start).map_err(BackupError::Key)?;
        let mut out = Out {
            parts,
            digest: Context::new(&SHA256),
            bytes: 0,
        };
        out.send(start)?;
        let rows = rows(state, &mut sealer, &mut out)?;
        let end = Frame::End(v1::KmsBackupEnd {
            rows,
            checkpoint: self.checkpoint.clone(),
        });
        let mut sealed = Vec::new();
        seal(end, &mut sealer, &mut sealed)?;
        sealer.finish(&mut sealed).map_err(BackupError::Seal)?;
        out.send(sealed)?;
        let checksum = out.digest.clone().finish().as_ref().to_vec();
        out.send(checksum)?;
        let backup = v1::BackupRecord {
            digest: out.digest.finish().as_ref().to_vec().into(),
            tree_size: tree.size(),
            root_hash: tree.root().0.to_vec().into(),
            root_epoch: self.region.root_epoch,
            taken_at_ms,
            bytes: out.bytes,
        };
        let made = transcript::backup_made(&self.region.region, &backup);
        let part = v1::BackupChunk {
            bytes: Bytes::new(),
            made: Some(v1::BackupMade {
                proof: self.root.prove(&made).to_vec().into(),
                backup: Some(backup),
                leaf_index: self.leaf.0,
                rows,
            }),
        };
        parts.send(Ok(part))
    }
}

/// Every row but the region's record, which stands in the header and comes last into a restored state.
fn rows(state: &dyn Reader, sealer: &mut Sealer, out: &mut Out<'_>) -> Result<u64, BackupError> {
    let (mut count, mut held, mut bytes) = (0, Vec::new(), 0);
    let mut failed = None;
    state.scan(&[0], &[0xFF], &mut |key, value| {
        if key == kms_state::layout::REGION {
            return true;
        }
        let row = v1::StateRow {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
        };
        count += 1;
        bytes += row_bytes(&row);
        held.push(row);
        if bytes < FRAME_BYTES_TARGET {
            return true;
        }
        bytes = 0;
        let sent = send_rows(std::mem::take(&mut held), sealer, out);
        sent.map_err(|error| failed = Some(error)).is_ok()
    });
    if let Some(error) = failed {
        return Err(error);
    }
    if !held.is_empty() {
        send_rows(held, sealer, out)?;
    }
    Ok(count)
}

fn send_rows(
    rows: Vec<v1::StateRow>,
    sealer: &mut Sealer,
    out: &mut Out<'_>,
) -> Result<(), BackupError> {
    let mut sealed = Vec::new();
    seal(Frame::Rows(v1::KmsBackupRows { rows }), sealer, &mut sealed)?;
    out.send(sealed)
}

fn seal(frame: Frame, sealer: &mut Sealer, sealed: &mut Vec<u8>) -> Result<(), BackupError> {
    let frame = v1::KmsBackupFrame { frame: Some(frame) };
    let plain = framed(&frame).ok_or_else(|| BackupError::RowTooLong(frame.encoded_len()))?;
    sealer.update(&plain, sealed).map_err(BackupError::Seal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_holds_no_backup_open() {
        let (to, mut taken) = mpsc::channel(1);
        let parts = Parts {
            to,
            runtime: Handle::current(),
            patience: Duration::from_millis(50),
        };
        let writing = tokio::task::spawn_blocking(move || {
            let part = || Ok(v1::BackupChunk::default());
            (parts.send(part()), parts.send(part()))
        });
        let (first, second) = writing.await.expect("it ends");
        assert!(first.is_ok(), "there was room");
        assert!(matches!(second, Err(BackupError::Gone)), "{second:?}");
        assert!(taken.recv().await.is_some(), "what there was room for");
        assert!(taken.recv().await.is_none(), "and no more");
    }
}
