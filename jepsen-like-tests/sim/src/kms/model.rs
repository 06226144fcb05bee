//! What the KMS has to answer, said a second time: keys, approvals, members and leaves as plain lists.
//!
//! Owns the expected answer of every command but the uses of keys, which are next door. Refuses to share code with
//! the machine: ids, messages and the bounds of the format alone are the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, FIRST_ALLOCATED_NODE_ID, Identity, LeaseId, Role};
use proto::v1::kms_command::Command;
use proto::v1::{
    ChangePolicy, ChangeWitnesses, Claim, CreateKek, Enrolment, EnrolmentSet, Grant, InitKms,
    KekVersionRecord, KeyState, KmsCommand, KmsDone, KmsRefusal, KmsRefused, RecordAnswer,
};
use tlog::{Kind, Purpose};

use super::access_keys::Access;
use super::region::witness_policy;
use super::uses::{Memory, Opened, Use};

/// What a command comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// It stops a replica, and changes nothing.
    Unknown,
    /// It is refused, and changes nothing.
    Refused(KmsRefused),
    /// It is done.
    Done(KmsDone),
    /// Each of its records by itself. The hashes of leaves are the state's to say.
    Records(Vec<RecordAnswer>),
}

/// Why a command ends early.
pub(super) enum Stop {
    Unknown,
    Refused(KmsRefused),
}

impl From<KmsRefusal> for Stop {
    fn from(reason: KmsRefusal) -> Self {
        moved(reason, 0)
    }
}

pub(super) fn moved(reason: KmsRefusal, moved_to: u64) -> Stop {
    Stop::Refused(KmsRefused {
        reason: reason.into(),
        moved_to,
    })
}

pub(super) type Ruled<T> = Result<T, Stop>;

/// A dataset's key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) state: KeyState,
    pub(super) state_version: u64,
    /// Versions that are wrapped in state; none once destroyed.
    pub(super) versions: u32,
    pub(super) kek_id: Bytes,
    pub(super) pseudonym: Bytes,
    pub(super) shard: u64,
    pub(super) confirmed: u64,
    pub(super) destroy_after: u64,
    /// The oldest version that the shard takes commits under.
    pub(super) oldest: u32,
    /// The oldest version that was not ended.
    pub(super) living: u32,
    /// Under which version each version's metadata key is.
    pub(super) metadata_under: Vec<u32>,
    /// At most how old, at most how often used, and used since.
    pub(super) plan: Option<(u64, u64, u64)>,
    pub(super) aliases: BTreeSet<String>,
    pub(super) tags: BTreeMap<String, String>,
    before_destruction: KeyState,
    created_by: Bytes,
    created_leaf: u64,
    /// Leaves of the dataset so far.
    pub(super) chain: u64,
    /// The leaf that last ended something of it; 0 for none.
    pub(super) ended: u64,
}

/// What a leaf says in public.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Leaf {
    pub(super) kind: Kind,
    pub(super) time: u64,
    pub(super) purpose: Purpose,
    /// Pseudonym and place in the dataset's chain.
    pub(super) dataset: Option<(Bytes, u64)>,
    /// Who caused it, as its opening says.
    pub(super) actor: String,
    /// Of an open.
    pub(super) opened: Option<Opened>,
}

/// The KMS of the region.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) founded: bool,
    pub(super) time: u64,
    pub(super) authority: u64,
    pub(super) enrolled: BTreeMap<String, Enrolment>,
    pub(super) grants: BTreeSet<Vec<u8>>,
    /// The policy text; empty where none was set.
    pub(super) policy: String,
    approvals_min: usize,
    /// Whose a member id is, for ever.
    pub(super) members: BTreeMap<(Role, u64), String>,
    pub(super) keys: BTreeMap<DatasetId, Key>,
    pub(super) used: BTreeSet<Bytes>,
    pub(super) boots: BTreeSet<Bytes>,
    pub(super) leaves: Vec<Leaf>,
    pub(super) memory: BTreeMap<Bytes, Memory>,
    /// Access keys by their ids.
    pub(super) access: BTreeMap<Vec<u8>, Access>,
    /// The leaf that last ended something of any key.
    pub(super) ended: Option<u64>,
    /// Through which end a member has said that it erased.
    pub(super) erased: BTreeMap<u64, u64>,
    /// Expiry of the leases that are remembered.
    pub(super) leases: BTreeMap<(DatasetId, LeaseId), u64>,
}

/// Where a command stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    pub(super) index: u64,
    pub(super) voters: u32,
}

/// A command while it is judged, on a copy of the model that counts only if it is accepted.
pub(super) struct Judging<'a> {
    pub(super) model: Model,
    pub(super) at: Position,
    pub(super) command: &'a KmsCommand,
}

