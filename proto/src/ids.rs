//! Identifiers, indexes and sizes: one type each, so that two of them cannot be swapped.
//!
//! Owns their text and byte forms. Refuses: anything that does not parse; an id in memory is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Text or bytes that are not the id they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {what}: {why}")]
pub struct IdError {
    /// Which id was expected.
    pub what: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Length in bytes of the binary form.
            pub const BYTES: usize = 16;

            /// The bytes as they stand on the wire and on disk.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                let array = bytes.try_into().map_err(|_| IdError { what: $what, why: "not 16 bytes" })?;
                Ok(Self(array))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut digits = [0; 32];
                hex::encode_to_slice(self.0, &mut digits).expect("16 bytes are 32 digits");
                f.write_str(std::str::from_utf8(&digits).expect("digits are ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut array = [0; 16];
                hex::decode_to_slice(text, &mut array)
                    .map_err(|_| IdError { what: $what, why: "not 32 hexadecimal digits" })?;
                Ok(Self(array))
            }
        }

        impl From<$name> for bytes::Bytes {
            fn from(id: $name) -> Self {
                bytes::Bytes::copy_from_slice(&id.0)
            }
        }
    };
}

random_id!(
    /// A dataset (an S3 bucket): the unit of home region, KEK, policy, shard and relocation.
    DatasetId, "dataset id"
);
random_id!(
    /// One version of one object, minted at random by the sealer.
    ObjectVersionId, "object version id"
);
random_id!(
    /// A lease: one holder, one dataset, at most an hour.
    LeaseId, "lease id"
);
random_id!(
    /// A key-encryption key of a dataset; its versions share the id.
    KekId, "KEK id"
);
random_id!(
    /// One backup of datasets.
    BackupId, "backup id"
);
random_id!(
    /// One attempt to move one dataset to another region, from its plan to its certificate or its abort.
    RelocationId, "relocation id"
);
random_id!(
    /// A key that a destination's KMS made for one relocation, to receive DEKs under.
    HandOverKeyId, "hand-over key id"
);

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// A member of a region, in every Raft group it is in. Never reused.
    NodeId(u64)
);
counter!(
    /// A Raft group of a process: [`GroupId::CATALOG`], [`GroupId::KMS`] or a shard.
    GroupId(u64)
);
counter!(
    /// A position in one group's Raft log.
    LogIndex(u64)
);
counter!(
    /// A Raft term.
    Term(u64)
);
counter!(
    /// A position in a transparency log.
    LeafIndex(u64)
);
counter!(
    /// A shard's upload epoch: a counter that only a Raft command advances, hourly.
    UploadEpoch(u64)
);
counter!(
    /// A dataset's epoch: goes up by one with each cutover to another region.
    DatasetEpoch(u64)
);
counter!(
    /// A root key's epoch.
    RootEpoch(u32)
);
counter!(
    /// The version of a KEK.
    KekVersion(u32)
);
counter!(
    /// What every voter of a group must understand before it may be proposed.
    FeatureLevel(u32)
);
counter!(
    /// Milliseconds since the Unix epoch, UTC.
    UnixMs(u64)
);

impl GroupId {
    /// Names, placements and region configuration.
    pub const CATALOG: Self = Self(1);
    /// The only group of a KMS process.
    pub const KMS: Self = Self(2);
    /// Shards are numbered from here.
    pub const FIRST_SHARD: u64 = 16;
}

/// Ids of members added after the founding are this plus the log index that allocated them, so that an id
/// is never reused and never meets a founder's.
pub const FIRST_ALLOCATED_NODE_ID: u64 = 1_000;

