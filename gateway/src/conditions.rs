//! Conditions of a read: `If-Match` and its kin, in the order of RFC 9110 section 13.2.2.
//!
//! Owns what an ETag is here: the object version id in hexadecimal and `-1`, quoted. It is no MD5, as S3 says of objects
//! under SSE-KMS, and says nothing of the plaintext. The end is what S3 gives an object that came in one part: tools that
//! take 32 digits for an MD5, whatever the encryption, take this for none.

use client::ids::{ObjectVersionId, UnixMs};

use crate::error::ApiError;

/// What `If-Match` or `If-None-Match` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EtagCondition {
    /// `*`.
    Any,
    /// One ETag, without its quotes. One that no object here ever has matches none.
    Is(String),
}

impl EtagCondition {
    fn matches(&self, etag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Is(stated) => stated.eq_ignore_ascii_case(etag),
        }
    }
}

/// Every condition of one read. Times count whole seconds, as their headers do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conditions {
    pub(crate) if_match: Option<EtagCondition>,
    pub(crate) if_none_match: Option<EtagCondition>,
    pub(crate) if_modified_since: Option<UnixMs>,
    pub(crate) if_unmodified_since: Option<UnixMs>,
}

/// What tells an ETag from an MD5.
const NO_MD5: &str = "-1";

/// The ETag of a version, without its quotes.
pub(crate) fn etag(version: ObjectVersionId) -> String {
    format!("{version}{NO_MD5}")
}

/// The version whose ETag it is.
pub(crate) fn version_of(etag: &str) -> Option<ObjectVersionId> {
    etag.strip_suffix(NO_MD5)?.parse().ok()
}

impl Conditions {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Refuses a version that does not meet them.
    pub(crate) fn check(&self, version: ObjectVersionId, finished: UnixMs) -> Result<(), ApiError> {
        let etag = etag(version);
        let seconds = |time: UnixMs| time.0 / 1_000;
        match (&self.if_match, self.if_unmodified_since) {
            (Some(condition), _) if !condition.matches(&etag) => {
                return Err(ApiError::PreconditionFailed);
            }
            (None, Some(since)) if seconds(finished) > seconds(since) => {
                return Err(ApiError::PreconditionFailed);
            }
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since) {
            (Some(condition), _) if condition.matches(&etag) => Err(ApiError::NotModified { etag }),
            (None, Some(since)) if seconds(finished) <= seconds(since) => {
                Err(ApiError::NotModified { etag })
            }
            _ => Ok(()),
        }
    }

    /// As [`Self::check`], for the source of a copy: there is nothing that is not modified.
    pub(crate) fn check_source(
        &self,
        version: ObjectVersionId,
        finished: UnixMs,
    ) -> Result<(), ApiError> {
        self.check(version, finished).map_err(|error| match error {
            ApiError::NotModified { .. } => ApiError::PreconditionFailed,
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: ObjectVersionId = ObjectVersionId([0xab; 16]);
    const FINISHED: UnixMs = UnixMs(5_400);

    fn outcome(conditions: Conditions) -> u16 {
        match conditions.check(VERSION, FINISHED) {
            Ok(()) => 200,
            Err(error) => error.status().as_u16(),
        }
    }

    #[test]
    fn conditions_are_those_of_rfc_9110() {
        let none = Conditions::default;
        let own = || Some(EtagCondition::Is("AB".repeat(16) + "-1"));
        let other = || Some(EtagCondition::Is("AB".repeat(16)));
        let any = || Some(EtagCondition::Any);
        let at = |ms| Some(UnixMs(ms));
        let table = [
            (none(), 200),
            (
                Conditions {
                    if_match: own(),
                    ..none()
                },
                200,
            ),
            (
                Conditions {
                    if_match: any(),
                    ..none()
                },
                200,
            ),
            (
                Conditions {
                    if_match: other(),
                    ..none()
                },
                412,
            ),
            (
                Conditions {
                    if_none_match: own(),
                    ..none()
                },
                304,
            ),
            (
                Conditions {
                    if_none_match: any(),
                    ..none()
                },
                304,
            ),
            (
                Conditions {
                    if_none_match: other(),
                    ..none()
                },
                200,
            ),
            (
                Conditions {
                    if_modified_since: at(5_000),
                    ..none()
                },
                304,
            ),
            (
                Conditions {
                    if_modified_since: at(4_999),
                    ..none()
                },
                200,
            ),
            (
                Conditions {
                    if_unmodified_since: at(5_000),
                    ..none()
                },
                200,
            ),
            (
                Conditions {
                    if_unmodified_since: at(4_999),
                    ..none()
                },
                412,
            ),
            // An ETag that was looked at leaves its time aside.
            (
                Conditions {
                    if_match: own(),
                    if_unmodified_since: at(0),
                    ..none()
                },
                200,
            ),
            (
                Conditions {
                    if_none_match: other(),
                    if_modified_since: at(9_000),
                    ..none()
                },
                200,
            ),
        ];
        for (conditions, expected) in table {
            assert_eq!(outcome(conditions.clone()), expected, "{conditions:?}");
        }
        assert!(none().is_empty());
    }

    #[test]
    fn a_copy_knows_no_unmodified_source() {
        let conditions = Conditions {
            if_none_match: Some(EtagCondition::Any),
            ..Conditions::default()
        };
        let refused = conditions
            .check_source(VERSION, FINISHED)
            .expect_err("refused");
        assert_eq!(refused.status().as_u16(), 412);
    }

    #[test]
    fn an_etag_leads_back_to_its_version_and_is_no_md5() {
        assert_eq!(version_of(&etag(VERSION)), Some(VERSION));
        assert_eq!(etag(VERSION), "ab".repeat(16) + "-1");
        for none in [
            "",
            "-1",
            "ab-1",
            &"ab".repeat(16),
            &("ab".repeat(16) + "-2"),
        ] {
            assert_eq!(version_of(none), None, "{none}");
        }
    }
}
