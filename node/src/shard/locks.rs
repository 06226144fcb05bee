//! Object lock at the shard's leader.
//!
//! Owns who may pass over governance retention and lift a legal hold: who may change keys in the dataset, since both
//! undo what others rely on. Compliance retention is passed over by nobody, and apply says so. Refuses all of it below
//! the feature level that knows it.

use node_state::shard::LOCK_LEVEL;
use proto::ids::{DatasetId, FeatureLevel, ObjectKey};
use proto::v1;
use proto::v1::Action;
use proto::v1::shard_command::Command;
use replica::host::Group;
use transport::Peer;

use super::at_level;
use crate::core::{Core, Decision, Room};
use crate::error::CallError;

/// Refuses an entry with what only apply writes, or with locks where the group does not know them: replicas of another
/// build would read it otherwise.
pub(super) fn sound(group: &Group, entry: Option<&v1::ObjectEntry>) -> Result<(), CallError> {
    let Some(entry) = entry else {
        return Ok(());
    };
    let placed = (entry.parts, entry.null_index) != (0, 0);
    let indexed = (
        entry.changed_index,
        entry.source_index,
        entry.metadata_index,
    ) != (0, 0, 0);
    if placed || indexed {
        return Err(CallError::Malformed("its entry says what apply alone does"));
    }
    lockable(group, entry.retention.as_ref(), entry.legal_hold)
}

/// Refuses locks where the group does not know them.
pub(super) fn lockable(
    group: &Group,
    retention: Option<&v1::Retention>,
    legal_hold: bool,
) -> Result<(), CallError> {
    match retention.is_some() || legal_hold {
        true => at_level(group, LOCK_LEVEL),
        false => Ok(()),
    }
}

impl Core {
    pub(super) async fn set_object_lock(
        &self,
        peer: &Peer,
        request: v1::SetObjectLockRequest,
    ) -> Result<v1::Done, CallError> {
        let set = v1::SetObjectLock {
            dataset_id: request.dataset_id.clone(),
            lock: request.lock,
        };
        let command = Command::SetObjectLock(set);
        self.configure(
            peer,
            request.shard,
            &request.dataset_id,
            LOCK_LEVEL,
            command,
        )
        .await
    }

    /// A setting of the dataset: it asks for the grant that creating one does.
    pub(super) async fn configure(
        &self,
        peer: &Peer,
        shard: u64,
        dataset: &[u8],
        level: FeatureLevel,
        command: Command,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(shard)?;
        let id = DatasetId::try_from(dataset)?;
        at_level(&shard.group, level)?;
        let request_id = bytes::Bytes::new();
        self.decide_shard(&shard.group, Room::Reserved, request_id, |table, _| {
            self.check(table, peer, Some(&id), &[Action::Create])?;
            Ok(Decision {
                key_state_version: 0,
                command: command.clone(),
            })
        })
        .await
    }

    pub(super) async fn set_retention(
        &self,
        peer: &Peer,
        request: v1::SetRetentionRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        at_level(&shard.group, LOCK_LEVEL)?;
        let set = v1::SetRetention {
            dataset_id: request.dataset_id,
            key: request.key,
            version_id: request.version_id,
            retention: request.retention,
            bypass_governance: request.bypass_governance,
        };
        let request_id = request.request_id;
        self.decide_shard(&shard.group, Room::Reserved, request_id, |table, _| {
            self.check(table, peer, Some(&id), &[Action::Write])?;
            if set.bypass_governance {
                self.check(table, peer, Some(&id), &[Action::Keys])?;
            }
            Ok(Decision {
                key_state_version: 0,
                command: Command::SetRetention(set.clone()),
            })
        })
        .await
    }

    pub(super) async fn set_legal_hold(
        &self,
        peer: &Peer,
        request: v1::SetLegalHoldRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        at_level(&shard.group, LOCK_LEVEL)?;
        let set = v1::SetLegalHold {
            dataset_id: request.dataset_id,
            key: request.key,
            version_id: request.version_id,
            on: request.on,
        };
        let request_id = request.request_id;
        self.decide_shard(&shard.group, Room::Reserved, request_id, |table, _| {
            let asked = if set.on { Action::Write } else { Action::Keys };
            self.check(table, peer, Some(&id), &[asked])?;
            Ok(Decision {
                key_state_version: 0,
                command: Command::SetLegalHold(set.clone()),
            })
        })
        .await
    }
}
