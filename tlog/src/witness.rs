//! What a witness decides, without its storage, clock and network (C2SP tlog-witness).
//!
//! Owns the request's text, the decision, and the order "checked, persisted, signed": a cosignature exists only by way
//! of [`Accepted::persist`]. Refuses what the protocol refuses with its status, and checkpoints with extension lines,
//! which no monitor can audit. The caller holds one lock from reading a log's state until it is persisted.

use std::fmt;

use crate::checkpoint::{
    Checkpoint, CheckpointError, CheckpointRefused, Fork, OriginLine, SignedCheckpoint,
};
use crate::cosignature::UnixSeconds;
use crate::hash::Hash;
use crate::key::VerifierKey;
use crate::note::{self, NOTE_BYTES_MAX, Note, NoteError, NoteRefused, Signature};
use crate::proof::{ProofError, verify_consistency};
use crate::signer::{SignError, SignerKey};
use crate::text::{self, PROOF_HASHES_MAX};

/// Bytes of a request: a note, 63 hashes of 45 bytes with their newline, and the old size.
pub const ADD_CHECKPOINT_BYTES_MAX: usize = NOTE_BYTES_MAX + 45 * PROOF_HASHES_MAX + 32;
/// Content type of the answer 409, whose body is the witness's size.
pub const SIZE_CONTENT_TYPE: &str = "text/x.tlog.size";

/// The body of `POST <prefix>/add-checkpoint`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddCheckpoint {
    old_size: u64,
    proof: Vec<Hash>,
    note: Note,
    checkpoint: Checkpoint,
}

/// A body that is no request: status 400.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddCheckpointError {
    /// Over [`ADD_CHECKPOINT_BYTES_MAX`].
    #[error("a request of {0} bytes is too long")]
    TooLong(usize),
    /// No `old` line, or no empty line after the proof.
    #[error("a request does not begin with its old size, proof and an empty line")]
    Head,
    /// More than 63 hashes, or a line that is none.
    #[error("a consistency proof is not at most 63 hashes in base64, one a line")]
    Proof,
    /// No signed note after the proof.
    #[error("a request has no signed checkpoint")]
    Note(#[from] NoteError),
    /// The note is no checkpoint.
    #[error("a request has another text than a checkpoint")]
    Checkpoint(#[from] CheckpointError),
}

impl AddCheckpoint {
    /// Asks to cosign the checkpoint in `note`; `proof` leads to it from `old_size`.
    pub fn new(old_size: u64, proof: Vec<Hash>, note: Note) -> Result<Self, AddCheckpointError> {
        if proof.len() > PROOF_HASHES_MAX {
            return Err(AddCheckpointError::Proof);
        }
        Ok(Self {
            old_size,
            proof,
            checkpoint: note.text().parse()?,
            note,
        })
    }

    /// Reads a request.
    pub fn parse(bytes: &[u8]) -> Result<Self, AddCheckpointError> {
        if bytes.len() > ADD_CHECKPOINT_BYTES_MAX {
            return Err(AddCheckpointError::TooLong(bytes.len()));
        }
        let (head, note) = text::head_and_note(bytes).ok_or(AddCheckpointError::Head)?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old "));
        let old = old
            .and_then(text::decimal)
            .ok_or(AddCheckpointError::Head)?;
        let proof = text::hashes(lines).ok_or(AddCheckpointError::Proof)?;
        Self::new(old, proof, Note::parse(note)?)
    }

    /// Whose checkpoint it is: by this the witness finds keys and state.
    pub fn origin(&self) -> &OriginLine {
        self.checkpoint.origin()
    }

    /// The checkpoint, believed by nobody yet.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old_size)?;
        self.proof
            .iter()
            .try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.note)
    }
}

/// The newest checkpoint a witness cosigned of a log: all it must remember of it. Persisted as the signed note, byte
/// for byte, with the log's signatures and no others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Latest(Note, Checkpoint);

