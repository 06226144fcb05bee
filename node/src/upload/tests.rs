//! The service over loopback mTLS, with real certificates, enrolments and blocks on disk.

mod moved;
mod turns;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::digest as sha;
use bytes::Bytes;
use node_state::keys::{self, table};
use prost::Message as _;
use proto::ids::{GroupId, Identity, LeaseId, ObjectVersionId, RegionId, UnixMs, UploadEpoch};
use proto::store::Writer as _;
use proto::v1::blocks_client::BlocksClient;
use proto::v1::{block_ack::Ack, block_frame::Frame};
use replica::disk::{RealDisk, SimDisk};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use transport::enrolment::SetContents;
use transport::fault::reason;
use transport::testing::ManualClock;
use transport::{
    Acceptor, Connector, Enrolments, Expect, Fault, KeyExchange, KeyPair, Lane, RegionCa,
};

use super::*;
use crate::blocks::{BlockHead, BlockKey, BlockNumber, BlockOwner, Driver, StoreOptions};
use crate::repair::testing::{DATASET, ME, OneShard, Replica, SHARD, digest};
use crate::repair::{Peers, RegionPeers};

const NOW: UnixMs = UnixMs(1_790_000_000_000);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const LEASE: LeaseId = LeaseId([0x1E; 16]);
const EPOCH: u64 = 30;
const VERSION: ObjectVersionId = ObjectVersionId([7; 16]);

#[derive(Default)]
struct Grants {
    nothing: AtomicBool,
}

impl Grants {
    fn check(&self) -> Result<(), NotGranted> {
        if self.nothing.load(Ordering::SeqCst) {
            Err(NotGranted)
        } else {
            Ok(())
        }
    }
}

impl Authority for Grants {
    fn may_read_blocks(&self, _peer: &Peer, _dataset: DatasetId) -> Result<(), NotGranted> {
        self.check()
    }

    fn may_write_blocks(&self, _peer: &Peer, _dataset: DatasetId) -> Result<(), NotGranted> {
        self.check()
    }
}

