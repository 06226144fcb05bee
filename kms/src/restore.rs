//! A region's KMS on replicas that are new, from a backup: prepared, unsealed by its custodians, then brought in.
//!
//! Owns the way of a backup's bytes into the log of a pristine cluster, and the look at how far witnesses have seen the
//! region's log. Refuses a cluster that has a region, a backup that the root key here does not open or that is not the
//! one approved, and one behind what a witness has signed unless the approved request says so.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use envelope::{HEADER_BYTES, Opener, RootKey, StreamHeader, UnwrapError};
use kms_state::WitnessRule;
use prost::Message as _;
use proto::backup::{CHECKSUM_BYTES, Frames, Malformed, MalformedFrame, Start};
use proto::ids::{Identity, Role};
use proto::store::Reader;
use proto::v1;
use proto::v1::kms_backup_frame::Frame;
use proto::v1::kms_command::Command as What;
use tlog::{Checkpoint, Hash, Note, Signature, SignatureType, VerifierKey};
use tokio::time::Instant;
use transport::Peer;

use crate::approvals::{self, ApprovalError};
use crate::ceremony::CeremonyError;
use crate::core::{Core, LevelTooLow, StaleError};
use crate::ledger::{Command, CommitError};

/// How long the next part of a backup may take to arrive.
const PART_MAX: Duration = Duration::from_secs(60);
/// How long one frame may take to be committed.
const FRAME_MAX: Duration = Duration::from_secs(30);

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// Only operators restore.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// The cluster has a region.
    #[error("this cluster has a region: a backup is restored on one that has none")]
    Already,
    /// Its first enrolment set is not the one this replica holds.
    #[error("the genesis set named is not the one this replica was configured with")]
    OtherGenesis,
    /// Of another region or jurisdiction.
    #[error("the backup is of {0}, this cluster is of another region or jurisdiction")]
    OtherRegion(String),
    /// Not a backup.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What is sealed is not what a backup holds.
    #[error(transparent)]
    Frame(#[from] MalformedFrame),
    /// Nobody has prepared this one.
    #[error("this replica was not prepared for that backup (see `reduit kms restore --help`)")]
    NotPrepared,
    /// Its root key is not here.
    #[error(
        "this replica does not hold the root key of epoch {epoch}: {needed} custodians of it have to unseal the replica \
         first"
    )]
    Sealed {
        /// Of which epoch.
        epoch: u32,
        /// Shares.
        needed: u32,
    },
    /// Cut, damaged or forged.
    #[error("the backup does not open: it is damaged, cut, or was not sealed under this root key")]
    NotAuthentic,
    /// No room for the backup's key.
    #[error("no key memory")]
    Key(#[source] envelope::KeyError),
    /// Not the one that was approved.
    #[error("this is not the backup that the request names")]
    OtherBackup,
    /// Approvals that do not hold.
    #[error("the approvals do not carry the restore")]
    Approval(#[from] ApprovalError),
    /// The cluster could not be founded.
    #[error("the cluster was not founded")]
    Found(#[from] CeremonyError),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
    /// Leaves are lost.
    #[error(
        "a witness has signed {witnessed} leaves of this region's log, the backup has {ours}: the {} leaves between them \
         are lost. Restore a newer backup, or state --witnessed-size {witnessed}, have that approved, and the log goes on \
         under its next origin", witnessed - ours
    )]
    Behind {
        /// What a witness has signed.
        witnessed: u64,
        /// Leaves in the backup.
        ours: u64,
    },
    /// Nobody says how far the log went.
    #[error(
        "the region's witnesses do not say how much of its log they have signed: without their word nobody knows what \
         is lost. Restore when their quorum answers, or state --without-witnesses and have that approved"
    )]
    WitnessesSilent,
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// The stream of the request broke off.
    #[error("the backup did not arrive whole")]
    Cut,
    /// Not recorded.
    #[error("not recorded")]
    Commit(#[from] CommitError),
}

/// Parts of a backup as they arrive.
pub(crate) type Incoming = tonic::Streaming<v1::RestoreChunk>;

