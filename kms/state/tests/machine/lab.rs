//! A region on an in-memory store, and the commands tests send it. Every command is followed by every invariant.

use bytes::Bytes;
use kms_state::prepare::{self, Asked, KeyChange, KeyUse, NewKek, NewLease, Prepared};
use kms_state::{At, Authority, LEVEL_MAX, Refusal, apply, invariant};
use prost::Message;
use proto::ids::{
    DatasetId, FeatureLevel, Identity, KekId, LeaseId, LogIndex, ObjectVersionId, UnixMs,
};
use proto::store::MemoryStore;
use proto::v1::{
    Action, ApprovalClaim, Claim, Enrolment, EnrolmentSet, Grant, KekRecord, KekVersionRecord,
    KeyState, KmsAnswer, KmsCommand, KmsDone, KmsRefusal, KmsRegion, OpenedItem, Record,
    RecordAnswer, ShareHolder, kms_answer,
};

pub(crate) const START: u64 = 1_790_000_000_000;
pub(crate) const HOUR: u64 = 3_600_000;
pub(crate) const DATASET: DatasetId = DatasetId([0xD1; 16]);
pub(crate) const OTHER: DatasetId = DatasetId([0xD2; 16]);

pub(crate) fn id(text: &str) -> Identity {
    format!("spiffe://ch-zrh/{text}")
        .parse()
        .expect("a valid identity")
}

