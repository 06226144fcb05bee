//! Leases, metadata leases and opens: each in a leaf, before anything is released.
//!
//! Owns the record of every use of a key, the memory of live leases, and that leases and request ids are forgotten.
//! Refuses: a use decided on a key state that moved, a lease over an hour, an open for another region, a human
//! purpose without dual control.

use prost::Message;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, Identity, LeaseId, Role, UnixMs};
use proto::store::Writer;
use proto::v1::record::Kind as Use;
use proto::v1::{
    Claim, KekRecord, KeyState, KmsAnswer, LeaseIssue, LeaseRecord, Record, RecordAnswer,
    RecordAnswers, RecordBatch, RequestMemory, kms_answer,
};
use serde::Serialize;
use tlog::{Field, Hash, Kind, Purpose};

use crate::access_keys;
use crate::append::{Applying, Private, array, details, stated};
use crate::apply::{LEVEL_QUEUE_HEADS, LEVEL_RESEAL, LEVEL_SHARED_LEAVES, Stop};
use crate::authority::is_human_purpose;
use crate::kek_rows;
use crate::keys::{check_state_version, dataset_id};
use crate::layout;
use crate::read;
use crate::refusal::Refusal;
use crate::requests::Request;

mod hand_over;
mod opens;

pub use hand_over::living_metadata;
use opens::{Opened, Waiting};

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
    let shares = applying.at.level >= LEVEL_SHARED_LEAVES;
    let mut waiting = Waiting::default();
    let mut key = HeldKey::default();
    let mut answers = vec![RecordAnswer::default(); batch.records.len()];
    for (place, record) in batch.records.iter().enumerate() {
        if waiting.holds(&record.request_id) {
            // A retry of what waits, or another use under its id: it is judged by what is remembered of the first.
            waiting.append(applying, &mut key, &region, &mut answers);
        }
        let answer = match &record.kind {
            // Of no dataset, so of no key's chain.
            Some(Use::AccessKey(asked)) => {
                access_keys::issue(applying, record, asked, &region).map(Some)
            }
            Some(Use::HandOver(asked)) => {
                hand_over::release(applying, &mut key, record, asked).map(Some)
            }
            Some(Use::HandedOver(asked)) => {
                hand_over::receive(applying, &mut key, record, asked, &region).map(Some)
            }
            _ => one(
                applying,
                &mut key,
                &mut waiting,
                place,
                record,
                &region,
                alone,
            ),
        };
        match answer {
            Ok(Some(answer)) => answers[place] = answer,
            Ok(None) => {}
            Err(refusal) => answers[place].refused = refusal.reason().into(),
        }
        if !shares {
            waiting.append(applying, &mut key, &region, &mut answers);
        }
    }
    waiting.append(applying, &mut key, &region, &mut answers);
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
            self.held = read::key_bare(&*state, dataset).map(|key| (*dataset, key));
        }
        let held = self.held.as_ref().ok_or(Refusal::NoSuchKey)?;
        Ok(&held.1)
    }

    /// One that [`Self::of`] has found, to be changed.
    fn changing(&mut self, state: &mut dyn Writer, dataset: &DatasetId) -> &mut KekRecord {
        self.of(state, dataset)
            .expect("a record's key is found before its leaf");
        self.changed = true;
        &mut self.held.as_mut().expect("found above").1
    }

    fn put_back(&mut self, state: &mut dyn Writer) {
        if let Some((dataset, key)) = self.held.take()
            && std::mem::take(&mut self.changed)
        {
            kek_rows::put_used(state, &dataset, &key);
        }
    }
}

/// A record that was checked in every respect but its retry.
struct Checked {
    request: Request,
    dataset: DatasetId,
    /// None where an open waits under the same claim: then that has it.
    who: Option<Who>,
    what: What,
}

/// Who, why, and what else a leaf says.
#[derive(Clone)]
struct Who {
    purpose: Purpose,
    private: Private,
}

enum What {
    Lease(Kind, Lease),
    Opens(Opened),
}

struct Lease {
    id: LeaseId,
    record: LeaseRecord,
}

/// The answer; none where the record waits for its leaf.
fn one<'a>(
    applying: &mut Applying<'_>,
    key: &mut HeldKey,
    waiting: &mut Waiting<'a>,
    place: usize,
    record: &'a Record,
    region: &str,
    alone: bool,
) -> Result<Option<RecordAnswer>, Refusal> {
    let claim = record
        .claim
        .as_ref()
        .ok_or(Refusal::Malformed("no claim"))?;
    let mut checked = check(applying, key, waiting, record, claim, region)?;
    if let Some(memory) = checked.request.known(applying.now)? {
        // A lease key is kept nowhere, so a retry that the leader answers with a new one is a new lease.
        let same_lease = match &checked.what {
            What::Opens(_) => true,
            What::Lease(_, lease) => memory.lease_id == lease.id.0.as_slice(),
        };
        if same_lease {
            return Ok(Some(answer_of(memory, true)));
        }
    }
    if let What::Lease(_, lease) = &checked.what
        && read::lease(&*applying.state, &checked.dataset, &lease.id).is_some()
    {
        return Err(Refusal::Malformed("the lease id is taken"));
    }
    if let Some(who) = &mut checked.who
        && is_human_purpose(&who.purpose)
    {
        dual_control(applying, &mut who.private, alone)?;
    }
    let Checked {
        request,
        dataset,
        who,
        what,
    } = checked;
    match what {
        What::Opens(opened) => {
            waiting.add((dataset, claim), who, (place, request, opened));
            Ok(None)
        }
        What::Lease(kind, lease) => {
            let who = who.expect("a lease's claim is always looked at");
            let key = key.changing(applying.state, &dataset);
            Ok(Some(commit_lease(
                applying,
                key,
                (dataset, request),
                who,
                (kind, lease),
            )))
        }
    }
}

