//! What the services of a node share, and how a decision becomes a command.
//!
//! Owns the leader's side of a command: evaluate, bind the verdict to what it was evaluated on, propose, and decide
//! anew when apply says that it moved. Refuses to propose on enrolments older than those in force.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use node_state::{CatalogMeta, ShardMeta, feed, read, shard};
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{DatasetId, GroupId, LogIndex, NodeId, Role};
use proto::store::Reader;
use proto::v1;
use proto::v1::shard_command::Command;
use replica::host::{Applied, Group, HostFailure, ProposeError, ReadError};
use replica::state::View;
use transport::enrolment::EnrolmentTable;
use transport::{Enrolments, LocalIdentity, SharedClock};

use crate::authority::Refresher;
use crate::blocks::BlockStore;
use crate::config::Config;
use crate::disk::DiskGauge;
use crate::error::CallError;
use crate::groups::{Groups, Shard};
use crate::peers::NodePeers;
use crate::relocation::{Copies, Roots};
use crate::repair::Repair;
use crate::time::GroupClocks;

/// Decisions on one request before it is given back to the caller.
const DECISIONS_MAX: u32 = 8;
/// How long a call that needs another node's leader is tried.
pub(crate) const LEADER_WAIT: Duration = Duration::from_secs(10);

/// What the services share.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) node_id: NodeId,
    /// Where other regions reach this node; empty where they do not.
    pub(crate) federation: String,
    pub(crate) local: LocalIdentity,
    pub(crate) enrolments: Enrolments,
    pub(crate) refresher: Arc<Refresher>,
    pub(crate) clock: SharedClock,
    pub(crate) clocks: GroupClocks,
    pub(crate) groups: Arc<Groups>,
    pub(crate) peers: NodePeers,
    pub(crate) store: BlockStore,
    pub(crate) repair: Arc<Repair>,
    pub(crate) disk: DiskGauge,
    pub(crate) failure: Mutex<Option<HostFailure>>,
    /// Founding and changes of membership, one at a time here.
    pub(crate) membership: tokio::sync::Mutex<()>,
    /// Auditors served at once.
    pub(crate) audits: Arc<tokio::sync::Semaphore>,
    /// Backups that read a state at once.
    pub(crate) walks: Arc<tokio::sync::Semaphore>,
    /// Catalog roots of datasets that are leaving.
    pub(crate) roots: Roots,
    /// Copies of datasets that arrive.
    pub(crate) copies: Copies,
}

/// A command as decided on one state by one set of enrolments.
#[derive(Clone)]
pub(crate) struct Decision {
    /// The version of the dataset's key it goes by; 0 where no key is involved.
    pub(crate) key_state_version: u64,
    /// What to do.
    pub(crate) command: Command,
}

/// Whether a command is taken on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It stores something.
    Needed,
    /// It frees room, or must not wait: deletes, epochs, keys, authority.
    Reserved,
}

impl Core {
    /// A shard of this node.
    pub(crate) fn shard(&self, id: u64) -> Result<Arc<Shard>, CallError> {
        let id = GroupId(id);
        self.groups.shard(id).ok_or(CallError::NoSuchGroup(id))
    }

    /// Another node leads `group`, or none does.
    pub(crate) fn not_leader(&self, group: GroupId, leader: Option<NodeId>) -> CallError {
        CallError::NotLeader {
            group,
            leader: self.peers.hint(leader),
        }
    }

    /// Refuses unless this node believes that it leads; cheap, and apply or the majority have the last word.
    pub(crate) fn leading(&self, group: &Group) -> Result<(), CallError> {
        if group.is_leader() {
            return Ok(());
        }
        let leader = group.leader().filter(|leader| *leader != self.node_id);
        Err(self.not_leader(group.id(), leader))
    }

    /// A view that contains everything acknowledged before the call, and its index.
    pub(crate) async fn read(&self, group: &Group) -> Result<(View, LogIndex), CallError> {
        group
            .read_index()
            .await
            .map_err(|error| self.read_error(group, error))?;
        self.view(group)
    }

    /// What is applied here.
    pub(crate) fn view(&self, group: &Group) -> Result<(View, LogIndex), CallError> {
        let view = group.view().map_err(CallError::State)?;
        let index = view
            .applied
            .as_ref()
            .map_or(LogIndex(0), |applied| applied.index);
        Ok((view, index))
    }

    pub(crate) fn read_error(&self, group: &Group, error: ReadError) -> CallError {
        match error {
            ReadError::NotLeader { leader } => self.not_leader(group.id(), leader),
            error => CallError::Read(error),
        }
    }

