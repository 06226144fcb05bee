//! Salted commitments of a leaf and the openings kept beside it.
//!
//! Owns how a value is hidden in a leaf, shown to whom policy names, and forgotten. Refuses: an opening that the
//! leaf did not commit to. Every commitment has a salt of its own, derived from the command's random seed by
//! HMAC-SHA-256, so that showing one says nothing about the others; the seed itself is kept nowhere but in the
//! replicated command, and a salt that was erased comes back only while that log entry is not purged.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize, Serializer};

use crate::hash::{Base64, HASH_BYTES, Hash, sha256};
use crate::leaf::{Leaf, LeafError, Public, SCHEMA};

mod kept;

pub use kept::{KeptLeaf, OpenedObject};

/// About what an opening is in JSON besides its value.
const OPENING_JSON_BYTES: usize = 96;
const COMMITMENT_LABEL: &[u8] = b"reduit/v1/leaf-commitment\n";
const SALT_LABEL: &[u8] = b"reduit/v1/leaf-salt\n";
const LEAF_KEY_LABEL: &[u8] = b"reduit/v1/leaf-key\n";

/// Parts of a record that a leaf commits to without showing them, in the order they stand in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// Who, authenticated by the KMS.
    Actor,
    /// For whom, as the actor stated it.
    OnBehalfOf,
    /// Which case, as the actor stated it.
    Case,
    /// On what legal basis, as the actor stated it.
    LegalBasis,
    /// The request's id, in hexadecimal.
    RequestId,
    /// Region of whoever received the key.
    RecipientRegion,
    /// Plaintext bytes that the released keys open, in decimal.
    Bytes,
    /// Approvals of dual control, as JSON.
    Approvals,
    /// What else the kind says, as JSON.
    Details,
}

impl Field {
    /// Every field in leaf order.
    pub const ALL: [Self; 9] = [
        Self::Actor,
        Self::OnBehalfOf,
        Self::Case,
        Self::LegalBasis,
        Self::RequestId,
        Self::RecipientRegion,
        Self::Bytes,
        Self::Approvals,
        Self::Details,
    ];

    /// As in the leaf.
    pub fn name(self) -> &'static str {
        match self {
            Self::Actor => "actor",
            Self::OnBehalfOf => "on_behalf_of",
            Self::Case => "case",
            Self::LegalBasis => "legal_basis",
            Self::RequestId => "request_id",
            Self::RecipientRegion => "recipient_region",
            Self::Bytes => "bytes",
            Self::Approvals => "approvals",
            Self::Details => "details",
        }
    }
}

/// What hides one value: 32 bytes no one can guess. Kept in the opening; erasing it hides the value for good.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Salt([u8; HASH_BYTES]);

impl TryFrom<String> for Salt {
    type Error = crate::HashError;
    fn try_from(text: String) -> Result<Self, crate::HashError> {
        text.parse::<Hash>().map(|hash| Self(hash.0))
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Base64::of(&self.0).as_str())
    }
}

// No content: with the salt, a value can be guessed.
impl std::fmt::Debug for Salt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Salt")
    }
}

/// The random seed of one command, out of which the salts of all its leaves are derived.
pub struct SaltSeed(hmac::Key);

impl SaltSeed {
    /// Takes 32 random bytes that serve this one command.
    pub fn new(seed: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, seed))
    }

    /// HMAC-SHA-256(seed, label || u64 leaf || u8 name length || name), the leaf counted within the command.
    fn salt(&self, leaf: u64, name: &str) -> Salt {
        let length = [name_length(name)];
        Salt(self.derive(&[SALT_LABEL, &leaf.to_be_bytes(), &length, name.as_bytes()]))
    }

    /// The key of one leaf's salts: HMAC-SHA-256(seed, label || u64 leaf), the leaf counted within the command.
    fn leaf_key(&self, leaf: u64) -> [u8; HASH_BYTES] {
        self.derive(&[LEAF_KEY_LABEL, &leaf.to_be_bytes()])
    }

    fn derive(&self, parts: &[&[u8]]) -> [u8; HASH_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        parts.iter().for_each(|part| context.update(part));
        let mut out = [0; HASH_BYTES];
        out.copy_from_slice(context.sign().as_ref());
        out
    }
}

/// The values a leaf commits to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Private<Object = String> {
    /// Values by field; a field that is not here is absent from the leaf, which everyone can see.
    pub fields: BTreeMap<Field, String>,
    /// Values of the objects, in the order of the request.
    pub objects: Vec<Object>,
}

impl<Object> Default for Private<Object> {
    fn default() -> Self {
        Self {
            fields: BTreeMap::new(),
            objects: Vec::new(),
        }
    }
}

/// A leaf just made, its bytes, and the openings of everything in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SaltedLeaf {
    /// The leaf.
    pub leaf: Leaf,
    /// Its one encoding.
    pub bytes: Vec<u8>,
    /// Openings of all its commitments.
    pub openings: Openings,
}

impl SaltedLeaf {
    /// Commits to `private`. `ordinal` counts the leaves of the command that `seed` belongs to: two leaves of one
    /// command never share a salt.
    pub fn build(
        public: Public,
        private: Private,
        seed: &SaltSeed,
        ordinal: u64,
    ) -> Result<Self, LeafError> {
        let mut commitments = BTreeMap::new();
        let mut fields = BTreeMap::new();
        for (field, value) in private.fields {
            let opening = Opening {
                salt: seed.salt(ordinal, field.name()),
                value,
            };
            commitments.insert(field, opening.commitment(field.name()));
            fields.insert(field, opening);
        }
        let (mut hashes, mut objects) = (Vec::new(), Vec::new());
        for (position, value) in private.objects.into_iter().enumerate() {
            let name = object_name(position);
            let opening = Opening {
                salt: seed.salt(ordinal, &name),
                value,
            };
            hashes.push(opening.commitment(&name));
            objects.push(Some(opening));
        }
        let leaf = Leaf::assemble(public, commitments, hashes)?;
        let bytes = leaf.encode()?;
        Ok(Self {
            leaf,
            bytes,
            openings: Openings {
                schema: SCHEMA,
                fields,
                objects,
            },
        })
    }
}

