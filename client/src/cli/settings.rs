//! `reduit dataset lock|lifecycle|quota`: what a dataset keeps, ends by age, and may hold.
//!
//! Owns the file in which lifecycle rules are written and read. Refuses a file with words it does not know: a rule that
//! is misspelt would keep, or end, what it must not.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use client::ids::DatasetName;
use client::{Dataset, Region};
use proto::v1::{Lifecycle, LifecycleRule};
use serde::{Deserialize, Serialize};

use super::Session;
use super::failure::{Failure, file};
use super::object::Mode;
use super::output::{self, line};

/// Bytes of a file of rules: far over what a shard takes.
const RULES_BYTES_MAX: u64 = 1 << 20;

pub(crate) const LOCK_HELP: &str = "Once on it stays on, and keeps versioning on. Run again it changes the default alone; without \
--default there is none. Single versions are locked with `reduit object lock` and `reduit object hold`.

Examples:
  reduit dataset lock cases
  reduit dataset lock cases --default compliance --days 3650";

pub(crate) const LIFECYCLE_HELP: &str = "The file is JSON. Each rule is for keys that start with its prefix; what it does not name it does not do:
  {\"rules\": [
    {\"id\": \"old-versions\", \"prefix\": \"logs/\", \"noncurrent_days\": 30, \"newer_noncurrent\": 3},
    {\"id\": \"tidy\", \"expire_days\": 365, \"expire_markers\": true, \"abort_days\": 7}
  ]}
expire_days deletes the current version as a user would. noncurrent_days removes a version so many days after another \
took its place, but for the newer_noncurrent newest of them. expire_markers removes delete markers that stand alone. \
abort_days ends uploads in parts. \"enabled\": false keeps a rule without following it. The region does all of it by its \
own time, once a day; what object lock keeps stays.

Examples:
  reduit dataset lifecycle cti --set rules.json
  reduit dataset lifecycle cti --json
  reduit dataset lifecycle cti --clear";

pub(crate) const QUOTA_HELP: &str = "What is over already stays, and may be deleted. Bytes are sealed ones, of all versions and of parts of uploads.

Examples:
  reduit dataset quota cti
  reduit dataset quota cti --objects 1000000 --bytes 2TiB
  reduit dataset quota cti --bytes 0
  reduit dataset quota cti --clear";

#[derive(Args)]
pub(crate) struct Lock {
    /// Its name.
    name: DatasetName,
    /// How versions are kept that are put without a retention: `governance` or `compliance`.
    #[arg(long, requires = "days")]
    default: Option<Mode>,
    /// For how many days.
    #[arg(long, requires = "default")]
    days: Option<u32>,
}

#[derive(Args)]
pub(crate) struct LifecycleArgs {
    /// Its name.
    name: DatasetName,
    /// Puts the rules of this file, or of standard input (-), in the place of those there are.
    #[arg(long, value_name = "FILE", conflicts_with = "clear")]
    set: Option<PathBuf>,
    /// Ends all rules.
    #[arg(long)]
    clear: bool,
}

#[derive(Args)]
pub(crate) struct Quota {
    /// Its name.
    name: DatasetName,
    /// At most so many live objects; 0 is no bound. What is not named stays.
    #[arg(long, conflicts_with = "clear")]
    objects: Option<u64>,
    /// At most so many sealed bytes, as 500GiB or 2TiB; 0 is no bound.
    #[arg(long, value_parser = size, conflicts_with = "clear")]
    bytes: Option<u64>,
    /// Ends both bounds.
    #[arg(long)]
    clear: bool,
}

/// Rules as a file has them.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Rules {
    rules: Vec<Rule>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
struct Rule {
    id: String,
    enabled: bool,
    prefix: String,
    expire_days: u32,
    expire_markers: bool,
    noncurrent_days: u32,
    newer_noncurrent: u32,
    abort_days: u32,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            id: String::new(),
            enabled: true,
            prefix: String::new(),
            expire_days: 0,
            expire_markers: false,
            noncurrent_days: 0,
            newer_noncurrent: 0,
            abort_days: 0,
        }
    }
}

impl From<Rule> for LifecycleRule {
    fn from(rule: Rule) -> Self {
        Self {
            id: rule.id,
            enabled: rule.enabled,
            prefix: rule.prefix,
            expire_days: rule.expire_days,
            expire_markers: rule.expire_markers,
            noncurrent_days: rule.noncurrent_days,
            newer_noncurrent: rule.newer_noncurrent,
            abort_days: rule.abort_days,
        }
    }
}

impl From<LifecycleRule> for Rule {
    fn from(rule: LifecycleRule) -> Self {
        Self {
            id: rule.id,
            enabled: rule.enabled,
            prefix: rule.prefix,
            expire_days: rule.expire_days,
            expire_markers: rule.expire_markers,
            noncurrent_days: rule.noncurrent_days,
            newer_noncurrent: rule.newer_noncurrent,
            abort_days: rule.abort_days,
        }
    }
}

