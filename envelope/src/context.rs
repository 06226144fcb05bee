//! What a key or a stream is for, as bytes that are bound into it.
//!
//! Owns the labels of every derivation and stream and the encoding of their contexts. Refuses
//! ambiguity: every field has its length before it, and no two purposes share a label, so bytes
//! sealed for one object, part, region or purpose open under no other.

use proto::ids::{DatasetId, ObjectKey, ObjectVersionId, RegionId};

use crate::KeyError;
use crate::encode::put_field;
use crate::kdf;

pub(crate) const LABEL_DEK: &[u8] = b"reduit/v1/dek";
pub(crate) const LABEL_DATA: &[u8] = b"reduit/v1/data";
pub(crate) const LABEL_MANIFEST: &[u8] = b"reduit/v1/manifest";
pub(crate) const LABEL_METADATA: &[u8] = b"reduit/v1/metadata";
pub(crate) const LABEL_NAME: &[u8] = b"reduit/v1/name";
pub(crate) const LABEL_WRAP: &[u8] = b"reduit/v1/wrap";
pub(crate) const LABEL_SESSION_INFO: &[u8] = b"reduit/v1/session-info";
pub(crate) const LABEL_SESSION_EXPORT: &[u8] = b"reduit/v1/session-export";
pub(crate) const LABEL_SESSION_ITEM: &[u8] = b"reduit/v1/session-item";
pub(crate) const LABEL_HPKE_INFO: &[u8] = b"reduit/v1/hpke-info";
pub(crate) const LABEL_LOG_KEY: &[u8] = b"reduit/v1/log-key";
pub(crate) const LABEL_ROOT_PROOF: &[u8] = b"reduit/v1/root-proof";
pub(crate) const LABEL_ROOT_CHECK: &[u8] = b"reduit/v1/root-check";
pub(crate) const LABEL_TOKEN_CHALLENGE: &[u8] = b"reduit/v1/token-challenge";
pub(crate) const LABEL_TOKEN_SEAL: &[u8] = b"reduit/v1/token-seal";
pub(crate) const LABEL_SHARE_CHECK: &[u8] = b"reduit/v1/share-check";
pub(crate) const LABEL_BACKUP_KEY: &[u8] = b"reduit/v1/backup-key";
pub(crate) const LABEL_BACKUP: &[u8] = b"reduit/v1/backup";
pub(crate) const LABEL_SHARE_CHECKSUM: &[u8] = b"reduit/v1/share-checksum";

/// The algorithms behind a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// HKDF-SHA-512 for derivation, Cobblestone-256 (c2sp.org/chunked-encryption with AES-256-GCM)
    /// for streams.
    Cobblestone256 = 1,
}

impl Suite {
    /// As it stands in formats.
    pub fn to_byte(self) -> u8 {
        self as u8
    }

    /// The suite of a byte; `None` for one this build does not know, which callers refuse.
    pub fn from_byte(byte: u8) -> Option<Self> {
        (byte == 1).then_some(Self::Cobblestone256)
    }
}

macro_rules! public_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The bytes as they stand on the wire and on disk.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = std::array::TryFromSliceError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                bytes.try_into().map(Self)
            }
        }
    };
}

public_bytes!(
    /// The HKDF salt of one object version's DEK. Public; stored in the catalog entry.
    DekSalt
);
public_bytes!(
    /// Hides an object's name in its commitment. Stored in the catalog entry and gone with it,
    /// after which what the log says of the object can no longer be linked to a guessed name.
    NameSalt
);
public_bytes!(
    /// SHA-256(label ‖ name salt ‖ key): an object's name as the KMS sees and logs it.
    NameCommitment
);

impl DekSalt {
    /// A fresh salt.
    pub fn random() -> Result<Self, KeyError> {
        kdf::random().map(Self)
    }
}

impl NameSalt {
    /// A fresh salt.
    pub fn random() -> Result<Self, KeyError> {
        kdf::random().map(Self)
    }
}

impl NameCommitment {
    /// Commits to `key`. Label and salt have fixed lengths, so the key needs none.
    pub fn of(salt: &NameSalt, key: &ObjectKey) -> Self {
        Self(kdf::sha256(&[LABEL_NAME, &salt.0, key.as_str().as_bytes()]))
    }
}

/// The number of one part of an object: its place in the manifest's order. Objects put whole have
/// one, number 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(pub u32);

impl PartNumber {
    /// The only part of an object put whole.
    pub const FIRST: Self = Self(1);
}

/// The object version a DEK belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectContext {
    /// The algorithms used.
    pub suite: Suite,
    /// The home region.
    pub region: RegionId,
    /// The dataset.
    pub dataset: DatasetId,
    /// The version, minted by the sealer.
    pub version: ObjectVersionId,
    /// The name, committed to.
    pub name: NameCommitment,
}

impl ObjectContext {
    /// HKDF info of the version's DEK.
    pub(crate) fn dek_info(&self) -> Vec<u8> {
        self.encode(LABEL_DEK)
    }

    /// Cobblestone context of one part's stream.
    pub(crate) fn data_stream(&self, part: PartNumber) -> Vec<u8> {
        let mut out = self.encode(LABEL_DATA);
        put_field(&mut out, &part.0.to_be_bytes());
        out
    }

    /// Cobblestone context of the sealed manifest.
    pub(crate) fn manifest_stream(&self) -> Vec<u8> {
        self.encode(LABEL_MANIFEST)
    }