fn label_ok(text: &str, bytes_max: usize) -> bool {
    !text.is_empty()
        && text.len() <= bytes_max
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $why:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text form.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let ok: fn(&str) -> bool = $ok;
                if ok(text) { Ok(Self(text.to_owned())) } else { Err(IdError { what: $what, why: $why }) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

text_id!(
    /// A region, such as `ch-zrh`: 1 to 32 of `a-z`, `0-9`, `-`.
    RegionId, "region id", "1 to 32 of a-z, 0-9 and inner hyphens", |t| label_ok(t, 32)
);
text_id!(
    /// A jurisdiction, such as `CH`: ISO 3166-1 alpha-2.
    Jurisdiction, "jurisdiction", "two capital letters (ISO 3166-1 alpha-2)",
    |t| t.len() == 2 && t.bytes().all(|b| b.is_ascii_uppercase())
);
text_id!(
    /// A dataset's name, by the rules of an S3 bucket name: 3 to 63 of `a-z`, `0-9`, `-`, `.`.
    DatasetName, "dataset name", "3 to 63 of a-z, 0-9, hyphens and dots, starting and ending with a letter or digit",
    |t| (3..=63).contains(&t.len())
        && t.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        && t.as_bytes()[0].is_ascii_alphanumeric()
        && t.as_bytes()[t.len() - 1].is_ascii_alphanumeric()
        && !t.contains("..")
);

/// An object's key: 1 to 1024 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Bytes a key may have.
    pub const BYTES_MAX: usize = 1024;

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ObjectKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.len() {
            0 => Err(IdError {
                what: "object key",
                why: "it is empty",
            }),
            1..=Self::BYTES_MAX => Ok(Self(text.to_owned())),
            _ => Err(IdError {
                what: "object key",
                why: "it is longer than 1024 bytes",
            }),
        }
    }
}

// No Display and no Debug of the text: object names are customer data and stay out of logs.
impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKey({} bytes)", self.0.len())
    }
}

/// A request's id: retried with the same id, a request has effect once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// The shard's upload epoch when the request was first sent.
    pub epoch: UploadEpoch,
    /// 128 bits, random or derived from the caller's own invocation id.
    pub nonce: [u8; 16],
}

impl RequestId {
    /// Length in bytes of the binary form: epoch big-endian, then nonce.
    pub const BYTES: usize = 24;

    /// The bytes as they stand on the wire and on disk.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&self.epoch.0.to_be_bytes());
        out[8..].copy_from_slice(&self.nonce);
        out
    }
}

impl TryFrom<&[u8]> for RequestId {
    type Error = IdError;
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| IdError {
            what: "request id",
            why: "not 24 bytes",
        })?;
        let (mut epoch, mut nonce) = ([0; 8], [0; 16]);
        epoch.copy_from_slice(&bytes[..8]);
        nonce.copy_from_slice(&bytes[8..]);
        Ok(Self {
            epoch: UploadEpoch(u64::from_be_bytes(epoch)),
            nonce,
        })
    }
}

/// What an identity may be. The role is part of the identity's URI and of its enrolment; both must agree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A storage node.
    Node,
    /// A KMS replica.
    Kms,
    /// A gateway: may seal and open.
    Gateway,
    /// A service or person that uses the SDK's sealing mode: may seal and open.
    Client,
    /// Runs the region; may not open data.
    Operator,
    /// Holds a share of the root key.
    Custodian,
    /// Reads the log and evidence.
    Auditor,
    /// Acts through gateways alone: it has access keys, and neither a key nor a certificate of its own.
    Service,
}

impl Role {
    /// Every role, in the order of their wire numbers (1-based).
    pub const ALL: [Self; 8] = [
        Self::Node,
        Self::Kms,
        Self::Gateway,
        Self::Client,
        Self::Operator,
        Self::Custodian,
        Self::Auditor,
        Self::Service,
    ];

    /// As in the identity's URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Kms => "kms",
            Self::Gateway => "gateway",
            Self::Client => "client",
            Self::Operator => "operator",
            Self::Custodian => "custodian",
            Self::Auditor => "auditor",
            Self::Service => "service",
        }
    }
}

