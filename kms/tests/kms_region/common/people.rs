//! The identities around a region: replicas, operators, custodians, callers, and the CA that certified them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use envelope::{HpkeInfo, HpkePrivateKey, hpke_open};
use proto::ids::{Identity, RegionId, Role};
use proto::transcript;
use proto::v1;
use transport::ca::Request;
use transport::enrolment::{SetContents, new_set};
use transport::{KeyPair, LocalIdentity, RegionCa};
use zeroize::Zeroizing;

use super::{SHARES, now, role_of};

/// The region of every test that does not say which.
pub(crate) const REGION: &str = "ch-zrh";
/// Its jurisdiction.
pub(super) const JURISDICTION: &str = "CH";
/// Longer than the clocks of a test are set ahead.
const VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);

/// The region's id.
pub(crate) fn region_id() -> RegionId {
    REGION.parse().expect("a region id")
}

/// An identity of the region by its name, such as `kms-1` or `op-2`.
pub(crate) fn identity(name: &str) -> Identity {
    Identity::new(region_id(), role_of(name), name).expect("an identity")
}

struct Person {
    local: LocalIdentity,
    certificate: String,
    key_pem: Zeroizing<String>,
    endpoint: String,
    node_id: u64,
}

/// Everyone.
pub(crate) struct People {
    region: RegionId,
    jurisdiction: &'static str,
    ca: RegionCa,
    people: BTreeMap<String, Person>,
    custodians: BTreeMap<String, HpkePrivateKey>,
}

