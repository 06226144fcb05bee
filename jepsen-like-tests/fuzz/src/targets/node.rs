//! What a storage node takes from committers, and its configuration.

use std::sync::OnceLock;

use bytes::Bytes;
use node::fuzzing;
use prost::Message as _;
use proto::ids::{GroupId, LeaseId, ObjectVersionId};
use proto::transcript;
use proto::v1;
use transport::{KeyPair, Peer};

use crate::input::Input;
use crate::known::{self, CLIENT, DATASET, KMS, NODE, table};
use crate::{Memory, Shape, Source, Target};

pub(super) const TOKEN: Target = Target {
    name: "lease-token",
    from: Source::Network,
    parses: &["node/src/shard/tokens.rs: verify"],
    shape: Shape::Message { after: 1 },
    len_max: 2048,
    memory: Memory::PARSER,
    check: token,
    seeds: token_seeds,
};

pub(super) const RECEIPT: Target = Target {
    name: "receipt",
    from: Source::Network,
    parses: &["node/src/shard/receipts.rs: verify"],
    shape: Shape::Message { after: 1 },
    len_max: 2048,
    memory: Memory {
        fixed: 1 << 20,
        per_byte: 256,
    },
    check: receipt,
    seeds: receipt_seeds,
};

pub(super) const NODE_CONFIG: Target = Target {
    name: "config",
    from: Source::Person,
    parses: &["node/src/config.rs: load", "kms/src/config.rs: load"],
    shape: Shape::Bytes,
    len_max: 2048,
    memory: Memory {
        fixed: 2 << 20,
        per_byte: 256,
    },
    check: config,
    seeds: config_seeds,
};

fn kms_key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| known::key(KMS.key))
}

fn node_key() -> &'static KeyPair {
    static KEY: OnceLock<KeyPair> = OnceLock::new();
    KEY.get_or_init(|| known::key(NODE.key))
}

fn committer() -> &'static Peer {
    static PEER: OnceLock<Peer> = OnceLock::new();
    PEER.get_or_init(|| Peer {
        identity: CLIENT.identity(),
        public_key: known::key(CLIENT.key).public_key(),
        node_id: None,
        remote: ([127, 0, 0, 1], 7000).into(),
        stated: transport::Stated::default(),
    })
}

fn dataset() -> v1::DatasetRecord {
    v1::DatasetRecord {
        format: 1,
        dataset_id: DATASET.into(),
        epoch: 1,
        kek_id: Bytes::from_static(&[0x6B; 16]),
        ..Default::default()
    }
}

/// A token's bytes, and a header signed by a KMS replica.
fn token(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let encoded = match how % 2 {
        0 => Bytes::copy_from_slice(data),
        _ => signed_token(data, b"wrapped"),
    };
    let Some((lease, record)) = fuzzing::token(table(), committer(), &dataset(), &encoded) else {
        return;
    };
    let token = v1::LeaseToken::decode(encoded.clone()).expect("it was read");
    assert_eq!(
        token.signer,
        kms_key().public_key().as_spki(),
        "who signs tokens"
    );
    let header = v1::LeaseHeader::decode(token.header).expect("it was read");
    assert_eq!(header.lease_id, lease.as_bytes()[..]);
    assert_eq!(record.token, encoded);
    assert_eq!(record.dataset_id, DATASET.as_bytes()[..]);
    assert_eq!(record.expires_at_ms, header.expires_at_ms);
    assert_eq!(
        header.holder,
        kms::approvals::sha256(committer().public_key.as_spki())[..]
    );
}

fn signed_token(header: &[u8], wrapped: &'static [u8]) -> Bytes {
    let signed = transcript::lease_token(header, wrapped);
    let token = v1::LeaseToken {
        header: Bytes::copy_from_slice(header),
        wrapped: Bytes::from_static(wrapped),
        signer: kms_key().public_key().as_spki().to_vec().into(),
        signature: kms_key()
            .sign(transcript::LABEL_LEASE_TOKEN, &signed)
            .to_vec()
            .into(),
    };
    token.encode_to_vec().into()
}

pub(super) fn lease_header() -> v1::LeaseHeader {
    v1::LeaseHeader {
        format: 1,
        region: "ch-zrh".to_owned(),
        dataset_id: DATASET.into(),
        dataset_epoch: 1,
        kek_id: Bytes::from_static(&[0x6B; 16]),
        kek_version: 1,
        lease_id: LeaseId([0x1E; 16]).into(),
        holder: kms::approvals::sha256(committer().public_key.as_spki())
            .to_vec()
            .into(),
        issued_at_ms: known::NOW.0,
        expires_at_ms: known::NOW.0 + 3_600_000,
    }
}

fn token_seeds() -> Vec<Vec<u8>> {
    let header = lease_header().encode_to_vec();
    let whole = signed_token(&header, b"wrapped");
    vec![[&[0], &whole[..]].concat(), [&[1], &header[..]].concat()]
}

