//! Which bytes of an object a request asks for.

use std::ops::Range;

use crate::error::ApiError;

/// One range, as the `Range` header states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteRange {
    /// From a first byte to a last one, both included; to the end where none is named.
    From { first: u64, last: Option<u64> },
    /// So many bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// The bytes of an object of that length: never none.
    pub(crate) fn of(self, length: u64) -> Result<Range<u64>, ApiError> {
        let range = match self {
            Self::From { first, last } => {
                first..last.map_or(length, |last| last.saturating_add(1).min(length))
            }
            Self::Last(bytes) => length.saturating_sub(bytes)..length,
        };
        if range.is_empty() {
            Err(ApiError::InvalidRange)
        } else {
            Ok(range)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_to_the_object_and_never_empty() {
        let from = |first, last| ByteRange::From { first, last };
        assert_eq!(from(0, Some(0)).of(10).ok(), Some(0..1));
        assert_eq!(from(3, None).of(10).ok(), Some(3..10));
        assert_eq!(from(3, Some(u64::MAX)).of(10).ok(), Some(3..10));
        assert_eq!(ByteRange::Last(4).of(10).ok(), Some(6..10));
        assert_eq!(ByteRange::Last(40).of(10).ok(), Some(0..10));
        for (range, length) in [
            (from(10, None), 10),
            (from(0, None), 0),
            (ByteRange::Last(0), 10),
            (ByteRange::Last(1), 0),
        ] {
            assert!(range.of(length).is_err(), "{range:?} of {length}");
        }
    }
}
