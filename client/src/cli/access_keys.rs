//! `reduit access-key`: credentials of S3 clients.
//!
//! Owns how they are printed: the secret once, when it is made, and to standard output alone. Refuses nothing by itself: the
//! region asks for operators, and for approvals.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::ids::{AccessKeyId, Identity};
use client::{Approvable, Region, service_principal};
use proto::v1;
use serde_json::{Value, json};

use super::approvers::Approvers;
use super::failure::{Failure, file};
use super::output::{line, secret_line, time};
use super::{Session, approve};

const CREATE_HELP: &str = "The principal is a name: `backup` is spiffe://<region>/service/backup. It has no certificate and
may do what the policy text, or grants, say of it, through a gateway that may do it too. Two other operators approve, here
or apart from here. The secret is printed once; whoever lost it deletes the access key and makes another. Sent again with
the same approvals while they last, the same secret is shown to the same operator.

Examples:
  reduit access-key create --principal backup --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit approve access-key backup -o backup.request
  reduit access-key create --request backup.request --approval backup.berta --approval backup.carlo --json";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes an access key of a service principal, approved by two other operators, and prints its secret.
    #[command(after_help = CREATE_HELP)]
    Create(Create),
    /// Every access key, without secrets.
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  reduit access-key ls\n  reduit access-key ls --json"
    )]
    Ls,
    /// No gateway is given its secret any more. Takes one operator; what a gateway holds ends within the hour.
    #[command(after_help = "Examples:\n  reduit access-key disable RDTAAAAAAAAAAAAAAAAA")]
    Disable {
        /// The access key.
        id: AccessKeyId,
    },
    /// Enables a disabled access key again, approved by two other operators.
    #[command(
        after_help = "Examples:\n  reduit access-key enable RDTAAAAAAAAAAAAAAAAA --certificate op-2.pem --key op-2.key \\\n      --certificate op-3.pem --key op-3.key\n  reduit approve access-key --enable RDTAAAAAAAAAAAAAAAAA -o enable.request\n  reduit access-key enable --request enable.request --approval a.berta --approval a.carlo"
    )]
    Enable(Enable),
    /// Deletes a disabled access key; the KMS's replicas erase its secret from their files.
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  reduit access-key rm RDTAAAAAAAAAAAAAAAAA"
    )]
    Rm {
        /// The access key.
        id: AccessKeyId,
    },
}

/// What was approved apart from here.
#[derive(Args)]
pub(crate) struct Elsewhere {
    /// As `reduit approve access-key` wrote it.
    #[arg(long, requires = "approvals")]
    request: Option<PathBuf>,
    /// An approval of it; give each.
    #[arg(long = "approval", id = "approvals")]
    approvals: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Create {
    /// The service principal it acts for, by its name.
    #[arg(long, required_unless_present = "request", conflicts_with = "request")]
    principal: Option<String>,
    #[command(flatten)]
    approvers: Approvers,
    #[command(flatten)]
    elsewhere: Elsewhere,
}

#[derive(Args)]
pub(crate) struct Enable {
    /// The access key.
    #[arg(required_unless_present = "request", conflicts_with = "request")]
    id: Option<AccessKeyId>,
    #[command(flatten)]
    approvers: Approvers,
    #[command(flatten)]
    elsewhere: Elsewhere,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        Command::Create(create) => create.run(session, &region).await,
        Command::Ls => list(session, &region).await,
        Command::Disable { id } => {
            let record = region.disable_access_key(&id).await?;
            changed(session, &record);
            Ok(())
        }
        Command::Enable(enable) => enable.run(session, &region).await,
        Command::Rm { id } => {
            let held = region.access_key(&id).await?.unwrap_or_default();
            let epoch = held.root_epoch;
            let done = region.delete_access_key(&id).await?;
            let leaf = done.leaf_index;
            match session.json {
                true => line(json!({
                    "access_key": id.to_string(),
                    "leaf": leaf,
                    "recoverable_under_up_to": epoch,
                })),
                false => line(format!(
                    "{id}: deleted, recorded as leaf {leaf}; `reduit access-key ls` names replicas that have not erased it yet\n\
                     recoverable from backups made before, with shares of root epoch {epoch} or of the one that an older backup names"
                )),
            }
            Ok(())
        }
    }
}

