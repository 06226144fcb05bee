//! What each key can and cannot do, golden derivations, and PyPI's `cryptography` both ways.

use std::io::Write;
use std::process::{Command, Stdio};

use proto::ids::{ObjectKey, ObjectVersionId};
use serde_json::json;

use super::*;
use crate::{
    Checksum, HpkeInfo, HpkePrivateKey, ManifestPart, MetadataContext, NameCommitment, NameSalt,
    SealedMetadata, Suite, chunk_span, hpke_open, hpke_seal,
};

fn region() -> RegionId {
    "ch-zrh".parse().expect("a valid region")
}

fn context() -> ObjectContext {
    let key: ObjectKey = "a/b.txt".parse().expect("a valid key");
    ObjectContext {
        suite: Suite::Cobblestone256,
        region: region(),
        dataset: DatasetId([0x11; 16]),
        version: ObjectVersionId([0x22; 16]),
        name: NameCommitment::of(&NameSalt([0x33; 32]), &key),
    }
}

fn slot(byte: u8) -> KeySlot {
    KeySlot::try_new::<KeyError>(|bytes| {
        bytes.fill(byte);
        Ok(())
    })
    .expect("room")
}

fn lease(byte: u8) -> LeaseKey {
    LeaseKey {
        region: region(),
        id: LeaseId([9; 16]),
        key: slot(byte),
    }
}

fn sealing(byte: u8) -> SealingLease {
    SealingLease {
        id: LeaseId([9; 16]),
        key: slot(byte),
    }
}

const SALT: DekSalt = DekSalt([0x44; 32]);

/// Computed from the text of the RFC and the specification with Python's hmac.
#[test]
fn derivations_have_these_golden_bytes() {
    let dek = lease(7).open_dek(&SALT, &context()).expect("room");
    assert_eq!(
        hex::encode(dek.key.bytes()),
        "91bcc6afa969076b75775aee570fd186df7c934426ea93b7e0dc07a80e03d6a0"
    );
    let salt = StreamSalt([2; 24]);
    let data = lease(7)
        .commitment_of(&SALT, &context(), PartNumber(7), &salt)
        .expect("room");
    assert_eq!(
        hex::encode(data.0),
        "1d6ce4c40c03fbc1a1bcb0c712fffc72f20dc3d0e7d67e156f5875d3a6b40b1f"
    );
    let manifest = lease(7)
        .manifest_commitment_of(&SALT, &context(), &salt)
        .expect("room");
    assert_eq!(
        hex::encode(manifest.0),
        "50ca272e7fdc7b56b7abb2f691ed599935389a234c38b9f4f57de910289828af"
    );
    let root = RootKey {
        epoch: RootEpoch(3),
        key: slot(8),
    };
    assert_eq!(
        hex::encode(root.check_value().0),
        "3ea1f972077fc48619fa0a7db70c1618"
    );
}

/// Services share keys and sessions between threads and move streams to where they are worked on.
#[test]
fn keys_and_sessions_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<(
        RootKey,
        Kek,
        LeaseKey,
        SealingLease,
        SealDek,
        OpenDek,
        MetadataKey,
        MetadataLease,
    )>();
    shared::<(
        crate::SessionSender,
        crate::SessionReceiver,
        crate::SessionOffer,
        HpkePrivateKey,
    )>();
    moved::<(Sealer, Opener, RangeOpener)>();
}

#[test]
fn what_a_lease_seals_the_kms_can_open() {
    let plain = vec![0x5a; 50_000];
    let seal = sealing(7).seal_dek(&SALT, &context()).expect("room");
    let stream = seal.seal_part(PartNumber(3), &plain).expect("seals");
    let open = lease(7).open_dek(&SALT, &context()).expect("room");
    assert_eq!(
        open.open_part(PartNumber(3), &stream).as_deref(),
        Ok(&plain[..])
    );

    let (header, _) = StreamHeader::split(&stream).expect("long enough");
    let span = chunk_span(50_000, 20_000..20_010).expect("inside");
    let sealed = span.sealed_range();
    let mut out = Vec::new();
    open.range_opener(PartNumber(3), &header, span)
        .and_then(|range| {
            range.open(
                &stream[sealed.start as usize..sealed.end as usize],
                &mut out,
            )
        })
        .expect("opens");
    assert_eq!(out, &plain[20_000..20_010]);

    assert!(
        open.open_part(PartNumber(4), &stream).is_err(),
        "another part"
    );
    assert!(
        open.open_manifest(&stream).is_err(),
        "data is not a manifest"
    );
}

