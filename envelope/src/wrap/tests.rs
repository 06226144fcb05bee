//! Wrapped keys: golden bytes, and one test for each thing that is refused.

use proto::ids::{ObjectVersionId, RootEpoch};

use super::*;
use crate::{DekSalt, NameCommitment, ObjectContext};

fn region() -> RegionId {
    "ch-zrh".parse().expect("a valid region")
}

fn kek(version: u32) -> Kek {
    Kek::generate(region(), KekId([1; 16]), KekVersion(version)).expect("room")
}

fn same(a: &KeySlot, b: &KeySlot) -> bool {
    a.bytes() == b.bytes()
}

#[test]
fn every_key_comes_back_as_it_went() {
    let root = RootKey::generate(RootEpoch(1)).expect("room");
    let kek = kek(7);
    let wrapped = root.wrap_kek(&kek).expect("wraps");
    let again = root
        .unwrap_kek(&Wrapped::from_bytes(&wrapped.to_bytes()).expect("parses"))
        .expect("unwraps");
    assert!(same(&again.key, &kek.key));
    assert_eq!(
        (again.id(), again.version(), &again.region),
        (kek.id(), kek.version(), &region())
    );

    let lease = LeaseKey::generate(region(), LeaseId([2; 16])).expect("room");
    let wrapped = kek.wrap_lease(&lease).expect("wraps");
    assert_eq!(
        wrapped.header().version,
        7,
        "the version of the KEK around it"
    );
    let again = kek
        .unwrap_lease(&Wrapped::from_bytes(&wrapped.to_bytes()).expect("parses"))
        .expect("unwraps");
    assert!(same(&again.key, &lease.key));
    assert_eq!(again.id(), lease.id());

    let metadata = MetadataKey::generate(region(), DatasetId([3; 16]), 9).expect("room");
    let wrapped = kek.wrap_metadata_key(&metadata).expect("wraps");
    let again = kek
        .unwrap_metadata_key(&Wrapped::from_bytes(&wrapped.to_bytes()).expect("parses"))
        .expect("unwraps");
    assert!(same(&again.key, &metadata.key));
    assert_eq!((again.dataset(), again.version()), (metadata.dataset(), 9));

    let id = AccessKeyId::from_bits(0x0102_0304_0506_0708_090a);
    let secret = AccessSecret::generate(region(), id).expect("room");
    let wrapped = root.wrap_access_secret(&secret).expect("wraps");
    assert_eq!(wrapped.header().version, 1, "the epoch of the root key");
    let again = root
        .unwrap_access_secret(&Wrapped::from_bytes(&wrapped.to_bytes()).expect("parses"))
        .expect("unwraps");
    assert_eq!((again.id(), again.text()), (id, secret.text()));
    let next = RootKey::generate(RootEpoch(2)).expect("room");
    assert_eq!(
        next.unwrap_access_secret(&wrapped).err(),
        Some(UnwrapError::NotAuthentic)
    );
}

#[test]
fn a_hand_over_key_comes_back_as_it_went_under_the_root_key_of_its_epoch_alone() {
    let root = RootKey::generate(RootEpoch(3)).expect("room");
    let key = HandOverKey::generate(region(), HandOverKeyId([4; 16])).expect("room");
    let wrapped = root.wrap_hand_over(&key).expect("wraps");
    assert_eq!(wrapped.header().version, 3, "the epoch of the root key");
    let again = root
        .unwrap_hand_over(&Wrapped::from_bytes(&wrapped.to_bytes()).expect("parses"))
        .expect("unwraps");
    assert!(again.public() == key.public());
    assert_eq!((again.id(), again.region()), (key.id(), &region()));
    let next = RootKey::generate(RootEpoch(4)).expect("room");
    let refused = Some(UnwrapError::NotAuthentic);
    assert_eq!(next.unwrap_hand_over(&wrapped).err(), refused);
    // Nor is it taken for a KEK, whose header may say the same of itself.
    assert_eq!(root.unwrap_kek(&wrapped).err(), refused);
    let mut bent = wrapped;
    bent.header.key_type = KeyType::Kek;
    assert_eq!(root.unwrap_kek(&bent).err(), refused);
    let kek = Kek::generate(region(), KekId([4; 16]), KekVersion(3)).expect("room");
    let mut kek = root.wrap_kek(&kek).expect("wraps");
    kek.header.key_type = KeyType::HandOver;
    assert_eq!(root.unwrap_hand_over(&kek).err(), refused);
}