impl Core {
    /// Makes this replica take shares of the root key that opens this backup. Says what is still missing.
    pub(crate) fn prepare_restore(
        &self,
        peer: &Peer,
        request: &v1::PrepareRestoreRequest,
    ) -> Result<v1::PrepareRestoreReply, RestoreError> {
        self.may_restore(peer)?;
        let start = Start::parse(&request.start)?.ok_or(Malformed::Header("it is cut"))?;
        let region = start.region.clone();
        let same = region.region == self.config.region.as_str()
            && region.jurisdiction == self.config.jurisdiction.as_str();
        if !same {
            return Err(RestoreError::OtherRegion(region.region));
        }
        let root = self.root_for(&region);
        let vkey = |origin: &str| {
            let root = root.as_ref()?;
            let key = root.log_key(origin).ok()?;
            let name = origin.parse().ok()?;
            let key = VerifierKey::new(name, SignatureType::Ed25519, key.public()).ok()?;
            Some(key.to_string())
        };
        let next = kms_state::next_origin(&region.log_origin);
        let reply = v1::PrepareRestoreReply {
            cosigner_key: self.cosigner.verifier().to_string(),
            unsealed: root.is_some(),
            log_key: vkey(&region.log_origin).unwrap_or_default(),
            next_log_key: next.and_then(|next| vkey(&next)).unwrap_or_default(),
            root_epoch: region.root_epoch,
            shares_needed: region.shares_needed,
            custodians: region.custodians.into_iter().map(|c| c.identity).collect(),
            region: region.region,
        };
        *self.restoring.lock() = Some(Arc::new(start));
        Ok(reply)
    }

    /// The region whose shares this replica takes before it has one.
    pub(crate) fn region_to_come(&self) -> Option<v1::KmsRegion> {
        let start = self.restoring.lock().clone()?;
        Some(start.region.clone())
    }

    /// Restores what arrives. Whatever was committed before counts for nothing until the last command, and is not
    /// committed again.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        peer: &Peer,
        mut incoming: Incoming,
    ) -> Result<v1::RestoreReply, RestoreError> {
        self.may_restore(peer)?;
        let request = next(&mut incoming).await?.and_then(|first| first.begin);
        let mut request = request.ok_or(RestoreError::Cut)?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("Restore", &request);
        let table = self.enrolments.current();
        let genesis = table.signed().set.clone();
        let named = request.genesis.as_ref().map(|named| &named.set);
        if table.version() != 1 || named.is_some_and(|named| *named != genesis) {
            return Err(RestoreError::OtherGenesis);
        }
        let id = request.single_use_id.clone();
        let claims = approvals::verified(&table, &hash, Some(&id), &approvals, self.now())?;
        approvals::counted(&claims, &peer.identity, self.approvers_min())?;
        let start = self.restoring.lock().clone();
        let start = start.ok_or(RestoreError::NotPrepared)?;
        let root = self.root_for(&start.region).ok_or(RestoreError::Sealed {
            epoch: start.region.root_epoch,
            needed: start.region.shares_needed,
        })?;
        // For as long as it lasts nobody else founds, and leadership is not given away.
        let _one = self.ceremony.lock().await;
        self.may_restore(peer)?;
        self.found().await?;
        self.begin_at_the_highest_level().await;
        self.at_level(kms_state::LEVEL_RESTORE.max(proto::ids::FeatureLevel(start.header.level)))?;
        let backup = request.backup.clone().unwrap_or_default();
        let mut file = File::new(start.clone(), root.clone());
        let mut number = 0;
        while let Some(part) = next(&mut incoming).await? {
            for rows in file.take(&part.bytes)? {
                self.bring_in(peer, &backup.digest, number, rows).await?;
                number += 1;
            }
        }
        let (whole, last) = file.whole()?;
        for rows in last {
            self.bring_in(peer, &backup.digest, number, rows).await?;
            number += 1;
        }
        let stated = v1::BackupRecord {
            digest: whole.digest.to_vec().into(),
            tree_size: start.header.tree_size,
            root_hash: start.header.root_hash.clone(),
            root_epoch: start.region.root_epoch,
            taken_at_ms: start.header.taken_at_ms,
            bytes: whole.bytes,
        };
        if stated != backup {
            return Err(RestoreError::OtherBackup);
        }
        let seen = self.seen_by_witnesses(&start, &root, &request).await?;
        let finish = v1::FinishRestore {
            backup: Some(backup),
            region: Some(start.region.clone()),
            rows: whole.end.rows,
            enrolment_set: genesis,
            witnessed_size: request.witnessed_size,
            policy: request.policy,
            claim: Some(v1::Claim {
                actor: peer.identity.to_string(),
                ..request.claim.unwrap_or_default()
            }),
        };
        let what = What::FinishRestore(finish);
        let done = self.propose(peer, claims, what).await?;
        tracing::warn!(
            leaf = done.leaf_index,
            leaves = start.header.tree_size,
            "the region was restored from a backup"
        );
        if let Err(error) = self.take_checkpoint(&whole.end.checkpoint) {
            tracing::debug!(%error, "the backup's checkpoint is not served");
        }
        *self.restoring.lock() = None;
        let state = self.reader().map_err(StaleError::State)?;
        let region = kms_state::region(&*state).unwrap_or_default();
        Ok(v1::RestoreReply {
            leaf_index: done.leaf_index,
            tree_size: start.header.tree_size,
            root_hash: start.header.root_hash.clone(),
            log_origin: region.log_origin,
            lost_leaves: request
                .witnessed_size
                .saturating_sub(start.header.tree_size),
            authority_version: done.authority_version,
            rows: whole.end.rows,
            witnessed_size: seen,
        })
    }

    fn may_restore(&self, peer: &Peer) -> Result<(), RestoreError> {
        if peer.identity.role() != Role::Operator {
            return Err(RestoreError::NotOperator(peer.identity.clone()));
        }
        let state = self.reader().map_err(StaleError::State)?;
        match kms_state::region(&*state) {
            Some(_) => Err(RestoreError::Already),
            None => Ok(()),
        }
    }

    /// The root key that a backup of this region opens with, on record or not: nothing is served by it.
    fn root_for(&self, region: &v1::KmsRegion) -> Option<Arc<RootKey>> {
        let root = self.seal.held()?;
        let same = root.epoch().0 == region.root_epoch
            && root.check_value().0[..] == region.root_check[..];
        same.then_some(root)
    }

    async fn bring_in(
        &self,
        peer: &Peer,
        digest: &Bytes,
        number: u64,
        rows: Vec<v1::StateRow>,
    ) -> Result<(), RestoreError> {
        let state = self.reader().map_err(StaleError::State)?;
        let here = kms_state::restoring(&*state).map_or(0, |progress| progress.next);
        drop(state);
        if number < here {
            return Ok(());
        }
        let what = What::RestoreRows(v1::RestoreRows {
            digest: digest.clone(),
            number,
            rows,
        });
        self.propose(peer, Vec::new(), what).await.map(drop)
    }

    async fn propose(
        &self,
        peer: &Peer,
        approvals: Vec<v1::ApprovalClaim>,
        what: What,
    ) -> Result<v1::KmsDone, RestoreError> {
        let command = Command {
            authority_version: 0,
            approvals,
            what,
        };
        let deadline = Instant::now() + FRAME_MAX;
        let proposed = self.ledger.propose(&peer.identity, command, deadline);
        Ok(proposed.await?)
    }

    /// How far the region's witnesses have seen its log, by their own word. Where it went further than the backup and
    /// than the request states, or their quorum is silent, nothing is restored.
    async fn seen_by_witnesses(
        &self,
        start: &Start,
        root: &RootKey,
        request: &v1::RestoreRequest,
    ) -> Result<u64, RestoreError> {
        let ours = start.header.tree_size;
        let rule = {
            let state = self.reader().map_err(StaleError::State)?;
            rule_of(&*state, &start.region)
        };
        let Some(rule) = rule else { return Ok(0) };
        let root_hash = Hash::try_from(&start.header.root_hash[..]);
        let root_hash = root_hash.map_err(|_| RestoreError::NotAuthentic)?;
        let note = signed(&start.region.log_origin, ours, root_hash, root)?;
        let seen = self.sizes_of_witnesses(rule.policy(), &note, ours).await;
        let largest = seen.iter().map(|(_, size)| *size).max().unwrap_or(0);
        if largest > ours.max(request.witnessed_size) {
            let witnessed = largest;
            return Err(RestoreError::Behind { witnessed, ours });
        }
        // The lost cluster's replicas say nothing any more; those outside count.
        let own = start.region.region.as_str();
        let answered = |party: &tlog::Party| {
            kms_state::is_own_name(own, party.key.name().as_str())
                || seen.iter().any(|(key, _)| *key == party.key)
        };
        if !rule.policy().quorum_of(answered) && !request.without_witnesses {
            return Err(RestoreError::WitnessesSilent);
        }
        Ok(largest)
    }
}

