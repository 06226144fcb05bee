//! Checkpoints: what a log signs about its tree (C2SP tlog-checkpoint).
//!
//! Owns the text that is signed, its one spelling, and what it means when a log signed two of them that exclude each
//! other. Refuses: an empty tree with another root than the empty one, sizes over 2^62 and origins over 255 bytes,
//! which the tree and cosignatures have no room for.

use std::fmt;
use std::str::FromStr;

use crate::cosignature::NAME_BYTES_MAX;
use crate::hash::Hash;
use crate::key::VerifierKey;
use crate::note::{Note, NoteError, NoteRefused};
use crate::origin::Origin;
use crate::text;
use crate::tree::TREE_SIZE_MAX;

/// The first line of a checkpoint: which log it is of. Any line of 1 to 255 bytes without control characters; logs of
/// ours have an [`Origin`] there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OriginLine(String);

/// A tree as a log states it, signed by nobody yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    origin: OriginLine,
    size: u64,
    root: Hash,
    extension_lines: Vec<String>,
}

/// Text that is no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not three lines that end in a newline.
    #[error("a checkpoint has not its three lines")]
    NotThreeLines,
    /// An origin that is empty, too long or has a control character.
    #[error("the origin of a checkpoint is not 1 to 255 bytes without control characters")]
    Origin,
    /// Not a decimal number, with a second spelling, or over [`TREE_SIZE_MAX`].
    #[error("the size of a checkpoint is not a decimal number up to 2^62")]
    Size,
    /// Not base64 of 32 bytes.
    #[error("the root of a checkpoint is not a hash in base64")]
    Root,
    /// The empty tree has one root.
    #[error("a checkpoint states another root for the empty tree")]
    EmptyTree,
    /// An empty extension line, or a control character in one.
    #[error("an extension line of a checkpoint is empty or has a control character")]
    ExtensionLine,
}

impl OriginLine {
    /// As it stands in the checkpoint.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for OriginLine {
    type Err = CheckpointError;
    fn from_str(line: &str) -> Result<Self, CheckpointError> {
        if (1..=NAME_BYTES_MAX).contains(&line.len()) && !line.contains(|c| c < ' ') {
            Ok(Self(line.to_owned()))
        } else {
            Err(CheckpointError::Origin)
        }
    }
}

impl From<&Origin> for OriginLine {
    fn from(origin: &Origin) -> Self {
        let line = origin.to_string();
        line.parse()
            .expect("region, stream and epoch are bounded and plain")
    }
}

impl fmt::Display for OriginLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Checkpoint {
    /// States a tree, without extension lines.
    pub fn new(origin: OriginLine, size: u64, root: Hash) -> Result<Self, CheckpointError> {
        if size > TREE_SIZE_MAX {
            return Err(CheckpointError::Size);
        }
        if size == 0 && root != Hash::empty_root() {
            return Err(CheckpointError::EmptyTree);
        }
        Ok(Self {
            origin,
            size,
            root,
            extension_lines: Vec::new(),
        })
    }

    /// The log.
    pub fn origin(&self) -> &OriginLine {
        &self.origin
    }

    /// Leaves in its tree.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root of its tree.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Further lines, which logs of ours do not write and nobody audits.
    pub fn extension_lines(&self) -> &[String] {
        &self.extension_lines
    }
}

impl FromStr for Checkpoint {
    type Err = CheckpointError;
    fn from_str(text: &str) -> Result<Self, CheckpointError> {
        let body = text.strip_suffix('\n');
        let mut lines = body.ok_or(CheckpointError::NotThreeLines)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::NotThreeLines);
        };
        let size = text::decimal(size).ok_or(CheckpointError::Size)?;
        let root = root.parse().map_err(|_| CheckpointError::Root)?;
        let mut checkpoint = Self::new(origin.parse()?, size, root)?;
        for line in lines {
            if line.is_empty() || line.contains(|c| c < ' ') {
                return Err(CheckpointError::ExtensionLine);
            }
            checkpoint.extension_lines.push(line.to_owned());
        }
        Ok(checkpoint)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root)?;
        self.extension_lines
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A checkpoint that a key of its log signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedCheckpoint {
    checkpoint: Checkpoint,
    note: Note,
}