/// Counts the approvals that a human purpose needs, and puts them into the leaf. Writes: nothing may fail after it.
fn dual_control(
    applying: &mut Applying<'_>,
    private: &mut Private,
    alone: bool,
) -> Result<(), Refusal> {
    if !alone {
        return Err(Refusal::Malformed(
            "a use under dual control is recorded alone",
        ));
    }
    let authority = applying.authority()?;
    let mut approvers = applying.command.approvals.iter();
    if approvers.any(|approval| private.fields.get(&Field::Actor) == Some(&approval.approver)) {
        return Err(Refusal::SelfApproval);
    }
    let approved = applying.approvals(&authority, authority.approvals_min())?;
    applying.use_approvals(&approved, private);
    Ok(())
}

fn commit_lease(
    applying: &mut Applying<'_>,
    key: &mut KekRecord,
    (dataset, request): (DatasetId, Request),
    who: Who,
    (kind, lease): (Kind, Lease),
) -> RecordAnswer {
    use_it(key, 1);
    let leaf = applying.append(kind, who.purpose, Some(key), who.private);
    let memory = RequestMemory {
        lease_id: lease.id.into(),
        ..request.memory_of(&leaf, applying.now)
    };
    let expires = UnixMs(lease.record.expires_at_ms);
    let record = lease.record.encode_to_vec();
    let state = &mut *applying.state;
    state.put(&layout::lease(&dataset, &lease.id), &record);
    state.put(&layout::lease_queue(expires, &dataset, &lease.id), &[]);
    request.remember(applying.state, &memory);
    answer_of(&memory, false)
}

/// Counts uses of a key's current version towards its rotation.
fn use_it(key: &mut KekRecord, uses: u64) {
    if let Some(rotation) = &mut key.rotation {
        rotation.uses = rotation.uses.saturating_add(uses);
    }
}

pub(crate) fn answer_of(memory: &RequestMemory, reused: bool) -> RecordAnswer {
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
    waiting: &Waiting<'_>,
    record: &Record,
    claim: &Claim,
    region: &str,
) -> Result<Checked, Refusal> {
    let request_id = array::<16>(&record.request_id).ok_or(Refusal::Malformed("request id"))?;
    let dataset = dataset_id(&record.dataset_id)?;
    let kind = record.kind.as_ref().ok_or(Refusal::Malformed("kind"))?;
    let joins = matches!(kind, Use::Opens(_)) && waiting.knows(&dataset, claim);
    let mut who = match joins {
        true => None,
        false => Some(who(claim, region)?),
    };
    let key = key.of(applying.state, &dataset)?;
    check_state_version(key, record.state_version)?;
    let applying = &*applying;
    let mut lease = |issue, usable| {
        let said = who.as_mut().expect("only an open joins");
        let id = hex::encode(request_id);
        said.private.fields.insert(Field::RequestId, id);
        check_lease(applying, key, issue, usable, &mut said.private)
    };
    let what = match kind {
        Use::Lease(issue) => What::Lease(Kind::Lease, lease(issue, Usable::Sealing)?),
        Use::MetadataLease(issue) => {
            let reseals = claim.purpose == RESEAL && applying.at.level >= LEVEL_RESEAL;
            let usable = Usable::Metadata { reseals };
            What::Lease(Kind::MetadataLease, lease(issue, usable)?)
        }
        Use::Opens(opens) => What::Opens(Opened::check(key, opens, region, claim)?),
        Use::AccessKey(_) | Use::HandOver(_) | Use::HandedOver(_) => {
            return Err(Refusal::Malformed("kind"));
        }
    };
    Ok(Checked {
        request: Request::look(applying, request_id, request_hash(record)),
        dataset,
        who,
        what,
    })
}

fn who(claim: &Claim, region: &str) -> Result<Who, Refusal> {
    let (actor, purpose, private) = stated(Some(claim))?;
    check_actor(&actor, &purpose, region)?;
    Ok(Who { purpose, private })
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
        Role::Node | Role::Kms | Role::Operator | Role::Custodian | Role::Service => false,
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

/// What a request id is bound to: the request without what the leader adds anew for each attempt.
pub(crate) fn request_hash(record: &Record) -> Hash {
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
    if let Some((last, _)) = due.last().filter(|_| remembers) {
        applying.state.put(queued.head, last);
    }
    for (key, several) in due {
        applying.state.delete(&key);
        let mut forget = |record: &[u8]| {
            applying.state.delete(&[&[queued.table], record].concat());
        };
        match several.is_empty() {
            true => forget(&key[QUEUE_PREFIX_BYTES..]),
            false => several.chunks(REQUEST_ID_BYTES).for_each(forget),
        }
    }
}

/// Of a queue's key, its table and its time.
const QUEUE_PREFIX_BYTES: usize = 1 + size_of::<u64>();
const REQUEST_ID_BYTES: usize = 16;

/// Rows of a queue from `start` on whose time is `until` or before, oldest first; of so many records, as long as a row
/// of several is not cut.
fn due(
    state: &dyn Writer,
    start: &[u8],
    queue: u8,
    until: u64,
    at_most: usize,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut end = vec![queue];
    end.extend_from_slice(&until.saturating_add(1).to_be_bytes());
    let (mut found, mut records) = (Vec::new(), 0);
    state.scan(start, &end, &mut |key, several| {
        if records < at_most {
            found.push((key.to_vec(), several.to_vec()));
            records += (several.len() / REQUEST_ID_BYTES).max(1);
        }
        records < at_most
    });
    found
}
