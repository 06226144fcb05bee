//! The checkpoints of the log as this replica has them: finished, to serve and to prove against.
//!
//! Owns the newest one and the newest that outside witnesses vouch for, under the policy in force. Refuses one that is
//! not of the tree applied here, one without a majority's cosignatures from its maker being the maker's business, and
//! to replace a larger by a smaller. Nothing here is secret: a checkpoint is for the world.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kms_state::{StateHashes, WitnessRule};
use parking_lot::RwLock;
use prost::Message as _;
use proto::ids::LeafIndex;
use proto::store::Reader;
use proto::v1;
use tlog::{Checkpoint, CheckpointError, NOTE_BYTES_MAX, Note, NoteError, ProofFile, UnixSeconds};
use tokio::sync::watch;

use crate::core::{Core, StaleError};

/// The newest finished checkpoint outlives the process in this file, so that a sealed region still shows it.
const FILE: &str = "checkpoint";
/// Between two writes of it.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// A finished checkpoint.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) note: Note,
    pub(crate) checkpoint: Checkpoint,
    /// When it came here, by this process's clock.
    pub(crate) since: Instant,
}

/// A finished checkpoint that a policy's quorum has cosigned.
#[derive(Debug, Clone)]
pub(crate) struct Witnessed {
    pub(crate) finished: Arc<Finished>,
    /// Since when the quorum vouches, as its members state.
    pub(crate) as_of: UnixSeconds,
    /// Under which policy, as it stands in state.
    policy: bytes::Bytes,
}

/// What this replica holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) newest: Option<Arc<Finished>>,
    witnessed: Option<Witnessed>,
}

impl Held {
    /// What every member is to have: the newest one, and the newest that was witnessed, where that is another.
    pub(crate) fn to_hand_out(&self) -> impl Iterator<Item = &Arc<Finished>> {
        let newest = self.newest.as_ref();
        let witnessed = self.witnessed.as_ref().map(|witnessed| &witnessed.finished);
        let other = |one: &&Arc<Finished>| newest.is_none_or(|newest| !Arc::ptr_eq(newest, one));
        witnessed.filter(other).into_iter().chain(newest)
    }

    /// The newest one that the policy's quorum has cosigned. One made under another policy counts for nothing.
    pub(crate) fn witnessed_under(&self, rule: &Rule) -> Option<&Witnessed> {
        self.witnessed
            .as_ref()
            .filter(|witnessed| witnessed.policy == rule.stored)
    }
}

/// A witness policy with the bytes it was read from.
#[derive(Debug)]
pub(crate) struct Rule {
    stored: bytes::Bytes,
    rule: WitnessRule,
}

impl std::ops::Deref for Rule {
    type Target = WitnessRule;
    fn deref(&self) -> &WitnessRule {
        &self.rule
    }
}

/// The policy in force, parsed once.
#[derive(Default)]
pub(crate) struct Rules(RwLock<Option<Arc<Rule>>>);

impl Rules {
    /// The policy in force that asks for witnesses; `None` where none does.
    pub(crate) fn in_force(&self, state: &dyn Reader) -> Option<Arc<Rule>> {
        let stored = state.value(kms_state::layout::WITNESSES)?;
        let rule = self.parsed(stored, state);
        Some(rule).filter(|rule| rule.witnessed())
    }

    fn parsed(&self, stored: bytes::Bytes, state: &dyn Reader) -> Arc<Rule> {
        if let Some(held) = self.0.read().as_ref().filter(|held| held.stored == stored) {
            return held.clone();
        }
        let policy =
            v1::WitnessPolicy::decode(stored.clone()).expect("state holds what this machine wrote");
        let region = kms_state::region(state).expect("a policy is of an initialised region");
        let rule = WitnessRule::parse(&policy, &region.region, &region.log_origin)
            .expect("state holds only policies that parsed");
        let rule = Arc::new(Rule { stored, rule });
        *self.0.write() = Some(rule.clone());
        rule
    }
}

