//! The other end of a connection: who it proved to be, and whether it may still act.
//!
//! Owns the check that every request makes. Refuses a request whose connection's key has been withdrawn or
//! enrolled under another identity since the handshake, and one that reached a service past the acceptor.

use std::net::SocketAddr;
use std::sync::Arc;

use proto::ids::{Identity, NodeId, RegionId, Role};
use rustls::pki_types::CertificateDer;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status};

use crate::certificate::{self, CertificateError, RegionTrust};
use crate::clock::SharedClock;
use crate::enrolment::{Enrolments, TrustedRegion};
use crate::fault::{Fault, Faulty, status_of};
use crate::keys::PublicKey;

/// Why an authenticated peer may not act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Its certificate says nothing usable.
    #[error("peer's certificate states no identity")]
    Certificate(#[source] CertificateError),
    /// Its certificate is of another region, though this region's CA signed it.
    #[error("{identity} is not of region {expected}")]
    OtherRegion {
        /// Whom the certificate states.
        identity: Identity,
        /// The region of this process.
        expected: RegionId,
    },
    /// A valid certificate, and no enrolment.
    #[error("the key of {identity} is not enrolled")]
    NotEnrolled {
        /// Whom the certificate states.
        identity: Identity,
    },
    /// The key is enrolled, as somebody else: another role or name.
    #[error("the key presented as {presented} is enrolled as {enrolled}")]
    EnrolledAsOther {
        /// Whom the certificate states.
        presented: Identity,
        /// Whom the key is enrolled as.
        enrolled: Identity,
    },
    /// Its region is not one that this region trusts.
    #[error("the region of {identity} is not trusted here")]
    NotTrusted {
        /// Whom the certificate states.
        identity: Identity,
    },
    /// Its region's descriptor is past its time.
    #[error(
        "the descriptor of the region of {identity} has expired: its newest one has to be taken"
    )]
    NotGood {
        /// Whom the certificate states.
        identity: Identity,
    },
    /// Its region does not name it, or not with this key.
    #[error("the key of {identity} is not in the descriptor of its region")]
    NotDescribed {
        /// Whom the certificate states.
        identity: Identity,
    },
    /// The KMS has not confirmed the enrolments for over 24 hours.
    #[error("enrolments were last confirmed {age_s} s ago, more than 24 h")]
    Stale {
        /// Age of the set in seconds.
        age_s: u64,
    },
    /// Somebody, but not the one this connection was for.
    #[error("connected to {found}, expected {expected}")]
    Unexpected {
        /// Who was expected.
        expected: Expect,
        /// Who answered.
        found: Identity,
    },
    /// A role that may not do this.
    #[error("{identity} may not do this")]
    Role {
        /// Who asked.
        identity: Identity,
    },
    /// The request did not come through this crate's acceptor.
    #[error("request has no authenticated peer")]
    Unauthenticated,
}

impl Faulty for PeerError {
    fn fault(&self) -> Fault {
        match self {
            Self::Certificate(_) | Self::OtherRegion { .. } | Self::Unauthenticated => {
                Fault::Unauthenticated
            }
            Self::NotEnrolled { .. } | Self::EnrolledAsOther { .. } => Fault::Unauthenticated,
            Self::NotTrusted { .. } | Self::NotGood { .. } | Self::NotDescribed { .. } => {
                Fault::Unauthenticated
            }
            Self::Unexpected { .. } | Self::Role { .. } => Fault::Denied,
            Self::Stale { .. } => Fault::Unavailable,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "peer-certificate",
            Self::OtherRegion { .. } => "peer-other-region",
            Self::NotEnrolled { .. } => "peer-not-enrolled",
            Self::EnrolledAsOther { .. } => "peer-enrolled-as-other",
            Self::NotTrusted { .. } => "peer-region-not-trusted",
            Self::NotGood { .. } => "peer-region-expired",
            Self::NotDescribed { .. } => "peer-not-described",
            Self::Stale { .. } => "enrolments-stale",
            Self::Unexpected { .. } => "peer-unexpected",
            Self::Role { .. } => "peer-role",
            Self::Unauthenticated => "peer-unauthenticated",
        }
    }
}

/// Whom a connection is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Exactly this identity.
    Identity(Identity),
    /// Anyone of this role.
    Role(Role),
    /// The member of this role and id. Needs an enrolment set.
    Node(Role, NodeId),
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Identity(identity) => write!(f, "{identity}"),
            Self::Role(role) => write!(f, "any {}", role.as_str()),
            Self::Node(role, id) => write!(f, "{} {id}", role.as_str()),
        }
    }
}

