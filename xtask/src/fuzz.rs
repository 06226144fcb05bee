//! `cargo xtask fuzz`: every parser of foreign bytes under libFuzzer, on the stable toolchain.
//!
//! Owns coverage of our own crates alone: cargo calls this program in place of rustc for the crates of the workspace,
//! and it adds what libFuzzer needs to see branches. Dependencies are the ones that every other build has. Each target
//! runs in a process of its own, bounded in time and memory; what one finds goes into the target folder, and into the
//! repository when it is told to keep it.

mod report;
mod wrapper;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use self::report::Outcome;
pub(crate) use self::wrapper::as_rustc;

/// Seconds of one target where nothing else is said.
const SECONDS: u32 = 60;
/// Memory of one target's process: a parser that needs more is a finding.
const RSS_MIB_MAX: u32 = 1024;
/// Seconds one input may take.
const INPUT_SECONDS_MAX: u32 = 10;
/// The target with a fault in it, and how long finding that may take.
const PLANTED: &str = "planted";
const PLANTED_SECONDS_MAX: u32 = 20;
/// The short run, as CI has it: seconds of all targets together, and the folder of what it finds.
const CI: &str = "ci";
const SHORT_SECONDS: u32 = 45;
const SHORT: &str = "short";
/// Bytes of an input that is kept in the repository.
const KEPT_BYTES_MAX: u32 = 4095;
/// Inputs of one target that are.
const KEPT_INPUTS_MAX: usize = 50;

/// Fuzz every parser of bytes from network, disk or person.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only targets whose name contains this; `ci`: all of them, a second or two each, from what is kept alone.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = SECONDS)]
    seconds: u32,
    /// Targets at once; default: one a processor.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run this one input instead, with the panic in full.
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Afterwards make the kept corpus anew: the fewest inputs that reach what is now known to be reachable.
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    fn is_short(&self) -> bool {
        self.target.as_deref() == Some(CI)
    }
}

/// Where things are.
struct Places {
    /// The fuzzer.
    program: PathBuf,
    /// Kept inputs, in the repository.
    kept: PathBuf,
    /// What was found and not kept, and crashes.
    found: PathBuf,
}

/// How targets are run.
struct Pace {
    /// Targets at once.
    jobs: usize,
    /// Seconds of each.
    seconds: u32,
    /// The folder of what is found: a short run begins with an empty one, so that it takes no longer from time to time.
    folder: &'static str,
}

impl Pace {
    fn new(arguments: &Arguments, targets: usize) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = arguments.jobs.unwrap_or(processors).clamp(1, targets);
        let rounds = u32::try_from(targets.div_ceil(jobs)).unwrap_or(u32::MAX);
        match arguments.is_short() {
            true => Self {
                jobs,
                seconds: (SHORT_SECONDS / rounds).max(1),
                folder: SHORT,
            },
            false => Self {
                jobs,
                seconds: arguments.seconds,
                folder: "found",
            },
        }
    }
}

pub(crate) fn run(root: &Path, target: &Path, arguments: &Arguments) -> Result<()> {
    let places = Places {
        program: wrapper::build(root, target)?,
        kept: root.join("jepsen-like-tests/fuzz/corpus"),
        found: target.join("fuzz"),
    };
    let all = places.targets()?;
    let chosen: Vec<_> = match &arguments.target {
        None => all,
        Some(_) if arguments.is_short() => all,
        // A whole name is that target alone.
        Some(name) if all.iter().any(|(one, _)| one == name) => {
            all.into_iter().filter(|(one, _)| one == name).collect()
        }
        Some(part) => all
            .into_iter()
            .filter(|(one, _)| one.contains(part))
            .collect(),
    };
    if chosen.is_empty() {
        bail!("no such target; without a name every one is run and listed");
    }
    if let Some(input) = &arguments.input {
        let [(name, _)] = &chosen[..] else {
            bail!("an input is of one target: name it whole");
        };
        let input = std::path::absolute(input)?;
        return crate::call(places.fuzzer(name).arg(input));
    }
    places.finds_what_is_planted()?;
    let outcomes = places.fuzz(&chosen, &Pace::new(arguments, chosen.len()))?;
    if arguments.keep {
        for (name, _) in &chosen {
            places.keep(name)?;
        }
    }
    report::table(&outcomes);
    let crashed: Vec<_> = outcomes
        .iter()
        .filter(|one| !one.crashes.is_empty())
        .collect();
    for outcome in &crashed {
        for crash in &outcome.crashes {
            println!(
                "repeat: cargo xtask fuzz {} --input {}\nkeep it in jepsen-like-tests/fuzz/crashes/{}/",
                outcome.name,
                crash.display(),
                outcome.name
            );
        }
    }
    if !crashed.is_empty() {
        bail!("{} of {} targets crashed", crashed.len(), outcomes.len());
    }
    Ok(())
}

impl Places {
    fn fuzzer(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.env("REDUIT_FUZZ_TARGET", name);
        command
    }

