//! Uploads in parts at the shard's leader.
//!
//! Owns what each of their requests asks of policy, and the check of a part's receipts. Whose lease an upload is of
//! matters when it begins; after that whoever may write goes on with it, from whatever gateway, under a key that the
//! KMS released on record. Refuses all of it below the feature level that knows it.

use bytes::Bytes;
use node_state::listing::{self, PartsQuery, UploadsQuery};
use node_state::read;
use node_state::shard::MULTIPART_LEVEL;
use proto::ids::{DatasetId, LeaseId, LogIndex, ObjectKey, ObjectVersionId};
use proto::v1;
use proto::v1::Action;
use proto::v1::shard_command::Command;
use transport::Peer;

use super::locks::lockable;
use super::tokens::holder_of;
use super::{at_level, blocking, bounded, key_state_version, receipts};
use crate::core::{Core, Decision, Room};
use crate::error::CallError;

impl Core {
    pub(super) async fn create_upload(
        &self,
        peer: &Peer,
        request: v1::CreateUploadRequest,
    ) -> Result<v1::Done, CallError> {
        self.disk.check()?;
        let shard = self.shard(request.shard)?;
        if let Some(upload) = &request.upload {
            lockable(&shard.group, upload.retention.as_ref(), upload.legal_hold)?;
        }
        let create = v1::CreateUpload {
            dataset_id: request.dataset_id,
            key: request.key,
            upload: request.upload,
            holder: holder_of(&peer.public_key),
        };
        let of = (create.dataset_id.clone(), create.key.clone());
        let command = Command::CreateUpload(create);
        self.write_upload(peer, request.shard, request.request_id, of, command)
            .await
    }

    pub(super) async fn finish_part(
        &self,
        peer: &Peer,
        request: v1::FinishPartRequest,
    ) -> Result<v1::Done, CallError> {
        self.disk.check()?;
        let shard = self.shard(request.shard)?;
        let dataset = DatasetId::try_from(request.dataset_id.as_ref())?;
        // Before the signatures: who does not lead need not check them.
        self.leading(&shard.group)?;
        let part = request.part.ok_or(CallError::Malformed("it has no part"))?;
        let upload = receipts::Upload {
            shard: shard.group.id(),
            dataset,
            version: ObjectVersionId::try_from(part.part_id.as_ref())?,
            upload_epoch: request.upload_epoch,
            blocks: &request.blocks,
        };
        let claims = receipts::verify(&self.enrolments.current(), &upload, &request.receipts)?;
        let finish = v1::FinishPart {
            dataset_id: request.dataset_id,
            key: request.key,
            version_id: request.version_id,
            part: Some(part),
            inline: request.inline,
            blocks: request.blocks,
            upload_epoch: request.upload_epoch,
            receipts: claims,
        };
        let of = (finish.dataset_id.clone(), finish.key.clone());
        let command = Command::FinishPart(finish);
        self.write_upload(peer, request.shard, request.request_id, of, command)
            .await
    }

    pub(super) async fn complete_upload(
        &self,
        peer: &Peer,
        request: v1::CompleteUploadRequest,
    ) -> Result<v1::Done, CallError> {
        self.disk.check()?;
        let complete = v1::CompleteUpload {
            dataset_id: request.dataset_id,
            key: request.key,
            precondition: request.precondition,
            version_id: request.version_id,
            parts: request.parts,
            sealed_manifest: request.sealed_manifest,
            plain_bytes: request.plain_bytes,
            sealed_bytes: request.sealed_bytes,
            sealed_metadata: request.sealed_metadata,
            metadata_key_version: request.metadata_key_version,
        };
        let of = (complete.dataset_id.clone(), complete.key.clone());
        let command = Command::CompleteUpload(complete);
        self.write_upload(peer, request.shard, request.request_id, of, command)
            .await
    }