impl Rule {
    /// What it does, in words.
    fn says(&self) -> String {
        let days = |what: &str, days: u32| (days > 0).then(|| format!("{what} {days} days"));
        let older = days("older versions go", self.noncurrent_days).map(|older| {
            match self.newer_noncurrent {
                0 => format!("{older} after they were covered"),
                kept => format!("{older} after they were covered, but for the {kept} newest"),
            }
        });
        let said: Vec<String> = [
            days("deleted after", self.expire_days),
            older,
            self.expire_markers
                .then(|| "delete markers that stand alone go".to_owned()),
            days("uploads end after", self.abort_days),
        ]
        .into_iter()
        .flatten()
        .collect();
        match said.is_empty() {
            true => "nothing".to_owned(),
            false => said.join("; "),
        }
    }
}

impl Lock {
    pub(crate) async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let default = self.default.map(|Mode(mode)| mode).zip(self.days);
        let dataset = region.dataset(&self.name).await?;
        dataset.set_object_lock(default).await?;
        let info = region.dataset_info(&self.name).await?;
        if session.json {
            line(output::dataset(&info));
        } else {
            let lock = info.lock.map_or("off".to_owned(), output::lock);
            line(format!("{}: object lock {lock}", self.name));
        }
        Ok(())
    }
}

impl LifecycleArgs {
    pub(crate) async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let dataset = region.dataset(&self.name).await?;
        if let Some(path) = &self.set {
            let rules = load(path)?.rules.into_iter().map(LifecycleRule::from);
            let rules = Lifecycle {
                rules: rules.collect(),
            };
            dataset.set_lifecycle(&rules).await?;
        } else if self.clear {
            dataset.set_lifecycle(&Lifecycle::default()).await?;
        }
        self.shown(session, &dataset).await
    }

    /// The rules as the shard has them.
    async fn shown(&self, session: &Session, dataset: &Dataset) -> Result<(), Failure> {
        let held = dataset.lifecycle().await?.rules.into_iter();
        let rules = Rules {
            rules: held.map(Rule::from).collect(),
        };
        if session.json {
            line(serde_json::json!(rules));
            return Ok(());
        }
        if rules.rules.is_empty() {
            line(format!("{}: no rules", self.name));
        }
        for rule in &rules.rules {
            let off = if rule.enabled { "" } else { " (off)" };
            line(format!(
                "{}{off}: {}*: {}",
                rule.id,
                rule.prefix,
                rule.says()
            ));
        }
        Ok(())
    }
}

impl Quota {
    pub(crate) async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let held = region.dataset_info(&self.name).await?.quota;
        let changes = self.clear || self.objects.is_some() || self.bytes.is_some();
        if changes {
            let (objects, bytes) = match self.clear {
                true => (0, 0),
                false => (
                    self.objects.unwrap_or(held.objects_max),
                    self.bytes.unwrap_or(held.sealed_bytes_max),
                ),
            };
            let dataset = region.dataset(&self.name).await?;
            dataset.set_quota(objects, bytes).await?;
        }
        let info = region.dataset_info(&self.name).await?;
        if session.json {
            line(output::dataset(&info));
            return Ok(());
        }
        let of = |held: u64, max: u64| match max {
            0 => format!("{held} of any number"),
            max => format!("{held} of {max}"),
        };
        line(format!(
            "{}: objects {}, sealed bytes {}",
            self.name,
            of(info.objects, info.quota.objects_max),
            of(info.sealed_bytes, info.quota.sealed_bytes_max)
        ));
        Ok(())
    }
}

fn load(path: &Path) -> Result<Rules, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .take(RULES_BYTES_MAX)
            .read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|from| from.take(RULES_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(file(format!("reading {}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// Bytes, plain or in units of 1024.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
    let unit = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit));
    let (unit, shift) = unit.unwrap_or(("", 0));
    let number = text[..text.len() - unit.len()].parse::<u64>().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "a size is a number, or one with KiB, MiB, GiB or TiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_in_units_of_1024() {
        for (text, bytes) in [("0", 0), ("17", 17), ("2KiB", 2048), ("2TiB", 2 << 40)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        let wrong = ["", "KiB", "-1", "1.5GiB", "1GB", "2 TiB", "16777216TiB"];
        for text in wrong {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rules_are_read_as_they_are_written_and_no_word_is_passed_over() {
        let text = r#"{"rules": [{"id": "a", "noncurrent_days": 3}, {"enabled": false}]}"#;
        let rules: Rules = serde_json::from_str(text).expect("rules");
        assert!(rules.rules[0].enabled && !rules.rules[1].enabled);
        let written = serde_json::to_string(&rules).expect("plain");
        let again: Rules = serde_json::from_str(&written).expect("what was written");
        assert_eq!(again, rules);
        for rule in again.rules {
            let wire = LifecycleRule::from(rule);
            assert_eq!(LifecycleRule::from(Rule::from(wire.clone())), wire);
        }
        let misspelt = r#"{"rules": [{"noncurent_days": 3}]}"#;
        assert!(serde_json::from_str::<Rules>(misspelt).is_err());
        assert!(serde_json::from_str::<Rules>("{}").is_err());
    }

    #[test]
    fn a_rule_says_everything_it_does() {
        let rule = Rule {
            expire_days: 9,
            expire_markers: true,
            noncurrent_days: 30,
            newer_noncurrent: 2,
            abort_days: 7,
            ..Rule::default()
        };
        let says = rule.says();
        for said in ["9 days", "30 days", "the 2 newest", "stand alone", "7 days"] {
            assert!(says.contains(said), "{said}: {says}");
        }
        assert_eq!(Rule::default().says(), "nothing");
    }
}
