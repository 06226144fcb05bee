//! The folder's files: their fields and their one spelling.
//!
//! Owns every structure of docs/FORMATS.md section 15. Refuses: unknown fields and names, a second spelling of the
//! same content (what parses is written back byte for byte), and more lines or hashes than their bounds.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tlog::{Hash, Openings};

use crate::folder::FolderError;

/// What the exporter's signature is over: this label, a newline, the bytes of [`INDEX_FILE`].
pub const LABEL_EVIDENCE: &str = "reduit/v1/evidence";
/// The index: names every other file but the signature.
pub const INDEX_FILE: &str = "folder.json";
/// The exporter's signature over the index.
pub const SIGNATURE_FILE: &str = "folder.sig";
pub(crate) const CHECKPOINTS: &str = "checkpoints.jsonl";
pub(crate) const LEAVES: &str = "leaves.jsonl";
pub(crate) const OBJECTS: &str = "objects.jsonl";
pub(crate) const GAPS: &str = "gaps.json";
pub(crate) const CHALLENGE: &str = "challenge.json";
pub(crate) const WITNESSES: &str = "witnesses.policy";
pub(crate) const HEADERS: &str = "headers.jsonl";

/// Names that an index may list. The first three are always there.
pub(crate) const LISTED: &[&str] = &[
    CHECKPOINTS,
    LEAVES,
    GAPS,
    OBJECTS,
    CHALLENGE,
    HEADERS,
    WITNESSES,
];
pub(crate) const NEEDED: &[&str] = &[CHECKPOINTS, LEAVES, GAPS];

/// Version of the folder that this build writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// Hashes of one proof.
pub const PROOF_HASHES_MAX: usize = tlog::PROOF_HASHES_MAX;
/// Cosigned checkpoints further apart than this, in seconds, are a gap. Fixed, so that no exporter can choose a
/// threshold under which its gaps do not show.
pub const GAP_S: u64 = 3_600;
/// Lines of one file.
pub(crate) const LINES_MAX: usize = 1_000_000;

/// `folder.json`: what the folder is about and what is in it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// 1.
    pub format: u32,
    /// The region.
    pub region: String,
    /// The log's origin.
    pub origin: String,
    /// The dataset and its key.
    pub dataset: DatasetNames,
    /// What the investigator asked about.
    pub period: Period,
    /// When the folder was made, by the exporter's clock.
    pub made_ms: u64,
    /// Who made it: an enrolled identity.
    pub exporter: String,
    /// The list of sealed objects, where it is in the folder.
    pub objects: Option<ObjectList>,
    /// Every other file but the signature.
    pub files: BTreeMap<String, FileEntry>,
}

/// Names of one dataset.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetNames {
    /// The dataset's id, 32 hexadecimal digits.
    pub id: String,
    /// Its name in the public log, 32 hexadecimal digits.
    pub pseudonym: String,
    /// The id of its KEK, 32 hexadecimal digits.
    pub kek: String,
}

/// From the first to the last millisecond, both of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Period {
    /// Start, ms since 1970.
    pub from_ms: u64,
    /// End, ms since 1970.
    pub to_ms: u64,
}

/// What the index says of `objects.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectList {
    /// Lines.
    pub count: u64,
    /// Plaintext bytes of all of them.
    pub bytes: u64,
    /// RFC 6962 root over the lines without their newlines.
    pub root: Hash,
}

/// One file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of it.
    pub sha256: Hash,
}

/// `folder.sig`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IndexSignature {
    /// The exporter's public key, DER in hexadecimal.
    pub(crate) public_key: String,
    /// Ed25519, hexadecimal.
    pub(crate) signature: String,
}

/// A line of `checkpoints.jsonl`, from the smallest tree to the largest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointLine {
    /// The signed note.
    pub note: String,
    /// Proof from the line before; empty in the first and between equal sizes.
    pub consistency: Vec<Hash>,
}

/// A line of `leaves.jsonl`, by ascending index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafLine {
    /// The leaf's index.
    pub index: u64,
    /// Its bytes, which are JSON.
    pub leaf: String,
    /// Inclusion in the tree of the last checkpoint.
    pub proof: Vec<Hash>,
    /// What is disclosed of it.
    pub openings: Option<Openings>,
}

