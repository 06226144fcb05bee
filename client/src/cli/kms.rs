//! `reduit kms`: the KMS as a whole. Sealed at once, backed up, restored on replicas that are new.
//!
//! Owns what is printed, and files beside the backup's. What a backup holds, this command cannot read.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use client::backup::{BackupFile, BackupFileError, NewReplica, RestoreTerms};
use client::ids::Identity;
use client::operator::CustodianShare;
use prost::Message as _;
use proto::v1;
use serde_json::json;
use transport::LocalIdentity;

use super::approvers::Approvers;
use super::custody::{read, read_key, read_share};
use super::failure::Failure;
use super::output::{line, time};
use super::{Session, seals};

const RESTORE_HELP: &str = "On a cluster of new KMS replicas, started with a genesis set that names them and the same people, and never
initialised. k custodians of the root key that the backup names unseal the first replica; two operators approve the
restore of exactly this file; the log goes on where the backup's ends.
  1. an operator prepares one replica for the backup;
  2. k custodians give it their shares;
  3. the operator runs the restore, two others approve;
  4. the other replicas are unsealed by the first; storage nodes are given the new genesis set (runbook, section 15).
A backup that is behind what a witness has signed is refused: restore a newer one, or state the size it has signed. The
leaves between are lost, and the log goes on under its next origin, of which the witnesses have to know the key.

Examples:
  reduit kms restore prepare --in kms.backup --replica spiffe://ch-zrh/kms/kms-1 --at kms-1:7443
  reduit --context custodian-1 kms restore share --replica spiffe://ch-zrh/kms/kms-1 --at kms-1:7443 \\
      --share custodian-1.share --hpke-key custodian-1.xwing
  reduit kms restore run --in kms.backup --replica spiffe://ch-zrh/kms/kms-1 --at kms-1:7443 --genesis genesis.set \\
      --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit kms restore approve-unseal --replica spiffe://ch-zrh/kms/kms-2 --at kms-2:7443 \\
      --certificate op-2.pem --key op-2.key";

/// The KMS as a whole.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Emergency: every replica drops its keys, on record where a majority is there. Custodians unseal it again.
    #[command(after_help = "Examples:\n  reduit kms seal\n  reduit kms seal --json")]
    Seal,
    /// Writes a backup of the KMS, sealed to k custodians of the root key in force, and puts on record that you hold it.
    #[command(
        after_help = "Examples:\n  reduit kms backup --out kms-2026-11-26.backup\n  reduit kms backup --out kms.backup --json"
    )]
    Backup {
        /// The file: new.
        #[arg(long)]
        out: PathBuf,
    },
    /// Brings a backup onto a cluster of new replicas.
    #[command(subcommand, after_help = RESTORE_HELP)]
    Restore(Restore),
    #[command(flatten)]
    Token(seals::Command),
}

/// One replica of a new cluster.
#[derive(Args)]
pub(crate) struct At {
    /// The replica, as its genesis set names it.
    #[arg(long)]
    replica: Identity,
    /// Where it listens: `host:port`.
    #[arg(long)]
    at: String,
}

