//! A region of members in one process: real TLS on loopback, real disks in temporary folders, a switch in every
//! connection.
//!
//! Each member has a runtime of its own, so that killing it takes its sockets and tasks with it as a process would.

#![allow(unreachable_pub, dead_code, reason = "shared by several test targets")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use proto::ids::{FeatureLevel, GroupId, Identity, Jurisdiction, LogIndex, NodeId, RegionId, Role};
use proto::store::Writer;
use proto::v1;
use replica::Member;
use replica::disk::RealDisk;
use replica::host::{
    Admission, Group, GroupRole, Host, HostOptions, OpenError, ProposeError, Tuning,
};
use replica::log::LogOptions;
use replica::machine::{Machine, Position, UnknownCommand};
use replica::net::TonicDialer;
use replica::net::link::{Dialer, Inbound, Lane, Link, LinkResult, Outbound};
use replica::state::StateOptions;
use tempfile::TempDir;
use tokio::sync::watch;
use transport::{
    Acceptor, Clock, Connector, Enrolments, KeyExchange, KeyPair, LocalIdentity, RegionCa,
    SystemClock,
};

/// How long the blocking work of a killed member may take to end.
const END_MAX: Duration = Duration::from_secs(10);
pub const GROUP: GroupId = GroupId(16);
const CLUSTER: [u8; 16] = [7; 16];

/// Keys and values: `p` key-length key value puts and answers the index in text, `u` is unknown to level 0.
pub struct Kv {
    pub level_max: u32,
}

impl Machine for Kv {
    fn level_max(&self) -> FeatureLevel {
        FeatureLevel(self.level_max)
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        local: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        match command.first() {
            Some(b'p') => {
                let length = usize::from(command[1]);
                let (key, value) = command[2..].split_at(length);
                // The version is the index, so that a reader can tell which write it saw.
                let mut record = at.index.0.to_be_bytes().to_vec();
                record.extend_from_slice(value);
                state.put(key, &record);
                local.put(b"seen", &at.index.0.to_be_bytes());
                Ok(Bytes::from(at.index.0.to_string()))
            }
            _ => Err(UnknownCommand {
                index: at.index,
                what: "not a put".into(),
            }),
        }
    }
}

pub fn put(key: &str, value: &[u8]) -> Bytes {
    let mut out = vec![b'p', u8::try_from(key.len()).expect("short key")];
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value);
    out.into()
}

/// Version and value of a key as `group` has it.
pub fn get(group: &Group, key: &str) -> Option<(u64, Vec<u8>)> {
    let record = group.reader().expect("store works").value(key.as_bytes())?;
    let (version, value) = record.split_at(8);
    Some((
        u64::from_be_bytes(version.try_into().expect("8 bytes")),
        value.to_vec(),
    ))
}

/// Which pairs of members cannot reach each other.
#[derive(Clone)]
pub struct Switch(Arc<watch::Sender<BTreeSet<(u64, u64)>>>);

impl Switch {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }

    /// Nothing passes between `node` and `others`, either way; connections stay open.
    pub fn isolate(&self, node: NodeId, others: impl IntoIterator<Item = NodeId>) {
        self.0.send_modify(|cut| {
            for other in others {
                cut.insert((node.0, other.0));
                cut.insert((other.0, node.0));
            }
        });
    }

    pub fn heal(&self) {
        self.0.send_modify(BTreeSet::clear);
    }

    async fn open(&self, from: NodeId, to: NodeId) {
        let mut cut = self.0.subscribe();
        let result = cut
            .wait_for(|cut| !cut.contains(&(from.0, to.0)))
            .await
            .map(drop);
        result.expect("the switch outlives its links");
    }
}

/// A dialer with the switch in it.
struct SwitchedDialer {
    inner: TonicDialer,
    me: NodeId,
    switch: Switch,
}

impl Dialer for SwitchedDialer {
    fn link(&self, to: NodeId, member: &Member, lane: Lane) -> LinkResult<Arc<dyn Link>> {
        let inner = self.inner.link(to, member, lane)?;
        Ok(Arc::new(SwitchedLink {
            inner,
            me: self.me,
            to,
            switch: self.switch.clone(),
        }))
    }

    fn own(&self) -> Member {
        self.inner.own()
    }

    fn peers(&self) -> Vec<(NodeId, Member)> {
        self.inner.peers()
    }
}

struct SwitchedLink {
    inner: Arc<dyn Link>,
    me: NodeId,
    to: NodeId,
    switch: Switch,
}