    /// What stores something of an upload: it asks for a grant to write, and goes by the state of the dataset's key.
    async fn write_upload(
        &self,
        peer: &Peer,
        shard: u64,
        request_id: Bytes,
        (dataset, key): (Bytes, String),
        command: Command,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(shard)?;
        let id = DatasetId::try_from(dataset.as_ref())?;
        key.parse::<ObjectKey>()?;
        at_level(&shard.group, MULTIPART_LEVEL)?;
        self.decide_shard(&shard.group, Room::Needed, request_id, |table, state| {
            self.check(table, peer, Some(&id), &[Action::Write])?;
            Ok(Decision {
                key_state_version: key_state_version(state, &id)?,
                command: command.clone(),
            })
        })
        .await
    }

    /// As a delete: it involves no key, and frees room.
    pub(super) async fn abort_upload(
        &self,
        peer: &Peer,
        request: v1::AbortUploadRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        at_level(&shard.group, MULTIPART_LEVEL)?;
        let abort = v1::AbortUpload {
            dataset_id: request.dataset_id,
            key: request.key,
            version_id: request.version_id,
        };
        let request_id = request.request_id;
        self.decide_shard(&shard.group, Room::Reserved, request_id, |table, _| {
            self.check(table, peer, Some(&id), &[Action::Write])?;
            Ok(Decision {
                key_state_version: 0,
                command: Command::AbortUpload(abort.clone()),
            })
        })
        .await
    }

    pub(super) async fn list_uploads(
        &self,
        peer: &Peer,
        request: v1::ListUploadsRequest,
    ) -> Result<v1::ListUploadsReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        bounded(&[
            &request.prefix,
            &request.delimiter,
            &request.start_after_key,
        ])?;
        self.check(&self.enrolments.current(), peer, Some(&id), &[Action::List])?;
        let (view, index) = self.read(&shard.group).await?;
        self.living(&*view.state, &id)?;
        let query = UploadsQuery {
            dataset: &id,
            prefix: &request.prefix,
            delimiter: &request.delimiter,
            start_after_key: &request.start_after_key,
            start_after_index: LogIndex(request.start_after_index),
            limit: request.limit as usize,
        };
        let page = blocking(|| listing::uploads(&*view.state, query));
        Ok(v1::ListUploadsReply {
            at_index: index.0,
            ..page
        })
    }

    /// Of an upload under way, to whoever may go on with it; of a version, to whoever may read it.
    pub(super) async fn list_parts(
        &self,
        peer: &Peer,
        request: v1::ListPartsRequest,
    ) -> Result<v1::ListPartsReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        let of = ObjectVersionId::try_from(request.version_id.as_ref())?;
        let any = [Action::Write, Action::Read, Action::List];
        self.check(&self.enrolments.current(), peer, Some(&id), &any)?;
        let (view, index) = self.read(&shard.group).await?;
        let state = &*view.state;
        self.living(state, &id)?;
        let upload = read::upload(state, &id, &request.key, &of);
        if upload.is_none() {
            let read = [Action::Read, Action::List];
            self.check(&self.enrolments.current(), peer, Some(&id), &read)?;
        }
        let lease = match &upload {
            Some(upload) => upload.lease_id.clone(),
            None => {
                let head = read::head(state, &id, &request.key, Some(&of));
                let no_upload = || CallError::refused(v1::Refusal::NoSuchUpload);
                head.ok_or_else(no_upload)?.lease_id
            }
        };
        let token = LeaseId::try_from(lease.as_ref())
            .ok()
            .and_then(|lease| read::token(state, &id, &lease))
            .map(|record| record.token)
            .unwrap_or_default();
        let query = PartsQuery {
            of: &of,
            start_after: request.start_after,
            limit: request.limit as usize,
            with_bodies: request.with_bodies,
        };
        let (parts, truncated) = blocking(|| listing::parts(state, query));
        Ok(v1::ListPartsReply {
            parts,
            truncated,
            upload,
            token,
            at_index: index.0,
        })
    }
}
