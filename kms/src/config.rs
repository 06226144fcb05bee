//! The configuration file of a KMS replica: TOML, every key documented here.
//!
//! Owns parsing and the bounds on what a file may ask for. Refuses unknown keys, a value out of its bounds, and
//! an identity or enrolment set that is not this replica's: a replica that starts has a configuration that holds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use proto::ids::{Jurisdiction, NodeId, RegionId};
use proto::v1;
use serde::Deserialize;

/// A lease is good for an hour at most (DESIGN section 5).
pub const LEASE_SECONDS_MAX: u32 = 3600;
/// The first line of a genesis file that was copied from a daemon's own enrolment file.
const ENROLMENT_FILE_HEADER: &[u8] = b"reduit/enrolments/1\n";
/// A genesis file is an enrolment set of a young region.
const GENESIS_BYTES_MAX: u64 = 64 << 20;

/// What a KMS replica is told at start. Paths are relative to the working directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The region this replica belongs to, such as `ch-zrh`.
    pub region: RegionId,
    /// The region's jurisdiction, such as `CH`.
    pub jurisdiction: Jurisdiction,
    /// This replica's member id: as enrolled, never reused.
    pub node_id: u64,
    /// Where the log and the state live. One process at a time.
    pub data_dir: PathBuf,
    /// Where to listen for mTLS: clients, operators and peers.
    pub listen: SocketAddr,
    /// `host:port` at which others reach `listen`; empty means `listen` itself.
    #[serde(default)]
    pub advertise: String,
    /// PEM certificate of this replica's identity.
    pub certificate: PathBuf,
    /// PEM private key of it; mode 0600.
    pub key: PathBuf,
    /// PEM certificate of the region's CA, the only one trusted.
    pub ca: PathBuf,
    /// The region's first enrolment set, signed by its CA.
    pub genesis: PathBuf,
    /// Where `/healthz`, `/readyz` and `/metrics` are served in clear; keep it inside. Absent: nowhere.
    #[serde(default)]
    pub health_listen: Option<SocketAddr>,
    /// Where checkpoints and hash tiles of the log are served over HTTP, to everyone. Absent: nowhere.
    #[serde(default)]
    pub log_listen: Option<SocketAddr>,
    /// Where to listen for mTLS of KMS replicas and gateways of other regions that this one trusts. Absent: nowhere, and
    /// while this replica leads, nothing is said to them.
    #[serde(default)]
    pub federation_listen: Option<SocketAddr>,
    /// `host:port` at which other regions reach `federation_listen`; empty means `federation_listen` itself.
    #[serde(default)]
    pub federation_advertise: String,
    /// Whether this is a new member of a living cluster: an empty folder under an enrolled id starts only so.
    #[serde(default)]
    pub join: bool,
    /// Whether an empty folder becomes a founder's: true at the very first start of a region, and taken out again once
    /// it is founded. Left in, a founder that lost its disk would start with no memory of what it voted.
    #[serde(default)]
    pub found: bool,
    /// Endpoints of storage nodes to tell of key states. Empty: those of the enrolment set.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// The longest lease given out, in seconds: 1 to 3600.
    #[serde(default = "default_lease_seconds")]
    pub lease_seconds_max: u32,
    /// How long a request may take in all before it is answered as of unknown or no effect, in milliseconds.
    #[serde(default = "default_request_ms")]
    pub request_ms_max: u64,
    /// Seals of the root key besides its custodians.
    #[serde(default)]
    pub seal: SealConfig,
    /// Lines of log as `text` or `json`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What to log, as `tracing` filters say it, such as `info` or `kms=debug,info`.
    #[serde(default = "default_log")]
    pub log: String,
    /// A collector that spans of requests are sent to; absent: nowhere.
    #[serde(default)]
    pub otlp: Option<daemon::Otlp>,
}

/// Seals of the root key that need something of this host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealConfig {
    /// A PKCS#11 token: half of a seal, the other half being a person's.
    #[serde(default)]
    pub pkcs11: Option<Pkcs11Config>,
}

/// Which token, and what logs in to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "StatedPkcs11")]
pub struct Pkcs11Config {
    /// The library that speaks for the token, such as `/usr/lib/softhsm/libsofthsm2.so`. It runs inside the KMS.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// Label of the keys that are made in it.
    pub key: String,
    /// What logs in.
    pub pin: PinSource,
}

/// Where a PIN is read from, at each use. Never from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// A file of mode 0600.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
}

impl std::fmt::Display for PinSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatedPkcs11 {
    module: PathBuf,
    token: String,
    key: String,
    pin_file: Option<PathBuf>,
    pin_env: Option<String>,
}

