//! The configuration file of a gateway: TOML, every key documented here.
//!
//! Owns parsing and the bounds on what a file may ask for. Refuses unknown keys and values out of their bounds.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use client::Context;
use client::ids::RegionId;
use serde::Deserialize;

use crate::transfers::UPLOAD_BYTES_MAX;

/// What a gateway is told at start. Paths are relative to the working directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The region this gateway belongs to, such as `ch-zrh`. Clients sign for it.
    pub region: RegionId,
    /// Storage nodes to ask first, `host:port`; the rest is learnt from them.
    pub nodes: Vec<String>,
    /// KMS replicas to ask first, `host:port`.
    pub kms: Vec<String>,
    /// PEM certificate of the region's CA, the only one trusted inside of the region.
    pub ca: PathBuf,
    /// PEM certificate of this gateway's identity in the region.
    pub certificate: PathBuf,
    /// PEM private key of it; mode 0600.
    pub key: PathBuf,
    /// Where to listen for S3 over HTTPS. Absent: nowhere.
    #[serde(default)]
    pub tls_listen: Option<SocketAddr>,
    /// PEM certificates that S3 clients are shown, leaf first.
    #[serde(default)]
    pub tls_certificate: Option<PathBuf>,
    /// PEM private key of the leaf; mode 0600.
    #[serde(default)]
    pub tls_key: Option<PathBuf>,
    /// Where to listen for S3 in clear: behind a proxy on the same host, or for a trial. Absent: nowhere.
    #[serde(default)]
    pub listen: Option<SocketAddr>,
    /// Domains below which a bucket's name is a host: `bucket.s3.example`. Without any, buckets are in paths.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Where `/healthz`, `/readyz` and `/metrics` are served in clear; keep it inside. Absent: nowhere.
    #[serde(default)]
    pub health_listen: Option<SocketAddr>,
    /// Connections at once; further ones wait. 1 to 100000.
    #[serde(default = "default_connections_max")]
    pub connections_max: u32,
    /// Requests at once; further ones are slowed down. 1 to 100000.
    #[serde(default = "default_requests_max")]
    pub requests_max: u32,
    /// Requests a second, averaged over a few; further ones are slowed down. 1 to 1000000.
    #[serde(default = "default_requests_per_s_max")]
    pub requests_per_s_max: u32,
    /// Bytes of memory for bodies on their way: at least one upload's windows.
    #[serde(default = "default_transfer_bytes_max")]
    pub transfer_bytes_max: u64,
    /// Bytes of a request's head: 8192 to 1048576.
    #[serde(default = "default_head_bytes_max")]
    pub head_bytes_max: u32,
    /// Seconds without a byte after which a client is given up: 1 to 3600.
    #[serde(default = "default_stall_seconds")]
    pub stall_seconds: u32,
    /// Lines of log as `text` or `json`.
    #[serde(default)]
    pub log_format: LogFormat,
    /// What to log, as `tracing` filters say it. Lines of `s3s` name objects and are never among it.
    #[serde(default = "default_log")]
    pub log: String,
    /// A collector that spans of requests are sent to; absent: nowhere.
    #[serde(default)]
    pub otlp: Option<daemon::Otlp>,
    /// Its part in relocations into this region.
    #[serde(default)]
    pub mover: MoverConfig,
}

/// What a gateway does for relocations into its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoverConfig {
    /// Whether it looks for datasets that are to come here, and moves them. It needs the purpose `relocation`.
    pub enabled: bool,
}

impl Default for MoverConfig {
    fn default() -> Self {
        Self { enabled: true }
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
}

/// What `--help` shows below the options.
pub const EXAMPLE: &str = r#"Example configuration:

