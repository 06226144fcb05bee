//! Who belongs to the region: the init ceremony, enrolments, grants, member ids, unsealed replicas.
//!
//! Owns every change of the authority, each under dual control and with a leaf. Refuses: a change that nobody
//! could undo, a member of another jurisdiction, a member id that belonged to someone else, and a second unseal
//! of one boot.

use std::collections::BTreeSet;

use prost::Message;
use proto::ids::{FIRST_ALLOCATED_NODE_ID, Identity, NodeId, Role};
use proto::v1::{
    AllocateKmsId, ChangeEnrolment, ChangeGrants, Claim, Enrolment, EnrolmentSet, Grant, InitKms,
    KekRecord, KmsDone, KmsRegion, RecordUnseal, UnsealHow, UnsealRecord,
};
use serde::Serialize;
use tlog::{Kind, Origin, Purpose};

use crate::append::{Applying, Private, array, details, stated};
use crate::apply::{LEVEL_ACCESS_KEYS, Stop};
use crate::authority::Authority;
use crate::custody;
use crate::layout;
use crate::read;
use crate::refusal::Refusal;

/// Enrolments or grants that one command may add and remove.
pub const CHANGES_MAX: usize = 256;
/// No seal opens for one person (assumption A3).
pub(crate) const SHARES_FLOOR: u32 = 2;
pub(crate) const CHECK_BYTES_MAX: usize = 16_384;

#[derive(Serialize)]
struct ShownEnrolment {
    identity: String,
    public_key_sha256: String,
    node_id: u64,
    jurisdiction: String,
}

fn shown(enrolments: &[Enrolment]) -> Vec<ShownEnrolment> {
    let show = |enrolment: &Enrolment| ShownEnrolment {
        identity: enrolment.identity.clone(),
        public_key_sha256: hex::encode(tlog::sha256(&[&enrolment.public_key]).0),
        node_id: enrolment.node_id,
        jurisdiction: enrolment.jurisdiction.clone(),
    };
    enrolments.iter().map(show).collect()
}

#[derive(Serialize)]
struct InitDetails {
    origin: String,
    jurisdiction: String,
    root_epoch: u32,
    root_check: String,
    shares_needed: u32,
    custodians: Vec<String>,
    approvals_min: u32,
    enrolled: Vec<ShownEnrolment>,
}

pub(crate) fn init(applying: &mut Applying<'_>, command: &InitKms) -> Result<KmsDone, Stop> {
    let malformed = |what| Stop::Refused(Refusal::Malformed(what));
    let region = command.region.as_ref().ok_or(malformed("no region"))?;
    let mut set = EnrolmentSet::decode(&command.enrolment_set[..])
        .map_err(|_| malformed("the enrolment set does not decode"))?;
    // State says who is enrolled; when that was last said is the signer's to state.
    set.signed_at_ms = 0;
    let authority = Authority::parse(set)?;
    if authority.policy_text().is_some() {
        return Err(malformed("the first enrolment set names no policy text"));
    }
    if !authority.set().service_principals.is_empty() {
        return Err(malformed("the first enrolment set has service principals"));
    }
    if !authority.set().trusted_regions.is_empty() || authority.set().descriptor.is_some() {
        return Err(malformed("the first enrolment set speaks of regions"));
    }
    check_principals(applying, &authority.set().grants)?;
    if authority.version() != 1 {
        return Err(malformed("the first enrolment set has version 1"));
    }
    if authority.of_role(Role::Kms).next().is_none() {
        return Err(Refusal::LocksOut.into());
    }
    check_region(region, &authority)?;
    applying.requester(&authority)?;
    let mut private = applying.private_of_requester();
    let set = authority.set();
    let init = InitDetails {
        origin: region.log_origin.clone(),
        jurisdiction: region.jurisdiction.clone(),
        root_epoch: region.root_epoch,
        root_check: hex::encode(&region.root_check),
        shares_needed: region.shares_needed,
        custodians: region
            .custodians
            .iter()
            .map(|holder| holder.identity.clone())
            .collect(),
        approvals_min: set.approvals_min,
        enrolled: shown(&set.enrolments),
    };
    details(&mut private, &init);
    applying.state.put(layout::REGION, &region.encode_to_vec());
    store_authority(applying, set);
    for role in [Role::Kms, Role::Node] {
        for (identity, enrolment) in authority.of_role(role) {
            own_member_id(applying, role, NodeId(enrolment.node_id), identity);
        }
    }
    let leaf = applying.append(Kind::Initialised, Purpose::service(), None, private);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}

