//! Where a listing goes on: continuation tokens of objects and buckets, and version markers.
//!
//! Owns their text. A token says nothing that its holder does not know, and nothing is trusted of it: it names a place
//! in the order of keys. Refuses what it did not write.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::ids::{LogIndex, ObjectKey, ObjectVersionId};

use crate::error::ApiError;

/// The first byte of a token; another is of another gateway's format.
const FORMAT: u8 = 1;
/// Before the log index in a version marker that this gateway wrote.
const INDEX: char = 'i';

/// Writes the key after which the next page starts.
pub(crate) fn continuation(start_after: &str) -> String {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(start_after.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads one back.
pub(crate) fn parse_continuation(token: &str) -> Result<String, ApiError> {
    let bad = ApiError::InvalidArgument("the continuation token is not one of this service");
    let bytes = URL_SAFE_NO_PAD.decode(token).ok();
    match bytes.as_deref() {
        Some([FORMAT, key @ ..]) if (1..=ObjectKey::BYTES_MAX).contains(&key.len()) => {
            String::from_utf8(key.to_vec()).map_err(|_| bad)
        }
        _ => Err(bad),
    }
}

/// Where a listing of versions goes on within its key marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionMarker {
    /// After the version that was finished at this log index. It is there or not: what is deleted between two pages
    /// leaves its place.
    Index(LogIndex),
    /// After this version.
    Version(ObjectVersionId),
}

impl VersionMarker {
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = ApiError::InvalidArgument("the version id marker is not one of this service");
        match text.strip_prefix(INDEX) {
            Some(digits) if (1..=16).contains(&digits.len()) => u64::from_str_radix(digits, 16)
                .map(|index| Self::Index(LogIndex(index)))
                .map_err(|_| bad),
            Some(_) => Err(bad),
            None => text.parse().map(Self::Version).map_err(|_| bad),
        }
    }
}

/// Writes the marker of a log index.
pub(crate) fn version_marker(index: LogIndex) -> String {
    format!("{INDEX}{:x}", index.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_key(key in ".{1,200}") {
            prop_assume!(key.len() <= ObjectKey::BYTES_MAX);
            prop_assert_eq!(parse_continuation(&continuation(&key)).ok(), Some(key));
        }

        #[test]
        fn a_marker_leads_back_to_its_index(index in any::<u64>()) {
            let marker = VersionMarker::parse(&version_marker(LogIndex(index))).ok();
            prop_assert_eq!(marker, Some(VersionMarker::Index(LogIndex(index))));
        }

        #[test]
        fn what_is_no_token_is_refused_and_harms_nobody(text in ".{0,64}") {
            let _ = parse_continuation(&text);
            let _ = VersionMarker::parse(&text);
        }
    }

    #[test]
    fn what_this_service_did_not_write_is_refused() {
        let empty = URL_SAFE_NO_PAD.encode([FORMAT]);
        let format = URL_SAFE_NO_PAD.encode(b"\x02key");
        let long = continuation(&"k".repeat(1025));
        for bad in ["", "key", &empty, &format, &long, "AQ=="] {
            assert!(parse_continuation(bad).is_err(), "{bad}");
        }
        for bad in ["", "i", "ixyz", "null", "i00000000000000001"] {
            assert!(VersionMarker::parse(bad).is_err(), "{bad}");
        }
    }
}
