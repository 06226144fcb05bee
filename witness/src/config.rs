//! The configuration file: TOML, every key documented here.
//!
//! Owns parsing and the bounds on what a file may ask for. Refuses unknown keys, two logs of one origin, keys that do
//! not sign for a log, and an address that is not plain HTTP: checkpoints and tiles prove themselves, so nothing is
//! gained by TLS but secrecy, and entry bundles have a way of their own.

mod hours;
mod rules;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use proto::ids::RegionId;
use serde::{Deserialize, Deserializer};
use tlog::{OriginLine, SignatureType, VerifierKey};

pub use hours::{Hours, HoursError};
pub use rules::{Rate, Rules};

/// Logs that one witness follows at most.
pub const LOGS_MAX: usize = 256;
/// Keys that it cosigns with at most: one of each type, and two of each while they rotate.
pub const KEYS_MAX: usize = 4;
/// A configuration file is a page of text.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// What `--help` shows below the options.
pub const CONFIG_EXAMPLE: &str = r#"Example configuration:

  state_dir = "/var/lib/reduit-witness"     # what was cosigned and read; never restore an older copy of it
  keys = ["/var/lib/reduit-witness/w1.key"] # made by `reduit-witness keygen`
  listen = "0.0.0.0:7300"                   # POST <submission_prefix>/add-checkpoint
  status_listen = "127.0.0.1:7301"          # status page, /status.json, /metrics: keep it inside
  # submission_prefix = "/w1"               # default: none
  # monitoring_prefix = "/w1"               # GET <monitoring_prefix>/<sha256 of origin>/checkpoint
  # alarms = "/var/log/reduit-witness/alarms.jsonl"   # default: alarms.jsonl in state_dir

  [[logs]]
  origin = "ch-zrh/main/1"
  keys = ["ch-zrh/main/1+1a2b3c4d+AQ..."]   # the log's public key, from the region's operator

  [logs.monitor]                            # absent: the log is cosigned and not followed
  url = "http://log.ch-zrh.example:7102/"
  # policy = "/etc/reduit-witness/ch-zrh.policy"   # C2SP tlog-policy: whose cosignatures to expect
  # poll_seconds = 10
  # copy_dir = "/var/lib/reduit-witness/copy"      # keep all tiles and entry bundles here

  [logs.monitor.entries]                    # absent: hashes are followed, entries are not read
  region = "ch-zrh"
  endpoints = ["kms-1.ch-zrh.example:7100", "kms-2.ch-zrh.example:7100"]
  certificate = "/etc/reduit-witness/auditor.pem"  # an identity enrolled as auditor
  key = "/etc/reduit-witness/auditor.key"          # mode 0600
  ca = "/etc/reduit-witness/ch-zrh-ca.pem"

  [logs.monitor.rules]
  open_hours = ["Mon-Fri 07:00-19:00"]      # opens outside of these alarm; absent: at any time
  open_hours_exempt = ["service"]           # purposes that run around the clock
  utc_offset_minutes = 60
  purposes = ["service", "multipart"]       # any other alarms when it is first seen
  rates = [{ kind = "open", per_hour_max = 1000 }]
  # watch = ["grants-changed", "unsealed"]  # kinds that alarm; default: all but everyday ones
  silence_minutes = 15                      # no newer checkpoint for so long alarms"#;

/// What a witness is told at start. Paths are relative to the working directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What was cosigned and read, and evidence of forks. One process at a time.
    pub state_dir: PathBuf,
    /// Files of the keys to cosign with, each made by `keygen`.
    pub keys: Vec<PathBuf>,
    /// Where logs submit checkpoints and monitors fetch them.
    pub listen: SocketAddr,
    /// Where people and Prometheus look; absent: nowhere.
    #[serde(default)]
    pub status_listen: Option<SocketAddr>,
    /// What stands before `/add-checkpoint`, such as `/w1`.
    #[serde(default)]
    pub submission_prefix: Prefix,
    /// What stands before `/<sha256 of origin>/checkpoint`.
    #[serde(default)]
    pub monitoring_prefix: Prefix,
    /// Alarms, one JSON object a line; absent: `alarms.jsonl` in the state folder.
    #[serde(default)]
    pub alarms: Option<PathBuf>,
    /// Lines of log as `text` or `json`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What to log, as `tracing` filters say it, such as `info`.
    #[serde(default = "default_log")]
    pub log: String,
    /// The logs.
    #[serde(default)]
    pub logs: Vec<LogConfig>,
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

/// Nothing, or segments of a path that each begin with a slash.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(String);

impl Prefix {
    /// As it stands before a path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Prefix {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        let segments = text.split('/').skip(1);
        let good = text.is_empty()
            || (text.starts_with('/')
                && segments
                    .clone()
                    .all(|s| !s.is_empty() && s != "." && s != ".." && s.bytes().all(plain)));
        if good {
            Ok(Self(text))
        } else {
            Err("a prefix is empty or like /w1, of letters, digits and -._~, without a last slash")
        }
    }
}

/// A log that is cosigned.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// First line of its checkpoints.
    #[serde(deserialize_with = "from_text")]
    pub origin: OriginLine,
    /// Its public keys, one of which signs each checkpoint.
    #[serde(deserialize_with = "all_from_text")]
    pub keys: Vec<VerifierKey>,
    /// How it is followed; absent: not at all.
    #[serde(default)]
    pub monitor: Option<MonitorConfig>,
}

