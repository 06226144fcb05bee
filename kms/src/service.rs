//! The gRPC face: who may call what, and how answers and errors travel.
//!
//! Owns the check that every request makes of its peer, and how many requests of one stream are served at once.
//! Refuses a caller whose key is no longer enrolled, on living connections too. Holds no thought of its own.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use proto::ids::Role;
use proto::v1;
use proto::v1::kms_operate_server::{KmsOperate, KmsOperateServer};
use proto::v1::kms_peer_server::{KmsPeer, KmsPeerServer};
use proto::v1::kms_server::{Kms, KmsServer};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use transport::fault::{Chain, status_of};
use transport::{Fault, Faulty, Peer, peer, require_role};

use crate::core::Core;
use crate::keys::Change;
use crate::membership::Steps;
use crate::opens::OpenError;
use crate::server::until_stopped;

/// Requests of one stream served at once; further ones wait in the connection's window.
const STREAM_REQUESTS_MAX: usize = 128;

/// The services of one replica, and whether it stops.
#[derive(Clone)]
pub(crate) struct Services(pub(crate) Arc<Core>, pub(crate) watch::Receiver<bool>);

impl Services {
    pub(crate) fn kms(&self) -> KmsServer<Self> {
        KmsServer::new(self.clone()).max_decoding_message_size(proto::KMS_REQUEST_BYTES_MAX)
    }

    pub(crate) fn operate(&self) -> KmsOperateServer<Self> {
        KmsOperateServer::new(self.clone())
    }

    pub(crate) fn peer(&self) -> KmsPeerServer<Self> {
        KmsPeerServer::new(self.clone())
    }
}

pub(crate) type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An outcome as it travels; faults that a human must look at are logged here, once.
pub(crate) fn answer<T, E: Faulty>(method: &'static str, outcome: Result<T, E>) -> Answer<T> {
    outcome.map(Response::new).map_err(|error| {
        count(method, &error);
        status_of(&error)
    })
}

fn count<E: Faulty>(method: &'static str, error: &E) {
    metrics::counter!("reduit_kms_errors_total", "method" => method, "reason" => error.reason())
        .increment(1);
    match error.fault() {
        Fault::Damaged | Fault::Internal => {
            tracing::error!(method, reason = error.reason(), error = %Chain(error), "request failed");
        }
        Fault::Denied => {
            tracing::info!(method, reason = error.reason(), error = %Chain(error), "request denied");
        }
        _ => {
            tracing::debug!(method, reason = error.reason(), error = %Chain(error), "request refused")
        }
    }
}

#[tonic::async_trait]
impl Kms for Services {
    type OpenStreamStream = Answers<v1::OpenReply>;

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Answer<v1::OpenSessionReply> {
        let peer = peer(&request)?;
        let core = &self.0;
        let share_key = core.seal.share_public();
        let request = request.into_inner();
        let opened = core
            .sessions
            .open(&core.local, &peer, &request, &share_key, core.now());
        answer("OpenSession", opened)
    }

