//! `reduit backup ask-restore` and what follows: datasets come back from a backup, and two people say so twice.
//!
//! Owns the files that travel and what is printed. Refuses to ask for a backup that nobody of the region signed.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use client::ids::{DatasetId, DatasetName};
use client::storage_backup::{Folder, Restored, Warrant, index_digest};
use client::{Approvable, ApprovalRequest, Region};
use proto::storage_backup::IndexFile;
use proto::v1;
use serde_json::{Value, json};
use transport::{LocalIdentity, RegionTrust};

use super::backup::{Which, asked, tell};
use super::failure::{Failure, file};
use super::output::{line, time};
use super::{Session, approve};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Asks for approvals to restore datasets from a backup. Opens the first page of each, on record, for its name; changes
    /// nothing.
    #[command(after_help = "Examples:
  reduit --context restore-1 backup ask-restore --from /backup/ch-zrh --operator op-1 -o restore.request
  reduit --context restore-1 backup ask-restore --from /backup/ch-zrh --operator op-1 --dataset cti -o cti.request
  reduit approve sign restore.request -o restore.berta")]
    AskRestore {
        #[command(flatten)]
        which: Which,
        /// Context of the operator who asks; two others approve.
        #[arg(long)]
        operator: String,
        /// This dataset, and those that are named so too, instead of all in it.
        #[arg(long = "dataset")]
        datasets: Vec<DatasetName>,
        /// Where to write the request.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// As the operator who asked: has a restore, or its confirmation, put on record, and writes the KMS's warrant of it. Run
    /// again after a failure, it gives the same.
    #[command(after_help = "Examples:
  reduit --context op-1 backup allow restore.request --approval restore.berta --approval restore.carlo -o restore.warrant")]
    Allow {
        /// The request.
        request: PathBuf,
        /// An approval of it; give each.
        #[arg(long = "approval", required = true)]
        approvals: Vec<PathBuf>,
        /// Where to write the warrant. It counts for a week.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Restores the datasets of a warrant, one after the other. They serve nothing until all of one is here; then it is read,
    /// and takes no changes until it is confirmed. Run again after a failure, it goes on where the shard says it is.
    #[command(after_help = "Examples:
  reduit --context restore-1 backup restore --from /backup/ch-zrh --warrant restore.warrant
  reduit --context restore-1 backup restore --from /backup/ch-zrh --warrant restore.warrant --dataset cti --json")]
    Restore {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        by: ByWarrant,
    },
    /// Where the restores of a warrant are.
    #[command(after_help = "Examples:
  reduit backup standing --warrant restore.warrant
  reduit backup standing --warrant restore.warrant --json")]
    Standing {
        #[command(flatten)]
        by: ByWarrant,
    },
    /// Gives up a restore that is not confirmed: what came goes, and the name is free. What had blocks cannot be restored
    /// into this region again for a day.
    #[command(after_help = "Examples:
  reduit --context restore-1 backup abandon --warrant restore.warrant --dataset cti")]
    Abandon {
        /// The warrant by which it was begun.
        #[arg(long)]
        warrant: PathBuf,
        /// The dataset.
        #[arg(long)]
        dataset: DatasetName,
    },
    /// Asks for approvals to confirm what a warrant restored: that it is still this region's, in the epoch where it stands.
    #[command(after_help = "Examples:
  reduit backup ask-confirm --warrant restore.warrant --operator op-1 -o confirm.request
  reduit approve sign confirm.request -o confirm.berta
  reduit --context op-1 backup allow confirm.request --approval confirm.berta --approval confirm.carlo -o confirm.warrant")]
    AskConfirm {
        #[command(flatten)]
        by: ByWarrant,
        /// Context of the operator who asks; two others approve.
        #[arg(long)]
        operator: String,
        /// Where to write the request.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Lets restored datasets take changes again, by a warrant that confirms them.
    #[command(after_help = "Examples:
  reduit backup confirm --warrant confirm.warrant
  reduit backup confirm --warrant confirm.warrant --json")]
    Confirm {
        #[command(flatten)]
        by: ByWarrant,
    },
}

/// A warrant, and which of its datasets are meant.
#[derive(Args)]
pub(crate) struct ByWarrant {
    /// The warrant, as `allow` wrote it.
    #[arg(long)]
    warrant: PathBuf,
    /// This dataset, and those that are named so too, instead of all that it names.
    #[arg(long = "dataset")]
    datasets: Vec<DatasetName>,
}

type Named = Vec<(DatasetId, DatasetName)>;

impl ByWarrant {
    fn load(&self) -> Result<(Warrant, Named), Failure> {
        let warrant = warrant(&self.warrant)?;
        let named = chosen(warrant.datasets()?, &self.datasets)?;
        Ok((warrant, named))
    }
}

fn warrant(path: &Path) -> Result<Warrant, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(file(format!("reading {}", path.display())))?;
    Ok(Warrant::parse(&text)?)
}

/// Those of them that are wanted; all where none is.
fn chosen(all: Named, wanted: &[DatasetName]) -> Result<Named, Failure> {
    let missing = wanted
        .iter()
        .find(|name| !all.iter().any(|(_, known)| known == *name));
    if let Some(name) = missing {
        return Err(Failure::Usage(format!("there is no dataset {name} in it")));
    }
    let is_wanted = |name: &DatasetName| wanted.is_empty() || wanted.contains(name);
    Ok(all
        .into_iter()
        .filter(|(_, name)| is_wanted(name))
        .collect())
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::AskRestore {
            which,
            operator,
            datasets,
            output,
        } => ask_restore(session, &which, (&operator, &datasets), &output).await,
        Command::Allow {
            request,
            approvals,
            output,
        } => allow(session, &request, &approvals, &output).await,
        Command::Restore { which, by } => restore(session, &which, &by).await,
        Command::Standing { by } => standing(session, &by).await,
        Command::Abandon { warrant, dataset } => abandon(session, &warrant, dataset).await,
        Command::AskConfirm {
            by,
            operator,
            output,
        } => ask_confirm(session, &by, &operator, &output).await,
        Command::Confirm { by } => confirm(session, &by).await,
    }
}

