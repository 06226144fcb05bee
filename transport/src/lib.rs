//! mTLS between enrolled identities of one region, and with those of regions that it trusts: the one acceptor and connector
//! of all our processes.
//!
//! **Invariant:** a stream that leaves this crate is TLS 1.3 over X25519MLKEM768 (unless asked otherwise), and at
//! its other end is a key that the region's enrolment set holds under the identity of its certificate; on federation
//! listeners, one that a trusted region's descriptor names, under the one CA pinned for that region. Imports `proto` alone
//! of ours. Why it is a crate: `docs/decisions/0001-transport-crate.md`.

mod acceptor;
pub mod ca;
mod certificate;
mod clock;
mod connector;
mod cut;
pub mod enrolment;
pub mod fault;
mod handshake;
mod identity;
pub mod keys;
mod lane;
pub mod panel;
mod peer;
pub mod spans;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use acceptor::{
    Acceptor, AcceptorLimits, CONNECTIONS_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, Incoming,
};
pub use ca::RegionCa;
pub use certificate::{CertificateError, RegionTrust};
pub use clock::{Clock, SharedClock, SystemClock};
pub use connector::{Connector, Link, LinkState};
pub use cut::Cut;
pub use enrolment::{
    EnrolmentError, Enrolments, TrustedRegion, UntrustedDescriptor, verify_descriptor,
};
pub use fault::{Fault, Faulty, LeaderHint};
pub use handshake::{HandshakeError, KeyExchange, Refusal};
pub use identity::{IdentityError, LocalIdentity};
pub use keys::{BadSignature, KeyError, KeyPair, PublicKey, verify};
pub use lane::{Lane, SERVER_CONNECTION_WINDOW, SERVER_STREAM_WINDOW, STREAMS_MAX, server};
pub use peer::{Expect, Peer, PeerConnection, PeerError, Stated, peer, peer_in, require_role};
pub use stream::PeerStream;