    /// Label with version, suite, region, dataset, object version, name commitment.
    fn encode(&self, label: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        put_field(&mut out, label);
        put_field(&mut out, &[self.suite.to_byte()]);
        put_field(&mut out, self.region.as_str().as_bytes());
        put_field(&mut out, self.dataset.as_bytes());
        put_field(&mut out, self.version.as_bytes());
        put_field(&mut out, self.name.as_bytes());
        out
    }

    /// The bytes an independent tool passes as `context` to open part `part` with a DEK: what
    /// `cryptography.cobblestone` of PyPI takes. Holds no secret.
    pub fn data_stream_context(&self, part: PartNumber) -> Vec<u8> {
        self.data_stream(part)
    }
}

/// The object version that sealed metadata belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MetadataContext {
    /// The algorithms used.
    pub suite: Suite,
    /// The home region.
    pub region: RegionId,
    /// The dataset.
    pub dataset: DatasetId,
    /// The version described.
    pub version: ObjectVersionId,
}

impl MetadataContext {
    /// Cobblestone context of metadata sealed under version `key_version` of the dataset's metadata
    /// key.
    pub(crate) fn stream(&self, key_version: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        put_field(&mut out, LABEL_METADATA);
        put_field(&mut out, &[self.suite.to_byte()]);
        put_field(&mut out, self.region.as_str().as_bytes());
        put_field(&mut out, self.dataset.as_bytes());
        put_field(&mut out, self.version.as_bytes());
        put_field(&mut out, &key_version.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> ObjectContext {
        let key: ObjectKey = "a/b.txt".parse().expect("a valid key");
        ObjectContext {
            suite: Suite::Cobblestone256,
            region: "ch-zrh".parse().expect("a valid region"),
            dataset: DatasetId([0x11; 16]),
            version: ObjectVersionId([0x22; 16]),
            name: NameCommitment::of(&NameSalt([0x33; 32]), &key),
        }
    }

    #[test]
    fn contexts_have_these_golden_bytes() {
        let commitment = hex::encode(kdf::sha256(&[b"reduit/v1/name", &[0x33; 32], b"a/b.txt"]));
        let tail = format!(
            "000101000663682d7a72680010{}0010{}0020{commitment}",
            "11".repeat(16),
            "22".repeat(16)
        );
        let context = context();
        let label = |text: &str| format!("{:04x}{}", text.len(), hex::encode(text));
        assert_eq!(
            hex::encode(context.dek_info()),
            label("reduit/v1/dek") + &tail
        );
        assert_eq!(
            hex::encode(context.data_stream(PartNumber(7))),
            label("reduit/v1/data") + &tail + "000400000007"
        );
        assert_eq!(
            hex::encode(context.manifest_stream()),
            label("reduit/v1/manifest") + &tail
        );
        let metadata = MetadataContext {
            suite: context.suite,
            region: context.region.clone(),
            dataset: context.dataset,
            version: context.version,
        };
        assert_eq!(
            hex::encode(metadata.stream(3)),
            format!(
                "{}000101000663682d7a72680010{}0010{}000400000003",
                label("reduit/v1/metadata"),
                "11".repeat(16),
                "22".repeat(16)
            )
        );
        assert_eq!(
            hex::encode(context.name.as_bytes()),
            "d77b854c17715617bfe5230dfe9490fa168c891a34dff8889651c2d37dce0bc3",
        );
    }

    #[test]
    fn every_label_is_versioned_and_used_once() {
        let labels = [
            LABEL_DEK,
            LABEL_DATA,
            LABEL_MANIFEST,
            LABEL_METADATA,
            LABEL_NAME,
            LABEL_WRAP,
            LABEL_SESSION_INFO,
            LABEL_SESSION_EXPORT,
            LABEL_SESSION_ITEM,
            LABEL_HPKE_INFO,
            LABEL_ROOT_CHECK,
            LABEL_ROOT_PROOF,
            LABEL_SHARE_CHECK,
            LABEL_SHARE_CHECKSUM,
            LABEL_BACKUP_KEY,
            LABEL_BACKUP,
        ];
        for (index, label) in labels.iter().enumerate() {
            assert!(
                label.starts_with(b"reduit/v1/"),
                "{}",
                String::from_utf8_lossy(label)
            );
            assert!(
                !labels[..index].contains(label),
                "{}",
                String::from_utf8_lossy(label)
            );
        }
    }

    #[test]
    fn every_field_changes_the_context() {
        let base = context();
        let mut others = vec![base.clone(); 4];
        others[0].region = "de-fra".parse().expect("a valid region");
        others[1].dataset = DatasetId([0x12; 16]);
        others[2].version = ObjectVersionId([0x23; 16]);
        others[3].name = NameCommitment([0; 32]);
        for other in others {
            assert_ne!(other.dek_info(), base.dek_info());
            assert_ne!(
                other.data_stream(PartNumber::FIRST),
                base.data_stream(PartNumber::FIRST)
            );
            assert_ne!(other.manifest_stream(), base.manifest_stream());
        }
        assert_ne!(
            base.data_stream(PartNumber(1)),
            base.data_stream(PartNumber(2))
        );
    }

    #[test]
    fn unknown_suites_are_refused() {
        assert_eq!(
            Suite::from_byte(Suite::Cobblestone256.to_byte()),
            Some(Suite::Cobblestone256)
        );
        for byte in (0..=255).filter(|byte| *byte != 1) {
            assert_eq!(Suite::from_byte(byte), None);
        }
    }
}
