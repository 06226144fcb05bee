//! `reduit policy`: texts are checked, explained and compared, offline, before two people approve one.
//!
//! Owns files and what is printed; what a text means is `policy`'s to say. Exit codes as of `grep` and `diff`: 0 for
//! yes, 1 for no, 2 where there is no answer.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use client::ids::{DatasetId, Identity, RegionId, UnixMs};
use policy::{Action, Change, Dimensions, Policy, PolicyErrors, PolicyText, Request, diff};
use serde_json::json;

use super::failure::{Failure, file};
use super::output::{line, parse_time};

const CHECK_HELP: &str = "Exit codes:
  0  the text is valid (there may be warnings)
  1  it is not; every mistake is printed with line, column and a hint
  2  wrong arguments, or the file cannot be read

Examples:
  reduit policy check region.cedar
  reduit policy check - --json < region.cedar";

const EXPLAIN_HELP: &str = "Exit codes:
  0  allowed
  1  denied
  2  wrong arguments, or the file is no valid text

Examples:
  reduit policy explain region.cedar --principal spiffe://ch-zrh/client/cti --action read \\
      --dataset 01010101010101010101010101010101
  reduit policy explain region.cedar --principal spiffe://ch-zrh/auditor/anna --action read \\
      --purpose investigation --case 2026-17 --at 2026-11-26T22:00:00Z";

const DIFF_HELP: &str =
    "Asked are all identities, datasets, purposes, cases, regions and instants that either text
names, and one of each kind that neither does. What a role may never do is no change.

Exit codes:
  0  the texts decide the same
  1  they differ: + is newly allowed, - no longer allowed
  2  wrong arguments, or a file is no valid text

Examples:
  reduit policy diff region.cedar proposed.cedar
  reduit policy diff region.cedar proposed.cedar --json";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Whether a file is a valid policy text, and what is wrong with it.
    #[command(after_help = CHECK_HELP)]
    Check {
        /// The text; `-` is standard input.
        file: PathBuf,
    },
    /// Why a request is allowed or denied, and what nearly allowed it.
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Explain),
    /// What changes from one text to another.
    #[command(after_help = DIFF_HELP)]
    Diff {
        /// The text in force; `-` is standard input.
        old: PathBuf,
        /// The text proposed; `-` is standard input.
        new: PathBuf,
    },
    /// Prints the schema: what a text may speak of.
    Schema,
}

#[derive(Args)]
pub(crate) struct Explain {
    /// The text; `-` is standard input.
    file: PathBuf,
    /// Who asks: spiffe://<region>/<role>/<name>.
    #[arg(long)]
    principal: Identity,
    /// To do what: create, list, read, write or keys.
    #[arg(long)]
    action: Action,
    /// On which dataset, by id; default: on none in particular.
    #[arg(long)]
    dataset: Option<DatasetId>,
    /// What for.
    #[arg(long, default_value = "service")]
    purpose: tlog::Purpose,
    /// For which case.
    #[arg(long)]
    case: Option<String>,
    /// Where what is released goes; default: the principal's region.
    #[arg(long)]
    recipient_region: Option<RegionId>,
    /// When, such as 2026-11-26T22:00:00Z; default: now.
    #[arg(long, value_parser = parse_time)]
    at: Option<UnixMs>,
}

pub(crate) fn run(json: bool, command: Command) -> Result<(), Failure> {
    match command {
        Command::Check { file } => check(json, &file),
        Command::Explain(explain) => explain.run(json),
        Command::Diff { old, new } => compare(json, &old, &new),
        Command::Schema => {
            line(policy::SCHEMA.trim_end());
            Ok(())
        }
    }
}

fn check(json: bool, path: &Path) -> Result<(), Failure> {
    let text = read(path)?;
    let parsed = PolicyText::parse(&text);
    let warnings = parsed.as_ref().map(Policy::warnings).unwrap_or_default();
    let problems = parsed.as_ref().err().map(PolicyErrors::problems);
    let count = parsed.as_ref().map_or(0, Policy::len);
    if json {
        line(json!({
            "file": path, "valid": parsed.is_ok(), "policies": count,
            "problems": problems.unwrap_or_default(), "warnings": warnings,
        }));
    } else {
        for problem in problems.unwrap_or_default() {
            line(format!("{}:{problem}", path.display()));
        }
        for warning in &warnings {
            line(format!(
                "{}:{warning}\n  a warning: the text is valid",
                path.display()
            ));
        }
        if parsed.is_ok() {
            line(format!("{}: valid, {count} policies", path.display()));
        }
    }
    answer(parsed.is_ok())
}

