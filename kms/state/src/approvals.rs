//! Dual control: who else has to say yes.
//!
//! Owns the count of approvers, the ban on approving one's own request, expiry and single use. The leader has
//! verified each signature over the hash of the exact request; what stands in the command are claims of that.
//! Refuses: a set of approvals with a single bad one in it, so that a command means the same to every reader.

use std::collections::BTreeSet;

use proto::danger::{Switch, broken};
use proto::ids::{Identity, Role, UnixMs};
use proto::store::Reader;
use proto::v1::KmsCommand;
use serde::Serialize;

use crate::append::array;
use crate::authority::Authority;
use crate::layout;
use crate::refusal::Refusal;

/// Approvals that one command may carry.
pub const APPROVALS_MAX: usize = 16;

/// Approvals that were counted.
pub(crate) struct Approved {
    /// Marked as used, for ever: an approver may have signed other approvals of the same request with a later
    /// expiry, so no expiry seen here bounds how long a replay stays possible. Some tens of bytes for each act of
    /// dual control.
    pub(crate) single_use_id: Option<[u8; 16]>,
    /// As the leaf's opening keeps them.
    pub(crate) json: String,
}

#[derive(Serialize)]
struct Shown<'a> {
    approver: &'a str,
    single_use_id: String,
    expires_at_ms: u64,
    approval_hash: String,
}

pub(crate) fn check_approvals(
    state: &dyn Reader,
    authority: &Authority,
    command: &KmsCommand,
    now: UnixMs,
    needed: u32,
) -> Result<Approved, Refusal> {
    let mut approvers = BTreeSet::new();
    let mut shown = Vec::new();
    let mut single_use_id = None;
    if command.approvals.len() > APPROVALS_MAX {
        return Err(Refusal::Malformed("too many approvals"));
    }
    for approval in &command.approvals {
        let approver: Identity = approval
            .approver
            .parse()
            .map_err(|_| Refusal::Malformed("approver"))?;
        let id = array::<16>(&approval.single_use_id)
            .ok_or(Refusal::Malformed("a single-use id is not 16 bytes"))?;
        if single_use_id.is_some_and(|other| other != id) || approval.approval_hash.len() != 32 {
            return Err(Refusal::Malformed("the approvals are not of one request"));
        }
        if approval.approver == command.requester {
            return Err(Refusal::SelfApproval);
        }
        if approver.role() != Role::Operator || authority.enrolment(&approver).is_none() {
            return Err(Refusal::NotEnrolled);
        }
        if approval.expires_at_ms <= now.0 {
            return Err(Refusal::ApprovalExpired);
        }
        if state.value(&layout::used_approval(&id)).is_some() {
            return Err(Refusal::ApprovalReplayed);
        }
        single_use_id = Some(id);
        approvers.insert(approver);
        shown.push(Shown {
            approver: &approval.approver,
            single_use_id: hex::encode(id),
            expires_at_ms: approval.expires_at_ms,
            approval_hash: hex::encode(&approval.approval_hash),
        });
    }
    let found = u32::try_from(approvers.len()).expect("at most APPROVALS_MAX");
    if found < needed && !broken(Switch::IgnoreApprovals) {
        return Err(Refusal::TooFewApprovals { needed, found });
    }
    let json = if shown.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&shown).expect("strings and numbers always encode")
    };
    Ok(Approved {
        single_use_id,
        json,
    })
}
