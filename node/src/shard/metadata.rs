//! Other sealed metadata for a version that is there, at the shard's leader.
//!
//! Owns what it asks of policy: what a put does. What it was decided on is compared in apply. Refuses it below the feature
//! level that knows it, and on a full disk.

use node_state::shard::METADATA_LEVEL;
use proto::ids::{DatasetId, ObjectKey};
use proto::v1;
use proto::v1::Action;
use proto::v1::shard_command::Command;
use transport::Peer;

use super::{at_level, key_state_version};
use crate::core::{Core, Decision, Room};
use crate::error::CallError;

impl Core {
    pub(super) async fn set_metadata(
        &self,
        peer: &Peer,
        request: v1::SetMetadataRequest,
    ) -> Result<v1::Done, CallError> {
        self.disk.check()?;
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        at_level(&shard.group, METADATA_LEVEL)?;
        let set = v1::SetMetadata {
            dataset_id: request.dataset_id,
            key: request.key,
            version_id: request.version_id,
            from_digest: request.from_digest,
            sealed_metadata: request.sealed_metadata,
            metadata_key_version: request.metadata_key_version,
        };
        let request_id = request.request_id;
        self.decide_shard(&shard.group, Room::Needed, request_id, |table, state| {
            self.check(table, peer, Some(&id), &[Action::Write])?;
            Ok(Decision {
                key_state_version: key_state_version(state, &id)?,
                command: Command::SetMetadata(set.clone()),
            })
        })
        .await
    }
}