impl Create {
    async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let made = match &self.elsewhere.request {
            Some(path) => {
                let asked = approve::load(path)?;
                let Approvable::AccessKey { request } = &asked.what else {
                    return Err(other_request());
                };
                let approvals = approve::load_approvals(&self.elsewhere.approvals)?;
                region
                    .create_access_key_approved(request, approvals)
                    .await?
            }
            None => {
                let name = self.principal.unwrap_or_default();
                let principal: Identity = service_principal(region, &name)?;
                let approvers = self.approvers.load()?;
                region.create_access_key(&principal, &approvers).await?
            }
        };
        let (record, secret) = (&made.record, made.secret.text());
        let lost = file("writing the secret to standard output");
        if session.json {
            let before = json_before_secret(record);
            return secret_line(&before, &secret, JSON_AFTER_SECRET).map_err(lost);
        }
        line(format!("access key  {}", id(record)));
        secret_line("secret      ", &secret, "\n").map_err(lost)?;
        line(format!("principal   {}", record.principal));
        line(format!(
            "Shown once, to you, as leaf {} says. Keep it where its client reads it, and nowhere else.",
            record.created_leaf
        ));
        Ok(())
    }
}

impl Enable {
    async fn run(self, session: &Session, region: &Region) -> Result<(), Failure> {
        let record = match (&self.elsewhere.request, self.id) {
            (Some(path), _) => {
                let asked = approve::load(path)?;
                let Approvable::EnableAccessKey { request } = &asked.what else {
                    return Err(other_request());
                };
                let approvals = approve::load_approvals(&self.elsewhere.approvals)?;
                region
                    .enable_access_key_approved(request, approvals)
                    .await?
            }
            (None, Some(id)) => {
                region
                    .enable_access_key(&id, &self.approvers.load()?)
                    .await?
            }
            (None, None) => return Err(other_request()),
        };
        changed(session, &record);
        Ok(())
    }
}

fn other_request() -> Failure {
    Failure::Usage(
        "that request is not what this command does: see `reduit approve show`".to_owned(),
    )
}

async fn list(session: &Session, region: &Region) -> Result<(), Failure> {
    let listed = region.access_keys().await?;
    if session.json {
        let keys: Vec<_> = listed.keys.iter().map(shown).collect();
        line(json!({ "access_keys": keys, "not_erased": listed.not_erased }));
        return Ok(());
    }
    for record in &listed.keys {
        line(format!(
            "{}  {:<8}  {}  {}",
            id(record),
            state(record),
            time(record.created_at_ms),
            record.principal
        ));
    }
    if !listed.not_erased.is_empty() {
        line(format!(
            "not erased yet, what was last deleted: {}",
            listed.not_erased.join(", ")
        ));
    }
    Ok(())
}

fn changed(session: &Session, record: &v1::AccessKeyRecord) {
    if session.json {
        return line(shown(record));
    }
    line(format!("{}: {}", id(record), state(record)));
    if record.state() == v1::AccessKeyState::Disabled && record.given_until_ms > 0 {
        line(format!(
            "A gateway that was given the secret may go by it until {}.",
            time(record.given_until_ms)
        ));
    }
}

fn id(record: &v1::AccessKeyRecord) -> String {
    String::from_utf8_lossy(&record.access_key_id).into_owned()
}

fn state(record: &v1::AccessKeyRecord) -> &'static str {
    match record.state() {
        v1::AccessKeyState::Enabled => "enabled",
        v1::AccessKeyState::Disabled => "disabled",
        v1::AccessKeyState::Unspecified => "unknown",
    }
}

/// The record as JSON up to where the secret's text stands: its letters are none that JSON escapes, and a value of JSON
/// would keep a copy of it that nobody wipes.
fn json_before_secret(record: &v1::AccessKeyRecord) -> String {
    let shown = shown(record).to_string();
    let open = shown.strip_suffix('}').expect("an object ends so");
    format!(r#"{open},"secret":""#)
}

const JSON_AFTER_SECRET: &str = "\"}\n";

fn shown(record: &v1::AccessKeyRecord) -> Value {
    json!({
        "access_key": id(record),
        "principal": record.principal,
        "state": state(record),
        "created": time(record.created_at_ms),
        "created_by": record.created_by,
        "created_leaf": record.created_leaf,
        "given_until": (record.given_until_ms > 0).then(|| time(record.given_until_ms)),
        "root_epoch": record.root_epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_between_its_pieces_is_one_line_of_json() {
        let record = v1::AccessKeyRecord {
            access_key_id: "RDTAAAAAAAAAAAAAAAAA".into(),
            ..v1::AccessKeyRecord::default()
        };
        let secret = "AZaz09+/".repeat(5);
        let text = [&json_before_secret(&record), &secret, JSON_AFTER_SECRET].concat();
        assert_eq!(text.matches('\n').count(), 1);
        let mut printed: Value = serde_json::from_str(&text).expect("JSON");
        let printed_secret = printed.as_object_mut().and_then(|all| all.remove("secret"));
        assert_eq!(printed_secret, Some(json!(secret)));
        assert_eq!(printed, shown(&record));
    }
}
