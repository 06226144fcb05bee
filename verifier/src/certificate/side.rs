//! One region of a certificate: who it is, and what its log shows.
//!
//! Owns the check of the descriptor (its own signature, the pin), of a signature by one of its KMS replicas, and of leaves
//! against checkpoints that its log key and witnesses signed. Refuses to show a leaf of another dataset or one that does
//! not stand in the log.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use proto::descriptor::Descriptor;
use proto::ids::Role;
use proto::transcript::{LABEL_REGION_DESCRIPTOR, region_fingerprint};
use serde::Deserialize;
use tlog::certificate::{DsseEnvelope, Party, dsse_key_id};
use tlog::{Disclosure, Field, Kind, Leaf, Openings, Policy, ProofFile, openings_of, sha256};

use super::{NamedLeaf, RegionPart};
use crate::check::Finding;

/// DER before an Ed25519 key (RFC 8410).
const SPKI_PREFIX_BYTES: usize = 12;
/// Approvers of an act under dual control, besides who asked.
const APPROVERS_MIN: usize = 2;

/// A leaf that stands in the log, and what is shown of it.
pub(super) struct Shown {
    pub(super) index: u64,
    pub(super) leaf: Leaf,
    disclosed: Disclosure,
}

#[derive(Deserialize)]
struct OfRelocation {
    relocation: String,
}

#[derive(Deserialize)]
struct Approval {
    approver: String,
}

impl Shown {
    /// The details, where they are disclosed and of this shape.
    pub(super) fn details<'s, T: Deserialize<'s>>(&'s self) -> Option<T> {
        serde_json::from_str(self.field(Field::Details)?).ok()
    }

    pub(super) fn field(&self, field: Field) -> Option<&str> {
        self.disclosed.fields.get(&field).map(String::as_str)
    }

    pub(super) fn is_of_relocation(&self, id: &str) -> bool {
        self.details::<OfRelocation>()
            .is_some_and(|details| details.relocation == id)
    }

    /// Whether enough people other than who asked approved it.
    pub(super) fn is_approved(&self) -> bool {
        let approvals = self.field(Field::Approvals);
        let approvals: Option<Vec<Approval>> = approvals.and_then(|a| serde_json::from_str(a).ok());
        let (Some(approvals), Some(actor)) = (approvals, self.field(Field::Actor)) else {
            return false;
        };
        let who = approvals.iter().map(|approval| approval.approver.as_str());
        let others: std::collections::BTreeSet<_> = who.filter(|who| *who != actor).collect();
        others.len() >= APPROVERS_MIN
    }
}

/// One region, as far as it is believed.
pub(super) struct Side {
    /// What it is called in findings.
    pub(super) name: &'static str,
    descriptor: Descriptor,
    fingerprint: [u8; 32],
    pub(super) leaves: Vec<Shown>,
    log: Finding,
}

fn holds(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let raw = spki.get(SPKI_PREFIX_BYTES..).unwrap_or_default();
    UnparsedPublicKey::new(&ED25519, raw)
        .verify(message, signature)
        .is_ok()
}

impl Side {
    /// Reads what the file has of a region whose dataset has this pseudonym.
    pub(super) fn read(name: &'static str, part: &RegionPart, said: &Party) -> Self {
        let descriptor = part.descriptor().expect("a bundle's descriptors parse");
        let stated = &descriptor.signed().descriptor;
        let fingerprint = sha256(&[&region_fingerprint(stated)]).0;
        let (leaves, log) = match policy(&descriptor) {
            Some(policy) => shown(part.leaves(), &policy, &descriptor, said),
            None => (
                Vec::new(),
                Finding::not_shown("the descriptor has no policy by which its log is believed"),
            ),
        };
        Self {
            name,
            descriptor,
            fingerprint,
            leaves,
            log,
        }
    }

    /// Whether the descriptor is the pinned one, speaks for itself, and is what the statement names.
    pub(super) fn identity(&self, said: &Party, pin: Option<[u8; 32]>) -> Finding {
        let (name, descriptor) = (self.name, &self.descriptor);
        let signed = descriptor.signed();
        let label = [
            LABEL_REGION_DESCRIPTOR.as_bytes(),
            b"\n",
            &signed.descriptor[..],
        ]
        .concat();
        if !holds(&signed.signer, &label, &signed.signature) {
            return Finding::contradicted(format!("the {name}'s descriptor is not signed by it"));
        }
        let same = said.region == descriptor.region().as_str()
            && said.jurisdiction == descriptor.jurisdiction().as_str()
            && said.log == descriptor.log_origin()
            && said.descriptor.version == descriptor.version()
            && said.descriptor.fingerprint == hex::encode(self.fingerprint);
        if !same {
            return Finding::contradicted(format!(
                "the statement names another {name} than the descriptor"
            ));
        }
        let (region, law) = (descriptor.region(), descriptor.jurisdiction());
        let who = format!("{region} in jurisdiction {law}, by its own statement");
        match pin {
            Some(pin) if pin == self.fingerprint => Finding::proven(format!(
                "the {name} is {who}; its descriptor has the fingerprint that was given"
            )),
            Some(_) => Finding::contradicted(format!(
                "the {name}'s descriptor has the fingerprint {}, which is not the one that was given",
                hex::encode(self.fingerprint)
            )),
            None => Finding::asserted(
                "the file",
                format!(
                    "the {name} is {who}; compare the fingerprint {} with one that came on another way",
                    hex::encode(self.fingerprint)
                ),
            ),
        }
    }

