//! Backups of the KMS, and its restore on replicas that are new.
//!
//! Owns the callers' half: a file that is whole on a disk before anybody says that it is held, and calls to one replica
//! that no storage node knows yet. Refuses to replace a file. What a backup holds, nobody here can read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::Bytes;
use futures::StreamExt as _;
use proto::backup::{HEADER_BYTES_MAX, MAGIC, Start};
use proto::ids::{Identity, NodeId, RegionId, Role};
use proto::transcript;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_operate_client::KmsOperateClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use transport::{Connector, Expect, KeyExchange, Lane, LocalIdentity, RegionTrust};

use crate::error::Error;
use crate::operator::{
    CustodianShare, answer, approve, approve_until, give_share, request_hash, sha256,
};
use crate::region::{Region, random_id};
use crate::route::Member;
use crate::settings::Context;

/// Bytes of one message of an upload.
const PART_BYTES: usize = 256 << 10;
/// Messages that wait for a slow replica.
const WAITING_MAX: usize = 8;
/// How long approvals of a restore last: the backup arrives while they do.
const APPROVAL_MS: u64 = 12 * 3_600_000;

/// Why a file is no backup, or was not written.
#[derive(Debug, thiserror::Error)]
pub enum BackupFileError {
    /// The file.
    #[error("{}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The region.
    #[error(transparent)]
    Region(#[from] Error),
    /// What stands in the file.
    #[error(transparent)]
    Malformed(#[from] proto::backup::Malformed),
    /// Its last bytes are not the checksum of the others.
    #[error("the backup is damaged or cut: its checksum is another")]
    Checksum,
    /// The replica says it sent something else.
    #[error("what arrived is not what the replica sent: take the backup again")]
    Arrived,
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> BackupFileError {
    let path = path.to_owned();
    move |source| BackupFileError::File { path, source }
}

/// A backup that an operator holds.
pub struct Held {
    /// What it is.
    pub backup: v1::BackupRecord,
    /// Leaf that says it was about to leave.
    pub begun_leaf: u64,
    /// Leaf that says it is held.
    pub confirmed_leaf: u64,
    /// Records in it.
    pub rows: u64,
}

impl Region {
    /// Takes a backup into `out`, which must not exist, and confirms it once it is on the disk. `progress` is told of
    /// the bytes that have arrived.
    pub async fn backup_kms(
        &self,
        out: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<Held, BackupFileError> {
        if out.exists() {
            let exists = io::Error::from(io::ErrorKind::AlreadyExists);
            return Err(file(out)(exists));
        }
        let mut beside = out.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut part = options.open(&beside).map_err(file(&beside))?;
        let mut parts = self
            .on_kms_leader(|mut kms| async move {
                Ok(kms.backup(v1::BackupRequest::default()).await?.into_inner())
            })
            .await?;
        let (mut digest, mut bytes, mut made) = (Digest::new(&SHA256), 0, None);
        while let Some(chunk) = parts.next().await {
            let chunk = chunk.map_err(|status| Error::from_status(&status))?;
            part.write_all(&chunk.bytes).map_err(file(&beside))?;
            digest.update(&chunk.bytes);
            bytes += chunk.bytes.len() as u64;
            made = chunk.made;
            progress(bytes);
        }
        part.sync_all().map_err(file(&beside))?;
        let made = made.ok_or(BackupFileError::Arrived)?;
        let backup = made.backup.clone().unwrap_or_default();
        if backup.digest != digest.finish().as_ref() || backup.bytes != bytes {
            return Err(BackupFileError::Arrived);
        }
        // Never over a file that came meanwhile: a link fails where a rename replaces.
        std::fs::hard_link(&beside, out).map_err(file(out))?;
        std::fs::remove_file(&beside).map_err(file(&beside))?;
        let folder = match out.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(file(folder))?;
        let confirmed = self
            .on_kms_leader(|mut kms| {
                let request = v1::ConfirmBackupRequest {
                    backup: made.backup.clone(),
                    proof: made.proof.clone(),
                    claim: None,
                };
                async move { Ok(kms.confirm_backup(request).await?.into_inner()) }
            })
            .await?;
        Ok(Held {
            backup,
            begun_leaf: made.leaf_index,
            confirmed_leaf: confirmed.leaf_index,
            rows: made.rows,
        })
    }
}

/// A backup's file, looked at.
pub struct BackupFile {
    path: PathBuf,
    /// What stands in the clear.
    pub start: Start,
    /// What it is.
    pub backup: v1::BackupRecord,
}

impl BackupFile {
    /// Reads all of it, for its digest and checksum. *Blocks.*
    pub fn open(path: &Path) -> Result<Self, BackupFileError> {
        let mut from = File::open(path).map_err(file(path))?;
        let mut head = vec![0; MAGIC.len() + 4 + HEADER_BYTES_MAX];
        let mut whole = Digest::new(&SHA256);
        let mut checked = Digest::new(&SHA256);
        let (mut start, mut bytes, mut tail) = (Vec::new(), 0_u64, Vec::new());
        loop {
            let read = from.read(&mut head).map_err(file(path))?;
            if read == 0 {
                break;
            }
            let part = &head[..read];
            if start.len() < head.len() {
                start.extend_from_slice(&part[..read.min(head.len() - start.len())]);
            }
            whole.update(part);
            bytes += read as u64;
            tail.extend_from_slice(part);
            let ready = tail.len().saturating_sub(proto::backup::CHECKSUM_BYTES);
            checked.update(&tail[..ready]);
            tail.drain(..ready);
        }
        let cut = proto::backup::Malformed::Header("it is cut");
        let start = Start::parse(&start)?.ok_or(cut)?;
        if tail[..] != *checked.finish().as_ref() {
            return Err(BackupFileError::Checksum);
        }
        let backup = v1::BackupRecord {
            digest: Bytes::copy_from_slice(whole.finish().as_ref()),
            tree_size: start.header.tree_size,
            root_hash: start.header.root_hash.clone(),
            root_epoch: start.region.root_epoch,
            taken_at_ms: start.header.taken_at_ms,
            bytes,
        };
        Ok(Self {
            path: path.to_owned(),
            start,
            backup,
        })
    }
}

/// What a restore states besides the backup.
#[derive(Default)]
pub struct RestoreTerms {
    /// The new cluster's first enrolment set.
    pub genesis: Option<v1::SignedEnrolmentSet>,
    /// Leaves of the newest checkpoint that anybody has; 0 where none goes beyond the backup.
    pub witnessed_size: u64,
    /// A witness policy in place of the backup's; where leaves are lost, of the log's next origin.
    pub policy: Option<v1::WitnessPolicy>,
    /// Whether to go on although the witnesses are silent.
    pub without_witnesses: bool,
}

/// One KMS replica of a new cluster, reached by itself: no storage node knows it yet.
pub struct NewReplica {
    region: RegionId,
    local: LocalIdentity,
    member: Member,
    channel: Channel,
}

impl NewReplica {
    /// Prepares to call the replica `identity` at `endpoint`.
    pub fn at(context: &Context, identity: &Identity, endpoint: &str) -> Result<Self, Error> {
        let refused = |message: String| Error::Caller {
            reason: "bad-context".to_owned(),
            message,
        };
        if identity.role() != Role::Kms || identity.region() != &context.region {
            return Err(refused(format!(
                "{identity} is no kms replica of {}",
                context.region
            )));
        }
        let trust = RegionTrust::load(context.region.clone(), &context.ca)
            .map_err(|error| refused(error.to_string()))?;
        let local = LocalIdentity::load(&context.certificate, &context.key)
            .map_err(|error| refused(error.to_string()))?;
        let connector = Connector::pinned(local.clone(), trust, KeyExchange::HybridOnly);
        let expect = Expect::Identity(identity.clone());
        let channel = connector
            .channel_lazy(endpoint, expect, Lane::Control)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self {
            region: context.region.clone(),
            local,
            member: Member {
                id: NodeId(0),
                identity: Some(identity.clone()),
                public_key: None,
                endpoint: endpoint.to_owned(),
            },
            channel,
        })
    }

    fn operate(&self) -> KmsOperateClient<Channel> {
        KmsOperateClient::new(self.channel.clone())
    }

    /// Has the replica take shares of the root key that opens this backup; says what it still needs.
    pub async fn prepare_restore(&self, start: &Start) -> Result<v1::PrepareRestoreReply, Error> {
        let request = v1::PrepareRestoreRequest {
            start: Bytes::copy_from_slice(&start.bytes),
        };
        answer(self.operate().prepare_restore(request).await)
    }

    /// Gives this custodian's share to the replica.
    pub async fn unseal(&self, custodian: CustodianShare<'_>) -> Result<v1::UnsealReply, Error> {
        let (region, local) = (&self.region, &self.local);
        give_share(region, local, &self.member, self.channel.clone(), custodian).await
    }

    /// Gives the replica the second person's word, so that its peers unseal it.
    pub async fn approve_unseal(
        &self,
        approver: &LocalIdentity,
    ) -> Result<v1::ApprovePeerUnsealReply, Error> {
        let mut kms = KmsClient::new(self.channel.clone());
        let status = answer(kms.status(v1::KmsStatusRequest {}).await)?;
        let hash = sha256(&transcript::approved_unseal(
            &status.identity,
            &status.boot_id,
            &status.unseal_offer_hash,
        ));
        let request = v1::ApprovePeerUnsealRequest {
            boot_id: status.boot_id,
            approval: Some(approve(approver, hash, random_id()?)),
        };
        answer(self.operate().approve_peer_unseal(request).await)
    }

    /// Restores the backup, approved by at least two other operators.
    pub async fn restore(
        &self,
        backup: &BackupFile,
        terms: RestoreTerms,
        approvers: &[LocalIdentity],
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<v1::RestoreReply, BackupFileError> {
        let mut request = v1::RestoreRequest {
            backup: Some(backup.backup.clone()),
            genesis: terms.genesis,
            witnessed_size: terms.witnessed_size,
            policy: terms.policy,
            without_witnesses: terms.without_witnesses,
            single_use_id: random_id()?,
            claim: None,
            approvals: Vec::new(),
        };
        let hash = request_hash("Restore", &request);
        let id = &request.single_use_id;
        let by = |who| approve_until(who, hash, id.clone(), APPROVAL_MS);
        request.approvals = approvers.iter().map(by).collect();
        let from = File::open(&backup.path).map_err(file(&backup.path))?;
        let (parts, sent) = mpsc::channel(WAITING_MAX);
        // Reads wait for the disk; it ends when the replica takes no more.
        tokio::task::spawn_blocking(move || send(from, request, &parts, progress));
        let restored = self.operate().restore(ReceiverStream::new(sent)).await;
        Ok(answer(restored)?)
    }
}

/// A file that cannot be read further ends the stream: the replica says that it is cut.
fn send(
    mut from: File,
    request: v1::RestoreRequest,
    parts: &mpsc::Sender<v1::RestoreChunk>,
    mut progress: impl FnMut(u64),
) {
    let first = v1::RestoreChunk {
        begin: Some(request),
        bytes: Bytes::new(),
    };
    if parts.blocking_send(first).is_err() {
        return;
    }
    let (mut buffer, mut bytes) = (vec![0; PART_BYTES], 0);
    while let Ok(read) = from.read(&mut buffer) {
        let part = v1::RestoreChunk {
            begin: None,
            bytes: Bytes::copy_from_slice(&buffer[..read]),
        };
        if read == 0 || parts.blocking_send(part).is_err() {
            return;
        }
        bytes += read as u64;
        progress(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        let holder = |index: u32| v1::ShareHolder {
            identity: format!("spiffe://ch-zrh/custodian/c{index}"),
            share_check: vec![1; 32].into(),
            share_index: index,
        };
        let region = v1::KmsRegion {
            format: 1,
            region: "ch-zrh".to_owned(),
            root_epoch: 2,
            root_check: vec![2; 32].into(),
            shares_needed: 2,
            custodians: vec![holder(1), holder(2)],
            share_set: vec![3; 40].into(),
            ..v1::KmsRegion::default()
        };
        let header = v1::KmsBackupHeader {
            format: 1,
            region: Some(region),
            tree_size: 7,
            root_hash: vec![4; 32].into(),
            ..v1::KmsBackupHeader::default()
        };
        Start::new(header).expect("a start")
    }

    #[test]
    fn a_file_is_named_by_its_digest_and_one_that_is_cut_or_damaged_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("kms.backup");
        let look = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            BackupFile::open(&path)
        };
        // Longer than what is read at a time.
        let sealed = vec![0x5A; 3 * (HEADER_BYTES_MAX + 24) + 5];
        let body = [&start().bytes[..], &sealed].concat();
        let file = [&body[..], &sha256(&body)].concat();
        let held = look(&file).expect("whole");
        assert_eq!(held.start, start());
        assert_eq!(held.backup.digest[..], sha256(&file));
        assert_eq!(held.backup.bytes, file.len() as u64);
        assert_eq!((held.backup.tree_size, held.backup.root_epoch), (7, 2));
        for cut in [1, 31, 32, 33, sealed.len()] {
            let cut = look(&file[..file.len() - cut]);
            assert!(matches!(cut, Err(BackupFileError::Checksum)));
        }
        for at in [body.len() / 2, body.len() - 1, body.len(), file.len() - 1] {
            let mut other = file.clone();
            other[at] ^= 1;
            assert!(
                matches!(look(&other), Err(BackupFileError::Checksum)),
                "{at}"
            );
        }
        for short in [&b""[..], b"reduit kms", &start().bytes[..40]] {
            assert!(matches!(look(short), Err(BackupFileError::Malformed(_))));
        }
        assert!(matches!(
            look(b"something else"),
            Err(BackupFileError::Malformed(_))
        ));
    }
}
