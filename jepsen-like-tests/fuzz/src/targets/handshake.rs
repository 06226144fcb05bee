//! The acceptor: first bytes from strangers, and whole handshakes of identities that are enrolled or nearly.
//!
//! Owns a storage node's acceptor on a loopback port. Besides no panic: who is admitted has a certificate of the
//! region's CA, in its time, and a key that is enrolled under exactly that identity.

use std::sync::OnceLock;
use std::time::Duration;

use proto::ids::{Identity, Role, UnixMs};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::server::Connected as _;
use transport::ca::Request;
use transport::{
    Acceptor, AcceptorLimits, Connector, Expect, KeyExchange, Lane, LocalIdentity, RegionCa,
};

use crate::input::Input;
use crate::known::{self, NODE};
use crate::{Memory, Shape, Source, Target};

pub(super) const HANDSHAKE: Target = Target {
    name: "handshake",
    from: Source::Network,
    parses: &[
        "transport/src/acceptor.rs: handshake",
        "transport/src/peer.rs: admit",
        "transport/src/certificate.rs: subject",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory {
        // Two ends of TLS and of HTTP/2, with their buffers.
        fixed: 16 << 20,
        per_byte: 256,
    },
    check,
    seeds: || {
        let peer = |identity: u8, key: u8, ca, when| vec![1, identity, key, ca, when];
        vec![
            // The first record of a ClientHello, cut off.
            vec![0, 0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3],
            b"\0GET / HTTP/1.1\r\n\r\n".to_vec(),
            // A client as itself, another one's key, another CA, too late; and the node itself.
            peer(6, 7, 0, 1),
            peer(6, 8, 0, 1),
            peer(6, 7, 1, 1),
            peer(6, 7, 0, 0),
            peer(3, 4, 0, 1),
            vec![1, 14, 4, 0, 1, b'n', b'1'],
        ]
    },
};

/// How long either end may take: what comes, comes at once.
const PATIENCE: Duration = Duration::from_secs(2);
const VALIDITY: Duration = Duration::from_secs(3600);

/// What outlives an input. The runtime does: its sockets are registered with it.
struct Kit {
    runtime: Runtime,
    acceptor: Acceptor,
    stranger: RegionCa,
}

fn kit() -> &'static Kit {
    static KIT: OnceLock<Kit> = OnceLock::new();
    KIT.get_or_init(|| {
        let mut builder = Builder::new_current_thread();
        let limits = AcceptorLimits {
            handshake_timeout: PATIENCE,
            ..AcceptorLimits::default()
        };
        let only = KeyExchange::HybridOnly;
        let stranger = RegionCa::create(known::region(), known::NOW, 2 * VALIDITY);
        Kit {
            runtime: builder.enable_all().build().expect("a runtime"),
            acceptor: Acceptor::with_limits(&NODE.local(), known::enrolments(), only, limits),
            stranger: stranger.expect("a CA"),
        }
    })
}

fn check(data: &[u8]) {
    let kit = kit();
    let Some((how, data)) = data.split_first() else {
        return;
    };
    kit.runtime.block_on(async {
        match how % 2 {
            0 => first_bytes(data).await,
            _ => peer(Input::new(data)).await,
        }
    });
}

/// A connection: our end resets it when it is dropped, so that no port stays taken for a minute.
async fn accepted(listener: &TcpListener) -> TcpStream {
    let (tcp, _) = listener.accept().await.expect("a connection");
    tcp.set_zero_linger().expect("a living socket");
    tcp
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

async fn first_bytes(data: &[u8]) {
    let (listener, address) = listener().await;
    let mut stranger = TcpStream::connect(address).await.expect("it listens");
    let tcp = accepted(&listener).await;
    // It may be refused before all of it is written.
    drop(stranger.write_all(data).await);
    drop(stranger.shutdown().await);
    let outcome = kit().acceptor.accept(tcp).await;
    assert!(outcome.is_err(), "nobody shook hands");
}

/// An identity of the input's choosing with a key of its choosing.
async fn peer(mut input: Input<'_>) {
    let chosen = usize::from(input.u8() % 16);
    let key = input.u8();
    let ours = input.u8().is_multiple_of(2);
    let starts = match input.u8() % 3 {
        0 => known::NOW.0 - 2 * VALIDITY.as_millis() as u64,
        1 => known::NOW.0,
        _ => known::NOW.0 + VALIDITY.as_millis() as u64,
    };
    let identity = match known::ALL.get(chosen) {
        Some(known) => known.identity(),
        None => {
            let role = Role::ALL[chosen % Role::ALL.len()];
            let Ok(name) = std::str::from_utf8(input.rest()) else {
                return;
            };
            match Identity::new(known::region(), role, name) {
                Ok(identity) => identity,
                Err(_) => return,
            }
        }
    };
    let pair = known::key(key);
    let enrolled = known::table().by_public_key(&pair.public_key());
    let admitted = ours
        && starts == known::NOW.0
        && enrolled.is_some_and(|enrolled| enrolled.identity == identity);
    let ca = match ours {
        true => known::ca(),
        false => &kit().stranger,
    };
    let request = Request {
        identity: &identity,
        public_key: pair.public_key(),
        dns_names: &[],
        ip_addresses: &[],
        now: UnixMs(starts),
        validity: VALIDITY,
    };
    let certificate = ca.issue(&request).expect("an identity of the region");
    let local = LocalIdentity::new(certificate.as_bytes(), pair).expect("its own key");
    let connector = Connector::new(local, known::enrolments(), KeyExchange::HybridOnly);
    let (listener, address) = listener().await;
    let expect = Expect::Identity(NODE.identity());
    let calling = connector.channel(&address, expect, Lane::Control);
    let answering = async {
        let tcp = accepted(&listener).await;
        let stream = kit().acceptor.accept(tcp).await.ok()?;
        Some(stream.connect_info())
    };
    let both = async { tokio::join!(answering, calling).0 };
    let connection = timeout(2 * PATIENCE, both).await.expect("both end in time");
    assert_eq!(connection.is_some(), admitted, "{identity} with key {key}");
    if let Some(connection) = connection {
        let peer = connection.current().expect("it is enrolled");
        assert_eq!(peer.identity, identity);
    }
}