fn check_region(region: &KmsRegion, authority: &Authority) -> Result<(), Refusal> {
    let same_region = region.region == authority.region().as_str();
    if !same_region || region.jurisdiction != authority.jurisdiction().as_str() {
        return Err(Refusal::WrongJurisdiction);
    }
    let origin: Origin = region
        .log_origin
        .parse()
        .map_err(|_| Refusal::Malformed("log origin"))?;
    if origin.region() != authority.region() {
        return Err(Refusal::WrongJurisdiction);
    }
    if region.format != 1 || region.root_epoch == 0 {
        return Err(Refusal::Malformed("format or root epoch"));
    }
    if region.root_check.is_empty()
        || region.root_check.len() > CHECK_BYTES_MAX
        || region.share_set.len() > CHECK_BYTES_MAX
    {
        return Err(Refusal::Malformed("check value of the root key"));
    }
    let mut holders = BTreeSet::new();
    for holder in &region.custodians {
        let identity: Identity = holder
            .identity
            .parse()
            .map_err(|_| Refusal::Malformed("custodian"))?;
        if identity.role() != Role::Custodian || authority.enrolment(&identity).is_none() {
            return Err(Refusal::NotEnrolled);
        }
        // Two shares in one hand would make k of n mean less than k people.
        if !holders.insert(identity) {
            return Err(Refusal::AlreadyEnrolled);
        }
    }
    let enough = holders.len() as u64 >= u64::from(region.shares_needed);
    if region.shares_needed < SHARES_FLOOR || !enough {
        return Err(Refusal::Malformed(
            "the root key takes at least two custodians",
        ));
    }
    Ok(())
}

#[derive(Serialize)]
struct EnrolmentDetails<'a> {
    authority_version: u64,
    added: Vec<ShownEnrolment>,
    removed: &'a [String],
}

