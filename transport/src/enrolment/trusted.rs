//! A region that this one trusts, as every process of this one sees it: one CA, the keys that its descriptor names, and a
//! time at which that ends.
//!
//! Owns the check of a descriptor's signature. Refuses to merge: a region's chains are checked against its own CA alone,
//! and what cannot be read in full is not trusted at all.

use std::collections::BTreeMap;

use proto::descriptor::{Descriptor, DescriptorError};
use proto::ids::{Identity, RegionId, UnixMs};
use proto::transcript::LABEL_REGION_DESCRIPTOR;
use proto::v1;

use crate::certificate::{CertificateError, RegionTrust};
use crate::keys::{BadSignature, PublicKey, verify};
use crate::peer::PeerError;

/// Why a descriptor is not a region's own word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UntrustedDescriptor {
    /// It is none, or none now.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// Its signature.
    #[error("the region descriptor is not signed by the key that it names")]
    Signature(#[source] BadSignature),
    /// Its CA.
    #[error("the CA certificate of the region descriptor is none")]
    Ca(#[source] CertificateError),
}

/// Parses a descriptor and checks that the key it names has signed it and that its CA is one. Whether that key may speak for
/// the region, and whether the descriptor is good now, is for who holds an earlier one, or compares its fingerprint.
pub fn verify_descriptor(
    signed: &v1::SignedRegionDescriptor,
) -> Result<TrustedRegion, UntrustedDescriptor> {
    let descriptor = Descriptor::parse(signed)?;
    let (label, bytes) = (LABEL_REGION_DESCRIPTOR, &signed.descriptor);
    verify(&signed.signer, label, bytes, &signed.signature)
        .map_err(UntrustedDescriptor::Signature)?;
    TrustedRegion::of(descriptor)
}

/// A region's descriptor and the CA in it.
#[derive(Debug, Clone)]
pub struct TrustedRegion {
    descriptor: Descriptor,
    trust: RegionTrust,
}

impl TrustedRegion {
    fn of(descriptor: Descriptor) -> Result<Self, UntrustedDescriptor> {
        let region = descriptor.region().clone();
        let trust = RegionTrust::from_der(region, descriptor.ca_certificate())
            .map_err(UntrustedDescriptor::Ca)?;
        Ok(Self { descriptor, trust })
    }

    /// Those of a set that this build can read. The KMS has signed the set and verified each: a descriptor that a later
    /// build wrote must not cost this process its own region's enrolments.
    pub(super) fn readable(regions: &[v1::TrustedRegion]) -> BTreeMap<RegionId, Self> {
        let read = |held: &v1::TrustedRegion| {
            let descriptor = Descriptor::parse(held.descriptor.as_ref()?).ok()?;
            let trusted = Self::of(descriptor).ok()?;
            let region = trusted.descriptor.region().clone();
            (region.as_str() == held.region).then_some((region, trusted))
        };
        let found: BTreeMap<_, _> = regions.iter().filter_map(read).collect();
        if found.len() < regions.len() {
            let left_out = regions.len() - found.len();
            tracing::warn!(
                left_out,
                "this build cannot read every trusted region: those are not trusted here"
            );
        }
        found
    }

    /// What the region says of itself.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The CA that its identities' chains end at.
    pub fn trust(&self) -> &RegionTrust {
        &self.trust
    }

    /// Refuses an identity that the descriptor does not name with this very key, and everyone past the descriptor's time.
    pub(crate) fn names(
        &self,
        identity: &Identity,
        key: &PublicKey,
        now: UnixMs,
    ) -> Result<(), PeerError> {
        let named = || identity.clone();
        if self.descriptor.good_at(now).is_err() {
            return Err(PeerError::NotGood { identity: named() });
        }
        match self.descriptor.by_public_key(key.as_spki()) {
            Some(member) if member.identity == *identity => Ok(()),
            _ => Err(PeerError::NotDescribed { identity: named() }),
        }
    }
}
