//! `reduit kms seals` and what makes, uses and ends a seal of the root key by a token and a person.
//!
//! Owns files and what is printed. A half is written sealed to its holder, for its owner's eyes alone.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Subcommand;
use client::Approvable;
use client::ids::{Identity, NodeId};
use client::token_seals::HolderHalf;
use prost::Message as _;
use proto::v1;
use serde_json::json;

use super::approvers::Approvers;
use super::custody::{empty, read, read_key, write_sealed};
use super::failure::Failure;
use super::output::line;
use super::{Session, approve};

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Which seals hold the root key, for each epoch of it, and what each replica's token is.
    #[command(after_help = "Examples:\n  reduit kms seals\n  reduit kms seals --json")]
    Seals,
    /// Seals the root key under the leader's token and a half that holders keep.
    #[command(
        after_help = "The token's key is made in it and does not leave it; the half comes back sealed, one file for each \
                      holder. It takes both, and two operators, to unseal a replica.\n\nExamples:\n  \
                      reduit kms provision --folder halves/ --holder spiffe://ch-zrh/custodian/anna \\\n      \
                      --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key\n  \
                      reduit kms provision --next --folder halves-2/ --certificate … (before `custody finish`)"
    )]
    Provision {
        /// Of the root key under way, not of the one in force.
        #[arg(long)]
        next: bool,
        /// A custodian that keeps the half, as enrolled; once for each. None: every enrolled custodian.
        #[arg(long)]
        holder: Vec<Identity>,
        /// Where the sealed halves are written: new, or empty.
        #[arg(long)]
        folder: PathBuf,
        #[command(flatten)]
        approvers: Approvers,
    },
    /// Gives up a token's seal: the leader deletes the token's key. There is no way back.
    #[command(
        after_help = "Examples:\n  reduit kms drop 5e5e…5e --certificate op-2.pem --key op-2.key --certificate op-3.pem --key op-3.key\n  \
                      reduit kms drop 5e5e…5e --lost --certificate …"
    )]
    Drop {
        /// The seal, as `reduit kms seals` names it.
        seal: String,
        /// Nobody has the token any more.
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        approvers: Approvers,
    },
    /// As a holder: asks for two operators' approvals of an unseal by your half. Changes nothing.
    #[command(
        after_help = "Examples:\n  reduit --context anna kms ask-unseal 1 --half halves/anna.half -o unseal-1.request\n  \
                      reduit --context op-2 approve sign unseal-1.request -o unseal-1.op-2 --minutes 30"
    )]
    AskUnseal {
        /// The replica's member id.
        replica: u64,
        /// Your half, as `provision` wrote it.
        #[arg(long)]
        half: PathBuf,
        /// Where to write the request.
        #[arg(short, long)]
        output: PathBuf,
    },
    /// As a holder: unseals a replica by its token, your half and two operators' approvals.
    #[command(
        after_help = "Examples:\n  reduit --context anna kms unseal 1 --half halves/anna.half --hpke-key anna.xwing \\\n      \
                      --request unseal-1.request --approval unseal-1.op-2 --approval unseal-1.op-3"
    )]
    Unseal {
        /// The replica's member id.
        replica: u64,
        /// Your half, as `provision` wrote it.
        #[arg(long)]
        half: PathBuf,
        /// Your X-Wing key: 64 hexadecimal digits.
        #[arg(long)]
        hpke_key: PathBuf,
        /// What `ask-unseal` wrote.
        #[arg(long)]
        request: PathBuf,
        /// An operator's approval of it; give each.
        #[arg(long = "approval", required = true)]
        approvals: Vec<PathBuf>,
    },
}

/// A seal by its name: 32 hexadecimal digits.
pub(super) fn named(text: &str) -> Result<Bytes, Failure> {
    let mut name = [0; 16];
    hex::decode_to_slice(text, &mut name)
        .map_err(|_| Failure::Usage(format!("{text} names no seal: 32 hexadecimal digits do")))?;
    Ok(Bytes::copy_from_slice(&name))
}

