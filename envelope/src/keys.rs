//! The keys, each as a type of what its holder may do with it.
//!
//! Owns derivation of DEKs and the streams under them. Refuses, by not having the method,
//! everything a holder is not meant to do: a lease key that a gateway received derives keys that
//! seal and nothing that opens; a released DEK opens and does not seal; a metadata lease does both
//! for metadata and nothing for data. None of the types is `Clone`, `Debug`, `PartialEq` or
//! serializable, and none gives out its bytes.

use proto::ids::{DatasetId, KekId, KekVersion, LeaseId, RegionId, RootEpoch};

use crate::cobblestone::{self, ChunkSpan, Commitment, StreamHeader, StreamSalt};
use crate::context::{DekSalt, LABEL_ROOT_CHECK, LABEL_ROOT_PROOF, ObjectContext, PartNumber};
use crate::encode::put_field;
use crate::locked::Locked;
use crate::manifest::Manifest;
use crate::shamir::RootCheck;
use crate::{KeyError, OpenError, Opener, RangeOpener, SealError, Sealer, kdf};

/// The bytes of every key here.
pub(crate) type KeySlot = Locked<32>;

/// A region's root key: wraps KEKs. Exists unsealed only in the region's KMS processes.
pub struct RootKey {
    pub(crate) epoch: RootEpoch,
    pub(crate) key: KeySlot,
}

impl RootKey {
    /// A new root key for an epoch.
    pub fn generate(epoch: RootEpoch) -> Result<Self, KeyError> {
        Ok(Self {
            epoch,
            key: KeySlot::random()?,
        })
    }

    /// The epoch it belongs to.
    pub fn epoch(&self) -> RootEpoch {
        self.epoch
    }

    /// Tells this root key from every other without telling it: compare after a combine or an
    /// unseal. Public.
    pub fn check_value(&self) -> RootCheck {
        let mut check = [0; RootCheck::BYTES];
        kdf::derive(
            self.key.bytes(),
            &self.epoch.0.to_be_bytes(),
            LABEL_ROOT_CHECK,
            &mut check,
        );
        RootCheck(check)
    }

    /// Shows, to another holder of this root key alone, that the maker of `statement` holds it. Tells nothing of it.
    pub fn prove(&self, statement: &[u8]) -> [u8; PROOF_BYTES] {
        let mut info = Vec::with_capacity(8 + LABEL_ROOT_PROOF.len() + statement.len());
        put_field(&mut info, LABEL_ROOT_PROOF);
        put_field(&mut info, statement);
        let mut proof = [0; PROOF_BYTES];
        kdf::derive(
            self.key.bytes(),
            &self.epoch.0.to_be_bytes(),
            &info,
            &mut proof,
        );
        proof
    }

    /// Whether `proof` is a holder's of this root key, about this statement. In constant time.
    pub fn proves(&self, statement: &[u8], proof: &[u8]) -> bool {
        kdf::equal(&self.prove(statement), proof)
    }
}

/// Bytes of a proof that somebody holds a root key.
pub const PROOF_BYTES: usize = 32;

/// A key-encryption key of one dataset: wraps lease keys and metadata keys. Exists only in the KMS.
pub struct Kek {
    pub(crate) region: RegionId,
    pub(crate) id: KekId,
    pub(crate) version: KekVersion,
    pub(crate) key: KeySlot,
}

impl Kek {
    /// A new KEK, born random.
    pub fn generate(region: RegionId, id: KekId, version: KekVersion) -> Result<Self, KeyError> {
        Ok(Self {
            region,
            id,
            version,
            key: KeySlot::random()?,
        })
    }

    /// Its id, which its versions share.
    pub fn id(&self) -> KekId {
        self.id
    }

    /// Its version.
    pub fn version(&self) -> KekVersion {
        self.version
    }
}

/// A lease key as the KMS holds it: derives the DEKs of reads, one by one, each after its record.
pub struct LeaseKey {
    pub(crate) region: RegionId,
    pub(crate) id: LeaseId,
    pub(crate) key: KeySlot,
}

