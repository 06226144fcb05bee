//! What clients ask of the KMS on replicas: leases, opens, key states; and the judgement of what they were told.
//!
//! Owns the history of uses and their leaves. Refuses to excuse: whoever was told of a leaf finds it at that index,
//! with those bytes and for its own request, on every member for ever, and no key is used while it is disabled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kms_state::prepare::{self, KeyChange, KeyUse, NewKek, NewLease};
use kms_state::{Authority, LeavesAsked};
use parking_lot::Mutex;
use prost::Message as _;
use proto::ids::{DatasetId, KekId, LeafIndex, LeaseId, UnixMs};
use proto::store::Reader;
use proto::v1::{Claim, KeyState, KmsAnswer, KmsCommand, KmsDone, KmsRefusal, kms_answer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Group;
use tlog::{Field, Hash, Kind};
use tokio::time::{Instant, sleep};

use crate::client::{TURN_TO_ANOTHER, ask};
use crate::kms::region::{DATASETS, HOUR, START, asked, genesis, id, item, region, version};
use crate::roster::Roster;
use crate::{Broken, hold};

/// Uses of one client in one era; after them it only waits.
const USES_MAX: u32 = 60;
const IDLE: Duration = Duration::from_millis(50);

/// The wall clock of a run, which goes on over its boots. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct Clock {
    base_ms: Arc<AtomicU64>,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Clock {
    /// A boot begins.
    pub fn start(&self) {
        *self.since.lock() = Some(Instant::now());
    }

    /// The boot ends, and the machines are off for `away`.
    pub fn stop(&self, away: Duration) {
        let run = self.since.lock().take().map(|since| since.elapsed());
        let passed = run.unwrap_or_default() + away;
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        self.base_ms.fetch_add(passed, Ordering::Relaxed);
    }

    /// Milliseconds since the epoch.
    pub fn now(&self) -> u64 {
        let run = self.since.lock().map(|since| since.elapsed());
        let run = u64::try_from(run.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        START + self.base_ms.load(Ordering::Relaxed) + run
    }
}

/// A leaf that somebody was told of.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    leaf: u64,
    /// Of a use: the hash that came with the answer.
    hash: Option<Bytes>,
    kind: Kind,
    request_id: [u8; 16],
    dataset: DatasetId,
}

/// Everything that was told. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct Book {
    told: Arc<Mutex<Vec<Told>>>,
    seen: Arc<Mutex<Option<(u64, Hash)>>>,
}

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judged {
    /// Leaves that were told of and found.
    pub found: u64,
    /// Leaves read.
    pub leaves: u64,
}

/// One client of the KMS. Clones are handles on the same one: what it knows outlives the boot it ran in.
#[derive(Clone)]
pub struct Client {
    number: u64,
    book: Book,
    clock: Clock,
    think_max: Duration,
    mind: Arc<Mutex<Mind>>,
}

struct Mind {
    rng: StdRng,
    nonce: u64,
    salt: u64,
    /// The use it has no answer for.
    unsettled: Option<Wanted>,
    /// Key state versions that this client was told of.
    known: BTreeMap<DatasetId, u64>,
    reads: u64,
}

/// A use or a change that somebody wants.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    Lease(DatasetId, [u8; 16]),
    Metadata(DatasetId, [u8; 16]),
    Open(DatasetId, [u8; 16], u8),
    State(DatasetId, [u8; 16], KeyState),
    Rotate(DatasetId, [u8; 16]),
}

impl Wanted {
    fn kind(self) -> Kind {
        match self {
            Self::Lease(..) => Kind::Lease,
            Self::Metadata(..) => Kind::MetadataLease,
            Self::Open(..) => Kind::Open,
            Self::State(.., KeyState::Enabled) => Kind::KeyEnabled,
            Self::State(..) => Kind::KeyDisabled,
            Self::Rotate(..) => Kind::KeyRotated,
        }
    }

    fn subject(self) -> (DatasetId, [u8; 16]) {
        match self {
            Self::Lease(dataset, id)
            | Self::Metadata(dataset, id)
            | Self::Open(dataset, id, _)
            | Self::State(dataset, id, _)
            | Self::Rotate(dataset, id) => (dataset, id),
        }
    }
}

