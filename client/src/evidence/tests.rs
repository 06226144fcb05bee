use tlog::{
    DatasetLink, Field, Private, Public, SaltSeed, SaltedLeaf, SignatureType, SignerKey,
    UnixSeconds,
};
use verifier::{Asked, ClaimId, Verdict, verify};

use super::*;

const ORIGIN: &str = "ch-zrh/main/1";
const START_S: u64 = 1_790_000_000;

struct Local;

impl Signer for Local {
    fn public_key(&self) -> Vec<u8> {
        vec![0; 44]
    }

    fn sign(&self, _: &'static str, _: &[u8]) -> [u8; 64] {
        [0; 64]
    }
}

fn key(name: &str, kind: SignatureType, seed: u8) -> SignerKey {
    SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]).expect("a key")
}

fn log_key() -> SignerKey {
    key(ORIGIN, SignatureType::Ed25519, 1)
}

fn witness_key() -> SignerKey {
    key("w.example", SignatureType::Ed25519Cosignature, 2)
}

/// Leaves of two datasets by turns, the first of each the birth of its key.
fn entries() -> Vec<v1::LeafEntry> {
    let mut before: [Option<(u64, Hash)>; 2] = [None, None];
    let entry = |number: u64| {
        let which = (number % 2) as usize;
        let sequence = before[which].map_or(0, |(sequence, _)| sequence + 1);
        let public = Public {
            kind: if sequence == 0 {
                Kind::KeyCreated
            } else {
                Kind::MetadataLease
            },
            time_ms: UnixMs((START_S + number) * 1_000),
            purpose: "service".parse().expect("a purpose"),
            dataset: Some(DatasetLink {
                pseudonym: tlog::Pseudonym([which as u8; 16]),
                sequence,
                previous: before[which].map(|(_, hash)| hash),
            }),
        };
        let details = format!(
            r#"{{"dataset":"{}","kek":"{}","kek_version":1}}"#,
            "0a".repeat(16),
            "0b".repeat(16)
        );
        let actor = "spiffe://ch-zrh/gateway/gw-1".to_owned();
        let private = Private {
            fields: [(Field::Actor, actor), (Field::Details, details)].into(),
            objects: Vec::new(),
        };
        let seed = SaltSeed::new(&[number as u8; 32]);
        let made = SaltedLeaf::build(public, private, &seed, 0).expect("a leaf");
        before[which] = Some((sequence, leaf_hash(&made.bytes)));
        v1::LeafEntry {
            index: number,
            leaf: made.bytes.into(),
            openings: made.openings.encode().into(),
        }
    };
    (0..9).map(entry).collect()
}

fn note(entries: &[v1::LeafEntry], size: usize, at_s: u64) -> Bytes {
    let mut frontier = Frontier::default();
    for entry in &entries[..size] {
        frontier
            .append(leaf_hash(&entry.leaf), &mut |_, _| {})
            .expect("room");
    }
    let origin = ORIGIN.parse().expect("an origin");
    let tree = Checkpoint::new(origin, size as u64, frontier.root()).expect("a tree");
    let log = log_key().sign_checkpoint(&tree, None).expect("signs");
    let time = UnixSeconds::new(at_s);
    let witness = witness_key().sign_checkpoint(&tree, time).expect("cosigns");
    let note = Note::new(tree.to_string(), vec![log, witness]).expect("a note");
    note.to_string().into()
}

#[test]
fn what_is_collected_proves_the_slice_and_opens_nothing_of_other_datasets() {
    let entries = entries();
    // Out of order and one of them twice, as people hand them over.
    let notes =
        [(9, 90), (2, 0), (5, 60), (2, 0)].map(|(size, at)| note(&entries, size, START_S + at));
    let checkpoints = in_order(&notes).expect("checkpoints");
    assert_eq!(checkpoints.len(), 3);
    let (checkpoints, leaves) = collected(&checkpoints, &entries, &[0; 16]).expect("collected");
    let opened: Vec<bool> = leaves.iter().map(|leaf| leaf.openings.is_some()).collect();
    assert_eq!(
        opened,
        [true, false, true, false, true, false, true, false, true]
    );
    let policy = format!(
        "log {}\nwitness w {}\nquorum w\n",
        log_key().verifier(),
        witness_key().verifier()
    );
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    let parts = Parts {
        region: "ch-zrh".to_owned(),
        origin: origin_of(&notes).expect("an origin"),
        dataset: DatasetNames {
            id: "0a".repeat(16),
            pseudonym: "00".repeat(16),
            kek: "0b".repeat(16),
        },
        period: Period {
            from_ms: START_S * 1_000,
            to_ms: (START_S + 90) * 1_000,
        },
        made_ms: 1,
        exporter: "spiffe://ch-zrh/auditor/a".to_owned(),
        checkpoints,
        leaves,
        objects: None,
        challenge: None,
        headers: None,
        witness_policy: None,
    };
    let folder = Folder::write(parts, &policy, &Local).expect("a folder");
    let report = verify(&folder, &policy, &Asked::default());
    use ClaimId::{D1, D2, D3, D4, D5, F1, L1, L2, L3, L4, L5, L6, R1};
    for id in [L1, L2, L3, L4, L5, L6, D1, D2, D3, D4, D5] {
        let claim = report.claim(id);
        assert_eq!(
            claim.verdict,
            Verdict::Proven,
            "{id:?}: {}",
            claim.statement
        );
    }
    assert_ne!(report.claim(F1).verdict, Verdict::Proven, "nobody signed");
    assert_ne!(
        report.claim(R1).verdict,
        Verdict::Proven,
        "no enrolment is shown"
    );
}

#[test]
fn leaves_that_do_not_make_the_signed_tree_are_refused() {
    let entries = entries();
    let notes = [note(&entries, 9, START_S)];
    let checkpoints = in_order(&notes).expect("checkpoints");
    let mut swapped = entries.clone();
    swapped.swap(3, 4);
    assert!(collected(&checkpoints, &swapped, &[0; 16]).is_err());
    assert!(collected(&checkpoints, &entries[..8], &[0; 16]).is_err());
    assert!(collected(&[], &entries, &[0; 16]).is_err());
    assert!(in_order(&[Bytes::from_static(b"hello\n")]).is_err());
}
