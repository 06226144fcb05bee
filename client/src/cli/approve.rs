//! `reduit approve`: what takes more than one person, asked for in a file, approved in others, done with them.
//!
//! Owns the files and what approvers are shown. Refuses nothing by itself that the region accepts, but a person who would
//! approve their own request, and a file that does not say what it asks.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use client::ids::{AccessKeyId, Identity, ObjectVersionId, Role};
use client::{APPROVAL_MINUTES, Approvable, ApprovalRequest, GetOptions};
use proto::v1;
use serde_json::json;
use transport::LocalIdentity;

use super::failure::{Failure, file};
use super::location::Location;
use super::output::{line, time};
use super::{Session, copy};

const HELP: &str = "A person opens for a person's purpose, and two operators approve each single opening:

  anna$   reduit approve ask cti/reports/7.json --purpose investigation --case 2026-17 -o 7.request
  berta$  reduit approve show 7.request
  berta$  reduit approve sign 7.request -o 7.berta
  carlo$  reduit approve sign 7.request -o 7.carlo
  anna$   reduit approve open 7.request --approval 7.berta --approval 7.carlo 7.json

An approval serves once, for exactly this request, until it expires. What is opened is recorded, with its approvals,
before a key is released; in a region with witnesses they have seen the record by then.

A policy text is changed the same way: `reduit approve policy`, `sign`, then `reduit policy set --request`. An access key
is made: `reduit approve access-key`, `sign`, then `reduit access-key create --request`. Another region is trusted:
`reduit approve region`, `sign`, then `reduit region trust --request`. A replica is unsealed by its token: `reduit kms
ask-unseal`, `sign`, then `reduit kms unseal --request`. And datasets are restored from a backup: `reduit backup
ask-restore`, `sign`, then `reduit backup allow`. Steps of a move between regions: `reduit relocate begin`, `grant` and
`shred` with --ask, `sign`, then the same command with --request.";

#[derive(Subcommand)]
#[command(after_help = HELP)]
pub(crate) enum Command {
    /// As an auditor: asks for approvals to open one object. Opens nothing.
    Ask(Ask),
    /// As an operator: asks for approvals of a policy text. Changes nothing.
    #[command(after_help = "Examples:\n  reduit approve policy region.cedar -o region.request")]
    Policy {
        /// The text; `-` is standard input.
        text: PathBuf,
        /// Where to write the request.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// As an operator: asks for approvals of an access key. Makes none.
    #[command(
        after_help = "Examples:\n  reduit approve access-key backup -o backup.request\n  reduit approve access-key --enable RDTAAAAAAAAAAAAAAAAA -o enable.request"
    )]
    AccessKey {
        /// The service principal it is to act for, by its name.
        #[arg(required_unless_present = "enable", conflicts_with = "enable")]
        principal: Option<String>,
        /// A disabled access key to be enabled again.
        #[arg(long)]
        enable: Option<AccessKeyId>,
        /// Where to write the request.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// As an operator: asks for approvals to trust another region. Trusts none.
    #[command(
        after_help = "Examples:\n  reduit approve region de-fra.region --fingerprint 3f0c... -o de-fra.request"
    )]
    Region {
        /// What the region says of itself, as `reduit region show` wrote it there.
        descriptor: PathBuf,
        /// Its fingerprint, as the region's operators told it you on another way than the file came.
        #[arg(long, value_parser = super::regions::parse_fingerprint)]
        fingerprint: super::regions::Fingerprint,
        /// Where to write the request.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Shows what a request asks for.
    #[command(
        after_help = "Examples:\n  reduit approve show 7.request\n  reduit approve show 7.request --json"
    )]
    Show {
        /// The request.
        request: PathBuf,
    },
    /// As an operator: approves a request. Works offline, with the identity of the current context.
    #[command(after_help = "Examples:\n  reduit approve sign 7.request -o 7.berta --minutes 30")]
    Sign {
        /// The request.
        request: PathBuf,
        /// Where to write the approval.
        #[arg(short, long)]
        output: PathBuf,
        /// How long it lasts.
        #[arg(long, default_value_t = APPROVAL_MINUTES, value_parser = clap::value_parser!(u32).range(1..=i64::from(client::APPROVAL_MINUTES_MAX)))]
        minutes: u32,
    },
    /// As the auditor who asked: opens the object.
    #[command(
        after_help = "Examples:\n  reduit approve open 7.request --approval 7.berta --approval 7.carlo -"
    )]
    Open {
        /// The request.
        request: PathBuf,
        /// An approval; give each.
        #[arg(long = "approval", required = true)]
        approvals: Vec<PathBuf>,
        /// A file, or - for standard output.
        target: PathBuf,
    },
}

