//! Ended keys leave this replica's files, and the region hears that they did.
//!
//! Owns when a replica erases, and its word on record. Refuses to give it before log, state and snapshots are clean, and
//! to rest on what an earlier life or another replica's snapshot has left here: both are erased anew. Copies that left
//! this replica, above all backups, are not reached.

use std::sync::Arc;
use std::time::Duration;

use proto::danger::{Switch, broken};
use proto::ids::LeafIndex;
use proto::v1;
use replica::host::EraseError;
use tonic::Request;
use transport::Peer;
use transport::fault::Chain;

use crate::core::Core;
use crate::ledger::{Command, CommitError};
use crate::peers::CALL_MAX;

/// Between two looks at whether something is left to be erased.
const ROUND_EVERY: Duration = Duration::from_secs(1);

/// Why this replica's word is not on record yet.
#[derive(Debug, thiserror::Error)]
enum NotSaid {
    #[error("it was not recorded")]
    Commit(#[from] CommitError),
    #[error("no leader is known")]
    NoLeader,
    #[error("the leader cannot be called")]
    Unreachable(#[from] crate::peers::PeerUnreachable),
    #[error("the leader did not record it")]
    Leader(#[from] Box<tonic::Status>),
}

impl Core {
    /// Erases what was ended, as long as the process lives.
    pub(crate) async fn erase_ended_keys(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let ranges = kms_state::wrapped_ranges();
        let mut erased = None;
        loop {
            rounds.tick().await;
            // A snapshot brings a peer's files, and what that peer has not erased.
            let installs = self.changes.borrow().installs;
            let Ok(state) = self.reader() else { return };
            let Some(due) = kms_state::erase_due(&*state) else {
                continue;
            };
            let said = kms_state::erased_through(&*state, self.config.node_id()) >= due.leaf;
            // A view that is held would keep what it sees.
            drop(state);
            let clean = erased == Some((due, installs)) || broken(Switch::KeepEnded);
            if !clean {
                match self.group.erase_replaced(due.index, &ranges).await {
                    Ok(()) => {}
                    Err(EraseError::Stopped) => return,
                    Err(EraseError::NotYet(why)) => {
                        tracing::debug!(leaf = due.leaf.0, why, "ended keys not erased yet");
                        continue;
                    }
                    Err(error) => {
                        tracing::warn!(leaf = due.leaf.0, error = %Chain(&error), "ended keys not erased");
                        continue;
                    }
                }
                erased = Some((due, installs));
                tracing::info!(
                    leaf = due.leaf.0,
                    "ended keys erased from this replica's files"
                );
            }
            if !said && let Err(error) = self.say_erased(due.leaf).await {
                tracing::debug!(leaf = due.leaf.0, error = %Chain(&error), "not on record that ended keys are erased");
            }
        }
    }

    async fn say_erased(&self, leaf: LeafIndex) -> Result<(), NotSaid> {
        if self.group.is_leader() {
            self.commit_erased(self.identity(), leaf).await?;
            return Ok(());
        }
        let leader = self.group.leader().ok_or(NotSaid::NoLeader)?;
        let mut request = Request::new(v1::ConfirmErased {
            through_leaf: leaf.0,
        });
        request.set_timeout(CALL_MAX);
        let said = self.peers.peer(leader)?.record_erased(request).await;
        said.map(drop).map_err(|status| Box::new(status).into())
    }

    /// On the leader, for a replica that says so.
    pub(crate) async fn record_erased(
        &self,
        peer: &Peer,
        request: v1::ConfirmErased,
    ) -> Result<v1::KmsDone, CommitError> {
        self.commit_erased(&peer.identity, LeafIndex(request.through_leaf))
            .await
    }

    async fn commit_erased(
        &self,
        replica: &proto::ids::Identity,
        leaf: LeafIndex,
    ) -> Result<v1::KmsDone, CommitError> {
        self.ledger
            .command(replica, self.deadline(), |state| {
                // Where nothing was ended, a group below the level is told of nothing it does not know.
                if kms_state::erase_due(state).is_none() {
                    return Err(CommitError::Refused {
                        reason: v1::KmsRefusal::WrongState,
                    });
                }
                let confirm = v1::ConfirmErased {
                    through_leaf: leaf.0,
                };
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: v1::kms_command::Command::ConfirmErased(confirm),
                })
            })
            .await
    }
}
