//! What a replica decides that has the tree itself and is asked to cosign it.
//!
//! Owns the decision and the order "checked, persisted, signed", as `witness` does for those who see
//! only proofs: a cosignature exists only by way of [`OwnTreeAccepted::persist`]. Refuses a checkpoint that its own tree
//! does not have, one smaller than what it cosigned before, and everything once its own tree contradicts that: it
//! has gone back, or was never the same. The caller holds one lock from reading what was cosigned until it is persisted.

use crate::checkpoint::{Checkpoint, OriginLine};
use crate::cosignature::UnixSeconds;
use crate::hash::Hash;
use crate::note::Signature;
use crate::proof::{HashReader, ProveError, root_at};
use crate::signer::{SignError, SignerKey};

/// The tree as it stands in this replica's own state.
pub struct OwnTree<'t> {
    /// The log.
    pub origin: &'t OriginLine,
    /// Leaves applied here.
    pub size: u64,
    /// Their hashes.
    pub hashes: &'t dyn HashReader,
}

/// Why a replica does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnTreeRefused {
    /// Not the log it replicates.
    #[error("the checkpoint is of another log than the one replicated here")]
    OtherOrigin,
    /// Nobody audits them.
    #[error("the checkpoint has extension lines")]
    ExtensionLines,
    /// It lags; asked again later it may cosign.
    #[error("the tree here has {have} leaves, the checkpoint {asked}")]
    Behind {
        /// Leaves applied here.
        have: u64,
        /// Leaves of the checkpoint.
        asked: u64,
    },
    /// It has cosigned more.
    #[error("{last} leaves were cosigned here before, the checkpoint has {asked}")]
    Smaller {
        /// Leaves of what it cosigned last.
        last: u64,
        /// Leaves of the checkpoint.
        asked: u64,
    },
    /// Its own tree has another root at that size.
    #[error("the tree here has another root at {size} leaves than the checkpoint")]
    OtherRoot {
        /// The size.
        size: u64,
    },
    /// Its own tree is not the one it cosigned.
    #[error(
        "the tree here is not the one of {size} leaves that was cosigned here before: this replica has gone back"
    )]
    GoneBack {
        /// Leaves of what it cosigned last.
        size: u64,
    },
    /// Hashes are missing from its own state.
    #[error("the tree here cannot be read")]
    Unreadable(#[source] ProveError),
}

/// A checkpoint of the own tree, not yet remembered.
#[derive(Debug)]
pub struct OwnTreeAccepted {
    checkpoint: Checkpoint,
    /// Whether it differs from what is remembered already.
    moves: bool,
}

/// A checkpoint that the replica remembers and may cosign.
#[derive(Debug)]
pub struct OwnTreePersisted(Checkpoint);

/// Decides about `asked`, `last` being what this replica cosigned last, if anything.
pub fn decide_on_own_tree(
    asked: &Checkpoint,
    last: Option<&Checkpoint>,
    tree: &OwnTree<'_>,
) -> Result<OwnTreeAccepted, OwnTreeRefused> {
    if asked.origin() != tree.origin || last.is_some_and(|last| last.origin() != tree.origin) {
        return Err(OwnTreeRefused::OtherOrigin);
    }
    if !asked.extension_lines().is_empty() {
        return Err(OwnTreeRefused::ExtensionLines);
    }
    if let Some(last) = last {
        let size = last.size();
        if asked.size() < size {
            let (last, asked) = (size, asked.size());
            return Err(OwnTreeRefused::Smaller { last, asked });
        }
        // A state that lags behind its own word waits; one that has the size and not the root never may again.
        if tree.size >= size && root(tree, size)? != last.root() {
            return Err(OwnTreeRefused::GoneBack { size });
        }
    }
    if asked.size() > tree.size {
        let (have, asked) = (tree.size, asked.size());
        return Err(OwnTreeRefused::Behind { have, asked });
    }
    if root(tree, asked.size())? != asked.root() {
        let size = asked.size();
        return Err(OwnTreeRefused::OtherRoot { size });
    }
    Ok(OwnTreeAccepted {
        checkpoint: asked.clone(),
        moves: last != Some(asked),
    })
}

fn root(tree: &OwnTree<'_>, size: u64) -> Result<Hash, OwnTreeRefused> {
    root_at(tree.hashes, size).map_err(OwnTreeRefused::Unreadable)
}

impl OwnTreeAccepted {
    /// Has the caller store the checkpoint durably, where it is another than before, then allows cosigning. Where
    /// `store` fails there is no cosignature.
    pub fn persist<E>(
        self,
        store: impl FnOnce(&Checkpoint) -> Result<(), E>,
    ) -> Result<OwnTreePersisted, E> {
        if self.moves {
            store(&self.checkpoint)?;
        }
        Ok(OwnTreePersisted(self.checkpoint))
    }
}

