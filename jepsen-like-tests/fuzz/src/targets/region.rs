//! Who may act: enrolment sets, the file that keeps one, certificates, keys, and what errors say.
//!
//! Owns what holds besides no panic: a set that is taken states what was signed, and nothing of another region; a
//! certificate says one identity.

use std::sync::OnceLock;

use prost::Message as _;
use proto::descriptor::Descriptor;
use proto::transcript::LABEL_REGION_DESCRIPTOR;
use proto::v1;
use tonic::Status;
use transport::enrolment::{EnrolmentTable, sign_set, verify_descriptor};
use transport::fault::{leader_hint, reason};
use transport::{Enrolments, Fault, KeyPair, LocalIdentity, PublicKey, RegionCa, RegionTrust};

use crate::input::{Input, edited};
use crate::known::{self, CLIENT, KMS};
use crate::{Memory, Shape, Source, Target};

pub(super) const ENROLMENT_SET: Target = Target {
    name: "enrolment-set",
    from: Source::Network,
    parses: &[
        "transport/src/enrolment/table.rs: parse",
        "transport/src/enrolment/grant.rs: parse",
        "kms/state/src/authority.rs: parse",
    ],
    shape: Shape::Message { after: 1 },
    len_max: 8192,
    memory: Memory {
        // Sixty times what an empty enrolment has on the wire, in both forms, and their indexes.
        fixed: 2 << 20,
        per_byte: 512,
    },
    check: enrolment_set,
    seeds: enrolment_seeds,
};

pub(super) const ENROLMENT_FILE: Target = Target {
    name: "enrolment-file",
    from: Source::Disk,
    parses: &["transport/src/enrolment/file.rs: load"],
    shape: Shape::Bytes,
    len_max: 8192,
    memory: Memory {
        fixed: 2 << 20,
        per_byte: 512,
    },
    check: enrolment_file,
    seeds: || vec![vec![0, 1, 2], vec![1]],
};

pub(super) const DESCRIPTOR: Target = Target {
    name: "region-descriptor",
    from: Source::Network,
    parses: &[
        "proto/src/descriptor.rs: parse",
        "proto/src/descriptor.rs: from_file",
        "transport/src/enrolment/trusted.rs: verify_descriptor",
        "kms/state/src/regions.rs: decode",
    ],
    shape: Shape::Message { after: 1 },
    len_max: 4096,
    memory: Memory {
        // As of an enrolment set: what an empty member has on the wire, in both forms.
        fixed: 2 << 20,
        per_byte: 512,
    },
    check: descriptor,
    seeds: descriptor_seeds,
};

pub(super) const CERTIFICATE: Target = Target {
    name: "certificate",
    from: Source::Network,
    parses: &[
        "transport/src/certificate.rs: parse",
        "transport/src/certificate.rs: from_der",
        "transport/src/certificate.rs: from_pem",
        "transport/src/ca.rs: from_pem",
        "transport/src/identity.rs: from_pem",
        "transport/src/keys.rs: from_spki",
    ],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory::PARSER,
    check: certificate,
    seeds: certificate_seeds,
};

pub(super) const PRIVATE_KEY: Target = Target {
    name: "private-key",
    from: Source::Disk,
    parses: &[
        "transport/src/keys.rs: from_pem",
        "transport/src/keys.rs: from_pkcs8",
    ],
    shape: Shape::Bytes,
    len_max: 1024,
    memory: Memory::PARSER,
    check: private_key,
    seeds: || vec![known::pkcs8(3), known::key(3).to_pem().as_bytes().to_vec()],
};

pub(super) const STATUS: Target = Target {
    name: "status",
    from: Source::Network,
    parses: &["transport/src/fault.rs: leader_hint"],
    shape: Shape::Bytes,
    len_max: 1024,
    memory: Memory::PARSER,
    check: status,
    seeds: status_seeds,
};

