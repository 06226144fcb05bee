//! What a region's members find on disk: CA, certificates, keys, genesis, configurations.
//!
//! Owns names and modes of these files: private keys are readable by their owner alone.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use envelope::HpkePrivateKey;
use prost::Message as _;
use proto::ids::{Identity, Role, UnixMs};
use proto::v1;
use transport::enrolment::{SetContents, new_set};
use transport::{KeyPair, PublicKey, RegionCa};

use crate::federation::{Kind, RegionEntry, Service};

/// Certificates of a local region are good for a year.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Operators every local region has: one asks, two approve.
pub const OPERATORS: [&str; 3] = ["op-1", "op-2", "op-3"];
/// Identities that seal and open.
pub const CLIENTS: [&str; 2] = ["app-1", "app-2"];
/// Reads the log.
pub const AUDITOR: &str = "auditor-1";

/// The wall clock.
pub fn now() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Names of a region's custodians.
pub fn custodians(count: u32) -> impl Iterator<Item = String> {
    (1..=count).map(|n| format!("custodian-{n}"))
}

/// Writes a file that only its owner may read.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.write_all(bytes)?;
    Ok(())
}

/// Makes an identity's key and certificate and returns its enrolment.
pub fn make_identity(
    region: &RegionEntry,
    ca: &RegionCa,
    role: Role,
    name: &str,
) -> Result<v1::Enrolment> {
    certify(region, ca, role, name, &[])
}

fn certify(
    region: &RegionEntry,
    ca: &RegionCa,
    role: Role,
    name: &str,
    ip_addresses: &[IpAddr],
) -> Result<v1::Enrolment> {
    let identity = Identity::new(region.region.clone(), role, name)?;
    let key = KeyPair::generate();
    let public_key: PublicKey = key.public_key();
    let (certificate_path, key_path) = region.identity_files(name);
    if let Some(dir) = key_path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let certificate = ca.issue(&transport::ca::Request {
        identity: &identity,
        public_key,
        dns_names: &[],
        ip_addresses,
        now: now(),
        validity: VALIDITY,
    })?;
    std::fs::write(certificate_path, certificate)?;
    write_private(&key_path, key.to_pem().as_bytes())?;
    let mut enrolment = v1::Enrolment {
        identity: identity.to_string(),
        public_key: public_key.as_spki().to_vec().into(),
        jurisdiction: region.jurisdiction.to_string(),
        ..v1::Enrolment::default()
    };
    if role == Role::Custodian {
        let hpke = HpkePrivateKey::generate()?;
        enrolment.hpke_public_key = hpke.public().as_bytes().to_vec().into();
        let seed = hex::encode(hpke.to_seed());
        write_private(&key_path.with_extension("hpke"), seed.as_bytes())?;
    }
    Ok(enrolment)
}

/// Reads a custodian's X-Wing key.
pub fn custodian_key(region: &RegionEntry, name: &str) -> Result<HpkePrivateKey> {
    let path = region.identity_files(name).1.with_extension("hpke");
    let mut seed = [0; 32];
    hex::decode_to_slice(std::fs::read_to_string(path)?.trim(), &mut seed)?;
    Ok(HpkePrivateKey::from_seed(&seed)?)
}