    async fn propose(
        &self,
        group: &Group,
        room: Room,
        command: Vec<u8>,
    ) -> Result<Applied, CallError> {
        let proposed = match room {
            Room::Needed => group.propose_at(command.into()).await,
            Room::Reserved => group.propose_reserved(command.into()).await,
        };
        proposed.map_err(|error| match error {
            ProposeError::NotLeader { leader } => self.not_leader(group.id(), leader),
            error => CallError::Propose(error),
        })
    }

    /// Proposes a shard command that carries no verdict.
    pub(crate) async fn drive_shard(
        &self,
        group: &Group,
        command: Command,
    ) -> Result<v1::Done, CallError> {
        let stands_at = self.stands_at(group)?;
        let command = v1::ShardCommand {
            now_ms: self.reading(group, stands_at).await?.0,
            verdict: None,
            request_id: Bytes::new(),
            command: Some(command),
        };
        self.propose_shard(group, command).await
    }

    pub(crate) async fn propose_shard(
        &self,
        group: &Group,
        command: v1::ShardCommand,
    ) -> Result<v1::Done, CallError> {
        let command = command.encode_to_vec();
        shard_answer(self.propose(group, Room::Reserved, command).await?)
    }

    pub(crate) async fn propose_catalog(
        &self,
        command: v1::CatalogCommand,
    ) -> Result<v1::CatalogDone, CallError> {
        let command = command.encode_to_vec();
        let group = &self.groups.catalog;
        catalog_answer(self.propose(group, Room::Reserved, command).await?)
    }

    /// Decides, proposes, and decides anew while authority, key state or the dataset's epoch move.
    pub(crate) async fn decide_shard(
        &self,
        group: &Group,
        room: Room,
        request_id: Bytes,
        decide: impl Fn(&EnrolmentTable, &dyn Reader) -> Result<Decision, CallError>,
    ) -> Result<v1::Done, CallError> {
        let mut caught_up = false;
        for _ in 0..DECISIONS_MAX {
            self.leading(group)?;
            let table = self.enrolments.current();
            // In a block: the view must not live across an await, it pins the state.
            let (meta, dataset_epoch, decision) = {
                let (view, _) = self.view(group)?;
                let decision = decide(&table, &*view.state);
                let of = decision.as_ref().ok();
                let epoch = of.map_or(0, |decision| epoch_of(&*view.state, &decision.command));
                (ShardMeta::load(&*view.state), epoch, decision)
            };
            let decision = match decision {
                // A new leader may not have applied what was acknowledged before: look again when it has.
                Err(CallError::NoSuchDataset) if !caught_up => {
                    let read = group.read_index_as_leader().await;
                    read.map_err(|error| self.read_error(group, error))?;
                    caught_up = true;
                    continue;
                }
                decision => decision?,
            };
            let in_force = meta.authority_version;
            if !self.at_one(group, in_force, table.version()).await? {
                continue;
            }
            let command = v1::ShardCommand {
                now_ms: self.reading(group, meta.time).await?.0,
                verdict: Some(v1::Verdict {
                    authority_version: table.version(),
                    key_state_version: decision.key_state_version,
                    dataset_epoch,
                }),
                request_id: request_id.clone(),
                command: Some(decision.command),
            };
            let dataset = command.command.as_ref().and_then(shard::subject);
            let applied = self.propose(group, room, command.encode_to_vec()).await?;
            match shard_answer(applied) {
                Err(CallError::Refused { refused }) if moved(&refused) => {}
                Err(CallError::Refused { refused })
                    if refused.reason() == v1::Refusal::DatasetFenced =>
                {
                    return Err(self.fenced(group, dataset, refused));
                }
                answer => return answer,
            }
        }
        Err(CallError::KeptMoving)
    }

    /// Says until when a fence stands, to who is to come again.
    fn fenced(&self, group: &Group, dataset: Option<DatasetId>, refused: v1::Refused) -> CallError {
        let due = dataset.and_then(|dataset| {
            let (view, _) = self.view(group).ok()?;
            feed::fence_due(&*view.state, &dataset)
        });
        CallError::Refused {
            refused: v1::Refused {
                moved_to: due.map_or(0, |due| due.0),
                ..refused
            },
        }
    }