/// Bytes that are no [`Latest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the remembered checkpoint is damaged")]
pub struct LatestError;

impl Latest {
    /// Reads what was persisted. The signatures were checked before, by keys that may have changed since.
    pub fn parse(bytes: &[u8]) -> Result<Self, LatestError> {
        let note = Note::parse(bytes).map_err(|_| LatestError)?;
        let checkpoint = note.text().parse().map_err(|_| LatestError)?;
        Ok(Self(note, checkpoint))
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.1
    }

    /// The note to persist and to serve to monitors.
    pub fn note(&self) -> &Note {
        &self.0
    }
}

/// A log that a witness follows.
pub struct WitnessedLog<'w> {
    /// Keys of the log, one of which must have signed.
    pub keys: &'w [VerifierKey],
    /// What the witness cosigned last, if anything.
    pub latest: Option<&'w Latest>,
}

/// Why a witness does not cosign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessRefused {
    /// 404: no such log here.
    #[error("the log is not known to this witness")]
    UnknownOrigin,
    /// 403: the signatures do not hold.
    #[error("the checkpoint is not signed by its log")]
    Signatures(#[source] NoteRefused),
    /// 400: the proof starts behind the checkpoint.
    #[error("the old size {old} is larger than the checkpoint's {new}")]
    OldSizeLarger {
        /// Where the proof starts.
        old: u64,
        /// The checkpoint's size.
        new: u64,
    },
    /// 400: not something this witness states anything about.
    #[error("the checkpoint has extension lines, which this witness does not cosign")]
    ExtensionLines,
    /// 409: the proof starts elsewhere than where the witness is. The answer's body is that size.
    #[error("the witness has seen {size} leaves")]
    Conflict {
        /// Size of the witness's newest checkpoint, 0 without one.
        size: u64,
    },
    /// 409 as well, and the log is caught: same size, other root. `None` where the signatures on the older one are by
    /// keys that are no longer known.
    #[error("the log has signed two trees of {size} leaves")]
    Forked {
        /// The size.
        size: u64,
        /// The evidence, to be kept and published.
        fork: Option<Box<Fork>>,
    },
    /// 422: the proof does not hold.
    #[error("the consistency proof does not hold")]
    Proof(#[source] ProofError),
}

impl WitnessRefused {
    /// Status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::OldSizeLarger { .. } | Self::ExtensionLines => 400,
            Self::Signatures(_) => 403,
            Self::UnknownOrigin => 404,
            Self::Conflict { .. } | Self::Forked { .. } => 409,
            Self::Proof(_) => 422,
        }
    }

    /// The body that the protocol prescribes, with [`SIZE_CONTENT_TYPE`]; other bodies are free text.
    pub fn size_body(&self) -> Option<String> {
        match self {
            Self::Conflict { size } | Self::Forked { size, .. } => Some(format!("{size}\n")),
            _ => None,
        }
    }
}

/// A checkpoint that extends what the witness cosigned before, not yet remembered.
#[derive(Debug)]
pub struct Accepted {
    checkpoint: SignedCheckpoint,
    old_size: u64,
}

/// A checkpoint that the witness remembers and may cosign.
#[derive(Debug)]
pub struct Persisted(SignedCheckpoint);

