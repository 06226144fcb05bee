//! A region that keeps a true log, and the folder an honest exporter makes of it.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message as _;
use proto::ids::{LeafIndex, LeaseId, ObjectVersionId, UnixMs};
use proto::transcript::LABEL_ATTEST_HEADERS;
use proto::v1;
use tlog::{
    Checkpoint, DatasetLink, Field, Frontier, Hash, HashReader, Kind, Note, ObjectItem, Openings,
    Policy, Private, Pseudonym, Public, SaltSeed, SaltedLeaf, SignatureType, SignerKey, StoredAt,
    UnixSeconds, leaf_hash, prove_consistency, prove_inclusion, root_at, sha256,
};
use verifier::{
    Asked, CheckpointLine, DatasetNames, Folder, HeaderLine, Index, LABEL_EVIDENCE, LeafLine,
    ObjectLine, PIECE_BYTES, PartLine, Parts, Period, Report, Signer, StorageAnswer,
    StorageAnswers, challenges, piece_count, pieces_root, verify,
};

pub(crate) const REGION: &str = "ch-zrh";
pub(crate) const ORIGIN: &str = "ch-zrh/main/1";
pub(crate) const START_S: u64 = 1_790_000_000;
/// Middle and end of the period: two hours apart, which is a gap.
pub(crate) const MIDDLE_S: u64 = START_S + 3_000;
pub(crate) const END_S: u64 = MIDDLE_S + 7_200;
pub(crate) const NONCE: [u8; 32] = [77; 32];

pub(crate) const ACTOR: &str = "spiffe://ch-zrh/gateway/gw-1";
const EXPORTER: &str = "spiffe://ch-zrh/auditor/inspector";
pub(crate) const REPLICA: &str = "spiffe://ch-zrh/kms/one";

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// An Ed25519 key that is enrolled, or is not.
pub(crate) struct Enrolled(Ed25519KeyPair);

impl Enrolled {
    pub(crate) fn of(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"))
    }
}

impl Signer for Enrolled {
    fn public_key(&self) -> Vec<u8> {
        let mut der = hex::decode("302a300506032b6570032100").expect("hexadecimal");
        der.extend_from_slice(self.0.public_key().as_ref());
        der
    }

    fn sign(&self, label: &'static str, message: &[u8]) -> [u8; 64] {
        let signed = [label.as_bytes(), b"\n", message].concat();
        self.0.sign(&signed).as_ref().try_into().expect("64 bytes")
    }
}

pub(crate) fn exporter() -> Enrolled {
    Enrolled::of(9)
}

/// A replica of the region's KMS.
pub(crate) fn replica() -> Enrolled {
    Enrolled::of(8)
}

/// A statement as a line of the folder, signed by `key`.
pub(crate) fn stated(statement: &v1::HeaderStatement, key: &Enrolled) -> HeaderLine {
    let statement = statement.encode_to_vec();
    HeaderLine {
        public_key: hex::encode(key.public_key()),
        signature: hex::encode(key.sign(LABEL_ATTEST_HEADERS, &statement)),
        statement: STANDARD.encode(statement),
    }
}

fn signer(name: &str, kind: SignatureType, seed: u8) -> SignerKey {
    SignerKey::from_seed(name.parse().expect("a name"), kind, &[seed; 32]).expect("a key")
}

pub(crate) fn log_key() -> SignerKey {
    signer(ORIGIN, SignatureType::Ed25519, 1)
}

pub(crate) fn witness_keys() -> [SignerKey; 3] {
    [
        signer("ch-zrh/kms-1", SignatureType::Ed25519Cosignature, 2),
        signer("ch-zrh/kms-2", SignatureType::Ed25519Cosignature, 3),
        signer("w.example", SignatureType::Ed25519Cosignature, 4),
    ]
}

/// Both replicas and the outsider: every signature counts, so that bending one is seen.
pub(crate) fn policy_text() -> String {
    let [one, two, outside] = witness_keys().map(|key| key.verifier().to_string());
    format!(
        "log {}\nwitness one {one}\nwitness two {two}\nwitness outside {outside} http://w.example\n\
         group all-of-them all one two outside\nquorum all-of-them\n",
        log_key().verifier()
    )
}

pub(crate) fn policy() -> Policy {
    Policy::parse(policy_text().as_bytes()).expect("a policy")
}

