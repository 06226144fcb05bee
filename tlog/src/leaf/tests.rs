//! Claims about a leaf's bytes.

use proptest::prelude::*;

use super::*;
use crate::commitment::{OpenedObject, Private, SaltSeed, SaltedLeaf};

/// Computed by a few lines of Python from the format's description: `hashlib`, `hmac`, `base64`, `json`.
const GOLDEN_LEAF: &str = concat!(
    r#"{"schema":1,"kind":"open","time_ms":1790000000000,"purpose":"service","dataset":"#,
    r#"{"pseudonym":"abababababababababababababababab","sequence":1,"previous":"mv+B9nM"#,
    r#"XhZv0PQRI9Au0iBJwH8lym1p4x4CusEXIM1Q="},"commitments":{"actor":"Y3oIXZVaQSZz+r9/"#,
    r#"rntvKrBSkGz/UHHDjvgzWwQXBAE="},"objects":["/I4eHqu4j7KyqRPvzE6EXPDQVA2CXd6+W6kqx"#,
    r#"jvTjtk="]}"#,
);
const GOLDEN_OPENINGS: &str = concat!(
    r#"{"schema":1,"fields":{"actor":{"salt":"h7d4bJN5oLf9ia1Ym0mTpSwYQ6sOUrmATPOfAHPCZ"#,
    r#"8o=","value":"spiffe://ch-zrh/gateway/g1"}},"objects":[{"salt":"v+PxUEMkrbxzkbKN"#,
    r#"BhIYn++/EP1eQ5Z/juAYOMd5kKI=","value":"{\"version\":\"01010101010101010101010101"#,
    r#"010101\",\"name\":\"5ZGcMymyhzqZIZme7JkYxcBebKktPzmtplzgvMBEJFE=\",\"lease\":\"0"#,
    r#"2020202020202020202020202020202\",\"bytes\":4096}"}]}"#,
);

fn sample() -> SaltedLeaf {
    let public = Public {
        kind: Kind::Open,
        time_ms: UnixMs(1_790_000_000_000),
        purpose: Purpose::service(),
        dataset: Some(DatasetLink {
            pseudonym: Pseudonym([0xAB; 16]),
            sequence: 1,
            previous: Some(leaf_hash(b"previous")),
        }),
    };
    let (version, lease) = (ObjectVersionId([1; 16]), LeaseId([2; 16]));
    let item = OpenedObject {
        version,
        name: leaf_hash(b"name"),
        lease,
        bytes: 4096,
    };
    let item = item.value();
    let parsed: ObjectItem = serde_json::from_str(&item).expect("JSON");
    assert_eq!(parsed.to_value(), item);
    let private = Private {
        fields: [(Field::Actor, "spiffe://ch-zrh/gateway/g1".to_owned())]
            .into_iter()
            .collect(),
        objects: vec![item],
    };
    SaltedLeaf::build(public, private, &SaltSeed::new(&[7; 32]), 0).expect("small")
}

fn text() -> String {
    String::from_utf8(sample().bytes).expect("JSON")
}

#[test]
fn golden_bytes_of_a_leaf_and_its_openings() {
    assert_eq!(text(), GOLDEN_LEAF);
    let openings = String::from_utf8(sample().openings.encode()).expect("JSON");
    assert_eq!(openings, GOLDEN_OPENINGS);
}

#[test]
fn a_leaf_survives_its_bytes() {
    let sample = sample();
    assert_eq!(Leaf::parse(&sample.bytes).as_ref(), Ok(&sample.leaf));
    assert_eq!(sample.leaf.hash(), Ok(leaf_hash(&sample.bytes)));
}

