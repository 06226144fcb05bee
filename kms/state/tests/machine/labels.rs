//! Claims about aliases and tags: an alias leads to one key, a change of them is on record, and what is out of bounds is
//! refused whole.

use kms_state::{ALIASES_MAX, TAGS_MAX, by_alias, prepare};
use proto::ids::DatasetId;
use proto::v1::{KeyState, KeyTag, KmsCommand, KmsRefusal, LabelKey};
use tlog::Kind;

use crate::lab::{DATASET, Lab, key_change};

const OTHER: DatasetId = DatasetId([0x77; 16]);

fn label(lab: &Lab, id: u8, dataset: DatasetId, labels: LabelKey) -> KmsCommand {
    let change = key_change(&dataset, [0x40 + id; 16]);
    let asked = lab.asked("operator/o1");
    prepare::label_key(&lab.state, &lab.authority(), asked, change, labels).expect("granted")
}

fn alias(name: &str) -> LabelKey {
    LabelKey {
        add_aliases: vec![name.to_owned()],
        ..LabelKey::default()
    }
}

fn tag(name: &str, value: &str) -> KeyTag {
    KeyTag {
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn an_alias_leads_to_one_key_until_it_is_taken_from_it() {
    let mut lab = Lab::with_key();
    let born = lab.create(OTHER, 9).expect("granted");
    lab.done(&born);
    lab.done(&label(&lab, 1, DATASET, alias("cases")));
    assert_eq!(by_alias(&lab.state, "cases"), Some(DATASET));
    let leaf = lab.last_leaf();
    assert_eq!(leaf.0.kind(), Kind::KeyLabelled);
    let stolen = label(&lab, 2, OTHER, alias("cases"));
    assert_eq!(lab.refused(&stolen).0, KmsRefusal::AliasTaken);
    // Nothing of a refused change stays, its tags neither.
    let half = LabelKey {
        set_tags: vec![tag("owner", "cert")],
        ..alias("cases")
    };
    let half = label(&lab, 3, OTHER, half);
    assert_eq!(lab.refused(&half).0, KmsRefusal::AliasTaken);
    let other = kms_state::key(&lab.state, &OTHER).expect("there");
    assert!(other.aliases.is_empty() && other.tags.is_empty());
    let given_up = LabelKey {
        remove_aliases: vec!["cases".to_owned()],
        ..LabelKey::default()
    };
    lab.done(&label(&lab, 4, DATASET, given_up));
    assert_eq!(by_alias(&lab.state, "cases"), None);
    lab.done(&label(&lab, 5, OTHER, alias("cases")));
    assert_eq!(by_alias(&lab.state, "cases"), Some(OTHER));
    assert!(lab.key().aliases.is_empty());
}

#[test]
fn what_is_removed_goes_first_and_what_is_set_stays_in_order() {
    let mut lab = Lab::with_key();
    let first = LabelKey {
        add_aliases: vec!["b".to_owned(), "a".to_owned(), "a".to_owned()],
        set_tags: vec![tag("z", "1"), tag("case", "1"), tag("case", "2")],
        ..LabelKey::default()
    };
    let before = lab.key().state_version;
    lab.done(&label(&lab, 1, DATASET, first));
    let key = lab.key();
    assert_eq!(key.aliases, ["a", "b"]);
    assert_eq!(key.tags, [tag("case", "2"), tag("z", "1")]);
    assert_eq!(key.state_version, before + 1);
    let second = LabelKey {
        remove_aliases: vec!["a".to_owned(), "never".to_owned()],
        add_aliases: vec!["a".to_owned()],
        remove_tags: vec!["case".to_owned()],
        set_tags: vec![tag("owner", "")],
        ..LabelKey::default()
    };
    lab.done(&label(&lab, 2, DATASET, second));
    assert_eq!(lab.key().aliases, ["a", "b"], "removed, and added again");
    assert_eq!(lab.key().tags, [tag("owner", ""), tag("z", "1")]);
}

#[test]
fn names_out_of_bounds_are_refused() {
    let lab = Lab::with_key();
    let long = "a".repeat(65);
    for name in ["", "Cases", "-a", ".a", "a b", "a/b", "\u{e4}", &long] {
        let mut lab = lab.clone();
        let refused = label(&lab, 1, DATASET, alias(name));
        assert_eq!(lab.refused(&refused).0, KmsRefusal::Malformed, "{name:?}");
    }
    let wide = "v".repeat(257);
    for bad in [
        tag("", "v"),
        tag(&long, "v"),
        tag("n", &wide),
        tag("n", "a\nb"),
    ] {
        let mut lab = lab.clone();
        let labels = LabelKey {
            set_tags: vec![bad.clone()],
            ..LabelKey::default()
        };
        let refused = label(&lab, 1, DATASET, labels);
        assert_eq!(lab.refused(&refused).0, KmsRefusal::Malformed, "{bad:?}");
    }
    let names = |count: usize| (0..count).map(|n| format!("n{n:02}"));
    let many = |aliases, tags| LabelKey {
        add_aliases: names(aliases).collect(),
        set_tags: names(tags).map(|name| tag(&name, "v")).collect(),
        ..LabelKey::default()
    };
    let mut full = lab.clone();
    full.done(&label(&lab, 1, DATASET, many(ALIASES_MAX, TAGS_MAX)));
    for more in [many(ALIASES_MAX + 1, 0), many(0, TAGS_MAX + 1)] {
        let mut lab = lab.clone();
        let refused = label(&lab, 1, DATASET, more);
        assert_eq!(lab.refused(&refused).0, KmsRefusal::Malformed);
    }
}

#[test]
fn a_change_of_labels_has_effect_once_and_on_the_state_it_was_decided_on() {
    let mut lab = Lab::with_key();
    let first = label(&lab, 1, DATASET, alias("cases"));
    let stale = label(&lab, 2, DATASET, alias("later"));
    let done = lab.done(&first);
    assert_eq!(lab.done(&first).leaf_index, done.leaf_index, "a retry");
    assert_eq!(lab.refused(&stale).0, KmsRefusal::KeyStateMoved);
    // In every state: who looks for a destroyed key by its name is told what became of it.
    lab.bring_to(KeyState::Destroyed);
    assert_eq!(by_alias(&lab.state, "cases"), Some(DATASET));
    lab.done(&label(&lab, 3, DATASET, alias("gone")));
}
