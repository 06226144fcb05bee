//! Listings, and what is local to a replica.

use super::*;

#[test]
fn listings_fold_page_and_skip_markers() {
    let mut shard = Shard::new();
    let keys = ["a/1", "a/2", "a/b/3", "b", "c/", "c/1", "d\0e", "é/x"];
    for (n, key) in keys.iter().enumerate() {
        done(shard.run(Command::PutObject(put(key, version(n as u64)))));
    }
    set_versioning(&mut shard, true);
    done(shard.run(Command::DeleteObject(delete_with_marker(
        "a/2",
        version(50),
    ))));
    let list = |prefix: &str, delimiter: &str, start_after: &str, limit| {
        let dataset = &DATASET;
        objects(
            &shard.state,
            ObjectsQuery {
                dataset,
                prefix,
                delimiter,
                start_after,
                limit,
            },
        )
    };
    let shown = |reply: &v1::ListObjectsReply| {
        (
            reply
                .objects
                .iter()
                .map(|o| o.key.clone())
                .collect::<Vec<_>>()
                .join(" "),
            reply.common_prefixes.join(" "),
        )
    };
    let all = list("", "", "", 0);
    assert_eq!(shown(&all).0, "a/1 a/b/3 b c/ c/1 d\0e é/x");
    assert!(!all.truncated);
    assert_eq!(
        shown(&list("", "/", "", 0)),
        ("b d\0e".into(), "a/ c/ é/".into())
    );
    assert_eq!(
        shown(&list("a/", "/", "", 0)),
        ("a/1".into(), "a/b/".into())
    );
    assert_eq!(shown(&list("c/", "/", "", 0)), ("c/ c/1".into(), "".into()));
    assert_eq!(shown(&list("zz", "/", "", 0)), ("".into(), "".into()));
    assert_eq!(shown(&list("", "", "c/", 0)).0, "c/1 d\0e é/x");
    assert_eq!(
        shown(&list("", "/", "a/1", 0)).1,
        "a/ c/ é/",
        "the prefix goes on after a key in it"
    );
    assert_eq!(
        shown(&list("b", "", "a", 0)).0,
        "b",
        "a start before the prefix"
    );
    assert_eq!(
        shown(&list("a/", "", "b", 0)).0,
        "",
        "a start after the prefix"
    );
    // Page by page gives what one page gives, whatever the page size.
    for (delimiter, limit) in [("", 1), ("", 2), ("", 3), ("/", 1), ("/", 2), ("/", 3)] {
        let whole = list("", delimiter, "", 0);
        let (mut after, mut seen, mut folded) = (String::new(), Vec::new(), Vec::new());
        loop {
            let page = list("", delimiter, &after, limit);
            assert!(page.objects.len() + page.common_prefixes.len() <= limit);
            seen.extend(page.objects);
            folded.extend(page.common_prefixes);
            if !page.truncated {
                break;
            }
            after = page.next_start_after;
        }
        assert_eq!(
            (seen, folded),
            (whole.objects, whole.common_prefixes),
            "{delimiter:?} {limit}"
        );
    }
}

#[test]
fn listings_of_versions_page_within_one_key() {
    let mut shard = Shard::new();
    set_versioning(&mut shard, true);
    for n in 0..9 {
        let key = ["a", "b", "ba"][n as usize % 3];
        done(shard.run(Command::PutObject(put(key, version(n)))));
    }
    done(shard.run(Command::DeleteObject(delete_with_marker("b", version(9)))));
    let whole = all_versions(&shard);
    let order: Vec<_> = whole.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(order, ["a", "a", "a", "b", "b", "b", "b", "ba", "ba", "ba"]);
    assert_eq!(whole[3].1, version(9).to_string(), "the newest first");
    for limit in 1..5 {
        let (mut seen, mut key, mut index) = (Vec::new(), String::new(), 0);
        loop {
            let page = versions(
                &shard.state,
                VersionsQuery {
                    dataset: &DATASET,
                    prefix: "",
                    start_after_key: &key,
                    start_after_index: LogIndex(index),
                    limit,
                },
            );
            assert!(page.versions.len() <= limit);
            seen.extend(names(&page));
            if !page.truncated {
                break;
            }
            (key, index) = (page.next_key, page.next_index);
        }
        assert_eq!(seen, whole, "{limit}");
    }
}

#[test]
fn what_is_local_does_not_change_the_state() {
    let mut shard = Shard::new();
    for n in 0..6 {
        done(shard.run(Command::FinishObject(finish(
            ["a", "b"][n as usize % 2],
            version(n),
            &[1, 2],
        ))));
    }
    let mut other = Shard::empty();
    for (at, command) in shard.log.clone().into_iter().enumerate() {
        other.local = MemoryStore::default();
        other
            .local
            .put(&local::missing(&version(at as u64), 0), &1u64.to_be_bytes());
        other.apply_bytes(command).expect("a known command");
    }
    assert_eq!(other.state, shard.state);
}

#[test]
fn after_a_snapshot_every_referenced_block_is_looked_for_again() {
    let mut shard = Shard::new();
    done(shard.run(Command::FinishObject(finish("a", version(1), &[1, 2]))));
    let finished = shard.index;
    done(shard.run(Command::PutObject(put("b", version(2)))));
    let mut replica = MemoryStore::default();
    replica.put(&local::missing(&version(77), 0), &1u64.to_be_bytes());
    local::reset(LogIndex(shard.index), &shard.state, &mut replica);
    let keys: Vec<_> = replica.iter().map(|(key, _)| key.to_vec()).collect();
    assert_eq!(keys, [local::fresh(LogIndex(finished), &version(1))]);
}