/// Decides about a request. `log` is what the witness knows of [`AddCheckpoint::origin`].
pub fn decide(
    request: &AddCheckpoint,
    log: Option<&WitnessedLog<'_>>,
) -> Result<Accepted, WitnessRefused> {
    let log = log.ok_or(WitnessRefused::UnknownOrigin)?;
    let signed = SignedCheckpoint::verify_note(&request.note, log.keys).map_err(|e| match e {
        CheckpointRefused::Signatures(refused) => WitnessRefused::Signatures(refused),
        // The request's type has parsed both already.
        CheckpointRefused::Note(_) | CheckpointRefused::Text(_) => {
            WitnessRefused::Signatures(NoteRefused::NobodyKnown)
        }
    })?;
    let (old, new) = (request.old_size, &request.checkpoint);
    if old > new.size() {
        return Err(WitnessRefused::OldSizeLarger {
            old,
            new: new.size(),
        });
    }
    if !new.extension_lines().is_empty() {
        return Err(WitnessRefused::ExtensionLines);
    }
    let seen = log.latest.map(Latest::checkpoint);
    let size = seen.map_or(0, Checkpoint::size);
    if old != size {
        return Err(WitnessRefused::Conflict { size });
    }
    let old_root = seen.map_or_else(Hash::empty_root, Checkpoint::root);
    if size == new.size() && old_root != new.root() {
        let older = log.latest.map(Latest::note);
        let older = older.and_then(|note| SignedCheckpoint::verify_note(note, log.keys).ok());
        let fork = older.and_then(|older| Fork::between(&older, &signed));
        return Err(WitnessRefused::Forked {
            size,
            fork: fork.map(Box::new),
        });
    }
    check_proof(request, old_root).map_err(WitnessRefused::Proof)?;
    Ok(Accepted {
        checkpoint: signed,
        old_size: old,
    })
}

fn check_proof(request: &AddCheckpoint, old_root: Hash) -> Result<(), ProofError> {
    let (old, new, proof) = (request.old_size, &request.checkpoint, &request.proof);
    // Everything extends the empty tree, and the protocol wants no proof of it.
    if old > 0 {
        return verify_consistency(old, &old_root, new.size(), &new.root(), proof);
    }
    match proof.len() {
        0 => Ok(()),
        found => Err(ProofError::WrongLength { needed: 0, found }),
    }
}

impl Accepted {
    /// Size that the witness's state must still have when the new one is stored.
    pub fn old_size(&self) -> u64 {
        self.old_size
    }

    /// Has the caller store the new state durably, then allows cosigning. Where `store` fails, or finds another state
    /// than [`Accepted::old_size`], there is no cosignature.
    pub fn persist<E>(self, store: impl FnOnce(&Latest) -> Result<(), E>) -> Result<Persisted, E> {
        let latest = Latest(
            self.checkpoint.note().clone(),
            self.checkpoint.checkpoint().clone(),
        );
        store(&latest)?;
        Ok(Persisted(self.checkpoint))
    }
}

impl Persisted {
    /// The body of the answer 200: one signature line of each key, stating `time`.
    pub fn cosign(&self, keys: &[SignerKey], time: UnixSeconds) -> Result<String, SignError> {
        let checkpoint = self.0.checkpoint();
        keys.iter().try_fold(String::new(), |body, key| {
            let line = key.sign_checkpoint(checkpoint, Some(time))?;
            Ok(format!("{body}{line}\n"))
        })
    }
}

/// The good signatures of `witness_keys` on `note`'s text in a witness's answer 200; lines of unknown keys are dropped.
/// What comes back is for [`Note::with`].
pub fn cosignatures_in(
    answer: &[u8],
    note: &Note,
    witness_keys: &[VerifierKey],
) -> Result<Vec<Signature>, CosignaturesRefused> {
    if answer.len() > NOTE_BYTES_MAX {
        return Err(NoteError::TooLong(answer.len()).into());
    }
    let lines = std::str::from_utf8(answer).map_err(|_| NoteError::NotUtf8)?;
    let answered = Note::new(note.text().to_owned(), note::parse_lines(lines)?)?;
    Ok(answered.only_of(witness_keys)?.signatures().to_vec())
}

/// Why a witness's answer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignaturesRefused {
    /// Not signature lines.
    #[error("the answer of the witness is not signature lines")]
    Lines(#[from] NoteError),
    /// The signatures do not hold.
    #[error("the cosignatures do not hold")]
    Signatures(#[from] NoteRefused),
}
