//! The checksum of an object in parts, made of those of its parts.
//!
//! Owns S3's two kinds: of the whole object's bytes, or composite, of the parts' checksums one after the other. Refuses a
//! kind that an algorithm does not have: no SHA is made of its parts', and CRC64NVME is never composite.

use bytes::Bytes;

use super::{Algorithm, Sum};
use crate::error::ApiError;

/// What a checksum of an object is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// Its bytes.
    #[default]
    FullObject,
    /// The checksums of its parts.
    Composite,
}

impl Kind {
    /// As S3 spells it, and as it is sealed with an object.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }

    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::FullObject, Self::Composite]
            .into_iter()
            .find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// How the parts of an upload and the object they become are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summed {
    pub(crate) algorithm: Algorithm,
    pub(crate) kind: Kind,
}

impl Default for Summed {
    /// Where an upload says nothing.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Crc64Nvme,
            kind: Kind::FullObject,
        }
    }
}

impl Summed {
    /// What an upload states when it begins, if it states anything.
    pub(crate) fn stated(
        algorithm: Option<Algorithm>,
        kind: Option<Kind>,
    ) -> Result<Option<Self>, ApiError> {
        let Some(algorithm) = algorithm else {
            return match kind {
                None => Ok(None),
                Some(_) => Err(ApiError::InvalidRequest(
                    "a checksum type goes with a checksum algorithm",
                )),
            };
        };
        let kind = match (algorithm, kind) {
            (Algorithm::Crc64Nvme, Some(Kind::Composite)) => {
                return Err(ApiError::InvalidRequest(
                    "CRC64NVME is a checksum of the whole object alone",
                ));
            }
            (Algorithm::Sha1 | Algorithm::Sha256, Some(Kind::FullObject)) => {
                return Err(ApiError::InvalidRequest(
                    "SHA1 and SHA256 of an object in parts are composite alone",
                ));
            }
            (_, Some(kind)) => kind,
            (Algorithm::Crc64Nvme, None) => Kind::FullObject,
            (_, None) => Kind::Composite,
        };
        Ok(Some(Self { algorithm, kind }))
    }

    /// The object's, of its parts' checksums and lengths in order; `None` where one of them has none.
    pub(crate) fn whole<'a>(
        self,
        parts: impl IntoIterator<Item = (Option<&'a Bytes>, u64)>,
    ) -> Option<Bytes> {
        let mut composite = Sum::of(self.algorithm);
        let mut full = None;
        for (sum, length) in parts {
            let sum = sum.filter(|sum| sum.len() == self.algorithm.bytes())?;
            match self.kind {
                Kind::Composite => composite.update(sum),
                Kind::FullObject => {
                    let crc = self.algorithm.crc()?;
                    full = Some(match full {
                        None => number(sum),
                        Some(before) => {
                            crc_fast::checksum_combine(crc, before, number(sum), length)
                        }
                    });
                }
            }
        }
        match (self.kind, full) {
            (Kind::Composite, _) => Some(composite.finish()),
            (Kind::FullObject, full) => {
                let sum = full?.to_be_bytes();
                let start = sum.len() - self.algorithm.bytes();
                Some(Bytes::copy_from_slice(&sum[start..]))
            }
        }
    }
}

/// A CRC as a number; eight bytes at most.
fn number(sum: &[u8]) -> u64 {
    sum.iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> Bytes {
        let mut sum = Sum::of(algorithm);
        sum.update(bytes);
        sum.finish()
    }

    fn of(summed: Summed, parts: &[Vec<u8>]) -> Option<Bytes> {
        let sums: Vec<_> = parts
            .iter()
            .map(|part| sum(summed.algorithm, part))
            .collect();
        let lengths = parts.iter().map(|part| part.len() as u64);
        summed.whole(sums.iter().map(Some).zip(lengths))
    }

    proptest! {
        #[test]
        fn a_crc_of_the_whole_is_that_of_the_bytes(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
        ) {
            for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
                let summed = Summed { algorithm, kind: Kind::FullObject };
                prop_assert_eq!(of(summed, &parts), Some(sum(algorithm, &parts.concat())));
            }
        }
    }

    #[test]
    fn a_composite_one_is_of_the_parts_sums() {
        let parts = [b"123".to_vec(), b"456".to_vec()];
        for algorithm in [Algorithm::Crc32, Algorithm::Sha1, Algorithm::Sha256] {
            let summed = Summed {
                algorithm,
                kind: Kind::Composite,
            };
            let both = parts.clone().map(|part| sum(algorithm, &part)).concat();
            assert_eq!(of(summed, &parts), Some(sum(algorithm, &both)));
        }
    }

    #[test]
    fn a_part_without_a_sum_leaves_the_object_without() {
        let known = sum(Algorithm::Crc64Nvme, b"123");
        let parts = [(Some(&known), 3), (None, 3)];
        assert_eq!(Summed::default().whole(parts), None);
        assert_eq!(Summed::default().whole([]), None);
        let short = Bytes::from_static(&[1; 4]);
        assert_eq!(Summed::default().whole([(Some(&short), 3)]), None);
    }

    #[test]
    fn every_algorithm_has_the_kinds_of_s3() {
        let stated = |algorithm, kind| {
            let stated = Summed::stated(algorithm, kind).map_err(|error| error.code());
            stated.map(|summed| summed.map(|summed| summed.kind))
        };
        let (full, composite) = (Some(Kind::FullObject), Some(Kind::Composite));
        let bad = Err("InvalidRequest");
        assert_eq!(stated(None, None), Ok(None));
        assert_eq!(stated(None, full), bad);
        for crc in [Algorithm::Crc32, Algorithm::Crc32c] {
            assert_eq!(stated(Some(crc), None), Ok(composite));
            assert_eq!(stated(Some(crc), full), Ok(full));
        }
        for sha in [Algorithm::Sha1, Algorithm::Sha256] {
            assert_eq!(stated(Some(sha), None), Ok(composite));
            assert_eq!(stated(Some(sha), full), bad);
        }
        assert_eq!(stated(Some(Algorithm::Crc64Nvme), None), Ok(full));
        assert_eq!(stated(Some(Algorithm::Crc64Nvme), composite), bad);
        assert_eq!(Kind::named("composite"), composite);
        assert_eq!(Kind::named("other"), None);
    }
}
