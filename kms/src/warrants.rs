//! Warrants: that datasets may be restored from a backup, or are confirmed after it, for storage nodes to go by.
//!
//! Owns that a warrant is signed once its approval is on record, and says how each dataset's key stands by then: what a
//! backup has of that may be long over. Refuses to say it for longer than a week after the approval.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::DatasetId;
use proto::store::Reader;
use proto::transcript::LABEL_RESTORE_WARRANT;
use proto::v1;
use replica::host::ReadError;
use transport::Peer;

use crate::approvals;
use crate::authority::AuthorityError;
use crate::core::{Core, StaleError};

const FORMAT: u32 = 1;
/// Milliseconds for which a restore may be begun or confirmed once it was approved: terabytes are looked for, and nobody
/// restores what was approved for another occasion.
const WARRANT_MS: u64 = 7 * 24 * 3_600_000;

impl Core {
    /// Records that datasets may be restored, or are confirmed, and gives a warrant of it. The approvals sign exactly this
    /// request; sent again by who made it, it has effect once.
    pub(crate) async fn approve_restore(
        &self,
        peer: &Peer,
        mut request: v1::ApproveRestoreRequest,
    ) -> Result<v1::ApproveRestoreReply, AuthorityError> {
        self.may_change(peer, kms_state::LEVEL_DATASET_RESTORES)?;
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ApproveRestore", &request);
        let id = request.single_use_id;
        let what = v1::kms_command::Command::ApproveRestore(v1::ApproveRestore {
            terms: request.terms,
            claim: Some(self.stated(peer, request.claim)),
            request_id: id.clone(),
        });
        let done = self.dual_control(peer, &hash, &id, &given, what).await?;
        let state = self.reader().map_err(StaleError::State)?;
        Ok(v1::ApproveRestoreReply {
            warrant: Some(self.warrant(&*state, &id)?),
            leaf_index: done.leaf_index,
        })
    }

    /// Of what is on record: the leader has applied it.
    fn warrant(&self, state: &dyn Reader, id: &Bytes) -> Result<v1::RestoreWarrant, StaleError> {
        let behind = || StaleError::Read(ReadError::Behind);
        let of = <[u8; 16]>::try_from(&id[..]).map_err(|_| behind())?;
        let approved = kms_state::approved_restore(state, &of).ok_or_else(behind)?;
        let terms = approved.terms.clone().unwrap_or_default();
        let keys = terms.datasets.iter().map(|target| {
            let dataset = DatasetId::try_from(&target.dataset_id[..]).map_err(|_| behind())?;
            let key = kms_state::key(state, &dataset).ok_or_else(behind)?;
            Ok(restorable(&key))
        });
        let body = v1::RestoreWarrantBody {
            format: FORMAT,
            region: self.config.region.to_string(),
            restore_id: id.clone(),
            keys: keys.collect::<Result<_, StaleError>>()?,
            expires_at_ms: approved.time_ms.saturating_add(WARRANT_MS),
            approved: Some(approved),
        };
        let body = body.encode_to_vec();
        let signature = self.local.sign(LABEL_RESTORE_WARRANT, &body);
        Ok(v1::RestoreWarrant {
            body: body.into(),
            signer: Bytes::copy_from_slice(self.local.public_key().as_spki()),
            signature: Bytes::copy_from_slice(&signature),
        })
    }
}

fn restorable(key: &v1::KekRecord) -> v1::RestorableKey {
    v1::RestorableKey {
        dataset_id: key.dataset_id.clone(),
        kek_id: key.kek_id.clone(),
        pseudonym: key.pseudonym.clone(),
        state: key.state,
        state_version: key.state_version,
        min_version: key.min_version,
        oldest_version: kms_state::oldest_living(key),
        current_version: key.current_version,
    }
}
