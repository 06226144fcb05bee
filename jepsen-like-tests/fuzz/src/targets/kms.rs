//! What a KMS replica takes from callers before anything is recorded: offers, opens, approvals.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::ObjectVersionId;
use proto::transcript;
use proto::v1;
use transport::{KeyPair, LocalIdentity, Peer};

use super::node::lease_header;
use crate::input::edited;
use crate::known::{self, APPROVER, CLIENT, DATASET, KMS, NOW, table};
use crate::{Memory, Shape, Source, Target};

pub(super) const OPEN_REQUEST: Target = Target {
    name: "open-request",
    from: Source::Network,
    parses: &["kms/src/opens.rs: parse"],
    shape: Shape::MESSAGE,
    len_max: 4096,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 512,
    },
    check: open_request,
    seeds: || vec![valid_open().encode_to_vec()],
};

pub(super) const APPROVAL: Target = Target {
    name: "approval",
    from: Source::Network,
    parses: &["kms/src/approvals.rs: verified"],
    shape: Shape::Message { after: 1 },
    len_max: 1024,
    memory: Memory::PARSER,
    check: approval,
    seeds: approval_seeds,
};

pub(super) const SESSION_OFFER: Target = Target {
    name: "session-offer",
    from: Source::Network,
    parses: &["kms/src/sessions.rs: open"],
    shape: Shape::Bytes,
    len_max: 1400,
    memory: Memory::PARSER,
    check: session_offer,
    seeds: || vec![vec![0], vec![1], vec![2]],
};

fn valid_open() -> v1::OpenRequest {
    let token = v1::LeaseToken {
        header: lease_header().encode_to_vec().into(),
        wrapped: Bytes::from_static(b"wrapped"),
        ..Default::default()
    };
    let item = |version: u8| v1::OpenItem {
        token: token.encode_to_vec().into(),
        version_id: ObjectVersionId([version; 16]).into(),
        dek_salt: vec![1; 32].into(),
        name_commitment: vec![2; 32].into(),
        bytes: 10,
    };
    v1::OpenRequest {
        request_id: vec![9; 16].into(),
        session_id: vec![8; 16].into(),
        dataset_id: DATASET.into(),
        claim: Some(v1::Claim {
            purpose: "service".to_owned(),
            ..Default::default()
        }),
        items: vec![item(1), item(2)],
        ..Default::default()
    }
}

fn open_request(data: &[u8]) {
    let Ok(request) = v1::OpenRequest::decode(data) else {
        return;
    };
    let asked = request.items.len();
    if let Some(items) = kms::fuzzing::open_request(&CLIENT.identity(), request, "ch-zrh") {
        assert_eq!(items, asked, "every item is opened or none");
        assert!((1..=kms::OPEN_ITEMS_MAX).contains(&items));
    }
}

const REQUEST_HASH: [u8; 32] = [0xAB; 32];
const SINGLE_USE: [u8; 16] = [0x51; 16];

fn approver() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| known::key(APPROVER.key))
}

/// An approval's bytes, and a body signed by an operator.
fn approval(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let given = match how % 2 {
        0 => v1::Approval::decode(data).unwrap_or_default(),
        _ => v1::Approval {
            body: Bytes::copy_from_slice(data),
            signature: approver()
                .sign(transcript::LABEL_APPROVAL, data)
                .to_vec()
                .into(),
        },
    };
    let id = Some(&SINGLE_USE[..]);
    let claims = kms::approvals::verified(table(), &REQUEST_HASH, id, &[given], NOW);
    let Ok([claim]) = claims.as_deref() else {
        return;
    };
    assert_eq!(
        claim.approver,
        APPROVER.identity().to_string(),
        "who signed it"
    );
    assert_eq!(claim.single_use_id, SINGLE_USE[..]);
    assert!(claim.expires_at_ms > NOW.0);
    let alone = kms::approvals::counted(std::slice::from_ref(claim), &CLIENT.identity(), 0);
    assert!(alone.is_err(), "one approver is no dual control");
}

fn approval_seeds() -> Vec<Vec<u8>> {
    let body = v1::ApprovalBody {
        approver: APPROVER.identity().to_string(),
        request_hash: REQUEST_HASH.to_vec().into(),
        single_use_id: SINGLE_USE.to_vec().into(),
        expires_at_ms: NOW.0 + 1000,
    }
    .encode_to_vec();
    let whole = v1::Approval {
        signature: approver()
            .sign(transcript::LABEL_APPROVAL, &body)
            .to_vec()
            .into(),
        body: body.clone().into(),
    };
    vec![
        [&[0], &whole.encode_to_vec()[..]].concat(),
        [&[1], &body[..]].concat(),
    ]
}

fn replica() -> &'static LocalIdentity {
    static LOCAL: OnceLock<LocalIdentity> = OnceLock::new();
    LOCAL.get_or_init(|| KMS.local())
}

/// An offer by a caller who signed it, and one that somebody changed on the way.
fn session_offer(data: &[u8]) {
    static VALID: OnceLock<Vec<u8>> = OnceLock::new();
    let valid = VALID.get_or_init(|| {
        let key = envelope::HpkePrivateKey::from_seed(&[5; 32]).expect("room");
        key.public().as_bytes().to_vec()
    });
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let caller = known::key(CLIENT.key);
    let peer = Peer {
        identity: CLIENT.identity(),
        public_key: caller.public_key(),
        node_id: None,
        remote: ([127, 0, 0, 1], 7000).into(),
        stated: transport::Stated::default(),
    };
    let name = replica().identity().to_string();
    let (offer, signed) = match how % 3 {
        0 => (data.to_vec(), data.to_vec()),
        1 => {
            let changed = edited(valid, data);
            (changed.clone(), changed)
        }
        _ => (edited(valid, data), valid.clone()),
    };
    let transcript = transcript::session_offer(&signed, &name);
    let request = v1::OpenSessionRequest {
        signature: caller
            .sign(transcript::LABEL_SESSION_OFFER, &transcript)
            .to_vec()
            .into(),
        offer: offer.clone().into(),
        replica: name,
    };
    let clock = known::clock();
    let Some(reply) = kms::fuzzing::session_offer(replica(), &peer, &request, &clock) else {
        return;
    };
    assert_eq!(
        offer, signed,
        "an offer that its caller did not sign was answered"
    );
    let answer = transcript::session_answer(&offer, &reply);
    let signer = replica().public_key();
    assert!(
        signer
            .verify(transcript::LABEL_SESSION, &answer, &reply.signature)
            .is_ok()
    );
}
