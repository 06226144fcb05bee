//! One leaf of the log: the public part of a record and commitments to the rest.
//!
//! Owns the leaf's bytes (JSON, fixed field order, one encoding) and the chain of one dataset's leaves. Refuses:
//! leaves over 65,535 bytes (an entry of a C2SP tlog-tiles bundle has a 16-bit length), schemas it does not
//! know, and any second encoding of the same leaf.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use proto::ids::{LeaseId, ObjectVersionId, UnixMs};
use serde::{Deserialize, Serialize};

use crate::commitment::Field;
use crate::hash::{Hash, leaf_hash};

/// Version of the leaf's schema that this build writes and reads.
pub const SCHEMA: u32 = 1;
/// Bytes a leaf may have.
pub const LEAF_BYTES_MAX: usize = 65_535;

/// About what a leaf is in JSON without commitments, and what each of them is.
const LEAF_JSON_BYTES: usize = 320;
const COMMITMENT_JSON_BYTES: usize = 64;

/// What happened. A kind this build does not know fails to parse: a verifier that skipped it could miss a release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The region's KMS and log began.
    Initialised,
    /// A dataset's KEK was born.
    KeyCreated,
    /// A new version of a KEK became current.
    KeyRotated,
    /// When a KEK is rotated by itself was planned.
    KeyRotationPlanned,
    /// The dataset's shard takes no commit under older versions of a KEK.
    KeyVersionsRetired,
    /// Older versions of a KEK were destroyed: nothing needs them.
    KeyVersionsEnded,
    /// A KEK's aliases or tags changed.
    KeyLabelled,
    /// A KEK may be used again.
    KeyEnabled,
    /// Opens and leases under a KEK stopped.
    KeyDisabled,
    /// A KEK is held to be known to others.
    KeyCompromised,
    /// A KEK waits for its destruction.
    KeyDestructionPending,
    /// A KEK was destroyed.
    KeyDestroyed,
    /// The dataset's shard has committed the key's state.
    KeyStateAcknowledged,
    /// The shard that holds a dataset became known.
    ShardRegistered,
    /// A lease key went to its holder: it seals, it does not open.
    Lease,
    /// The keys that open a dataset's metadata went to a holder.
    MetadataLease,
    /// Keys of object versions were released.
    Open,
    /// Identities were enrolled or removed.
    EnrolmentChanged,
    /// Grants were added or removed.
    GrantsChanged,
    /// The policy text changed.
    PolicyChanged,
    /// The witnesses that vouch for this log changed.
    WitnessesChanged,
    /// A replica received the root key.
    Unsealed,
    /// A member id was allocated, never to be reused.
    MemberAllocated,
    /// Region time moved by more than a minute at once.
    TimeAdvanced,
    /// A new split of the root key, or of a new one, is under way.
    CustodyBegun,
    /// A custodian has shown its share of the split under way.
    ShareConfirmed,
    /// The split under way is in force, and its root key with it.
    CustodyFinished,
    /// The split under way was given up.
    CustodyAbandoned,
    /// A custodian has signed that its share of a former split is erased.
    ShareErased,
    /// A former root key can no longer be rebuilt from shares.
    RootEpochRetired,
    /// A replica received the root key under way.
    RootSent,
    /// Every replica was told to drop its keys.
    RegionSealed,
    /// A backup of the KMS was about to leave, sealed.
    BackupBegun,
    /// An operator holds a backup of the KMS whole.
    BackupConfirmed,
    /// The region goes on from a backup, on replicas that are new.
    Restored,
    /// A dataset may be restored from a backup.
    RestoreApproved,
    /// A dataset that was restored is still this region's, and may take changes again.
    RestoreConfirmed,
    /// A root key was sealed under a token and a person's half.
    SealProvisioned,
    /// A token's seal of a root key was given up.
    SealDropped,
    /// A replica states that none of its files holds what was ended of keys.
    KeysErased,
    /// A service principal was given an access key, whose secret was shown to who asked.
    AccessKeyCreated,
    /// An access key may be used again.
    AccessKeyEnabled,
    /// No gateway is given an access key's secret any more.
    AccessKeyDisabled,
    /// An access key was deleted, and its secret with it.
    AccessKeyDeleted,
    /// A gateway was given an access key's secret.
    AccessSecret,
    /// Keys of a dataset may be handed over to another region, for one relocation.
    HandOverGranted,
    /// None are while a fence of the dataset stands.
    HandOverPaused,
    /// They may be again: that fence was reverted.
    HandOverResumed,
    /// None are ever again, for that relocation.
    HandOverClosed,
    /// A key was made that another region's keys are received under, for one relocation.
    HandOverKeyCreated,
    /// It was destroyed.
    HandOverKeyDestroyed,
    /// Keys that another region handed over were opened, and given to a gateway that moves what they open.
    HandOverOpened,
    /// The region said something new of itself to its peers.
    RegionPublished,
    /// People trusted another region, by its descriptor's fingerprint.
    RegionTrusted,
    /// A trusted region said something new of itself, signed by a key that people had pinned.
    RegionUpdated,
    /// A region is no longer trusted.
    RegionDistrusted,
}