impl Model {
    /// What the command has to come to; everything it does has happened here afterwards.
    pub(super) fn expect(&mut self, at: Position, command: &KmsCommand) -> Outcome {
        let mut judging = Judging {
            model: self.clone(),
            at,
            command,
        };
        match judging.run() {
            Ok(outcome) => {
                judging.model.forget();
                *self = judging.model;
                outcome
            }
            Err(Stop::Unknown) => Outcome::Unknown,
            Err(Stop::Refused(refused)) => Outcome::Refused(refused),
        }
    }

    /// Whether two approvers and a requester are left, and somebody who could answer them.
    fn keeps_control(&self, before: &Self) -> bool {
        let count = |model: &Self, role: Role| {
            let of_role = |name: &&String| identity(name).is_some_and(|id| id.role() == role);
            model.enrolled.keys().filter(of_role).count()
        };
        let (was, is) = (count(before, Role::Operator), count(self, Role::Operator));
        let locked = is < was && is < self.approvals_min + 1;
        !locked && count(self, Role::Kms) > 0
    }

    fn enrol(&mut self, set: &EnrolmentSet) {
        for enrolment in &set.enrolments {
            self.enrolled
                .insert(enrolment.identity.clone(), enrolment.clone());
            if let Some(id) = identity(&enrolment.identity).filter(|_| enrolment.node_id != 0) {
                let member = (id.role(), enrolment.node_id);
                self.members.insert(member, enrolment.identity.clone());
            }
        }
        self.grants = set.grants.iter().map(Grant::encode_to_vec).collect();
        self.approvals_min = set.approvals_min as usize;
    }
}

