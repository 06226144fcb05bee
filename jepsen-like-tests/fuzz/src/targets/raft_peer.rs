//! What a member of a Raft group takes from another: appends, ballots, transfers, snapshots, questions.
//!
//! Owns a member on a simulated disk, alone in its process, made anew for each input; another one that is enrolled is
//! everything it hears of. Besides no panic, in the engine too: the member answers or refuses in bounded time. Refuses to
//! let that other one take back what it said was committed: members may crash and do not lie (assumption A5), and the
//! engine rests on it.

mod said;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use proto::ids::{FeatureLevel, GroupId, Identity, NodeId, Role};
use proto::store::Writer;
use proto::v1;
use replica::disk::SimDisk;
use replica::host::{Admission, Host, HostOptions, Tuning};
use replica::log::{Driver, LogOptions};
use replica::machine::{Machine, Position, UnknownCommand};
use replica::net::handler::{Caller, PeerHandler};
use replica::net::link::{Dialer, Inbound, Lane, Link, LinkError, LinkFault, LinkResult};
use replica::state::{StateOptions, TwinMedium, TwinState};
use replica::{Group, Member};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use self::said::Said;
use crate::known::{jurisdiction, region};
use crate::mutate::numbered;
use crate::{Memory, Shape, Source, Target};

pub(super) const RAFT_PEER: Target = Target {
    name: "raft-peer",
    from: Source::Network,
    parses: &[
        "replica/src/net/handler.rs: decode_append",
        "replica/src/net/snapshot_recv.rs: announced",
    ],
    shape: Shape::MESSAGE,
    len_max: 4096,
    memory: Memory {
        // An engine with its channels, a log of a segment and its spare, and their zeros.
        fixed: 64 << 20,
        per_byte: 4096,
    },
    check,
    seeds,
};

const GROUP: GroupId = GroupId(16);
const CLUSTER: [u8; 16] = [0x51; 16];
const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
/// What waits longer than this waits for somebody else, which is no fault.
const PATIENCE: Duration = Duration::from_millis(200);
/// Messages of one input that are heard.
const MESSAGES_MAX: usize = 24;

/// Nobody can be reached.
struct Alone;

impl Dialer for Alone {
    fn link(&self, _: NodeId, _: &Member, _: Lane) -> LinkResult<Arc<dyn Link>> {
        Err(LinkError::new(LinkFault::Unreachable, "nobody is there"))
    }

    fn own(&self) -> Member {
        member(ME)
    }

    fn peers(&self) -> Vec<(NodeId, Member)> {
        Vec::new()
    }
}

fn member(node: NodeId) -> Member {
    Member {
        identity: identity(node).to_string(),
        endpoint: String::new(),
        jurisdiction: jurisdiction().to_string(),
    }
}

fn identity(node: NodeId) -> Identity {
    Identity::new(region(), Role::Node, &format!("n{node}")).expect("a valid name")
}

/// Keeps what it is told, and does not know commands that begin with 0xFF.
struct Kept;

impl Machine for Kept {
    fn level_max(&self) -> FeatureLevel {
        FeatureLevel(1)
    }

    fn apply(
        &self,
        at: Position<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        _: &mut dyn Writer,
    ) -> Result<Bytes, UnknownCommand> {
        if command.first() == Some(&0xFF) {
            return Err(UnknownCommand {
                index: at.index,
                what: String::new(),
            });
        }
        state.put(&at.index.0.to_be_bytes(), command);
        Ok(command.clone())
    }
}

