//! Details of leaves, of what is looked at here.
//!
//! Owns their fields. Refuses nothing: what they have to say is `leaves`' to know.

use serde::Deserialize;

/// A grant, in the source.
#[derive(Deserialize)]
pub(super) struct Granted {
    pub(super) dataset: String,
    pub(super) relocation: String,
    pub(super) destination: String,
    pub(super) jurisdiction: String,
    pub(super) descriptor_version: u64,
    pub(super) descriptor_fingerprint: String,
    pub(super) hand_over_key: String,
}

/// A hand-over key, in the destination.
#[derive(Deserialize)]
pub(super) struct KeyMade {
    pub(super) dataset: String,
    pub(super) relocation: String,
    pub(super) source: String,
    pub(super) descriptor_version: u64,
    pub(super) descriptor_fingerprint: String,
    pub(super) hand_over_key: String,
}

/// A pause, its end or the close of a grant: what was released so far.
#[derive(Deserialize)]
pub(super) struct Totals {
    pub(super) objects: u64,
    pub(super) leaves: u64,
}

/// The key that something was sealed to.
#[derive(Deserialize)]
pub(super) struct Keyed {
    pub(super) hand_over_key: String,
}

/// What the destination opened.
#[derive(Deserialize)]
pub(super) struct Opened {
    pub(super) hand_over_key: String,
    pub(super) source: String,
    pub(super) source_leaf: u64,
}

/// The end of the source's key, scheduled.
#[derive(Deserialize)]
pub(super) struct Shred {
    pub(super) relocation: String,
    pub(super) destination: String,
    pub(super) epoch: u64,
    pub(super) fence: u64,
    pub(super) catalog_root: String,
    pub(super) signers: Vec<u64>,
    pub(super) voters: Vec<u64>,
}

/// That end.
#[derive(Deserialize)]
pub(super) struct Ended {
    pub(super) dataset: String,
    pub(super) kek: String,
}

/// A replica's word that its files hold nothing of it.
#[derive(Deserialize)]
pub(super) struct Erased {
    pub(super) through_leaf: u64,
    pub(super) waiting_for: Vec<String>,
}
