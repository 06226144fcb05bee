//! Commands of a Raft log, as every replica applies them: of a shard, of the catalog, of the KMS.
//!
//! Owns what holds of any bytes: two replicas come to the same state and answer; a command that is not known changes
//! nothing, and so does one that the KMS refuses; every invariant holds afterwards. An input is a list of commands,
//! applied one after the other to a state that holds something.

mod fixture;
mod kms;
mod listing;
mod shard;

pub(super) use self::kms::KMS_COMMANDS;
pub(super) use self::listing::LISTING;
pub(super) use self::shard::{CATALOG_COMMANDS, SHARD_COMMANDS};

use prost::Message;

/// An input of these commands: a message whose field 1 repeats.
fn list_of<'a, M: Message + 'a>(commands: impl IntoIterator<Item = &'a M>) -> Vec<u8> {
    let mut out = Vec::new();
    for command in commands {
        prost::encoding::bytes::encode(1, &command.encode_to_vec(), &mut out);
    }
    out
}

/// Commands of one input that are applied; more would only be slower.
const COMMANDS_MAX: usize = 12;
