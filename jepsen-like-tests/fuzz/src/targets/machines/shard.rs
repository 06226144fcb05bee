//! Commands of a shard and of the catalog.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bytes::Bytes;
use node_state::{At, CatalogMachine, ShardMachine, Unknown, invariants};
use prost::Message as _;
use proto::ids::{LogIndex, NodeId};
use proto::store::MemoryStore;
use proto::v1;

use super::{COMMANDS_MAX, fixture, list_of};
use crate::mutate::repeated;
use crate::{Memory, Shape, Source, Target};

pub(crate) const SHARD_COMMANDS: Target = Target {
    name: "shard-commands",
    from: Source::Network,
    parses: &["node/state/src/shard.rs: apply"],
    shape: Shape::MESSAGE,
    len_max: 4096,
    memory: Memory {
        // A state of some dozen records, cloned for each command.
        fixed: 4 << 20,
        per_byte: 4096,
    },
    check: shard,
    seeds: || fixture::shard_seeds().iter().map(list_of).collect(),
};

pub(crate) const CATALOG_COMMANDS: Target = Target {
    name: "catalog-commands",
    from: Source::Network,
    parses: &["node/state/src/catalog.rs: apply"],
    shape: Shape::MESSAGE,
    len_max: 2048,
    memory: Memory {
        fixed: 4 << 20,
        per_byte: 4096,
    },
    check: catalog,
    seeds: || fixture::catalog_seeds().iter().map(list_of).collect(),
};

/// A shard's replica.
#[derive(Clone, PartialEq)]
pub(super) struct Shard {
    pub(super) state: MemoryStore,
    local: MemoryStore,
    index: u64,
}

/// Members 1 to 3 vote.
fn voters(nodes: &BTreeSet<NodeId>) -> bool {
    (1..=3).filter(|id| nodes.contains(&NodeId(*id))).count() >= 2
}

fn at(index: u64) -> At<'static> {
    At {
        index: LogIndex(index),
        voters: &voters,
        level: node_state::shard::METADATA_LEVEL,
    }
}

impl Shard {
    fn apply(&mut self, command: &Bytes) -> Result<Bytes, Unknown> {
        self.index += 1;
        ShardMachine.apply(at(self.index), command, &mut self.state, &mut self.local)
    }
}

/// The shard that inputs are applied to.
pub(super) fn grown() -> &'static Shard {
    static GROWN: OnceLock<Shard> = OnceLock::new();
    GROWN.get_or_init(|| {
        let mut shard = Shard {
            state: MemoryStore::default(),
            local: MemoryStore::default(),
            index: 0,
        };
        for command in fixture::shard_history() {
            let answer = shard.apply(&fixture::encoded(&command)).expect("known");
            let answer = v1::ShardAnswer::decode(answer).expect("an answer");
            let done = matches!(answer.answer, Some(v1::shard_answer::Answer::Done(_)));
            assert!(done, "{command:?}: {answer:?}");
        }
        shard
    })
}

fn shard(data: &[u8]) {
    let mut shard = grown().clone();
    for command in repeated(data).into_iter().take(COMMANDS_MAX) {
        let command = Bytes::from(command);
        let mut other = shard.clone();
        let before = shard.clone();
        let answer = shard.apply(&command);
        assert_eq!(answer, other.apply(&command), "two replicas answer alike");
        assert!(shard == other, "two replicas come to the same state");
        match answer {
            Ok(answer) => {
                let answer = v1::ShardAnswer::decode(answer).expect("own answer");
                assert!(answer.answer.is_some());
            }
            Err(_) => {
                assert!(shard.state == before.state && shard.local == before.local);
                return;
            }
        }
        if let Err(violation) = invariants::shard(&shard.state) {
            panic!("{violation}");
        }
    }
}

fn catalog(data: &[u8]) {
    static GROWN: OnceLock<MemoryStore> = OnceLock::new();
    let grown = GROWN.get_or_init(|| {
        let mut state = MemoryStore::default();
        for (index, command) in (1..).zip(fixture::catalog_history()) {
            let command = fixture::encoded(&command);
            let answer = CatalogMachine.apply(at(index), &command, &mut state);
            let answer = v1::CatalogAnswer::decode(answer.expect("known")).expect("an answer");
            let done = matches!(answer.answer, Some(v1::catalog_answer::Answer::Done(_)));
            assert!(done, "{answer:?}");
        }
        state
    });
    let mut state = grown.clone();
    for (index, command) in (100..).zip(repeated(data).into_iter().take(COMMANDS_MAX)) {
        let command = Bytes::from(command);
        let (mut other, before) = (state.clone(), state.clone());
        let answer = CatalogMachine.apply(at(index), &command, &mut state);
        let again = CatalogMachine.apply(at(index), &command, &mut other);
        assert_eq!(answer, again, "two replicas answer alike");
        assert!(state == other, "two replicas come to the same state");
        match answer {
            Ok(answer) => drop(v1::CatalogAnswer::decode(answer).expect("own answer")),
            Err(_) => {
                assert!(state == before);
                return;
            }
        }
        if let Err(violation) = invariants::catalog(&state) {
            panic!("{violation}");
        }
    }
}
