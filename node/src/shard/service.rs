//! The gRPC service `Shard`: which roles may call what, and how long each call takes.
//!
//! Owns nothing beside that: what a call does is in [`super`]. Refuses a role that has no business here before anything
//! is looked at on its account.

use std::sync::Arc;

use futures::stream::BoxStream;
use proto::ids::Role;
use proto::v1;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_server::ShardServer;
use tonic::{Request, Response, Status};
use transport::require_role;

use crate::core::Core;
use crate::metered::metered;

/// Bytes of a request: one entry and its framing.
const MESSAGE_BYTES_MAX: usize = 2 << 20;
/// Who may hold leases and so commit.
const COMMITTERS: [Role; 2] = [Role::Gateway, Role::Client];

/// The service.
pub(crate) struct ShardService(pub(crate) Arc<Core>);

impl ShardService {
    pub(crate) fn into_server(self) -> ShardServer<Self> {
        ShardServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

pub(crate) fn answered(done: v1::Done) -> v1::ShardAnswer {
    v1::ShardAnswer {
        answer: Some(Answer::Done(done)),
    }
}

#[tonic::async_trait]
impl v1::shard_server::Shard for ShardService {
    async fn register_lease(
        &self,
        request: Request<v1::RegisterLeaseRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.register_lease(&peer, request.into_inner());
        metered("register_lease", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn put_object(
        &self,
        request: Request<v1::PutObjectRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.put_object(&peer, request.into_inner());
        metered("put_object", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn finish_object(
        &self,
        request: Request<v1::FinishObjectRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.finish_object(&peer, request.into_inner());
        metered("finish_object", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn delete_object(
        &self,
        request: Request<v1::DeleteObjectRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.delete_object(&peer, request.into_inner());
        metered("delete_object", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn create_upload(
        &self,
        request: Request<v1::CreateUploadRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.create_upload(&peer, request.into_inner());
        metered("create_upload", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn finish_part(
        &self,
        request: Request<v1::FinishPartRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.finish_part(&peer, request.into_inner());
        metered("finish_part", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn complete_upload(
        &self,
        request: Request<v1::CompleteUploadRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.complete_upload(&peer, request.into_inner());
        metered("complete_upload", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.abort_upload(&peer, request.into_inner());
        metered("abort_upload", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn list_uploads(
        &self,
        request: Request<v1::ListUploadsRequest>,
    ) -> Result<Response<v1::ListUploadsReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.list_uploads(&peer, request.into_inner());
        metered("list_uploads", call).await.map(Response::new)
    }

    async fn list_parts(
        &self,
        request: Request<v1::ListPartsRequest>,
    ) -> Result<Response<v1::ListPartsReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.list_parts(&peer, request.into_inner());
        metered("list_parts", call).await.map(Response::new)
    }

    async fn set_object_lock(
        &self,
        request: Request<v1::SetObjectLockRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.set_object_lock(&peer, request.into_inner());
        metered("set_object_lock", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn set_retention(
        &self,
        request: Request<v1::SetRetentionRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.set_retention(&peer, request.into_inner());
        metered("set_retention", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn set_legal_hold(
        &self,
        request: Request<v1::SetLegalHoldRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.set_legal_hold(&peer, request.into_inner());
        metered("set_legal_hold", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn set_metadata(
        &self,
        request: Request<v1::SetMetadataRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &COMMITTERS)?;
        let call = self.0.set_metadata(&peer, request.into_inner());
        metered("set_metadata", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn set_config(
        &self,
        request: Request<v1::SetConfigRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.set_config(&peer, request.into_inner());
        metered("set_config", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn set_quota(
        &self,
        request: Request<v1::SetQuotaRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.set_quota(&peer, request.into_inner());
        metered("set_quota", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn read_config(
        &self,
        request: Request<v1::ReadConfigRequest>,
    ) -> Result<Response<v1::ReadConfigReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.read_config(&peer, request.into_inner());
        metered("read_config", call).await.map(Response::new)
    }

    async fn get_object(
        &self,
        request: Request<v1::GetObjectRequest>,
    ) -> Result<Response<v1::GetObjectReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.get_object(&peer, request.into_inner());
        metered("get_object", call).await.map(Response::new)
    }

    async fn list_objects(
        &self,
        request: Request<v1::ListObjectsRequest>,
    ) -> Result<Response<v1::ListObjectsReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.list_objects(&peer, request.into_inner());
        metered("list_objects", call).await.map(Response::new)
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Result<Response<v1::ListVersionsReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.list_versions(&peer, request.into_inner());
        metered("list_versions", call).await.map(Response::new)
    }

    async fn set_key_state(
        &self,
        request: Request<v1::SetKeyStateRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Kms])?;
        let call = self.0.set_key_state(request.into_inner());
        metered("set_key_state", call).await.map(Response::new)
    }

    async fn set_versioning(
        &self,
        request: Request<v1::SetVersioningRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.set_versioning(&peer, request.into_inner());
        metered("set_versioning", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn set_hold(
        &self,
        request: Request<v1::SetHoldRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Operator])?;
        let call = self.0.set_hold(&peer, request.into_inner());
        metered("set_hold", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensReply>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Kms])?;
        let call = self.0.list_tokens(request.into_inner());
        metered("list_tokens", call).await.map(Response::new)
    }

    async fn rewrap_token(
        &self,
        request: Request<v1::RegisterLeaseRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Kms])?;
        let call = self.0.rewrap_token(request.into_inner());
        metered("rewrap_token", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn admit_dataset(
        &self,
        request: Request<v1::AdmitDatasetRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Node])?;
        let call = self.0.admit_dataset(request.into_inner());
        metered("admit_dataset", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn drop_dataset(
        &self,
        request: Request<v1::DropDatasetRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Node])?;
        let call = self.0.drop_dataset(request.into_inner());
        metered("drop_dataset", call)
            .await
            .map(answered)
            .map(Response::new)
    }

    async fn shard_status(
        &self,
        request: Request<v1::ShardStatusRequest>,
    ) -> Result<Response<v1::ShardStatusReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.shard_status(&peer, request.into_inner());
        metered("shard_status", call).await.map(Response::new)
    }

    type ProveStoredStream = BoxStream<'static, Result<v1::StoredVersion, Status>>;

    async fn prove_stored(
        &self,
        request: Request<v1::ProveStoredRequest>,
    ) -> Result<Response<Self::ProveStoredStream>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &[Role::Auditor])?;
        let answers = self.0.prove_stored(&peer, request.into_inner());
        metered("prove_stored", async { answers })
            .await
            .map(Response::new)
    }
}
