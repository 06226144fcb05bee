//! Dual control at a storage node: whether approvals are enrolled operators' words on exactly this request.
//!
//! Owns hash, signatures and count. Refuses one bad approval with all others, so that whoever collected them learns of
//! it. Replays are refused by what is approved: it names the version that it changes.

use std::collections::BTreeSet;

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message as _;
use proto::ids::{Identity, Role, UnixMs};
use proto::transcript;
use proto::v1;
use transport::enrolment::EnrolmentTable;

/// Approvals one request may carry: bounds signatures checked for a stranger's sake.
const APPROVALS_MAX: usize = 16;

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
    #[error("{0} is not an enrolled operator")]
    NotOperator(Identity),
    /// Its signature does not verify.
    #[error("the approval of {0} is not signed by its enrolled key")]
    Signature(Identity),
    /// It approves something else.
    #[error("the approval of {0} is of another request")]
    OtherRequest(Identity),
    /// Its time is over.
    #[error("the approval of {0} has expired")]
    Expired(Identity),
    /// The requester approved its own request.
    #[error("{0} cannot approve its own request")]
    SelfApproval(Identity),
    /// Not enough distinct approvers.
    #[error("{have} distinct approvers are not enough, {need} are needed")]
    TooFew {
        /// Counted.
        have: usize,
        /// Needed.
        need: usize,
    },
}

impl ApprovalError {
    /// For machines, the same words as the KMS's.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooMany | Self::Malformed => "malformed",
            Self::NotOperator(_) => "approver-not-operator",
            Self::Signature(_) => "bad-signature",
            Self::OtherRequest(_) => "approval-of-other-request",
            Self::Expired(_) => "approval-expired",
            Self::SelfApproval(_) => "self-approval",
            Self::TooFew { .. } => "too-few-approvals",
        }
    }
}

/// What is to be approved.
pub(crate) struct Asked<'a> {
    pub(crate) requester: &'a Identity,
    pub(crate) request_hash: [u8; 32],
    pub(crate) single_use_id: &'a [u8],
    pub(crate) now: UnixMs,
}

/// What an approval's `request_hash` must be for a request of `method`.
pub(crate) fn request_hash(method: &str, request: &impl prost::Message) -> [u8; 32] {
    let bytes = transcript::approved_request(method, &request.encode_to_vec());
    let hash = digest(&SHA256, &bytes);
    hash.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// The distinct operators who approved, at least as many as the region asks for and none of them the requester.
pub(crate) fn approvers(
    table: &EnrolmentTable,
    asked: &Asked<'_>,
    given: &[v1::Approval],
) -> Result<Vec<String>, ApprovalError> {
    if given.len() > APPROVALS_MAX {
        return Err(ApprovalError::TooMany);
    }
    let distinct: BTreeSet<String> = given
        .iter()
        .map(|approval| approver(table, asked, approval))
        .collect::<Result<_, _>>()?;
    let need = usize::try_from(table.approvals_min()).unwrap_or(usize::MAX);
    if distinct.len() < need {
        let have = distinct.len();
        return Err(ApprovalError::TooFew { have, need });
    }
    Ok(distinct.into_iter().collect())
}

fn approver(
    table: &EnrolmentTable,
    asked: &Asked<'_>,
    approval: &v1::Approval,
) -> Result<String, ApprovalError> {
    let body =
        v1::ApprovalBody::decode(approval.body.as_ref()).map_err(|_| ApprovalError::Malformed)?;
    let who: Identity = body
        .approver
        .parse()
        .map_err(|_| ApprovalError::Malformed)?;
    let enrolled = table
        .by_identity(&who)
        .filter(|enrolled| enrolled.identity.role() == Role::Operator);
    let Some(enrolled) = enrolled else {
        return Err(ApprovalError::NotOperator(who));
    };
    let (label, signature) = (transcript::LABEL_APPROVAL, &approval.signature);
    let signed = enrolled.public_key.verify(label, &approval.body, signature);
    if signed.is_err() {
        return Err(ApprovalError::Signature(who));
    }
    let same_id = body.single_use_id.len() == 16 && body.single_use_id == asked.single_use_id;
    if body.request_hash.as_ref() != asked.request_hash || !same_id {
        return Err(ApprovalError::OtherRequest(who));
    }
    if body.expires_at_ms <= asked.now.0 {
        return Err(ApprovalError::Expired(who));
    }
    if who == *asked.requester {
        return Err(ApprovalError::SelfApproval(who));
    }
    Ok(body.approver)
}
