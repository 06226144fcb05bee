//! Frames of an upload, from a committer that is enrolled and may send anything.
//!
//! Owns a node's service on a simulated disk, made anew for each input; frames pass through gRPC's encoding, without a
//! network. Besides no panic: what is acknowledged is on disk, and a receipt is of that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use node::blocks::{BlockStore, Driver, StoreOptions};
use node::repair::{ReplicaError, ShardReplica, Shards};
use node::upload::{Authority, BlocksParts, BlocksService, NotGranted, UploadTimeouts};
use prost::Message as _;
use proto::ids::{DatasetId, GroupId, LogIndex, NodeId, ObjectVersionId};
use proto::store::{MemoryStore, Writer};
use proto::v1;
use proto::v1::block_ack::Ack;
use proto::v1::block_frame::Frame;
use proto::v1::blocks_client::BlocksClient;
use replica::disk::SimDisk;
use replica::state::{Applied, View};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::server::Connected as _;
use transport::{Acceptor, Connector, Expect, KeyExchange, Lane, LocalIdentity, Peer};
use transport::{PeerConnection, verify};

use crate::known::{self, CLIENT, DATASET, NODE};
use crate::mutate::repeated;
use crate::{Memory, Shape, Source, Target};

pub(super) const UPLOAD: Target = Target {
    name: "upload",
    from: Source::Network,
    parses: &[
        "node/src/upload/session.rs: run",
        "node/src/upload/open.rs: open",
    ],
    shape: Shape::MESSAGE,
    len_max: 4096,
    memory: Memory {
        // A block that is announced has room of its own before its bytes come: four of 8 MiB, and a segment's zeros.
        fixed: 64 << 20,
        per_byte: 1024,
    },
    check,
    seeds,
};

const SHARD: GroupId = GroupId(16);
const VERSION: ObjectVersionId = ObjectVersionId([7; 16]);
/// What comes, comes at once: whoever waits longer waits for nobody.
const PATIENCE: Duration = Duration::from_millis(200);

/// A shard in which nothing has happened yet.
struct Empty;

impl ShardReplica for Empty {
    fn shard(&self) -> GroupId {
        SHARD
    }

    fn view(&self) -> Result<View, ReplicaError> {
        Ok(View {
            state: Box::new(MemoryStore::default()),
            local: Box::new(MemoryStore::default()),
            applied: Some(Applied {
                index: LogIndex(1),
                note: Bytes::new(),
            }),
        })
    }

    fn local_write(&self, _: &mut dyn FnMut(&mut dyn Writer)) -> Result<(), ReplicaError> {
        Ok(())
    }

    fn flushed(&self) -> Option<LogIndex> {
        None
    }

    fn replicas(&self) -> Vec<NodeId> {
        vec![NodeId(NODE.node_id)]
    }
}

impl Shards for Empty {
    fn shard(&self, shard: GroupId) -> Option<Arc<dyn ShardReplica>> {
        (shard == SHARD).then(|| Arc::new(Self) as _)
    }

    fn all(&self) -> Vec<Arc<dyn ShardReplica>> {
        vec![Arc::new(Self)]
    }
}

/// One dataset is granted.
struct Granted;

impl Authority for Granted {
    fn may_read_blocks(&self, _: &Peer, dataset: DatasetId) -> Result<(), NotGranted> {
        (dataset == DATASET).then_some(()).ok_or(NotGranted)
    }

    fn may_write_blocks(&self, peer: &Peer, dataset: DatasetId) -> Result<(), NotGranted> {
        self.may_read_blocks(peer, dataset)
    }
}

fn local() -> &'static LocalIdentity {
    static LOCAL: OnceLock<LocalIdentity> = OnceLock::new();
    LOCAL.get_or_init(|| NODE.local())
}

/// The committer, as the acceptor knows it: it shook hands once.
fn committer() -> &'static PeerConnection {
    static COMMITTER: OnceLock<PeerConnection> = OnceLock::new();
    COMMITTER.get_or_init(|| {
        runtime().block_on(async {
            let only = KeyExchange::HybridOnly;
            let acceptor = Acceptor::new(local(), known::enrolments(), only);
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound").to_string();
            let connector = Connector::new(CLIENT.local(), known::enrolments(), only);
            let accepted = async {
                let (tcp, _): (TcpStream, _) = listener.accept().await.expect("a connection");
                let stream = acceptor.accept(tcp).await.expect("an enrolled peer");
                stream.connect_info()
            };
            let expect = Expect::Identity(NODE.identity());
            let channel = connector.channel(&address, expect, Lane::Data);
            tokio::select! {
                connection = accepted => connection,
                Err(error) = channel => panic!("the node refused: {error}"),
            }
        })
    })
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().max_blocking_threads(1);
    builder.build().expect("a runtime")
}

fn open(disk: &SimDisk) -> BlockStore {
    let salts = AtomicU64::new(1);
    let options = StoreOptions {
        segment_bytes: 16 << 10,
        room_bytes_max: 32 << 20,
        space_reserve_bytes: 0,
        driver: Driver::Manual,
        ..StoreOptions::new(Arc::new(move || salts.fetch_add(1, Ordering::Relaxed)))
    };
    let opened = BlockStore::open(disk.boot(), Path::new("/blocks"), options);
    opened.expect("whole").0
}

/// What came back before the stream's end.
#[derive(Default)]
struct Answered {
    durable: Vec<u32>,
    receipt: Option<v1::Receipt>,
}