/// A set as it is, signed by whom it must be signed by: its bytes are a stranger's, the signature holds.
fn enrolment_set(data: &[u8]) {
    let Some((how, set)) = data.split_first() else {
        return;
    };
    let authority = v1::EnrolmentSet::decode(set).map(kms_state::Authority::parse);
    let ca = known::ca();
    let signed = v1::SignedEnrolmentSet {
        signer: ca.key().public_key().as_spki().to_vec().into(),
        signature: ca
            .key()
            .sign(transport::enrolment::SET_LABEL, set)
            .to_vec()
            .into(),
        set: set.to_vec().into(),
    };
    if how % 2 == 0 {
        if let Ok(held) = Enrolments::bootstrap(known::trust(), &signed, known::clock()) {
            table(&held.current(), set);
            assert_eq!(held.version(), 1);
        }
    } else {
        let held = known::enrolments();
        let signed = v1::SignedEnrolmentSet {
            signer: kms().public_key().as_spki().to_vec().into(),
            signature: kms()
                .sign(transport::enrolment::SET_LABEL, set)
                .to_vec()
                .into(),
            ..signed
        };
        match held.offer(&signed) {
            Ok(true) => table(&held.current(), set),
            Ok(false) | Err(_) => assert_eq!(held.current().signed(), &known::first_set()),
        }
    }
    if let Ok(Ok(authority)) = authority {
        agreed(&authority);
    }
}

/// Two parsers read sets: the state machine's, before one is in force, and every process's, when it is told. What the
/// first takes the second must take, or a change would lock the region out of itself.
fn agreed(authority: &kms_state::Authority) {
    assert!(authority.approvals_min() >= 2);
    let mut set = authority.set().clone();
    set.signed_at_ms = known::NOW.0;
    set.version = 2;
    let ours = set.region == known::region().as_str()
        && set.jurisdiction == known::jurisdiction().as_str()
        && set.ca_certificate == known::ca().certificate_der();
    let taken = known::enrolments().offer(&sign_set(kms(), &set));
    assert!(!ours || taken.is_ok(), "{taken:?}");
}

fn kms() -> &'static LocalIdentity {
    static KMS_REPLICA: OnceLock<LocalIdentity> = OnceLock::new();
    KMS_REPLICA.get_or_init(|| KMS.local())
}

fn table(table: &EnrolmentTable, bytes: &[u8]) {
    assert_eq!(table.signed().set, bytes, "what was signed is what is held");
    assert_eq!(table.region(), &known::region());
    assert_eq!(table.ca_certificate(), known::ca().certificate_der());
    assert!(table.approvals_min() >= 2);
    for enrolled in table.iter() {
        assert_eq!(enrolled.identity.region(), table.region());
        let by_key = table.by_public_key(&enrolled.public_key);
        assert_eq!(by_key, Some(enrolled), "one key, one identity");
        let member = enrolled.node_id;
        if let Some(id) = member {
            assert_eq!(
                table.by_node_id(enrolled.identity.role(), id),
                Some(enrolled)
            );
            assert_eq!(enrolled.jurisdiction.as_ref(), Some(table.jurisdiction()));
        }
    }
}

fn enrolment_seeds() -> Vec<Vec<u8>> {
    let of = |how: u8, version| [&[how], &known::set(version).encode_to_vec()[..]].concat();
    let mut later = known::set(2);
    later.enrolments.truncate(4);
    later.grants.clear();
    vec![
        of(0, 1),
        of(1, 2),
        [&[1], &later.encode_to_vec()[..]].concat(),
    ]
}

