//! openraft's state machine on a [`Machine`] and a [`StateStore`].
//!
//! Owns the order of apply: one batch a chunk, with the applied log id, the membership, the feature level and every
//! id that ever was a member in it. Refuses: a command, level or jurisdiction this build or region does not know,
//! by an error that stops the group; a machine that touches reserved keys, by aborting.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::alias::{LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use proto::ids::{FIRST_ALLOCATED_NODE_ID, FeatureLevel, Jurisdiction, LogIndex, NodeId};
use proto::store::{Reader, Writer};
use tokio::sync::watch;

use super::codec::{AppliedState, Order};
use super::snapshot::{Flusher, SnapshotData, SnapshotDir};
use super::types::{Config, Entry, LogId, Membership, StoredMembership, position, voters};
use crate::blocking::away;
use crate::machine::{Machine, Position, Voters};
use crate::reserved::{self, GuardedReader, GuardedWriter};
use crate::state::{Batch, StateError, StateStore, View};

/// Entries applied in one batch.
const CHUNK_ENTRIES: usize = 1024;
/// Payload bytes applied in one batch, about.
const CHUNK_BYTES: usize = 4 << 20;
/// Payload bytes from which a chunk is applied where blocking is allowed.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// How often a full disk is looked at.
const ROOM_STEP: Duration = Duration::from_millis(250);
/// Log bytes between two marks of [`Marks`].
const MARK_BYTES: u64 = 256 << 10;

/// Everything of one group's state machine that more than the engine uses.
pub(crate) struct Shared {
    pub(crate) machine: Arc<dyn Machine>,
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) snapshots: SnapshotDir,
    jurisdiction: Jurisdiction,
    // Held from `begin` to `commit`: the store refuses a batch that another has overtaken.
    progress: Mutex<Progress>,
    marks: Mutex<Marks>,
    level: AtomicU32,
    applied: watch::Sender<Option<LogIndex>>,
    // Before the engine runs it asks for a snapshot's name only; files would be made for nothing.
    pub(crate) running: AtomicBool,
    // Nobody waits for room on the disk any longer.
    pub(crate) stopping: AtomicBool,
    // The engine has ended, and nobody hears of what is still applied.
    pub(crate) ended: AtomicBool,
    full: AtomicBool,
}

/// How far the state is.
#[derive(Clone, Default)]
struct Progress {
    last: Option<LogId>,
    // Changes rarely and is copied with every chunk.
    terms: Arc<Terms>,
}

/// What holds at a log position beside the machine's own state.
#[derive(Clone, Default)]
struct Terms {
    membership: StoredMembership,
    voters: Voters,
    level: FeatureLevel,
    ever: BTreeSet<NodeId>,
}

impl Progress {
    fn applied(&self) -> AppliedState {
        AppliedState {
            last: self.last,
            membership: self.terms.membership.clone(),
        }
    }
}

/// Where in the log how many bytes had been applied, coarsely, to purge by bytes.
#[derive(Default)]
struct Marks {
    total: u64,
    marks: VecDeque<(LogIndex, u64)>,
}

impl Marks {
    fn add(&mut self, index: LogIndex, bytes: u64) {
        self.total += bytes;
        if self.total - self.marks.back().map_or(0, |(_, at)| *at) >= MARK_BYTES {
            self.marks.push_back((index, self.total));
        }
    }

    /// The last index such that at least `keep` bytes were applied after it.
    fn below(&mut self, keep: u64) -> Option<LogIndex> {
        let limit = self.total.checked_sub(keep)?;
        let mut found = None;
        while let Some((index, at)) = self.marks.front().copied() {
            if at > limit {
                break;
            }
            found = Some(index);
            if self.marks.get(1).is_some_and(|(_, next)| *next <= limit) {
                self.marks.pop_front();
            } else {
                break;
            }
        }
        found
    }
}

impl Shared {
    /// Takes up the state where the store has it.
    pub(crate) fn open(
        machine: Arc<dyn Machine>,
        store: Arc<dyn StateStore>,
        snapshots: SnapshotDir,
        jurisdiction: Jurisdiction,
    ) -> io::Result<Self> {
        let progress = load(store.as_ref())?;
        let index = progress.last.map(|id| LogIndex(id.index));
        Ok(Self {
            level: AtomicU32::new(progress.terms.level.0),
            applied: watch::Sender::new(index),
            machine,
            store,
            snapshots,
            jurisdiction,
            progress: Mutex::new(progress),
            marks: Mutex::default(),
            running: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            full: AtomicBool::new(false),
        })
    }