impl FromStr for Role {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(IdError {
                what: "role",
                why: "not a known role",
            })
    }
}

/// `spiffe://<region>/<role>/<name>`: who a certificate says its holder is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Identity {
    region: RegionId,
    role: Role,
    name: String,
}

impl Identity {
    /// Builds an identity; the name is 1 to 64 of `a-z`, `0-9`, `-`.
    pub fn new(region: RegionId, role: Role, name: &str) -> Result<Self, IdError> {
        if !label_ok(name, 64) {
            return Err(IdError {
                what: "identity",
                why: "the name is not 1 to 64 of a-z, 0-9, hyphen",
            });
        }
        Ok(Self {
            region,
            role,
            name: name.to_owned(),
        })
    }

    /// Whom a statement `on_behalf_of` names, where that is a service principal: policy is asked about it then, as about
    /// the gateway that states it. Anything else is words, and recorded as such.
    ///
    /// # Errors
    /// If it begins as an identity and is none: it would pass for words.
    pub fn service_principal(stated: &str) -> Result<Option<Self>, IdError> {
        if !stated.starts_with("spiffe://") {
            return Ok(None);
        }
        let identity: Self = stated.parse()?;
        Ok(Some(identity).filter(|identity| identity.role == Role::Service))
    }

    /// The region it belongs to.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// What it may be.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its name within region and role.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Identity {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = |why| IdError {
            what: "identity",
            why,
        };
        let rest = text
            .strip_prefix("spiffe://")
            .ok_or(bad("it does not start with spiffe://"))?;
        let mut parts = rest.split('/');
        let (Some(region), Some(role), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad("not of the form spiffe://<region>/<role>/<name>"));
        };
        Self::new(region.parse()?, role.parse()?, name)
    }
}

impl TryFrom<String> for Identity {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Identity> for String {
    fn from(identity: Identity) -> Self {
        identity.to_string()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/{}/{}",
            self.region,
            self.role.as_str(),
            self.name
        )
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Names a secret by which a client of a gateway signs its requests: `RDT` and 17 of `A-Z 2-7` (RFC 4648 section 6), 85
/// random bits. Public.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessKeyId([u8; Self::BYTES]);

impl AccessKeyId {
    /// Length in bytes of its text, which is its only form on the wire and on disk.
    pub const BYTES: usize = 20;
    const PREFIX: &[u8; 3] = b"RDT";
    const DIGITS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    const DIGIT_BITS: usize = 5;

    /// The id that the lowest 85 of these bits name.
    pub fn from_bits(bits: u128) -> Self {
        let mut text = [0; Self::BYTES];
        text[..Self::PREFIX.len()].copy_from_slice(Self::PREFIX);
        let mut rest = bits;
        for digit in text[Self::PREFIX.len()..].iter_mut().rev() {
            *digit = Self::DIGITS[(rest & 31) as usize];
            rest >>= Self::DIGIT_BITS;
        }
        Self(text)
    }

    /// The id of the access key that a request makes, by the SHA-256 of [`crate::transcript::access_key_id`].
    pub fn of_request(digest: &[u8; 32]) -> Self {
        let bits = digest.first_chunk().expect("32 bytes are more than 16");
        Self::from_bits(u128::from_be_bytes(*bits))
    }

    /// Its 85 bits: what a wrapped secret names it by.
    pub fn bits(&self) -> u128 {
        self.0[Self::PREFIX.len()..].iter().fold(0, |bits, letter| {
            let digit = Self::digit(*letter).expect("an id in memory is valid");
            (bits << Self::DIGIT_BITS) | digit
        })
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id in memory is ASCII")
    }

