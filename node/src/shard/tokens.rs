//! Lease tokens as the leader checks them, once per lease, before they are proposed.
//!
//! Owns signature, signer and header. Refuses a token of another region, dataset, dataset epoch or key, one that
//! lives longer than an hour, and one that is not the caller's own.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use node_state::limits::TOKEN_BYTES_MAX;
use prost::Message as _;
use proto::ids::{DatasetId, LeaseId, RegionId, Role};
use proto::transcript;
use proto::v1;
use transport::enrolment::EnrolmentTable;
use transport::{Fault, Faulty, Peer, PublicKey};

const FORMAT: u32 = 1;
/// A lease lives for an hour at most (DESIGN section 5).
const LEASE_MS_MAX: u64 = 3_600_000;

/// Why a lease token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not decode, or is of a format this build does not know.
    #[error("it does not decode, or is of an unknown format")]
    Malformed,
    /// Its signer is not enrolled as a KMS replica.
    #[error("its signer is not enrolled as a kms replica")]
    Signer,
    /// Its signature does not verify.
    #[error("its signature does not verify")]
    Signature,
    /// It is of another region.
    #[error("it is of another region")]
    OtherRegion,
    /// It is of another dataset.
    #[error("it is of another dataset")]
    OtherDataset,
    /// It is of another epoch of the dataset.
    #[error("it is of another epoch of the dataset")]
    OtherEpoch,
    /// It is under another key than the dataset's.
    #[error("it is under another key than the dataset's")]
    OtherKey,
    /// Another identity holds it.
    #[error("another identity holds it")]
    NotHolder,
    /// It lives longer than a lease may.
    #[error("it lives longer than an hour")]
    TooLong,
}

impl Faulty for TokenError {
    fn fault(&self) -> Fault {
        match self {
            Self::Malformed
            | Self::OtherRegion
            | Self::OtherDataset
            | Self::OtherEpoch
            | Self::OtherKey
            | Self::TooLong => Fault::Caller,
            Self::Signer | Self::Signature | Self::NotHolder => Fault::Denied,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "token-malformed",
            Self::Signer => "token-signer",
            Self::Signature => "token-signature",
            Self::OtherRegion => "token-other-region",
            Self::OtherDataset => "token-other-dataset",
            Self::OtherEpoch => "token-other-epoch",
            Self::OtherKey => "token-other-key",
            Self::NotHolder => "token-not-holders",
            Self::TooLong => "token-too-long",
        }
    }
}

/// A holder as tokens state it: SHA-256 of the public key's DER SubjectPublicKeyInfo.
pub(crate) fn holder_of(key: &PublicKey) -> Bytes {
    Bytes::copy_from_slice(digest(&SHA256, key.as_spki()).as_ref())
}

/// Checks an encoded `LeaseToken` that `peer` wants to commit under.
pub(crate) fn verify(
    table: &EnrolmentTable,
    peer: &Peer,
    dataset: &v1::DatasetRecord,
    encoded: &Bytes,
) -> Result<(LeaseId, v1::TokenRecord), TokenError> {
    let (lease, token) = verify_signed(table, dataset, encoded)?;
    if token.holder != holder_of(&peer.public_key) {
        return Err(TokenError::NotHolder);
    }
    Ok((lease, token))
}

/// Whether a backup's record of a token is what the token says. Its signature is not asked: who signed it may be enrolled no
/// more, and its lease key opens under the dataset's key or not at all.
pub(crate) fn agrees(
    region: &RegionId,
    dataset: &DatasetId,
    restored: &v1::RestoredToken,
) -> Result<(), TokenError> {
    let record = restored.token.as_ref().ok_or(TokenError::Malformed)?;
    if record.token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    let malformed = |_| TokenError::Malformed;
    let token = v1::LeaseToken::decode(record.token.clone()).map_err(malformed)?;
    let header = v1::LeaseHeader::decode(token.header).map_err(malformed)?;
    if header.region != region.as_str() {
        return Err(TokenError::OtherRegion);
    }
    if header.dataset_id != dataset.as_bytes()[..] {
        return Err(TokenError::OtherDataset);
    }
    let said = v1::TokenRecord {
        token: record.token.clone(),
        holder: header.holder,
        expires_at_ms: header.expires_at_ms,
        kek_version: header.kek_version,
        dataset_id: header.dataset_id,
    };
    match header.format == FORMAT && header.lease_id == restored.lease_id && said == *record {
        true => Ok(()),
        false => Err(TokenError::Malformed),
    }
}

/// Checks an encoded `LeaseToken`, whoever holds it.
pub(crate) fn verify_signed(
    table: &EnrolmentTable,
    dataset: &v1::DatasetRecord,
    encoded: &Bytes,
) -> Result<(LeaseId, v1::TokenRecord), TokenError> {
    if encoded.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    let token = v1::LeaseToken::decode(encoded.clone()).map_err(|_| TokenError::Malformed)?;
    let signer = PublicKey::from_spki(&token.signer).map_err(|_| TokenError::Malformed)?;
    table
        .by_public_key(&signer)
        .filter(|signer| signer.identity.role() == Role::Kms)
        .ok_or(TokenError::Signer)?;
    let signed = transcript::lease_token(&token.header, &token.wrapped);
    signer
        .verify(transcript::LABEL_LEASE_TOKEN, &signed, &token.signature)
        .map_err(|_| TokenError::Signature)?;
    let header = v1::LeaseHeader::decode(token.header).map_err(|_| TokenError::Malformed)?;
    let lease = LeaseId::try_from(header.lease_id.as_ref()).map_err(|_| TokenError::Malformed)?;
    if header.format != FORMAT {
        return Err(TokenError::Malformed);
    }
    if header.region != table.region().as_str() {
        return Err(TokenError::OtherRegion);
    }
    if header.dataset_id != dataset.dataset_id {
        return Err(TokenError::OtherDataset);
    }
    if header.dataset_epoch != dataset.epoch {
        return Err(TokenError::OtherEpoch);
    }
    if header.kek_id != dataset.kek_id {
        return Err(TokenError::OtherKey);
    }
    if header.expires_at_ms.saturating_sub(header.issued_at_ms) > LEASE_MS_MAX {
        return Err(TokenError::TooLong);
    }
    let record = v1::TokenRecord {
        token: encoded.clone(),
        holder: header.holder,
        expires_at_ms: header.expires_at_ms,
        kek_version: header.kek_version,
        dataset_id: header.dataset_id,
    };
    Ok((lease, record))
}
