//! Commands for the KMS, drawn from a seed: what a leader prepares, now and then late, repeated or bent.
//!
//! Owns the dice. The leader's half is the product's own (`kms_state::prepare`), on the state as it is or as it was.

use kms_state::prepare::{self, Asked, KeyChange, KeyUse, NewKek, NewLease};
use kms_state::{Authority, Refusal};
use proto::ids::{AccessKeyId, DatasetId, Identity, KekId, LeafIndex, LeaseId, UnixMs};
use proto::store::MemoryStore;
use proto::v1::{
    AccessKeyRecord, AccessKeyState, Action, ApprovalClaim, ChangeEnrolment, ChangeGrants,
    ChangePolicy, ChangeWitnesses, Claim, CreateAccessKey, Enrolment, EnrolmentSet, Grant,
    KeyState, KeyTag, KmsCommand, LabelKey, OpenedItem, Record, RewrappedMetadataKey, UnsealHow,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::bend;
use super::region::{
    DATASETS, HOUR, START, approval, asked, enrolment, genesis, grant, id, item, region, version,
    witness_policy,
};

/// Request ids a run draws from: few, so that retries and thefts happen.
const REQUESTS: u8 = 40;
/// Ids of changes of keys, uses of keys have the first of them too. They are remembered for long: most are free.
const CHANGES: u8 = 250;
/// Lease ids of a run: fewer than one command forgets.
const LEASES: u8 = 12;
/// Commands kept back to arrive late.
const HELD_MAX: usize = 5;

/// The dice of one seed.
pub(super) struct Draw {
    pub(super) rng: StdRng,
    bent: u32,
    /// The leader's clock.
    pub(super) now: u64,
    number: u64,
    single_use: u64,
    held: Vec<KmsCommand>,
    sent: Vec<KmsCommand>,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let bent = *[0, 10, 30].choose(&mut rng).expect("not empty");
        Self {
            rng,
            bent,
            now: START,
            number: 0,
            single_use: 0,
            held: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// The next command on a state that may be newer than what some of them were decided on.
    pub(super) fn next(&mut self, state: &MemoryStore) -> KmsCommand {
        let command = loop {
            if !self.held.is_empty() && self.rng.random_ratio(1, 12) {
                let at = self.rng.random_range(0..self.held.len());
                break self.held.swap_remove(at);
            }
            let Some(mut command) = self.fresh(state) else {
                continue;
            };
            if self.rng.random_range(0..100) < self.bent {
                bend::bend(self, &mut command);
            }
            if self.held.len() < HELD_MAX && self.rng.random_ratio(1, 14) {
                self.held.push(command);
                continue;
            }
            break command;
        };
        self.sent.push(command.clone());
        command
    }

    /// A command, or nothing where the leader itself refuses.
    fn fresh(&mut self, state: &MemoryStore) -> Option<KmsCommand> {
        self.now += self.rng.random_range(0..2500);
        let Some(authority) = Authority::load(state) else {
            return Some(self.before_the_ceremony());
        };
        // Where a text rules, who decides is beside the state: this leader goes by the grants of the beginning.
        let authority = match authority.policy_text() {
            None => authority,
            Some(_) => {
                let set = authority.set().clone();
                let grants = genesis().grants;
                let policy = String::new();
                let granted = Authority::parse(EnrolmentSet {
                    grants,
                    policy,
                    ..set
                });
                granted.expect("as at the beginning")
            }
        };
        match self.rng.random_range(0..90) {
            0..4 => self.create(&authority),
            4..8 => self.rotate(state, &authority),
            8..18 => self.change_state(state, &authority),
            18..21 => {
                let shard = *[0, 16, 16, 17].choose(&mut self.rng).expect("not empty");
                let asked = self.asked(&["kms/r1", "kms/r2", "operator/o1"]);
                let dataset = self.dataset();
                Some(prepare::register_shard(&authority, asked, &dataset, shard))
            }
            21..24 => {
                let dataset = self.dataset();
                let asked = self.asked(&["kms/r1", "kms/r2"]);
                let version = kms_state::key(state, &dataset).map_or(0, |key| key.state_version);
                Some(prepare::confirm_shard(&authority, asked, &dataset, version))
            }
            24..46 => self.records(state, &authority),
            46..50 => Some(self.enrol(state, &authority)),
            50..52 => Some(self.grants(&authority)),
            52..53 if self.rng.random_ratio(1, 3) => Some(self.policy(&authority)),
            52..53 => Some(self.witnesses(&authority)),
            53..56 => {
                let peer = self.rng.random();
                let how = if peer {
                    UnsealHow::Peer
                } else {
                    UnsealHow::Custodians
                };
                let mut asked = self.asked(&["kms/r1", "kms/r2"]);
                if peer || self.rng.random_ratio(1, 6) {
                    asked.approvals = self.approvals();
                }
                let replica = ["kms/r1", "kms/r2", "kms/r9"][self.rng.random_range(0..3)];
                let boot = [self.rng.random_range(0..12); 16];
                let replica = id(replica);
                Some(prepare::record_unseal(
                    &authority, asked, &replica, boot, how,
                ))
            }
            56..58 => {
                let asked = self.asked(&["operator/o1", "operator/o2", "gateway/g1"]);
                let name = format!("kms/y{}", self.rng.random_range(0..3));
                Some(prepare::allocate_kms_id(&authority, asked, &id(&name)))
            }
            58..65 => Some(self.time(state)),
            65..71 => self.again(),
            71..76 => self.plan(state, &authority),
            76..77 => self.label(state, &authority),
            77..79 => {
                let due = kms_state::erase_due(state).map_or(1, |due| due.leaf.0);
                let said = due + [0, 0, 0, 1][self.rng.random_range(0..4)];
                let who = ["kms/r1", "kms/r2", "kms/r3", "kms/y0", "node/n1"];
                let asked = self.asked(&who);
                Some(prepare::confirm_erased(&authority, asked, LeafIndex(said)))
            }
            79..89 => self.access_key(state, &authority),
            _ => Some(prepare::init(self.asked(&["kms/r1"]), region(), &genesis())),
        }
    }

    /// The ceremony, after a while; before it, whatever there is.
    fn before_the_ceremony(&mut self) -> KmsCommand {
        let asked = self.asked(&["kms/r1"]);
        let mut set = genesis();
        match self.rng.random_range(0..8) {
            0 => set.version = 2,
            1 => set.approvals_min = 1,
            2 => return prepare::batch(asked, 0, Vec::new()),
            3 => return prepare::advance_time(asked, &[UnixMs(self.now); 2]),
            _ => {}
        }
        prepare::init(asked, region(), &set)
    }

    pub(super) fn dataset(&mut self) -> DatasetId {
        // One busier than the others.
        DATASETS[[0, 0, 0, 1, 2][self.rng.random_range(0..5)]]
    }

    fn asked(&mut self, who: &[&str]) -> Asked {
        self.number += 1;
        let who = who.choose(&mut self.rng).expect("somebody asks");
        asked(who, self.now, self.number)
    }

    /// Mostly two good ones; else too few, one's own, someone's who has no say, used or expired ones.
    pub(super) fn approvals(&mut self) -> Vec<ApprovalClaim> {
        self.single_use += 1;
        let far = self.now + 365 * 24 * HOUR;
        let now = self.now;
        let mut used = self.single_use;
        let who: &[&str] = match self.rng.random_range(0..16) {
            0 => &[],
            1 => &["operator/o2"],
            2 => &["operator/o2", "operator/o2"],
            3 => &["operator/o1", "operator/o2", "operator/o3"],
            4 => &["operator/o2", "custodian/c1"],
            5 => &["operator/o3", "operator/gone"],
            6 => {
                used = self.rng.random_range(1..=self.single_use);
                &["operator/o2", "operator/o3"]
            }
            7 | 8 => &["operator/o3", "operator/o4"],
            _ => &["operator/o2", "operator/o3"],
        };
        let expires = if self.rng.random_ratio(1, 14) {
            now.saturating_sub(1000)
        } else {
            far
        };
        who.iter().map(|who| approval(who, used, expires)).collect()
    }

    fn create(&mut self, authority: &Authority) -> Option<KmsCommand> {
        let dataset = self.dataset();
        // Sometimes another's ids.
        let ids = if self.rng.random_ratio(1, 8) {
            self.dataset()
        } else {
            dataset
        };
        let new = NewKek {
            dataset,
            kek: KekId([ids.0[0] ^ 0x0F; 16]),
            pseudonym: [ids.0[0] ^ 0xF0; 16],
            request_id: [self.rng.random_range(0..3); 16],
            version: version(1),
        };
        let asked = self.asked(&["gateway/g1", "operator/o1", "gateway/g2"]);
        prepare::create_kek(authority, asked, Claim::default(), new).ok()
    }

    fn rotate(&mut self, state: &MemoryStore, authority: &Authority) -> Option<KmsCommand> {
        let dataset = self.dataset();
        let next = kms_state::key(state, &dataset)?.current_version + 1;
        let asked = self.asked(&["operator/o1"]);
        let change = self.key_change(&dataset);
        prepare::rotate_kek(state, authority, asked, change, version(next)).ok()
    }

    /// A plan of rotation, older versions retired, or those ended.
    fn plan(&mut self, state: &MemoryStore, authority: &Authority) -> Option<KmsCommand> {
        let dataset = self.dataset();
        let key = kms_state::key(state, &dataset)?;
        let retired = key.min_version > kms_state::oldest_living(&key);
        if retired && key.confirmed_state_version != key.state_version && self.rng.random() {
            let asked = self.asked(&["kms/r1"]);
            let version = key.state_version;
            return Some(prepare::confirm_shard(authority, asked, &dataset, version));
        }
        let mut asked = self.asked(&["operator/o1"]);
        let change = self.key_change(&dataset);
        if retired && self.rng.random_ratio(3, 4) {
            asked.approvals = self.approvals();
            let below = key.min_version;
            let lost = kms_state::metadata_below(&key, below);
            let lost = lost.map(|version| RewrappedMetadataKey {
                version: version.version,
                wrapped_metadata_key: vec![0xDD; 150].into(),
            });
            let lost = lost.collect();
            return prepare::end_kek_versions(state, authority, asked, change, below, lost).ok();
        }
        if self.rng.random() {
            let oldest = key.min_version + self.rng.random_range(0..3);
            return prepare::raise_min_version(state, authority, asked, change, oldest).ok();
        }
        let age = *[0, HOUR, 30 * 24 * HOUR, 5].choose(&mut self.rng)?;
        let uses = *[0, 256, 1 << 20, 5].choose(&mut self.rng)?;
        prepare::plan_key_rotation(state, authority, asked, change, age, uses).ok()
    }

    /// One of the access keys that there are.
    fn held(&mut self, state: &MemoryStore) -> Option<AccessKeyRecord> {
        let held = kms_state::access_keys(state, None, usize::MAX);
        held.choose(&mut self.rng).cloned()
    }

    /// Few at a time, of fewer principals: they are asked for again, disabled while another stays, and gone.
    fn access_key(&mut self, state: &MemoryStore, authority: &Authority) -> Option<KmsCommand> {
        let few = kms_state::access_keys(state, None, usize::MAX).len() < 4;
        let held = self.held(state);
        let mut asked = self.asked(&["operator/o1", "operator/o1", "operator/o4", "gateway/g1"]);
        let what = match &held {
            None => 0,
            Some(_) if few => self.rng.random_range(0..8),
            Some(_) => self.rng.random_range(1..8),
        };
        let id = |held: &AccessKeyRecord| AccessKeyId::try_from(&held.access_key_id[..]).ok();
        match what {
            0 => {
                asked.approvals = self.approvals();
                let new = asked.approvals.first().map(|one| one.single_use_id.clone());
                let again = self.rng.random_ratio(1, 2);
                let again = held.filter(|_| again).map(|held| held.created_by_request);
                let request_id = again.or(new)?;
                let id = kms_state::access_key_id(request_id[..].try_into().ok()?);
                let principal = format!("service/p{}", self.rng.random_range(0..2));
                let new = CreateAccessKey {
                    access_key_id: id.as_str().to_owned().into(),
                    principal: super::region::id(&principal).to_string(),
                    wrapped_secret: vec![0xDD; 150].into(),
                    root_epoch: 1,
                    claim: None,
                    request_id,
                };
                let claim = Claim::default();
                Some(prepare::create_access_key(authority, asked, claim, new))
            }
            1..6 => {
                let id = held.as_ref().and_then(id)?;
                let enable = held.is_some_and(|key| key.state() == AccessKeyState::Disabled);
                let target = match enable ^ self.rng.random_ratio(1, 8) {
                    true => AccessKeyState::Enabled,
                    false => AccessKeyState::Disabled,
                };
                if enable || self.rng.random_ratio(1, 6) {
                    asked.approvals = self.approvals();
                }
                let (claim, which) = (Claim::default(), (id, target));
                prepare::set_access_key_state(state, authority, asked, claim, which).ok()
            }
            _ => {
                let id = held.as_ref().and_then(id)?;
                prepare::delete_access_key(state, authority, asked, Claim::default(), id).ok()
            }
        }
    }

    /// A gateway asks for a secret; now and then somebody else does.
    fn secret(&mut self, state: &MemoryStore) -> Option<Record> {
        let held = self.held(state)?;
        let id = AccessKeyId::try_from(&held.access_key_id[..]).ok()?;
        let request_id = [self.rng.random_range(0..REQUESTS); 16];
        let who = *["gateway/g1", "gateway/g2", "gateway/g1", "client/s1"].choose(&mut self.rng)?;
        let (who, seconds) = (super::region::id(who), self.rng.random_range(1..=3_600));
        let asked = (id, seconds);
        let given = prepare::access_secret(state, &who, request_id, Claim::default(), asked);
        Some(given.ok()?.0)
    }

    /// Names of few: they are taken, given up and taken by another key.
    fn label(&mut self, state: &MemoryStore, authority: &Authority) -> Option<KmsCommand> {
        let dataset = self.dataset();
        let asked = self.asked(&["operator/o1"]);
        let change = self.key_change(&dataset);
        let mut some = |of: &[&str]| {
            let mut all = of.iter().map(ToString::to_string).collect::<Vec<_>>();
            all.retain(|_| self.rng.random_ratio(1, 3));
            all
        };
        let tag = |name| KeyTag {
            name,
            value: "held".to_owned(),
        };
        let labels = LabelKey {
            add_aliases: some(&["cases", "cases.old", "siem"]),
            remove_aliases: some(&["cases", "cases.old", "siem"]),
            set_tags: some(&["owner", "case"]).into_iter().map(tag).collect(),
            remove_tags: some(&["owner", "case"]),
            ..LabelKey::default()
        };
        prepare::label_key(state, authority, asked, change, labels).ok()
    }

    fn change_state(&mut self, state: &MemoryStore, authority: &Authority) -> Option<KmsCommand> {
        use KeyState::{Compromised, Destroyed, Disabled, Enabled, PendingDestruction};
        let time = kms_state::region_time(state).0;
        let is_due = |dataset: &DatasetId| {
            let key = kms_state::key(state, dataset);
            key.is_some_and(|key| key.state() == PendingDestruction && key.destroy_after_ms <= time)
        };
        // The driver asks for what is due, and now and then for what is not.
        let due = DATASETS.into_iter().find(is_due);
        let due = due.filter(|_| self.rng.random_ratio(3, 4));
        let dataset = due.unwrap_or_else(|| self.dataset());
        let key = kms_state::key(state, &dataset)?;
        if due.is_some() || self.rng.random_ratio(1, 40) {
            let asked = self.asked(&["kms/r1", "kms/r2"]);
            let (version, none) = (key.state_version, UnixMs(0));
            let destroy = prepare::destroy_kek(authority, asked, &dataset, version, none);
            return Some(destroy);
        }
        let targets = match kms_state::key(state, &dataset)?.state() {
            Enabled => &[Disabled, Disabled, Disabled, Compromised][..],
            Disabled => &[Enabled, Enabled, Enabled, Compromised, PendingDestruction][..],
            Compromised => &[PendingDestruction][..],
            _ => &[Destroyed, Disabled, Compromised][..],
        };
        let target = *targets.choose(&mut self.rng)?;
        let days = match target {
            PendingDestruction => self.rng.random_range(6..32),
            _ => 0,
        };
        let mut asked = self.asked(&["operator/o1"]);
        let destroys = matches!(target, PendingDestruction | Destroyed);
        if destroys || self.rng.random_ratio(1, 10) {
            asked.approvals = self.approvals();
        }
        let change = self.key_change(&dataset);
        prepare::change_key_state(state, authority, asked, change, (target, days)).ok()
    }

    /// Under an id of few: retries happen, and ids are used for something else.
    fn key_change<'a>(&mut self, dataset: &'a DatasetId) -> KeyChange<'a> {
        KeyChange {
            dataset,
            request_id: [self.rng.random_range(0..CHANGES); 16],
            claim: Claim::default(),
        }
    }

    fn records(&mut self, state: &MemoryStore, authority: &Authority) -> Option<KmsCommand> {
        let many = [1, 1, 1, 2, 4][self.rng.random_range(0..5)];
        let mut records = Vec::new();
        let mut human = false;
        for _ in 0..many {
            if self.rng.random_ratio(1, 6) {
                records.extend(self.secret(state));
                continue;
            }
            let Some((record, needs_approvals)) = self.record(state, authority) else {
                continue;
            };
            human |= needs_approvals;
            records.push(record);
        }
        if records.is_empty() && !self.rng.random_ratio(1, 20) {
            return None;
        }
        let mut asked = self.asked(&["kms/r1", "kms/r2"]);
        if human {
            asked.approvals = self.approvals();
        }
        Some(prepare::batch(asked, authority.version(), records))
    }

    /// A use of a key, and whether it takes dual control.
    fn record(&mut self, state: &MemoryStore, authority: &Authority) -> Option<(Record, bool)> {
        let dataset = self.dataset();
        let request_id = [self.rng.random_range(0..REQUESTS); 16];
        let (who, purpose) = *[
            ("gateway/g1", ""),
            ("gateway/g1", ""),
            ("gateway/g2", ""),
            ("gateway/g2", "reseal"),
            ("auditor/a1", "investigation"),
        ]
        .choose(&mut self.rng)?;
        let caller: Identity = id(who);
        let used = KeyUse {
            caller: &caller,
            dataset: &dataset,
            request_id,
            claim: Claim {
                purpose: purpose.to_owned(),
                ..Claim::default()
            },
        };
        let lease = NewLease {
            id: LeaseId([self.rng.random_range(0..LEASES); 16]),
            holder: [0xE0 + self.rng.random_range(0..2); 32],
            issued: UnixMs(self.now),
            expires: UnixMs(self.now + [1000, HOUR, HOUR][self.rng.random_range(0..3)]),
        };
        let prepared: Result<_, Refusal> = match self.rng.random_range(0..5) {
            0 => prepare::lease(state, authority, used, lease),
            1 => prepare::metadata_lease(state, authority, used, lease),
            _ => {
                let items: Vec<OpenedItem> = (0..self.rng.random_range(1..4))
                    .map(|_| item(self.rng.random_range(0..9), self.rng.random_range(0..99)))
                    .collect();
                prepare::opens(state, authority, used, items)
            }
        };
        let (prepared, _) = prepared.ok()?;
        Some((prepared.record, prepared.verdict.approvals_needed > 0))
    }

    fn enrol(&mut self, state: &MemoryStore, authority: &Authority) -> KmsCommand {
        let member = self.rng.random_range(1000..1040);
        let names: [(&str, u64); 8] = [
            ("gateway/x1", 0),
            ("gateway/x2", 0),
            ("operator/o4", 0),
            ("operator/o5", 0),
            ("node/n7", 7),
            ("kms/y0", member),
            ("kms/y1", 3),
            ("kms/r3", 3),
        ];
        let (name, node_id) = *names.choose(&mut self.rng).expect("not empty");
        let owner = (1000..1400).find(|id| {
            let role = proto::ids::Role::Kms;
            kms_state::member(state, role, proto::ids::NodeId(*id))
                .is_some_and(|owner| owner.name() == "y0")
        });
        let node_id = match (name, owner) {
            ("kms/y0", Some(owner)) if self.rng.random_ratio(2, 3) => owner,
            _ => node_id,
        };
        let mut one: Enrolment = enrolment(name, node_id);
        match self.rng.random_range(0..24) {
            0 => one.jurisdiction = "DE".into(),
            1 => one.public_key = enrolment("operator/o2", 0).public_key,
            2 => one.node_id ^= 9,
            _ => {}
        }
        let enrolled = authority.enrolment(&id(name)).is_some();
        let removes = enrolled != self.rng.random_ratio(1, 6);
        let mut change = ChangeEnrolment::default();
        if removes {
            change.remove.push(id(name).to_string());
        }
        if !removes || self.rng.random_ratio(1, 5) {
            change.add.push(one);
        }
        let mut asked = self.asked(&["operator/o1"]);
        asked.approvals = self.approvals();
        prepare::change_enrolment(authority, asked, change)
    }

    fn grants(&mut self, authority: &Authority) -> KmsCommand {
        let purpose = format!("p{}", self.rng.random_range(0..4));
        let one = grant("role:client", &[Action::Read], &[&purpose]);
        let there = authority.set().grants.contains(&one);
        let mut change = ChangeGrants::default();
        let list: &mut Vec<Grant> = if there != self.rng.random_ratio(1, 6) {
            &mut change.remove
        } else {
            &mut change.add
        };
        list.push(one);
        let mut asked = self.asked(&["operator/o1"]);
        asked.approvals = self.approvals();
        prepare::change_grants(authority, asked, change)
    }

    fn policy(&mut self, authority: &Authority) -> KmsCommand {
        let change = ChangePolicy {
            text: format!("// Text {}.\n", self.rng.random_range(0..4)),
            claim: None,
        };
        let mut asked = self.asked(&["operator/o1"]);
        asked.approvals = self.approvals();
        prepare::change_policy(authority, asked, change)
    }

    fn witnesses(&mut self, authority: &Authority) -> KmsCommand {
        let change = ChangeWitnesses {
            policy: Some(witness_policy()),
            outgoing_size: 0,
            claim: None,
        };
        let mut asked = self.asked(&["operator/o1"]);
        asked.approvals = self.approvals();
        prepare::change_witnesses(authority, asked, change)
    }

    /// A tick, a quiet hour, or a night of weeks; the clocks of a majority or not.
    fn time(&mut self, state: &MemoryStore) -> KmsCommand {
        let stands_at = kms_state::region_time(state).0;
        let steps = [30_000, 30_000, 120_000, HOUR, 24 * HOUR, 9 * 24 * HOUR];
        let step = *steps.choose(&mut self.rng).expect("not empty");
        self.now = self.now.max(stands_at + step);
        let count = self.rng.random_range(1..5);
        let clocks: Vec<UnixMs> = (0..count)
            .map(|_| match self.rng.random_range(0..8) {
                0 => UnixMs(stands_at.saturating_sub(5000)),
                1 => UnixMs(self.now + 99 * 24 * HOUR),
                _ => UnixMs(self.now),
            })
            .collect();
        let mut asked = self.asked(&["kms/r1", "operator/o1"]);
        if step > 24 * HOUR || self.rng.random_ratio(1, 8) {
            asked.approvals = self.approvals();
        }
        prepare::advance_time(asked, &clocks)
    }

    /// Region time has not followed the clock: an attentive leader goes by what it knows.
    pub(super) fn follow(&mut self, state: &MemoryStore) {
        let stands_at = kms_state::region_time(state).0;
        if stands_at > 0 && self.now > stands_at + 50_000 && self.rng.random_ratio(3, 4) {
            self.now = stands_at;
        }
    }

    fn again(&mut self) -> Option<KmsCommand> {
        let back = self.rng.random_range(1..=12);
        let at = self.sent.len().checked_sub(back)?;
        let mut command = self.sent[at].clone();
        if self.rng.random() {
            command.now_ms = self.now;
        }
        Some(command)
    }
}