    fn digit(letter: u8) -> Option<u128> {
        let digits = Self::DIGITS.iter();
        digits
            .zip(0..)
            .find_map(|(held, digit)| (*held == letter).then_some(digit))
    }
}

impl TryFrom<&[u8]> for AccessKeyId {
    type Error = IdError;
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let bad = IdError {
            what: "access key id",
            why: "not RDT and 17 of A-Z and 2-7",
        };
        let text: [u8; Self::BYTES] = bytes.try_into().map_err(|_| bad.clone())?;
        let digits = text.strip_prefix(Self::PREFIX);
        match digits.is_some_and(|digits| digits.iter().all(|d| Self::digit(*d).is_some())) {
            true => Ok(Self(text)),
            false => Err(bad),
        }
    }
}

impl FromStr for AccessKeyId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::try_from(text.as_bytes())
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessKeyId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_key_id_has_these_letters_and_no_other() {
        let text = AccessKeyId::from_bits(0).to_string();
        assert_eq!(text, "RDTAAAAAAAAAAAAAAAAA");
        let largest = AccessKeyId::from_bits(u128::MAX);
        assert_eq!(largest.as_str(), "RDT77777777777777777");
        assert_eq!(largest.bits(), (1 << 85) - 1);
        let bits = 0x0123_4567_89ab_cdef_0123;
        let id: AccessKeyId = AccessKeyId::from_bits(bits)
            .as_str()
            .parse()
            .expect("valid");
        assert_eq!(id.bits(), bits);
        for bad in [
            "",
            "RDTAAAAAAAAAAAAAAAA",
            "RDTAAAAAAAAAAAAAAAAAA",
            "RDTAAAAAAAAAAAAAAAA1",
            "RDTaAAAAAAAAAAAAAAAA",
            "AKIAAAAAAAAAAAAAAAAA",
        ] {
            assert!(bad.parse::<AccessKeyId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn identity_round_trips_and_refuses_what_is_not_one() {
        let text = "spiffe://ch-zrh/node/n1";
        assert_eq!(text.parse::<Identity>().expect("valid").to_string(), text);
        for bad in [
            "spiffe://ch-zrh/node",
            "spiffe://ch-zrh/node/n1/x",
            "spiffe://CH/node/n1",
            "spiffe://ch-zrh/root/n1",
            "http://ch-zrh/node/n1",
            "spiffe://ch-zrh/node/",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_statement_names_a_service_principal_or_is_words_and_nothing_between() {
        let named = |stated| Identity::service_principal(stated);
        let principal = "spiffe://ch-zrh/service/backup";
        let found = named(principal).expect("an identity");
        assert_eq!(
            found.map(|found| found.to_string()).as_deref(),
            Some(principal)
        );
        for words in ["", "the backup of Zurich", "spiffe://ch-zrh/client/app"] {
            assert_eq!(named(words), Ok(None), "{words}");
        }
        for neither in [
            "spiffe://ch-zrh/service/Backup",
            "spiffe://ch-zrh/service/a/b",
        ] {
            assert!(named(neither).is_err(), "{neither}");
        }
    }

    #[test]
    fn object_keys_have_a_length() {
        assert!("".parse::<ObjectKey>().is_err());
        assert!("k".repeat(1024).parse::<ObjectKey>().is_ok());
        assert!("k".repeat(1025).parse::<ObjectKey>().is_err());
    }

    #[test]
    fn request_id_bytes_are_epoch_then_nonce() {
        let id = RequestId {
            epoch: UploadEpoch(7),
            nonce: [9; 16],
        };
        let bytes = id.to_bytes();
        assert_eq!(&bytes[..8], &[0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(RequestId::try_from(&bytes[..]).expect("round trip"), id);
    }

    #[test]
    fn dataset_names_follow_bucket_rules() {
        for good in ["cti", "a.b-c", "0ab"] {
            assert!(good.parse::<DatasetName>().is_ok(), "{good}");
        }
        for bad in ["ab", "Abc", "-abc", "abc-", "a..b", "a/b"] {
            assert!(bad.parse::<DatasetName>().is_err(), "{bad}");
        }
    }
}