impl OwnTreePersisted {
    /// The cosignature, stating `time`.
    pub fn cosign(&self, key: &SignerKey, time: UnixSeconds) -> Result<Signature, SignError> {
        key.sign_checkpoint(&self.0, Some(time))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::hash::leaf_hash;
    use crate::key::SignatureType;
    use crate::note::Note;
    use crate::tree::{Frontier, StoredAt};

    struct Tree {
        frontier: Frontier,
        hashes: BTreeMap<StoredAt, Hash>,
    }

    impl Tree {
        /// A tree whose leaves after the first `same` are of another history.
        fn grown(leaves: u64, same: u64) -> Self {
            let mut tree = Self {
                frontier: Frontier::default(),
                hashes: BTreeMap::new(),
            };
            for i in 0..leaves {
                let leaf = if i < same { i } else { i + 1000 };
                let hashes = &mut tree.hashes;
                tree.frontier
                    .append(leaf_hash(&leaf.to_be_bytes()), &mut |at, hash| {
                        hashes.insert(at, hash);
                    })
                    .expect("room");
            }
            tree
        }

        fn checkpoint(&self) -> Checkpoint {
            let (size, root) = (self.frontier.size(), self.frontier.root());
            Checkpoint::new(origin(), size, root).expect("a checkpoint")
        }

        fn decide(
            &self,
            asked: &Checkpoint,
            last: Option<&Checkpoint>,
        ) -> Result<OwnTreeAccepted, OwnTreeRefused> {
            let tree = OwnTree {
                origin: &origin(),
                size: self.frontier.size(),
                hashes: self,
            };
            decide_on_own_tree(asked, last, &tree)
        }
    }

    impl HashReader for Tree {
        fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
            let at = |index| StoredAt { index, ..first };
            (first.index..first.index + count)
                .map(|index| self.hashes.get(&at(index)).copied())
                .collect()
        }
    }

    fn origin() -> OriginLine {
        "ch-zrh/main/1".parse().expect("an origin")
    }

    #[test]
    fn what_the_own_tree_has_is_cosigned_once_it_is_remembered() {
        let (tree, older) = (Tree::grown(300, 300), Tree::grown(200, 200).checkpoint());
        let seed = [7; 32];
        let name = "ch-zrh/kms-1".parse().expect("a name");
        let key = SignerKey::from_seed(name, SignatureType::Ed25519Cosignature, &seed);
        let key = key.expect("a key");
        let time = UnixSeconds::new(1_800_000_000).expect("a time");
        for asked in [older.clone(), tree.checkpoint()] {
            let accepted = tree.decide(&asked, Some(&older)).expect("its own tree");
            let mut stored = None;
            let persisted = accepted.persist(|checkpoint| {
                stored = Some(checkpoint.clone());
                Ok::<_, ()>(())
            });
            // Remembered already: not written again, only dated anew.
            assert_eq!(stored.is_some(), asked != older);
            let line = persisted.expect("stored").cosign(&key, time);
            let note = Note::new(asked.to_string(), vec![line.expect("signs")]);
            let known = [key.verifier().clone()];
            let note = note.expect("a note");
            let signed = note.verify(&known).expect("its cosignature");
            assert_eq!(signed[0].time, Some(time));
        }
        let accepted = tree.decide(&tree.checkpoint(), Some(&older));
        let lost = accepted.expect("its own tree").persist(|_| Err("disk"));
        assert_eq!(lost.expect_err("not remembered, not cosigned"), "disk");
    }

    #[test]
    fn what_it_does_not_have_or_would_take_back_is_refused() {
        let (tree, last) = (Tree::grown(300, 300), Tree::grown(280, 280).checkpoint());
        let behind = Tree::grown(301, 301).checkpoint();
        let smaller = Tree::grown(279, 279).checkpoint();
        let forked = Tree::grown(300, 290).checkpoint();
        let other = Checkpoint::new("x".parse().expect("an origin"), 280, last.root());
        let mut text = tree.checkpoint().to_string();
        text.push_str("more\n");
        for (asked, why) in [
            (
                behind,
                OwnTreeRefused::Behind {
                    have: 300,
                    asked: 301,
                },
            ),
            (
                smaller,
                OwnTreeRefused::Smaller {
                    last: 280,
                    asked: 279,
                },
            ),
            (forked, OwnTreeRefused::OtherRoot { size: 300 }),
            (other.expect("a checkpoint"), OwnTreeRefused::OtherOrigin),
            (
                text.parse().expect("a checkpoint"),
                OwnTreeRefused::ExtensionLines,
            ),
        ] {
            let refused = tree.decide(&asked, Some(&last)).expect_err("refused");
            assert_eq!(refused, why);
        }
    }

    /// A replica rolled back or forked below its own word never cosigns again, whatever it is asked.
    #[test]
    fn a_replica_whose_tree_is_not_what_it_cosigned_says_that_it_has_gone_back() {
        let last = Tree::grown(280, 280).checkpoint();
        let other = Tree::grown(300, 100);
        let refused = other.decide(&other.checkpoint(), Some(&last));
        let gone_back = OwnTreeRefused::GoneBack { size: 280 };
        assert_eq!(refused.expect_err("another history"), gone_back);
        // One that only lags behind its own word waits until it has caught up.
        let lagging = Tree::grown(100, 100);
        let refused = lagging.decide(&Tree::grown(300, 300).checkpoint(), Some(&last));
        let behind = OwnTreeRefused::Behind {
            have: 100,
            asked: 300,
        };
        assert_eq!(refused.expect_err("it lags"), behind);
    }
}
