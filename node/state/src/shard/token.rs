//! Lease tokens: under which the shard takes commits.
//!
//! Owns their place in the state and the count of versions that need each. Refuses a commit by anyone but the
//! holder, after expiry, or under a KEK version below the dataset's minimum. Signatures were the leader's to check.

use prost::Message as _;
use proto::ids::{DatasetId, LeaseId, UnixMs};
use proto::v1;

use super::refusal::{Answer, malformed, refuse};
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::{DIGEST_BYTES, TOKEN_BYTES_MAX};
use crate::record;

impl Apply<'_> {
    /// A token already held is done again; one rewrapped under a newer KEK version replaces it.
    pub(super) fn register_token(
        &mut self,
        verdict: v1::Verdict,
        register: &v1::RegisterToken,
    ) -> Answer {
        let Some(token) = &register.token else {
            return malformed();
        };
        let Ok(lease) = LeaseId::try_from(register.lease_id.as_ref()) else {
            return malformed();
        };
        if token.token.is_empty()
            || token.token.len() > TOKEN_BYTES_MAX
            || token.holder.len() != DIGEST_BYTES
        {
            return malformed();
        }
        let dataset = self.receiving(&token.dataset_id)?;
        self.key_allows(verdict, &dataset)?;
        if token.kek_version < dataset.record.min_kek_version {
            return refuse(v1::Refusal::TokenTooOld);
        }
        let key = keys::token(table::TOKEN, &dataset.id, &lease);
        if let Some(held) = record::load::<v1::TokenRecord>(&*self.state, &key) {
            if held.holder != token.holder {
                return refuse(v1::Refusal::TokenNotHolders);
            }
            // The same lease key wrapped again, by another replica of the KMS perhaps: one is enough.
            if held.kek_version == token.kek_version {
                return Ok(self.done());
            }
            if held.kek_version > token.kek_version {
                return refuse(v1::Refusal::TokenTooOld);
            }
            // A rewrap outlives no lease.
            if held.expires_at_ms != token.expires_at_ms {
                return malformed();
            }
        } else if self.meta.time.0 >= token.expires_at_ms {
            return refuse(v1::Refusal::TokenExpired);
        }
        self.state.put(&key, &token.encode_to_vec());
        Ok(self.done())
    }

    /// The token is here, is the committer's, is not too old, and was alive when `alive` says it had to be.
    pub(super) fn token_allows(
        &self,
        dataset: &Dataset,
        lease: &LeaseId,
        holder: &[u8],
        alive: impl FnOnce(UnixMs) -> bool,
    ) -> Result<(), v1::Refused> {
        let token = self.token(dataset, lease)?;
        if token.holder != holder {
            return refuse(v1::Refusal::TokenNotHolders);
        }
        recent(dataset, &token)?;
        if !alive(UnixMs(token.expires_at_ms)) {
            return refuse(v1::Refusal::TokenExpired);
        }
        Ok(())
    }

    /// The token is here and is not too old, whoever its holder is and whenever it expires.
    pub(super) fn token_in_use(
        &self,
        dataset: &Dataset,
        lease: &LeaseId,
    ) -> Result<(), v1::Refused> {
        recent(dataset, &self.token(dataset, lease)?)
    }

    pub(super) fn token(
        &self,
        dataset: &Dataset,
        lease: &LeaseId,
    ) -> Result<v1::TokenRecord, v1::Refused> {
        let key = keys::token(table::TOKEN, &dataset.id, lease);
        record::load(&*self.state, &key).map_or_else(|| refuse(v1::Refusal::NoSuchToken), Ok)
    }

    /// One more version needs the token.
    pub(super) fn use_token(&mut self, dataset: &DatasetId, lease: &[u8]) {
        let key = token_use_key(dataset, lease);
        let uses = self.token_uses(&key) + 1;
        self.state.put(&key, &uses.to_be_bytes());
    }

    /// One version less needs the token.
    pub(super) fn release_token(&mut self, dataset: &DatasetId, lease: &[u8]) {
        let key = token_use_key(dataset, lease);
        match self
            .token_uses(&key)
            .checked_sub(1)
            .expect("every version counted itself")
        {
            0 => self.state.delete(&key),
            uses => self.state.put(&key, &uses.to_be_bytes()),
        }
    }

    fn token_uses(&self, key: &[u8]) -> u64 {
        self.state.value(key).map_or(0, |value| {
            u64::from_be_bytes(value.as_ref().try_into().expect("written as eight bytes"))
        })
    }
}

/// Refuses a token wrapped under a KEK version below the dataset's minimum.
fn recent(dataset: &Dataset, token: &v1::TokenRecord) -> Result<(), v1::Refused> {
    if token.kek_version < dataset.record.min_kek_version {
        return refuse(v1::Refusal::TokenTooOld);
    }
    Ok(())
}

fn token_use_key(dataset: &DatasetId, lease: &[u8]) -> Vec<u8> {
    let lease = LeaseId::try_from(lease).expect("checked before the entry was stored");
    keys::token(table::TOKEN_USE, dataset, &lease)
}
