//! This process's own identity: one Ed25519 key and the certificate that states its URI.
//!
//! Owns the pair and its renewal while running. Refuses a certificate of another key, or one without exactly one
//! `spiffe://` URI. A certificate only authenticates; whether the identity may act is its enrolment's business.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use parking_lot::RwLock;
use proto::ids::Identity;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::{self, CertificateError};
use crate::keys::{KeyError, KeyPair, PublicKey, TlsKey};

/// Certificates a chain may have; ours have one.
const CHAIN_MAX: usize = 4;

/// Why an identity could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The key file is not acceptable.
    #[error("private key of the identity")]
    Key(#[source] KeyError),
    /// The certificate file could not be read.
    #[error("certificate file could not be read")]
    File(#[source] std::io::Error),
    /// The file holds no certificate, too many, or a broken PEM block.
    #[error("certificate file is not 1 to {CHAIN_MAX} PEM certificates")]
    NotPem,
    /// The certificate states no identity.
    #[error("certificate of the identity")]
    Certificate(#[source] CertificateError),
    /// Key and certificate do not belong together.
    #[error("certificate is for another key than the one given")]
    OtherKey,
    /// A renewed certificate must state the same identity.
    #[error("renewed certificate states {found}, this process is {expected}")]
    OtherIdentity {
        /// Who this process is.
        expected: Identity,
        /// Who the new certificate says it is.
        found: Identity,
    },
}

/// Key and certificate of this process. Cheap to clone; clones share renewals.
#[derive(Clone)]
pub struct LocalIdentity(Arc<Inner>);

struct Inner {
    identity: Identity,
    key: Arc<KeyPair>,
    certified: RwLock<Arc<CertifiedKey>>,
}

impl LocalIdentity {
    /// Reads a PEM certificate (chain, leaf first) and a PEM key file that only its owner can read.
    pub fn load(certificate_pem: &Path, key_pem: &Path) -> Result<Self, IdentityError> {
        let key = KeyPair::load(key_pem).map_err(IdentityError::Key)?;
        let pem = std::fs::read(certificate_pem).map_err(IdentityError::File)?;
        Self::new(&pem, key)
    }

    /// As [`LocalIdentity::load`], from text.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem).map_err(IdentityError::Key)?;
        Self::new(certificate_pem.as_bytes(), key)
    }

    /// Joins a key with its certificate (PEM).
    pub fn new(certificate_pem: &[u8], key: KeyPair) -> Result<Self, IdentityError> {
        let key = Arc::new(key);
        let (identity, certified) = certify(certificate_pem, &key)?;
        Ok(Self(Arc::new(Inner {
            identity,
            key,
            certified: RwLock::new(certified),
        })))
    }

    /// Replaces the certificate by a newer one of the same key and identity. Connections made from now on use
    /// it; living ones keep what they authenticated with.
    pub fn renew(&self, certificate_pem: &[u8]) -> Result<(), IdentityError> {
        let (found, certified) = certify(certificate_pem, &self.0.key)?;
        if found != self.0.identity {
            let expected = self.0.identity.clone();
            return Err(IdentityError::OtherIdentity { expected, found });
        }
        *self.0.certified.write() = certified;
        Ok(())
    }

    /// Who this process is.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Its public key, as it is enrolled.
    pub fn public_key(&self) -> PublicKey {
        self.0.key.public_key()
    }

    /// Its certificate (DER): says to whoever pins the region's CA whose key signed.
    pub fn certificate(&self) -> Vec<u8> {
        let leaf = self.certified().cert.first().map(|leaf| leaf.to_vec());
        leaf.expect("a chain has a leaf: it was read")
    }

    /// Ed25519 over `label || "\n" || message` by the enrolled key.
    pub fn sign(&self, label: &'static str, message: &[u8]) -> [u8; 64] {
        self.0.key.sign(label, message)
    }

    /// Ed25519 over what DSSE v1 puts around a payload, by the enrolled key.
    pub fn sign_dsse(&self, payload_type: &str, payload: &[u8]) -> [u8; 64] {
        self.0.key.sign_dsse(payload_type, payload)
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        self.0.certified.read().clone()
    }
}

fn certify(pem: &[u8], key: &Arc<KeyPair>) -> Result<(Identity, Arc<CertifiedKey>), IdentityError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .take(CHAIN_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| IdentityError::NotPem)?;
    let leaf = match chain.len() {
        1..=CHAIN_MAX => &chain[0],
        _ => return Err(IdentityError::NotPem),
    };
    let subject = certificate::subject(leaf).map_err(IdentityError::Certificate)?;
    if subject.public_key != key.public_key() {
        return Err(IdentityError::OtherKey);
    }
    let certified = CertifiedKey::new(chain, Arc::new(TlsKey(key.clone())));
    Ok((subject.identity, Arc::new(certified)))
}

impl fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalIdentity({})", self.0.identity)
    }
}

impl ResolvesServerCert for LocalIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for LocalIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // Hints are ignored: there is one certificate, and a server of another region shall say so itself.
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
