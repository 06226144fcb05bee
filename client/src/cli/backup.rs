//! `reduit backup`: datasets into a folder or a bucket, and what is known of what lies there.
//!
//! Owns what is typed and printed. What a backup holds, this command reads in a drill alone, by opens on record.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::ids::DatasetName;
use client::storage_backup::{
    Copied, Folder, Pruned, S3Place, Sample, StorageBackupError, UNKNOWN, Verified, Wanted,
};
use client::{Region, Tuning};
use proto::storage_backup::IndexFile;
use serde_json::{Value, json};
use transport::RegionTrust;

use super::failure::Failure;
use super::output::{line, time};
use super::{Session, restore};

pub(super) const HELP: &str = "A backup is of one moment of each dataset: every version, delete marker, lock, setting and lease token, and not of
uploads in parts that are under way. Content is copied as it is sealed; names and settings are sealed in pages, under the
datasets' own keys. Only the region's KMS opens either, and after a loss only a KMS that k custodians have restored from its own
backup, which `create` takes last and keeps with the rest. Blocks and pages that are there are not copied again.

`create` takes an identity that holds leases (a client) and may list and write for the purpose `backup`, and an operator
for the KMS. It need not be allowed to read. `drill` takes one that may read for the purpose `backup-drill`.

A dataset is restored into a region that has its key and not the dataset: `ask-restore`, two operators sign, `allow` gives a
warrant, `restore` brings it back. It is read then and takes no changes until it is confirmed the same way: `ask-confirm`,
two sign, `allow`, `confirm`. The identity that restores may read and write for the purpose `restore`.

A place is a folder, or s3://BUCKET/PREFIX of an S3 store, which is found and asked as other clients of S3 do it: by
AWS_ENDPOINT_URL (without one, AWS's own), AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN. It has to
know conditional writes, or two commands could change one prefix at once. Its certificate is checked by the host's authorities,
or those of SSL_CERT_FILE.

Examples:
  reduit --context backup-1 backup create --to /backup/ch-zrh --operator op-1
  reduit --context backup-1 backup create --to /backup/ch-zrh --operator op-1 --dataset cti --dataset cases
  reduit backup ls --from /backup/ch-zrh
  reduit backup verify --from /backup/ch-zrh
  reduit --context drill-1 backup drill --from /backup/ch-zrh --objects 100
  reduit backup prune --from /backup/ch-zrh --keep 14
  reduit --context restore-1 backup ask-restore --from /backup/ch-zrh --operator op-1 -o restore.request
  AWS_ENDPOINT_URL=https://s3.example AWS_REGION=ch reduit --context backup-1 backup create --to s3://backups/ch-zrh --operator op-1";

/// Backups of datasets.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Backs up datasets, all that you may see or those named, and the KMS after them. Run again after a failure, it goes
    /// on with what is missing.
    #[command(after_help = "Examples:
  reduit --context backup-1 backup create --to /backup/ch-zrh --operator op-1
  reduit --context backup-1 backup create --to /backup/ch-zrh --operator op-1 --except scratch --json
  reduit --context backup-1 backup create --to /backup/ch-zrh --without-kms --dataset cti")]
    Create {
        /// The folder, made where there is none, or s3://BUCKET/PREFIX.
        #[arg(long, value_parser = place)]
        to: Place,
        /// This dataset, and those that are named so too, instead of all.
        #[arg(long = "dataset")]
        datasets: Vec<DatasetName>,
        /// Not this one; may be repeated.
        #[arg(long, conflicts_with = "datasets")]
        except: Vec<DatasetName>,
        /// Context of the operator who backs up the KMS.
        #[arg(
            long,
            required_unless_present = "without_kms",
            conflicts_with = "without_kms"
        )]
        operator: Option<String>,
        /// Back up no KMS: without one that is taken later, nothing of this opens in a restored region.
        #[arg(long)]
        without_kms: bool,
    },
    /// The backups of a folder, oldest first. Asks nobody.
    #[command(after_help = "Examples:
  reduit backup ls --from /backup/ch-zrh
  reduit backup ls --from /backup/ch-zrh --json")]
    Ls {
        /// The folder, or s3://BUCKET/PREFIX.
        #[arg(long, value_parser = place)]
        from: Place,
    },
    /// Reads all of a backup and says whether it is whole, and what that does not tell. Asks nobody; your context's CA says
    /// who signed it.
    #[command(after_help = "Examples:
  reduit backup verify --from /backup/ch-zrh
  reduit backup verify --from /backup/ch-zrh --backup 5f3a --json
  reduit backup verify --from /backup/ch-zrh --set-aside")]
    Verify {
        #[command(flatten)]
        which: Which,
        /// Move damaged files to `damaged/`, so that the next `create` copies them again while the region has them.
        #[arg(long)]
        set_aside: bool,
    },
    /// Opens a backup by the living region's keys, each open on record: all of its pages, and of each dataset some objects or
    /// all, to the end. No node is asked for anything.
    #[command(after_help = "Examples:
  reduit --context drill-1 backup drill --from /backup/ch-zrh
  reduit --context drill-1 backup drill --from /backup/ch-zrh --objects 1000 --json
  reduit --context drill-1 backup drill --from /backup/ch-zrh --all")]
    Drill {
        #[command(flatten)]
        which: Which,
        /// About so many objects of each dataset, chosen at random.
        #[arg(long, default_value_t = 100, conflicts_with = "all")]
        objects: u64,
        /// Every version of every object.
        #[arg(long)]
        all: bool,
    },
    /// Removes all but the newest backups, and every file that those do not need.
    #[command(after_help = "Examples:
  reduit backup prune --from /backup/ch-zrh --keep 14
  reduit backup prune --from /backup/ch-zrh --keep 14 --json")]
    Prune {
        /// The folder, or s3://BUCKET/PREFIX.
        #[arg(long, value_parser = place)]
        from: Place,
        /// How many are kept.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
    },
    #[command(flatten)]
    Restore(restore::Command),
}

