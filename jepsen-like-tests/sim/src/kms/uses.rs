//! What becomes of uses of keys: leases, metadata leases and opens, their retries and how long they are remembered.
//!
//! Owns the rule that a use has one leaf, which opens of one command share where dataset and claim are the same, and that
//! a retry within a minute finds it again; of a change of a key, within an hour.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, LeaseId, Role};
use proto::v1::record::Kind as Asked;
use proto::v1::{
    Claim, KeyState, KmsRefusal, LeaseIssue, OpenedItem, Record, RecordAnswer, RecordBatch,
};
use tlog::{Kind, Purpose};

use super::model::{Judging, Key, Model, Ruled, Stop, dataset_id, moved, stated};

/// For how long a request id finds its leaf again.
const REMEMBERED_MS: u64 = 60_000;
/// For how long that of a change of a key does.
const CHANGE_REMEMBERED_MS: u64 = 3_600_000;
const HUMAN: [&str; 4] = [
    "investigation",
    "third-party-request",
    "legal-request",
    "support",
];

/// What a request id was used for.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    asked: Vec<u8>,
    pub(super) leaf: u64,
    pub(super) time: u64,
    until: u64,
    lease: Bytes,
}

/// A key about to be used.
pub(super) struct Use {
    dataset: DatasetId,
    key: Option<Key>,
}

impl Use {
    pub(super) fn new(dataset: DatasetId, key: Option<Key>) -> Self {
        Self { dataset, key }
    }
}

/// One use that nothing speaks against but its past.
struct Checked {
    dataset: DatasetId,
    kind: Kind,
    purpose: Purpose,
    actor: String,
    /// Id and expiry.
    lease: Option<(LeaseId, u64)>,
    /// Objects and bytes of an open.
    opens: Option<(usize, u64)>,
}

/// Opens that wait for the leaf they share.
struct Wait {
    dataset: DatasetId,
    claim: Claim,
    purpose: Purpose,
    actor: String,
    opens: Vec<Opens>,
}

struct Opens {
    place: usize,
    id: Bytes,
    asked: Vec<u8>,
    objects: usize,
    bytes: u64,
}

/// What a leaf says of the opens in it: the requests, what each named, and how much it is together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Opened {
    pub(super) requests: Vec<String>,
    /// None where there is one request.
    pub(super) objects_of: Option<Vec<usize>>,
    pub(super) objects: usize,
    pub(super) bytes: String,
}

impl Wait {
    fn takes(&self, objects: usize, bytes: u64) -> bool {
        let held: usize = self.opens.iter().map(|open| open.objects).sum();
        held + objects <= 256 && sum(&self.opens) + u128::from(bytes) <= u128::from(u64::MAX)
    }
}

fn sum(opens: &[Opens]) -> u128 {
    opens.iter().map(|open| u128::from(open.bytes)).sum()
}

impl Opened {
    fn by(opens: &[Opens]) -> Self {
        let digits = |id: &Bytes| id.iter().map(|byte| format!("{byte:02x}")).collect();
        let objects: Vec<usize> = opens.iter().map(|open| open.objects).collect();
        Self {
            requests: opens.iter().map(|open| digits(&open.id)).collect(),
            objects: objects.iter().sum(),
            objects_of: (objects.len() > 1).then_some(objects),
            bytes: sum(opens).to_string(),
        }
    }
}

impl Model {
    /// Forgets what has run out, as every accepted command does.
    pub(super) fn forget(&mut self) {
        let time = self.time;
        self.leases.retain(|_, expires| *expires > time);
        self.memory.retain(|_, held| held.until > time);
    }
}