    async fn create_key(&self, request: Request<v1::CreateKeyRequest>) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        answer(
            "CreateKey",
            self.0.create_key(&peer, request.into_inner()).await,
        )
    }

    async fn issue_lease(
        &self,
        request: Request<v1::IssueLeaseRequest>,
    ) -> Answer<v1::IssueLeaseReply> {
        let peer = peer(&request)?;
        answer(
            "IssueLease",
            self.0.issue_lease(&peer, request.into_inner()).await,
        )
    }

    async fn issue_metadata_lease(
        &self,
        request: Request<v1::IssueLeaseRequest>,
    ) -> Answer<v1::IssueMetadataLeaseReply> {
        let peer = peer(&request)?;
        let issued = self
            .0
            .issue_metadata_lease(&peer, request.into_inner())
            .await;
        answer("IssueMetadataLease", issued)
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Answer<v1::OpenReply> {
        let peer = peer(&request)?;
        answer("Open", self.0.open(&peer, request.into_inner()).await)
    }

    async fn open_stream(
        &self,
        request: Request<Streaming<v1::OpenRequest>>,
    ) -> Answer<Self::OpenStreamStream> {
        // Judged for each request: a stream may outlive its caller's enrolment.
        let connection = request
            .extensions()
            .get::<transport::PeerConnection>()
            .cloned();
        transport::peer_in(connection.as_ref()).map_err(|error| status_of(&error))?;
        let core = self.0.clone();
        // A stream has no end of its own: a replica that stops takes no more of it and answers what it has taken.
        let replies = request
            .into_inner()
            .take_until(until_stopped(self.1.clone()))
            .map(move |request| {
                let (core, connection) = (core.clone(), connection.clone());
                async move {
                    let peer = transport::peer_in(connection.as_ref())
                        .map_err(|error| status_of(&error))?;
                    Ok(streamed(&core, &peer, request?).await)
                }
            })
            .buffer_unordered(STREAM_REQUESTS_MAX);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn find_key(&self, request: Request<v1::FindKeyRequest>) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        answer("FindKey", self.0.find_key(&peer, request.get_ref()).await)
    }

    async fn rotate_key(&self, request: Request<v1::KeyChangeRequest>) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        answer(
            "RotateKey",
            self.0
                .change_key(&peer, request.into_inner(), Change::Rotate)
                .await,
        )
    }

    async fn disable_key(&self, request: Request<v1::KeyChangeRequest>) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        answer(
            "DisableKey",
            self.0
                .change_key(&peer, request.into_inner(), Change::Disable)
                .await,
        )
    }

    async fn enable_key(&self, request: Request<v1::KeyChangeRequest>) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        answer(
            "EnableKey",
            self.0
                .change_key(&peer, request.into_inner(), Change::Enable)
                .await,
        )
    }

    async fn mark_key_compromised(
        &self,
        request: Request<v1::KeyChangeRequest>,
    ) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let changed = self
            .0
            .change_key(&peer, request.into_inner(), Change::Compromise)
            .await;
        answer("MarkKeyCompromised", changed)
    }

    async fn schedule_key_destruction(
        &self,
        request: Request<v1::ScheduleKeyDestructionRequest>,
    ) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let scheduled = self
            .0
            .schedule_destruction(&peer, request.into_inner())
            .await;
        answer("ScheduleKeyDestruction", scheduled)
    }

    async fn cancel_key_destruction(
        &self,
        request: Request<v1::KeyChangeRequest>,
    ) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let changed = self
            .0
            .change_key(&peer, request.into_inner(), Change::CancelDestruction)
            .await;
        answer("CancelKeyDestruction", changed)
    }

    async fn key_impact(&self, request: Request<v1::FindKeyRequest>) -> Answer<v1::KeyImpactReply> {
        let peer = peer(&request)?;
        let report = self.0.key_impact(&peer, request.get_ref()).await;
        answer("KeyImpact", report)
    }

    async fn plan_key_rotation(
        &self,
        request: Request<v1::PlanKeyRotationRequest>,
    ) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let planned = self.0.plan_key_rotation(&peer, request.into_inner()).await;
        answer("PlanKeyRotation", planned)
    }

    async fn label_key(&self, request: Request<v1::LabelKeyRequest>) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let labelled = self.0.label_key(&peer, request.into_inner()).await;
        answer("LabelKey", labelled)
    }

    async fn rewrap_tokens(
        &self,
        request: Request<v1::RewrapTokensRequest>,
    ) -> Answer<v1::RewrapTokensReply> {
        let peer = peer(&request)?;
        let rewrapped = self.0.rewrap_tokens(&peer, request.into_inner()).await;
        answer("RewrapTokens", rewrapped)
    }

    async fn retire_key_versions(
        &self,
        request: Request<v1::KeyChangeRequest>,
    ) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let retired = self
            .0
            .change_key(&peer, request.into_inner(), Change::RetireVersions)
            .await;
        answer("RetireKeyVersions", retired)
    }

    async fn end_key_versions(
        &self,
        request: Request<v1::EndKeyVersionsRequest>,
    ) -> Answer<v1::KeyInfo> {
        let peer = peer(&request)?;
        let ended = self.0.end_key_versions(&peer, request.into_inner()).await;
        answer("EndKeyVersions", ended)
    }

    async fn list_keys(&self, request: Request<v1::ListKeysRequest>) -> Answer<v1::ListKeysReply> {
        let peer = peer(&request)?;
        let page = self.0.list_keys(&peer, request.get_ref()).await;
        answer("ListKeys", page)
    }

    async fn issue_access_secret(
        &self,
        request: Request<v1::IssueAccessSecretRequest>,
    ) -> Answer<v1::IssueAccessSecretReply> {
        let peer = peer(&request)?;
        let given = self
            .0
            .issue_access_secret(&peer, request.into_inner())
            .await;
        answer("IssueAccessSecret", given)
    }

    async fn create_access_key(
        &self,
        request: Request<v1::CreateAccessKeyRequest>,
    ) -> Answer<v1::CreateAccessKeyReply> {
        let peer = peer(&request)?;
        let created = self.0.create_access_key(&peer, request.into_inner()).await;
        answer("CreateAccessKey", created)
    }

    async fn set_access_key_state(
        &self,
        request: Request<v1::SetAccessKeyStateRequest>,
    ) -> Answer<v1::AccessKeyRecord> {
        let peer = peer(&request)?;
        let set = self
            .0
            .set_access_key_state(&peer, request.into_inner())
            .await;
        answer("SetAccessKeyState", set)
    }

    async fn delete_access_key(
        &self,
        request: Request<v1::DeleteAccessKeyRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let deleted = self.0.delete_access_key(&peer, request.into_inner()).await;
        answer("DeleteAccessKey", deleted)
    }

    async fn open_handed_over(
        &self,
        request: Request<v1::OpenHandedOverRequest>,
    ) -> Answer<v1::OpenReply> {
        let peer = peer(&request)?;
        let opened = self.0.open_handed_over(&peer, request.into_inner()).await;
        answer("OpenHandedOver", opened)
    }

    async fn create_hand_over_key(
        &self,
        request: Request<v1::CreateHandOverKeyRequest>,
    ) -> Answer<v1::SignedHandOverKey> {
        let peer = peer(&request)?;
        let created = self
            .0
            .create_hand_over_key(&peer, request.into_inner())
            .await;
        answer("CreateHandOverKey", created)
    }

    async fn end_hand_over_key(
        &self,
        request: Request<v1::EndHandOverKeyRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let ended = self.0.end_hand_over_key(&peer, request.into_inner()).await;
        answer("EndHandOverKey", ended)
    }

    async fn grant_hand_over(
        &self,
        request: Request<v1::GrantHandOverRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let granted = self.0.grant_hand_over(&peer, request.into_inner()).await;
        answer("GrantHandOver", granted)
    }

    async fn close_hand_over(
        &self,
        request: Request<v1::CloseHandOverRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let closed = self.0.close_hand_over(&peer, request.into_inner()).await;
        answer("CloseHandOver", closed)
    }

    async fn state_hand_over(
        &self,
        request: Request<v1::StateHandOverRequest>,
    ) -> Answer<v1::SignedHandOverState> {
        let peer = peer(&request)?;
        answer(
            "StateHandOver",
            self.0.state_hand_over(&peer, request.get_ref()),
        )
    }

    async fn certify_relocation(
        &self,
        request: Request<v1::CertifyRelocationRequest>,
    ) -> Answer<v1::DsseSignature> {
        let peer = peer(&request)?;
        let certified = self.0.certify_relocation(&peer, request.get_ref()).await;
        answer("CertifyRelocation", certified)
    }

    async fn list_access_keys(
        &self,
        request: Request<v1::ListAccessKeysRequest>,
    ) -> Answer<v1::ListAccessKeysReply> {
        let peer = peer(&request)?;
        let page = self.0.list_access_keys(&peer, request.get_ref()).await;
        answer("ListAccessKeys", page)
    }

    async fn fetch_enrolments(
        &self,
        request: Request<v1::FetchEnrolmentsRequest>,
    ) -> Answer<v1::SignedEnrolmentSet> {
        peer(&request)?;
        answer("FetchEnrolments", self.0.fetch_enrolments().await)
    }

    async fn read_leaves(
        &self,
        request: Request<v1::ReadLeavesRequest>,
    ) -> Answer<v1::ReadLeavesReply> {
        let peer = peer(&request)?;
        answer("ReadLeaves", self.0.read_leaves(&peer, request.get_ref()))
    }

    async fn tree_head(&self, request: Request<v1::TreeHeadRequest>) -> Answer<v1::TreeHeadReply> {
        peer(&request)?;
        answer("TreeHead", self.0.tree_head())
    }

    async fn prove_inclusion(
        &self,
        request: Request<v1::ProveInclusionRequest>,
    ) -> Answer<v1::ProofReply> {
        peer(&request)?;
        answer("ProveInclusion", self.0.prove_inclusion(request.get_ref()))
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Answer<v1::ProofReply> {
        peer(&request)?;
        answer(
            "ProveConsistency",
            self.0.prove_consistency(request.get_ref()),
        )
    }

    async fn find_checkpoint(
        &self,
        request: Request<v1::FindCheckpointRequest>,
    ) -> Answer<v1::FindCheckpointReply> {
        peer(&request)?;
        answer("FindCheckpoint", self.0.find_checkpoint())
    }

    async fn receipt(&self, request: Request<v1::ReceiptRequest>) -> Answer<v1::ReceiptReply> {
        peer(&request)?;
        answer("Receipt", self.0.receipt(request.get_ref()).await)
    }

    async fn attest_headers(
        &self,
        request: Request<v1::AttestHeadersRequest>,
    ) -> Answer<v1::AttestHeadersReply> {
        let peer = peer(&request)?;
        let attested = self.0.attest_headers(&peer, request.into_inner()).await;
        answer("AttestHeaders", attested)
    }

    async fn status(&self, request: Request<v1::KmsStatusRequest>) -> Answer<v1::KmsStatusReply> {
        peer(&request)?;
        Ok(Response::new(self.0.status()))
    }
}

