//! Leases this process holds: one that seals, one for metadata.
//!
//! Owns when a lease is too old to start something new with. A seal lease cannot open (its type has no such call).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use envelope::{MetadataLease, SealedKey, SealingLease};
use proto::ids::{DatasetId, LeaseId, UnixMs};
use proto::v1;

use crate::error::Error;
use crate::kms::{Keys, now};
use crate::region::random_id;

/// Nothing new starts under a lease this close to its end.
const MARGIN_MS: u64 = 120_000;

/// Seals objects of one dataset.
pub(crate) struct SealLease {
    pub(crate) key: SealingLease,
    pub(crate) token: Bytes,
    dataset_epoch: u64,
    expires: UnixMs,
    registered: AtomicBool,
}

impl SealLease {
    pub(crate) async fn request(
        keys: &Keys,
        dataset: DatasetId,
        (claim, dataset_epoch): (v1::Claim, u64),
        seconds: u32,
    ) -> Result<Self, Error> {
        let request_id = random_id()?;
        keys.call_in_session(|mut kms, session| {
            let request = v1::IssueLeaseRequest {
                session_id: session.id.clone(),
                dataset_id: dataset.into(),
                request_id: request_id.clone(),
                seconds,
                claim: Some(claim.clone()),
                dataset_epoch,
            };
            async move {
                let reply = kms.issue_lease(request).await?.into_inner();
                let bad = |_| {
                    transport::fault::status(
                        transport::Fault::Internal,
                        "lease",
                        "lease does not open",
                    )
                };
                let id = LeaseId::try_from(&reply.lease_id[..]).map_err(|_| {
                    transport::fault::status(transport::Fault::Internal, "lease", "no lease id")
                })?;
                let sealed = SealedKey::try_from(&reply.sealed_lease_key[..]).map_err(bad)?;
                let key = session
                    .receiver
                    .receive_lease(&sealed, id, &session.aad())
                    .map_err(bad)?;
                Ok(Self {
                    key,
                    token: reply.token,
                    dataset_epoch,
                    expires: UnixMs(reply.expires_at_ms),
                    registered: AtomicBool::new(false),
                })
            }
        })
        .await
    }

    pub(crate) fn id(&self) -> LeaseId {
        self.key.id()
    }

    pub(crate) fn fresh(&self, now: UnixMs) -> bool {
        now.0 + MARGIN_MS < self.expires.0
    }

    /// Whether it is of this epoch of its dataset: the shard takes no other.
    pub(crate) fn is_of(&self, dataset_epoch: u64) -> bool {
        self.dataset_epoch == dataset_epoch
    }

    /// When nothing may begin under it any more.
    pub(crate) fn expires(&self) -> UnixMs {
        self.expires
    }

    /// Whether the shard has this lease's token.
    pub(crate) fn registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    pub(crate) fn set_registered(&self) {
        self.registered.store(true, Ordering::Release);
    }
}

/// Every version of a dataset's metadata key.
pub(crate) struct MetadataKeys {
    versions: HashMap<u32, MetadataLease>,
    current: u32,
    expires: UnixMs,
}

impl MetadataKeys {
    pub(crate) async fn request(
        keys: &Keys,
        dataset: DatasetId,
        claim: v1::Claim,
        seconds: u32,
    ) -> Result<Self, Error> {
        let request_id = random_id()?;
        let region = keys.region.clone();
        keys.call_in_session(|mut kms, session| {
            let request = v1::IssueLeaseRequest {
                session_id: session.id.clone(),
                dataset_id: dataset.into(),
                request_id: request_id.clone(),
                seconds,
                claim: Some(claim.clone()),
                dataset_epoch: 0,
            };
            let region = region.clone();
            async move {
                let reply = kms.issue_metadata_lease(request).await?.into_inner();
                let bad = |_| {
                    transport::fault::status(
                        transport::Fault::Internal,
                        "lease",
                        "metadata lease does not open",
                    )
                };
                let aad = session.aad();
                let mut versions = HashMap::new();
                for key in &reply.keys {
                    let sealed = SealedKey::try_from(&key.sealed[..]).map_err(bad)?;
                    let lease = session
                        .receiver
                        .receive_metadata_key(&sealed, region.clone(), dataset, key.version, &aad)
                        .map_err(bad)?;
                    versions.insert(key.version, lease);
                }
                Ok(Self {
                    versions,
                    current: reply.current_version,
                    expires: UnixMs(reply.expires_at_ms),
                })
            }
        })
        .await
    }

    pub(crate) fn fresh(&self, now: UnixMs) -> bool {
        now.0 + MARGIN_MS < self.expires.0
    }

    pub(crate) fn has(&self, version: u32) -> bool {
        self.versions.contains_key(&version)
    }

    pub(crate) fn version(&self, version: u32) -> Option<&MetadataLease> {
        self.versions.get(&version)
    }

    pub(crate) fn current(&self) -> Result<&MetadataLease, Error> {
        self.versions.get(&self.current).ok_or(Error::Protocol {
            what: "no current metadata key",
        })
    }
}

/// Milliseconds a key released now may be used, as the KMS said, from when it was asked.
pub(crate) fn usable_until(asked: UnixMs, usable_ms: u64) -> UnixMs {
    UnixMs(
        asked
            .0
            .saturating_add(usable_ms)
            .min(now().0.saturating_add(usable_ms)),
    )
}