impl SwitchedLink {
    fn hold_out<T: Send + 'static>(&self, items: Outbound<T>) -> Outbound<T> {
        let (switch, me, to) = (self.switch.clone(), self.me, self.to);
        items
            .then(move |item| {
                let switch = switch.clone();
                async move {
                    switch.open(me, to).await;
                    item
                }
            })
            .boxed()
    }

    fn hold_in<T: Send + 'static>(
        &self,
        call: BoxFuture<'static, LinkResult<Inbound<T>>>,
    ) -> BoxFuture<'static, LinkResult<Inbound<T>>> {
        let (switch, me, to) = (self.switch.clone(), self.me, self.to);
        Box::pin(async move {
            switch.open(me, to).await;
            let items = call.await?;
            let held = items.then(move |item| {
                let switch = switch.clone();
                async move {
                    switch.open(to, me).await;
                    item
                }
            });
            Ok(held.boxed())
        })
    }

    fn hold<T: Send + 'static>(
        &self,
        call: BoxFuture<'static, LinkResult<T>>,
    ) -> BoxFuture<'static, LinkResult<T>> {
        let (switch, me, to) = (self.switch.clone(), self.me, self.to);
        Box::pin(async move {
            switch.open(me, to).await;
            let answer = call.await;
            switch.open(to, me).await;
            answer
        })
    }
}

impl Link for SwitchedLink {
    fn append(
        &self,
        requests: Outbound<v1::RaftAppend>,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftAppended>>> {
        self.hold_in(self.inner.append(self.hold_out(requests)))
    }
    fn vote(&self, b: v1::RaftBallot) -> BoxFuture<'static, LinkResult<v1::RaftBallotResult>> {
        self.hold(self.inner.vote(b))
    }
    fn transfer(&self, t: v1::RaftTransfer) -> BoxFuture<'static, LinkResult<v1::RaftTransferred>> {
        self.hold(self.inner.transfer(t))
    }
    fn snapshot(
        &self,
        frames: Outbound<v1::RaftSnapshotFrame>,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSnapshotResult>> {
        self.hold(self.inner.snapshot(self.hold_out(frames)))
    }
    fn read_index(
        &self,
        r: v1::RaftReadIndex,
    ) -> BoxFuture<'static, LinkResult<v1::RaftReadIndexResult>> {
        self.hold(self.inner.read_index(r))
    }
    fn attend(&self, a: v1::RaftAttend) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftBeat>>> {
        self.hold_in(self.inner.attend(a))
    }
    fn survey(&self, s: v1::RaftSurvey) -> BoxFuture<'static, LinkResult<v1::RaftSurveyResult>> {
        self.hold(self.inner.survey(s))
    }
}

/// Times short enough for tests on two loaded cores.
pub fn quick() -> Tuning {
    Tuning {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(600),
        election_max: Duration::from_millis(1200),
        response_max: Duration::from_millis(1000),
        read_wait: Duration::from_millis(1500),
        propose_wait: Duration::from_secs(5),
        ..Tuning::default()
    }
}

pub fn jurisdiction() -> Jurisdiction {
    "CH".parse().expect("valid")
}

fn region() -> RegionId {
    "ch-zrh".parse().expect("valid")
}

/// Credentials, ports and folders of up to nine members.
pub struct Region {
    ids: BTreeMap<u64, LocalIdentity>,
    listeners: BTreeMap<u64, StdListener>,
    enrolments: BTreeMap<u64, Enrolments>,
    pub dirs: BTreeMap<u64, TempDir>,
    pub switch: Switch,
    pub tuning: Tuning,
    pub level_max: u32,
}

impl Region {
    /// A region that has enrolled members 1 to `members`.
    pub fn new(members: u64, tuning: Tuning) -> Self {
        Self::with_endpoints(members, tuning, |_, endpoint| endpoint)
    }