/// What became of one attempt.
enum Attempt {
    /// Nobody knows: the same again.
    Again,
    /// It will not be had: what it would take is not so any more.
    Dropped,
    /// It was told.
    Settled,
}

/// What the KMS is given before any client comes, for a member that has applied everything so far.
pub fn founding(reader: &dyn Reader, now: u64) -> Option<Bytes> {
    let Some(authority) = Authority::load(reader) else {
        let command = prepare::init(asked("kms/r1", now, 0), region(), &genesis());
        return Some(command.encode_to_vec().into());
    };
    let dataset = DATASETS
        .iter()
        .find(|dataset| kms_state::key(reader, dataset).is_none())?;
    let new = NewKek {
        dataset: *dataset,
        kek: KekId([dataset.0[0] ^ 0x0F; 16]),
        pseudonym: [dataset.0[0] ^ 0xF0; 16],
        request_id: [1; 16],
        version: version(1),
    };
    let asked = asked("gateway/g1", now, u64::from(dataset.0[0]));
    let command = prepare::create_kek(&authority, asked, Claim::default(), new);
    Some(command.ok()?.encode_to_vec().into())
}

impl Client {
    /// Client `number` of a run; thinks up to `think_max` between uses. Client 0 is the operator as well.
    pub fn new(number: u64, seed: u64, book: Book, clock: Clock, think_max: Duration) -> Self {
        let mind = Mind {
            rng: StdRng::seed_from_u64(seed ^ (number << 32) ^ 0x4B4D5),
            nonce: 0,
            salt: 0,
            unsettled: None,
            known: BTreeMap::new(),
            reads: 0,
        };
        Self {
            number,
            book,
            clock,
            think_max,
            mind: Arc::new(Mutex::new(mind)),
        }
    }

    /// Linearizable reads made and compared.
    pub fn reads(&self) -> u64 {
        self.mind.lock().reads
    }

    /// Settles what is unsettled.
    pub async fn settle(&self, members: &Roster) -> Result<(), Broken> {
        let unsettled = self.mind.lock().unsettled;
        match unsettled {
            Some(wanted) => self.insist(members, wanted).await,
            None => Ok(()),
        }
    }

    /// Settles, then asks for one thing after the other until dropped or until a promise is broken.
    pub async fn run(&self, members: &Roster) -> Result<(), Broken> {
        self.settle(members).await?;
        let mut left = USES_MAX;
        loop {
            let (pause, dice) = {
                let mut mind = self.mind.lock();
                let most = u64::try_from(self.think_max.as_micros()).unwrap_or(u64::MAX);
                let pause = Duration::from_micros(mind.rng.random_range(0..=most));
                (pause, mind.rng.random_range(0..10))
            };
            sleep(pause).await;
            match dice {
                _ if left == 0 => {
                    sleep(IDLE).await;
                    self.read(members).await?;
                }
                0 | 1 => self.read(members).await?,
                _ => {
                    left -= 1;
                    let wanted = self.invent(members);
                    self.insist(members, wanted).await?;
                }
            }
        }
    }

    fn invent(&self, members: &Roster) -> Wanted {
        let mut mind = self.mind.lock();
        mind.nonce += 1;
        let mut request = [0; 16];
        request[..8].copy_from_slice(&(self.number << 32 | mind.nonce).to_be_bytes());
        let dataset = DATASETS[mind.rng.random_range(0..DATASETS.len())];
        let state = members.pick(&mut mind.rng).and_then(|m| m.reader().ok());
        let state = state.and_then(|reader| kms_state::key(reader.as_ref(), &dataset));
        let disabled = state.is_some_and(|key| key.state() == KeyState::Disabled);
        match mind.rng.random_range(0..12) {
            // Enabled again soon, or there would be little to see.
            0..=3 if self.number == 0 && disabled => {
                Wanted::State(dataset, request, KeyState::Enabled)
            }
            0 | 1 if self.number == 0 => Wanted::State(dataset, request, KeyState::Disabled),
            2 if self.number == 0 => Wanted::Rotate(dataset, request),
            4 | 5 => Wanted::Lease(dataset, request),
            6 => Wanted::Metadata(dataset, request),
            n => Wanted::Open(dataset, request, n),
        }
    }