async fn start() -> (Host, Group) {
    let disk = SimDisk::new(1).boot();
    let salts = AtomicU64::new(1);
    let dir = PathBuf::from("/member");
    let options = HostOptions {
        node_id: ME,
        identity: identity(ME),
        jurisdiction: jurisdiction(),
        cluster: CLUSTER,
        admission: Admission::Found,
        dir: dir.clone(),
        disk: Arc::clone(&disk),
        dialer: Arc::new(Alone),
        log: LogOptions {
            segment_bytes: 64 << 10,
            payload_bytes_max: 4096,
            space_bytes_min: 0,
            driver: Driver::Manual,
            salt: Arc::new(move || salts.fetch_add(1, Ordering::Relaxed)),
            ..LogOptions::default()
        },
        state: StateOptions::default(),
        tuning: Tuning {
            read_wait: PATIENCE / 4,
            ..Tuning::default()
        },
    };
    let host = Host::open(options).expect("an empty disk");
    let state = TwinState::open(&TwinMedium::new(1), &dir.join("state"), disk);
    let group = host.open_group_on(GROUP, Arc::new(Kept), Arc::new(state));
    let group = group.await.expect("an empty group");
    (host, group)
}

/// Does the log's work between everything else.
async fn turn(host: Host) {
    loop {
        if !host.log().turn() {
            tokio::task::yield_now().await;
        }
    }
}

fn check(data: &[u8]) {
    let messages = numbered(data);
    if messages.is_empty() {
        return;
    }
    let runtime = runtime();
    runtime.block_on(async {
        let (host, group) = start().await;
        let turning = tokio::spawn(turn(host.clone()));
        hear(&host.handler(), messages).await;
        // Still answers about itself.
        drop(group.status());
        drop(group.voters());
        turning.abort();
    });
    runtime.shutdown_timeout(PATIENCE);
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1);
    builder.build().expect("a runtime")
}

/// Neighbours of one kind are one stream.
async fn hear(handler: &Arc<PeerHandler>, messages: Vec<(u32, Vec<u8>)>) {
    let caller = Caller {
        node: PEER,
        identity: identity(PEER),
    };
    let mut said = Said::default();
    let messages = messages.into_iter().take(MESSAGES_MAX);
    let messages: Vec<_> = messages
        .take_while(|(kind, bytes)| said.keeps(*kind, bytes))
        .collect();
    for stream in messages.chunk_by(|a, b| a.0 == b.0) {
        let (kind, bytes) = (stream[0].0, stream.iter().map(|(_, bytes)| &bytes[..]));
        let heard = async {
            match kind {
                1 => {
                    let requests = inbound::<v1::RaftAppend>(bytes);
                    let mut answers = Arc::clone(handler).append(caller.clone(), requests);
                    while let Some(Ok(_)) = answers.next().await {}
                }
                2 => {
                    let frames = inbound::<v1::RaftSnapshotFrame>(bytes);
                    drop(handler.snapshot(&caller, frames).await);
                }
                _ => {
                    for bytes in bytes {
                        one(handler, &caller, kind, bytes).await;
                    }
                }
            }
        };
        drop(timeout(PATIENCE, heard).await);
    }
}

async fn one(handler: &Arc<PeerHandler>, caller: &Caller, kind: u32, bytes: &[u8]) {
    match kind {
        3 => {
            if let Ok(ballot) = v1::RaftBallot::decode(bytes) {
                drop(handler.vote(caller, ballot).await);
            }
        }
        4 => {
            if let Ok(transfer) = v1::RaftTransfer::decode(bytes) {
                drop(handler.transfer(caller, transfer).await);
            }
        }
        5 => {
            if let Ok(read) = v1::RaftReadIndex::decode(bytes) {
                drop(handler.read_index(caller, read).await);
            }
        }
        _ => {
            if let Ok(survey) = v1::RaftSurvey::decode(bytes) {
                drop(handler.survey(caller, &survey));
            }
        }
    }
}

/// The messages that decode, as they come in.
fn inbound<'a, M: prost::Message + Default + 'static>(
    bytes: impl Iterator<Item = &'a [u8]>,
) -> Inbound<M> {
    let decoded: Vec<LinkResult<M>> = bytes
        .map_while(|bytes| M::decode(bytes).ok().map(Ok))
        .collect();
    futures::stream::iter(decoded).boxed()
}

