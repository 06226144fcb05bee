//! Listings of a shard and of the catalog, for any prefix, delimiter and place to go on from.

use node_state::listing::{self, ObjectsQuery, VersionsQuery};
use node_state::{keys, read};
use proto::ids::LogIndex;
use proto::v1;

use super::fixture::VERSIONED;
use super::shard::grown;
use crate::input::Input;
use crate::known::DATASET;
use crate::{Memory, Shape, Source, Target};

pub(crate) const LISTING: Target = Target {
    name: "listing",
    from: Source::Network,
    parses: &[
        "node/state/src/keys.rs: object_key",
        "node/state/src/keys.rs: older_index",
        "node/state/src/keys.rs: garbage_parts",
    ],
    shape: Shape::Bytes,
    len_max: 256,
    memory: Memory::PARSER,
    check,
    seeds,
};

/// Pages of one listing; there are fewer records.
const PAGES_MAX: usize = 64;

fn check(data: &[u8]) {
    record_keys(data);
    let mut input = Input::new(data);
    let dataset = input.pick(&[DATASET, VERSIONED]);
    let limit = usize::from(input.u8() % 5);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let prefix = text(input.short());
    let delimiter = text(input.short());
    let start_after = text(input.short());
    let state = &grown().state;
    let page = |start_after: &str, limit| {
        let query = ObjectsQuery {
            dataset: &dataset,
            prefix: &prefix,
            delimiter: &delimiter,
            start_after,
            limit,
        };
        listing::objects(state, query)
    };
    let whole = page(&start_after, 0);
    assert!(!whole.truncated, "a small dataset is one page");
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    let mut from = start_after.clone();
    for turn in 0.. {
        assert!(turn < PAGES_MAX, "a listing does not end");
        let page = page(&from, limit);
        objects.extend(page.objects);
        prefixes.extend(page.common_prefixes);
        if !page.truncated {
            break;
        }
        assert!(page.next_start_after > from, "a page does not go on");
        from = page.next_start_after;
    }
    assert_eq!(objects, whole.objects, "pages together are the whole");
    assert_eq!(prefixes, whole.common_prefixes);
    sorted(&whole, &prefix, &start_after);
    versions(&mut input, &prefix, &start_after);
    // A key of any text finds an object or none.
    drop(read::object(state, &dataset, &start_after, None));
}

fn sorted(whole: &v1::ListObjectsReply, prefix: &str, start_after: &str) {
    let keys: Vec<_> = whole
        .objects
        .iter()
        .map(|object| object.key.as_str())
        .collect();
    assert!(keys.is_sorted_by(|a, b| a < b));
    assert!(whole.common_prefixes.is_sorted_by(|a, b| a < b));
    let within = |key: &str| key.starts_with(prefix) && key > start_after;
    assert!(
        keys.into_iter().all(within),
        "an object outside of what was asked for"
    );
    assert!(
        whole
            .common_prefixes
            .iter()
            .all(|common| common.starts_with(prefix))
    );
}

fn versions(input: &mut Input<'_>, prefix: &str, start_after_key: &str) {
    let state = &grown().state;
    let limit = usize::from(input.u8() % 5);
    let page = |key: &str, index, limit| {
        let query = VersionsQuery {
            dataset: &VERSIONED,
            prefix,
            start_after_key: key,
            start_after_index: LogIndex(index),
            limit,
        };
        listing::versions(state, query)
    };
    let start = (start_after_key.to_owned(), input.number());
    let whole = page(&start.0, start.1, 0);
    assert!(!whole.truncated, "a small dataset is one page");
    let (mut found, mut from) = (Vec::new(), start);
    for turn in 0.. {
        assert!(turn < PAGES_MAX, "a listing does not end");
        let page = page(&from.0, from.1, limit);
        found.extend(page.versions);
        if !page.truncated {
            break;
        }
        from = (page.next_key, page.next_index);
    }
    assert_eq!(found, whole.versions, "pages together are the whole");
}

/// Keys of records, as a damaged state would hold them.
fn record_keys(data: &[u8]) {
    if let Some((key, rest)) = keys::object_key(data) {
        let table = data[0];
        let mut again = keys::object_prefix(table, &DATASET, &key);
        again[1..17].copy_from_slice(&data[1..17]);
        again.extend_from_slice(&[0, 1]);
        again.extend_from_slice(rest);
        assert_eq!(again, data, "one encoding");
    }
    if let Some((epoch, id)) = keys::garbage_parts(data) {
        assert_eq!(keys::garbage(epoch, &id)[1..], data[1..]);
    }
    let _ = keys::older_index(data);
}

fn seeds() -> Vec<Vec<u8>> {
    let of = |which: u8, limit: u8, texts: [&str; 3]| {
        let texts = texts.map(|text| [&[text.len() as u8], text.as_bytes()].concat());
        [&[which, limit], &texts.concat()[..], &[1, 0]].concat()
    };
    let stored = keys::older(&DATASET, "a\0b", LogIndex(3));
    vec![
        of(0, 1, ["", "", ""]),
        of(0, 1, ["a/", "", "a/1"]),
        of(1, 2, ["", "/", ""]),
        of(1, 1, ["é", "\0", "k"]),
        stored,
        keys::garbage(
            proto::ids::UploadEpoch(3),
            &proto::ids::ObjectVersionId([1; 16]),
        ),
    ]
}
