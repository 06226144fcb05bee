//! Checksums of S3: which one a client wants, and whether what came is what it says.
//!
//! Owns the names, the values' lengths and the sums. Refuses a value that is no value of its kind. MD5 is summed only
//! where a client states one: it costs five times the sealing.

mod whole;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use md5::Digest as _;

pub(crate) use whole::{Kind, Summed};

use crate::error::ApiError;

/// A checksum that S3 keeps with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    /// CRC-32, as in gzip.
    Crc32,
    /// CRC-32C.
    Crc32c,
    /// CRC-64/NVME: what is summed where a client wants none.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// Every one.
    pub(crate) const ALL: [Self; 5] = [
        Self::Crc32,
        Self::Crc32c,
        Self::Crc64Nvme,
        Self::Sha1,
        Self::Sha256,
    ];

    /// As S3 spells it, and as it is sealed with an object.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The header or trailer that carries it.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Its CRC, where it is one.
    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// A value in base64, as clients write it.
    pub(crate) fn parse(self, text: &str) -> Result<Bytes, ApiError> {
        let value = STANDARD.decode(text).map_err(|_| ApiError::InvalidDigest)?;
        if value.len() == self.bytes() {
            Ok(value.into())
        } else {
            Err(ApiError::InvalidDigest)
        }
    }
}

/// A value as clients read it.
pub(crate) fn text(value: &[u8]) -> String {
    STANDARD.encode(value)
}

/// An MD5 in base64, as in `Content-MD5`.
pub(crate) fn parse_md5(text: &str) -> Result<[u8; 16], ApiError> {
    let value = STANDARD.decode(text).map_err(|_| ApiError::InvalidDigest)?;
    value.try_into().map_err(|_| ApiError::InvalidDigest)
}

/// One sum over a body as it passes.
pub(crate) enum Sum {
    Crc(Box<crc_fast::Digest>, Algorithm),
    Sha(digest::Context, Algorithm),
}

impl Sum {
    pub(crate) fn of(algorithm: Algorithm) -> Self {
        let sha = |of| Self::Sha(digest::Context::new(of), algorithm);
        match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Self::Crc(Box::new(crc_fast::Digest::new(crc)), algorithm),
            (None, Algorithm::Sha1) => sha(&digest::SHA1_FOR_LEGACY_USE_ONLY),
            (None, _) => sha(&digest::SHA256),
        }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Crc(_, algorithm) | Self::Sha(_, algorithm) => *algorithm,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(crc, _) => crc.update(bytes),
            Self::Sha(sha, _) => sha.update(bytes),
        }
    }

    pub(crate) fn finish(self) -> Bytes {
        match self {
            Self::Crc(crc, algorithm) => {
                let sum = crc.finalize().to_be_bytes();
                Bytes::copy_from_slice(&sum[sum.len() - algorithm.bytes()..])
            }
            Self::Sha(sha, _) => Bytes::copy_from_slice(sha.finish().as_ref()),
        }
    }
}

/// MD5 over a body as it passes.
#[derive(Clone, Default)]
pub(crate) struct Md5(md5::Md5);

impl Md5 {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> [u8; 16] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the catalogue of parametrised CRCs, of FIPS 180 and of RFC 1321, over "123456789".
    #[test]
    fn sums_are_those_of_their_standards() {
        let table = [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (
                Algorithm::Sha256,
                "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
            ),
        ];
        for (algorithm, expected) in table {
            let mut sum = Sum::of(algorithm);
            sum.update(b"1234");
            sum.update(b"56789");
            assert_eq!(sum.algorithm(), algorithm);
            assert_eq!(hex::encode(sum.finish()), expected, "{algorithm:?}");
        }
        let mut md5 = Md5::default();
        md5.update(b"123456789");
        assert_eq!(
            hex::encode(md5.finish()),
            "25f9e794323b453885f5181f1b624d0b"
        );
    }

    #[test]
    fn a_value_of_another_length_is_none() {
        for algorithm in Algorithm::ALL {
            assert!(algorithm.parse(&text(&vec![7; algorithm.bytes()])).is_ok());
            for bad in ["", "not base64!", "AAAA", "AA=="] {
                assert!(algorithm.parse(bad).is_err(), "{algorithm:?} {bad}");
            }
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
        }
        assert!(parse_md5("AAAA").is_err());
        assert_eq!(Algorithm::named("MD5"), None);
    }
}
