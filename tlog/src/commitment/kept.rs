//! A leaf as the region's state keeps it: its bytes, and in a few bytes what opens all of it.
//!
//! Owns the key of a leaf's salts and the kept form of openings, which grows by 72 bytes an object instead of by a JSON
//! text of each. Refuses bytes of another form. A salt that is to be forgotten cannot stay derivable: such openings are
//! written anew as JSON, where each salt stands for itself.

use std::collections::BTreeMap;
use std::io::Write as _;

use aws_lc_rs::cipher::{AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::digest;
use aws_lc_rs::iv::FixedLength;
use proto::ids::{LeaseId, ObjectVersionId};

use super::{COMMITMENT_LABEL, Field, Opening, Openings, OpeningsError, Private, Salt, SaltSeed};
use crate::hash::{Base64, HASH_BYTES, Hash};
use crate::leaf::{Leaf, LeafError, Public, SCHEMA};

/// First byte of the kept form. JSON begins with another.
const KEPT: u8 = 2;
/// Salts of a leaf's stream that are set aside for fields, by the field's code; those of the objects come after.
const FIELD_SALTS: usize = 16;
/// Bytes of one object in the kept form.
const OBJECT_BYTES: usize = ObjectVersionId::BYTES + HASH_BYTES + LeaseId::BYTES + 8;
/// About what a commitment is made of besides a field's value.
const COMMITTED_BYTES: usize = 320;

/// One opened object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenedObject {
    /// The object version whose key was released.
    pub version: ObjectVersionId,
    /// The name commitment out of the context the key was derived with.
    pub name: Hash,
    /// The lease it was sealed under.
    pub lease: LeaseId,
    /// Plaintext length, as the catalog states it.
    pub bytes: u64,
}

impl OpenedObject {
    /// JSON in [`crate::ObjectItem`]'s field order, appended to `text`.
    fn put_value(&self, text: &mut Vec<u8>) {
        let mut hexadecimal = [[0; 32]; 2];
        for (digits, id) in hexadecimal.iter_mut().zip([&self.version.0, &self.lease.0]) {
            hex::encode_to_slice(id, digits).expect("16 bytes are 32 digits");
        }
        let [version, lease] = &hexadecimal;
        for part in [
            &br#"{"version":""#[..],
            version,
            br#"","name":""#,
            Base64::of(&self.name.0).as_str().as_bytes(),
            br#"","lease":""#,
            lease,
            br#"","bytes":"#,
        ] {
            text.extend_from_slice(part);
        }
        write!(text, "{}}}", self.bytes).expect("a vector takes everything");
    }

    /// The value that is committed to, as [`crate::ObjectItem`] reads it.
    pub fn value(&self) -> String {
        let mut text = Vec::with_capacity(COMMITTED_BYTES);
        self.put_value(&mut text);
        String::from_utf8(text).expect("digits and base64 are ASCII")
    }

    fn put(&self, kept: &mut Vec<u8>) {
        kept.extend_from_slice(&self.version.0);
        kept.extend_from_slice(&self.name.0);
        kept.extend_from_slice(&self.lease.0);
        kept.extend_from_slice(&self.bytes.to_be_bytes());
    }

    fn take(kept: &mut &[u8]) -> Option<Self> {
        Some(Self {
            version: ObjectVersionId(chunk(kept)?),
            name: Hash(chunk(kept)?),
            lease: LeaseId(chunk(kept)?),
            bytes: u64::from_be_bytes(chunk(kept)?),
        })
    }
}

/// A leaf just made, and what opens all of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptLeaf {
    /// The leaf's one encoding.
    pub bytes: Vec<u8>,
    /// The kept form of its openings: [`Openings::kept`] reads it.
    pub openings: Vec<u8>,
}

impl KeptLeaf {
    /// As [`super::SaltedLeaf::build`]; the salts come out of one stream, whose key stands in the openings.
    pub fn build(
        public: Public,
        private: &Private<OpenedObject>,
        seed: &SaltSeed,
        ordinal: u64,
    ) -> Result<Self, LeafError> {
        let key = seed.leaf_key(ordinal);
        let salts = Salts::of(&key, private.objects.len());
        let mut committed = Committed::default();
        let commitments = private
            .fields
            .iter()
            .map(|(field, value)| {
                let salt = salts.of_field(*field);
                (*field, committed.field(*field, salt, value))
            })
            .collect();
        let objects = private
            .objects
            .iter()
            .enumerate()
            .map(|(position, object)| committed.object(position, salts.of_object(position), object))
            .collect();
        let leaf = Leaf::assemble(public, commitments, objects)?;
        Ok(Self {
            bytes: leaf.encode()?,
            openings: kept(&key, private),
        })
    }
}

/// What the next commitment is the hash of: one buffer for all of a leaf.
#[derive(Default)]
struct Committed(Vec<u8>);

impl Committed {
    fn field(&mut self, field: Field, salt: &[u8], value: &str) -> Hash {
        self.begin(field.name().as_bytes(), salt);
        self.0.extend_from_slice(value.as_bytes());
        self.hash()
    }

