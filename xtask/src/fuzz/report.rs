//! What a run of libFuzzer came to: read out of its words, shown as a table.
//!
//! Owns both. What libFuzzer does not say reads as 0.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Lines of a crash that are shown.
const LINES_SHOWN: usize = 40;

/// One target's run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) name: String,
    /// Inputs run.
    pub(super) executions: u64,
    /// Of them a second, on average.
    pub(super) per_second: u64,
    /// Branches reached.
    pub(super) coverage: u64,
    /// Branches, counts and compared values told apart.
    pub(super) features: u64,
    /// Inputs found that reach something new.
    pub(super) new: usize,
    /// Inputs that crashed.
    pub(super) crashes: Vec<PathBuf>,
}

impl Outcome {
    /// Out of what libFuzzer printed.
    pub(super) fn read(name: &str, text: &str) -> Self {
        let number = |after: &str| {
            let found = text.rfind(after).map(|at| &text[at + after.len()..]);
            let digits = found.map(|rest| rest.trim_start().split(|c: char| !c.is_ascii_digit()));
            digits
                .and_then(|mut words| words.next())
                .and_then(|digits| digits.parse().ok())
                .unwrap_or(0)
        };
        Self {
            name: name.to_owned(),
            executions: number("stat::number_of_executed_units:"),
            per_second: number("stat::average_exec_per_sec:"),
            coverage: number(" cov:"),
            features: number(" ft:"),
            ..Self::default()
        }
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:<20} {:>11} {:>9} {:>9} {:>9} {:>6} {:>7}",
            self.name,
            self.executions,
            self.per_second,
            self.coverage,
            self.features,
            self.new,
            self.crashes.len()
        )
    }
}

/// What the numbers of a line are.
pub(super) fn head() -> String {
    format!(
        "{:<20} {:>11} {:>9} {:>9} {:>9} {:>6} {:>7}",
        "target", "executions", "a second", "branches", "features", "new", "crashes"
    )
}

/// All of them, and their sum.
pub(super) fn table(outcomes: &[Outcome]) {
    println!("\n{}", head());
    for outcome in outcomes {
        println!("{}", outcome.line());
    }
    let executions: u64 = outcomes.iter().map(|one| one.executions).sum();
    let new: usize = outcomes.iter().map(|one| one.new).sum();
    let crashes: usize = outcomes.iter().map(|one| one.crashes.len()).sum();
    println!(
        "{} targets: {executions} executions, {new} new inputs, {crashes} crashes",
        outcomes.len()
    );
}

/// The end of what libFuzzer printed, with what the panic said.
pub(super) fn end_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let said = lines.iter().position(|line| line.contains("panicked at"));
    let from = said.unwrap_or_else(|| lines.len().saturating_sub(LINES_SHOWN));
    lines[from..]
        .iter()
        .take(LINES_SHOWN)
        .copied()
        .collect::<Vec<_>>()
        .join("\n")
}

/// The files of a folder.
pub(super) fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let listed = std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let paths = listed.map(|entry| Ok(entry?.path()));
    paths
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("{}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_libfuzzer_counts() {
        let text = "#2\tINITED cov: 8 ft: 9 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #1024\tDONE   cov: 58 ft: 140 corp: 12/90b lim: 17 exec/s: 512 rss: 40Mb\n\
                    stat::number_of_executed_units: 1024\nstat::average_exec_per_sec:     512\n";
        let outcome = Outcome::read("ids", text);
        let expected = Outcome {
            name: "ids".to_owned(),
            executions: 1024,
            per_second: 512,
            coverage: 58,
            features: 140,
            ..Outcome::default()
        };
        assert_eq!(outcome, expected);
        assert_eq!(Outcome::read("ids", "").executions, 0);
    }

    #[test]
    fn a_crash_is_shown_from_what_the_panic_said() {
        let text = "noise\nthread 'main' panicked at a.rs:1:\nwhy\n";
        assert!(end_of(text).starts_with("thread 'main' panicked"));
    }
}
