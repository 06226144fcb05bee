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
        let mut held = self.checkpoints.watch();
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
    use super::*;

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
