//! Leases, metadata leases and opens: one leaf each, before anything is released.
//!
//! Owns the record of every use of a key, the memory of live leases, and that leases and request ids are forgotten.
//! Refuses: a use decided on a key state that moved, a lease over an hour, an open for another region, a human
//! purpose without dual control.

use prost::Message;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, Identity, LeaseId, ObjectVersionId, Role, UnixMs};
use proto::store::Writer;
use proto::v1::record::Kind as Use;
use proto::v1::{
    KekRecord, KeyState, KmsAnswer, LeaseIssue, LeaseRecord, Opens, Record, RecordAnswer,
    RecordAnswers, RecordBatch, RequestMemory, kms_answer,
};
use serde::Serialize;
use tlog::{Field, Hash, Kind, ObjectItem, Private, Purpose};

use crate::append::{Applying, array, details, stated};
use crate::apply::{LEVEL_QUEUE_HEADS, LEVEL_RESEAL, Stop};
use crate::authority::is_human_purpose;
use crate::keys::{check_state_version, dataset_id};
use crate::layout;
use crate::read;
use crate::refusal::Refusal;
use crate::requests::Request;

/// Records that one command may carry.
pub const RECORDS_MAX: usize = 1_024;
/// Object versions that one open may name: its leaf stays under 16 KiB.
pub const OPEN_ITEMS_MAX: usize = 256;
/// Milliseconds that a lease may last.
pub const LEASE_MS_MAX: u64 = 3_600_000;
/// Milliseconds for which released keys may be used, counted from their leaf. A request id is remembered as long:
/// a retry within them reuses the leaf, a later one would release under a leaf that has run out and gets its own.
pub const USABLE_MS: u64 = 60_000;
/// Bytes of each statement of a claim.
pub const CLAIM_TEXT_MAX: usize = 1_024;
/// Expired entries that a command forgets besides twice what it adds: bounded work, and the queues shrink.
const FORGET_PER_COMMAND: usize = 64;
/// Purpose under which a compromised key still opens: to seal everything again under another.
pub const RESEAL: &str = "reseal";

pub(crate) fn batch(applying: &mut Applying<'_>, batch: &RecordBatch) -> Result<KmsAnswer, Stop> {
    if batch.records.len() > RECORDS_MAX {
        return Err(Refusal::Malformed("too many records in one command").into());
    }
    if batch.records.iter().any(|record| record.kind.is_none()) {
        return Err(Stop::Unknown("a kind of record this build does not know"));
    }
    let region = read::region(&*applying.state)
        .ok_or(Refusal::NotInitialised)?
        .region;
    let alone = batch.records.len() == 1;
    let mut key = HeldKey::default();
    let answers = batch
        .records
        .iter()
        .map(
            |record| match one(applying, &mut key, record, &region, alone) {
                Ok(answer) => answer,
                Err(refusal) => RecordAnswer {
                    refused: refusal.reason().into(),
                    ..RecordAnswer::default()
                },
            },
        )
        .collect();
    key.put_back(applying.state);
    Ok(KmsAnswer {
        answer: Some(kms_answer::Answer::Records(RecordAnswers { answers })),
    })
}

/// The key that the records before this one were of: what uses one dataset comes together, and its record moves on with
/// every leaf.
#[derive(Default)]
struct HeldKey {
    held: Option<(DatasetId, KekRecord)>,
    changed: bool,
}

impl HeldKey {
    fn of(&mut self, state: &mut dyn Writer, dataset: &DatasetId) -> Result<&KekRecord, Refusal> {
        if self.held.as_ref().is_none_or(|(of, _)| of != dataset) {
            self.put_back(state);
            self.held = read::key(&*state, dataset).map(|key| (*dataset, key));
        }
        let held = self.held.as_ref().ok_or(Refusal::NoSuchKey)?;
        Ok(&held.1)
    }

    /// The one that [`Self::of`] found last, to be changed.
    fn change(&mut self) -> &mut KekRecord {
        self.changed = true;
        let held = self.held.as_mut();
        &mut held.expect("a record's key is found before its leaf").1
    }

