//! `reduit custody`: who can rebuild the root key.
//!
//! Owns files and what is printed. A share is written sealed to its custodian, for its owner's eyes alone.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Subcommand;
use client::ids::Identity;
use client::operator::CustodianShare;
use envelope::HpkePrivateKey;
use prost::Message as _;
use proto::v1;
use serde_json::json;

use super::approvers::Approvers;
use super::failure::{Failure, file};
use super::output::{line, time};
use super::{Session, seals};

const HELP: &str = "A change goes in three steps, and until the last one the shares in force stay in force:
  1. an operator begins it, two others approve; shares come back sealed, one file for each custodian;
  2. every custodian shows the new share to the region (confirm), which checks it and keeps nothing;
  3. an operator finishes it. With --new-root every key is wrapped anew first.
Then custodians erase their old shares, every copy of them and of the sealed files, and say so (erased); once fewer are
left than rebuild it, the old root key is retired: nothing under it opens any more, old backups included.
Take a backup (`reduit kms backup`) between the third step and the first `erased`: the old root key is not retired before.

Examples:
  reduit custody status
  reduit custody begin --needed 3 --new-root --folder shares/ \\
      --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key
  reduit --context custodian-1 custody confirm --share shares/custodian-1.share --hpke-key custodian-1.xwing
  reduit custody finish
  reduit --context custodian-1 custody erased --share old/custodian-1.share
  reduit custody retire 1 --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key";

#[derive(Subcommand)]
#[command(after_help = HELP)]
pub(crate) enum Command {
    /// Who holds shares of which root key, and what is under way.
    Status,
    /// Begins a new split: other custodians, another threshold, or a new root key.
    Begin {
        /// How many shares rebuild the root key.
        #[arg(long)]
        needed: u32,
        /// A custodian, as enrolled; once for each. None: every enrolled custodian.
        #[arg(long)]
        custodian: Vec<Identity>,
        /// Make a new root key, and have the old one end.
        #[arg(long)]
        new_root: bool,
        /// Where the sealed shares are written: new, or empty.
        #[arg(long)]
        folder: PathBuf,
        #[command(flatten)]
        approvers: Approvers,
    },
    /// As a custodian: shows your share of the split under way.
    Confirm {
        /// Your share, as `begin` wrote it.
        #[arg(long)]
        share: PathBuf,
        /// Your X-Wing key: 64 hexadecimal digits.
        #[arg(long)]
        hpke_key: PathBuf,
    },
    /// Brings the split under way into force. Run again after a failure, it goes on where it was.
    Finish {
        /// The new root key may have no token's seal although the one in force has one.
        #[arg(long)]
        without_token: bool,
    },
    /// Gives up the split under way; what is in force stays in force.
    Abandon,
    /// As a custodian: your signed word that an old share is erased, with every copy of it.
    Erased {
        /// The sealed share, to name it; erase this file too afterwards.
        #[arg(long)]
        share: PathBuf,
    },
    /// Retires a former root key. There is no way back.
    Retire {
        /// Its epoch.
        epoch: u32,
        /// A seal of it whose token nobody has any more (see `reduit kms seals`); once for each.
        #[arg(long, value_name = "SEAL")]
        token_lost: Vec<String>,
        #[command(flatten)]
        approvers: Approvers,
    },
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    let says = |done: &str, leaf: u64| {
        if session.json {
            line(json!({ "done": done, "leaf": leaf }));
        } else {
            line(format!("{done}, leaf {leaf}"));
        }
    };
    match command {
        Command::Status => status(session, &region.custody().await?),
        Command::Begin {
            needed,
            custodian,
            new_root,
            folder,
            approvers,
        } => {
            empty(&folder)?;
            let approvers = approvers.load()?;
            let begun = region
                .begin_custody(&custodian, needed, new_root, &approvers)
                .await?;
            for share in &begun.shares {
                let name = share.custodian.rsplit('/').next().unwrap_or_default();
                write_share(&folder.join(format!("{name}.share")), share)?;
            }
            if session.json {
                line(json!({
                    "split": hex::encode(&begun.set_id), "root_epoch": begun.root_epoch,
                    "log_key": begun.log_key, "leaf": begun.leaf_index,
                    "shares": begun.shares.iter().map(|share| &share.custodian).collect::<Vec<_>>(),
                }));
            } else {
                line(format!(
                    "begun: split {} of root key {}, leaf {}; {} shares in {}",
                    hex::encode(&begun.set_id),
                    begun.root_epoch,
                    begun.leaf_index,
                    begun.shares.len(),
                    folder.display(),
                ));
                line(format!("log key under it: {}", begun.log_key));
            }
        }
        Command::Confirm { share, hpke_key } => {
            let (share, key) = (read_share(&share)?, read_key(&hpke_key)?);
            let share = CustodianShare {
                share: &share,
                key: &key,
            };
            says("shown", region.confirm_share(share).await?.leaf_index);
        }
        Command::Finish { without_token } => {
            let set_id = under_way(&region.custody().await?)?;
            let done = region.finish_custody(set_id, without_token).await?;
            says("in force", done.leaf_index);
        }
        Command::Abandon => {
            let set_id = under_way(&region.custody().await?)?;
            says("given up", region.abandon_custody(set_id).await?.leaf_index);
        }
        Command::Erased { share } => {
            let share = read_share(&share)?;
            says("erased", region.erase_share(&share).await?.leaf_index);
        }
        Command::Retire {
            epoch,
            token_lost,
            approvers,
        } => {
            let lost = token_lost.iter().map(|name| seals::named(name));
            let lost = lost.collect::<Result<Vec<_>, Failure>>()?;
            let approvers = approvers.load()?;
            let done = region.retire_epoch(epoch, lost, &approvers).await?;
            says("retired", done.leaf_index);
        }
    }
    Ok(())
}