/// What is asked for.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  reduit approve ask cti/reports/7.json --purpose investigation --case 2026-17 -o 7.request"
)]
pub(crate) struct Ask {
    /// dataset/key.
    object: Location,
    /// This version instead of the current one.
    #[arg(long)]
    version: Option<ObjectVersionId>,
    /// A person's purpose: investigation, third-party-request, legal-request or support.
    #[arg(long)]
    purpose: String,
    /// Case number.
    #[arg(long, default_value = "")]
    case: String,
    /// For whom.
    #[arg(long, default_value = "")]
    on_behalf_of: String,
    /// By what right.
    #[arg(long, default_value = "")]
    legal_basis: String,
    /// Where to write the request.
    #[arg(short, long)]
    output: PathBuf,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ask(ask) => ask.run(session).await,
        Command::Policy { text, output } => {
            let text = super::policy::valid_text(&text)?;
            let identity = identity(session)?;
            let request = ApprovalRequest::policy(identity.identity(), text)?;
            asked(session, &request, &output)
        }
        Command::AccessKey {
            principal,
            enable,
            output,
        } => {
            let identity = identity(session)?;
            let own = identity.identity();
            let request = match (principal, enable) {
                (_, Some(id)) => {
                    let record = session.region().await?.access_key(&id).await?;
                    let none = || Failure::Usage(format!("there is no access key {id}"));
                    let record = record.ok_or_else(none)?;
                    ApprovalRequest::enable_access_key(own, &record)?
                }
                (name, None) => {
                    let name = name.unwrap_or_default();
                    let principal = Identity::new(own.region().clone(), Role::Service, &name)?;
                    ApprovalRequest::access_key(own, &principal)?
                }
            };
            asked(session, &request, &output)
        }
        Command::Region {
            descriptor,
            fingerprint,
            output,
        } => {
            let descriptor = super::regions::compared(&descriptor, fingerprint)?;
            let identity = identity(session)?;
            let own = identity.identity();
            let request = ApprovalRequest::trust_region(own, &descriptor, fingerprint.0)?;
            asked(session, &request, &output)
        }
        Command::Show { request } => {
            show(session, &load(&request)?);
            Ok(())
        }
        Command::Sign {
            request,
            output,
            minutes,
        } => sign(session, &load(&request)?, &output, minutes),
        Command::Open {
            request,
            approvals,
            target,
        } => open(session, &load(&request)?, &approvals, &target).await,
    }
}

impl Ask {
    async fn run(self, session: &Session) -> Result<(), Failure> {
        let region = session.region().await?;
        let options = GetOptions {
            purpose: self.purpose.clone(),
            case: self.case.clone(),
            ..GetOptions::default()
        };
        let dataset = region.dataset_for(&self.object.dataset, &options).await?;
        let claim = v1::Claim {
            actor: String::new(),
            on_behalf_of: self.on_behalf_of,
            purpose: self.purpose,
            case_id: self.case,
            legal_basis: self.legal_basis,
        };
        let request = dataset
            .ask_open(&self.object.key()?, self.version, claim)
            .await?;
        asked(session, &request, &self.output)
    }
}

pub(super) fn asked(
    session: &Session,
    request: &ApprovalRequest,
    output: &Path,
) -> Result<(), Failure> {
    write(output, &request.to_text())?;
    if session.json {
        line(json!({ "request": output, "hash": hex::encode(request.hash()) }));
    } else {
        let path = output.display();
        line(format!(
            "{path}: to be approved by two operators with `reduit approve sign {path}`"
        ));
    }
    Ok(())
}

