//! Settings and quota of a dataset at the shard's leader.
//!
//! Owns nothing of their content: front doors write it and read it back. Refuses all of it below the feature level that
//! knows it.

use node_state::read;
use node_state::shard::CONFIG_LEVEL;
use proto::ids::DatasetId;
use proto::v1;
use proto::v1::Action;
use proto::v1::shard_command::Command;
use transport::Peer;

use crate::core::Core;
use crate::error::CallError;

impl Core {
    pub(super) async fn set_config(
        &self,
        peer: &Peer,
        request: v1::SetConfigRequest,
    ) -> Result<v1::Done, CallError> {
        let set = v1::SetConfig {
            dataset_id: request.dataset_id.clone(),
            kind: request.kind,
            content: request.content,
            from_version: request.from_version,
            any_version: request.any_version,
        };
        let command = Command::SetConfig(set);
        self.configure(
            peer,
            request.shard,
            &request.dataset_id,
            CONFIG_LEVEL,
            command,
        )
        .await
    }

    pub(super) async fn set_quota(
        &self,
        peer: &Peer,
        request: v1::SetQuotaRequest,
    ) -> Result<v1::Done, CallError> {
        let set = v1::SetQuota {
            dataset_id: request.dataset_id.clone(),
            quota: request.quota,
        };
        let command = Command::SetQuota(set);
        self.configure(
            peer,
            request.shard,
            &request.dataset_id,
            CONFIG_LEVEL,
            command,
        )
        .await
    }

    /// To whoever uses the dataset: its front doors go by its settings.
    pub(super) async fn read_config(
        &self,
        peer: &Peer,
        request: v1::ReadConfigRequest,
    ) -> Result<v1::ReadConfigReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        let any = [Action::List, Action::Read, Action::Write, Action::Create];
        self.check(&self.enrolments.current(), peer, Some(&id), &any)?;
        let (view, index) = self.read(&shard.group).await?;
        self.living(&*view.state, &id)?;
        Ok(v1::ReadConfigReply {
            config: read::config(&*view.state, &id, request.kind()),
            at_index: index.0,
        })
    }
}
