//! A volume mounted by a process of its own, for a test.
//!
//! Owns the process: it is told to quit when the mount is dropped, killed when it does not obey, and the mount point
//! is freed in any case. Refuses to be silent about a machine without FUSE: [`NoFuse`] says what is missing.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::control::{Command, Control};
use crate::volume::Counts;

/// How long mounting and unmounting may take.
const TAKES_MAX: Duration = Duration::from_secs(10);
/// Between two looks at whether it has happened.
const STEP: Duration = Duration::from_millis(5);

/// Why nothing can be mounted here.
#[derive(Debug, thiserror::Error)]
pub enum NoFuse {
    /// No device.
    #[error("the device /dev/fuse cannot be opened")]
    Device(#[source] io::Error),
    /// The volume's process could not be started or talked to.
    #[error("the volume's process does not work")]
    Process(#[source] io::Error),
    /// Mounting was refused.
    #[error("mounting was refused: {0}")]
    Refused(String),
}

/// A mounted volume.
pub struct Mounted {
    child: Mutex<Child>,
    control: Mutex<Control>,
    at: PathBuf,
}

impl Mounted {
    /// Mounts a volume below `dir` by the program `faultfs`: what is durable goes to `dir/backing`, the mount is
    /// `dir/mount`. *Blocks* until it is mounted.
    pub fn start(faultfs: &Path, dir: &Path) -> Result<Self, NoFuse> {
        let device = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        drop(device.map_err(NoFuse::Device)?);
        let (backing, at, socket) = (dir.join("backing"), dir.join("mount"), dir.join("control"));
        for folder in [&backing, &at] {
            std::fs::create_dir_all(folder).map_err(NoFuse::Process)?;
        }
        let mut child = Process::new(faultfs)
            .args([&backing, &at])
            .arg("--control")
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(NoFuse::Process)?;
        let deadline = Instant::now() + TAKES_MAX;
        let control = loop {
            match Control::connect(&socket) {
                Ok(control) => break control,
                Err(error) if Instant::now() >= deadline => {
                    // It is ours and did not come up; an error means it is gone already.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(NoFuse::Process(error));
                }
                Err(_) => {}
            }
            if child.try_wait().map_err(NoFuse::Process)?.is_some() {
                let said = child.wait_with_output().map_err(NoFuse::Process)?;
                return Err(NoFuse::Refused(
                    String::from_utf8_lossy(&said.stderr).into_owned(),
                ));
            }
            std::thread::sleep(STEP);
        };
        Ok(Self {
            child: Mutex::new(child),
            control: Mutex::new(control),
            at,
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Has a command carried out.
    pub fn send(&self, command: Command) -> io::Result<Counts> {
        self.control.lock().send(command)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // One that does not obey is dealt with below.
        let _ = self.control.get_mut().send(Command::Quit);
        let child = self.child.get_mut();
        let deadline = Instant::now() + TAKES_MAX;
        while !matches!(child.try_wait(), Ok(Some(_))) {
            if Instant::now() >= deadline {
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            std::thread::sleep(STEP);
        }
        // Nothing to do where the process has unmounted it.
        let unmount = Process::new("fusermount3")
            .arg("-uzq")
            .arg(&self.at)
            .status();
        drop(unmount);
    }
}
