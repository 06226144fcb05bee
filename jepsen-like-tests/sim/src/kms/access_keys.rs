//! What becomes of access keys, said a second time: who brings in a service principal, who takes it out, who is given a
//! secret.
//!
//! Owns the rule that the enrolment set names the principals of enabled access keys, and has another version when that
//! changes.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::ids::Role;
use proto::v1::{
    AccessKeyIssue, AccessKeyState, Claim, CreateAccessKey, DeleteAccessKey, KmsDone, KmsRefusal,
    Record, RecordAnswer, SetAccessKeyState,
};
use tlog::{Kind, Purpose};

use super::model::{Judging, Model, Ruled, Stop, identity, moved, stated};

const HOUR_S: u32 = 3_600;

/// An access key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Access {
    pub(super) principal: String,
    pub(super) enabled: bool,
    pub(super) version: u64,
    pub(super) created_leaf: u64,
    pub(super) until: u64,
    request: Bytes,
    by: String,
}

impl Model {
    /// Principals that the enrolment set names.
    pub(super) fn principals(&self) -> BTreeSet<&String> {
        let enabled = self.access.values().filter(|key| key.enabled);
        enabled.map(|key| &key.principal).collect()
    }
}

fn well_formed(id: &[u8]) -> Ruled<()> {
    let letters = |letter: &u8| letter.is_ascii_uppercase() || (b'2'..=b'7').contains(letter);
    match id.len() == 20 && id.starts_with(b"RDT") && id.iter().all(letters) {
        true => Ok(()),
        false => Err(KmsRefusal::Malformed.into()),
    }
}

/// The id that a request makes: of 16 bytes of the digest the last 85 bits, in letters.
fn made_by(request: &[u8]) -> Vec<u8> {
    let label: &[u8] = b"reduit/v1/access-key-id";
    let length = |part: &[u8]| (part.len() as u32).to_be_bytes();
    let digest = tlog::sha256(&[&length(label), label, &length(request), request]);
    let bits = digest.0[..16].iter();
    let bits = bits.fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let letter = |at: u32| letters[(bits >> (5 * at)) as usize & 31];
    b"RDT"
        .iter()
        .copied()
        .chain((0..17).rev().map(letter))
        .collect()
}

