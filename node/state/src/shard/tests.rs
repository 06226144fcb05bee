//! One claim a test: each refusal, each table's upkeep, golden bytes.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, LogIndex, RequestId, UploadEpoch};
use proto::store::{MemoryStore, Reader as _, Writer as _};
use proto::v1;
use proto::v1::Refusal;
use proto::v1::shard_command::Command;

use super::fixture::*;
use crate::listing::{ObjectsQuery, VersionsQuery, objects, versions};
use crate::{keys, limits, local, read};

type Spoil<T> = fn(&mut T);

mod conditions;
mod datasets;
mod kept;
mod listings;
mod receipts;
mod requests;
mod tokens;

/// The state a fixed log leaves, byte for byte. A difference is a change of the disk format: it needs a feature
/// level and a migration, not a new golden file.
#[test]
fn golden_bytes_of_the_state() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    done(shard.run(Command::PutObject(put("a", version(1)))));
    done(shard.run(Command::FinishObject(finish("a", version(2), &[1, 2]))));
    done(shard.run(Command::FinishObject(finish("b/c", version(3), &[1, 2]))));
    shard.advance_epoch();
    done(shard.run(Command::DeleteObject(delete_with_marker("a", version(4)))));
    done(shard.run(Command::DeleteObject(delete_version("b/c", version(3)))));
    let mut dump = String::new();
    for (of, store) in [("state", &shard.state), ("local", &shard.local)] {
        for (key, value) in store.iter() {
            dump += &format!("{of} {} {}\n", hex::encode(key), hex::encode(value));
        }
    }
    let golden = include_str!("golden_state.txt");
    assert!(
        dump == golden,
        "the state differs from golden_state.txt; it is now:\n{dump}"
    );
}

fn set_versioning(shard: &mut Shard, enabled: bool) {
    let set = v1::SetVersioning {
        dataset_id: DATASET.into(),
        enabled,
    };
    done(shard.run(Command::SetVersioning(set)));
}

fn key_state(state: v1::KeyState, version: u64, min_kek_version: u32) -> Command {
    Command::SetKeyState(v1::SetKeyState {
        dataset_id: DATASET.into(),
        state: state.into(),
        version,
        min_kek_version,
    })
}

/// One command of each kind that names a dataset, but for creating and dropping it.
fn on_dataset() -> Vec<Command> {
    vec![
        Command::PutObject(put("a", version(1))),
        Command::FinishObject(finish("a", version(1), &[1, 2])),
        Command::DeleteObject(delete("a")),
        register([2; 16], HOLDER),
        key_state(v1::KeyState::Disabled, 9, 1),
        Command::SetVersioning(v1::SetVersioning {
            dataset_id: DATASET.into(),
            enabled: true,
        }),
    ]
}

fn names(page: &v1::ListVersionsReply) -> Vec<(String, String)> {
    let id = |listed: &v1::ListedObject| {
        hex::encode(
            &listed
                .entry
                .as_ref()
                .expect("listed with its entry")
                .version_id,
        )
    };
    page.versions
        .iter()
        .map(|listed| (listed.key.clone(), id(listed)))
        .collect()
}

fn all_versions(shard: &Shard) -> Vec<(String, String)> {
    let page = versions(
        &shard.state,
        VersionsQuery {
            dataset: &DATASET,
            prefix: "",
            start_after_key: "",
            start_after_index: LogIndex(0),
            limit: 0,
        },
    );
    names(&page)
}

fn drop_done(answer: v1::ShardAnswer) {
    done(answer);
}