    /// Tries until there is an answer, or none is to be had.
    async fn insist(&self, members: &Roster, wanted: Wanted) -> Result<(), Broken> {
        self.mind.lock().unsettled = Some(wanted);
        let mut at = None;
        while let Attempt::Again = self.attempt(members, &mut at, wanted).await? {
            sleep(TURN_TO_ANOTHER).await;
        }
        self.mind.lock().unsettled = None;
        Ok(())
    }

    async fn attempt(
        &self,
        members: &Roster,
        at: &mut Option<proto::ids::NodeId>,
        wanted: Wanted,
    ) -> Result<Attempt, Broken> {
        let member = match at {
            Some(node) => members.of(*node),
            None => None,
        };
        let member = member.or_else(|| members.pick(&mut self.mind.lock().rng));
        let Some(member) = member else {
            return Ok(Attempt::Again);
        };
        *at = Some(member.node_id());
        // Prepared on what the member has applied: on the leader that is the newest there is.
        let Ok(reader) = member.reader() else {
            return Ok(Attempt::Again);
        };
        let Some(command) = self.command(reader.as_ref(), wanted) else {
            return Ok(Attempt::Dropped);
        };
        drop(reader);
        let bytes = Bytes::from(command.encode_to_vec());
        let Some(answer) = ask(members, at, bytes).await else {
            return Ok(Attempt::Again);
        };
        let answer = KmsAnswer::decode(answer).map(|answer| answer.answer);
        match answer {
            Ok(Some(kms_answer::Answer::Refused(refused))) => {
                if refused.reason() == KmsRefusal::ClockJump {
                    self.advance_time(members, at).await;
                }
                Self::refused(refused.reason())
            }
            Ok(Some(kms_answer::Answer::Done(done))) => self.changed(wanted, &done),
            Ok(Some(kms_answer::Answer::Records(records))) => {
                let [answer] = &records.answers[..] else {
                    return Err(Broken("one record got other than one answer".to_owned()));
                };
                if answer.refused != 0 {
                    return Self::refused(answer.refused());
                }
                let (dataset, request_id) = wanted.subject();
                self.book.told.lock().push(Told {
                    leaf: answer.leaf_index,
                    hash: Some(answer.leaf_hash.clone()),
                    kind: wanted.kind(),
                    request_id,
                    dataset,
                });
                Ok(Attempt::Settled)
            }
            other => Err(Broken(format!("an answer that is none: {other:?}"))),
        }
    }

    /// After a quiet while the clocks of the voters have to say first what time it is.
    async fn advance_time(&self, members: &Roster, at: &mut Option<proto::ids::NodeId>) {
        let voters = members.voters(&mut self.mind.lock().rng).len();
        let now = self.clock.now();
        let command = prepare::advance_time(asked("kms/r1", now, now), &vec![UnixMs(now); voters]);
        // Refused where the voters have changed; the next attempt meets the jump again.
        let _ = ask(members, at, command.encode_to_vec().into()).await;
    }

    fn refused(reason: KmsRefusal) -> Result<Attempt, Broken> {
        use KmsRefusal::{
            AuthorityMoved, ClockJump, KeyDisabled, KeyStateMoved, VersionTooOld, WrongState,
        };
        match reason {
            // Decided on what has moved: decide again.
            AuthorityMoved | KeyStateMoved | ClockJump | VersionTooOld => Ok(Attempt::Again),
            KeyDisabled | WrongState => Ok(Attempt::Dropped),
            reason => Err(Broken(format!("the KMS refused for {reason:?}"))),
        }
    }

    fn changed(&self, wanted: Wanted, done: &KmsDone) -> Result<Attempt, Broken> {
        let (dataset, request_id) = wanted.subject();
        let mut mind = self.mind.lock();
        let known = mind.known.entry(dataset).or_default();
        hold!(
            done.state_version > *known,
            "a change of {dataset} came to version {} after {known} was told",
            done.state_version
        );
        *known = done.state_version;
        self.book.told.lock().push(Told {
            leaf: done.leaf_index,
            hash: None,
            kind: wanted.kind(),
            request_id,
            dataset,
        });
        Ok(Attempt::Settled)
    }

