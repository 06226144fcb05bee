//! `reduit policy`: texts are checked, explained and compared, offline, before two people approve one; then one is set.
//!
//! Owns files and what is printed; what a text means is `policy`'s to say. Exit codes of what is offline are as of `grep`
//! and `diff`: 0 for yes, 1 for no, 2 where there is no answer. Refuses to set a text that is none.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use client::ids::{DatasetId, Identity, RegionId, UnixMs};
use client::{Approvable, ApprovalRequest};
use policy::{Action, Change, Dimensions, Policy, PolicyErrors, PolicyText, Request, diff};
use proto::v1;
use serde_json::json;
use transport::LocalIdentity;

use super::failure::{Failure, file};
use super::output::{line, parse_time};
use super::{Session, approve};

/// Approvals given where the change is made: they travel nowhere.
const APPROVED_HERE_MINUTES: u32 = 5;

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

const SHOW_HELP: &str = "Examples:
  reduit policy show > region.cedar
  reduit policy show --json";

const SET_HELP: &str = "Nodes learn it within 5 s. There is no way back to grants, only to another text.

Examples:
  reduit policy show > region.cedar
  reduit policy diff region.cedar proposed.cedar
  reduit approve policy proposed.cedar -o proposed.request
  reduit policy set --request proposed.request --approval proposed.berta --approval proposed.carlo
  reduit policy set proposed.cedar --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key";

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
    /// Prints the text in force; where none was ever set, the one that decides as the grants do.
    #[command(after_help = SHOW_HELP)]
    Show,
    /// Puts a text in force, approved by two other operators. The first one ends the grants.
    #[command(after_help = SET_HELP)]
    Set(Set),
}

/// A text and its approvals.
#[derive(Args)]
pub(crate) struct Set {
    /// The text; `-` is standard input.
    #[arg(required_unless_present = "request", conflicts_with = "request")]
    text: Option<PathBuf>,
    /// An approving operator's certificate (PEM); give it and --key once for each.
    #[arg(long, required_unless_present = "request", conflicts_with = "request")]
    certificate: Vec<PathBuf>,
    /// The same operator's key (PEM).
    #[arg(long, required_unless_present = "request", conflicts_with = "request")]
    key: Vec<PathBuf>,
    /// What was approved apart from here, as `reduit approve policy` wrote it.
    #[arg(long, requires = "approvals")]
    request: Option<PathBuf>,
    /// An approval of it; give each.
    #[arg(long = "approval", id = "approvals")]
    approvals: Vec<PathBuf>,
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

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let json = session.json;
    match command {
        Command::Check { file } => check(json, &file),
        Command::Explain(explain) => explain.run(json),
        Command::Diff { old, new } => compare(json, &old, &new),
        Command::Schema => {
            line(policy::SCHEMA.trim_end());
            Ok(())
        }
        Command::Show => show(session).await,
        Command::Set(set) => set.run(session).await,
    }
}

async fn show(session: &Session) -> Result<(), Failure> {
    let set = session.region().await?.authority().await?;
    let in_force = !set.policy.is_empty();
    let text = if in_force {
        set.policy
    } else {
        let made = PolicyText::from_grants(&set.grants);
        let made = made.map_err(|error| Failure::NoAnswer(error.to_string()))?;
        made.as_str().to_owned()
    };
    if session.json {
        let from = if in_force { "text" } else { "grants" };
        line(json!({ "in_force": from, "authority_version": set.version, "text": text }));
    } else {
        line(text.trim_end());
    }
    Ok(())
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let (request, approvals) = match &self.request {
            Some(path) => {
                let asked = approve::load(path)?;
                let approvals = approve::load_approvals(&self.approvals)?;
                (of_policy(asked)?, approvals)
            }
            None => self.approved_here(session)?,
        };
        let region = session.region().await?;
        let done = region.change_policy(request, approvals).await?;
        let (leaf, version) = (done.leaf_index, done.authority_version);
        if session.json {
            line(json!({ "leaf": leaf, "authority_version": version }));
        } else {
            line(format!(
                "policy in force, authority version {version}, leaf {leaf}"
            ));
        }
        Ok(())
    }

    /// With the keys of the approvers at hand.
    fn approved_here(
        &self,
        session: &Session,
    ) -> Result<(v1::ChangePolicyRequest, Vec<v1::Approval>), Failure> {
        if self.certificate.len() != self.key.len() {
            let why = "each --certificate takes a --key";
            return Err(Failure::Usage(why.to_owned()));
        }
        let path = self.text.as_deref().unwrap_or(Path::new("-"));
        let requester = approve::identity(session)?;
        let asked = ApprovalRequest::policy(requester.identity(), valid_text(path)?)?;
        let approvals = self.certificate.iter().zip(&self.key);
        let approvals = approvals.map(|(certificate, key)| {
            let approver = LocalIdentity::load(certificate, key)
                .map_err(|error| Failure::Usage(format!("an approver's identity: {error}")))?;
            Ok(asked.approve(&approver, APPROVED_HERE_MINUTES)?)
        });
        let approvals = approvals.collect::<Result<Vec<_>, Failure>>()?;
        Ok((of_policy(asked)?, approvals))
    }
}

fn of_policy(asked: ApprovalRequest) -> Result<v1::ChangePolicyRequest, Failure> {
    match asked.what {
        Approvable::Policy { request } => Ok(request),
        Approvable::AccessKey { .. } | Approvable::EnableAccessKey { .. } => {
            let why = "that request is of an access key: see `reduit access-key create --request`";
            Err(Failure::Usage(why.to_owned()))
        }
        Approvable::Open { .. } => {
            let why = "that request opens an object: see `reduit approve open`";
            Err(Failure::Usage(why.to_owned()))
        }
        Approvable::Restore { .. } => {
            let why = "that request restores datasets: see `reduit backup allow`";
            Err(Failure::Usage(why.to_owned()))
        }
        Approvable::TrustRegion { .. } => {
            let why = "that request trusts a region: see `reduit region trust --request`";
            Err(Failure::Usage(why.to_owned()))
        }
        Approvable::Relocation { .. } => {
            let why = "that request moves a dataset: see `reduit relocate --help`";
            Err(Failure::Usage(why.to_owned()))
        }
        Approvable::TokenUnseal { .. } => {
            let why = "that request unseals a replica: see `reduit kms unseal`";
            Err(Failure::Usage(why.to_owned()))
        }
    }
}

/// A text that is one, or every mistake in it.
pub(super) fn valid_text(path: &Path) -> Result<String, Failure> {
    let text = read(path)?;
    PolicyText::parse(&text).map_err(|errors| not_valid(path, &errors))?;
    Ok(text)
}

fn not_valid(path: &Path, errors: &PolicyErrors) -> Failure {
    let path = path.display();
    Failure::NoAnswer(format!("{path} is no valid policy text:\n{errors}"))
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
    PolicyText::parse(&text).map_err(|errors| not_valid(path, &errors))
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