#[derive(Default)]
struct Stored(BTreeMap<StoredAt, Hash>);

impl HashReader for Stored {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt {
            level: first.level,
            index,
        };
        (first.index..first.index + count)
            .map(|index| self.0.get(&at(index)).copied())
            .collect()
    }
}

#[derive(Clone)]
struct Entry {
    leaf: Vec<u8>,
    openings: Openings,
}

/// The log of a region and the objects of one dataset.
pub(crate) struct World {
    entries: Vec<Entry>,
    chains: BTreeMap<u8, (u64, Hash)>,
    frontier: Frontier,
    stored: Stored,
    sealed: Vec<(ObjectLine, Vec<u8>)>,
    /// A byte that every id is made of.
    tag: u8,
}

pub(crate) fn hex16(byte: u8) -> String {
    hex::encode([byte; 16])
}

impl World {
    /// The same events for every tag, under other ids.
    pub(crate) fn new(tag: u8) -> Self {
        let mut world = Self {
            entries: Vec::new(),
            chains: BTreeMap::new(),
            frontier: Frontier::default(),
            stored: Stored::default(),
            sealed: Vec::new(),
            tag,
        };
        world.live();
        world
    }

    /// One leaf at a time in seconds; `dataset` is its pseudonym's byte.
    pub(crate) fn append(
        &mut self,
        kind: Kind,
        at_s: u64,
        purpose: &str,
        dataset: Option<u8>,
        fields: &[(Field, String)],
        objects: Vec<String>,
    ) {
        let chain = dataset.map(|byte| (byte, self.chains.get(&byte).copied()));
        let public = Public {
            kind,
            time_ms: UnixMs(at_s * 1_000),
            purpose: purpose.parse().expect("a purpose"),
            dataset: chain.map(|(byte, before)| DatasetLink {
                pseudonym: Pseudonym([byte; 16]),
                sequence: before.map_or(0, |(sequence, _)| sequence + 1),
                previous: before.map(|(_, hash)| hash),
            }),
        };
        let private = Private {
            fields: fields.iter().cloned().collect(),
            objects,
        };
        let seed = SaltSeed::new(&[self.tag ^ self.entries.len() as u8; 32]);
        let made = SaltedLeaf::build(public, private, &seed, 0).expect("a leaf");
        let hash = leaf_hash(&made.bytes);
        let stored = &mut self.stored.0;
        self.frontier
            .append(hash, &mut |at, hash| {
                stored.insert(at, hash);
            })
            .expect("room");
        if let Some((byte, before)) = chain {
            let sequence = before.map_or(0, |(sequence, _)| sequence + 1);
            self.chains.insert(byte, (sequence, hash));
        }
        self.entries.push(Entry {
            leaf: made.bytes,
            openings: made.openings,
        });
    }

