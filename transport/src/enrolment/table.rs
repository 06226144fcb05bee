//! One enrolment set, parsed: who may act in a region, by key, by member id, by role, and what they may do. Pure.
//!
//! Refuses a set that is not well formed: unsorted, a key or a member id twice, an identity of another region,
//! a member of another jurisdiction, a grant it cannot read, fewer than two approvers. A table in memory is valid.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, Identity, Jurisdiction, NodeId, RegionId, Role, UnixMs};
use proto::v1;

use super::grant::Grant;
use super::trusted::TrustedRegion;
use crate::keys::PublicKey;

/// The format this code reads and writes.
const FORMAT: u32 = 1;
/// Identities a region may have. Bounds what a signed message can make us hold (about 300 bytes each).
pub const ENROLMENTS_MAX: usize = 100_000;
/// Grants a region may have.
pub const GRANTS_MAX: usize = 100_000;
/// Regions that one may trust.
const REGIONS_MAX: usize = 1_000;
/// Bytes of a policy text.
const POLICY_BYTES_MAX: usize = 900_000;
/// Dual control means two, none of them the requester.
const APPROVALS_FLOOR: u32 = 2;

/// Why bytes are no enrolment set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedSet {
    /// Not the protobuf message.
    #[error("it does not decode")]
    Encoding,
    /// A format this software does not know.
    #[error("format {0} is not known to this software")]
    Format(u32),
    /// Region, jurisdiction or version is not one.
    #[error("its {0} is not valid")]
    Field(&'static str),
    /// Too many identities or grants.
    #[error("it holds more than {ENROLMENTS_MAX} identities or {GRANTS_MAX} grants")]
    TooMany,
    /// Identities are not in strictly ascending order.
    #[error("its identities are not sorted or not unique")]
    Order,
    /// An identity that does not parse.
    #[error("it holds an identity that does not parse")]
    Identity,
    /// An identity of another region.
    #[error("{0} is of another region")]
    OtherRegion(Identity),
    /// A member or key receiver outside the region's jurisdiction.
    #[error("{0} is not in the region's jurisdiction")]
    OtherJurisdiction(Identity),
    /// A key that is not Ed25519, or one that is enrolled twice.
    #[error("the key of {0} is not an Ed25519 key of its own")]
    Key(Identity),
    /// One member id, two members of one role.
    #[error("the member id of {0} is taken")]
    NodeId(Identity),
    /// A grant that does not parse, or grants out of order.
    #[error("grant {at} has no valid {what}")]
    Grant {
        /// Its position in the set.
        at: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Service principals out of order, or what is none of this region.
    #[error("its service principals are not sorted, or one is none of its region")]
    ServicePrincipals,
    /// Dual control with fewer than two approvers.
    #[error("it asks for {0} approvers; fewer than two are no dual control")]
    Approvals(u32),
}

/// One enrolled identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Who.
    pub identity: Identity,
    /// Its one key: TLS and signatures.
    pub public_key: PublicKey,
    /// Its member id, if it is a member of Raft groups.
    pub node_id: Option<NodeId>,
    /// Where its gRPC endpoint listens, `host:port`; empty if it serves nothing.
    pub endpoint: String,
    /// Stated at enrolment; `None` where none was stated.
    pub jurisdiction: Option<Jurisdiction>,
    /// Custodians only: X-Wing public key that shares are sealed to.
    pub hpke_public_key: Bytes,
}

/// A verified enrolment set. Member ids are unique within a role: storage nodes and KMS replicas allocate theirs
/// from different logs.
#[derive(Debug)]
pub struct EnrolmentTable {
    region: RegionId,
    jurisdiction: Jurisdiction,
    version: u64,
    grants: Vec<Grant>,
    policy: String,
    service_principals: BTreeSet<Identity>,
    trusted: BTreeMap<RegionId, TrustedRegion>,
    regions: Vec<v1::TrustedRegion>,
    descriptor: Option<v1::SignedRegionDescriptor>,
    approvals_min: u32,
    signed_at: UnixMs,
    ca_certificate: Bytes,
    enrolled: Vec<Enrolled>,
    by_key: HashMap<PublicKey, usize>,
    by_node: HashMap<(Role, NodeId), usize>,
    signed: v1::SignedEnrolmentSet,
}

