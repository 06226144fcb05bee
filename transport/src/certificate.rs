//! What a certificate says: one identity URI and one Ed25519 key; and the CA that a region pins.
//!
//! Owns parsing and chain checks. Refuses a certificate with no or several URIs, with a key of another kind, or
//! that the pinned CA did not sign. Trust stores are never merged: a [`RegionTrust`] holds one CA.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proto::ids::{Identity, RegionId, UnixMs};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::keys::PublicKey;

/// Why a certificate says nothing we can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not X.509 DER.
    #[error("certificate does not parse")]
    Malformed,
    /// Subject alternative names hold no URI or several.
    #[error("certificate does not hold exactly one identity URI")]
    NotOneUri,
    /// The URI is not `spiffe://<region>/<role>/<name>`.
    #[error("certificate's URI is not an identity")]
    NotIdentity,
    /// Its key is not Ed25519.
    #[error("certificate's key is not an Ed25519 key")]
    NotEd25519,
    /// The pinned CA did not sign it, for this region and that time.
    #[error("the region's pinned CA did not sign the certificate, or not for that time")]
    Chain,
    /// It is no CA certificate.
    #[error("certificate is not a certificate authority's")]
    NotCa,
    /// A file that is no PEM certificate.
    #[error("certificate file could not be read as one PEM certificate")]
    File,
}

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) identity: Identity,
    pub(crate) public_key: PublicKey,
}

/// Reads identity and key. Says nothing about who signed it.
pub(crate) fn subject(der: &CertificateDer<'_>) -> Result<Subject, CertificateError> {
    let certificate = parse(der)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::Malformed)?
        .ok_or(CertificateError::NotOneUri)?;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    // A second URI would leave it to each reader which one counts.
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(CertificateError::NotOneUri);
    };
    let identity = uri.parse().map_err(|_| CertificateError::NotIdentity)?;
    Ok(Subject {
        identity,
        public_key: key_of(&certificate)?,
    })
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::Malformed),
    }
}

fn key_of(certificate: &X509Certificate<'_>) -> Result<PublicKey, CertificateError> {
    PublicKey::from_spki(certificate.public_key().raw).map_err(|_| CertificateError::NotEd25519)
}

/// A region's name and the one CA that signs its identities, as pinned by configuration.
#[derive(Debug, Clone)]
pub struct RegionTrust {
    region: RegionId,
    ca: CertificateDer<'static>,
    ca_key: PublicKey,
    roots: Arc<RootCertStore>,
}

impl RegionTrust {
    /// Pins a CA certificate (DER).
    pub fn from_der(region: RegionId, der: &[u8]) -> Result<Self, CertificateError> {
        let ca = CertificateDer::from(der.to_vec());
        let parsed = parse(&ca)?;
        if !parsed.is_ca() {
            return Err(CertificateError::NotCa);
        }
        let ca_key = key_of(&parsed)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(ca.clone())
            .map_err(|_| CertificateError::Malformed)?;
        Ok(Self {
            region,
            ca,
            ca_key,
            roots: Arc::new(roots),
        })
    }

    /// Pins a CA certificate (PEM).
    pub fn from_pem(region: RegionId, pem: &str) -> Result<Self, CertificateError> {
        let ca =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| CertificateError::File)?;
        Self::from_der(region, &ca)
    }

    /// Pins the CA certificate in a PEM file.
    pub fn load(region: RegionId, path: &Path) -> Result<Self, CertificateError> {
        let pem = std::fs::read_to_string(path).map_err(|_| CertificateError::File)?;
        Self::from_pem(region, &pem)
    }

    /// The region.
    pub fn region(&self) -> &RegionId {
        &self.region
    }

    /// DER of the CA certificate.
    pub fn ca_certificate(&self) -> &[u8] {
        &self.ca
    }

    /// The CA's key, which signs a region's first enrolment set.
    pub fn ca_key(&self) -> PublicKey {
        self.ca_key
    }

    /// Whose a certificate (DER) is that this region's CA signed and that is valid at `at`. It says nothing of enrolment.
    pub fn identify(
        &self,
        certificate: &[u8],
        at: UnixMs,
    ) -> Result<(Identity, PublicKey), CertificateError> {
        let leaf = CertificateDer::from(certificate.to_vec());
        let subject = subject(&leaf)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(self.roots(), provider)
            .build()
            .map_err(|_| CertificateError::NotCa)?;
        let at = UnixTime::since_unix_epoch(Duration::from_millis(at.0));
        chain
            .verify_client_cert(&leaf, &[], at)
            .map_err(|_| CertificateError::Chain)?;
        match *subject.identity.region() == self.region {
            true => Ok((subject.identity, subject.public_key)),
            false => Err(CertificateError::Chain),
        }
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyPair, LocalIdentity, RegionCa, ca};

    const NOW: UnixMs = UnixMs(1_795_000_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn certified(ca: &RegionCa, who: &str) -> LocalIdentity {
        let (identity, key): (Identity, _) = (who.parse().expect("valid"), KeyPair::generate());
        let request = ca::Request {
            identity: &identity,
            public_key: key.public_key(),
            dns_names: &[],
            ip_addresses: &[],
            now: NOW,
            validity: 2 * DAY,
        };
        let pem = ca.issue(&request).expect("certified");
        LocalIdentity::new(pem.as_bytes(), key).expect("it fits")
    }

    #[test]
    fn a_certificate_says_whose_it_is_where_the_pinned_ca_signed_it_for_that_time() {
        let zurich: RegionId = "ch-zrh".parse().expect("valid");
        let ca = RegionCa::create(zurich.clone(), NOW, 10 * DAY).expect("a CA");
        let of_same_name = RegionCa::create(zurich, NOW, 10 * DAY).expect("another CA");
        let own = certified(&ca, "spiffe://ch-zrh/client/backup-1");
        let at = |days: i64| UnixMs(NOW.0.saturating_add_signed(days * 24 * 3_600_000));
        let said = ca.trust().identify(&own.certificate(), at(1));
        let expected = (own.identity().clone(), own.public_key());
        assert_eq!(said, Ok(expected));
        let chain = Err(CertificateError::Chain);
        assert_eq!(
            ca.trust().identify(&own.certificate(), at(3)),
            chain,
            "over"
        );
        assert_eq!(
            ca.trust().identify(&own.certificate(), at(-2)),
            chain,
            "not yet"
        );
        let forged = certified(&of_same_name, "spiffe://ch-zrh/client/backup-1");
        assert_eq!(ca.trust().identify(&forged.certificate(), at(1)), chain);
        let ca_itself = ca.trust().identify(ca.certificate_der(), at(1));
        assert!(ca_itself.is_err(), "an authority is nobody");
        assert!(ca.trust().identify(b"none", at(1)).is_err());
    }
}