impl Judging<'_> {
    /// The version goes up where other principals are in than before.
    fn principals_changed(&mut self, before: &BTreeSet<String>) {
        let now: BTreeSet<String> = self.model.principals().into_iter().cloned().collect();
        if now != *before {
            self.model.authority += 1;
        }
    }

    fn named(&self) -> BTreeSet<String> {
        self.model.principals().into_iter().cloned().collect()
    }

    fn by_one(&self, claim: Option<&Claim>) -> Ruled<(Purpose, String)> {
        let (actor, purpose) = stated(claim)?;
        self.of_role(Role::Operator)?;
        match self.command.requester == actor.to_string() {
            true => Ok((purpose, actor.to_string())),
            false => Err(KmsRefusal::Malformed.into()),
        }
    }

    fn unmoved_access(&self, id: &[u8], version: u64) -> Ruled<Access> {
        let held = self.model.access.get(id);
        let held = held.ok_or(KmsRefusal::NoSuchAccessKey)?.clone();
        match held.version == version {
            true => Ok(held),
            false => Err(moved(KmsRefusal::KeyStateMoved, held.version)),
        }
    }

    fn of_access(&self, leaf: u64, version: u64) -> KmsDone {
        KmsDone {
            state_version: version,
            ..self.done(leaf)
        }
    }

    pub(super) fn create_access(&mut self, create: &CreateAccessKey) -> Ruled<KmsDone> {
        well_formed(&create.access_key_id)?;
        if create.request_id.len() != 16 || create.access_key_id != made_by(&create.request_id) {
            return Err(KmsRefusal::Malformed.into());
        }
        let principal = identity(&create.principal).ok_or(KmsRefusal::Malformed)?;
        if principal.region().as_str() != "ch-zrh" {
            return Err(KmsRefusal::WrongJurisdiction.into());
        }
        if principal.role() != Role::Service {
            return Err(KmsRefusal::Malformed.into());
        }
        if stated(create.claim.as_ref())?.1.as_str() == "investigation" {
            return Err(KmsRefusal::NotGranted.into());
        }
        if let Some(held) = self.model.access.get(&create.access_key_id[..]).cloned() {
            self.of_role(Role::Operator)?;
            let same = held.request == create.request_id
                && held.by == self.command.requester
                && held.principal == create.principal;
            return match same {
                true => Ok(self.of_access(held.created_leaf, held.version)),
                false => Err(KmsRefusal::AccessKeyExists.into()),
            };
        }
        if create.root_epoch != 1 {
            return Err(moved(KmsRefusal::RootMoved, 1));
        }
        if !(104..=512).contains(&create.wrapped_secret.len()) {
            return Err(KmsRefusal::Malformed.into());
        }
        let mut approvals = self.command.approvals.iter();
        if approvals.any(|one| one.single_use_id != create.request_id) {
            return Err(KmsRefusal::Malformed.into());
        }
        let (purpose, actor) = self.dual_control(create.claim.as_ref())?;
        let before = self.named();
        let leaf = self.append(Kind::AccessKeyCreated, purpose, None, actor.clone());
        let access = Access {
            principal: create.principal.clone(),
            enabled: true,
            version: 1,
            created_leaf: leaf,
            until: 0,
            request: create.request_id.clone(),
            by: actor,
        };
        let id = create.access_key_id.to_vec();
        self.model.access.insert(id, access);
        self.principals_changed(&before);
        Ok(self.of_access(leaf, 1))
    }

    pub(super) fn set_access(&mut self, set: &SetAccessKeyState) -> Ruled<KmsDone> {
        let target = AccessKeyState::try_from(set.state).map_err(|_| Stop::Unknown)?;
        well_formed(&set.access_key_id)?;
        self.of_role(Role::Operator)?;
        let held = self.unmoved_access(&set.access_key_id, set.state_version)?;
        let (enabled, kind) = match target {
            AccessKeyState::Enabled => (true, Kind::AccessKeyEnabled),
            AccessKeyState::Disabled => (false, Kind::AccessKeyDisabled),
            AccessKeyState::Unspecified => return Err(KmsRefusal::Malformed.into()),
        };
        if held.enabled == enabled {
            return Ok(self.of_access(0, held.version));
        }
        let (purpose, actor) = match enabled {
            true => self.dual_control(set.claim.as_ref())?,
            false => self.by_one(set.claim.as_ref())?,
        };
        let (before, version) = (self.named(), held.version + 1);
        let after = Access {
            enabled,
            version,
            ..held
        };
        let id = set.access_key_id.to_vec();
        self.model.access.insert(id, after);
        self.principals_changed(&before);
        let leaf = self.append(kind, purpose, None, actor);
        Ok(self.of_access(leaf, version))
    }

    pub(super) fn delete_access(&mut self, delete: &DeleteAccessKey) -> Ruled<KmsDone> {
        well_formed(&delete.access_key_id)?;
        let (purpose, actor) = self.by_one(delete.claim.as_ref())?;
        let held = self.unmoved_access(&delete.access_key_id, delete.state_version)?;
        if held.enabled {
            return Err(KmsRefusal::WrongState.into());
        }
        self.model.access.remove(&delete.access_key_id[..]);
        let leaf = self.append(Kind::AccessKeyDeleted, purpose, None, actor);
        self.model.ended = Some(leaf);
        Ok(self.done(leaf))
    }

    /// A gateway is given a secret.
    pub(super) fn give_access(
        &mut self,
        record: &Record,
        issue: &AccessKeyIssue,
        asked: Vec<u8>,
    ) -> Ruled<RecordAnswer> {
        if record.request_id.len() != 16 || !record.dataset_id.is_empty() {
            return Err(KmsRefusal::Malformed.into());
        }
        well_formed(&issue.access_key_id)?;
        let (actor, purpose) = stated(record.claim.as_ref())?;
        if actor.region().as_str() != "ch-zrh" {
            return Err(KmsRefusal::WrongJurisdiction.into());
        }
        if actor.role() != Role::Gateway || purpose.as_str() == "investigation" {
            return Err(KmsRefusal::NotGranted.into());
        }
        if !(1..=HOUR_S).contains(&issue.seconds) {
            return Err(KmsRefusal::Malformed.into());
        }
        let held = self.unmoved_access(&issue.access_key_id, record.state_version)?;
        if !held.enabled {
            return Err(KmsRefusal::AccessKeyDisabled.into());
        }
        if let Some(answer) = self.used_before(&record.request_id, &asked)? {
            return Ok(answer);
        }
        let leaf = self.append(Kind::AccessSecret, purpose, None, actor.to_string());
        let until = self.model.time + u64::from(issue.seconds) * 1_000;
        let after = Access {
            until: held.until.max(until),
            ..held
        };
        let id = issue.access_key_id.to_vec();
        self.model.access.insert(id, after);
        Ok(self.remembered(&record.request_id, asked, leaf))
    }
}