pub(super) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        Command::Seals => seals(session, &region).await,
        Command::Provision {
            next,
            holder,
            folder,
            approvers,
        } => {
            empty(&folder)?;
            let approvers = approvers.load()?;
            let made = region.provision_seal(&holder, next, &approvers).await?;
            for half in &made.halves {
                let name = half.holder.rsplit('/').next().unwrap_or_default();
                write_sealed(&folder.join(format!("{name}.half")), &half.encode_to_vec())?;
            }
            let seal = made.seal.unwrap_or_default();
            let name = hex::encode(&seal.seal_id);
            if session.json {
                line(json!({
                    "seal": name, "root_epoch": seal.root_epoch, "token": seal.token_label,
                    "serial": seal.token_serial, "holders": seal.holders, "leaf": made.leaf_index,
                }));
            } else {
                line(format!(
                    "seal {name} of root key {}: token {} ({}), {} halves in {}, leaf {}",
                    seal.root_epoch,
                    seal.token_label,
                    seal.token_serial,
                    made.halves.len(),
                    folder.display(),
                    made.leaf_index,
                ));
            }
            Ok(())
        }
        Command::Drop {
            seal,
            lost,
            approvers,
        } => {
            let (name, approvers) = (named(&seal)?, approvers.load()?);
            let done = region.drop_seal(name, lost, &approvers).await?;
            if session.json {
                line(json!({ "done": "dropped", "leaf": done.leaf_index }));
            } else {
                line(format!("dropped, leaf {}", done.leaf_index));
            }
            Ok(())
        }
        Command::AskUnseal {
            replica,
            half,
            output,
        } => {
            let half = read_half(&half)?;
            let request = region.ask_token_unseal(NodeId(replica), &half).await?;
            approve::asked(session, &request, &output)
        }
        Command::Unseal {
            replica,
            half,
            hpke_key,
            request,
            approvals,
        } => {
            let (half, key) = (read_half(&half)?, read_key(&hpke_key)?);
            let request = approve::load(&request)?;
            let Approvable::TokenUnseal { asked } = &request.what else {
                let why = "that request unseals no replica: see `reduit kms ask-unseal`";
                return Err(Failure::Usage(why.to_owned()));
            };
            let approvals = approve::load_approvals(&approvals)?;
            let holder = HolderHalf {
                half: &half,
                key: &key,
            };
            let reply = region
                .unseal_by_token(NodeId(replica), holder, asked, approvals)
                .await?;
            if session.json {
                line(json!({ "sealed": reply.sealed }));
            } else if reply.sealed {
                line(
                    "the root key is there, and the unseal not on record yet: it serves once a majority is there",
                );
            } else {
                line("unsealed");
            }
            Ok(())
        }
    }
}

fn read_half(path: &Path) -> Result<v1::SealedHalf, Failure> {
    v1::SealedHalf::decode(&read(path)?[..])
        .map_err(|_| Failure::Usage("that file is no half".to_owned()))
}

async fn seals(session: &Session, region: &client::Region) -> Result<(), Failure> {
    let replicas = region.seals().await;
    let mut newest = v1::CustodyRecord::default();
    for replica in &replicas {
        let custody = replica.said.as_ref().ok().and_then(|r| r.custody.as_ref());
        if let Some(custody) = custody.filter(|c| c.version >= newest.version) {
            newest = custody.clone();
        }
    }
    let tokens = replicas.iter().map(|replica| {
        let name = replica
            .identity
            .as_ref()
            .map_or_else(|| replica.id.to_string(), |identity| identity.to_string());
        let said = match &replica.said {
            Err(error) => format!("does not answer: {error}"),
            Ok(reply) if !reply.configured => "no token is configured".to_owned(),
            Ok(reply) if reply.problem.is_empty() => {
                format!(
                    "token {} ({}) is there",
                    reply.token_label, reply.token_serial
                )
            }
            Ok(reply) => reply.problem.clone(),
        };
        (name, said)
    });
    let tokens: Vec<_> = tokens.collect();
    let in_force = newest.epochs.last().map_or(0, |epoch| epoch.epoch);
    let of_epochs = newest.epochs.iter().map(|epoch| {
        let state = match (epoch.epoch == in_force, epoch.retired_at_ms) {
            (true, _) => "in force",
            (false, 0) => "superseded",
            (false, _) => "retired",
        };
        let split = epoch.splits.iter().find(|split| !split.superseded);
        let split = split.map(|s| (s.shares_needed, s.custodians.len()));
        (epoch.epoch, state, split, &epoch.token_seals)
    });
    let next = newest.pending.iter().filter(|p| p.root_epoch != in_force);
    let next = next.map(|plan| {
        let split = Some((plan.shares_needed, plan.custodians.len()));
        (plan.root_epoch, "under way", split, &plan.token_seals)
    });
    let rows: Vec<_> = of_epochs.chain(next).collect();
    if session.json {
        let rows = rows.iter().map(|(epoch, state, split, seals)| {
            let seals = seals.iter().map(|seal| {
                json!({
                    "seal": hex::encode(&seal.seal_id), "kind": "token", "token": seal.token_label,
                    "serial": seal.token_serial, "holders": seal.holders, "leaf": seal.provisioned_leaf,
                })
            });
            let custodians = split.map(|(k, n)| json!({ "needed": k, "custodians": n }));
            json!({
                "root_epoch": epoch, "state": state, "custodians": custodians,
                "token_seals": seals.collect::<Vec<_>>(),
            })
        });
        let tokens = tokens
            .iter()
            .map(|(name, said)| json!({ "replica": name, "token": said }));
        line(json!({
            "epochs": rows.collect::<Vec<_>>(), "replicas": tokens.collect::<Vec<_>>(),
        }));
        return Ok(());
    }
    for (epoch, state, split, seals) in rows {
        line(format!("root key {epoch}: {state}"));
        if let Some((needed, all)) = split {
            line(format!("  custodians: {needed} of {all}"));
        }
        for seal in seals {
            line(format!(
                "  token {} ({}) and one of {}: seal {}, leaf {}",
                seal.token_label,
                seal.token_serial,
                seal.holders.join(", "),
                hex::encode(&seal.seal_id),
                seal.provisioned_leaf,
            ));
        }
        if seals.is_empty() && matches!(state, "in force" | "under way") {
            line("  no token: the custodians are its only seal");
        }
    }
    for (name, said) in tokens {
        line(format!("{name}: {said}"));
    }
    Ok(())
}
