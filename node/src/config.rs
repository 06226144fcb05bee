//! The configuration file of a storage node: TOML, every key documented here.
//!
//! Owns parsing and the bounds on what a file may ask for. Refuses unknown keys and values out of their bounds: a node
//! that starts has a configuration that holds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use proto::ids::{Jurisdiction, NodeId, RegionId};
use proto::v1;
use serde::Deserialize;

/// The first line of a genesis file that was copied from a daemon's own enrolment file.
const ENROLMENT_FILE_HEADER: &[u8] = b"reduit/enrolments/1\n";
/// A genesis file is an enrolment set of a young region.
const GENESIS_BYTES_MAX: u64 = 64 << 20;

/// What a storage node is told at start. Paths are relative to the working directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The region this node belongs to, such as `ch-zrh`.
    pub region: RegionId,
    /// The region's jurisdiction, such as `CH`.
    pub jurisdiction: Jurisdiction,
    /// This node's member id: as enrolled, never reused.
    pub node_id: u64,
    /// Where log, states and blocks live. One process at a time.
    pub data_dir: PathBuf,
    /// Where to listen for mTLS: clients, gateways, operators, the KMS and peers.
    pub listen: SocketAddr,
    /// `host:port` at which others reach `listen`; empty means `listen` itself.
    #[serde(default)]
    pub advertise: String,
    /// PEM certificate of this node's identity.
    pub certificate: PathBuf,
    /// PEM private key of it; mode 0600.
    pub key: PathBuf,
    /// PEM certificate of the region's CA, the only one trusted.
    pub ca: PathBuf,
    /// The region's first enrolment set, signed by its CA.
    pub genesis: PathBuf,
    /// Endpoints (`host:port`) of the region's KMS, asked for enrolments besides those that are enrolled.
    #[serde(default)]
    pub kms: Vec<String>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served in clear; keep it inside. Absent: nowhere.
    #[serde(default)]
    pub health_listen: Option<SocketAddr>,
    /// Where to listen for mTLS of KMS replicas and gateways of other regions that this one trusts. Absent: nowhere.
    #[serde(default)]
    pub federation_listen: Option<SocketAddr>,
    /// `host:port` at which other regions reach `federation_listen`; empty means `federation_listen` itself.
    #[serde(default)]
    pub federation_advertise: String,
    /// Whether this is a new member of a living region: an empty folder under an enrolled id starts only so.
    #[serde(default)]
    pub join: bool,
    /// Whether an empty folder becomes a founder's: true at the very first start of a region, and taken out again once
    /// it is founded. Left in, a founder that lost its disk would start with no memory of what it voted.
    #[serde(default)]
    pub found: bool,
    /// Used share of the file system at which puts are refused, in percent: 50 to 98.
    #[serde(default = "default_full_percent")]
    pub full_percent: u64,
    /// Bytes left free on the file system that no block may take.
    #[serde(default = "default_reserve_bytes")]
    pub reserve_bytes: u64,
    /// Bytes of blocks on their way in, over all uploads: at least 8 MiB.
    #[serde(default = "default_upload_bytes_max")]
    pub upload_bytes_max: usize,
    /// Bytes a second that the scrubber re-reads; 0 turns it off.
    #[serde(default = "default_scrub_bytes")]
    pub scrub_bytes_per_s: u64,
    /// Seconds of an upload epoch: 1 to 86400. An upload and a request id live for 24 of them.
    #[serde(default = "default_epoch_seconds")]
    pub upload_epoch_seconds: u64,
    /// Lines of log as `text` or `json`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What to log, as `tracing` filters say it, such as `info` or `node=debug,info`.
    #[serde(default = "default_log")]
    pub log: String,
    /// A collector that spans of requests are sent to; absent: nowhere.
    #[serde(default)]
    pub otlp: Option<daemon::Otlp>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that could not be read.
    #[error("{} could not be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("{} is not a configuration", path.display())]
    Toml {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value out of its bounds.
    #[error("{key} must be {must}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// The genesis file does not decode.
    #[error("{} is not a signed enrolment set", path.display())]
    Genesis {
        /// Which file.
        path: PathBuf,
    },
}

/// What `--help` shows below the options.
pub const EXAMPLE: &str = r#"Example configuration:

  region = "ch-zrh"
  jurisdiction = "CH"
  node_id = 1
  data_dir = "/var/lib/reduit/node"
  listen = "10.0.0.21:7000"
  advertise = "node-1.ch-zrh.example:7000"
  certificate = "/etc/reduit/node.pem"
  key = "/etc/reduit/node.key"          # mode 0600
  ca = "/etc/reduit/ca.pem"
  genesis = "/etc/reduit/genesis.set"   # the first enrolment set, signed by the CA
  kms = ["kms-1.ch-zrh.example:7100"]   # besides those in the enrolment set
  health_listen = "127.0.0.1:7001"
  # federation_listen = "10.0.0.21:7200" # for KMS replicas and gateways of regions that this one trusts
  # federation_advertise = "node-1.ch-zrh.example:7200"
  # join = true                         # only for a new member of a living region
  # full_percent = 90                   # puts are refused from here on
  # reserve_bytes = 536870912
  # upload_bytes_max = 67108864
  # scrub_bytes_per_s = 8388608
  # upload_epoch_seconds = 3600
  # log = "info"
  # log_format = "json"
  #
  # [otlp] # a collector that spans of requests are sent to
  # endpoint = "http://127.0.0.1:4317"
  # sample = 0.01"#;

