//! Who is enrolled and what they may do: the verdict of policy.
//!
//! Owns the parsed form of the enrolment set, the evaluation of grants and the binding of purposes to roles.
//! Refuses: everything that no grant allows, and so everything where a policy text rules, which the driver asks. Apply
//! holds a verdict to the version of the set it was given on: enrolments, grants and policy text have one version.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, Identity, Jurisdiction, RegionId, Role};
use proto::store::Reader;
use proto::v1::{Action, Enrolment, EnrolmentSet, Grant};
use tlog::Purpose;

use crate::policy::TEXT_BYTES_MAX;
use crate::read;
use crate::refusal::Refusal;
use crate::regions;

/// Identities a region may enrol.
pub const ENROLMENTS_MAX: usize = 10_000;
/// Grants a region may hold.
pub const GRANTS_MAX: usize = 10_000;
/// Fewest approvers that dual control knows.
const APPROVALS_FLOOR: u32 = 2;
/// DER SubjectPublicKeyInfo of an Ed25519 key up to the key's 32 bytes (RFC 8410 §4).
const ED25519_SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const ED25519_SPKI_BYTES: usize = 44;
const HPKE_KEY_BYTES_MAX: usize = 2_048;
const ENDPOINT_BYTES_MAX: usize = 255;

/// Purposes that only a person may state, and only with dual control.
const HUMAN_PURPOSES: [&str; 4] = [
    "investigation",
    "third-party-request",
    "legal-request",
    "support",
];

/// Whether a purpose is a person's: no gateway and no service may state it.
pub fn is_human_purpose(purpose: &Purpose) -> bool {
    HUMAN_PURPOSES.contains(&purpose.as_str())
}

/// What policy is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Who, authenticated.
    pub principal: &'a Identity,
    /// On which dataset.
    pub dataset: &'a DatasetId,
    /// To do what.
    pub action: Action,
    /// What for.
    pub purpose: &'a Purpose,
}

/// Policy allows it, on this version of the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Goes into the command; apply refuses when it moved.
    pub authority_version: u64,
    /// Distinct approvers that the command must carry: 0 for everyday use.
    pub approvals_needed: u32,
}

/// Policy denies it. The words name no dataset and no principal; who asked knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The region is not initialised: nobody may do anything.
    #[error("the region's KMS is not initialised")]
    NotInitialised,
    /// A certificate only authenticates; the identity is not enrolled.
    #[error("the identity is not enrolled")]
    NotEnrolled,
    /// The role can never do this, whatever is granted.
    #[error("the identity's role may never do this for this purpose")]
    Role,
    /// No grant covers it.
    #[error("no grant covers principal, dataset, action and purpose")]
    NoGrant,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotInitialised => Self::NotInitialised,
            Denied::NotEnrolled => Self::NotEnrolled,
            Denied::Role | Denied::NoGrant => Self::NotGranted,
        }
    }
}

/// Asks the authority in force. Default deny. For many questions keep an [`Authority`] by its version.
pub fn may(state: &dyn Reader, question: Question<'_>) -> Result<Verdict, Denied> {
    Authority::load(state)
        .ok_or(Denied::NotInitialised)?
        .may(question)
}

/// The enrolments and grants of one version, indexed.
#[derive(Debug, Clone, PartialEq)]
pub struct Authority {
    region: RegionId,
    jurisdiction: Jurisdiction,
    set: EnrolmentSet,
    enrolled: BTreeMap<Identity, usize>,
    service_principals: BTreeSet<Identity>,
}

/// What a role can never go beyond, whatever is granted.
fn role_allows(role: Role, action: Action, purpose: &Purpose) -> bool {
    let unbound = broken(Switch::AnyonesPurpose) && matches!(role, Role::Gateway | Role::Client);
    let human = is_human_purpose(purpose) && !unbound;
    match role {
        // A service principal acts through a gateway, and never beyond it.
        Role::Gateway | Role::Service => {
            !human && action != Action::Keys && action != Action::Unspecified
        }
        Role::Client => !human && action != Action::Unspecified,
        // An operator runs the region and must not, by any interface, read customer data.
        Role::Operator => !human && matches!(action, Action::Create | Action::Keys),
        // A person who opens, opens for a person's purpose, with dual control. Evidence begins with what there is: to
        // list is a service, and opens nothing.
        Role::Auditor => match human {
            true => action == Action::Read,
            false => action == Action::List,
        },
        Role::Node | Role::Kms | Role::Custodian => false,
    }
}

