//! The certificate of a relocation: an in-toto statement in a DSSE envelope.
//!
//! Owns both texts, each in one encoding. Refuses a second encoding, unknown
//! fields, ids that are none, and a subject that is not the root in the predicate. Whether a statement is true is for who
//! signs it to know from its own records, and for who reads it to check against both logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::transcript;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::hash::sha256;

/// `_type` of an in-toto statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// What is stated.
pub const PREDICATE_TYPE: &str = "https://reduit.dev/relocation/v1";
/// What a DSSE envelope around a statement says that it holds.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Bytes of a statement.
pub const STATEMENT_BYTES_MAX: usize = 16 << 10;
/// Signatures of an envelope: one replica of each region, and room for others.
pub const DSSE_SIGNATURES_MAX: usize = 16;
const TEXT_BYTES_MAX: usize = 512;

/// Bytes that are no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// See [`STATEMENT_BYTES_MAX`].
    #[error("a statement has at most {STATEMENT_BYTES_MAX} bytes")]
    TooLong,
    /// Not this JSON, or another spelling of it.
    #[error("it is no statement on a relocation in its one encoding")]
    Encoding,
    /// A field that is none.
    #[error("the certificate has no valid {0}")]
    Field(&'static str),
}

/// An in-toto statement about one relocation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    #[serde(rename = "_type")]
    statement_type: String,
    subject: [Subject; 1],
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Relocation,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectDigest {
    /// SHA-256 of the 32 bytes of the root: what tools that know no other digest look for.
    sha256: String,
    #[serde(rename = "reduitCatalogRoot")]
    catalog_root: String,
}

/// The predicate: one relocation as both KMSs have it on record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Relocation {
    /// Its id, 32 hexadecimal digits.
    pub relocation: String,
    /// The dataset's id, 32 hexadecimal digits.
    pub dataset: String,
    /// On whose word the destination serves it.
    pub opened: OpenedBy,
    /// The dataset's epoch before.
    pub epoch_from: u64,
    /// The dataset's epoch since.
    pub epoch_to: u64,
    /// Log index, in the source shard, of the fence under which all copies were found equal.
    pub fence: u64,
    /// The catalog at that fence, 64 hexadecimal digits.
    pub catalog_root: String,
    /// Id of the key that keys were handed over under, 32 hexadecimal digits.
    pub hand_over_key: String,
    /// When this was put together, ms since 1970; both KMSs' times are within ten minutes of it.
    pub issued_ms: u64,
    /// Where the dataset was.
    pub source: SourceSide,
    /// Where it is.
    pub destination: DestinationSide,
    /// What it does not say: [`LIMITS`], word for word.
    pub limits: Vec<String>,
}

/// On whose word a destination opened a dataset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenedBy {
    /// The source's: a majority of its replicas signed that the dataset moved.
    Moved,
    /// Two people's, and the source has not said that it moved.
    Forced,
}

/// One region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Party {
    /// Its id.
    pub region: String,
    /// Under whose law.
    pub jurisdiction: String,
    /// What it says of itself when it signs.
    pub descriptor: DescriptorNamed,
    /// Its log's origin.
    pub log: String,
    /// The dataset in that log, 32 hexadecimal digits.
    pub pseudonym: String,
    /// Id of the dataset's key there, 32 hexadecimal digits.
    pub kek: String,
}

/// A region descriptor by its version and fingerprint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptorNamed {
    /// As the descriptor has it.
    pub version: u64,
    /// 64 hexadecimal digits.
    pub fingerprint: String,
}

/// The source. Leaves are indexes in its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceSide {
    /// Which region.
    pub party: Party,
    /// The destination's descriptor by which people approved the grant.
    pub approved: DescriptorNamed,
    /// The grant.
    pub grant_leaf: u64,
    /// Object versions, each time their keys were released.
    pub released_objects: u64,
    /// The last leaf that records a release; none where nothing was.
    pub released_through: Option<u64>,
    /// The end of the dataset's key there, as it was scheduled.
    pub shred_leaf: u64,
    /// That end.
    pub destroyed_leaf: Option<u64>,
    /// The last replica's word that none of its files holds it.
    pub erased_leaf: Option<u64>,
}

/// The destination. Leaves are indexes in its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DestinationSide {
    /// Which region.
    pub party: Party,
    /// The source's descriptor by which people approved the hand-over key.
    pub approved: DescriptorNamed,
    /// The hand-over key's birth.
    pub key_leaf: u64,
    /// Its end.
    pub key_destroyed_leaf: Option<u64>,
}

/// What every certificate says that it does not say.
pub const LIMITS: &[&str] = &[
    "that a key is destroyed is the word of the KMS replicas that held it",
    "copies of the source's ciphertext that were made earlier are not excluded",
    "backups of the source's keys open until the root epoch they are under is retired",
    "what the destination was handed is open to it, as was approved",
];

impl Statement {
    /// The statement with this predicate.
    pub fn new(predicate: Relocation) -> Result<Self, CertificateError> {
        predicate.check()?;
        let statement = Self {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: [predicate.subject()?],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate,
        };
        match statement.encode().len() <= STATEMENT_BYTES_MAX {
            true => Ok(statement),
            false => Err(CertificateError::TooLong),
        }
    }

