//! The consensus host: the groups of one process and what they share.
//!
//! Owns the folder, the log, the handler of peers' messages and the attendance. Refuses to open a folder that is not
//! this member's, and to go on after a failure: [`Host::failed`] tells when the process has to exit.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use proto::danger::{Switch, broken};
use proto::ids::{FeatureLevel, GroupId, LogIndex, NodeId};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::core::GroupCore;
use self::failure::Failure;
use self::folder::{Coming, Owner};
use self::reads::Reads;
use crate::blocking::away;
use crate::log::{LogError, RaftLog};
use crate::machine::Machine;
use crate::net::attend::Attendance;
use crate::net::client::{Context, NetworkFactory};
use crate::net::handler::{Identification, PeerHandler};
use crate::net::link::LinkFault;
use crate::net::seen::{Seen, SeenTable};
use crate::net::server::RaftService;
use crate::net::snapshot_send::Pace;
use crate::raft::log_store::LogStore;
use crate::raft::machine::{Shared, StateMachine};
use crate::raft::snapshot::SnapshotDir;
use crate::raft::types::Raft;
use crate::state::{RocksState, StateEnv, StateError, StateStore};

pub(crate) mod core;
mod erase;
pub(crate) mod failover;
pub mod failure;
pub mod folder;
pub mod group;
mod keeper;
pub mod members;
pub mod options;
pub mod propose;
pub mod reads;

pub use self::core::{GroupRole, GroupView};
pub use erase::EraseError;
pub use failure::HostFailure;
pub use folder::{FolderError, check_resumes, is_taken};
pub use group::{FoundError, Group, HandOverError, RaiseError};
pub use members::{Change, Force, MemberError, NothingBeside, PromotionGuard, Withheld};
pub use options::{Admission, BadTuning, ENTRY_BYTES_MAX, GROUPS_MAX, HostOptions, Tuning};
pub use propose::{Applied, ProposeError};
pub use reads::ReadError;

/// How long a starting member waits for its peers to say what they have seen of it.
const ASK_PEERS_MAX: Duration = Duration::from_millis(1500);
/// How long a new member tries to find a peer that can say that its id is new.
const JOIN_MAX: Duration = Duration::from_secs(60);
const JOIN_PAUSE: Duration = Duration::from_millis(300);

/// Why a host or group could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is not this member's.
    #[error("member's folder")]
    Folder(#[source] FolderError),
    /// The log.
    #[error("raft log")]
    Log(#[source] LogError),
    /// The state store of a group.
    #[error("state store of group {group}")]
    State {
        /// Which group.
        group: GroupId,
        /// What is wrong.
        #[source]
        source: StateError,
    },
    /// The folder for snapshots, or the state's own record.
    #[error("files of group {group}")]
    Files {
        /// Which group.
        group: GroupId,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The tuning.
    #[error("raft tuning")]
    Tuning(#[source] BadTuning),
    /// More groups than a process may have.
    #[error("a process has at most {GROUPS_MAX} groups")]
    TooManyGroups,
    /// The group is open already.
    #[error("group {0} is open already")]
    Open(GroupId),
    /// A peer remembers this id as a member; its disk is not here.
    #[error("node id {node} was a member of group {group} before: join under a new id")]
    Reused {
        /// This member.
        node: NodeId,
        /// Which group.
        group: GroupId,
    },
    /// A new member needs the group's leader, with a majority, to be sure that its id is new.
    #[error("no leader of group {0} could be asked whether this id is new")]
    NobodyToAsk(GroupId),
    /// A peer has seen more of this disk than is on it.
    #[error(
        "the disk of group {group} is behind what member {peer} has seen of it: join under a new id"
    )]
    Behind {
        /// Which group.
        group: GroupId,
        /// Who saw more.
        peer: NodeId,
    },
    /// A newer build has raised the group to what this one does not understand.
    #[error(
        "group {group} is at feature level {level}, this build understands up to {level_max}: start a newer build"
    )]
    Level {
        /// Which group.
        group: GroupId,
        /// In force in its state.
        level: FeatureLevel,
        /// What this build understands.
        level_max: FeatureLevel,
    },
    /// The engine did not start.
    #[error("engine of group {group}: {why}")]
    Engine {
        /// Which group.
        group: GroupId,
        /// What it says.
        why: String,
    },
}

