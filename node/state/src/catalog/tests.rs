//! One claim a test, and random sequences with every invariant after each.

use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use proto::ids::{FeatureLevel, LogIndex, NodeId};
use proto::store::MemoryStore;
use proto::v1::Refusal;

use super::*;
use crate::invariants;

struct Catalog {
    state: MemoryStore,
    index: u64,
}

impl Catalog {
    fn empty() -> Self {
        Self {
            state: MemoryStore::default(),
            index: 0,
        }
    }

    fn founded() -> Self {
        let mut catalog = Self::empty();
        catalog
            .run(Command::SetAuthority(v1::SetAuthority { version: 1 }))
            .expect("first");
        catalog
            .run(Command::FoundRegion(region()))
            .expect("nothing is founded yet");
        catalog
    }

    fn run(&mut self, kind: Command) -> Answer {
        let authority_version = CatalogMeta::load(&self.state).authority_version;
        let verdict = Some(v1::Verdict {
            authority_version,
            ..Default::default()
        });
        self.apply(v1::CatalogCommand {
            now_ms: 1000,
            verdict,
            command: Some(kind),
        })
    }

    fn apply(&mut self, command: v1::CatalogCommand) -> Answer {
        let answer = self
            .apply_bytes(command.encode_to_vec().into())
            .expect("a known command");
        match v1::CatalogAnswer::decode(answer)
            .expect("an answer")
            .answer
            .expect("one of two")
        {
            v1::catalog_answer::Answer::Done(done) => Ok(done),
            v1::catalog_answer::Answer::Refused(refused) => Err(refused),
        }
    }

    fn apply_bytes(&mut self, command: Bytes) -> Result<Bytes, Unknown> {
        self.index += 1;
        let nobody = |_: &BTreeSet<NodeId>| false;
        let at = At {
            index: LogIndex(self.index),
            voters: &nobody,
            level: FeatureLevel(0),
        };
        let answer = CatalogMachine.apply(at, &command, &mut self.state);
        invariants::catalog(&self.state).expect("invariants hold after every command");
        answer
    }
}

fn region() -> v1::FoundRegion {
    v1::FoundRegion {
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        shards: vec![16, 17],
    }
}

fn id(n: u8) -> DatasetId {
    DatasetId([n; 16])
}

fn place(n: u8, shard: u64) -> Command {
    Command::PlaceDataset(v1::PlaceDataset {
        dataset_id: id(n).into(),
        shard,
    })
}

fn publish(name: &str, n: u8, shard: u64) -> Command {
    Command::PublishDataset(v1::PublishDataset {
        name: name.into(),
        dataset_id: id(n).into(),
        shard,
        created_at_ms: 0,
    })
}

fn unpublish(name: &str, n: u8) -> Command {
    Command::UnpublishDataset(v1::UnpublishDataset {
        name: name.into(),
        dataset_id: id(n).into(),
    })
}

fn reason(answer: Answer) -> Refusal {
    answer.expect_err("to be refused").reason()
}

#[test]
fn a_region_is_founded_once() {
    let mut catalog = Catalog::empty();
    assert_eq!(reason(catalog.run(place(1, 16))), Refusal::NotFounded);
    for bad in [
        v1::FoundRegion {
            region: "CH".into(),
            ..region()
        },
        v1::FoundRegion {
            jurisdiction: "ch".into(),
            ..region()
        },
        v1::FoundRegion {
            shards: vec![],
            ..region()
        },
        v1::FoundRegion {
            shards: vec![1],
            ..region()
        },
        v1::FoundRegion {
            shards: vec![17, 16],
            ..region()
        },
        v1::FoundRegion {
            shards: (16..=16 + SHARDS_MAX as u64).collect(),
            ..region()
        },
    ] {
        assert_eq!(
            reason(catalog.run(Command::FoundRegion(bad))),
            Refusal::Malformed
        );
    }
    catalog
        .run(Command::FoundRegion(region()))
        .expect("the first");
    catalog
        .run(Command::FoundRegion(region()))
        .expect("the same again");
    let other = v1::FoundRegion {
        shards: vec![16],
        ..region()
    };
    assert_eq!(
        reason(catalog.run(Command::FoundRegion(other))),
        Refusal::AlreadyFounded
    );
}