fn under_way(reply: &v1::FindCustodyReply) -> Result<Bytes, Failure> {
    let pending = reply.custody.as_ref().and_then(|c| c.pending.as_ref());
    let plan =
        pending.ok_or_else(|| Failure::Usage("no change of custody is under way".to_owned()))?;
    Ok(plan.set_id.clone())
}

fn status(session: &Session, reply: &v1::FindCustodyReply) {
    let custody = reply.custody.clone().unwrap_or_default();
    let holders = |custodians: &[v1::ShareHolder], marked: &[u32], mark: &str| {
        let shown = custodians.iter().map(|holder| {
            let marked = marked.contains(&holder.share_index);
            json!({ "share": holder.share_index, "custodian": holder.identity, mark: marked })
        });
        shown.collect::<Vec<_>>()
    };
    let epochs = custody.epochs.iter().map(|epoch| {
        let splits = epoch.splits.iter().map(|split| {
            json!({
                "split": hex::encode(&split.set_id), "needed": split.shares_needed,
                "in_force": !split.superseded, "custodians": holders(&split.custodians, &split.erased, "erased"),
            })
        });
        json!({
            "root_epoch": epoch.epoch, "splits": splits.collect::<Vec<_>>(),
            "superseded": (epoch.superseded_at_ms != 0).then(|| time(epoch.superseded_at_ms)),
            "retired": (epoch.retired_at_ms != 0).then(|| time(epoch.retired_at_ms)),
        })
    });
    let pending = custody.pending.as_ref().map(|plan| {
        json!({
            "split": hex::encode(&plan.set_id), "root_epoch": plan.root_epoch, "needed": plan.shares_needed,
            "custodians": holders(&plan.custodians, &plan.confirmed, "confirmed"), "log_key": plan.log_key,
        })
    });
    let said = json!({
        "epochs": epochs.collect::<Vec<_>>(), "under_way": pending,
        "held_epoch": reply.held_epoch, "next_epoch": reply.next_epoch,
    });
    if session.json {
        line(said);
        return;
    }
    for epoch in &custody.epochs {
        let state = match (epoch.superseded_at_ms, epoch.retired_at_ms) {
            (0, _) => "in force".to_owned(),
            (since, 0) => format!("superseded {}: opens old backups", time(since)),
            (_, since) => format!("retired {}: opens nothing", time(since)),
        };
        line(format!("root key {}: {state}", epoch.epoch));
        for split in &epoch.splits {
            let state = if split.superseded {
                "former"
            } else {
                "in force"
            };
            let (all, gone) = (split.custodians.len(), split.erased.len());
            line(format!(
                "  split {}: {} of {all} shares rebuild it, {state}, {gone} erased",
                hex::encode(&split.set_id),
                split.shares_needed,
            ));
        }
    }
    match &custody.pending {
        None => line("nothing under way"),
        Some(plan) => {
            line(format!(
                "under way: split {} of root key {}, {} of {} shares shown",
                hex::encode(&plan.set_id),
                plan.root_epoch,
                plan.confirmed.len(),
                plan.custodians.len(),
            ));
            for holder in &plan.custodians {
                if !plan.confirmed.contains(&holder.share_index) {
                    line(format!("  waits for {}", holder.identity));
                }
            }
        }
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(file(format!("reading {}", path.display())))
}

pub(crate) fn read_share(path: &Path) -> Result<v1::SealedShare, Failure> {
    v1::SealedShare::decode(&read(path)?[..])
        .map_err(|_| Failure::Usage("that file is no share".to_owned()))
}

pub(crate) fn read_key(path: &Path) -> Result<HpkePrivateKey, Failure> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    let text = zeroize::Zeroizing::new(read(path)?);
    hex::decode_to_slice(text.trim_ascii(), &mut seed[..])
        .map_err(|_| Failure::Usage("that file is no X-Wing key".to_owned()))?;
    Ok(HpkePrivateKey::from_seed(&seed).map_err(client::Error::from)?)
}

/// Before anything is asked of the region: shares that cannot be written are shares of nobody.
pub(super) fn empty(folder: &Path) -> Result<(), Failure> {
    let doing = || format!("the folder for shares, {}", folder.display());
    std::fs::create_dir_all(folder).map_err(file(doing()))?;
    let mut entries = std::fs::read_dir(folder).map_err(file(doing()))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Failure::Usage(format!("{} is not empty", folder.display()))),
    }
}

fn write_share(path: &Path, share: &v1::SealedShare) -> Result<(), Failure> {
    write_sealed(path, &share.encode_to_vec())
}

/// What is sealed to one person is still for that person's eyes.
pub(super) fn write_sealed(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let doing = format!("writing {}", path.display());
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut out| {
        out.write_all(bytes)?;
        out.sync_all()
    });
    written.map_err(file(doing))
}
