//! Keys on their way: wrapped, in a session, sealed to a key, in shares. All of `envelope` that peers and disks feed.
//!
//! Owns what holds besides no panic: bytes have one reading, and nothing that was changed opens.

use std::sync::OnceLock;

use envelope::{
    AccessSecret, Encapsulated, HpkeInfo, HpkePrivateKey, HpkePublicKey, Kek, LeaseKey,
    MetadataKey, RootKey, SealedKey, SealedRoot, SessionInfo, SessionOffer, SessionReceiver,
    SessionSender, Share, ShareSet, Wrapped, establish, hpke_open, hpke_seal,
};
use proto::ids::{AccessKeyId, KekId, KekVersion, LeaseId, RootEpoch};

use super::sealed;
use crate::input::{Input, edited};
use crate::known::{DATASET, region};
use crate::{Memory, Shape, Source, Target};

pub(super) const WRAPPED: Target = Target {
    name: "wrapped-key",
    from: Source::Disk,
    parses: &["envelope/src/wrap.rs: from_bytes"],
    shape: Shape::Bytes,
    len_max: 512,
    memory: Memory::PARSER,
    check: wrapped,
    seeds: wrapped_seeds,
};

pub(super) const SESSION: Target = Target {
    name: "session",
    from: Source::Network,
    parses: &[
        "envelope/src/session.rs: TryFrom<&[u8]>",
        "envelope/src/hpke_key.rs: TryFrom<&[u8]>",
        "envelope/src/hpke_key.rs: hpke_open",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory::PARSER,
    check: session,
    seeds: session_seeds,
};

pub(super) const SHARE: Target = Target {
    name: "share",
    from: Source::Person,
    parses: &[
        "envelope/src/shamir/share.rs: from_bytes",
        "envelope/src/shamir/share.rs: from_text",
        "envelope/src/shamir.rs: from_bytes",
    ],
    shape: Shape::Bytes,
    len_max: 512,
    memory: Memory::PARSER,
    check: share,
    seeds: share_seeds,
};

/// Keys of this process: their bytes are random and nobody has them.
struct Keys {
    root: RootKey,
    kek: Kek,
    lease: LeaseKey,
    metadata: MetadataKey,
    secret: AccessSecret,
    /// The KEK and the secret wrapped under the root key, the other two under the KEK.
    wrapped: [Vec<u8>; 4],
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let root = RootKey::generate(RootEpoch(1)).expect("room");
        let kek = Kek::generate(region(), KekId([2; 16]), KekVersion(1)).expect("room");
        let lease = LeaseKey::generate(region(), LeaseId([3; 16])).expect("room");
        let metadata = MetadataKey::generate(region(), DATASET, 1).expect("room");
        let secret = AccessSecret::generate(region(), access_key()).expect("room");
        let wrapped = [
            root.wrap_kek(&kek).expect("wraps").to_bytes(),
            kek.wrap_lease(&lease).expect("wraps").to_bytes(),
            kek.wrap_metadata_key(&metadata).expect("wraps").to_bytes(),
            root.wrap_access_secret(&secret).expect("wraps").to_bytes(),
        ];
        Keys {
            root,
            kek,
            lease,
            metadata,
            secret,
            wrapped,
        }
    })
}

fn access_key() -> AccessKeyId {
    AccessKeyId::from_bits(4)
}

/// Taken as they are, and as edits of a key that was wrapped.
fn wrapped(data: &[u8]) {
    one_reading(data);
    let keys = keys();
    let Some((which, script)) = data.split_first() else {
        return;
    };
    let valid = &keys.wrapped[usize::from(*which) % 4];
    let changed = edited(valid, script);
    let Some(parsed) = one_reading(&changed) else {
        return;
    };
    let opened = [
        keys.root.unwrap_kek(&parsed).is_ok(),
        keys.kek.unwrap_lease(&parsed).is_ok(),
        keys.kek.unwrap_metadata_key(&parsed).is_ok(),
        keys.root.unwrap_access_secret(&parsed).is_ok(),
    ];
    let own = usize::from(*which) % 4;
    for (as_what, opened) in opened.into_iter().enumerate() {
        assert_eq!(
            opened,
            as_what == own && changed == *valid,
            "type {as_what}"
        );
    }
}

fn one_reading(data: &[u8]) -> Option<Wrapped> {
    let parsed = Wrapped::from_bytes(data).ok()?;
    assert_eq!(parsed.to_bytes(), data, "one encoding");
    Some(parsed)
}

fn wrapped_seeds() -> Vec<Vec<u8>> {
    let script = |which: u8| vec![which];
    keys()
        .wrapped
        .iter()
        .cloned()
        .chain((0..4).map(script))
        .collect()
}

/// Both ends of an established session, and what was sent in it.
struct Session {
    sender: SessionSender,
    receiver: SessionReceiver,
    /// A DEK, a lease key, a metadata key, the root key and an access key's secret, as they were sent.
    sent: [Vec<u8>; 5],
    own: HpkePrivateKey,
    /// A message to `own`.
    message: Vec<u8>,
}

