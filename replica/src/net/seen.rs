//! What this process has seen of its peers' disks: the least each may come back with.
//!
//! Owns the memory of durable acknowledgements and the comparison with what a member finds on its own disk. Refuses
//! to forget while the process runs. A member that comes back with less has lost what it promised to keep: counting
//! it as a voter could lose committed entries, so it must rejoin under a new id.

use std::collections::HashMap;

use parking_lot::Mutex;
use proto::ids::{GroupId, NodeId};
use proto::v1;

use crate::raft::codec;
use crate::raft::types::{LogId, Vote};

/// A durable acknowledgement: the term it was given in and how far the log then reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Term of the vote the member had accepted.
    pub(crate) term: u64,
    /// Last log id it had made durable under that vote, where known.
    pub(crate) matched: Option<LogId>,
}

impl Seen {
    /// From a message.
    pub(crate) fn from_wire(seen: Option<v1::RaftSeen>) -> Self {
        seen.map_or_else(Self::default, |s| Self {
            term: s.term,
            matched: s.matched.map(codec::log_id_from_wire),
        })
    }

    /// For a message.
    pub(crate) fn to_wire(self) -> v1::RaftSeen {
        v1::RaftSeen {
            term: self.term,
            matched: self.matched.as_ref().map(codec::log_id_to_wire),
        }
    }

    /// Whether a member with `vote` and `last` on its disk has kept what was seen. A higher term excuses a shorter
    /// log: its leader may have replaced entries that were never committed.
    pub(crate) fn is_kept_by(&self, vote: Option<&Vote>, last: Option<LogId>) -> bool {
        let term = vote.map_or(0, |v| v.leader_id.term);
        match term.cmp(&self.term) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => last >= self.matched,
            std::cmp::Ordering::Greater => true,
        }
    }
}

/// What was seen of every peer in every group.
#[derive(Default)]
pub(crate) struct SeenTable(Mutex<HashMap<(GroupId, NodeId), Seen>>);

impl SeenTable {
    /// Notes that `peer` acknowledged `matched` under a vote of `term`.
    pub(crate) fn note(&self, group: GroupId, peer: NodeId, term: u64, matched: Option<LogId>) {
        let mut table = self.0.lock();
        let seen = table.entry((group, peer)).or_default();
        if term > seen.term {
            // What an older leader saw may have been replaced since.
            *seen = Seen { term, matched };
        } else if term == seen.term {
            seen.matched = seen.matched.max(matched);
        }
    }

    /// What was seen of `peer`.
    pub(crate) fn of(&self, group: GroupId, peer: NodeId) -> Seen {
        self.0
            .lock()
            .get(&(group, peer))
            .copied()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{LeaderId, log_id};

    fn vote(term: u64) -> Vote {
        Vote {
            leader_id: LeaderId { term, voted_for: 1 },
            committed: true,
        }
    }

    #[test]
    fn a_shorter_log_or_an_older_vote_is_not_kept() {
        let seen = Seen {
            term: 3,
            matched: Some(log_id(3, 10)),
        };
        assert!(seen.is_kept_by(Some(&vote(3)), Some(log_id(3, 10))));
        assert!(!seen.is_kept_by(Some(&vote(3)), Some(log_id(3, 9))));
        assert!(!seen.is_kept_by(Some(&vote(2)), Some(log_id(3, 10))));
        assert!(!seen.is_kept_by(None, None));
        assert!(Seen::default().is_kept_by(None, None));
    }

    #[test]
    fn a_later_leader_may_have_replaced_what_was_never_committed() {
        let seen = Seen {
            term: 3,
            matched: Some(log_id(3, 10)),
        };
        assert!(seen.is_kept_by(Some(&vote(4)), Some(log_id(2, 4))));
    }

    #[test]
    fn the_table_keeps_the_newest_term_and_its_greatest_match() {
        let (table, group, peer) = (SeenTable::default(), GroupId(1), NodeId(2));
        table.note(group, peer, 3, Some(log_id(3, 10)));
        table.note(group, peer, 3, Some(log_id(3, 9)));
        table.note(group, peer, 2, Some(log_id(2, 99)));
        assert_eq!(
            table.of(group, peer),
            Seen {
                term: 3,
                matched: Some(log_id(3, 10))
            }
        );
        table.note(group, peer, 4, None);
        assert_eq!(
            table.of(group, peer),
            Seen {
                term: 4,
                matched: None
            }
        );
    }
}
