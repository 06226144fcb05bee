//! The storage daemon: reads its configuration, serves until it is told to stop or its engine ends.
//!
//! Owns the process: log lines, signals, exit codes. Exit 0 after a signal, 1 when it could not start, 2 when the
//! engine ended by itself and the process has to be started again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use node::{Config, Node, Parts};
use tokio::signal::unix::{SignalKind, signal};

/// Gives back what many streams took once they are gone; the C library keeps it in pieces (decision 0041).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs one storage node of a region.
#[derive(Debug, Parser)]
#[command(name = "reduit-node", version, about, after_long_help = node::CONFIG_EXAMPLE)]
struct Arguments {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            // Logging may not be set up yet.
            eprintln!("reduit-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config)?;
    let runtime = daemon::Serving::SparesOne.runtime();
    let runtime = runtime.context("the runtime did not start")?;
    let _exporting = {
        let _entered = runtime.enter();
        config.logging().start()?
    };
    let metrics = daemon::Numbers::keep()?;
    runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate()).context("signals")?;
        let mut interrupted = signal(SignalKind::interrupt()).context("signals")?;
        let parts = Parts {
            metrics: Some(metrics),
            ..Parts::default()
        };
        let node = tokio::select! {
            biased;
            node = Node::start(config, parts) => node?,
            _ = terminated.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupted.recv() => return Ok(ExitCode::SUCCESS),
        };
        tokio::select! {
            _ = terminated.recv() => tracing::info!("terminated, draining"),
            _ = interrupted.recv() => tracing::info!("interrupted, draining"),
            why = node.failed() => {
                tracing::error!(%why, "the engine has ended: exiting to start over from the disk");
                node.abandon().await;
                return Ok(ExitCode::from(2));
            }
        }
        node.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}
