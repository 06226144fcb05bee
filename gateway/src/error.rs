//! Why a request is not done, in the words of S3: code, status and message.
//!
//! Owns the one mapping from the SDK's errors. Refuses to carry names of buckets and objects, payloads or secrets: what
//! stands here is logged.

use client::Fault;
use client::ids::RegionId;
use http::StatusCode;
use transport::fault::Chain;

/// Seconds after which a client that was slowed down may come again.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 1;

/// What S3 answers instead of a result.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each is named and said as S3 names and says it"
)]
pub enum ApiError {
    #[error("the specified bucket does not exist")]
    NoSuchBucket,
    #[error("the specified key does not exist")]
    NoSuchKey,
    #[error("the specified version does not exist")]
    NoSuchVersion,
    #[error("no such upload: it was completed, aborted, or never begun")]
    NoSuchUpload,
    #[error("a part is not there, or is another than was named")]
    InvalidPart,
    #[error("parts are named in ascending order")]
    InvalidPartOrder,
    #[error("every part but the last has at least {0} bytes")]
    EntityTooSmall(u64),
    #[error("the XML is not what this operation takes: {0}")]
    MalformedXml(&'static str),
    #[error("the bucket holds as much as it may")]
    QuotaExceeded,
    #[error("a bucket of this name exists")]
    BucketAlreadyOwnedByYou,
    #[error("object lock is not turned on for this bucket")]
    ObjectLockConfigurationNotFound,
    #[error("the version has no object lock configuration")]
    NoSuchObjectLockConfiguration,
    #[error("{0}")]
    InvalidBucketState(&'static str),
    #[error("the bucket has no lifecycle")]
    NoSuchLifecycleConfiguration,
    #[error("the bucket has no tags")]
    NoSuchTagSet,
    #[error("the bucket has no CORS configuration")]
    NoSuchCorsConfiguration,
    #[error("{0}")]
    AccessForbidden(&'static str),
    #[error("{0}")]
    BadRequest(&'static str),
    #[error("another change of this version is under way: try again")]
    OperationAborted,
    #[error("the bucket is in region {0}: ask there")]
    PermanentRedirect(RegionId),
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    #[error("a precondition does not hold")]
    PreconditionFailed,
    #[error("not modified")]
    NotModified { etag: String },
    #[error("another change of this object was under way: read it, then decide")]
    ConditionalRequestConflict,
    #[error("the checksum does not match what was received; nothing was stored")]
    BadDigest,
    #[error("the payload does not have the stated SHA-256; nothing was stored")]
    ContentSha256Mismatch,
    #[error("a chunk's signature does not match; nothing was stored")]
    SignatureDoesNotMatch,
    #[error("the checksum is not a valid value of its kind")]
    InvalidDigest,
    #[error("the body ended early; nothing was stored")]
    IncompleteBody,
    #[error("no data came for too long; nothing was stored")]
    RequestTimeout,
    #[error("the length of the body has to be stated")]
    MissingContentLength,
    #[error("the object is larger than {0} bytes")]
    EntityTooLarge(u64),
    #[error("the key is longer than 1024 bytes")]
    KeyTooLong,
    #[error("metadata and tags are larger than what is sealed with an object")]
    MetadataTooLarge,
    #[error("{0}")]
    InvalidTag(&'static str),
    #[error("the requested range lies outside of the object")]
    InvalidRange,
    #[error("the requested part does not exist")]
    InvalidPartNumber,
    #[error("{0}")]
    InvalidArgument(&'static str),
    #[error("{0}")]
    InvalidRequest(&'static str),
    #[error("this is not a bucket's name")]
    InvalidBucketName,
    #[error("the specified version is a delete marker")]
    MethodNotAllowed,
    #[error("not offered: {0}")]
    NotImplemented(&'static str),
    #[error("the bucket does not take access control lists: its owner alone has access")]
    AccessControlListNotSupported,
    #[error("this endpoint makes buckets in region {0} alone")]
    IllegalLocationConstraint(RegionId),
    #[error("the request is signed for another region; this one is {0}")]
    AuthorizationHeaderMalformed(RegionId),
    #[error("access denied")]
    AccessDenied,
    #[error("there are headers that have to be signed and are not")]
    HeadersNotSigned,
    #[error("{0}")]
    AuthorizationQueryParameters(&'static str),
    #[error("the XML has more than {0} bytes")]
    MaxMessageLengthExceeded(usize),
    #[error("the access key is not known, or no longer")]
    InvalidAccessKeyId,
    #[error("the bucket's key is not enabled")]
    KmsDisabled,
    #[error("the key id is not that of the bucket's key, and no other is used")]
    KmsNoSuchKey,
    #[error("too many requests: come again more slowly")]
    SlowDown,
    #[error("not available right now; nothing was changed: try again")]
    ServiceUnavailable,
    #[error("the outcome is not known: try again with the same invocation id, or look")]
    OutcomeUnknown,
    #[error("stored data is damaged; an operator has to look")]
    Damaged,
    #[error("the gateway is at fault; an operator has to look")]
    Internal,
}

impl ApiError {
    /// S3's code.
    pub fn code(&self) -> &'static str {
        self.parts().0
    }

    /// The status it goes with.
    pub fn status(&self) -> StatusCode {
        self.parts().1
    }

    /// Seconds to wait before the same request may succeed.
    pub fn retry_after(&self) -> Option<u32> {
        (self.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER_SECONDS)
    }

    fn parts(&self) -> (&'static str, StatusCode) {
        match self {
            Self::NoSuchBucket => ("NoSuchBucket", StatusCode::NOT_FOUND),
            Self::NoSuchKey => ("NoSuchKey", StatusCode::NOT_FOUND),
            Self::NoSuchVersion => ("NoSuchVersion", StatusCode::NOT_FOUND),
            Self::NoSuchUpload => ("NoSuchUpload", StatusCode::NOT_FOUND),
            Self::InvalidPart => ("InvalidPart", StatusCode::BAD_REQUEST),
            Self::InvalidPartOrder => ("InvalidPartOrder", StatusCode::BAD_REQUEST),
            Self::EntityTooSmall(_) => ("EntityTooSmall", StatusCode::BAD_REQUEST),
            Self::MalformedXml(_) => ("MalformedXML", StatusCode::BAD_REQUEST),
            Self::QuotaExceeded => ("QuotaExceeded", StatusCode::FORBIDDEN),
            Self::BucketAlreadyOwnedByYou => ("BucketAlreadyOwnedByYou", StatusCode::CONFLICT),
            Self::ObjectLockConfigurationNotFound => (
                "ObjectLockConfigurationNotFoundError",
                StatusCode::NOT_FOUND,
            ),
            Self::NoSuchObjectLockConfiguration => {
                ("NoSuchObjectLockConfiguration", StatusCode::NOT_FOUND)
            }
            Self::InvalidBucketState(_) => ("InvalidBucketState", StatusCode::CONFLICT),
            Self::NoSuchLifecycleConfiguration => {
                ("NoSuchLifecycleConfiguration", StatusCode::NOT_FOUND)
            }
            Self::NoSuchTagSet => ("NoSuchTagSet", StatusCode::NOT_FOUND),
            Self::NoSuchCorsConfiguration => ("NoSuchCORSConfiguration", StatusCode::NOT_FOUND),
            Self::AccessForbidden(_) => ("AccessForbidden", StatusCode::FORBIDDEN),
            Self::BadRequest(_) => ("BadRequest", StatusCode::BAD_REQUEST),
            Self::OperationAborted => ("OperationAborted", StatusCode::CONFLICT),
            Self::PermanentRedirect(_) => ("PermanentRedirect", StatusCode::MOVED_PERMANENTLY),
            Self::BucketNotEmpty => ("BucketNotEmpty", StatusCode::CONFLICT),
            Self::PreconditionFailed => ("PreconditionFailed", StatusCode::PRECONDITION_FAILED),
            Self::NotModified { .. } => ("NotModified", StatusCode::NOT_MODIFIED),
            Self::ConditionalRequestConflict => {
                ("ConditionalRequestConflict", StatusCode::CONFLICT)
            }
            Self::BadDigest => ("BadDigest", StatusCode::BAD_REQUEST),
            Self::ContentSha256Mismatch => ("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST),
            Self::SignatureDoesNotMatch => ("SignatureDoesNotMatch", StatusCode::FORBIDDEN),
            Self::InvalidDigest => ("InvalidDigest", StatusCode::BAD_REQUEST),
            Self::IncompleteBody => ("IncompleteBody", StatusCode::BAD_REQUEST),
            Self::RequestTimeout => ("RequestTimeout", StatusCode::BAD_REQUEST),
            Self::MissingContentLength => ("MissingContentLength", StatusCode::LENGTH_REQUIRED),
            Self::EntityTooLarge(_) => ("EntityTooLarge", StatusCode::BAD_REQUEST),
            Self::KeyTooLong => ("KeyTooLongError", StatusCode::BAD_REQUEST),
            Self::MetadataTooLarge => ("MetadataTooLarge", StatusCode::BAD_REQUEST),
            Self::InvalidTag(_) => ("InvalidTag", StatusCode::BAD_REQUEST),
            Self::InvalidRange => ("InvalidRange", StatusCode::RANGE_NOT_SATISFIABLE),
            Self::InvalidPartNumber => ("InvalidPartNumber", StatusCode::RANGE_NOT_SATISFIABLE),
            Self::InvalidArgument(_) => ("InvalidArgument", StatusCode::BAD_REQUEST),
            Self::InvalidRequest(_) => ("InvalidRequest", StatusCode::BAD_REQUEST),
            Self::InvalidBucketName => ("InvalidBucketName", StatusCode::BAD_REQUEST),
            Self::MethodNotAllowed => ("MethodNotAllowed", StatusCode::METHOD_NOT_ALLOWED),
            Self::NotImplemented(_) => ("NotImplemented", StatusCode::NOT_IMPLEMENTED),
            Self::AccessControlListNotSupported => {
                ("AccessControlListNotSupported", StatusCode::BAD_REQUEST)
            }
            Self::IllegalLocationConstraint(_) => (
                "IllegalLocationConstraintException",
                StatusCode::BAD_REQUEST,
            ),
            Self::AuthorizationHeaderMalformed(_) => {
                ("AuthorizationHeaderMalformed", StatusCode::BAD_REQUEST)
            }
            Self::AccessDenied | Self::HeadersNotSigned => ("AccessDenied", StatusCode::FORBIDDEN),
            Self::AuthorizationQueryParameters(_) => {
                ("AuthorizationQueryParametersError", StatusCode::BAD_REQUEST)
            }
            Self::MaxMessageLengthExceeded(_) => {
                ("MaxMessageLengthExceeded", StatusCode::BAD_REQUEST)
            }
            Self::InvalidAccessKeyId => ("InvalidAccessKeyId", StatusCode::FORBIDDEN),
            Self::KmsDisabled => ("KMS.DisabledException", StatusCode::BAD_REQUEST),
            Self::KmsNoSuchKey => ("KMS.NotFoundException", StatusCode::BAD_REQUEST),
            Self::SlowDown => ("SlowDown", StatusCode::SERVICE_UNAVAILABLE),
            Self::ServiceUnavailable => ("ServiceUnavailable", StatusCode::SERVICE_UNAVAILABLE),
            Self::OutcomeUnknown => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Damaged => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
            Self::Internal => ("InternalError", StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}

impl From<client::Error> for ApiError {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::NoSuchDataset => Self::NoSuchBucket,
            client::Error::NoSuchObject => Self::NoSuchKey,
            client::Error::Moved {
                region: Some(region),
            } => Self::PermanentRedirect(region),
            client::Error::Moved { region: None } => Self::NoSuchBucket,
            client::Error::PreconditionFailed { .. } => Self::PreconditionFailed,
            // A body that ends in an error says which: everything this gateway reads from does.
            client::Error::Io(error) => error.downcast().unwrap_or(Self::IncompleteBody),
            other => Self::of_sdk(&other),
        }
    }
}

/// Why what was read of an object, to be put elsewhere, broke off.
pub(crate) fn of_source(error: std::io::Error) -> ApiError {
    match error.downcast::<client::Error>() {
        Ok(error) => ApiError::from(error),
        Err(_) => ApiError::Internal,
    }
}

impl ApiError {
    fn of_sdk(error: &client::Error) -> Self {
        let by_reason = match error.reason() {
            "name-taken" | "dataset-exists" => Some(Self::BucketAlreadyOwnedByYou),
            "dataset-not-empty" => Some(Self::BucketNotEmpty),
            "dataset-held" => Some(Self::AccessDenied),
            "no-such-upload" => Some(Self::NoSuchUpload),
            "invalid-part" => Some(Self::InvalidPart),
            "no-object-lock" => Some(Self::InvalidRequest(
                "the bucket is missing an object lock configuration",
            )),
            "lock-keeps-versions" => Some(Self::InvalidBucketState(
                "an object lock configuration is present, so versioning stays on",
            )),
            "dataset-unconfirmed" => Some(Self::InvalidBucketState(
                "the bucket was restored from a backup and takes no changes until operators confirm it",
            )),
            "quota-exceeded" => Some(Self::QuotaExceeded),
            "metadata-moved" => Some(Self::OperationAborted),
            "metadata-too-large" => Some(Self::MetadataTooLarge),
            "delete-marker" => Some(Self::MethodNotAllowed),
            "range-not-satisfiable" => Some(Self::InvalidRange),
            "key-disabled" | "not-enabled" => Some(Self::KmsDisabled),
            "disk-full" => Some(Self::SlowDown),
            "request-id-reused" | "version-id-reused" => Some(Self::ConditionalRequestConflict),
            _ => None,
        };
        if matches!(
            error.fault(),
            Fault::Unavailable | Fault::Busy | Fault::Unknown | Fault::Damaged | Fault::Internal
        ) {
            // The client is not told why; who runs this has to know.
            tracing::warn!(reason = error.reason(), error = %Chain(error), "the region did not serve a request");
        }
        by_reason.unwrap_or_else(|| match error.fault() {
            Fault::Missing => Self::NoSuchKey,
            Fault::Precondition => Self::PreconditionFailed,
            Fault::Denied | Fault::Unauthenticated => Self::AccessDenied,
            Fault::Busy => Self::SlowDown,
            Fault::Unavailable => Self::ServiceUnavailable,
            Fault::Unknown => Self::OutcomeUnknown,
            Fault::Damaged => {
                tracing::error!(%error, "stored data is damaged");
                Self::Damaged
            }
            Fault::Caller | Fault::Exists | Fault::Internal | Fault::Unsupported => {
                tracing::error!(%error, reason = error.reason(), "the region refused what it was asked");
                Self::Internal
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(reason: &str) -> client::Error {
        client::Error::Caller {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    fn denied(reason: &str) -> client::Error {
        client::Error::Denied {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn what_the_sdk_says_has_a_code_and_a_status() {
        let unavailable = client::Error::Unavailable {
            reason: "not-leader".to_owned(),
            message: String::new(),
        };
        let unknown = client::Error::Unknown {
            message: String::new(),
        };
        let table = [
            (client::Error::NoSuchDataset, "NoSuchBucket", 404),
            (client::Error::NoSuchObject, "NoSuchKey", 404),
            (
                client::Error::PreconditionFailed { current: None },
                "PreconditionFailed",
                412,
            ),
            (caller("name-taken"), "BucketAlreadyOwnedByYou", 409),
            (caller("dataset-not-empty"), "BucketNotEmpty", 409),
            (caller("range-not-satisfiable"), "InvalidRange", 416),
            (caller("no-such-upload"), "NoSuchUpload", 404),
            (caller("invalid-part"), "InvalidPart", 400),
            (caller("quota-exceeded"), "QuotaExceeded", 403),
            (caller("metadata-moved"), "OperationAborted", 409),
            (caller("metadata-too-large"), "MetadataTooLarge", 400),
            (caller("delete-marker"), "MethodNotAllowed", 405),
            (
                client::Error::Moved {
                    region: "de-fra".parse().ok(),
                },
                "PermanentRedirect",
                301,
            ),
            (client::Error::Moved { region: None }, "NoSuchBucket", 404),
            (caller("no-object-lock"), "InvalidRequest", 400),
            (caller("lock-keeps-versions"), "InvalidBucketState", 409),
            (denied("object-locked"), "AccessDenied", 403),
            (caller("key-disabled"), "KMS.DisabledException", 400),
            (
                caller("request-id-reused"),
                "ConditionalRequestConflict",
                409,
            ),
            (caller("something-new"), "InternalError", 500),
            (unavailable, "ServiceUnavailable", 503),
            (unknown, "InternalError", 500),
        ];
        for (error, code, status) in table {
            let text = error.to_string();
            let api = ApiError::from(error);
            assert_eq!(
                (api.code(), api.status().as_u16()),
                (code, status),
                "{text}"
            );
        }
    }

    #[test]
    fn a_body_that_broke_off_says_why() {
        let broke = |error| ApiError::from(client::Error::Io(error));
        let own = std::io::Error::other(ApiError::BadDigest);
        assert_eq!(broke(own).code(), "BadDigest");
        let other = std::io::Error::other("reset");
        assert_eq!(broke(other).code(), "IncompleteBody");
    }

    #[test]
    fn who_has_to_wait_is_told_how_long() {
        assert_eq!(ApiError::SlowDown.retry_after(), Some(RETRY_AFTER_SECONDS));
        assert_eq!(ApiError::NoSuchKey.retry_after(), None);
    }
}
