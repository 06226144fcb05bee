//! Ed25519 keys of identities and of region CAs: their text and file forms, signatures under a label.
//!
//! Owns private keys in memory: one copy, inside AWS-LC, cleansed when freed; never printed, cloned or serialised
//! but by [`KeyPair::to_pem`]. Refuses key files that anyone but their owner can read, and keys of other kinds.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::{SignatureAlgorithm, SignatureScheme};
use zeroize::Zeroizing;

/// RFC 8410: SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING (32 bytes) }.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// A key file is a few lines; a larger file is not one.
const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;
const PEM_LABEL: &str = "PRIVATE KEY";

/// Why a key could not be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Reading or writing the key file failed.
    #[error("key file could not be read or written")]
    File(#[from] std::io::Error),
    /// Someone else on the host can read the private key.
    #[error("key file has mode {mode:o}; group and others must have no access (chmod 600)")]
    Readable {
        /// Permission bits found.
        mode: u32,
    },
    /// Not a PEM file holding one PKCS#8 private key.
    #[error("key file is not one PEM block of PKCS#8")]
    NotPem,
    /// Not an Ed25519 key.
    #[error("key is not an Ed25519 key")]
    NotEd25519,
}

/// A signature that does not verify. Says no more: whoever forged it learns nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature does not verify")]
pub struct BadSignature;

/// An Ed25519 public key, in the form enrolments hold it: DER SubjectPublicKeyInfo (RFC 8410), 44 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 44]);

impl PublicKey {
    /// Length of the DER form in bytes.
    pub const BYTES: usize = 44;

    /// Parses DER SubjectPublicKeyInfo. Only Ed25519 in its one DER form is accepted, so equal keys have equal
    /// bytes.
    pub fn from_spki(spki: &[u8]) -> Result<Self, KeyError> {
        let bytes: [u8; 44] = spki.try_into().map_err(|_| KeyError::NotEd25519)?;
        if bytes[..12] != SPKI_PREFIX {
            return Err(KeyError::NotEd25519);
        }
        Ok(Self(bytes))
    }

    fn from_raw(raw: &[u8]) -> Self {
        let mut bytes = [0; 44];
        bytes[..12].copy_from_slice(&SPKI_PREFIX);
        bytes[12..].copy_from_slice(raw);
        Self(bytes)
    }

    /// DER SubjectPublicKeyInfo.
    pub fn as_spki(&self) -> &[u8] {
        &self.0
    }

    /// The 32 bytes of RFC 8032.
    pub fn raw(&self) -> &[u8] {
        &self.0[12..]
    }

    /// Checks Ed25519 over `label || "\n" || message`.
    pub fn verify(
        &self,
        label: &'static str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), BadSignature> {
        UnparsedPublicKey::new(&ED25519, self.raw())
            .verify(&labelled(label, message), signature)
            .map_err(|_| BadSignature)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", BASE64.encode(self.raw()))
    }
}

/// Checks Ed25519 over `label || "\n" || message` by a key given as DER SubjectPublicKeyInfo.
pub fn verify(
    spki: &[u8],
    label: &'static str,
    message: &[u8],
    signature: &[u8],
) -> Result<(), BadSignature> {
    PublicKey::from_spki(spki)
        .map_err(|_| BadSignature)?
        .verify(label, message, signature)
}

/// Labels are compiled in and hold no line feed, so no label and message can be read as another pair.
fn labelled(label: &'static str, message: &[u8]) -> Vec<u8> {
    debug_assert!(!label.contains('\n'), "a label is one line");
    [label.as_bytes(), b"\n", message].concat()
}