/// Why a checkpoint is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    /// No note.
    #[error("it is no signed note")]
    Note(#[from] NoteError),
    /// No checkpoint in it.
    #[error("it is no checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// Of another tree than the one applied here.
    #[error("it is not of the tree applied here")]
    OtherTree,
    /// Not by this region's log key.
    #[error("it is not signed by the log")]
    NotSigned(#[source] tlog::NoteRefused),
    /// It goes further than what is applied here.
    #[error("it has {size} leaves, more than are applied here")]
    Ahead {
        /// Its leaves.
        size: u64,
    },
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
}

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiptError {
    /// The leaf is not in the log, as far as this replica knows.
    #[error("the tree has {size} leaves here")]
    NoSuchLeaf {
        /// Leaves applied here.
        size: u64,
    },
    /// No checkpoint in time that covers it.
    #[error("no finished checkpoint covers the leaf yet")]
    NotCovered,
    /// The proof could not be made.
    #[error("no such proof")]
    Prove(#[source] tlog::ProveError),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
}

/// The checkpoints held here.
pub(crate) struct Checkpoints {
    held: watch::Sender<Held>,
    waiting: Arc<AtomicUsize>,
    file: PathBuf,
}

/// Somebody waits for a checkpoint, as long as this lives.
pub(crate) struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Checkpoints {
    /// What was held when the process ended, if it can be read: it is replaced within a minute of a leader.
    pub(crate) fn open(folder: &std::path::Path) -> Self {
        let file = folder.join(FILE);
        let bytes = std::fs::read(&file).ok();
        let newest = bytes.and_then(|bytes| finished(&bytes).ok()).map(Arc::new);
        let held = Held {
            newest,
            witnessed: None,
        };
        Self {
            held: watch::Sender::new(held),
            waiting: Arc::default(),
            file,
        }
    }

    /// As of now.
    pub(crate) fn now(&self) -> Held {
        self.held.borrow().clone()
    }

    /// Told of every change, to wait for one that is to come soon.
    pub(crate) fn wait(&self) -> (Waiting, watch::Receiver<Held>) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        (Waiting(self.waiting.clone()), self.held.subscribe())
    }

    /// Whether somebody here waits for one.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Holds a finished checkpoint, where it is not smaller than what is held.
    pub(crate) fn replace(&self, finished: Arc<Finished>, rule: Option<&Rule>) {
        let trusted = rule.and_then(|rule| rule.policy().check(&finished.note).ok());
        let witnessed = trusted.and_then(|trusted| trusted.as_of()).zip(rule);
        let size = finished.checkpoint.size();
        self.held.send_if_modified(|held| {
            let larger = |other: Option<&Arc<Finished>>| {
                other.is_some_and(|other| other.checkpoint.size() > size)
            };
            let mut modified = false;
            if !larger(held.newest.as_ref()) {
                held.newest = Some(finished.clone());
                modified = true;
            }
            if let Some((as_of, rule)) = witnessed
                && !larger(held.witnessed_under(rule).map(|w| &w.finished))
            {
                held.witnessed = Some(Witnessed {
                    finished: finished.clone(),
                    as_of,
                    policy: rule.stored.clone(),
                });
                modified = true;
            }
            modified
        });
        if let Some(as_of) = self.held.borrow().witnessed.as_ref().map(|w| w.as_of) {
            metrics::gauge!("reduit_kms_witnessed_seconds").set(as_of.get() as f64);
        }
        metrics::gauge!("reduit_kms_checkpoint_size").set(size as f64);
    }

    /// Writes the newest to its file, once a second at most, until nothing replaces it.
    pub(crate) async fn save_newest(&self) {
        let mut held = self.held.subscribe();
        while held.changed().await.is_ok() {
            let newest = held.borrow_and_update().newest.clone();
            if let Some(newest) = newest {
                self.save(&newest.note);
            }
            tokio::time::sleep(SAVE_EVERY).await;
        }
    }

    /// Not durable: a checkpoint that is lost is made again.
    fn save(&self, note: &Note) {
        let beside = self.file.with_extension("new");
        let saved = std::fs::write(&beside, note.to_string())
            .and_then(|()| std::fs::rename(&beside, &self.file));
        if let Err(error) = saved {
            tracing::warn!(%error, "the newest checkpoint was not saved");
        }
    }
}

/// Reads one that is said to be finished.
pub(crate) fn finished(bytes: &[u8]) -> Result<Finished, TakeError> {
    let note = Note::parse(bytes)?;
    let checkpoint = note.text().parse()?;
    Ok(Finished {
        note,
        checkpoint,
        since: Instant::now(),
    })
}

impl Core {
    /// Takes what the leader hands out, once what it is of is applied here, or soon refuses.
    pub(crate) async fn take_handed(&self, note: &[u8]) -> Result<(), TakeError> {
        let size = finished(note)?.checkpoint.size();
        self.caught_up(size).await;
        self.take_checkpoint(note)
    }

    /// Takes a finished checkpoint, if it is of the tree applied here.
    pub(crate) fn take_checkpoint(&self, note: &[u8]) -> Result<(), TakeError> {
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong(note.len()).into());
        }
        let finished = finished(note)?;
        let state = self.reader().map_err(StaleError::State)?;
        let head = kms_state::tree_head(&*state).ok_or(TakeError::OtherTree)?;
        let size = finished.checkpoint.size();
        if size > head.size {
            return Err(TakeError::Ahead { size });
        }
        let root = tlog::root_at(&StateHashes(&*state), size).ok();
        let same_log = finished.checkpoint.origin().as_str() == head.origin.to_string();
        if !same_log || root != Some(finished.checkpoint.root()) {
            return Err(TakeError::OtherTree);
        }
        // A sealed replica cannot tell; what it then serves is checked by its readers.
        if let Some(key) = self.log_verifier(&*state) {
            finished.note.verify(&[key]).map_err(TakeError::NotSigned)?;
        }
        let rule = self.rules.in_force(&*state);
        drop(state);
        let finished = Arc::new(finished);
        self.checkpoints.replace(finished, rule.as_deref());
        Ok(())
    }

    /// The newest checkpoint whose whole tree is here.
    pub(crate) fn served_checkpoint(&self) -> Option<Arc<Finished>> {
        let newest = self.checkpoints.now().newest?;
        let applied = self.reader().ok()?;
        let here = kms_state::frontier(&*applied).size() >= newest.checkpoint.size();
        here.then_some(newest)
    }

    /// What there is, for who asks by gRPC.
    pub(crate) fn find_checkpoint(&self) -> Result<v1::FindCheckpointReply, StaleError> {
        let state = self.reader().map_err(StaleError::State)?;
        let held = self.checkpoints.now();
        let rule = self.rules.in_force(&*state);
        let bytes = |finished: &Finished| finished.note.to_string().into_bytes().into();
        let witnessed = rule.as_deref().and_then(|rule| held.witnessed_under(rule));
        Ok(v1::FindCheckpointReply {
            newest: held.newest.as_deref().map(bytes).unwrap_or_default(),
            witnessed: witnessed.map(|w| bytes(&w.finished)).unwrap_or_default(),
            policy: kms_state::witness_policy(&*state),
            log_key: self
                .log_verifier(&*state)
                .map(|key| key.to_string())
                .unwrap_or_default(),
            cosigner_key: self.cosigner.verifier().to_string(),
        })
    }

    /// A proof of one leaf for people to keep. Where the policy asks for witnesses, their word is in it.
    pub(crate) async fn receipt(
        &self,
        request: &v1::ReceiptRequest,
    ) -> Result<v1::ReceiptReply, ReceiptError> {
        let index = LeafIndex(request.leaf_index);
        // A follower may hear of the leaf a moment after its writer.
        self.caught_up(index.0.saturating_add(1)).await;
        let (size, rule) = {
            let state = self.reader().map_err(StaleError::State)?;
            let size = kms_state::frontier(&*state).size();
            (size, self.rules.in_force(&*state))
        };
        if index.0 >= size {
            return Err(ReceiptError::NoSuchLeaf { size });
        }
        let (_waiting, mut held) = self.checkpoints.wait();
        let covering = |held: &Held| {
            let best = match &rule {
                Some(rule) => held.witnessed_under(rule).map(|w| w.finished.clone()),
                None => held.newest.clone(),
            };
            best.filter(|best| best.checkpoint.size() > index.0)
        };
        let found = held.wait_for(|held| covering(held).is_some());
        let found = tokio::time::timeout_at(self.deadline(), found).await;
        let found = match found {
            Ok(Ok(held)) => covering(&held),
            _ => None,
        };
        let finished = found.ok_or(ReceiptError::NotCovered)?;
        let state = self.reader().map_err(StaleError::State)?;
        let proof = tlog::prove_inclusion(&StateHashes(&*state), index, finished.checkpoint.size())
            .map_err(ReceiptError::Prove)?;
        let file = ProofFile::new(index, proof, finished.note.clone(), Vec::new())
            .expect("a finished checkpoint is one, and a proof of a tree has few hashes");
        Ok(v1::ReceiptReply {
            proof: file.to_string().into_bytes().into(),
        })
    }
}
