//! `.tlog-proof` files: one leaf's inclusion with the checkpoint it leads to (C2SP tlog-proof).
//!
//! Owns the file's text and its check without network, by a policy. Refuses: another version, more than 63 hashes,
//! extra data over 64 KiB or written as empty, and everything the policy does not accept. The extra data is signed by
//! nobody: it is a hint and no more.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::ids::LeafIndex;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::hash::Hash;
use crate::note::{NOTE_BYTES_MAX, Note, NoteError};
use crate::policy::{Policy, PolicyRefused, Trusted};
use crate::proof::{ProofError, verify_inclusion};
use crate::text::{self, PROOF_HASHES_MAX};

/// First line of a file, and its version.
pub const PROOF_FILE_HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Bytes of extra data.
pub const EXTRA_BYTES_MAX: usize = 64 << 10;
/// Bytes of a file: note, hashes, extra data in base64, and the other lines.
pub const PROOF_FILE_BYTES_MAX: usize =
    NOTE_BYTES_MAX + 45 * PROOF_HASHES_MAX + EXTRA_BYTES_MAX / 3 * 4 + 128;

/// A proof that a leaf is in a log, to be checked by anyone who has the log's policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProofFile {
    extra: Vec<u8>,
    index: LeafIndex,
    proof: Vec<Hash>,
    checkpoint: Note,
}

/// Bytes that are no proof file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileError {
    /// Over [`PROOF_FILE_BYTES_MAX`].
    #[error("a proof of {0} bytes is too long")]
    TooLong(usize),
    /// Another first line.
    #[error("a proof does not begin with {PROOF_FILE_HEADER}")]
    Header,
    /// Extra data that is empty, too long or not base64.
    #[error("the extra data of a proof is not 1 to 65,536 bytes in base64")]
    Extra,
    /// No index where it belongs.
    #[error("a proof has no index, in decimal, after its header")]
    Index,
    /// More than 63 hashes, or a line that is none.
    #[error("an inclusion proof is not at most 63 hashes in base64, one a line")]
    Proof,
    /// No empty line, or no signed note after it.
    #[error("a proof has no signed checkpoint")]
    Note(#[from] NoteError),
    /// The note is no checkpoint.
    #[error("a proof has another text than a checkpoint")]
    Checkpoint(#[from] CheckpointError),
}

/// Why a leaf is not shown to be in a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFileRefused {
    /// The checkpoint is not to be trusted.
    #[error("the policy does not accept the checkpoint")]
    Policy(#[from] PolicyRefused),
    /// The leaf is not in the checkpoint's tree.
    #[error("the inclusion proof does not hold")]
    Inclusion(#[from] ProofError),
}

impl ProofFile {
    /// Puts a file together; `extra` may be empty.
    pub fn new(
        index: LeafIndex,
        proof: Vec<Hash>,
        checkpoint: Note,
        extra: Vec<u8>,
    ) -> Result<Self, ProofFileError> {
        if extra.len() > EXTRA_BYTES_MAX {
            return Err(ProofFileError::Extra);
        }
        if proof.len() > PROOF_HASHES_MAX {
            return Err(ProofFileError::Proof);
        }
        let _: Checkpoint = checkpoint.text().parse()?;
        Ok(Self {
            extra,
            index,
            proof,
            checkpoint,
        })
    }

    /// Reads a file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofFileError> {
        if bytes.len() > PROOF_FILE_BYTES_MAX {
            return Err(ProofFileError::TooLong(bytes.len()));
        }
        let (head, note) = text::head_and_note(bytes).ok_or(NoteError::Unsigned)?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(PROOF_FILE_HEADER) {
            return Err(ProofFileError::Header);
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            Some(line) => text::base64(&line["extra ".len()..])
                .filter(|extra| !extra.is_empty())
                .ok_or(ProofFileError::Extra)?,
            None => Vec::new(),
        };
        let index = lines.next().and_then(|line| line.strip_prefix("index "));
        let index = index.and_then(text::decimal).ok_or(ProofFileError::Index)?;
        let proof = text::hashes(lines).ok_or(ProofFileError::Proof)?;
        Self::new(LeafIndex(index), proof, Note::parse(note)?, extra)
    }

    /// Where the leaf stands, if the file holds.
    pub fn index(&self) -> LeafIndex {
        self.index
    }

    /// The signed checkpoint, as it is in the file.
    pub fn checkpoint(&self) -> &Note {
        &self.checkpoint
    }

    /// What came along, of no authority.
    pub fn extra(&self) -> &[u8] {
        &self.extra
    }

    /// Checks, offline, that the leaf with this hash is in a log that `policy` trusts: the checkpoint first, then the
    /// proof against it.
    pub fn verify(&self, leaf: &Hash, policy: &Policy) -> Result<Trusted, ProofFileRefused> {
        let trusted = policy.check(&self.checkpoint)?;
        let (size, root) = (trusted.checkpoint().size(), trusted.checkpoint().root());
        verify_inclusion(leaf, self.index, size, &self.proof, &root)?;
        Ok(trusted)
    }
}

impl fmt::Display for ProofFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{PROOF_FILE_HEADER}")?;
        if !self.extra.is_empty() {
            writeln!(f, "extra {}", STANDARD.encode(&self.extra))?;
        }
        writeln!(f, "index {}", self.index.0)?;
        self.proof
            .iter()
            .try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}
