//! Regions that know each other, as operators look after them: what this one says of itself, whom it trusts.
//!
//! Owns the callers' half of trusting one: the fingerprint that people compare, and the check of what a file says before it is
//! sent. Refuses nothing by itself that the region would not.

use bytes::Bytes;
use proto::descriptor::Descriptor;
use proto::ids::{Identity, RegionId};
use proto::transcript;
use proto::v1;
use transport::LocalIdentity;

use crate::error::Error;
use crate::operator::{approved, sha256};
use crate::region::{Region, random_id};

/// What people compare before they trust a region: of the descriptor's bytes, without their signature.
pub fn region_fingerprint(descriptor: &[u8]) -> [u8; 32] {
    sha256(&transcript::region_fingerprint(descriptor))
}

/// A request to trust a region by its descriptor, with the fingerprint that people were given.
pub(crate) fn trust_request(
    requester: &Identity,
    descriptor: &v1::SignedRegionDescriptor,
    fingerprint: [u8; 32],
) -> Result<v1::TrustRegionRequest, Error> {
    let claim = v1::Claim {
        actor: requester.to_string(),
        ..v1::Claim::default()
    };
    Ok(v1::TrustRegionRequest {
        descriptor: Some(descriptor.clone()),
        fingerprint: Bytes::copy_from_slice(&fingerprint),
        single_use_id: random_id()?,
        claim: Some(claim),
        approvals: Vec::new(),
    })
}

impl Region {
    /// What this region says of itself, and the regions that it knows.
    pub async fn regions(&self) -> Result<v1::ListRegionsReply, Error> {
        self.on_kms_leader(|mut kms| async move {
            Ok(kms
                .list_regions(v1::ListRegionsRequest {})
                .await?
                .into_inner())
        })
        .await
    }

    /// Trusts a region by its descriptor's fingerprint, approved by at least two other operators.
    pub async fn trust_region(
        &self,
        descriptor: &Descriptor,
        fingerprint: [u8; 32],
        approvers: &[LocalIdentity],
    ) -> Result<v1::KmsDone, Error> {
        let own = self.0.local.identity();
        let request = trust_request(own, descriptor.signed(), fingerprint)?;
        let id = request.single_use_id.clone();
        let approvals = approved("TrustRegion", &request, &id, approvers);
        self.trust_region_approved(request, approvals).await
    }

    /// The same with approvals that were signed for this very request.
    pub async fn trust_region_approved(
        &self,
        request: v1::TrustRegionRequest,
        approvals: Vec<v1::Approval>,
    ) -> Result<v1::KmsDone, Error> {
        let request = v1::TrustRegionRequest {
            approvals,
            ..request
        };
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.trust_region(request).await?.into_inner()) }
        })
        .await
    }

    /// Ends the trust in a region, and cuts its living connections.
    pub async fn distrust_region(&self, region: &RegionId) -> Result<v1::KmsDone, Error> {
        let request = v1::DistrustRegionRequest {
            region: region.to_string(),
            claim: None,
        };
        self.on_kms_leader(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.distrust_region(request).await?.into_inner()) }
        })
        .await
    }
}