/// The groups of one process. Clones are handles on it.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    options: HostOptions,
    log: RaftLog,
    states: StateEnv,
    handler: Arc<PeerHandler>,
    failure: Failure,
    seen: Arc<SeenTable>,
    pace: Arc<Pace>,
    tuning: Arc<options::Tuning>,
    coming: parking_lot::Mutex<Coming>,
    groups: parking_lot::Mutex<Vec<Group>>,
    _attendance: Attendance,
    watcher: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Where the log of a member's folder is.
pub(crate) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

impl Host {
    /// Opens a member's folder. Needs a running tokio runtime. *Blocks* while the log is read.
    pub fn open(options: HostOptions) -> Result<Self, OpenError> {
        options.tuning.engine().map_err(OpenError::Tuning)?;
        let region = options.identity.region().clone();
        let owner = Owner {
            cluster: options.cluster,
            region: &region,
            node: options.node_id,
        };
        let disk = Arc::clone(&options.disk);
        let (dir, admission) = (&options.dir, options.admission);
        let held = folder::claim(disk.as_ref(), dir, &owner, admission);
        let coming = match held.map_err(OpenError::Folder)? {
            Some(coming) => coming,
            None => {
                folder::found(disk.as_ref(), dir, &owner, admission).map_err(OpenError::Folder)?
            }
        };
        let log = RaftLog::open(disk, &log_dir(&options.dir), options.log.clone())
            .map_err(OpenError::Log)?;
        let failure = Failure::new();
        let seen = Arc::new(SeenTable::default());
        let identification = Identification {
            cluster: options.cluster,
            me: options.node_id,
            role: options.identity.role(),
            region,
            jurisdiction: options.jurisdiction.clone(),
        };
        let handler = Arc::new(PeerHandler::new(
            identification,
            Arc::clone(&seen),
            failure.clone(),
        ));
        let attendance = Attendance::start(
            Arc::clone(&handler),
            Arc::clone(&options.dialer),
            options.tuning.lost_after,
        );
        let watcher = tokio::spawn(watch_log(log.clone(), failure.clone()));
        let inner = Inner {
            pace: Arc::new(Pace::new(options.tuning.snapshot_bytes_per_second)),
            tuning: Arc::new(options.tuning.clone()),
            states: StateEnv::new(options.state.clone()),
            groups: parking_lot::Mutex::default(),
            _attendance: attendance,
            options,
            log,
            handler,
            failure,
            seen,
            coming: parking_lot::Mutex::new(coming),
            watcher,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// This member's id.
    pub fn node_id(&self) -> NodeId {
        self.inner.options.node_id
    }

    /// The service that answers peers; add its [`RaftService::server`] to the process's server.
    pub fn service(&self) -> RaftService {
        RaftService(Arc::clone(&self.inner.handler))
    }

    /// What the service does, for links that are not gRPC.
    pub fn handler(&self) -> Arc<PeerHandler> {
        Arc::clone(&self.inner.handler)
    }

    /// The log of the process, for its counters.
    pub fn log(&self) -> &RaftLog {
        &self.inner.log
    }

    /// Opens one group on RocksDB.
    pub async fn open_group(
        &self,
        group: GroupId,
        machine: Arc<dyn Machine>,
    ) -> Result<Group, OpenError> {
        let (env, dir) = (
            self.inner.states.clone(),
            self.inner.options.dir.join("state"),
        );
        let dir = dir.join(group.to_string());
        let opened = tokio::task::spawn_blocking(move || RocksState::open(&env, &dir)).await;
        let store = match opened {
            Ok(store) => store.map_err(|source| OpenError::State { group, source })?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        self.open_group_on(group, machine, Arc::new(store)).await
    }

    /// Opens one group on a state store of the caller's.
    pub async fn open_group_on(
        &self,
        group: GroupId,
        machine: Arc<dyn Machine>,
        store: Arc<dyn StateStore>,
    ) -> Result<Group, OpenError> {
        let inner = &self.inner;
        {
            let groups = inner.groups.lock();
            if groups.iter().any(|open| open.id() == group) {
                return Err(OpenError::Open(group));
            }
            if groups.len() >= GROUPS_MAX {
                return Err(OpenError::TooManyGroups);
            }
        }
        let files = |source| OpenError::Files { group, source };
        let snapshots = inner.options.dir.join("snapshots").join(group.to_string());
        let shared = Shared::open(
            machine,
            store,
            SnapshotDir::open(Arc::clone(&inner.options.disk), snapshots).map_err(files)?,
            inner.options.jurisdiction.clone(),
        );
        let shared = Arc::new(shared.map_err(files)?);
        let (level, level_max) = (shared.level(), shared.machine.level_max());
        if level > level_max {
            return Err(OpenError::Level {
                group,
                level,
                level_max,
            });
        }
        let log = LogStore::new(inner.log.group(group));
        let context = Arc::new(Context {
            cluster: inner.options.cluster,
            group,
            me: inner.options.node_id,
            dialer: Arc::clone(&inner.options.dialer),
            seen: Arc::clone(&inner.seen),
            pace: Arc::clone(&inner.pace),
            response_max: inner.tuning.response_max,
            commit_wait: inner.tuning.commit_wait,
        });
        self.ask_peers(group, &context, &log, &shared).await?;
        let core = self.start(group, shared, log, context).await?;
        inner.handler.add(Arc::clone(&core));
        let tasks = vec![
            tokio::spawn(Arc::clone(&core).observe()),
            tokio::spawn(keeper::keep(Arc::clone(&core))),
        ];
        let group = Group::new(core, tasks);
        inner.groups.lock().push(group.clone());
        Ok(group)
    }

    async fn start(
        &self,
        group: GroupId,
        shared: Arc<Shared>,
        log: LogStore,
        context: Arc<Context>,
    ) -> Result<Arc<GroupCore>, OpenError> {
        let inner = &self.inner;
        let config = inner.tuning.engine().map_err(OpenError::Tuning)?;
        let machine = StateMachine {
            shared: Arc::clone(&shared),
        };
        let raft = Raft::new(
            inner.options.node_id.0,
            Arc::new(config),
            NetworkFactory(Arc::clone(&context)),
            log.clone(),
            machine,
        )
        .await
        .map_err(|e| OpenError::Engine {
            group,
            why: e.to_string(),
        })?;
        shared.running.store(true, Ordering::Release);
        let reads = Reads::start(
            raft.clone(),
            Arc::clone(&context),
            Arc::clone(&inner.tuning),
        );
        Ok(GroupCore::new(
            group,
            raft,
            shared,
            log,
            reads,
            context,
            Arc::clone(&inner.tuning),
            inner.failure.clone(),
        ))
    }

    /// Asks the peers that can be reached what they have seen of this member, before it votes or answers.
    async fn ask_peers(
        &self,
        group: GroupId,
        context: &Context,
        log: &LogStore,
        shared: &Shared,
    ) -> Result<(), OpenError> {
        let joining = self.inner.coming.lock().has_to_prove(group);
        let end = Instant::now() + JOIN_MAX;
        while !self
            .ask_peers_once(group, context, log, shared, joining)
            .await?
            && joining
        {
            // The peers learn of a new member's enrolment in their own time.
            if Instant::now() > end {
                return Err(OpenError::NobodyToAsk(group));
            }
            tokio::time::sleep(JOIN_PAUSE).await;
        }
        if joining {
            self.admitted(group).map_err(OpenError::Folder)?;
        }
        Ok(())
    }

    /// Notes durably that this member's id is new in `group`. *Blocks*, once in a member's life.
    fn admitted(&self, group: GroupId) -> Result<(), FolderError> {
        let options = &self.inner.options;
        let owner = Owner {
            cluster: options.cluster,
            region: options.identity.region(),
            node: options.node_id,
        };
        let mut coming = self.inner.coming.lock();
        let admitted = coming.admitted_to(group);
        folder::write(options.disk.as_ref(), &options.dir, &owner, &admitted)?;
        *coming = admitted;
        Ok(())
    }

    /// Answers whether any peer answered; for a joining member, whether one did that the majority said is current: a
    /// peer that lags may have missed that this id was a member.
    async fn ask_peers_once(
        &self,
        group: GroupId,
        context: &Context,
        log: &LogStore,
        shared: &Shared,
        joining: bool,
    ) -> Result<bool, OpenError> {
        let inner = &self.inner;
        let peers = context.dialer.peers();
        let mut asked: FuturesUnordered<_> = peers
            .iter()
            .map(|(node, member)| async move {
                let current = if joining {
                    group::current_with(context, *node, member).await
                } else {
                    None
                };
                let answer = group::survey_with(context, *node, member).await;
                (*node, current, answer)
            })
            .collect();
        let end = Instant::now() + ASK_PEERS_MAX;
        let mut known = false;
        // One that does not answer takes nothing from what the others say.
        while let Ok(Some((peer, current, answer))) =
            tokio::time::timeout_at(end, asked.next()).await
        {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    if error.fault == LinkFault::Refused {
                        tracing::info!(%group, %peer, %error, "peer could not say what it has seen");
                    }
                    continue;
                }
            };
            known |= !joining || current.is_some_and(|read| LogIndex(answer.applied) >= read);
            if broken(Switch::ReuseNodeId) {
                continue;
            }
            if joining && answer.ever_member {
                return Err(OpenError::Reused {
                    node: inner.options.node_id,
                    group,
                });
            }
            let seen = Seen::from_wire(answer.seen);
            let vote = log.vote().map_err(|e| OpenError::Files {
                group,
                source: e.into(),
            })?;
            let last = log.last().max(shared.applied().last);
            if seen != Seen::default() && !seen.is_kept_by(vote.as_ref(), last) {
                return Err(OpenError::Behind { group, peer });
            }
        }
        Ok(known)
    }

    /// Stops one group and forgets it.
    pub async fn close_group(&self, group: GroupId) {
        let found = {
            let mut groups = self.inner.groups.lock();
            let at = groups.iter().position(|open| open.id() == group);
            at.map(|at| groups.remove(at))
        };
        if let Some(open) = found {
            open.stop().await;
            self.inner.handler.remove(group);
        }
    }

    /// Waits until something ended that this process cannot go on without; it has to exit then.
    pub async fn failed(&self) -> HostFailure {
        let mut failure = self.inner.failure.watch();
        loop {
            if let Some(failure) = failure.borrow_and_update().clone() {
                return failure;
            }
            if failure.changed().await.is_err() {
                // The sender lives in `self`.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Hands every leadership over, stops every group, and closes the log.
    pub async fn stop(&self) {
        let groups = std::mem::take(&mut *self.inner.groups.lock());
        futures::future::join_all(groups.iter().map(Group::stop)).await;
        self.close(&groups).await;
    }

    /// Stops without handing over, as a process that is killed does; the log is closed all the same.
    pub async fn abandon(&self) {
        let groups = std::mem::take(&mut *self.inner.groups.lock());
        futures::future::join_all(groups.iter().map(Group::stop_at_once)).await;
        self.close(&groups).await;
    }

    async fn close(&self, groups: &[Group]) {
        self.inner.handler.leave();
        for group in groups {
            self.inner.handler.remove(group.id());
        }
        self.inner.watcher.abort();
        let log = self.inner.log.clone();
        if let Ok(Err(error)) = away(move || log.close()).await {
            tracing::warn!(%error, "raft log not closed in order");
        }
    }
}

async fn watch_log(log: RaftLog, failure: Failure) {
    let mut fatal = log.watch_fatal();
    // Only the receiver, so that the log can close.
    drop(log);
    if let Ok(error) = fatal.wait_for(Option::is_some).await
        && let Some(error) = error.clone()
    {
        tracing::error!(%error, "raft log failed");
        failure.fail(HostFailure::Log(error));
    }
}
