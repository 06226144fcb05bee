//! How an error of the client ends an operation.
//!
//! Owns the reading of the SDK's promises: an error that says it had no effect counts as a failure, and a judge that
//! then sees the effect has found the client out. Refuses to excuse what no fault explains: an object that does not
//! open, an answer no server may give.

use std::time::Duration;

use checker::{BROKEN, UNAVAILABLE};
use client::{Error, Fault};

use crate::recorder::Ended;

/// How long one operation may take, all retries of the client included, before nobody waits for it any more.
pub(super) const OPERATION_MAX: Duration = Duration::from_secs(25);

/// Of an operation without effect.
pub(super) fn of_read(error: &Error) -> Ended {
    Ended::Fail(reason(error))
}

/// Of an operation with effect.
pub(super) fn of_write(error: &Error) -> Ended {
    match error.fault() {
        // After these it is not clear how far it came.
        Fault::Unknown | Fault::Internal | Fault::Damaged => Ended::Info(reason(error)),
        _ => Ended::Fail(reason(error)),
    }
}

/// Of an operation that nobody waits for any more.
pub(super) fn late() -> String {
    "late".to_owned()
}

fn reason(error: &Error) -> String {
    let reason = error.reason();
    match error {
        Error::Unavailable { .. } => format!("{UNAVAILABLE}{reason}"),
        Error::Damaged { .. }
        | Error::NotAuthentic(_)
        | Error::Protocol { .. }
        | Error::Seal(_)
        | Error::KeyMemory(_)
        | Error::Session(_)
        | Error::Io(_)
        | Error::Id(_) => format!("{BROKEN}{reason}"),
        Error::NoSuchDataset
        | Error::NoSuchObject
        | Error::Moved { .. }
        | Error::PreconditionFailed { .. }
        | Error::AlreadyDone { .. }
        | Error::Caller { .. }
        | Error::Denied { .. }
        | Error::Unknown { .. } => reason.to_owned(),
    }
}

/// Something that is wrong whatever the client says of it.
pub(super) fn broken(what: &str) -> String {
    format!("{BROKEN}{what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_had_no_effect_is_a_failure() {
        let unknown = Error::Unknown {
            message: String::new(),
        };
        assert!(matches!(of_write(&unknown), Ended::Info(_)));
        assert!(matches!(of_read(&unknown), Ended::Fail(_)));
        let refused = of_write(&Error::NoSuchObject);
        assert_eq!(refused, Ended::Fail("no-such-object".to_owned()));
    }

    #[test]
    fn an_answer_no_server_may_give_is_broken() {
        let answer = Error::Protocol { what: "nonsense" };
        assert_eq!(of_read(&answer), Ended::Fail("broken:protocol".to_owned()));
        assert_eq!(of_write(&answer), Ended::Info("broken:protocol".to_owned()));
    }
}
