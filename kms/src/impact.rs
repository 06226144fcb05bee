//! Reports on keys, for people: what ending one would end, and the inventory of all.
//!
//! Owns who may read them and what they say. Refuses to answer for the dataset's shard: what it was not asked is said
//! to be unknown. No report holds key bytes, wrapped or not.

use std::sync::Arc;

use proto::ids::{DatasetId, Role};
use proto::v1;
use transport::Peer;
use transport::fault::Chain;

use crate::core::{Core, StaleError};
use crate::keys::{KeyError, dataset};
use crate::policy::Denied;

/// Leaves that the search for a key's last use goes back.
const LEAVES_MAX: u64 = 20_000;
/// Keys of one page of the inventory.
const PAGE_MAX: usize = 500;

impl Core {
    /// What ending a key would end. It names who used it last: for those who may change keys, and for who runs or audits
    /// the region.
    pub(crate) async fn key_impact(
        self: &Arc<Self>,
        peer: &Peer,
        request: &v1::FindKeyRequest,
    ) -> Result<v1::KeyImpactReply, KeyError> {
        let dataset = dataset(&request.dataset_id)?;
        let state = self.current().await?;
        if !runs_or_audits(peer) {
            let (policy, claim) = (self.ledger.policy(), v1::Claim::default());
            policy
                .may(&*state, &peer.identity, dataset, v1::Action::Keys, &claim)
                .map_err(KeyError::Denied)?;
        }
        drop(state);
        let core = self.clone();
        // Thousands of leaves, from the disk perhaps.
        let read = tokio::task::spawn_blocking(move || core.own_part(dataset)).await;
        let mut report = match read.map_err(|error| error.try_into_panic()) {
            Ok(report) => report?,
            // The state's readers panic when the store cannot be read: that must end the process, not this task.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(StaleError::Read(replica::host::ReadError::Stopped).into()),
        };
        match self.ask_shard(dataset).await {
            Ok(stated) => report.dataset = stated,
            Err(error) => report.not_asked = Chain(&error).to_string(),
        }
        Ok(report)
    }

    fn own_part(&self, dataset: DatasetId) -> Result<v1::KeyImpactReply, KeyError> {
        let state = self.reader().map_err(StaleError::State)?;
        let key = kms_state::key(&*state, &dataset).ok_or(KeyError::NoSuchKey { dataset })?;
        let region = kms_state::region(&*state).unwrap_or_default();
        let (last_use, leaves_looked_at) = kms_state::last_use(&*state, &key, LEAVES_MAX);
        Ok(v1::KeyImpactReply {
            key: kms_state::key_info(&*state, &dataset),
            leases: kms_state::live_leases(&*state, &dataset),
            last_use,
            leaves_looked_at,
            shares_needed: region.shares_needed,
            shares: u32::try_from(region.custodians.len()).unwrap_or(u32::MAX),
            now_ms: kms_state::region_time(&*state).0,
            ..v1::KeyImpactReply::default()
        })
    }

    /// A page of the inventory, for who runs or audits the region.
    pub(crate) async fn list_keys(
        &self,
        peer: &Peer,
        request: &v1::ListKeysRequest,
    ) -> Result<v1::ListKeysReply, KeyError> {
        if !runs_or_audits(peer) {
            return Err(KeyError::Denied(Denied::Policy(kms_state::Denied::NoGrant)));
        }
        let after = match request.start_after.len() {
            0 => None,
            _ => Some(dataset(&request.start_after)?),
        };
        let limit = match request.limit as usize {
            0 => PAGE_MAX,
            asked => asked.min(PAGE_MAX),
        };
        let state = self.current().await?;
        let mut page = kms_state::keys(&*state, after.as_ref(), limit + 1);
        let more = page.len() > limit;
        page.truncate(limit);
        let keys = page
            .iter()
            .filter_map(|key| DatasetId::try_from(key.dataset_id.as_ref()).ok())
            .filter_map(|id| kms_state::key_info(&*state, &id))
            .collect();
        Ok(v1::ListKeysReply { keys, more })
    }
}

fn runs_or_audits(peer: &Peer) -> bool {
    matches!(peer.identity.role(), Role::Operator | Role::Auditor)
}