/// Makes the CA and every first identity, and has the CA sign the genesis set.
pub fn make_region(region: &mut RegionEntry, custodian_count: u32) -> Result<()> {
    std::fs::create_dir_all(&region.dir)?;
    let ca = RegionCa::create(region.region.clone(), now(), VALIDITY)?;
    std::fs::write(region.dir.join("ca.pem"), ca.certificate_pem())?;
    write_private(&region.dir.join("ca.key"), ca.key().to_pem().as_bytes())?;
    let mut enrolments = Vec::new();
    for service in region.services.clone() {
        enrolments.push(make_service(region, &ca, &service)?);
    }
    let people = OPERATORS.iter().map(|n| (Role::Operator, (*n).to_owned()));
    let people = people.chain(custodians(custodian_count).map(|n| (Role::Custodian, n)));
    let people = people.chain(CLIENTS.iter().map(|n| (Role::Client, (*n).to_owned())));
    let people = people.chain([(Role::Auditor, AUDITOR.to_owned())]);
    for (role, name) in people.collect::<Vec<_>>() {
        enrolments.push(make_identity(region, &ca, role, &name)?);
        region.identities.push(name);
    }
    let contents = SetContents {
        jurisdiction: region.jurisdiction.clone(),
        version: 1,
        signed_at: now(),
        enrolments,
        grants: grants(
            region.living(Kind::Gateway).next().is_some(),
            region.federated,
        ),
        approvals_min: 2,
    };
    let signed = ca.sign_set(&new_set(&ca.trust(), contents))?;
    std::fs::write(region.dir.join("genesis.set"), signed.encode_to_vec())?;
    Ok(())
}

/// A region that begins anew after it was lost: the same people and members, by a genesis set signed now. The cluster is
/// another one, so no member of before can be taken for one of it.
pub fn renew_genesis(region: &RegionEntry) -> Result<()> {
    let path = region.dir.join("genesis.set");
    let signed = v1::SignedEnrolmentSet::decode(&std::fs::read(&path)?[..])?;
    let set = v1::EnrolmentSet::decode(signed.set)?;
    let ca = ca_of(region)?;
    let contents = SetContents {
        jurisdiction: region.jurisdiction.clone(),
        version: 1,
        signed_at: now(),
        enrolments: set.enrolments,
        grants: set.grants,
        approvals_min: set.approvals_min,
    };
    let signed = ca.sign_set(&new_set(&ca.trust(), contents))?;
    std::fs::write(&path, signed.encode_to_vec())?;
    Ok(())
}

/// What local regions allow: clients and gateways everything with data, operators keys and nothing with data. Whom
/// gateways act for, where there is a gateway: a KMS of before access keys would not read that. Where there are other
/// regions, gateways move datasets from them, which operators make a place for.
fn grants(gateways: bool, federated: bool) -> Vec<v1::Grant> {
    use v1::Action::{Create, Keys, List, Read, Write};
    let grant = |principal: &str, actions: &[v1::Action], purposes: &[&str]| v1::Grant {
        principal: principal.to_owned(),
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: purposes
            .iter()
            .map(|purpose| (*purpose).to_owned())
            .collect(),
    };
    let mut grants = vec![
        grant(
            "role:client",
            &[Create, List, Read, Write],
            &["service", "multipart", client::RESEAL],
        ),
        grant(
            "role:gateway",
            &[Create, List, Read, Write],
            &["service", "multipart"],
        ),
        grant("role:operator", &[List, Keys], &["service"]),
        grant("role:auditor", &[List], &["service"]),
    ];
    if gateways {
        let may = [Create, List, Read, Write];
        grants.push(grant("role:service", &may, &["service", "multipart"]));
    }
    if federated {
        grants.push(grant("role:gateway", &[List, Read, Write], &["relocation"]));
        grants.push(grant("role:operator", &[Create], &["service"]));
    }
    grants
}

fn make_service(region: &RegionEntry, ca: &RegionCa, service: &Service) -> Result<v1::Enrolment> {
    let short = service.name.rsplit('/').next().unwrap_or_default();
    // S3 clients know a gateway by its address.
    let addresses: Vec<IpAddr> = match service.https.parse::<SocketAddr>() {
        Ok(address) => vec![address.ip()],
        Err(_) => Vec::new(),
    };
    let mut enrolment = certify(region, ca, service.kind.role(), short, &addresses)?;
    if service.kind != Kind::Gateway {
        enrolment.node_id = service.node_id;
        enrolment.endpoint.clone_from(&service.endpoint);
    }
    Ok(enrolment)
}

/// Enrols one more member with the CA at hand, as an operator would with a request from the new machine.
pub fn make_member(region: &RegionEntry, service: &Service) -> Result<v1::Enrolment> {
    make_service(region, &ca_of(region)?, service)
}