impl LeaseKey {
    /// A new lease key, born random.
    pub fn generate(region: RegionId, id: LeaseId) -> Result<Self, KeyError> {
        Ok(Self {
            region,
            id,
            key: KeySlot::random()?,
        })
    }

    /// The lease it belongs to.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The DEK of one object version sealed under this lease. The caller has recorded the release.
    pub fn open_dek(&self, salt: &DekSalt, context: &ObjectContext) -> Result<OpenDek, KeyError> {
        Ok(OpenDek {
            key: derive_dek(&self.key, salt, context)?,
            context: context.clone(),
        })
    }

    /// The Cobblestone commitment that the stream of `part` with `stream_salt` has if it was sealed
    /// under this lease and context. Compared with what lies on disk it shows that the stream is
    /// keyed as claimed, and opens and releases nothing (`attest-headers`).
    pub fn commitment_of(
        &self,
        salt: &DekSalt,
        context: &ObjectContext,
        part: PartNumber,
        stream_salt: &StreamSalt,
    ) -> Result<Commitment, KeyError> {
        let dek = derive_dek(&self.key, salt, context)?;
        Ok(cobblestone::commitment(
            dek.bytes(),
            stream_salt,
            &context.data_stream(part),
        ))
    }

    /// [`commitment_of`](Self::commitment_of) for the sealed manifest.
    pub fn manifest_commitment_of(
        &self,
        salt: &DekSalt,
        context: &ObjectContext,
        stream_salt: &StreamSalt,
    ) -> Result<Commitment, KeyError> {
        let dek = derive_dek(&self.key, salt, context)?;
        Ok(cobblestone::commitment(
            dek.bytes(),
            stream_salt,
            &context.manifest_stream(),
        ))
    }
}

/// A lease key as its holder has it: derives DEKs that seal, and nothing that opens.
pub struct SealingLease {
    pub(crate) id: LeaseId,
    pub(crate) key: KeySlot,
}

impl SealingLease {
    /// The lease it belongs to.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// The DEK of a new object version. `salt` is fresh for each version ([`DekSalt::random`]).
    pub fn seal_dek(&self, salt: &DekSalt, context: &ObjectContext) -> Result<SealDek, KeyError> {
        Ok(SealDek {
            key: derive_dek(&self.key, salt, context)?,
            context: context.clone(),
        })
    }
}

/// The DEK of one object version, to seal it with.
pub struct SealDek {
    pub(crate) context: ObjectContext,
    pub(crate) key: KeySlot,
}

impl SealDek {
    /// What it seals.
    pub fn context(&self) -> &ObjectContext {
        &self.context
    }

    /// A sealer for one part, under a fresh random salt.
    pub fn sealer(&self, part: PartNumber) -> Result<Sealer, KeyError> {
        Sealer::new(self.key.bytes(), &self.context.data_stream(part))
    }

    /// Seals one part whose plaintext is all here: the stream, header included.
    pub fn seal_part(&self, part: PartNumber, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        seal_whole(self.sealer(part)?, plain)
    }

    /// Seals the manifest as a stream of its own, under a label no data stream has.
    pub fn seal_manifest(&self, manifest: &Manifest) -> Result<Vec<u8>, SealError> {
        seal_whole(
            Sealer::new(self.key.bytes(), &self.context.manifest_stream())?,
            &manifest.to_bytes(),
        )
    }
}

/// The DEK of one object version, released to open it.
pub struct OpenDek {
    pub(crate) context: ObjectContext,
    pub(crate) key: KeySlot,
}

impl OpenDek {
    /// What it opens.
    pub fn context(&self) -> &ObjectContext {
        &self.context
    }

    /// An opener for one part's stream, which starts with `header`.
    ///
    /// # Errors
    /// If the stream was not sealed under this DEK as this part of this object version.
    pub fn opener(&self, part: PartNumber, header: &StreamHeader) -> Result<Opener, OpenError> {
        Opener::new(self.key.bytes(), header, &self.context.data_stream(part))
    }

