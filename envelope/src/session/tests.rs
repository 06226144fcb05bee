//! Sessions: each key arrives as what it is and as nothing else.

use proto::ids::ObjectVersionId;

use super::*;
use crate::{DekSalt, NameCommitment, PartNumber, Suite};

fn region() -> RegionId {
    "ch-zrh".parse().expect("a valid region")
}

fn context() -> ObjectContext {
    ObjectContext {
        suite: Suite::Cobblestone256,
        region: region(),
        dataset: DatasetId([4; 16]),
        version: ObjectVersionId([5; 16]),
        name: NameCommitment([6; 32]),
    }
}

const SALT: DekSalt = DekSalt([7; 32]);

fn info() -> SessionInfo {
    SessionInfo::of(&[b"ch-zrh", b"kms-1", b"gateway-1"])
}

fn session() -> (SessionSender, SessionReceiver) {
    let offer = SessionOffer::generate().expect("room");
    let (answer, sender) = establish(&offer.public(), &info()).expect("an offer");
    let answer = Encapsulated::try_from(&answer.as_bytes()[..]).expect("well formed");
    (sender, offer.accept(&answer, &info()).expect("accepts"))
}

fn lease() -> LeaseKey {
    LeaseKey::generate(region(), LeaseId([1; 16])).expect("room")
}

fn secret() -> AccessSecret {
    AccessSecret::generate(region(), AccessKeyId::from_bits(6)).expect("room")
}

fn over_the_wire(sealed: SealedKey) -> SealedKey {
    SealedKey::try_from(&sealed.as_bytes()[..]).expect("well formed")
}

#[test]
fn every_key_arrives_as_its_receiving_type() {
    let (sender, receiver) = session();
    let lease = lease();
    let sealed = over_the_wire(sender.send_lease(&lease, b"aad").expect("sends"));
    let sealing = receiver
        .receive_lease(&sealed, lease.id(), b"aad")
        .expect("receives");
    let stream = sealing
        .seal_dek(&SALT, &context())
        .expect("room")
        .seal_part(PartNumber::FIRST, b"from the gateway")
        .expect("seals");

    let dek = lease.open_dek(&SALT, &context()).expect("room");
    let sealed = over_the_wire(sender.send_dek(&dek, b"aad").expect("sends"));
    let open = receiver
        .receive_dek(&sealed, context(), b"aad")
        .expect("receives");
    assert_eq!(
        open.open_part(PartNumber::FIRST, &stream).as_deref(),
        Ok(&b"from the gateway"[..])
    );

    let sealed = over_the_wire(sender.send_upload_dek(&dek, b"aad").expect("sends"));
    let upload = receiver
        .receive_upload_dek(&sealed, context(), b"aad")
        .expect("receives");
    let second = upload.seal_part(PartNumber(2), b"hour two").expect("seals");
    assert_eq!(
        open.open_part(PartNumber(2), &second).as_deref(),
        Ok(&b"hour two"[..])
    );

    let metadata = MetadataKey::generate(region(), DatasetId([4; 16]), 3).expect("room");
    let sealed = over_the_wire(sender.send_metadata_key(&metadata, b"aad").expect("sends"));
    let received = receiver
        .receive_metadata_key(&sealed, region(), DatasetId([4; 16]), 3, b"aad")
        .expect("receives");
    assert_eq!(received.key.bytes(), metadata.key.bytes());

    let root = RootKey::generate(RootEpoch(2)).expect("room");
    let sealed = over_the_wire(sender.send_root(&root, b"aad").expect("sends"));
    let received = receiver
        .receive_root(&sealed, RootEpoch(2), b"aad")
        .expect("receives");
    assert_eq!(received.check_value(), root.check_value());

    let secret = secret();
    let sealed = over_the_wire(sender.send_access_secret(&secret, b"aad").expect("sends"));
    let received = receiver
        .receive_access_secret(&sealed, region(), secret.id(), b"aad")
        .expect("receives");
    assert_eq!(received.text(), secret.text());
}

