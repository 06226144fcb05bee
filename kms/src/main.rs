//! The KMS daemon: reads its configuration, serves until it is told to stop or its engine ends.
//!
//! Owns the process: log lines, signals, exit codes. Exit 0 after a signal, 1 when it could not start, 2 when the
//! engine ended by itself and the process has to be started again.

#[cfg(feature = "danger_scannable_keys")]
mod fingerprints;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use kms::{Config, Parts, Replica};
use tokio::signal::unix::{SignalKind, signal};

/// Runs one replica of a region's KMS.
#[derive(Debug, Parser)]
#[command(name = "reduit-kms", version, about, after_long_help = kms::CONFIG_EXAMPLE)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "danger_scannable_keys")]
    fingerprints::install();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            // Logging may not be set up yet.
            eprintln!("reduit-kms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config)?;
    let runtime = daemon::Serving::AllCores.runtime();
    let runtime = runtime.context("the runtime did not start")?;
    let _exporting = {
        let _entered = runtime.enter();
        config.logging().start()?
    };
    let metrics = daemon::Numbers::keep()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("signals")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("signals")?;
        let parts = Parts { metrics: Some(metrics), ..Parts::default() };
        let replica = Replica::start(config, parts).await?;
        tokio::select! {
            _ = terminated.recv() => tracing::info!("terminated, draining"),
            _ = interrupted.recv() => tracing::info!("interrupted, draining"),
            failure = replica.failed() => {
                let failure = transport::fault::Chain(&failure);
                tracing::error!(%failure, "the engine has ended: exiting to start over from the disk");
                replica.abandon().await;
                return Ok(ExitCode::from(2));
            }
        }
        replica.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
