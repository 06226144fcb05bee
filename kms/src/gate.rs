//! Whether keys may be released without more of an outside witness's word.
//!
//! Owns the rule: where the region's policy asks for witnesses, a replica releases only under a checkpoint that their
//! quorum cosigned, that is younger than the region's `unwitnessed_max`, and that covers this replica's own unsealing;
//! and a person's purpose waits until one covers its own record. Refuses otherwise, in words that say since when.
//! Region time counts, not this host's clock; witnesses state their own.

use std::sync::Arc;

use proto::danger::{Switch, broken};
use proto::ids::{LeafIndex, UnixMs};
use proto::store::Reader;
use tlog::Purpose;
use tokio::time::{Instant, timeout_at};

use crate::checkpoints::{Checkpoints, Rule, Rules, Witnessed};
use crate::seal::Seal;

/// Why nothing is released although policy allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwitnessed {
    /// No word of theirs since the unsealing.
    #[error(
        "the region's witnesses have cosigned no checkpoint since this replica was unsealed: nothing is released \
         before they do"
    )]
    NeverHere,
    /// Their last word is old.
    #[error(
        "the region's witnesses cosigned last {age_s} s ago, more than the {max_s} s this region allows: nothing is \
         released before they do again"
    )]
    TooOld {
        /// Age in region time.
        age_s: u64,
        /// What the region allows.
        max_s: u64,
    },
    /// A person's purpose, and nobody to witness it.
    #[error("this purpose needs an outside witness, and the region's policy asks for none")]
    NoWitnesses,
    /// A person's purpose, recorded, and not witnessed in time.
    #[error(
        "the request is on record as leaf {leaf}, and the region's witnesses have not cosigned it in time: nothing \
         was released"
    )]
    NotCovered {
        /// Its record.
        leaf: LeafIndex,
    },
}

/// Those who are to be replaced have not seen the log as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the outgoing witnesses have cosigned {size} of {newest} leaves: they vouch for the log up to their replacement, or \
     have been silent for as long as this region goes without them"
)]
pub(crate) struct OutgoingSilent {
    size: u64,
    newest: u64,
}

/// What the rule is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    /// Since when the newest witnessed checkpoint is vouched for, and its leaves.
    witnessed: Option<(u64, u64)>,
    /// The leaf of this replica's own unsealing, where it has one.
    unsealed_at: Option<LeafIndex>,
    /// Region time.
    now: UnixMs,
    /// What the region allows.
    max_ms: u64,
}

impl Standing {
    fn judge(self) -> Result<(), Unwitnessed> {
        let (as_of_s, size) = self.witnessed.ok_or(Unwitnessed::NeverHere)?;
        if self.unsealed_at.is_some_and(|leaf| size <= leaf.0) {
            return Err(Unwitnessed::NeverHere);
        }
        let age_ms = self.now.0.saturating_sub(as_of_s.saturating_mul(1000));
        if age_ms > self.max_ms {
            return Err(Unwitnessed::TooOld {
                age_s: age_ms / 1000,
                max_s: self.max_ms / 1000,
            });
        }
        Ok(())
    }
}

/// Whether a release waits for its record to be witnessed.
pub(crate) enum Waits {
    /// The record is enough.
    No,
    /// Until this policy's quorum has cosigned it; without a policy it would wait for ever, and is refused.
    Until(Option<Arc<Rule>>),
}

/// The rule, with where it looks.
pub(crate) struct Gate {
    pub(crate) rules: Arc<Rules>,
    pub(crate) checkpoints: Arc<Checkpoints>,
    pub(crate) seal: Arc<Seal>,
}

impl Gate {
    /// Before the record: whether a release may be asked for at all.
    pub(crate) fn may_release(&self, state: &dyn Reader, purpose: &str) -> Result<(), Unwitnessed> {
        if broken(Switch::IgnoreWitnesses) {
            return Ok(());
        }
        let Some(rule) = self.rules.in_force(state) else {
            return match is_human(purpose) {
                true => Err(Unwitnessed::NoWitnesses),
                false => Ok(()),
            };
        };
        let held = self.checkpoints.now();
        let told = |witnessed: &Witnessed| {
            let size = witnessed.finished.checkpoint.size();
            (witnessed.as_of.get(), size)
        };
        let unsealed = kms_state::boot(state, &self.seal.boot_id());
        let standing = Standing {
            witnessed: held.witnessed_under(&rule).map(told),
            unsealed_at: unsealed.map(|record| LeafIndex(record.leaf_index)),
            now: kms_state::region_time(state),
            max_ms: rule.unwitnessed_max_ms(),
        };
        standing.judge()
    }