    /// An opener for some chunks of one part's stream ([`crate::chunk_span`]).
    ///
    /// # Errors
    /// As [`opener`](Self::opener).
    pub fn range_opener(
        &self,
        part: PartNumber,
        header: &StreamHeader,
        span: ChunkSpan,
    ) -> Result<RangeOpener, OpenError> {
        RangeOpener::new(
            self.key.bytes(),
            header,
            &self.context.data_stream(part),
            span,
        )
    }

    /// Opens one part's stream that is all here.
    ///
    /// # Errors
    /// If anything about it is not as it was sealed.
    pub fn open_part(&self, part: PartNumber, stream: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (header, chunks) = StreamHeader::split(stream)?;
        open_whole(self.opener(part, &header)?, chunks)
    }

    /// Opens the object version's manifest.
    ///
    /// # Errors
    /// If it is not the manifest sealed under this DEK.
    pub fn open_manifest(&self, stream: &[u8]) -> Result<Manifest, OpenError> {
        let (header, chunks) = StreamHeader::split(stream)?;
        let opener = Opener::new(self.key.bytes(), &header, &self.context.manifest_stream())?;
        // Authentic bytes that do not parse were sealed by a later version: closed, as for any
        // other stranger.
        Manifest::from_bytes(&open_whole(opener, chunks)?).map_err(|_| OpenError)
    }
}

/// A dataset's metadata key as the KMS holds it. It only leaves as a lease or wrapped.
pub struct MetadataKey {
    pub(crate) region: RegionId,
    pub(crate) dataset: DatasetId,
    pub(crate) version: u32,
    pub(crate) key: KeySlot,
}

impl MetadataKey {
    /// A new metadata key, born random.
    pub fn generate(region: RegionId, dataset: DatasetId, version: u32) -> Result<Self, KeyError> {
        Ok(Self {
            region,
            dataset,
            version,
            key: KeySlot::random()?,
        })
    }

    /// The dataset it belongs to.
    pub fn dataset(&self) -> DatasetId {
        self.dataset
    }

    /// Its version; sealed metadata names the version it needs.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// A dataset's metadata key as its holder has it: seals and opens metadata of that dataset, and
/// nothing else.
pub struct MetadataLease {
    pub(crate) region: RegionId,
    pub(crate) dataset: DatasetId,
    pub(crate) version: u32,
    pub(crate) key: KeySlot,
}

impl MetadataLease {
    /// The dataset it belongs to.
    pub fn dataset(&self) -> DatasetId {
        self.dataset
    }

    /// The version of the metadata key; sealed metadata names the version it needs.
    pub fn version(&self) -> u32 {
        self.version
    }
}

/// A dataset's metadata key as who moves the dataset to another region has it: opens what was sealed in the region that
/// handed it over, and seals nothing.
///
/// ```compile_fail
/// fn seals(key: &envelope::OpenMetadata, context: &envelope::MetadataContext) {
///     let _ = key.seal(context, b"");
/// }
/// ```
pub struct OpenMetadata(pub(crate) MetadataLease);

impl OpenMetadata {
    /// The version of the metadata key; sealed metadata names the version it needs.
    pub fn version(&self) -> u32 {
        self.0.version
    }
}

/// HKDF-SHA-512(lease key, salt, labelled context), straight into a slot.
fn derive_dek(
    lease: &KeySlot,
    salt: &DekSalt,
    context: &ObjectContext,
) -> Result<KeySlot, KeyError> {
    KeySlot::try_new(|dek| {
        kdf::derive(lease.bytes(), &salt.0, &context.dek_info(), dek);
        Ok(())
    })
}

fn seal_whole(mut sealer: Sealer, plain: &[u8]) -> Result<Vec<u8>, SealError> {
    let length = crate::sealed_len(plain.len() as u64).ok_or(SealError::TooLong)?;
    let mut out = Vec::with_capacity(length as usize);
    sealer.update(plain, &mut out)?;
    sealer.finish(&mut out)?;
    Ok(out)
}

fn open_whole(mut opener: Opener, chunks: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut out = Vec::with_capacity(chunks.len());
    opener.update(chunks, &mut out)?;
    opener
        .finish(&mut out)
        .inspect_err(|_| kdf::wipe_from(&mut out, 0))?;
    Ok(out)
}

#[cfg(test)]
mod tests;
