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
use kms::{Config, LogFormat, Parts, Replica};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

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
    log_to_stderr(&config)?;
    let metrics = PrometheusBuilder::new()
        .install_recorder()
        .context("metrics")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime did not start")?;
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