/// Why bytes are not a log's checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointRefused {
    /// No note.
    #[error("the signed checkpoint is no note")]
    Note(#[from] NoteError),
    /// The text under the signatures is no checkpoint.
    #[error("the signed text is no checkpoint")]
    Text(#[from] CheckpointError),
    /// The signatures do not hold.
    #[error("the signatures of the checkpoint do not hold")]
    Signatures(#[from] NoteRefused),
}

impl SignedCheckpoint {
    /// Reads a checkpoint and checks it against the keys of the log that the caller expects; one good signature is
    /// enough. The signatures of others are dropped: nobody checked them.
    pub fn verify(bytes: &[u8], log_keys: &[VerifierKey]) -> Result<Self, CheckpointRefused> {
        Self::verify_note(&Note::parse(bytes)?, log_keys)
    }

    /// As [`SignedCheckpoint::verify`], of a note already read.
    pub fn verify_note(note: &Note, log_keys: &[VerifierKey]) -> Result<Self, CheckpointRefused> {
        Ok(Self {
            checkpoint: note.text().parse()?,
            note: note.only_of(log_keys)?,
        })
    }

    /// What was signed.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The note with the log's signatures.
    pub fn note(&self) -> &Note {
        &self.note
    }
}

/// Two checkpoints of one log and size with different roots, both signed by the log: whoever holds its public keys
/// sees that it showed two histories. Nothing else is needed to prove it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fork {
    first: SignedCheckpoint,
    second: SignedCheckpoint,
}

impl Fork {
    /// The fork that these two show, if they do. Of different sizes a consistency proof has to tell.
    pub fn between(first: &SignedCheckpoint, second: &SignedCheckpoint) -> Option<Self> {
        let (a, b) = (first.checkpoint(), second.checkpoint());
        let forked = a.origin == b.origin && a.size == b.size && a.root != b.root;
        forked.then(|| Self {
            first: first.clone(),
            second: second.clone(),
        })
    }

    /// The checkpoints, as they were given.
    pub fn checkpoints(&self) -> [&SignedCheckpoint; 2] {
        [&self.first, &self.second]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str =
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";

    #[test]
    fn the_example_of_the_specification_is_read_and_written() {
        let checkpoint: Checkpoint = GOLDEN.parse().expect("a checkpoint");
        assert_eq!(checkpoint.origin().as_str(), "example.com/behind-the-sofa");
        assert_eq!(checkpoint.size(), 20_852_163);
        assert_eq!(checkpoint.to_string(), GOLDEN);
        let longer = format!("{GOLDEN}one\ntwo\n");
        let checkpoint: Checkpoint = longer.parse().expect("with extension lines");
        assert_eq!(checkpoint.extension_lines(), ["one", "two"]);
        assert_eq!(checkpoint.to_string(), longer);
    }

    #[test]
    fn an_origin_of_ours_is_an_origin_line() {
        let origin: Origin = "ch-zrh/main/1".parse().expect("an origin");
        assert_eq!(OriginLine::from(&origin).as_str(), "ch-zrh/main/1");
    }

    #[test]
    fn text_that_is_no_checkpoint_is_refused_for_what_is_wrong() {
        let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        let empty = Hash::empty_root();
        let long = "x".repeat(256);
        for (text, why) in [
            (format!("o\n1\n{root}"), CheckpointError::NotThreeLines),
            ("o\n1\n".to_owned(), CheckpointError::NotThreeLines),
            (String::new(), CheckpointError::NotThreeLines),
            (format!("\n1\n{root}\n"), CheckpointError::Origin),
            (format!("{long}\n1\n{root}\n"), CheckpointError::Origin),
            (format!("o\tp\n1\n{root}\n"), CheckpointError::Origin),
            (format!("o\n01\n{root}\n"), CheckpointError::Size),
            (format!("o\n+1\n{root}\n"), CheckpointError::Size),
            (format!("o\n\n{root}\n"), CheckpointError::Size),
            (
                format!("o\n4611686018427387905\n{root}\n"),
                CheckpointError::Size,
            ),
            (format!("o\n1\n{root}=\n"), CheckpointError::Root),
            (format!("o\n1\n{}\n", &root[4..]), CheckpointError::Root),
            (format!("o\n0\n{root}\n"), CheckpointError::EmptyTree),
            (format!("o\n1\n{root}\n\n"), CheckpointError::ExtensionLine),
            (
                format!("o\n1\n{root}\n\nx\n"),
                CheckpointError::ExtensionLine,
            ),
        ] {
            assert_eq!(text.parse::<Checkpoint>(), Err(why), "{text:?}");
        }
        assert!(format!("o\n0\n{empty}\n").parse::<Checkpoint>().is_ok());
        assert!(
            format!("o\n4611686018427387904\n{root}\n")
                .parse::<Checkpoint>()
                .is_ok()
        );
    }
}