impl TryFrom<StatedPkcs11> for Pkcs11Config {
    type Error = &'static str;
    fn try_from(stated: StatedPkcs11) -> Result<Self, Self::Error> {
        let pin = match (stated.pin_file, stated.pin_env) {
            (Some(file), None) => PinSource::File(file),
            (None, Some(name)) => PinSource::Environment(name),
            (Some(_), Some(_)) | (None, None) => {
                return Err("a token takes one of pin_file and pin_env");
            }
        };
        // PKCS#11 keeps 32 bytes of a token's label.
        if !(1..=32).contains(&stated.token.len()) || !(1..=64).contains(&stated.key.len()) {
            return Err("a token's label has 1 to 32 bytes, a key's 1 to 64");
        }
        Ok(Self {
            module: stated.module,
            token: stated.token,
            key: stated.key,
            pin,
        })
    }
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
  data_dir = "/var/lib/reduit/kms"
  listen = "10.0.0.11:7100"
  advertise = "kms-1.ch-zrh.example:7100"
  certificate = "/etc/reduit/kms.pem"
  key = "/etc/reduit/kms.key"          # mode 0600
  ca = "/etc/reduit/ca.pem"
  genesis = "/etc/reduit/genesis.set"  # the first enrolment set, signed by the CA
  health_listen = "127.0.0.1:7101"
  log_listen = "10.0.0.11:7102"        # the log's checkpoints and hash tiles, open to everyone
  # federation_listen = "10.0.0.11:7200" # for KMS replicas and gateways of regions that this one trusts
  # federation_advertise = "kms-1.ch-zrh.example:7200"
  # found = true                       # only for the very first start of a region
  # join = true                        # only for a new member of a living cluster
  # nodes = ["node-1:7000"]            # default: those of the enrolment set
  # lease_seconds_max = 3600
  # request_ms_max = 10000
  # log = "info"
  # log_format = "json"
  #
  # [otlp] # a collector that spans of requests are sent to
  # endpoint = "http://127.0.0.1:4317"
  # sample = 0.01

  # [seal.pkcs11]                      # a token: half of a second seal of the root key
  # module = "/usr/lib/softhsm/libsofthsm2.so"
  # token = "reduit-ch-zrh"            # its label
  # key = "reduit-root"                # label of the keys made in it
  # pin_file = "/etc/reduit/token.pin" # mode 0600; or pin_env = "REDUIT_TOKEN_PIN""#;

impl Config {
    /// How it logs.
    pub fn logging(&self) -> daemon::Logging<'_> {
        daemon::Logging {
            filter: &self.log,
            silent: &[],
            json: self.log_format == LogFormat::Json,
            otlp: self.otlp.as_ref(),
            service: "reduit-kms",
            region: self.region.to_string(),
            instance: format!("k{}", self.node_id),
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
        if !(1..=LEASE_SECONDS_MAX).contains(&self.lease_seconds_max) {
            return value("lease_seconds_max", "1 to 3600");
        }
        if !(100..=120_000).contains(&self.request_ms_max) {
            return value("request_ms_max", "100 to 120000");
        }
        Ok(self)
    }

    /// This replica's member id.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.node_id)
    }

    /// Where others reach this replica.
    pub fn advertised(&self) -> String {
        match self.advertise.as_str() {
            "" => self.listen.to_string(),
            advertised => advertised.to_owned(),
        }
    }

    /// How long one request may take in all.
    pub fn request_time(&self) -> Duration {
        Duration::from_millis(self.request_ms_max)
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

fn default_lease_seconds() -> u32 {
    LEASE_SECONDS_MAX
}

fn default_request_ms() -> u64 {
    10_000
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
    fn the_example_is_a_configuration() {
        let config: Config = toml::from_str(&example()).expect("the example parses");
        assert_eq!(config.region.as_str(), "ch-zrh");
        assert!(config.join && config.log_format == LogFormat::Json);
        config.bounded().expect("the example is within bounds");
    }

    #[test]
    fn a_token_takes_exactly_one_source_of_its_pin_and_never_the_pin() {
        let with = |from: &str, to: &str| {
            let config = toml::from_str::<Config>(&example().replace(from, to));
            config.map(|config| config.seal.pkcs11.expect("stated").pin)
        };
        let file = PinSource::File("/etc/reduit/token.pin".into());
        assert_eq!(with("", "").expect("parses"), file);
        let env = with("pin_file = \"/etc/reduit/token.pin\"", "pin_env = \"PIN\"");
        assert_eq!(
            env.expect("parses"),
            PinSource::Environment("PIN".to_owned())
        );
        for (from, to) in [
            ("pin_file = ", "pin = "),
            ("pin_file = \"/etc/reduit/token.pin\"", ""),
            ("pin_file = ", "pin_env = \"PIN\"\npin_file = "),
            ("token = \"reduit-ch-zrh\"", "token = \"\""),
        ] {
            assert!(with(from, to).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let text = format!("leese_seconds_max = 3\n{}", example());
        let refused = toml::from_str::<Config>(&text)
            .expect_err("unknown key")
            .to_string();
        assert!(refused.contains("leese_seconds_max"), "{refused}");
        let text = format!("{}\nleese_seconds_max = 3", example());
        let refused = toml::from_str::<Config>(&text)
            .expect_err("unknown key")
            .to_string();
        assert!(refused.contains("leese_seconds_max"), "{refused}");
    }

    #[test]
    fn a_lease_over_an_hour_and_member_id_zero_are_refused() {
        let with = |from: &str, to: &str| {
            let config: Config = toml::from_str(&example().replace(from, to)).expect("parses");
            config.bounded().err().map(|error| error.to_string())
        };
        assert!(with("= 3600", "= 3601").is_some_and(|e| e.contains("lease_seconds_max")));
        assert!(with("node_id = 1", "node_id = 0").is_some_and(|e| e.contains("node_id")));
    }
}
