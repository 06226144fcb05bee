//! openraft's log storage on one group's part of the process's log.
//!
//! Owns the translation between entries and records. All writes go through the one order of [`crate::log`]: an
//! append is readable when it returns and reported when it is durable; a vote is durable when it returns. Refuses
//! nothing by itself: an entry that should not be here was refused before it was proposed or accepted.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use openraft::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use proto::danger::{Switch, broken};
use proto::ids::{LogIndex, Term};

use super::codec;
use super::types::{Config, Entry, LogId, Vote, log_id};
use crate::log::{Done, GroupLog, LogEntry, LogError, Priority, RaftLog};

/// Payload bytes of one AppendEntries, and of one read of entries to apply.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;

/// The log of one group as the engine asks for it. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: GroupLog,
}

impl LogStore {
    /// Wraps one group's log.
    pub(crate) fn new(log: GroupLog) -> Self {
        Self { log }
    }

    /// The last log id accepted, entries purged included.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.log
            .state()
            .last
            .map(|(term, index)| log_id(term.0, index.0))
    }

    /// The first index held.
    pub(crate) fn first(&self) -> Option<LogIndex> {
        self.log.state().first
    }

    /// The last vote accepted.
    pub(crate) fn vote(&self) -> Result<Option<Vote>, codec::CodecError> {
        self.log
            .state()
            .vote
            .map(|bytes| codec::vote_from_bytes(&bytes))
            .transpose()
    }

    /// Whether neither vote nor entry was ever kept here.
    pub(crate) fn is_pristine(&self) -> bool {
        let state = self.log.state();
        state.vote.is_none() && state.last.is_none()
    }

    /// Whether the disk has no room for normal entries.
    pub(crate) fn is_full(&self) -> bool {
        self.log.log().is_full()
    }

    /// The log of the process.
    pub(crate) fn whole(&self) -> &RaftLog {
        self.log.log()
    }

    /// Bytes on disk of the entries held.
    pub(crate) fn bytes(&self) -> u64 {
        self.log.state().bytes
    }

    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let entries = self
            .log
            .read(LogIndex(start)..LogIndex(end), bytes_max)
            .map_err(|e| io_error(&e))?;
        entries
            .into_iter()
            .map(|e| Ok(codec::entry_from_log(e)?))
            .collect()
    }
}

fn io_error(error: &Arc<LogError>) -> io::Error {
    io::Error::other(Arc::clone(error))
}

/// A [`Done`] that only matters when it fails; the log's own fatal state tells the host then.
fn ignore() -> Done {
    Box::new(|_| {})
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i.saturating_add(1),
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<Config>>, io::Error> {
        let (mut start, end) = bounds(&range);
        let mut out = Vec::new();
        while start < end {
            let chunk = self.read(start, end, CHUNK_BYTES)?;
            match chunk.last() {
                Some(last) => start = last.log_id.index + 1,
                None => break,
            }
            out.extend(chunk);
        }
        Ok(out)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<Config>>, io::Error> {
        Ok(self.vote()?)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<EntryOf<Config>>, io::Error> {
        let entries = self.read(start, end, CHUNK_BYTES)?;
        // What was asked for may have been purged meanwhile. What comes after it would be sent as if it followed what
        // the peer has; nothing is sent as a heartbeat, and the peer gets a snapshot.
        let follows = entries.first().is_none_or(|e| e.log_id.index == start);
        Ok(if follows { entries } else { Vec::new() })
    }

    // In chunks: a member that comes back may have far more to apply than fits in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<EntryOf<Config>, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        let mut cursor = Cursor {
            store: self.clone(),
            next: start,
            end,
            held: Vec::new().into_iter(),
        };
        futures::stream::iter(std::iter::from_fn(move || cursor.next_entry()))
    }
}

/// Reads a range a chunk at a time.
struct Cursor {
    store: LogStore,
    next: u64,
    end: u64,
    held: std::vec::IntoIter<Entry>,
}

impl Cursor {
    fn next_entry(&mut self) -> Option<io::Result<Entry>> {
        if let Some(entry) = self.held.next() {
            return Some(Ok(entry));
        }
        if self.next >= self.end {
            return None;
        }
        match self.store.read(self.next, self.end, CHUNK_BYTES) {
            Ok(chunk) => {
                match chunk.last() {
                    Some(last) => self.next = last.log_id.index + 1,
                    None => self.next = self.end,
                }
                self.held = chunk.into_iter();
                self.held.next().map(Ok)
            }
            Err(error) => {
                self.next = self.end;
                Some(Err(error))
            }
        }
    }
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Config>, io::Error> {
        let state = self.log.state();
        let purged = match &state.purged {
            Some((_, bytes)) => Some(codec::log_id_from_bytes(bytes)?),
            None => None,
        };
        let last = state.last.map(|(term, index)| log_id(term.0, index.0));
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Config>) -> Result<(), io::Error> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let done: Done = Box::new(move |result| {
            // The receiver lives until the next line but one; only a cancelled engine drops it.
            let _ = tx.send(result);
        });
        self.log.save_vote(codec::vote_bytes(vote), done);
        match rx.await {
            Ok(result) => result.map_err(|e| io_error(&e)),
            Err(_) => Err(io::Error::other(
                "the log stopped before the vote was durable",
            )),
        }
    }

    async fn save_committed(
        &mut self,
        committed: Option<LogIdOf<Config>>,
    ) -> Result<(), io::Error> {
        match committed {
            Some(id) => self
                .log
                .save_committed(codec::log_id_bytes(&id))
                .map_err(|e| io_error(&e)),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<Config>>, io::Error> {
        let Some(bytes) = self.log.state().committed else {
            return Ok(None);
        };
        let committed = codec::log_id_from_bytes(&bytes)?;
        // The note rides along unsynced with later writes, so what it names may have been lost with a torn tail.
        let last = self.last();
        Ok(Some(committed).filter(|id| Some(*id) <= last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<Config>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries
            .into_iter()
            .map(|e| codec::entry_to_log(&e))
            .collect();
        // With room refused where entries are proposed and accepted, what arrives here may use the reserve: an
        // engine that cannot append what it has decided to append stops for good.
        if broken(Switch::AckBeforeSync) {
            self.log.append_with(Priority::Reserve, entries, ignore());
            callback.io_completed(Ok(()));
            return Ok(());
        }
        let done: Done =
            Box::new(move |result| callback.io_completed(result.map_err(|e| io_error(&e))));
        self.log.append_with(Priority::Reserve, entries, done);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Config>>) -> Result<(), io::Error> {
        self.log
            .truncate_after(last.map(|id| LogIndex(id.index)), ignore());
        Ok(())
    }

    async fn purge(&mut self, id: LogIdOf<Config>) -> Result<(), io::Error> {
        let bytes = codec::log_id_bytes(&id);
        self.log
            .purge(Term(id.leader_id.term), LogIndex(id.index), bytes, ignore());
        Ok(())
    }
}