impl Authority {
    /// The authority in force.
    pub fn load(state: &dyn Reader) -> Option<Self> {
        let set = read::authority_set(state)?;
        Some(Self::parse(set).expect("state holds only sets that parsed"))
    }

    /// Checks a set completely; see [`Refusal`] for what is wrong with one.
    pub fn parse(set: EnrolmentSet) -> Result<Self, Refusal> {
        let region = set
            .region
            .parse()
            .map_err(|_| Refusal::Malformed("region"))?;
        let jurisdiction = set
            .jurisdiction
            .parse()
            .map_err(|_| Refusal::Malformed("jurisdiction"))?;
        if set.format != 1 || set.version == 0 || set.ca_certificate.is_empty() {
            return Err(Refusal::Malformed("enrolment set"));
        }
        if set.approvals_min < APPROVALS_FLOOR {
            return Err(Refusal::Malformed(
                "dual control takes at least two approvers",
            ));
        }
        if set.enrolments.len() > ENROLMENTS_MAX || set.grants.len() > GRANTS_MAX {
            return Err(Refusal::Malformed("too many enrolments or grants"));
        }
        let (mut enrolled, mut keys) = (BTreeMap::new(), BTreeSet::new());
        let mut members = BTreeSet::new();
        for (position, enrolment) in set.enrolments.iter().enumerate() {
            let identity = check_enrolment(&region, &jurisdiction, enrolment)?;
            // One key under two names would let one person approve twice.
            if !keys.insert(&enrolment.public_key) {
                return Err(Refusal::AlreadyEnrolled);
            }
            if enrolment.node_id != 0 && !members.insert((identity.role(), enrolment.node_id)) {
                return Err(Refusal::AlreadyEnrolled);
            }
            if enrolled.insert(identity, position).is_some() {
                return Err(Refusal::AlreadyEnrolled);
            }
        }
        if !set.enrolments.is_sorted_by(|a, b| a.identity < b.identity) {
            return Err(Refusal::Malformed("enrolments are not sorted"));
        }
        if set.policy.len() > TEXT_BYTES_MAX {
            return Err(Refusal::Malformed("the policy text is too long"));
        }
        if !set.policy.is_empty() && !set.grants.is_empty() {
            return Err(Refusal::Malformed("grants beside a policy text"));
        }
        for grant in &set.grants {
            check_grant(&region, grant)?;
        }
        if !set
            .grants
            .is_sorted_by(|a, b| a.encode_to_vec() < b.encode_to_vec())
        {
            return Err(Refusal::Malformed("grants are not sorted or not distinct"));
        }
        let service_principals = service_principals(&region, &set)?;
        regions::check_set(&region, &set)?;
        Ok(Self {
            region,
            jurisdiction,
            set,
            enrolled,
            service_principals,
        })
    }

    /// The set as it stands in state.
    pub fn set(&self) -> &EnrolmentSet {
        &self.set
    }

    /// Goes up with every change of enrolments or grants.
    pub fn version(&self) -> u64 {
        self.set.version
    }

    /// The region.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// The region's jurisdiction.
    pub fn jurisdiction(&self) -> &Jurisdiction {
        &self.jurisdiction
    }

    /// Distinct approvers that dual control takes besides the requester: at least 2.
    pub fn approvals_min(&self) -> u32 {
        self.set.approvals_min
    }

    /// The policy text in force. Where there is one it alone says who may do what, and it is not asked here.
    pub fn policy_text(&self) -> Option<&str> {
        Some(self.set.policy.as_str()).filter(|text| !text.is_empty())
    }

    /// An identity's enrolment.
    pub fn enrolment(&self, identity: &Identity) -> Option<&Enrolment> {
        self.enrolled
            .get(identity)
            .map(|position| &self.set.enrolments[*position])
    }

    /// Whether gateways may act for it: a service principal with an enabled access key.
    pub fn is_service_principal(&self, identity: &Identity) -> bool {
        self.service_principals.contains(identity)
    }