#[test]
fn no_key_is_received_as_another() {
    let (sender, receiver) = session();
    let lease = lease();
    let dek = lease.open_dek(&SALT, &context()).expect("room");
    let metadata = MetadataKey::generate(region(), DatasetId([4; 16]), 3).expect("room");
    let root = RootKey::generate(RootEpoch(2)).expect("room");
    let secret = secret();
    let sent = [
        sender.send_lease(&lease, b""),
        sender.send_dek(&dek, b""),
        sender.send_upload_dek(&dek, b""),
        sender.send_metadata_key(&metadata, b""),
        sender.send_root(&root, b""),
        sender.send_access_secret(&secret, b""),
    ]
    .map(|sealed| sealed.expect("sends"));
    for (kind, sealed) in sent.iter().enumerate() {
        let received = [
            receiver.receive_lease(sealed, lease.id(), b"").err(),
            receiver.receive_dek(sealed, context(), b"").err(),
            receiver.receive_upload_dek(sealed, context(), b"").err(),
            receiver
                .receive_metadata_key(sealed, region(), DatasetId([4; 16]), 3, b"")
                .err(),
            receiver.receive_root(sealed, RootEpoch(2), b"").err(),
            receiver
                .receive_access_secret(sealed, region(), secret.id(), b"")
                .err(),
        ];
        for (tried, error) in received.iter().enumerate() {
            let expected = (tried != kind).then_some(SessionError::NotAuthentic);
            assert_eq!(*error, expected, "{kind} received as {tried}");
        }
    }
}

#[test]
fn the_subject_of_a_key_is_authenticated() {
    let (sender, receiver) = session();
    let refused = |error: Option<SessionError>| assert_eq!(error, Some(SessionError::NotAuthentic));
    let sealed = sender.send_lease(&lease(), b"aad").expect("sends");
    refused(
        receiver
            .receive_lease(&sealed, LeaseId([0; 16]), b"aad")
            .err(),
    );
    refused(
        receiver
            .receive_lease(&sealed, LeaseId([1; 16]), b"other")
            .err(),
    );
    let dek = lease().open_dek(&SALT, &context()).expect("room");
    let sealed = sender.send_dek(&dek, b"").expect("sends");
    let other = ObjectContext {
        version: ObjectVersionId([0; 16]),
        ..context()
    };
    refused(receiver.receive_dek(&sealed, other, b"").err());
    let metadata = MetadataKey::generate(region(), DatasetId([4; 16]), 3).expect("room");
    let sealed = sender.send_metadata_key(&metadata, b"").expect("sends");
    refused(
        receiver
            .receive_metadata_key(&sealed, region(), DatasetId([4; 16]), 4, b"")
            .err(),
    );
    refused(
        receiver
            .receive_metadata_key(&sealed, region(), DatasetId([0; 16]), 3, b"")
            .err(),
    );
    let elsewhere = "de-fra".parse().expect("a valid region");
    refused(
        receiver
            .receive_metadata_key(&sealed, elsewhere, DatasetId([4; 16]), 3, b"")
            .err(),
    );
    let root = RootKey::generate(RootEpoch(2)).expect("room");
    let sealed = sender.send_root(&root, b"").expect("sends");
    refused(receiver.receive_root(&sealed, RootEpoch(3), b"").err());
}

#[test]
fn changed_items_are_refused() {
    let (sender, receiver) = session();
    let sealed = sender.send_lease(&lease(), b"").expect("sends");
    for at in 0..SEALED_KEY_BYTES {
        let mut changed = *sealed.as_bytes();
        changed[at] ^= 1;
        let refused = SealedKey::try_from(&changed[..])
            .and_then(|sealed| receiver.receive_lease(&sealed, LeaseId([1; 16]), b""));
        assert_eq!(refused.err(), Some(SessionError::NotAuthentic), "byte {at}");
    }
    assert!(SealedKey::try_from(&sealed.as_bytes()[1..]).is_err());
}

