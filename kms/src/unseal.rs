//! Unsealing by custodians, recording it, and sealing again.
//!
//! Owns the way from k shares to a replica that serves: the root key is here, the record is committed, then it
//! serves. Refuses shares from anyone but their holders, and to serve before the record.

use std::sync::Arc;
use std::time::Duration;

use envelope::{HpkeInfo, KeyError, ShareError, ShareSet};
use proto::ids::{Identity, Role, RootEpoch};
use proto::transcript;
use proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use transport::fault::{Chain, reason};
use transport::{Faulty as _, Peer};

use crate::approvals;
use crate::core::Core;
use crate::keys::in_force;
use crate::ledger::{Command, CommitError};
use crate::peers::CALL_MAX;
use crate::seal::{BootId, ByToken, Posture, UnsealError};
use crate::sessions::NoSession;

/// Between attempts to record an unseal while no leader can be found.
const RECORD_EVERY: Duration = Duration::from_millis(200);

/// Why a share was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShareRefused {
    /// There is no region here yet.
    #[error("not initialised, or still catching up: this replica does not know the shares yet")]
    NotInitialised,
    /// Only custodians give shares.
    #[error("{0} is not a custodian of the root key")]
    NotCustodian(Identity),
    /// No such session.
    #[error(transparent)]
    Session(#[from] NoSession),
    /// The share itself.
    #[error("the share was not taken")]
    Unseal(#[from] UnsealError),
}

/// Why an unseal is not on record.
enum NotRecorded {
    /// Another root key is in force than the one that the shares gave.
    Superseded,
    /// What operators approved does not carry a record, and will not: in words.
    Refused(String),
    /// Not yet: in words.
    Later(String),
}

/// Why the replica was not sealed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealRefused {
    /// Only operators seal.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// The root key is gone, and there is no room for the keys of a new life.
    #[error("sealed, but there is no key memory for the next unseal: restart this replica")]
    Key(#[source] envelope::KeyError),
}

impl Core {
    /// Takes one custodian's share.
    pub(crate) async fn unseal(
        &self,
        peer: &Peer,
        request: v1::UnsealRequest,
    ) -> Result<v1::UnsealReply, ShareRefused> {
        let region = self
            .reader()
            .ok()
            .and_then(|state| kms_state::region(&*state))
            .or_else(|| self.region_to_come());
        let region = region.ok_or(ShareRefused::NotInitialised)?;
        let not_custodian = || ShareRefused::NotCustodian(peer.identity.clone());
        let caller = peer.identity.to_string();
        let splits = self.splits_of(&caller).map_err(UnsealError::Share)?;
        if splits.is_empty() || peer.identity.role() != Role::Custodian {
            return Err(not_custodian());
        }
        let session = self
            .sessions
            .of(&request.session_id, &peer.public_key, self.now())?;
        let replica = self.identity().to_string();
        let info = HpkeInfo::of(&transcript::unseal_share_info(
            &region.region,
            &caller,
            &replica,
            &session.id,
        ));
        let sealed = &request.sealed_share;
        let posture = self
            .seal
            .take_share(&splits, &info, &session.aad(), sealed)?;
        tracing::info!(custodian = %peer.identity, "share taken");
        if posture == Posture::Unrecorded {
            self.group.set_may_campaign(true);
            // The driver records it; an answer that says `sealed` is of a replica that still waits for a majority.
            let mut watch = self.seal.watch();
            let served = watch.wait_for(|posture| *posture == Posture::Unsealed);
            // Nothing to do about a time-out: the reply says how it stands.
            let _ = timeout_at(self.deadline(), served).await;
        }
        let needed = region.shares_needed;
        let (sealed, have) = match self.seal.posture() {
            Posture::Sealed { have } => (true, have.into()),
            Posture::Unrecorded => (true, needed),
            Posture::Unsealed => (false, needed),
        };
        Ok(v1::UnsealReply {
            sealed,
            have,
            needed,
        })
    }

    /// The splits a custodian may hold a share of: the one in force, and the one under way, which may be in force by
    /// the time this replica hears of it.
    fn splits_of(&self, custodian: &str) -> Result<Vec<(ShareSet, u8)>, ShareError> {
        let Ok(state) = self.reader() else {
            return Ok(Vec::new());
        };
        let mut splits = Vec::new();
        let pending = kms_state::custody(&*state).and_then(|custody| custody.pending);
        let in_force = kms_state::region(&*state).or_else(|| self.region_to_come());
        let known = in_force
            .iter()
            .map(|region| (&region.share_set, &region.custodians))
            .chain(
                pending
                    .iter()
                    .map(|plan| (&plan.share_set, &plan.custodians)),
            );
        for (set, custodians) in known {
            let mut holders = custodians.iter();
            let share = holders.find(|holder| holder.identity == custodian);
            let index = share.and_then(|holder| u8::try_from(holder.share_index).ok());
            if let Some(index) = index {
                splits.push((ShareSet::from_bytes(set)?, index));
            }
        }
        Ok(splits)
    }

    /// Drops the root key, every session and every unwrapped key, and hands leadership over.
    pub(crate) async fn seal_now(&self, peer: &Peer) -> Result<v1::SealReply, SealRefused> {
        if peer.identity.role() != Role::Operator {
            return Err(SealRefused::NotOperator(peer.identity.clone()));
        }
        tracing::warn!(operator = %peer.identity, "sealed by an operator");
        self.drop_root().await.map_err(SealRefused::Key)?;
        Ok(v1::SealReply { sealed: true })
    }

    /// Drops the root key and everything under it, and hands leadership over.
    pub(crate) async fn drop_root(&self) -> Result<(), KeyError> {
        // Campaigning first: between the two a leader without a key would be found leading.
        self.group.set_may_campaign(false);
        let sealed = self.seal.seal();
        self.custody.clear();
        self.sessions.clear();
        self.drop_unrecorded_root();
        if self.group.is_leader()
            && let Err(error) = self.group.hand_over().await
        {
            tracing::warn!(%error, "leadership not handed over: the region has no unsealed leader");
        }
        sealed
    }

    /// Records every unseal by custodians, for as long as the replica runs.
    pub(crate) async fn record_unseals(self: Arc<Self>) {
        let mut watch = self.seal.watch();
        while watch
            .wait_for(|posture| *posture == Posture::Unrecorded)
            .await
            .is_ok()
        {
            let boot = self.seal.boot_id();
            match self.record_unseal(boot).await {
                Ok(()) => {
                    self.seal.recorded(boot);
                    tracing::info!("unsealed by custodians, and on record");
                }
                Err(NotRecorded::Superseded) => {
                    tracing::error!(
                        "the shares given were of a root key that is no longer in force: sealed again; give the \
                         shares of the split in force (see `reduit custody status`)"
                    );
                    if let Err(error) = self.drop_root().await {
                        tracing::warn!(%error, "sealed without a new life");
                    }
                }
                Err(NotRecorded::Refused(why)) => {
                    tracing::error!(
                        %why,
                        "the unseal by a token cannot be recorded: sealed again; approve it anew"
                    );
                    if let Err(error) = self.drop_root().await {
                        tracing::warn!(%error, "sealed without a new life");
                    }
                }
                Err(NotRecorded::Later(why)) => {
                    tracing::debug!(%why, "unseal not recorded yet");
                    tokio::time::sleep(RECORD_EVERY).await;
                }
            }
        }
    }

    async fn record_unseal(&self, boot: BootId) -> Result<(), NotRecorded> {
        let root_epoch = self.seal.held_epoch().unwrap_or(RootEpoch(0));
        let later = |why: String| NotRecorded::Later(why);
        let region = self.reader().ok();
        if region.is_none_or(|state| kms_state::region(&*state).is_none()) {
            return Err(later("there is no region yet to record it in".to_owned()));
        }
        let by = self.seal.by_token();
        if self.group.is_leader() {
            let deadline = Instant::now() + CALL_MAX;
            let outcome = match &by {
                None => {
                    let unseal = Unseal::by(v1::UnsealHow::Custodians, boot, root_epoch);
                    self.commit_unseal(self.identity(), unseal, Vec::new(), deadline)
                        .await
                }
                Some(by) => {
                    self.commit_token_unseal(self.identity(), boot, root_epoch, by, deadline)
                        .await
                }
            };
            return match outcome {
                Err(CommitError::Refused {
                    reason: v1::KmsRefusal::RootMoved,
                }) => Err(NotRecorded::Superseded),
                // An earlier try of unknown outcome made the record: the boot id is this life's alone.
                Ok(_)
                | Err(CommitError::Refused {
                    reason: v1::KmsRefusal::AlreadyUnsealed,
                }) => Ok(()),
                Err(error) if by.is_some() && for_good(error.reason()) => {
                    Err(NotRecorded::Refused(Chain(&error).to_string()))
                }
                Err(error) => Err(NotRecorded::Later(error.to_string())),
            };
        }
        let leader = self.group.leader();
        let leader = leader.ok_or_else(|| later("no leader".to_owned()))?;
        let peer = self.peers.peer(leader);
        let mut client = peer.map_err(|error| later(error.to_string()))?;
        let by_token = by.is_some();
        let by = by.unwrap_or_default();
        let mut request = Request::new(v1::RecordUnsealedRequest {
            boot_id: boot.to_vec().into(),
            root_epoch: root_epoch.0,
            seal_id: by.seal_id,
            single_use_id: by.single_use_id,
            approvals: by.approvals,
        });
        request.set_timeout(CALL_MAX);
        client
            .record_unsealed(request)
            .await
            .map(drop)
            .map_err(|status| match reason(&status) {
                Some("root-moved") => NotRecorded::Superseded,
                Some(reason) if by_token && for_good(reason) => {
                    NotRecorded::Refused(status.message().to_owned())
                }
                _ => NotRecorded::Later(status.to_string()),
            })
    }

    /// On the leader, for a replica that its custodians, or its token and a holder, have unsealed.
    pub(crate) async fn record_unsealed(
        &self,
        peer: &Peer,
        request: v1::RecordUnsealedRequest,
    ) -> Result<v1::KmsDone, CommitError> {
        let malformed = CommitError::Refused {
            reason: v1::KmsRefusal::Malformed,
        };
        let boot = BootId::try_from(request.boot_id.as_ref()).map_err(|_| malformed)?;
        let root_epoch = RootEpoch(request.root_epoch);
        let outcome = if request.seal_id.is_empty() {
            let unseal = Unseal::by(v1::UnsealHow::Custodians, boot, root_epoch);
            self.commit_unseal(&peer.identity, unseal, Vec::new(), self.deadline())
                .await
        } else {
            let by = ByToken {
                seal_id: request.seal_id,
                single_use_id: request.single_use_id,
                approvals: request.approvals,
            };
            self.commit_token_unseal(&peer.identity, boot, root_epoch, &by, self.deadline())
                .await
        };
        match outcome {
            Err(CommitError::Refused {
                reason: v1::KmsRefusal::AlreadyUnsealed,
            }) => Ok(v1::KmsDone::default()),
            outcome => outcome,
        }
    }

    /// Commits the record of an unseal by a token, with the approvals that the leader verifies itself.
    async fn commit_token_unseal(
        &self,
        replica: &Identity,
        boot: BootId,
        root_epoch: RootEpoch,
        by: &ByToken,
        deadline: Instant,
    ) -> Result<v1::KmsDone, CommitError> {
        let hash = approvals::token_unseal_hash(replica, &boot, &by.seal_id);
        let (table, now) = (self.enrolments.current(), self.now());
        let id = Some(by.single_use_id.as_ref());
        let claims = approvals::verified(&table, &hash, id, &by.approvals, now)
            .map_err(CommitError::Approval)?;
        let unseal = Unseal {
            seal_id: by.seal_id.clone(),
            ..Unseal::by(v1::UnsealHow::Token, boot, root_epoch)
        };
        self.commit_unseal(replica, unseal, claims, deadline).await
    }

    /// Commits the record of an unseal of a life of `replica`.
    pub(crate) async fn commit_unseal(
        &self,
        replica: &Identity,
        unseal: Unseal,
        approvals: Vec<v1::ApprovalClaim>,
        deadline: Instant,
    ) -> Result<v1::KmsDone, CommitError> {
        // Builds below would stop at a field they do not know.
        let states_epoch = self.group.level() >= kms_state::LEVEL_CUSTODY;
        let root_epoch = unseal.root_epoch;
        self.ledger
            .command(replica, deadline, |state| {
                if root_epoch.0 != 0 && in_force(state) != root_epoch {
                    return Err(CommitError::Refused {
                        reason: v1::KmsRefusal::RootMoved,
                    });
                }
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: approvals.clone(),
                    what: v1::kms_command::Command::RecordUnseal(v1::RecordUnseal {
                        replica: replica.to_string(),
                        boot_id: unseal.boot.to_vec().into(),
                        how: unseal.how.into(),
                        root_epoch: if states_epoch { root_epoch.0 } else { 0 },
                        seal_id: unseal.seal_id.clone(),
                    }),
                })
            })
            .await
    }
}

/// What the record of an unseal says besides which replica it is of.
pub(crate) struct Unseal {
    how: v1::UnsealHow,
    boot: BootId,
    root_epoch: RootEpoch,
    /// Of an unseal by a token.
    seal_id: bytes::Bytes,
}

impl Unseal {
    pub(crate) fn by(how: v1::UnsealHow, boot: BootId, root_epoch: RootEpoch) -> Self {
        Self {
            how,
            boot,
            root_epoch,
            seal_id: bytes::Bytes::new(),
        }
    }
}

/// Whether approvals that are refused for this reason are refused whenever they are shown again.
fn for_good(reason: &str) -> bool {
    matches!(
        reason,
        "no-such-seal"
            | "too-few-approvals"
            | "approval-replayed"
            | "approval-expired"
            | "approval-of-other-request"
            | "approver-not-operator"
            | "bad-signature"
            | "self-approval"
            | "malformed"
    )
}
