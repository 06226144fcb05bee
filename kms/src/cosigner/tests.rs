//! The cosigner's files: made once, kept, and never a smaller tree.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use tlog::{Frontier, HashReader, Note, StoredAt, leaf_hash};

use super::*;

struct Tree(Frontier, BTreeMap<StoredAt, Hash>);

impl Tree {
    fn of(leaves: u64) -> Self {
        let mut tree = Self(Frontier::default(), BTreeMap::new());
        for i in 0..leaves {
            let hashes = &mut tree.1;
            let stored = &mut |at, hash| {
                hashes.insert(at, hash);
            };
            let leaf = leaf_hash(&i.to_be_bytes());
            tree.0.append(leaf, stored).expect("room");
        }
        tree
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::new(origin(), self.0.size(), self.0.root()).expect("a checkpoint")
    }
}

impl HashReader for Tree {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        (first.index..first.index + count)
            .map(|index| self.1.get(&StoredAt { index, ..first }).copied())
            .collect()
    }
}

fn origin() -> OriginLine {
    "ch-zrh/main/1".parse().expect("an origin")
}

fn name() -> KeyName {
    "ch-zrh/kms-1".parse().expect("a name")
}

fn open(folder: &Path) -> Result<Cosigner, CosignerError> {
    Cosigner::open(folder, &name(), &origin())
}

fn cosign(cosigner: &Cosigner, asked: &Tree, own: &Tree) -> Result<Signature, CosignError> {
    let tree = OwnTree {
        origin: &origin(),
        size: own.0.size(),
        hashes: own,
    };
    let time = UnixSeconds::new(1_800_000_000).expect("a time");
    cosigner.cosign(&asked.checkpoint(), &tree, time)
}

#[test]
fn a_key_is_made_once_for_its_owner_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = open(folder.path()).expect("made").verifier().clone();
    assert_eq!(open(folder.path()).expect("kept").verifier(), &key);
    let path = folder.path().join(KEY_FILE);
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    let is = std::fs::metadata(&path)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(is & 0o777, 0o600);
    mode(0o640).expect("changed");
    assert!(matches!(
        open(folder.path()),
        Err(CosignerError::Readable { mode: 0o640, .. })
    ));
    mode(0o600).expect("changed");
    let other = Cosigner::open(
        folder.path(),
        &"ch-zrh/kms-2".parse().expect("a name"),
        &origin(),
    );
    assert!(matches!(other, Err(CosignerError::OtherKey { .. })));
}

#[test]
fn what_was_cosigned_outlives_the_process_and_is_never_taken_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let (small, large) = (Tree::of(5), Tree::of(9));
    let key = {
        let cosigner = open(folder.path()).expect("made");
        let line = cosign(&cosigner, &large, &large).expect("its own tree");
        let note = Note::new(large.checkpoint().to_string(), vec![line]).expect("a note");
        let key = cosigner.verifier().clone();
        note.verify(std::slice::from_ref(&key))
            .expect("its own signature");
        key
    };
    let again = open(folder.path()).expect("kept");
    assert_eq!(again.verifier(), &key);
    let refused = cosign(&again, &small, &large).expect_err("smaller than before");
    assert!(matches!(
        refused,
        CosignError::Refused(OwnTreeRefused::Smaller { last: 9, asked: 5 })
    ));
    cosign(&again, &large, &large).expect("the same again");
}

