//! The `reduit` command: an enrolled identity that seals and opens on the machine it runs on.
//!
//! Owns arguments, exit codes and what is printed. Plaintext stays in this process and in the files it was told of.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("REDUIT_LOG"))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("reduit: the runtime did not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let json = arguments.json;
    match runtime.block_on(cli::run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}