    fn put_back(&mut self, state: &mut dyn Writer) {
        if let Some((dataset, key)) = self.held.take()
            && std::mem::take(&mut self.changed)
        {
            state.put(&layout::kek(&dataset), &key.encode_to_vec());
        }
    }
}

/// A record that was checked in every respect but its retry.
struct Checked {
    request: Request,
    dataset: DatasetId,
    purpose: Purpose,
    private: Private,
    lease: Option<Lease>,
    kind: Kind,
    /// Leases, or object versions opened.
    uses: u64,
}

struct Lease {
    id: LeaseId,
    record: LeaseRecord,
}

fn one(
    applying: &mut Applying<'_>,
    key: &mut HeldKey,
    record: &Record,
    region: &str,
    alone: bool,
) -> Result<RecordAnswer, Refusal> {
    let mut checked = check(applying, key, record, region)?;
    if let Some(memory) = checked.request.known(applying.now)? {
        // A lease key is kept nowhere, so a retry that the leader answers with a new one is a new lease.
        let same_lease = match &checked.lease {
            None => true,
            Some(lease) => memory.lease_id == lease.id.0.as_slice(),
        };
        if same_lease {
            return Ok(answer_of(memory, true));
        }
    }
    if let Some(lease) = &checked.lease
        && read::lease(&*applying.state, &checked.dataset, &lease.id).is_some()
    {
        return Err(Refusal::Malformed("the lease id is taken"));
    }
    if is_human_purpose(&checked.purpose) {
        if !alone {
            return Err(Refusal::Malformed(
                "a use under dual control is recorded alone",
            ));
        }
        let authority = applying.authority()?;
        let approvers = applying.command.approvals.iter();
        if approvers
            .map(|approval| &approval.approver)
            .any(|approver| checked.private.fields.get(&Field::Actor) == Some(approver))
        {
            return Err(Refusal::SelfApproval);
        }
        let approved = applying.approvals(&authority, authority.approvals_min())?;
        applying.use_approvals(&approved, &mut checked.private);
    }
    Ok(commit(applying, key.change(), checked))
}

fn commit(applying: &mut Applying<'_>, key: &mut KekRecord, checked: Checked) -> RecordAnswer {
    let Checked {
        request,
        dataset,
        purpose,
        private,
        lease,
        kind,
        uses,
    } = checked;
    if let Some(rotation) = &mut key.rotation {
        rotation.uses = rotation.uses.saturating_add(uses);
    }
    let leaf = applying.append(kind, purpose, Some(key), private);
    let memory = RequestMemory {
        lease_id: lease
            .as_ref()
            .map(|lease| lease.id.into())
            .unwrap_or_default(),
        ..request.memory_of(&leaf, applying.now)
    };
    if let Some(lease) = lease {
        let expires = UnixMs(lease.record.expires_at_ms);
        let record = lease.record.encode_to_vec();
        applying
            .state
            .put(&layout::lease(&dataset, &lease.id), &record);
        applying
            .state
            .put(&layout::lease_queue(expires, &dataset, &lease.id), &[]);
    }
    request.remember(applying.state, &memory);
    answer_of(&memory, false)
}

fn answer_of(memory: &RequestMemory, reused: bool) -> RecordAnswer {
    RecordAnswer {
        refused: 0,
        leaf_index: memory.leaf_index,
        leaf_hash: memory.leaf_hash.clone(),
        reused,
        time_ms: memory.time_ms,
    }
}

fn check(
    applying: &mut Applying<'_>,
    key: &mut HeldKey,
    record: &Record,
    region: &str,
) -> Result<Checked, Refusal> {
    let request_id = array::<16>(&record.request_id).ok_or(Refusal::Malformed("request id"))?;
    let dataset = dataset_id(&record.dataset_id)?;
    let (actor, purpose, mut private) = stated(record.claim.as_ref())?;
    check_actor(&actor, &purpose, region)?;
    let key = key.of(applying.state, &dataset)?;
    check_state_version(key, record.state_version)?;
    private
        .fields
        .insert(Field::RequestId, hex::encode(request_id));
    let (kind, lease) = match record.kind.as_ref().ok_or(Refusal::Malformed("kind"))? {
        Use::Lease(issue) => {
            let lease = check_lease(applying, key, issue, Usable::Sealing, &mut private)?;
            (Kind::Lease, Some(lease))
        }
        Use::MetadataLease(issue) => {
            let reseals = purpose.as_str() == RESEAL && applying.at.level >= LEVEL_RESEAL;
            let usable = Usable::Metadata { reseals };
            let lease = check_lease(applying, key, issue, usable, &mut private)?;
            (Kind::MetadataLease, Some(lease))
        }
        Use::Opens(opens) => {
            check_opens(key, opens, region, &purpose, &mut private)?;
            (Kind::Open, None)
        }
    };
    let uses = match &record.kind {
        Some(Use::Opens(opens)) => opens.items.len() as u64,
        _ => 1,
    };
    Ok(Checked {
        request: Request::look(applying, request_id, request_hash(record)),
        dataset,
        purpose,
        private,
        lease,
        kind,
        uses,
    })
}

