//! What targets are set against: one region with fixed keys, members and time.
//!
//! Owns them. Everything that an input may name or be signed with is the same in every process, so that a kept input
//! means the same for ever; the keys are of no other use.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use proto::ids::{DatasetId, Identity, Jurisdiction, RegionId, Role, UnixMs};
use proto::v1;
use transport::enrolment::{EnrolmentTable, SetContents, new_set};
use transport::{Clock, Enrolments, KeyPair, LocalIdentity, RegionCa, RegionTrust, SharedClock};

/// When it is.
pub(crate) const NOW: UnixMs = UnixMs(1_790_000_000_000);
/// A dataset that is there.
pub(crate) const DATASET: DatasetId = DatasetId([0xD5; 16]);

/// PKCS#8 of an Ed25519 key up to its 32 bytes (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2E, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

pub(crate) fn region() -> RegionId {
    "ch-zrh".parse().expect("a valid region")
}

pub(crate) fn jurisdiction() -> Jurisdiction {
    "CH".parse().expect("a valid jurisdiction")
}

/// PKCS#8 of the key of that number.
pub(crate) fn pkcs8(number: u8) -> Vec<u8> {
    [&PKCS8_PREFIX[..], &[number; 32]].concat()
}

/// The key of that number.
pub(crate) fn key(number: u8) -> KeyPair {
    KeyPair::from_pkcs8(&pkcs8(number)).expect("every 32 bytes are an Ed25519 key")
}

/// Time stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> UnixMs {
        NOW
    }
}

pub(crate) fn clock() -> SharedClock {
    Arc::new(Still)
}

/// The region's CA. Its certificate is the same in every process: fixed key, serial number and dates.
pub(crate) fn ca() -> &'static RegionCa {
    static CA: OnceLock<RegionCa> = OnceLock::new();
    CA.get_or_init(|| {
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2045, 1, 1);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[7]));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = key(CA_KEY);
        let certificate = params.self_signed(&key).expect("a certificate of its own");
        RegionCa::from_pem(region(), certificate.pem(), key).expect("its own key")
    })
}

pub(crate) fn trust() -> RegionTrust {
    ca().trust()
}

/// The number of the CA's key.
pub(crate) const CA_KEY: u8 = 200;

/// A member or person of the region, whose key is that of a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) role: Role,
    pub(crate) name: &'static str,
    pub(crate) key: u8,
    pub(crate) node_id: u64,
}

const fn known(role: Role, name: &'static str, key: u8, node_id: u64) -> Known {
    Known {
        role,
        name,
        key,
        node_id,
    }
}

pub(crate) const KMS: Known = known(Role::Kms, "k1", 1, 1);
pub(crate) const NODE: Known = known(Role::Node, "n1", 4, 1);
pub(crate) const CLIENT: Known = known(Role::Client, "app-1", 7, 0);
pub(crate) const OPERATOR: Known = known(Role::Operator, "op-1", 8, 0);
pub(crate) const APPROVER: Known = known(Role::Operator, "op-2", 9, 0);

/// Everybody.
pub(crate) const ALL: [Known; 11] = [
    KMS,
    known(Role::Kms, "k2", 2, 2),
    known(Role::Kms, "k3", 3, 3),
    NODE,
    known(Role::Node, "n2", 5, 2),
    known(Role::Node, "n3", 6, 3),
    CLIENT,
    OPERATOR,
    APPROVER,
    known(Role::Operator, "op-3", 10, 0),
    known(Role::Auditor, "a1", 11, 0),
];

impl Known {
    pub(crate) fn identity(&self) -> Identity {
        Identity::new(region(), self.role, self.name).expect("a valid name")
    }

    pub(crate) fn enrolment(&self) -> v1::Enrolment {
        v1::Enrolment {
            identity: self.identity().to_string(),
            public_key: key(self.key).public_key().as_spki().to_vec().into(),
            node_id: self.node_id,
            endpoint: format!("127.0.0.1:{}", 7000 + u16::from(self.key)),
            jurisdiction: jurisdiction().to_string(),
            ..v1::Enrolment::default()
        }
    }

    /// Its certificate, PEM.
    pub(crate) fn certificate(&self) -> String {
        let request = transport::ca::Request {
            identity: &self.identity(),
            public_key: key(self.key).public_key(),
            dns_names: &[],
            ip_addresses: &[],
            now: NOW,
            validity: Duration::from_secs(3600),
        };
        ca().issue(&request).expect("an identity of the region")
    }

    /// It, able to sign.
    pub(crate) fn local(&self) -> LocalIdentity {
        LocalIdentity::new(self.certificate().as_bytes(), key(self.key)).expect("its own key")
    }
}

/// What the region allows.
pub(crate) fn grants() -> Vec<v1::Grant> {
    use v1::Action::{Create, Keys, List, Read, Write};
    let grant = |principal: &str, actions: &[v1::Action], purposes: &[&str]| v1::Grant {
        principal: principal.to_owned(),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: purposes.iter().map(|text| (*text).to_owned()).collect(),
    };
    vec![
        grant(
            "role:client",
            &[Create, List, Read, Write],
            &["service", "multipart"],
        ),
        grant("role:operator", &[List, Keys], &[]),
        grant("role:auditor", &[Read], &["investigation"]),
    ]
}

/// The enrolment set of a version, in the form that is signed.
pub(crate) fn set(version: u64) -> v1::EnrolmentSet {
    let contents = SetContents {
        jurisdiction: jurisdiction(),
        version,
        signed_at: NOW,
        enrolments: ALL.iter().map(Known::enrolment).collect(),
        grants: grants(),
        approvals_min: 2,
    };
    new_set(&trust(), contents)
}

/// The first set, signed by the CA.
pub(crate) fn first_set() -> v1::SignedEnrolmentSet {
    ca().sign_set(&set(1)).expect("the region's first set")
}

/// The first set in force.
pub(crate) fn enrolments() -> Enrolments {
    Enrolments::bootstrap(trust(), &first_set(), clock()).expect("a valid first set")
}

/// The table of the first set.
pub(crate) fn table() -> &'static EnrolmentTable {
    static TABLE: OnceLock<Arc<EnrolmentTable>> = OnceLock::new();
    TABLE.get_or_init(|| enrolments().current())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_the_same_in_every_process() {
        let certificate = tlog::sha256(&[ca().certificate_der()]).to_string();
        assert_eq!(
            certificate, CERTIFICATE,
            "kept inputs name the CA by its bytes"
        );
        assert_eq!(table().version(), 1);
    }

    const CERTIFICATE: &str = "IvBHdc8A21DtrB3bfppc0rtN8c4twLSaKr/DMZIJorg=";
}
