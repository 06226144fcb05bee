//! Compliance retention and legal hold of a dataset: what keeps it, and its key, from being ended.
//!
//! Owns their record. Refuses a change decided on another version of it, retention that would end earlier than was
//! stated, and to lift a legal hold without two operators besides who asks. Signatures were the leader's to check. It
//! covers the dataset and its key; single objects are kept by [`super::lock`] alone.

use std::collections::BTreeSet;

use proto::ids::{FeatureLevel, UnixMs};
use proto::v1;

use super::Apply;
use super::refusal::{Answer, malformed, of, refuse};
use crate::relocation::Change;

/// The feature level from which `SetHold` is a command.
pub const HOLD_LEVEL: FeatureLevel = FeatureLevel(2);
/// Approvers that lifting a legal hold takes, whatever a region asks for more.
const APPROVERS_MIN: usize = 2;

/// Whether retention or a legal hold keeps the dataset, and its key, at this time: of the dataset, or of any version.
pub fn is_held(record: &v1::DatasetRecord, now: UnixMs) -> bool {
    let of_version = record.legal_holds > 0 || record.compliance_until_ms > now.0;
    let hold = record.hold.unwrap_or_default();
    of_version || hold.legal || hold.retain_until_ms > now.0
}

impl Apply<'_> {
    /// A hold cannot wait: it ends a fence.
    pub(super) fn set_hold(&mut self, set: &v1::SetHold) -> Answer {
        let mut dataset = self.writable(&set.dataset_id, Change::Hold)?;
        let held = dataset.record.hold.unwrap_or_default();
        let Some(version) = set.from_version.checked_add(1) else {
            return malformed();
        };
        let wanted = v1::DatasetHold {
            version,
            retain_until_ms: set.retain_until_ms,
            legal: set.legal,
        };
        // The same change again: what was done is as asked.
        if held == wanted {
            return Ok(self.done());
        }
        if held.version != set.from_version {
            return Err(v1::Refused {
                moved_to: held.version,
                ..of(v1::Refusal::HoldMoved)
            });
        }
        if wanted.retain_until_ms < held.retain_until_ms {
            return refuse(v1::Refusal::RetentionShortened);
        }
        let others = set.approvers.iter().filter(|who| **who != set.requester);
        let others: BTreeSet<_> = others.collect();
        if held.legal && !wanted.legal && others.len() < APPROVERS_MIN {
            return refuse(v1::Refusal::TooFewApprovals);
        }
        dataset.record.hold = Some(wanted);
        self.settings_changed(&mut dataset);
        self.save(&dataset);
        Ok(self.done())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::v1::Refusal;
    use proto::v1::shard_command::Command;

    use super::super::fixture::{DATASET, Shard, done};
    use super::*;

    const YEAR: u64 = 365 * 24 * 3_600_000;

    fn shard() -> Shard {
        let mut shard = Shard::new();
        shard.level = HOLD_LEVEL;
        shard
    }

    fn set(from_version: u64, retain_until_ms: u64, legal: bool, approvers: &[&str]) -> Command {
        Command::SetHold(v1::SetHold {
            dataset_id: DATASET.into(),
            from_version,
            retain_until_ms,
            legal,
            requester: "o1".to_owned(),
            approvers: approvers.iter().map(|who| (*who).to_owned()).collect(),
        })
    }

    fn refused(answer: v1::ShardAnswer) -> (Refusal, u64) {
        match answer.answer {
            Some(v1::shard_answer::Answer::Refused(refused)) => {
                (refused.reason(), refused.moved_to)
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    fn drop_with_force() -> Command {
        Command::TombstoneDataset(v1::TombstoneDataset {
            dataset_id: DATASET.into(),
            force: true,
        })
    }

    #[test]
    fn retention_only_grows_and_ends_by_time_alone() {
        let mut shard = shard();
        done(shard.run(set(0, YEAR, false, &[])));
        assert!(is_held(&shard.dataset(), UnixMs(YEAR - 1)));
        assert!(!is_held(&shard.dataset(), UnixMs(YEAR)));
        for (until, approvers) in [(YEAR - 1, &[][..]), (0, &["o2", "o3"])] {
            let shorter = shard.run(set(1, until, false, approvers));
            assert_eq!(refused(shorter).0, Refusal::RetentionShortened);
        }
        assert_eq!(
            refused(shard.run(drop_with_force())).0,
            Refusal::DatasetHeld
        );
        done(shard.run(set(1, 2 * YEAR, false, &[])));
        shard.now_ms = 2 * YEAR - 30_000;
        shard.level = FeatureLevel(0);
        done(shard.run(Command::Sweep(v1::Sweep { steps: 0 })));
        assert_eq!(
            refused(shard.run(drop_with_force())).0,
            Refusal::DatasetHeld
        );
        shard.now_ms = 2 * YEAR;
        done(shard.run(drop_with_force()));
    }

    #[test]
    fn a_legal_hold_is_lifted_by_two_besides_who_asks() {
        let mut shard = shard();
        done(shard.run(set(0, 0, true, &[])));
        assert!(is_held(&shard.dataset(), UnixMs(u64::MAX)));
        assert_eq!(
            refused(shard.run(drop_with_force())).0,
            Refusal::DatasetHeld
        );
        for few in [&[][..], &["o2"], &["o2", "o2"], &["o1", "o2"]] {
            let lifted = shard.run(set(1, 0, false, few));
            assert_eq!(refused(lifted).0, Refusal::TooFewApprovals, "{few:?}");
        }
        done(shard.run(set(1, 0, false, &["o2", "o3"])));
        assert!(!is_held(&shard.dataset(), UnixMs(0)));
        done(shard.run(drop_with_force()));
    }

    #[test]
    fn a_change_is_of_one_version_and_has_effect_once() {
        let mut shard = shard();
        done(shard.run(set(0, 0, true, &[])));
        let lift = set(1, 0, false, &["o2", "o3"]);
        done(shard.run(lift.clone()));
        // Sent again it is done; after the next change its approvals are of another version.
        done(shard.run(lift.clone()));
        assert_eq!(shard.dataset().hold.unwrap_or_default().version, 2);
        done(shard.run(set(2, 0, true, &[])));
        assert_eq!(refused(shard.run(lift)), (Refusal::HoldMoved, 3));
        let none = shard.run(set(u64::MAX, 0, false, &["o2", "o3"]));
        assert_eq!(refused(none).0, Refusal::Malformed);
        assert!(is_held(&shard.dataset(), UnixMs(0)));
    }

    #[test]
    fn below_its_level_it_is_unknown_and_its_bytes_are_fixed() {
        let mut shard = shard();
        let command = shard.command(set(0, 7, true, &["o2"]));
        let bytes = command.encode_to_vec();
        shard.level = FeatureLevel(1);
        assert!(shard.apply_bytes(bytes.into()).is_err());
        let only = v1::ShardCommand {
            command: command.command,
            ..Default::default()
        };
        let dataset = "d5".repeat(16);
        assert_eq!(
            hex::encode(only.encode_to_vec()),
            format!("b2011e0a10{dataset}180720012a026f3132026f32")
        );
    }
}
