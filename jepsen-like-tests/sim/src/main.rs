//! `reduit-sim`: runs seeds, says what they reached, and replays the one that failed.
//!
//! Owns the command line. Refuses randomness from the system: see `entropy`.

mod batch;
mod child;
mod entropy;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use sim::kinds::{Kind, missing};
use sim::logbook::Logbook;

use crate::batch::{Batch, Total};

/// Seeds that failed once: one a line, `kind seed # what it was`.
const REGRESSIONS: &str = include_str!("../regressions.txt");
/// Seeds from which a run is long enough to reach everything that is to be reached.
const ENOUGH: usize = 5000;

/// Simulates the machines of a region, alone and on replicas that fail, from seeds.
#[derive(Parser)]
#[command(name = "reduit-sim", max_term_width = 100)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only runs of one kind: node, kms or replica. Otherwise a seed's number says what it runs.
    #[arg(long)]
    only: Option<Kind>,
    /// Runs one seed again and says everything about it.
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    /// With --replay: writes every event to this file, to find where two runs part.
    #[arg(long, value_name = "FILE", requires = "replay")]
    trace: Option<PathBuf>,
    /// Runs every seed that failed once.
    #[arg(long, conflicts_with_all = ["replay", "only"])]
    regressions: bool,
    /// Seeds run at once; by default one a core.
    #[arg(long)]
    jobs: Option<usize>,
    /// Says nothing before the end.
    #[arg(long)]
    quiet: bool,
    /// With --replay: says it as another of these programs reads it.
    #[arg(long, hide = true, requires = "replay")]
    lines: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let green = match args.replay {
        Some(seed) => replay(&args, seed),
        None => many(&args),
    };
    match green {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("reduit-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one seed in this process, which has run nothing before.
fn replay(args: &Args, seed: u64) -> Result<bool> {
    if !entropy::in_force() {
        bail!(
            "this program was linked without its own source of randomness: seeds would not replay"
        );
    }
    let kind = args.only.unwrap_or_else(|| Kind::mixed(seed));
    let copy = match &args.trace {
        Some(path) => {
            let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
            Some(Box::new(BufWriter::new(file)) as Box<dyn std::io::Write + Send>)
        }
        None => None,
    };
    entropy::seed(seed);
    let panics = batch::Panics::watch();
    let book = Logbook::new(copy);
    let (_, result) = batch::here(kind, seed, &book);
    // One in a task ends the task alone, and the run goes on around it.
    let result = result.and(panics.none(&book));
    let outcome = (book.report(), result);
    let green = outcome.1.is_ok();
    if args.lines {
        print!("{}", child::lines(&outcome));
        return Ok(green);
    }
    let (report, result) = outcome;
    print!("{}", report.coverage);
    println!("{} events, digest {}", report.events, report.digest);
    match result {
        Ok(()) => println!("{kind} {seed}: green"),
        Err(broken) => println!("{kind} {seed}: BROKEN: {broken}"),
    }
    Ok(green)
}

fn many(args: &Args) -> Result<bool> {
    let seeds: Vec<(Kind, u64)> = if args.regressions {
        regressions(REGRESSIONS)?
    } else {
        let numbers = args.from..args.from.saturating_add(args.seeds);
        numbers
            .map(|seed| (args.only.unwrap_or_else(|| Kind::mixed(seed)), seed))
            .collect()
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let batch = Batch {
        program: std::env::current_exe().context("this program's own path")?,
        jobs: args.jobs.unwrap_or(cores).max(1),
        quiet: args.quiet,
    };
    let begun = Instant::now();
    let total = batch.run(&seeds)?;
    print!("{}", total.coverage);
    let reached = reached(args, &total, seeds.len());
    let took = begun.elapsed().as_secs_f64();
    for (kind, place) in Kind::ALL.into_iter().zip(0..) {
        let (run, exact) = (total.seeds[place], total.exact[place]);
        println!("{kind}: {run} seeds, {exact} of them run twice with the same digest");
    }
    println!("{} events in {took:.1} s", total.events);
    if let Some((kind, seed, broken)) = &total.failed {
        println!("{kind} {seed}: BROKEN: {broken}");
        println!("replay it with: reduit-sim --only {kind} --replay {seed}");
        return Ok(false);
    }
    println!("{} seeds green", seeds.len());
    Ok(reached)
}

/// Whether a long run has reached what it should; says what it has not.
fn reached(args: &Args, total: &Total, seeds: usize) -> bool {
    let kinds: Vec<Kind> = match args.only {
        Some(kind) => vec![kind],
        None => Kind::ALL.to_vec(),
    };
    let missing = missing(&kinds, &total.coverage);
    for (section, name) in &missing {
        println!("never reached: {section}: {name}");
    }
    let long = seeds >= ENOUGH && total.failed.is_none() && !args.regressions;
    missing.is_empty() || !long
}

fn regressions(text: &str) -> Result<Vec<(Kind, u64)>> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or(""));
    let lines = lines.map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (kind, seed) = line.split_once(' ').context("a kind and a seed")?;
            Ok((kind.parse()?, seed.trim().parse()?))
        })
        .map(|parsed: Result<_>| parsed.context("regressions.txt"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regressions_are_kinds_and_seeds_with_a_word_on_each() {
        let read = regressions("# head\n\nnode 7 # what it was\nreplica 12 # that\n");
        assert_eq!(
            read.expect("good lines"),
            [(Kind::Node, 7), (Kind::Replica, 12)]
        );
        assert!(regressions("node\n").is_err());
        assert!(regressions("nobody 7\n").is_err());
        regressions(REGRESSIONS).expect("the file of this build");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Args::command().debug_assert();
    }
}