#[test]
fn any_second_spelling_of_a_leaf_is_refused() {
    let good = text();
    let twice = good.replacen("\"kind\"", "\"kind\":\"open\",\"kind\"", 1);
    assert_eq!(Leaf::parse(twice.as_bytes()), Err(LeafError::Malformed));
    let purpose = "\"purpose\":\"service\",";
    let reordered =
        good.replacen(purpose, "", 1)
            .replacen("\"kind\"", &format!("{purpose}\"kind\""), 1);
    let actor_twice = {
        let start = good.find("\"actor\"").expect("there");
        let pair = &good[start..start + 54];
        good.replacen(pair, &format!("{pair},{pair}"), 1)
    };
    for other in [
        good.replacen(':', ": ", 1),
        format!("{good}\n"),
        good.replacen("open", "\\u006fpen", 1),
        good.replace("abab", "ABAB"),
        reordered,
        actor_twice,
    ] {
        assert_ne!(other, good);
        assert_eq!(
            Leaf::parse(other.as_bytes()),
            Err(LeafError::NotCanonical),
            "{other}"
        );
    }
}

#[test]
fn an_unknown_schema_kind_or_field_is_refused() {
    let other = text().replacen("\"schema\":1", "\"schema\":2", 1);
    assert_eq!(
        Leaf::parse(other.as_bytes()),
        Err(LeafError::UnknownSchema(2))
    );
    for other in [
        text().replacen("\"open\"", "\"exported\"", 1),
        text().replacen("\"time_ms\"", "\"note\":\"\",\"time_ms\"", 1),
        text().replacen("\"actor\"", "\"shoe_size\"", 1),
        text().replacen("\"service\"", "\"Service\"", 1),
        String::new(),
    ] {
        assert_eq!(
            Leaf::parse(other.as_bytes()),
            Err(LeafError::Malformed),
            "{other}"
        );
    }
}

#[test]
fn a_chain_starts_without_predecessor_and_goes_on_with_one() {
    let cases = [
        (0, None, true),
        (0, Some(leaf_hash(b"")), false),
        (1, None, false),
    ];
    for (sequence, previous, good) in cases {
        let link = DatasetLink {
            pseudonym: Pseudonym([0; 16]),
            sequence,
            previous,
        };
        let public = Public {
            kind: Kind::Lease,
            time_ms: UnixMs(1),
            purpose: Purpose::service(),
            dataset: Some(link),
        };
        let made = SaltedLeaf::build(public, Private::default(), &SaltSeed::new(&[0; 32]), 0);
        let expected = if good {
            None
        } else {
            Some(LeafError::BrokenLink(sequence))
        };
        assert_eq!(made.err(), expected);
    }
    let without = text().replacen("\"sequence\":1", "\"sequence\":0", 1);
    assert_eq!(
        Leaf::parse(without.as_bytes()),
        Err(LeafError::BrokenLink(0))
    );
}

#[test]
fn a_leaf_of_more_than_65535_bytes_is_refused() {
    let with_objects = |count: usize| {
        let public = Public {
            kind: Kind::Open,
            time_ms: UnixMs(1),
            purpose: Purpose::service(),
            dataset: None,
        };
        let private = Private {
            fields: BTreeMap::new(),
            objects: vec![String::new(); count],
        };
        SaltedLeaf::build(public, private, &SaltSeed::new(&[0; 32]), 0)
    };
    assert!(with_objects(1_024).is_ok());
    assert!(matches!(with_objects(1_400), Err(LeafError::TooLarge(n)) if n > LEAF_BYTES_MAX));
    let long = vec![b' '; LEAF_BYTES_MAX + 1];
    assert_eq!(
        Leaf::parse(&long),
        Err(LeafError::TooLarge(LEAF_BYTES_MAX + 1))
    );
}

#[test]
fn purposes_are_short_lowercase_words() {
    for good in ["service", "third-party-request", "a", &"x".repeat(64)] {
        assert!(good.parse::<Purpose>().is_ok(), "{good}");
    }
    for bad in ["", "-a", "a-", "A", "a b", "a\n", &"x".repeat(65)] {
        assert_eq!(bad.parse::<Purpose>(), Err(PurposeError), "{bad}");
    }
}

proptest! {
    #[test]
    fn parsing_any_bytes_answers_and_accepts_only_its_own_encoding(
        at in 0_usize..400, byte in any::<u8>()
    ) {
        let good = sample().bytes;
        let mut bytes = good.clone();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(leaf) = Leaf::parse(&bytes) {
            prop_assert_eq!(leaf.encode().expect("parsed"), bytes);
        }
    }
}
