//! Dual control of the steps that take it.
//!
//! Owns the count of people. Refuses whoever asks as an approver of what they ask for. Signatures were the leader's to
//! check.

use std::collections::BTreeSet;

/// Approvers besides who asks, whatever a region asks for more.
const APPROVERS_MIN: usize = 2;

/// Two people besides the one who asked have approved a step. Only [`Approved::by_two_others`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Approved(());

/// Fewer than two distinct approvers besides who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{have} approved besides who asked, it takes {APPROVERS_MIN}")]
pub struct TooFewApprovers {
    /// How many there are.
    pub have: usize,
}

impl Approved {
    /// Counts the approvers who are not `requester`, each once.
    pub fn by_two_others<'a>(
        requester: &str,
        approvers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TooFewApprovers> {
        let others = approvers.into_iter().filter(|who| *who != requester);
        let have = others.collect::<BTreeSet<_>>().len();
        if have < APPROVERS_MIN {
            return Err(TooFewApprovers { have });
        }
        Ok(Self(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_and_who_approves_twice_count_once_or_not_at_all() {
        for few in [&[][..], &["o2"], &["o2", "o2"], &["o1", "o2"]] {
            assert!(Approved::by_two_others("o1", few.iter().copied()).is_err());
        }
        assert!(Approved::by_two_others("o1", ["o2", "o1", "o3"]).is_ok());
    }
}
