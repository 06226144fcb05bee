//! A region's certificate authority, as the init ceremony and the launcher use it.
//!
//! Owns the CA key while it runs; no daemon holds one. Issues certificates of identities of its own region, and
//! signs the region's first enrolment set, version 1, and no later one: from then on the KMS decides.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use prost::Message as _;
use proto::ids::{Identity, RegionId, UnixMs};
use proto::v1;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;

use crate::certificate::{CertificateError, RegionTrust};
use crate::enrolment::SET_LABEL;
use crate::keys::{KeyError, KeyPair, PublicKey};

/// How long before now a certificate starts: hosts whose clock lags by less accept it at once.
const BACKDATE: Duration = Duration::from_secs(300);
/// RFC 5280 knows no year beyond 9999. Seconds since the Unix epoch.
const YEAR_10000_S: u64 = 253_402_300_800;

/// Why the CA would not.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its key file.
    #[error("key of the certificate authority")]
    Key(#[source] KeyError),
    /// Its certificate.
    #[error("certificate of the certificate authority")]
    Certificate(#[source] CertificateError),
    /// Key and certificate do not belong together.
    #[error("certificate of the certificate authority is for another key")]
    OtherKey,
    /// The identity is of another region.
    #[error("{identity} is not of region {region}")]
    OtherRegion {
        /// Whom a certificate was asked for.
        identity: Identity,
        /// This CA's region.
        region: RegionId,
    },
    /// A DNS name is not ASCII, or a time is out of range.
    #[error("certificate request holds an invalid {0}")]
    Invalid(&'static str),
    /// Building the certificate failed.
    #[error("certificate could not be built")]
    Build(#[source] rcgen::Error),
    /// The CA signs version 1 of its own region and with its own certificate; the KMS signs the others.
    #[error("the certificate authority signs only version 1 of its own region's enrolment set")]
    NotFirstSet,
}

/// Whom to certify, and for how long.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// Who; of this CA's region.
    pub identity: &'a Identity,
    /// The identity's one key.
    pub public_key: PublicKey,
    /// DNS names it serves under, for clients that check names (S3); our own processes check the identity.
    pub dns_names: &'a [String],
    /// Addresses it serves under.
    pub ip_addresses: &'a [IpAddr],
    /// Now.
    pub now: UnixMs,
    /// From now.
    pub validity: Duration,
}

/// A region's certificate authority.
pub struct RegionCa {
    region: RegionId,
    certificate: CertificateDer<'static>,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl RegionCa {
    /// A new CA with a fresh key, valid from `now` for `validity`.
    pub fn create(region: RegionId, now: UnixMs, validity: Duration) -> Result<Self, CaError> {
        let key = KeyPair::generate();
        let mut params = dated(now, validity)?;
        params.distinguished_name = common_name(&format!("Reduit CA {region}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(CaError::Build)?;
        Self::join(region, certificate.pem(), certificate.der().clone(), key)
    }

    /// Reads a CA from its PEM certificate and its key file (mode 0600).
    pub fn load(region: RegionId, certificate: &Path, key: &Path) -> Result<Self, CaError> {
        let pem = std::fs::read_to_string(certificate)
            .map_err(|_| CaError::Certificate(CertificateError::File))?;
        Self::from_pem(region, pem, KeyPair::load(key).map_err(CaError::Key)?)
    }

    /// Joins a CA's certificate with its key.
    pub fn from_pem(region: RegionId, pem: String, key: KeyPair) -> Result<Self, CaError> {
        let trust = RegionTrust::from_pem(region.clone(), &pem).map_err(CaError::Certificate)?;
        if trust.ca_key() != key.public_key() {
            return Err(CaError::OtherKey);
        }
        let der = CertificateDer::from(trust.ca_certificate().to_vec());
        Self::join(region, pem, der, key)
    }

    fn join(
        region: RegionId,
        pem: String,
        certificate: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Self, CaError> {
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(CaError::Build)?;
        Ok(Self {
            region,
            certificate,
            pem,
            issuer,
        })
    }

    /// Its certificate, as configurations pin it.
    pub fn certificate_pem(&self) -> &str {
        &self.pem
    }

    /// Its certificate, as enrolment sets hold it.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// Its key, for the ceremony to put away.
    pub fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// What everyone in the region pins.
    pub fn trust(&self) -> RegionTrust {
        RegionTrust::from_der(self.region.clone(), &self.certificate)
            .expect("a CA's own certificate was parsed when it was made or loaded")
    }

    /// Issues a certificate (PEM) good for both ends of TLS.
    pub fn issue(&self, request: &Request<'_>) -> Result<String, CaError> {
        if request.identity.region() != &self.region {
            let (identity, region) = (request.identity.clone(), self.region.clone());
            return Err(CaError::OtherRegion { identity, region });
        }
        let mut params = dated(request.now, request.validity)?;
        let uri = request.identity.to_string();
        params.distinguished_name = common_name(&format!(
            "{}/{}",
            request.identity.role().as_str(),
            request.identity.name()
        ));
        let ia5 = |text: &str, what| text.try_into().map_err(|_| CaError::Invalid(what));
        params
            .subject_alt_names
            .push(SanType::URI(ia5(&uri, "identity")?));
        for name in request.dns_names {
            params
                .subject_alt_names
                .push(SanType::DnsName(ia5(name, "DNS name")?));
        }
        let addresses = request.ip_addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params
            .signed_by(&request.public_key, &self.issuer)
            .map_err(CaError::Build)?;
        Ok(certificate.pem())
    }

    /// Signs the region's first enrolment set. TLS certificates start with 0x30 and the label does not, so
    /// neither signature can pass for the other.
    pub fn sign_set(&self, set: &v1::EnrolmentSet) -> Result<v1::SignedEnrolmentSet, CaError> {
        let ours = set.version == 1
            && set.region == self.region.as_str()
            && set.ca_certificate.as_ref() == self.certificate.as_ref();
        if !ours {
            return Err(CaError::NotFirstSet);
        }
        let bytes = set.encode_to_vec();
        Ok(v1::SignedEnrolmentSet {
            signer: self.key().public_key().as_spki().to_vec().into(),
            signature: self.key().sign(SET_LABEL, &bytes).to_vec().into(),
            set: bytes.into(),
        })
    }
}

impl fmt::Debug for RegionCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionCa({})", self.region)
    }
}

fn dated(now: UnixMs, validity: Duration) -> Result<CertificateParams, CaError> {
    let at = |ms: u64| match ms / 1_000 {
        seconds if seconds < YEAR_10000_S => {
            Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds))
        }
        _ => Err(CaError::Invalid("time")),
    };
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| CaError::Invalid("serial number"))?;
    serial[0] &= 0x7f;
    let mut params = CertificateParams::default();
    params.not_before = at(now.0.saturating_sub(millis(BACKDATE)))?;
    params.not_after = at(now.0.saturating_add(millis(validity)))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
