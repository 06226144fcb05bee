//! `reduit dataset`: create, ls, info, rm, versioning.

use clap::Subcommand;
use client::CreateOptions;
use client::ids::DatasetName;

use super::Session;
use super::failure::Failure;
use super::output::{self, line};

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
    /// Turns versioning on or off.
    Versioning {
        /// Its name.
        name: DatasetName,
        /// `on` or `off`.
        #[arg(value_parser = ["on", "off"])]
        state: String,
    },
}

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
                        "{what:<14} {}",
                        value.as_str().map_or(value.to_string(), str::to_owned)
                    ));
                }
            }
        }
        Command::Rm { name, force } => region.delete_dataset(&name, force).await?,
        Command::Versioning { name, state } => {
            region
                .dataset(&name)
                .await?
                .set_versioning(state == "on")
                .await?;
        }
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
