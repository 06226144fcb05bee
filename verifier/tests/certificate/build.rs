//! Two regions that keep true logs of one relocation, and the file an honest exporter makes of it.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use prost::Message as _;
use proto::ids::{LeafIndex, UnixMs};
use proto::transcript;
use proto::v1;
use tlog::certificate::{
    DescriptorNamed, DestinationSide, DsseEnvelope, EnvelopeSignature, LIMITS, OpenedBy,
    PAYLOAD_TYPE, Party, Relocation, SourceSide, Statement,
};
use tlog::{
    Checkpoint, DatasetLink, Field, Frontier, Hash, HashReader, Kind, Note, Openings, Private,
    ProofFile, Pseudonym, Public, SaltSeed, SaltedLeaf, SignatureType, SignerKey, StoredAt,
    UnixSeconds, leaf_hash, prove_inclusion, root_at, sha256,
};
use verifier::{Bundle, NamedLeaf, Pins, RegionPart};

pub(crate) const START_S: u64 = 1_795_000_000;
const PREFIX: &str = "302a300506032b6570032100";

pub(crate) fn hex16(byte: u8) -> String {
    hex::encode([byte; 16])
}

fn root() -> String {
    hex::encode([9; 32])
}

/// A KMS replica's key.
pub(crate) struct Replica(Ed25519KeyPair);

impl Replica {
    pub(crate) fn of(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"))
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let mut der = hex::decode(PREFIX).expect("hexadecimal");
        der.extend_from_slice(self.0.public_key().as_ref());
        der
    }

    fn raw(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }

    pub(crate) fn certifies(&self, statement: &Statement) -> EnvelopeSignature {
        let signed = transcript::dsse(PAYLOAD_TYPE, &statement.encode());
        EnvelopeSignature::new(&self.spki(), &self.raw(&signed))
    }
}

#[derive(Default)]
struct Stored(std::collections::BTreeMap<StoredAt, Hash>);

impl HashReader for Stored {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt {
            level: first.level,
            index,
        };
        let indices = first.index..first.index + count;
        indices
            .map(|index| self.0.get(&at(index)).copied())
            .collect()
    }
}

/// One region.
pub(crate) struct Region {
    name: &'static str,
    law: &'static str,
    tag: u8,
    entries: Vec<(Vec<u8>, Openings)>,
    chain: Option<(u64, Hash)>,
}

impl Region {
    fn new(name: &'static str, law: &'static str, tag: u8) -> Self {
        Self {
            name,
            law,
            tag,
            entries: Vec::new(),
            chain: None,
        }
    }

    pub(crate) fn replica(&self) -> Replica {
        Replica::of(self.tag)
    }

    fn origin(&self) -> String {
        format!("{}/main/1", self.name)
    }

    fn key(&self, name: &str, kind: SignatureType, seed: u8) -> SignerKey {
        let seed = [self.tag ^ seed; 32];
        SignerKey::from_seed(name.parse().expect("a name"), kind, &seed).expect("a key")
    }

    fn log_key(&self) -> SignerKey {
        self.key(&self.origin(), SignatureType::Ed25519, 0x80)
    }

    fn witness(&self) -> SignerKey {
        self.key("w.example", SignatureType::Ed25519Cosignature, 0x40)
    }

    pub(crate) fn descriptor(&self) -> v1::SignedRegionDescriptor {
        let (log, witness) = (self.log_key(), self.witness());
        let (log, witness) = (log.verifier(), witness.verifier());
        let policy = format!("log {log}\nwitness w {witness} http://w.example\nquorum w\n");
        let stated = v1::RegionDescriptor {
            format: 1,
            region: self.name.to_owned(),
            jurisdiction: self.law.to_owned(),
            version: 3,
            issued_at_ms: START_S * 1_000,
            expires_at_ms: (START_S + 86_400) * 1_000,
            ca_certificate: b"ca"[..].into(),
            members: vec![v1::RegionMember {
                identity: format!("spiffe://{}/kms/one", self.name),
                public_key: self.replica().spki().into(),
                endpoint: String::new(),
            }],
            log_origin: self.origin(),
            log_key: log.to_string(),
            witness_policy: policy.into_bytes().into(),
        }
        .encode_to_vec();
        let label = transcript::LABEL_REGION_DESCRIPTOR.as_bytes();
        let signature = self.replica().raw(&[label, b"\n", &stated[..]].concat());
        v1::SignedRegionDescriptor {
            descriptor: stated.into(),
            signer: self.replica().spki().into(),
            signature: signature.into(),
        }
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        sha256(&[&transcript::region_fingerprint(
            &self.descriptor().descriptor,
        )])
        .0
    }