    /// Changes with the last applied index.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<Option<LogIndex>> {
        self.applied.subscribe()
    }

    /// The last applied index.
    pub(crate) fn applied_index(&self) -> Option<LogIndex> {
        *self.applied.borrow()
    }

    /// Whose law the members are under.
    pub(crate) fn jurisdiction(&self) -> &Jurisdiction {
        &self.jurisdiction
    }

    /// The last applied log id and its membership.
    pub(crate) fn applied(&self) -> AppliedState {
        self.progress.lock().applied()
    }

    /// The voters at the last applied index.
    pub(crate) fn voters(&self) -> Voters {
        self.progress.lock().terms.voters.clone()
    }

    /// The feature level in force.
    pub(crate) fn level(&self) -> FeatureLevel {
        FeatureLevel(self.level.load(Ordering::Relaxed))
    }

    /// Whether `node` was ever a member, as far as applied.
    pub(crate) fn ever_member(&self, node: NodeId) -> bool {
        self.progress.lock().terms.ever.contains(&node)
    }

    /// Whether `node` is a voter or learner, as far as applied.
    pub(crate) fn member_now(&self, node: NodeId) -> bool {
        self.progress
            .lock()
            .terms
            .membership
            .membership()
            .get_node(&node.0)
            .is_some()
    }

    /// The last index after which at least `entries` entries and `bytes` payload bytes were applied.
    pub(crate) fn purge_point(&self, entries: u64, bytes: u64) -> Option<LogIndex> {
        let by_entries = self.progress.lock().last?.index.checked_sub(entries)?;
        let by_bytes = if bytes == 0 {
            LogIndex(u64::MAX)
        } else {
            self.marks.lock().below(bytes)?
        };
        Some(LogIndex(by_entries).min(by_bytes))
    }

    /// Makes what is applied durable in the state store and answers how far that is. *Blocks.*
    pub(crate) fn flush(&self) -> io::Result<AppliedState> {
        // Taken before the flush, so that what is answered is not beyond it.
        let applied = self.applied();
        self.store.flush().map_err(io::Error::other)?;
        self.has_room();
        if let Some(last) = &applied.last {
            self.machine.flushed(position(last).1);
        }
        Ok(applied)
    }

    /// Waits before what found the disk full is tried again. An error says that the group stops.
    pub(crate) async fn await_room(&self) -> io::Result<()> {
        if !self.full.swap(true, Ordering::AcqRel) {
            tracing::error!("the disk is full: the state waits for room");
        }
        if self.stopping.load(Ordering::Acquire) {
            return Err(io::Error::other("stopped while the disk is full"));
        }
        tokio::time::sleep(ROOM_STEP).await;
        Ok(())
    }

    fn has_room(&self) {
        if self.full.load(Ordering::Acquire) && self.full.swap(false, Ordering::AcqRel) {
            tracing::info!("the disk has room again");
        }
    }

    /// A consistent view, reserved keys hidden.
    pub(crate) fn view(&self) -> Result<View, StateError> {
        let view = self.store.view()?;
        Ok(View {
            state: Box::new(GuardedReader(view.state)),
            ..view
        })
    }

    /// Writes keys that belong to this replica alone. `write` sees them and may change them. *Blocks.*
    pub(crate) fn local_write(
        &self,
        write: impl FnOnce(&mut dyn Writer),
    ) -> Result<(), StateError> {
        let progress = self.progress.lock();
        let mut batch = self.store.begin()?;
        write(batch.local());
        let index = progress.last.map_or(LogIndex(0), |id| LogIndex(id.index));
        self.store.commit(batch, index, progress.applied().encode())
    }

    fn apply_chunk(&self, chunk: &[Entry]) -> io::Result<Vec<Bytes>> {
        let mut guard = self.progress.lock();
        // Worked on beside the old one: a chunk that fails leaves nothing behind.
        let mut progress = guard.clone();
        let mut batch = self.store.begin().map_err(io::Error::other)?;
        let mut answers = Vec::with_capacity(chunk.len());
        for entry in chunk {
            answers.push(self.apply_entry(entry, &mut progress, &mut batch)?);
            progress.last = Some(entry.log_id);
        }
        let Some(last) = progress.last else {
            return Ok(answers);
        };
        let index = LogIndex(last.index);
        self.store
            .commit(batch, index, progress.applied().encode())
            .map_err(io::Error::other)?;
        self.has_room();
        self.level.store(progress.terms.level.0, Ordering::Relaxed);
        *guard = progress;
        drop(guard);
        let bytes = chunk.iter().map(|entry| match &entry.payload {
            EntryPayload::Normal(command) => command.0.len() as u64,
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        });
        self.marks.lock().add(index, bytes.sum());
        Ok(answers)
    }

    fn apply_entry(
        &self,
        entry: &Entry,
        progress: &mut Progress,
        batch: &mut Batch,
    ) -> io::Result<Bytes> {
        let (term, index) = position(&entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => Ok(Bytes::new()),
            EntryPayload::Membership(membership) => {
                self.apply_membership(entry, membership, progress, batch)?;
                Ok(Bytes::new())
            }
            EntryPayload::Normal(command) => match Order::decode(command)? {
                Order::Machine(body) | Order::Reserved(body) => {
                    let at = Position {
                        index,
                        term,
                        voters: &progress.terms.voters,
                        level: progress.terms.level,
                    };
                    let (state, local) = batch.split();
                    self.machine
                        .apply(at, &body, &mut GuardedWriter(state), local)
                        .map_err(io::Error::other)
                }
                Order::RaiseLevel(level) => {
                    if level > self.machine.level_max() {
                        return Err(io::Error::other(LevelUnknown { index, level }));
                    }
                    if level > progress.terms.level {
                        Arc::make_mut(&mut progress.terms).level = level;
                        batch.state().put(reserved::LEVEL, &level.0.to_be_bytes());
                    }
                    Ok(Bytes::copy_from_slice(
                        &progress.terms.level.0.to_be_bytes(),
                    ))
                }
                Order::AllocateNodeId => {
                    let id = FIRST_ALLOCATED_NODE_ID.saturating_add(index.0);
                    Ok(Bytes::copy_from_slice(&id.to_be_bytes()))
                }
            },
        }
    }

    fn apply_membership(
        &self,
        entry: &Entry,
        membership: &Membership,
        progress: &mut Progress,
        batch: &mut Batch,
    ) -> io::Result<()> {
        let terms = Arc::make_mut(&mut progress.terms);
        for (node, member) in membership.nodes() {
            // Unstated only in the engine's own storage tests, whose members have no record at all.
            if !member.jurisdiction.is_empty() && member.jurisdiction != self.jurisdiction.as_str()
            {
                return Err(io::Error::other(ForeignMember {
                    node: NodeId(*node),
                }));
            }
            if terms.ever.insert(NodeId(*node)) {
                batch.state().put(&reserved::member_key(NodeId(*node)), &[]);
            }
        }
        terms.voters = voters(membership);
        terms.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
        Ok(())
    }
}

