//! Every target.

mod access;
mod backup;
mod blocks;
mod c2sp;
mod client;
mod command;
mod evidence;
mod gateway;
mod handshake;
mod ids;
mod keys;
mod kms;
mod log;
mod machines;
mod messages;
mod node;
mod raft;
mod raft_log;
mod raft_peer;
mod region;
mod relocation_certificate;
mod sealed;
mod storage_backup;
mod upload;
mod witness;

use crate::Target;

/// Every target, in the order of the crates.
pub fn targets() -> &'static [Target] {
    TARGETS
}

static TARGETS: &[Target] = &[
    access::ACCESS_POLICY,
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
    c2sp::NOTE,
    c2sp::COSIGNATURES,
    c2sp::NOTE_KEY,
    c2sp::POLICY,
    c2sp::WITNESS_REQUEST,
    c2sp::PROOF_FILE,
    c2sp::TILES,
    region::ENROLMENT_SET,
    region::ENROLMENT_FILE,
    region::DESCRIPTOR,
    region::CERTIFICATE,
    region::PRIVATE_KEY,
    region::STATUS,
    handshake::HANDSHAKE,
    raft::RAFT_ENTRY,
    raft_log::RAFT_LOG,
    raft_peer::RAFT_PEER,
    machines::SHARD_COMMANDS,
    machines::CATALOG_COMMANDS,
    machines::LISTING,
    machines::KMS_COMMANDS,
    blocks::BLOCK_FOLDER,
    blocks::BLOCK_DRAFT,
    upload::UPLOAD,
    node::TOKEN,
    node::RECEIPT,
    node::NODE_CONFIG,
    kms::OPEN_REQUEST,
    kms::APPROVAL,
    kms::SESSION_OFFER,
    backup::BACKUP,
    storage_backup::STORAGE_BACKUP,
    client::CONTEXTS,
    command::COMMAND,
    client::DATASET_INFO,
    client::HEALTH_ANSWER,
    gateway::LISTING_TOKENS,
    gateway::SEALED_HEADERS,
    gateway::CHUNKED,
    gateway::VALUES,
    evidence::EVIDENCE,
    relocation_certificate::RELOCATION_CERTIFICATE,
    witness::ENTRIES,
    witness::POSITION,
    witness::CONFIG,
];
