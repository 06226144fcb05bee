//! `reduit-faultfs BACKING MOUNT SECONDS`: mounts a volume and obeys commands on its standard input until that ends.
//!
//! Owns the process, and that it ends: with its parent, with a panic, and at the latest after SECONDS. A mount whose
//! server is dead answers every call with an error; one whose server only hangs holds whoever touches it for ever.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use faults::control::{self, Answer};
use faults::fs::FaultFs;
use faults::mount;
use faults::volume::Volume;
use fuser::{Config, MountOption};
use parking_lot::Mutex;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [backing, at, seconds] = arguments.as_slice() else {
        anyhow::bail!("usage: reduit-faultfs BACKING MOUNT SECONDS");
    };
    let (backing, at) = (PathBuf::from(backing), PathBuf::from(at));
    let lives_max = Duration::from_secs(seconds.parse().context("SECONDS is not a number")?);
    end_in_time(at.clone(), lives_max);

    let volume = Volume::open(&backing).context("opening the backing folder")?;
    let volume = Arc::new(Mutex::new(volume));
    let mut config = Config::default();
    let named = MountOption::FSName("reduit-faultfs".to_owned());
    config.mount_options = vec![named, MountOption::NoDev, MountOption::NoSuid];
    let mounted = fuser::spawn_mount(FaultFs(Arc::clone(&volume)), &at, &config);
    // The first answer says whether there is a mount.
    let error = mounted.as_ref().err().map(ToString::to_string);
    let mut out = io::stdout().lock();
    Answer::new(error, &volume).write(&mut out)?;
    let session = mounted.context("mounting")?;

    let served = control::serve(io::stdin().lock(), &mut out, &volume);
    if let Err(error) = session.umount_and_join() {
        // Somebody holds a file open: the name goes now, the rest with this process.
        writeln!(io::stderr(), "{}: {error}", at.display())?;
        mount::detach(&at)?.wait()?;
    }
    served.context("serving commands")
}

fn end_in_time(at: PathBuf, lives_max: Duration) {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    std::thread::spawn(move || {
        std::thread::sleep(lives_max);
        // Not waited for: it may need an answer that does not come before the end of this process.
        let detached = mount::detach(&at).map(drop);
        let _ = writeln!(io::stderr(), "{}: out of time: {detached:?}", at.display());
        std::process::abort();
    });
}
