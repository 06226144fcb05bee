//! The wires between members: the messages of `replica`'s links, carried in memory.
//!
//! Owns delays, broken connections and silence between members, all drawn from the seed. Refuses to lose, repeat or
//! reorder single messages of one connection: what is carried here is what TCP carries, so a fault is a connection
//! that breaks or stands still.

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
use tokio::time::sleep;

/// How the wires behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Longest time a message takes one way.
    pub delay_max: Duration,
    /// One message of so many breaks its connection; 0 for none.
    pub breaks_one_in: u32,
}

impl Weather {
    /// Nothing is late and nothing breaks.
    pub const CALM: Self = Self {
        delay_max: Duration::ZERO,
        breaks_one_in: 0,
    };
}

/// The wires between members 1 to n. Clones are handles on the same ones.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    roster: Vec<NodeId>,
    weather: Weather,
    rng: Mutex<StdRng>,
    present: Mutex<BTreeMap<NodeId, Arc<PeerHandler>>>,
    /// Members that nothing reaches and that reach nobody.
    silent: watch::Sender<BTreeSet<NodeId>>,
}

impl Net {
    /// Wires between members 1 to `members`.
    pub fn new(members: u64, weather: Weather, seed: u64) -> Self {
        let inner = Inner {
            roster: (1..=members).map(NodeId).collect(),
            weather,
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            present: Mutex::default(),
            silent: watch::Sender::new(BTreeSet::new()),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Lets `node` be reached.
    pub fn join(&self, node: NodeId, handler: Arc<PeerHandler>) {
        self.inner.present.lock().insert(node, handler);
    }

    /// `node` is gone. A handler reaches its group, whose dialer reaches these wires: a member that ends has to leave,
    /// or none of it is ever freed.
    pub fn leave(&self, node: NodeId) {
        // Dropped outside the lock: what goes with it may reach for these wires.
        let left = self.inner.present.lock().remove(&node);
        drop(left);
    }

    /// How `node` reaches the others.
    pub fn dialer(&self, node: NodeId) -> Arc<dyn Dialer> {
        Arc::new(Wires {
            net: self.clone(),
            me: node,
        })
    }

    /// Connections of `node` stand still until [`Net::heal`].
    pub fn isolate(&self, node: NodeId) {
        self.inner.silent.send_modify(|silent| {
            silent.insert(node);
        });
    }

    /// Everything that stood still goes on.
    pub fn heal(&self) {
        self.inner.silent.send_modify(BTreeSet::clear);
    }
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
    me: NodeId,
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
        record(self.me)
    }

    fn peers(&self) -> Vec<(NodeId, Member)> {
        let others = self
            .net
            .inner
            .roster
            .iter()
            .filter(|node| **node != self.me);
        others.map(|node| (*node, record(*node))).collect()
    }
}

#[derive(Clone)]
struct Wire {
    net: Net,
    from: NodeId,
    to: NodeId,
}

impl Wire {
    /// The way of one message.
    async fn carry(&self) -> LinkResult<()> {
        let inner = &self.net.inner;
        let mut silent = inner.silent.subscribe();
        let open = silent.wait_for(|s| !s.contains(&self.from) && !s.contains(&self.to));
        if open.await.is_err() {
            return Err(LinkError::new(LinkFault::Unreachable, "the wires are gone"));
        }
        let (delay, breaks) = {
            let mut rng = inner.rng.lock();
            let longest = u64::try_from(inner.weather.delay_max.as_micros()).unwrap_or(u64::MAX);
            let delay = Duration::from_micros(rng.random_range(0..=longest));
            let one_in = inner.weather.breaks_one_in;
            (delay, one_in > 0 && rng.random_ratio(1, one_in))
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }
        if breaks {
            return Err(LinkError::new(LinkFault::Broken, "the connection broke"));
        }
        Ok(())
    }

    async fn reach(&self) -> LinkResult<(Arc<PeerHandler>, Caller)> {
        self.carry().await?;
        let peer = self.net.inner.present.lock().get(&self.to).cloned();
        let peer = peer.ok_or_else(|| LinkError::new(LinkFault::Unreachable, "nobody there"))?;
        let caller = Caller {
            node: self.from,
            identity: identity(self.from),
        };
        Ok((peer, caller))
    }

    fn stream<T: Send + 'static>(self, items: BoxStream<'static, LinkResult<T>>) -> Inbound<T> {
        let carried = futures::stream::unfold(Some((self, items)), |held| async move {
            let (wire, mut items) = held?;
            let item = items.next().await?;
            match wire.carry().await {
                Ok(()) => Some((item, Some((wire, items)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        carried.boxed()
    }

    fn outbound<T: Send + 'static>(&self, items: Outbound<T>) -> Inbound<T> {
        self.clone().stream(items.map(Ok).boxed())
    }
}

fn refused(refusal: Refusal) -> LinkError {
    LinkError::new(LinkFault::Refused, refusal.to_string())
}

macro_rules! unary {
    ($name:ident, $request:ty, $answer:ty) => {
        fn $name(&self, request: $request) -> BoxFuture<'static, LinkResult<$answer>> {
            let wire = self.clone();
            Box::pin(async move {
                let (peer, caller) = wire.reach().await?;
                let answer = peer.$name(&caller, request).await.map_err(refused)?;
                wire.carry().await?;
                Ok(answer)
            })
        }
    };
}

impl Link for Wire {
    fn append(
        &self,
        requests: Outbound<v1::RaftAppend>,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftAppended>>> {
        let wire = self.clone();
        Box::pin(async move {
            let (peer, caller) = wire.reach().await?;
            let answers = peer.append(caller, wire.outbound(requests));
            Ok(wire.stream(answers.map(|answer| answer.map_err(refused)).boxed()))
        })
    }

    fn snapshot(
        &self,
        frames: Outbound<v1::RaftSnapshotFrame>,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSnapshotResult>> {
        let wire = self.clone();
        Box::pin(async move {
            let (peer, caller) = wire.reach().await?;
            let answer = peer.snapshot(&caller, wire.outbound(frames)).await;
            wire.carry().await?;
            answer.map_err(refused)
        })
    }

    fn attend(
        &self,
        request: v1::RaftAttend,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftBeat>>> {
        let wire = self.clone();
        Box::pin(async move {
            let (peer, caller) = wire.reach().await?;
            let beats = peer.attend(&caller, &request).map_err(refused)?;
            Ok(wire.stream(beats.map(|beat| beat.map_err(refused)).boxed()))
        })
    }

    fn survey(
        &self,
        request: v1::RaftSurvey,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSurveyResult>> {
        let wire = self.clone();
        Box::pin(async move {
            let (peer, caller) = wire.reach().await?;
            let answer = peer.survey(&caller, &request).map_err(refused)?;
            wire.carry().await?;
            Ok(answer)
        })
    }

    unary!(vote, v1::RaftBallot, v1::RaftBallotResult);
    unary!(transfer, v1::RaftTransfer, v1::RaftTransferred);
    unary!(read_index, v1::RaftReadIndex, v1::RaftReadIndexResult);
}