    fn live(&mut self) {
        let tag = self.tag;
        let of = |actor: &str, details: String| {
            vec![(Field::Actor, actor.to_owned()), (Field::Details, details)]
        };
        let operator = "spiffe://ch-zrh/operator/one";
        let member = |identity: &str, key: &str| {
            format!(
                r#"{{"identity":"{identity}","public_key_sha256":"{key}","node_id":0,"jurisdiction":"CH"}}"#
            )
        };
        let other = "0".repeat(64);
        let key = hex::encode(sha256(&[&exporter().public_key()]).0);
        let kms = hex::encode(sha256(&[&replica().public_key()]).0);
        let began = format!(
            r#"{{"origin":"{ORIGIN}","jurisdiction":"CH","enrolled":[{},{}]}}"#,
            member(operator, &other),
            member(REPLICA, &kms)
        );
        self.append(
            Kind::Initialised,
            START_S - 90,
            "service",
            None,
            &of(operator, began),
            vec![],
        );
        let changed = format!(
            r#"{{"authority_version":2,"added":[{},{}],"removed":[]}}"#,
            member(ACTOR, &other),
            member(EXPORTER, &key)
        );
        self.append(
            Kind::EnrolmentChanged,
            START_S - 80,
            "service",
            None,
            &of(operator, changed),
            vec![],
        );
        let digest = hex::encode(sha256(&[policy_text().as_bytes()]).0);
        let witnesses = format!(r#"{{"policy_sha256":"{digest}"}}"#);
        self.append(
            Kind::WitnessesChanged,
            START_S - 70,
            "service",
            None,
            &of(operator, witnesses),
            vec![],
        );
        let born = |dataset: u8, kek: u8, version: u32| {
            format!(
                r#"{{"dataset":"{}","kek":"{}","kek_version":{version},"root_epoch":1,"state_version":1,"destroy_after_ms":0,"shard":0}}"#,
                hex16(dataset),
                hex16(kek)
            )
        };
        let (dataset, kek, name) = (tag, tag + 1, tag + 2);
        self.append(
            Kind::KeyCreated,
            START_S + 10,
            "service",
            Some(name),
            &of(operator, born(dataset, kek, 1)),
            vec![],
        );
        let lease = |id: u8, version: u32| {
            format!(
                r#"{{"lease":"{}","holder":"00","issued_at_ms":1,"expires_at_ms":2,"kek_version":{version}}}"#,
                hex16(id)
            )
        };
        self.append(
            Kind::Lease,
            START_S + 20,
            "service",
            Some(name),
            &of(ACTOR, lease(tag + 3, 1)),
            vec![],
        );
        self.append(
            Kind::KeyCreated,
            START_S + 30,
            "service",
            Some(name + 100),
            &of(operator, born(tag + 60, tag + 61, 1)),
            vec![],
        );
        self.seal(tag + 3, 1, 3);
        self.open(START_S + 40, "service", &[0, 1], &[]);
        self.append(
            Kind::MetadataLease,
            START_S + 50,
            "service",
            Some(name),
            &of(ACTOR, lease(tag + 4, 1)),
            vec![],
        );
        self.append(
            Kind::KeyRotated,
            MIDDLE_S + 4_000,
            "service",
            Some(name),
            &of(operator, born(dataset, kek, 2)),
            vec![],
        );
        self.append(
            Kind::Lease,
            MIDDLE_S + 4_010,
            "service",
            Some(name),
            &of(ACTOR, lease(tag + 5, 2)),
            vec![],
        );
        self.seal(tag + 5, 2, 2);
        let approvals = r#"[{"approver":"spiffe://ch-zrh/operator/two"},{"approver":"spiffe://ch-zrh/operator/three"}]"#;
        self.open(
            MIDDLE_S + 5_000,
            "investigation",
            &[2],
            &[
                (Field::Approvals, approvals.to_owned()),
                (Field::Case, "ZH-2026-17".to_owned()),
                (Field::LegalBasis, "StPO 263".to_owned()),
                (Field::OnBehalfOf, "Staatsanwaltschaft".to_owned()),
            ],
        );
        self.append(
            Kind::Unsealed,
            MIDDLE_S + 6_000,
            "service",
            None,
            &of(operator, "{}".to_owned()),
            vec![],
        );
    }

    /// Seals `count` objects under a lease.
    fn seal(&mut self, lease: u8, kek_version: u32, count: usize) {
        for _ in 0..count {
            let number = self.sealed.len() as u8;
            let bytes = 20_000 * u64::from(number);
            // One of them came in parts: one piece and some, nothing, and a little.
            let lengths = match number {
                3 => vec![(2, 40_000), (3, 0), (10_000, 20_000)],
                _ => vec![(1, bytes)],
            };
            let stream = |bytes: u64| 56 + bytes + 16 * (bytes / 16_384 + 1);
            let sealed_bytes = lengths.iter().map(|(_, bytes)| stream(*bytes)).sum();
            let sealed: Vec<u8> = (0..sealed_bytes)
                .map(|i| (i as u8) ^ number ^ self.tag)
                .collect();
            let mut parts = Vec::new();
            if let [_, _, ..] = lengths[..] {
                let mut at = 0;
                for (part, bytes) in lengths {
                    parts.push(PartLine {
                        part,
                        bytes,
                        sealed_bytes: stream(bytes),
                        header: Some(STANDARD.encode(&sealed[at..at + 56])),
                    });
                    at += stream(bytes) as usize;
                }
            }
            let line = ObjectLine {
                version: hex16(self.tag + 20 + number),
                name: sha256(&[&[self.tag, number]]),
                lease: hex16(lease),
                kek_version,
                bytes,
                sealed_bytes,
                sealed_root: Some(pieces_root(&sealed)),
                header: Some(STANDARD.encode(&sealed[..56])),
                parts,
            };
            self.sealed.push((line, sealed));
        }
    }

    pub(crate) fn open(
        &mut self,
        at_s: u64,
        purpose: &str,
        which: &[usize],
        more: &[(Field, String)],
    ) {
        let id = |text: &str| <[u8; 16]>::try_from(hex::decode(text).expect("hex")).expect("16");
        let lines = which.iter().map(|at| &self.sealed[*at].0);
        let items: Vec<ObjectItem> = lines
            .map(|line| {
                let version = ObjectVersionId(id(&line.version));
                ObjectItem::new(version, line.name, LeaseId(id(&line.lease)), line.bytes)
            })
            .collect();
        let bytes: u64 = items.iter().map(|item| item.bytes).sum();
        let mut fields = vec![
            (Field::Actor, ACTOR.to_owned()),
            (Field::RecipientRegion, REGION.to_owned()),
            (Field::Bytes, bytes.to_string()),
            (Field::Details, r#"{"usable_ms":60000}"#.to_owned()),
        ];
        fields.extend(more.iter().cloned());
        let objects = items.iter().map(ObjectItem::to_value).collect();
        self.append(
            Kind::Open,
            at_s,
            purpose,
            Some(self.tag + 2),
            &fields,
            objects,
        );
    }

    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The checkpoint of a size, cosigned by all at that time.
    pub(crate) fn note(&self, size: u64, at_s: u64) -> String {
        self.note_by(size, at_s, &witness_keys())
    }

    pub(crate) fn note_by(&self, size: u64, at_s: u64, cosigners: &[SignerKey]) -> String {
        let root = root_at(&self.stored, size).expect("stored");
        let tree = Checkpoint::new(ORIGIN.parse().expect("an origin"), size, root).expect("a tree");
        let log = log_key().sign_checkpoint(&tree, None).expect("signs");
        let note = Note::new(tree.to_string(), vec![log]).expect("a note");
        let time = UnixSeconds::new(at_s);
        let note = cosigners.iter().fold(note, |note, key| {
            note.with(key.sign_checkpoint(&tree, time).expect("cosigns"))
                .expect("room")
        });
        note.to_string()
    }

    /// What an honest exporter collects: the whole log, three checkpoints.
    pub(crate) fn parts(&self) -> Parts {
        let size = self.size();
        let line = |old: Option<u64>, size: u64, at_s: u64| CheckpointLine {
            note: self.note(size, at_s),
            consistency: old.map_or(Vec::new(), |old| {
                prove_consistency(&self.stored, old, size).expect("sizes")
            }),
        };
        let leaf = |(index, entry): (usize, &Entry)| LeafLine {
            index: index as u64,
            leaf: String::from_utf8(entry.leaf.clone()).expect("JSON"),
            proof: prove_inclusion(&self.stored, LeafIndex(index as u64), size).expect("there"),
            openings: Some(entry.openings.clone()),
        };
        let mut sealed = self.sealed.clone();
        sealed.sort_by(|a, b| a.0.version.cmp(&b.0.version));
        let lines: Vec<ObjectLine> = sealed.iter().map(|(line, _)| line.clone()).collect();
        Parts {
            region: REGION.to_owned(),
            origin: ORIGIN.to_owned(),
            dataset: DatasetNames {
                id: hex16(self.tag),
                pseudonym: hex16(self.tag + 2),
                kek: hex16(self.tag + 1),
            },
            period: Period {
                from_ms: START_S * 1_000,
                to_ms: END_S * 1_000,
            },
            made_ms: END_S * 1_000 + 5,
            exporter: EXPORTER.to_owned(),
            checkpoints: vec![
                line(None, 3, START_S),
                line(Some(3), 8, MIDDLE_S),
                line(Some(8), size, END_S),
            ],
            leaves: self.entries.iter().enumerate().map(leaf).collect(),
            challenge: self.answers(&lines),
            headers: Some(
                lines
                    .chunks(3)
                    .map(|lines| stated(&self.statement(lines), &replica()))
                    .collect(),
            ),
            objects: Some(lines),
            witness_policy: Some(policy_text().into_bytes()),
        }
    }

    /// What the nodes answer to the nonce and this list.
    pub(crate) fn answers(&self, lines: &[ObjectLine]) -> Option<StorageAnswers> {
        let answers = challenges(&NONCE, lines).into_iter().map(|challenge| {
            let version = &lines[challenge.object].version;
            let sealed = self
                .sealed
                .iter()
                .find(|(line, _)| line.version == *version);
            answer(&sealed.expect("sealed here").1, challenge.piece)
        });
        Some(StorageAnswers {
            nonce: hex::encode(NONCE),
            answers: answers.collect(),
        })
    }

    /// What the KMS finds of these versions.
    pub(crate) fn statement(&self, lines: &[ObjectLine]) -> v1::HeaderStatement {
        let unhex = |text: &str| hex::decode(text).expect("hexadecimal");
        let streams = lines.iter().flat_map(|line| {
            let parts = line.parts.iter().map(|part| (part.part, &part.header));
            let parts: Vec<_> = parts.collect();
            let streams = match parts.len() {
                0 => vec![(0, &line.header)],
                _ => parts,
            };
            streams.into_iter().map(move |stream| (line, stream))
        });
        let attested = streams.map(|(line, (part, header))| {
            let header = STANDARD
                .decode(header.as_ref().expect("read"))
                .expect("base64");
            v1::AttestedHeader {
                version_id: unhex(&line.version).into(),
                name_commitment: line.name.0.to_vec().into(),
                lease_id: unhex(&line.lease).into(),
                kek_version: line.kek_version,
                stream_salt: header[..24].to_vec().into(),
                commitment: header[24..].to_vec().into(),
                part,
            }
        });
        v1::HeaderStatement {
            format: 1,
            region: REGION.to_owned(),
            replica: REPLICA.to_owned(),
            dataset_id: vec![self.tag; 16].into(),
            kek_id: vec![self.tag + 1; 16].into(),
            at_ms: END_S * 1_000,
            headers: attested.collect(),
        }
    }

    pub(crate) fn folder(&self) -> Folder {
        write(self.parts())
    }
}

fn answer(sealed: &[u8], piece: u64) -> StorageAnswer {
    let (mut frontier, mut stored) = (Frontier::default(), Stored::default());
    for chunk in sealed.chunks(PIECE_BYTES as usize) {
        frontier
            .append(leaf_hash(chunk), &mut |at, hash| {
                stored.0.insert(at, hash);
            })
            .expect("room");
    }
    let count = piece_count(sealed.len() as u64);
    let bytes = sealed
        .chunks(PIECE_BYTES as usize)
        .nth(piece as usize)
        .expect("a piece");
    StorageAnswer {
        piece: STANDARD.encode(bytes),
        proof: prove_inclusion(&stored, LeafIndex(piece), count).expect("there"),
    }
}

pub(crate) fn write(parts: Parts) -> Folder {
    Folder::write(parts, &policy(), &exporter()).expect("a folder")
}

pub(crate) fn asked() -> Asked {
    Asked {
        nonce: Some(NONCE),
        claims: Vec::new(),
    }
}

pub(crate) fn judged(folder: &Folder) -> Report {
    verify(folder, &policy(), &asked())
}

/// What a forger does after bending a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repair {
    /// Nothing.
    None,
    /// Makes the index fit the files, which breaks its signature.
    Index,
    /// And signs it with the exporter's own key.
    Signature,
}

/// Index and signature that fit `files`, as far as the repair goes.
pub(crate) fn repaired(mut files: Files, repair: Repair) -> Files {
    let Some(index) = files.get("folder.json") else {
        return files;
    };
    if repair == Repair::None {
        return files;
    }
    if let Ok(mut index) = serde_json::from_slice::<Index>(index) {
        for (name, bytes) in &files {
            if name == "folder.json" || name == "folder.sig" {
                continue;
            }
            let entry = verifier::FileEntry {
                bytes: bytes.len() as u64,
                sha256: sha256(&[bytes]),
            };
            index.files.insert(name.clone(), entry);
        }
        index.files.retain(|name, _| files.contains_key(name));
        let text = serde_json::to_string(&index).expect("JSON") + "\n";
        files.insert("folder.json".to_owned(), text.into_bytes());
    }
    if repair == Repair::Signature {
        signed(&mut files, &exporter());
    }
    files
}

/// Signs the index as it stands.
pub(crate) fn signed(files: &mut Files, key: &Enrolled) {
    let signature = key.sign(LABEL_EVIDENCE, &files["folder.json"]);
    let text = format!(
        "{{\"public_key\":\"{}\",\"signature\":\"{}\"}}\n",
        hex::encode(key.public_key()),
        hex::encode(signature)
    );
    files.insert("folder.sig".to_owned(), text.into_bytes());
}