    /// What a leader proposes for it on this state; `None` where it would refuse by itself.
    fn command(&self, state: &dyn Reader, wanted: Wanted) -> Option<KmsCommand> {
        let authority = Authority::load(state)?;
        let now = self.clock.now();
        let salt = {
            let mut mind = self.mind.lock();
            mind.salt += 1;
            self.number << 32 | mind.salt
        };
        let (dataset, request_id) = wanted.subject();
        let caller = id("gateway/g1");
        let used = KeyUse {
            caller: &caller,
            dataset: &dataset,
            request_id,
            claim: Claim::default(),
        };
        let mut lease = [0x1E; 16];
        lease[..8].copy_from_slice(&salt.to_be_bytes());
        let lease = NewLease {
            id: LeaseId(lease),
            holder: [0xEE; 32],
            issued: UnixMs(now),
            expires: UnixMs(now + HOUR / 2),
        };
        let asks = asked("operator/o1", now, salt);
        let change = KeyChange {
            dataset: &dataset,
            request_id,
            claim: Claim::default(),
        };
        let prepared = match wanted {
            Wanted::Lease(..) => prepare::lease(state, &authority, used, lease),
            Wanted::Metadata(..) => prepare::metadata_lease(state, &authority, used, lease),
            Wanted::Open(_, _, n) => prepare::opens(state, &authority, used, vec![item(n, 9)]),
            Wanted::State(.., to) => {
                let command = prepare::change_key_state(state, &authority, asks, change, (to, 0));
                return command.ok();
            }
            Wanted::Rotate(..) => {
                let next = kms_state::key(state, &dataset)?.current_version + 1;
                let command = prepare::rotate_kek(state, &authority, asks, change, version(next));
                return command.ok();
            }
        };
        let (prepared, _) = prepared.ok()?;
        let asks = asked("kms/r1", now, salt);
        Some(prepare::batch(
            asks,
            authority.version(),
            vec![prepared.record],
        ))
    }

    /// Reads a key's state on any member, linearizably: it is at least what this client was told.
    async fn read(&self, members: &Roster) -> Result<(), Broken> {
        let (member, dataset, known) = {
            let mut mind = self.mind.lock();
            let dataset = DATASETS[mind.rng.random_range(0..DATASETS.len())];
            let known = mind.known.get(&dataset).copied().unwrap_or(0);
            (members.pick(&mut mind.rng), dataset, known)
        };
        let Some(member) = member else {
            return Ok(());
        };
        if member.read_index().await.is_err() {
            return Ok(());
        }
        let Ok(reader) = member.reader() else {
            return Ok(());
        };
        let held = kms_state::key(reader.as_ref(), &dataset).map_or(0, |key| key.state_version);
        hold!(
            held >= known,
            "a linearizable read saw the key of {dataset} at version {held}, {known} was told"
        );
        self.mind.lock().reads += 1;
        Ok(())
    }
}

/// Everything that was told is so on this member. `reader` must be of a linearizable read.
pub fn judge(member: &Group, reader: &dyn Reader, book: &Book) -> Result<Judged, Broken> {
    let node = member.node_id();
    let asked = LeavesAsked {
        start: LeafIndex(0),
        limit: u32::MAX,
        bytes_max: usize::MAX,
        with_openings: true,
    };
    let entries = kms_state::leaves(reader, asked);
    let told = book.told.lock();
    for one in told.iter() {
        let entry = entries.get(one.leaf as usize);
        let entry = entry.ok_or_else(|| {
            Broken(format!(
                "member {node} has no leaf {}, told of {one:?}",
                one.leaf
            ))
        })?;
        let hash = tlog::leaf_hash(&entry.leaf).0;
        hold!(
            one.hash.as_ref().is_none_or(|told| told[..] == hash),
            "leaf {} on member {node} is another than was told: {one:?}",
            one.leaf
        );
        of_request(entry, one).map_err(|why| Broken(format!("on member {node}: {why}")))?;
    }
    one_leaf_a_request(&entries)?;
    no_use_while_disabled(&entries)?;
    extends(reader, &mut book.seen.lock())?;
    Ok(Judged {
        found: told.len() as u64,
        leaves: entries.len() as u64,
    })
}

fn parsed(entry: &proto::v1::LeafEntry) -> Result<tlog::Leaf, Broken> {
    tlog::Leaf::parse(&entry.leaf)
        .map_err(|e| Broken(format!("leaf {} does not parse: {e}", entry.index)))
}