    /// How far the quorum in force vouches for the log: the leaves it has cosigned, at least those of `newest`. `None`
    /// where no policy is in force that asks for one.
    ///
    /// # Errors
    /// While it lags, unless it has been silent for so long that nothing is released any more: then it can be replaced
    /// without its word, or a region that lost its witnesses could never serve again.
    pub(crate) fn outgoing(
        &self,
        state: &dyn Reader,
        newest: u64,
    ) -> Result<Option<u64>, OutgoingSilent> {
        let Some(rule) = self.rules.in_force(state) else {
            return Ok(None);
        };
        let held = self.checkpoints.now();
        let witnessed = held.witnessed_under(&rule);
        let size = witnessed.map_or(0, |witnessed| witnessed.finished.checkpoint.size());
        if size >= newest {
            return Ok(Some(size));
        }
        let unsealed = kms_state::boot(state, &self.seal.boot_id());
        let unsealed = unsealed.map_or(0, |record| record.time_ms);
        let heard = witnessed.map_or(0, |witnessed| witnessed.as_of.get().saturating_mul(1000));
        let silent = kms_state::region_time(state)
            .0
            .saturating_sub(heard.max(unsealed));
        if silent > rule.unwitnessed_max_ms() {
            return Ok(Some(size));
        }
        Err(OutgoingSilent { size, newest })
    }

    /// Whether a purpose's record has to be witnessed before its release, and under which policy.
    pub(crate) fn rule_of(&self, state: &dyn Reader, purpose: &str) -> Waits {
        if !is_human(purpose) || broken(Switch::IgnoreWitnesses) {
            return Waits::No;
        }
        Waits::Until(self.rules.in_force(state))
    }

    /// After the record: a person's purpose waits until the quorum has cosigned a checkpoint that covers it.
    pub(crate) async fn covered(
        &self,
        waits: Waits,
        leaf: LeafIndex,
        deadline: Instant,
    ) -> Result<(), Unwitnessed> {
        let Waits::Until(rule) = waits else {
            return Ok(());
        };
        let rule = rule.ok_or(Unwitnessed::NoWitnesses)?;
        let (_waiting, mut held) = self.checkpoints.wait();
        let covers = |held: &crate::checkpoints::Held| {
            held.witnessed_under(&rule)
                .is_some_and(|witnessed| witnessed.finished.checkpoint.size() > leaf.0)
        };
        match timeout_at(deadline, held.wait_for(covers)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Unwitnessed::NotCovered { leaf }),
        }
    }
}

