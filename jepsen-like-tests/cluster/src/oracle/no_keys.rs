//! In place of `keys`, where daemons write no fingerprints: nobody can look for keys.

use anyhow::{Result, bail};

use super::{KeySearch, Seen};

/// There are none in this build.
pub enum Keys {}

impl Keys {
    /// Refused.
    pub fn watched() -> Result<Self> {
        bail!(
            "this build writes no fingerprints of keys: `cargo xtask promises keys` makes one with \
             danger_scannable_keys, and looks for them"
        )
    }

    /// Nothing to plant.
    pub fn planted(&self) -> Vec<u8> {
        match *self {}
    }

    /// Nothing to look for.
    pub fn search(&self, _: &Seen, _: usize) -> Result<KeySearch> {
        match *self {}
    }
}