fn check(data: &[u8]) {
    let connection = committer();
    let frames = repeated(data).into_iter();
    let frames: Vec<v1::BlockFrame> = frames
        .filter_map(|frame| v1::BlockFrame::decode(&frame[..]).ok())
        .collect();
    if frames.is_empty() {
        return;
    }
    let disk = SimDisk::new(1);
    let store = open(&disk);
    let runtime = runtime();
    let answered = runtime.block_on(upload(connection, &store, frames.clone()));
    runtime.shutdown_timeout(PATIENCE);
    drop(store);
    holds(&disk, &frames, &answered);
}

async fn upload(
    connection: &PeerConnection,
    store: &BlockStore,
    frames: Vec<v1::BlockFrame>,
) -> Answered {
    let service = BlocksService::new(BlocksParts {
        node: NodeId(NODE.node_id),
        local: local().clone(),
        store: store.clone(),
        shards: Arc::new(Empty),
        authority: Arc::new(Granted),
        clock: known::clock(),
        timeouts: UploadTimeouts {
            frame: PATIENCE,
            block: PATIENCE,
        },
    });
    let turned = store.clone();
    let turning = tokio::spawn(async move {
        loop {
            if !turned.turn() {
                tokio::task::yield_now().await;
            }
        }
    });
    let mut request = tonic::Request::new(futures::stream::iter(frames));
    request.extensions_mut().insert(connection.clone());
    let mut out = Answered::default();
    if let Ok(acks) = BlocksClient::new(service.into_server())
        .write(request)
        .await
    {
        let mut acks = acks.into_inner();
        while let Ok(Some(ack)) = acks.message().await {
            assert!(out.receipt.is_none(), "a receipt is the last word");
            match ack.ack.expect("of a kind") {
                Ack::Durable(number) => out.durable.push(number),
                Ack::Receipt(receipt) => out.receipt = Some(receipt),
            }
        }
    }
    turning.abort();
    out
}

/// After a power cut: what was acknowledged is there as it was announced, and a receipt is of exactly that.
fn holds(disk: &SimDisk, frames: &[v1::BlockFrame], answered: &Answered) {
    let Some(Frame::Open(first)) = frames.first().and_then(|first| first.frame.clone()) else {
        assert!(answered.durable.is_empty() && answered.receipt.is_none());
        return;
    };
    disk.power_cut();
    let store = open(disk);
    let Ok(version) = ObjectVersionId::try_from(first.version_id.as_ref()) else {
        assert!(answered.durable.is_empty() && answered.receipt.is_none());
        return;
    };
    let mut held = BTreeMap::new();
    for block in store.of_version(version) {
        let mut reader = store.read(block.key, 0..0).expect("it is held");
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = reader.piece().expect("it is whole") {
            hasher.update(&piece);
        }
        held.insert(
            block.key.number.0,
            (block.bytes, *hasher.finalize().as_bytes()),
        );
    }
    for number in &answered.durable {
        let (bytes, digest) = held.get(number).expect("acknowledged and not there");
        let announced = frames.iter().any(|frame| match &frame.frame {
            Some(Frame::Header(header)) => {
                header.number == *number
                    && header.bytes == *bytes
                    && header.digest[..] == digest[..]
            }
            _ => false,
        });
        assert!(announced, "block {number} is another one");
    }
    let Some(receipt) = &answered.receipt else {
        return;
    };
    let key = local().public_key();
    let label = node::upload::RECEIPT_LABEL;
    assert!(verify(key.as_spki(), label, &receipt.body, &receipt.signature).is_ok());
    let body = v1::ReceiptBody::decode(&receipt.body[..]).expect("its own");
    let ranges = body.held.iter();
    let signed: Vec<u32> = ranges
        .flat_map(|range| range.first..range.first + range.count)
        .collect();
    assert!(signed.iter().eq(held.keys()), "signed for what is held");
    let listed = held
        .iter()
        .map(|(number, (bytes, digest))| (*number, *bytes, digest));
    assert_eq!(body.list_digest, node::upload::list_digest(listed)[..]);
    assert_eq!((body.version_id, body.shard), (first.version_id, SHARD.0));
}

fn seeds() -> Vec<Vec<u8>> {
    let opened = Frame::Open(v1::OpenUpload {
        shard: SHARD.0,
        dataset_id: DATASET.into(),
        version_id: VERSION.into(),
        upload_epoch: 3,
        lease_id: Bytes::from_static(&[0x1E; 16]),
        part_of: Bytes::new(),
    });
    let header = |number, data: &[u8]| {
        Frame::Header(v1::BlockHeader {
            number,
            bytes: data.len() as u32,
            digest: blake3::hash(data).as_bytes().to_vec().into(),
        })
    };
    let data = |data: &[u8]| Frame::Data(Bytes::copy_from_slice(data));
    let close = || Frame::Close(v1::CloseUpload {});
    let of = |frames: &[Frame]| {
        let mut out = Vec::new();
        for frame in frames {
            let frame = v1::BlockFrame {
                frame: Some(frame.clone()),
            };
            prost::encoding::bytes::encode(1, &frame.encode_to_vec(), &mut out);
        }
        out
    };
    let (first, second) = (&[5; 700][..], &[6; 300][..]);
    vec![
        of(&[
            opened.clone(),
            header(0, first),
            data(first),
            header(1, second),
            data(second),
            close(),
        ]),
        of(&[opened.clone(), close()]),
        of(&[opened.clone(), header(0, first), data(&first[..600])]),
        of(&[opened, header(0, second), data(first), close()]),
    ]
}
