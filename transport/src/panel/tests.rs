//! One claim a test.

use std::time::Duration;

use proto::ids::{DatasetId, RelocationId};

use super::*;
use crate::{KeyPair, RegionCa};

const NAMED: Named = Named {
    dataset: DatasetId([0xD5; 16]),
    relocation: RelocationId([0x7E; 16]),
};

struct Nodes {
    panel: Panel,
    keys: Vec<KeyPair>,
}

fn identity(name: &str) -> Identity {
    let region = "de-fra".parse().expect("a region id");
    Identity::new(region, Role::Node, name).expect("a name")
}

impl Nodes {
    fn new(many: u64) -> Self {
        let keys: Vec<_> = (0..many).map(|_| KeyPair::generate()).collect();
        let members = keys.iter().zip(1..).map(|(key, number)| Member {
            number,
            identity: identity(&format!("n{number}")),
            key: Bytes::copy_from_slice(key.public_key().as_spki()),
        });
        let panel = Panel {
            region: "de-fra".parse().expect("a region id"),
            version: 4,
            members: members.collect(),
        };
        Self { panel, keys }
    }

    fn state(&self, by: u64) -> v1::ArrivalState {
        v1::ArrivalState {
            format: words::FORMAT,
            region: "de-fra".to_owned(),
            replica: identity(&format!("n{by}")).to_string(),
            dataset_id: NAMED.dataset.into(),
            relocation_id: NAMED.relocation.into(),
            applied_index: 100 + by,
            proposes: Some(v1::MovedRecord {
                epoch: 2,
                fence: 9,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn sign(&self, by: u64, state: &v1::ArrivalState) -> v1::SignedArrivalState {
        self.labelled(by, state, v1::ArrivalState::LABEL)
    }

    fn labelled(
        &self,
        by: u64,
        state: &v1::ArrivalState,
        label: &'static str,
    ) -> v1::SignedArrivalState {
        let key = &self.keys[by as usize - 1];
        let state = state.encode_to_vec();
        v1::SignedArrivalState {
            signature: Bytes::copy_from_slice(&key.sign(label, &state)),
            signer: Bytes::copy_from_slice(key.public_key().as_spki()),
            state: state.into(),
        }
    }

    fn word(&self, by: u64) -> v1::SignedArrivalState {
        self.sign(by, &self.state(by))
    }

    fn hear(
        &self,
        said: &[v1::SignedArrivalState],
    ) -> Result<Heard<v1::MovedRecord, v1::ArrivalState>, WordError> {
        self.panel.hear(&NAMED, said, words::proposed)
    }
}

#[test]
fn a_majority_that_says_the_same_is_heard_whatever_it_has_applied_since() {
    let nodes = Nodes::new(3);
    let heard = nodes
        .hear(&[nodes.word(1), nodes.word(3)])
        .expect("two of three");
    assert_eq!(heard.record.fence, 9);
    assert_eq!(heard.vouch.signers, [1, 3]);
    assert_eq!(heard.vouch.voters, [1, 2, 3]);
    assert_eq!(heard.vouch.descriptor_version, 4);
    assert_eq!(heard.words.len(), 2);
}

#[test]
fn one_replica_that_speaks_twice_is_one() {
    let nodes = Nodes::new(3);
    let later = v1::ArrivalState {
        applied_index: 900,
        ..nodes.state(1)
    };
    let few = nodes.hear(&[nodes.word(1), nodes.sign(1, &later)]);
    let (have, of, need) = match few.expect_err("one of three") {
        WordError::TooFew { have, of, need, .. } => (have, of, need),
        other => panic!("{other}"),
    };
    assert_eq!((have, of, need), (1, 3, 2));
    let none = nodes.hear(&[]).expect_err("nobody");
    assert!(matches!(none, WordError::TooFew { have: 0, .. }));
}

#[test]
fn who_says_something_else_does_not_count() {
    let nodes = Nodes::new(3);
    let older = v1::ArrivalState {
        proposes: Some(v1::MovedRecord {
            epoch: 2,
            fence: 7,
            ..Default::default()
        }),
        ..nodes.state(2)
    };
    let silent = v1::ArrivalState {
        proposes: None,
        ..nodes.state(3)
    };
    let said = [nodes.word(1), nodes.sign(2, &older), nodes.sign(3, &silent)];
    let few = nodes.hear(&said).expect_err("no two say the same");
    assert!(matches!(few, WordError::TooFew { have: 1, .. }));
    let of_both = [said.as_slice(), &[nodes.word(2)]].concat();
    let heard = nodes.hear(&of_both).expect("the last word of each counts");
    assert_eq!(heard.vouch.signers, [1, 2]);
}

#[test]
fn everyone_is_more_than_a_majority() {
    let nodes = Nodes::new(3);
    let two = [nodes.word(1), nodes.word(2)];
    let few = nodes.panel.hear_all(&NAMED, &two, words::proposed);
    assert!(matches!(few, Err(WordError::TooFew { need: 3, .. })));
    let all = [nodes.word(1), nodes.word(2), nodes.word(3)];
    let all = nodes.panel.hear_all(&NAMED, &all, words::proposed);
    assert_eq!(all.expect("all three").vouch.signers, [1, 2, 3]);
    let nobody = Nodes::new(0);
    let none = nobody.panel.hear_all(&NAMED, &[], words::proposed);
    assert!(none.is_err(), "nobody is not everyone");
}

/// Each is refused with the words that hold: whoever collected them learns of it.
#[test]
fn a_word_that_does_not_hold_is_refused_with_all_others() {
    let nodes = Nodes::new(3);
    let others = Nodes::new(3);
    let with = |bad: v1::SignedArrivalState| {
        let said = [nodes.word(1), nodes.word(2), bad];
        nodes.hear(&said).expect_err("it does not hold").reason()
    };
    let bent = |bend: &dyn Fn(&mut v1::ArrivalState)| {
        let mut state = nodes.state(3);
        bend(&mut state);
        with(nodes.sign(3, &state))
    };
    assert_eq!(with(others.word(3)), "word-not-a-replicas");
    let mut forged = nodes.word(3);
    forged.state = nodes.state(2).encode_to_vec().into();
    assert_eq!(with(forged), "word-signature");
    // Said in another's name, or signed as something else.
    assert_eq!(with(nodes.sign(3, &nodes.state(2))), "word-signature");
    let as_source = v1::DepartureState::LABEL;
    assert_eq!(
        with(nodes.labelled(3, &nodes.state(3), as_source)),
        "word-signature"
    );
    assert_eq!(bent(&|state| state.format = 2), "word-malformed");
    let another = "word-other-relocation";
    assert_eq!(bent(&|state| state.region = "fr-par".to_owned()), another);
    let id = || Bytes::from_static(&[1; 16]);
    assert_eq!(bent(&|state| state.dataset_id = id()), another);
    assert_eq!(bent(&|state| state.relocation_id = id()), another);
    let many = vec![nodes.word(1); WORDS_MAX + 1];
    assert_eq!(
        nodes.hear(&many).expect_err("too many").reason(),
        "words-too-many"
    );
}

/// Numbers are places in the descriptor, whatever roles stand between.
#[test]
fn a_region_that_is_not_trusted_has_no_panel() {
    let region: RegionId = "ch-zrh".parse().expect("a region id");
    let now = UnixMs(1_900_000_000_000);
    let ca = RegionCa::create(region.clone(), now, Duration::from_secs(3600)).expect("a CA");
    let contents = crate::enrolment::SetContents {
        jurisdiction: "CH".parse().expect("a jurisdiction"),
        version: 1,
        signed_at: now,
        enrolments: Vec::new(),
        grants: Vec::new(),
        approvals_min: 2,
    };
    let set = crate::enrolment::new_set(&ca.trust(), contents);
    let signed = ca.sign_set(&set).expect("a set");
    let clock = std::sync::Arc::new(crate::testing::ManualClock::at(now));
    let enrolments = crate::Enrolments::bootstrap(ca.trust(), &signed, clock).expect("a set");
    let table = enrolments.current();
    let abroad = "de-fra".parse().expect("a region id");
    let panel = Panel::abroad(&table, &abroad, Role::Node, now);
    assert!(matches!(panel, Err(WordError::NotTrusted(_))));
    assert!(Panel::own_kms(&table).members.is_empty());
}
