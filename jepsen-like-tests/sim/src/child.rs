//! One seed in a process of its own, and what it says when it ends.
//!
//! Owns the lines between the two processes. A seed on replicas replays exactly only in a fresh process: the order in
//! which tokio wakes tasks depends on how many runtimes the process had before.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use sim::Broken;
use sim::kinds::Kind;
use sim::logbook::Report;

/// What one seed came to: counts and digest, and the promise it found broken.
pub(crate) type Outcome = (Report, Result<(), Broken>);

/// Runs one seed in a child of this program.
pub(crate) fn run(program: &Path, kind: Kind, seed: u64) -> Result<Outcome> {
    let mut child = Command::new(program);
    child.args(["--only", &kind.to_string()]);
    child.args(["--replay", &seed.to_string(), "--lines"]);
    let output = child.output().context("this program starts itself")?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("{kind} {seed} ended with {}: {said}", output.status)
    })
}

/// As the parent reads it.
pub(crate) fn lines(outcome: &Outcome) -> String {
    let (report, result) = outcome;
    let mut text = String::new();
    for (section, name, count) in report.coverage.iter() {
        text.push_str(&format!("count\t{section}\t{name}\t{count}\n"));
    }
    if let Err(Broken(broken)) = result {
        text.push_str(&format!("broken\t{}\n", broken.escape_debug()));
    }
    text.push_str(&format!("events\t{}\t{}\n", report.events, report.digest));
    text
}

fn parse(text: &str) -> Result<Outcome> {
    let (mut report, mut result) = (Report::default(), Ok(()));
    let mut whole = false;
    for line in text.lines() {
        match &line.split('\t').collect::<Vec<_>>()[..] {
            ["count", section, name, count] => {
                report.coverage.add(section, name, count.parse()?);
            }
            ["broken", broken] => result = Err(Broken((*broken).to_owned())),
            ["events", events, digest] => {
                whole = true;
                report.events = events.parse()?;
                report.digest = (*digest).to_owned();
            }
            _ => bail!("a line that nobody writes: {line}"),
        }
    }
    if !whole {
        bail!("the process ended before the seed did");
    }
    Ok((report, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_says_is_what_the_parent_reads() {
        let mut report = Report {
            events: 7,
            digest: "ab".to_owned(),
            ..Report::default()
        };
        report.coverage.add("some section", "a name", 3);
        let outcome = (report, Err(Broken("lost: {\"a\"}".to_owned())));
        let read = parse(&lines(&outcome)).expect("whole");
        assert_eq!(read.0, outcome.0);
        assert!(read.1.is_err());
        assert!(parse("count\ta\tb\t1\n").is_err(), "cut short");
    }
}