/// One open of a stream: its error rides in its reply, so that it does not end the others.
async fn streamed(core: &Arc<Core>, peer: &Peer, request: v1::OpenRequest) -> v1::OpenReply {
    let request_id = request.request_id.clone();
    match core.open(peer, request).await {
        Ok(reply) => reply,
        Err(error) => {
            count("OpenStream", &error);
            let maybe_recorded = match &error {
                OpenError::Commit(commit) => commit.maybe_recorded(),
                // Past the record: the leaf stands.
                OpenError::Custody(_) => true,
                _ => false,
            };
            let leader = error.leader().map(|hint| hint.id.0).unwrap_or_default();
            v1::OpenReply {
                request_id,
                error: Some(v1::OpenError {
                    reason: error.reason().to_owned(),
                    message: Chain(&error).to_string(),
                    leader,
                    maybe_recorded,
                    code: i32::from(error.fault().code()).unsigned_abs(),
                }),
                ..Default::default()
            }
        }
    }
}

fn progress(steps: Steps) -> Answers<v1::Progress> {
    let steps = ReceiverStream::new(steps);
    Box::pin(steps.map(|step| {
        step.map_err(|error| {
            count("Membership", &error);
            status_of(&error)
        })
    }))
}

#[tonic::async_trait]
impl KmsOperate for Services {
    type AddReplicaStream = Answers<v1::Progress>;
    type RemoveReplicaStream = Answers<v1::Progress>;
    type BackupStream = Answers<v1::BackupChunk>;