#[test]
fn a_dataset_keeps_the_shard_it_was_given() {
    let mut catalog = Catalog::founded();
    assert_eq!(reason(catalog.run(place(1, 99))), Refusal::NoSuchShard);
    assert_eq!(
        catalog.run(place(1, 17)).expect("a founded shard").shard,
        17
    );
    assert_eq!(catalog.run(place(1, 16)).expect("a retry").shard, 17);
    assert_eq!(placement(&catalog.state, &id(1)), Some(GroupId(17)));
    let short = v1::PlaceDataset {
        dataset_id: Bytes::from_static(b"x"),
        shard: 16,
    };
    assert_eq!(
        reason(catalog.run(Command::PlaceDataset(short))),
        Refusal::Malformed
    );
}

#[test]
fn a_name_is_one_datasets_and_a_dataset_has_one_name() {
    let mut catalog = Catalog::founded();
    catalog.run(place(1, 16)).expect("placed");
    catalog.run(place(2, 17)).expect("placed");
    assert_eq!(
        reason(catalog.run(publish("cti", 1, 17))),
        Refusal::NoSuchShard
    );
    assert_eq!(
        reason(catalog.run(publish("cti", 3, 16))),
        Refusal::NoSuchShard
    );
    assert_eq!(
        reason(catalog.run(publish("No", 1, 16))),
        Refusal::Malformed
    );
    catalog.run(publish("cti", 1, 16)).expect("free");
    catalog.run(publish("cti", 1, 16)).expect("a retry");
    assert_eq!(
        reason(catalog.run(publish("cti", 2, 17))),
        Refusal::NameTaken
    );
    assert_eq!(
        reason(catalog.run(publish("other", 1, 16))),
        Refusal::DatasetExists
    );
    assert_eq!(find(&catalog.state, "cti").expect("published").shard, 16);
    assert_eq!(
        reason(catalog.run(unpublish("cti", 2))),
        Refusal::NoSuchDataset
    );
    catalog.run(unpublish("cti", 1)).expect("published");
    assert_eq!(
        reason(catalog.run(unpublish("cti", 1))),
        Refusal::NoSuchDataset
    );
    assert!(find(&catalog.state, "cti").is_none() && find_by_id(&catalog.state, &id(1)).is_none());
    catalog.run(publish("cti", 2, 17)).expect("free again");
}

#[test]
fn a_verdict_on_what_has_moved_is_refused() {
    let mut catalog = Catalog::founded();
    let decided = |authority_version| v1::CatalogCommand {
        now_ms: 1,
        verdict: Some(v1::Verdict {
            authority_version,
            ..Default::default()
        }),
        command: Some(place(1, 16)),
    };
    catalog
        .run(Command::SetAuthority(v1::SetAuthority { version: 2 }))
        .expect("newer");
    let refused = catalog.apply(decided(1)).expect_err("decided before");
    assert_eq!(
        (refused.reason(), refused.moved_to),
        (Refusal::AuthorityMoved, 2)
    );
    let older = Command::SetAuthority(v1::SetAuthority { version: 1 });
    assert_eq!(reason(catalog.run(older)), Refusal::AuthorityMoved);
    let without = v1::CatalogCommand {
        verdict: None,
        ..decided(2)
    };
    assert_eq!(reason(catalog.apply(without)), Refusal::Malformed);
    catalog.apply(decided(2)).expect("decided anew");
}