/// The requests that a leaf is of.
fn requests_of(entry: &proto::v1::LeafEntry, leaf: &tlog::Leaf) -> Result<Vec<String>, Broken> {
    let openings = tlog::Openings::parse(&entry.openings);
    let shown = openings
        .map_err(|e| e.to_string())
        .and_then(|openings| tlog::openings_of(leaf, &openings).map_err(|e| e.to_string()));
    let shown = shown.map_err(|e| Broken(format!("leaf {} does not open: {e}", entry.index)))?;
    let named = shown.fields.get(&Field::RequestId);
    Ok(named.map_or_else(Vec::new, |ids| ids.split(',').map(str::to_owned).collect()))
}

/// The leaf says what the answer was for.
fn of_request(entry: &proto::v1::LeafEntry, told: &Told) -> Result<(), Broken> {
    let leaf = parsed(entry)?;
    let pseudonym = [told.dataset.0[0] ^ 0xF0; 16];
    let of_dataset = leaf
        .dataset()
        .is_some_and(|link| link.pseudonym.0 == pseudonym);
    hold!(
        leaf.kind() == told.kind && of_dataset,
        "leaf {} is {:?} of another dataset or kind than was told: {told:?}",
        entry.index,
        leaf.kind()
    );
    if told.hash.is_some() {
        let wanted: String = told.request_id.iter().map(|b| format!("{b:02x}")).collect();
        let requests = requests_of(entry, &leaf)?;
        hold!(
            requests.contains(&wanted),
            "leaf {} is of requests {requests:?}, told for {wanted}",
            entry.index
        );
    }
    Ok(())
}

/// An open or a change of a key that is asked again within a minute finds its leaf: it has no second one.
fn one_leaf_a_request(entries: &[proto::v1::LeafEntry]) -> Result<(), Broken> {
    let mut opened: BTreeMap<String, u64> = BTreeMap::new();
    for entry in entries {
        let leaf = parsed(entry)?;
        if !matches!(
            leaf.kind(),
            Kind::Open | Kind::KeyRotated | Kind::KeyDisabled | Kind::KeyEnabled
        ) {
            continue;
        }
        let time = leaf.time_ms().0;
        for request in requests_of(entry, &leaf)? {
            if let Some(before) = opened.insert(request.clone(), time) {
                hold!(
                    time >= before + kms_state::USABLE_MS,
                    "request {request} has two leaves within {} ms",
                    time - before
                );
            }
        }
    }
    Ok(())
}

/// By the log alone: between a disable and the enable after it no key of the dataset is used.
fn no_use_while_disabled(entries: &[proto::v1::LeafEntry]) -> Result<(), Broken> {
    let mut disabled: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    for entry in entries {
        let leaf = parsed(entry)?;
        let Some(link) = leaf.dataset() else {
            continue;
        };
        match leaf.kind() {
            Kind::KeyDisabled => {
                disabled.insert(link.pseudonym.0, entry.index);
            }
            Kind::KeyEnabled => {
                disabled.remove(&link.pseudonym.0);
            }
            Kind::Lease | Kind::MetadataLease | Kind::Open => {
                let since = disabled.get(&link.pseudonym.0);
                hold!(
                    since.is_none(),
                    "leaf {} uses a key that is disabled since leaf {since:?}",
                    entry.index
                );
            }
            _ => {}
        }
    }
    Ok(())
}

/// The log extends the newest head that was seen on any member, by proof.
fn extends(reader: &dyn Reader, seen: &mut Option<(u64, Hash)>) -> Result<(), Broken> {
    let Some(head) = kms_state::tree_head(reader).filter(|head| head.size > 0) else {
        return Ok(());
    };
    if let Some((size, root)) = seen {
        hold!(
            head.size >= *size,
            "a log of {size} leaves has become one of {}",
            head.size
        );
        let proven = kms_state::StateHashes(reader).consistency(*size, head.size);
        let (proof, _) = proven.map_err(|e| Broken(format!("no consistency proof: {e}")))?;
        tlog::verify_consistency(*size, root, head.size, &head.root, &proof)
            .map_err(|e| Broken(format!("the log does not extend what was seen: {e}")))?;
    }
    *seen = Some((head.size, head.root));
    Ok(())
}