/// A level this build does not understand was raised. The replica stops.
#[derive(Debug, thiserror::Error)]
#[error(
    "log index {index} raises the feature level to {level}, which this build does not understand"
)]
struct LevelUnknown {
    index: LogIndex,
    level: FeatureLevel,
}

/// A member of another jurisdiction was proposed. The replica stops.
#[derive(Debug, thiserror::Error)]
#[error("node {node} of another jurisdiction cannot be a member")]
struct ForeignMember {
    node: NodeId,
}

fn load(store: &dyn StateStore) -> io::Result<Progress> {
    let view = store.view().map_err(io::Error::other)?;
    let applied = match &view.applied {
        Some(applied) => AppliedState::decode(&applied.note)?,
        None => AppliedState::default(),
    };
    let terms = Terms {
        voters: voters(applied.membership.membership()),
        level: reserved::level(view.state.as_ref())?,
        ever: reserved::members(view.state.as_ref())?,
        membership: applied.membership,
    };
    Ok(Progress {
        last: applied.last,
        terms: Arc::new(terms),
    })
}

/// Whether `error` says that there is no room now.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(StateError::NoSpace { .. }))
}

/// The engine's handle on [`Shared`].
pub(crate) struct StateMachine {
    pub(crate) shared: Arc<Shared>,
}

