//! Commands to a mounted volume, over a Unix socket: one JSON object a line, one answer a line.
//!
//! Owns the words. Refuses a line it does not understand with an answer that says so, and goes on.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

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
    /// Refuses writes for want of space, or takes them again.
    Enospc {
        /// Whether it is full.
        full: bool,
    },
    /// What happened so far.
    Counts,
    /// Unmounts and exits.
    Quit,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What went wrong, if anything.
    pub error: Option<String>,
    /// What happened so far.
    pub counts: Counts,
}

/// Serves commands until one says to quit.
pub fn serve(listener: &UnixListener, volume: &Arc<Mutex<Volume>>) -> io::Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        let mut out = stream.try_clone()?;
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { break };
            let command = serde_json::from_str(&line);
            let quit = matches!(command, Ok(Command::Quit));
            let done = command
                .map_err(io::Error::other)
                .and_then(|c| run(c, volume));
            let answer = Answer {
                error: done.err().map(|e| e.to_string()),
                counts: volume.lock().counts(),
            };
            let mut line = serde_json::to_vec(&answer).map_err(io::Error::other)?;
            line.push(b'\n');
            // A caller that is gone does not end the volume.
            if out.write_all(&line).is_err() {
                break;
            }
            if quit {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn run(command: Command, volume: &Mutex<Volume>) -> io::Result<()> {
    let mut volume = volume.lock();
    match command {
        Command::DropUnsynced { survival, seed } => volume.cut(survival, seed)?,
        Command::PowerOn => volume.power_on(),
        Command::FailSync { after } => volume.fail_sync_in(after),
        Command::Enospc { full } => volume.set_full(full),
        Command::Counts | Command::Quit => {}
    }
    Ok(())
}

/// A connection to a volume.
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the socket of a volume.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::new(UnixStream::connect(socket)?),
        })
    }

    /// Has a command carried out.
    pub fn send(&mut self, command: Command) -> io::Result<Counts> {
        let mut line = serde_json::to_vec(&command).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        let answer: Answer = serde_json::from_str(&answer).map_err(io::Error::other)?;
        match answer.error {
            Some(error) => Err(io::Error::other(error)),
            None => Ok(answer.counts),
        }
    }
}
