//! `reduit operator`: what operators and custodians do to a living region.

use std::path::PathBuf;

use clap::Subcommand;
use client::ids::NodeId;
use client::operator::CustodianShare;
use transport::LocalIdentity;

use super::Session;
use super::custody::{read_key, read_share};
use super::failure::{Failure, file};
use super::output::line;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// What every member says of itself, as JSON.
    Status,
    /// Gives a sealed KMS replica the second person's word, so that its peers unseal it.
    ApproveUnseal {
        /// The replica's member id.
        replica: u64,
        /// The approving operator's certificate (PEM); not yours.
        #[arg(long)]
        certificate: PathBuf,
        /// The approving operator's key (PEM).
        #[arg(long)]
        key: PathBuf,
    },
    /// As a custodian: gives your share to a sealed KMS replica.
    Unseal {
        /// The replica's member id.
        replica: u64,
        /// Your share, as the ceremony handed it out.
        #[arg(long)]
        share: PathBuf,
        /// Your X-Wing key: 64 hexadecimal digits.
        #[arg(long)]
        key: PathBuf,
    },
    /// Seals one KMS replica.
    Seal {
        /// The replica's member id.
        replica: u64,
    },
    /// Replaces the policy of who vouches for the region's log, approved by two other operators.
    Witnesses {
        /// The policy (C2SP tlog-policy): start from `reduit log policy`.
        policy: PathBuf,
        /// No key is released while the newest witnessed checkpoint is older: hours.
        #[arg(long, default_value_t = 24)]
        unwitnessed_hours: u64,
        /// An approving operator's certificate (PEM); give it and --key once for each.
        #[arg(long, required = true)]
        certificate: Vec<PathBuf>,
        /// The same operator's key (PEM).
        #[arg(long, required = true)]
        key: Vec<PathBuf>,
    },
    /// Raises the feature level once every voter supports it. There is no way back.
    #[command(
        after_help = "Examples:\n  reduit operator raise-level 1\n  reduit operator raise-level 3 --kms"
    )]
    RaiseLevel {
        /// To this.
        level: u32,
        /// Of the KMS alone: its levels go further than those of storage.
        #[arg(long)]
        kms: bool,
    },
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    let region = session.region().await?;
    match command {
        Command::Status => {
            let status = region.status().await;
            for (identity, endpoint, answer) in status.nodes {
                let said = match answer {
                    Ok(reply) => serde_json::json!({
                        "groups": reply.groups.iter().map(|g| serde_json::json!({
                            "group": g.group, "leader": g.leader, "voters": g.voters, "applied": g.applied_index,
                            "missing_blocks": g.missing_blocks,
                        })).collect::<Vec<_>>(),
                        "authority": reply.authority_version, "blocks": reply.blocks, "full": reply.full,
                    }),
                    Err(why) => serde_json::json!({ "error": why }),
                };
                let name = identity.map(|identity| identity.to_string());
                line(serde_json::json!({ "identity": name, "endpoint": endpoint, "status": said }));
            }
            for (identity, endpoint, answer) in status.kms {
                let said = match answer {
                    Ok(reply) => serde_json::json!({
                        "initialised": reply.initialised, "sealed": reply.sealed, "leader": reply.leader,
                        "voters": reply.voters, "applied": reply.applied_index, "tree_size": reply.tree_size,
                        "shares": [reply.shares_have, reply.shares_needed],
                    }),
                    Err(why) => serde_json::json!({ "error": why }),
                };
                let name = identity.map(|identity| identity.to_string());
                line(serde_json::json!({ "identity": name, "endpoint": endpoint, "status": said }));
            }
        }
        Command::ApproveUnseal {
            replica,
            certificate,
            key,
        } => {
            let approver = LocalIdentity::load(&certificate, &key)
                .map_err(|error| Failure::Usage(format!("the approver's identity: {error}")))?;
            let reply = region.approve_unseal(NodeId(replica), &approver).await?;
            line(format!(
                "unsealed by {}, leaf {}",
                reply.unsealed_by, reply.leaf_index
            ));
        }
        Command::Unseal {
            replica,
            share,
            key,
        } => {
            let (share, key) = (read_share(&share)?, read_key(&key)?);
            let share = CustodianShare {
                share: &share,
                key: &key,
            };
            let reply = region.unseal(NodeId(replica), share).await?;
            let state = if reply.sealed { "sealed" } else { "unsealed" };
            line(format!(
                "{state}: {} of {} shares",
                reply.have, reply.needed
            ));
        }
        Command::Seal { replica } => {
            region.seal(NodeId(replica)).await?;
            line("sealed");
        }
        Command::Witnesses {
            policy,
            unwitnessed_hours,
            certificate,
            key,
        } => {
            if certificate.len() != key.len() {
                let why = "each --certificate takes a --key";
                return Err(Failure::Usage(why.to_owned()));
            }
            let approvers = certificate.iter().zip(&key).map(|(certificate, key)| {
                LocalIdentity::load(certificate, key)
                    .map_err(|error| Failure::Usage(format!("an approver's identity: {error}")))
            });
            let approvers = approvers.collect::<Result<Vec<_>, _>>()?;
            let text =
                std::fs::read(&policy).map_err(file(format!("reading {}", policy.display())))?;
            let unwitnessed_ms = unwitnessed_hours.saturating_mul(3_600_000);
            let done = region
                .change_witnesses(text.into(), unwitnessed_ms, &approvers)
                .await?;
            line(format!("witnesses changed, leaf {}", done.leaf_index));
        }
        Command::RaiseLevel { level, kms } => {
            if !kms {
                line(format!(
                    "storage: feature level {}",
                    region.raise_level(level).await?
                ));
            }
            line(format!(
                "kms: feature level {}",
                region.raise_kms_level(level).await?
            ));
        }
    }
    Ok(())
}
