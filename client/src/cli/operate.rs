//! `reduit operator`: what operators and custodians do to a living region.

use std::path::PathBuf;

use clap::Subcommand;
use client::ids::NodeId;
use client::operator::CustodianShare;
use transport::LocalIdentity;

use super::Session;
use super::approvers::Approvers;
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
        #[command(flatten)]
        approvers: Approvers,
    },
    /// Lets time follow the clocks of a majority again, in a region that was off for over 24 h.
    ///
    /// Nobody chooses the time. First the KMS's, approved by two other operators: it works while every replica is
    /// sealed. Then the storage groups'.
    #[command(after_help = ADVANCE_EXAMPLES)]
    AdvanceTime {
        /// Whose.
        of: TimeOf,
        #[command(flatten)]
        approvers: Approvers,
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

const ADVANCE_EXAMPLES: &str = "Examples:
  reduit operator advance-time kms --certificate b.pem --key b.key --certificate c.pem --key c.key
  reduit operator advance-time storage";

/// Whose time is to follow the clocks.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum TimeOf {
    /// The KMS's: leases, approvals and records go by it.
    Kms,
    /// Of every storage group.
    Storage,
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
            approvers,
        } => {
            let approvers = approvers.load()?;
            let text =
                std::fs::read(&policy).map_err(file(format!("reading {}", policy.display())))?;
            let unwitnessed_ms = unwitnessed_hours.saturating_mul(3_600_000);
            let done = region
                .change_witnesses(text.into(), unwitnessed_ms, &approvers)
                .await?;
            line(format!("witnesses changed, leaf {}", done.leaf_index));
        }
        Command::AdvanceTime {
            of: TimeOf::Kms,
            approvers,
        } => {
            region.advance_kms_time(&approvers.load()?).await?;
            line("kms: region time follows the clocks of a majority");
        }
        Command::AdvanceTime {
            of: TimeOf::Storage,
            ..
        } => {
            region.advance_storage_time().await?;
            line("storage: the time of every group follows the clocks of a majority");
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