    /// As [`Region::new`], with other endpoints in the enrolments than those listened on.
    pub fn with_endpoints(
        members: u64,
        tuning: Tuning,
        mut endpoint: impl FnMut(u64, String) -> String,
    ) -> Self {
        let now = SystemClock.now();
        let year = Duration::from_secs(365 * 86_400);
        let ca = RegionCa::create(region(), now, year).expect("a CA");
        let (mut ids, mut listeners, mut enrolled) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        for id in 1..=members {
            let identity =
                Identity::new(region(), Role::Node, &format!("n{id}")).expect("valid name");
            let key = KeyPair::generate();
            let request = transport::ca::Request {
                identity: &identity,
                public_key: key.public_key(),
                dns_names: &[],
                ip_addresses: &[],
                now,
                validity: year,
            };
            let pem = ca.issue(&request).expect("a certificate");
            let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket");
            let address = listener.local_addr().expect("bound").to_string();
            enrolled.push(v1::Enrolment {
                identity: identity.to_string(),
                public_key: key.public_key().as_spki().to_vec().into(),
                node_id: id,
                endpoint: endpoint(id, address),
                jurisdiction: "CH".into(),
                ..Default::default()
            });
            ids.insert(
                id,
                LocalIdentity::new(pem.as_bytes(), key).expect("matching key"),
            );
            listeners.insert(id, listener);
        }
        let contents = transport::enrolment::SetContents {
            jurisdiction: jurisdiction(),
            version: 1,
            signed_at: now,
            enrolments: enrolled,
            grants: Vec::new(),
            approvals_min: 2,
        };
        let set = transport::enrolment::new_set(&ca.trust(), contents);
        let signed = ca.sign_set(&set).expect("version 1");
        let enrolments = (1..=members)
            .map(|id| {
                let held = Enrolments::bootstrap(ca.trust(), &signed, SystemClock::shared());
                (id, held.expect("a valid set"))
            })
            .collect();
        let dirs = (1..=members)
            .map(|id| (id, tempfile::tempdir().expect("a folder")))
            .collect();
        Self {
            ids,
            listeners,
            enrolments,
            dirs,
            switch: Switch::new(),
            tuning,
            level_max: 1,
        }
    }

    /// Starts a member.
    pub fn start(&self, id: u64, admission: Admission) -> Result<Node, OpenError> {
        self.start_in(id, admission, self.dirs[&id].path(), &[GROUP])
    }

    /// Starts a member with several groups in a folder of the caller's.
    pub fn start_in(
        &self,
        id: u64,
        admission: Admission,
        dir: &std::path::Path,
        groups: &[GroupId],
    ) -> Result<Node, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(format!("n{id}"))
            .enable_all()
            .build()
            .expect("a runtime");
        let local = self.ids[&id].clone();
        let enrolments = self.enrolments[&id].clone();
        let listener = self.listeners[&id].try_clone().expect("a socket");
        let connector = Connector::new(local.clone(), enrolments.clone(), KeyExchange::HybridOnly);
        let node = NodeId(id);
        let inner = TonicDialer::new(connector, enrolments.clone(), Role::Node, node);
        let dialer = SwitchedDialer {
            inner,
            me: node,
            switch: self.switch.clone(),
        };
        let options = HostOptions {
            node_id: node,
            identity: local.identity().clone(),
            jurisdiction: jurisdiction(),
            cluster: CLUSTER,
            admission,
            dir: dir.to_owned(),
            disk: Arc::new(RealDisk),
            dialer: Arc::new(dialer),
            log: LogOptions {
                segment_bytes: 16 << 20,
                ..LogOptions::default()
            },
            state: StateOptions::default(),
            tuning: self.tuning.clone(),
        };
        let level_max = self.level_max;
        let wanted = groups.to_vec();
        let starting = runtime.spawn(async move {
            let host = open_host(options).await?;
            let acceptor = Acceptor::new(&local, enrolments, KeyExchange::HybridOnly);
            let listener = tokio::net::TcpListener::from_std(listener).expect("a socket");
            let server = transport::server()
                .add_service(host.service().server())
                .serve_with_incoming(acceptor.incoming(listener));
            tokio::spawn(server);
            let mut groups = BTreeMap::new();
            for id in wanted {
                groups.insert(id, open_group(&host, id, level_max).await?);
            }
            Ok((host, groups))
        });
        let (host, groups) = match wait(starting) {
            Ok(opened) => opened,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        Ok(Node {
            id: node,
            host: Some(host),
            groups,
            runtime: Some(runtime),
        })
    }

    /// Starts members 1 to `members` and founds the groups.
    pub async fn founded(&self, members: u64, groups: &[GroupId]) -> Cluster {
        let mut nodes = BTreeMap::new();
        for id in 1..=members {
            let dir = self.dirs[&id].path();
            let node = self
                .start_in(id, Admission::Found, dir, groups)
                .expect("starts");
            nodes.insert(id, node);
        }
        let cluster = Cluster { nodes };
        for group in groups {
            let first = cluster.nodes[&1].groups[group].clone();
            let founders: Vec<NodeId> = (1..=members).map(NodeId).collect();
            cluster.nodes[&1]
                .run(async move { first.initialize(founders).await })
                .await
                .expect("pristine");
            cluster.leader_of(*group).await;
        }
        cluster
    }
}