const AAD: &[u8] = b"session";
const ENCAPSULATED_BYTES: usize = envelope::HPKE_OVERHEAD_BYTES - envelope::TAG_BYTES;

fn established() -> &'static Session {
    static SESSION: OnceLock<Session> = OnceLock::new();
    SESSION.get_or_init(|| {
        let info = SessionInfo::of(&[b"fuzz"]);
        let offer = SessionOffer::generate().expect("room");
        let (answer, sender) = establish(&offer.public(), &info).expect("an offer");
        let receiver = offer.accept(&answer, &info).expect("an answer");
        let (keys, dek) = (keys(), sealed::dek());
        let sent = [
            sender.send_dek(dek, AAD),
            sender.send_lease(&keys.lease, AAD),
            sender.send_metadata_key(&keys.metadata, AAD),
            sender.send_root(&keys.root, AAD),
            sender.send_access_secret(&keys.secret, AAD),
        ]
        .map(|sent| sent.expect("sends").as_bytes().to_vec());
        let own = HpkePrivateKey::generate().expect("room");
        let message = hpke_seal(&own.public(), &hpke_info(), AAD, b"a share").expect("seals");
        Session {
            sender,
            receiver,
            sent,
            own,
            message,
        }
    })
}

fn hpke_info() -> HpkeInfo {
    HpkeInfo::of(&[b"fuzz"])
}

/// Offers, answers, keys and messages: as they are, and as edits of valid ones.
fn session(data: &[u8]) {
    let session = established();
    let mut input = Input::new(data);
    match input.u8() % 8 {
        0 => offer(input.rest()),
        1 => offer(&edited(session.own.public().as_bytes(), input.rest())),
        2 => answer(input.rest()),
        3 => {
            let (valid, _) = session.message.split_at(ENCAPSULATED_BYTES);
            answer(&edited(valid, input.rest()));
        }
        4 => received(session, usize::MAX, input.rest()),
        5 => {
            let which = usize::from(input.u8()) % 5;
            let changed = edited(&session.sent[which], input.rest());
            received(session, which, &changed);
        }
        6 => message(session, input.rest()),
        _ => message(session, &edited(&session.message, input.rest())),
    }
}

fn offer(bytes: &[u8]) {
    let Ok(public) = HpkePublicKey::try_from(bytes) else {
        return;
    };
    assert_eq!(public.as_bytes(), bytes);
    let info = SessionInfo::of(&[b"fuzz"]);
    // A key that was taken for one answers, or says that it is none; what it decrypts is its holder's affair.
    if let Ok((_, sender)) = establish(&public, &info) {
        assert!(sender.send_lease(&keys().lease, AAD).is_ok());
    }
}

fn answer(bytes: &[u8]) {
    let Ok(encapsulated) = Encapsulated::try_from(bytes) else {
        return;
    };
    assert_eq!(encapsulated.as_bytes(), bytes);
    let offer = SessionOffer::generate().expect("room");
    let info = SessionInfo::of(&[b"fuzz"]);
    let Ok(receiver) = offer.accept(&encapsulated, &info) else {
        return;
    };
    // Made for another offer: it opens nothing.
    let sent = established().sender.send_lease(&keys().lease, AAD);
    let sent = sent.expect("the session has room for more items than this process sends");
    assert!(
        receiver
            .receive_lease(&sent, LeaseId([3; 16]), AAD)
            .is_err()
    );
}

fn received(session: &Session, which: usize, bytes: &[u8]) {
    let Ok(key) = SealedKey::try_from(bytes) else {
        return;
    };
    assert_eq!(key.as_bytes(), bytes);
    let receiver = &session.receiver;
    let context = sealed::context();
    let opened = [
        receiver.receive_dek(&key, context.clone(), AAD).is_ok(),
        receiver.receive_lease(&key, LeaseId([3; 16]), AAD).is_ok(),
        receiver
            .receive_metadata_key(&key, region(), DATASET, 1, AAD)
            .is_ok(),
        receiver.receive_root(&key, RootEpoch(1), AAD).is_ok(),
        receiver
            .receive_access_secret(&key, region(), access_key(), AAD)
            .is_ok(),
        receiver.receive_upload_dek(&key, context, AAD).is_ok(),
    ];
    for (as_what, opened) in opened.into_iter().enumerate() {
        let same = session.sent.get(as_what).is_some_and(|sent| sent == bytes);
        assert_eq!(opened, same && (which == as_what || which == usize::MAX));
    }
}

fn message(session: &Session, bytes: &[u8]) {
    let opened = hpke_open(&session.own, &hpke_info(), AAD, bytes);
    assert_eq!(opened.is_ok(), bytes == session.message);
}

fn session_seeds() -> Vec<Vec<u8>> {
    let session = established();
    let public = session.own.public();
    let mut seeds: Vec<Vec<u8>> = (0..8).map(|mode| vec![mode, 0]).collect();
    seeds.push([&[0], &public.as_bytes()[..]].concat());
    seeds.push([&[2], &session.message[..ENCAPSULATED_BYTES]].concat());
    seeds.push([&[4], &session.sent[0][..]].concat());
    seeds.push([&[6], &session.message[..]].concat());
    seeds
}

