//! The command `reduit-witness`: makes keys, serves, says how it stands.
//!
//! Owns the process: arguments, log lines, signals, exit codes. Exit 0 when all is well, 1 when something could not be
//! done, 2 when `status` finds an alarm that holds.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tlog::KeyName;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use transport::SystemClock;
use witness::{Algorithm, Config, LogFormat, Witness};

/// Independent witness and monitor of a Reduit transparency log.
#[derive(Debug, Parser)]
#[command(name = "reduit-witness", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a signing key in a new file of mode 0600 and print its public half.
    #[command(after_help = "Examples:
  reduit-witness keygen --name witness.example/w1 --out /var/lib/reduit-witness/w1.key
  reduit-witness keygen --name witness.example/w1 --algorithm ml-dsa-44 --out w1-pq.key

Give the printed line to the log's operator and to everyone who verifies: it goes into their tlog-policy.")]
    Keygen {
        /// The witness's name: an address of yours without a scheme, with no spaces and no plus.
        #[arg(long)]
        name: KeyName,
        /// How it signs. A witness may have a key of each, of one name.
        #[arg(long, value_enum, default_value = "ed25519")]
        algorithm: Algorithm,
        /// The file to make; it must not exist.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Cosign and follow the logs of a configuration file until told to stop.
    #[command(after_help = witness::CONFIG_EXAMPLE)]
    Serve {
        /// The configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say how a running witness stands. Exit 2: an alarm holds.
    #[command(after_help = "Examples:
  reduit-witness status --config /etc/reduit-witness/witness.toml
  reduit-witness status --address 127.0.0.1:7301 --json")]
    Status {
        /// The configuration file of the running witness, for its `status_listen`.
        #[arg(long, value_name = "FILE", required_unless_present = "address")]
        config: Option<PathBuf>,
        /// `host:port` of its status page.
        #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
        address: Option<String>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
}

/// A witness on this host answers at once.
const STATUS_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Logging may not be set up yet.
            eprintln!("reduit-witness: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Keygen {
            name,
            algorithm,
            out,
        } => {
            println!("{}", witness::generate(&name, algorithm, &out)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Serve { config } => {
            let config = Config::load(&config)?;
            log_to_stderr(&config)?;
            runtime()?.block_on(serve(&config))
        }
        Command::Status {
            config,
            address,
            json,
        } => {
            let address = match (config, address) {
                (_, Some(address)) => address,
                (Some(config), None) => {
                    let listen = Config::load(&config)?.status_listen;
                    let listen = listen.context("the configuration has no status_listen")?;
                    listen.to_string()
                }
                (None, None) => anyhow::bail!("say --config or --address"),
            };
            runtime()?.block_on(status(&address, json))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .enable_all()
        .build()
        .context("the runtime did not start")
}

async fn serve(config: &Config) -> anyhow::Result<ExitCode> {
    let mut terminated = signal(SignalKind::terminate()).context("signals")?;
    let mut interrupted = signal(SignalKind::interrupt()).context("signals")?;
    let witness = Witness::start(config, SystemClock::shared()).await?;
    tokio::select! {
        _ = terminated.recv() => tracing::info!("terminated, draining"),
        _ = interrupted.recv() => tracing::info!("interrupted, draining"),
    }
    witness.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn status(address: &str, json: bool) -> anyhow::Result<ExitCode> {
    let asked = tokio::time::timeout(STATUS_TIMEOUT, witness::fetch_status(address));
    let (status, text) = asked
        .await
        .with_context(|| format!("{address} did not answer in time"))?
        .with_context(|| format!("no witness answers at {address}"))?;
    match json {
        true => println!("{text}"),
        false => print!("{status}"),
    }
    Ok(match status.is_well() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(2),
    })
}

fn log_to_stderr(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("log filter")?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
