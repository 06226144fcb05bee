//! A client of the shard: one request at a time, retried under its id until it is settled.
//!
//! Owns what the client knows: of objects it alone writes it can foretell every answer. Refuses to go on with an
//! object while a request on it is unsettled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::{NodeId, ObjectVersionId};
use proto::v1;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::host::ProposeError;
use tokio::time::sleep;

use crate::load::{self, Condition, DATASET, History, Kind, Outcome};
use crate::roster::Roster;
use crate::{Broken, hold};

/// Objects a client writes alone.
const OWN_KEYS: u64 = 5;
/// Objects all clients write.
const SHARED_KEYS: u64 = 3;
/// Pause after an answer that says to ask elsewhere.
pub(crate) const TURN_TO_ANOTHER: Duration = Duration::from_millis(5);
/// Requests of one client in one era; after them it only reads, so that a long era costs little.
const REQUESTS_MAX: u32 = 120;
/// Pause between the reads of an idle client.
const IDLE: Duration = Duration::from_millis(20);
/// One finish of so many is first sent with receipts that are no majority.
const POOR_RECEIPTS: u32 = 12;

/// One client. Clones are handles on the same one: what it knows outlives the boot it ran in.
#[derive(Clone)]
pub struct Client {
    number: u64,
    history: History,
    mind: Arc<Mutex<Mind>>,
    think_max: Duration,
}

struct Mind {
    rng: StdRng,
    nonce: u64,
    epoch: u64,
    /// What the objects it writes alone hold.
    own: BTreeMap<String, ObjectVersionId>,
    /// What it last saw in the objects all write: a guess.
    shared: BTreeMap<String, ObjectVersionId>,
    unsettled: Option<usize>,
    reads: u64,
}

impl Client {
    /// Client `number` of a run; thinks up to `think_max` between requests.
    pub fn new(number: u64, seed: u64, history: History, think_max: Duration) -> Self {
        let mind = Mind {
            rng: StdRng::seed_from_u64(seed ^ (number << 32) ^ 0xC11E),
            nonce: 0,
            epoch: 0,
            own: BTreeMap::new(),
            shared: BTreeMap::new(),
            unsettled: None,
            reads: 0,
        };
        Self {
            number,
            history,
            mind: Arc::new(Mutex::new(mind)),
            think_max,
        }
    }

    /// Linearizable reads made and compared.
    pub fn reads(&self) -> u64 {
        self.mind.lock().reads
    }

    /// Settles what is unsettled: sends it again, under its id, until there is an answer.
    pub async fn settle(&self, members: &Roster) -> Result<(), Broken> {
        let unsettled = self.mind.lock().unsettled;
        match unsettled {
            Some(number) => self.send(members, number).await,
            None => Ok(()),
        }
    }

    /// Settles, then asks for one thing after the other until dropped or until a promise is broken.
    pub async fn run(&self, members: &Roster) -> Result<(), Broken> {
        self.settle(members).await?;
        let mut left = REQUESTS_MAX;
        loop {
            let (pause, dice) = {
                let mut mind = self.mind.lock();
                let most = u64::try_from(self.think_max.as_micros()).unwrap_or(u64::MAX);
                let pause = Duration::from_micros(mind.rng.random_range(0..=most));
                (pause, mind.rng.random_range(0..100))
            };
            sleep(pause).await;
            match dice {
                _ if left == 0 => {
                    sleep(IDLE).await;
                    self.read(members).await?;
                }
                0..15 => self.read(members).await?,
                15..17 if self.number == 0 => self.advance(members).await?,
                _ => {
                    left -= 1;
                    let number = self.invent(members);
                    self.send(members, number).await?;
                }
            }
        }
    }

