//! `replica-bench run [--dir DIR] [--seconds N] [--no-etcd]` compares; `replica-bench node ID DIR` is one member.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use replica::bench::{Floor, NodeArguments, Plan, compare, render, serve};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some("node") => node(arguments).await,
        Some("run") => run(arguments).await,
        _ => Err("usage: replica-bench run [--dir DIR] [--seconds N] [--no-etcd]".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn node(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let id = arguments
        .next()
        .and_then(|id| id.parse().ok())
        .ok_or("which member?")?;
    let dir = PathBuf::from(arguments.next().ok_or("which folder?")?);
    serve(NodeArguments { id, dir })
        .await
        .map_err(|e| e.to_string())
}

async fn run(mut arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let mut plan = Plan {
        dir: std::env::temp_dir().join(format!("replica-bench-{}", std::process::id())),
        program: std::env::current_exe().map_err(|e| e.to_string())?,
        etcd: Some(PathBuf::from("etcd")),
        cell: Duration::from_secs(4),
        clients: vec![1, 16, 64, 256],
        sizes: vec![256, 4096],
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let numbers = |text: String| -> Result<Vec<usize>, String> {
            text.split(',')
                .map(|n| n.parse().map_err(|_| format!("{n} is no number")))
                .collect()
        };
        match argument.as_str() {
            "--dir" => plan.dir = PathBuf::from(value()?),
            "--seconds" => {
                let seconds = value()?.parse().map_err(|_| "seconds is no number")?;
                plan.cell = Duration::from_secs(seconds);
            }
            "--clients" => plan.clients = numbers(value()?)?,
            "--sizes" => plan.sizes = numbers(value()?)?,
            "--no-etcd" => plan.etcd = None,
            other => return Err(format!("unknown argument {other}")),
        }
    }
    let outcome = compare(&plan).await;
    let rows = outcome.map_err(|e| e.to_string())?;
    let (table, short) = render(&rows, Floor { times: 1.0 });
    println!("{table}");
    // The folders hold gigabytes; logs of a failed run stay, as this line is not reached.
    let _ = std::fs::remove_dir_all(&plan.dir);
    if short.is_empty() {
        Ok(())
    } else {
        Err(short.join("\n"))
    }
}
