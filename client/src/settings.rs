//! Where a region is and who we are: contexts, as kubectl has them.
//!
//! Owns the context file's format. Refuses unknown keys: a misspelt setting must not be ignored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::ids::RegionId;
use serde::{Deserialize, Serialize};

/// One region as one identity.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The region; there is no default region.
    pub region: RegionId,
    /// Storage nodes to ask first, `host:port`; the rest is learnt from them.
    pub nodes: Vec<String>,
    /// KMS replicas to ask first, `host:port`.
    pub kms: Vec<String>,
    /// The region's CA certificate, PEM. Pinned: nothing else is trusted.
    pub ca: PathBuf,
    /// Our certificate, PEM.
    pub certificate: PathBuf,
    /// Our private key, PEM, readable by us alone.
    pub key: PathBuf,
}

/// Every context of a person, and which one is current.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFile {
    /// The one used where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// Why there is no usable context.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read or written.
    #[error("context file {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("context file {path} is not valid")]
    Format {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// No such context.
    #[error("no context named {0}; `reduit context list` shows those there are")]
    NoSuchContext(String),
    /// None named and none current.
    #[error("no current context; choose one with `reduit context use NAME` or --context")]
    NoneCurrent,
}

impl ContextFile {
    /// `$REDUIT_CONFIG`, else `$XDG_CONFIG_HOME/reduit/contexts.toml`, else `~/.config/reduit/contexts.toml`.
    pub fn default_path() -> PathBuf {
        if let Some(path) = std::env::var_os("REDUIT_CONFIG") {
            return path.into();
        }
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))
            .unwrap_or_default();
        base.join("reduit/contexts.toml")
    }

    /// Reads a file; a missing one is empty.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => {
                return Err(SettingsError::File {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        toml::from_str(&text).map_err(|source| SettingsError::Format {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// Writes the file whole, or leaves the old one.
    pub fn save(&self, path: &Path) -> Result<(), SettingsError> {
        let file = |source| SettingsError::File {
            path: path.to_owned(),
            source,
        };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(file)?;
        }
        let text = toml::to_string_pretty(self).expect("contexts are plain tables");
        let fresh = path.with_extension("toml.new");
        std::fs::write(&fresh, text).map_err(file)?;
        std::fs::rename(&fresh, path).map_err(file)
    }

    /// The context of that name, or the current one.
    pub fn choose(&self, name: Option<&str>) -> Result<(&str, &Context), SettingsError> {
        let name = name
            .or(self.current.as_deref())
            .ok_or(SettingsError::NoneCurrent)?;
        self.contexts
            .get_key_value(name)
            .map(|(name, context)| (name.as_str(), context))
            .ok_or_else(|| SettingsError::NoSuchContext(name.to_owned()))
    }
}

/// Bounds and times of one client.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// How long one operation may take, retries included; bodies of large objects excluded.
    pub deadline: Duration,
    /// How long one try may take before another member is asked.
    pub try_timeout: Duration,
    /// Blocks of one upload that may be in memory.
    pub upload_window_blocks: usize,
    /// Blocks of one download that are read ahead.
    pub download_window_blocks: usize,
    /// Open requests in flight; more wait and share a request.
    pub opens_in_flight: usize,
    /// Data connections to each node.
    pub data_channels: usize,
    /// Plaintext bytes of one stream, where the length is known beforehand: what is longer is put in parts of so many.
    pub stream_bytes_max: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            try_timeout: Duration::from_secs(5),
            upload_window_blocks: 3,
            download_window_blocks: 2,
            opens_in_flight: 4,
            data_channels: 1,
            stream_bytes_max: 1 << 30,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = toml::from_str::<ContextFile>("curent = \"x\"").expect_err("misspelt");
        assert!(error.to_string().contains("curent"), "{error}");
    }

    #[test]
    fn without_a_choice_there_is_no_context() {
        assert!(matches!(
            ContextFile::default().choose(None),
            Err(SettingsError::NoneCurrent)
        ));
        assert!(matches!(
            ContextFile::default().choose(Some("x")),
            Err(SettingsError::NoSuchContext(_))
        ));
    }
}
