//! The region that the runs of the KMS found: who is enrolled, what is granted, who approves.
//!
//! Owns names and bytes of the test's own making. Refuses real keys: what is wrapped here is not.

use bytes::Bytes;
use kms_state::prepare::Asked;
use prost::Message as _;
use proto::ids::{DatasetId, Identity, LeaseId, ObjectVersionId, UnixMs};
use proto::v1::{
    Action, ApprovalClaim, Enrolment, EnrolmentSet, Grant, KekVersionRecord, KmsRegion, OpenedItem,
    ShareHolder, WitnessPolicy,
};
use tlog::{SignatureType, SignerKey};

/// Region time at the ceremony.
pub(crate) const START: u64 = 1_790_000_000_000;
pub(crate) const HOUR: u64 = 3_600_000;
/// Datasets of a run.
pub(crate) const DATASETS: [DatasetId; 3] = [
    DatasetId([0xD1; 16]),
    DatasetId([0xD2; 16]),
    DatasetId([0xD3; 16]),
];

/// An identity of the region: `role/name`.
pub(crate) fn id(text: &str) -> Identity {
    let identity = format!("spiffe://ch-zrh/{text}").parse();
    identity.expect("the test writes valid names")
}

/// An enrolment with a key made of the name.
pub(crate) fn enrolment(text: &str, node_id: u64) -> Enrolment {
    let identity = id(text).to_string();
    let mut public_key = vec![
        0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
    ];
    public_key.extend_from_slice(&tlog::sha256(&[identity.as_bytes()]).0);
    let hpke = if text.starts_with("custodian/") {
        vec![7; 1216]
    } else {
        Vec::new()
    };
    Enrolment {
        identity,
        public_key: public_key.into(),
        node_id,
        endpoint: String::new(),
        jurisdiction: "CH".into(),
        hpke_public_key: hpke.into(),
    }
}

/// A grant on every dataset.
pub(crate) fn grant(principal: &str, actions: &[Action], purposes: &[&str]) -> Grant {
    Grant {
        principal: principal.into(),
        dataset: "*".into(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: purposes.iter().map(|purpose| (*purpose).into()).collect(),
    }
}

/// Who and what is there from the beginning.
pub(crate) fn genesis() -> EnrolmentSet {
    let names = [
        ("kms/r1", 1),
        ("kms/r2", 2),
        ("kms/r3", 3),
        ("node/n1", 1),
        ("operator/o1", 0),
        ("operator/o2", 0),
        ("operator/o3", 0),
        ("operator/o4", 0),
        ("custodian/c1", 0),
        ("custodian/c2", 0),
        ("custodian/c3", 0),
        ("gateway/g1", 0),
        ("gateway/g2", 0),
        ("client/s1", 0),
        ("auditor/a1", 0),
    ];
    let mut enrolments: Vec<_> = names
        .into_iter()
        .map(|(text, node_id)| enrolment(text, node_id))
        .collect();
    enrolments.sort_by(|a, b| a.identity.cmp(&b.identity));
    use Action::{Create, Keys, List, Read, Write};
    let mut grants = vec![
        grant(
            "role:gateway",
            &[Create, List, Read, Write],
            &["service", "reseal"],
        ),
        grant(
            "role:operator",
            &[Create, Keys, Read, List],
            &["service", "investigation"],
        ),
        grant("role:auditor", &[Read], &["investigation"]),
    ];
    grants.sort_by_cached_key(|grant| grant.encode_to_vec());
    EnrolmentSet {
        format: 1,
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        version: 1,
        ca_certificate: Bytes::from_static(b"ca"),
        enrolments,
        signed_at_ms: 5,
        grants,
        approvals_min: 2,
        policy: String::new(),
        service_principals: Vec::new(),
        trusted_regions: Vec::new(),
        descriptor: None,
    }
}

/// The region's record, as the ceremony brings it.
pub(crate) fn region() -> KmsRegion {
    let holder = |name: &str, share_index| ShareHolder {
        identity: id(name).to_string(),
        share_check: Bytes::from_static(b"check"),
        share_index,
    };
    KmsRegion {
        format: 1,
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        root_epoch: 1,
        root_check: Bytes::from_static(b"root-check"),
        shares_needed: 2,
        custodians: vec![
            holder("custodian/c1", 1),
            holder("custodian/c2", 2),
            holder("custodian/c3", 3),
        ],
        log_origin: "ch-zrh/main/1".into(),
        share_set: Bytes::from_static(b"share-set"),
    }
}

/// A KEK version, wrapped as far as state can tell.
pub(crate) fn version(number: u32) -> KekVersionRecord {
    KekVersionRecord {
        version: number,
        root_epoch: 1,
        wrapped_kek: vec![0xAA; 150].into(),
        wrapped_metadata_key: vec![0xBB; 150].into(),
        created_at_ms: 0,
        metadata_kek_version: 0,
    }
}

/// An operator's approval under a single-use id.
pub(crate) fn approval(approver: &str, single_use_id: u64, expires_at_ms: u64) -> ApprovalClaim {
    let mut id_bytes = [0x5E; 16];
    id_bytes[..8].copy_from_slice(&single_use_id.to_be_bytes());
    ApprovalClaim {
        approver: id(approver).to_string(),
        single_use_id: Bytes::copy_from_slice(&id_bytes),
        expires_at_ms,
        approval_hash: vec![0xCC; 32].into(),
    }
}

/// One object version of an open.
pub(crate) fn item(version: u8, bytes: u64) -> OpenedItem {
    OpenedItem {
        version_id: ObjectVersionId([version; 16]).into(),
        name_commitment: vec![version; 32].into(),
        lease_id: LeaseId([9; 16]).into(),
        bytes,
    }
}

/// What a driver adds to a request. `number` makes the salts, which are never the same twice.
pub(crate) fn asked(requester: &str, now: u64, number: u64) -> Asked {
    let mut salts = [0x5A; 32];
    salts[..8].copy_from_slice(&number.to_be_bytes());
    Asked {
        requester: id(requester),
        now: UnixMs(now),
        salts,
        approvals: Vec::new(),
    }
}

/// A policy of this region's log that asks for nobody, always the same.
pub(super) fn witness_policy() -> WitnessPolicy {
    let name = region()
        .log_origin
        .parse()
        .expect("an origin is a key's name");
    let log = SignerKey::from_seed(name, SignatureType::Ed25519, &[7; 32]);
    let log = log.expect("a seed of the right length");
    let log = log.verifier();
    WitnessPolicy {
        format: 1,
        policy: format!("log {log}\nquorum none\n").into(),
        unwitnessed_max_ms: 24 * HOUR,
    }
}