pub(crate) fn change_enrolment(
    applying: &mut Applying<'_>,
    command: &ChangeEnrolment,
) -> Result<KmsDone, Stop> {
    if command.add.len() + command.remove.len() > CHANGES_MAX {
        return Err(Refusal::Malformed("too many changes in one command").into());
    }
    if command.add.is_empty() && command.remove.is_empty() {
        return Err(Refusal::Malformed("no change").into());
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let after = enrolments_after(&change.authority, command)?;
    check_not_locked_out(&change.authority, &after)?;
    let mut owned = Vec::new();
    for enrolment in &command.add {
        let identity: Identity = enrolment
            .identity
            .parse()
            .map_err(|_| Refusal::Malformed("identity"))?;
        let (role, id) = (identity.role(), NodeId(enrolment.node_id));
        if enrolment.node_id == 0 {
            continue;
        }
        match read::member(&*applying.state, role, id) {
            Some(owner) if owner == identity => {}
            Some(_) => return Err(Refusal::AlreadyEnrolled.into()),
            // Ids of KMS replicas are allocated here; those of storage nodes by the catalog.
            None if role == Role::Kms => return Err(Refusal::NotEnrolled.into()),
            None => owned.push((role, id, identity)),
        }
    }
    let shown = EnrolmentDetails {
        authority_version: after.version(),
        added: shown(&command.add),
        removed: &command.remove,
    };
    let done = change.commit(applying, Kind::EnrolmentChanged, &shown, after.set());
    for (role, id, identity) in owned {
        own_member_id(applying, role, id, &identity);
    }
    Ok(done)
}

/// The set with removals first, so that one command can replace an identity's key.
fn enrolments_after(before: &Authority, command: &ChangeEnrolment) -> Result<Authority, Refusal> {
    let mut set = before.set().clone();
    for removed in &command.remove {
        let found = set
            .enrolments
            .iter()
            .position(|enrolment| enrolment.identity == *removed);
        set.enrolments.remove(found.ok_or(Refusal::NotEnrolled)?);
    }
    set.enrolments.extend(command.add.iter().cloned());
    set.enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    set.version += 1;
    if set
        .enrolments
        .windows(2)
        .any(|pair| pair[0].identity == pair[1].identity)
    {
        return Err(Refusal::AlreadyEnrolled);
    }
    Authority::parse(set)
}

/// A change needs a requester and `approvals_min` others. Fewer operators than that could never change anything
/// again, and a region without KMS replicas could not even refuse.
fn check_not_locked_out(before: &Authority, after: &Authority) -> Result<(), Refusal> {
    let operators = |authority: &Authority| authority.of_role(Role::Operator).count();
    let needed = after.approvals_min() as usize + 1;
    let fewer = operators(after) < operators(before) && operators(after) < needed;
    if fewer || after.of_role(Role::Kms).next().is_none() {
        return Err(Refusal::LocksOut);
    }
    Ok(())
}

/// Builds from before service principals would not read a grant for one, and refuse what this one takes.
fn check_principals(applying: &Applying<'_>, grants: &[Grant]) -> Result<(), Refusal> {
    let of_service = |grant: &Grant| {
        let role = match grant.principal.strip_prefix("role:") {
            Some(role) => role.parse().ok(),
            None => grant.principal.parse().ok().map(|id: Identity| id.role()),
        };
        role == Some(Role::Service)
    };
    match applying.at.level < LEVEL_ACCESS_KEYS && grants.iter().any(of_service) {
        true => Err(Refusal::Malformed("a grant's principal")),
        false => Ok(()),
    }
}

#[derive(Serialize)]
struct ShownGrant<'a> {
    principal: &'a str,
    dataset: &'a str,
    actions: &'a [i32],
    purposes: &'a [String],
}

fn shown_grants<'a>(grants: &'a [Grant]) -> Vec<ShownGrant<'a>> {
    let show = |grant: &'a Grant| ShownGrant {
        principal: &grant.principal,
        dataset: &grant.dataset,
        actions: &grant.actions,
        purposes: &grant.purposes,
    };
    grants.iter().map(show).collect()
}

#[derive(Serialize)]
struct GrantDetails<'a> {
    authority_version: u64,
    added: Vec<ShownGrant<'a>>,
    removed: Vec<ShownGrant<'a>>,
}