/// A descriptor in the region's hand, in a stranger's, and as a file: what is read is what stands there.
fn descriptor(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else {
        return;
    };
    let signed = match how % 3 {
        0 => signed_descriptor(bytes),
        1 => v1::SignedRegionDescriptor {
            signature: vec![*how; 64].into(),
            ..signed_descriptor(bytes)
        },
        _ => {
            let file = [proto::descriptor::FILE_HEADER, bytes].concat();
            let Ok(read) = proto::descriptor::from_file(&file) else {
                return;
            };
            assert_eq!(proto::descriptor::to_file(read.signed()), file);
            read.signed().clone()
        }
    };
    let verified = verify_descriptor(&signed);
    let Ok(parsed) = Descriptor::parse(&signed) else {
        assert!(verified.is_err(), "verified, and no descriptor");
        return;
    };
    assert_eq!(
        parsed.stated().encode_to_vec(),
        signed.descriptor,
        "one encoding"
    );
    assert!(parsed.may_sign(&signed.signer));
    assert!(parsed.good_at(parsed.expires()).is_err());
    for member in parsed.members() {
        assert_eq!(member.identity.region(), parsed.region());
        assert_eq!(parsed.by_public_key(&member.public_key), Some(member));
    }
    if let Ok(verified) = verified {
        assert!(how % 3 != 1, "a stranger's signature");
        assert_eq!(verified.trust().region(), parsed.region());
    }
}

fn signed_descriptor(bytes: &[u8]) -> v1::SignedRegionDescriptor {
    v1::SignedRegionDescriptor {
        descriptor: bytes.to_vec().into(),
        signer: kms().public_key().as_spki().to_vec().into(),
        signature: kms().sign(LABEL_REGION_DESCRIPTOR, bytes).to_vec().into(),
    }
}

fn descriptor_seeds() -> Vec<Vec<u8>> {
    let set = known::set(1);
    let met = ["/kms/", "/node/", "/gateway/"];
    let members = set.enrolments.into_iter();
    let members = members.filter(|one| met.iter().any(|role| one.identity.contains(role)));
    let origin = format!("{}/main/1", set.region);
    let stated = v1::RegionDescriptor {
        format: 1,
        version: 7,
        issued_at_ms: known::NOW.0,
        expires_at_ms: known::NOW.0 + 90 * 24 * 3_600_000,
        ca_certificate: set.ca_certificate,
        members: members
            .map(|one| v1::RegionMember {
                identity: one.identity,
                public_key: one.public_key,
                endpoint: "kms.example:7200".to_owned(),
            })
            .collect(),
        log_key: format!("{origin}+0a0b0c0d+AQ=="),
        log_origin: origin,
        witness_policy: b"quorum none\n".to_vec().into(),
        region: set.region,
        jurisdiction: set.jurisdiction,
    };
    let bytes = stated.encode_to_vec();
    let signed = signed_descriptor(&bytes).encode_to_vec();
    vec![
        [&[0], &bytes[..]].concat(),
        [&[1], &bytes[..]].concat(),
        [&[2], &signed[..]].concat(),
    ]
}

/// The file as it is, and as edits of a valid one.
fn enrolment_file(data: &[u8]) {
    static FILE: OnceLock<(tempfile::TempDir, Vec<u8>)> = OnceLock::new();
    let (folder, valid) = FILE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("enrolments");
        let first = known::first_set();
        Enrolments::open(&path, known::trust(), &first, known::clock()).expect("a first set");
        let bytes = std::fs::read(&path).expect("it was saved");
        (folder, bytes)
    });
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let bytes = match how % 2 {
        0 => data.to_vec(),
        _ => edited(valid, data),
    };
    let path = folder.path().join("enrolments");
    std::fs::write(&path, &bytes).expect("the folder takes a file");
    let loaded = Enrolments::load(&path, known::trust(), known::clock());
    if let Ok(Some(held)) = loaded {
        let signed = held.current().signed().clone();
        table(&held.current(), &signed.set);
        assert_eq!(signed, known::first_set(), "nobody else signed anything");
    }
}

/// DER or PEM of an identity, of a CA, of a key.
fn certificate(data: &[u8]) {
    let public = PublicKey::from_spki(data);
    assert!(public.is_err() || public.is_ok_and(|key| key.as_spki() == data));
    if let Ok(trust) = RegionTrust::from_der(known::region(), data) {
        assert_eq!(trust.ca_certificate(), data);
    }
    pem(data);
    let whole = pem_of(data);
    pem(whole.as_bytes());
}

