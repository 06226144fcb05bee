//! `DIR/federation.json`: everything the launcher made, for people and programs.
//!
//! Owns its format. Written whole after every change, so that `down` and `status` work after a crash of the launcher.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use proto::ids::{Jurisdiction, RegionId, Role};
use serde::{Deserialize, Serialize};

/// The launcher's record of what it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Federation {
    /// Format version: 1.
    pub format: u32,
    /// The folder, absolute.
    pub dir: PathBuf,
    /// Context file for the `reduit` command: one context a region, named like it.
    pub contexts: PathBuf,
    /// Every region.
    pub regions: Vec<RegionEntry>,
}

/// One region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegionEntry {
    /// Its id.
    pub region: RegionId,
    /// Its jurisdiction.
    pub jurisdiction: Jurisdiction,
    /// Its folder: CA, keys, genesis, shares.
    pub dir: PathBuf,
    /// Shard groups it was founded with.
    pub shards: u32,
    /// How many shares unseal.
    pub shares_needed: u32,
    /// Seconds of an upload epoch; the nodes' default when absent.
    #[serde(default)]
    pub upload_epoch_seconds: Option<u32>,
    /// Whether its members listen for other regions.
    #[serde(default)]
    pub federated: bool,
    /// Whether the ceremony is done and the groups are founded.
    pub founded: bool,
    /// Its processes.
    pub services: Vec<Service>,
    /// Names of identities without a process: operators, custodians, clients.
    pub identities: Vec<String>,
}

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A storage node.
    Node,
    /// A KMS replica.
    Kms,
    /// A gateway.
    Gateway,
}

impl Kind {
    /// Services of which a region can have several, in order of start.
    pub const ALL: [Self; 3] = [Self::Node, Self::Kms, Self::Gateway];

    /// What an identity of it is enrolled as.
    pub fn role(self) -> Role {
        match self {
            Self::Node => Role::Node,
            Self::Kms => Role::Kms,
            Self::Gateway => Role::Gateway,
        }
    }
}

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Service {
    /// `<region>/<name>`, such as `ch-zrh/n1`: what `kill` and `restart` take.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its member id; 0 for a gateway, which is no member.
    pub node_id: u64,
    /// Its identity.
    pub identity: String,
    /// Where it listens, `host:port`: a gateway for S3 in clear.
    pub endpoint: String,
    /// Where a gateway serves S3 over TLS, under the region's CA; empty for others.
    #[serde(default)]
    pub https: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are.
    pub health: String,
    /// Where a KMS replica serves the log's checkpoints and hash tiles; empty for a storage node.
    #[serde(default)]
    pub log_http: String,
    /// Where a KMS replica or a storage node listens for other regions; empty where it does not: a region that is alone
    /// has nobody to meet.
    #[serde(default)]
    pub federation: String,
    /// Its configuration.
    pub config: PathBuf,
    /// Its data.
    pub data: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Its process id; 0 when it is not running.
    pub pid: u32,
    /// Whether it is enrolled, may run, and is no member yet.
    #[serde(default)]
    pub joining: bool,
    /// Whether it has been taken out of the region for good.
    pub removed: bool,
}

impl Federation {
    /// Reads `DIR/federation.json`.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("federation.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read: was `up` run there?", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Writes it whole, or leaves the old one.
    pub fn save(&self) -> Result<()> {
        let path = self.dir.join("federation.json");
        let fresh = self.dir.join("federation.json.new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&fresh, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The region of that id.
    pub fn region(&self, id: &str) -> Result<&RegionEntry> {
        self.regions
            .iter()
            .find(|r| r.region.as_str() == id)
            .with_context(|| format!("no region {id} here"))
    }

    pub(crate) fn region_mut(&mut self, id: &str) -> Result<&mut RegionEntry> {
        self.regions
            .iter_mut()
            .find(|r| r.region.as_str() == id)
            .with_context(|| format!("no region {id} here"))
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.regions
            .iter()
            .flat_map(|region| &region.services)
            .find(|service| service.name == name)
            .with_context(|| format!("no service {name}; `status` lists them"))
    }

    pub(crate) fn service_mut(&mut self, name: &str) -> Result<&mut Service> {
        self.regions
            .iter_mut()
            .flat_map(|region| &mut region.services)
            .find(|service| service.name == name)
            .with_context(|| format!("no service {name}; `status` lists them"))
    }
}

impl RegionEntry {
    /// Services in the region now.
    pub fn living(&self, kind: Kind) -> impl Iterator<Item = &Service> {
        self.services
            .iter()
            .filter(move |service| service.kind == kind && !service.removed)
    }

    /// Certificate and key files of one of its identities.
    pub fn identity_files(&self, name: &str) -> (PathBuf, PathBuf) {
        let dir = self.dir.join("identities");
        (
            dir.join(format!("{name}.pem")),
            dir.join(format!("{name}.key")),
        )
    }

    /// How to reach it as one of its identities.
    pub fn context(&self, name: &str) -> client::Context {
        let (certificate, key) = self.identity_files(name);
        let endpoints = |kind| {
            self.living(kind)
                .map(|service| service.endpoint.clone())
                .collect()
        };
        client::Context {
            region: self.region.clone(),
            nodes: endpoints(Kind::Node),
            kms: endpoints(Kind::Kms),
            ca: self.dir.join("ca.pem"),
            certificate,
            key,
        }
    }
}
