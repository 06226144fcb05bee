//! Claims about the log: read back in order, proven, one dataset's slice complete.

use kms_state::{LeavesAsked, StateHashes};
use proto::ids::LeafIndex;
use tlog::{ProveError, verify_consistency, verify_inclusion};

use crate::lab::{Lab, OTHER};

fn busy() -> Lab {
    let mut lab = Lab::with_key();
    let create = lab.create(OTHER, 2).expect("granted");
    lab.done(&create);
    for n in 0..40 {
        let records = vec![
            lab.open(n).expect("granted"),
            lab.lease(n + 100, n).expect("granted"),
        ];
        lab.records(records);
    }
    lab
}

#[test]
fn leaves_are_read_back_in_order_by_pages() {
    let lab = busy();
    let ask = |start, limit, bytes_max, with_openings| {
        let start = LeafIndex(start);
        let asked = LeavesAsked {
            start,
            limit,
            bytes_max,
            with_openings,
        };
        kms_state::leaves(&lab.state, asked)
    };
    let all = ask(0, u32::MAX, usize::MAX, true);
    assert_eq!(all.len() as u64, lab.size());
    assert!((0..).zip(&all).all(|(index, entry)| entry.index == index));
    assert!(all.iter().all(|entry| !entry.openings.is_empty()));
    let page = ask(7, 5, usize::MAX, false);
    assert_eq!(
        page.iter().map(|entry| entry.index).collect::<Vec<_>>(),
        [7, 8, 9, 10, 11]
    );
    assert!(page.iter().all(|entry| entry.openings.is_empty()));
    assert_eq!(page[0].leaf, all[7].leaf);
    assert_eq!(ask(3, 100, 1, false).len(), 1, "one leaf always comes");
    assert!(ask(lab.size(), 10, usize::MAX, false).is_empty());
    assert!(ask(0, 0, usize::MAX, false).is_empty());
}

#[test]
fn every_leaf_is_proven_and_every_size_extends_the_ones_before() {
    let lab = busy();
    let head = kms_state::tree_head(&lab.state).expect("initialised");
    let hashes = StateHashes(&lab.state);
    let ask = LeavesAsked {
        start: LeafIndex(0),
        limit: u32::MAX,
        bytes_max: usize::MAX,
        with_openings: false,
    };
    for entry in kms_state::leaves(&lab.state, ask) {
        let index = LeafIndex(entry.index);
        let (proof, root) = hashes.inclusion(index, head.size).expect("in the tree");
        assert_eq!(root, head.root);
        let leaf = tlog::leaf_hash(&entry.leaf);
        verify_inclusion(&leaf, index, head.size, &proof, &root).expect("own proof");
    }
    for old in 1..=head.size {
        let old_root = tlog::root_at(&hashes, old).expect("stored");
        let (proof, root) = hashes.consistency(old, head.size).expect("sizes in order");
        verify_consistency(old, &old_root, head.size, &root, &proof).expect("own proof");
    }
    let beyond = hashes.inclusion(LeafIndex(head.size), head.size + 1);
    assert!(matches!(
        beyond,
        Err(ProveError::MissingHash { level: 0, .. })
    ));
}

#[test]
fn what_everyone_sees_names_nobody() {
    let lab = busy();
    let ask = LeavesAsked {
        start: LeafIndex(0),
        limit: u32::MAX,
        bytes_max: usize::MAX,
        with_openings: false,
    };
    for entry in kms_state::leaves(&lab.state, ask) {
        let text = String::from_utf8(entry.leaf.to_vec()).expect("JSON");
        for hidden in ["spiffe", "gateway", "ch-zrh", "operator"] {
            assert!(!text.contains(hidden), "{hidden} in leaf {}", entry.index);
        }
    }
}