/// Both lie under the root key, and their ids may be the same bytes.
#[test]
fn a_kek_and_a_secret_are_not_taken_for_each_other() {
    let root = RootKey::generate(RootEpoch(7)).expect("room");
    let kek = Kek::generate(region(), KekId([0; 16]), KekVersion(7)).expect("room");
    let secret = AccessSecret::generate(region(), AccessKeyId::from_bits(0)).expect("room");
    let (kek, secret) = (root.wrap_kek(&kek), root.wrap_access_secret(&secret));
    let (mut kek, mut secret) = (kek.expect("wraps"), secret.expect("wraps"));
    let refused = Some(UnwrapError::NotAuthentic);
    assert_eq!(root.unwrap_kek(&secret).err(), refused);
    assert_eq!(root.unwrap_access_secret(&kek).err(), refused);
    kek.header.key_type = KeyType::AccessSecret;
    secret.header.key_type = KeyType::Kek;
    assert_eq!(root.unwrap_kek(&secret).err(), refused);
    assert_eq!(root.unwrap_access_secret(&kek).err(), refused);
}

#[test]
fn a_wrapped_key_has_these_golden_bytes() {
    let wrapped = Wrapped {
        header: WrapHeader::new(KeyType::Lease, &region(), &[0xaa; 16], 0x0102_0304),
        body: [0xbb; BODY_BYTES],
    };
    let expected = format!(
        "0101020006{}{}01020304{}",
        hex::encode("ch-zrh"),
        "aa".repeat(16),
        "bb".repeat(104)
    );
    assert_eq!(hex::encode(wrapped.to_bytes()), expected);
    assert_eq!(
        hex::encode(wrapped.header.context()),
        format!(
            "000e{}0101020006{}{}01020304",
            hex::encode("reduit/v1/wrap"),
            hex::encode("ch-zrh"),
            "aa".repeat(16)
        )
    );
}

/// Wrapped by the Python that computed the other golden bytes: root key of 32 bytes 0x08, stream
/// salt of 0x02, KEK of 0x07.
#[test]
fn a_kek_wrapped_by_another_implementation_unwraps() {
    let fixed = |byte: u8| {
        KeySlot::try_new::<KeyError>(|bytes| {
            bytes.fill(byte);
            Ok(())
        })
        .expect("room")
    };
    let root = RootKey {
        epoch: RootEpoch(3),
        key: fixed(8),
    };
    let bytes = hex::decode("010101000663682d7a7268aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa000000050202020202020202020202020202020202020202020202025b9031cc363026ab4a9245ad4c596b041a3467028038ace73a6e6a1750e2e456f932bf376e8e8928f748fa366db4455ac65a9bac5c365a29d9fac0faa83cd3ead785fbf20ff81681582351deecc2db60").expect("hexadecimal");
    let kek = root
        .unwrap_kek(&Wrapped::from_bytes(&bytes).expect("parses"))
        .expect("unwraps");
    assert!(same(&kek.key, &fixed(7)));
    assert_eq!(
        (kek.id(), kek.version()),
        (KekId([0xaa; 16]), KekVersion(5))
    );
}

#[test]
fn another_parent_does_not_unwrap() {
    let root = RootKey::generate(RootEpoch(1)).expect("room");
    let other = RootKey::generate(RootEpoch(1)).expect("room");
    let wrapped = root.wrap_kek(&kek(1)).expect("wraps");
    assert_eq!(
        other.unwrap_kek(&wrapped).err(),
        Some(UnwrapError::NotAuthentic)
    );
    let lease = LeaseKey::generate(region(), LeaseId([2; 16])).expect("room");
    let wrapped = kek(1).wrap_lease(&lease).expect("wraps");
    assert_eq!(
        kek(1).unwrap_lease(&wrapped).err(),
        Some(UnwrapError::NotAuthentic),
        "same header, other KEK"
    );
}