    /// As [`Core::decide_shard`], in the catalog.
    pub(crate) async fn decide_catalog(
        &self,
        decide: impl Fn(&EnrolmentTable, &dyn Reader) -> Result<v1::catalog_command::Command, CallError>,
    ) -> Result<v1::CatalogDone, CallError> {
        let group = &self.groups.catalog;
        for _ in 0..DECISIONS_MAX {
            self.leading(group)?;
            let table = self.enrolments.current();
            let (meta, decision) = {
                let (view, _) = self.view(group)?;
                (
                    CatalogMeta::load(&*view.state),
                    decide(&table, &*view.state)?,
                )
            };
            let in_force = meta.authority_version;
            if !self.at_one(group, in_force, table.version()).await? {
                continue;
            }
            let verdict = v1::Verdict {
                authority_version: table.version(),
                key_state_version: 0,
                dataset_epoch: 0,
            };
            let command = v1::CatalogCommand {
                now_ms: self.reading(group, meta.time).await?.0,
                verdict: Some(verdict),
                command: Some(decision),
            };
            match self.propose_catalog(command).await {
                Err(CallError::Refused { refused }) if moved(&refused) => {}
                answer => return answer,
            }
        }
        Err(CallError::KeptMoving)
    }

    /// Whether the enrolments held here are those the group goes by. A newer set is put in force first; an older
    /// one is no ground for a decision.
    pub(crate) async fn at_one(
        &self,
        group: &Group,
        in_force: u64,
        held: u64,
    ) -> Result<bool, CallError> {
        if held == in_force {
            return Ok(true);
        }
        if held < in_force {
            self.refresher.hurry();
            return Err(CallError::AuthorityBehind { held, in_force });
        }
        let set = v1::SetAuthority { version: held };
        let answer = if group.id() == GroupId::CATALOG {
            let stands_at = self.stands_at(group)?;
            let command = v1::CatalogCommand {
                now_ms: self.reading(group, stands_at).await?.0,
                verdict: None,
                command: Some(v1::catalog_command::Command::SetAuthority(set)),
            };
            self.propose_catalog(command).await.map(drop)
        } else {
            self.drive_shard(group, Command::SetAuthority(set))
                .await
                .map(drop)
        };
        match answer {
            // Another leader put a newer one in force meanwhile: look again.
            Err(CallError::Refused { refused }) if moved(&refused) => Ok(false),
            answer => answer.map(|()| false),
        }
    }

    /// Refuses a node that is not enrolled, after asking the KMS: it may have been enrolled a moment ago.
    pub(crate) async fn enrolled_node(&self, node: NodeId) -> Result<(), CallError> {
        let enrolled = || self.enrolments.by_node_id(Role::Node, node).is_some();
        if !enrolled() {
            self.refresher.refresh().await;
        }
        if enrolled() {
            return Ok(());
        }
        Err(CallError::NotEnrolled(node))
    }

    /// Why the engine failed, if it did.
    pub(crate) fn engine_failure(&self) -> Option<String> {
        self.failure
            .lock()
            .as_ref()
            .map(|failure| transport::fault::Chain(failure).to_string())
    }
}

/// The epoch of the dataset that a command is decided on: apply refuses it in another one.
fn epoch_of(state: &dyn Reader, command: &Command) -> u64 {
    let dataset = shard::subject(command).and_then(|id| read::dataset(state, &id));
    dataset.map_or(0, |dataset| dataset.epoch)
}

fn moved(refused: &v1::Refused) -> bool {
    match refused.reason() {
        v1::Refusal::AuthorityMoved
        | v1::Refusal::KeyStateMoved
        | v1::Refusal::DatasetEpochMoved => refused.moved_to != 0,
        // The level was raised meanwhile, or time stood elsewhere: the next reading is another.
        v1::Refusal::ClockJump => true,
        _ => false,
    }
}

fn shard_answer(applied: Applied) -> Result<v1::Done, CallError> {
    use v1::shard_answer::Answer;
    let answer = v1::ShardAnswer::decode(applied.answer).map_err(|_| CallError::Answer)?;
    match answer.answer {
        Some(Answer::Done(done)) => Ok(done),
        Some(Answer::Refused(refused)) => Err(CallError::Refused { refused }),
        None => Err(CallError::Answer),
    }
}

fn catalog_answer(applied: Applied) -> Result<v1::CatalogDone, CallError> {
    use v1::catalog_answer::Answer;
    let answer = v1::CatalogAnswer::decode(applied.answer).map_err(|_| CallError::Answer)?;
    match answer.answer {
        Some(Answer::Done(done)) => Ok(done),
        Some(Answer::Refused(refused)) => Err(CallError::Refused { refused }),
        None => Err(CallError::Answer),
    }
}
