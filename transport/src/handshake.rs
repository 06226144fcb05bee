//! How our TLS is set up and what can go wrong while two ends meet.
//!
//! Owns both rustls configurations: TLS 1.3 only, both sides authenticated, X25519MLKEM768, HTTP/2, no session
//! resumption and no early data. Refuses whatever [`Judge`] refuses, during the handshake, so that nothing of an
//! unwelcome peer's requests is ever read.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError as TlsCertificateError, ClientConfig, DigitallySignedStruct,
    DistinguishedName, Error as TlsError, OtherError, PeerIncompatible, ServerConfig,
    SignatureScheme, version::TLS13,
};

use crate::certificate::RegionTrust;
use crate::clock::{SharedClock, TlsTime};
use crate::identity::LocalIdentity;
use crate::peer::{Expect, Judge, PeerError};

/// Which key exchanges are offered and accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768 and nothing else: between our own processes, so that traffic recorded today stays closed
    /// to tomorrow's quantum computer.
    HybridOnly,
    /// X25519MLKEM768 first, then X25519 and the NIST curves: for peers that are not ours.
    HybridPreferred,
}

impl KeyExchange {
    pub(crate) fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = match self {
            Self::HybridOnly => vec![aws_lc_rs::kx_group::X25519MLKEM768],
            Self::HybridPreferred => vec![
                aws_lc_rs::kx_group::X25519MLKEM768,
                aws_lc_rs::kx_group::X25519,
                aws_lc_rs::kx_group::SECP256R1,
                aws_lc_rs::kx_group::SECP384R1,
            ],
        };
        Arc::new(provider)
    }
}

/// What the other end's TLS alert says about us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Our key is not enrolled there, or not under the identity of our certificate, or we are not whom it
    /// expected.
    NotEnrolled,
    /// Our certificate is not signed by the CA it pins.
    UnknownCa,
    /// Our certificate is outside its validity, by the other end's clock.
    Expired,
    /// It wants a certificate.
    NoCertificate,
    /// No key exchange, cipher or signature in common.
    NothingInCommon,
    /// It wants another TLS version.
    Version,
    /// Another alert (RFC 8446 section 6.2).
    Alert(u8),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotEnrolled => f.write_str("our key is not enrolled there under our identity"),
            Self::UnknownCa => f.write_str("our certificate is not signed by the CA it pins"),
            Self::Expired => f.write_str("our certificate has expired or is not valid yet"),
            Self::NoCertificate => f.write_str("it wants a certificate"),
            Self::NothingInCommon => f.write_str("no key exchange or cipher in common"),
            Self::Version => f.write_str("it wants another TLS version"),
            Self::Alert(code) => write!(f, "TLS alert {code}"),
        }
    }
}

/// Why two ends did not come together.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The chain is good and the peer still may not act.
    #[error("peer refused")]
    Peer(#[source] PeerError),
    /// Its certificate is signed by someone else.
    #[error("peer's certificate is not signed by the region's pinned certificate authority")]
    UnknownCa,
    /// Its certificate is outside its validity, by this host's clock.
    #[error("peer's certificate has expired or is not valid yet")]
    Expired,
    /// Its certificate is wrong in another way.
    #[error("peer's certificate is not acceptable")]
    Certificate(#[source] TlsError),
    /// It presented none.
    #[error("peer presented no certificate")]
    NoCertificate,
    /// It does not speak TLS 1.3.
    #[error("peer does not offer TLS 1.3")]
    Version,
    /// It does not offer the hybrid key exchange.
    #[error("peer does not offer key exchange X25519MLKEM768")]
    KeyExchange,
    /// The other end refused us.
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    /// TLS failed otherwise.
    #[error("TLS failed")]
    Tls(#[source] TlsError),
    /// The other end did not finish in time.
    #[error("handshake timed out")]
    TimedOut,
    /// The connection could not be made or broke.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// What was to be connected to is no `host:port`.
    #[error("endpoint is not host:port")]
    Endpoint,
}

impl HandshakeError {
    /// The handshake error in the chain of a tonic status or transport error, if that is what failed.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        crate::fault::find_source(error)
    }

    /// Whether the peer was one of ours by its certificate: worth a WARN rather than the INFO of a port scan.
    pub(crate) fn is_of_ours(&self) -> bool {
        matches!(self, Self::Peer(_) | Self::Expired | Self::Refused(_))
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        // rustls errors travel inside io::Error::other.
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<TlsError>())
        {
            Some(tls) => Self::from(tls.clone()),
            None => Self::Io(error),
        }
    }
}