fn pem(text: &[u8]) {
    if let Ok(identity) = LocalIdentity::new(text, known::key(CLIENT.key)) {
        assert_eq!(identity.public_key(), known::key(CLIENT.key).public_key());
        let again = identity.identity().to_string().parse();
        assert_eq!(again.as_ref(), Ok(identity.identity()));
        assert!(identity.renew(text).is_ok());
    }
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    if let Ok(trust) = RegionTrust::from_pem(known::region(), text) {
        let again = RegionTrust::from_der(known::region(), trust.ca_certificate());
        assert!(again.is_ok_and(|again| again.ca_key() == trust.ca_key()));
    }
    let ca = RegionCa::from_pem(known::region(), text.to_owned(), known::key(known::CA_KEY));
    if let Ok(ca) = ca {
        assert_eq!(ca.key().public_key(), known::ca().key().public_key());
        assert_eq!(ca.trust().ca_certificate(), ca.certificate_der());
    }
}

/// DER in PEM, which a fuzzer would hardly write.
fn pem_of(der: &[u8]) -> String {
    let base64 = rcgen_pem(der);
    format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
}

fn rcgen_pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(der.len() * 4 / 3 + 4);
    for chunk in der.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let six = (bits >> (18 - 6 * position)) as usize & 63;
            let padding = position > chunk.len();
            out.push(if padding { '=' } else { ALPHABET[six].into() });
        }
    }
    out
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    vec![
        known::ca().certificate_der().to_vec(),
        known::ca().certificate_pem().as_bytes().to_vec(),
        CLIENT.certificate().into_bytes(),
        known::key(1).public_key().as_spki().to_vec(),
    ]
}

/// PKCS#8 and the file around it.
fn private_key(data: &[u8]) {
    let signs = |key: &KeyPair| {
        let signature = key.sign("reduit/v1/fuzz", b"message");
        assert!(
            key.public_key()
                .verify("reduit/v1/fuzz", b"message", &signature)
                .is_ok()
        );
        let again = KeyPair::from_pem(&key.to_pem()).expect("own text");
        assert_eq!(again.public_key(), key.public_key());
    };
    if let Ok(key) = KeyPair::from_pkcs8(data) {
        signs(&key);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(key) = KeyPair::from_pem(text)
    {
        signs(&key);
    }
}

/// What a server, or whoever stands in between, answers instead of a message.
fn status(data: &[u8]) {
    let mut input = Input::new(data);
    let code = i32::from(input.u8() % 18);
    let mut headers = http::HeaderMap::new();
    headers.insert("grpc-status", code.into());
    for name in [
        "reduit-reason",
        "reduit-leader-id",
        "reduit-leader-endpoint",
        "grpc-message",
        "reduit-current-version",
    ] {
        if let Ok(value) = http::HeaderValue::from_bytes(input.short()) {
            headers.insert(name, value);
        }
    }
    let Some(status) = Status::from_header_map(&headers) else {
        return;
    };
    let fault = Fault::of(&status);
    let ours = reason(&status).is_some();
    assert!(
        ours || !matches!(fault, Fault::Unavailable | Fault::Busy),
        "a lost request was retriable"
    );
    if let Some(hint) = leader_hint(&status) {
        let again = transport::fault::with_leader(Status::unavailable(""), &hint);
        assert_eq!(leader_hint(&again), Some(hint));
    }
}

fn status_seeds() -> Vec<Vec<u8>> {
    let field = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let of = |code: u8, fields: [&str; 5]| {
        let fields: Vec<u8> = fields.into_iter().flat_map(field).collect();
        [&[code], &fields[..]].concat()
    };
    vec![
        of(
            14,
            ["not-leader", "1007", "127.0.0.1:7001", "ask there", ""],
        ),
        of(
            9,
            [
                "precondition-failed",
                "",
                "",
                "",
                "d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5",
            ],
        ),
        of(0, ["", "", "", "", ""]),
    ]
}