impl Judging<'_> {
    fn run(&mut self) -> Ruled<Outcome> {
        let Some(body) = &self.command.command else {
            return Err(Stop::Unknown);
        };
        if let Command::Init(init) = body {
            return self.init(init).map(Outcome::Done);
        }
        if !self.model.founded {
            return Err(KmsRefusal::NotInitialised.into());
        }
        if let Command::AdvanceTime(advance) = body {
            self.salted()?;
            return self.advance_time(&advance.clocks_ms).map(Outcome::Done);
        }
        if self.command.now_ms > self.model.time + 60_000 {
            return Err(moved(KmsRefusal::ClockJump, self.model.time));
        }
        if self.command.authority_version != self.model.authority {
            return Err(moved(KmsRefusal::AuthorityMoved, self.model.authority));
        }
        self.salted()?;
        self.model.time = self.model.time.max(self.command.now_ms);
        let done = match body {
            Command::Records(batch) => return self.records(batch).map(Outcome::Records),
            Command::CreateKek(create) => self.create(create),
            Command::RotateKek(rotate) => self.rotate(rotate),
            Command::ChangeKeyState(change) => self.change_state(change),
            Command::RegisterShard(register) => {
                self.register_shard(&register.dataset_id, register.shard)
            }
            Command::ConfirmShard(confirm) => {
                self.confirm_shard(&confirm.dataset_id, confirm.state_version)
            }
            Command::ChangeEnrolment(change) => {
                self.change_enrolment(&change.add, &change.remove, change.claim.as_ref())
            }
            Command::ChangeGrants(change) => {
                self.change_grants(&change.add, &change.remove, change.claim.as_ref())
            }
            Command::ChangePolicy(change) => self.change_policy(change),
            Command::ChangeWitnesses(change) => self.change_witnesses(change),
            Command::DestroyKek(destroy) => {
                self.destroy(&destroy.dataset_id, destroy.state_version)
            }
            Command::ConfirmErased(confirm) => self.confirm_erased(confirm.through_leaf),
            Command::PlanKeyRotation(plan) => self.plan_rotation(plan),
            Command::LabelKey(change) => self.label(change),
            Command::RaiseMinVersion(raise) => self.raise_oldest(raise),
            Command::EndKekVersions(end) => self.end_versions(end),
            Command::CreateAccessKey(create) => self.create_access(create),
            Command::SetAccessKeyState(set) => self.set_access(set),
            Command::DeleteAccessKey(delete) => self.delete_access(delete),
            Command::AllocateKmsId(allocate) => self.allocate(&allocate.identity),
            Command::RecordUnseal(unseal) => {
                self.unseal(&unseal.replica, &unseal.boot_id, unseal.how)
            }
            // No run draws a change of custody, a restore or another region: those are tables in kms-state and real replicas.
            Command::BeginCustody(_)
            | Command::ConfirmShare(_)
            | Command::RewrapKeks(_)
            | Command::FinishCustody(_)
            | Command::AbandonCustody(_)
            | Command::EraseShare(_)
            | Command::RetireEpoch(_)
            | Command::RecordSeal(_)
            | Command::SendRoot(_)
            | Command::BeginBackup(_)
            | Command::ConfirmBackup(_)
            | Command::RestoreRows(_)
            | Command::FinishRestore(_)
            | Command::ProvisionSeal(_)
            | Command::DropSeal(_)
            | Command::ApproveRestore(_)
            | Command::PublishRegion(_)
            | Command::TrustRegion(_)
            | Command::DistrustRegion(_) => Err(Stop::Unknown),
            // Nor a relocation, which is explored in a world of two regions.
            Command::GrantHandOver(_)
            | Command::SetHandOver(_)
            | Command::ShredKey(_)
            | Command::CreateHandOverKey(_)
            | Command::EndHandOverKey(_) => Err(Stop::Unknown),
            Command::Init(_) | Command::AdvanceTime(_) => Err(Stop::Unknown),
        };
        done.map(Outcome::Done)
    }

    fn salted(&self) -> Ruled<()> {
        if self.command.salts.len() == 32 {
            Ok(())
        } else {
            Err(KmsRefusal::Malformed.into())
        }
    }

    /// The runs bend a ceremony in two ways: another version of the set, and one approver.
    fn init(&mut self, init: &InitKms) -> Ruled<KmsDone> {
        if self.model.founded {
            return Err(KmsRefusal::AlreadyInitialised.into());
        }
        self.salted()?;
        let set = EnrolmentSet::decode(init.enrolment_set.clone()).map_err(|_| Stop::Unknown)?;
        if set.version != 1 || set.approvals_min < 2 {
            return Err(KmsRefusal::Malformed.into());
        }
        let requester = identity(&self.command.requester).ok_or(KmsRefusal::Malformed)?;
        let requester = requester.to_string();
        if set.enrolments.iter().all(|one| one.identity != requester) {
            return Err(KmsRefusal::NotEnrolled.into());
        }
        self.model.founded = true;
        self.model.time = self.command.now_ms;
        self.model.authority = 1;
        self.model.enrol(&set);
        let leaf = self.append(
            Kind::Initialised,
            Purpose::service(),
            None,
            self.requester(),
        );
        Ok(self.done(leaf))
    }

    fn advance_time(&mut self, clocks: &[u64]) -> Ruled<KmsDone> {
        let voters = self.at.voters as usize;
        if clocks.len() * 2 <= voters || clocks.len() > voters {
            return Err(KmsRefusal::Malformed.into());
        }
        let mut clocks = clocks.to_vec();
        clocks.sort_unstable();
        // The middle one; of two middle ones the earlier.
        let median = clocks[(clocks.len() - 1) / 2];
        let jump = median.saturating_sub(self.model.time);
        self.model.time = self.model.time.max(median);
        if jump <= 60_000 {
            return Ok(self.done(0));
        }
        if jump > 24 * 3_600_000 {
            self.enrolled_requester()?;
            self.approved(self.model.approvals_min)?;
        }
        let leaf = self.append(
            Kind::TimeAdvanced,
            Purpose::service(),
            None,
            self.requester(),
        );
        Ok(self.done(leaf))
    }

    fn create(&mut self, create: &CreateKek) -> Ruled<KmsDone> {
        let dataset = dataset_id(&create.dataset_id)?;
        let ids = [&create.kek_id, &create.pseudonym, &create.request_id];
        if ids.iter().any(|id| id.len() != 16) {
            return Err(KmsRefusal::Malformed.into());
        }
        let (purpose, actor) = self.asked_for(create.claim.as_ref())?;
        if let Some(key) = self.model.keys.get(&dataset) {
            if key.created_by != create.request_id {
                return Err(KmsRefusal::KeyExists.into());
            }
            return Ok(self.of_key(&dataset, key.created_leaf));
        }
        let taken = |key: &Key| key.kek_id == create.kek_id || key.pseudonym == create.pseudonym;
        if self.model.keys.values().any(taken) {
            return Err(KmsRefusal::KeyExists.into());
        }
        wrapped(create.version.as_ref(), 1)?;
        let key = Key {
            state: KeyState::Enabled,
            state_version: 1,
            versions: 1,
            kek_id: create.kek_id.clone(),
            pseudonym: create.pseudonym.clone(),
            shard: 0,
            confirmed: 0,
            destroy_after: 0,
            oldest: 1,
            living: 1,
            metadata_under: vec![1],
            plan: None,
            aliases: BTreeSet::new(),
            tags: BTreeMap::new(),
            before_destruction: KeyState::Unspecified,
            created_by: create.request_id.clone(),
            created_leaf: 0,
            chain: 0,
            ended: 0,
        };
        self.model.keys.insert(dataset, key);
        let leaf = self.append(Kind::KeyCreated, purpose, Some(&dataset), actor);
        self.key(&dataset)?.created_leaf = leaf;
        Ok(self.of_key(&dataset, leaf))
    }

    fn rotate(&mut self, rotate: &proto::v1::RotateKek) -> Ruled<KmsDone> {
        let bare = proto::v1::RotateKek {
            state_version: 0,
            version: None,
            ..rotate.clone()
        };
        let asked = self.change_asked("rotate", &bare.encode_to_vec());
        if let Some(leaf) = self.changed_before(&rotate.request_id, &asked)? {
            return Ok(self.of_key(&dataset_id(&rotate.dataset_id)?, leaf));
        }
        let dataset = self.unmoved(&rotate.dataset_id, rotate.state_version)?;
        let (purpose, actor) = self.asked_for(rotate.claim.as_ref())?;
        let key = self.key(&dataset)?;
        if !matches!(key.state, KeyState::Enabled | KeyState::Compromised) {
            return Err(KmsRefusal::KeyDisabled.into());
        }
        wrapped(rotate.version.as_ref(), key.versions + 1)?;
        key.versions += 1;
        key.metadata_under.push(key.versions);
        key.state_version += 1;
        if let Some((_, _, uses)) = &mut key.plan {
            *uses = 0;
        }
        let leaf = self.append(Kind::KeyRotated, purpose, Some(&dataset), actor);
        self.remember_change(&rotate.request_id, asked, leaf);
        Ok(self.of_key(&dataset, leaf))
    }

    fn change_state(&mut self, change: &proto::v1::ChangeKeyState) -> Ruled<KmsDone> {
        use KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};
        let target = KeyState::try_from(change.state).map_err(|_| Stop::Unknown)?;
        let bare = proto::v1::ChangeKeyState {
            state_version: 0,
            ..change.clone()
        };
        let asked = self.change_asked("state", &bare.encode_to_vec());
        if let Some(leaf) = self.changed_before(&change.request_id, &asked)? {
            return Ok(self.of_key(&dataset_id(&change.dataset_id)?, leaf));
        }
        let dataset = self.unmoved(&change.dataset_id, change.state_version)?;
        let (purpose, actor) = self.asked_for(change.claim.as_ref())?;
        let (time, key) = (self.model.time, self.key(&dataset)?.clone());
        let kind = match (key.state, target) {
            (Disabled, Enabled) => Kind::KeyEnabled,
            (Enabled, Disabled) => Kind::KeyDisabled,
            (Enabled | Disabled, Compromised) => Kind::KeyCompromised,
            (Disabled | Compromised, PendingDestruction) => Kind::KeyDestructionPending,
            (PendingDestruction, Destroyed) => Kind::KeyDestroyed,
            // Cancelled: it is again what it was.
            (PendingDestruction, was) if was == key.before_destruction => match was {
                Disabled => Kind::KeyDisabled,
                _ => Kind::KeyCompromised,
            },
            _ => return Err(KmsRefusal::WrongState.into()),
        };
        let days = change.destruction_days;
        let days_ok = match target {
            PendingDestruction => (7..=30).contains(&days),
            _ => days == 0,
        };
        if !days_ok {
            return Err(KmsRefusal::Malformed.into());
        }
        if target == Destroyed && time < key.destroy_after {
            return Err(KmsRefusal::WrongState.into());
        }
        if matches!(target, PendingDestruction | Destroyed) {
            self.approved(self.model.approvals_min)?;
        }
        let key = self.key(&dataset)?;
        if target == PendingDestruction {
            key.before_destruction = key.state;
            key.destroy_after = time + u64::from(days) * 24 * 3_600_000;
        } else {
            key.destroy_after = 0;
        }
        key.state = target;
        key.state_version += 1;
        let leaf = self.append(kind, purpose, Some(&dataset), actor);
        if target == Destroyed {
            self.ended(&dataset, leaf);
        }
        self.remember_change(&change.request_id, asked, leaf);
        Ok(self.of_key(&dataset, leaf))
    }

    fn plan_rotation(&mut self, plan: &proto::v1::PlanKeyRotation) -> Ruled<KmsDone> {
        let bare = proto::v1::PlanKeyRotation {
            state_version: 0,
            ..plan.clone()
        };
        let asked = self.change_asked("plan", &bare.encode_to_vec());
        if let Some(leaf) = self.changed_before(&plan.request_id, &asked)? {
            return Ok(self.of_key(&dataset_id(&plan.dataset_id)?, leaf));
        }
        let dataset = self.unmoved(&plan.dataset_id, plan.state_version)?;
        let (purpose, actor) = self.asked_for(plan.claim.as_ref())?;
        let hour = 3_600_000;
        let age = plan.max_age_ms == 0 || (hour..=87_600 * hour).contains(&plan.max_age_ms);
        let uses = plan.max_uses == 0 || (256..=1 << 48).contains(&plan.max_uses);
        if !age || !uses {
            return Err(KmsRefusal::Malformed.into());
        }
        let key = self.key(&dataset)?;
        if matches!(
            key.state,
            KeyState::PendingDestruction | KeyState::Destroyed
        ) {
            return Err(KmsRefusal::WrongState.into());
        }
        let used = key.plan.map_or(0, |(_, _, used)| used);
        key.plan = Some((plan.max_age_ms, plan.max_uses, used));
        key.state_version += 1;
        let leaf = self.append(Kind::KeyRotationPlanned, purpose, Some(&dataset), actor);
        self.remember_change(&plan.request_id, asked, leaf);
        Ok(self.of_key(&dataset, leaf))
    }

    fn raise_oldest(&mut self, raise: &proto::v1::RaiseMinVersion) -> Ruled<KmsDone> {
        let bare = proto::v1::RaiseMinVersion {
            state_version: 0,
            ..raise.clone()
        };
        let asked = self.change_asked("oldest", &bare.encode_to_vec());
        if let Some(leaf) = self.changed_before(&raise.request_id, &asked)? {
            return Ok(self.of_key(&dataset_id(&raise.dataset_id)?, leaf));
        }
        let dataset = self.unmoved(&raise.dataset_id, raise.state_version)?;
        let (purpose, actor) = self.asked_for(raise.claim.as_ref())?;
        let key = self.key(&dataset)?;
        let ends = matches!(
            key.state,
            KeyState::PendingDestruction | KeyState::Destroyed
        );
        if ends || raise.min_version <= key.oldest || raise.min_version > key.versions {
            return Err(KmsRefusal::WrongState.into());
        }
        key.oldest = raise.min_version;
        key.state_version += 1;
        let leaf = self.append(Kind::KeyVersionsRetired, purpose, Some(&dataset), actor);
        self.remember_change(&raise.request_id, asked, leaf);
        Ok(self.of_key(&dataset, leaf))
    }

    fn end_versions(&mut self, end: &proto::v1::EndKekVersions) -> Ruled<KmsDone> {
        let bare = proto::v1::EndKekVersions {
            state_version: 0,
            metadata_keys: Vec::new(),
            ..end.clone()
        };
        let asked = self.change_asked("end", &bare.encode_to_vec());
        if let Some(leaf) = self.changed_before(&end.request_id, &asked)? {
            return Ok(self.of_key(&dataset_id(&end.dataset_id)?, leaf));
        }
        let dataset = self.unmoved(&end.dataset_id, end.state_version)?;
        let (purpose, actor) = self.asked_for(end.claim.as_ref())?;
        let key = self.key(&dataset)?.clone();
        let below = end.below_version;
        let ends = matches!(
            key.state,
            KeyState::PendingDestruction | KeyState::Destroyed
        );
        let said_so = key.confirmed == key.state_version;
        if ends || !said_so || below <= key.living || below > key.oldest {
            return Err(KmsRefusal::WrongState.into());
        }
        let lost = (1..).zip(&key.metadata_under);
        let lost = lost.filter(|(_, under)| **under < below);
        let lost: Vec<u32> = lost.map(|(version, _)| version).collect();
        let given: Vec<u32> = end.metadata_keys.iter().map(|key| key.version).collect();
        let wrapped = |key: &proto::v1::RewrappedMetadataKey| {
            (104..=512).contains(&key.wrapped_metadata_key.len())
        };
        if lost != given || !end.metadata_keys.iter().all(wrapped) {
            return Err(KmsRefusal::Malformed.into());
        }
        self.approved(self.model.approvals_min)?;
        let key = self.key(&dataset)?;
        key.living = below;
        for version in lost {
            key.metadata_under[version as usize - 1] = key.versions;
        }
        key.state_version += 1;
        let leaf = self.append(Kind::KeyVersionsEnded, purpose, Some(&dataset), actor);
        self.ended(&dataset, leaf);
        self.remember_change(&end.request_id, asked, leaf);
        Ok(self.of_key(&dataset, leaf))
    }

    /// By a replica alone, when due. No policy that the runs draw asks for witnesses: their time is not looked at.
    fn destroy(&mut self, dataset: &[u8], version: u64) -> Ruled<KmsDone> {
        self.of_role(Role::Kms)?;
        let dataset = self.unmoved(dataset, version)?;
        let time = self.model.time;
        let key = self.key(&dataset)?;
        if key.state != KeyState::PendingDestruction || time < key.destroy_after {
            return Err(KmsRefusal::WrongState.into());
        }
        key.state = KeyState::Destroyed;
        key.destroy_after = 0;
        key.state_version += 1;
        let (kind, service) = (Kind::KeyDestroyed, Purpose::service());
        let leaf = self.append(kind, service, Some(&dataset), self.requester());
        self.ended(&dataset, leaf);
        Ok(self.of_key(&dataset, leaf))
    }

    fn register_shard(&mut self, dataset: &[u8], shard: u64) -> Ruled<KmsDone> {
        let dataset = dataset_id(dataset)?;
        self.of_role(Role::Kms)?;
        let key = self.key(&dataset)?;
        match (key.shard, shard) {
            (_, 0) => return Err(KmsRefusal::Malformed.into()),
            (held, asked) if held == asked => return Ok(self.of_key(&dataset, 0)),
            (0, asked) => key.shard = asked,
            _ => return Err(KmsRefusal::WrongState.into()),
        }
        let kind = Kind::ShardRegistered;
        let leaf = self.append(kind, Purpose::service(), Some(&dataset), self.requester());
        Ok(self.of_key(&dataset, leaf))
    }

    fn confirm_shard(&mut self, dataset: &[u8], version: u64) -> Ruled<KmsDone> {
        self.of_role(Role::Kms)?;
        let dataset = self.unmoved(dataset, version)?;
        let key = self.key(&dataset)?;
        if key.shard == 0 {
            return Err(KmsRefusal::WrongState.into());
        }
        if key.confirmed == key.state_version {
            return Ok(self.of_key(&dataset, 0));
        }
        key.confirmed = key.state_version;
        let kind = Kind::KeyStateAcknowledged;
        let leaf = self.append(kind, Purpose::service(), Some(&dataset), self.requester());
        Ok(self.of_key(&dataset, leaf))
    }

    /// What every change of the authority takes: an operator's own word, and that of enough others.
    pub(super) fn dual_control(&mut self, claim: Option<&Claim>) -> Ruled<(Purpose, String)> {
        let (actor, purpose) = stated(claim)?;
        self.of_role(Role::Operator)?;
        if self.command.requester != actor.to_string() {
            return Err(KmsRefusal::Malformed.into());
        }
        self.approved(self.model.approvals_min)?;
        Ok((purpose, actor.to_string()))
    }

    fn change_enrolment(
        &mut self,
        add: &[Enrolment],
        remove: &[String],
        claim: Option<&Claim>,
    ) -> Ruled<KmsDone> {
        if !(1..=256).contains(&(add.len() + remove.len())) {
            return Err(KmsRefusal::Malformed.into());
        }
        let (purpose, actor) = self.dual_control(claim)?;
        let before = self.model.clone();
        for name in remove {
            if self.model.enrolled.remove(name).is_none() {
                return Err(KmsRefusal::NotEnrolled.into());
            }
        }
        for one in add {
            if self.model.enrolled.contains_key(&one.identity) {
                return Err(KmsRefusal::AlreadyEnrolled.into());
            }
            self.model
                .enrolled
                .insert(one.identity.clone(), one.clone());
        }
        // The runs enrol names of this region; jurisdiction, key and member id may be wrong.
        let (mut ids, mut keys) = (BTreeSet::new(), BTreeSet::new());
        for (name, one) in &self.model.enrolled {
            let role = identity(name).ok_or(Stop::Unknown)?.role();
            if one.jurisdiction != "CH" {
                return Err(KmsRefusal::WrongJurisdiction.into());
            }
            if matches!(role, Role::Node | Role::Kms) != (one.node_id != 0) {
                return Err(KmsRefusal::Malformed.into());
            }
            let own_id = one.node_id == 0 || ids.insert((role, one.node_id));
            if !own_id || !keys.insert(&one.public_key) {
                return Err(KmsRefusal::AlreadyEnrolled.into());
            }
        }
        if !self.model.keeps_control(&before) {
            return Err(KmsRefusal::LocksOut.into());
        }
        for one in add.iter().filter(|one| one.node_id != 0) {
            let role = identity(&one.identity).ok_or(Stop::Unknown)?.role();
            match before.members.get(&(role, one.node_id)) {
                Some(owner) if *owner != one.identity => {
                    return Err(KmsRefusal::AlreadyEnrolled.into());
                }
                None if role == Role::Kms => return Err(KmsRefusal::NotEnrolled.into()),
                _ => {}
            }
            let member = (role, one.node_id);
            self.model.members.insert(member, one.identity.clone());
        }
        self.model.authority += 1;
        let leaf = self.append(Kind::EnrolmentChanged, purpose, None, actor);
        Ok(self.done(leaf))
    }

    fn change_grants(
        &mut self,
        add: &[Grant],
        remove: &[Grant],
        claim: Option<&Claim>,
    ) -> Ruled<KmsDone> {
        if !(1..=256).contains(&(add.len() + remove.len())) {
            return Err(KmsRefusal::Malformed.into());
        }
        let known = |action: &i32| proto::v1::Action::try_from(*action).is_ok();
        if !add.iter().flat_map(|grant| &grant.actions).all(known) {
            return Err(Stop::Unknown);
        }
        let (purpose, actor) = self.dual_control(claim)?;
        if !self.model.policy.is_empty() {
            return Err(KmsRefusal::PolicyRules.into());
        }
        for grant in remove {
            if !self.model.grants.remove(&grant.encode_to_vec()) {
                return Err(KmsRefusal::NotGranted.into());
            }
        }
        for grant in add {
            if !self.model.grants.insert(grant.encode_to_vec()) {
                return Err(KmsRefusal::Malformed.into());
            }
        }
        self.model.authority += 1;
        let leaf = self.append(Kind::GrantsChanged, purpose, None, actor);
        Ok(self.done(leaf))
    }

    /// The first text ends the grants.
    fn change_policy(&mut self, change: &ChangePolicy) -> Ruled<KmsDone> {
        if change.text.trim().is_empty() || change.text.len() > 900_000 {
            return Err(KmsRefusal::Malformed.into());
        }
        let (purpose, actor) = self.dual_control(change.claim.as_ref())?;
        self.model.policy.clone_from(&change.text);
        self.model.grants.clear();
        self.model.authority += 1;
        let leaf = self.append(Kind::PolicyChanged, purpose, None, actor);
        Ok(self.done(leaf))
    }

    /// The runs draw one policy that holds and bend it: anything else is none.
    fn change_witnesses(&mut self, change: &ChangeWitnesses) -> Ruled<KmsDone> {
        let policy = change.policy.as_ref().ok_or(KmsRefusal::Malformed)?;
        if policy.format > 1 {
            return Err(Stop::Unknown);
        }
        let lasts = (60_000..=30 * 24 * 3_600_000).contains(&policy.unwitnessed_max_ms);
        if policy.format != 1 || !lasts || policy.policy != witness_policy().policy {
            return Err(KmsRefusal::Malformed.into());
        }
        let (purpose, actor) = self.dual_control(change.claim.as_ref())?;
        let leaf = self.append(Kind::WitnessesChanged, purpose, None, actor);
        Ok(self.done(leaf))
    }

    fn allocate(&mut self, replica: &str) -> Ruled<KmsDone> {
        let replica = identity(replica).ok_or(KmsRefusal::Malformed)?;
        self.of_role(Role::Operator)?;
        if replica.region().as_str() != "ch-zrh" || replica.role() != Role::Kms {
            return Err(KmsRefusal::WrongJurisdiction.into());
        }
        let node_id = FIRST_ALLOCATED_NODE_ID + self.at.index;
        let member = (Role::Kms, node_id);
        self.model.members.insert(member, replica.to_string());
        let kind = Kind::MemberAllocated;
        let leaf = self.append(kind, Purpose::service(), None, self.requester());
        Ok(KmsDone {
            node_id,
            ..self.done(leaf)
        })
    }

    fn unseal(&mut self, replica: &str, boot: &Bytes, how: i32) -> Ruled<KmsDone> {
        if boot.len() != 16 {
            return Err(KmsRefusal::Malformed.into());
        }
        let replica = identity(replica).ok_or(KmsRefusal::Malformed)?;
        self.enrolled_requester()?;
        let enrolled = self.model.enrolled.contains_key(&replica.to_string());
        if replica.role() != Role::Kms || !enrolled {
            return Err(KmsRefusal::NotEnrolled.into());
        }
        if self.model.boots.contains(boot) {
            return Err(KmsRefusal::AlreadyUnsealed.into());
        }
        // 1: custodians, who are several people; 2: a peer, which takes a second person.
        let needed = match how {
            0 => return Err(KmsRefusal::Malformed.into()),
            1 => 0,
            2 => 1,
            _ => return Err(Stop::Unknown),
        };
        self.approved(needed)?;
        self.model.boots.insert(boot.clone());
        let leaf = self.append(Kind::Unsealed, Purpose::service(), None, self.requester());
        Ok(self.done(leaf))
    }

    pub(super) fn key(&mut self, dataset: &DatasetId) -> Ruled<&mut Key> {
        let key = self.model.keys.get_mut(dataset);
        key.ok_or_else(|| KmsRefusal::NoSuchKey.into())
    }

    /// The key, at the version the leader decided on.
    pub(super) fn unmoved(&mut self, dataset: &[u8], version: u64) -> Ruled<DatasetId> {
        let dataset = dataset_id(dataset)?;
        let held = self.key(&dataset)?.state_version;
        if held == version {
            Ok(dataset)
        } else {
            Err(moved(KmsRefusal::KeyStateMoved, held))
        }
    }

    /// Purpose and actor of a request about a key, made in the requester's own name.
    pub(super) fn asked_for(&self, claim: Option<&Claim>) -> Ruled<(Purpose, String)> {
        let (actor, purpose) = stated(claim)?;
        let requester = self.enrolled_requester()?;
        if requester == actor {
            Ok((purpose, actor.to_string()))
        } else {
            Err(KmsRefusal::Malformed.into())
        }
    }

    pub(super) fn requester(&self) -> String {
        self.command.requester.clone()
    }

    fn enrolled_requester(&self) -> Ruled<Identity> {
        let requester = identity(&self.command.requester).ok_or(KmsRefusal::Malformed)?;
        if self.model.enrolled.contains_key(&requester.to_string()) {
            Ok(requester)
        } else {
            Err(KmsRefusal::NotEnrolled.into())
        }
    }

    pub(super) fn of_role(&self, role: Role) -> Ruled<()> {
        if self.enrolled_requester()?.role() == role {
            Ok(())
        } else {
            Err(KmsRefusal::NotEnrolled.into())
        }
    }

    /// Enough distinct operators other than the requester said yes to this, in time and for the first time. Whoever
    /// is named in a command at all has to be good.
    pub(super) fn approved(&mut self, needed: usize) -> Ruled<()> {
        let approvals = &self.command.approvals;
        if approvals.len() > 16 {
            return Err(KmsRefusal::Malformed.into());
        }
        let mut approvers = BTreeSet::new();
        for one in approvals {
            let approver = identity(&one.approver).ok_or(KmsRefusal::Malformed)?;
            let of_one_request = one.single_use_id == approvals[0].single_use_id;
            let whole = one.single_use_id.len() == 16 && one.approval_hash.len() == 32;
            if !whole || !of_one_request {
                return Err(KmsRefusal::Malformed.into());
            }
            if one.approver == self.command.requester {
                return Err(KmsRefusal::SelfApproval.into());
            }
            let enrolled = self.model.enrolled.contains_key(&one.approver);
            if approver.role() != Role::Operator || !enrolled {
                return Err(KmsRefusal::NotEnrolled.into());
            }
            if one.expires_at_ms <= self.model.time {
                return Err(KmsRefusal::ApprovalExpired.into());
            }
            if self.model.used.contains(&one.single_use_id) {
                return Err(KmsRefusal::ApprovalReplayed.into());
            }
            approvers.insert(approver);
        }
        if approvers.len() < needed {
            return Err(KmsRefusal::TooFewApprovals.into());
        }
        let used = approvals.iter().map(|one| one.single_use_id.clone());
        self.model.used.extend(used);
        Ok(())
    }

    pub(super) fn human(&mut self) -> Ruled<()> {
        self.approved(self.model.approvals_min)
    }

    /// A leaf, at the end of the dataset's chain where it is about one.
    pub(super) fn append(
        &mut self,
        kind: Kind,
        purpose: Purpose,
        dataset: Option<&DatasetId>,
        actor: String,
    ) -> u64 {
        let key = dataset.and_then(|dataset| self.model.keys.get_mut(dataset));
        let dataset = key.map(|key| {
            key.chain += 1;
            (key.pseudonym.clone(), key.chain - 1)
        });
        self.model.leaves.push(Leaf {
            kind,
            time: self.model.time,
            purpose,
            dataset,
            actor,
            opened: None,
        });
        self.model.leaves.len() as u64 - 1
    }

    pub(super) fn done(&self, leaf_index: u64) -> KmsDone {
        KmsDone {
            leaf_index,
            authority_version: self.model.authority,
            ..KmsDone::default()
        }
    }

    pub(super) fn of_key(&self, dataset: &DatasetId, leaf_index: u64) -> KmsDone {
        let key = self.model.keys.get(dataset);
        let Some(key) = key else {
            return self.done(leaf_index);
        };
        KmsDone {
            state_version: key.state_version,
            version: key.versions,
            kek_id: key.kek_id.clone(),
            pseudonym: key.pseudonym.clone(),
            ..self.done(leaf_index)
        }
    }

    pub(super) fn use_of(&self, dataset: DatasetId) -> Use {
        Use::new(dataset, self.model.keys.get(&dataset).cloned())
    }
}