#[test]
fn a_dek_opens_one_object_version_of_one_lease() {
    let seal = sealing(7).seal_dek(&SALT, &context()).expect("room");
    let stream = seal.seal_part(PartNumber::FIRST, b"x").expect("seals");
    let opens = |lease: &LeaseKey, salt: &DekSalt, context: &ObjectContext| {
        lease
            .open_dek(salt, context)
            .expect("room")
            .open_part(PartNumber::FIRST, &stream)
            .is_ok()
    };
    assert!(opens(&lease(7), &SALT, &context()));
    assert!(!opens(&lease(8), &SALT, &context()), "another lease");
    assert!(
        !opens(&lease(7), &DekSalt([0; 32]), &context()),
        "another salt"
    );
    let mut others = vec![context(); 4];
    others[0].region = "de-fra".parse().expect("a valid region");
    others[1].dataset = DatasetId([0; 16]);
    others[2].version = ObjectVersionId([0; 16]);
    others[3].name = NameCommitment([0; 32]);
    for other in others {
        assert!(!opens(&lease(7), &SALT, &other), "{other:?}");
    }
}

#[test]
fn a_manifest_opens_as_a_manifest_and_not_as_data() {
    let seal = sealing(7).seal_dek(&SALT, &context()).expect("room");
    let sealer = seal.sealer(PartNumber::FIRST).expect("random");
    let part = ManifestPart::new(PartNumber::FIRST, 5, sealer.header()).expect("a length");
    let manifest = Manifest::new(
        vec![part],
        vec![Checksum {
            kind: 1,
            value: vec![1, 2],
        }],
    )
    .expect("valid");
    let sealed = seal.seal_manifest(&manifest).expect("seals");
    let open = lease(7).open_dek(&SALT, &context()).expect("room");
    assert_eq!(open.open_manifest(&sealed), Ok(manifest));
    assert!(open.open_part(PartNumber::FIRST, &sealed).is_err());
}

#[test]
fn authentic_bytes_that_are_no_manifest_do_not_open_as_one() {
    let seal = sealing(7).seal_dek(&SALT, &context()).expect("room");
    let sealer = Sealer::new(seal.key.bytes(), &context().manifest_stream()).expect("random");
    let later_format = seal_whole(sealer, &[2]).expect("seals");
    let open = lease(7).open_dek(&SALT, &context()).expect("room");
    assert_eq!(open.open_manifest(&later_format), Err(OpenError));
}

#[test]
fn commitments_are_recomputed_without_opening() {
    let seal = sealing(7).seal_dek(&SALT, &context()).expect("room");
    let stream = seal.seal_part(PartNumber(2), b"x").expect("seals");
    let (header, _) = StreamHeader::split(&stream).expect("long enough");
    let of = |lease: &LeaseKey, part| {
        lease
            .commitment_of(&SALT, &context(), part, &header.salt())
            .expect("room")
    };
    assert_eq!(of(&lease(7), PartNumber(2)), header.commitment());
    assert_ne!(of(&lease(7), PartNumber(1)), header.commitment());
    assert_ne!(of(&lease(8), PartNumber(2)), header.commitment());
}