pub(crate) fn change_grants(
    applying: &mut Applying<'_>,
    command: &ChangeGrants,
) -> Result<KmsDone, Stop> {
    if command.add.len() + command.remove.len() > CHANGES_MAX {
        return Err(Refusal::Malformed("too many changes in one command").into());
    }
    if command.add.is_empty() && command.remove.is_empty() {
        return Err(Refusal::Malformed("no change").into());
    }
    let known = |action: &i32| proto::v1::Action::try_from(*action).is_ok();
    if !command
        .add
        .iter()
        .flat_map(|grant| &grant.actions)
        .all(known)
    {
        return Err(Stop::Unknown("a grant's action this build does not know"));
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    if change.authority.policy_text().is_some() {
        return Err(Refusal::PolicyRules.into());
    }
    let mut set = change.authority.set().clone();
    for removed in &command.remove {
        let found = set.grants.iter().position(|grant| grant == removed);
        set.grants.remove(found.ok_or(Refusal::NotGranted)?);
    }
    set.grants.extend(command.add.iter().cloned());
    set.grants.sort_by_cached_key(Message::encode_to_vec);
    set.version += 1;
    check_principals(applying, &set.grants)?;
    let after = Authority::parse(set)?;
    let shown = GrantDetails {
        authority_version: after.version(),
        added: shown_grants(&command.add),
        removed: shown_grants(&command.remove),
    };
    Ok(change.commit(applying, Kind::GrantsChanged, &shown, after.set()))
}

/// A change that was asked for by an operator and approved by enough others.
pub(crate) struct DualControlled {
    pub(crate) authority: Authority,
    approved: crate::approvals::Approved,
    purpose: Purpose,
    private: Private,
}

impl DualControlled {
    pub(crate) fn check(applying: &Applying<'_>, claim: Option<&Claim>) -> Result<Self, Refusal> {
        let (actor, purpose, private) = stated(claim)?;
        let authority = applying.authority()?;
        let requester = of_operator(applying, &authority)?;
        if requester != actor {
            return Err(Refusal::Malformed("the claim's actor is not the requester"));
        }
        let approved = applying.approvals(&authority, authority.approvals_min())?;
        Ok(Self {
            authority,
            approved,
            purpose,
            private,
        })
    }

    pub(crate) fn commit(
        self,
        applying: &mut Applying<'_>,
        kind: Kind,
        shown: &impl Serialize,
        after: &EnrolmentSet,
    ) -> KmsDone {
        store_authority(applying, after);
        self.record(applying, kind, shown)
    }

    /// The change's leaf, with the approvals used up. The caller has stored the change.
    pub(crate) fn record(
        self,
        applying: &mut Applying<'_>,
        kind: Kind,
        shown: &impl Serialize,
    ) -> KmsDone {
        self.logged(applying, kind, None, shown)
    }

    /// As [`Self::record`], in the chain of a dataset's leaves: the caller stores the key's record afterwards.
    pub(crate) fn record_of(
        self,
        applying: &mut Applying<'_>,
        kind: Kind,
        key: &mut KekRecord,
        shown: &impl Serialize,
    ) -> KmsDone {
        self.logged(applying, kind, Some(key), shown)
    }

    fn logged(
        mut self,
        applying: &mut Applying<'_>,
        kind: Kind,
        key: Option<&mut KekRecord>,
        shown: &impl Serialize,
    ) -> KmsDone {
        details(&mut self.private, shown);
        applying.use_approvals(&self.approved, &mut self.private);
        let leaf = applying.append(kind, self.purpose, key, self.private);
        KmsDone {
            leaf_index: leaf.index.0,
            ..applying.answer()
        }
    }
}

impl DualControlled {
    /// As [`Self::record`], with a leaf in the chain of each key, which the caller stores. Answers with the first.
    pub(crate) fn record_each<'k, S: Serialize>(
        mut self,
        applying: &mut Applying<'_>,
        kind: Kind,
        keys: impl IntoIterator<Item = (&'k mut KekRecord, S)>,
    ) -> KmsDone {
        applying.use_approvals(&self.approved, &mut self.private);
        let mut first = None;
        for (key, shown) in keys {
            let mut private = self.private.clone();
            details(&mut private, &shown);
            let leaf = applying.append(kind, self.purpose.clone(), Some(key), private);
            first.get_or_insert(leaf.index.0);
        }
        KmsDone {
            leaf_index: first.unwrap_or_default(),
            ..applying.answer()
        }
    }
}

#[derive(Serialize)]
struct MemberDetails {
    identity: String,
    node_id: u64,
}

pub(crate) fn allocate(
    applying: &mut Applying<'_>,
    command: &AllocateKmsId,
) -> Result<KmsDone, Stop> {
    let identity: Identity = command
        .identity
        .parse()
        .map_err(|_| Refusal::Malformed("identity"))?;
    let authority = applying.authority()?;
    of_operator(applying, &authority)?;
    if identity.region() != authority.region() || identity.role() != Role::Kms {
        return Err(Refusal::WrongJurisdiction.into());
    }
    let id = NodeId(FIRST_ALLOCATED_NODE_ID + applying.at.index.0);
    if read::member(&*applying.state, Role::Kms, id).is_some() {
        // Only a founder enrolled with an id from the allocated range can stand here.
        return Err(Refusal::AlreadyEnrolled.into());
    }
    own_member_id(applying, Role::Kms, id, &identity);
    let mut private = applying.private_of_requester();
    details(
        &mut private,
        &MemberDetails {
            identity: identity.to_string(),
            node_id: id.0,
        },
    );
    let leaf = applying.append(Kind::MemberAllocated, Purpose::service(), None, private);
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        node_id: id.0,
        ..applying.answer()
    })
}