#[derive(Subcommand)]
pub(crate) enum Restore {
    /// Looks at a backup: whether it is whole, of what, and who can open it. Asks nobody.
    Inspect {
        /// The backup.
        #[arg(long = "in")]
        input: PathBuf,
    },
    /// Has a replica take shares of the root key that opens the backup. Run again, it says what is missing.
    Prepare {
        /// The backup.
        #[arg(long = "in")]
        input: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// As a custodian: gives your share to the prepared replica.
    Share {
        #[command(flatten)]
        at: At,
        /// Your share, as the ceremony or `custody begin` wrote it.
        #[arg(long)]
        share: PathBuf,
        /// Your X-Wing key: 64 hexadecimal digits.
        #[arg(long)]
        hpke_key: PathBuf,
    },
    /// Restores. Run again after a failure, it goes on.
    Run(Box<Run>),
    /// Gives another replica the second person's word, so that the restored one unseals it.
    ApproveUnseal {
        #[command(flatten)]
        at: At,
        /// The approving operator's certificate (PEM); not yours.
        #[arg(long)]
        certificate: PathBuf,
        /// The approving operator's key (PEM).
        #[arg(long)]
        key: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct Run {
    /// The backup.
    #[arg(long = "in")]
    input: PathBuf,
    #[command(flatten)]
    at: At,
    /// The new cluster's genesis set.
    #[arg(long)]
    genesis: PathBuf,
    /// Leaves of the newest checkpoint that anybody has of the log, where that is more than the backup has.
    #[arg(long, default_value_t = 0)]
    witnessed_size: u64,
    /// A witness policy (C2SP tlog-policy) in place of the backup's: with the cosigner keys of these replicas where it
    /// names replicas, and with the key of the log's next origin where leaves are lost.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// With --policy: no key is released while the newest witnessed checkpoint is older: hours.
    #[arg(long, default_value_t = 24)]
    unwitnessed_hours: u64,
    /// Restore although the region's witnesses do not say how far they have seen its log.
    #[arg(long)]
    without_witnesses: bool,
    #[command(flatten)]
    approvers: Approvers,
}

impl From<BackupFileError> for Failure {
    fn from(error: BackupFileError) -> Self {
        match error {
            BackupFileError::File { path, source } => Self::File {
                doing: path.display().to_string(),
                source,
            },
            BackupFileError::Region(error) => Self::Client(error),
            other => Self::Usage(other.to_string()),
        }
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Seal => seal(session).await,
        Command::Backup { out } => backup(session, out).await,
        Command::Restore(command) => restore(session, command).await,
        Command::Token(command) => seals::run(session, command).await,
    }
}

/// Tells a person at a terminal how many bytes have gone.
fn progress(what: &'static str) -> impl FnMut(u64) + Send + 'static {
    const EVERY: u64 = 64 << 20;
    let (mut next, told) = (EVERY, std::io::stderr().is_terminal());
    move |bytes| {
        if told && bytes >= next {
            eprintln!("{what} {} MiB", bytes >> 20);
            next = bytes + EVERY;
        }
    }
}

async fn backup(session: &Session, out: PathBuf) -> Result<(), Failure> {
    let region = session.region().await?;
    let held = region.backup_kms(&out, progress("received")).await?;
    let backup = &held.backup;
    if session.json {
        line(json!({
            "file": out, "sha256": hex::encode(&backup.digest), "bytes": backup.bytes, "records": held.rows,
            "root_epoch": backup.root_epoch, "tree_size": backup.tree_size,
            "root_hash": hex::encode(&backup.root_hash), "taken": time(backup.taken_at_ms),
            "begun_leaf": held.begun_leaf, "confirmed_leaf": held.confirmed_leaf,
        }));
        return Ok(());
    }
    line(format!(
        "{}: {} bytes, {} records, {} leaves, as of {}",
        out.display(),
        backup.bytes,
        held.rows,
        backup.tree_size,
        time(backup.taken_at_ms)
    ));
    line(format!("sha256 {}", hex::encode(&backup.digest)));
    line(format!(
        "opens with the shares of root key {} and with nothing else; on record, leaf {}",
        backup.root_epoch, held.confirmed_leaf
    ));
    Ok(())
}

fn replica(session: &Session, at: &At) -> Result<NewReplica, Failure> {
    let contexts = session.contexts()?;
    let (_, context) = contexts.choose(session.context.as_deref())?;
    Ok(NewReplica::at(context, &at.replica, &at.at)?)
}

async fn restore(session: &Session, command: Restore) -> Result<(), Failure> {
    match command {
        Restore::Inspect { input } => {
            let file = BackupFile::open(&input)?;
            let (backup, region) = (&file.backup, &file.start.region);
            let custodians: Vec<_> = region.custodians.iter().map(|c| &c.identity).collect();
            let said = json!({
                "region": region.region, "sha256": hex::encode(&backup.digest), "bytes": backup.bytes,
                "root_epoch": backup.root_epoch, "shares_needed": region.shares_needed, "custodians": custodians,
                "tree_size": backup.tree_size, "root_hash": hex::encode(&backup.root_hash),
                "origin": region.log_origin, "taken": time(backup.taken_at_ms), "level": file.start.header.level,
                "checksum": "good", "authentic": "not known before it is opened",
            });
            if session.json {
                line(said);
                return Ok(());
            }
            line(format!(
                "the KMS of {} as of {}, {} leaves of {}",
                region.region,
                time(backup.taken_at_ms),
                backup.tree_size,
                region.log_origin
            ));
            line(format!(
                "sha256 {}, checksum good",
                hex::encode(&backup.digest)
            ));
            line(format!(
                "opens with {} shares of root key {}, held by",
                region.shares_needed, backup.root_epoch
            ));
            for custodian in custodians {
                line(format!("  {custodian}"));
            }
        }
        Restore::Prepare { input, at } => {
            let file = BackupFile::open(&input)?;
            let reply = replica(session, &at)?.prepare_restore(&file.start).await?;
            if session.json {
                line(json!({
                    "root_epoch": reply.root_epoch, "shares_needed": reply.shares_needed, "unsealed": reply.unsealed,
                    "log_key": reply.log_key, "next_log_key": reply.next_log_key, "cosigner_key": reply.cosigner_key,
                }));
            } else if reply.unsealed {
                line("ready to restore");
                line(format!("log key: {}", reply.log_key));
                line(format!(
                    "log key of the next origin: {}",
                    reply.next_log_key
                ));
                line(format!(
                    "this replica's cosigner key: {}",
                    reply.cosigner_key
                ));
            } else {
                line(format!(
                    "takes shares now: {} of root key {} are needed",
                    reply.shares_needed, reply.root_epoch
                ));
                line(format!(
                    "this replica's cosigner key: {}",
                    reply.cosigner_key
                ));
            }
        }
        Restore::Share {
            at,
            share,
            hpke_key,
        } => {
            let (share, key) = (read_share(&share)?, read_key(&hpke_key)?);
            let share = CustodianShare {
                share: &share,
                key: &key,
            };
            let reply = replica(session, &at)?.unseal(share).await?;
            if session.json {
                line(json!({ "have": reply.have, "needed": reply.needed }));
            } else {
                line(format!("{} of {} shares", reply.have, reply.needed));
            }
        }
        Restore::Run(run) => restored(session, *run).await?,
        Restore::ApproveUnseal {
            at,
            certificate,
            key,
        } => {
            let approver = LocalIdentity::load(&certificate, &key)
                .map_err(|error| Failure::Usage(format!("the approver's identity: {error}")))?;
            let reply = replica(session, &at)?.approve_unseal(&approver).await?;
            line(format!(
                "unsealed by {}, leaf {}",
                reply.unsealed_by, reply.leaf_index
            ));
        }
    }
    Ok(())
}

async fn restored(session: &Session, run: Run) -> Result<(), Failure> {
    let file = BackupFile::open(&run.input)?;
    let genesis = v1::SignedEnrolmentSet::decode(&read(&run.genesis)?[..])
        .map_err(|_| Failure::Usage("that file is no genesis set".to_owned()))?;
    let policy = match &run.policy {
        None => None,
        Some(path) => Some(v1::WitnessPolicy {
            format: 1,
            policy: Bytes::from(read(path)?),
            unwitnessed_max_ms: run.unwitnessed_hours.saturating_mul(3_600_000),
        }),
    };
    let terms = RestoreTerms {
        genesis: Some(genesis),
        witnessed_size: run.witnessed_size,
        policy,
        without_witnesses: run.without_witnesses,
    };
    let replica = replica(session, &run.at)?;
    replica.prepare_restore(&file.start).await?;
    let approvers = run.approvers.load()?;
    let restored = replica.restore(&file, terms, &approvers, progress("sent"));
    let reply = restored.await?;
    if session.json {
        line(json!({
            "leaf": reply.leaf_index, "tree_size": reply.tree_size, "root_hash": hex::encode(&reply.root_hash),
            "origin": reply.log_origin, "lost_leaves": reply.lost_leaves, "records": reply.rows,
            "authority_version": reply.authority_version, "witnessed_size": reply.witnessed_size,
        }));
        return Ok(());
    }
    line(format!(
        "restored: {} records; the log {} goes on from {} leaves, root {}, with leaf {}",
        reply.rows,
        reply.log_origin,
        reply.tree_size,
        hex::encode(&reply.root_hash),
        reply.leaf_index
    ));
    match (reply.lost_leaves, reply.witnessed_size) {
        (0, 0) => line(
            "no witness said how far the log went: what happened after the backup is lost without a trace here",
        ),
        (0, _) => line("no leaf that a witness has signed is lost"),
        (lost, _) => line(format!(
            "LOST: {lost} leaves between the backup and the newest checkpoint known; keys, opens and policies of that \
             time are not here, and keys destroyed in it are back: destroy them again"
        )),
    }
    Ok(())
}

async fn seal(session: &Session) -> Result<(), Failure> {
    let region = session.region().await?;
    let outcome = region.seal_region().await;
    let mut unsealed = 0;
    let recorded = match &outcome.recorded {
        Ok(leaf) => format!("on record, leaf {leaf}"),
        Err(error) => format!("not on record: {error}"),
    };
    if !session.json {
        line(&recorded);
    }
    let mut replicas = Vec::new();
    for (id, identity, sealed) in outcome.replicas {
        let name = identity.map_or_else(|| id.to_string(), |identity| identity.to_string());
        let said = match sealed {
            Ok(()) => "sealed".to_owned(),
            Err(error) => {
                unsealed += 1;
                format!("may still hold keys: {error}")
            }
        };
        if session.json {
            replicas.push(json!({ "replica": name, "said": said }));
        } else {
            line(format!("{name}: {said}"));
        }
    }
    if session.json {
        line(json!({ "recorded": recorded, "replicas": replicas }));
    }
    match unsealed {
        0 => Ok(()),
        some => Err(Failure::Unhealthy(some)),
    }
}