fn header() -> Option<v1::RaftHeader> {
    Some(v1::RaftHeader {
        cluster: CLUSTER.to_vec().into(),
        group: GROUP.0,
        from: PEER.0,
        to: ME.0,
        seen: None,
    })
}

fn vote(term: u64) -> Option<v1::RaftVote> {
    Some(v1::RaftVote {
        term,
        node: PEER.0,
        committed: true,
    })
}

fn id(term: u64, index: u64) -> Option<v1::RaftLogId> {
    Some(v1::RaftLogId { term, index })
}

fn membership() -> v1::RaftMembership {
    let wire = |node: NodeId| v1::RaftMember {
        node: node.0,
        identity: identity(node).to_string(),
        endpoint: String::new(),
        jurisdiction: "CH".to_owned(),
    };
    v1::RaftMembership {
        voters: vec![v1::RaftVoterSet {
            nodes: vec![ME.0, PEER.0],
        }],
        members: vec![wire(ME), wire(PEER)],
    }
}

fn entry(index: u64, payload: &[u8]) -> v1::RaftEntry {
    v1::RaftEntry {
        term: 1,
        index,
        payload: Bytes::copy_from_slice(payload),
    }
}

/// A leader's first entries, committed.
fn appends() -> Vec<u8> {
    let membership = [&[1, 1], &membership().encode_to_vec()[..]].concat();
    let first = v1::RaftAppend {
        header: header(),
        vote: vote(1),
        prev: None,
        commit: id(1, 1),
        entries: vec![entry(0, &membership), entry(1, &[1, 0])],
    };
    let second = v1::RaftAppend {
        header: None,
        vote: vote(1),
        prev: id(1, 1),
        commit: id(1, 4),
        entries: vec![
            entry(2, b"\x01\x02command"),
            entry(3, &[1, 3, 0, 0, 0, 1]),
            entry(4, &[1, 4]),
        ],
    };
    [field(1, &first), field(1, &second)].concat()
}

fn field(number: u32, message: &impl prost::Message) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &message.encode_to_vec(), &mut out);
    out
}

/// A whole state, as the simulated store has it: one file of one key.
fn snapshot() -> Vec<u8> {
    use v1::raft_snapshot_frame::Frame;
    let content = [&[8, 0, 0, 0, 1, 0, 0, 0][..], &[0; 8], b"v"].concat();
    let begin = v1::RaftSnapshotBegin {
        header: header(),
        vote: vote(2),
        applied: Some(v1::RaftApplied {
            format: 1,
            last: id(2, 9),
            membership_at: id(1, 0),
            membership: Some(membership()),
        }),
        files: vec![v1::RaftSnapshotFile {
            name: "twin-state".to_owned(),
            bytes: content.len() as u64,
            digest: blake3::hash(&content).as_bytes().to_vec().into(),
        }],
    };
    let chunk = v1::RaftSnapshotChunk {
        file: 0,
        offset: 0,
        data: content.into(),
    };
    let frames = [Frame::Begin(begin), Frame::Chunk(chunk), Frame::End(true)];
    let fields = frames.map(|frame| field(2, &v1::RaftSnapshotFrame { frame: Some(frame) }));
    fields.concat()
}

fn ballot(pre: bool) -> v1::RaftBallot {
    v1::RaftBallot {
        header: header(),
        vote: Some(v1::RaftVote {
            term: 3,
            node: PEER.0,
            committed: false,
        }),
        last: id(2, 20),
        pre,
        transfer: false,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let transfer = v1::RaftTransfer {
        header: header(),
        leader: vote(1),
        to_node: ME.0,
        last: id(1, 4),
    };
    let ballots = [field(3, &ballot(true)), field(3, &ballot(false))].concat();
    let questions = [
        field(5, &v1::RaftReadIndex { header: header() }),
        field(6, &v1::RaftSurvey { header: header() }),
    ]
    .concat();
    vec![
        appends(),
        snapshot(),
        [appends(), snapshot()].concat(),
        ballots.clone(),
        [appends(), field(4, &transfer), ballots].concat(),
        questions,
    ]
}