/// An authenticated peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub identity: Identity,
    /// With which key.
    pub public_key: PublicKey,
    /// Its member id, if it is enrolled as a member.
    pub node_id: Option<NodeId>,
    /// From where.
    pub remote: SocketAddr,
    /// What its request states of itself.
    pub stated: Stated,
}

/// What a request to a storage node states of itself, in its headers: the caller's own words, as in a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stated {
    /// What for; empty means `service`.
    pub purpose: String,
    /// Which case; empty for none.
    pub case: String,
    /// For whom; empty for nobody else. Policy is asked about a service principal too.
    pub on_behalf_of: String,
}

impl Stated {
    const PURPOSE: &str = "reduit-purpose";
    const CASE: &str = "reduit-case-bin";
    const UNREAD: &str = "spiffe://?";
    const ON_BEHALF_OF: &str = "reduit-on-behalf-of-bin";
    /// Bytes of each that are read: longer ones are of nobody's policy.
    const BYTES_MAX: usize = 1_024;

    /// A request that states this.
    pub fn of<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.write(request.metadata_mut());
        request
    }

    /// The same in the headers of a request that is there.
    pub fn write(&self, headers: &mut MetadataMap) {
        if let Ok(purpose) = self.purpose.parse()
            && !self.purpose.is_empty()
        {
            headers.insert(Self::PURPOSE, purpose);
        }
        for (header, text) in [
            (Self::CASE, &self.case),
            (Self::ON_BEHALF_OF, &self.on_behalf_of),
        ] {
            if !text.is_empty() {
                headers.insert_bin(header, MetadataValue::from_bytes(text.as_bytes()));
            }
        }
    }

    /// What cannot be read is kept as words that no policy permits anything for: as [`Self::UNREAD`] begins, no identity
    /// is spelled.
    fn read(headers: &MetadataMap) -> Self {
        let unread = || Self::UNREAD.to_owned();
        let purpose = headers.get(Self::PURPOSE).map(|value| {
            let text = value.to_str().ok().map(str::to_owned);
            text.filter(|text| text.len() <= Self::BYTES_MAX)
                .unwrap_or_else(unread)
        });
        let text = |header| {
            let text = headers.get_bin(header).map(|value| {
                let bytes = value.to_bytes().ok().map(|bytes| bytes.to_vec());
                bytes
                    .filter(|bytes| bytes.len() <= Self::BYTES_MAX)
                    .and_then(|bytes| String::from_utf8(bytes).ok())
                    .unwrap_or_else(unread)
            });
            text.unwrap_or_default()
        };
        Self {
            purpose: purpose.unwrap_or_default(),
            case: text(Self::CASE),
            on_behalf_of: text(Self::ON_BEHALF_OF),
        }
    }
}

/// What a peer is judged by.
#[derive(Debug, Clone)]
pub(crate) enum Judge {
    /// The enrolment set, as a process of the given role sees it.
    Enrolled(Enrolments, Role),
    /// The pinned CA alone: a process that holds no set (the command line) and checks whom it expects.
    Pinned(RegionTrust),
    /// The descriptors of trusted regions: who is not of this region, in a role that may be met there.
    Federated(Federated),
    /// The descriptor of one other region, of a process that holds no set: who listens there.
    Described(Described),
}

/// A region as one descriptor has it.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    region: Arc<TrustedRegion>,
    pub(crate) clock: SharedClock,
}

impl Described {
    pub(crate) fn new(region: TrustedRegion, clock: SharedClock) -> Self {
        let region = Arc::new(region);
        Self { region, clock }
    }

    fn check(&self, identity: &Identity, key: &PublicKey) -> Result<(), PeerError> {
        self.region.names(identity, key, self.clock.now())?;
        match LISTENERS.contains(&identity.role()) {
            true => Ok(()),
            false => Err(PeerError::Role {
                identity: identity.clone(),
            }),
        }
    }
}

/// Roles that listen for other regions.
const LISTENERS: &[Role] = &[Role::Kms, Role::Node];

/// Who of other regions is admitted.
#[derive(Debug, Clone)]
pub(crate) struct Federated {
    enrolments: Enrolments,
    local: Role,
    roles: &'static [Role],
}

impl Federated {
    /// As a listener of this process admits them: who asks keys or data of another region.
    pub(crate) fn callers(enrolments: Enrolments, local: Role) -> Self {
        let roles = &[Role::Kms, Role::Gateway];
        Self {
            enrolments,
            local,
            roles,
        }
    }

    /// As this process meets them: who listens there.
    pub(crate) fn listeners(enrolments: Enrolments, local: Role) -> Self {
        Self {
            enrolments,
            local,
            roles: LISTENERS,
        }
    }