    /// Names, and bytes of an input at most.
    fn targets(&self) -> Result<Vec<(String, u32)>> {
        let listed = Command::new(&self.program)
            .env_remove("REDUIT_FUZZ_TARGET")
            .output()
            .context("cannot start the fuzzer")?;
        let text = String::from_utf8(listed.stdout).context("names are text")?;
        text.lines()
            .map(|line| {
                let (name, len_max) = line.split_once(' ').context("a name and a length")?;
                Ok((name.to_owned(), len_max.parse()?))
            })
            .collect()
    }

    /// A target with a fault that takes coverage to find: where it is not found, nothing below means anything.
    fn finds_what_is_planted(&self) -> Result<()> {
        let crashes = self.folder("crashes", PLANTED)?;
        let output = self
            .fuzzer(PLANTED)
            .arg(format!("-max_total_time={PLANTED_SECONDS_MAX}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .output()
            .context("cannot start the fuzzer")?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || !text.contains("the planted fault") {
            bail!("the planted fault was not found: the fuzzer does not see branches\n{text}");
        }
        println!("the planted fault was found\n{}", report::head());
        Ok(())
    }

    /// Runs the targets, some at once, each in its own process.
    fn fuzz(&self, chosen: &[(String, u32)], pace: &Pace) -> Result<Vec<Outcome>> {
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                while let Some((name, len_max)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = self.one(name, *len_max, pace)?;
                    println!("{}", outcome.line());
                    outcomes
                        .lock()
                        .expect("no other thread panicked")
                        .push(outcome);
                }
                Ok(())
            };
            let threads: Vec<_> = (0..pace.jobs).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("work does not panic"))
        })?;
        let mut outcomes = outcomes.into_inner().expect("no thread panicked");
        outcomes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(outcomes)
    }

    /// One target for some seconds: from its own valid inputs, what is kept, and what earlier runs of its kind found.
    fn one(&self, name: &str, len_max: u32, pace: &Pace) -> Result<Outcome> {
        let found = self.folder(pace.folder, name)?;
        if pace.folder == SHORT {
            std::fs::remove_dir_all(&found).and_then(|()| std::fs::create_dir_all(&found))?;
        }
        let seeds = self.folder("seeds", name)?;
        let crashes = self.folder("crashes", name)?;
        let written = self.fuzzer(name).env("REDUIT_FUZZ_SEEDS", &seeds).status();
        if !written.context("cannot start the fuzzer")?.success() {
            bail!("{name} has no valid inputs to begin with");
        }
        let before = report::files(&found)?;
        let mut command = self.fuzzer(name);
        command
            .arg(format!("-max_total_time={}", pace.seconds))
            .arg(format!("-max_len={len_max}"))
            .arg(format!("-rss_limit_mb={RSS_MIB_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-artifact_prefix={}/", crashes.display()))
            .args(["-print_final_stats=1", "-use_value_profile=1"])
            .args([&found, &seeds]);
        let kept = self.kept.join(name);
        if kept.is_dir() {
            command.arg(kept);
        }
        let output = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .context("cannot start the fuzzer")?;
        let text = String::from_utf8_lossy(&output.stderr);
        let mut outcome = Outcome::read(name, &text);
        outcome.new = report::files(&found)?.difference(&before).count();
        // As it says which: an input that crashed before may be there already.
        outcome.crashes = report::files(&crashes)?
            .into_iter()
            .filter(|input| text.contains(&*input.to_string_lossy()))
            .collect();
        if !output.status.success() {
            println!("{}", report::end_of(&text));
            if outcome.crashes.is_empty() {
                bail!(
                    "{name} ended with {} and left no input behind",
                    output.status
                );
            }
        }
        Ok(outcome)
    }

    /// Replaces the kept corpus of a target by few inputs that reach what is known.
    fn keep(&self, name: &str) -> Result<()> {
        let fresh = self.folder("fresh", name)?;
        std::fs::remove_dir_all(&fresh).and_then(|()| std::fs::create_dir_all(&fresh))?;
        let kept = self.kept.join(name);
        std::fs::create_dir_all(&kept)?;
        let mut merge = self.fuzzer(name);
        merge
            // Which branches, not how often: hundreds of inputs that differ in counts alone would say no more.
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .arg(format!("-max_len={KEPT_BYTES_MAX}"))
            .arg(&fresh)
            .args([self.folder("seeds", name)?, kept.clone()])
            .arg(self.folder("found", name)?)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        crate::call(&mut merge)?;
        std::fs::remove_dir_all(&kept).and_then(|()| std::fs::create_dir_all(&kept))?;
        let mut files = Vec::from_iter(report::files(&fresh)?);
        files.sort_by_cached_key(|file| std::fs::metadata(file).map_or(0, |file| file.len()));
        // Of more than there is room for, small ones and large ones alike.
        for file in files
            .iter()
            .step_by(files.len().div_ceil(KEPT_INPUTS_MAX).max(1))
        {
            let file_name = file.file_name().context("a file has a name")?;
            std::fs::copy(file, kept.join(file_name))?;
        }
        Ok(())
    }

    fn folder(&self, what: &str, name: &str) -> Result<PathBuf> {
        let folder = self.found.join(what).join(name);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("a folder for {}", folder.display()))?;
        Ok(folder)
    }
}