/// One node that serves, and everyone else of its region.
struct Region {
    clock: Arc<ManualClock>,
    locals: BTreeMap<&'static str, LocalIdentity>,
    enrolments: Enrolments,
    address: SocketAddr,
    store: BlockStore,
    replica: Arc<Replica>,
    grants: Arc<Grants>,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Region {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn options() -> StoreOptions {
    let salt = AtomicU64::new(1);
    StoreOptions {
        segment_bytes: 32 << 20,
        space_reserve_bytes: 1 << 20,
        driver: Driver::Thread,
        ..StoreOptions::new(Arc::new(move || salt.fetch_add(1, Ordering::Relaxed)))
    }
}

impl Region {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (store, _) = BlockStore::open(Arc::new(RealDisk), dir.path(), options())
            .expect("a folder of our own");
        Self::with(store, dir).await
    }

    async fn with(store: BlockStore, dir: tempfile::TempDir) -> Self {
        let region: RegionId = "ch-zrh".parse().expect("a region");
        let clock = Arc::new(ManualClock::at(NOW));
        let ca = RegionCa::create(region.clone(), NOW, 10 * YEAR).expect("a CA");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut locals = BTreeMap::new();
        let mut enrolled = Vec::new();
        for (name, role, id, endpoint) in [
            ("client", Role::Client, 0, String::new()),
            ("gateway", Role::Gateway, 0, String::new()),
            ("operator", Role::Operator, 0, String::new()),
            ("n1", Role::Node, ME.0, address.to_string()),
            ("n2", Role::Node, 2, String::new()),
        ] {
            let identity = Identity::new(region.clone(), role, name).expect("an identity");
            let local = certified(&ca, &identity);
            enrolled.push(v1::Enrolment {
                identity: identity.to_string(),
                public_key: local.public_key().as_spki().to_vec().into(),
                node_id: id,
                endpoint,
                jurisdiction: "CH".to_owned(),
                ..Default::default()
            });
            locals.insert(name, local);
        }
        let set = transport::enrolment::new_set(
            &ca.trust(),
            SetContents {
                jurisdiction: "CH".parse().expect("a jurisdiction"),
                version: 1,
                signed_at: NOW,
                enrolments: enrolled,
                grants: Vec::new(),
                approvals_min: 2,
            },
        );
        let signed = ca.sign_set(&set).expect("a first set");
        let enrolments =
            Enrolments::bootstrap(ca.trust(), &signed, clock.clone()).expect("the set is good");
        let replica = Replica::new();
        replica.set_epoch(EPOCH);
        let grants = Arc::new(Grants::default());
        let service = BlocksService::new(BlocksParts {
            node: ME,
            local: locals["n1"].clone(),
            store: store.clone(),
            shards: Arc::new(OneShard(Arc::clone(&replica))),
            authority: Arc::clone(&grants) as _,
            clock: clock.clone(),
            timeouts: UploadTimeouts {
                frame: Duration::from_millis(300),
                block: Duration::from_secs(20),
            },
        });
        let acceptor = Acceptor::new(&locals["n1"], enrolments.clone(), KeyExchange::HybridOnly);
        let serving = tokio::spawn(async move {
            let server = transport::server().add_service(service.into_server());
            let served = server
                .serve_with_incoming(acceptor.incoming(listener))
                .await;
            served.expect("serving ends without an error");
        });
        Self {
            clock,
            locals,
            enrolments,
            address,
            store,
            replica,
            grants,
            serving,
            _dir: dir,
        }
    }

    fn connector(&self, who: &str) -> Connector {
        let local = self.locals[who].clone();
        Connector::new(local, self.enrolments.clone(), KeyExchange::HybridOnly)
    }

    async fn client(&self, who: &str) -> BlocksClient<Channel> {
        let expect = Expect::Role(Role::Node);
        let channel = self
            .connector(who)
            .channel(&self.address.to_string(), expect, Lane::Data)
            .await;
        BlocksClient::new(channel.expect("it serves"))
    }

    async fn upload(&self, who: &str, frames: Vec<Frame>) -> Result<Uploaded, Status> {
        let (sender, receiver) = mpsc::channel(frames.len().max(1));
        for frame in frames {
            sender
                .try_send(v1::BlockFrame { frame: Some(frame) })
                .expect("room for all");
        }
        drop(sender);
        let answer = self
            .client(who)
            .await
            .write(ReceiverStream::new(receiver))
            .await?;
        collect(answer.into_inner()).await
    }
}

#[derive(Debug, Default)]
struct Uploaded {
    durable: Vec<u32>,
    receipt: Option<v1::Receipt>,
}

async fn collect(mut acks: Streaming<v1::BlockAck>) -> Result<Uploaded, Status> {
    let mut out = Uploaded::default();
    while let Some(ack) = acks.message().await? {
        match ack.ack.expect("an acknowledgement of a kind") {
            Ack::Durable(number) => out.durable.push(number),
            Ack::Receipt(receipt) => out.receipt = Some(receipt),
        }
    }
    Ok(out)
}

fn certified(ca: &RegionCa, identity: &Identity) -> LocalIdentity {
    let key = KeyPair::generate();
    let request = transport::ca::Request {
        identity,
        public_key: key.public_key(),
        dns_names: &[],
        ip_addresses: &[[127, 0, 0, 1].into()],
        now: NOW,
        validity: YEAR,
    };
    let pem = ca.issue(&request).expect("a certificate");
    LocalIdentity::new(pem.as_bytes(), key).expect("certificate and key belong together")
}

fn open_at(epoch: u64) -> Frame {
    Frame::Open(v1::OpenUpload {
        shard: SHARD.0,
        dataset_id: DATASET.into(),
        version_id: VERSION.into(),
        upload_epoch: epoch,
        lease_id: LEASE.into(),
        part_of: Bytes::new(),
    })
}

fn open_frame() -> Frame {
    open_at(EPOCH)
}

fn header(number: u32, data: &[u8]) -> Frame {
    Frame::Header(v1::BlockHeader {
        number,
        bytes: u32::try_from(data.len()).expect("small"),
        digest: Bytes::copy_from_slice(&digest(data).0),
    })
}

/// A header and its frames, cut at the largest size.
fn block(number: u32, data: &[u8]) -> Vec<Frame> {
    let frames = data
        .chunks(FRAME_BYTES_MAX)
        .map(|d| Frame::Data(Bytes::copy_from_slice(d)));
    std::iter::once(header(number, data))
        .chain(frames)
        .collect()
}

fn close() -> Frame {
    Frame::Close(v1::CloseUpload {})
}

fn whole(blocks: &[&[u8]]) -> Vec<Frame> {
    let blocks = (0..)
        .zip(blocks)
        .flat_map(|(number, data)| block(number, data));
    std::iter::once(open_frame())
        .chain(blocks)
        .chain([close()])
        .collect()
}

fn data(seed: u8, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut out);
    out
}