#[test]
fn node_ids_are_never_given_twice() {
    let mut catalog = Catalog::founded();
    let allocate = |identity: &str| {
        Command::AllocateNodeId(v1::AllocateNodeId {
            identity: identity.into(),
        })
    };
    let first = catalog
        .run(allocate("spiffe://ch-zrh/node/n4"))
        .expect("a node")
        .node_id;
    let second = catalog
        .run(allocate("spiffe://ch-zrh/node/n4"))
        .expect("a node")
        .node_id;
    assert!(first > FIRST_ALLOCATED_NODE_ID && second > first);
    assert_eq!(
        allocated(&catalog.state, NodeId(first)).as_deref(),
        Some("spiffe://ch-zrh/node/n4")
    );
    for bad in ["n4", "spiffe://ch-zrh/gateway/g1"] {
        assert_eq!(reason(catalog.run(allocate(bad))), Refusal::Malformed);
    }
}

#[test]
fn an_unknown_command_stops_the_replica() {
    let mut catalog = Catalog::founded();
    let empty = v1::CatalogCommand {
        now_ms: 1,
        ..Default::default()
    };
    catalog
        .apply_bytes(empty.encode_to_vec().into())
        .expect_err("no kind");
    catalog
        .apply_bytes(Bytes::from_static(&[0xFF, 0xFF]))
        .expect_err("no command");
    let mut long = Command::PlaceDataset(v1::PlaceDataset::default());
    if let Command::PlaceDataset(place) = &mut long {
        place.dataset_id = Bytes::from(vec![0; COMMAND_BYTES_MAX]);
    }
    assert_eq!(reason(catalog.run(long)), Refusal::Malformed);
}

#[test]
fn listings_page_by_name_and_show_what_policy_allows() {
    let mut catalog = Catalog::founded();
    for (n, name) in ["aaa", "bbb", "ccc", "ddd"].into_iter().enumerate() {
        catalog.run(place(n as u8, 16)).expect("placed");
        catalog.run(publish(name, n as u8, 16)).expect("free");
    }
    let names = |after: &str, limit, hidden: &str| {
        let reply = list(&catalog.state, after, limit, &mut |record| {
            record.name != hidden
        });
        let names: Vec<_> = reply
            .datasets
            .into_iter()
            .map(|record| record.name)
            .collect();
        (names.join(" "), reply.truncated, reply.next_start_after)
    };
    assert_eq!(
        names("", 0, ""),
        ("aaa bbb ccc ddd".into(), false, "".into())
    );
    assert_eq!(names("", 2, ""), ("aaa bbb".into(), true, "bbb".into()));
    assert_eq!(names("bbb", 2, ""), ("ccc ddd".into(), false, "".into()));
    assert_eq!(names("", 2, "bbb"), ("aaa ccc".into(), true, "ccc".into()));
}

#[test]
fn golden_bytes_of_the_catalog() {
    let mut catalog = Catalog::founded();
    catalog.run(place(1, 16)).expect("placed");
    catalog.run(publish("cti", 1, 16)).expect("free");
    let dump: Vec<_> = catalog
        .state
        .iter()
        .map(|(key, value)| format!("{} {}", hex::encode(key), hex::encode(value)))
        .collect();
    let id = "01".repeat(16);
    assert_eq!(
        dump,
        [
            "01 0100000000000003e80000000000000001".to_owned(),
            "02 0a0663682d7a7268120243481a021011".to_owned(),
            format!("10637469 08011210{id}1810220363746928e807"),
            format!("11{id} 637469"),
            format!("12{id} 0000000000000010"),
        ]
    );
}

proptest! {
    #[test]
    fn invariants_hold_after_any_sequence(
        steps in prop::collection::vec((0u8..4, 0u8..3, 15u64..18, 0usize..3), 1..40)
    ) {
        let mut catalog = Catalog::founded();
        let names = ["aaa", "bbb", "ccc"];
        for (what, n, shard, name) in steps {
            // Refusals are answers too; the fixture checks the invariants after each.
            let _ = match what {
                0 => catalog.run(place(n, shard)),
                1 => catalog.run(publish(names[name], n, shard)),
                2 => catalog.run(unpublish(names[name], n)),
                _ => catalog.run(Command::FoundRegion(region())),
            };
        }
    }
}
