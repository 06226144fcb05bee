//! F1: the folder as a whole.
//!
//! Owns the comparison of index and files, and the exporter's signature. Refuses a key that the log does not show as
//! the exporter's.

use std::collections::BTreeSet;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use tlog::sha256;

use super::Finding;
use super::region::Members;
use crate::folder::Folder;
use crate::format::{INDEX_FILE, LABEL_EVIDENCE, SIGNATURE_FILE};

/// What stands before an Ed25519 key in DER (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

pub(super) fn judge(folder: &Folder, members: &Members) -> Finding {
    let index = folder.index();
    let is_listed = |name: &&String| *name != INDEX_FILE && *name != SIGNATURE_FILE;
    let held: BTreeSet<&String> = folder.files().keys().filter(is_listed).collect();
    if let Some(name) = index.files.keys().find(|name| !held.contains(name)) {
        return Finding::contradicted(format!("the index lists {name:?}, which is not there"));
    }
    for name in held {
        let bytes = &folder.files()[name];
        let Some(entry) = index.files.get(name) else {
            return Finding::contradicted(format!("{name} is there and not in the index"));
        };
        if entry.bytes != bytes.len() as u64 || entry.sha256 != sha256(&[bytes]) {
            return Finding::contradicted(format!("{name} is not what the index says"));
        }
    }
    if !is_signed(folder) {
        return Finding::contradicted("the signature of the index does not hold");
    }
    let exporter = index.exporter.as_str();
    let public_key = hex::decode(&folder.signature().public_key).unwrap_or_default();
    match members.key_of(exporter) {
        None => Finding::not_shown(format!("no leaf of the folder shows {exporter} enrolled")),
        Some(key) if key != hex::encode(sha256(&[&public_key]).0) => {
            Finding::contradicted(format!("{exporter} is enrolled under another key"))
        }
        Some(_) => Finding::proven(format!(
            "{} files are what their index says, and {exporter}, enrolled in the log, signed it",
            index.files.len()
        )),
    }
}

fn is_signed(folder: &Folder) -> bool {
    let stated = folder.signature();
    let index = &folder.files()[INDEX_FILE];
    holds(&stated.public_key, &stated.signature, LABEL_EVIDENCE, index)
}

/// Whether an Ed25519 signature, in hexadecimal as the key, is of this message under this label.
pub(super) fn holds(public_key: &str, signature: &str, label: &str, message: &[u8]) -> bool {
    let (Ok(key), Ok(raw_signature)) = (hex::decode(public_key), hex::decode(signature)) else {
        return false;
    };
    // One spelling each: another one would be another file with the same meaning.
    if hex::encode(&key) != public_key || hex::encode(&raw_signature) != signature {
        return false;
    }
    let Some(raw) = key.strip_prefix(&SPKI_PREFIX) else {
        return false;
    };
    let signed = [label.as_bytes(), b"\n", message].concat();
    UnparsedPublicKey::new(&ED25519, raw)
        .verify(&signed, &raw_signature)
        .is_ok()
}