/// Runs `work` where blocking is allowed, if the runtime has such a place and the work is long enough to matter.
fn run_blocking<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let threads = tokio::runtime::Handle::try_current()
        .is_ok_and(|h| h.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if threads && bytes > INLINE_BYTES_MAX {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

type Waiting = Vec<(Entry, Option<ApplyResponder<Config>>)>;

impl StateMachine {
    async fn commit_chunk(&self, waiting: &mut Waiting, bytes: usize) -> io::Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let (entries, responders): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().unzip();
        let answers = loop {
            match run_blocking(bytes, || self.shared.apply_chunk(&entries)) {
                Err(error) if is_full(&error) => self.shared.await_room().await?,
                done => break done?,
            }
        };
        let through = entries.last().map(|e| LogIndex(e.log_id.index));
        // Readers that wait for an index must find it before its proposer is told.
        self.shared.applied.send_replace(through);
        for (responder, answer) in responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        if let Some(through) = through {
            self.shared.machine.applied(through);
        }
        Ok(())
    }
}

impl RaftStateMachine<Config> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Flusher;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogIdOf<Config>>, StoredMembershipOf<Config>), io::Error> {
        let applied = self.shared.applied();
        Ok((applied.last, applied.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Config>, io::Error>> + Unpin + OptionalSend,
    {
        let mut waiting: Waiting = Vec::new();
        let mut bytes = 0;
        while let Some(item) = entries.next().await {
            // Who has far to catch up would keep a process that stops for minutes. The log has the rest.
            if self.shared.ended.load(Ordering::Acquire) {
                waiting.clear();
                continue;
            }
            let (entry, responder) = item?;
            if let EntryPayload::Normal(command) = &entry.payload {
                bytes += command.0.len();
            }
            waiting.push((entry, responder));
            if waiting.len() >= CHUNK_ENTRIES || bytes >= CHUNK_BYTES {
                self.commit_chunk(&mut waiting, bytes).await?;
                bytes = 0;
            }
        }
        self.commit_chunk(&mut waiting, bytes).await
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Flusher {
            shared: Arc::clone(&self.shared),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMetaOf<Config>,
        snapshot: Self::SnapshotData,
    ) -> Result<(), io::Error> {
        let SnapshotData::Files(files) = snapshot else {
            return Err(io::Error::other(
                "a snapshot without files cannot be installed",
            ));
        };
        let shared = Arc::clone(&self.shared);
        let progress = away(move || {
            let machine = Arc::clone(&shared.machine);
            let machine_level = machine.level_max();
            let mut in_line = |index: LogIndex, state: &dyn Reader, local: &mut dyn Writer| {
                machine.installed(index, &GuardedReader(state), local);
            };
            let mut guard = shared.progress.lock();
            shared
                .store
                .install(files.dir(), files.checkpoint(), &mut in_line)
                .map_err(io::Error::other)?;
            *guard = load(shared.store.as_ref())?;
            let level = guard.terms.level;
            if level > machine_level {
                let index = guard.last.map_or(LogIndex(0), |id| LogIndex(id.index));
                return Err(io::Error::other(LevelUnknown { index, level }));
            }
            Ok::<_, io::Error>(guard.clone())
        })
        .await??;
        if progress.last != meta.last_log_id {
            return Err(io::Error::other(
                "the snapshot does not hold the log id it states",
            ));
        }
        self.shared
            .level
            .store(progress.terms.level.0, Ordering::Relaxed);
        if let Some(last) = &progress.last {
            let index = position(last).1;
            self.shared.applied.send_replace(Some(index));
            self.shared.machine.applied(index);
            self.shared.machine.flushed(index);
        }
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<SnapshotOf<Config, Self::SnapshotData>>, io::Error> {
        if self.shared.applied().last.is_none() {
            return Ok(None);
        }
        let shared = Arc::clone(&self.shared);
        let (applied, data) = away(move || {
            if !shared.running.load(Ordering::Acquire) {
                return Ok((shared.flush()?, SnapshotData::Flushed));
            }
            let dir = shared.snapshots.fresh("made");
            let checkpoint = match shared.store.checkpoint(&dir) {
                // The peer that needs it asks again.
                Err(StateError::NoSpace { .. }) => {
                    return Ok((shared.applied(), SnapshotData::Flushed));
                }
                made => made.map_err(io::Error::other)?,
            };
            let note = checkpoint
                .applied
                .as_ref()
                .map(|a| a.note.clone())
                .unwrap_or_default();
            let applied = AppliedState::decode(&note)?;
            let files = shared.snapshots.files(dir, checkpoint);
            Ok::<_, io::Error>((applied, SnapshotData::Files(files)))
        })
        .await??;
        Ok(Some(SnapshotOf::<Config, SnapshotData> {
            meta: SnapshotMetaOf::<Config> {
                last_log_id: applied.last,
                last_membership: applied.membership,
            },
            snapshot: data,
        }))
    }
}
