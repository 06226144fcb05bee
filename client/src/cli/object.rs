//! `reduit object`: what keeps one version from being removed, and its tags.
//!
//! Owns the words for retention, legal hold and tags, and says what was done without reading it back: who may lift a hold need
//! not be one who may read. Refuses nothing by itself: what may be locked, extended or ended, and by whom, is the shard's
//! to say.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand};
use client::ids::{ObjectVersionId, UnixMs};
use client::{Dataset, Retention, RetentionMode};
use serde_json::json;

use super::Session;
use super::failure::Failure;
use super::location::Location;
use super::output::{self, line};

const LOCK_HELP: &str = "Compliance is extended and nothing else, whoever asks. Governance is ended, or brought forward, \
by who may write and change keys in the dataset and says --bypass-governance. The dataset needs object lock: \
`reduit dataset lock DATASET`.

Examples:
  reduit object lock cases/7/dump.raw --mode compliance --until 2036-01-01T00:00:00Z
  reduit object lock cases/7/dump.raw --mode governance --until 2027-01-01T00:00:00Z \\
      --version 99ac5040b118b0d6827113db4039df8b
  reduit object lock cases/7/dump.raw --end --bypass-governance";

const HOLD_HELP: &str = "While one version is held the dataset is not deleted and its key not destroyed. Lifting a hold \
takes the grant to change keys in the dataset. The dataset needs object lock: `reduit dataset lock DATASET`.

Examples:
  reduit object hold cases/7/dump.raw on
  reduit object hold cases/7/dump.raw off --version 99ac5040b118b0d6827113db4039df8b";

const TAGS_HELP: &str = "Tags take the place of those there are, without a new version; they are sealed, and no rule of a \
lifecycle goes by them. A name without a value has an empty one.

Examples:
  reduit object tags cases/7/dump.raw state=closed analyst=mm
  reduit object tags cases/7/dump.raw --none --version 99ac5040b118b0d6827113db4039df8b";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Retention: until when a version is not removed.
    #[command(after_help = LOCK_HELP)]
    Lock(Lock),
    /// Legal hold of a version: it is not removed until the hold is lifted.
    #[command(after_help = HOLD_HELP)]
    Hold(Hold),
    /// Tags of a version, changed in place.
    #[command(after_help = TAGS_HELP)]
    Tags(Tags),
}

/// The one word of a retention's mode.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mode(pub(crate) RetentionMode);

impl FromStr for Mode {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "governance" => Ok(Self(RetentionMode::Governance)),
            "compliance" => Ok(Self(RetentionMode::Compliance)),
            _ => Err("a mode is governance or compliance"),
        }
    }
}

#[derive(Args)]
pub(crate) struct Lock {
    /// dataset/key.
    what: Location,
    /// This version instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
    /// `governance` or `compliance`.
    #[arg(long, required_unless_present = "end", requires = "until")]
    mode: Option<Mode>,
    /// In UTC, by the region's time: 2036-01-01T00:00:00Z.
    #[arg(long, value_parser = output::parse_time, requires = "mode")]
    until: Option<UnixMs>,
    /// Ends the retention.
    #[arg(long, conflicts_with_all = ["mode", "until"])]
    end: bool,
    /// Passes over governance; takes the grant to change keys in the dataset.
    #[arg(long)]
    bypass_governance: bool,
}

#[derive(Args)]
pub(crate) struct Hold {
    /// dataset/key.
    what: Location,
    /// `on` or `off`.
    #[arg(value_parser = ["on", "off"])]
    state: String,
    /// This version instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
}

#[derive(Args)]
pub(crate) struct Tags {
    /// dataset/key.
    what: Location,
    /// NAME=VALUE: all that the version is to have.
    #[arg(required_unless_present = "none", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Removes all tags.
    #[arg(long, conflicts_with = "tags")]
    none: bool,
    /// This version instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
}

fn tag(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name.is_empty() {
        true => Err("a tag is NAME=VALUE"),
        false => Ok((name.to_owned(), value.to_owned())),
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        Command::Lock(lock) => {
            let dataset = region.dataset(&lock.what.dataset).await?;
            let version = version(&dataset, &lock.what, lock.version).await?;
            let retention = match (lock.mode, lock.until) {
                (Some(Mode(mode)), Some(until)) => Some(Retention { mode, until }),
                _ => None,
            };
            let key = lock.what.key()?;
            dataset
                .set_retention(&key, version, retention, lock.bypass_governance)
                .await?;
            let words = retention.map_or("none".to_owned(), output::retention);
            if session.json {
                line(json!({
                    "version": version.to_string(),
                    "retention": retention.map(output::retention_json),
                }));
            } else {
                line(format!(
                    "{}: version {version}, retention {words}",
                    key.as_str()
                ));
            }
        }
        Command::Hold(hold) => {
            let dataset = region.dataset(&hold.what.dataset).await?;
            let version = version(&dataset, &hold.what, hold.version).await?;
            let (key, on) = (hold.what.key()?, hold.state == "on");
            dataset.set_legal_hold(&key, version, on).await?;
            if session.json {
                line(json!({ "version": version.to_string(), "legal_hold": on }));
            } else {
                let state = &hold.state;
                line(format!(
                    "{}: version {version}, legal hold {state}",
                    key.as_str()
                ));
            }
        }
        Command::Tags(tags) => {
            let dataset = region.dataset(&tags.what.dataset).await?;
            let key = tags.what.key()?;
            let wanted: BTreeMap<_, _> = tags.tags.into_iter().collect();
            let info = dataset.set_tags(&key, tags.version, &wanted).await?;
            if session.json {
                line(json!({ "version": info.version.to_string(), "tags": wanted }));
            } else {
                let (version, many) = (info.version, wanted.len());
                line(format!("{}: version {version}, {many} tags", key.as_str()));
            }
        }
    }
    Ok(())
}

/// The version meant: named, or the current one, for who may list.
async fn version(
    dataset: &Dataset,
    what: &Location,
    named: Option<ObjectVersionId>,
) -> Result<ObjectVersionId, Failure> {
    match named {
        Some(version) => Ok(version),
        None => Ok(dataset.head(&what.key()?, None).await?.version),
    }
}