/// One backup of a folder.
#[derive(Args)]
pub(crate) struct Which {
    /// The folder, or s3://BUCKET/PREFIX.
    #[arg(long, value_parser = place)]
    pub(super) from: Place,
    /// The backup whose id starts so; the newest, unless said.
    #[arg(long = "backup")]
    pub(super) id: Option<String>,
}

/// Where backups lie.
#[derive(Clone)]
pub(crate) enum Place {
    Folder(PathBuf),
    Bucket(String),
}

/// A place that is written like another kind of store is none: it would become a folder of that name.
pub(super) fn place(text: &str) -> Result<Place, String> {
    match text.split_once("://") {
        None => Ok(Place::Folder(text.into())),
        Some(("s3", _)) => Ok(Place::Bucket(text.to_owned())),
        Some(_) => Err("backups go into folders and to s3://BUCKET/PREFIX".to_owned()),
    }
}

impl Place {
    pub(super) fn open(&self) -> Result<Folder, Failure> {
        match self {
            Self::Folder(path) => Ok(Folder::open(path)?),
            Self::Bucket(text) => bucket(text),
        }
    }

    fn create(&self) -> Result<Folder, Failure> {
        match self {
            Self::Folder(path) => Ok(Folder::create(path)?),
            Self::Bucket(text) => bucket(text),
        }
    }
}

fn bucket(text: &str) -> Result<Folder, Failure> {
    let place = S3Place::parse(text);
    let place = place.map_err(|error| Failure::Usage(format!("{text}: {error}")))?;
    Ok(Folder::bucket(place)?)
}

/// What waits for a disk or a store, beside the runtime.
pub(super) async fn asked<T: Send + 'static>(
    folder: &Folder,
    ask: impl FnOnce(&Folder) -> Result<T, StorageBackupError> + Send + 'static,
) -> Result<T, Failure> {
    let folder = folder.clone();
    let done = tokio::task::spawn_blocking(move || ask(&folder)).await;
    let done = done.map_err(|error| Failure::Usage(format!("a task ended early: {error}")))?;
    Ok(done?)
}

impl From<StorageBackupError> for Failure {
    fn from(error: StorageBackupError) -> Self {
        match error {
            StorageBackupError::Region(error) => Self::Client(error),
            StorageBackupError::File { path, source } => Self::File {
                doing: path.display().to_string(),
                source,
            },
            other => Self::Backup(Box::new(other)),
        }
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create {
            to,
            datasets,
            except,
            operator,
            without_kms: _,
        } => {
            let wanted = Wanted { datasets, except };
            create(session, &to, &wanted, operator.as_deref()).await
        }
        Command::Ls { from } => ls(session, &from).await,
        Command::Verify { which, set_aside } => verify(session, &which, set_aside).await,
        Command::Drill {
            which,
            objects,
            all,
        } => {
            let sample = match all {
                true => Sample::All,
                false => Sample::About(objects),
            };
            drill(session, &which, sample).await
        }
        Command::Prune { from, keep } => {
            let pruned = from.open()?.prune(keep as usize).await?;
            said_pruned(session, pruned);
            Ok(())
        }
        Command::Restore(command) => restore::run(session, command).await,
    }
}

