//! Who may act in this region, kept current: the newest enrolment set that this process has verified.
//!
//! Owns the rules by which one set follows another, the durable copy and the 24-hour rule. Refuses a set of
//! another region, jurisdiction or CA, an older one, one whose signer the held set does not enrol as a KMS
//! replica, and a different statement under the same version. A certificate only authenticates; here is where an
//! identity is allowed to act, and where removing it takes effect.

mod file;
mod grant;
mod table;
mod trusted;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{Identity, Jurisdiction, NodeId, RegionId, Role, UnixMs};
use proto::v1;
use tokio::sync::watch;

pub use grant::{Grant, Principal, SERVICE};
pub use table::{ENROLMENTS_MAX, Enrolled, EnrolmentTable, GRANTS_MAX, MalformedSet};
pub use trusted::{TrustedRegion, UntrustedDescriptor, verify_descriptor};

use crate::certificate::RegionTrust;
use crate::clock::SharedClock;
use crate::identity::LocalIdentity;
use crate::keys::PublicKey;
use crate::peer::PeerError;

/// Label of the signature over an encoded enrolment set.
pub const SET_LABEL: &str = proto::transcript::LABEL_ENROLMENT_SET;
/// How long the last set counts when the KMS does not answer (DESIGN section 4).
pub const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// How far a signer's clock may be ahead of ours. A set from the far future would never go stale.
pub const AHEAD_MAX: Duration = Duration::from_secs(600);