#[derive(Serialize)]
struct UnsealDetails<'a> {
    replica: &'a str,
    boot_id: String,
    how: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    token_seal: String,
}

pub(crate) fn record_unseal(
    applying: &mut Applying<'_>,
    command: &RecordUnseal,
) -> Result<KmsDone, Stop> {
    let boot_id = array::<16>(&command.boot_id).ok_or(Refusal::Malformed("boot id"))?;
    let replica: Identity = command
        .replica
        .parse()
        .map_err(|_| Refusal::Malformed("replica"))?;
    let authority = applying.authority()?;
    applying.requester(&authority)?;
    if replica.role() != Role::Kms || authority.enrolment(&replica).is_none() {
        return Err(Refusal::NotEnrolled.into());
    }
    if read::boot(&*applying.state, &boot_id).is_some() {
        return Err(Refusal::AlreadyUnsealed.into());
    }
    // A root key that was superseded while its custodians unsealed with it opens nothing, and is to be dropped.
    let in_force = read::region(&*applying.state).map_or(0, |region| region.root_epoch);
    if command.root_epoch != 0 && command.root_epoch != in_force {
        return Err(Refusal::RootMoved { to: in_force }.into());
    }
    // Custodians are k people already; a peer hands the root key over only with a second person's word.
    let (how, approvals) = match UnsealHow::try_from(command.how) {
        Ok(UnsealHow::Custodians) => ("custodians", 0),
        Ok(UnsealHow::Peer) => ("peer", 1),
        Ok(UnsealHow::Token) => {
            // Its operators are counted as for everything under dual control; a half given up opens nothing.
            custody::token::in_force(&*applying.state, &command.seal_id)?;
            ("token", authority.approvals_min())
        }
        Ok(UnsealHow::Unspecified) => return Err(Refusal::Malformed("how").into()),
        Err(_) => return Err(Stop::Unknown("a way to unseal this build does not know")),
    };
    if how != "token" && !command.seal_id.is_empty() {
        return Err(Refusal::Malformed("a seal that was not used").into());
    }
    let approved = applying.approvals(&authority, approvals)?;
    let mut private = applying.private_of_requester();
    applying.use_approvals(&approved, &mut private);
    let shown = UnsealDetails {
        replica: &command.replica,
        boot_id: hex::encode(boot_id),
        how,
        token_seal: hex::encode(&command.seal_id),
    };
    details(&mut private, &shown);
    let leaf = applying.append(Kind::Unsealed, Purpose::service(), None, private);
    let record = UnsealRecord {
        replica: command.replica.clone(),
        how: command.how,
        leaf_index: leaf.index.0,
        time_ms: applying.now.0,
    };
    applying
        .state
        .put(&layout::boot(&boot_id), &record.encode_to_vec());
    Ok(KmsDone {
        leaf_index: leaf.index.0,
        ..applying.answer()
    })
}

pub(crate) fn of_operator(
    applying: &Applying<'_>,
    authority: &Authority,
) -> Result<Identity, Refusal> {
    let requester = applying.requester(authority)?;
    if requester.role() == Role::Operator {
        Ok(requester)
    } else {
        Err(Refusal::NotEnrolled)
    }
}

pub(crate) fn store_authority(applying: &mut Applying<'_>, set: &EnrolmentSet) {
    applying.state.put(layout::AUTHORITY, &set.encode_to_vec());
    applying
        .state
        .put(layout::AUTHORITY_VERSION, &set.version.to_be_bytes());
}

pub(crate) fn own_member_id(applying: &mut Applying<'_>, role: Role, id: NodeId, owner: &Identity) {
    applying
        .state
        .put(&layout::member(role, id), owner.to_string().as_bytes());
}
