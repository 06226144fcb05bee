//! O1 to O4: the list of sealed objects, their leases, and the storage challenge.
//!
//! Owns what can be held against the log of what an exporter lists. Refuses to call a list of stored things proven: the
//! nodes' catalog is signed by nobody.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tlog::Kind;

use super::access::objects;
use super::dataset::Slice;
use super::{Asked, Finding};
use crate::claim::ClaimId;
use crate::folder::Folder;
use crate::format::{self, ObjectLine, StorageAnswers, Stream};
use crate::objects::{CHALLENGES, PIECE_BYTES, challenges, is_piece, list_root};

/// Salt and commitment of a stream, and the tag of each chunk (docs/FORMATS.md section 2).
const STREAM_HEAD_BYTES: u64 = 56;
const CHUNK_BYTES: u64 = 16_384;
const TAG_BYTES: u64 = 16;
/// Parts of one object (docs/FORMATS.md section 2).
const PARTS_MAX: usize = 10_000;

pub(super) fn judge(folder: &Folder, slice: &Slice<'_>, asked: &Asked) -> Vec<(ClaimId, Finding)> {
    let Some(lines) = folder.objects() else {
        let none = Finding::not_shown("the folder has no list of sealed objects");
        let ids = [ClaimId::O1, ClaimId::O2, ClaimId::O3, ClaimId::O4];
        return ids.map(|id| (id, none.clone())).to_vec();
    };
    vec![
        (ClaimId::O1, list(folder, lines)),
        (ClaimId::O2, leases(lines, slice)),
        (
            ClaimId::O3,
            Finding::asserted(
                folder.index().exporter.as_str(),
                format!(
                    "that the nodes hold these {} sealed objects, with these roots, and no others{}",
                    lines.len(),
                    match unread(lines) {
                        0 => String::new(),
                        count => format!("; {count} of them no node that was asked has whole"),
                    }
                ),
            ),
        ),
        (ClaimId::O4, storage(lines, folder.challenge(), asked)),
    ]
}

/// Listed objects that no node could read when the list was made.
fn unread(lines: &[ObjectLine]) -> usize {
    let without = lines.iter().filter(|line| line.sealed_root.is_none());
    without.count()
}

fn list(folder: &Folder, lines: &[ObjectLine]) -> Finding {
    let Some(stated) = &folder.index().objects else {
        return Finding::contradicted(
            "there is a list of objects, and the index has no root of it",
        );
    };
    for pair in lines.windows(2) {
        if pair[0].version >= pair[1].version {
            return Finding::contradicted("object versions do not ascend");
        }
    }
    for line in lines {
        if format::id(&line.version).is_none() || format::id(&line.lease).is_none() {
            return Finding::contradicted("a line of the list has no valid id");
        }
        let headers = line.streams().into_iter().map(|stream| stream.header);
        if headers
            .chain([line.header.as_deref()])
            .any(|header| header.is_some() != line.sealed_root.is_some())
        {
            return Finding::contradicted(format!(
                "version {} has a root without its headers, or a header without a root",
                line.version
            ));
        }
        if let Err(why) = lengths(line) {
            return Finding::contradicted(format!("version {} {why}", line.version));
        }
    }
    let bytes = lines
        .iter()
        .fold(0_u64, |sum, line| sum.saturating_add(line.bytes));
    let real = (lines.len() as u64, bytes, list_root(lines));
    if real != (stated.count, stated.bytes, stated.root) {
        return Finding::contradicted("the list is not the one that the index names");
    }
    Finding::proven(format!(
        "the list names {} object versions of {bytes} bytes in all, each once; its root is {}",
        real.0, real.2
    ))
}

/// Whether an object of these streams has these lengths.
fn lengths(line: &ObjectLine) -> Result<(), String> {
    let impossible = |sealed| format!("cannot have {sealed} sealed bytes");
    if line.parts.is_empty() {
        return match sealed_bytes(line.bytes) {
            Some(sealed) if sealed == line.sealed_bytes => Ok(()),
            _ => Err(impossible(line.sealed_bytes)),
        };
    }
    let numbers = line.parts.iter().map(|part| part.part);
    let ascending = line.parts.windows(2).all(|p| p[0].part < p[1].part);
    if !ascending || numbers.min() == Some(0) || line.parts.len() > PARTS_MAX {
        return Err(format!(
            "has parts that are not 1 to {PARTS_MAX}, ascending"
        ));
    }
    if line.parts[0].header != line.header {
        return Err("does not begin as its first part does".to_owned());
    }
    let (mut bytes, mut sealed) = (0_u64, 0_u64);
    for part in &line.parts {
        if Some(part.sealed_bytes) != sealed_bytes(part.bytes) {
            return Err(format!(
                "has a part {} that cannot have {} sealed bytes",
                part.part, part.sealed_bytes
            ));
        }
        bytes = bytes.saturating_add(part.bytes);
        sealed = sealed.saturating_add(part.sealed_bytes);
    }
    match (bytes, sealed) == (line.bytes, line.sealed_bytes) {
        true => Ok(()),
        false => Err("is not as long as its parts".to_owned()),
    }
}