impl EnrolmentTable {
    /// Parses the set inside `signed`. The signature is the caller's to check.
    pub(super) fn parse(signed: &v1::SignedEnrolmentSet) -> Result<Self, MalformedSet> {
        let set =
            v1::EnrolmentSet::decode(signed.set.as_ref()).map_err(|_| MalformedSet::Encoding)?;
        if set.format != FORMAT {
            return Err(MalformedSet::Format(set.format));
        }
        if set.version == 0 {
            return Err(MalformedSet::Field("version"));
        }
        if set.approvals_min < APPROVALS_FLOOR {
            return Err(MalformedSet::Approvals(set.approvals_min));
        }
        if set.enrolments.len() > ENROLMENTS_MAX
            || set.grants.len() > GRANTS_MAX
            || set.service_principals.len() > ENROLMENTS_MAX
        {
            return Err(MalformedSet::TooMany);
        }
        if set.trusted_regions.len() > REGIONS_MAX {
            return Err(MalformedSet::Field("number of regions"));
        }
        if set.policy.len() > POLICY_BYTES_MAX || !(set.policy.is_empty() || set.grants.is_empty())
        {
            return Err(MalformedSet::Field("policy text"));
        }
        let region: RegionId = set
            .region
            .parse()
            .map_err(|_| MalformedSet::Field("region"))?;
        let jurisdiction: Jurisdiction = set
            .jurisdiction
            .parse()
            .map_err(|_| MalformedSet::Field("jurisdiction"))?;
        let mut table = Self {
            region,
            jurisdiction,
            version: set.version,
            grants: Vec::with_capacity(set.grants.len()),
            policy: set.policy,
            service_principals: BTreeSet::new(),
            trusted: TrustedRegion::readable(&set.trusted_regions),
            regions: set.trusted_regions,
            descriptor: set.descriptor,
            approvals_min: set.approvals_min,
            signed_at: UnixMs(set.signed_at_ms),
            ca_certificate: set.ca_certificate,
            enrolled: Vec::with_capacity(set.enrolments.len()),
            by_key: HashMap::new(),
            by_node: HashMap::new(),
            signed: signed.clone(),
        };
        let mut last = String::new();
        for message in set.enrolments {
            // Order of the text form: what the message states, not what a type's derive happens to give.
            if message.identity <= last {
                return Err(MalformedSet::Order);
            }
            last.clone_from(&message.identity);
            table.add(message)?;
        }
        let mut last = Vec::new();
        for (at, message) in set.grants.into_iter().enumerate() {
            let bytes = message.encode_to_vec();
            if bytes <= last {
                return Err(MalformedSet::Grant {
                    at,
                    what: "place: grants are sorted and unique",
                });
            }
            last = bytes;
            let grant = Grant::parse(message, &table.region);
            table
                .grants
                .push(grant.map_err(|what| MalformedSet::Grant { at, what })?);
        }
        let mut last = String::new();
        for text in set.service_principals {
            let principal: Identity = text.parse().map_err(|_| MalformedSet::ServicePrincipals)?;
            let own = principal.role() == Role::Service && principal.region() == &table.region;
            if !own || text <= last {
                return Err(MalformedSet::ServicePrincipals);
            }
            table.service_principals.insert(principal);
            last = text;
        }
        Ok(table)
    }