// A killed member's threads may hold the folder for a moment longer.
async fn open_host(options: HostOptions) -> Result<Host, OpenError> {
    let mut left = 200;
    let dir = options.dir.clone();
    let mut options = Some(options);
    loop {
        let given = options.take().expect("given back below");
        let again = HostOptions {
            identity: given.identity.clone(),
            jurisdiction: given.jurisdiction.clone(),
            dir: dir.clone(),
            disk: given.disk.clone(),
            dialer: given.dialer.clone(),
            log: given.log.clone(),
            state: given.state.clone(),
            tuning: given.tuning.clone(),
            ..given
        };
        match Host::open(given) {
            Err(OpenError::Log(replica::log::LogError::InUse { .. })) if left > 0 => {
                left -= 1;
                options = Some(again);
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            other => return other,
        }
    }
}

async fn open_group(host: &Host, id: GroupId, level_max: u32) -> Result<Group, OpenError> {
    let mut left = 200;
    loop {
        match host.open_group(id, Arc::new(Kv { level_max })).await {
            Err(OpenError::State {
                source: replica::state::StateError::InUse,
                ..
            }) if left > 0 => {
                left -= 1;
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            other => return other,
        }
    }
}

fn wait<T: Send + 'static>(task: tokio::task::JoinHandle<T>) -> T {
    let (tx, rx) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let done = futures::executor::block_on(task);
        // The receiver waits below.
        let _ = tx.send(done);
    });
    rx.recv()
        .expect("the task ends")
        .expect("the task does not panic")
}

/// A running member.
pub struct Node {
    pub id: NodeId,
    pub host: Option<Host>,
    pub groups: BTreeMap<GroupId, Group>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Node {
    pub fn group(&self) -> &Group {
        &self.groups[&GROUP]
    }

    pub fn host(&self) -> &Host {
        self.host.as_ref().expect("running")
    }

    /// Runs `work` on the member's own runtime, as its process would.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let runtime = self.runtime.as_ref().expect("running");
        runtime.spawn(work).await.expect("the work does not panic")
    }

    /// Ends it as a process ends: sockets close, tasks stop where they are.
    pub fn kill(&mut self) {
        self.groups.clear();
        self.host = None;
        if let Some(runtime) = self.runtime.take() {
            // Waits for what blocks: a state store in use while this process ends aborts it. A runtime must not end
            // within another, hence the thread.
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(END_MAX));
            ending.join().expect("a runtime ends without a panic");
        }
    }

    /// Stops it in order.
    pub async fn stop(&mut self) {
        let host = self.host.clone().expect("running");
        self.run(async move { host.stop().await }).await;
        self.kill();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Running members by id.
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    /// The id of the member that leads, confirmed by a majority.
    pub async fn leader_of(&self, group: GroupId) -> u64 {
        let found = async {
            loop {
                for (id, node) in &self.nodes {
                    let Some(group) = node.groups.get(&group).cloned() else {
                        continue;
                    };
                    if group.is_leader()
                        && node
                            .run(async move { group.read_index_as_leader().await })
                            .await
                            .is_ok()
                    {
                        return *id;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(20, "a leader", found).await
    }

    pub async fn leader(&self) -> u64 {
        self.leader_of(GROUP).await
    }

    /// Puts on whoever leads, until it is acknowledged.
    pub async fn put(&self, key: &str, value: &[u8]) -> LogIndex {
        self.put_in(GROUP, key, value).await
    }

    pub async fn put_in(&self, group: GroupId, key: &str, value: &[u8]) -> LogIndex {
        let command = put(key, value);
        let done = async {
            loop {
                for node in self.nodes.values() {
                    let Some(group) = node.groups.get(&group).cloned() else {
                        continue;
                    };
                    if group.status().role != GroupRole::Leader {
                        continue;
                    }
                    let command = command.clone();
                    match node
                        .run(async move { group.propose_at(command).await })
                        .await
                    {
                        Ok(applied) => return applied.index,
                        Err(ProposeError::TooLarge { .. }) => unreachable!("small"),
                        Err(_) => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        within(20, "an acknowledged put", done).await
    }

    /// Waits until every member has applied `index`.
    pub async fn all_applied(&self, index: LogIndex) {
        for node in self.nodes.values() {
            applied(node.group(), index).await;
        }
    }
}

/// Waits until `group` has applied `index`.
pub async fn applied(group: &Group, index: LogIndex) {
    let mut applied = group.watch_applied();
    let reached = async {
        applied
            .wait_for(|applied| *applied >= Some(index))
            .await
            .map(drop)
            .expect("running");
    };
    within(20, "the state to catch up", reached).await;
}

/// Waits for `future`, at most `seconds`.
pub async fn within<T>(seconds: u64, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {seconds} s for {what}"),
    }
}
