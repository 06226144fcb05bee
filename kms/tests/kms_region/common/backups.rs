//! Backups as an operator takes them, and a restore on a cluster that is new.

use bytes::Bytes;
use kms::approvals::request_hash;
use proto::v1;
use tonic::Status;

use super::{Region, random};

/// Bytes of one message of an upload.
const PART_BYTES: usize = 100_000;

/// A backup's file, and what the replica said of it.
#[derive(Clone)]
pub(crate) struct Backup {
    pub file: Vec<u8>,
    pub made: v1::BackupMade,
}

impl Backup {
    pub(crate) fn record(&self) -> v1::BackupRecord {
        self.made.backup.clone().expect("a record")
    }
}

impl Region {
    /// Takes a backup as `name`.
    pub(crate) async fn backup_as(&self, name: &str) -> Result<Backup, Status> {
        let operator = self.caller(name);
        operator
            .at_leader(|at| {
                let mut operate = operator.operate(at);
                async move {
                    let parts = operate.backup(v1::BackupRequest::default()).await?;
                    let mut parts = parts.into_inner();
                    let (mut file, mut made) = (Vec::new(), None);
                    while let Some(part) = parts.message().await? {
                        file.extend_from_slice(&part.bytes);
                        made = part.made;
                    }
                    let made = made.expect("the last message says what was sent");
                    Ok(Backup { file, made })
                }
            })
            .await
    }

    /// Says that an operator holds it.
    pub(crate) async fn confirm_backup(
        &self,
        made: &v1::BackupMade,
    ) -> Result<v1::KmsDone, Status> {
        let operator = self.caller("op-1");
        operator
            .at_leader(|at| {
                let mut operate = operator.operate(at);
                let request = v1::ConfirmBackupRequest {
                    backup: made.backup.clone(),
                    proof: made.proof.clone(),
                    claim: None,
                };
                async move { Ok(operate.confirm_backup(request).await?.into_inner()) }
            })
            .await
    }

    /// A backup that is on record as held.
    pub(crate) async fn backup(&self) -> Backup {
        let backup = self.backup_as("op-1").await.expect("a backup");
        self.confirm_backup(&backup.made).await.expect("confirmed");
        backup
    }

    /// Has a replica of a pristine cluster take shares of the root key that opens this backup.
    pub(crate) async fn prepare_restore(
        &self,
        at: usize,
        backup: &Backup,
    ) -> Result<v1::PrepareRestoreReply, Status> {
        let start = &backup.file[..backup.file.len().min(100_000)];
        let request = v1::PrepareRestoreRequest {
            start: Bytes::copy_from_slice(start),
        };
        let mut operate = self.caller("op-1").operate(at);
        Ok(operate.prepare_restore(request).await?.into_inner())
    }

    /// A request to restore, not approved yet.
    pub(crate) fn restore_request(&self, backup: &Backup) -> v1::RestoreRequest {
        v1::RestoreRequest {
            backup: backup.made.backup.clone(),
            genesis: Some(self.genesis.clone()),
            single_use_id: Bytes::copy_from_slice(&random::<16>()),
            ..v1::RestoreRequest::default()
        }
    }

    /// The same with the word of two other operators.
    pub(crate) fn restore_approved(&self, mut request: v1::RestoreRequest) -> v1::RestoreRequest {
        request.approvals.clear();
        let hash = request_hash("Restore", &request);
        request.approvals = self.approvals(hash, &request.single_use_id);
        request
    }

    /// Sends a backup and the request it is restored by.
    pub(crate) async fn send_restore(
        &self,
        at: usize,
        file: &[u8],
        request: v1::RestoreRequest,
    ) -> Result<v1::RestoreReply, Status> {
        let first = v1::RestoreChunk {
            begin: Some(request),
            bytes: Bytes::new(),
        };
        let parts = file.chunks(PART_BYTES).map(|part| v1::RestoreChunk {
            begin: None,
            bytes: Bytes::copy_from_slice(part),
        });
        let parts: Vec<_> = std::iter::once(first).chain(parts).collect();
        let mut operate = self.caller("op-1").operate(at);
        let restored = operate.restore(futures::stream::iter(parts)).await?;
        Ok(restored.into_inner())
    }

    /// Restores a backup on this pristine cluster: the custodians of `shares` unseal its first replica, the others
    /// are unsealed by it.
    pub(crate) async fn restored_from(
        &self,
        backup: &Backup,
        shares: &[v1::SealedShare],
    ) -> v1::RestoreReply {
        self.restored_at(0, backup, shares).await
    }

    /// The same at another replica.
    pub(crate) async fn restored_at(
        &self,
        first: usize,
        backup: &Backup,
        shares: &[v1::SealedShare],
    ) -> v1::RestoreReply {
        let prepared = self.prepare_restore(first, backup).await;
        assert!(!prepared.expect("prepared").unsealed);
        for share in shares {
            self.give_share(first, share).await.expect("taken");
        }
        let request = self.restore_approved(self.restore_request(backup));
        let reply = self.send_restore(first, &backup.file, request).await;
        let reply = reply.expect("restored");
        self.unsealed_in_time(first).await;
        for at in (0..self.places.len()).filter(|at| *at != first) {
            self.unseal_by_peer(at).await.expect("by a peer");
        }
        reply
    }

    /// Waits until a replica serves.
    pub(crate) async fn unsealed_in_time(&self, at: usize) {
        let deadline = tokio::time::Instant::now() + super::PATIENCE;
        while self.status(at).await.sealed {
            let late = tokio::time::Instant::now() >= deadline;
            assert!(!late, "replica {at} is sealed");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
