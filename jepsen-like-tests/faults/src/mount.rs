//! A volume mounted by a process of its own, for a test.
//!
//! Owns the process: it ends when the mount is dropped, when the test ends in any way, and at the latest when its
//! time is up, and no call into the mount outlasts it. Refuses to be silent about a machine without FUSE.

use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command as Process, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::{self, Command};
use crate::volume::Counts;

/// How long unmounting may take.
const TAKES_MAX: Duration = Duration::from_secs(10);
/// Between two looks at whether it has happened.
const STEP: Duration = Duration::from_millis(5);

/// A mounted volume.
pub struct Mounted {
    server: Mutex<Server>,
    at: PathBuf,
}

struct Server {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Mounted {
    /// Mounts a volume below `dir` by the program `faultfs`, for `lives_max` at most: what is durable goes to
    /// `dir/backing`, the mount is `dir/mount`. Where the machine does not permit it, says why on standard error, past
    /// any capture, and answers `None`.
    pub fn or_skip(faultfs: &Path, dir: &Path, lives_max: Duration) -> io::Result<Option<Self>> {
        let skip = |why: &str, error: &io::Error| {
            writeln!(io::stderr(), "skipped, {why}: {error}").map(|()| None)
        };
        let mut device = std::fs::OpenOptions::new();
        if let Err(error) = device.read(true).write(true).open("/dev/fuse") {
            return skip("the device /dev/fuse cannot be opened", &error);
        }
        let (backing, at) = (dir.join("backing"), dir.join("mount"));
        std::fs::create_dir_all(&at)?;
        let mut child = Process::new(faultfs)
            .args([&backing, &at])
            .arg(lives_max.as_secs().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let message = format!("{} does not start: {error}", faultfs.display());
                io::Error::new(error.kind(), message)
            })?;
        let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut server = Server {
            child,
            answers: BufReader::new(answers),
        };
        match control::receive(&mut server.answers) {
            Ok(_) => Ok(Some(Self {
                server: Mutex::new(server),
                at,
            })),
            Err(error) => {
                server.child.wait()?;
                // What the server says is about the mount; that it says nothing is a fault of its own.
                match error.kind() {
                    io::ErrorKind::Other => skip("mounting was refused", &error),
                    _ => Err(error),
                }
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Has a command carried out.
    pub fn send(&self, command: Command) -> io::Result<Counts> {
        let Server { child, answers } = &mut *self.server.lock();
        let commands = child.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        control::send(command, commands, answers)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let child = &mut self.server.get_mut().child;
        // It ends with its commands.
        drop(child.stdin.take());
        let deadline = Instant::now() + TAKES_MAX;
        let ended = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status.success(),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(STEP),
                _ => break false,
            }
        };
        if !ended {
            // With its last handle on the device every call into the mount fails; the name of it is left to remove.
            let _ = child.kill();
            let _ = child.wait();
            let _ = detach(&self.at).and_then(|mut detaching| detaching.wait());
        }
    }
}

/// Takes the mount away from its name, whoever uses it.
pub fn detach(at: &Path) -> io::Result<Child> {
    Process::new("fusermount3").arg("-uzq").arg(at).spawn()
}