async fn next(incoming: &mut Incoming) -> Result<Option<v1::RestoreChunk>, RestoreError> {
    let part = tokio::time::timeout(PART_MAX, incoming.message()).await;
    part.map_err(|_| RestoreError::Cut)?
        .map_err(|_| RestoreError::Cut)
}

/// The witness policy of a state that waits, where it asks for witnesses.
fn rule_of(state: &dyn Reader, region: &v1::KmsRegion) -> Option<WitnessRule> {
    let row = kms_state::layout::restored(kms_state::layout::WITNESSES);
    let policy = v1::WitnessPolicy::decode(state.value(&row)?).ok()?;
    let rule = WitnessRule::parse(&policy, &region.region, &region.log_origin).ok()?;
    rule.witnessed().then_some(rule)
}

/// The backup's tree, signed as its log.
fn signed(origin: &str, size: u64, hash: Hash, root: &RootKey) -> Result<Note, RestoreError> {
    let line = origin.parse().map_err(|_| RestoreError::NotAuthentic)?;
    let checkpoint = Checkpoint::new(line, size, hash).map_err(|_| RestoreError::NotAuthentic)?;
    let key = root.log_key(origin).map_err(RestoreError::Key)?;
    let text = checkpoint.to_string();
    let name = origin.parse().map_err(|_| RestoreError::NotAuthentic)?;
    let verifier = VerifierKey::new(name, SignatureType::Ed25519, key.public())
        .expect("an Ed25519 public key has 32 bytes");
    let signature = Signature {
        name: verifier.name().clone(),
        id: verifier.id(),
        bytes: key.sign(text.as_bytes()).to_vec(),
    };
    Note::new(text, vec![signature]).map_err(|_| RestoreError::NotAuthentic)
}