    async fn initialise(
        &self,
        request: Request<v1::InitialiseRequest>,
    ) -> Answer<v1::InitialiseReply> {
        let peer = peer(&request)?;
        answer(
            "Initialise",
            self.0.initialise(&peer, request.into_inner()).await,
        )
    }

    async fn unseal(&self, request: Request<v1::UnsealRequest>) -> Answer<v1::UnsealReply> {
        let peer = peer(&request)?;
        answer("Unseal", self.0.unseal(&peer, request.into_inner()).await)
    }

    async fn seal(&self, request: Request<v1::SealRequest>) -> Answer<v1::SealReply> {
        let peer = peer(&request)?;
        answer("Seal", self.0.seal_now(&peer).await)
    }

    async fn approve_peer_unseal(
        &self,
        request: Request<v1::ApprovePeerUnsealRequest>,
    ) -> Answer<v1::ApprovePeerUnsealReply> {
        let peer = peer(&request)?;
        let unsealed = self
            .0
            .approve_peer_unseal(&peer, request.into_inner())
            .await;
        answer("ApprovePeerUnseal", unsealed)
    }

    async fn change_enrolment(
        &self,
        request: Request<v1::ChangeEnrolmentRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        answer(
            "ChangeEnrolment",
            self.0.change_enrolment(&peer, request.into_inner()).await,
        )
    }

    async fn change_grants(
        &self,
        request: Request<v1::ChangeGrantsRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        answer(
            "ChangeGrants",
            self.0.change_grants(&peer, request.into_inner()).await,
        )
    }

    async fn change_policy(
        &self,
        request: Request<v1::ChangePolicyRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        answer(
            "ChangePolicy",
            self.0.change_policy(&peer, request.into_inner()).await,
        )
    }