/// Why a set is not taken.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// It is not a set.
    #[error("enrolment set is malformed")]
    Malformed(#[source] MalformedSet),
    /// Another region's.
    #[error("enrolment set is of region {found}, this is {expected}")]
    OtherRegion {
        /// The region this process is in.
        expected: RegionId,
        /// The region the set is of.
        found: RegionId,
    },
    /// A region does not move to another jurisdiction.
    #[error("enrolment set is of jurisdiction {found}, the region's is {expected}")]
    OtherJurisdiction {
        /// The region's jurisdiction.
        expected: Jurisdiction,
        /// What the set states.
        found: Jurisdiction,
    },
    /// It names another CA than the pinned one.
    #[error("enrolment set names another certificate authority than the pinned one")]
    OtherCa,
    /// The first set is version 1 and signed by the pinned CA's key.
    #[error("first enrolment set is not version 1 signed by the pinned certificate authority")]
    NotFirst,
    /// The signer is no KMS replica of the set held.
    #[error("signer of enrolment set {version} is not an enrolled KMS replica")]
    Signer {
        /// Version offered.
        version: u64,
    },
    /// The signature does not verify.
    #[error("signature of enrolment set {version} does not verify")]
    Signature {
        /// Version offered.
        version: u64,
    },
    /// Older than what is held.
    #[error("enrolment set {offered} is older than {held}, which is held")]
    Older {
        /// Version offered.
        offered: u64,
        /// Version held.
        held: u64,
    },
    /// Two statements of one version: somebody forks the region's state.
    #[error("enrolment set {version} differs from the set of the same version that is held")]
    Forked {
        /// The version both claim.
        version: u64,
    },
    /// Signed further in the future than clocks differ.
    #[error("enrolment set {version} was signed {ahead_s} s in the future; check both clocks")]
    FromTheFuture {
        /// Version offered.
        version: u64,
        /// Seconds ahead of this host's clock.
        ahead_s: u64,
    },
    /// The durable copy could not be read or written.
    #[error("enrolment file could not be read or written")]
    File(#[source] std::io::Error),
}

/// The newest verified enrolment set of this process's region. Clones share it.
#[derive(Clone)]
pub struct Enrolments(Arc<Inner>);

struct Inner {
    trust: RegionTrust,
    clock: SharedClock,
    path: Option<PathBuf>,
    held: watch::Sender<Arc<EnrolmentTable>>,
    /// One offer at a time: compare, save, publish.
    offering: Mutex<()>,
}

impl Enrolments {
    /// Starts from a region's first set: version 1, signed by the pinned CA's key. In memory only.
    pub fn bootstrap(
        trust: RegionTrust,
        signed: &v1::SignedEnrolmentSet,
        clock: SharedClock,
    ) -> Result<Self, EnrolmentError> {
        let table = first(&trust, signed, &clock)?;
        Ok(Self::holding(trust, table, clock, None))
    }

    /// Starts from the durable copy at `path`, or, when there is none, from a region's first set, which is saved
    /// there. Later sets are saved before they count.
    ///
    /// The copy is as trustworthy as the disk it lies on: its signature is checked against the KMS replicas it
    /// enrols itself (or the CA, for version 1), which finds damage, not an intruder who can write there.
    pub fn open(
        path: &Path,
        trust: RegionTrust,
        first_set: &v1::SignedEnrolmentSet,
        clock: SharedClock,
    ) -> Result<Self, EnrolmentError> {
        if let Some(held) = Self::load(path, trust.clone(), clock.clone())? {
            return Ok(held);
        }
        let table = first(&trust, first_set, &clock)?;
        file::save(path, table.signed()).map_err(EnrolmentError::File)?;
        Ok(Self::holding(trust, table, clock, Some(path.to_owned())))
    }

    /// Starts from the durable copy at `path`; `None` when there is none.
    pub fn load(
        path: &Path,
        trust: RegionTrust,
        clock: SharedClock,
    ) -> Result<Option<Self>, EnrolmentError> {
        let Some(signed) = file::load(path).map_err(EnrolmentError::File)? else {
            return Ok(None);
        };
        let table = parse(&trust, &signed)?;
        signed_by(&trust, &table, &table)?;
        not_from_the_future(&table, &clock)?;
        Ok(Some(Self::holding(
            trust,
            table,
            clock,
            Some(path.to_owned()),
        )))
    }

    fn holding(
        trust: RegionTrust,
        table: EnrolmentTable,
        clock: SharedClock,
        path: Option<PathBuf>,
    ) -> Self {
        let held = watch::Sender::new(Arc::new(table));
        Self(Arc::new(Inner {
            trust,
            clock,
            path,
            held,
            offering: Mutex::new(()),
        }))
    }

    /// Takes a set that follows the held one; answers whether it did. A refresh (same version, signed later)
    /// counts as following; the same or an earlier signing of the held version is `false`.
    ///
    /// Saves durably first, so it may block for a disk sync: call it off the async threads.
    pub fn offer(&self, signed: &v1::SignedEnrolmentSet) -> Result<bool, EnrolmentError> {
        let _one = self.0.offering.lock();
        let held = self.current();
        let offered = parse(&self.0.trust, signed)?;
        let version = offered.version();
        if offered.jurisdiction() != held.jurisdiction() {
            let expected = held.jurisdiction().clone();
            let found = offered.jurisdiction().clone();
            return Err(EnrolmentError::OtherJurisdiction { expected, found });
        }
        // The signature first: what is not authentic gets no further say.
        signed_by(&self.0.trust, &held, &offered)?;
        if version < held.version() {
            return Err(EnrolmentError::Older {
                offered: version,
                held: held.version(),
            });
        }
        let refresh = version == held.version();
        if refresh && !offered.states_the_same(&held) {
            return Err(EnrolmentError::Forked { version });
        }
        // Replicas sign with their own clocks: a slightly earlier refresh is stale news, not an attack.
        if refresh && offered.signed_at() <= held.signed_at() {
            return Ok(false);
        }
        not_from_the_future(&offered, &self.0.clock)?;
        if let Some(path) = &self.0.path {
            file::save(path, signed).map_err(EnrolmentError::File)?;
        }
        self.0.held.send_replace(Arc::new(offered));
        Ok(true)
    }

    /// The set held now.
    pub fn current(&self) -> Arc<EnrolmentTable> {
        self.0.held.borrow().clone()
    }

    /// Told of every set that is taken, refreshes included.
    pub fn watch(&self) -> watch::Receiver<Arc<EnrolmentTable>> {
        self.0.held.subscribe()
    }

    /// The version held.
    pub fn version(&self) -> u64 {
        self.0.held.borrow().version()
    }

    /// Whose key this is.
    pub fn by_public_key(&self, key: &PublicKey) -> Option<Enrolled> {
        self.0.held.borrow().by_public_key(key).cloned()
    }

    /// The member of this role and id.
    pub fn by_node_id(&self, role: Role, id: NodeId) -> Option<Enrolled> {
        self.0.held.borrow().by_node_id(role, id).cloned()
    }

    /// Everyone of a role, in order of identity.
    pub fn members(&self, role: Role) -> Vec<Enrolled> {
        self.0.held.borrow().members(role).cloned().collect()
    }

    /// How old the KMS's statement is, by this host's clock.
    pub fn age(&self) -> Duration {
        let signed_at = self.0.held.borrow().signed_at();
        Duration::from_millis(self.0.clock.now().0.saturating_sub(signed_at.0))
    }

    /// Whether the statement is over 24 hours old. While it is, only connections with a KMS replica at one end
    /// are allowed: that is how a region that was off for a week comes back.
    pub fn stale(&self) -> bool {
        self.age() > STALE_AFTER
    }

    /// What this region pins.
    pub fn trust(&self) -> &RegionTrust {
        &self.0.trust
    }

    /// The clock certificates and sets are judged by.
    pub fn clock(&self) -> &SharedClock {
        &self.0.clock
    }

    /// Whether `identity` may act with this key right now, seen from a process of role `local`; its member id.
    pub fn check(
        &self,
        local: Role,
        identity: &Identity,
        key: &PublicKey,
    ) -> Result<Option<NodeId>, PeerError> {
        let held = self.0.held.borrow();
        let node_id = enrolled_as(&held, identity, key)?;
        drop(held);
        if local != Role::Kms && identity.role() != Role::Kms && self.stale() {
            return Err(PeerError::Stale {
                age_s: self.age().as_secs(),
            });
        }
        Ok(node_id)
    }

    /// Whether somebody of another region may act on a federation listener of this one right now, seen from a process of
    /// role `local`: a region that is trusted has to name identity and key, and be within its descriptor's time.
    pub fn check_federated(
        &self,
        local: Role,
        identity: &Identity,
        key: &PublicKey,
    ) -> Result<(), PeerError> {
        described_as(&self.0.held.borrow(), self.0.clock.now(), identity, key)?;
        // Who has not heard of a distrust for a day does not go on as if there were none.
        if local != Role::Kms && self.stale() {
            return Err(PeerError::Stale {
                age_s: self.age().as_secs(),
            });
        }
        Ok(())
    }

    /// Waits until this identity and key are no longer enrolled together; says why.
    pub(crate) async fn withdrawn(self, identity: Identity, key: PublicKey) -> PeerError {
        self.until(|table| enrolled_as(table, &identity, &key).map(drop))
            .await
    }

    /// Waits until this identity of another region is no longer trusted with this key; says why.
    pub(crate) async fn distrusted(self, identity: Identity, key: PublicKey) -> PeerError {
        let clock = self.0.clock.clone();
        self.until(|table| described_as(table, clock.now(), &identity, &key))
            .await
    }

    async fn until(&self, holds: impl Fn(&EnrolmentTable) -> Result<(), PeerError>) -> PeerError {
        let mut sets = self.watch();
        loop {
            if let Err(why) = holds(&sets.borrow_and_update()) {
                return why;
            }
            if sets.changed().await.is_err() {
                // The sender lives in `self`, so it cannot have gone.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Enrolments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.current();
        write!(
            f,
            "Enrolments({} version {})",
            held.region(),
            held.version()
        )
    }
}

/// A KMS replica's signature over a set: a later version, or a refresh of this one.
pub fn sign_set(signer: &LocalIdentity, set: &v1::EnrolmentSet) -> v1::SignedEnrolmentSet {
    let bytes = set.encode_to_vec();
    v1::SignedEnrolmentSet {
        signer: signer.public_key().as_spki().to_vec().into(),
        signature: signer.sign(SET_LABEL, &bytes).to_vec().into(),
        set: bytes.into(),
    }
}

/// What a set states besides whose region it is.
#[derive(Debug, Clone)]
pub struct SetContents {
    /// The region's jurisdiction.
    pub jurisdiction: Jurisdiction,
    /// From 1 up.
    pub version: u64,
    /// When it is signed.
    pub signed_at: UnixMs,
    /// Who may act, in any order.
    pub enrolments: Vec<v1::Enrolment>,
    /// What they may do, in any order.
    pub grants: Vec<v1::Grant>,
    /// Approvers of a dual-controlled request; at least 2.
    pub approvals_min: u32,
}

/// A set in the form that is signed: sorted as the format wants it.
pub fn new_set(trust: &RegionTrust, contents: SetContents) -> v1::EnrolmentSet {
    let SetContents {
        mut enrolments,
        mut grants,
        ..
    } = contents;
    enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    grants.sort_by_cached_key(v1::Grant::encode_to_vec);
    v1::EnrolmentSet {
        format: 1,
        region: trust.region().to_string(),
        jurisdiction: contents.jurisdiction.to_string(),
        version: contents.version,
        ca_certificate: trust.ca_certificate().to_vec().into(),
        enrolments,
        signed_at_ms: contents.signed_at.0,
        grants,
        approvals_min: contents.approvals_min,
        policy: String::new(),
        service_principals: Vec::new(),
        trusted_regions: Vec::new(),
        descriptor: None,
    }
}

fn enrolled_as(
    table: &EnrolmentTable,
    identity: &Identity,
    key: &PublicKey,
) -> Result<Option<NodeId>, PeerError> {
    match table.by_public_key(key) {
        None => Err(PeerError::NotEnrolled {
            identity: identity.clone(),
        }),
        Some(enrolled) if &enrolled.identity != identity => Err(PeerError::EnrolledAsOther {
            presented: identity.clone(),
            enrolled: enrolled.identity.clone(),
        }),
        Some(enrolled) => Ok(enrolled.node_id),
    }
}

fn described_as(
    table: &EnrolmentTable,
    now: UnixMs,
    identity: &Identity,
    key: &PublicKey,
) -> Result<(), PeerError> {
    let named = identity.clone();
    let trusted = table.trusted(identity.region());
    let trusted = trusted.ok_or(PeerError::NotTrusted { identity: named })?;
    trusted.names(identity, key, now)
}

fn parse(
    trust: &RegionTrust,
    signed: &v1::SignedEnrolmentSet,
) -> Result<EnrolmentTable, EnrolmentError> {
    let table = EnrolmentTable::parse(signed).map_err(EnrolmentError::Malformed)?;
    if table.region() != trust.region() {
        let (expected, found) = (trust.region().clone(), table.region().clone());
        return Err(EnrolmentError::OtherRegion { expected, found });
    }
    if table.ca_certificate() != trust.ca_certificate() {
        return Err(EnrolmentError::OtherCa);
    }
    Ok(table)
}

fn first(
    trust: &RegionTrust,
    signed: &v1::SignedEnrolmentSet,
    clock: &SharedClock,
) -> Result<EnrolmentTable, EnrolmentError> {
    let table = parse(trust, signed)?;
    if table.version() != 1 || signed.signer.as_ref() != trust.ca_key().as_spki() {
        return Err(EnrolmentError::NotFirst);
    }
    signed_by(trust, &table, &table)?;
    not_from_the_future(&table, clock)?;
    Ok(table)
}

/// `offered` is signed by a KMS replica that `held` enrols; version 1 may also be by the CA.
fn signed_by(
    trust: &RegionTrust,
    held: &EnrolmentTable,
    offered: &EnrolmentTable,
) -> Result<(), EnrolmentError> {
    let (version, signed) = (offered.version(), offered.signed());
    let signer =
        PublicKey::from_spki(&signed.signer).map_err(|_| EnrolmentError::Signer { version })?;
    let by_ca = version == 1 && signer == trust.ca_key();
    let by_kms = held
        .by_public_key(&signer)
        .is_some_and(|enrolled| enrolled.identity.role() == Role::Kms);
    if !by_ca && !by_kms {
        return Err(EnrolmentError::Signer { version });
    }
    signer
        .verify(SET_LABEL, &signed.set, &signed.signature)
        .map_err(|_| EnrolmentError::Signature { version })
}

fn not_from_the_future(table: &EnrolmentTable, clock: &SharedClock) -> Result<(), EnrolmentError> {
    let ahead = Duration::from_millis(table.signed_at().0.saturating_sub(clock.now().0));
    if ahead > AHEAD_MAX {
        let (version, ahead_s) = (table.version(), ahead.as_secs());
        return Err(EnrolmentError::FromTheFuture { version, ahead_s });
    }
    Ok(())
}
