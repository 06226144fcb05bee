//! How many records a second one core applies on the in-memory store: opens of one object each, by batch size.
//!
//! `cargo run -p reduit-kms-state --example apply_rate`. Owns a measurement and no claim: it fails only when a
//! record is refused.

use std::time::Instant;

use bytes::Bytes;
use kms_state::prepare::{self, Asked, KeyUse, NewKek};
use kms_state::{At, Authority, LEVEL_MAX, apply};
use prost::Message;
use proto::ids::{DatasetId, Identity, KekId, LogIndex, UnixMs};
use proto::store::MemoryStore;
use proto::v1::{
    Action, Claim, Enrolment, EnrolmentSet, Grant, KekVersionRecord, KmsAnswer, KmsRegion,
    OpenedItem, ShareHolder, kms_answer,
};

const DATASET: DatasetId = DatasetId([1; 16]);
const RECORDS: u64 = 20_000;

fn identity(text: &str) -> Identity {
    format!("spiffe://ch-zrh/{text}")
        .parse()
        .expect("a valid identity")
}

fn enrolments() -> EnrolmentSet {
    let enrol = |text: &str, node_id| {
        let key = tlog::sha256(&[text.as_bytes()]).0;
        let prefix = [
            0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        let hpke = if text.starts_with("custodian") {
            vec![7; 1_216]
        } else {
            Vec::new()
        };
        Enrolment {
            identity: identity(text).to_string(),
            public_key: [&prefix[..], &key].concat().into(),
            node_id,
            endpoint: String::new(),
            jurisdiction: "CH".into(),
            hpke_public_key: hpke.into(),
        }
    };
    EnrolmentSet {
        format: 1,
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        version: 1,
        ca_certificate: Bytes::from_static(b"ca"),
        enrolments: vec![
            enrol("custodian/c1", 0),
            enrol("custodian/c2", 0),
            enrol("gateway/g1", 0),
            enrol("kms/r1", 1),
        ],
        signed_at_ms: 0,
        grants: vec![Grant {
            principal: "role:gateway".into(),
            dataset: "*".into(),
            actions: vec![Action::Create.into(), Action::Read.into()],
            purposes: Vec::new(),
        }],
        approvals_min: 2,
        policy: String::new(),
        service_principals: Vec::new(),
        trusted_regions: Vec::new(),
        descriptor: None,
    }
}

fn region() -> KmsRegion {
    let holder = |text: &str| ShareHolder {
        identity: identity(text).to_string(),
        ..ShareHolder::default()
    };
    KmsRegion {
        format: 1,
        region: "ch-zrh".into(),
        jurisdiction: "CH".into(),
        root_epoch: 1,
        root_check: Bytes::from_static(b"check"),
        shares_needed: 2,
        custodians: vec![holder("custodian/c1"), holder("custodian/c2")],
        log_origin: "ch-zrh/main/1".into(),
        share_set: Bytes::new(),
    }
}

fn asked(requester: &str) -> Asked {
    let requester = identity(requester);
    Asked {
        requester,
        now: UnixMs(1_790_000_000_000),
        salts: [7; 32],
        approvals: Vec::new(),
    }
}

fn prepared_region() -> MemoryStore {
    let mut state = MemoryStore::default();
    let at = At {
        index: LogIndex(1),
        voters: 1,
        level: LEVEL_MAX,
    };
    let init = prepare::init(asked("kms/r1"), region(), &enrolments());
    apply(at, &init.encode_to_vec(), &mut state).expect("known");
    let authority = Authority::load(&state).expect("initialised");
    let wrapped = Bytes::from(vec![1; 150]);
    let version = KekVersionRecord {
        version: 1,
        root_epoch: 1,
        wrapped_kek: wrapped.clone(),
        wrapped_metadata_key: wrapped,
        created_at_ms: 0,
        metadata_kek_version: 0,
    };
    let new = NewKek {
        dataset: DATASET,
        kek: KekId([2; 16]),
        pseudonym: [3; 16],
        request_id: [4; 16],
        version,
    };
    let create = prepare::create_kek(&authority, asked("gateway/g1"), Claim::default(), new)
        .expect("granted");
    apply(at, &create.encode_to_vec(), &mut state).expect("known");
    state
}

fn main() {
    println!("batch   records/s   us/record   command bytes/record");
    for batch in [1_u64, 8, 64, 256] {
        let mut state = prepared_region();
        let authority = Authority::load(&state).expect("initialised");
        let caller = identity("gateway/g1");
        let (mut spent, mut bytes) = (std::time::Duration::ZERO, 0);
        for first in (0..RECORDS).step_by(batch as usize) {
            let record = |n: u64| {
                let mut request_id = [0; 16];
                request_id[..8].copy_from_slice(&n.to_be_bytes());
                let claim = Claim::default();
                let used = KeyUse {
                    caller: &caller,
                    dataset: &DATASET,
                    request_id,
                    claim,
                };
                let item = OpenedItem {
                    version_id: Bytes::copy_from_slice(&request_id),
                    name_commitment: Bytes::from(vec![5; 32]),
                    lease_id: Bytes::from(vec![6; 16]),
                    bytes: 4_096,
                };
                prepare::opens(&state, &authority, used, vec![item])
                    .expect("granted")
                    .0
                    .record
            };
            let records = (first..first + batch).map(record).collect();
            let command = prepare::batch(asked("kms/r1"), 1, records).encode_to_vec();
            bytes += command.len();
            let at = At {
                index: LogIndex(first + 3),
                voters: 1,
                level: LEVEL_MAX,
            };
            let start = Instant::now();
            let answer = apply(at, &command, &mut state).expect("known");
            spent += start.elapsed();
            let answer = KmsAnswer::decode(answer).expect("own answer").answer;
            let Some(kms_answer::Answer::Records(answers)) = answer else {
                panic!("refused: {answer:?}")
            };
            assert!(answers.answers.iter().all(|answer| answer.refused == 0));
        }
        let each = spent.as_secs_f64() / RECORDS as f64;
        let rate = 1.0 / each;
        println!(
            "{batch:5} {rate:11.0} {:11.1} {:12}",
            each * 1e6,
            bytes as u64 / RECORDS
        );
    }
}