#[test]
fn a_changed_header_or_body_does_not_unwrap() {
    let kek = kek(1);
    let lease = LeaseKey::generate(region(), LeaseId([2; 16])).expect("room");
    let bytes = kek.wrap_lease(&lease).expect("wraps").to_bytes();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let refused = match Wrapped::from_bytes(&changed) {
            Err(_) => true,
            Ok(wrapped) => {
                kek.unwrap_lease(&wrapped).is_err() && kek.unwrap_metadata_key(&wrapped).is_err()
            }
        };
        assert!(refused, "byte {at}");
    }
}

#[test]
fn a_key_of_one_type_does_not_unwrap_as_another() {
    let kek = kek(1);
    let lease = LeaseKey::generate(region(), LeaseId([2; 16])).expect("room");
    let wrapped = kek.wrap_lease(&lease).expect("wraps");
    assert_eq!(
        kek.unwrap_metadata_key(&wrapped).err(),
        Some(UnwrapError::NotAuthentic)
    );
    let mut renamed = wrapped;
    renamed.header.key_type = KeyType::Metadata;
    assert_eq!(
        kek.unwrap_metadata_key(&renamed).err(),
        Some(UnwrapError::NotAuthentic)
    );
}

#[test]
fn unknown_formats_suites_and_types_fail_closed() {
    let bytes = kek(1)
        .wrap_lease(&LeaseKey::generate(region(), LeaseId([2; 16])).expect("room"))
        .expect("wraps")
        .to_bytes();
    let with = |at: usize, value: u8| {
        let mut changed = bytes.clone();
        changed[at] = value;
        Wrapped::from_bytes(&changed).expect_err("is refused")
    };
    assert_eq!(with(0, 2), WrappedError::UnknownFormat(2));
    assert_eq!(with(1, 2), WrappedError::UnknownSuite(2));
    assert_eq!(with(2, 6), WrappedError::UnknownType(6));
    assert_eq!(with(2, 0), WrappedError::UnknownType(0));
    assert_eq!(with(4, 200), WrappedError::Malformed);
    assert_eq!(with(5, b'C'), WrappedError::Malformed, "not a region");
    assert_eq!(
        Wrapped::from_bytes(&bytes[..bytes.len() - 1]),
        Err(WrappedError::Malformed)
    );
    assert_eq!(
        Wrapped::from_bytes(&[&bytes[..], &[0]].concat()),
        Err(WrappedError::Malformed)
    );
    assert_eq!(Wrapped::from_bytes(&[]), Err(WrappedError::Malformed));
}

/// Rotation rewraps leases and touches no object: what was sealed under the lease opens under the
/// new version.
#[test]
fn a_rewrapped_lease_derives_the_same_deks() {
    let (old, new) = (kek(1), kek(2));
    let lease = LeaseKey::generate(region(), LeaseId([2; 16])).expect("room");
    let token = old.wrap_lease(&lease).expect("wraps");
    let rewrapped = new
        .wrap_lease(&old.unwrap_lease(&token).expect("unwraps"))
        .expect("wraps");
    assert_eq!(rewrapped.header().version, 2);
    let context = ObjectContext {
        suite: Suite::Cobblestone256,
        region: region(),
        dataset: DatasetId([4; 16]),
        version: ObjectVersionId([5; 16]),
        name: NameCommitment([6; 32]),
    };
    let dek = |lease: &LeaseKey| lease.open_dek(&DekSalt([7; 32]), &context).expect("room");
    let again = new.unwrap_lease(&rewrapped).expect("unwraps");
    assert!(same(&dek(&lease).key, &dek(&again).key));
    assert!(
        old.unwrap_lease(&rewrapped).is_err(),
        "the old version no longer opens it"
    );
}
