//! Claims about commitments and openings.

use proptest::prelude::*;
use proto::ids::UnixMs;

use super::*;
use crate::leaf::{Kind, Purpose};

fn public() -> Public {
    Public {
        kind: Kind::Open,
        time_ms: UnixMs(1),
        purpose: Purpose::service(),
        dataset: None,
    }
}

fn private() -> Private {
    let fields = [
        (Field::Actor, "spiffe://ch-zrh/gateway/g1"),
        (Field::Case, "c-17"),
        (Field::RequestId, "00112233445566778899aabbccddeeff"),
    ];
    Private {
        fields: fields
            .into_iter()
            .map(|(field, value)| (field, value.to_owned()))
            .collect(),
        objects: vec!["first".to_owned(), "second".to_owned()],
    }
}

fn built() -> SaltedLeaf {
    SaltedLeaf::build(public(), private(), &SaltSeed::new(&[7; 32]), 0).expect("small")
}

#[test]
fn full_openings_show_exactly_what_was_committed() {
    let SaltedLeaf { leaf, openings, .. } = built();
    let shown = openings_of(&leaf, &openings).expect("own openings");
    assert_eq!(shown.fields, private().fields);
    assert_eq!(
        shown.objects,
        vec![Some("first".to_owned()), Some("second".to_owned())]
    );
    assert!(shown.withheld.is_empty());
}

#[test]
fn an_erased_salt_leaves_the_leaf_and_the_other_openings_valid() {
    let SaltedLeaf {
        leaf,
        bytes,
        mut openings,
    } = built();
    assert!(openings.erase(Field::Case));
    assert!(!openings.erase(Field::Case));
    assert!(openings.erase_object(0));
    assert!(!openings.erase_object(0));
    assert!(!openings.erase_object(2));
    let text = String::from_utf8(openings.encode()).expect("JSON");
    assert!(!text.contains("c-17") && !text.contains("first"));
    assert_eq!(Leaf::parse(&bytes).as_ref(), Ok(&leaf));
    let shown = openings_of(&leaf, &openings).expect("what is left still opens");
    assert_eq!(shown.withheld, vec![Field::Case]);
    assert_eq!(shown.objects, vec![None, Some("second".to_owned())]);
}

#[test]
fn a_changed_value_or_a_foreign_salt_is_refused() {
    let SaltedLeaf { leaf, openings, .. } = built();
    let mut value = openings.clone();
    value
        .fields
        .get_mut(&Field::Actor)
        .expect("there")
        .value
        .push('x');
    assert_eq!(
        openings_of(&leaf, &value),
        Err(VerifyError::Mismatch("actor".into()))
    );
    let mut salt = openings.clone();
    salt.fields.get_mut(&Field::Actor).expect("there").salt.0[0] ^= 1;
    assert_eq!(
        openings_of(&leaf, &salt),
        Err(VerifyError::Mismatch("actor".into()))
    );
    let mut object = openings;
    object.objects[1].as_mut().expect("there").value.clear();
    assert_eq!(
        openings_of(&leaf, &object),
        Err(VerifyError::Mismatch("object/1".into()))
    );
}

#[test]
fn an_opening_moved_to_another_field_or_place_is_refused() {
    let SaltedLeaf { leaf, openings, .. } = built();
    let mut moved = openings.clone();
    let actor = moved.fields[&Field::Actor].clone();
    moved.fields.insert(Field::Case, actor);
    assert_eq!(
        openings_of(&leaf, &moved),
        Err(VerifyError::Mismatch("case".into()))
    );
    let mut swapped = openings;
    swapped.objects.swap(0, 1);
    assert_eq!(
        openings_of(&leaf, &swapped),
        Err(VerifyError::Mismatch("object/0".into()))
    );
}