fn show(session: &Session, request: &ApprovalRequest) {
    if session.json {
        let shown = request.shown().into_iter();
        let mut shown: serde_json::Map<_, _> = shown
            .map(|(name, value)| (name.replace(' ', "_"), json!(value)))
            .collect();
        shown.insert("hash".to_owned(), json!(hex::encode(request.hash())));
        line(serde_json::Value::Object(shown));
        return;
    }
    for (name, value) in request.shown() {
        line(format!("{name:<14} {value}"));
    }
    line(format!("{:<14} {}", "hash", hex::encode(request.hash())));
}

fn sign(
    session: &Session,
    request: &ApprovalRequest,
    output: &Path,
    minutes: u32,
) -> Result<(), Failure> {
    let approver = identity(session)?;
    let approval = request.approve(&approver, minutes)?;
    if !session.json {
        show(session, request);
    }
    write(output, &client::approval_to_text(&approval))?;
    let body: v1::ApprovalBody = prost::Message::decode(approval.body).unwrap_or_default();
    let until = time(body.expires_at_ms);
    if session.json {
        line(json!({ "approval": output, "approver": body.approver, "until": until }));
    } else {
        let (path, who) = (output.display(), body.approver);
        line(format!(
            "{path}: approved by {who} until {until}, for one use"
        ));
    }
    Ok(())
}

async fn open(
    session: &Session,
    request: &ApprovalRequest,
    approvals: &[PathBuf],
    target: &Path,
) -> Result<(), Failure> {
    let Approvable::Open { dataset, key, .. } = &request.what else {
        let why = "that request does not open an object: see `reduit policy set --request`";
        return Err(Failure::Usage(why.to_owned()));
    };
    let approvals = load_approvals(approvals)?;
    let region = session.region().await?;
    let options = options(request);
    let (leaf, body) = region
        .dataset_for(dataset, &options)
        .await?
        .get_approved(request, approvals)
        .await?;
    if target.as_os_str() == "-" {
        body.copy_to(tokio::io::stdout()).await?;
        return Ok(());
    }
    let mut target = target.to_owned();
    if target.is_dir() {
        target.push(key.as_str().rsplit('/').next().unwrap_or("object"));
    }
    let bytes = copy::write_file(body, &target).await?;
    if session.json {
        line(json!({ "bytes": bytes, "leaf": leaf }));
    } else {
        let path = target.display();
        line(format!(
            "{path}: {bytes} bytes, opening and approvals recorded as leaf {leaf}"
        ));
    }
    Ok(())
}

/// What nodes are told while the dataset is looked up.
fn options(request: &ApprovalRequest) -> GetOptions {
    let claim = match &request.what {
        Approvable::Open { request, .. } => request.claim.clone().unwrap_or_default(),
        Approvable::Policy { .. }
        | Approvable::AccessKey { .. }
        | Approvable::EnableAccessKey { .. }
        | Approvable::Restore { .. }
        | Approvable::TrustRegion { .. }
        | Approvable::Relocation { .. }
        | Approvable::TokenUnseal { .. } => v1::Claim::default(),
    };
    GetOptions {
        purpose: claim.purpose,
        case: claim.case_id,
        ..GetOptions::default()
    }
}

pub(super) fn load(path: &Path) -> Result<ApprovalRequest, Failure> {
    Ok(ApprovalRequest::parse(&read(path)?)?)
}

pub(super) fn load_approvals(paths: &[PathBuf]) -> Result<Vec<v1::Approval>, Failure> {
    let load = |path: &PathBuf| Ok(client::approval_from_text(&read(path)?)?);
    paths.iter().map(load).collect()
}

pub(super) fn identity(session: &Session) -> Result<LocalIdentity, Failure> {
    let contexts = session.contexts()?;
    let (_, context) = contexts.choose(session.context.as_deref())?;
    LocalIdentity::load(&context.certificate, &context.key)
        .map_err(|error| Failure::Usage(format!("the context's identity: {error}")))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(file(format!("reading {}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(file(format!("writing {}", path.display())))
}
