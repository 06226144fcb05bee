//! The wires between members: the messages of `replica`'s links, carried in memory.
//!
//! Owns delays, broken connections, silence in one direction or both, and what can happen to a call that is a
//! message of its own: lost, answered into the void, delivered twice or late. All of it is drawn from the seed.
//! Refuses to lose or reorder single messages of one stream: those are what TCP carries, so a fault there is a
//! connection that breaks or stands still.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use proto::ids::{Identity, NodeId, RegionId, Role};
use proto::v1;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Member;
use replica::net::handler::{Caller, PeerHandler, Refusal};
use replica::net::link::{Dialer, Inbound, Lane, Link, LinkError, LinkFault, LinkResult, Outbound};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::logbook::Logbook;

const FAULTS: &str = "faults";
/// Longest time a late copy of a call, or a message whose packet was lost on a stream, is under way.
const LATE_MAX: Duration = Duration::from_millis(900);

/// How the wires behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Longest time a message takes one way.
    pub delay_max: Duration,
    /// One message of so many breaks its connection; 0 for none.
    pub breaks_one_in: u32,
    /// One message of so many is lost: a call hangs, a stream waits for it to be sent again; 0 for none.
    pub loses_one_in: u32,
    /// One call of so many is delivered twice, the second time late; 0 for none.
    pub doubles_one_in: u32,
}

impl Weather {
    /// Nothing is late and nothing breaks.
    pub const CALM: Self = Self {
        delay_max: Duration::ZERO,
        breaks_one_in: 0,
        loses_one_in: 0,
        doubles_one_in: 0,
    };
}

/// The wires between members. Clones are handles on the same ones.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    weather: Mutex<Weather>,
    rng: Mutex<StdRng>,
    enrolled: Mutex<BTreeSet<NodeId>>,
    present: Mutex<BTreeMap<NodeId, Arc<PeerHandler>>>,
    /// Counts the lives of each member: what an earlier life sends or answers reaches nobody.
    lives: watch::Sender<BTreeMap<NodeId, u64>>,
    /// From whom nothing reaches whom.
    silent: watch::Sender<BTreeSet<(NodeId, NodeId)>>,
    book: Logbook,
    since: Instant,
}

impl Net {
    /// Wires between members 1 to `members`. Needs a running tokio runtime.
    pub fn new(members: u64, weather: Weather, seed: u64) -> Self {
        Self::between((1..=members).map(NodeId), weather, seed, Logbook::default())
    }

    /// Wires between `members` whose messages are noted in `book`. Needs a running tokio runtime.
    pub fn between(
        members: impl IntoIterator<Item = NodeId>,
        weather: Weather,
        seed: u64,
        book: Logbook,
    ) -> Self {
        let inner = Inner {
            weather: Mutex::new(weather),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            enrolled: Mutex::new(members.into_iter().collect()),
            present: Mutex::default(),
            lives: watch::Sender::new(BTreeMap::new()),
            silent: watch::Sender::new(BTreeSet::new()),
            book,
            since: Instant::now(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Lets `node` be reached.
    pub fn join(&self, node: NodeId, handler: Arc<PeerHandler>) {
        self.inner.present.lock().insert(node, handler);
    }

    /// `node` is gone, with everything it has under way. A handler reaches its group, whose dialer reaches these
    /// wires: a member that ends has to leave, or none of it is ever freed.
    pub fn leave(&self, node: NodeId) {
        self.inner
            .lives
            .send_modify(|lives| *lives.entry(node).or_default() += 1);
        // Dropped outside the lock: what goes with it may reach for these wires.
        let left = self.inner.present.lock().remove(&node);
        drop(left);
    }

    /// `node` may be a member from now on.
    pub fn enrol(&self, node: NodeId) {
        self.inner.enrolled.lock().insert(node);
    }

    /// `node` is no member any more.
    pub fn expel(&self, node: NodeId) {
        self.inner.enrolled.lock().remove(&node);
    }

    /// How `node` reaches the others in its present life.
    pub fn dialer(&self, node: NodeId) -> Arc<dyn Dialer> {
        Arc::new(Wires {
            net: self.clone(),
            me: self.life(node),
        })
    }

    /// Changes how the wires behave.
    pub fn set_weather(&self, weather: Weather) {
        *self.inner.weather.lock() = weather;
    }

    /// Connections of `node` stand still until [`Net::heal`].
    pub fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.inner.enrolled.lock().iter().copied().collect();
        self.inner.silent.send_modify(|silent| {
            for other in others {
                silent.insert((node, other));
                silent.insert((other, node));
            }
        });
    }

    /// Nothing that `from` sends reaches `to`, until [`Net::heal`]; the other way is open.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.inner.silent.send_modify(|silent| {
            silent.insert((from, to));
        });
    }

    /// Everything that stood still goes on.
    pub fn heal(&self) {
        self.inner.silent.send_modify(BTreeSet::clear);
    }

    fn life(&self, node: NodeId) -> Life {
        let number = self.inner.lives.borrow().get(&node).copied();
        Life {
            node,
            number: number.unwrap_or(0),
        }
    }

    fn lives(&self, life: Life) -> bool {
        self.life(life.node).number == life.number
    }
}