    /// Enrolled identities of a role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = (&Identity, &Enrolment)> {
        self.enrolled
            .iter()
            .filter(move |(identity, _)| identity.role() == role)
            .map(|(identity, position)| (identity, &self.set.enrolments[*position]))
    }

    /// Refuses whoever is neither enrolled nor a service principal with an enabled access key.
    pub fn check_known(&self, principal: &Identity) -> Result<(), Denied> {
        match self.enrolled.contains_key(principal) || self.is_service_principal(principal) {
            true => Ok(()),
            false => Err(Denied::NotEnrolled),
        }
    }

    /// The verdict. Default deny.
    pub fn may(&self, question: Question<'_>) -> Result<Verdict, Denied> {
        let Question {
            principal,
            dataset,
            action,
            purpose,
        } = question;
        self.check_known(principal)?;
        if !role_allows(principal.role(), action, purpose) {
            return Err(Denied::Role);
        }
        let (name, dataset) = (principal.to_string(), dataset.to_string());
        let role = format!("role:{}", principal.role().as_str());
        let covered = self.set.grants.iter().any(|grant| {
            (grant.principal == name || grant.principal == role)
                && (grant.dataset == "*" || grant.dataset == dataset)
                && grant.actions.contains(&i32::from(action))
                && grants_purpose(grant, purpose)
        });
        if !covered {
            return Err(Denied::NoGrant);
        }
        let approvals_needed = if is_human_purpose(purpose) {
            self.approvals_min()
        } else {
            0
        };
        Ok(Verdict {
            authority_version: self.version(),
            approvals_needed,
        })
    }
}

fn grants_purpose(grant: &Grant, purpose: &Purpose) -> bool {
    if grant.purposes.is_empty() {
        return *purpose == Purpose::service();
    }
    grant
        .purposes
        .iter()
        .any(|granted| granted == purpose.as_str())
}

fn service_principals(
    region: &RegionId,
    set: &EnrolmentSet,
) -> Result<BTreeSet<Identity>, Refusal> {
    let malformed = Refusal::Malformed("service principals");
    if !set.service_principals.is_sorted_by(|a, b| a < b) {
        return Err(malformed);
    }
    let principals = set.service_principals.iter().map(|text| {
        let principal: Identity = text.parse().ok()?;
        let own = principal.role() == Role::Service && principal.region() == region;
        own.then_some(principal)
    });
    principals.collect::<Option<_>>().ok_or(malformed)
}

fn check_enrolment(
    region: &RegionId,
    jurisdiction: &Jurisdiction,
    enrolment: &Enrolment,
) -> Result<Identity, Refusal> {
    let identity: Identity = enrolment
        .identity
        .parse()
        .map_err(|_| Refusal::Malformed("identity"))?;
    // It has access keys, and neither a key nor a certificate that a connection could be made with.
    if identity.role() == Role::Service {
        return Err(Refusal::Malformed("identity"));
    }
    if identity.region() != region || enrolment.jurisdiction != jurisdiction.as_str() {
        return Err(Refusal::WrongJurisdiction);
    }
    let key = &enrolment.public_key;
    if key.len() != ED25519_SPKI_BYTES || !key.starts_with(&ED25519_SPKI_PREFIX) {
        return Err(Refusal::Malformed(
            "a public key is not an Ed25519 SubjectPublicKeyInfo",
        ));
    }
    let is_member = matches!(identity.role(), Role::Node | Role::Kms);
    if is_member != (enrolment.node_id != 0) {
        return Err(Refusal::Malformed(
            "members have a member id, others have none",
        ));
    }
    let is_custodian = identity.role() == Role::Custodian;
    let hpke = enrolment.hpke_public_key.len();
    if is_custodian != (hpke != 0) || hpke > HPKE_KEY_BYTES_MAX {
        return Err(Refusal::Malformed(
            "custodians have a key that shares are sealed to",
        ));
    }
    if enrolment.endpoint.len() > ENDPOINT_BYTES_MAX {
        return Err(Refusal::Malformed("endpoint"));
    }
    Ok(identity)
}

fn check_grant(region: &RegionId, grant: &Grant) -> Result<(), Refusal> {
    let principal_ok = match grant.principal.strip_prefix("role:") {
        Some(role) => role.parse::<Role>().is_ok(),
        None => grant
            .principal
            .parse::<Identity>()
            .is_ok_and(|id| id.region() == region),
    };
    if !principal_ok {
        return Err(Refusal::Malformed("a grant's principal"));
    }
    let dataset = grant.dataset.parse::<DatasetId>().map(|id| id.to_string());
    // One spelling only, or a grant could look like another and not cover what it seems to.
    if grant.dataset != "*" && dataset.as_ref() != Ok(&grant.dataset) {
        return Err(Refusal::Malformed("a grant's dataset"));
    }
    let known = |action: &i32| matches!(Action::try_from(*action), Ok(action) if action != Action::Unspecified);
    if grant.actions.is_empty() || !grant.actions.iter().all(known) {
        return Err(Refusal::Malformed("a grant's actions"));
    }
    if !grant
        .purposes
        .iter()
        .all(|purpose| purpose.parse::<Purpose>().is_ok())
    {
        return Err(Refusal::Malformed("a grant's purposes"));
    }
    Ok(())
}