  region = "ch-zrh"
  nodes = ["node-1.ch-zrh.example:7000", "node-2.ch-zrh.example:7000"]
  kms = ["kms-1.ch-zrh.example:7100"]
  ca = "/etc/reduit/ca.pem"
  certificate = "/etc/reduit/gateway.pem"
  key = "/etc/reduit/gateway.key"         # mode 0600
  tls_listen = "0.0.0.0:443"
  tls_certificate = "/etc/reduit/s3.pem"  # what S3 clients are shown
  tls_key = "/etc/reduit/s3.key"          # mode 0600
  health_listen = "127.0.0.1:9001"
  # listen = "127.0.0.1:9000"             # in clear
  # domains = ["s3.ch-zrh.example"]       # bucket.s3.ch-zrh.example
  # connections_max = 4096
  # requests_max = 1024
  # requests_per_s_max = 20000
  # transfer_bytes_max = 1073741824
  # head_bytes_max = 65536
  # stall_seconds = 30
  # log = "info"
  # log_format = "json"
  #
  # [otlp] # a collector that spans of requests are sent to
  # endpoint = "http://127.0.0.1:4317"
  # sample = 0.01
  #
  # [mover] # moves datasets that are to come into this region
  # enabled = true

Examples:
  reduit-gateway --config /etc/reduit/gateway.toml
  reduit-gateway --config /etc/reduit/gateway.toml --check
  aws --endpoint-url https://s3.ch-zrh.example --region ch-zrh s3 ls"#;

impl Config {
    /// How it logs.
    pub fn logging(&self) -> daemon::Logging<'_> {
        daemon::Logging {
            filter: &self.log,
            // Its lines name buckets and objects, which are customer data.
            silent: &["s3s"],
            json: self.log_format == LogFormat::Json,
            otlp: self.otlp.as_ref(),
            service: "reduit-gateway",
            region: self.region.to_string(),
            instance: self
                .tls_listen
                .or(self.listen)
                .map_or_else(String::new, |address| address.to_string()),
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
        if self.listen.is_none() && self.tls_listen.is_none() {
            return value("tls_listen", "there, or listen");
        }
        let tls = [self.tls_certificate.is_some(), self.tls_key.is_some()];
        if tls != [self.tls_listen.is_some(); 2] {
            return value(
                "tls_listen",
                "there with tls_certificate and tls_key, or none of them",
            );
        }
        if !(1..=100_000).contains(&self.connections_max) {
            return value("connections_max", "1 to 100000");
        }
        if !(1..=100_000).contains(&self.requests_max) {
            return value("requests_max", "1 to 100000");
        }
        if !(1..=1_000_000).contains(&self.requests_per_s_max) {
            return value("requests_per_s_max", "1 to 1000000");
        }
        if self.transfer_bytes_max < UPLOAD_BYTES_MAX {
            return value(
                "transfer_bytes_max",
                "at least 50331648, one upload's windows",
            );
        }
        if !(8_192..=1 << 20).contains(&self.head_bytes_max) {
            return value("head_bytes_max", "8192 to 1048576");
        }
        if !(1..=3_600).contains(&self.stall_seconds) {
            return value("stall_seconds", "1 to 3600");
        }
        Ok(self)
    }

    /// How the region is reached.
    pub(crate) fn context(&self) -> Context {
        Context {
            region: self.region.clone(),
            nodes: self.nodes.clone(),
            kms: self.kms.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }
}

fn default_connections_max() -> u32 {
    4_096
}

fn default_requests_max() -> u32 {
    1_024
}

fn default_requests_per_s_max() -> u32 {
    20_000
}

fn default_transfer_bytes_max() -> u64 {
    1 << 30
}

fn default_head_bytes_max() -> u32 {
    64 << 10
}

fn default_stall_seconds() -> u32 {
    30
}

fn default_log() -> String {
    "info".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> String {
        let all = EXAMPLE
            .split("\n\n")
            .nth(1)
            .expect("the lines of the example");
        let lines = all.lines().map(|line| line.trim().trim_start_matches("# "));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_example_is_a_configuration_and_shows_the_defaults() {
        let config: Config = toml::from_str(&example()).expect("the example parses");
        assert_eq!(config.connections_max, default_connections_max());
        assert_eq!(config.requests_max, default_requests_max());
        assert_eq!(config.requests_per_s_max, default_requests_per_s_max());
        assert_eq!(config.transfer_bytes_max, default_transfer_bytes_max());
        assert_eq!(config.head_bytes_max, default_head_bytes_max());
        assert_eq!(config.stall_seconds, default_stall_seconds());
        assert_eq!(config.log, default_log());
        assert_eq!(config.mover, MoverConfig::default());
        config.bounded().expect("the example is within bounds");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let text = format!("{}\nrequest_max = 3", example());
        let refused = toml::from_str::<Config>(&text).expect_err("unknown key");
        assert!(refused.to_string().contains("request_max"), "{refused}");
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
        assert!(with("connections_max = 4096", "connections_max = 0").contains("connections"));
        assert!(with("requests_max = 1024", "requests_max = 0").contains("requests_max"));
        assert!(with("s_max = 20000", "s_max = 0").contains("requests_per_s"));
        assert!(with("= 1073741824", "= 1").contains("transfer_bytes_max"));
        assert!(with("= 65536", "= 100").contains("head_bytes_max"));
        assert!(with("stall_seconds = 30", "stall_seconds = 0").contains("stall_seconds"));
        assert!(with("tls_key = \"/etc/reduit/s3.key\"", "").contains("tls_key"));
    }
}