fn refusal(outcome: Result<Uploaded, Status>) -> (String, Fault) {
    let status = outcome.expect_err("refused");
    (
        reason(&status).unwrap_or_default().to_owned(),
        Fault::of(&status),
    )
}

fn read_request(number: u32) -> v1::ReadBlockRequest {
    v1::ReadBlockRequest {
        shard: SHARD.0,
        dataset_id: DATASET.into(),
        version_id: VERSION.into(),
        number,
        offset: 0,
        length: 0,
    }
}

async fn read(
    client: &mut BlocksClient<Channel>,
    request: v1::ReadBlockRequest,
) -> Result<Vec<u8>, Status> {
    let mut pieces = client.read(request).await?.into_inner();
    let mut out = Vec::new();
    while let Some(piece) = pieces.message().await? {
        assert!(piece.data.len() <= 256 << 10, "a piece is at most 256 KiB");
        out.extend_from_slice(&piece.data);
    }
    Ok(out)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_acknowledged_block_by_block_and_ends_in_a_receipt_that_verifies() {
    let region = Region::new().await;
    let (first, second) = (data(1, 8 << 20), data(2, 100_000));
    let uploaded = region
        .upload("client", whole(&[&first, &second]))
        .await
        .expect("granted");
    let mut durable = uploaded.durable;
    durable.sort_unstable();
    assert_eq!(durable, [0, 1]);
    let receipt = uploaded.receipt.expect("it was closed");
    let key = region.locals["n1"].public_key();
    key.verify(RECEIPT_LABEL, &receipt.body, &receipt.signature)
        .expect("signed by the node");
    let list = list_digest([
        (0, 8 << 20, &digest(&first).0),
        (1, 100_000, &digest(&second).0),
    ]);
    let expected = v1::ReceiptBody {
        node_id: ME.0,
        shard: SHARD.0,
        dataset_id: DATASET.into(),
        version_id: VERSION.into(),
        upload_epoch: EPOCH,
        begun_at_ms: NOW.0,
        held: vec![v1::BlockRange { first: 0, count: 2 }],
        list_digest: Bytes::copy_from_slice(&list),
    };
    assert_eq!(
        v1::ReceiptBody::decode(receipt.body).expect("a body"),
        expected
    );
    let mut gateway = region.client("gateway").await;
    assert_eq!(
        read(&mut gateway, read_request(0)).await.expect("granted"),
        first
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_not_in_order_is_refused_and_leaves_nothing() {
    let region = Region::new().await;
    let bytes = data(1, 20_000);
    let mut wrong = block(0, &bytes);
    wrong[1] = Frame::Data(Bytes::from(data(2, 20_000)));
    let cases: Vec<(&str, Vec<Frame>)> = vec![
        ("block-digest", [vec![open_frame()], wrong].concat()),
        ("upload-malformed", vec![close()]),
        ("upload-malformed", vec![open_frame(), open_frame()]),
        (
            "upload-malformed",
            vec![open_frame(), Frame::Data(Bytes::from_static(b"x"))],
        ),
        (
            "upload-malformed",
            vec![open_frame(), header(0, &bytes), close()],
        ),
        (
            "upload-malformed",
            [vec![open_frame(), header(0, &bytes)], block(1, &bytes)].concat(),
        ),
        ("upload-malformed", vec![open_frame(), header(8192, &bytes)]),
        ("block-malformed", vec![open_frame(), header(0, b"")]),
        (
            "block-malformed",
            vec![open_frame(), header(0, &vec![0; (8 << 20) + 1])],
        ),
        (
            "block-malformed",
            vec![
                open_frame(),
                header(0, &bytes),
                Frame::Data(Bytes::from(data(1, 20_001))),
            ],
        ),
        (
            "block-malformed",
            vec![
                open_frame(),
                header(0, &bytes),
                Frame::Data(Bytes::from_static(b"dust")),
            ],
        ),
    ];
    for (expected, frames) in cases {
        let (reason, fault) = refusal(region.upload("client", frames).await);
        assert_eq!((reason.as_str(), fault), (expected, Fault::Caller));
    }
    assert_eq!(region.store.stats().blocks, 0);
    assert!(
        region.store.try_room(64 << 20).is_some(),
        "and no memory is kept"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_refused_by_reason() {
    let region = Region::new().await;
    let frames = || whole(&[&data(1, 9_000)]);
    for who in ["operator", "n2"] {
        assert_eq!(
            refusal(region.upload(who, frames()).await).0,
            "peer-role",
            "{who}"
        );
    }
    for epoch in [EPOCH - 25, EPOCH + 25] {
        let (reason, fault) = refusal(region.upload("client", vec![open_at(epoch)]).await);
        assert_eq!(
            (reason.as_str(), fault),
            ("upload-epoch", Fault::Precondition)
        );
    }
    region.grants.nothing.store(true, Ordering::SeqCst);
    assert_eq!(
        refusal(region.upload("client", frames()).await).0,
        "not-granted"
    );
    region.grants.nothing.store(false, Ordering::SeqCst);
    let other_shard = Frame::Open(v1::OpenUpload {
        shard: 99,
        dataset_id: DATASET.into(),
        version_id: VERSION.into(),
        upload_epoch: EPOCH,
        lease_id: LEASE.into(),
        part_of: Bytes::new(),
    });
    assert_eq!(
        refusal(region.upload("client", vec![other_shard]).await).0,
        "no-such-shard"
    );
    assert_eq!(region.store.stats().blocks, 0);
    // The lease is the gateway's: its token says so.
    let gateway = region.locals["gateway"].public_key();
    let holder = sha::digest(&sha::SHA256, gateway.as_spki());
    let token = v1::TokenRecord {
        holder: Bytes::copy_from_slice(holder.as_ref()),
        ..Default::default()
    };
    let key = keys::token(table::TOKEN, &DATASET, &LEASE);
    region
        .replica
        .state
        .lock()
        .put(&key, &token.encode_to_vec());
    assert_eq!(
        refusal(region.upload("client", frames()).await).0,
        "lease-not-holders"
    );
    assert!(region.upload("gateway", frames()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_cut_off_midway_is_resumed_and_began_when_it_first_did() {
    let region = Region::new().await;
    let (first, second) = (data(1, 50_000), data(2, 60_000));
    let cut = [
        vec![open_frame()],
        block(0, &first),
        vec![header(1, &second)],
    ]
    .concat();
    let (sender, receiver) = mpsc::channel(cut.len());
    for frame in cut {
        sender
            .try_send(v1::BlockFrame { frame: Some(frame) })
            .expect("room for all");
    }
    let answer = region
        .client("client")
        .await
        .write(ReceiverStream::new(receiver))
        .await;
    let mut acks = answer.expect("opened").into_inner();
    let ack = acks
        .message()
        .await
        .expect("stored")
        .and_then(|ack| ack.ack);
    assert_eq!(ack, Some(Ack::Durable(0)));
    drop(sender);
    let refused = refusal(collect(acks).await);
    assert_eq!(refused, ("upload-cut-off".to_owned(), Fault::Unavailable));
    assert_eq!(
        region.store.of_version(VERSION).len(),
        1,
        "what was complete is there"
    );
    region.clock.advance(Duration::from_secs(60));
    let rest = [vec![open_frame()], block(1, &second), vec![close()]].concat();
    let receipt = region
        .upload("client", rest)
        .await
        .expect("granted")
        .receipt;
    let body = v1::ReceiptBody::decode(receipt.expect("closed").body).expect("a body");
    assert_eq!(body.held, [v1::BlockRange { first: 0, count: 2 }]);
    assert_eq!(body.begun_at_ms, NOW.0);
}

/// Garbage collection goes by the epoch on disk: a receipt for a newer epoch does not name blocks of an older one.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_names_only_blocks_stored_under_its_epoch_or_a_newer_one() {
    let region = Region::new().await;
    let (first, second) = (data(1, 50_000), data(2, 60_000));
    let old = [
        vec![open_at(EPOCH - 2)],
        block(0, &first),
        block(1, &second),
        vec![close()],
    ];
    region
        .upload("client", old.concat())
        .await
        .expect("granted");
    let new = [vec![open_frame()], block(1, &second), vec![close()]].concat();
    let receipt = region.upload("client", new).await.expect("granted").receipt;
    let body = v1::ReceiptBody::decode(receipt.expect("closed").body).expect("a body");
    assert_eq!(body.held, [v1::BlockRange { first: 1, count: 1 }]);
    let held = region.store.of_version(VERSION);
    let epochs: Vec<_> = held.iter().map(|held| held.upload_epoch).collect();
    assert_eq!(epochs, [UploadEpoch(EPOCH - 2), UploadEpoch(EPOCH)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stalls_is_told_so_and_its_memory_is_given_back() {
    let region = Region::new().await;
    let (sender, receiver) = mpsc::channel(8);
    for frame in [open_frame(), header(0, &data(1, 8 << 20))] {
        sender
            .try_send(v1::BlockFrame { frame: Some(frame) })
            .expect("room");
    }
    let answer = region
        .client("client")
        .await
        .write(ReceiverStream::new(receiver))
        .await;
    let outcome = collect(answer.expect("opened").into_inner()).await;
    assert_eq!(refusal(outcome).0, "upload-stalled");
    assert!(region.store.try_room(64 << 20).is_some());
    drop(sender);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_in_ranges_by_who_may_and_damage_sends_the_reader_elsewhere() {
    let region = Region::new().await;
    let bytes = data(1, 1 << 20);
    region
        .upload("client", whole(&[&bytes]))
        .await
        .expect("granted");
    let mut gateway = region.client("gateway").await;
    let range = v1::ReadBlockRequest {
        offset: 70_000,
        length: 500_000,
        ..read_request(0)
    };
    let got = read(&mut gateway, range).await.expect("granted");
    assert_eq!(got, bytes[70_000..570_000]);
    let tail = v1::ReadBlockRequest {
        offset: 1_000_000,
        ..read_request(0)
    };
    assert_eq!(
        read(&mut gateway, tail).await.expect("granted"),
        bytes[1_000_000..]
    );
    let reason_of = |status: Status| {
        (
            reason(&status).unwrap_or_default().to_owned(),
            Fault::of(&status),
        )
    };
    let beyond = v1::ReadBlockRequest {
        offset: 1,
        length: 1 << 20,
        ..read_request(0)
    };
    let refused = read(&mut gateway, beyond)
        .await
        .expect_err("beyond the end");
    assert_eq!(
        reason_of(refused),
        ("block-range".to_owned(), Fault::Caller)
    );
    let refused = read(&mut gateway, read_request(1))
        .await
        .expect_err("not held");
    assert_eq!(
        reason_of(refused),
        ("block-not-held".to_owned(), Fault::Missing)
    );
    // A grant for one dataset does not open another's block.
    let other = v1::ReadBlockRequest {
        dataset_id: vec![9; 16].into(),
        ..read_request(0)
    };
    let refused = read(&mut gateway, other)
        .await
        .expect_err("another dataset");
    assert_eq!(
        reason_of(refused),
        ("block-not-held".to_owned(), Fault::Missing)
    );
    let mut operator = region.client("operator").await;
    let refused = read(&mut operator, read_request(0))
        .await
        .expect_err("no reader");
    assert_eq!(reason_of(refused).0, "peer-role");
    region.grants.nothing.store(true, Ordering::SeqCst);
    let refused = read(&mut gateway, read_request(0))
        .await
        .expect_err("no grant");
    assert_eq!(reason_of(refused).0, "not-granted");
    let mut node = region.client("n2").await;
    assert_eq!(
        read(&mut node, read_request(0)).await.expect("repair"),
        bytes
    );
    // One bit at rest.
    let segment = std::fs::read_dir(region._dir.path()).expect("the folder is there");
    let segment = segment
        .filter_map(|file| file.ok().map(|file| file.path()))
        .find(|path| path.extension().is_some_and(|e| e == "blocks"))
        .expect("a segment");
    let mut content = std::fs::read(&segment).expect("readable");
    content[4096 + 512 + 600_000] ^= 4;
    std::fs::write(&segment, content).expect("writable");
    let refused = read(&mut node, read_request(0)).await.expect_err("damaged");
    assert_eq!(
        reason_of(refused),
        ("block-damaged".to_owned(), Fault::Damaged)
    );
    let asked = v1::HeldRequest {
        shard: SHARD.0,
        blocks: vec![v1::BlockKey {
            version_id: VERSION.into(),
            number: 0,
            digest: Bytes::copy_from_slice(&digest(&bytes).0),
        }],
    };
    let held = node
        .held(asked)
        .await
        .expect("a node may ask")
        .into_inner()
        .held;
    assert_eq!(held, [false], "a damaged block is not held");
}

#[tokio::test(flavor = "multi_thread")]
async fn held_says_which_blocks_are_there_with_this_digest() {
    let region = Region::new().await;
    let bytes = data(1, 9_000);
    region
        .upload("client", whole(&[&bytes]))
        .await
        .expect("granted");
    let block = |number, data: &[u8]| v1::BlockKey {
        version_id: VERSION.into(),
        number,
        digest: Bytes::copy_from_slice(&digest(data).0),
    };
    let blocks = vec![block(0, &bytes), block(1, &bytes), block(0, b"other")];
    let mut client = region.client("client").await;
    let held = client
        .held(v1::HeldRequest {
            shard: SHARD.0,
            blocks,
        })
        .await
        .expect("granted");
    assert_eq!(held.into_inner().held, [true, false, false]);
    let blocks = vec![block(0, &bytes); HELD_BLOCKS_MAX + 1];
    let refused = client
        .held(v1::HeldRequest {
            shard: SHARD.0,
            blocks,
        })
        .await;
    assert_eq!(
        reason(&refused.expect_err("too many")),
        Some("held-too-many")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_is_fetched_from_over_the_wire_and_only_the_right_block_is_taken() {
    let region = Region::new().await;
    let bytes = data(1, 3 << 20);
    region
        .upload("client", whole(&[&bytes]))
        .await
        .expect("granted");
    let peers = RegionPeers::new(region.connector("n2"), region.enrolments.clone());
    let head = BlockHead {
        key: BlockKey {
            version: VERSION,
            number: BlockNumber(0),
        },
        owner: BlockOwner {
            shard: SHARD,
            dataset: DATASET,
            upload_epoch: UploadEpoch(EPOCH),
            begun_at: NOW,
        },
        digest: digest(&bytes),
        bytes: 3 << 20,
    };
    let room = || region.store.try_room(3 << 20).expect("room");
    let fetched = peers
        .fetch(ME, SHARD, head, room())
        .await
        .expect("it holds it");
    assert_eq!(fetched.head(), &head);
    let other = BlockHead {
        digest: digest(b"other"),
        ..head
    };
    let refused = peers
        .fetch(ME, SHARD, other, room())
        .await
        .err()
        .expect("another digest");
    assert!(refused.to_string().contains("another block"), "{refused}");
    let nobody = peers
        .fetch(NodeId(77), GroupId(16), head, room())
        .await
        .err();
    assert!(
        nobody
            .expect("not enrolled")
            .to_string()
            .contains("not enrolled")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_nothing_is_lost() {
    let disk = SimDisk::new(1);
    let (store, _) = BlockStore::open(disk.boot(), Path::new("/blocks"), options())
        .expect("a folder of our own");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let region = Region::with(store, dir).await;
    disk.set_capacity(3 << 20);
    let (first, second) = (data(1, 1 << 20), data(2, 2 << 20));
    let uploaded = region
        .upload("client", whole(&[&first]))
        .await
        .expect("room");
    assert!(uploaded.receipt.is_some());
    let (reason, fault) = refusal(
        region
            .upload("client", [vec![open_frame()], block(1, &second)].concat())
            .await,
    );
    assert_eq!((reason.as_str(), fault), ("disk-full", Fault::Busy));
    let mut client = region.client("client").await;
    assert_eq!(
        read(&mut client, read_request(0)).await.expect("granted"),
        first
    );
}
