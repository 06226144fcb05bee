//! X1: the KMS's word, signed, that what is listed is keyed as listed.
//!
//! Owns the comparison of its statements with the list. A statement counts by the signature of a KMS replica that the
//! log shows enrolled, whoever exported it. Refuses statements that are about another dataset, key or region, that
//! repeat a stream, or name one that is not listed. A version whose streams are not all attested is not shown: one that
//! is keyed as listed says nothing of the others.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use proto::ids::{Identity, Role};
use proto::transcript::LABEL_ATTEST_HEADERS;
use proto::v1;
use tlog::sha256;

use super::Finding;
use super::region::Members;
use super::whole::holds;
use crate::folder::Folder;
use crate::format::{HeaderLine, ObjectLine};

/// Statements of this format are read.
const FORMAT: u32 = 1;

pub(super) fn judge(folder: &Folder, members: &Members) -> Finding {
    let (Some(objects), Some(headers)) = (folder.objects(), folder.headers()) else {
        return Finding::not_shown("the folder has no statement of the KMS on sealed objects");
    };
    let mut attested: BTreeMap<(String, u32), v1::AttestedHeader> = BTreeMap::new();
    for (number, line) in headers.iter().enumerate() {
        let statement = match statement(folder, members, line) {
            Ok(statement) => statement,
            Err(why) => return Finding::contradicted(format!("statement {number} {why}")),
        };
        for header in statement.headers {
            let stream = (hex::encode(&header.version_id), header.part.max(1));
            if attested
                .last_key_value()
                .is_some_and(|(last, _)| *last >= stream)
            {
                return Finding::contradicted("attested streams do not ascend");
            }
            attested.insert(stream, header);
        }
    }
    let (mut streams, mut missing, mut objects_missing) = (0_usize, 0_usize, 0_usize);
    for object in objects {
        let before = missing;
        for stream in object.streams() {
            streams += 1;
            let Some(header) = attested.remove(&(object.version.clone(), stream.part)) else {
                missing += 1;
                continue;
            };
            if let Err(why) = same(object, stream.header, &header) {
                let (version, part) = (&object.version, stream.part);
                return Finding::contradicted(format!("part {part} of version {version} {why}"));
            }
        }
        objects_missing += usize::from(missing > before);
    }
    if let Some((version, part)) = attested.keys().next() {
        return Finding::contradicted(format!(
            "the KMS speaks of part {part} of version {version}, which is not listed"
        ));
    }
    if missing > 0 {
        return Finding::not_shown(format!(
            "the KMS speaks of all but {missing} of the {streams} streams listed, which are of {objects_missing} of {} \
             objects",
            objects.len()
        ));
    }
    Finding::proven(format!(
        "the KMS signed that all {streams} streams of the {} listed versions begin as streams under their keys do",
        objects.len()
    ))
}

/// The statement, if an enrolled replica signed it and it is about this folder's dataset.
fn statement(
    folder: &Folder,
    members: &Members,
    line: &HeaderLine,
) -> Result<v1::HeaderStatement, &'static str> {
    let unreadable = "cannot be read";
    let bytes = STANDARD.decode(&line.statement).map_err(|_| unreadable)?;
    let statement = v1::HeaderStatement::decode(&bytes[..]).map_err(|_| unreadable)?;
    if statement.encode_to_vec() != bytes {
        return Err("has more in it than is read");
    }
    if !holds(
        &line.public_key,
        &line.signature,
        LABEL_ATTEST_HEADERS,
        &bytes,
    ) {
        return Err("is not signed by the key beside it");
    }
    let index = folder.index();
    let replica: Identity = statement.replica.parse().map_err(|_| "names no replica")?;
    if replica.role() != Role::Kms || replica.region().as_str() != index.region {
        return Err("is of nobody in the region's KMS");
    }
    let key = hex::decode(&line.public_key).unwrap_or_default();
    if members.key_of(&statement.replica) != Some(hex::encode(sha256(&[&key]).0).as_str()) {
        return Err("is signed by a key that the log does not show as that replica's");
    }
    let names = (
        hex::encode(&statement.dataset_id),
        hex::encode(&statement.kek_id),
    );
    let here = (&names.0, &names.1) == (&index.dataset.id, &index.dataset.kek);
    if statement.format != FORMAT || statement.region != index.region || !here {
        return Err("is about another dataset, key or region");
    }
    Ok(statement)
}

fn same(
    object: &ObjectLine,
    stored: Option<&str>,
    header: &v1::AttestedHeader,
) -> Result<(), &'static str> {
    let named = header.name_commitment.as_ref() == object.name.0.as_slice()
        && hex::encode(&header.lease_id) == object.lease
        && header.kek_version == object.kek_version;
    if !named {
        return Err("was attested under another name, lease or version of the key");
    }
    if header.commitment.is_empty() {
        return Err("has a token that the KMS cannot open under the dataset's key");
    }
    let stored = stored.map(|text| STANDARD.decode(text));
    let attested = [header.stream_salt.as_ref(), header.commitment.as_ref()].concat();
    match stored {
        Some(Ok(stored)) if stored == attested => Ok(()),
        Some(_) => Err("does not begin as a stream under its key would"),
        None => Err("was attested, and nothing of it could be read"),
    }
}