fn is_human(purpose: &str) -> bool {
    purpose
        .parse::<Purpose>()
        .is_ok_and(|purpose| kms_state::is_human_purpose(&purpose))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;
    use proto::store::{MemoryStore, Writer as _};
    use proto::v1;
    use tlog::{SignatureType, SignerKey};

    use super::*;
    use crate::checkpoints::finished;

    const NOW_S: u64 = 1_800_000_000;

    fn standing(
        witnessed: Option<(u64, u64)>,
        unsealed_at: Option<u64>,
    ) -> Result<(), Unwitnessed> {
        let standing = Standing {
            witnessed,
            unsealed_at: unsealed_at.map(LeafIndex),
            now: UnixMs(NOW_S * 1000),
            max_ms: 60_000,
        };
        standing.judge()
    }

    #[test]
    fn a_release_needs_a_recent_word_that_covers_the_unsealing() {
        assert_eq!(standing(Some((NOW_S, 10)), Some(9)), Ok(()));
        assert_eq!(standing(Some((NOW_S - 60, 10)), None), Ok(()));
        // A witness whose clock is ahead of region time.
        assert_eq!(standing(Some((NOW_S + 60, 10)), None), Ok(()));
        let old = Unwitnessed::TooOld {
            age_s: 61,
            max_s: 60,
        };
        assert_eq!(standing(Some((NOW_S - 61, 10)), Some(9)), Err(old));
        assert_eq!(standing(None, None), Err(Unwitnessed::NeverHere));
        assert_eq!(
            standing(Some((NOW_S, 10)), Some(10)),
            Err(Unwitnessed::NeverHere)
        );
    }

    struct Region {
        gate: Gate,
        state: MemoryStore,
        _folder: tempfile::TempDir,
    }

    const LOG: &str = "ch-zrh/main/1";

    fn key(name: &str, kind: SignatureType, seed: u8) -> SignerKey {
        SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]).expect("a key")
    }

    fn log_key() -> SignerKey {
        key(LOG, SignatureType::Ed25519, 1)
    }

    fn witness_key() -> SignerKey {
        key("w.example", SignatureType::Ed25519Cosignature, 2)
    }

    fn region(with_policy: bool) -> Region {
        let folder = tempfile::tempdir().expect("a folder");
        let mut state = MemoryStore::default();
        let record = v1::KmsRegion {
            region: "ch-zrh".to_owned(),
            log_origin: LOG.to_owned(),
            ..v1::KmsRegion::default()
        };
        state.put(kms_state::layout::REGION, &record.encode_to_vec());
        if with_policy {
            let (log, witness) = (log_key(), witness_key());
            let text = format!(
                "log {}\nwitness w {} http://w.example\nquorum w\n",
                log.verifier(),
                witness.verifier()
            );
            let policy = v1::WitnessPolicy {
                format: 1,
                policy: text.into_bytes().into(),
                unwitnessed_max_ms: 60_000,
            };
            state.put(kms_state::layout::WITNESSES, &policy.encode_to_vec());
        }
        let gate = Gate {
            rules: Arc::default(),
            checkpoints: Arc::new(Checkpoints::open(folder.path())),
            seal: Arc::new(Seal::new().expect("room")),
        };
        Region {
            gate,
            state,
            _folder: folder,
        }
    }

    impl Region {
        /// A finished checkpoint of so many leaves, cosigned by the witness or not.
        fn finish(&self, size: u64, cosigned: bool) {
            let root = tlog::leaf_hash(b"any tree");
            let origin = LOG.parse().expect("an origin");
            let checkpoint = tlog::Checkpoint::new(origin, size, root).expect("a checkpoint");
            let line = log_key().sign_checkpoint(&checkpoint, None).expect("signs");
            let mut note = tlog::Note::new(checkpoint.to_string(), vec![line]).expect("a note");
            if cosigned {
                let time = tlog::UnixSeconds::new(NOW_S);
                let line = witness_key().sign_checkpoint(&checkpoint, time);
                note = note.with(line.expect("signs")).expect("a note");
            }
            let finished = finished(note.to_string().as_bytes()).expect("a checkpoint");
            let rule = self.gate.rules.in_force(&self.state);
            self.gate
                .checkpoints
                .replace(Arc::new(finished), rule.as_deref());
        }

        async fn covered(&self, purpose: &str, leaf: u64) -> Result<(), Unwitnessed> {
            self.covered_in(purpose, leaf, Duration::from_secs(30))
                .await
        }

        async fn covered_in(
            &self,
            purpose: &str,
            leaf: u64,
            time: Duration,
        ) -> Result<(), Unwitnessed> {
            let waits = self.gate.rule_of(&self.state, purpose);
            let deadline = Instant::now() + time;
            self.gate.covered(waits, LeafIndex(leaf), deadline).await
        }
    }

    /// Red with `ignore_witnesses`.
    #[tokio::test]
    async fn a_persons_purpose_waits_until_the_witnesses_have_seen_its_record() {
        let region = region(true);
        region.finish(10, true);
        region.finish(11, false);
        assert_eq!(region.covered("investigation", 9).await, Ok(()));
        let leaf = LeafIndex(10);
        let late = Err(Unwitnessed::NotCovered { leaf });
        let soon = Duration::from_millis(50);
        assert_eq!(region.covered_in("investigation", 10, soon).await, late);
        assert_eq!(region.covered("service", 10).await, Ok(()));
        let (covered, ()) = tokio::join!(region.covered("investigation", 10), async {
            region.finish(11, true);
        });
        assert_eq!(covered, Ok(()));
    }

    /// Red with `ignore_witnesses`.
    #[tokio::test]
    async fn without_witnesses_a_persons_purpose_is_refused_and_a_service_is_not() {
        let region = region(false);
        let may = |purpose| region.gate.may_release(&region.state, purpose);
        assert_eq!(may("service"), Ok(()));
        assert_eq!(may("third-party-request"), Err(Unwitnessed::NoWitnesses));
        let covered = region.covered("third-party-request", 0).await;
        assert_eq!(covered, Err(Unwitnessed::NoWitnesses));
    }

    /// A quorum that the region no longer asks for counts for nothing.
    #[tokio::test]
    async fn a_word_given_under_another_policy_does_not_count() {
        let mut region = region(true);
        region.finish(10, true);
        assert_eq!(region.covered("investigation", 9).await, Ok(()));
        let other = key("w2.example", SignatureType::Ed25519Cosignature, 3);
        let text = format!(
            "log {}\nwitness w {} http://w.example\nquorum w\n",
            log_key().verifier(),
            other.verifier()
        );
        let policy = v1::WitnessPolicy {
            format: 1,
            policy: text.into_bytes().into(),
            unwitnessed_max_ms: 60_000,
        };
        region
            .state
            .put(kms_state::layout::WITNESSES, &policy.encode_to_vec());
        let judged = region.gate.may_release(&region.state, "service");
        assert_eq!(judged, Err(Unwitnessed::NeverHere));
    }

    #[test]
    fn the_purposes_that_wait_are_those_of_people() {
        for purpose in ["investigation", "third-party-request"] {
            assert!(is_human(purpose), "{purpose}");
        }
        for purpose in ["", "service", "multipart", "No Purpose"] {
            assert!(!is_human(purpose), "{purpose}");
        }
    }
}
