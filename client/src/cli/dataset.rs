//! `reduit dataset`: create, ls, info, rm, versioning, reseal, hold.

use clap::Subcommand;
use client::CreateOptions;
use client::ids::{DatasetName, UnixMs};
use client::operator::Hold;

use super::Session;
use super::approvers::Approvers;
use super::copy;
use super::failure::Failure;
use super::output::{self, line};
use super::settings;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes a dataset; its key is born in the region's KMS.
    Create {
        /// 3 to 63 of a-z, 0-9, hyphen, dot.
        name: DatasetName,
        /// Keep overwritten and deleted versions.
        #[arg(long)]
        versioning: bool,
    },
    /// Every dataset of the region.
    Ls,
    /// What the region says of a dataset.
    Info {
        /// Its name.
        name: DatasetName,
    },
    /// Deletes a dataset.
    Rm {
        /// Its name.
        name: DatasetName,
        /// With everything in it.
        #[arg(long)]
        force: bool,
    },
    /// Turns versioning on or off: what was kept while it was on stays when it is off.
    #[command(after_help = VERSIONING_EXAMPLES)]
    Versioning {
        /// Its name.
        name: DatasetName,
        /// `on` or `off`.
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
    /// Turns object lock on, and versioning with it, for ever; sets its default retention.
    #[command(after_help = settings::LOCK_HELP)]
    Lock(settings::Lock),
    /// Shows or sets the rules by which the region ends versions, markers and uploads by their age.
    #[command(after_help = settings::LIFECYCLE_HELP)]
    Lifecycle(settings::LifecycleArgs),
    /// Shows or sets how many objects and sealed bytes a dataset may hold.
    #[command(after_help = settings::QUOTA_HELP)]
    Quota(settings::Quota),
    /// Seals every object and version of a dataset again under another dataset's key: what is done once a key is marked
    /// compromised.
    ///
    /// Takes grants to list and read the old dataset for the purpose `reseal`, and to write the new one, which has to
    /// exist. Versions keep their order, metadata and tags; each copy names the version it is of, and when that was
    /// finished. Run again it goes on where it ended. Objects that somebody has put in the new dataset meanwhile are left
    /// alone and reported. The old dataset stays as it is: destroy its key when everything is there.
    #[command(after_help = RESEAL_EXAMPLE)]
    Reseal {
        /// The old dataset.
        from: DatasetName,
        /// The new one.
        to: DatasetName,
        /// Objects at once.
        #[arg(long, default_value_t = copy::PARALLEL)]
        parallel: usize,
    },
    /// Keeps a dataset and its key: compliance retention, legal hold.
    ///
    /// While one lasts the dataset is not deleted and its key not destroyed; single objects are deleted and overwritten
    /// as before, unless `reduit object` locks them. Retention is only ever prolonged. Lifting a legal hold takes two other operators.
    #[command(after_help = HOLD_EXAMPLES)]
    Hold {
        /// Its name.
        name: DatasetName,
        /// Compliance retention until then, in UTC: 2026-11-26T22:00:00Z.
        #[arg(long, value_parser = output::parse_time)]
        retain_until: Option<UnixMs>,
        /// Places a legal hold.
        #[arg(long)]
        legal: bool,
        /// Lifts the legal hold.
        #[arg(long, conflicts_with = "legal")]
        lift_legal: bool,
        #[command(flatten)]
        approvers: Approvers,
    },
}

const VERSIONING_EXAMPLES: &str = "Examples:
  reduit dataset versioning cti on
  reduit dataset versioning cti off --json";

const RESEAL_EXAMPLE: &str = "Example:
  reduit key compromised cases
  reduit dataset create cases-2 --versioning
  reduit dataset reseal cases cases-2
  reduit key destroy cases --days 7 --certificate b.pem --key b.key --certificate c.pem --key c.key";

const HOLD_EXAMPLES: &str = "Examples:
  reduit dataset hold cases --legal
  reduit dataset hold cases --retain-until 2036-01-01T00:00:00Z
  reduit dataset hold cases --lift-legal --certificate b.pem --key b.key --certificate c.pem --key c.key";

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        Command::Create { name, versioning } => {
            let dataset = region
                .create_dataset(&name, &CreateOptions { versioning })
                .await?;
            if session.json {
                line(serde_json::json!({ "name": name.as_str(), "id": dataset.id().to_string() }));
            } else {
                line(format!("{name}: created in {}", region.id()));
            }
        }
        Command::Ls => list(session, &region).await?,
        Command::Info { name } => {
            let info = output::dataset(&region.dataset_info(&name).await?);
            if session.json {
                line(info);
            } else {
                for (what, value) in info.as_object().into_iter().flatten() {
                    line(format!(
                        "{what:<17} {}",
                        value.as_str().map_or(value.to_string(), str::to_owned)
                    ));
                }
            }
        }
        Command::Hold {
            name,
            retain_until,
            legal,
            lift_legal,
            approvers,
        } => {
            let approvers = approvers.load()?;
            let hold = Hold {
                retain_until_ms: retain_until.map(|until| until.0),
                legal: (legal || lift_legal).then_some(legal),
            };
            region.set_hold(&name, hold, &approvers).await?;
            let info = output::dataset(&region.dataset_info(&name).await?);
            if session.json {
                line(info);
            } else {
                let (legal, until) = (&info["legal_hold"], info["retain_until"].as_str());
                let until = until.unwrap_or("none");
                line(format!("{name}: legal hold {legal}, retention {until}"));
            }
        }
        Command::Reseal { from, to, parallel } => {
            copy::reseal(session, &region, &from, &to, parallel).await?;
        }
        Command::Rm { name, force } => region.delete_dataset(&name, force).await?,
        Command::Versioning { name, state } => {
            let dataset = region.dataset(&name).await?;
            dataset.set_versioning(state == "on").await?;
            if session.json {
                line(output::dataset(&region.dataset_info(&name).await?));
            }
        }
        Command::Lock(lock) => lock.run(session, &region).await?,
        Command::Lifecycle(lifecycle) => lifecycle.run(session, &region).await?,
        Command::Quota(quota) => quota.run(session, &region).await?,
    }
    Ok(())
}

/// Also what `reduit ls` without arguments shows.
pub(crate) async fn list(session: &Session, region: &client::Region) -> Result<(), Failure> {
    for (name, id) in region.datasets().await? {
        if session.json {
            line(serde_json::json!({ "name": name.as_str(), "id": id.to_string() }));
        } else {
            line(name);
        }
    }
    Ok(())
}
