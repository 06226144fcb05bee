//! Commands to a mounted volume: one JSON object a line, one answer a line.
//!
//! Owns the words. Refuses a line it does not understand with an answer that says so, and goes on.

use std::io::{self, BufRead, Write};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::content::Survival;
use crate::volume::{Counts, Volume};

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Command {
    /// Cuts the power. Every call fails until `power_on`.
    DropUnsynced {
        /// What survives.
        survival: Survival,
        /// Which of it.
        seed: u64,
    },
    /// Answers again.
    PowerOn,
    /// Lets one sync fail.
    FailSync {
        /// After so many that succeed.
        after: u64,
    },
    /// Answers syncs without doing them, or does them again.
    IgnoreSyncs {
        /// Whether it lies.
        ignored: bool,
    },
    /// Refuses writes for want of space, or takes them again.
    Enospc {
        /// Whether it is full.
        full: bool,
    },
    /// Lets every sync take longer, and all others wait for it.
    SlowSync {
        /// How much longer, in milliseconds; 0 for no longer.
        millis: u64,
    },
    /// What happened so far.
    Counts,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What went wrong, if anything.
    pub error: Option<String>,
    /// What happened so far.
    pub counts: Counts,
}

impl Answer {
    /// An answer with the counts of now.
    pub fn new(error: Option<String>, volume: &Mutex<Volume>) -> Self {
        let counts = volume.lock().counts();
        Self { error, counts }
    }

    /// Writes it as one line.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write_line(out, self)
    }
}

/// Serves commands until there are no more.
pub fn serve(
    commands: impl BufRead,
    answers: &mut impl Write,
    volume: &Mutex<Volume>,
) -> io::Result<()> {
    for line in commands.lines() {
        let command = serde_json::from_str(&line?).map_err(io::Error::other);
        let done = command.and_then(|command| run(command, volume));
        Answer::new(done.err().map(|e| e.to_string()), volume).write(answers)?;
    }
    Ok(())
}

fn run(command: Command, volume: &Mutex<Volume>) -> io::Result<()> {
    let mut volume = volume.lock();
    match command {
        Command::DropUnsynced { survival, seed } => volume.cut(survival, seed)?,
        Command::PowerOn => volume.power_on(),
        Command::FailSync { after } => volume.fail_sync_in(after),
        Command::IgnoreSyncs { ignored } => volume.ignore_syncs(ignored),
        Command::Enospc { full } => volume.set_full(full),
        Command::SlowSync { millis } => volume.slow_syncs(Duration::from_millis(millis)),
        Command::Counts => {}
    }
    Ok(())
}

/// Has a command carried out by who serves at the other end.
pub fn send(
    command: Command,
    commands: &mut impl Write,
    answers: &mut impl BufRead,
) -> io::Result<Counts> {
    write_line(commands, &command)?;
    receive(answers)
}

/// Reads one answer.
pub fn receive(answers: &mut impl BufRead) -> io::Result<Counts> {
    let mut line = String::new();
    if answers.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let answer: Answer = serde_json::from_str(&line).map_err(io::Error::other)?;
    match answer.error {
        Some(error) => Err(io::Error::other(error)),
        None => Ok(answer.counts),
    }
}

fn write_line(out: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what).map_err(io::Error::other)?;
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}