/// The structural half of policy, which needs no set: grants are held by the authority version.
fn check_actor(actor: &Identity, purpose: &Purpose, region: &str) -> Result<(), Refusal> {
    if actor.region().as_str() != region {
        return Err(Refusal::WrongJurisdiction);
    }
    let allowed = match actor.role() {
        Role::Gateway | Role::Client => {
            !is_human_purpose(purpose) || broken(Switch::AnyonesPurpose)
        }
        Role::Auditor => is_human_purpose(purpose),
        Role::Node | Role::Kms | Role::Operator | Role::Custodian => false,
    };
    if allowed {
        Ok(())
    } else {
        Err(Refusal::NotGranted)
    }
}

#[derive(Serialize)]
struct LeaseDetails {
    lease: String,
    holder: String,
    issued_at_ms: u64,
    expires_at_ms: u64,
    kek_version: u32,
}

/// What a lease is for, and so which states of the key give it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Usable {
    Sealing,
    /// Of a compromised key too, where that is to seal everything again.
    Metadata {
        reseals: bool,
    },
}

fn check_lease(
    applying: &Applying<'_>,
    key: &KekRecord,
    issue: &LeaseIssue,
    usable: Usable,
    private: &mut Private,
) -> Result<Lease, Refusal> {
    let malformed = Err(Refusal::Malformed("lease"));
    let Ok(id) = LeaseId::try_from(&issue.lease_id[..]) else {
        return malformed;
    };
    if issue.holder.len() != 32 {
        return malformed;
    }
    let reseals = usable == Usable::Metadata { reseals: true };
    match key.state() {
        KeyState::Enabled => {}
        KeyState::Compromised if reseals => {}
        _ => return Err(Refusal::KeyDisabled),
    }
    if issue.kek_version < key.current_version {
        return Err(Refusal::VersionTooOld);
    }
    let (issued, expires) = (issue.issued_at_ms, issue.expires_at_ms);
    let now = applying.now.0;
    let lasts = expires > now && expires > issued && expires - issued <= LEASE_MS_MAX;
    // Measured against region time too, or an `issued` in the future would stretch the hour.
    if issue.kek_version > key.current_version || !lasts || expires - now > LEASE_MS_MAX {
        return malformed;
    }
    details(
        private,
        &LeaseDetails {
            lease: id.to_string(),
            holder: hex::encode(&issue.holder),
            issued_at_ms: issued,
            expires_at_ms: expires,
            kek_version: issue.kek_version,
        },
    );
    let record = LeaseRecord {
        dataset_id: key.dataset_id.clone(),
        holder: issue.holder.clone(),
        expires_at_ms: expires,
        kek_version: issue.kek_version,
        metadata: usable != Usable::Sealing,
    };
    Ok(Lease { id, record })
}

#[derive(Serialize)]
struct OpenDetails {
    usable_ms: u64,
}

