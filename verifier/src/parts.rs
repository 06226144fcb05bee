//! The writer of a folder: collected parts in, files out.
//!
//! Owns the index, the list's root and the gap table, which follow from the parts. Refuses to collect, to sign by
//! itself, and parts that could not be read back. It does not judge them: whoever exports runs the verifier over what
//! came out.

use std::collections::BTreeMap;

use tlog::{Note, Policy, sha256};

use crate::folder::{Folder, FolderError};
use crate::format::{
    CHALLENGE, CHECKPOINTS, CheckpointLine, DatasetNames, FORMAT, FileEntry, GAP_S, GAPS, Gap,
    GapTable, HEADERS, HeaderLine, INDEX_FILE, Index, IndexSignature, LEAVES, LeafLine, OBJECTS,
    ObjectLine, ObjectList, Period, SIGNATURE_FILE, StorageAnswers, WITNESSES, encode,
};
use crate::objects::list_root;

/// What an exporter collects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// The region.
    pub region: String,
    /// The log's origin.
    pub origin: String,
    /// The dataset.
    pub dataset: DatasetNames,
    /// The period.
    pub period: Period,
    /// The exporter's clock.
    pub made_ms: u64,
    /// The exporter's identity.
    pub exporter: String,
    /// Checkpoints with proofs, from the smallest tree to the largest.
    pub checkpoints: Vec<CheckpointLine>,
    /// Leaves by ascending index, with proofs in the last checkpoint's tree.
    pub leaves: Vec<LeafLine>,
    /// Sealed objects, in any order.
    pub objects: Option<Vec<ObjectLine>>,
    /// Answers to the investigator's nonce.
    pub challenge: Option<StorageAnswers>,
    /// What the KMS signed of the objects' headers, by ascending version.
    pub headers: Option<Vec<HeaderLine>>,
    /// The region's witness policy, byte for byte.
    pub witness_policy: Option<Vec<u8>>,
}

/// The exporter's enrolled key.
pub trait Signer {
    /// The public key in DER.
    fn public_key(&self) -> Vec<u8>;
    /// Ed25519 over `label || "\n" || message`.
    fn sign(&self, label: &'static str, message: &[u8]) -> [u8; 64];
}

/// Why parts make no folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartsError {
    /// Something would not be read back.
    #[error("the parts make no folder")]
    Folder(#[from] FolderError),
}

impl Folder {
    /// Makes the files of a folder. `policy` is the trust policy by which the gap table is computed.
    pub fn write(
        mut parts: Parts,
        policy: &Policy,
        signer: &dyn Signer,
    ) -> Result<Self, PartsError> {
        let times = parts.checkpoints.iter().filter_map(|line| {
            let note = Note::parse(line.note.as_bytes()).ok()?;
            policy.check(&note).ok()?.as_of()
        });
        let times: Vec<u64> = times.map(tlog::UnixSeconds::get).collect();
        let gaps = gaps_between(&times);
        let mut files = BTreeMap::new();
        let mut put = |name: &str, bytes: Vec<u8>| files.insert(name.to_owned(), bytes);
        put(CHECKPOINTS, lines(&parts.checkpoints));
        put(LEAVES, lines(&parts.leaves));
        put(GAPS, lines(&[gaps]));
        let objects = parts.objects.as_mut().map(|objects| {
            objects.sort_by(|a, b| a.version.cmp(&b.version));
            put(OBJECTS, lines(objects));
            ObjectList {
                count: objects.len() as u64,
                bytes: objects.iter().fold(0, |sum, o| sum.saturating_add(o.bytes)),
                root: list_root(objects),
            }
        });
        if let Some(challenge) = &parts.challenge {
            put(CHALLENGE, lines(std::slice::from_ref(challenge)));
        }
        if let Some(headers) = &parts.headers {
            put(HEADERS, lines(headers));
        }
        if let Some(policy) = parts.witness_policy {
            put(WITNESSES, policy);
        }
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            let entry = FileEntry {
                bytes: bytes.len() as u64,
                sha256: sha256(&[bytes]),
            };
            (name.clone(), entry)
        };
        let index = Index {
            format: FORMAT,
            region: parts.region,
            origin: parts.origin,
            dataset: parts.dataset,
            period: parts.period,
            made_ms: parts.made_ms,
            exporter: parts.exporter,
            objects,
            files: files.iter().map(entry).collect(),
        };
        let index = lines(&[index]);
        let signature = IndexSignature {
            public_key: hex::encode(signer.public_key()),
            signature: hex::encode(signer.sign(crate::LABEL_EVIDENCE, &index)),
        };
        files.insert(INDEX_FILE.to_owned(), index);
        files.insert(SIGNATURE_FILE.to_owned(), lines(&[signature]));
        Ok(Self::from_files(files)?)
    }
}

fn lines<T: serde::Serialize>(values: &[T]) -> Vec<u8> {
    let lines = values.iter().map(|value| encode(value) + "\n");
    lines.collect::<String>().into_bytes()
}

/// The gap table of these times, in the order of their checkpoints. A time that goes back counts as no time between.
pub fn gaps_between(times: &[u64]) -> GapTable {
    let pairs = times.iter().zip(times.iter().skip(1));
    let between = pairs.map(|(from, to)| (*from, *to, to.saturating_sub(*from)));
    let gaps = between.clone().filter(|(_, _, apart)| *apart > GAP_S);
    GapTable {
        threshold_s: GAP_S,
        gaps: gaps.map(|(from_s, to_s, _)| Gap { from_s, to_s }).collect(),
        longest_s: between.map(|(_, _, apart)| apart).max().unwrap_or(0),
    }
}