    /// The next request.
    fn invent(&self, members: &Roster) -> usize {
        // What one member has applied is committed: no command proposed from now on stands before it.
        let levels = members.groups().into_iter().map(|group| group.level());
        let in_parts = levels.max() >= Some(load::parts::LEVEL);
        let mut mind = self.mind.lock();
        mind.nonce += 1;
        let nonce = (self.number << 32) | mind.nonce;
        let mut id = [0; 16];
        mind.rng.fill(&mut id[8..]);
        id[..8].copy_from_slice(&nonce.to_be_bytes());
        let version = ObjectVersionId(id);
        let alone = mind.rng.random_range(0..4) > 0;
        let key = if alone {
            let at = mind.rng.random_range(0..OWN_KEYS);
            format!("c{}/{at}", self.number)
        } else {
            format!("all/{}", mind.rng.random_range(0..SHARED_KEYS))
        };
        let known = if alone { &mind.own } else { &mind.shared };
        let known = known.get(&key).copied();
        let kind = match mind.rng.random_range(0..10) {
            0..5 => Kind::Put(version),
            5..7 => Kind::Finish(version),
            7 if in_parts => Kind::Complete(version),
            7 => Kind::Put(version),
            _ => Kind::Delete,
        };
        let condition = match (mind.rng.random_range(0..3), known) {
            (0, _) => Condition::Always,
            (1, _) if kind != Kind::Delete => Condition::Absent,
            (_, Some(version)) => Condition::Is(version),
            (_, None) => Condition::Always,
        };
        let request = load::request(nonce, mind.epoch, key, kind, condition);
        let number = self.history.add(request);
        mind.unsettled = Some(number);
        number
    }

    /// Whose receipts the object comes with: the voters', as someone sees them; now and then too few or others'.
    fn signers(&self, members: &Roster, first: bool) -> BTreeSet<NodeId> {
        let rng = &mut self.mind.lock().rng;
        let voters = members.voters(rng);
        if first && rng.random_ratio(1, POOR_RECEIPTS) {
            let nobody = (900..903).map(NodeId);
            let few = voters.iter().copied().take(voters.len() / 2);
            return if rng.random() {
                few.chain(nobody).collect()
            } else {
                few.collect()
            };
        }
        voters
    }

    /// Begins the upload of a completion and finishes its parts, each until there is an answer.
    async fn prepare(&self, members: &Roster, number: usize) -> Result<(), Broken> {
        let request = self.history.request(number);
        let Kind::Complete(version) = request.kind else {
            return Ok(());
        };
        let (mut at, mut first, mut step) = (None, true, 0);
        loop {
            let signers = self.signers(members, first);
            first = false;
            let steps = load::parts::steps(&request, version, &signers);
            let Some(command) = steps.get(step) else {
                return Ok(());
            };
            let answer = self.ask(members, &mut at, command.clone()).await;
            match answer.map(|answer| load::outcome(&answer)).transpose()? {
                Some(Some(Outcome::Done { .. })) => {
                    step += 1;
                    first = true;
                }
                Some(Some(refused)) => {
                    return Err(Broken(format!("step {step} of {request:?}: {refused:?}")));
                }
                Some(None) | None => sleep(TURN_TO_ANOTHER).await,
            }
        }
    }

    async fn send(&self, members: &Roster, number: usize) -> Result<(), Broken> {
        self.prepare(members, number).await?;
        let mut at = None;
        let mut first = true;
        let outcome = loop {
            let command = self.history.send(number, &self.signers(members, first));
            first = false;
            match self.ask(members, &mut at, command).await {
                Some(answer) => match load::outcome(&answer)? {
                    Some(outcome) => break outcome,
                    // Not on a majority of whoever votes there: with others' receipts, then.
                    None => sleep(TURN_TO_ANOTHER).await,
                },
                None => sleep(TURN_TO_ANOTHER).await,
            }
        };
        self.history.settle(number, outcome.clone());
        let request = self.history.request(number);
        let mut mind = self.mind.lock();
        mind.unsettled = None;
        if request.key.starts_with("all/") {
            if let (Outcome::Done { .. }, Some(version)) = (&outcome, request.kind.version()) {
                mind.shared.insert(request.key, version);
            } else {
                mind.shared.remove(&request.key);
            }
            return Ok(());
        }
        let known = mind.own.get(&request.key).copied();
        let foretold = foretell(&request.kind, request.condition, known);
        let told = match &outcome {
            Outcome::Done { replaced, .. } => Ok(*replaced),
            Outcome::Refused(reason) => Err(*reason),
            Outcome::Unknown => return Err(Broken("an answer without outcome".to_owned())),
        };
        hold!(
            told == foretold,
            "{:?} {:?} {:?} on {} with {known:?} there was answered {told:?}, not {foretold:?}",
            request.id,
            request.kind,
            request.condition,
            request.key
        );
        if told.is_ok() {
            match request.kind.version() {
                Some(version) => mind.own.insert(request.key, version),
                None => mind.own.remove(&request.key),
            };
        }
        Ok(())
    }

