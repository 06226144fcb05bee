//! `reduit key` and `reduit log`.

use std::collections::HashMap;
use std::path::PathBuf;

use clap::Subcommand;
use client::ids::DatasetId;
use client::{KeyChange, KeyLabels};
use proto::v1;
use transport::LocalIdentity;

use super::Session;
use super::approvers::Approvers;
use super::failure::{Failure, file};
use super::key_name::KeyName;
use super::key_report;
use super::output::{line, time};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// State and versions.
    Info {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// A new version; what was sealed under older ones goes on opening.
    Rotate {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// No more opens and leases.
    Disable {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// Opens and leases again.
    Enable {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// Marks the key compromised: no more opens and leases, and no way back to enabled.
    Compromised {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// Plans when the region rotates the key by itself; without options by demand alone.
    #[command(
        after_help = "Examples:\n  reduit key plan cases --max-age-days 90\n  reduit key plan cases --max-uses 1000000\n  reduit key plan cases"
    )]
    Plan {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
        /// Rotates once the newest version is so old: 1 to 3650 days.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3650))]
        max_age_days: Option<u64>,
        /// Rotates once so many leases were given and object versions opened: 256 or more.
        #[arg(long, value_parser = clap::value_parser!(u64).range(256..=1 << 48))]
        max_uses: Option<u64>,
    },
    /// Changes the key's aliases and tags; without options shows them.
    ///
    /// An alias names the key in every command here, as alias/NAME. It leads to one key: to move it, remove it from the
    /// one first. Both are for people to read and are in the key's record, the inventory and the log's openings.
    #[command(after_help = LABEL_EXAMPLE)]
    Label {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
        /// A name that leads to the key from now on.
        #[arg(long = "alias", value_name = "NAME")]
        add_aliases: Vec<String>,
        /// A name that no longer does.
        #[arg(long = "remove-alias", value_name = "NAME")]
        remove_aliases: Vec<String>,
        /// A tag and its value.
        #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
        set_tags: Vec<(String, String)>,
        /// A tag that goes.
        #[arg(long = "remove-tag", value_name = "NAME")]
        remove_tags: Vec<String>,
    },
    /// Wraps the dataset's lease tokens under the newest version, and ends commits under older ones.
    ///
    /// Objects are not touched, and opens go on. When it is done no token needs an older version. Back up the KMS before
    /// it (reduit kms backup): a backup older than the newest version has no key for what was rewrapped.
    #[command(after_help = "Example:\n  reduit key rotate cases\n  reduit key rewrap cases")]
    Rewrap {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// Ends versions of the key that no token needs: they are destroyed, and what was rewrapped opens as before.
    ///
    /// Takes two other operators. Refused while the dataset's shard takes commits under such a version, or holds a token
    /// that needs one. Copies from before, as in backups, open with the shares of the root key of then.
    #[command(after_help = END_EXAMPLE)]
    EndVersions {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
        /// Versions below this one; without it, all that the shard takes no commit under.
        #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
        below: Option<u32>,
        #[command(flatten)]
        approvers: Approvers,
    },
    /// What ending the key would end: read it before you approve.
    ///
    /// Versions, live leases, what the dataset's shard holds under it, holds, who used it last, and what a destruction
    /// does not reach.
    #[command(after_help = "Example:\n  reduit key impact cases --json")]
    Impact {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
    /// Every key of the region: metadata, never keys. For operators and auditors.
    #[command(
        after_help = "Examples:\n  reduit key inventory --csv > keys.csv\n  reduit --json key inventory"
    )]
    Inventory {
        /// As CSV, with a line of column names.
        #[arg(long)]
        csv: bool,
    },
    /// Schedules the destruction of a disabled or compromised key, approved by two other operators. What was sealed
    /// under it opens never again. Prints the impact report first.
    #[command(after_help = DESTROY_EXAMPLE)]
    Destroy {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
        /// How long it can be cancelled.
        #[arg(long, value_parser = clap::value_parser!(u32).range(7..=30))]
        days: u32,
        #[command(flatten)]
        approvers: Approvers,
    },
    /// Cancels a scheduled destruction: the key is again what it was before.
    CancelDestruction {
        /// The dataset, or an alias of its key as alias/NAME.
        dataset: KeyName,
    },
}

const DAY_MS: u64 = 24 * 3_600_000;
const DESTROY_EXAMPLE: &str = "Example:
  reduit key disable cases
  reduit key destroy cases --days 7 --certificate b.pem --key b.key --certificate c.pem --key c.key
  reduit key cancel-destruction cases";

const END_EXAMPLE: &str = "Example:
  reduit key rotate cases
  reduit key rewrap cases
  reduit key end-versions cases --certificate b.pem --key b.key --certificate c.pem --key c.key";

const LABEL_EXAMPLE: &str = "Example:
  reduit key label cases --alias investigations --tag owner=cert --tag case=2026-117
  reduit key info alias/investigations
  reduit key label cases --remove-alias investigations --remove-tag case";

/// What is done to a key.
enum Asked {
    Nothing,
    Label(KeyLabels),
    Change(KeyChange),
    Plan {
        max_age_ms: u64,
        max_uses: u64,
    },
    Destruction {
        days: u32,
        approvers: Vec<LocalIdentity>,
    },
    End {
        below: Option<u32>,
        approvers: Vec<LocalIdentity>,
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
    let (dataset, asked) = match command {
        Command::Impact { dataset } => return impact(session, &dataset).await,
        Command::Inventory { csv } => return inventory(session, csv).await,
        Command::Info { dataset } => (dataset, Asked::Nothing),
        Command::Rotate { dataset } => (dataset, Asked::Change(KeyChange::Rotate)),
        Command::Disable { dataset } => (dataset, Asked::Change(KeyChange::Disable)),
        Command::Enable { dataset } => (dataset, Asked::Change(KeyChange::Enable)),
        Command::Rewrap { dataset } => return rewrap(session, &dataset).await,
        Command::Plan {
            dataset,
            max_age_days,
            max_uses,
        } => {
            let max_age_ms = max_age_days.unwrap_or(0) * DAY_MS;
            let max_uses = max_uses.unwrap_or(0);
            let plan = Asked::Plan {
                max_age_ms,
                max_uses,
            };
            (dataset, plan)
        }
        Command::Label {
            dataset,
            add_aliases,
            remove_aliases,
            set_tags,
            remove_tags,
        } => {
            let labels = KeyLabels {
                add_aliases,
                remove_aliases,
                set_tags,
                remove_tags,
            };
            let nothing = labels == KeyLabels::default();
            let asked = if nothing {
                Asked::Nothing
            } else {
                Asked::Label(labels)
            };
            (dataset, asked)
        }
        Command::Compromised { dataset } => (dataset, Asked::Change(KeyChange::Compromise)),
        Command::Destroy {
            dataset,
            days,
            approvers,
        } => {
            let approvers = approvers.load()?;
            (dataset, Asked::Destruction { days, approvers })
        }
        Command::EndVersions {
            dataset,
            below,
            approvers,
        } => {
            let approvers = approvers.load()?;
            (dataset, Asked::End { below, approvers })
        }
        Command::CancelDestruction { dataset } => {
            (dataset, Asked::Change(KeyChange::CancelDestruction))
        }
    };
    let region = session.region().await?;
    let id = dataset.find(&region).await?;
    let keys = region.keys();
    let info = match asked {
        Asked::Nothing => keys.key_info(id).await?,
        Asked::Change(change) => keys.change_key(id, change).await?,
        Asked::Label(labels) => keys.label_key(id, labels).await?,
        Asked::Plan {
            max_age_ms,
            max_uses,
        } => keys.plan_rotation(id, max_age_ms, max_uses).await?,
        Asked::Destruction { days, approvers } => {
            if !session.json {
                impact(session, &dataset).await?;
            }
            keys.schedule_destruction(id, days, &approvers).await?
        }
        Asked::End { below, approvers } => {
            let below = match below {
                Some(below) => below,
                None => of_answer(keys.key_info(id).await?)?.min_version,
            };
            keys.end_versions(id, below, &approvers).await?
        }
    };
    let left = key_report::left(&info);
    let (not_erased, recoverable) = (info.not_erased.clone(), info.recoverable_under.clone());
    let shard_confirmed = info.shard_confirmed;
    let (latest_lease_expiry_ms, oldest) = (info.latest_lease_expiry_ms, info.oldest_version);
    let key = of_answer(info)?;
    let state = key_report::state(&key);
    let until = (latest_lease_expiry_ms > 0).then(|| time(latest_lease_expiry_ms));
    let destroyed_after = (key.destroy_after_ms > 0).then(|| time(key.destroy_after_ms));
    if session.json {
        line(serde_json::json!({
            "dataset": dataset.to_string(),
            "state": state,
            "version": key.current_version,
            "min_version": key.min_version,
            "oldest_version": oldest,
            "rotation": key_report::rotation_json(&key),
            "aliases": key.aliases,
            "tags": key_report::tags_json(&key),
            "confirmed_by_shard": shard_confirmed,
            "leases_until": until,
            "destroyed_after": destroyed_after,
            "ended_leaf": (key.ended_leaf > 0).then_some(key.ended_leaf),
            "not_erased_by": not_erased,
            "recoverable_under_root_epochs": recoverable,
        }));
        return Ok(());
    }
    line(format!(
        "{dataset}: {state}, version {}",
        key.current_version
    ));
    key_report::labels(&key).iter().for_each(line);
    if let Some(plan) = key_report::rotation(&key) {
        line(plan);
    }
    if let Some(older) = key_report::older(&key, oldest) {
        line(older);
    }
    left.iter().for_each(line);
    if !shard_confirmed && state != "enabled" {
        line("pending: the dataset's shard has not confirmed this state yet");
    }
    if let Some(until) = until {
        line(format!(
            "leases given out before this may seal until {until}"
        ));
    }
    if let Some(due) = destroyed_after {
        line(format!(
            "destroyed after {due}, unless cancelled before (reduit key cancel-destruction {dataset})"
        ));
    }
    Ok(())
}

/// A tag as it is given: its name, an equals sign, its value.
fn tag(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or("a tag is given as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

async fn impact(session: &Session, name: &KeyName) -> Result<(), Failure> {
    let region = session.region().await?;
    let id = name.find(&region).await?;
    let report = region.keys().key_impact(id).await?;
    let key = report.key.as_ref().and_then(|info| info.key.as_ref());
    let key = key.ok_or(client::Error::Protocol {
        what: "no key in the answer",
    })?;
    if session.json {
        line(key_report::impact_json(name, &report, key));
    } else {
        let lines = key_report::impact_lines(name, &report, key);
        lines.iter().for_each(line);
    }
    Ok(())
}

/// Twice over all tokens: those of before, so that uploads under way finish, then those that came before the shard took
/// no more of them.
async fn rewrap(session: &Session, name: &KeyName) -> Result<(), Failure> {
    let region = session.region().await?;
    let id = name.find(&region).await?;
    let keys = region.keys();
    let mut rewrapped = rewrap_all(session, name, keys, id).await?;
    let mut info = keys.key_info(id).await?;
    let key = info.key.clone().unwrap_or_default();
    if key.min_version < key.current_version {
        info = keys.change_key(id, KeyChange::RetireVersions).await?;
        rewrapped += rewrap_all(session, name, keys, id).await?;
    }
    let (confirmed, oldest) = (info.shard_confirmed, info.oldest_version);
    let key = of_answer(info)?;
    let newest = key.current_version;
    if session.json {
        line(serde_json::json!({
            "dataset": name.to_string(),
            "rewrapped": rewrapped,
            "version": newest,
            "min_version": key.min_version,
            "oldest_version": oldest,
            "confirmed_by_shard": confirmed,
        }));
        return Ok(());
    }
    line(format!(
        "{name}: {rewrapped} tokens rewrapped under version {newest}"
    ));
    if !confirmed {
        line(
            "pending: the dataset's shard has not confirmed yet that it takes no commit under older versions; run it again",
        );
    } else if oldest < key.min_version {
        line(format!(
            "no token needs a version below {}: end them with reduit key end-versions {name}",
            key.min_version
        ));
    }
    Ok(())
}

async fn rewrap_all(
    session: &Session,
    name: &KeyName,
    keys: &client::Keys,
    id: DatasetId,
) -> Result<u64, Failure> {
    let (mut rewrapped, mut after) = (0, bytes::Bytes::new());
    loop {
        let page = keys.rewrap_tokens(id, after).await?;
        rewrapped += page.rewrapped;
        after = page.next_start_after;
        if after.is_empty() {
            return Ok(rewrapped);
        }
        if page.rewrapped > 0 && !session.json {
            line(format!("{name}: {rewrapped} tokens so far"));
        }
    }
}

fn of_answer(info: v1::KeyInfo) -> Result<v1::KekRecord, Failure> {
    let key = info.key.ok_or(client::Error::Protocol {
        what: "no key in the answer",
    })?;
    Ok(key)
}

async fn inventory(session: &Session, csv: bool) -> Result<(), Failure> {
    let region = session.region().await?;
    let names: HashMap<_, _> = region
        .datasets()
        .await?
        .into_iter()
        .map(|(name, id)| (id, name))
        .collect();
    if csv {
        line(key_report::CSV_HEAD);
    }
    for info in region.keys().inventory().await? {
        let oldest = info.oldest_version;
        let key = info.key.unwrap_or_default();
        let id = DatasetId::try_from(key.dataset_id.as_ref()).map_err(client::Error::from)?;
        let name = names.get(&id);
        if csv {
            line(key_report::inventory_csv(&key, name));
        } else if session.json {
            line(key_report::inventory_json(&key, oldest, name));
        } else {
            let name = name.map_or(id.to_string(), ToString::to_string);
            let (state, version) = (key_report::state(&key), key.current_version);
            line(format!("{name}: {state}, version {version}"));
        }
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