/// One life of one member: from a start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life {
    node: NodeId,
    number: u64,
}

/// Who a member is: the same name on every boot.
pub fn identity(node: NodeId) -> Identity {
    let region: RegionId = "ch-zrh".parse().expect("a valid region");
    Identity::new(region, Role::Node, &format!("n{node}")).expect("a valid name")
}

fn record(node: NodeId) -> Member {
    Member {
        identity: identity(node).to_string(),
        endpoint: String::new(),
        jurisdiction: "CH".into(),
    }
}

struct Wires {
    net: Net,
    me: Life,
}

impl Dialer for Wires {
    fn link(&self, to: NodeId, _: &Member, _: Lane) -> LinkResult<Arc<dyn Link>> {
        Ok(Arc::new(Wire {
            net: self.net.clone(),
            from: self.me,
            to,
        }))
    }

    fn own(&self) -> Member {
        record(self.me.node)
    }

    fn peers(&self) -> Vec<(NodeId, Member)> {
        let enrolled = self.net.inner.enrolled.lock();
        let others = enrolled.iter().filter(|node| **node != self.me.node);
        others.map(|node| (*node, record(*node))).collect()
    }
}

#[derive(Clone)]
struct Wire {
    net: Net,
    from: Life,
    to: NodeId,
}

/// A way from one life to another.
#[derive(Debug, Clone, Copy)]
struct Way {
    from: Life,
    to: Life,
}

impl Way {
    fn back(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }
}

/// What happens to one message.
struct Fate {
    delay: Duration,
    breaks: bool,
    lost: bool,
    doubled: bool,
    late: Duration,
}

fn broke() -> LinkError {
    LinkError::new(LinkFault::Broken, "the connection broke")
}

impl Net {
    fn fate(&self) -> Fate {
        let weather = *self.inner.weather.lock();
        let mut rng = self.inner.rng.lock();
        let mut micros = |longest: Duration| {
            let longest = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
            Duration::from_micros(rng.random_range(0..=longest))
        };
        let (delay, late) = (micros(weather.delay_max), micros(LATE_MAX));
        let mut one_in = |many: u32| many > 0 && rng.random_ratio(1, many);
        Fate {
            delay,
            breaks: one_in(weather.breaks_one_in),
            lost: one_in(weather.loses_one_in),
            doubled: one_in(weather.doubles_one_in),
            late,
        }
    }

    /// Waits until `way` is open and both its ends live.
    async fn open(&self, way: Way) -> LinkResult<()> {
        let inner = &self.inner;
        let mut silent = inner.silent.subscribe();
        let open = silent.wait_for(|silent| !silent.contains(&(way.from.node, way.to.node)));
        if open.await.is_err() || !self.lives(way.from) || !self.lives(way.to) {
            return Err(LinkError::new(LinkFault::Unreachable, "nobody there"));
        }
        Ok(())
    }

    /// Ends when one end's process has ended and the other end can know.
    async fn ended(self, way: Way) {
        let mut lives = self.inner.lives.subscribe();
        let over = |lives: &BTreeMap<NodeId, u64>, life: Life| {
            lives.get(&life.node).copied().unwrap_or(0) != life.number
        };
        let ended = lives.wait_for(|lives| over(lives, way.from) || over(lives, way.to));
        // An error means that the wires are gone.
        let _ = ended.await;
        let mut silent = self.inner.silent.subscribe();
        let open = silent.wait_for(|silent| !silent.contains(&(way.from.node, way.to.node)));
        let _ = open.await;
    }

    /// The way of one message of a stream.
    async fn carry(&self, way: Way, what: &str) -> LinkResult<()> {
        self.open(way).await?;
        let fate = self.fate();
        let mut delay = fate.delay;
        if fate.lost {
            self.inner.book.count(FAULTS, "packet of a stream lost");
            delay += fate.late;
        }
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.open(way).await?;
        if fate.breaks {
            self.inner.book.count(FAULTS, "connection broken");
            return Err(broke());
        }
        self.note(way, what);
        Ok(())
    }

    fn note(&self, way: Way, what: &str) {
        let at = self.inner.since.elapsed().as_micros();
        self.inner.book.note(format_args!(
            "{at} {}>{} {what}",
            way.from.node, way.to.node
        ));
    }
}

impl Wire {
    fn way(&self) -> Way {
        Way {
            from: self.from,
            to: self.net.life(self.to),
        }
    }

    fn peer(&self) -> LinkResult<(Arc<PeerHandler>, Caller)> {
        let peer = self.net.inner.present.lock().get(&self.to).cloned();
        let peer = peer.ok_or_else(|| LinkError::new(LinkFault::Unreachable, "nobody there"))?;
        let caller = Caller {
            node: self.from.node,
            identity: identity(self.from.node),
        };
        Ok((peer, caller))
    }

    async fn reach(&self, way: Way, what: &str) -> LinkResult<(Arc<PeerHandler>, Caller)> {
        self.net.carry(way, what).await?;
        self.peer()
    }