fn ca_of(region: &RegionEntry) -> Result<RegionCa> {
    let (certificate, key) = (region.dir.join("ca.pem"), region.dir.join("ca.key"));
    Ok(RegionCa::load(region.region.clone(), &certificate, &key)?)
}

/// How a service may take an empty folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// As a founder of the region, at its very first start.
    Found,
    /// As a new member of a living region.
    Join,
    /// Not at all: it has a folder, and an empty one is a lost disk.
    Member,
}

/// Writes a service's configuration.
pub fn write_config(region: &RegionEntry, service: &Service, admission: Admission) -> Result<()> {
    if service.kind == Kind::Gateway {
        return write_gateway_config(region, service);
    }
    let short = service.name.rsplit('/').next().unwrap_or_default();
    let (certificate, key) = region.identity_files(short);
    let mut config = toml::Table::new();
    let mut set =
        |key: &str, value: String| config.insert(key.to_owned(), toml::Value::String(value));
    set("region", region.region.to_string());
    set("jurisdiction", region.jurisdiction.to_string());
    set("data_dir", service.data.display().to_string());
    set("listen", service.endpoint.clone());
    set("advertise", service.endpoint.clone());
    set("certificate", certificate.display().to_string());
    set("key", key.display().to_string());
    set("ca", region.dir.join("ca.pem").display().to_string());
    set(
        "genesis",
        region.dir.join("genesis.set").display().to_string(),
    );
    set("health_listen", service.health.clone());
    if !service.log_http.is_empty() {
        set("log_listen", service.log_http.clone());
    }
    if !service.federation.is_empty() {
        set("federation_listen", service.federation.clone());
    }
    let id = i64::try_from(service.node_id).context("a member id beyond 63 bits")?;
    config.insert("node_id".to_owned(), toml::Value::Integer(id));
    match admission {
        Admission::Found => config.insert("found".to_owned(), toml::Value::Boolean(true)),
        Admission::Join => config.insert("join".to_owned(), toml::Value::Boolean(true)),
        Admission::Member => None,
    };
    if service.kind == Kind::Node {
        if let Some(seconds) = region.upload_epoch_seconds {
            let seconds = toml::Value::Integer(seconds.into());
            config.insert("upload_epoch_seconds".to_owned(), seconds);
        }
        let kms = region
            .living(Kind::Kms)
            .map(|kms| toml::Value::String(kms.endpoint.clone()));
        config.insert("kms".to_owned(), toml::Value::Array(kms.collect()));
    }
    std::fs::create_dir_all(&service.data)?;
    std::fs::write(&service.config, toml::to_string_pretty(&config)?)?;
    Ok(())
}

fn write_gateway_config(region: &RegionEntry, service: &Service) -> Result<()> {
    let short = service.name.rsplit('/').next().unwrap_or_default();
    let context = region.context(short);
    let text = |path: &Path| toml::Value::String(path.display().to_string());
    let endpoints = |all: Vec<String>| {
        let all = all.into_iter().map(toml::Value::String);
        toml::Value::Array(all.collect())
    };
    let config = [
        ("region", toml::Value::String(region.region.to_string())),
        ("nodes", endpoints(context.nodes)),
        ("kms", endpoints(context.kms)),
        ("ca", text(&context.ca)),
        ("certificate", text(&context.certificate)),
        ("key", text(&context.key)),
        ("listen", toml::Value::String(service.endpoint.clone())),
        ("tls_listen", toml::Value::String(service.https.clone())),
        ("tls_certificate", text(&context.certificate)),
        ("tls_key", text(&context.key)),
        ("health_listen", toml::Value::String(service.health.clone())),
    ];
    let config: toml::Table = config
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    std::fs::create_dir_all(&service.data)?;
    std::fs::write(&service.config, toml::to_string_pretty(&config)?)?;
    Ok(())
}