    async fn approve_restore(
        &self,
        request: Request<v1::ApproveRestoreRequest>,
    ) -> Answer<v1::ApproveRestoreReply> {
        let peer = peer(&request)?;
        answer(
            "ApproveRestore",
            self.0.approve_restore(&peer, request.into_inner()).await,
        )
    }

    async fn change_witnesses(
        &self,
        request: Request<v1::ChangeWitnessesRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        answer(
            "ChangeWitnesses",
            self.0.change_witnesses(&peer, request.into_inner()).await,
        )
    }

    async fn allocate_kms_id(
        &self,
        request: Request<v1::AllocateKmsIdRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        answer(
            "AllocateKmsId",
            self.0.allocate_id(&peer, request.get_ref()).await,
        )
    }

    async fn raise_level(
        &self,
        request: Request<v1::RaiseKmsLevelRequest>,
    ) -> Answer<v1::RaiseKmsLevelReply> {
        let peer = peer(&request)?;
        answer(
            "RaiseLevel",
            self.0.raise_level(&peer, request.get_ref()).await,
        )
    }

    async fn advance_time(&self, request: Request<v1::AdvanceTimeRequest>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        answer(
            "AdvanceTime",
            self.0.advance_time(&peer, request.into_inner()).await,
        )
    }

    async fn digest(&self, request: Request<v1::KmsDigestRequest>) -> Answer<v1::KmsDigestReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        answer("Digest", self.0.digest().await)
    }

    async fn begin_custody(
        &self,
        request: Request<v1::BeginCustodyRequest>,
    ) -> Answer<v1::BeginCustodyReply> {
        let peer = peer(&request)?;
        let begun = self.0.begin_custody(&peer, request.into_inner()).await;
        answer("BeginCustody", begun)
    }

    async fn confirm_share(
        &self,
        request: Request<v1::ConfirmShareRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let confirmed = self.0.confirm_share(&peer, request.into_inner()).await;
        answer("ConfirmShare", confirmed)
    }

    async fn finish_custody(
        &self,
        request: Request<v1::FinishCustodyRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let finished = self.0.finish_custody(&peer, request.into_inner()).await;
        answer("FinishCustody", finished)
    }

    async fn abandon_custody(
        &self,
        request: Request<v1::AbandonCustodyRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let abandoned = self.0.abandon_custody(&peer, request.into_inner()).await;
        answer("AbandonCustody", abandoned)
    }

    async fn erase_share(&self, request: Request<v1::EraseShareRequest>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let erased = self.0.erase_share(&peer, request.into_inner()).await;
        answer("EraseShare", erased)
    }

    async fn provision_seal(
        &self,
        request: Request<v1::ProvisionSealRequest>,
    ) -> Answer<v1::ProvisionSealReply> {
        let peer = peer(&request)?;
        let made = self.0.provision_seal(&peer, request.into_inner()).await;
        answer("ProvisionSeal", made)
    }

    async fn drop_seal(&self, request: Request<v1::DropSealRequest>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let dropped = self.0.drop_seal(&peer, request.into_inner()).await;
        answer("DropSeal", dropped)
    }

    async fn unseal_by_token(
        &self,
        request: Request<v1::UnsealByTokenRequest>,
    ) -> Answer<v1::UnsealReply> {
        let peer = peer(&request)?;
        let unsealed = self.0.unseal_by_token(&peer, request.into_inner()).await;
        answer("UnsealByToken", unsealed)
    }

    async fn find_seals(
        &self,
        request: Request<v1::FindSealsRequest>,
    ) -> Answer<v1::FindSealsReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Operator, Role::Custodian, Role::Auditor])?;
        answer("FindSeals", self.0.find_seals().await)
    }

    async fn list_regions(
        &self,
        request: Request<v1::ListRegionsRequest>,
    ) -> Answer<v1::ListRegionsReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Operator, Role::Auditor])?;
        answer("ListRegions", self.0.list_regions().await)
    }

    async fn trust_region(&self, request: Request<v1::TrustRegionRequest>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let trusted = self.0.trust_region(&peer, request.into_inner()).await;
        answer("TrustRegion", trusted)
    }

    async fn distrust_region(
        &self,
        request: Request<v1::DistrustRegionRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let distrusted = self.0.distrust_region(&peer, request.into_inner()).await;
        answer("DistrustRegion", distrusted)
    }

    async fn retire_epoch(&self, request: Request<v1::RetireEpochRequest>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let retired = self.0.retire_epoch(&peer, request.into_inner()).await;
        answer("RetireEpoch", retired)
    }

    async fn find_custody(
        &self,
        request: Request<v1::FindCustodyRequest>,
    ) -> Answer<v1::FindCustodyReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Operator, Role::Custodian, Role::Auditor])?;
        answer("FindCustody", self.0.find_custody())
    }

    async fn seal_region(&self, request: Request<v1::SealRegionRequest>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let sealed = self.0.seal_region(&peer, request.into_inner()).await;
        answer("SealRegion", sealed)
    }

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<Self::BackupStream> {
        let peer = peer(&request)?;
        let parts = self.0.backup(&peer, request.into_inner()).await;
        let parts = parts.map(|parts| -> Self::BackupStream {
            Box::pin(ReceiverStream::new(parts).map(|part| {
                part.map_err(|error| {
                    count("Backup", &error);
                    status_of(&error)
                })
            }))
        });
        answer("Backup", parts)
    }

    async fn confirm_backup(
        &self,
        request: Request<v1::ConfirmBackupRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        let confirmed = self.0.confirm_backup(&peer, request.into_inner()).await;
        answer("ConfirmBackup", confirmed)
    }

    async fn prepare_restore(
        &self,
        request: Request<v1::PrepareRestoreRequest>,
    ) -> Answer<v1::PrepareRestoreReply> {
        let peer = peer(&request)?;
        let prepared = self.0.prepare_restore(&peer, request.get_ref());
        answer("PrepareRestore", prepared)
    }

    async fn restore(
        &self,
        request: Request<Streaming<v1::RestoreChunk>>,
    ) -> Answer<v1::RestoreReply> {
        let peer = peer(&request)?;
        let restored = self.0.restore(&peer, request.into_inner()).await;
        answer("Restore", restored)
    }

    async fn add_replica(
        &self,
        request: Request<v1::AddReplicaRequest>,
    ) -> Answer<Self::AddReplicaStream> {
        let peer = peer(&request)?;
        let steps = self.0.add_replica(&peer, request.into_inner()).await;
        answer("AddReplica", steps.map(progress))
    }

    async fn remove_replica(
        &self,
        request: Request<v1::RemoveReplicaRequest>,
    ) -> Answer<Self::RemoveReplicaStream> {
        let peer = peer(&request)?;
        let steps = self.0.remove_replica(&peer, request.into_inner()).await;
        answer("RemoveReplica", steps.map(progress))
    }
}

