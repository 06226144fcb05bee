//! `reduit-local`: regions on one machine, for trying and testing.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use local::{FederationPlan, Kind, Local};

/// Runs whole Reduit regions on this machine, each service a process of its own.
#[derive(Parser)]
#[command(
    name = "reduit-local",
    version,
    after_help = "Examples:\n  reduit-local --dir /tmp/regions up\n  reduit-local --dir /tmp/regions status\n  \
                  REDUIT_CONFIG=/tmp/regions/contexts.toml reduit ls\n  reduit-local --dir /tmp/regions kill ch-zrh/n1\n  \
                  reduit-local --dir /tmp/regions down --delete"
)]
struct Arguments {
    /// The folder that holds everything.
    #[arg(long, env = "REDUIT_LOCAL_DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes and starts regions; without plans, the demo's two.
    Up {
        /// REGION:JURISDICTION:NODES:KMS, such as ch-zrh:CH:3:3; may be repeated.
        #[arg(long = "region")]
        regions: Vec<String>,
        /// Gateways of each region, which serve S3.
        #[arg(long, default_value_t = 1)]
        gateways: u32,
    },
    /// Starts again what `up` made, and unseals it.
    Resume,
    /// Ends every process.
    Down {
        /// Removes the folder too.
        #[arg(long)]
        delete: bool,
    },
    /// What runs, and what it says of itself.
    Status {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Kill -9.
    Kill {
        /// Such as ch-zrh/n1.
        name: String,
    },
    /// Ends and starts a service; a KMS replica is unsealed by its peers.
    Restart {
        /// Such as ch-zrh/k1.
        name: String,
    },
    /// Adds a storage node to a region.
    AddNode {
        /// Such as ch-zrh.
        region: String,
    },
    /// Adds a KMS replica to a region.
    AddKms {
        /// Such as ch-zrh.
        region: String,
    },
    /// Has witnesses of another organisation vouch for a region's log.
    Witnesses {
        /// Such as ch-zrh.
        region: String,
        /// VKEY=URL of one, such as `w.example+0a1b2c3d+BA…=http://127.0.0.1:7300`; may be repeated.
        #[arg(long = "witness", required = true)]
        witnesses: Vec<String>,
        /// How many of them it takes; default: all.
        #[arg(long)]
        needed: Option<usize>,
        /// No key is released while the newest witnessed checkpoint is older, in seconds.
        #[arg(long, default_value_t = 24 * 3600)]
        unwitnessed_seconds: u64,
    },
    /// Replaces a node or KMS replica by a new one.
    ReplaceNode {
        /// Such as ch-zrh/n1.
        name: String,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let dir = &arguments.dir;
    match arguments.command {
        Command::Up { regions, gateways } => {
            let plan = if regions.is_empty() {
                FederationPlan::demo()
            } else {
                FederationPlan::parse(&regions)?
            };
            let local = Local::up(dir, &plan.with_gateways(gateways)).await?;
            println!("up: {} services", local.services().count());
            for gateway in local.services().filter(|s| s.kind == Kind::Gateway) {
                let (name, http, https) = (&gateway.name, &gateway.endpoint, &gateway.https);
                println!("s3: {name} at http://{http} and https://{https}");
            }
            println!(
                "contexts: REDUIT_CONFIG={}",
                local.federation.contexts.display()
            );
        }
        Command::Resume => Local::load(dir)?.resume().await?,
        Command::Down { delete } => {
            Local::load(dir)?.down()?;
            if delete {
                std::fs::remove_dir_all(dir)?;
            }
        }
        Command::Status { json } => {
            let status = Local::load(dir)?.status();
            if json {
                println!("{}", serde_json::to_string_pretty(&status)?);
            } else {
                for service in status {
                    let state = if service.ready { "ready" } else { "NOT READY" };
                    println!(
                        "{:<16} {:>8} {:<10} {}",
                        service.name,
                        service.pid,
                        state,
                        service.says.trim()
                    );
                }
            }
        }
        Command::Kill { name } => Local::load(dir)?.kill(&name)?,
        Command::Restart { name } => Local::load(dir)?.restart(&name).await?,
        Command::AddNode { region } => println!("{}", Local::load(dir)?.add_node(&region).await?),
        Command::AddKms { region } => println!("{}", Local::load(dir)?.add_kms(&region).await?),
        Command::Witnesses {
            region,
            witnesses,
            needed,
            unwitnessed_seconds,
        } => {
            let local = Local::load(dir)?;
            let witnesses = witnesses
                .iter()
                .map(|text| {
                    // Base64 may end in an equals sign, an address has none before its scheme.
                    let (vkey, url) = text
                        .split_once("=http")
                        .map(|(vkey, rest)| (vkey.to_owned(), format!("http{rest}")))
                        .with_context(|| format!("{text} is not VKEY=http://..."))?;
                    Ok(client::OutsideWitness { vkey, url })
                })
                .collect::<Result<Vec<_>>>()?;
            let needed = needed.unwrap_or(witnesses.len());
            let unwitnessed = std::time::Duration::from_secs(unwitnessed_seconds);
            let region = local.federation.region(&region)?;
            local::ceremony::witnessed_by(region, &witnesses, needed, unwitnessed).await?;
        }
        Command::ReplaceNode { name } => println!("{}", Local::load(dir)?.replace(&name).await?),
    }
    Ok(())
}
