//! `reduit upload`: uploads in parts that are under way.
//!
//! Owns how they are listed and ended. Refuses to abort more than one unless asked for everything under a prefix: parts
//! somebody is still sending are gone with it.

use clap::{Args, Subcommand};
use client::ids::{ObjectVersionId, UnixMs};
use client::{Dataset, UploadInfo, UploadsQuery};

use super::failure::Failure;
use super::location::Location;
use super::output::{self, line, time};
use super::{Session, copy};

const LS_HELP: &str =
    "Uploads that nobody ends keep their bytes for ever, and count as the dataset's. \
`reduit dataset lifecycle` has them ended by their age.

Examples:
  reduit upload ls cti
  reduit upload ls cti/backups/ --json";

const ABORT_HELP: &str = "Examples:
  reduit upload abort cti/backups/7.tar 99ac5040b118b0d6827113db4039df8b
  reduit upload abort -r cti/backups/ --begun-before 2026-11-01T00:00:00Z";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Uploads under way: when they began, their parts and sealed bytes, ids and keys.
    #[command(visible_alias = "list", after_help = LS_HELP)]
    Ls {
        /// dataset or dataset/prefix.
        what: Location,
    },
    /// The finished parts of an upload, or of a version that came in parts.
    #[command(
        after_help = "Examples:\n  reduit upload parts cti/backups/7.tar 99ac5040b118b0d6827113db4039df8b"
    )]
    Parts {
        /// dataset/key.
        what: Location,
        /// The upload, or the version.
        id: ObjectVersionId,
    },
    /// Ends an upload, or all under a prefix (-r); what was sent of them is removed.
    #[command(after_help = ABORT_HELP)]
    Abort(Abort),
}

#[derive(Args)]
pub(crate) struct Abort {
    /// dataset/key; with -r, dataset/prefix.
    what: Location,
    /// The upload.
    #[arg(required_unless_present = "recursive", conflicts_with = "recursive")]
    id: Option<ObjectVersionId>,
    /// Every upload under the prefix.
    #[arg(short, long)]
    recursive: bool,
    /// With -r: only those that began before then, in UTC: 2026-11-01T00:00:00Z.
    #[arg(long, value_parser = output::parse_time, requires = "recursive")]
    begun_before: Option<UnixMs>,
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        Command::Ls { what } => {
            let dataset = region.dataset(&what.dataset).await?;
            for upload in all(&dataset, &what.rest).await? {
                show(session, &upload);
            }
            Ok(())
        }
        Command::Parts { what, id } => {
            let dataset = region.dataset(&what.dataset).await?;
            parts(session, &dataset, &what, id).await
        }
        Command::Abort(abort) => {
            let dataset = region.dataset(&abort.what.dataset).await?;
            let Some(id) = abort.id else {
                let mut uploads = all(&dataset, &abort.what.rest).await?;
                let before = abort.begun_before;
                uploads.retain(|upload| before.is_none_or(|before| upload.begun_at < before));
                return copy::abort(session, &dataset, uploads).await;
            };
            dataset.abort_upload(&abort.what.key()?, id).await?;
            if session.json {
                line(serde_json::json!({ "upload": id.to_string(), "aborted": true }));
            }
            Ok(())
        }
    }
}

/// Every upload under way whose key starts with `prefix`.
async fn all(dataset: &Dataset, prefix: &str) -> Result<Vec<UploadInfo>, Failure> {
    let mut query = UploadsQuery {
        prefix: prefix.to_owned(),
        ..UploadsQuery::default()
    };
    let mut found = Vec::new();
    loop {
        let page = dataset.list_uploads(&query).await?;
        found.extend(page.uploads);
        match page.next {
            Some(next) => query.start_after = next,
            None => return Ok(found),
        }
    }
}

fn show(session: &Session, upload: &UploadInfo) {
    if session.json {
        return line(serde_json::json!({
            "key": upload.key.as_str(),
            "upload": upload.id.to_string(),
            "begun": time(upload.begun_at.0),
            "parts": upload.parts,
            "sealed_bytes": upload.sealed_bytes,
        }));
    }
    line(format!(
        "{} {:>6} parts {:>14} {} {}",
        time(upload.begun_at.0),
        upload.parts,
        upload.sealed_bytes,
        upload.id,
        upload.key.as_str()
    ));
}

async fn parts(
    session: &Session,
    dataset: &Dataset,
    what: &Location,
    id: ObjectVersionId,
) -> Result<(), Failure> {
    let (key, mut after) = (what.key()?, 0);
    loop {
        let page = dataset.list_parts(&key, id, after, 0).await?;
        for part in &page.parts {
            if session.json {
                line(serde_json::json!({
                    "number": part.number,
                    "part": part.id.to_string(),
                    "bytes": part.bytes,
                    "finished": time(part.finished_at.0),
                }));
            } else {
                line(format!(
                    "{} {:>6} {:>14} {}",
                    time(part.finished_at.0),
                    part.number,
                    part.bytes,
                    part.id
                ));
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}
