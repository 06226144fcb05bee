use super::*;
use crate::testing::{info, ok};

fn release(leaf: u64, call: u64, ret: u64) -> Op {
    let release = Release {
        leaf,
        version: format!("v{leaf}"),
        principal: "app".to_owned(),
        purpose: "service".to_owned(),
    };
    let value = serde_json::to_value(release).expect("plain data");
    ok(1, F::Release, value, call, ret)
}

fn leaf(index: u64) -> LeafRead {
    LeafRead {
        index,
        hash: format!("h{index}"),
        kind: OPEN.to_owned(),
        principal: Some("app".to_owned()),
        purpose: "service".to_owned(),
        versions: vec![format!("v{index}"), "other".to_owned()],
    }
}

fn page(leaves: &[LeafRead]) -> Op {
    let value = serde_json::to_value(leaves).expect("plain data");
    ok(9, F::Leaves, value, 1_000, 1_001)
}

fn last(op: Op) -> Op {
    Op { last: true, ..op }
}

fn head(size: u64, root: &str, call: u64, ret: u64) -> Op {
    let head = TreeHead {
        size,
        root: root.to_owned(),
    };
    let value = serde_json::to_value(head).expect("plain data");
    ok(8, F::TreeHead, value, call, ret)
}

fn only(ops: &[Op]) -> String {
    let anomalies = judge(ops);
    assert!(!anomalies.is_empty(), "nothing found in {ops:#?}");
    anomalies[0].what.clone()
}

#[test]
fn recorded_releases_are_well() {
    let ops = [
        release(0, 0, 10),
        release(1, 5, 15),
        // Two that waited together share a leaf.
        release(1, 6, 16),
        info(2, F::Release, serde_json::Value::Null, 17),
        head(2, "r2", 0, 20),
        // A replica that lags answers an older head.
        head(1, "r1", 30, 40),
        page(&[leaf(0)]),
        last(page(&[leaf(0), leaf(1)])),
        last(page(&[leaf(2)])),
        last(head(1, "r1", 50, 60)),
        last(head(2, "r2", 50, 60)),
    ];
    assert_eq!(judge(&ops), []);
}

#[test]
fn a_release_without_its_leaf_is_found() {
    let gone = [release(1, 0, 10), last(page(&[leaf(0)]))];
    assert!(only(&gone).contains("is not in the log"));
    let change = |change: fn(&mut LeafRead)| {
        let mut leaf = leaf(0);
        change(&mut leaf);
        only(&[release(0, 0, 10), last(page(&[leaf]))])
    };
    assert!(change(|leaf| leaf.kind = "lease".to_owned()).contains("records a lease"));
    assert!(change(|leaf| leaf.versions.clear()).contains("version"));
    assert!(change(|leaf| leaf.principal = None).contains("principal"));
    assert!(change(|leaf| leaf.purpose = "audit".to_owned()).contains("purpose"));
    assert!(only(&[release(0, 0, 10)]).contains("not read at the end"));
}

#[test]
fn a_log_that_changed_shrank_or_has_a_gap_is_found() {
    let mut other = leaf(0);
    other.hash = "other".to_owned();
    assert!(only(&[page(&[leaf(0)]), last(page(&[other]))]).contains("changed"));
    assert!(only(&[page(&[leaf(1)]), last(page(&[leaf(0)]))]).contains("is gone"));
    assert!(only(&[last(page(&[leaf(0), leaf(2)]))]).contains("gap"));
    assert!(only(&[last(page(&[leaf(1)]))]).contains("leaf 0 was not read"));
}

#[test]
fn a_record_made_after_its_release_is_found() {
    let log = last(page(&[leaf(0), leaf(1)]));
    let behind = [release(1, 0, 10), release(0, 20, 30), log.clone()];
    assert!(only(&behind).contains("before it was asked for"));
    let older = [
        head(2, "r2", 0, 10),
        release(1, 20, 30),
        log,
        last(head(2, "r2", 50, 60)),
    ];
    assert!(only(&older).contains("before it was asked for"));
}

#[test]
fn a_head_that_is_not_of_the_log_is_found() {
    let log = last(page(&[leaf(0), leaf(1)]));
    let forked = [
        head(1, "x", 0, 10),
        log.clone(),
        last(head(1, "r1", 50, 60)),
    ];
    assert!(only(&forked).contains("is not that of its leaves"));
    let longer = [head(3, "r3", 0, 10), log.clone()];
    assert!(only(&longer).contains("more leaves than there are"));
    let unseen = [head(2, "r2", 0, 10), log];
    assert!(only(&unseen).contains("was not compared"));
}