impl Judging<'_> {
    pub(super) fn records(&mut self, batch: &RecordBatch) -> Ruled<Vec<RecordAnswer>> {
        if batch.records.len() > 1024 {
            return Err(KmsRefusal::Malformed.into());
        }
        if batch.records.iter().any(|record| record.kind.is_none()) {
            return Err(Stop::Unknown);
        }
        let alone = batch.records.len() == 1;
        let mut answers = vec![RecordAnswer::default(); batch.records.len()];
        let mut waits: Vec<Wait> = Vec::new();
        for (place, record) in batch.records.iter().enumerate() {
            let mut waiting = waits.iter().flat_map(|wait| &wait.opens);
            if waiting.any(|open| open.id == record.request_id) {
                self.write(&mut waits, &mut answers);
            }
            match self.record(record, alone, place, &mut waits) {
                Ok(Some(answer)) => answers[place] = answer,
                Ok(None) => {}
                Err(Stop::Refused(refused)) => answers[place].refused = refused.reason,
                Err(Stop::Unknown) => return Err(Stop::Unknown),
            }
        }
        self.write(&mut waits, &mut answers);
        Ok(answers)
    }

    /// Writes the leaves that are waited for, in the order in which they were begun.
    fn write(&mut self, waits: &mut Vec<Wait>, answers: &mut [RecordAnswer]) {
        for wait in waits.drain(..) {
            let leaf = self.append(Kind::Open, wait.purpose, Some(&wait.dataset), wait.actor);
            let opened = Opened::by(&wait.opens);
            self.used(&wait.dataset, opened.objects as u64);
            self.model.leaves[leaf as usize].opened = Some(opened);
            for open in wait.opens {
                let memory = self.memory(open.asked, leaf, Bytes::new());
                answers[open.place] = self.found(&memory, false);
                self.model.memory.insert(open.id, memory);
            }
        }
    }

    fn memory(&self, asked: Vec<u8>, leaf: u64, lease: Bytes) -> Memory {
        Memory {
            asked,
            leaf,
            time: self.model.time,
            until: self.model.time + REMEMBERED_MS,
            lease,
        }
    }

    fn used(&mut self, dataset: &DatasetId, times: u64) {
        let key = self.model.keys.get_mut(dataset);
        if let Some((_, _, uses)) = key.and_then(|key| key.plan.as_mut()) {
            *uses += times;
        }
    }

    /// The answer; none of an open, which waits for its leaf.
    fn record(
        &mut self,
        record: &Record,
        alone: bool,
        place: usize,
        waits: &mut Vec<Wait>,
    ) -> Ruled<Option<RecordAnswer>> {
        let asked = without_attempt(record);
        if let Some(Asked::AccessKey(issue)) = &record.kind {
            return self.give_access(record, issue, asked).map(Some);
        }
        let checked = self.checked(record)?;
        let lease = checked.lease.map(|(id, _)| Bytes::from(id));
        let memory = self.model.memory.get(&record.request_id).cloned();
        if let Some(memory) = memory.filter(|m| m.until > self.model.time) {
            if memory.asked != asked {
                return Err(KmsRefusal::RequestIdReused.into());
            }
            // A lease key is kept nowhere: a retry that brings another lease is another lease.
            if lease.is_none() || lease.as_ref() == Some(&memory.lease) {
                return Ok(Some(self.found(&memory, true)));
            }
        }
        if let Some((id, expires)) = checked.lease {
            let place = (checked.dataset, id);
            if self.model.leases.contains_key(&place) {
                return Err(KmsRefusal::Malformed.into());
            }
            self.model.leases.insert(place, expires);
        }
        let human = HUMAN.contains(&checked.purpose.as_str());
        let released = match (human, alone) {
            (false, _) => Ok(()),
            (true, false) => Err(KmsRefusal::Malformed.into()),
            (true, true) => self.human(),
        };
        if let Err(refused) = released {
            // Nothing of a refused use stays.
            if let Some((id, _)) = checked.lease {
                self.model.leases.remove(&(checked.dataset, id));
            }
            return Err(refused);
        }
        let Checked {
            dataset,
            kind,
            purpose,
            actor,
            ..
        } = checked;
        let Some((objects, bytes)) = checked.opens else {
            self.used(&dataset, 1);
            let leaf = self.append(kind, purpose, Some(&dataset), actor);
            let memory = self.memory(asked, leaf, lease.unwrap_or_default());
            let answer = self.found(&memory, false);
            self.model.memory.insert(record.request_id.clone(), memory);
            return Ok(Some(answer));
        };
        let claim = record.claim.clone().expect("it was checked");
        let open = Opens {
            place,
            id: record.request_id.clone(),
            asked,
            objects,
            bytes,
        };
        let same = |wait: &&mut Wait| wait.dataset == dataset && wait.claim == claim;
        match waits.iter_mut().rfind(same) {
            Some(wait) if wait.takes(objects, bytes) => wait.opens.push(open),
            _ => waits.push(Wait {
                dataset,
                claim,
                purpose,
                actor,
                opens: vec![open],
            }),
        }
        Ok(None)
    }

    /// What the id of a change of a key is bound to.
    pub(super) fn change_asked(&self, what: &str, bare: &[u8]) -> Vec<u8> {
        [what.as_bytes(), self.command.requester.as_bytes(), bare].concat()
    }

    /// The leaf of the change, if it was made under this id before.
    pub(super) fn changed_before(&self, id: &Bytes, asked: &[u8]) -> Ruled<Option<u64>> {
        if id.is_empty() {
            return Ok(None);
        }
        if id.len() != 16 {
            return Err(KmsRefusal::Malformed.into());
        }
        let memory = self.model.memory.get(id);
        match memory.filter(|memory| memory.until > self.model.time) {
            Some(memory) if memory.asked != asked => Err(KmsRefusal::RequestIdReused.into()),
            memory => Ok(memory.map(|memory| memory.leaf)),
        }
    }

    pub(super) fn remember_change(&mut self, id: &Bytes, asked: Vec<u8>, leaf: u64) {
        if id.is_empty() {
            return;
        }
        let memory = Memory {
            asked,
            leaf,
            time: self.model.time,
            until: self.model.time + CHANGE_REMEMBERED_MS,
            lease: Bytes::new(),
        };
        self.model.memory.insert(id.clone(), memory);
    }

    /// The answer to a use under this id, if it is remembered.
    pub(super) fn used_before(&self, id: &Bytes, asked: &[u8]) -> Ruled<Option<RecordAnswer>> {
        let memory = self.model.memory.get(id);
        match memory.filter(|memory| memory.until > self.model.time) {
            Some(memory) if memory.asked != asked => Err(KmsRefusal::RequestIdReused.into()),
            memory => Ok(memory.map(|memory| self.found(memory, true))),
        }
    }

    /// Remembers a use that is of no dataset.
    pub(super) fn remembered(&mut self, id: &Bytes, asked: Vec<u8>, leaf: u64) -> RecordAnswer {
        let memory = self.memory(asked, leaf, Bytes::new());
        let answer = self.found(&memory, false);
        self.model.memory.insert(id.clone(), memory);
        answer
    }

    fn found(&self, memory: &Memory, reused: bool) -> RecordAnswer {
        RecordAnswer {
            refused: 0,
            leaf_index: memory.leaf,
            leaf_hash: Bytes::new(),
            reused,
            time_ms: memory.time,
        }
    }

    fn checked(&self, record: &Record) -> Ruled<Checked> {
        if record.request_id.len() != 16 {
            return Err(KmsRefusal::Malformed.into());
        }
        let dataset = dataset_id(&record.dataset_id)?;
        let (actor, purpose) = stated(record.claim.as_ref())?;
        if actor.region().as_str() != "ch-zrh" {
            return Err(KmsRefusal::WrongJurisdiction.into());
        }
        let human = HUMAN.contains(&purpose.as_str());
        let may = match actor.role() {
            Role::Gateway | Role::Client => !human,
            Role::Auditor => human,
            _ => false,
        };
        if !may {
            return Err(KmsRefusal::NotGranted.into());
        }
        let Use { dataset, key } = self.use_of(dataset);
        let key = key.ok_or(KmsRefusal::NoSuchKey)?;
        if key.state_version != record.state_version {
            return Err(moved(KmsRefusal::KeyStateMoved, key.state_version));
        }
        let mut opened = None;
        let (kind, lease) = match record.kind.as_ref().ok_or(Stop::Unknown)? {
            Asked::Lease(issue) => (Kind::Lease, Some(self.lease(&key, issue, false)?)),
            Asked::MetadataLease(issue) => {
                let reseals = purpose.as_str() == "reseal";
                (Kind::MetadataLease, Some(self.lease(&key, issue, reseals)?))
            }
            Asked::Opens(opens) => {
                let usable = match key.state {
                    KeyState::Enabled => true,
                    KeyState::Compromised => purpose.as_str() == "reseal",
                    _ => false,
                };
                if !usable {
                    return Err(KmsRefusal::KeyDisabled.into());
                }
                if !(1..=256).contains(&opens.items.len()) {
                    return Err(KmsRefusal::Malformed.into());
                }
                if !["", "ch-zrh"].contains(&opens.recipient_region.as_str()) {
                    return Err(KmsRefusal::WrongJurisdiction.into());
                }
                let whole = |item: &OpenedItem| {
                    let lengths = (
                        item.version_id.len(),
                        item.name_commitment.len(),
                        item.lease_id.len(),
                    );
                    lengths == (16, 32, 16)
                };
                let bytes = opens.items.iter().try_fold(0_u64, |sum, item| {
                    sum.checked_add(item.bytes).filter(|_| whole(item))
                });
                opened = Some((opens.items.len(), bytes.ok_or(KmsRefusal::Malformed)?));
                (Kind::Open, None)
            }
            Asked::AccessKey(_) | Asked::HandOver(_) | Asked::HandedOver(_) => {
                return Err(Stop::Unknown);
            }
        };
        Ok(Checked {
            dataset,
            kind,
            purpose,
            actor: actor.to_string(),
            lease,
            opens: opened,
        })
    }

    fn lease(&self, key: &Key, issue: &LeaseIssue, reseals: bool) -> Ruled<(LeaseId, u64)> {
        let id = LeaseId::try_from(&issue.lease_id[..]).map_err(|_| KmsRefusal::Malformed)?;
        if issue.holder.len() != 32 {
            return Err(KmsRefusal::Malformed.into());
        }
        let gives =
            key.state == KeyState::Enabled || (key.state == KeyState::Compromised && reseals);
        if !gives {
            return Err(KmsRefusal::KeyDisabled.into());
        }
        if issue.kek_version < key.versions {
            return Err(KmsRefusal::VersionTooOld.into());
        }
        let (from, to, now) = (issue.issued_at_ms, issue.expires_at_ms, self.model.time);
        let an_hour = 3_600_000;
        let good = issue.kek_version == key.versions
            && to > now
            && to - now <= an_hour
            && to > from
            && to - from <= an_hour;
        if good {
            Ok((id, to))
        } else {
            Err(KmsRefusal::Malformed.into())
        }
    }
}

/// A record without what the leader makes anew for each attempt.
fn without_attempt(record: &Record) -> Vec<u8> {
    let mut bare = Record {
        state_version: 0,
        ..record.clone()
    };
    if let Some(Asked::Lease(issue) | Asked::MetadataLease(issue)) = &mut bare.kind {
        let holder = std::mem::take(&mut issue.holder);
        *issue = LeaseIssue {
            holder,
            ..LeaseIssue::default()
        };
    }
    bare.encode_to_vec()
}