    fn object(&mut self, position: usize, salt: &[u8], object: &OpenedObject) -> Hash {
        let name = super::object_name(position);
        self.begin(name.as_bytes(), salt);
        object.put_value(&mut self.0);
        self.hash()
    }

    fn begin(&mut self, name: &[u8], salt: &[u8]) {
        let text = &mut self.0;
        text.clear();
        text.reserve(COMMITTED_BYTES);
        text.extend_from_slice(COMMITMENT_LABEL);
        text.push(u8::try_from(name.len()).expect("names are short"));
        text.extend_from_slice(name);
        text.extend_from_slice(salt);
    }

    fn hash(&self) -> Hash {
        let hash = digest::digest(&digest::SHA256, &self.0);
        Hash(hash.as_ref().try_into().expect("SHA-256 is 32 bytes"))
    }
}

/// The salts of one leaf: AES-256-CTR under the leaf's key, from a counter of zero on.
struct Salts(Vec<u8>);

impl Salts {
    fn of(key: &[u8; HASH_BYTES], objects: usize) -> Self {
        let mut stream = vec![0; (FIELD_SALTS + objects) * HASH_BYTES];
        let zero = EncryptionContext::Iv128(FixedLength::from([0; 16]));
        UnboundCipherKey::new(&AES_256, key)
            .and_then(EncryptingKey::ctr)
            .and_then(|cipher| cipher.less_safe_encrypt(&mut stream, zero))
            .expect("AES-256 takes a key of 32 bytes and any length in counter mode");
        Self(stream)
    }

    fn of_field(&self, field: Field) -> &[u8] {
        self.at(code(field).into())
    }

    fn of_object(&self, position: usize) -> &[u8] {
        self.at(FIELD_SALTS + position)
    }

    fn at(&self, place: usize) -> &[u8] {
        &self.0[place * HASH_BYTES..][..HASH_BYTES]
    }
}

/// A field's byte in the kept form and place among the salts: its place in [`Field::ALL`], for good.
fn code(field: Field) -> u8 {
    field as u8
}

/// `02 || leaf key (32) || fields (1) || per field: code (1) || length (4) || value || objects (2) || objects (72 each)`.
fn kept(key: &[u8; HASH_BYTES], private: &Private<OpenedObject>) -> Vec<u8> {
    let text: usize = private.fields.values().map(|value| 5 + value.len()).sum();
    let objects = private.objects.len();
    let mut kept = Vec::with_capacity(4 + HASH_BYTES + text + objects * OBJECT_BYTES);
    kept.push(KEPT);
    kept.extend_from_slice(key);
    kept.push(u8::try_from(private.fields.len()).expect("there are nine fields"));
    for (field, value) in &private.fields {
        let length = u32::try_from(value.len()).expect("a field fits a leaf's bounds");
        kept.push(code(*field));
        kept.extend_from_slice(&length.to_be_bytes());
        kept.extend_from_slice(value.as_bytes());
    }
    let count = u16::try_from(objects).expect("a leaf of more objects is too large");
    kept.extend_from_slice(&count.to_be_bytes());
    private
        .objects
        .iter()
        .for_each(|object| object.put(&mut kept));
    kept
}

/// The next bytes of what is read.
fn chunk<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Reads what [`kept`] wrote, and nothing after it.
fn parse(mut bytes: &[u8]) -> Option<Openings> {
    let key = chunk::<HASH_BYTES>(&mut bytes)?;
    let mut values = BTreeMap::new();
    for _ in 0..*bytes.split_off_first()? {
        let code = usize::from(*bytes.split_off_first()?);
        let field = *Field::ALL.get(code)?;
        let length = u32::from_be_bytes(chunk(&mut bytes)?);
        let value = bytes.split_off(..usize::try_from(length).ok()?)?;
        let value = std::str::from_utf8(value).ok()?.to_owned();
        // In the order of their codes, each once: the form is one.
        if values
            .last_key_value()
            .is_some_and(|(last, _)| *last >= field)
        {
            return None;
        }
        values.insert(field, value);
    }
    let count = usize::from(u16::from_be_bytes(chunk(&mut bytes)?));
    if bytes.len() != count * OBJECT_BYTES {
        return None;
    }
    let salts = Salts::of(&key, count);
    let salt = |salt: &[u8]| Salt(salt.try_into().expect("a salt is 32 bytes"));
    let fields = values
        .into_iter()
        .map(|(field, value)| {
            let salt = salt(salts.of_field(field));
            (field, Opening { salt, value })
        })
        .collect();
    let objects = (0..count)
        .map(|position| {
            let value = OpenedObject::take(&mut bytes)?.value();
            let salt = salt(salts.of_object(position));
            Some(Some(Opening { salt, value }))
        })
        .collect::<Option<_>>()?;
    Some(Openings {
        schema: SCHEMA,
        fields,
        objects,
    })
}

impl Openings {
    /// Reads openings as a state keeps them: the kept form, or JSON.
    pub fn kept(bytes: &[u8]) -> Result<Self, OpeningsError> {
        match bytes.split_first() {
            Some((&KEPT, rest)) => parse(rest).ok_or(OpeningsError::Malformed),
            _ => Self::parse(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
