//! How a checkpoint comes about: the leader signs it, the other replicas cosign, outside witnesses cosign, everyone
//! gets it.
//!
//! Owns the rounds on the leader and this replica's answers to them. Only sizes that are applied, so committed, are
//! signed, by a key that only unsealed replicas have; a checkpoint is finished with the cosignatures of a majority of
//! the voters, so that one stolen log key forks nothing by itself. A round that fails is made again: nothing waits for
//! it but receipts and purposes that need a witness. A replica that is slow to take a checkpoint holds no round up: it
//! gets the newest there is, and the newest witnessed one, when it is done with the last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use kms_state::StateHashes;
use proto::ids::{Identity, NodeId, RootEpoch};
use proto::store::Reader;
use proto::v1;
use tlog::{
    Checkpoint, KeyName, Note, OriginLine, OwnTree, Signature, SignatureType, UnixSeconds,
    VerifierKey,
};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout_at};
use tonic::Request;

use crate::checkpoints::{Finished, Witnessed};
use crate::core::{Core, StaleError};
use crate::cosigner::CosignError;
use crate::keys::in_force;
use crate::seal::Sealed;

/// Between rounds, while the tree grows fast or somebody waits for one.
const ROUND_EVERY: Duration = Duration::from_millis(50);
/// Between rounds, while it grows by less than [`BUSY_LEAVES`] in that time. A round costs the replicas as much as a
/// dozen entries do.
const QUIET_ROUND_EVERY: Duration = Duration::from_millis(150);
const BUSY_LEAVES: u64 = 200;
/// A tree that does not grow is stated anew: at least once a minute, with room for a round that fails.
const REFRESH_AFTER: Duration = Duration::from_secs(30);
/// How long a round waits for a majority of the replicas.
const COSIGN_MAX: Duration = Duration::from_secs(2);
/// How long it waits for the rest of them once it has a majority.
const COSIGN_REST: Duration = Duration::from_millis(20);
/// How long one replica may take to take the finished checkpoint.
const TAKE_MAX: Duration = Duration::from_secs(1);
/// How long a replica that is asked waits for its own state to catch up with the checkpoint.
const CATCH_UP_MAX: Duration = Duration::from_millis(500);