impl Explain {
    fn run(self, json: bool) -> Result<(), Failure> {
        let policy = load(&self.file)?;
        let home = self.principal.region().clone();
        let request = Request {
            principal: self.principal,
            action: self.action,
            dataset: self.dataset,
            purpose: self.purpose,
            case: self.case,
            recipient_region: self.recipient_region.unwrap_or(home),
            at: self.at.unwrap_or_else(now),
        };
        let explanation = policy.explain(&request);
        if json {
            line(serde_json::to_string(&explanation).expect("strings and numbers always encode"));
        } else {
            line(explanation.to_string().trim_end());
        }
        answer(explanation.decision.allowed)
    }
}

fn compare(json: bool, old: &Path, new: &Path) -> Result<(), Failure> {
    let (old, new) = (load(old)?, load(new)?);
    let dimensions =
        Dimensions::of(&old, &new).map_err(|error| Failure::NoAnswer(error.to_string()))?;
    let found = diff(&old, &new, &dimensions);
    if json {
        line(serde_json::to_string(&found).expect("strings and numbers always encode"));
        return answer(found.changes.is_empty());
    }
    for row in rows(&found.changes) {
        line(row);
    }
    let asked = found.requests;
    if found.changes.is_empty() {
        line(format!("no change in {asked} requests"));
    } else {
        line(format!(
            "{} combinations change, of {asked} requests",
            found.changes.len()
        ));
    }
    if found.sampled {
        line("the texts match by pattern or by time: the requests are a sample, so read them too");
    }
    answer(found.changes.is_empty())
}

/// One line for each principal, action and dataset, with its purposes.
fn rows(changes: &[Change]) -> Vec<String> {
    let alike = |a: &Change, b: &Change| {
        let share = |change: &Change| (change.newly_allowed, change.newly_denied);
        (&a.principal, a.action, &a.dataset, share(a))
            == (&b.principal, b.action, &b.dataset, share(b))
    };
    let groups = changes.chunk_by(alike);
    let row = |group: &[Change]| {
        let first = &group[0];
        let purposes: Vec<_> = group.iter().map(|change| change.purpose.as_str()).collect();
        let mut row = String::new();
        for (sign, count) in [('+', first.newly_allowed), ('-', first.newly_denied)] {
            if count == 0 {
                continue;
            }
            let end = if row.is_empty() { "" } else { "\n" };
            let Change {
                principal,
                action,
                dataset,
                circumstances,
                ..
            } = first;
            let dataset = match dataset.as_str() {
                "the region" => "the region as a whole".to_owned(),
                "any other" => "any other dataset".to_owned(),
                id => format!("dataset {id}"),
            };
            let purposes = purposes.join(", ");
            let part = if count == *circumstances {
                String::new()
            } else {
                format!(" (in {count} of {circumstances} cases, regions and times)")
            };
            write!(
                row,
                "{end}{sign} {principal}: {action} {dataset} for {purposes}{part}"
            )
            .expect("a string takes what it is given");
        }
        row
    };
    groups.map(row).collect()
}

/// Yes or no, printed already.
fn answer(yes: bool) -> Result<(), Failure> {
    if yes { Ok(()) } else { Err(Failure::No) }
}

fn load(path: &Path) -> Result<Policy, Failure> {
    let text = read(path)?;
    PolicyText::parse(&text).map_err(|errors| {
        let path = path.display();
        Failure::NoAnswer(format!("{path} is no valid policy text:\n{errors}"))
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    // One byte more than is accepted, so that the parser says so.
    let bytes_max = policy::TEXT_BYTES_MAX as u64 + 1;
    let mut text = String::new();
    let doing = format!("reading {}", path.display());
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(bytes_max).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|from| from.take(bytes_max).read_to_string(&mut text))
    };
    read.map_err(file(doing))
        .map_err(|failure| Failure::NoAnswer(failure.chain()))?;
    Ok(text)
}

fn now() -> UnixMs {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