    fn add(&mut self, message: v1::Enrolment) -> Result<(), MalformedSet> {
        let identity: Identity = message
            .identity
            .parse()
            .map_err(|_| MalformedSet::Identity)?;
        if identity.region() != &self.region {
            return Err(MalformedSet::OtherRegion(identity));
        }
        // It has no key: a certificate that states one is nobody's.
        if identity.role() == Role::Service {
            return Err(MalformedSet::Identity);
        }
        let jurisdiction = match message.jurisdiction.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| MalformedSet::Field("jurisdiction"))?,
            ),
        };
        let node_id = (message.node_id != 0).then_some(NodeId(message.node_id));
        // Who holds the region's data, keys or votes is in its jurisdiction; a person may sit elsewhere.
        let inside =
            node_id.is_some() || matches!(identity.role(), Role::Node | Role::Kms | Role::Gateway);
        if inside && jurisdiction.as_ref() != Some(&self.jurisdiction) {
            return Err(MalformedSet::OtherJurisdiction(identity));
        }
        let Ok(public_key) = PublicKey::from_spki(&message.public_key) else {
            return Err(MalformedSet::Key(identity));
        };
        let at = self.enrolled.len();
        if self.by_key.insert(public_key, at).is_some() {
            return Err(MalformedSet::Key(identity));
        }
        if let Some(id) = node_id
            && self.by_node.insert((identity.role(), id), at).is_some()
        {
            return Err(MalformedSet::NodeId(identity));
        }
        self.enrolled.push(Enrolled {
            identity,
            public_key,
            node_id,
            endpoint: message.endpoint,
            jurisdiction,
            hpke_public_key: message.hpke_public_key,
        });
        Ok(())
    }

    /// The region.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// Its jurisdiction.
    pub fn jurisdiction(&self) -> &Jurisdiction {
        &self.jurisdiction
    }

    /// The set's version, from 1 up.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What may be done, by whom, for which purpose. What no grant allows is denied.
    pub fn grants(&self) -> &[Grant] {
        &self.grants
    }

    /// The policy text in force, in Cedar. Where there is one it alone says who may do what, and there are no grants.
    pub fn policy(&self) -> Option<&str> {
        Some(self.policy.as_str()).filter(|text| !text.is_empty())
    }

    /// Whether gateways may act for it: a service principal with an enabled access key.
    pub fn is_service_principal(&self, identity: &Identity) -> bool {
        self.service_principals.contains(identity)
    }

    /// Whether a grant allows `identity` this action for this purpose; `dataset` is `None` for what concerns no
    /// dataset in particular, which takes a grant on all of them. Says nothing about enrolment.
    pub fn allows(
        &self,
        identity: &Identity,
        dataset: Option<&DatasetId>,
        action: v1::Action,
        purpose: &str,
    ) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.allows(identity, dataset, action, purpose))
    }

    /// A region whose KMS replicas and gateways are admitted on federation listeners.
    pub fn trusted(&self, region: &RegionId) -> Option<&TrustedRegion> {
        self.trusted.get(region)
    }

    /// Every such region, in order.
    pub fn trusted_regions(&self) -> impl Iterator<Item = &TrustedRegion> {
        self.trusted.values()
    }

    /// What this region says of itself to them; `None` before its first publication.
    pub fn descriptor(&self) -> Option<&v1::SignedRegionDescriptor> {
        self.descriptor.as_ref()
    }

    /// Distinct approvers that a dual-controlled request takes besides its requester; at least 2.
    pub fn approvals_min(&self) -> u32 {
        self.approvals_min
    }

    /// When it was signed.
    pub fn signed_at(&self) -> UnixMs {
        self.signed_at
    }

    /// DER of the region's CA certificate.
    pub fn ca_certificate(&self) -> &[u8] {
        &self.ca_certificate
    }

    /// The set as it was signed, to hand on.
    pub fn signed(&self) -> &v1::SignedEnrolmentSet {
        &self.signed
    }

    /// Everyone, in order of identity.
    pub fn iter(&self) -> impl Iterator<Item = &Enrolled> {
        self.enrolled.iter()
    }

    /// Whose key this is.
    pub fn by_public_key(&self, key: &PublicKey) -> Option<&Enrolled> {
        self.by_key.get(key).map(|at| &self.enrolled[*at])
    }

    /// The member of this role and id.
    pub fn by_node_id(&self, role: Role, id: NodeId) -> Option<&Enrolled> {
        self.by_node.get(&(role, id)).map(|at| &self.enrolled[*at])
    }

    /// An identity's enrolment.
    pub fn by_identity(&self, identity: &Identity) -> Option<&Enrolled> {
        self.enrolled
            .iter()
            .find(|enrolled| &enrolled.identity == identity)
    }

    /// Everyone of a role, in order of identity.
    pub fn members(&self, role: Role) -> impl Iterator<Item = &Enrolled> {
        self.enrolled
            .iter()
            .filter(move |enrolled| enrolled.identity.role() == role)
    }

    /// Whether both state the same, but for when they were signed and by whom.
    pub(super) fn states_the_same(&self, other: &Self) -> bool {
        self.version == other.version
            && self.jurisdiction == other.jurisdiction
            && self.ca_certificate == other.ca_certificate
            && self.enrolled == other.enrolled
            && self.grants == other.grants
            && self.policy == other.policy
            && self.service_principals == other.service_principals
            && self.regions == other.regions
            && self.descriptor == other.descriptor
            && self.approvals_min == other.approvals_min
    }
}