/// Of the root key in force: a run does not change it.
const ROOT_EPOCH: u32 = 1;

/// A wrapped version of this number under the root key in force, long enough to be wrapped.
fn wrapped(version: Option<&KekVersionRecord>, number: u32) -> Ruled<()> {
    if version.is_some_and(|version| version.root_epoch != ROOT_EPOCH) {
        return Err(moved(KmsRefusal::RootMoved, ROOT_EPOCH.into()));
    }
    let good = version.is_some_and(|version| {
        let lengths = [
            version.wrapped_kek.len(),
            version.wrapped_metadata_key.len(),
        ];
        version.version == number && lengths.iter().all(|bytes| (104..=512).contains(bytes))
    });
    if good {
        Ok(())
    } else {
        Err(KmsRefusal::Malformed.into())
    }
}

pub(super) fn dataset_id(bytes: &[u8]) -> Ruled<DatasetId> {
    DatasetId::try_from(bytes).map_err(|_| KmsRefusal::Malformed.into())
}

pub(super) fn identity(text: &str) -> Option<Identity> {
    text.parse().ok()
}

/// Who asks and what for.
pub(super) fn stated(claim: Option<&Claim>) -> Ruled<(Identity, Purpose)> {
    let claim = claim.ok_or(KmsRefusal::Malformed)?;
    let actor = identity(&claim.actor).ok_or(KmsRefusal::Malformed)?;
    let purpose = match claim.purpose.as_str() {
        "" => Purpose::service(),
        stated => stated.parse().map_err(|_| KmsRefusal::Malformed)?,
    };
    let texts = [&claim.on_behalf_of, &claim.case_id, &claim.legal_basis];
    if texts.iter().any(|text| text.len() > 1024) {
        return Err(KmsRefusal::Malformed.into());
    }
    Ok((actor, purpose))
}
