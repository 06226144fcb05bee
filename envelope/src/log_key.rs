//! The key that signs a region's transparency log.
//!
//! Owns its derivation from the root key and signing. Refuses to give out its bytes: what leaves is
//! a signature or the public key. A sealed replica has no root key and so signs nothing.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

use crate::context::LABEL_LOG_KEY;
use crate::encode::put_field;
use crate::keys::{KeySlot, RootKey};
use crate::{KeyError, kdf};

/// Bytes of the public key (RFC 8032 section 5.1.5).
pub const LOG_PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of a signature (RFC 8032 section 5.1.6).
pub const LOG_SIGNATURE_BYTES: usize = 64;

/// An Ed25519 key of one log of the region, the same on every replica that holds the root key.
pub struct LogKey {
    seed: KeySlot,
    public: [u8; LOG_PUBLIC_KEY_BYTES],
}

impl RootKey {
    /// The key that signs the log named `origin`. Another origin or another root epoch has another
    /// key, so that a retired epoch's shares forge nothing that is signed later.
    ///
    /// # Panics
    /// If `origin` is 64 KiB long: a log's name has at most 255 bytes.
    pub fn log_key(&self, origin: &str) -> Result<LogKey, KeyError> {
        let mut info = Vec::with_capacity(4 + LABEL_LOG_KEY.len() + origin.len());
        put_field(&mut info, LABEL_LOG_KEY);
        put_field(&mut info, origin.as_bytes());
        let seed = KeySlot::try_new::<KeyError>(|seed| {
            kdf::derive(self.key.bytes(), &self.epoch.0.to_be_bytes(), &info, seed);
            Ok(())
        })?;
        let mut public = [0; LOG_PUBLIC_KEY_BYTES];
        with_pair(&seed, |pair| {
            public.copy_from_slice(pair.public_key().as_ref());
        });
        Ok(LogKey { seed, public })
    }
}

impl LogKey {
    /// The public half.
    pub fn public(&self) -> &[u8; LOG_PUBLIC_KEY_BYTES] {
        &self.public
    }

    /// Signs a message as it stands. The same message has the same signature on every replica.
    pub fn sign(&self, message: &[u8]) -> [u8; LOG_SIGNATURE_BYTES] {
        let mut signature = [0; LOG_SIGNATURE_BYTES];
        with_pair(&self.seed, |pair| {
            signature.copy_from_slice(pair.sign(message).as_ref());
        });
        signature
    }
}

/// The expanded key lives for one operation, in memory that AWS-LC cleanses when it frees it.
fn with_pair(seed: &KeySlot, work: impl FnOnce(&Ed25519KeyPair)) {
    kdf::scrubbed(|| {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.bytes())
            .expect("every 32 bytes are the seed of an Ed25519 key");
        work(&pair);
    });
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use proto::ids::RootEpoch;

    use super::*;

    const ORIGIN: &str = "ch-zrh/main/1";
    const MESSAGE: &[u8] = b"ch-zrh/main/1\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";

    fn root(byte: u8, epoch: u32) -> RootKey {
        let key = KeySlot::try_new::<KeyError>(|bytes| {
            bytes.fill(byte);
            Ok(())
        });
        RootKey {
            epoch: RootEpoch(epoch),
            key: key.expect("room"),
        }
    }

    /// Derived with Python's hmac, public key and signature by PyPI's `cryptography` (OpenSSL).
    #[test]
    fn a_log_key_signs_as_an_implementation_that_is_not_ours_does() {
        let key = root(8, 3).log_key(ORIGIN).expect("room");
        assert_eq!(
            hex::encode(key.public()),
            "c2d50b77fee2777fcc149fa4ed6826ce9557337301ab42b486167ad1b709bb24"
        );
        assert_eq!(
            hex::encode(key.sign(MESSAGE)),
            "e83227028538d9d785f0cf74e77ac889bc4d5748515628ac036e86fb5a40352706d20bae3fc65dcc42a015d41cc03ecfb4aa789ea4bfc562e975b5e7e2750a04"
        );
        UnparsedPublicKey::new(&ED25519, key.public())
            .verify(MESSAGE, &key.sign(MESSAGE))
            .expect("its own signature");
    }

    #[test]
    fn another_root_epoch_or_log_has_another_key() {
        let base = *root(8, 3).log_key(ORIGIN).expect("room").public();
        for other in [
            root(9, 3).log_key(ORIGIN),
            root(8, 4).log_key(ORIGIN),
            root(8, 3).log_key("ch-zrh/main/2"),
            root(8, 3).log_key(""),
        ] {
            assert_ne!(*other.expect("room").public(), base);
        }
    }
}