/// The salt and value behind one commitment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    salt: Salt,
    value: String,
}

impl Opening {
    /// The value, true only once checked against the leaf.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// SHA-256(label || u8 name length || name || 32 bytes salt || value).
    fn commitment(&self, name: &str) -> Hash {
        let length = [name_length(name)];
        sha256(&[
            COMMITMENT_LABEL,
            &length,
            name.as_bytes(),
            &self.salt.0,
            self.value.as_bytes(),
        ])
    }
}

/// Openings of one leaf, all or some. They stand beside the leaf and are no part of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Openings {
    schema: u32,
    fields: BTreeMap<Field, Opening>,
    /// By position; `null` where withheld or erased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    objects: Vec<Option<Opening>>,
}

/// Bytes that are no openings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpeningsError {
    /// Not the JSON of openings.
    #[error("not the JSON of a leaf's openings")]
    Malformed,
    /// A schema this build does not know.
    #[error("unknown openings schema {0}")]
    UnknownSchema(u32),
}

/// Why openings do not belong to a leaf.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The leaf has no commitment for this.
    #[error("the leaf does not commit to {0}")]
    NotCommitted(String),
    /// Salt and value do not give the leaf's commitment.
    #[error("the opening of {0} is not what the leaf committed to")]
    Mismatch(String),
}

/// What a leaf's openings show, checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Disclosure {
    /// Values shown.
    pub fields: BTreeMap<Field, String>,
    /// Fields the leaf commits to and the openings do not show: withheld or erased.
    pub withheld: Vec<Field>,
    /// The objects in order; `None` where withheld or erased.
    pub objects: Vec<Option<String>>,
}

impl Openings {
    /// Reads openings from JSON. They are untrusted until [`openings_of`] has checked them against their leaf.
    pub fn parse(bytes: &[u8]) -> Result<Self, OpeningsError> {
        let openings: Self = serde_json::from_slice(bytes).map_err(|_| OpeningsError::Malformed)?;
        if openings.schema != SCHEMA {
            return Err(OpeningsError::UnknownSchema(openings.schema));
        }
        Ok(openings)
    }

    /// JSON with a fixed field order.
    pub fn encode(&self) -> Vec<u8> {
        let values = self.fields.values().chain(self.objects.iter().flatten());
        let bytes: usize = values
            .map(|opening| opening.value.len() + OPENING_JSON_BYTES)
            .sum();
        let mut json = Vec::with_capacity(bytes);
        serde_json::to_writer(&mut json, self).expect("no map key and no value here can fail");
        json
    }

    /// The opening of one field.
    pub fn field(&self, field: Field) -> Option<&Opening> {
        self.fields.get(&field)
    }

    /// Forgets salt and value of a field; the leaf stays valid. Answers whether there was something to forget.
    pub fn erase(&mut self, field: Field) -> bool {
        self.fields.remove(&field).is_some()
    }

    /// Forgets salt and value of one object; the leaf stays valid.
    pub fn erase_object(&mut self, position: usize) -> bool {
        self.objects
            .get_mut(position)
            .is_some_and(|opening| opening.take().is_some())
    }

    /// Only what the caller may see: these fields, and the objects or none of them.
    pub fn reveal(&self, fields: &[Field], objects: bool) -> Self {
        Self {
            schema: self.schema,
            fields: self
                .fields
                .iter()
                .filter(|(field, _)| fields.contains(field))
                .map(|(field, opening)| (*field, opening.clone()))
                .collect(),
            objects: if objects {
                self.objects.clone()
            } else {
                Vec::new()
            },
        }
    }
}

/// Checks openings against their leaf and answers what they show. Openings may show less than the leaf commits
/// to, never more and never anything else.
pub fn openings_of(leaf: &Leaf, openings: &Openings) -> Result<Disclosure, VerifyError> {
    let mut shown = Disclosure::default();
    for (field, opening) in &openings.fields {
        let name = field.name();
        let committed = leaf
            .commitments()
            .get(field)
            .ok_or_else(|| VerifyError::NotCommitted(name.to_owned()))?;
        if opening.commitment(name) != *committed {
            return Err(VerifyError::Mismatch(name.to_owned()));
        }
        shown.fields.insert(*field, opening.value.clone());
    }
    let hidden = |field: &&Field| !openings.fields.contains_key(field);
    shown.withheld = leaf.commitments().keys().filter(hidden).copied().collect();
    if openings.objects.len() > leaf.objects().len() {
        return Err(VerifyError::NotCommitted(object_name(leaf.objects().len())));
    }
    for (position, committed) in leaf.objects().iter().enumerate() {
        let opening = openings.objects.get(position).and_then(Option::as_ref);
        if let Some(opening) = opening {
            let name = object_name(position);
            if opening.commitment(&name) != *committed {
                return Err(VerifyError::Mismatch(name));
            }
        }
        shown
            .objects
            .push(opening.map(|opening| opening.value.clone()));
    }
    Ok(shown)
}

fn object_name(position: usize) -> String {
    format!("object/{position}")
}

fn name_length(name: &str) -> u8 {
    u8::try_from(name.len()).expect("field names are short")
}

#[cfg(test)]
mod tests;
