//! Reading the transparency log back: leaves in order, the tree's head, proofs.
//!
//! Owns who sees what of it. Refuses leaves to those who neither run nor audit the region, and openings to everyone
//! but auditors. Sizes and roots are of committed, applied entries; a lagging replica answers an older, true head.

use kms_state::{LeavesAsked, StateHashes};
use proto::ids::{Identity, LeafIndex, Role};
use proto::store::Reader;
use proto::v1;
use tlog::{Hash, ProveError};
use transport::Peer;

use crate::core::{Core, StaleError};

/// Leaves of one answer at most.
pub(crate) const LEAVES_MAX: u32 = 256;
/// Bytes of leaves and openings of one answer, about: under what a gRPC message may have.
const BYTES_MAX: usize = 2 << 20;

/// Why the log was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// Of a role that does not read leaves.
    #[error("{0} may not read leaves")]
    Role(Identity),
    /// Openings are for auditors.
    #[error("{0} may not read openings")]
    Openings(Identity),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// No log yet.
    #[error("not initialised: there is no log yet")]
    NotInitialised,
    /// No such proof.
    #[error("no such proof")]
    Prove(#[source] ProveError),
    /// The tree is smaller than asked for.
    #[error("the tree has {size} leaves here")]
    TooLarge {
        /// Its size.
        size: u64,
    },
}

impl Core {
    /// Leaves from `start` on, in order.
    pub(crate) fn read_leaves(
        &self,
        peer: &Peer,
        request: &v1::ReadLeavesRequest,
    ) -> Result<v1::ReadLeavesReply, LogError> {
        let role = peer.identity.role();
        if !matches!(role, Role::Auditor | Role::Operator) {
            return Err(LogError::Role(peer.identity.clone()));
        }
        if request.with_openings && role != Role::Auditor {
            return Err(LogError::Openings(peer.identity.clone()));
        }
        let state = self.reader().map_err(StaleError::State)?;
        let limit = match request.limit {
            0 => LEAVES_MAX,
            limit => limit.min(LEAVES_MAX),
        };
        let asked = LeavesAsked {
            start: LeafIndex(request.start),
            limit,
            bytes_max: BYTES_MAX,
            with_openings: request.with_openings,
        };
        Ok(v1::ReadLeavesReply {
            leaves: kms_state::leaves(&*state, asked),
            tree_size: kms_state::frontier(&*state).size(),
        })
    }

    /// The head of the tree as applied here. It is not signed: checkpoints are, and are not made here.
    pub(crate) fn tree_head(&self) -> Result<v1::TreeHeadReply, LogError> {
        let applied = self.group.applied();
        let state = self.reader().map_err(StaleError::State)?;
        let head = kms_state::tree_head(&*state).ok_or(LogError::NotInitialised)?;
        Ok(v1::TreeHeadReply {
            origin: head.origin.to_string(),
            size: head.size,
            root_hash: head.root.0.to_vec().into(),
            log_index: applied.map(|index| index.0).unwrap_or_default(),
        })
    }

    /// That a leaf is in the tree of a size.
    pub(crate) fn prove_inclusion(
        &self,
        request: &v1::ProveInclusionRequest,
    ) -> Result<v1::ProofReply, LogError> {
        let state = self.reader().map_err(StaleError::State)?;
        let size = within(&*state, request.tree_size)?;
        let proof = StateHashes(&*state).inclusion(LeafIndex(request.leaf_index), size);
        reply(proof)
    }

    /// That the tree of one size extends that of another.
    pub(crate) fn prove_consistency(
        &self,
        request: &v1::ProveConsistencyRequest,
    ) -> Result<v1::ProofReply, LogError> {
        let state = self.reader().map_err(StaleError::State)?;
        let size = within(&*state, request.new_size)?;
        reply(StateHashes(&*state).consistency(request.old_size, size))
    }
}

fn within(state: &dyn Reader, asked: u64) -> Result<u64, LogError> {
    let size = kms_state::frontier(state).size();
    if asked > size {
        Err(LogError::TooLarge { size })
    } else {
        Ok(asked)
    }
}

fn reply(proof: Result<(Vec<Hash>, Hash), ProveError>) -> Result<v1::ProofReply, LogError> {
    let (hashes, root) = proof.map_err(LogError::Prove)?;
    Ok(v1::ProofReply {
        hashes: hashes.iter().map(|hash| hash.0.to_vec().into()).collect(),
        root_hash: root.0.to_vec().into(),
    })
}