pub(crate) fn enrolment(text: &str, node_id: u64) -> Enrolment {
    let identity = id(text).to_string();
    let mut public_key = vec![
        0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    public_key.extend_from_slice(&tlog::sha256(&[identity.as_bytes()]).0);
    let hpke = if text.starts_with("custodian/") {
        vec![7; 1_216]
    } else {
        Vec::new()
    };
    Enrolment {
        identity,
        public_key: public_key.into(),
        node_id,
        endpoint: String::new(),
        jurisdiction: "CH".into(),
        hpke_public_key: hpke.into(),
    }
}

pub(crate) fn grant(principal: &str, actions: &[Action], purposes: &[&str]) -> Grant {
    Grant {
        principal: principal.into(),
        dataset: "*".into(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: purposes.iter().map(|purpose| (*purpose).into()).collect(),
    }
}

pub(crate) fn genesis() -> EnrolmentSet {
    let mut enrolments: Vec<_> = [
        ("kms/r1", 1),
        ("kms/r2", 2),
        ("kms/r3", 3),
        ("node/n1", 1),
        ("operator/o1", 0),
        ("operator/o2", 0),
        ("operator/o3", 0),
        ("operator/o4", 0),
        ("custodian/c1", 0),
        ("custodian/c2", 0),
        ("custodian/c3", 0),
        ("gateway/g1", 0),
        ("gateway/g2", 0),
        ("client/s1", 0),
        ("auditor/a1", 0),
    ]
    .into_iter()
    .map(|(text, node_id)| enrolment(text, node_id))
    .collect();
    enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    use Action::{Create, Keys, List, Read, Write};
    let mut grants = vec![
        grant(
            "role:gateway",
            &[Create, List, Read, Write],
            &["service", "reseal"],
        ),
        grant(
            "role:operator",
            &[Create, Keys, Read, List],
            &["service", "investigation"],
        ),
        grant("role:auditor", &[Read], &["investigation"]),
    ];
    grants.sort_by_cached_key(Message::encode_to_vec);
    EnrolmentSet {
        format: 1,
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        version: 1,
        ca_certificate: Bytes::from_static(b"ca"),
        enrolments,
        signed_at_ms: 5,
        grants,
        approvals_min: 2,
        policy: String::new(),
        service_principals: Vec::new(),
        trusted_regions: Vec::new(),
        descriptor: None,
    }
}

pub(crate) fn region() -> KmsRegion {
    let holder = |name: &str, share_index| ShareHolder {
        identity: id(name).to_string(),
        share_check: Bytes::from_static(b"check"),
        share_index,
    };
    KmsRegion {
        format: 1,
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        root_epoch: 1,
        root_check: Bytes::from_static(b"root-check"),
        shares_needed: 2,
        custodians: vec![
            holder("custodian/c1", 1),
            holder("custodian/c2", 2),
            holder("custodian/c3", 3),
        ],
        log_origin: "ch-zrh/main/1".into(),
        share_set: Bytes::from_static(b"share-set"),
    }
}

pub(crate) fn claim(purpose: &str) -> Claim {
    Claim {
        purpose: purpose.into(),
        ..Claim::default()
    }
}

pub(crate) fn version(number: u32) -> KekVersionRecord {
    KekVersionRecord {
        version: number,
        root_epoch: 1,
        wrapped_kek: vec![0xAA; 150].into(),
        wrapped_metadata_key: vec![0xBB; 150].into(),
        created_at_ms: 0,
        metadata_kek_version: 0,
    }
}

pub(crate) fn approval(approver: &str, single_use_id: u8) -> ApprovalClaim {
    ApprovalClaim {
        approver: id(approver).to_string(),
        single_use_id: vec![single_use_id; 16].into(),
        expires_at_ms: START + 365 * 24 * HOUR,
        approval_hash: vec![0xCC; 32].into(),
    }
}

pub(crate) fn item(version: u8, bytes: u64) -> OpenedItem {
    OpenedItem {
        version_id: ObjectVersionId([version; 16]).into(),
        name_commitment: vec![version; 32].into(),
        lease_id: LeaseId([9; 16]).into(),
        bytes,
    }
}

/// One region and the log that made it.
#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) state: MemoryStore,
    pub(crate) now: u64,
    pub(crate) log: Vec<Vec<u8>>,
    pub(crate) level: FeatureLevel,
}

impl Lab {
    /// Before the init ceremony.
    pub(crate) fn pristine() -> Self {
        Self {
            state: MemoryStore::default(),
            now: START,
            log: Vec::new(),
            level: LEVEL_MAX,
        }
    }

    /// After it.
    pub(crate) fn new() -> Self {
        Self::new_at(LEVEL_MAX)
    }

    fn new_at(level: FeatureLevel) -> Self {
        let mut lab = Self::pristine();
        lab.level = level;
        let command = prepare::init(lab.asked("kms/r1"), region(), &genesis());
        lab.done(&command);
        lab
    }

    /// With a key for [`DATASET`].
    pub(crate) fn with_key() -> Self {
        Self::with_key_at(LEVEL_MAX)
    }

    /// The same, at a feature level from its first command on.
    pub(crate) fn with_key_at(level: FeatureLevel) -> Self {
        let mut lab = Self::new_at(level);
        let command = lab.create(DATASET, 1).expect("granted");
        lab.done(&command);
        lab
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::load(&self.state).expect("initialised")
    }

    pub(crate) fn key(&self) -> KekRecord {
        kms_state::key(&self.state, &DATASET).expect("created")
    }

    pub(crate) fn asked(&self, requester: &str) -> Asked {
        let mut salts = [0x5A; 32];
        salts[..8].copy_from_slice(&(self.log.len() as u64).to_be_bytes());
        Asked {
            requester: id(requester),
            now: UnixMs(self.now),
            salts,
            approvals: Vec::new(),
        }
    }

    /// As [`Self::asked`], approved by o2 and o3.
    pub(crate) fn approved(&self, requester: &str, single_use_id: u8) -> Asked {
        let approvals = vec![
            approval("operator/o2", single_use_id),
            approval("operator/o3", single_use_id),
        ];
        Asked {
            approvals,
            ..self.asked(requester)
        }
    }

    pub(crate) fn at(&self) -> At {
        self.at_index(self.log.len() as u64 + 1)
    }

    pub(crate) fn at_index(&self, index: u64) -> At {
        At {
            index: LogIndex(index),
            voters: 3,
            level: self.level,
        }
    }

    /// Applies a command; all invariants hold after it, and a refused one changes nothing.
    pub(crate) fn apply(&mut self, command: &KmsCommand) -> kms_answer::Answer {
        let before = self.state.clone();
        let bytes = command.encode_to_vec();
        let answer = apply(self.at(), &bytes, &mut self.state).expect("known");
        self.log.push(bytes);
        if let Err(broken) = invariant::all(&self.state) {
            panic!("{broken}");
        }
        if let Err(broken) = invariant::invariant_only_grows(&before, &self.state) {
            panic!("{broken}");
        }
        let answer = KmsAnswer::decode(answer)
            .expect("own answer")
            .answer
            .expect("an answer");
        if matches!(answer, kms_answer::Answer::Refused(_)) {
            assert_eq!(before, self.state, "a refused command changed the state");
        }
        answer
    }

    pub(crate) fn done(&mut self, command: &KmsCommand) -> KmsDone {
        match self.apply(command) {
            kms_answer::Answer::Done(done) => done,
            other => panic!("not done: {other:?}"),
        }
    }

    pub(crate) fn refused(&mut self, command: &KmsCommand) -> (KmsRefusal, u64) {
        match self.apply(command) {
            kms_answer::Answer::Refused(refused) => (refused.reason(), refused.moved_to),
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn records(&mut self, records: Vec<Record>) -> Vec<RecordAnswer> {
        let version = self.authority().version();
        let command = prepare::batch(self.asked("kms/r1"), version, records);
        match self.apply(&command) {
            kms_answer::Answer::Records(answers) => answers.answers,
            other => panic!("no records: {other:?}"),
        }
    }

    pub(crate) fn record(&mut self, record: Record) -> RecordAnswer {
        self.records(vec![record]).remove(0)
    }

    pub(crate) fn create(&self, dataset: DatasetId, request: u8) -> Result<KmsCommand, Refusal> {
        let new = NewKek {
            dataset,
            kek: KekId([dataset.0[0] ^ 0x0F; 16]),
            pseudonym: [dataset.0[0] ^ 0xF0; 16],
            request_id: [request; 16],
            version: version(1),
        };
        prepare::create_kek(
            &self.authority(),
            self.asked("gateway/g1"),
            Claim::default(),
            new,
        )
    }

    pub(crate) fn rotate(&self) -> Result<KmsCommand, Refusal> {
        self.rotate_as(&DATASET, self.fresh_request(0xC0))
    }

    /// A try of a rotation, on the state as it stands.
    pub(crate) fn rotate_as(
        &self,
        dataset: &DatasetId,
        request_id: [u8; 16],
    ) -> Result<KmsCommand, Refusal> {
        let key = kms_state::key(&self.state, dataset).expect("created");
        let (authority, asked) = (self.authority(), self.asked("operator/o1"));
        let change = key_change(dataset, request_id);
        let next = version(key.current_version + 1);
        prepare::rotate_kek(&self.state, &authority, asked, change, next)
    }

    /// An id that no request before this command has.
    fn fresh_request(&self, kind: u8) -> [u8; 16] {
        let mut id = [kind; 16];
        id[..8].copy_from_slice(&(self.log.len() as u64).to_be_bytes());
        id
    }

    /// A change of state with approvals in it where `approved` names their single-use id.
    pub(crate) fn change(
        &self,
        target: KeyState,
        days: u32,
        approved: Option<u8>,
    ) -> Result<KmsCommand, Refusal> {
        let request_id = self.fresh_request(0xC1);
        self.change_as(request_id, target, days, approved)
    }

    /// A try of a change of state, on the state as it stands.
    pub(crate) fn change_as(
        &self,
        request_id: [u8; 16],
        target: KeyState,
        days: u32,
        approved: Option<u8>,
    ) -> Result<KmsCommand, Refusal> {
        let asked = match approved {
            Some(id) => self.approved("operator/o1", id),
            None => self.asked("operator/o1"),
        };
        let change = key_change(&DATASET, request_id);
        let authority = self.authority();
        prepare::change_key_state(&self.state, &authority, asked, change, (target, days))
    }

    /// Brings the key to a state by allowed steps.
    pub(crate) fn bring_to(&mut self, target: KeyState) {
        use KeyState::{Compromised, Destroyed, Disabled, PendingDestruction};
        let steps: &[KeyState] = match target {
            Disabled => &[Disabled],
            Compromised => &[Compromised],
            PendingDestruction => &[Disabled, PendingDestruction],
            Destroyed => &[Disabled, PendingDestruction, Destroyed],
            _ => &[],
        };
        for (n, step) in (100..).zip(steps) {
            let days = if *step == PendingDestruction { 7 } else { 0 };
            if *step == Destroyed {
                self.wait(7 * 24 * HOUR);
            }
            let command = self.change(*step, days, Some(n)).expect("an allowed step");
            self.done(&command);
        }
    }

    /// Lets time pass, a minute a command as an attentive leader does.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now += ms;
        let clocks = [UnixMs(self.now); 2];
        let mut asked = self.asked("kms/r1");
        if ms > kms_state::IDLE_JUMP_MS_MAX {
            asked = self.approved("kms/r1", 200 + (self.log.len() % 55) as u8);
        }
        let command = prepare::advance_time(asked, &clocks);
        self.done(&command);
    }

    pub(crate) fn used<'a>(&self, caller: &'a Identity, request: u8, purpose: &str) -> KeyUse<'a> {
        KeyUse {
            caller,
            dataset: &DATASET,
            request_id: [request; 16],
            claim: claim(purpose),
        }
    }

    pub(crate) fn new_lease(&self, lease: u8) -> NewLease {
        NewLease {
            id: LeaseId([lease; 16]),
            holder: [0xEE; 32],
            issued: UnixMs(self.now),
            expires: UnixMs(self.now + HOUR),
        }
    }

    pub(crate) fn lease(&self, request: u8, lease: u8) -> Result<Record, Refusal> {
        let caller = id("gateway/g1");
        let used = self.used(&caller, request, "");
        let new = self.new_lease(lease);
        let (prepared, _) = prepare::lease(&self.state, &self.authority(), used, new)?;
        Ok(prepared.record)
    }

    pub(crate) fn metadata_lease(&self, request: u8, lease: u8) -> Result<Record, Refusal> {
        self.metadata_lease_for("", request, lease)
    }

    pub(crate) fn metadata_lease_for(
        &self,
        purpose: &str,
        request: u8,
        lease: u8,
    ) -> Result<Record, Refusal> {
        let caller = id("gateway/g1");
        let used = self.used(&caller, request, purpose);
        let new = self.new_lease(lease);
        let (prepared, _) = prepare::metadata_lease(&self.state, &self.authority(), used, new)?;
        Ok(prepared.record)
    }

    pub(crate) fn open_as(
        &self,
        caller: &str,
        request: u8,
        purpose: &str,
        items: Vec<OpenedItem>,
    ) -> Result<Prepared, Refusal> {
        let caller = id(caller);
        let used = self.used(&caller, request, purpose);
        Ok(prepare::opens(&self.state, &self.authority(), used, items)?.0)
    }

    pub(crate) fn open(&self, request: u8) -> Result<Record, Refusal> {
        Ok(self
            .open_as("gateway/g1", request, "", vec![item(1, 10)])?
            .record)
    }

    pub(crate) fn last_leaf(&self) -> (tlog::Leaf, tlog::Disclosure) {
        let size = kms_state::frontier(&self.state).size();
        self.leaf(size - 1)
    }

    pub(crate) fn leaf(&self, index: u64) -> (tlog::Leaf, tlog::Disclosure) {
        let asked = kms_state::LeavesAsked {
            start: proto::ids::LeafIndex(index),
            limit: 1,
            bytes_max: usize::MAX,
            with_openings: true,
        };
        let entry = kms_state::leaves(&self.state, asked).remove(0);
        assert_eq!(entry.index, index);
        let leaf = tlog::Leaf::parse(&entry.leaf).expect("a stored leaf parses");
        let openings = tlog::Openings::parse(&entry.openings).expect("stored openings parse");
        let shown = tlog::openings_of(&leaf, &openings).expect("they belong together");
        (leaf, shown)
    }

    pub(crate) fn size(&self) -> u64 {
        kms_state::frontier(&self.state).size()
    }
}

pub(crate) fn key_change(dataset: &DatasetId, request_id: [u8; 16]) -> KeyChange<'_> {
    KeyChange {
        dataset,
        request_id,
        claim: Claim::default(),
    }
}

/// The reason a record was refused for.
pub(crate) fn reason(answer: &RecordAnswer) -> KmsRefusal {
    answer.refused()
}