    /// Whether a KMS replica of this region signed.
    pub(super) fn signature(&self, envelope: &DsseEnvelope, signed: &[u8]) -> Finding {
        for member in self.descriptor.of_role(Role::Kms) {
            let id = dsse_key_id(&member.public_key);
            let mut by = envelope.signatures().iter();
            let Some(signature) = by.find(|signature| signature.keyid == id) else {
                continue;
            };
            let verified = signature
                .bytes()
                .is_some_and(|bytes| holds(&member.public_key, signed, &bytes));
            return match verified {
                true => Finding::proven(format!("{} signed the statement", member.identity)),
                false => Finding::contradicted(format!(
                    "the signature of {} does not hold",
                    member.identity
                )),
            };
        }
        Finding::not_shown(format!(
            "no KMS replica of the {} has signed the statement",
            self.name
        ))
    }

    pub(super) fn log(&self) -> Finding {
        self.log.clone()
    }

    pub(super) fn at(&self, index: u64) -> Option<&Shown> {
        self.leaves.iter().find(|shown| shown.index == index)
    }
}

/// Who has to sign a checkpoint of the log, by the descriptor.
fn policy(descriptor: &Descriptor) -> Option<Policy> {
    match descriptor.witness_policy().is_empty() {
        true => {
            let text = format!("log {}\nquorum none\n", descriptor.log_key());
            Policy::parse(text.as_bytes()).ok()
        }
        false => Policy::parse(descriptor.witness_policy()).ok(),
    }
}

fn shown(
    named: &[NamedLeaf],
    policy: &Policy,
    descriptor: &Descriptor,
    said: &Party,
) -> (Vec<Shown>, Finding) {
    let mut leaves = Vec::with_capacity(named.len());
    for line in named {
        match one(line, policy, descriptor, said) {
            Ok(leaf) => leaves.push(leaf),
            // One leaf that does not belong to the rest, and nothing in the file is shown.
            Err(why) => return (Vec::new(), Finding::contradicted(why)),
        }
    }
    let statement = format!(
        "all {} leaves stand in the log {}, and what is opened of them is what they committed to",
        leaves.len(),
        descriptor.log_origin()
    );
    match leaves.is_empty() {
        true => (leaves, Finding::not_shown("there is no leaf of this log")),
        false => (leaves, Finding::proven(statement)),
    }
}

fn one(
    line: &NamedLeaf,
    policy: &Policy,
    descriptor: &Descriptor,
    said: &Party,
) -> Result<Shown, String> {
    let proof = ProofFile::parse(line.proof.as_bytes()).map_err(|error| error.to_string())?;
    let index = proof.index().0;
    let wrong = |why: &str| format!("leaf {index} {why}");
    let trusted = proof
        .verify(&tlog::leaf_hash(line.leaf.as_bytes()), policy)
        .map_err(|error| wrong(&format!("is not shown to stand in the log: {error}")))?;
    if trusted.checkpoint().origin().as_str() != descriptor.log_origin() {
        return Err(wrong("is of another log"));
    }
    let leaf =
        Leaf::parse(line.leaf.as_bytes()).map_err(|_| wrong("is none that this verifier knows"))?;
    let of = leaf.dataset().map(|link| hex::encode(link.pseudonym.0));
    // What replicas erased is said of the region as a whole.
    let its =
        of.as_ref() == Some(&said.pseudonym) || (of.is_none() && leaf.kind() == Kind::KeysErased);
    if !its {
        return Err(wrong("is of another dataset"));
    }
    let disclosed = match &line.openings {
        Some(openings) => Openings::parse(&openings.encode())
            .ok()
            .and_then(|openings| openings_of(&leaf, &openings).ok())
            .ok_or_else(|| wrong("committed to something else than is opened"))?,
        None => Disclosure::default(),
    };
    Ok(Shown {
        index,
        leaf,
        disclosed,
    })
}
