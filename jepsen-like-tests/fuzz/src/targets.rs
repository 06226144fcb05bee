//! Every target.

mod blocks;
mod client;
mod ids;
mod keys;
mod kms;
mod log;
mod machines;
mod messages;
mod node;
mod raft;
mod raft_log;
mod region;
mod sealed;

use crate::Target;

/// Every target, in the order of the crates.
pub fn targets() -> &'static [Target] {
    TARGETS
}

static TARGETS: &[Target] = &[
    ids::TEXT,
    ids::BINARY,
    messages::MESSAGES,
    keys::WRAPPED,
    keys::SESSION,
    keys::SHARE,
    sealed::STREAM,
    sealed::MANIFEST,
    sealed::METADATA,
    log::LEAF,
    log::OPENINGS,
    log::FRONTIER,
    log::PROOF,
    region::ENROLMENT_SET,
    region::ENROLMENT_FILE,
    region::CERTIFICATE,
    region::PRIVATE_KEY,
    region::STATUS,
    raft::RAFT_ENTRY,
    raft_log::RAFT_LOG,
    machines::SHARD_COMMANDS,
    machines::CATALOG_COMMANDS,
    machines::LISTING,
    machines::KMS_COMMANDS,
    blocks::BLOCK_FOLDER,
    blocks::BLOCK_DRAFT,
    node::TOKEN,
    node::RECEIPT,
    node::NODE_CONFIG,
    kms::OPEN_REQUEST,
    kms::APPROVAL,
    kms::SESSION_OFFER,
    client::CONTEXTS,
    client::DATASET_INFO,
    client::HEALTH_ANSWER,
];