#[test]
fn a_session_made_for_another_offer_or_purpose_opens_nothing() {
    let offer = SessionOffer::generate().expect("room");
    let (answer, sender) = establish(&offer.public(), &info()).expect("an offer");
    let sealed = sender.send_lease(&lease(), b"").expect("sends");
    let opens = |offer: SessionOffer, info: &SessionInfo| {
        let receiver = offer
            .accept(&answer, info)
            .expect("base mode accepts anything well formed");
        receiver
            .receive_lease(&sealed, LeaseId([1; 16]), b"")
            .is_ok()
    };
    assert!(!opens(SessionOffer::generate().expect("room"), &info()));
    assert!(!opens(offer, &SessionInfo::of(&[b"de-fra"])));
    assert!(Encapsulated::try_from(&answer.as_bytes()[1..]).is_err());
}

#[test]
fn counters_never_repeat_and_end() {
    let (sender, receiver) = session();
    let lease = lease();
    let counters: Vec<_> = (0..3)
        .map(|_| sender.send_lease(&lease, b"").expect("sends").as_bytes()[1..9].to_vec())
        .collect();
    assert_eq!(
        counters,
        [0u64, 1, 2].map(|counter| counter.to_be_bytes().to_vec())
    );
    sender.next.store(ITEMS_MAX - 1, Ordering::Relaxed);
    let last = sender.send_lease(&lease, b"").expect("the last item");
    assert!(receiver.receive_lease(&last, lease.id(), b"").is_ok());
    for _ in 0..3 {
        assert_eq!(
            sender.send_lease(&lease, b"").err(),
            Some(SessionError::Exhausted)
        );
    }
}

#[test]
fn an_item_has_this_layout() {
    let subject = Subject::Lease(LeaseId([0x11; 16]));
    let expected = format!(
        "0016{}0005{}0010{}{}",
        hex::encode("reduit/v1/session-item"),
        hex::encode("lease"),
        "11".repeat(16),
        hex::encode("aad")
    );
    assert_eq!(hex::encode(subject.aad(b"aad")), expected);
    assert_eq!(SEALED_KEY_BYTES, 57);
    let root = Subject::Root(RootEpoch(2)).aad(b"");
    assert_eq!(
        hex::encode(root),
        format!(
            "0016{}0004{}000400000002",
            hex::encode("reduit/v1/session-item"),
            hex::encode("root")
        )
    );
}

/// AES-256-GCM as items use it: out of place, with associated data. The nonce is fixed by the
/// vector.
#[test]
fn wycheproof_aes_256_gcm_vectors_hold() {
    let Some(folder) = std::env::var_os("REDUIT_VECTORS") else {
        eprintln!("skipped: REDUIT_VECTORS is not set");
        return;
    };
    let path = std::path::Path::new(&folder).join("wycheproof/aes_gcm_test.json");
    let file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).expect("vectors are there")).expect("JSON");
    let mut run = 0;
    for group in file["testGroups"].as_array().expect("groups") {
        if group["keySize"] != 256 || group["ivSize"] != 96 || group["tagSize"] != 128 {
            continue;
        }
        for test in group["tests"].as_array().expect("tests") {
            run += 1;
            check_gcm(test);
        }
    }
    assert_eq!(run, 66, "the vectors of our parameters");
}

fn check_gcm(test: &serde_json::Value) {
    let bytes =
        |name: &str| hex::decode(test[name].as_str().expect("a string")).expect("hexadecimal");
    let (plain, sealed, tag, aad) = (bytes("msg"), bytes("ct"), bytes("tag"), bytes("aad"));
    let nonce = || Nonce::try_assume_unique_for_key(&bytes("iv")).expect("96 bits");
    let key = UnboundKey::new(&AES_256_GCM, &bytes("key")).expect("256 bits");
    let key = LessSafeKey::new(key);
    let mut opened = vec![0; sealed.len()];
    let answer = key.open_separate_gather(nonce(), Aad::from(&aad), &sealed, &tag, &mut opened);
    if test["result"] == "invalid" {
        assert!(answer.is_err(), "{test}");
        return;
    }
    answer.expect("valid");
    assert_eq!(opened, plain, "{test}");
    let (mut out, mut out_tag) = (vec![0; plain.len()], [0; 16]);
    key.seal_out_of_place_scatter(
        nonce(),
        Aad::from(&aad),
        &plain,
        &mut out,
        &[],
        &mut out_tag,
    )
    .expect("seals");
    assert_eq!((out, &out_tag[..]), (sealed, &tag[..]), "{test}");
}