async fn create(
    session: &Session,
    to: &Place,
    wanted: &Wanted,
    operator: Option<&str>,
) -> Result<(), Failure> {
    let operator = match operator {
        Some(name) => {
            let contexts = session.contexts()?;
            let (_, context) = contexts.choose(Some(name))?;
            Some(Region::connect(context, Tuning::default()).await?)
        }
        None => None,
    };
    let region = session.region().await?;
    if let Some(operator) = &operator
        && operator.id() != region.id()
    {
        let why = format!(
            "that operator is of {}, not of {}",
            operator.id(),
            region.id()
        );
        return Err(Failure::Usage(why));
    }
    let folder = to.create()?;
    let told = Cell::new(0);
    let progress = |copied: &Copied| {
        let bytes = copied.page_bytes + copied.block_bytes;
        tell(&told, bytes, "copied");
    };
    let made = region
        .back_up(&folder, wanted, operator.as_ref(), progress)
        .await?;
    let (index, copied) = (&made.file.index, &made.copied);
    if session.json {
        let name = |id: &[u8]| {
            let named = made
                .names
                .iter()
                .find(|(known, _)| known.as_bytes()[..] == *id);
            named.map(|(_, name)| name.to_string())
        };
        let mut said = described(&made.file);
        for dataset in said["datasets"].as_array_mut().into_iter().flatten() {
            let id = hex::decode(dataset["id"].as_str().unwrap_or_default());
            dataset["name"] = json!(name(&id.unwrap_or_default()));
        }
        said["copied"] = json!({
            "pages": copied.pages, "page_bytes": copied.page_bytes, "pages_there": copied.pages_there,
            "blocks": copied.blocks, "block_bytes": copied.block_bytes, "blocks_there": copied.blocks_there,
            "again": copied.again,
        });
        line(said);
        return Ok(());
    }
    line(format!("backup {} of {}", made.file.id(), index.region));
    for dataset in &index.datasets {
        let id = client::ids::DatasetId::try_from(&dataset.dataset_id[..])?;
        let name = made
            .names
            .get(&id)
            .map_or_else(|| id.to_string(), DatasetName::to_string);
        line(format!("{name}: {}", dataset_line(dataset)));
    }
    line(format!(
        "copied {} pages and {} blocks, {} bytes; {} pages and {} blocks were there",
        copied.pages,
        copied.blocks,
        copied.page_bytes + copied.block_bytes,
        copied.pages_there,
        copied.blocks_there
    ));
    line(kms_line(index));
    Ok(())
}

fn kms_line(index: &proto::v1::BackupIndex) -> String {
    let Some(kms) = &index.kms else {
        return "NO BACKUP OF THE KMS: nothing of this opens in a restored region without one that is taken later"
            .to_owned();
    };
    let record = kms.record.clone().unwrap_or_default();
    format!(
        "the kms's backup {} opens with the shares of root key {}",
        hex::encode(&record.digest),
        record.root_epoch
    )
}

fn dataset_line(dataset: &proto::v1::BackupDataset) -> String {
    let totals = dataset.totals.unwrap_or_default();
    let uploads = match dataset.uploads {
        0 => String::new(),
        some => format!("; {some} uploads under way are left out"),
    };
    format!(
        "{} versions, {} delete markers, {} sealed bytes, as of entry {} of shard {}{uploads}",
        totals.versions,
        totals.delete_markers,
        totals.sealed_bytes,
        dataset.at_index,
        dataset.shard
    )
}

fn described(file: &IndexFile) -> Value {
    let index = &file.index;
    let dataset = |dataset: &proto::v1::BackupDataset| {
        let totals = dataset.totals.unwrap_or_default();
        json!({
            "id": hex::encode(&dataset.dataset_id), "shard": dataset.shard, "at_index": dataset.at_index,
            "versions": totals.versions, "delete_markers": totals.delete_markers, "parts": totals.parts,
            "tokens": totals.tokens, "sealed_bytes": totals.sealed_bytes, "pages": dataset.pages.len(),
            "blocks": totals.blocks, "block_bytes": totals.block_bytes, "uploads_left_out": dataset.uploads,
            "kek_versions": dataset.kek_versions,
        })
    };
    let datasets: Vec<Value> = index.datasets.iter().map(dataset).collect();
    let kms = index.kms.as_ref().map(|kms| {
        let record = kms.record.clone().unwrap_or_default();
        json!({
            "sha256": hex::encode(&record.digest), "bytes": record.bytes, "root_epoch": record.root_epoch,
            "tree_size": record.tree_size, "confirmed_leaf": kms.confirmed_leaf,
        })
    });
    json!({
        "backup": file.id().to_string(), "region": index.region, "signer": index.signer,
        "begun": time(index.begun_ms), "ended": time(index.ended_ms), "whole_region": index.catalog_index > 0,
        "datasets": datasets, "kms": kms,
    })
}