    pub(crate) fn enrolments(&self) -> &Enrolments {
        &self.enrolments
    }

    fn check(&self, identity: &Identity, key: &PublicKey) -> Result<(), PeerError> {
        self.enrolments.check_federated(self.local, identity, key)?;
        match self.roles.contains(&identity.role()) {
            true => Ok(()),
            false => Err(PeerError::Role {
                identity: identity.clone(),
            }),
        }
    }
}

impl Judge {
    /// What a certificate's chain is checked against: the one CA that is pinned for the region that it names. Nothing in
    /// the certificate is believed yet.
    pub(crate) fn trust_for(&self, leaf: &CertificateDer<'_>) -> Result<RegionTrust, PeerError> {
        match self {
            Self::Enrolled(enrolments, _) => Ok(enrolments.trust().clone()),
            Self::Pinned(trust) => Ok(trust.clone()),
            Self::Described(described) => Ok(described.region.trust().clone()),
            Self::Federated(federated) => {
                let subject = certificate::subject(leaf).map_err(PeerError::Certificate)?;
                let identity = subject.identity;
                let table = federated.enrolments.current();
                match table.trusted(identity.region()) {
                    Some(region) => Ok(region.trust().clone()),
                    None => Err(PeerError::NotTrusted { identity }),
                }
            }
        }
    }

    /// Judges a certificate whose chain has been verified.
    pub(crate) fn admit(
        &self,
        leaf: &CertificateDer<'_>,
        expect: Option<&Expect>,
    ) -> Result<(Identity, PublicKey, Option<NodeId>), PeerError> {
        let subject = certificate::subject(leaf).map_err(PeerError::Certificate)?;
        let (identity, key) = (subject.identity, subject.public_key);
        let expected = self.trust_for(leaf)?.region().clone();
        if *identity.region() != expected {
            return Err(PeerError::OtherRegion { identity, expected });
        }
        let node_id = self.recheck(&identity, &key)?;
        let as_expected = match expect {
            None => true,
            Some(Expect::Identity(expected)) => expected == &identity,
            Some(Expect::Role(role)) => *role == identity.role(),
            Some(Expect::Node(role, id)) => *role == identity.role() && node_id == Some(*id),
        };
        match (as_expected, expect) {
            (false, Some(expected)) => Err(PeerError::Unexpected {
                expected: expected.clone(),
                found: identity,
            }),
            _ => Ok((identity, key, node_id)),
        }
    }

    fn recheck(&self, identity: &Identity, key: &PublicKey) -> Result<Option<NodeId>, PeerError> {
        match self {
            Self::Enrolled(enrolments, local) => enrolments.check(*local, identity, key),
            Self::Pinned(_) => Ok(None),
            Self::Described(described) => described.check(identity, key).map(|()| None),
            Self::Federated(federated) => federated.check(identity, key).map(|()| None),
        }
    }
}

/// What tonic keeps with every request of a connection: the peer, and how to ask whether it still may act.
#[derive(Debug, Clone)]
pub struct PeerConnection {
    pub(crate) peer: Arc<Peer>,
    pub(crate) judge: Judge,
}

impl PeerConnection {
    /// The peer, if it may act right now.
    pub fn current(&self) -> Result<Peer, PeerError> {
        let node_id = self
            .judge
            .recheck(&self.peer.identity, &self.peer.public_key)?;
        Ok(Peer {
            node_id,
            ..Peer::clone(&self.peer)
        })
    }

    /// The peer as it was at the handshake; for logs, not for decisions.
    pub fn at_handshake(&self) -> &Peer {
        &self.peer
    }
}

/// The peer of a request, checked again: the key must still be enrolled, under the same identity and so role.
pub fn peer<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = peer_in(request.extensions().get::<PeerConnection>());
    let peer = peer.map_err(|error| status_of(&error))?;
    let stated = Stated::read(request.metadata());
    Ok(Peer { stated, ..peer })
}

/// As [`peer`], for what is not a tonic request: the connect info that the acceptor's stream gave.
pub fn peer_in(connection: Option<&PeerConnection>) -> Result<Peer, PeerError> {
    connection.ok_or(PeerError::Unauthenticated)?.current()
}

/// Refuses a peer whose role is none of `roles`.
pub fn require_role(peer: &Peer, roles: &[Role]) -> Result<(), Status> {
    if roles.contains(&peer.identity.role()) {
        return Ok(());
    }
    Err(status_of(&PeerError::Role {
        identity: peer.identity.clone(),
    }))
}
