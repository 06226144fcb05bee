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
use super::verify::{nonce, read_policy};

const HELP: &str = "The folder has the whole log up to its newest witnessed checkpoint; opened are the leaves of this
dataset and of the region, as far as you may see them: export as an auditor. A checkpoint from before the period is
needed to prove where it starts, so keep some (reduit log checkpoint --witnessed). Every object is read once by a
node, to list its digest; with --nonce the nodes show the pieces that your 32 random bytes choose, and you verify with
the same. Both take a grant to list the dataset.

Examples:
  reduit evidence export cti evidence/ --policy trust.policy --checkpoint september.note \\
      --from 2026-10-01T00:00:00Z --to 2026-10-31T23:59:59Z
  reduit evidence export cti evidence/ --policy trust.policy --from 2026-10-01T00:00:00Z \\
      --to 2026-10-31T23:59:59Z --nonce $(openssl rand -hex 32 | tee nonce)
  reduit verify evidence/ --policy trust.policy --nonce $(cat nonce) --claim O4 --claim X1";

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
        /// Your nonce for the storage challenge, 64 hexadecimal digits.
        #[arg(long, value_parser = nonce, conflicts_with = "log_only")]
        nonce: Option<[u8; 32]>,
        /// Leave the dataset's sealed objects out.
        #[arg(long)]
        log_only: bool,
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
        nonce,
        log_only,
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
        objects: !log_only,
        nonce,
    };
    let written = region.export_evidence(request).await?;
    written
        .save(&folder)
        .map_err(file(format!("writing {}", folder.display())))?;
    let (leaves, checkpoints) = (written.leaves().len(), written.checkpoints().len());
    let objects = written.objects().map(<[_]>::len);
    if session.json {
        line(serde_json::json!({
            "folder": folder, "leaves": leaves, "checkpoints": checkpoints, "objects": objects,
        }));
    } else {
        let objects = objects.map_or(String::new(), |count| format!(", {count} sealed objects"));
        line(format!(
            "{}: {leaves} leaves, {checkpoints} checkpoints{objects}",
            folder.display()
        ));
    }
    Ok(())
}