/// A backup on its way in.
struct File {
    start: Arc<Start>,
    root: Arc<RootKey>,
    /// Of every byte that can no longer be the checksum.
    digest: Context,
    bytes: u64,
    /// What has not been looked at: the checksum may be its end.
    held: Vec<u8>,
    begun: bool,
    opener: Option<Opener>,
    frames: Frames,
    end: Option<v1::KmsBackupEnd>,
    rows: u64,
}

/// A backup that arrived whole.
struct Whole {
    digest: [u8; 32],
    bytes: u64,
    end: v1::KmsBackupEnd,
}

impl File {
    fn new(start: Arc<Start>, root: Arc<RootKey>) -> Self {
        Self {
            start,
            root,
            digest: Context::new(&SHA256),
            bytes: 0,
            held: Vec::new(),
            begun: false,
            opener: None,
            frames: Frames::default(),
            end: None,
            rows: 0,
        }
    }

    /// Takes more of it and gives out every frame of rows that is whole.
    fn take(&mut self, bytes: &[u8]) -> Result<Vec<Vec<v1::StateRow>>, RestoreError> {
        self.bytes += bytes.len() as u64;
        self.held.extend_from_slice(bytes);
        let ready = self.held.len().saturating_sub(CHECKSUM_BYTES);
        if !self.begun {
            let start = &self.start.bytes;
            if ready < start.len() + HEADER_BYTES {
                return Ok(Vec::new());
            }
            if self.held[..start.len()] != start[..] {
                return Err(RestoreError::NotPrepared);
            }
            let stream = &self.held[start.len()..start.len() + HEADER_BYTES];
            let (header, _) =
                StreamHeader::split(stream).map_err(|_| RestoreError::NotAuthentic)?;
            let opener = self.root.open_backup(start, &header);
            self.opener = Some(opener.map_err(|error| match error {
                UnwrapError::NotAuthentic => RestoreError::NotAuthentic,
                UnwrapError::Key(error) => RestoreError::Key(error),
            })?);
            self.begun = true;
            self.consume(start.len() + HEADER_BYTES);
        }
        let ready = self.held.len().saturating_sub(CHECKSUM_BYTES);
        let mut plain = Vec::new();
        if let Some(opener) = &mut self.opener {
            let opened = opener.update(&self.held[..ready], &mut plain);
            opened.map_err(|_| RestoreError::NotAuthentic)?;
        }
        self.consume(ready);
        self.frames(&plain)
    }

    fn consume(&mut self, bytes: usize) {
        self.digest.update(&self.held[..bytes]);
        self.held.drain(..bytes);
    }

    fn frames(&mut self, plain: &[u8]) -> Result<Vec<Vec<v1::StateRow>>, RestoreError> {
        self.frames.push(plain);
        let mut rows = Vec::new();
        while let Some(frame) = self.frames.take()? {
            match frame.frame {
                Some(Frame::Rows(frame)) if self.end.is_none() => {
                    self.rows += frame.rows.len() as u64;
                    rows.push(frame.rows);
                }
                Some(Frame::End(end)) if self.end.is_none() => self.end = Some(end),
                _ => return Err(MalformedFrame.into()),
            }
        }
        Ok(rows)
    }

    /// The end of it: known to be whole only now.
    fn whole(mut self) -> Result<(Whole, Vec<Vec<v1::StateRow>>), RestoreError> {
        let opener = self.opener.take().ok_or(RestoreError::Cut)?;
        let mut plain = Vec::new();
        let opened = opener.finish(&mut plain);
        opened.map_err(|_| RestoreError::NotAuthentic)?;
        let rows = self.frames(&plain)?;
        let checksum = self.digest.clone().finish();
        if self.held[..] != *checksum.as_ref() {
            return Err(RestoreError::NotAuthentic);
        }
        self.consume(CHECKSUM_BYTES);
        let end = self.end.ok_or(RestoreError::Cut)?;
        if end.rows != self.rows || !self.frames.is_empty() {
            return Err(MalformedFrame.into());
        }
        let digest = self.digest.finish();
        let digest = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let whole = Whole {
            digest,
            bytes: self.bytes,
            end,
        };
        Ok((whole, rows))
    }
}