/// Why a round made nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    /// The log's key comes from the root key.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// No room for the log's key.
    #[error("no key memory")]
    Key(#[source] envelope::KeyError),
    /// This replica's own word.
    #[error("own cosignature")]
    Own(#[source] CosignAnswerError),
    /// Too few replicas.
    #[error("{have} of {voters} replicas have cosigned, which is no majority")]
    NoMajority {
        /// Those who did, this one included.
        have: usize,
        /// Voters.
        voters: usize,
    },
    /// More signatures than a note holds.
    #[error("the note is too long")]
    Note(#[source] tlog::NoteError),
    /// It was not taken here.
    #[error("the finished checkpoint was not taken here")]
    Take(#[source] crate::checkpoints::TakeError),
}

/// Why this replica does not cosign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CosignAnswerError {
    /// What was asked is no checkpoint.
    #[error("the checkpoint is malformed")]
    Malformed(#[source] tlog::CheckpointError),
    /// No log yet.
    #[error("not initialised: there is no log yet")]
    NotInitialised,
    /// This host's clock is before 1970.
    #[error("this host's clock tells no time")]
    Clock,
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// Not a checkpoint to cosign, or not durably.
    #[error("not cosigned")]
    Cosign(#[from] CosignError),
}

/// What a replica's cosigner key is called in notes: the region and the replica's name.
pub(crate) fn cosigner_name(replica: &Identity) -> KeyName {
    format!("{}/{}", replica.region(), replica.name())
        .parse()
        .expect("regions and names have no space, plus or control character")
}

impl Core {
    /// The log's public key, on an unsealed replica of an initialised region.
    pub(crate) fn log_verifier(&self, state: &dyn Reader) -> Option<VerifierKey> {
        let region = kms_state::region(state)?;
        let origin = region.log_origin;
        let root = self.seal.root_of(RootEpoch(region.root_epoch)).ok()?;
        let key = root.log_key(&origin).ok()?;
        let name = origin.parse().ok()?;
        VerifierKey::new(name, SignatureType::Ed25519, key.public()).ok()
    }

    /// Makes checkpoints while this replica leads and is unsealed, for as long as it runs.
    pub(crate) async fn publish_checkpoints(self: Arc<Self>) {
        let (made, finished) = watch::channel(());
        tokio::join!(
            self.make_checkpoints(made),
            self.hand_out(finished),
            self.checkpoints.save_newest()
        );
    }

    async fn make_checkpoints(self: &Arc<Self>, made: watch::Sender<()>) {
        let mut rounds = tokio::time::interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if !self.group.is_leader() || self.serving().is_err() {
                continue;
            }
            match self.publish_round().await {
                Ok(false) => {}
                Ok(true) => made.send_replace(()),
                Err(error) => {
                    metrics::counter!("reduit_kms_checkpoint_rounds_failed_total").increment(1);
                    tracing::debug!(error = %transport::fault::Chain(&error), "no checkpoint this round");
                }
            }
        }
    }

    /// Makes a checkpoint and takes it here; answers whether one was due.
    async fn publish_round(self: &Arc<Self>) -> Result<bool, RoundError> {
        let Some(checkpoint) = self.checkpoint_due()? else {
            return Ok(false);
        };
        let text = checkpoint.to_string();
        let own = self
            .cosign_own(checkpoint.clone())
            .await
            .map_err(RoundError::Own)?;
        let mut note = Note::new(text.clone(), vec![self.sign_as_log(&text)?, own])
            .map_err(RoundError::Note)?;
        for signature in self.gather(&text).await? {
            note = note.with(signature).map_err(RoundError::Note)?;
        }
        let note = self.ask_witnesses(note, checkpoint.size()).await;
        let bytes = note.to_string().into_bytes();
        self.take_checkpoint(&bytes).map_err(RoundError::Take)?;
        metrics::counter!("reduit_kms_checkpoints_total").increment(1);
        Ok(true)
    }

    /// The checkpoint to make now, if one is due.
    fn checkpoint_due(&self) -> Result<Option<Checkpoint>, RoundError> {
        let state = self.reader().map_err(StaleError::State)?;
        let Some(head) = kms_state::tree_head(&*state) else {
            return Ok(None);
        };
        let held = self.checkpoints.now();
        let newest = held.newest.as_ref();
        let grown = newest.map_or(head.size, |newest| {
            head.size.saturating_sub(newest.checkpoint.size())
        });
        let age = newest.map_or(Duration::MAX, |newest| newest.since.elapsed());
        let fresh = grown == 0 && age < REFRESH_AFTER;
        let quiet = grown > 0 && grown < BUSY_LEAVES && age < QUIET_ROUND_EVERY;
        let may_wait = quiet && !self.checkpoints.is_waited_for();
        // A new policy wants its quorum's word at once, and not with the next leaf.
        let lacks_word = self.rules.in_force(&*state).is_some_and(|rule| {
            let witnessed = held.witnessed_under(&rule);
            let behind = |w: &Witnessed| w.finished.checkpoint.size() < head.size && !may_wait;
            witnessed.is_none_or(behind) && self.may_ask_witnesses(rule.policy())
        });
        let fresh = fresh || may_wait;
        if fresh && !lacks_word {
            return Ok(None);
        }
        let checkpoint = Checkpoint::new(OriginLine::from(&head.origin), head.size, head.root)
            .expect("the state's tree is one");
        Ok(Some(checkpoint))
    }

    fn sign_as_log(&self, text: &str) -> Result<Signature, RoundError> {
        let origin = text.lines().next().unwrap_or_default();
        let in_force = in_force(&*self.reader().map_err(StaleError::State)?);
        let root = self.seal.root_of(in_force)?;
        let key = root.log_key(origin).map_err(RoundError::Key)?;
        let name: KeyName = origin.parse().expect("an origin is a key name");
        let verifier = VerifierKey::new(name, SignatureType::Ed25519, key.public())
            .expect("an Ed25519 public key has 32 bytes");
        Ok(Signature {
            name: verifier.name().clone(),
            id: verifier.id(),
            bytes: key.sign(text.as_bytes()).to_vec(),
        })
    }

    /// This replica's cosignature of a checkpoint, where its own state has that tree.
    async fn cosign_own(
        self: &Arc<Self>,
        checkpoint: Checkpoint,
    ) -> Result<Signature, CosignAnswerError> {
        let time = UnixSeconds::new(self.now().0 / 1000).ok_or(CosignAnswerError::Clock)?;
        let core = self.clone();
        // The disk is waited for.
        let cosigned = tokio::task::spawn_blocking(move || {
            let state = core.reader().map_err(StaleError::State)?;
            let head = kms_state::tree_head(&*state).ok_or(CosignAnswerError::NotInitialised)?;
            let hashes = StateHashes(&*state);
            let tree = OwnTree {
                origin: &OriginLine::from(&head.origin),
                size: head.size,
                hashes: &hashes,
            };
            Ok(core.cosigner.cosign(&checkpoint, &tree, time)?)
        });
        match cosigned.await {
            Ok(cosigned) => cosigned,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// The leader's question. Waits a moment for what is on its way here.
    pub(crate) async fn cosign_checkpoint(
        self: &Arc<Self>,
        request: &v1::CosignCheckpointRequest,
    ) -> Result<v1::CosignCheckpointReply, CosignAnswerError> {
        let checkpoint: Checkpoint = request
            .checkpoint
            .parse()
            .map_err(CosignAnswerError::Malformed)?;
        self.caught_up(checkpoint.size()).await;
        let signature = self.cosign_own(checkpoint).await?;
        Ok(v1::CosignCheckpointReply {
            signature: signature.to_string(),
            vkey: self.cosigner.verifier().to_string(),
        })
    }

    /// Waits until the tree here has `size` leaves, for a moment.
    pub(crate) async fn caught_up(&self, size: u64) {
        let mut applied = self.group.watch_applied();
        let deadline = Instant::now() + CATCH_UP_MAX;
        loop {
            let here = self
                .reader()
                .is_ok_and(|state| kms_state::frontier(&*state).size() >= size);
            if here {
                return;
            }
            match timeout_at(deadline, applied.changed()).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    /// Cosignatures of other replicas: of a majority with this one's, and of those who answer soon after.
    async fn gather(&self, text: &str) -> Result<Vec<Signature>, RoundError> {
        let voters = self.group.voters();
        let me = self.group.node_id();
        let all = voters.all();
        let mut asked: FuturesUnordered<_> = all
            .iter()
            .filter(|id| **id != me)
            .map(|id| async move { (*id, self.ask_replica(*id, text).await) })
            .collect();
        let mut have = BTreeSet::from([me]);
        let mut signatures = Vec::new();
        let mut deadline = Instant::now() + COSIGN_MAX;
        while let Ok(Some((id, answer))) = timeout_at(deadline, asked.next()).await {
            match answer {
                Ok(signature) => {
                    let before = voters.majority(&have);
                    have.insert(id);
                    signatures.push(signature);
                    if !before && voters.majority(&have) {
                        deadline = deadline.min(Instant::now() + COSIGN_REST);
                    }
                }
                Err(why) => tracing::debug!(member = id.0, why, "replica did not cosign"),
            }
        }
        if voters.majority(&have) {
            return Ok(signatures);
        }
        let (have, voters) = (have.len(), all.len());
        Err(RoundError::NoMajority { have, voters })
    }

    async fn ask_replica(&self, id: NodeId, text: &str) -> Result<Signature, String> {
        let mut client = self.peers.peer(id).map_err(|error| error.to_string())?;
        let mut request = Request::new(v1::CosignCheckpointRequest {
            checkpoint: text.to_owned(),
        });
        request.set_timeout(COSIGN_MAX);
        let reply = client.cosign_checkpoint(request).await;
        let reply = reply
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        let others = self.others();
        let member = others.iter().find(|(other, _)| *other == id);
        let name = member.map(|(_, identity)| cosigner_name(identity));
        let name = name.ok_or("no longer enrolled")?;
        cosignature_in(&reply, text, &name).ok_or_else(|| "not its cosignature".to_owned())
    }

    /// Gives every other member what there is after each checkpoint that was made, until nobody makes any.
    async fn hand_out(&self, mut finished: watch::Receiver<()>) {
        let mut given: Vec<Arc<Finished>> = Vec::new();
        while finished.changed().await.is_ok() {
            let held = self.checkpoints.now();
            let due: Vec<_> = held.to_hand_out().cloned().collect();
            for one in &due {
                if !given.iter().any(|given| Arc::ptr_eq(given, one)) {
                    let note = one.note.to_string().into_bytes();
                    self.hand_out_one(note.into()).await;
                }
            }
            given = due;
        }
    }

    async fn hand_out_one(&self, note: Bytes) {
        let me = self.group.node_id();
        let members = self.group.status();
        let members: Vec<_> = members
            .voters
            .all()
            .into_iter()
            .chain(members.learners.iter().copied())
            .filter(|id| *id != me)
            .collect();
        let given = members.into_iter().map(|id| {
            let note = note.clone();
            async move {
                let mut client = self.peers.peer(id).ok()?;
                let mut request = Request::new(v1::TakeCheckpointRequest { note });
                request.set_timeout(TAKE_MAX);
                let taken = client.take_checkpoint(request).await;
                if let Err(status) = &taken {
                    tracing::debug!(member = id.0, %status, "checkpoint not taken");
                }
                taken.ok()
            }
        });
        futures::future::join_all(given).await;
    }
}

/// The signature of an answer, if it is one of that name's cosigner on that text. Whose key it is, the connection says:
/// it is to the enrolled member.
fn cosignature_in(
    reply: &v1::CosignCheckpointReply,
    text: &str,
    name: &KeyName,
) -> Option<Signature> {
    let vkey: VerifierKey = reply.vkey.parse().ok()?;
    if vkey.kind() != SignatureType::Ed25519Cosignature || vkey.name() != name {
        return None;
    }
    let signature: Signature = reply.signature.parse().ok()?;
    let note = Note::new(text.to_owned(), vec![signature]).ok()?;
    let known = [vkey];
    note.verify(&known).ok()?;
    note.signatures().first().cloned()
}

#[cfg(test)]
mod tests {
    use tlog::{Hash, SignerKey};

    use super::*;

    fn key(name: &str, kind: SignatureType, seed: u8) -> SignerKey {
        SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]).expect("a key")
    }

    /// A replica speaks for itself alone: not for another replica, not as the log, not about another tree.
    #[test]
    fn an_answer_counts_only_as_that_replicas_word_on_that_checkpoint() {
        let origin: OriginLine = "ch-zrh/main/1".parse().expect("an origin");
        let checkpoint = Checkpoint::new(origin, 0, Hash::empty_root()).expect("a checkpoint");
        let text = checkpoint.to_string();
        let name: KeyName = "ch-zrh/kms-2".parse().expect("a name");
        let time = UnixSeconds::new(1_800_000_000);
        let own = key("ch-zrh/kms-2", SignatureType::Ed25519Cosignature, 1);
        let other = key("ch-zrh/kms-3", SignatureType::Ed25519Cosignature, 2);
        let log = key("ch-zrh/kms-2", SignatureType::Ed25519, 3);
        let reply = |signer: &SignerKey, vkey: &SignerKey, time| v1::CosignCheckpointReply {
            signature: signer
                .sign_checkpoint(&checkpoint, time)
                .expect("signs")
                .to_string(),
            vkey: vkey.verifier().to_string(),
        };
        let good = reply(&own, &own, time);
        assert!(cosignature_in(&good, &text, &name).is_some());
        assert!(cosignature_in(&reply(&other, &other, time), &text, &name).is_none());
        assert!(cosignature_in(&reply(&log, &log, None), &text, &name).is_none());
        assert!(cosignature_in(&reply(&other, &own, time), &text, &name).is_none());
        let another = text.replace("\n0\n", "\n1\n");
        assert!(cosignature_in(&good, &another, &name).is_none());
    }
}