    /// Sends a call that is a message of its own, and waits for its answer.
    async fn call<T, Q, F>(self, what: &'static str, request: Q, deliver: F) -> LinkResult<T>
    where
        T: Send + 'static,
        Q: Clone + Send + 'static,
        F: Fn(Arc<PeerHandler>, Caller, Q) -> BoxFuture<'static, Result<T, Refusal>>
            + Send
            + Sync
            + 'static,
    {
        let (net, way) = (self.net.clone(), self.way());
        net.open(way).await?;
        let fate = net.fate();
        let deliver = Arc::new(deliver);
        if fate.doubled {
            net.inner.book.count(FAULTS, "call delivered twice");
            let (wire, request, deliver) = (self.clone(), request.clone(), Arc::clone(&deliver));
            tokio::spawn(async move {
                sleep(fate.late).await;
                let arrived = wire.net.open(way).await.and_then(|()| wire.peer());
                if let Ok((peer, caller)) = arrived {
                    wire.net.note(way, "again");
                    // Whoever asked has its answer from the first copy.
                    drop(deliver(peer, caller, request).await);
                }
            });
        }
        if fate.lost {
            net.inner.book.count(FAULTS, "call lost");
            return std::future::pending().await;
        }
        let (peer, caller) = self.reach(way, what).await?;
        let answer = deliver(peer, caller, request).await.map_err(refused)?;
        if net.fate().lost {
            net.inner.book.count(FAULTS, "answer lost");
            return std::future::pending().await;
        }
        net.carry(way.back(), "answer").await?;
        Ok(answer)
    }
}

/// Carries what comes one way, until the connection breaks or a process at one end of it ends.
fn stream<T: Send + 'static>(
    net: Net,
    way: Way,
    what: &'static str,
    items: BoxStream<'static, LinkResult<T>>,
) -> Inbound<T> {
    let ended = Box::pin(net.clone().ended(way));
    let carried = futures::stream::unfold(Some((net, items)), move |held| async move {
        let (net, mut items) = held?;
        let item = items.next().await?;
        match net.carry(way, what).await {
            Ok(()) => Some((item, Some((net, items)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    carried.take_until(ended).boxed()
}

fn refused(refusal: Refusal) -> LinkError {
    LinkError::new(LinkFault::Refused, refusal.to_string())
}

macro_rules! unary {
    ($name:ident, $request:ty, $answer:ty) => {
        fn $name(&self, request: $request) -> BoxFuture<'static, LinkResult<$answer>> {
            let deliver = |peer: Arc<PeerHandler>, caller: Caller, request: $request| {
                Box::pin(async move { peer.$name(&caller, request).await })
                    as BoxFuture<'static, Result<$answer, Refusal>>
            };
            Box::pin(self.clone().call(stringify!($name), request, deliver))
        }
    };
}

impl Link for Wire {
    fn append(
        &self,
        requests: Outbound<v1::RaftAppend>,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftAppended>>> {
        let (wire, way) = (self.clone(), self.way());
        Box::pin(async move {
            let (peer, caller) = wire.reach(way, "open").await?;
            let requests = requests.map(Ok).boxed();
            let requests = stream(wire.net.clone(), way, "append", requests);
            let answers = peer.append(caller, requests);
            let answers = answers.map(|answer| answer.map_err(refused)).boxed();
            Ok(stream(wire.net, way.back(), "appended", answers))
        })
    }

    fn snapshot(
        &self,
        frames: Outbound<v1::RaftSnapshotFrame>,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSnapshotResult>> {
        let (wire, way) = (self.clone(), self.way());
        Box::pin(async move {
            let (peer, caller) = wire.reach(way, "snapshot").await?;
            let frames = frames.map(Ok).boxed();
            let frames = stream(wire.net.clone(), way, "frame", frames);
            let answer = peer.snapshot(&caller, frames).await;
            wire.net.carry(way.back(), "answer").await?;
            answer.map_err(refused)
        })
    }

    fn attend(
        &self,
        request: v1::RaftAttend,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftBeat>>> {
        let (wire, way) = (self.clone(), self.way());
        Box::pin(async move {
            let (peer, caller) = wire.reach(way, "attend").await?;
            let beats = peer.attend(&caller, &request).map_err(refused)?;
            let beats = beats.map(|beat| beat.map_err(refused)).boxed();
            Ok(stream(wire.net, way.back(), "beat", beats))
        })
    }

    fn survey(
        &self,
        request: v1::RaftSurvey,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSurveyResult>> {
        let deliver = |peer: Arc<PeerHandler>, caller: Caller, request: v1::RaftSurvey| {
            Box::pin(async move { peer.survey(&caller, &request) })
                as BoxFuture<'static, Result<v1::RaftSurveyResult, Refusal>>
        };
        Box::pin(self.clone().call("survey", request, deliver))
    }

    unary!(vote, v1::RaftBallot, v1::RaftBallotResult);
    unary!(transfer, v1::RaftTransfer, v1::RaftTransferred);
    unary!(read_index, v1::RaftReadIndex, v1::RaftReadIndexResult);
}
