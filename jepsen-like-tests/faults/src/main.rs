//! `reduit-faultfs BACKING MOUNT --control SOCK`: mounts a volume and obeys until told to quit.
//!
//! Owns the process. Refuses to start on a mount point that cannot be mounted on, and says why.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use faults::control;
use faults::fs::FaultFs;
use faults::volume::Volume;
use fuser::{Config, MountOption};
use parking_lot::Mutex;

/// A file system that forgets what was not synced, on command.
#[derive(Parser)]
struct Arguments {
    /// Folder that holds what is durable.
    backing: PathBuf,
    /// Where to mount.
    mount: PathBuf,
    /// Socket for commands.
    #[arg(long)]
    control: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let volume = Volume::open(&arguments.backing).context("opening the backing folder")?;
    let volume = Arc::new(Mutex::new(volume));
    let mut config = Config::default();
    let named = MountOption::FSName("reduit-faultfs".to_owned());
    config.mount_options = vec![named, MountOption::NoDev, MountOption::NoSuid];
    let session = fuser::spawn_mount(FaultFs(Arc::clone(&volume)), &arguments.mount, &config)
        .context("mounting")?;
    // Bound after the mount: a socket that can be connected to says that the volume is there.
    let listener = UnixListener::bind(&arguments.control).context("opening the control socket")?;
    let served = control::serve(&listener, &volume);
    session.umount_and_join().context("unmounting")?;
    served.context("serving commands")
}