    /// Reads a statement from its one encoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        if bytes.len() > STATEMENT_BYTES_MAX {
            return Err(CertificateError::TooLong);
        }
        let read: Self = one_encoding(bytes)?;
        let made = Self::new(read.predicate.clone())?;
        match made == read {
            true => Ok(read),
            false => Err(CertificateError::Field("type or subject")),
        }
    }

    /// The bytes that are signed.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("no map key and no value here can fail")
    }

    /// What is stated.
    pub fn predicate(&self) -> &Relocation {
        &self.predicate
    }
}

impl Relocation {
    fn subject(&self) -> Result<Subject, CertificateError> {
        let root = digits::<32>(&self.catalog_root, "catalog root")?;
        Ok(Subject {
            name: format!("reduit:dataset/{}", self.dataset),
            digest: SubjectDigest {
                sha256: hex::encode(sha256(&[&root]).0),
                catalog_root: self.catalog_root.clone(),
            },
        })
    }

    fn check(&self) -> Result<(), CertificateError> {
        let field = CertificateError::Field;
        digits::<16>(&self.relocation, "relocation id")?;
        digits::<16>(&self.dataset, "dataset id")?;
        digits::<16>(&self.hand_over_key, "hand-over key id")?;
        for party in [&self.source.party, &self.destination.party] {
            party.check()?;
        }
        for named in [&self.source.approved, &self.destination.approved] {
            digits::<32>(&named.fingerprint, "descriptor fingerprint")?;
        }
        if self.source.party.region == self.destination.party.region {
            return Err(field("destination: it is the source"));
        }
        if self.epoch_from.checked_add(1) != Some(self.epoch_to) {
            return Err(field("epoch"));
        }
        if self.limits != LIMITS {
            return Err(field("limits"));
        }
        match self.source.destroyed_leaf.is_none() && self.source.erased_leaf.is_some() {
            true => Err(field("end of the source's key")),
            false => Ok(()),
        }
    }
}

impl Party {
    fn check(&self) -> Result<(), CertificateError> {
        let texts = [&self.region, &self.jurisdiction, &self.log];
        let printed = |text: &&String| {
            (1..=TEXT_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !texts.iter().all(printed) {
            return Err(CertificateError::Field("name of a region, law or log"));
        }
        digits::<32>(&self.descriptor.fingerprint, "descriptor fingerprint")?;
        digits::<16>(&self.pseudonym, "pseudonym")?;
        digits::<16>(&self.kek, "key id").map(drop)
    }
}

/// Bytes in lower-case hexadecimal.
fn digits<const N: usize>(text: &str, what: &'static str) -> Result<[u8; N], CertificateError> {
    let mut bytes = [0; N];
    let read = hex::decode_to_slice(text, &mut bytes).is_ok();
    match read && hex::encode(bytes) == text {
        true => Ok(bytes),
        false => Err(CertificateError::Field(what)),
    }
}

fn one_encoding<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CertificateError> {
    let read: T = serde_json::from_slice(bytes).map_err(|_| CertificateError::Encoding)?;
    let again = serde_json::to_vec(&read).map_err(|_| CertificateError::Encoding)?;
    match again == bytes {
        true => Ok(read),
        false => Err(CertificateError::Encoding),
    }
}

/// The key id of a DER SubjectPublicKeyInfo: its SHA-256 in hexadecimal.
pub fn dsse_key_id(spki: &[u8]) -> String {
    hex::encode(sha256(&[spki]).0)
}

/// A DSSE envelope around a statement.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DsseEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

/// One signature of an envelope.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvelopeSignature {
    /// See [`dsse_key_id`].
    pub keyid: String,
    /// Base64.
    pub sig: String,
}

impl EnvelopeSignature {
    /// By the key of this DER SubjectPublicKeyInfo.
    pub fn new(spki: &[u8], signature: &[u8]) -> Self {
        Self {
            keyid: dsse_key_id(spki),
            sig: STANDARD.encode(signature),
        }
    }

    /// The signature's bytes; none where it is not 64 bytes in base64's one spelling.
    pub fn bytes(&self) -> Option<[u8; 64]> {
        let bytes = STANDARD.decode(&self.sig).ok()?;
        bytes.try_into().ok()
    }
}

impl DsseEnvelope {
    /// An envelope around these very bytes.
    pub fn new(statement: &Statement, signatures: Vec<EnvelopeSignature>) -> Self {
        Self {
            payload: STANDARD.encode(statement.encode()),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures,
        }
    }

    /// The statement, and what each signature has to be over.
    pub fn open(&self) -> Result<(Statement, Vec<u8>), CertificateError> {
        if self.payload_type != PAYLOAD_TYPE {
            return Err(CertificateError::Field("payload type"));
        }
        if self.payload.len() > STATEMENT_BYTES_MAX.div_ceil(3) * 4 {
            return Err(CertificateError::TooLong);
        }
        if self.signatures.len() > DSSE_SIGNATURES_MAX {
            return Err(CertificateError::Field("number of signatures"));
        }
        let payload = STANDARD.decode(&self.payload);
        let payload = payload.map_err(|_| CertificateError::Encoding)?;
        let statement = Statement::parse(&payload)?;
        let signed = transcript::dsse(&self.payload_type, &payload);
        Ok((statement, signed))
    }

    /// Its signatures, as written.
    pub fn signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }
}

#[cfg(test)]
mod tests;