fn object() -> v1::ObjectEntry {
    let block = |digest: u8, bytes| v1::BlockRef {
        digest: vec![digest; 32].into(),
        bytes,
    };
    v1::ObjectEntry {
        version_id: ObjectVersionId([0xEE; 16]).into(),
        blocks: vec![block(1, 100), block(2, 100), block(3, 7)],
        upload_epoch: 3,
        ..Default::default()
    }
}

/// A receipt's bytes, and a body signed by a node.
fn receipt(data: &[u8]) {
    let Some((how, data)) = data.split_first() else {
        return;
    };
    let given = match how % 2 {
        0 => v1::Receipt::decode(data).unwrap_or_default(),
        _ => v1::Receipt {
            body: Bytes::copy_from_slice(data),
            signature: node_key()
                .sign(transcript::LABEL_RECEIPT, data)
                .to_vec()
                .into(),
        },
    };
    let (entry, shard) = (object(), GroupId(16));
    let claims = fuzzing::receipts(table(), shard, DATASET, &entry, &[given]);
    let Some([claim]) = claims.as_deref() else {
        return;
    };
    assert_eq!(claim.node_id, NODE.node_id, "a claim is of who signed it");
    let held: u64 = claim.held.iter().map(|range| u64::from(range.count)).sum();
    assert!(
        held <= entry.blocks.len() as u64,
        "more blocks than the object has"
    );
    let ends = claim
        .held
        .iter()
        .map(|range| u64::from(range.first) + u64::from(range.count));
    assert!(ends.into_iter().all(|end| end <= entry.blocks.len() as u64));
}

fn receipt_seeds() -> Vec<Vec<u8>> {
    let entry = object();
    let body = |held: Vec<v1::BlockRange>| {
        let blocks = held
            .iter()
            .flat_map(|range| range.first..range.first + range.count);
        let listed = blocks.map(|number| {
            let block = &entry.blocks[number as usize];
            let digest: &[u8; 32] = block.digest[..].try_into().expect("32 bytes");
            (number, block.bytes, digest)
        });
        let list_digest = node::upload::list_digest(listed).to_vec().into();
        v1::ReceiptBody {
            node_id: NODE.node_id,
            shard: 16,
            dataset_id: DATASET.into(),
            version_id: ObjectVersionId([0xEE; 16]).into(),
            upload_epoch: 3,
            begun_at_ms: 5,
            list_digest,
            held,
        }
        .encode_to_vec()
    };
    let range = |first, count| v1::BlockRange { first, count };
    let some = body(vec![range(0, 1), range(2, 1)]);
    let whole = v1::Receipt {
        signature: node_key()
            .sign(transcript::LABEL_RECEIPT, &some)
            .to_vec()
            .into(),
        body: some.clone().into(),
    };
    vec![
        [&[0], &whole.encode_to_vec()[..]].concat(),
        [&[1], &some[..]].concat(),
        [&[1], &body(vec![range(0, 3)])[..]].concat(),
    ]
}

/// The configuration file of either daemon, and the set it names.
fn config(data: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder"));
    let path = folder.path().join("config");
    std::fs::write(&path, data).expect("the folder takes a file");
    let genesis = |text: &mut std::path::PathBuf| *text = folder.path().join("config");
    if let Ok(mut config) = node::Config::load(&path) {
        assert!(config.node_id > 0 && (50..=98).contains(&config.full_percent));
        assert!(!config.advertised().is_empty());
        genesis(&mut config.genesis);
        assert!(
            config.read_genesis().is_err(),
            "a configuration is no enrolment set"
        );
    }
    if let Ok(mut config) = kms::Config::load(&path) {
        genesis(&mut config.genesis);
        assert!(
            config.read_genesis().is_err(),
            "a configuration is no enrolment set"
        );
    }
    let mut input = Input::new(data);
    if input.u8().is_multiple_of(4) {
        genesis_file(input.rest(), &path);
    }
}

/// A genesis file, with the node's configuration around it.
fn genesis_file(data: &[u8], path: &std::path::Path) {
    std::fs::write(path, data).expect("the folder takes a file");
    let text = example(node::CONFIG_EXAMPLE);
    let mut config: node::Config = toml::from_str(&text).expect("the example parses");
    config.genesis = path.to_owned();
    if let Ok(signed) = config.read_genesis() {
        assert!(!signed.set.is_empty());
    }
}

/// The example that `--help` shows.
fn example(text: &str) -> String {
    let lines = text.lines().skip(2);
    let lines = lines.map(|line| line.trim().trim_start_matches("# "));
    lines.collect::<Vec<_>>().join("\n")
}

fn config_seeds() -> Vec<Vec<u8>> {
    vec![
        example(node::CONFIG_EXAMPLE).into_bytes(),
        example(kms::CONFIG_EXAMPLE).into_bytes(),
        [&[0], &known::first_set().encode_to_vec()[..]].concat(),
        [
            b"\0reduit/enrolments/1\n",
            &known::first_set().encode_to_vec()[..],
        ]
        .concat(),
    ]
}
