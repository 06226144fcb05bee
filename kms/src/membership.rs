//! Who is a replica of the KMS: ids, joining, leaving.
//!
//! Owns the checks before a change of membership. Refuses one without two approvers besides its requester, and a
//! member that is not enrolled. Ids are never reused, so an approval that is shown again changes nothing.

use std::sync::Arc;
use std::time::Duration;

use proto::ids::{FeatureLevel, Identity, NodeId, Role};
use proto::v1;
use replica::host::{Force, MemberError, NothingBeside, RaiseError};
use tokio::sync::mpsc;
use transport::Peer;

use crate::approvals::{self, ApprovalError};
use crate::core::{Core, StaleError};
use crate::ledger::{Command, CommitError};
use crate::seal::Sealed;

/// How long a new member may take to catch up before it gets its vote.
const CATCH_UP_MAX: Duration = Duration::from_secs(120);
/// Steps of a change that are told to its requester.
const STEPS: u64 = 2;

/// Why the membership was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MembershipError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// Only operators change it.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// The identity does not parse, or is no KMS replica of this region.
    #[error("not the identity of a KMS replica of this region")]
    NotReplica,
    /// Approvals that do not hold.
    #[error("the approvals do not carry the change")]
    Approval(#[from] ApprovalError),
    /// Who is enrolled may have changed.
    #[error("this replica's enrolments may not be current")]
    Stale(#[from] StaleError),
    /// Not recorded.
    #[error("the change was not recorded")]
    Commit(#[from] CommitError),
    /// Refused by the consensus group.
    #[error("the membership was not changed")]
    Member(#[source] MemberError),
    /// The feature level stays.
    #[error("the feature level was not raised")]
    Raise(#[source] RaiseError),
}

/// Steps of a change as they happen; the last item may be the error it ended with.
pub(crate) type Steps = mpsc::Receiver<Result<v1::Progress, MembershipError>>;

impl Core {
    /// A member id for a replica to come. Allocated once, never again, so it needs no approval by itself.
    pub(crate) async fn allocate_id(
        &self,
        peer: &Peer,
        request: &v1::AllocateKmsIdRequest,
    ) -> Result<v1::KmsDone, MembershipError> {
        self.operator(peer)?;
        let identity: Identity = request
            .identity
            .parse()
            .map_err(|_| MembershipError::NotReplica)?;
        if identity.role() != Role::Kms || identity.region() != &self.config.region {
            return Err(MembershipError::NotReplica);
        }
        self.ledger
            .command::<MembershipError>(&peer.identity, self.deadline(), |state| {
                let allocate = v1::AllocateKmsId {
                    identity: identity.to_string(),
                };
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: v1::kms_command::Command::AllocateKmsId(allocate),
                })
            })
            .await
    }

    /// Raises the feature level once every member understands it.
    pub(crate) async fn raise_level(
        &self,
        peer: &Peer,
        request: &v1::RaiseKmsLevelRequest,
    ) -> Result<v1::RaiseKmsLevelReply, MembershipError> {
        self.operator(peer)?;
        let level = FeatureLevel(request.level);
        let raised = match self.group.level() {
            held if held >= level => held,
            _ => self
                .group
                .raise_level(level)
                .await
                .map_err(MembershipError::Raise)?,
        };
        Ok(v1::RaiseKmsLevelReply { level: raised.0 })
    }

    /// Brings an enrolled member in: as a learner, then, once it has caught up, with a vote.
    pub(crate) async fn add_replica(
        self: &Arc<Self>,
        peer: &Peer,
        mut request: v1::AddReplicaRequest,
    ) -> Result<Steps, MembershipError> {
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("AddReplica", &request);
        self.approved(peer, &hash, &request.single_use_id, &approvals)
            .await?;
        let (core, node) = (self.clone(), NodeId(request.node_id));
        Ok(steps(move |told| async move {
            let _one = core.membership.lock().await;
            told.step("adding as a learner", 0).await;
            core.group.add_learner(node).await?;
            told.step("catching up", 1).await;
            core.group
                .promote(node, &NothingBeside, Force::No, CATCH_UP_MAX)
                .await?;
            told.step("votes", STEPS).await;
            tracing::info!(member = node.0, "member added");
            Ok(())
        }))
    }

    /// Takes a member out. Its enrolment is withdrawn by a change of its own.
    pub(crate) async fn remove_replica(
        self: &Arc<Self>,
        peer: &Peer,
        mut request: v1::RemoveReplicaRequest,
    ) -> Result<Steps, MembershipError> {
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("RemoveReplica", &request);
        self.approved(peer, &hash, &request.single_use_id, &approvals)
            .await?;
        let (core, node) = (self.clone(), NodeId(request.node_id));
        let force = if request.force { Force::Yes } else { Force::No };
        Ok(steps(move |told| async move {
            let _one = core.membership.lock().await;
            told.step("removing", 1).await;
            match core.group.remove(node, &NothingBeside, force).await {
                // Removed before, by an attempt whose answer was lost: a leader says so by a majority's word.
                Err(MemberError::NotAMember(_)) if core.group.ever_member(node) => {}
                removed => removed?,
            }
            told.step("removed", STEPS).await;
            tracing::info!(member = node.0, "member removed");
            Ok(())
        }))
    }

    fn operator(&self, peer: &Peer) -> Result<(), MembershipError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(MembershipError::NotOperator(peer.identity.clone()));
        }
        Ok(())
    }

    async fn approved(
        &self,
        peer: &Peer,
        hash: &[u8; 32],
        single_use_id: &[u8],
        approvals: &[v1::Approval],
    ) -> Result<(), MembershipError> {
        self.operator(peer)?;
        self.enrolments_current().await?;
        let table = self.enrolments.current();
        let claims = approvals::verified(&table, hash, Some(single_use_id), approvals, self.now())?;
        approvals::counted(&claims, &peer.identity, self.approvers_min())?;
        Ok(())
    }
}

/// Where the steps of a change are told.
struct Told(mpsc::Sender<Result<v1::Progress, MembershipError>>);

impl Told {
    async fn step(&self, step: &str, done: u64) {
        let finished = done == STEPS;
        let progress = v1::Progress {
            step: step.to_owned(),
            done,
            total: STEPS,
            finished,
        };
        // A requester who hung up does not stop the change half way.
        let _ = self.0.send(Ok(progress)).await;
    }
}

/// Runs a change to its end, whether or not its requester stays to hear of it.
fn steps<F>(change: impl FnOnce(Arc<Told>) -> F) -> Steps
where
    F: Future<Output = Result<(), MemberError>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(4);
    let told = Arc::new(Told(sender));
    let change = change(told.clone());
    tokio::spawn(async move {
        if let Err(error) = change.await {
            let _ = told.0.send(Err(MembershipError::Member(error))).await;
        }
    });
    receiver
}