/// An Ed25519 private key and its public half.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl KeyPair {
    /// A fresh key from the operating system's randomness.
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().expect("AWS-LC aborts rather than fail to be random");
        Self::of(pair)
    }

    /// Parses PKCS#8 DER (RFC 5958), version 1 or 2.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        Ok(Self::of(
            Ed25519KeyPair::from_pkcs8(der).map_err(|_| KeyError::NotEd25519)?,
        ))
    }

    /// Parses one PEM block `PRIVATE KEY` (PKCS#8).
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        // Own few lines rather than a PEM crate: every buffer that held key bytes is wiped.
        let mut base64 = Zeroizing::new(String::with_capacity(pem.len()));
        let mut lines = pem.lines().map(str::trim);
        let begin = format!("-----BEGIN {PEM_LABEL}-----");
        let end = format!("-----END {PEM_LABEL}-----");
        lines
            .by_ref()
            .find(|line| *line == begin)
            .ok_or(KeyError::NotPem)?;
        loop {
            let line = lines.next().ok_or(KeyError::NotPem)?;
            if line == end {
                break;
            }
            base64.push_str(line);
        }
        let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(base64.len())]);
        let len = BASE64
            .decode_slice(base64.as_bytes(), &mut der)
            .map_err(|_| KeyError::NotPem)?;
        Self::from_pkcs8(&der[..len])
    }

    /// Reads a PEM key file that only its owner can read.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut file = File::open(path)?;
        // Of the opened file, not of the path: what is checked is what is read.
        let metadata = file.metadata()?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Readable { mode });
        }
        if metadata.len() > KEY_FILE_BYTES_MAX {
            return Err(KeyError::NotPem);
        }
        let capacity = usize::try_from(metadata.len()).map_err(|_| KeyError::NotPem)? + 1;
        let mut text = Zeroizing::new(String::with_capacity(capacity));
        Read::by_ref(&mut file)
            .take(KEY_FILE_BYTES_MAX)
            .read_to_string(&mut text)?;
        Self::from_pem(&text)
    }

    /// PKCS#8 in PEM, wiped when dropped.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let der = self
            .pair
            .to_pkcs8v1()
            .expect("an Ed25519 key always serialises");
        let base64 = Zeroizing::new(BASE64.encode(der.as_ref()));
        Zeroizing::new(format!(
            "-----BEGIN {PEM_LABEL}-----\n{}\n-----END {PEM_LABEL}-----\n",
            base64.as_str()
        ))
    }

    /// Writes a new key file with mode 0600, durably. An existing file is never overwritten.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(self.to_pem().as_bytes())?;
        file.sync_all()?;
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Ed25519 over `label || "\n" || message`.
    pub fn sign(&self, label: &'static str, message: &[u8]) -> [u8; 64] {
        self.sign_raw(&labelled(label, message))
    }

    /// Ed25519 over what DSSE v1 puts around a payload.
    pub fn sign_dsse(&self, payload_type: &str, payload: &[u8]) -> [u8; 64] {
        self.sign_raw(&proto::transcript::dsse(payload_type, payload))
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let public = PublicKey::from_raw(pair.public_key().as_ref());
        Self { pair, public }
    }

    fn sign_raw(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.public)
    }
}

impl rcgen::PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.public.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.sign_raw(message).to_vec())
    }
}

impl rcgen::PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        self.raw()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// A key as rustls signs handshakes with it: the shared key itself, not a second copy of its bytes.
#[derive(Debug, Clone)]
pub(crate) struct TlsKey(pub(crate) std::sync::Arc<KeyPair>);

impl rustls::sign::SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(self.clone()) as _)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(self.0.public.as_spki()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl rustls::sign::Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign_raw(message).to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_the_file_is_private() {
        let folder = tempfile::tempdir().expect("temp folder");
        let path = folder.path().join("key.pem");
        let key = KeyPair::generate();
        key.write_new(&path).expect("written");
        assert_eq!(
            KeyPair::load(&path).expect("read back").public_key(),
            key.public_key()
        );
        assert!(
            key.write_new(&path).is_err(),
            "a key file is never overwritten"
        );

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(
            KeyPair::load(&path),
            Err(KeyError::Readable { mode: 0o640 })
        ));
    }

    #[test]
    fn what_is_not_an_ed25519_key_is_refused() {
        assert!(matches!(KeyPair::from_pem("hello"), Err(KeyError::NotPem)));
        let cut = "-----BEGIN PRIVATE KEY-----\nAAAA\n";
        assert!(matches!(KeyPair::from_pem(cut), Err(KeyError::NotPem)));
        let other = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(
            KeyPair::from_pem(other),
            Err(KeyError::NotEd25519)
        ));
        assert!(PublicKey::from_spki(&[0; 44]).is_err());
    }

    #[test]
    fn a_signature_is_bound_to_label_message_and_key() {
        let key = KeyPair::generate();
        let signature = key.sign("reduit/v1/test", b"message");
        let spki = key.public_key();
        assert_eq!(
            verify(spki.as_spki(), "reduit/v1/test", b"message", &signature),
            Ok(())
        );
        assert!(verify(spki.as_spki(), "reduit/v1/tesu", b"message", &signature).is_err());
        assert!(verify(spki.as_spki(), "reduit/v1/test", b"messagf", &signature).is_err());
        let other = KeyPair::generate().public_key();
        assert!(verify(other.as_spki(), "reduit/v1/test", b"message", &signature).is_err());
    }

    #[test]
    fn debug_output_holds_no_private_bytes() {
        let key = KeyPair::generate();
        let der = key.pair.to_pkcs8v1().expect("serialises");
        let seed = &der.as_ref()[16..48];
        let shown = format!(
            "{key:?} {:?}",
            TlsKey(std::sync::Arc::new(KeyPair::generate()))
        );
        assert!(!shown.contains(&BASE64.encode(seed)) && !shown.contains(&hex::encode(seed)));
        assert!(shown.contains(&BASE64.encode(key.public_key().raw())));
    }
}