fn check_opens(
    key: &KekRecord,
    opens: &Opens,
    region: &str,
    purpose: &Purpose,
    private: &mut Private,
) -> Result<(), Refusal> {
    let usable = match key.state() {
        KeyState::Enabled => true,
        KeyState::Compromised => purpose.as_str() == RESEAL,
        _ => false,
    };
    if !usable {
        return Err(Refusal::KeyDisabled);
    }
    if opens.items.is_empty() || opens.items.len() > OPEN_ITEMS_MAX {
        return Err(Refusal::Malformed("an open names 1 to 256 object versions"));
    }
    if !opens.recipient_region.is_empty() && opens.recipient_region != region {
        return Err(Refusal::WrongJurisdiction);
    }
    let mut bytes = 0_u64;
    for item in &opens.items {
        let malformed = Refusal::Malformed("an item of an open");
        let version = ObjectVersionId::try_from(&item.version_id[..]);
        let name = Hash::try_from(&item.name_commitment[..]);
        let lease = LeaseId::try_from(&item.lease_id[..]);
        let (Ok(version), Ok(name), Ok(lease)) = (version, name, lease) else {
            return Err(malformed);
        };
        bytes = bytes.checked_add(item.bytes).ok_or(malformed)?;
        private
            .objects
            .push(ObjectItem::value_of(version, name, lease, item.bytes));
    }
    private
        .fields
        .insert(Field::RecipientRegion, region.to_owned());
    private.fields.insert(Field::Bytes, bytes.to_string());
    details(
        private,
        &OpenDetails {
            usable_ms: USABLE_MS,
        },
    );
    Ok(())
}

/// What a request id is bound to: the request without what the leader adds anew for each attempt.
fn request_hash(record: &Record) -> Hash {
    let mut bound = record.clone();
    bound.state_version = 0;
    if let Some(Use::Lease(issue) | Use::MetadataLease(issue)) = &mut bound.kind {
        *issue = LeaseIssue {
            holder: issue.holder.clone(),
            ..LeaseIssue::default()
        };
    }
    tlog::sha256(&[b"reduit/v1/kms-request\n", &bound.encode_to_vec()])
}

/// Forgets leases and request ids that have run out, a bounded number a command.
pub(crate) fn forget_expired(applying: &mut Applying<'_>, grown_by: usize) {
    let at_most = FORGET_PER_COMMAND + 2 * grown_by;
    let now = applying.now.0;
    forget(applying, LEASES, now, at_most);
    forget(applying, REQUESTS, now.saturating_sub(USABLE_MS), at_most);
}

/// Records that are forgotten when their time has come.
struct Queued {
    queue: u8,
    head: &'static [u8],
    table: u8,
}

const LEASES: Queued = Queued {
    queue: layout::LEASE_QUEUE,
    head: layout::LEASE_QUEUE_HEAD,
    table: layout::LEASES,
};
const REQUESTS: Queued = Queued {
    queue: layout::REQUEST_QUEUE,
    head: layout::REQUEST_QUEUE_HEAD,
    table: layout::REQUESTS,
};

/// Forgets what is due until `until`, oldest first.
fn forget(applying: &mut Applying<'_>, queued: Queued, until: u64, at_most: usize) {
    let remembers = applying.at.level >= LEVEL_QUEUE_HEADS;
    // Nothing joins a queue before its head: what is queued is due later than now, and now only goes on. A store that
    // keeps marks of what was deleted passes over all of them when it is asked from the queue's first key on.
    let start = match applying.state.value(queued.head).filter(|_| remembers) {
        Some(head) => [&head[..], &[0]].concat(),
        None => vec![queued.queue],
    };
    let due = due(&*applying.state, &start, queued.queue, until, at_most);
    if let Some(last) = due.last().filter(|_| remembers) {
        applying.state.put(queued.head, last);
    }
    for key in due {
        applying.state.delete(&key);
        let record = [&[queued.table], &key[QUEUE_PREFIX_BYTES..]].concat();
        applying.state.delete(&record);
    }
}

/// Of a queue's key, its table and its time.
const QUEUE_PREFIX_BYTES: usize = 1 + size_of::<u64>();

/// Keys of a queue from `start` on whose time is `until` or before, oldest first.
fn due(state: &dyn Writer, start: &[u8], queue: u8, until: u64, at_most: usize) -> Vec<Vec<u8>> {
    let mut end = vec![queue];
    end.extend_from_slice(&until.saturating_add(1).to_be_bytes());
    let mut found = Vec::new();
    state.scan(start, &end, &mut |key, _| {
        if found.len() < at_most {
            found.push(key.to_vec());
        }
        found.len() < at_most
    });
    found
}