/// A backup of the region that is meant, which somebody of the region signed.
async fn found(session: &Session, which: &Which) -> Result<(Folder, IndexFile, Region), Failure> {
    let folder = which.from.open()?;
    let id = which.id.clone();
    let index = asked(&folder, move |folder| folder.backup(id.as_deref())).await?;
    let contexts = session.contexts()?;
    let (_, context) = contexts.choose(session.context.as_deref())?;
    let trust = RegionTrust::load(context.region.clone(), &context.ca)
        .map_err(|error| Failure::Usage(format!("{}: {error}", context.ca.display())))?;
    folder.check_signer(&index, &trust)?;
    Ok((folder, index, session.region().await?))
}

/// The identity of another context: who asks is an operator, and who opens pages is not.
fn identity_of(session: &Session, name: &str) -> Result<LocalIdentity, Failure> {
    let contexts = session.contexts()?;
    let (_, context) = contexts.choose(Some(name))?;
    LocalIdentity::load(&context.certificate, &context.key)
        .map_err(|error| Failure::Usage(format!("the operator's identity: {error}")))
}

fn targets(named: &Named, epoch: impl Fn(&DatasetId) -> u64) -> Vec<v1::RestoreTarget> {
    let target = |(id, name): &(DatasetId, DatasetName)| v1::RestoreTarget {
        dataset_id: (*id).into(),
        name: name.to_string(),
        epoch: epoch(id),
    };
    let mut targets: Vec<_> = named.iter().map(target).collect();
    targets.sort_by(|a, b| a.dataset_id.cmp(&b.dataset_id));
    targets
}

async fn ask_restore(
    session: &Session,
    which: &Which,
    (operator, wanted): (&str, &[DatasetName]),
    output: &Path,
) -> Result<(), Failure> {
    let requester = identity_of(session, operator)?;
    let (folder, index, region) = found(session, which).await?;
    let named = chosen(region.names_in(&folder, &index).await?, wanted)?;
    let terms = v1::DatasetRestore {
        format: 1,
        what: v1::RestoreWhat::Restore.into(),
        backup_id: index.index.backup_id.clone(),
        index_digest: index_digest(&index).to_vec().into(),
        datasets: targets(&named, |_| 0),
    };
    let request = ApprovalRequest::restore(requester.identity(), terms)?;
    approve::asked(session, &request, output)
}

async fn allow(
    session: &Session,
    request: &Path,
    approvals: &[PathBuf],
    output: &Path,
) -> Result<(), Failure> {
    let asked = approve::load(request)?;
    let Approvable::Restore { request } = asked.what else {
        let why = "that request restores no dataset: see `reduit approve show`";
        return Err(Failure::Usage(why.to_owned()));
    };
    let approvals = approve::load_approvals(approvals)?;
    let region = session.region().await?;
    let reply = region.approve_restore(request, approvals).await?;
    let warrant = Warrant::new(&reply.warrant.unwrap_or_default())?;
    std::fs::write(output, warrant.to_text())
        .map_err(file(format!("writing {}", output.display())))?;
    let until = time(warrant.expires().0);
    if session.json {
        line(json!({ "warrant": output, "leaf": reply.leaf_index, "until": until }));
    } else {
        let path = output.display();
        line(format!(
            "{path}: a warrant, good until {until}; on record as leaf {}",
            reply.leaf_index
        ));
    }
    Ok(())
}