/// A root key in shares of three custodians, two of which are enough.
struct Split {
    set: ShareSet,
    shares: Vec<Share>,
}

fn split() -> &'static Split {
    static SPLIT: OnceLock<Split> = OnceLock::new();
    SPLIT.get_or_init(|| {
        let (set, shares) = keys().root.split(2, 3).expect("2 of 3");
        Split { set, shares }
    })
}

/// Label of a share's checksum, with its length before it (FORMATS section 4).
const CHECKSUM_LABEL: &[u8] = b"\0\x18reduit/v1/share-checksum";
const CHECKSUM_BYTES: usize = 8;

/// Shares as bytes, with the checksum they should have, as text, and as edits of a valid one; the public record of a
/// split.
fn share(data: &[u8]) {
    let split = split();
    let mut input = Input::new(data);
    match input.u8() % 6 {
        0 => {
            let bytes = input.rest();
            share_set(bytes);
            sealed_root(bytes);
        }
        1 => share_set(&edited(&split.set.to_bytes(), input.rest())),
        2 => share_bytes(input.rest()),
        3 => {
            // A checksum is no secret: whoever forges a share can make it fit.
            let body = input.rest();
            let sum = tlog::sha256(&[CHECKSUM_LABEL, body]);
            share_bytes(&[body, &sum.0[..CHECKSUM_BYTES]].concat());
        }
        4 => {
            if let Ok(text) = std::str::from_utf8(input.rest()) {
                share_text(text);
            }
        }
        _ => {
            let share = &split.shares[usize::from(input.u8()) % 3];
            let text = share.to_text();
            let changed = edited(text.as_bytes(), input.rest());
            if let Ok(changed) = std::str::from_utf8(&changed) {
                share_text(changed);
            }
        }
    }
}

fn share_set(bytes: &[u8]) {
    let Ok(set) = ShareSet::from_bytes(bytes) else {
        return;
    };
    assert_eq!(set.to_bytes(), bytes, "one encoding");
    assert!(set.needed() >= 2 && set.needed() <= set.made());
    let split = split();
    let verified = split.shares.iter().all(|share| set.verify(share).is_ok());
    assert_eq!(verified, set == split.set);
    assert_eq!(set.combine(&split.shares).is_ok(), set == split.set);
}

fn sealed_root(bytes: &[u8]) {
    if let Ok(sealed) = SealedRoot::from_bytes(bytes) {
        assert_eq!(sealed.to_bytes(), bytes, "one encoding");
    }
}

fn share_bytes(bytes: &[u8]) {
    let Ok(share) = Share::from_bytes(bytes) else {
        return;
    };
    assert_eq!(share.to_bytes()[..], *bytes, "one encoding");
    judge(&share);
}

fn share_text(text: &str) {
    let Ok(share) = Share::from_text(text) else {
        return;
    };
    let again = Share::from_text(&share.to_text()).expect("own text");
    assert_eq!(again.to_bytes()[..], share.to_bytes()[..]);
    judge(&share);
}

/// Only a share that was made is one of the split, whatever it says of itself.
fn judge(share: &Share) {
    let split = split();
    let made = split
        .shares
        .iter()
        .find(|made| made.index() == share.index());
    let is_made = made.is_some_and(|made| made.to_bytes()[..] == share.to_bytes()[..]);
    assert_eq!(split.set.verify(share).is_ok(), is_made);
}

fn share_seeds() -> Vec<Vec<u8>> {
    let split = split();
    let bytes = split.shares[0].to_bytes();
    let body = &bytes[..bytes.len() - CHECKSUM_BYTES];
    vec![
        [&[0], &split.set.to_bytes()[..]].concat(),
        vec![1],
        [&[2], &bytes[..]].concat(),
        [&[3], body].concat(),
        [&[4], split.shares[1].to_text().as_bytes()].concat(),
        vec![5, 2],
    ]
}

/// The lease that sealed objects are under.
pub(super) fn lease() -> &'static LeaseKey {
    &keys().lease
}

/// A session that gives what the sealing side holds.
pub(super) fn sealing() -> (envelope::SealingLease, envelope::MetadataLease) {
    let info = SessionInfo::of(&[b"fuzz sealing"]);
    let offer = SessionOffer::generate().expect("room");
    let (answer, sender) = establish(&offer.public(), &info).expect("an offer");
    let receiver = offer.accept(&answer, &info).expect("an answer");
    let keys = keys();
    let lease = sender.send_lease(&keys.lease, AAD).expect("sends");
    let metadata = sender
        .send_metadata_key(&keys.metadata, AAD)
        .expect("sends");
    let id = keys.lease.id();
    (
        receiver.receive_lease(&lease, id, AAD).expect("receives"),
        receiver
            .receive_metadata_key(&metadata, region(), DATASET, 1, AAD)
            .expect("receives"),
    )
}