#[tonic::async_trait]
impl KmsPeer for Services {
    async fn unseal_me(&self, request: Request<v1::UnsealMeRequest>) -> Answer<v1::UnsealMeReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Kms])?;
        answer(
            "UnsealMe",
            self.0.unseal_me(&peer, request.into_inner()).await,
        )
    }

    async fn fetch_root(
        &self,
        request: Request<v1::FetchRootRequest>,
    ) -> Answer<v1::UnsealMeReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Kms])?;
        let sent = self.0.send_root(&peer, request.into_inner()).await;
        answer("FetchRoot", sent)
    }

    async fn cosign_checkpoint(
        &self,
        request: Request<v1::CosignCheckpointRequest>,
    ) -> Answer<v1::CosignCheckpointReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Kms])?;
        answer(
            "CosignCheckpoint",
            self.0.cosign_checkpoint(request.get_ref()).await,
        )
    }

    async fn take_checkpoint(
        &self,
        request: Request<v1::TakeCheckpointRequest>,
    ) -> Answer<v1::TakeCheckpointReply> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Kms])?;
        let taken = self.0.take_handed(&request.get_ref().note).await;
        answer("TakeCheckpoint", taken.map(|()| v1::TakeCheckpointReply {}))
    }

    async fn record_unsealed(
        &self,
        request: Request<v1::RecordUnsealedRequest>,
    ) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Kms])?;
        let recorded = self.0.record_unsealed(&peer, request.into_inner()).await;
        answer("RecordUnsealed", recorded)
    }

    async fn record_erased(&self, request: Request<v1::ConfirmErased>) -> Answer<v1::KmsDone> {
        let peer = peer(&request)?;
        require_role(&peer, &[Role::Kms])?;
        let recorded = self.0.record_erased(&peer, request.into_inner()).await;
        answer("RecordErased", recorded)
    }
}