#[test]
fn an_opening_of_what_the_leaf_does_not_commit_to_is_refused() {
    let SaltedLeaf { leaf, openings, .. } = built();
    let mut field = openings.clone();
    let actor = field.fields[&Field::Actor].clone();
    field.fields.insert(Field::LegalBasis, actor);
    assert_eq!(
        openings_of(&leaf, &field),
        Err(VerifyError::NotCommitted("legal_basis".into()))
    );
    let mut object = openings;
    object.objects.push(None);
    assert_eq!(
        openings_of(&leaf, &object),
        Err(VerifyError::NotCommitted("object/2".into()))
    );
}

#[test]
fn revealing_is_limited_to_what_was_asked() {
    let SaltedLeaf { leaf, openings, .. } = built();
    let part = openings.reveal(&[Field::Actor], false);
    let shown = openings_of(&leaf, &part).expect("a part of own openings");
    assert_eq!(
        shown.fields.keys().copied().collect::<Vec<_>>(),
        vec![Field::Actor]
    );
    assert_eq!(shown.withheld, vec![Field::Case, Field::RequestId]);
    assert_eq!(shown.objects, vec![None, None]);
    assert_eq!(openings.reveal(&[], true).objects, openings.objects);
}

#[test]
fn no_two_commitments_of_a_command_share_a_salt() {
    let seed = SaltSeed::new(&[7; 32]);
    let mut salts = std::collections::BTreeSet::new();
    let mut expected = 0;
    for ordinal in 0..8 {
        let made = SaltedLeaf::build(public(), private(), &seed, ordinal).expect("small");
        let openings = made.openings;
        let objects = openings.objects.into_iter().flatten();
        for opening in openings.fields.into_values().chain(objects) {
            salts.insert(opening.salt.0);
            expected += 1;
        }
    }
    assert_eq!(salts.len(), expected);
}

#[test]
fn another_seed_hides_the_same_values_differently() {
    let other = SaltedLeaf::build(public(), private(), &SaltSeed::new(&[8; 32]), 0).expect("small");
    for (field, hash) in built().leaf.commitments() {
        assert_ne!(other.leaf.commitments()[field], *hash, "{field:?}");
    }
}

#[test]
fn openings_survive_their_bytes_and_refuse_other_schemas() {
    let mut openings = built().openings;
    openings.erase_object(1);
    assert_eq!(Openings::parse(&openings.encode()), Ok(openings.clone()));
    openings.schema = 2;
    assert_eq!(
        Openings::parse(&openings.encode()),
        Err(OpeningsError::UnknownSchema(2))
    );
    assert_eq!(Openings::parse(b"{}"), Err(OpeningsError::Malformed));
    let unknown = br#"{"schema":1,"fields":{"shoe_size":{"salt":"","value":""}}}"#;
    assert_eq!(Openings::parse(unknown), Err(OpeningsError::Malformed));
}

#[test]
fn field_names_are_those_in_the_json() {
    for field in Field::ALL {
        let json = serde_json::to_string(&field).expect("unit variant");
        assert_eq!(json, format!("\"{}\"", field.name()));
    }
}

proptest! {
    #[test]
    fn any_values_open_again(
        values in proptest::collection::vec(".{0,40}", 9),
        objects in proptest::collection::vec(".{0,40}", 0..5),
        seed in any::<[u8; 32]>(),
        ordinal in any::<u64>(),
    ) {
        let fields = Field::ALL.into_iter().zip(values).collect();
        let private = Private { fields, objects };
        let made = SaltedLeaf::build(public(), private.clone(), &SaltSeed::new(&seed), ordinal)
            .expect("small");
        let openings = Openings::parse(&made.openings.encode()).expect("own bytes");
        let leaf = Leaf::parse(&made.bytes).expect("own bytes");
        let shown = openings_of(&leaf, &openings).expect("own openings");
        prop_assert_eq!(shown.fields, private.fields);
        let objects: Vec<_> = shown.objects.into_iter().flatten().collect();
        prop_assert_eq!(objects, private.objects);
    }
}
