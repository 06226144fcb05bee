//! Re-reading a state at rest, page by page, so that damage is known while the other members are whole.
//!
//! Owns the place. Refuses to go on after what cannot be read: that ends the store, as every other read of it does.

use super::View;
use super::checkpoint::END_OF_KEYS;

/// Where the re-reading of a state stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatePlace {
    /// The replicated keys are read.
    local: bool,
    next: Vec<u8>,
}

/// What one step read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StateRead {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Every key has been read.
    pub done: bool,
}

impl View {
    /// Reads about `bytes_max` bytes from the place on; the next step may be on a later view. *Blocks*, and panics once
    /// the store has failed.
    pub fn read_again(&self, place: &mut StatePlace, bytes_max: u64) -> StateRead {
        let reader = match place.local {
            true => &self.local,
            false => &self.state,
        };
        let (mut bytes, mut last) = (0, None);
        reader.scan(&place.next, &END_OF_KEYS, &mut |key, value| {
            bytes += (key.len() + value.len()) as u64;
            if bytes < bytes_max {
                return true;
            }
            last = Some(key.to_vec());
            false
        });
        let done = last.is_none() && place.local;
        *place = match last {
            // The first key after it.
            Some(mut key) => {
                key.push(0);
                StatePlace {
                    local: place.local,
                    next: key,
                }
            }
            None => StatePlace {
                local: !place.local,
                next: Vec::new(),
            },
        };
        StateRead { bytes, done }
    }
}