/// A line of `objects.jsonl`, by ascending version id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectLine {
    /// Object version id, 32 hexadecimal digits.
    pub version: String,
    /// Name commitment.
    pub name: Hash,
    /// The lease it was sealed under, 32 hexadecimal digits.
    pub lease: String,
    /// Version of the KEK around that lease.
    pub kek_version: u32,
    /// Plaintext bytes.
    pub bytes: u64,
    /// Sealed bytes.
    pub sealed_bytes: u64,
    /// RFC 6962 root over the sealed bytes in pieces of 16 KiB: see [`crate::pieces_root`]. `None` where no node that
    /// was asked has all of them.
    pub sealed_root: Option<Hash>,
    /// The first 56 sealed bytes, base64: salt and commitment of the first stream. `None` where there is no root.
    pub header: Option<String>,
    /// Its parts by number, whose streams lie one after the other. None of an object that is one stream, of number 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartLine>,
}

/// A part of an object, which is a stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartLine {
    /// Its number, which is in its stream's context.
    pub part: u32,
    /// Plaintext bytes.
    pub bytes: u64,
    /// Sealed bytes.
    pub sealed_bytes: u64,
    /// The first 56 of them, base64. `None` where the object has no root.
    pub header: Option<String>,
}

/// A stream of an object: which part of it, from which sealed byte of the object on, and how it begins.
#[derive(Clone, Copy)]
pub(crate) struct Stream<'a> {
    pub(crate) part: u32,
    pub(crate) sealed_offset: u64,
    pub(crate) header: Option<&'a str>,
}

impl ObjectLine {
    /// Its streams, in the order in which they lie.
    pub(crate) fn streams(&self) -> Vec<Stream<'_>> {
        if self.parts.is_empty() {
            return vec![Stream {
                part: 1,
                sealed_offset: 0,
                header: self.header.as_deref(),
            }];
        }
        let mut streams = Vec::with_capacity(self.parts.len());
        let mut sealed_offset = 0_u64;
        for line in &self.parts {
            streams.push(Stream {
                part: line.part,
                sealed_offset,
                header: line.header.as_deref(),
            });
            sealed_offset = sealed_offset.saturating_add(line.sealed_bytes);
        }
        streams
    }
}

/// `gaps.json`: when no quorum vouched for the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapTable {
    /// [`GAP_S`].
    pub threshold_s: u64,
    /// In order.
    pub gaps: Vec<Gap>,
    /// The longest time between two cosigned checkpoints, gap or not.
    pub longest_s: u64,
}

/// One gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Last vouched for, seconds since 1970.
    pub from_s: u64,
    /// Vouched for again.
    pub to_s: u64,
}

/// `challenge.json`: pieces of ciphertext that a nonce chose.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAnswers {
    /// The investigator's 32 random bytes, hexadecimal.
    pub nonce: String,
    /// One for each of [`crate::challenges`], in their order.
    pub answers: Vec<StorageAnswer>,
}

/// A line of `headers.jsonl`: what a KMS replica signed of listed versions, which ascend over the whole file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderLine {
    /// `HeaderStatement` of the protocol, encoded, base64.
    pub statement: String,
    /// The replica's public key, DER in hexadecimal.
    pub public_key: String,
    /// Ed25519, hexadecimal.
    pub signature: String,
}

/// One piece.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageAnswer {
    /// Sealed bytes, base64.
    pub piece: String,
    /// Inclusion in the object's `sealed_root`.
    pub proof: Vec<Hash>,
}

/// One JSON document and a newline, in its one spelling.
pub(crate) fn document<T: Serialize + DeserializeOwned>(
    name: &'static str,
    bytes: &[u8],
) -> Result<T, FolderError> {
    let malformed = FolderError::Malformed {
        file: name,
        line: 1,
    };
    let text = std::str::from_utf8(bytes).map_err(|_| malformed.clone())?;
    let text = text.strip_suffix('\n').ok_or(malformed.clone())?;
    one(text).ok_or(malformed)
}

/// JSON documents, each with its newline.
pub(crate) fn documents<T: Serialize + DeserializeOwned>(
    name: &'static str,
    bytes: &[u8],
) -> Result<Vec<T>, FolderError> {
    let malformed = |line| FolderError::Malformed { file: name, line };
    let text = std::str::from_utf8(bytes).map_err(|_| malformed(1))?;
    let mut out = Vec::new();
    for line in text.split_inclusive('\n') {
        if out.len() == LINES_MAX {
            return Err(FolderError::TooManyLines(name));
        }
        let parsed = line.strip_suffix('\n').and_then(one);
        out.push(parsed.ok_or_else(|| malformed(out.len() + 1))?);
    }
    Ok(out)
}

pub(crate) fn one<T: Serialize + DeserializeOwned>(text: &str) -> Option<T> {
    let value = serde_json::from_str(text).ok()?;
    (encode(&value) == text).then_some(value)
}

/// The one spelling, without a newline.
pub(crate) fn encode<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("no map key and no value of these types can fail")
}

/// 16 bytes of an id in lower-case hexadecimal.
pub(crate) fn id(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}