/// How a log is followed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// Prefix of its `/checkpoint` and `/tile`.
    pub url: LogUrl,
    /// C2SP tlog-policy file: which cosignatures its checkpoints are expected to have.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// Seconds from one look to the next, 1 to 3600.
    #[serde(default = "default_poll")]
    pub poll_seconds: u64,
    /// Folder that gets a copy of all tiles and entry bundles; absent: none is kept.
    #[serde(default)]
    pub copy_dir: Option<PathBuf>,
    /// How entry bundles are fetched; absent: hashes alone are followed.
    #[serde(default)]
    pub entries: Option<EntriesConfig>,
    /// What alarms.
    #[serde(default)]
    pub rules: Rules,
}

impl MonitorConfig {
    /// From one look to the next.
    pub fn poll(&self) -> Duration {
        Duration::from_secs(self.poll_seconds)
    }
}

/// Whom entry bundles come from, and as whom they are asked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntriesConfig {
    /// The log's region.
    pub region: RegionId,
    /// `host:port` of its KMS replicas' mTLS ports.
    pub endpoints: Vec<String>,
    /// PEM certificate of an identity that is enrolled as auditor.
    pub certificate: PathBuf,
    /// PEM private key of it; mode 0600.
    pub key: PathBuf,
    /// PEM certificate of the region's CA.
    pub ca: PathBuf,
}

/// A log's prefix: `http://host[:port]/[path/]`, with its last slash.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct LogUrl(String);

impl LogUrl {
    /// The address of a path below the prefix.
    pub fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for LogUrl {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        const MUST: &str = "a log's url is like http://log.example:7102/, with its last slash";
        let uri: http::Uri = text.parse().map_err(|_| MUST)?;
        let plain = uri.scheme_str() == Some("http") && uri.query().is_none();
        if plain && uri.host().is_some_and(|host| !host.is_empty()) && text.ends_with('/') {
            Ok(Self(text))
        } else {
            Err(MUST)
        }
    }
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
    #[error("the configuration is not valid")]
    Toml(#[source] Box<toml::de::Error>),
    /// A value out of its bounds.
    #[error("{key} must be {must}")]
    Value {
        /// Which key.
        key: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// Two logs cannot be told apart.
    #[error("the log {0} is configured twice")]
    LogTwice(OriginLine),
    /// A key that cannot sign as a log.
    #[error("a key of the log {0} is a witness's: logs have keys of type 0x01 or 0x06")]
    NotALogKey(OriginLine),
}

impl Config {
    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::File {
            path: path.to_owned(),
            source,
        };
        let bytes = crate::durable::read(path, CONFIG_BYTES_MAX)
            .and_then(|bytes| bytes.ok_or(std::io::ErrorKind::NotFound.into()))
            .map_err(failed)?;
        let text =
            String::from_utf8(bytes).map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))?;
        Self::parse(&text)
    }

    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|source| ConfigError::Toml(Box::new(source)))?;
        config.check()?;
        Ok(config)
    }

    /// The file of alarms.
    pub fn alarms_file(&self) -> PathBuf {
        let default = || self.state_dir.join("alarms.jsonl");
        self.alarms.clone().unwrap_or_else(default)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, must| Err(ConfigError::Value { key, must });
        if !(1..=KEYS_MAX).contains(&self.keys.len()) {
            return value("keys", "1 to 4 files");
        }
        if self.logs.len() > LOGS_MAX {
            return value("logs", "at most 256");
        }
        let mut origins = BTreeSet::new();
        for log in &self.logs {
            if !origins.insert(&log.origin) {
                return Err(ConfigError::LogTwice(log.origin.clone()));
            }
            if log.keys.is_empty() {
                return value("logs.keys", "at least one public key");
            }
            let cosigns = |key: &VerifierKey| key.kind() == SignatureType::Ed25519Cosignature;
            if log.keys.iter().any(cosigns) {
                return Err(ConfigError::NotALogKey(log.origin.clone()));
            }
            let Some(monitor) = &log.monitor else {
                continue;
            };
            if !(1..=3600).contains(&monitor.poll_seconds) {
                return value("logs.monitor.poll_seconds", "1 to 3600");
            }
            if !(1..=100_000).contains(&monitor.rules.silence_minutes) {
                return value("logs.monitor.rules.silence_minutes", "1 to 100000");
            }
            if !(-1440..=1440).contains(&monitor.rules.utc_offset_minutes) {
                return value("logs.monitor.rules.utc_offset_minutes", "-1440 to 1440");
            }
            let entries = monitor.entries.as_ref();
            if entries.is_some_and(|entries| !(1..=16).contains(&entries.endpoints.len())) {
                return value("logs.monitor.entries.endpoints", "1 to 16 of host:port");
            }
        }
        Ok(())
    }
}

fn default_poll() -> u64 {
    10
}

fn default_log() -> String {
    "info".to_owned()
}

fn from_text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn all_from_text<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    let texts = Vec::<String>::deserialize(from)?;
    let parsed = texts.iter().map(|text| text.parse());
    parsed
        .collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
