//! Commands about regions that know each other, as a leader builds them.

use bytes::Bytes;
use proto::ids::RegionId;
use proto::v1::kms_command::Command;
use proto::v1::{
    Claim, DistrustRegion, KmsCommand, PublishRegion, SignedRegionDescriptor, TrustRegion,
};

use super::{Asked, acting};
use crate::authority::Authority;

/// What this region says of itself from now on; the requester is the KMS replica that signed it.
pub fn publish_region(
    authority: &Authority,
    asked: Asked,
    descriptor: SignedRegionDescriptor,
) -> KmsCommand {
    let publish = PublishRegion {
        descriptor: Some(descriptor),
    };
    asked.command(authority.version(), Command::PublishRegion(publish))
}

/// Trusts a region by the fingerprint that people give; needs the approvals in `asked`.
pub fn trust_region(
    authority: &Authority,
    asked: Asked,
    claim: Claim,
    descriptor: SignedRegionDescriptor,
    fingerprint: [u8; 32],
) -> KmsCommand {
    let trust = TrustRegion {
        descriptor: Some(descriptor),
        fingerprint: Bytes::copy_from_slice(&fingerprint),
        claim: Some(acting(claim, &asked.requester)),
    };
    asked.command(authority.version(), Command::TrustRegion(trust))
}

/// Takes a newer descriptor of a trusted region without people; the requester is a KMS replica.
pub fn update_region(
    authority: &Authority,
    asked: Asked,
    descriptor: SignedRegionDescriptor,
) -> KmsCommand {
    let trust = TrustRegion {
        descriptor: Some(descriptor),
        ..TrustRegion::default()
    };
    asked.command(authority.version(), Command::TrustRegion(trust))
}

/// Ends the trust in a region.
pub fn distrust_region(
    authority: &Authority,
    asked: Asked,
    claim: Claim,
    region: &RegionId,
) -> KmsCommand {
    let distrust = DistrustRegion {
        region: region.to_string(),
        claim: Some(acting(claim, &asked.requester)),
    };
    asked.command(authority.version(), Command::DistrustRegion(distrust))
}
