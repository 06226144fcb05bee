//! A machine of the run's own: its network, its mounts, its processes.
//!
//! Owns the namespaces, and that nothing outlives the run: every process is in one process namespace, whose end the
//! kernel makes the end of all of them, and with the last process go its interfaces, bridges and mounts. Refuses to
//! go on where the machine does not permit it, and says what is missing.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Set for the process inside; it is the first of its namespace.
const INSIDE: &str = "REDUIT_JEPSEN_INSIDE";
/// Programs a world is made with, and the Debian packages they come in.
const PROGRAMS: [(&str, &str); 5] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("nsenter", "util-linux"),
];
/// What a shell answers for a child that a signal ended.
const SIGNALLED: i32 = 128;

/// Why this machine cannot hold a world.
#[derive(Debug)]
pub enum Skipped {
    /// Namespaces and interfaces are root's to make.
    NotRoot,
    /// The kernel, or the container this runs in, said no.
    Refused {
        /// To what.
        what: &'static str,
        /// Its words.
        source: io::Error,
    },
    /// A program is missing.
    Missing {
        /// Which.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped because ")?;
        match self {
            Self::NotRoot => write!(f, "only root makes namespaces and interfaces"),
            Self::Refused { what, .. } => write!(f, "this machine refuses {what}"),
            Self::Missing { program, package } => write!(
                f,
                "`{program}` is missing: apt-get install --no-install-recommends {package}"
            ),
        }
    }
}

impl std::error::Error for Skipped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused { source, .. } => Some(source),
            Self::NotRoot | Self::Missing { .. } => None,
        }
    }
}

/// Takes the program into namespaces of its own. Call it first in `main`, before there are threads.
///
/// The program is started again inside, with the same arguments; there the call returns. The process outside only
/// waits and ends as the one inside does.
pub fn isolate() -> Result<(), Skipped> {
    if std::env::var_os(INSIDE).is_some() && std::process::id() == 1 {
        return settle();
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Skipped::NotRoot);
    }
    for (program, package) in PROGRAMS {
        if !on_path(program) {
            return Err(Skipped::Missing { program, package });
        }
    }
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    unshare(own).map_err(refused("namespaces of its own"))?;
    let again = || -> io::Result<i32> {
        let mut inside = Command::new(std::env::current_exe()?)
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .stdin(Stdio::piped())
            .spawn()?;
        // Held, not used: it closes when this process ends in any way, and the one inside ends by that.
        let _lifeline = inside.stdin.take();
        let status = inside.wait()?;
        let signal = status.signal().map_or(1, |signal| SIGNALLED + signal);
        Ok(status.code().unwrap_or(signal))
    };
    match again() {
        Ok(code) => std::process::exit(code),
        Err(source) => Err(Skipped::Refused {
            what: "to start the program again inside",
            source,
        }),
    }
}

/// The process inside makes itself at home.
fn settle() -> Result<(), Skipped> {
    std::thread::spawn(|| {
        let ended = io::stdin().read(&mut [0]);
        eprintln!("the process outside has ended ({ended:?}): so does the run");
        std::process::exit(1);
    });
    let none = None::<&str>;
    let alone = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, alone, none).map_err(refused("private mounts"))?;
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("proc"), "/proc", Some("proc"), plain, none)
        .map_err(refused("a process table of its own"))?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), plain, none)
        .map_err(refused("a folder for namespaces"))?;
    // What libfaketime keeps there goes by process ids, which start over in every run.
    mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), plain, none)
        .map_err(refused("shared memory of its own"))?;
    let made = || -> io::Result<()> {
        std::fs::create_dir("/run/netns")?;
        // The world speaks IPv4; what IPv6 says of itself on every new interface would be noise in captures.
        for which in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
            if Path::new(&path).exists() {
                std::fs::write(path, "1")?;
            }
        }
        Ok(())
    };
    made().map_err(|source| Skipped::Refused {
        what: "a network of its own",
        source,
    })
}

fn refused(what: &'static str) -> impl Fn(nix::Error) -> Skipped {
    move |error| Skipped::Refused {
        what,
        source: error.into(),
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