async fn restore(session: &Session, which: &Which, by: &ByWarrant) -> Result<(), Failure> {
    let (warrant, named) = by.load()?;
    let (folder, index, region) = found(session, which).await?;
    for (id, name) in named {
        let told = Cell::new(0);
        let progress = |restored: &Restored| tell(&told, restored.block_bytes, "uploaded");
        let done = region
            .restore_dataset(&folder, &index, (&warrant, id), progress)
            .await?;
        if session.json {
            line(json!({
                "dataset": name.to_string(), "id": id.to_string(), "pages": done.pages, "items": done.items,
                "taken": done.taken, "found": done.found, "blocks": done.blocks, "block_bytes": done.block_bytes,
            }));
        } else {
            line(format!(
                "{name}: {} versions, delete markers and parts are back, {} of them by this run, with {} blocks, {} bytes",
                done.taken,
                done.taken - done.found,
                done.blocks,
                done.block_bytes
            ));
        }
    }
    if !session.json {
        line(
            "they are read, and take no changes until they are confirmed: `reduit backup ask-confirm`",
        );
    }
    Ok(())
}

fn phase(standing: &v1::RestoreStanding) -> &'static str {
    let restore = standing.restore.as_ref();
    match restore.map(v1::RestoreRecord::phase) {
        None => "not begun",
        Some(v1::RestorePhase::Filling) => "filling",
        Some(v1::RestorePhase::Standing) => "unconfirmed",
        Some(v1::RestorePhase::Confirmed) => "confirmed",
        Some(v1::RestorePhase::Abandoned) => "abandoned",
    }
}

/// One that was never begun has no place yet.
async fn standing_of(region: &Region, id: DatasetId) -> Result<v1::RestoreStanding, Failure> {
    match region.restore_standing(id).await {
        Err(client::Error::NoSuchDataset) => Ok(v1::RestoreStanding::default()),
        other => Ok(other?),
    }
}

async fn standing(session: &Session, by: &ByWarrant) -> Result<(), Failure> {
    let (_, named) = by.load()?;
    let region = session.region().await?;
    for (id, name) in named {
        let standing = standing_of(&region, id).await?;
        said_standing(session, (id, &name), &standing);
    }
    Ok(())
}

fn said_standing(
    session: &Session,
    (id, name): (DatasetId, &DatasetName),
    standing: &v1::RestoreStanding,
) {
    let restore = standing.restore.clone().unwrap_or_default();
    let dataset = standing.dataset.clone().unwrap_or_default();
    if session.json {
        let at = |ms: u64| match ms {
            0 => Value::Null,
            ms => json!(time(ms)),
        };
        line(json!({
            "dataset": name.to_string(), "id": id.to_string(), "phase": phase(standing), "taken": restore.taken,
            "items": restore.items, "versions": dataset.versions, "epoch": dataset.epoch, "shard": standing.shard,
            "backup": hex::encode(&restore.backup_id), "restore": hex::encode(&restore.restore_id),
            "begun": at(restore.begun_at_ms), "changed": at(restore.changed_at_ms),
        }));
        return;
    }
    line(match standing.restore {
        None => format!("{name}: not begun"),
        Some(_) => format!(
            "{name}: {}, {} of {} items, epoch {}, shard {}",
            phase(standing),
            restore.taken,
            restore.items,
            dataset.epoch,
            standing.shard
        ),
    });
}

async fn abandon(session: &Session, path: &Path, dataset: DatasetName) -> Result<(), Failure> {
    let warrant = warrant(path)?;
    let named = chosen(warrant.datasets()?, &[dataset])?;
    let region = session.region().await?;
    for (id, name) in named {
        let standing = region.abandon_restore(&warrant, id).await?;
        said_standing(session, (id, &name), &standing);
    }
    Ok(())
}

async fn ask_confirm(
    session: &Session,
    by: &ByWarrant,
    operator: &str,
    output: &Path,
) -> Result<(), Failure> {
    let requester = identity_of(session, operator)?;
    let (warrant, named) = by.load()?;
    let region = session.region().await?;
    let mut epochs = Vec::new();
    for (id, name) in &named {
        let standing = standing_of(&region, *id).await?;
        if phase(&standing) != "unconfirmed" {
            let why = format!(
                "{name} is {}: there is nothing to confirm",
                phase(&standing)
            );
            return Err(Failure::Usage(why));
        }
        epochs.push((*id, standing.dataset.unwrap_or_default().epoch));
    }
    let epoch = |id: &DatasetId| {
        let found = epochs.iter().find(|(known, _)| known == id);
        found.map_or(0, |(_, epoch)| *epoch)
    };
    let terms = v1::DatasetRestore {
        what: v1::RestoreWhat::Confirm.into(),
        datasets: targets(&named, epoch),
        ..warrant.terms().clone()
    };
    let request = ApprovalRequest::restore(requester.identity(), terms)?;
    approve::asked(session, &request, output)
}

async fn confirm(session: &Session, by: &ByWarrant) -> Result<(), Failure> {
    let (warrant, named) = by.load()?;
    let region = session.region().await?;
    for (id, name) in named {
        region.confirm_restore(&warrant, id).await?;
        let standing = standing_of(&region, id).await?;
        said_standing(session, (id, &name), &standing);
    }
    Ok(())
}
