//! Dual control: whether an approval is an enrolled operator's word on exactly this request.
//!
//! Owns hashing a request, checking signatures and, for what the state machine does not count, counting. Refuses an
//! approval of another request, by someone who is no enrolled operator, of another single-use id, or expired.
//! Replays of commands and the count of distinct approvers are the state machine's to refuse, at apply.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{Identity, Role, UnixMs};
use proto::transcript;
use proto::v1;
use transport::enrolment::EnrolmentTable;

/// Approvals one request may carry: bounds signatures checked for a stranger's sake.
pub const APPROVALS_MAX: usize = 16;
/// Distinct approvers a dual-controlled request takes at least, whatever the enrolment set says (DESIGN section 4).
pub const APPROVERS_MIN: usize = 2;

/// Why approvals do not carry a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApprovalError {
    /// More than anyone needs.
    #[error("a request carries at most {APPROVALS_MAX} approvals")]
    TooMany,
    /// It does not decode, or its approver is no identity.
    #[error("an approval is malformed")]
    Malformed,
    /// Its approver is not enrolled as an operator.
    #[error("{approver} is not an enrolled operator")]
    NotOperator {
        /// Who it says approved.
        approver: String,
    },
    /// Its signature does not verify.
    #[error("the approval of {approver} is not signed by its enrolled key")]
    Signature {
        /// Who it says approved.
        approver: Identity,
    },
    /// It approves something else.
    #[error("the approval of {approver} is of another request")]
    OtherRequest {
        /// Who approved.
        approver: Identity,
    },
    /// Its time is over.
    #[error("the approval of {approver} has expired")]
    Expired {
        /// Who approved.
        approver: Identity,
    },
    /// The requester approved its own request.
    #[error("{approver} cannot approve its own request")]
    SelfApproval {
        /// Who asked and approved.
        approver: Identity,
    },
    /// Not enough distinct approvers.
    #[error("{have} distinct approvers are not enough, {need} are needed")]
    TooFew {
        /// Counted.
        have: usize,
        /// Needed.
        need: usize,
    },
}

/// What an approval's `request_hash` must be for a request of `method`.
pub fn request_hash(method: &str, request_without_approvals: &impl prost::Message) -> [u8; 32] {
    let encoded = request_without_approvals.encode_to_vec();
    sha256(&transcript::approved_request(method, &encoded))
}

/// What an approval's `request_hash` must be for a peer unseal: this replica, in this life, with this offer (by its
/// SHA-256, as `Status` shows it).
pub fn unseal_hash(replica: &Identity, boot_id: &[u8], offer_hash: &[u8]) -> [u8; 32] {
    sha256(&transcript::approved_unseal(
        &replica.to_string(),
        boot_id,
        offer_hash,
    ))
}

/// What an approval's `request_hash` must be for an unseal by a token: this replica, in this life, by this seal.
pub fn token_unseal_hash(replica: &Identity, boot_id: &[u8], seal_id: &[u8]) -> [u8; 32] {
    sha256(&transcript::approved_token_unseal(
        &replica.to_string(),
        boot_id,
        seal_id,
    ))
}

/// What an approval's `request_hash` must be for an open that `actor` asks for: everything in it but the session, which
/// a retry at another replica has anew, and the approvals themselves.
pub fn open_hash(actor: &Identity, request: &v1::OpenRequest) -> [u8; 32] {
    sha256(&transcript::approved_open(&actor.to_string(), request))
}

/// What an approval's `request_hash` must be for an access key that `actor` asks for: everything in it but the session,
/// which a retry at another replica has anew, and the approvals themselves.
pub fn access_key_hash(actor: &Identity, request: &v1::CreateAccessKeyRequest) -> [u8; 32] {
    sha256(&transcript::approved_access_key(
        &actor.to_string(),
        request,
    ))
}

/// The approvals that came with a request, and what they have to be of.
pub(crate) struct Approved {
    pub(crate) hash: [u8; 32],
    pub(crate) single_use_id: bytes::Bytes,
    pub(crate) approvals: Vec<v1::Approval>,
}

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes)
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 bytes")
}

/// Checks every approval against the request and the enrolment set; one bad approval refuses the request, so that
/// whoever collected it learns of it. `single_use_id` is the request's; `None` takes each approval's own.
pub fn verified(
    table: &EnrolmentTable,
    hash: &[u8; 32],
    single_use_id: Option<&[u8]>,
    approvals: &[v1::Approval],
    now: UnixMs,
) -> Result<Vec<v1::ApprovalClaim>, ApprovalError> {
    if approvals.len() > APPROVALS_MAX {
        return Err(ApprovalError::TooMany);
    }
    approvals
        .iter()
        .map(|approval| {
            let body = v1::ApprovalBody::decode(approval.body.as_ref())
                .map_err(|_| ApprovalError::Malformed)?;
            let approver: Identity = body
                .approver
                .parse()
                .map_err(|_| ApprovalError::Malformed)?;
            let enrolled = table
                .by_identity(&approver)
                .filter(|enrolled| enrolled.identity.role() == Role::Operator)
                .ok_or(ApprovalError::NotOperator {
                    approver: body.approver.clone(),
                })?;
            enrolled
                .public_key
                .verify(
                    transcript::LABEL_APPROVAL,
                    &approval.body,
                    &approval.signature,
                )
                .map_err(|_| ApprovalError::Signature {
                    approver: approver.clone(),
                })?;
            let same_id = single_use_id.is_none_or(|id| id == body.single_use_id.as_ref());
            if body.request_hash.as_ref() != hash || body.single_use_id.len() != 16 || !same_id {
                return Err(ApprovalError::OtherRequest { approver });
            }
            if body.expires_at_ms <= now.0 {
                return Err(ApprovalError::Expired { approver });
            }
            Ok(v1::ApprovalClaim {
                approver: body.approver,
                single_use_id: body.single_use_id,
                expires_at_ms: body.expires_at_ms,
                approval_hash: sha256(&approval.encode_to_vec()).to_vec().into(),
            })
        })
        .collect()
}

/// Counts distinct approvers besides the requester: at least `needed`, and never fewer than [`APPROVERS_MIN`].
pub fn counted(
    claims: &[v1::ApprovalClaim],
    requester: &Identity,
    needed: usize,
) -> Result<(), ApprovalError> {
    let own = requester.to_string();
    if claims.iter().any(|claim| claim.approver == own) {
        return Err(ApprovalError::SelfApproval {
            approver: requester.clone(),
        });
    }
    let distinct: BTreeSet<_> = claims.iter().map(|claim| claim.approver.as_str()).collect();
    let need = needed.max(APPROVERS_MIN);
    if distinct.len() < need && !broken(Switch::IgnoreApprovals) {
        return Err(ApprovalError::TooFew {
            have: distinct.len(),
            need,
        });
    }
    Ok(())
}

/// Signs an approval: what an operator's own tool does.
pub fn approve(
    operator: &transport::LocalIdentity,
    request_hash: [u8; 32],
    single_use_id: [u8; 16],
    expires_at: UnixMs,
) -> v1::Approval {
    let body = v1::ApprovalBody {
        approver: operator.identity().to_string(),
        request_hash: request_hash.to_vec().into(),
        single_use_id: single_use_id.to_vec().into(),
        expires_at_ms: expires_at.0,
    };
    let body = body.encode_to_vec();
    let signature = operator.sign(transcript::LABEL_APPROVAL, &body).to_vec();
    v1::Approval {
        body: body.into(),
        signature: signature.into(),
    }
}