/// What a requester says a use is for: 1 to 64 of `a-z`, `0-9` and inner hyphens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Purpose(String);

/// Text that is no purpose.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a purpose is not 1 to 64 of a-z, 0-9 and inner hyphens")]
pub struct PurposeError;

impl Purpose {
    /// Everyday use by the service a dataset belongs to.
    pub fn service() -> Self {
        Self("service".to_owned())
    }

    /// The text form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Purpose {
    type Err = PurposeError;
    fn from_str(text: &str) -> Result<Self, PurposeError> {
        let ok = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-');
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(PurposeError)
        }
    }
}

impl TryFrom<String> for Purpose {
    type Error = PurposeError;
    fn try_from(text: String) -> Result<Self, PurposeError> {
        text.parse()
    }
}

impl From<Purpose> for String {
    fn from(purpose: Purpose) -> Self {
        purpose.0
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A dataset's name in the public log: 128 random bits, in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pseudonym(pub [u8; 16]);

impl TryFrom<String> for Pseudonym {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map(|()| Self(bytes))
    }
}

impl From<Pseudonym> for String {
    fn from(pseudonym: Pseudonym) -> Self {
        hex::encode(pseudonym.0)
    }
}

/// A leaf's place in the chain of its dataset: a slice of one dataset shows by itself that nothing is left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetLink {
    /// Which dataset.
    pub pseudonym: Pseudonym,
    /// The dataset's leaves before this one.
    pub sequence: u64,
    /// RFC 6962 leaf hash of the dataset's previous leaf; absent in its first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous: Option<Hash>,
}

/// What everyone who reads the leaf sees.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Public {
    /// What happened.
    pub kind: Kind,
    /// The region's time.
    pub time_ms: UnixMs,
    /// What for.
    pub purpose: Purpose,
    /// Which dataset, where the event concerns one.
    pub dataset: Option<DatasetLink>,
}

/// A leaf as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leaf {
    schema: u32,
    kind: Kind,
    time_ms: UnixMs,
    purpose: Purpose,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataset: Option<DatasetLink>,
    /// Commitments in the order of [`Field`]; a field without a value has none.
    commitments: BTreeMap<Field, Hash>,
    /// One commitment for each object, so that one can be shown or forgotten without the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    objects: Vec<Hash>,
}

/// Bytes that are no leaf, or a record that does not fit one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// More than [`LEAF_BYTES_MAX`].
    #[error("a leaf of {0} bytes is larger than 65535")]
    TooLarge(usize),
    /// Not the JSON of a leaf of this schema.
    #[error("not the JSON of a leaf")]
    Malformed,
    /// A schema this build does not know.
    #[error("unknown leaf schema {0}")]
    UnknownSchema(u32),
    /// Another spelling than the one encoding a leaf has.
    #[error("the leaf is not in its one encoding")]
    NotCanonical,
    /// A first leaf with a predecessor, or a later one without.
    #[error("leaf {0} of its dataset names no predecessor, or the first names one")]
    BrokenLink(u64),
}