impl Config {
    /// How it logs.
    pub fn logging(&self) -> daemon::Logging<'_> {
        daemon::Logging {
            filter: &self.log,
            silent: &[],
            json: self.log_format == LogFormat::Json,
            otlp: self.otlp.as_ref(),
            service: "reduit-node",
            region: self.region.to_string(),
            instance: format!("n{}", self.node_id),
        }
    }

    /// Reads and checks a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|source| ConfigError::Toml {
            path: path.to_owned(),
            source: source.into(),
        })?;
        config.bounded()
    }

    /// Checks the bounds of a configuration that did not come from a file.
    pub fn bounded(self) -> Result<Self, ConfigError> {
        let value = |key, must| Err(ConfigError::Value { key, must });
        if self.node_id == 0 {
            return value("node_id", "above 0");
        }
        if !(50..=98).contains(&self.full_percent) {
            return value("full_percent", "50 to 98");
        }
        if self.upload_bytes_max < crate::blocks::BLOCK_BYTES_MAX as usize {
            return value("upload_bytes_max", "at least 8388608, one block");
        }
        if !(1..=86_400).contains(&self.upload_epoch_seconds) {
            return value("upload_epoch_seconds", "1 to 86400");
        }
        Ok(self)
    }

    /// This node's member id.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.node_id)
    }

    /// Where others reach this node.
    pub fn advertised(&self) -> String {
        match self.advertise.as_str() {
            "" => self.listen.to_string(),
            advertised => advertised.to_owned(),
        }
    }

    /// How long an upload epoch lasts.
    pub fn upload_epoch(&self) -> Duration {
        Duration::from_secs(self.upload_epoch_seconds)
    }

    /// The region's first enrolment set: the encoded message, with or without a daemon's file header before it.
    pub fn read_genesis(&self) -> Result<v1::SignedEnrolmentSet, ConfigError> {
        let path = &self.genesis;
        let file = |source| ConfigError::File {
            path: path.clone(),
            source,
        };
        if std::fs::metadata(path).map_err(file)?.len() > GENESIS_BYTES_MAX {
            return Err(ConfigError::Genesis { path: path.clone() });
        }
        let bytes = std::fs::read(path).map_err(file)?;
        let body = bytes.strip_prefix(ENROLMENT_FILE_HEADER).unwrap_or(&bytes);
        let signed = v1::SignedEnrolmentSet::decode(body)
            .map_err(|_| ConfigError::Genesis { path: path.clone() })?;
        if signed.set.is_empty() {
            return Err(ConfigError::Genesis { path: path.clone() });
        }
        Ok(signed)
    }

    /// PEM of the region's CA certificate.
    pub fn read_ca(&self) -> Result<String, ConfigError> {
        std::fs::read_to_string(&self.ca).map_err(|source| ConfigError::File {
            path: self.ca.clone(),
            source,
        })
    }
}

fn default_full_percent() -> u64 {
    90
}

fn default_reserve_bytes() -> u64 {
    512 << 20
}

fn default_upload_bytes_max() -> usize {
    64 << 20
}

fn default_scrub_bytes() -> u64 {
    8 << 20
}

fn default_epoch_seconds() -> u64 {
    3600
}

fn default_log() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> String {
        let lines = EXAMPLE
            .lines()
            .skip(2)
            .map(|line| line.trim().trim_start_matches("# "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_a_configuration_and_shows_the_defaults() {
        let config: Config = toml::from_str(&example()).expect("the example parses");
        assert!(config.join && config.log_format == LogFormat::Json);
        let bare: String = EXAMPLE
            .lines()
            .skip(2)
            .filter(|line| !line.trim().starts_with('#'))
            .fold(String::new(), |text, line| text + line + "\n");
        let defaults: Config = toml::from_str(&bare).expect("what is commented out is optional");
        assert!(!defaults.join);
        assert_eq!(defaults.full_percent, config.full_percent);
        assert_eq!(defaults.reserve_bytes, config.reserve_bytes);
        assert_eq!(defaults.upload_bytes_max, config.upload_bytes_max);
        assert_eq!(defaults.scrub_bytes_per_s, config.scrub_bytes_per_s);
        assert_eq!(defaults.upload_epoch_seconds, config.upload_epoch_seconds);
        config.bounded().expect("the example is within bounds");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let text = format!("{}\nfull_percents = 3", example());
        let refused = toml::from_str::<Config>(&text)
            .expect_err("unknown key")
            .to_string();
        assert!(refused.contains("full_percents"), "{refused}");
    }

    #[test]
    fn values_out_of_bounds_are_refused_by_name() {
        let with = |from: &str, to: &str| {
            let config: Config = toml::from_str(&example().replace(from, to)).expect("parses");
            config
                .bounded()
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(with("node_id = 1", "node_id = 0").contains("node_id"));
        assert!(with("full_percent = 90", "full_percent = 99").contains("full_percent"));
        assert!(with("= 67108864", "= 1").contains("upload_bytes_max"));
        assert!(with("seconds = 3600", "seconds = 0").contains("upload_epoch_seconds"));
    }
}
