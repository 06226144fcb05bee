//! What a block store may answer, kept beside it: certain after an acknowledgement, several things before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::*;

pub(super) type Data = Arc<Vec<u8>>;

/// What may be found under one key.
#[derive(Debug, Clone, Default)]
struct Possible {
    /// These bytes, under this epoch.
    data: Vec<(Data, u64)>,
    /// Nothing.
    nothing: bool,
    /// A copy that is damaged, and says so.
    damaged: bool,
    /// The epoch of the damaged copy that was found.
    damaged_epoch: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Model {
    keys: BTreeMap<BlockKey, Possible>,
    /// Everything ever put under a key since it was last unlinked for certain.
    history: BTreeMap<BlockKey, Vec<Data>>,
    /// Puts that did not fit, and whose torn copy the next sync will take away.
    lingering: BTreeSet<BlockKey>,
    /// A bit was flipped: any block may be damaged.
    pub(super) flipped: bool,
    /// A header may be lost: any block may be missing.
    pub(super) headers_lost: bool,
}

impl Model {
    pub(super) fn keys(&self) -> Vec<BlockKey> {
        self.keys.keys().copied().collect()
    }

    fn at(&mut self, key: BlockKey) -> &mut Possible {
        self.keys.entry(key).or_insert(Possible {
            nothing: true,
            ..Possible::default()
        })
    }

    /// A put was handed in. Until it is answered either may be there; torn by a cut it may be damaged, but only where
    /// nothing whole was.
    pub(super) fn put_begun(&mut self, key: BlockKey, epoch: u64, data: &Data) {
        let possible = self.at(key);
        possible.data.push((Arc::clone(data), epoch));
        possible.damaged |= possible.nothing;
        self.history.entry(key).or_default().push(Arc::clone(data));
    }

    /// A put was refused for want of space.
    pub(super) fn put_full(&mut self, key: BlockKey) {
        self.at(key).damaged |= self.at(key).nothing;
        self.lingering.insert(key);
    }

    /// A put was synced.
    pub(super) fn synced(&mut self) {
        self.lingering.clear();
    }

    pub(super) fn put_done(&mut self, key: BlockKey, epoch: u64, data: &Data) {
        let data = vec![(Arc::clone(data), epoch)];
        *self.at(key) = Possible {
            data,
            ..Possible::default()
        };
    }

    pub(super) fn unlink_begun(&mut self, key: BlockKey, epoch_max: u64) {
        let possible = self.at(key);
        if possible.data.iter().any(|(_, epoch)| *epoch <= epoch_max) || possible.damaged {
            possible.nothing = true;
        }
    }

    /// Unlinking was acknowledged: what was uploaded under a later epoch stayed, all else is gone.
    pub(super) fn unlink_done(&mut self, key: BlockKey, epoch_max: u64) {
        self.synced();
        let possible = self.at(key);
        possible.data.retain(|(_, epoch)| *epoch > epoch_max);
        if possible
            .damaged_epoch
            .is_some_and(|epoch| epoch > epoch_max)
        {
            return;
        }
        if possible.data.is_empty() {
            *possible = Possible {
                nothing: true,
                ..Possible::default()
            };
            self.history.remove(&key);
        }
    }

    /// Compares the store with what is possible, and keeps what was found as what is.
    pub(super) fn check(&mut self, store: &BlockStore, seed: u64) {
        let held: BTreeSet<_> = store
            .page(None, usize::MAX)
            .into_iter()
            .map(|h| h.key)
            .collect();
        for key in &held {
            assert!(
                self.keys.contains_key(key),
                "seed {seed}: {key:?} was never put"
            );
        }
        for (key, possible) in &mut self.keys {
            let found = read(store, *key);
            let history = self.history.get(key).map_or(&[][..], Vec::as_slice);
            let fine = match &found {
                Ok(found) => {
                    possible.data.iter().any(|(data, _)| **data == *found)
                        || (self.flipped && history.iter().any(|data| **data == *found))
                }
                Err(ReadError::NotHeld) => possible.nothing || (self.headers_lost && self.flipped),
                Err(ReadError::Damaged) => possible.damaged || self.flipped,
                Err(ReadError::Unreadable | ReadError::OutOfRange { .. }) => false,
            };
            let state = (possible.data.len(), possible.nothing, possible.damaged);
            let shown = found.as_ref().map(Vec::len);
            assert!(
                fine,
                "seed {seed}: {key:?}: found {shown:?}, possible {state:?}"
            );
            assert_eq!(
                held.contains(key),
                found != Err(ReadError::NotHeld),
                "seed {seed}"
            );
            match found {
                Ok(found) => {
                    let epoch = store.head(*key).expect("just read").owner.upload_epoch.0;
                    let data = vec![(Arc::new(found), epoch)];
                    *possible = Possible {
                        data,
                        ..Possible::default()
                    };
                }
                Err(ReadError::NotHeld) => {
                    let damaged = self.lingering.contains(key);
                    *possible = Possible {
                        nothing: true,
                        damaged,
                        ..Possible::default()
                    };
                }
                // Its torn header may be gone after the next cut.
                Err(_) => {
                    let held = store.of_version(key.version);
                    let copy = held.iter().find(|held| held.key == *key);
                    *possible = Possible {
                        nothing: true,
                        damaged: true,
                        data: Vec::new(),
                        damaged_epoch: copy.map(|held| held.upload_epoch.0),
                    };
                }
            }
        }
    }
}