    fn named(&self) -> DescriptorNamed {
        DescriptorNamed {
            version: 3,
            fingerprint: hex::encode(self.fingerprint()),
        }
    }

    pub(crate) fn party(&self) -> Party {
        Party {
            region: self.name.to_owned(),
            jurisdiction: self.law.to_owned(),
            descriptor: self.named(),
            log: self.origin(),
            pseudonym: hex16(self.tag),
            kek: hex16(self.tag + 1),
        }
    }

    /// The next leaf; its index.
    pub(crate) fn append(
        &mut self,
        (kind, of_dataset): (Kind, bool),
        fields: &[(Field, String)],
        objects: usize,
    ) -> u64 {
        let index = self.entries.len() as u64;
        let sequence = self.chain.map_or(0, |(sequence, _)| sequence + 1);
        let public = Public {
            kind,
            time_ms: UnixMs((START_S + index) * 1_000),
            purpose: "relocation".parse().expect("a purpose"),
            dataset: of_dataset.then(|| DatasetLink {
                pseudonym: Pseudonym([self.tag; 16]),
                sequence,
                previous: self.chain.map(|(_, hash)| hash),
            }),
        };
        let mut all = vec![(Field::Actor, format!("spiffe://{}/operator/one", self.name))];
        all.extend(fields.iter().cloned());
        let private = Private {
            fields: all.into_iter().collect(),
            objects: (0..objects).map(|one| format!("object {one}")).collect(),
        };
        let seed = SaltSeed::new(&[self.tag ^ self.entries.len() as u8; 32]);
        let made = SaltedLeaf::build(public, private, &seed, 0).expect("a leaf");
        if of_dataset {
            self.chain = Some((sequence, leaf_hash(&made.bytes)));
        }
        self.entries.push((made.bytes, made.openings));
        index
    }

    /// What an exporter makes of it: every leaf with its proof.
    pub(crate) fn part(&self) -> RegionPart {
        let (mut frontier, mut stored) = (Frontier::default(), Stored::default());
        for (leaf, _) in &self.entries {
            frontier
                .append(leaf_hash(leaf), &mut |at, hash| {
                    stored.0.insert(at, hash);
                })
                .expect("room");
        }
        let size = frontier.size();
        let root = root_at(&stored, size).expect("there");
        let origin = self.origin().parse().expect("an origin");
        let tree = Checkpoint::new(origin, size, root).expect("a tree");
        let signed = self.log_key().sign_checkpoint(&tree, None).expect("signs");
        let at = UnixSeconds::new(START_S + 60);
        let cosigned = self.witness().sign_checkpoint(&tree, at).expect("cosigns");
        let note = Note::new(tree.to_string(), vec![signed, cosigned]).expect("a note");
        let named = |(index, (leaf, openings)): (u64, &(Vec<u8>, Openings))| {
            let proof = prove_inclusion(&stored, LeafIndex(index), size).expect("there");
            let file = ProofFile::new(LeafIndex(index), proof, note.clone(), Vec::new());
            let shown = [
                Field::Actor,
                Field::RecipientRegion,
                Field::Approvals,
                Field::Details,
            ];
            NamedLeaf {
                leaf: String::from_utf8(leaf.clone()).expect("text"),
                openings: Some(openings.reveal(&shown, false)),
                proof: file.expect("a proof").to_string(),
            }
        };
        let leaves = (0..).zip(&self.entries).map(named).collect();
        RegionPart::new(&self.descriptor(), leaves)
    }
}

fn details(text: String) -> (Field, String) {
    (Field::Details, text)
}

fn approvals() -> (Field, String) {
    let two =
        r#"[{"approver":"spiffe://x/operator/two"},{"approver":"spiffe://x/operator/three"}]"#;
    (Field::Approvals, two.to_owned())
}

/// A relocation that is over.
pub(crate) struct World {
    pub(crate) source: Region,
    pub(crate) destination: Region,
    pub(crate) said: Relocation,
}

