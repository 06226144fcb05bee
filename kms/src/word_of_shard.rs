//! What a dataset's shard says before its key is ended: what lies under the key, and whether a hold keeps it.
//!
//! Owns the question and what a hold means for a destruction. Refuses to take silence for a no: where the shard cannot
//! be asked, nothing is scheduled and nothing is destroyed. What is set between the shard's word and the record of the
//! destruction comes too late; that is one exchange with one node.

use proto::ids::{DatasetId, UnixMs};
use proto::v1;
use proto::v1::shard_client::ShardClient;
use tonic::transport::Channel;

use crate::confirm::{ConfirmError, timed};
use crate::core::Core;

/// Why a key is not ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeldError {
    /// Nobody said that nothing keeps it.
    #[error("its dataset's shard did not say whether a hold keeps it")]
    NotAsked(#[source] ConfirmError),
    /// Compliance retention.
    #[error("compliance retention keeps its dataset until {until} (ms since 1970)")]
    Retained {
        /// Until when.
        until: u64,
    },
    /// A legal hold.
    #[error("a legal hold keeps its dataset")]
    LegalHold,
}

/// Whether a hold keeps a dataset at this time.
pub(crate) fn free(hold: Option<&v1::DatasetHold>, now: UnixMs) -> Result<(), HeldError> {
    match hold {
        Some(hold) if hold.legal => Err(HeldError::LegalHold),
        Some(hold) if hold.retain_until_ms > now.0 => Err(HeldError::Retained {
            until: hold.retain_until_ms,
        }),
        _ => Ok(()),
    }
}

impl Core {
    /// Refuses unless the dataset's shard states that no hold keeps it, or every shard that it holds no such dataset.
    pub(crate) async fn not_held(&self, dataset: DatasetId) -> Result<(), HeldError> {
        let stated = self.ask_shard(dataset).await.map_err(HeldError::NotAsked)?;
        let state = self.reader().map_err(|_| {
            HeldError::NotAsked(ConfirmError::Commit(crate::ledger::CommitError::State))
        })?;
        let now = kms_state::region_time(&*state);
        free(stated.as_ref().and_then(|record| record.hold.as_ref()), now)
    }

    /// What the shard states of the dataset, from a majority's view; `None` where every shard was asked and none holds
    /// it.
    pub(crate) async fn ask_shard(
        &self,
        dataset: DatasetId,
    ) -> Result<Option<v1::DatasetRecord>, ConfirmError> {
        let nodes = self.nodes();
        let known = {
            let state = self
                .reader()
                .map_err(|_| crate::ledger::CommitError::State)?;
            let key = kms_state::key(&*state, &dataset).ok_or(ConfirmError::NoKey)?;
            key.shard
        };
        let shard = match known {
            0 => match self.find_shard(&nodes, dataset).await {
                Err(ConfirmError::NoShard) => return Ok(None),
                found => found?,
            },
            known => known,
        };
        let request = v1::ShardStatusRequest {
            shard,
            dataset_id: dataset.into(),
        };
        let ask = |mut client: ShardClient<Channel>| {
            let request = timed(request.clone());
            async move {
                let status = client.shard_status(request).await?;
                Ok(status.into_inner())
            }
        };
        Ok(self.at_leader(&nodes, ask).await?.dataset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_keeps_a_key_until_it_is_lifted_or_over() {
        let hold = |retain_until_ms, legal| v1::DatasetHold {
            version: 1,
            retain_until_ms,
            legal,
        };
        let keeps = |hold: Option<v1::DatasetHold>, now| free(hold.as_ref(), UnixMs(now)).is_err();
        assert!(!keeps(None, 0));
        assert!(!keeps(Some(hold(0, false)), 0));
        assert!(keeps(Some(hold(5, false)), 4));
        assert!(!keeps(Some(hold(5, false)), 5));
        assert!(keeps(Some(hold(0, true)), u64::MAX));
        assert!(keeps(Some(hold(5, true)), 9));
    }
}
