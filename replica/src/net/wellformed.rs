//! What a message must look like before the engine sees it, whoever it is from.
//!
//! Owns checks that need no state: terms and indexes that leave room for the next one, entries without gaps and in the
//! order of their terms, a vote that is its sender's. Refuses everything else as malformed: the engine takes a leader at
//! its word, and a garbled message must not end the group that hears it.

use proto::ids::NodeId;
use proto::v1;

use super::handler::Refusal;
use crate::raft::codec;
use crate::raft::types::{LogId, Vote};

/// The highest term and index that are believed. Counted up from 0, neither comes near it.
const POSITION_MAX: u64 = 1 << 62;

/// The vote of a member that sent it: a leader's where it speaks as one, else a candidate's.
pub(super) fn vote_of(
    sender: NodeId,
    leads: bool,
    vote: Option<v1::RaftVote>,
) -> Result<Vote, Refusal> {
    let vote = codec::vote_from_wire(vote)?;
    if vote.leader_id.voted_for != sender.0 {
        return Err(Refusal::Malformed("message under another member's vote"));
    }
    if vote.committed != leads || vote.leader_id.term > POSITION_MAX {
        return Err(Refusal::Malformed("vote"));
    }
    Ok(vote)
}

/// A position in the log of whoever voted so: of no later term.
pub(super) fn position(vote: &Vote, id: Option<v1::RaftLogId>) -> Result<Option<LogId>, Refusal> {
    if id.is_some_and(|id| id.term > vote.leader_id.term || id.index > POSITION_MAX) {
        return Err(Refusal::Malformed("log id"));
    }
    Ok(id.map(codec::log_id_from_wire))
}

/// That entries follow `prev` and one another, and that what is said to be committed is one of them, or stands where
/// terms allow it. `prev` and `commit` are positions.
pub(super) fn in_order(vote: &Vote, append: &v1::RaftAppend) -> Result<(), Refusal> {
    let (mut term, mut next) = append
        .prev
        .map_or((0, 0), |prev| (prev.term, prev.index + 1));
    let commit = append.commit.map(|commit| (commit.term, commit.index));
    let agrees = |term, index| match commit {
        Some((committed, at)) if at < index => committed <= term,
        Some((committed, at)) if at > index => committed >= term,
        Some((committed, _)) => committed == term,
        None => true,
    };
    let mut sound = append.prev.is_none_or(|prev| agrees(prev.term, prev.index));
    for entry in &append.entries {
        sound &= entry.index == next && next <= POSITION_MAX;
        sound &= (term..=vote.leader_id.term).contains(&entry.term);
        sound &= agrees(entry.term, entry.index);
        (term, next) = (entry.term, next + 1);
    }
    match sound {
        true => Ok(()),
        false => Err(Refusal::Malformed("entries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: NodeId = NodeId(2);

    fn wire(term: u64, node: u64, committed: bool) -> Option<v1::RaftVote> {
        Some(v1::RaftVote {
            term,
            node,
            committed,
        })
    }

    fn leader(term: u64) -> Vote {
        vote_of(SENDER, true, wire(term, SENDER.0, true)).expect("a leader's")
    }

    fn append(prev: (u64, u64), positions: &[(u64, u64)]) -> v1::RaftAppend {
        let entry = |&(term, index)| v1::RaftEntry {
            term,
            index,
            payload: Default::default(),
        };
        v1::RaftAppend {
            prev: id(prev.0, prev.1),
            entries: positions.iter().map(entry).collect(),
            ..Default::default()
        }
    }

    fn id(term: u64, index: u64) -> Option<v1::RaftLogId> {
        Some(v1::RaftLogId { term, index })
    }

    #[test]
    fn a_vote_is_its_senders_and_of_a_term_that_has_a_next() {
        assert!(vote_of(SENDER, false, wire(3, SENDER.0, false)).is_ok());
        for (leads, vote) in [
            (true, None),
            (true, wire(3, 3, true)),
            (true, wire(3, SENDER.0, false)),
            (false, wire(3, SENDER.0, true)),
            (true, wire(u64::MAX, SENDER.0, true)),
        ] {
            assert!(vote_of(SENDER, leads, vote).is_err(), "{vote:?}");
        }
    }

    #[test]
    fn entries_have_no_gaps_and_terms_do_not_go_back() {
        let order = |positions: &[_]| in_order(&leader(3), &append((2, 7), positions));
        assert_eq!(order(&[(2, 8), (3, 9)]), Ok(()));
        let first = v1::RaftAppend {
            prev: None,
            ..append((0, 0), &[(1, 0)])
        };
        assert_eq!(in_order(&leader(3), &first), Ok(()));
        for bad in [
            &[(2, 9)][..],
            &[(2, 8), (2, 10)],
            &[(2, 8), (2, 8)],
            &[(1, 8)],
            &[(3, 8), (2, 9)],
            &[(4, 8)],
        ] {
            assert!(order(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_committed_fits_the_entries_around_it() {
        let with = |commit| {
            let append = v1::RaftAppend {
                commit,
                ..append((2, 7), &[(2, 8), (3, 9)])
            };
            in_order(&leader(3), &append)
        };
        for good in [None, id(1, 5), id(2, 7), id(2, 8), id(3, 9), id(3, 12)] {
            assert_eq!(with(good), Ok(()), "{good:?}");
        }
        for bad in [id(3, 5), id(1, 7), id(3, 8), id(2, 9), id(2, 12)] {
            assert!(with(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_position_has_a_next_and_no_later_term_than_the_vote() {
        let at = |term, index| position(&leader(3), id(term, index));
        assert!(at(3, 9).is_ok());
        assert!(at(4, 9).is_err());
        assert!(at(3, u64::MAX).is_err());
        assert_eq!(position(&leader(3), None), Ok(None));
    }
}