/// The slot that was being written when the power went is not whole; the one before is, and nothing newer was signed.
#[test]
fn a_write_that_was_cut_off_leaves_what_was_cosigned_before() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(memory::FILE);
    let cosigner = open(folder.path()).expect("made");
    for leaves in 1..6 {
        let before = std::fs::read(&path).expect("there");
        cosign(&cosigner, &Tree::of(leaves), &Tree::of(9)).expect("its own tree");
        let after = std::fs::read(&path).expect("there");
        let written = (0..after.len()).filter(|at| before[*at] != after[*at]);
        let written: Vec<_> = written.collect();
        for cut in [0, 1, written.len() / 2, written.len() - 1] {
            let mut torn = after.clone();
            for at in &written[cut..] {
                torn[*at] = before[*at];
            }
            std::fs::write(&path, torn).expect("written");
            let last = Memory::open(folder.path()).expect("one slot is whole");
            assert_eq!(last.last().size(), leaves - 1, "cut after {cut} bytes");
        }
        std::fs::write(&path, after).expect("written");
        let last = Memory::open(folder.path()).expect("both are whole");
        assert_eq!(last.last().size(), leaves);
    }
}

/// Builds before kept the text of one checkpoint.
#[test]
fn the_memory_of_builds_before_is_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = open(folder.path()).expect("made").verifier().clone();
    let (small, large) = (Tree::of(5), Tree::of(9));
    let path = folder.path().join(memory::FILE);
    std::fs::write(&path, large.checkpoint().to_string()).expect("written");
    for _ in 0..2 {
        let cosigner = open(folder.path()).expect("kept");
        assert_eq!(cosigner.verifier(), &key);
        let refused = cosign(&cosigner, &small, &large).expect_err("smaller than before");
        assert!(matches!(refused, CosignError::Refused(_)), "{refused}");
        cosign(&cosigner, &large, &large).expect("the same again");
    }
}

/// A key that forgot what it cosigned could be made to cosign a fork.
#[test]
fn a_key_without_its_memory_does_not_start() {
    let folder = tempfile::tempdir().expect("a folder");
    open(folder.path()).expect("made");
    let path = folder.path().join(memory::FILE);
    std::fs::write(&path, "ch-zrh/main/1\n9\n").expect("damaged");
    assert!(matches!(
        open(folder.path()),
        Err(CosignerError::Forgotten {
            source: Some(_),
            ..
        })
    ));
    std::fs::write(&path, [7; 8192]).expect("damaged");
    assert!(matches!(
        open(folder.path()),
        Err(CosignerError::Forgotten { source: None, .. })
    ));
    std::fs::remove_file(&path).expect("removed");
    assert!(matches!(
        open(folder.path()),
        Err(CosignerError::Forgotten { source: None, .. })
    ));
    // A new key has promised nothing.
    std::fs::remove_file(folder.path().join(KEY_FILE)).expect("removed");
    let tree = Tree::of(3);
    cosign(&open(folder.path()).expect("made anew"), &tree, &tree).expect("cosigned");
}

/// Not durable, not cosigned: the folder is gone.
#[test]
fn nothing_is_cosigned_that_could_not_be_remembered() {
    let folder = tempfile::tempdir().expect("a folder");
    let cosigner = open(folder.path()).expect("made");
    folder.close().expect("removed");
    let tree = Tree::of(3);
    let refused = cosign(&cosigner, &tree, &tree).expect_err("no disk");
    assert!(matches!(refused, CosignError::NotDurable(_)));
    assert!(
        cosigner.failed().now_or_never().is_none(),
        "no reason to end"
    );
}

/// Seed 20261125 of the soak: a replica whose disk failed a sync ran on.
#[test]
fn a_disk_that_fails_to_sync_what_is_cosigned_is_a_reason_to_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut cosigner = open(folder.path()).expect("made");
    let tree = Tree::of(3);
    cosign(&cosigner, &tree, &tree).expect("cosigned");
    cosigner.sync = |_| Err(std::io::Error::from_raw_os_error(5));
    let larger = Tree::of(4);
    let refused = cosign(&cosigner, &larger, &larger).expect_err("not synced");
    assert!(matches!(
        refused,
        CosignError::NotDurable(NotInPlace::Unsynced(_))
    ));
    let why = cosigner.failed().now_or_never().expect("a reason to end");
    assert_eq!(why.raw_os_error(), Some(5));
}