impl People {
    /// Replicas at `endpoints`, three operators, custodians, an application, a stranger to all grants, a gateway, auditors.
    pub(crate) fn of_region(
        (region, jurisdiction): (&str, &'static str),
        endpoints: &[String],
    ) -> Self {
        let region: RegionId = region.parse().expect("a region id");
        let ca = RegionCa::create(region.clone(), now(), VALIDITY).expect("a CA");
        let mut people = Self {
            region,
            jurisdiction,
            ca,
            people: BTreeMap::new(),
            custodians: BTreeMap::new(),
        };
        for (at, endpoint) in endpoints.iter().enumerate() {
            people.add(&format!("kms-{}", at + 1), endpoint, at as u64 + 1);
        }
        for name in [
            "op-1",
            "op-2",
            "op-3",
            "app",
            "stranger",
            "gateway-1",
            "auditor-1",
            "auditor-2",
        ] {
            people.add(name, "", 0);
        }
        for at in 1..=SHARES {
            let name = format!("custodian-{at}");
            people.add(&name, "", 0);
            people
                .custodians
                .insert(name, HpkePrivateKey::generate().expect("room"));
        }
        people
    }

    pub(crate) fn region(&self) -> &RegionId {
        &self.region
    }

    pub(crate) fn jurisdiction(&self) -> &str {
        self.jurisdiction
    }

    /// An identity of their region by its name.
    pub(crate) fn identity(&self, name: &str) -> Identity {
        Identity::new(self.region.clone(), role_of(name), name).expect("an identity")
    }

    /// Certifies one more identity; it is enrolled only where a set says so.
    pub(crate) fn add(&mut self, name: &str, endpoint: &str, node_id: u64) {
        let key = KeyPair::generate();
        let identity = self.identity(name);
        let request = Request {
            identity: &identity,
            public_key: key.public_key(),
            dns_names: &[],
            ip_addresses: &[],
            now: now(),
            validity: VALIDITY,
        };
        let certificate = self.ca.issue(&request).expect("issued");
        let key_pem = key.to_pem();
        let local = LocalIdentity::new(certificate.as_bytes(), key).expect("joined");
        let endpoint = endpoint.to_owned();
        let person = Person {
            local,
            certificate,
            key_pem,
            endpoint,
            node_id,
        };
        self.people.insert(name.to_owned(), person);
    }

    /// Certifies one more custodian, with a key for shares.
    pub(crate) fn add_custodian(&mut self, name: &str) {
        self.add(name, "", 0);
        let key = HpkePrivateKey::generate().expect("room");
        self.custodians.insert(name.to_owned(), key);
    }

    /// New keys for the replicas of a cluster that takes the place of one that is gone.
    pub(crate) fn replace_replicas(&mut self, endpoints: &[String]) {
        self.people.retain(|name, _| role_of(name) != Role::Kms);
        for (at, endpoint) in endpoints.iter().enumerate() {
            self.add(&format!("kms-{}", at + 1), endpoint, at as u64 + 1);
        }
    }

    /// Key and certificate of one.
    pub(crate) fn local(&self, name: &str) -> &LocalIdentity {
        &self.people[name].local
    }

    pub(crate) fn certificate(&self, name: &str) -> &str {
        &self.people[name].certificate
    }

    pub(crate) fn ca_pem(&self) -> &str {
        self.ca.certificate_pem()
    }

    pub(crate) fn ca(&self) -> &RegionCa {
        &self.ca
    }

    pub(crate) fn write_key(&self, name: &str, path: &Path) {
        let key = KeyPair::from_pem(&self.people[name].key_pem).expect("a key");
        key.write_new(path).expect("a key file");
    }

    /// One's enrolment.
    pub(crate) fn enrolment(&self, name: &str) -> v1::Enrolment {
        let person = &self.people[name];
        let custodian = self.custodians.get(name);
        v1::Enrolment {
            identity: self.identity(name).to_string(),
            public_key: person.local.public_key().as_spki().to_vec().into(),
            node_id: person.node_id,
            endpoint: person.endpoint.clone(),
            jurisdiction: self.jurisdiction.to_owned(),
            hpke_public_key: custodian
                .map(|key| key.public().as_bytes().to_vec().into())
                .unwrap_or_default(),
        }
    }

    /// The first enrolment set: everyone, and these grants.
    pub(crate) fn genesis(&self, grants: &[v1::Grant]) -> v1::SignedEnrolmentSet {
        let everyone = self
            .people
            .keys()
            .map(|name| self.enrolment(name))
            .collect();
        let jurisdiction = self.jurisdiction.parse().expect("a jurisdiction");
        let contents = SetContents {
            jurisdiction,
            version: 1,
            signed_at: now(),
            enrolments: everyone,
            grants: grants.to_vec(),
            approvals_min: 2,
        };
        let set = new_set(&self.ca.trust(), contents);
        self.ca.sign_set(&set).expect("signed")
    }

    /// A custodian opens the share that the ceremony sealed to it.
    pub(crate) fn open_share(&self, share: &v1::SealedShare) -> Zeroizing<Vec<u8>> {
        let custodian: Identity = share.custodian.parse().expect("an identity");
        let index = share.index.to_be_bytes();
        let info = HpkeInfo::of(&transcript::custodian_share_info(
            self.region.as_str(),
            &share.share_set,
            &index,
            &share.custodian,
        ));
        let key = &self.custodians[custodian.name()];
        hpke_open(key, &info, b"", &share.sealed).expect("the share opens for its custodian")
    }
}

impl People {
    /// A holder opens the half of a token's seal that was sealed to it.
    pub(crate) fn open_half(&self, half: &v1::SealedHalf) -> Zeroizing<Vec<u8>> {
        let holder: Identity = half.holder.parse().expect("an identity");
        let region = self.region.as_str();
        let parts = transcript::holder_half_info(region, &half.seal_id, &half.holder);
        let key = &self.custodians[holder.name()];
        let opened = hpke_open(key, &HpkeInfo::of(&parts), b"", &half.sealed);
        opened.expect("the half opens for its holder")
    }
}

/// What the application may do: everything with every dataset, for the service.
pub(super) fn all_to_app() -> v1::Grant {
    let actions = [
        v1::Action::Create,
        v1::Action::List,
        v1::Action::Read,
        v1::Action::Write,
        v1::Action::Keys,
    ];
    v1::Grant {
        principal: identity("app").to_string(),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: Vec::new(),
    }
}

/// A role of a name, for those who build identities themselves.
pub(super) fn role(name: &str) -> Role {
    role_of(name)
}
