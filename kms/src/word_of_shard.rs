//! What a dataset's shard says before its key is ended: what lies under the key, and whether a hold keeps it.
//!
//! Owns the question and what a hold means for a destruction. Refuses to take silence for a no: where the shard cannot
//! be asked, nothing is scheduled and nothing is destroyed. What is set between the shard's word and the record of the
//! destruction comes too late; that is one exchange with one node.

use proto::ids::{DatasetId, RelocationId, UnixMs};
use proto::store::Reader;
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
    /// It is served in another region, whose people let go of this key.
    #[error(
        "its dataset moved to another region: end the key by that relocation (`reduit relocate shred`)"
    )]
    Moved,
}

/// Whether a hold of the dataset, or a lock of any version in it, keeps a dataset at this time.
pub(crate) fn free(dataset: &v1::DatasetRecord, now: UnixMs) -> Result<(), HeldError> {
    let hold = dataset.hold.unwrap_or_default();
    if hold.legal || dataset.legal_holds > 0 {
        return Err(HeldError::LegalHold);
    }
    let until = hold.retain_until_ms.max(dataset.compliance_until_ms);
    match until > now.0 {
        true => Err(HeldError::Retained { until }),
        false => Ok(()),
    }
}

/// Refuses to end the key of a dataset other than by its relocation once it has moved: the people of its destination may
/// need the source yet, and they say when they do not.
fn kept(dataset: &v1::DatasetRecord, now: UnixMs) -> Result<(), HeldError> {
    match moved(dataset) {
        Some(_) => Err(HeldError::Moved),
        None => free(dataset, now),
    }
}

/// By what the dataset moved, if it did.
fn moved(dataset: &v1::DatasetRecord) -> Option<&v1::MovedRecord> {
    let authority = dataset.authority.as_ref()?;
    match authority.standing() {
        v1::Standing::Moved => authority.moved.as_ref(),
        _ => None,
    }
}

/// Whether the dataset moved by the very record on which its key was scheduled to end. Its holds moved with it, and are kept
/// where it is.
fn shredded(state: &dyn Reader, dataset: &v1::DatasetRecord) -> bool {
    let Some(moved) = moved(dataset) else {
        return false;
    };
    let Ok(relocation) = RelocationId::try_from(&moved.relocation_id[..]) else {
        return false;
    };
    let grant = kms_state::hand_over_grant(state, &relocation);
    grant.is_some_and(|grant| grant.moved.as_ref() == Some(moved))
}

impl Core {
    /// Refuses unless the dataset's shard states that no hold keeps it, or every shard that it holds no such dataset.
    pub(crate) async fn not_held(&self, dataset: DatasetId) -> Result<(), HeldError> {
        let stated = self.ask_shard(dataset).await.map_err(HeldError::NotAsked)?;
        let state = self.reader().map_err(|_| {
            HeldError::NotAsked(ConfirmError::Commit(crate::ledger::CommitError::State))
        })?;
        let now = kms_state::region_time(&*state);
        match stated {
            Some(dataset) if !shredded(&*state, &dataset) => kept(&dataset, now),
            _ => Ok(()),
        }
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
        let dataset = |hold| v1::DatasetRecord {
            hold,
            ..Default::default()
        };
        let keeps = |hold, now| free(&dataset(hold), UnixMs(now)).is_err();
        assert!(!keeps(None, 0));
        assert!(!keeps(Some(hold(0, false)), 0));
        assert!(keeps(Some(hold(5, false)), 4));
        assert!(!keeps(Some(hold(5, false)), 5));
        assert!(keeps(Some(hold(0, true)), u64::MAX));
        assert!(keeps(Some(hold(5, true)), 9));
    }

    #[test]
    fn what_moved_away_is_ended_by_its_relocation_alone() {
        use v1::Standing::{Active, Diverged, Fenced, Moved, Unconfirmed};
        let stands = |standing: v1::Standing| v1::DatasetRecord {
            authority: Some(v1::AuthorityRecord {
                standing: standing.into(),
                moved: Some(v1::MovedRecord::default()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let refused = |standing| kept(&stands(standing), UnixMs(9)).err();
        assert!(matches!(refused(Moved), Some(HeldError::Moved)));
        // Written here after it was opened there by force: what its key opens is nowhere else.
        for other in [Active, Fenced, Diverged, Unconfirmed] {
            assert!(refused(other).is_none(), "{other:?}");
        }
        assert!(kept(&v1::DatasetRecord::default(), UnixMs(9)).is_ok());
    }

    #[test]
    fn what_keeps_a_version_keeps_the_key() {
        let locked = |compliance_until_ms, legal_holds| v1::DatasetRecord {
            compliance_until_ms,
            legal_holds,
            ..Default::default()
        };
        let keeps = |dataset, now| free(&dataset, UnixMs(now)).is_err();
        assert!(keeps(locked(5, 0), 4));
        assert!(!keeps(locked(5, 0), 5));
        assert!(keeps(locked(0, 1), u64::MAX));
    }
}