    async fn ask(
        &self,
        members: &Roster,
        at: &mut Option<NodeId>,
        command: Bytes,
    ) -> Option<Bytes> {
        if at.is_none() {
            let any = members.pick(&mut self.mind.lock().rng);
            *at = any.map(|member| member.node_id());
        }
        ask(members, at, command).await
    }

    /// Reads an object of its own on any member, linearizably.
    async fn read(&self, members: &Roster) -> Result<(), Broken> {
        let (member, key) = {
            let mut mind = self.mind.lock();
            let key = mind.rng.random_range(0..OWN_KEYS);
            (
                members.pick(&mut mind.rng),
                format!("c{}/{key}", self.number),
            )
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
        let held = node_state::read::head(reader.as_ref(), &DATASET, &key, None);
        let held = held.map(|entry| entry.version_id);
        let mut mind = self.mind.lock();
        let known = mind.own.get(&key).map(|version| Bytes::from(*version));
        hold!(
            held == known,
            "a linearizable read of {key} saw {held:?}, not {known:?}"
        );
        mind.reads += 1;
        Ok(())
    }

    async fn advance(&self, members: &Roster) -> Result<(), Broken> {
        let from = self.mind.lock().epoch;
        let Some(command) = load::advance(from) else {
            return Ok(());
        };
        let mut at = None;
        if self.ask(members, &mut at, command).await.is_some() {
            // Done or overtaken by its own earlier try: in both cases the epoch is past `from`.
            self.mind.lock().epoch = from + 1;
        }
        Ok(())
    }
}

/// The one right answer on an object nobody else writes.
fn foretell(
    kind: &Kind,
    condition: Condition,
    known: Option<ObjectVersionId>,
) -> Result<Option<ObjectVersionId>, v1::Refusal> {
    let met = match condition {
        Condition::Always => true,
        Condition::Absent => known.is_none(),
        Condition::Is(version) => known == Some(version),
    };
    match (met, kind, known) {
        (false, ..) => Err(v1::Refusal::PreconditionFailed),
        (true, Kind::Delete, None) => Err(v1::Refusal::NoSuchObject),
        (true, ..) => Ok(known),
    }
}

/// Proposes once at the member `at`; without an answer, turns to another.
pub async fn ask(members: &Roster, at: &mut Option<NodeId>, command: Bytes) -> Option<Bytes> {
    let first = NodeId(0);
    let member = match at {
        Some(node) => members.of(*node).or_else(|| members.after(*node)),
        None => members.after(first),
    };
    let member = member?;
    let node = member.node_id();
    match member.propose(command).await {
        Ok(answer) => return Some(answer),
        Err(ProposeError::NotLeader {
            leader: Some(leader),
        }) if members.of(leader).is_some() => *at = Some(leader),
        Err(_) => *at = members.after(node).map(|next| next.node_id()),
    }
    None
}

/// Proposes until there is an answer.
pub async fn insist(members: &Roster, command: &Bytes) -> Bytes {
    let mut at = None;
    loop {
        if let Some(answer) = ask(members, &mut at, command.clone()).await {
            return answer;
        }
        sleep(TURN_TO_ANOTHER).await;
    }
}