impl World {
    pub(crate) fn new() -> Self {
        let source = Region::new("ch-zrh", "CH", 0x11);
        let destination = Region::new("de-fra", "DE", 0x21);
        let limits = LIMITS.iter().map(|limit| (*limit).to_owned()).collect();
        let said = Relocation {
            relocation: hex16(7),
            dataset: hex16(8),
            opened: OpenedBy::Moved,
            epoch_from: 1,
            epoch_to: 2,
            fence: 20,
            catalog_root: root(),
            hand_over_key: hex16(10),
            issued_ms: (START_S + 60) * 1_000,
            source: SourceSide {
                party: source.party(),
                approved: destination.named(),
                grant_leaf: 0,
                released_objects: 5,
                released_through: Some(2),
                shred_leaf: 4,
                destroyed_leaf: Some(5),
                erased_leaf: Some(6),
            },
            destination: DestinationSide {
                party: destination.party(),
                approved: source.named(),
                key_leaf: 0,
                key_destroyed_leaf: Some(3),
            },
            limits,
        };
        let mut world = Self {
            source,
            destination,
            said,
        };
        world.live();
        world
    }

    fn live(&mut self) {
        let (id, dataset, key) = (hex16(7), hex16(8), hex16(10));
        let (there, here) = (self.destination.named(), self.source.named());
        let (to, from) = (there.fingerprint, here.fingerprint);
        let source = &mut self.source;
        let kek = hex16(source.tag + 1);
        source.append(
            (Kind::HandOverGranted, true),
            &[details(format!(r#"{{"dataset":"{dataset}","relocation":"{id}","destination":"de-fra","jurisdiction":"DE","descriptor_version":3,"descriptor_fingerprint":"{to}","hand_over_key":"{key}","public_key_sha256":""}}"#)), approvals()],
            0,
        );
        for objects in [3, 2] {
            source.append(
                (Kind::Open, true),
                &[
                    details(format!(
                        r#"{{"relocation":"{id}","hand_over_key":"{key}"}}"#
                    )),
                    (Field::RecipientRegion, "de-fra".to_owned()),
                ],
                objects,
            );
        }
        source.append(
            (Kind::HandOverPaused, true),
            &[details(format!(
                r#"{{"relocation":"{id}","fence":20,"objects":5,"leaves":3}}"#
            ))],
            0,
        );
        source.append(
            (Kind::KeyDestructionPending, true),
            &[details(format!(r#"{{"dataset":"{dataset}","kek":"{kek}","relocation":"{id}","destination":"de-fra","epoch":2,"fence":20,"catalog_root":"{}","signers":[3,4],"voters":[3,4,5],"descriptor_version":3}}"#, root())), approvals()],
            0,
        );
        source.append(
            (Kind::KeyDestroyed, true),
            &[details(format!(
                r#"{{"dataset":"{dataset}","kek":"{kek}"}}"#
            ))],
            0,
        );
        source.append(
            (Kind::KeysErased, false),
            &[details(
                r#"{"node_id":3,"through_leaf":5,"waiting_for":[]}"#.to_owned(),
            )],
            0,
        );
        let destination = &mut self.destination;
        destination.append(
            (Kind::HandOverKeyCreated, true),
            &[details(format!(r#"{{"dataset":"{dataset}","relocation":"{id}","hand_over_key":"{key}","public_key_sha256":"","source":"ch-zrh","descriptor_version":3,"descriptor_fingerprint":"{from}","root_epoch":1}}"#)), approvals()],
            0,
        );
        for (objects, release) in [(3, 1), (2, 2)] {
            destination.append(
                (Kind::HandOverOpened, true),
                &[details(format!(r#"{{"usable_ms":60000,"relocation":"{id}","hand_over_key":"{key}","source":"ch-zrh","source_leaf":{release},"batch_sha256":""}}"#))],
                objects,
            );
        }
        destination.append(
            (Kind::HandOverKeyDestroyed, true),
            &[details(format!(
                r#"{{"relocation":"{id}","hand_over_key":"{key}","made":true}}"#
            ))],
            0,
        );
    }

    pub(crate) fn pins(&self) -> Pins {
        Pins {
            source: Some(self.source.fingerprint()),
            destination: Some(self.destination.fingerprint()),
        }
    }

    /// What is said, signed by both.
    pub(crate) fn bundle(&self) -> Bundle {
        let statement = Statement::new(self.said.clone()).expect("a statement");
        let by = [self.source.replica(), self.destination.replica()];
        let signatures = by.iter().map(|replica| replica.certifies(&statement));
        self.around(DsseEnvelope::new(&statement, signatures.collect()))
    }

    pub(crate) fn around(&self, envelope: DsseEnvelope) -> Bundle {
        Bundle::new(envelope, self.source.part(), self.destination.part()).expect("a bundle")
    }
}
