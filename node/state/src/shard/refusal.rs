//! How a command is refused.
//!
//! Owns which answers are final: those are kept under the request id. Refuses to keep any other, because the same
//! request may well succeed after a lease, an enrolment or a majority has come.

use proto::v1;

/// What a command comes to.
pub(super) type Answer = Result<v1::Done, v1::Refused>;

/// A refusal with nothing but its reason.
pub(super) fn of(reason: v1::Refusal) -> v1::Refused {
    v1::Refused {
        reason: reason.into(),
        ..Default::default()
    }
}

pub(super) fn refuse<T>(reason: v1::Refusal) -> Result<T, v1::Refused> {
    Err(of(reason))
}

pub(super) fn malformed<T>() -> Result<T, v1::Refused> {
    refuse(v1::Refusal::Malformed)
}

/// Whether a retry of the request must get this very answer.
pub(super) fn is_final(answer: &Answer) -> bool {
    match answer {
        Ok(_) => true,
        Err(refused) => {
            matches!(
                refused.reason(),
                v1::Refusal::PreconditionFailed | v1::Refusal::NoSuchObject
            )
        }
    }
}
