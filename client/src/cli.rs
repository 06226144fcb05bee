//! Arguments and their dispatch.

mod access_keys;
mod approve;
mod approvers;
mod backup;
mod certificate;
mod context;
mod copy;
mod custody;
mod data;
mod dataset;
mod doctor;
mod evidence;
mod failure;
mod key_name;
mod key_report;
mod keys;
mod kms;
pub(crate) mod location;
mod object;
mod operate;
mod output;
mod policy;
mod region;
mod regions;
mod relocate;
mod restore;
mod seals;
mod settings;
mod uploads;
mod verify;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use client::{ContextFile, Region, Tuning};

use self::failure::Failure;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed: local file, or a fault of the software
  2  wrong arguments
  3  no such dataset, object, upload or context
  4  a precondition did not hold
  5  not allowed, or not known to the region
  6  nobody could serve it in time; it had no effect
  7  outcome unknown: it may or may not have had effect
  8  stored data is damaged or does not open

Examples:
  reduit context use ch-zrh
  reduit dataset create cti
  reduit put report.json cti/reports/2026/report.json
  reduit put -r ./samples cti/samples
  reduit get cti/reports/2026/report.json -
  tar c . | reduit put - cti/backup.tar
  reduit ls cti/reports/ --json
  reduit object lock cti/reports/7.json --mode compliance --until 2036-01-01T00:00:00Z
  reduit upload ls cti
  reduit policy diff region.cedar proposed.cedar
  reduit approve ask cti/reports/7.json --purpose investigation --case 2026-17 -o 7.request
  reduit verify evidence/ --policy trust.policy
  reduit region scrub --node 2 --wait
  reduit region peers
  reduit relocate plan cti --to de-fra --out cti.plan
  reduit --context backup-1 backup create --to /backup/ch-zrh --operator op-1
  reduit doctor";

/// Sealed object storage confined to one region.
#[derive(Parser)]
#[command(name = "reduit", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Context to use instead of the current one.
    #[arg(long, global = true, env = "REDUIT_CONTEXT")]
    context: Option<String>,
    /// Context file; default: $XDG_CONFIG_HOME/reduit/contexts.toml.
    #[arg(long, global = true, env = "REDUIT_CONFIG")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Regions you know, and which one is meant.
    #[command(subcommand)]
    Context(context::Command),
    /// Datasets: create, ls, info, rm; versioning, lock, lifecycle, quota, hold, reseal.
    #[command(subcommand)]
    Dataset(dataset::Command),
    /// Seal and store a file, a folder (-r) or standard input (-).
    Put(data::Put),
    /// Open and read an object, a prefix (-r) or to standard output (-).
    Get(data::Get),
    /// List datasets, or the objects of one.
    Ls(data::Ls),
    /// What is known of an object.
    Stat(data::Stat),
    /// Delete objects.
    Rm(data::Rm),
    /// One version: what keeps it from being removed, its tags: lock, hold, tags.
    #[command(subcommand)]
    Object(object::Command),
    /// Uploads in parts that are under way: ls, parts, abort.
    #[command(subcommand)]
    Upload(uploads::Command),
    /// A dataset's key: info, rotate, disable, enable.
    #[command(subcommand)]
    Key(keys::Command),
    /// The region's transparency log: head, leaves.
    #[command(subcommand)]
    Log(keys::LogCommand),
    /// Policy texts: check, explain, diff, schema; show and set the region's.
    #[command(subcommand)]
    Policy(policy::Command),
    /// What takes more than one person: ask, show, sign, open.
    #[command(subcommand)]
    Approve(approve::Command),
    /// Credentials of S3 clients: create, ls, disable, enable, rm.
    #[command(subcommand)]
    AccessKey(access_keys::Command),
    Verify(verify::Verify),
    /// Evidence about a dataset for somebody outside: export.
    #[command(subcommand)]
    Evidence(evidence::Command),
    /// Who can rebuild the root key: status, begin, confirm, finish, abandon, erased, retire.
    #[command(subcommand)]
    Custody(custody::Command),
    /// The KMS as a whole: seal, backup, restore; seals of the root key by a token: seals, provision, drop, ask-unseal,
    /// unseal.
    #[command(subcommand)]
    Kms(kms::Command),
    /// Backups of datasets: create, ls, verify, drill, prune; restores from them.
    #[command(subcommand, after_help = backup::HELP)]
    Backup(backup::Command),
    /// A dataset's move to another region: plan, begin, grant, status, cutover, abort, shred, finalize.
    #[command(subcommand, after_help = relocate::HELP)]
    Relocate(relocate::Command),
    /// For operators and custodians: status, unsealing.
    #[command(subcommand)]
    Operator(operate::Command),
    /// For operators: how whole the nodes' files are, and what makes them whole: status, scrub, repair; and other regions:
    /// show, trust, peers, distrust.
    #[command(subcommand)]
    Region(region::Command),
    /// Says in words what is wrong with a region.
    Doctor,
    /// Shell completions, to be sourced.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
}

/// What every command works with.
pub(crate) struct Session {
    file: PathBuf,
    context: Option<String>,
    json: bool,
}

impl Session {
    fn contexts(&self) -> Result<ContextFile, Failure> {
        Ok(ContextFile::load(&self.file)?)
    }

    async fn region(&self) -> Result<Region, Failure> {
        let contexts = self.contexts()?;
        let (_, context) = contexts.choose(self.context.as_deref())?;
        let region = Region::connect(context, Tuning::default()).await?;
        let elsewhere = contexts.contexts.values();
        let elsewhere = elsewhere.filter(|other| other.region != context.region);
        region.follow_to(elsewhere.cloned());
        Ok(region)
    }
}

/// Runs one command.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let session = Session {
        file: arguments.config.unwrap_or_else(ContextFile::default_path),
        context: arguments.context,
        json: arguments.json,
    };
    match arguments.command {
        Command::Context(command) => context::run(&session, command),
        Command::Dataset(command) => dataset::run(&session, command).await,
        Command::Put(put) => put.run(&session).await,
        Command::Get(get) => get.run(&session).await,
        Command::Ls(ls) => ls.run(&session).await,
        Command::Stat(stat) => stat.run(&session).await,
        Command::Rm(rm) => rm.run(&session).await,
        Command::Object(command) => object::run(&session, command).await,
        Command::Upload(command) => uploads::run(&session, command).await,
        Command::Key(command) => keys::run(&session, command).await,
        Command::Log(command) => keys::log(&session, command).await,
        Command::Policy(command) => policy::run(&session, command).await,
        Command::Approve(command) => approve::run(&session, command).await,
        Command::AccessKey(command) => access_keys::run(&session, command).await,
        Command::Verify(verify) => verify.run(session.json),
        Command::Evidence(command) => evidence::run(&session, command).await,
        Command::Custody(command) => custody::run(&session, command).await,
        Command::Kms(command) => kms::run(&session, command).await,
        Command::Backup(command) => backup::run(&session, command).await,
        Command::Relocate(command) => relocate::run(&session, command).await,
        Command::Operator(command) => operate::run(&session, command).await,
        Command::Region(command) => region::run(&session, command).await,
        Command::Doctor => doctor::run(&session).await,
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "reduit", &mut std::io::stdout());
            Ok(())
        }
    }
}
