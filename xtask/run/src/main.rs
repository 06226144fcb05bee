//! What of `cargo xtask` needs the product built: the demo, the benchmarks, the long tests.

mod bench;
mod demo;
mod full;
#[cfg(feature = "danger_scannable_keys")]
mod keys;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// See `cargo xtask demo --help`.
    Demo(demo::Options),
    /// See `cargo xtask bench --help`.
    Bench(bench::Options),
    /// The long tests of `cargo xtask test --full`.
    Full(full::Options),
    /// Searches disks and memory of a region for every key that it ever held.
    #[cfg(feature = "danger_scannable_keys")]
    Keys,
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    match Arguments::parse().task {
        Task::Demo(options) => demo::run(options).await,
        Task::Bench(options) => bench::run(options).await,
        Task::Full(options) => full::run(options).await,
        #[cfg(feature = "danger_scannable_keys")]
        Task::Keys => keys::run().await,
    }
}

/// The repository's root: as `cargo xtask` says, else as it was when this was built.
fn repository() -> PathBuf {
    std::env::var_os("REDUIT_REPOSITORY").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.."),
        PathBuf::from,
    )
}