#[test]
fn metadata_opens_for_its_version_under_its_key_only() {
    let lease = |byte, version| MetadataLease {
        region: region(),
        dataset: DatasetId([0x11; 16]),
        version,
        key: slot(byte),
    };
    let about = MetadataContext {
        suite: Suite::Cobblestone256,
        region: region(),
        dataset: DatasetId([0x11; 16]),
        version: ObjectVersionId([0x22; 16]),
    };
    let sealed = lease(7, 1)
        .seal(&about, b"content-type: text/plain")
        .expect("seals");
    assert_eq!(sealed.key_version(), 1);
    let again = SealedMetadata::from_bytes(sealed.as_bytes().to_vec()).expect("well formed");
    assert_eq!(
        lease(7, 1).open(&about, &again).as_deref(),
        Ok(&b"content-type: text/plain"[..])
    );

    assert!(lease(8, 1).open(&about, &sealed).is_err(), "another key");
    assert!(
        lease(7, 2).open(&about, &sealed).is_err(),
        "another key version"
    );
    let other = MetadataContext {
        version: ObjectVersionId([0; 16]),
        ..about.clone()
    };
    assert!(
        lease(7, 1).open(&other, &sealed).is_err(),
        "another object version"
    );
    let other = MetadataContext {
        dataset: DatasetId([0; 16]),
        ..about.clone()
    };
    assert!(
        lease(7, 1).open(&other, &sealed).is_err(),
        "another dataset"
    );
    assert_eq!(
        lease(7, 1).seal(&other, b"").err(),
        Some(SealError::WrongDataset)
    );
    let other = MetadataContext {
        region: "de-fra".parse().expect("valid"),
        ..about.clone()
    };
    assert_eq!(
        lease(7, 1).seal(&other, b"").err(),
        Some(SealError::WrongDataset)
    );
    let long = vec![0; crate::METADATA_BYTES_MAX + 1];
    assert_eq!(
        lease(7, 1).seal(&about, &long).err(),
        Some(SealError::TooLong)
    );
    for at in 0..2 {
        let mut unknown = sealed.as_bytes().to_vec();
        unknown[at] += 1;
        assert!(
            SealedMetadata::from_bytes(unknown).is_err(),
            "unknown format or suite"
        );
    }
    let mut renamed = sealed.as_bytes().to_vec();
    renamed[5] = 2;
    let renamed = SealedMetadata::from_bytes(renamed).expect("well formed");
    assert!(
        lease(7, 2).open(&about, &renamed).is_err(),
        "the key version is authenticated"
    );
    assert!(
        SealedMetadata::from_bytes(sealed.as_bytes()[..61].to_vec()).is_err(),
        "too short"
    );
}

/// Runs `tests/cryptography_interop.py` where REDUIT_PYTHON names a Python that has `cryptography`
/// 50.
fn cryptography(jobs: &serde_json::Value) -> Option<Vec<Vec<u8>>> {
    let Some(python) = std::env::var_os("REDUIT_PYTHON") else {
        eprintln!("skipped: REDUIT_PYTHON is not set");
        return None;
    };
    let script = format!(
        "{}/tests/cryptography_interop.py",
        std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")
    );
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("REDUIT_PYTHON names an interpreter");
    let mut stdin = child.stdin.take().expect("piped");
    stdin
        .write_all(jobs.to_string().as_bytes())
        .expect("the script reads");
    drop(stdin);
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "the script failed");
    let answers: Vec<String> = serde_json::from_slice(&output.stdout).expect("JSON");
    Some(
        answers
            .iter()
            .map(|answer| hex::decode(answer).expect("hexadecimal"))
            .collect(),
    )
}

#[test]
fn streams_go_both_ways_with_cryptography_of_pypi() {
    let plains = [0, 5, 16_384, 70_000].map(|length| vec![0x5a; length]);
    let seal = sealing(7).seal_dek(&SALT, &context()).expect("room");
    let part = PartNumber(2);
    let key = hex::encode(seal.key.bytes());
    let about = hex::encode(context().data_stream_context(part));
    let jobs: Vec<_> = plains
        .iter()
        .flat_map(|plain| {
            let sealed = seal.seal_part(part, plain).expect("seals");
            [
                json!({"op": "open", "key": key, "context": about, "sealed": hex::encode(sealed)}),
                json!({"op": "seal", "key": key, "context": about, "plain": hex::encode(plain)}),
            ]
        })
        .collect();
    let Some(answers) = cryptography(&jobs.into()) else {
        return;
    };
    let open = lease(7).open_dek(&SALT, &context()).expect("room");
    for (plain, answers) in plains.iter().zip(answers.chunks(2)) {
        assert_eq!(&answers[0], plain, "they open what we sealed");
        assert_eq!(
            open.open_part(part, &answers[1]).as_ref(),
            Ok(plain),
            "we open what they sealed"
        );
    }
}

#[test]
fn hpke_goes_both_ways_with_cryptography_of_pypi() {
    let key = HpkePrivateKey::generate().expect("room");
    let info = HpkeInfo::of(&[b"a share", b"to a custodian"]);
    let sealed = hpke_seal(&key.public(), &info, b"", b"from us").expect("seals");
    let info_hex = hex::encode(info.as_bytes());
    let jobs = json!([
        {"op": "hpke_open", "seed": hex::encode(&key.to_seed()[..]), "info": info_hex, "sealed": hex::encode(sealed)},
        {"op": "hpke_seal", "public": hex::encode(key.public().as_bytes()), "info": info_hex, "plain": hex::encode("to us")},
    ]);
    let Some(answers) = cryptography(&jobs) else {
        return;
    };
    assert_eq!(answers[0], b"from us");
    assert_eq!(
        &hpke_open(&key, &info, b"", &answers[1]).expect("opens")[..],
        b"to us"
    );
}
