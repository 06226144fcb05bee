//! `reduit evidence`: what a region's log shows of a dataset, as a folder for somebody who does not trust it.
//!
//! Owns files and what is printed.

use std::path::PathBuf;

use clap::Subcommand;
use client::EvidenceRequest;
use client::ids::{DatasetName, UnixMs};

use super::Session;
use super::failure::{Failure, file};
use super::output::{line, parse_time};
use super::verify::read_policy;

const HELP: &str = "The folder has the whole log up to its newest witnessed checkpoint; opened are the leaves of this
dataset and of the region, as far as you may see them: export as an auditor. A checkpoint from before the period is
needed to prove where it starts, so keep some (reduit log checkpoint --witnessed). Sealed objects are not listed yet.

Examples:
  reduit evidence export cti evidence/ --policy trust.policy --checkpoint september.note \\
      --from 2026-10-01T00:00:00Z --to 2026-10-31T23:59:59Z
  reduit verify evidence/ --policy trust.policy --claim D2 --claim D4";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Writes an evidence folder about a dataset and a period.
    #[command(after_help = HELP)]
    Export {
        /// The dataset.
        dataset: DatasetName,
        /// Where to write it: new, or empty.
        folder: PathBuf,
        /// The trust policy by which gaps are counted.
        #[arg(long)]
        policy: PathBuf,
        /// Start of the period.
        #[arg(long, value_parser = parse_time)]
        from: UnixMs,
        /// End of the period.
        #[arg(long, value_parser = parse_time)]
        to: UnixMs,
        /// A signed checkpoint that you kept; may be repeated.
        #[arg(long)]
        checkpoint: Vec<PathBuf>,
    },
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let Command::Export {
        dataset,
        folder,
        policy,
        from,
        to,
        checkpoint,
    } = command;
    let policy = read_policy(&policy)?;
    let mut checkpoints = Vec::new();
    for path in checkpoint {
        let note = std::fs::read(&path).map_err(file(format!("reading {}", path.display())))?;
        checkpoints.push(note.into());
    }
    let region = session.region().await?;
    let request = EvidenceRequest {
        dataset,
        from,
        to,
        checkpoints,
        policy,
    };
    let written = region.export_evidence(request).await?;
    written
        .save(&folder)
        .map_err(file(format!("writing {}", folder.display())))?;
    let (leaves, checkpoints) = (written.leaves().len(), written.checkpoints().len());
    if session.json {
        line(serde_json::json!({ "folder": folder, "leaves": leaves, "checkpoints": checkpoints }));
    } else {
        line(format!(
            "{}: {leaves} leaves, {checkpoints} checkpoints",
            folder.display()
        ));
    }
    Ok(())
}
