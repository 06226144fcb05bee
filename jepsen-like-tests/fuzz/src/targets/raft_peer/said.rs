//! What a peer has said of its log, so that it can be held to it.

use std::collections::BTreeMap;

use prost::Message as _;
use proto::v1;

/// Terms by index, as far as they were said, and how far they are committed.
#[derive(Default)]
pub(super) struct Said {
    terms: BTreeMap<u64, u64>,
    committed: Option<v1::RaftLogId>,
}

impl Said {
    /// Whether a message takes nothing back that was said to be committed; it counts as said from then on.
    pub(super) fn keeps(&mut self, kind: u32, bytes: &[u8]) -> bool {
        match kind {
            1 => v1::RaftAppend::decode(bytes).is_ok_and(|append| self.append(&append)),
            2 => {
                use v1::raft_snapshot_frame::Frame;
                let frame = v1::RaftSnapshotFrame::decode(bytes)
                    .unwrap_or_default()
                    .frame;
                let Some(Frame::Begin(begin)) = frame else {
                    return true;
                };
                let applied = begin.applied.unwrap_or_default();
                let stands = [applied.last, applied.membership_at];
                let stands = stands.into_iter().flatten().all(|id| self.stands(id));
                self.commit(applied.last);
                stands
            }
            _ => true,
        }
    }

    fn append(&mut self, append: &v1::RaftAppend) -> bool {
        let entry = |entry: &v1::RaftEntry| v1::RaftLogId {
            term: entry.term,
            index: entry.index,
        };
        let entries: Vec<_> = append.entries.iter().map(entry).collect();
        let named = [append.prev, append.commit].into_iter().flatten();
        if !named
            .chain(entries.iter().copied())
            .all(|id| self.stands(id))
        {
            return false;
        }
        for id in entries {
            self.terms.insert(id.index, id.term);
        }
        self.commit(append.commit);
        true
    }

    /// Whether a position agrees with what is committed.
    fn stands(&self, id: v1::RaftLogId) -> bool {
        let Some(committed) = self.committed else {
            return true;
        };
        match id.index.cmp(&committed.index) {
            std::cmp::Ordering::Greater => id.term >= committed.term,
            std::cmp::Ordering::Equal => id.term == committed.term,
            // What was not said term by term could be anything.
            std::cmp::Ordering::Less => self.terms.get(&id.index) == Some(&id.term),
        }
    }

    fn commit(&mut self, to: Option<v1::RaftLogId>) {
        let position = |id: &v1::RaftLogId| (id.index, id.term);
        if to.as_ref().map(position) > self.committed.as_ref().map(position) {
            self.committed = to;
        }
    }
}