impl From<TlsError> for HandshakeError {
    fn from(error: TlsError) -> Self {
        use TlsCertificateError as Bad;
        match &error {
            TlsError::InvalidCertificate(Bad::Other(OtherError(inner))) => {
                match inner.downcast_ref::<PeerError>() {
                    Some(peer) => Self::Peer(peer.clone()),
                    None => Self::Certificate(error),
                }
            }
            TlsError::InvalidCertificate(Bad::UnknownIssuer) => Self::UnknownCa,
            TlsError::InvalidCertificate(
                Bad::Expired
                | Bad::ExpiredContext { .. }
                | Bad::NotValidYet
                | Bad::NotValidYetContext { .. },
            ) => Self::Expired,
            TlsError::InvalidCertificate(_) => Self::Certificate(error),
            TlsError::NoCertificatesPresented => Self::NoCertificate,
            TlsError::PeerIncompatible(why) => match why {
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled => Self::Version,
                PeerIncompatible::NoKxGroupsInCommon => Self::KeyExchange,
                _ => Self::Tls(error),
            },
            TlsError::AlertReceived(alert) => Self::Refused(refusal(*alert)),
            _ => Self::Tls(error),
        }
    }
}

fn refusal(alert: AlertDescription) -> Refusal {
    match alert {
        // What rustls sends for CertificateError::Other, in which our own refusals travel.
        AlertDescription::CertificateUnknown | AlertDescription::AccessDenied => {
            Refusal::NotEnrolled
        }
        AlertDescription::UnknownCA => Refusal::UnknownCa,
        AlertDescription::CertificateExpired => Refusal::Expired,
        AlertDescription::CertificateRequired => Refusal::NoCertificate,
        AlertDescription::HandshakeFailure => Refusal::NothingInCommon,
        AlertDescription::ProtocolVersion => Refusal::Version,
        other => Refusal::Alert(other.into()),
    }
}

pub(crate) fn server_config(
    local: &LocalIdentity,
    judge: Judge,
    clock: &SharedClock,
    key_exchange: KeyExchange,
) -> ServerConfig {
    let provider = key_exchange.provider();
    let verifier: Arc<dyn ClientCertVerifier> = match judge {
        // A listener has no `Described`: it would admit that region's processes by the same rule.
        Judge::Federated(_) | Judge::Described(_) => Arc::new(ForeignVerifier {
            judge,
            provider: provider.clone(),
        }),
        Judge::Enrolled(ref enrolments, _) => {
            let chain = chain_to(enrolments.trust(), &provider);
            Arc::new(ClientVerifier { chain, judge })
        }
        Judge::Pinned(ref trust) => {
            let chain = chain_to(trust, &provider);
            Arc::new(ClientVerifier { chain, judge })
        }
    };
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(TlsTime(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(local.clone()));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session skips the certificate, and with it the enrolment: none is ever offered.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

pub(crate) fn client_config(
    local: &LocalIdentity,
    judge: Judge,
    expect: Expect,
    clock: &SharedClock,
    key_exchange: KeyExchange,
) -> ClientConfig {
    let provider = key_exchange.provider();
    let verifier = Arc::new(ServerVerifier {
        judge,
        expect,
        provider: provider.clone(),
    });
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(TlsTime(clock.clone())))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(local.clone()));
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    // The server is checked by identity; its name would only tell the network whom we call.
    config.enable_sni = false;
    config
}

fn chain_to(trust: &RegionTrust, provider: &Arc<CryptoProvider>) -> Arc<dyn ClientCertVerifier> {
    WebPkiClientVerifier::builder_with_provider(trust.roots(), provider.clone())
        .build()
        .expect("a trust holds one CA and no revocation lists")
}

fn refused(error: PeerError) -> TlsError {
    TlsError::InvalidCertificate(TlsCertificateError::Other(OtherError(Arc::new(error))))
}

/// A CA of the same name as the pinned one (a region founded twice, or a forger) shows as a bad signature in the
/// chain. It is another CA, and so both ends shall say.
fn another_ca(error: TlsError) -> TlsError {
    match error {
        TlsError::InvalidCertificate(TlsCertificateError::BadSignature) => {
            TlsError::InvalidCertificate(TlsCertificateError::UnknownIssuer)
        }
        other => other,
    }
}

/// webpki's chain check (CA, validity, client usage), then ours.
#[derive(Debug)]
struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    judge: Judge,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let verified = self
            .chain
            .verify_client_cert(leaf, intermediates, now)
            .map_err(another_ca)?;
        self.judge.admit(leaf, None).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// As [`ClientVerifier`], with the one CA that is pinned for the region that the certificate names: never one store of
/// several, in which each CA could speak for every region.
#[derive(Debug)]
struct ForeignVerifier {
    judge: Judge,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for ForeignVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Which regions are trusted is no stranger's business.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        let trust = self.judge.trust_for(leaf).map_err(refused)?;
        let verified = chain_to(&trust, &self.provider)
            .verify_client_cert(leaf, intermediates, now)
            .map_err(another_ca)?;
        self.judge.admit(leaf, None).map_err(refused)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// webpki's chain check (CA, validity, server usage), then ours in place of the DNS name's.
#[derive(Debug)]
struct ServerVerifier {
    judge: Judge,
    expect: Expect,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let trust = self.judge.trust_for(leaf).map_err(refused)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &trust.roots(),
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(another_ca)?;
        self.judge
            .admit(leaf, Some(&self.expect))
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
