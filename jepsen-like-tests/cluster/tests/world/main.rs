//! The world itself: every fault does what it says, to whom it says, and is gone when it is healed.
//!
//! Root only; elsewhere it says why it skips. What needs daemons takes them from `REDUIT_BIN`, else from beside the
//! test's own folder, and skips where they are not built. An argument picks the tests whose name contains it. Each
//! fault on a live region takes minutes: without an argument these run with `REDUIT_FULL=1` alone, and say so.

mod region;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use jepsen::world::isolate;

/// A test and its name, which is a claim.
type Test = (&'static str, fn());

fn main() -> ExitCode {
    if let Err(skipped) = isolate() {
        println!("world: {skipped}");
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let long = std::env::var_os("REDUIT_FULL").is_some() || !wanted.is_empty();
    let all: Vec<Test> = match long {
        true => [wire::TESTS, region::TESTS].concat(),
        false => {
            println!("world: faults on live regions are skipped, they take minutes: REDUIT_FULL=1");
            wire::TESTS.to_vec()
        }
    };
    let chosen = all.iter().filter(|(name, _)| {
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    });
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, test) in chosen {
        let began = Instant::now();
        // A test that fails leaves its processes and interfaces to the end of this one.
        let outcome = catch_unwind(AssertUnwindSafe(test));
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!(
            "test {name} ... {verdict} ({:.1} s)",
            began.elapsed().as_secs_f64()
        );
        match outcome {
            Ok(()) => passed += 1,
            Err(_) => failed.push(*name),
        }
    }
    println!("world: {passed} passed, {} failed", failed.len());
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed: {}", failed.join(", "));
        ExitCode::FAILURE
    }
}

/// The folder of the daemons, or nothing where they are not built.
fn binaries() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("REDUIT_BIN") {
        return Some(dir.into());
    }
    let exe = std::env::current_exe().ok()?;
    let dir = exe.parent()?.parent()?.to_owned();
    let built = ["reduit-node", "reduit-kms", "reduit-faultfs"];
    built
        .iter()
        .all(|name| dir.join(name).is_file())
        .then_some(dir)
}
