//! Which encryption a request names, and what is answered of it.
//!
//! Everything here is sealed under the bucket's own key in the region's KMS: S3 calls that `aws:kms`. Refuses every other
//! wish: one that was accepted and ignored would be a lie about where the key is.

use client::ids::KekId;

use crate::error::ApiError;

/// What S3 calls it.
pub(crate) const ALGORITHM: &str = "aws:kms";

/// What a request says of encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Requested {
    /// `x-amz-server-side-encryption`.
    pub(crate) algorithm: Option<String>,
    /// `x-amz-server-side-encryption-aws-kms-key-id`.
    pub(crate) key_id: Option<String>,
    /// Whether it brings a key of its own (SSE-C).
    pub(crate) customer_key: bool,
    /// Whether it brings an encryption context or asks for bucket keys.
    pub(crate) extras: bool,
}

impl Requested {
    /// Refuses what is not done to objects of the bucket that has this key.
    pub(crate) fn check(&self, kek: KekId) -> Result<(), ApiError> {
        if self.customer_key {
            return Err(ApiError::NotImplemented("keys of the customer (SSE-C)"));
        }
        if self.extras {
            return Err(ApiError::NotImplemented(
                "encryption contexts and bucket keys",
            ));
        }
        match self.algorithm.as_deref() {
            Some(ALGORITHM) => {}
            Some(_) => {
                return Err(ApiError::NotImplemented("encryption other than aws:kms"));
            }
            None if self.key_id.is_some() => {
                return Err(ApiError::InvalidArgument(
                    "a key id goes with x-amz-server-side-encryption: aws:kms",
                ));
            }
            None => {}
        }
        match self.key_id.as_deref() {
            Some(id) if id.parse::<KekId>().ok() != Some(kek) => Err(ApiError::KmsNoSuchKey),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEK: KekId = KekId([7; 16]);

    fn code(requested: Requested) -> &'static str {
        requested
            .check(KEK)
            .err()
            .map_or("ok", |error| error.code())
    }

    #[test]
    fn only_what_is_done_is_accepted() {
        let stated = |algorithm: Option<&str>, key_id: Option<String>| Requested {
            algorithm: algorithm.map(str::to_owned),
            key_id,
            ..Requested::default()
        };
        let own = || Some(KEK.to_string());
        assert_eq!(code(stated(None, None)), "ok");
        assert_eq!(code(stated(Some("aws:kms"), None)), "ok");
        assert_eq!(code(stated(Some("aws:kms"), own())), "ok");
        assert_eq!(code(stated(None, own())), "InvalidArgument");
        for other in ["AES256", "aws:kms:dsse", "", "AWS:KMS"] {
            assert_eq!(code(stated(Some(other), None)), "NotImplemented", "{other}");
        }
        for other in ["alias/key", "", &"08".repeat(16)] {
            let requested = stated(Some("aws:kms"), Some(other.to_owned()));
            assert_eq!(code(requested), "KMS.NotFoundException", "{other}");
        }
        let customer = Requested {
            customer_key: true,
            ..Requested::default()
        };
        assert_eq!(code(customer), "NotImplemented");
        let extras = Requested {
            extras: true,
            ..Requested::default()
        };
        assert_eq!(code(extras), "NotImplemented");
    }
}
