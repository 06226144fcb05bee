//! Warrants for restores, as a node checks them before anything is proposed on their account.
//!
//! Owns signature, signer and that the warrant is for this very step of this very dataset. Refuses one that is over, and one
//! of another backup, name or epoch. That two people approved it stands in it, by the KMS's word, and apply counts them again.

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, Role, UnixMs};
use proto::transcript;
use proto::v1;
use transport::enrolment::EnrolmentTable;
use transport::{Fault, Faulty, PublicKey};

const FORMAT: u32 = 1;
/// Bytes of one, at most: of as many datasets as an approval names.
const WARRANT_BYTES_MAX: usize = 128 << 10;

/// Why a warrant is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WarrantError {
    /// It does not decode, or is of a format this build does not know.
    #[error("it does not decode, or is of an unknown format")]
    Malformed,
    /// Its signer is not enrolled as a KMS replica.
    #[error(
        "its signer is not enrolled as a kms replica: have it made again (`reduit backup allow`)"
    )]
    Signer,
    /// Its signature does not verify.
    #[error("its signature does not verify")]
    Signature,
    /// It is of another region.
    #[error("it is of another region")]
    OtherRegion,
    /// Its time is over.
    #[error("its time is over: have the restore approved again")]
    Expired,
    /// It allows another step.
    #[error("it is for another step: one allows to restore, another one confirms")]
    OtherStep,
    /// The dataset is not among those it names.
    #[error("it does not name this dataset")]
    OtherDataset,
    /// It has another name for the dataset than the backup.
    #[error("the dataset has another name in the backup than the one that was approved")]
    OtherName,
    /// The backup is of another key than the KMS has.
    #[error("the kms has another key for this dataset than the backup")]
    OtherKey,
    /// It is of another epoch of the dataset.
    #[error("it confirms the dataset in another epoch than the one in which it stands")]
    OtherEpoch,
    /// It is of another backup than what stands here.
    #[error("what stands here was restored from another backup")]
    OtherBackup,
}

impl Faulty for WarrantError {
    fn fault(&self) -> Fault {
        match self {
            Self::Malformed | Self::OtherRegion | Self::OtherStep => Fault::Caller,
            Self::Signer
            | Self::Signature
            | Self::Expired
            | Self::OtherDataset
            | Self::OtherName
            | Self::OtherKey
            | Self::OtherEpoch
            | Self::OtherBackup => Fault::Denied,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "warrant-malformed",
            Self::Signer => "warrant-signer",
            Self::Signature => "warrant-signature",
            Self::OtherRegion => "warrant-other-region",
            Self::Expired => "warrant-expired",
            Self::OtherStep => "warrant-other-step",
            Self::OtherDataset => "warrant-other-dataset",
            Self::OtherName => "warrant-other-name",
            Self::OtherKey => "warrant-other-key",
            Self::OtherEpoch => "warrant-other-epoch",
            Self::OtherBackup => "warrant-other-backup",
        }
    }
}

/// What a warrant says of one dataset.
#[derive(Debug)]
pub(crate) struct Warranted {
    pub(crate) restore_id: Bytes,
    pub(crate) backup_id: Bytes,
    pub(crate) index_digest: Bytes,
    pub(crate) target: v1::RestoreTarget,
    pub(crate) key: v1::RestorableKey,
    pub(crate) approvals: v1::Approvals,
}

/// Checks an encoded `RestoreWarrant` for a step with a dataset.
pub(crate) fn verify(
    table: &EnrolmentTable,
    now: UnixMs,
    encoded: &Bytes,
    (what, dataset): (v1::RestoreWhat, &DatasetId),
) -> Result<Warranted, WarrantError> {
    let malformed = |_| WarrantError::Malformed;
    if encoded.len() > WARRANT_BYTES_MAX {
        return Err(WarrantError::Malformed);
    }
    let warrant = v1::RestoreWarrant::decode(encoded.clone()).map_err(malformed)?;
    let signer = PublicKey::from_spki(&warrant.signer).map_err(|_| WarrantError::Malformed)?;
    table
        .by_public_key(&signer)
        .filter(|signer| signer.identity.role() == Role::Kms)
        .ok_or(WarrantError::Signer)?;
    let label = transcript::LABEL_RESTORE_WARRANT;
    signer
        .verify(label, &warrant.body, &warrant.signature)
        .map_err(|_| WarrantError::Signature)?;
    let body = v1::RestoreWarrantBody::decode(warrant.body).map_err(malformed)?;
    let approved = body.approved.ok_or(WarrantError::Malformed)?;
    let terms = approved.terms.ok_or(WarrantError::Malformed)?;
    if body.format != FORMAT || approved.format != FORMAT || terms.format != FORMAT {
        return Err(WarrantError::Malformed);
    }
    if body.region != table.region().as_str() {
        return Err(WarrantError::OtherRegion);
    }
    if body.expires_at_ms <= now.0 {
        return Err(WarrantError::Expired);
    }
    if terms.what() != what {
        return Err(WarrantError::OtherStep);
    }
    let mut datasets = terms.datasets.iter();
    let at = datasets
        .position(|target| target.dataset_id == dataset.as_bytes()[..])
        .ok_or(WarrantError::OtherDataset)?;
    let key = body.keys.into_iter().nth(at);
    let key = key.filter(|key| key.dataset_id == dataset.as_bytes()[..]);
    Ok(Warranted {
        restore_id: body.restore_id,
        backup_id: terms.backup_id,
        index_digest: terms.index_digest,
        target: terms.datasets[at].clone(),
        key: key.ok_or(WarrantError::Malformed)?,
        approvals: v1::Approvals {
            requester: approved.requester,
            approvers: approved.approvers,
        },
    })
}
