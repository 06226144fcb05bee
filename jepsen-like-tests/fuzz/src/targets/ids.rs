//! Ids as text and as bytes: `proto::ids`, and the names of the log that `tlog` has.

use std::fmt::Display;
use std::str::FromStr;

use proto::ids::{
    AccessKeyId, DatasetId, DatasetName, Identity, Jurisdiction, KekId, LeaseId, ObjectKey,
    ObjectVersionId, RegionId, RequestId, Role,
};
use tlog::{Hash, Origin, Purpose};

use crate::{Memory, Shape, Source, Target};

pub(super) const TEXT: Target = Target {
    name: "ids-text",
    from: Source::Person,
    parses: &[
        "proto/src/ids.rs: FromStr",
        "proto/src/ids.rs: TryFrom<String>",
        "tlog/src/origin.rs: FromStr",
        "tlog/src/origin.rs: TryFrom<String>",
        "tlog/src/leaf.rs: FromStr",
        "tlog/src/leaf.rs: TryFrom<String>",
        "tlog/src/hash.rs: FromStr",
        "tlog/src/hash.rs: TryFrom<String>",
    ],
    shape: Shape::Bytes,
    len_max: 1200,
    memory: Memory::PARSER,
    check: text,
    seeds: text_seeds,
};

pub(super) const BINARY: Target = Target {
    name: "ids-binary",
    from: Source::Network,
    parses: &[
        "proto/src/ids.rs: TryFrom<&[u8]>",
        "tlog/src/hash.rs: TryFrom<&[u8]>",
    ],
    shape: Shape::Bytes,
    len_max: 64,
    memory: Memory::PARSER,
    check: binary,
    seeds: binary_seeds,
};

/// What parses says itself again in its one spelling.
fn canonical<T: FromStr + Display>(text: &str) {
    if let Ok(parsed) = text.parse::<T>() {
        assert_eq!(parsed.to_string(), text, "one spelling");
    }
}

/// What parses and is said again parses to the same.
fn stable<T: FromStr + Display + PartialEq>(text: &str) {
    if let Ok(parsed) = text.parse::<T>() {
        let said = parsed.to_string();
        assert!(said.parse::<T>().is_ok_and(|again| again == parsed));
    }
}

/// The serialised form takes exactly what the text form takes.
fn same_in_json<T>(text: &str)
where
    T: FromStr + Display + serde::de::DeserializeOwned + serde::Serialize,
{
    let json = serde_json::to_string(text).expect("text is JSON");
    let parsed = serde_json::from_str::<T>(&json);
    assert_eq!(parsed.is_ok(), text.parse::<T>().is_ok());
    if let Ok(parsed) = parsed {
        let again = serde_json::to_string(&parsed).expect("text is JSON");
        assert_eq!(again, json);
    }
}

fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    canonical::<RegionId>(text);
    canonical::<Jurisdiction>(text);
    canonical::<DatasetName>(text);
    canonical::<Identity>(text);
    canonical::<AccessKeyId>(text);
    canonical::<Origin>(text);
    canonical::<Purpose>(text);
    canonical::<Hash>(text);
    stable::<DatasetId>(text);
    stable::<ObjectVersionId>(text);
    stable::<LeaseId>(text);
    stable::<KekId>(text);
    same_in_json::<RegionId>(text);
    same_in_json::<Jurisdiction>(text);
    same_in_json::<DatasetName>(text);
    same_in_json::<Identity>(text);
    same_in_json::<Origin>(text);
    same_in_json::<Purpose>(text);
    same_in_json::<Hash>(text);
    if let Ok(role) = text.parse::<Role>() {
        assert_eq!(role.as_str(), text);
    }
    match text.parse::<ObjectKey>() {
        Ok(key) => {
            assert_eq!(key.as_str(), text);
            assert!((1..=ObjectKey::BYTES_MAX).contains(&text.len()));
        }
        Err(_) => assert!(text.is_empty() || text.len() > ObjectKey::BYTES_MAX),
    }
    if let Ok(identity) = text.parse::<Identity>() {
        let made = Identity::new(identity.region().clone(), identity.role(), identity.name());
        assert_eq!(made, Ok(identity));
    }
    if let Ok(id) = text.parse::<AccessKeyId>() {
        assert_eq!(AccessKeyId::from_bits(id.bits()), id);
    }
}

fn text_seeds() -> Vec<Vec<u8>> {
    [
        "ch-zrh",
        "CH",
        "cti.samples-2026",
        "spiffe://ch-zrh/node/n1",
        "spiffe://ch-zrh/custodian/c-12",
        "spiffe://ch-zrh/service/backup",
        "RDTABCDEFGHIJKLMNOP2",
        "ch-zrh/main/1",
        "third-party-request",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5",
        "reports/2026/rapport-été.json",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn binary(data: &[u8]) {
    let is_id = data.len() == DatasetId::BYTES;
    let ids = [
        DatasetId::try_from(data).map(|id| *id.as_bytes()),
        ObjectVersionId::try_from(data).map(|id| *id.as_bytes()),
        LeaseId::try_from(data).map(|id| *id.as_bytes()),
        KekId::try_from(data).map(|id| *id.as_bytes()),
    ];
    for id in ids {
        assert_eq!(id.is_ok(), is_id);
        assert!(id.is_err() || id.is_ok_and(|id| id == data));
    }
    match RequestId::try_from(data) {
        Ok(id) => assert_eq!(id.to_bytes(), data),
        Err(_) => assert_ne!(data.len(), RequestId::BYTES),
    }
    if let Ok(id) = AccessKeyId::try_from(data) {
        assert_eq!(id.as_str().as_bytes(), data);
    }
    match Hash::try_from(data) {
        Ok(hash) => assert_eq!(hash.as_bytes(), data),
        Err(_) => assert_ne!(data.len(), tlog::HASH_BYTES),
    }
}

fn binary_seeds() -> Vec<Vec<u8>> {
    vec![
        vec![0xD5; 16],
        vec![7; 24],
        vec![9; 32],
        b"RDTABCDEFGHIJKLMNOP2".to_vec(),
    ]
}
