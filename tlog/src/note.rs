//! Signed notes: text and the signatures under it (C2SP signed-note).
//!
//! Owns parsing, writing and verification. Refuses: control characters, bytes that are not UTF-8, notes over 512 KiB
//! or 100 signatures, a second line of a known key, and the whole note when one line of a known key does not verify.
//! Lines of unknown keys are kept and mean nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::cosignature::UnixSeconds;
use crate::key::{KeyId, KeyName, VerifierKey};
use crate::text;

/// Bytes of a note: room for [`SIGNATURES_MAX`] ML-DSA-44 signatures and a text.
pub const NOTE_BYTES_MAX: usize = 512 << 10;
/// Signatures of a note, as many as Go's package takes.
pub const SIGNATURES_MAX: usize = 100;

const DASH: &str = "\u{2014} ";

/// A note that is well formed. Nothing in it is true before [`Note::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

/// One signature line: `— <name> <base64 of id and signature>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// Name of the key that is said to have signed.
    pub name: KeyName,
    /// Its id.
    pub id: KeyId,
    /// The signature itself, with the time before it where the type has one.
    pub bytes: Vec<u8>,
}

/// A signature that verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signed<'k> {
    /// The key that signed.
    pub key: &'k VerifierKey,
    /// When, as the signer states it; types 0x04 and 0x06 have it.
    pub time: Option<UnixSeconds>,
}

/// Bytes that are no note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Over [`NOTE_BYTES_MAX`].
    #[error("a note of {0} bytes is too long")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("a note is not UTF-8")]
    NotUtf8,
    /// A control character other than newline.
    #[error("a note has a control character")]
    ControlCharacter,
    /// The text is empty or does not end in a newline.
    #[error("the text of a note does not end in a newline")]
    TextWithoutNewline,
    /// No empty line with signature lines after it.
    #[error("a note has no signatures")]
    Unsigned,
    /// A signature line of another form.
    #[error("signature line {0} of a note is not of the form <dash> <name> <base64>")]
    SignatureLine(usize),
    /// Over [`SIGNATURES_MAX`].
    #[error("a note has more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
}

/// Why a note is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteRefused {
    /// Two known keys share name and id: which one signed cannot be told.
    #[error("two known keys are called {name}+{id}")]
    AmbiguousKey {
        /// Their name.
        name: KeyName,
        /// Their id.
        id: KeyId,
    },
    /// A key has one signature in a note.
    #[error("the known key {name}+{id} has two signatures")]
    SignedTwice {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: KeyId,
    },
    /// A signature that states to be of a known key is not.
    #[error("the signature of the known key {name}+{id} is not valid")]
    BadSignature {
        /// The key's name.
        name: KeyName,
        /// The key's id.
        id: KeyId,
    },
    /// Nobody known signed.
    #[error("no known key signed the note")]
    NobodyKnown,
}

impl Note {
    /// A note of this text and at least one signature; the signatures are not checked.
    pub fn new(text: String, signatures: Vec<Signature>) -> Result<Self, NoteError> {
        if text.contains(is_control) {
            return Err(NoteError::ControlCharacter);
        }
        if !text.ends_with('\n') {
            return Err(NoteError::TextWithoutNewline);
        }
        if signatures.is_empty() {
            return Err(NoteError::Unsigned);
        }
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        let note = Self { text, signatures };
        let length = note.to_string().len();
        if length > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong(length));
        }
        Ok(note)
    }

    /// Reads a note.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLong(bytes.len()));
        }
        let all = std::str::from_utf8(bytes).map_err(|_| NoteError::NotUtf8)?;
        if all.contains(is_control) {
            return Err(NoteError::ControlCharacter);
        }
        // Texts may have empty lines: the last one ends the text.
        let end = all.rfind("\n\n").ok_or(NoteError::Unsigned)?;
        let (text, lines) = (&all[..=end], &all[end + 2..]);
        Ok(Self {
            text: text.to_owned(),
            signatures: parse_lines(lines)?,
        })
    }

    /// What is signed, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signatures, whether or not anyone knows their keys.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// The note with this signature too; it replaces one of the same name and id.
    pub fn with(mut self, signature: Signature) -> Result<Self, NoteError> {
        self.signatures
            .retain(|s| (&s.name, s.id) != (&signature.name, signature.id));
        self.signatures.push(signature);
        Self::new(self.text, self.signatures)
    }

    /// The good signatures, in the order of the note, of keys in `known`: never none.
    pub fn verify<'k>(&self, known: &'k [VerifierKey]) -> Result<Vec<Signed<'k>>, NoteRefused> {
        let mut good: Vec<Signed<'k>> = Vec::new();
        for signature in &self.signatures {
            let (name, id) = (&signature.name, signature.id);
            let mut keys = known.iter().filter(|k| k.id() == id && k.name() == name);
            let Some(key) = keys.next() else {
                continue;
            };
            let name = name.clone();
            if keys.next().is_some() {
                return Err(NoteRefused::AmbiguousKey { name, id });
            }
            // Two keys that share an id differ in name, so this finds the same key only.
            if good.iter().any(|signed| signed.key == key) {
                return Err(NoteRefused::SignedTwice { name, id });
            }
            match key.check(&self.text, &signature.bytes) {
                Some(time) => good.push(Signed { key, time }),
                None => return Err(NoteRefused::BadSignature { name, id }),
            }
        }
        if good.is_empty() {
            Err(NoteRefused::NobodyKnown)
        } else {
            Ok(good)
        }
    }

    /// The note with those signatures alone that verify under `known`.
    pub fn only_of(&self, known: &[VerifierKey]) -> Result<Self, NoteRefused> {
        let good = self.verify(known)?;
        let is_good = |s: &&Signature| {
            good.iter()
                .any(|g| g.key.id() == s.id && *g.key.name() == s.name)
        };
        Ok(Self {
            text: self.text.clone(),
            signatures: self.signatures.iter().filter(is_good).cloned().collect(),
        })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|s| writeln!(f, "{s}"))
    }
}

/// The form of one line, without its newline.
impl FromStr for Signature {
    type Err = NoteError;
    fn from_str(line: &str) -> Result<Self, NoteError> {
        parse_line(line).ok_or(NoteError::SignatureLine(1))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.id.0.to_vec();
        bytes.extend_from_slice(&self.bytes);
        write!(f, "{DASH}{} {}", self.name, STANDARD.encode(bytes))
    }
}

/// Signature lines, each with its newline: what stands under a text, and what a witness answers.
pub(crate) fn parse_lines(lines: &str) -> Result<Vec<Signature>, NoteError> {
    if lines.is_empty() {
        return Err(NoteError::Unsigned);
    }
    let mut out = Vec::new();
    for line in lines.split_inclusive('\n') {
        if out.len() == SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        let parsed = line.strip_suffix('\n').and_then(parse_line);
        out.push(parsed.ok_or(NoteError::SignatureLine(out.len() + 1))?);
    }
    Ok(out)
}

fn parse_line(line: &str) -> Option<Signature> {
    let (name, base64) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = text::base64(base64)?;
    let (id, bytes) = bytes.split_first_chunk::<4>()?;
    // A signature of no bytes is none, and Go's package refuses it too.
    if bytes.is_empty() {
        return None;
    }
    Some(Signature {
        name: name.parse().ok()?,
        id: KeyId(*id),
        bytes: bytes.to_vec(),
    })
}

fn is_control(c: char) -> bool {
    c < ' ' && c != '\n'
}
