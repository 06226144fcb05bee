//! The policy text of a region: who may do what, in Cedar.
//!
//! Owns its change, under dual control and on record, and the end of grants with the first text. Refuses: an empty
//! text, because none and "nobody may do anything" must not look alike, and one over the bound. Reads none of it: apply
//! runs no policy engine (docs/decisions/0015). The text stands in the enrolment set, so that it has the set's version:
//! verdicts given on another text are refused as those given on other enrolments are.

use proto::v1::{ChangePolicy, KmsDone};
use serde::Serialize;
use tlog::Kind;

use crate::append::Applying;
use crate::apply::Stop;
use crate::members::DualControlled;
use crate::refusal::Refusal;

/// Bytes of a text: with its approvals it fits one entry of 1 MiB.
pub const TEXT_BYTES_MAX: usize = 900_000;

#[derive(Serialize)]
struct Details {
    authority_version: u64,
    policy_sha256: String,
    policy_bytes: usize,
    /// Empty where no text was in force.
    before_sha256: String,
    /// How many grants ended.
    grants_ended: usize,
}

fn digest(text: &str) -> String {
    hex::encode(tlog::sha256(&[text.as_bytes()]).0)
}

pub(crate) fn change(applying: &mut Applying<'_>, command: &ChangePolicy) -> Result<KmsDone, Stop> {
    let text = &command.text;
    if text.trim().is_empty() {
        return Err(Refusal::Malformed("an empty policy text").into());
    }
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::Malformed("the policy text is too long").into());
    }
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let before = change.authority.policy_text();
    let mut after = change.authority.set().clone();
    after.version += 1;
    let shown = Details {
        authority_version: after.version,
        policy_sha256: digest(text),
        policy_bytes: text.len(),
        before_sha256: before.map(digest).unwrap_or_default(),
        grants_ended: after.grants.len(),
    };
    after.grants.clear();
    after.policy.clone_from(text);
    Ok(change.commit(applying, Kind::PolicyChanged, &shown, &after))
}
