//! `reduit key` and `reduit log`.

use std::path::PathBuf;

use clap::Subcommand;
use client::KeyChange;
use client::ids::DatasetName;

use super::Session;
use super::failure::{Failure, file};
use super::output::{line, time};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// State and versions.
    Info {
        /// The dataset.
        dataset: DatasetName,
    },
    /// A new version; what was sealed under older ones goes on opening.
    Rotate {
        /// The dataset.
        dataset: DatasetName,
    },
    /// No more opens and leases.
    Disable {
        /// The dataset.
        dataset: DatasetName,
    },
    /// Opens and leases again.
    Enable {
        /// The dataset.
        dataset: DatasetName,
    },
}

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Origin, size and root hash.
    Head,
    /// The newest signed checkpoint: a C2SP note with every cosignature it has.
    Checkpoint {
        /// The newest one that the region's witnesses vouch for.
        #[arg(long)]
        witnessed: bool,
    },
    /// A leaf's receipt: a C2SP tlog-proof, checked offline by `reduit verify` and others.
    Receipt {
        /// The leaf's index, as the answer to what made it says.
        leaf: u64,
        /// Where to write it; default: standard output.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
    /// The public keys that sign the log: its own, then each replica's.
    Keys,
    /// The policy of who vouches for the log, as approved; without one, the log and a majority of its replicas.
    Policy,
    /// Leaves in order, one JSON document a line.
    Leaves {
        /// From this one on.
        #[arg(long, default_value_t = 0)]
        start: u64,
        /// At most this many.
        #[arg(long, default_value_t = u64::MAX)]
        limit: u64,
        /// With the openings of their commitments, where policy lets you see them.
        #[arg(long)]
        openings: bool,
    },
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let (dataset, change) = match command {
        Command::Info { dataset } => (dataset, None),
        Command::Rotate { dataset } => (dataset, Some(KeyChange::Rotate)),
        Command::Disable { dataset } => (dataset, Some(KeyChange::Disable)),
        Command::Enable { dataset } => (dataset, Some(KeyChange::Enable)),
    };
    let region = session.region().await?;
    let id = region.dataset_info(&dataset).await?.id;
    let info = match change {
        None => region.keys().key_info(id).await?,
        Some(change) => region.keys().change_key(id, change).await?,
    };
    let key = info.key.ok_or(client::Error::Protocol {
        what: "no key in the answer",
    })?;
    let state = key
        .state()
        .as_str_name()
        .trim_start_matches("KEY_STATE_")
        .to_lowercase();
    let until = (info.latest_lease_expiry_ms > 0).then(|| time(info.latest_lease_expiry_ms));
    if session.json {
        line(serde_json::json!({
            "dataset": dataset.as_str(),
            "state": state,
            "version": key.current_version,
            "confirmed_by_shard": info.shard_confirmed,
            "leases_until": until,
        }));
        return Ok(());
    }
    line(format!(
        "{dataset}: {state}, version {}",
        key.current_version
    ));
    if !info.shard_confirmed && state != "enabled" {
        line("pending: the dataset's shard has not confirmed this state yet");
    }
    if let Some(until) = until {
        line(format!(
            "leases given out before this may seal until {until}"
        ));
    }
    Ok(())
}

pub(crate) async fn log(session: &Session, command: LogCommand) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        LogCommand::Head => {
            let head = region.keys().tree_head().await?;
            let root: String = head
                .root_hash
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            if session.json {
                line(serde_json::json!({ "origin": head.origin, "size": head.size, "root": root }));
            } else {
                line(format!("{}\n{}\n{root}", head.origin, head.size));
            }
        }
        LogCommand::Checkpoint { witnessed } => {
            let found = region.keys().checkpoint().await?;
            let note = if witnessed {
                found.witnessed
            } else {
                found.newest
            };
            if note.is_empty() {
                let none = "there is no such checkpoint yet";
                return Err(client::Error::Unavailable {
                    reason: "no-checkpoint".to_owned(),
                    message: none.to_owned(),
                }
                .into());
            }
            line(String::from_utf8_lossy(&note).trim_end_matches('\n'));
        }
        LogCommand::Receipt { leaf, output } => {
            let proof = region.keys().receipt(leaf).await?;
            match output {
                Some(path) => std::fs::write(&path, &proof)
                    .map_err(file(format!("writing {}", path.display())))?,
                None => line(String::from_utf8_lossy(&proof).trim_end_matches('\n')),
            }
        }
        LogCommand::Keys => {
            let keys = region.log_keys().await?;
            if session.json {
                line(serde_json::json!({ "log": keys.log, "replicas": keys.replicas }));
                return Ok(());
            }
            line(
                keys.log
                    .as_deref()
                    .unwrap_or("every replica that answers is sealed"),
            );
            keys.replicas.iter().for_each(line);
        }
        LogCommand::Policy => {
            let found = region.keys().checkpoint().await?;
            let text = match found.policy {
                Some(policy) => String::from_utf8_lossy(&policy.policy).into_owned(),
                None => region.log_keys().await?.policy(&[], 0).unwrap_or_default(),
            };
            line(text.trim_end_matches('\n'));
        }
        LogCommand::Leaves {
            start,
            limit,
            openings,
        } => {
            let mut reader = region.keys().leaves(start, openings);
            let mut left = limit;
            while left > 0 {
                let page = reader.page().await?;
                if page.is_empty() {
                    break;
                }
                for entry in page {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    let leaf = String::from_utf8_lossy(&entry.leaf).into_owned();
                    if openings && !entry.openings.is_empty() {
                        line(format!(
                            "{leaf}\t{}",
                            String::from_utf8_lossy(&entry.openings)
                        ));
                    } else {
                        line(leaf);
                    }
                }
            }
        }
    }
    Ok(())
}