/// Sealed length of so many plaintext bytes.
fn sealed_bytes(plain: u64) -> Option<u64> {
    let tags = (plain / CHUNK_BYTES + 1).checked_mul(TAG_BYTES)?;
    plain.checked_add(STREAM_HEAD_BYTES)?.checked_add(tags)
}

/// Whether the streams that begin in this piece, or reach into it with their header, begin as the list says.
fn shows_headers(object: &ObjectLine, number: u64, piece: &[u8]) -> bool {
    let start = number.saturating_mul(PIECE_BYTES);
    let end = start.saturating_add(PIECE_BYTES);
    let reaches = |stream: &Stream<'_>| {
        stream.sealed_offset < end && stream.sealed_offset.saturating_add(STREAM_HEAD_BYTES) > start
    };
    object
        .streams()
        .iter()
        .filter(|s| reaches(s))
        .all(|stream| {
            let Some(Ok(header)) = stream.header.map(|text| STANDARD.decode(text)) else {
                return false;
            };
            // What lies in the pieces before and after this one is theirs to show.
            let before = start.saturating_sub(stream.sealed_offset);
            let after = stream.sealed_offset.saturating_sub(start);
            let (Ok(before), Ok(after)) = (usize::try_from(before), usize::try_from(after)) else {
                return false;
            };
            let listed = header.iter().skip(before);
            piece.iter().skip(after).zip(listed).all(|(a, b)| a == b)
        })
}

fn leases(lines: &[ObjectLine], slice: &Slice<'_>) -> Finding {
    for line in lines {
        match slice.leases.get(&line.lease) {
            None => {
                return Finding::not_shown(format!(
                    "version {} names lease {}, which no leaf of the dataset shows",
                    line.version, line.lease
                ));
            }
            Some(given) if line.kek_version < *given => {
                return Finding::contradicted(format!(
                    "lease {} was given under version {given} of the key, and its token is under an older one",
                    line.lease
                ));
            }
            // Rewrapped since it was given: a newer version, and one that the log knows.
            Some(given) if line.kek_version > (*given).max(slice.newest_version) => {
                return Finding::contradicted(format!(
                    "the token of lease {} is under version {} of the key, to which the log shows no rotation",
                    line.lease, line.kek_version
                ));
            }
            Some(_) => {}
        }
    }
    let listed: BTreeMap<&str, &ObjectLine> = lines
        .iter()
        .map(|line| (line.version.as_str(), line))
        .collect();
    let mut seen = 0_u64;
    for shown in &slice.leaves {
        if shown.leaf.kind() != Kind::Open {
            continue;
        }
        for item in objects(shown).unwrap_or_default() {
            let Some(line) = listed.get(item.version.as_str()) else {
                continue;
            };
            seen += 1;
            let same = line.name.to_string() == item.name
                && line.lease == item.lease
                && line.bytes == item.bytes;
            if !same {
                return Finding::contradicted(format!(
                    "leaf {} opened version {} under another name, lease or length",
                    shown.index, item.version
                ));
            }
        }
    }
    Finding::proven(format!(
        "all {} versions name leases that the KMS issued for this dataset under its key; {seen} opens on record name them alike",
        lines.len()
    ))
}

fn storage(lines: &[ObjectLine], given: Option<&StorageAnswers>, asked: &Asked) -> Finding {
    let Some(given) = given else {
        return Finding::not_shown("the folder answers no storage challenge");
    };
    let Some(nonce) = &asked.nonce else {
        return Finding::not_shown(
            "no nonce was given to the verifier to hold the answers against",
        );
    };
    if given.nonce != hex::encode(nonce) {
        return Finding::contradicted("the answers are to another nonce");
    }
    let chosen = challenges(nonce, lines);
    if chosen.len() != given.answers.len() {
        return Finding::contradicted(format!(
            "the nonce chooses {} pieces and {} are answered",
            chosen.len(),
            given.answers.len()
        ));
    }
    for (challenge, answer) in chosen.iter().zip(&given.answers) {
        let object = &lines[challenge.object];
        let Some(root) = &object.sealed_root else {
            return Finding::contradicted(format!(
                "no node that was asked has all of version {}, which the nonce chose",
                object.version
            ));
        };
        let piece = STANDARD.decode(&answer.piece).unwrap_or_default();
        let held = is_piece(object, root, challenge.piece, &piece, &answer.proof)
            && shows_headers(object, challenge.piece, &piece);
        if !held {
            return Finding::contradicted(format!(
                "piece {} of version {} is not what the list says",
                challenge.piece, object.version
            ));
        }
    }
    if unread(lines) > 0 {
        return Finding::not_shown(format!(
            "no node that was asked has all of {} listed objects",
            unread(lines)
        ));
    }
    if chosen.is_empty() {
        return Finding::not_shown("the list has no sealed byte to ask for");
    }
    Finding::proven(format!(
        "all {CHALLENGES} pieces of ciphertext that the nonce chose were there when the folder was made"
    ))
}