impl Leaf {
    pub(crate) fn assemble(
        public: Public,
        commitments: BTreeMap<Field, Hash>,
        objects: Vec<Hash>,
    ) -> Result<Self, LeafError> {
        let Public {
            kind,
            time_ms,
            purpose,
            dataset,
        } = public;
        let leaf = Self {
            schema: SCHEMA,
            kind,
            time_ms,
            purpose,
            dataset,
            commitments,
            objects,
        };
        leaf.check_link()?;
        Ok(leaf)
    }

    /// Reads a leaf from its one encoding.
    pub fn parse(bytes: &[u8]) -> Result<Self, LeafError> {
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u32,
        }
        if bytes.len() > LEAF_BYTES_MAX {
            return Err(LeafError::TooLarge(bytes.len()));
        }
        let SchemaOnly { schema } =
            serde_json::from_slice(bytes).map_err(|_| LeafError::Malformed)?;
        if schema != SCHEMA {
            return Err(LeafError::UnknownSchema(schema));
        }
        let leaf: Self = serde_json::from_slice(bytes).map_err(|_| LeafError::Malformed)?;
        leaf.check_link()?;
        if leaf.encode()? != bytes {
            return Err(LeafError::NotCanonical);
        }
        Ok(leaf)
    }

    /// The leaf's bytes: what is hashed into the tree.
    pub fn encode(&self) -> Result<Vec<u8>, LeafError> {
        let committed = self.commitments.len() + self.objects.len();
        let mut bytes = Vec::with_capacity(LEAF_JSON_BYTES + committed * COMMITMENT_JSON_BYTES);
        serde_json::to_writer(&mut bytes, self).expect("no map key and no value here can fail");
        if bytes.len() > LEAF_BYTES_MAX {
            Err(LeafError::TooLarge(bytes.len()))
        } else {
            Ok(bytes)
        }
    }

    /// RFC 6962 hash of the leaf's bytes.
    pub fn hash(&self) -> Result<Hash, LeafError> {
        self.encode().map(|bytes| leaf_hash(&bytes))
    }

    /// What happened.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The region's time of the event.
    pub fn time_ms(&self) -> UnixMs {
        self.time_ms
    }

    /// What for, as the requester stated it.
    pub fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    /// The leaf's place in its dataset's chain.
    pub fn dataset(&self) -> Option<&DatasetLink> {
        self.dataset.as_ref()
    }

    /// Commitments by field.
    pub fn commitments(&self) -> &BTreeMap<Field, Hash> {
        &self.commitments
    }

    /// Commitments to the objects, in the order of the request.
    pub fn objects(&self) -> &[Hash] {
        &self.objects
    }

    fn check_link(&self) -> Result<(), LeafError> {
        match &self.dataset {
            Some(link) if (link.sequence == 0) != link.previous.is_none() => {
                Err(LeafError::BrokenLink(link.sequence))
            }
            _ => Ok(()),
        }
    }
}

/// One opened object, as its commitment's value states it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectItem {
    /// The object version whose key was released, in hexadecimal.
    pub version: String,
    /// The name commitment out of the context the key was derived with, in base64.
    pub name: String,
    /// The lease it was sealed under, in hexadecimal.
    pub lease: String,
    /// Plaintext length, as the catalog states it.
    pub bytes: u64,
}

impl ObjectItem {
    /// Builds an item from ids.
    pub fn new(version: ObjectVersionId, name: Hash, lease: LeaseId, bytes: u64) -> Self {
        Self {
            version: version.to_string(),
            name: name.to_string(),
            lease: lease.to_string(),
            bytes,
        }
    }

    /// The value that is committed to: JSON in this field order.
    pub fn to_value(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always encode")
    }
}

#[cfg(test)]
mod tests;
