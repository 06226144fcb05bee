//! Commands and records about access keys, as a leader builds them.

use bytes::Bytes;
use proto::ids::{AccessKeyId, Identity};
use proto::store::Reader;
use proto::v1::kms_command::Command;
use proto::v1::record::Kind as Use;
use proto::v1::{
    AccessKeyIssue, AccessKeyRecord, AccessKeyState, Claim, CreateAccessKey, DeleteAccessKey,
    KmsCommand, Record, SetAccessKeyState,
};

use super::{Asked, acting};
use crate::access_keys::access_key;
use crate::authority::Authority;
use crate::refusal::Refusal;

/// A new access key, its secret wrapped; needs the approvals in `asked`. `create` says which; its claim is filled in here.
pub fn create_access_key(
    authority: &Authority,
    asked: Asked,
    claim: Claim,
    create: CreateAccessKey,
) -> KmsCommand {
    let create = CreateAccessKey {
        claim: Some(acting(claim, &asked.requester)),
        ..create
    };
    asked.command(authority.version(), Command::CreateAccessKey(create))
}

/// Enables an access key, which needs the approvals in `asked`, or disables it, which needs none.
pub fn set_access_key_state(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    claim: Claim,
    (id, target): (AccessKeyId, AccessKeyState),
) -> Result<KmsCommand, Refusal> {
    let record = access_key(state, &id).ok_or(Refusal::NoSuchAccessKey)?;
    let set = SetAccessKeyState {
        access_key_id: record.access_key_id,
        state_version: record.state_version,
        state: target.into(),
        claim: Some(acting(claim, &asked.requester)),
    };
    Ok(asked.command(authority.version(), Command::SetAccessKeyState(set)))
}

/// Deletes a disabled access key.
pub fn delete_access_key(
    state: &dyn Reader,
    authority: &Authority,
    asked: Asked,
    claim: Claim,
    id: AccessKeyId,
) -> Result<KmsCommand, Refusal> {
    let record = access_key(state, &id).ok_or(Refusal::NoSuchAccessKey)?;
    let delete = DeleteAccessKey {
        access_key_id: record.access_key_id,
        state_version: record.state_version,
        claim: Some(acting(claim, &asked.requester)),
    };
    Ok(asked.command(authority.version(), Command::DeleteAccessKey(delete)))
}

/// Records that a gateway is given an access key's secret for so many seconds; answers with the access key it was decided
/// on.
pub fn access_secret(
    state: &dyn Reader,
    gateway: &Identity,
    request_id: [u8; 16],
    claim: Claim,
    (id, seconds): (AccessKeyId, u32),
) -> Result<(Record, AccessKeyRecord), Refusal> {
    let key = access_key(state, &id).ok_or(Refusal::NoSuchAccessKey)?;
    if key.state() != AccessKeyState::Enabled {
        return Err(Refusal::AccessKeyDisabled);
    }
    let record = Record {
        request_id: Bytes::copy_from_slice(&request_id),
        dataset_id: Bytes::new(),
        state_version: key.state_version,
        claim: Some(acting(claim, gateway)),
        kind: Some(Use::AccessKey(AccessKeyIssue {
            access_key_id: key.access_key_id.clone(),
            seconds,
        })),
    };
    Ok((record, key))
}
