//! The gateway daemon: reads its configuration, serves until it is told to stop.
//!
//! Owns the process: log lines, signals, exit codes. Exit 0 after a signal or a check that passed, 1 otherwise.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use gateway::{Config, Gateway};
use tokio::signal::unix::{SignalKind, signal};

/// Serves S3 in front of a region.
#[derive(Debug, Parser)]
#[command(name = "reduit-gateway", version, about, after_long_help = gateway::CONFIG_EXAMPLE)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration, its files and that the region answers; serve nothing.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not be set up yet.
            eprintln!("reduit-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::load(&arguments.config)?;
    let runtime = daemon::Serving::SparesOne.runtime();
    let runtime = runtime.context("the runtime did not start")?;
    let _exporting = {
        let _entered = runtime.enter();
        config.logging().start()?
    };
    if arguments.check {
        runtime.block_on(Gateway::check(config))??;
        println!("ok: the configuration holds and the region answers");
        return Ok(());
    }
    let metrics = daemon::Numbers::keep()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("signals")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("signals")?;
        let gateway = Gateway::start(config, Some(metrics)).await?;
        tokio::select! {
            _ = terminated.recv() => tracing::info!("terminated, draining"),
            _ = interrupted.recv() => tracing::info!("interrupted, draining"),
        }
        gateway.stop().await;
        Ok(())
    })
}