async fn ls(session: &Session, from: &Place) -> Result<(), Failure> {
    for file in asked(&from.open()?, Folder::backups).await? {
        if session.json {
            line(described(&file));
            continue;
        }
        let index = &file.index;
        let totals = index
            .datasets
            .iter()
            .map(|one| one.totals.unwrap_or_default());
        let (versions, bytes) = totals.fold((0, 0), |(versions, bytes), totals| {
            (versions + totals.versions, bytes + totals.sealed_bytes)
        });
        let kms = match index.kms {
            Some(_) => "with the kms",
            None => "without the kms",
        };
        line(format!(
            "{}  {}  {} datasets, {versions} versions, {bytes} sealed bytes, {kms}, by {}",
            file.id(),
            time(index.ended_ms),
            index.datasets.len(),
            index.signer
        ));
    }
    Ok(())
}

async fn verify(session: &Session, which: &Which, set_aside: bool) -> Result<(), Failure> {
    let contexts = session.contexts()?;
    let (_, context) = contexts.choose(session.context.as_deref())?;
    let trust = RegionTrust::load(context.region.clone(), &context.ca)
        .map_err(|error| Failure::Usage(format!("{}: {error}", context.ca.display())))?;
    let folder = which.from.open()?;
    let id = which.id.clone();
    let file = asked(&folder, move |folder| folder.backup(id.as_deref())).await?;
    let told = Cell::new(0);
    let found = folder
        .verify(&file, &trust, |bytes| tell(&told, bytes, "read"))
        .await?;
    let aside = match set_aside {
        true => folder.set_aside(&found.problems).await?,
        false => 0,
    };
    said_verified(session, &file, &found, aside);
    match found.problems.len() {
        0 => Ok(()),
        some => Err(Failure::BadBackup(some)),
    }
}

fn said_verified(session: &Session, file: &IndexFile, found: &Verified, aside: u64) {
    let problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
    if session.json {
        line(json!({
            "backup": file.id().to_string(), "whole": problems.is_empty(), "signer": file.index.signer,
            "ended": time(file.index.ended_ms), "pages": found.pages, "blocks": found.blocks, "bytes": found.bytes,
            "kms": found.has_kms, "problems": problems, "set_aside": aside, "not_known": UNKNOWN,
        }));
        return;
    }
    line(format!(
        "backup {} of {}, {}, by {}",
        file.id(),
        file.index.region,
        time(file.index.ended_ms),
        file.index.signer
    ));
    line(format!(
        "read {} pages and {} blocks, {} bytes",
        found.pages, found.blocks, found.bytes
    ));
    for problem in &problems {
        line(format!("PROBLEM: {problem}"));
    }
    if aside > 0 {
        line(format!(
            "{aside} damaged files were set aside: run `reduit backup create`"
        ));
    }
    if problems.is_empty() {
        line("every file is there and is what the index names");
    }
    line(match found.has_kms {
        true => "each lease's key version is, as the index has it, in the kms's backup".to_owned(),
        false => kms_line(&file.index),
    });
    line("not known from the files:");
    for unknown in UNKNOWN {
        line(format!("  {unknown}"));
    }
}

async fn drill(session: &Session, which: &Which, sample: Sample) -> Result<(), Failure> {
    let folder = which.from.open()?;
    let id = which.id.clone();
    let file = asked(&folder, move |folder| folder.backup(id.as_deref())).await?;
    let region = session.region().await?;
    if region.id().as_str() != file.index.region {
        let why = format!(
            "that backup is of {}, not of {}",
            file.index.region,
            region.id()
        );
        return Err(Failure::Usage(why));
    }
    let told = Cell::new(0);
    let done = region
        .drill(&folder, &file, sample, |done| {
            tell(&told, done.bytes, "opened")
        })
        .await?;
    if session.json {
        line(json!({
            "backup": file.id().to_string(), "pages": done.pages, "versions": done.versions, "opened": done.opened,
            "bytes": done.bytes, "problems": done.problems,
        }));
    } else {
        line(format!(
            "opened {} pages, which tell of {} versions and delete markers, and the content of {} of them, {} bytes",
            done.pages, done.versions, done.opened, done.bytes
        ));
        for problem in &done.problems {
            line(format!("PROBLEM: {problem}"));
        }
    }
    match done.problems.len() {
        0 => Ok(()),
        some => Err(Failure::BadBackup(some)),
    }
}

fn said_pruned(session: &Session, pruned: Pruned) {
    if session.json {
        line(json!({
            "kept": pruned.kept, "backups": pruned.backups, "files": pruned.files, "bytes": pruned.bytes,
        }));
        return;
    }
    line(format!(
        "{} backups are kept; removed {} backups and {} files that none of the others needs, {} bytes",
        pruned.kept, pruned.backups, pruned.files, pruned.bytes
    ));
}

/// Tells a person at a terminal how many bytes have gone.
pub(super) fn tell(told: &Cell<u64>, bytes: u64, what: &str) {
    const EVERY: u64 = 256 << 20;
    if bytes >= told.get() + EVERY && std::io::stderr().is_terminal() {
        eprintln!("{what} {} MiB", bytes >> 20);
        told.set(bytes);
    }
}
