//! Claims about the kept form of a leaf's openings.

use proptest::prelude::*;
use proto::ids::UnixMs;

use super::*;
use crate::commitment::openings_of;
use crate::leaf::{Kind, ObjectItem, Purpose};

/// Computed by a few lines of Python from the format's description: `hashlib`, `hmac`, `json`, and `openssl enc
/// -aes-256-ctr` for the salts.
const GOLDEN_LEAF: &str = concat!(
    r#"{"schema":1,"kind":"open","time_ms":1,"purpose":"service","commitments":{"actor":"TNRinJXOo1EQqdZffe/BxvrNQhX5i"#,
    r#"t1NyI0DlgE2wvA=","request_id":"pjFD/6YKcbPZDdI2i34cbAl2HwmTWH/HmmIqzufRUHw="},"objects":["XwusYOFY0x73/6FkSrG7M"#,
    r#"y7sKSYlPmTQAOTAJ2aCnLk=","SKsXdpw0SdhAJnoVtK88qokCvFDNKWU7lOH4jDZEZ98="]}"#,
);
const GOLDEN_KEPT: &str = concat!(
    "027f1f21d88ac6f83e42a57a524234d85a9776e7566c4f955470e751e5cfeeea4d",
    "02",
    "000000001a7370696666653a2f2f63682d7a72682f676174657761792f6731",
    "04000000203030313132323333343435353636373738383939616162626363646465656666",
    "0002",
    "01010101010101010101010101010101e5919c3329b2873a9921999eec9918c5c05e6ca92d3f39ada65ce0bcc0442451",
    "020202020202020202020202020202020000000000001000",
    "03030303030303030303030303030303e5919c3329b2873a9921999eec9918c5c05e6ca92d3f39ada65ce0bcc0442451",
    "02020202020202020202020202020202ffffffffffffffff",
);

fn public() -> Public {
    Public {
        kind: Kind::Open,
        time_ms: UnixMs(1),
        purpose: Purpose::service(),
        dataset: None,
    }
}

fn object(version: u8, bytes: u64) -> OpenedObject {
    OpenedObject {
        version: ObjectVersionId([version; 16]),
        name: crate::leaf_hash(b"name"),
        lease: LeaseId([2; 16]),
        bytes,
    }
}

fn private() -> Private<OpenedObject> {
    let fields = [
        (Field::Actor, "spiffe://ch-zrh/gateway/g1"),
        (Field::RequestId, "00112233445566778899aabbccddeeff"),
    ];
    Private {
        fields: fields
            .map(|(field, value)| (field, value.to_owned()))
            .into(),
        objects: vec![object(1, 4096), object(3, u64::MAX)],
    }
}

fn built() -> KeptLeaf {
    KeptLeaf::build(public(), &private(), &SaltSeed::new(&[7; 32]), 0).expect("small")
}

fn shown(made: &KeptLeaf) -> crate::Disclosure {
    let leaf = Leaf::parse(&made.bytes).expect("a leaf");
    let openings = Openings::kept(&made.openings).expect("its openings");
    openings_of(&leaf, &openings).expect("they belong together")
}

#[test]
fn golden_bytes_of_a_kept_leaf_and_its_openings() {
    let made = built();
    assert_eq!(String::from_utf8(made.bytes).expect("JSON"), GOLDEN_LEAF);
    assert_eq!(hex::encode(made.openings), GOLDEN_KEPT);
}

#[test]
fn kept_openings_show_exactly_what_was_committed() {
    let shown = shown(&built());
    assert_eq!(shown.fields, private().fields);
    assert!(shown.withheld.is_empty());
    for (object, value) in private().objects.iter().zip(&shown.objects) {
        let value = value.as_ref().expect("shown");
        assert_eq!(*value, object.value());
        let item: ObjectItem = serde_json::from_str(value).expect("JSON");
        assert_eq!(item.to_value(), *value);
    }
}

#[test]
fn an_erased_salt_is_in_no_byte_of_what_is_kept_afterwards() {
    let made = built();
    let mut openings = Openings::kept(&made.openings).expect("its openings");
    let erased = openings.objects[0].clone().expect("there");
    assert!(openings.erase_object(0));
    let bytes = openings.encode();
    assert_eq!(Openings::kept(&bytes), Ok(openings.clone()));
    let text = String::from_utf8(bytes).expect("JSON");
    let key = &made.openings[1..][..HASH_BYTES];
    let hidden: &[u8; HASH_BYTES] = key.try_into().expect("32 bytes");
    for gone in [&erased.salt.0, hidden] {
        assert!(!text.contains(Base64::of(gone).as_str()));
    }
    let leaf = Leaf::parse(&made.bytes).expect("a leaf");
    let shown = openings_of(&leaf, &openings).expect("what is left still opens");
    assert_eq!(shown.objects[0], None);
    assert!(shown.objects[1].is_some());
}

#[test]
fn no_two_commitments_of_a_command_share_a_salt() {
    let seed = SaltSeed::new(&[7; 32]);
    let mut salts = std::collections::BTreeSet::new();
    let mut expected = 0;
    for ordinal in 0..8 {
        let made = KeptLeaf::build(public(), &private(), &seed, ordinal).expect("small");
        let openings = Openings::kept(&made.openings).expect("its openings");
        let objects = openings.objects.into_iter().flatten();
        for opening in openings.fields.into_values().chain(objects) {
            salts.insert(opening.salt.0);
            expected += 1;
        }
    }
    assert_eq!(salts.len(), expected);
}

#[test]
fn every_field_has_a_place_of_its_own_before_the_objects() {
    for (place, field) in Field::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(code(field)), place);
        assert!(place < FIELD_SALTS);
    }
}

#[test]
fn kept_bytes_have_one_form() {
    let good = built().openings;
    let mut longer = good.clone();
    longer.push(0);
    let fields_swapped = {
        let (actor, request) = (good[34..65].to_vec(), good[65..102].to_vec());
        [&good[..34], &request, &actor, &good[102..]].concat()
    };
    let mut unknown_field = good.clone();
    unknown_field[65] = 9;
    let mut longer_value = good.clone();
    longer_value[35] = 0xff;
    for bad in [
        longer,
        fields_swapped,
        unknown_field,
        longer_value,
        vec![KEPT],
    ] {
        assert_eq!(Openings::kept(&bad), Err(OpeningsError::Malformed));
    }
    for cut in 1..good.len() {
        assert!(Openings::kept(&good[..cut]).is_err(), "{cut}");
    }
}

proptest! {
    #[test]
    fn any_values_open_again(
        values in proptest::collection::vec(".{0,40}", 9),
        objects in proptest::collection::vec(any::<(u8, u64)>(), 0..5),
        seed in any::<[u8; 32]>(),
        ordinal in any::<u64>(),
    ) {
        let private = Private {
            fields: Field::ALL.into_iter().zip(values).collect(),
            objects: objects.into_iter().map(|(version, bytes)| object(version, bytes)).collect(),
        };
        let made = KeptLeaf::build(public(), &private, &SaltSeed::new(&seed), ordinal).expect("small");
        let shown = shown(&made);
        prop_assert_eq!(shown.fields, private.fields);
        let values: Vec<_> = private.objects.iter().map(|object| Some(object.value())).collect();
        prop_assert_eq!(shown.objects, values);
    }
}
