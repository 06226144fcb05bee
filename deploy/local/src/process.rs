//! Starting and ending processes by their own id.
//!
//! Owns the check that a process id is still the process that was started: ids are reused. Refuses to end anything
//! else. A started process is in a group of its own and outlives the launcher.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::federation::{Kind, Service};

const ARGUMENTS_MAX: Duration = Duration::from_secs(1);

/// Where the daemons' binaries are: `REDUIT_BIN`, else beside this one.
pub fn binaries() -> Result<PathBuf> {
    match std::env::var_os("REDUIT_BIN") {
        Some(dir) => Ok(PathBuf::from(dir)),
        None => Ok(std::env::current_exe()?
            .parent()
            .map(Path::to_owned)
            .unwrap_or_default()),
    }
}

/// The daemon of a kind in a folder of binaries.
pub fn binary_in(dir: &Path, kind: Kind) -> Result<PathBuf> {
    let path = dir.join(match kind {
        Kind::Node => "reduit-node",
        Kind::Kms => "reduit-kms",
    });
    if !path.is_file() {
        bail!(
            "{} is not there: build it, or set REDUIT_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// Starts a service by a command that becomes its daemon, and returns its process id.
pub fn start(service: &Service, mut command: Command) -> Result<u32> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&service.log)?;
    let child = command
        .arg("--config")
        .arg(&service.config)
        // What they log is quoted by whoever looks for why one ended.
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", service.name))?;
    let pid = child.id();
    // A process has no arguments for a moment after it began: until then it cannot be told from another.
    let arguments = PathBuf::from(format!("/proc/{pid}/cmdline"));
    let until = Instant::now() + ARGUMENTS_MAX;
    while std::fs::read(&arguments).is_ok_and(|bytes| bytes.is_empty()) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Reaped here while this process lives, by init afterwards; a thread a child is the price.
    let name = service.name.clone();
    std::thread::Builder::new()
        .name(format!("reap-{pid}"))
        .stack_size(256 * 1024)
        .spawn(move || {
            let mut child = child;
            match child.wait() {
                Ok(status) => tracing::info!(service = %name, pid, %status, "ended"),
                Err(error) => tracing::warn!(service = %name, pid, %error, "not reaped"),
            }
        })?;
    Ok(pid)
}

/// Whether the service's process is alive and is the one that was started. One that is ending counts until its files
/// and ports are free.
pub fn is_running(service: &Service) -> bool {
    if service.pid == 0 {
        return false;
    }
    let proc = PathBuf::from(format!("/proc/{}", service.pid));
    let Ok(stat) = std::fs::read_to_string(proc.join("stat")) else {
        return false;
    };
    let state = stat.rsplit(')').next().map(str::trim_start);
    if state.is_none_or(|state| state.starts_with(['Z', 'X'])) {
        // Its first thread has ended. The others hold the ports until they have ended too.
        let threads = std::fs::read_dir(proc.join("task")).map_or(0, Iterator::count);
        return threads > 1;
    }
    // A process that is ending has no arguments any more, but may hold its ports for a moment still.
    std::fs::read(proc.join("cmdline"))
        .is_ok_and(|cmdline| cmdline.is_empty() || is_of(&cmdline, service))
}

fn is_of(cmdline: &[u8], service: &Service) -> bool {
    let config = service.config.as_os_str().as_encoded_bytes();
    cmdline
        .split(|byte| *byte == 0)
        .any(|argument| argument == config)
}

/// Sends a signal (`KILL`, `TERM`, `STOP`, `CONT`) to the service's process, if it still is that process.
pub fn signal(service: &Service, name: &str) -> Result<()> {
    let cmdline = std::fs::read(format!("/proc/{}/cmdline", service.pid));
    if service.pid == 0 || !cmdline.is_ok_and(|cmdline| is_of(&cmdline, service)) {
        bail!("{} is not running", service.name);
    }
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(service.pid.to_string())
        .status()?;
    if !status.success() {
        bail!("cannot send {name} to {}", service.name);
    }
    Ok(())
}

/// Asks the process to end, and ends it where it does not: one that hangs is said, with what its threads wait for.
pub fn end(service: &Service, limit: Duration) -> Result<()> {
    signal(service, "TERM")?;
    if wait_gone(service, limit).is_ok() {
        return Ok(());
    }
    tracing::error!(
        service = %service.name, ?limit, threads = %threads(service),
        "did not end when asked: killed"
    );
    signal(service, "KILL").ok();
    wait_gone(service, limit)
}

/// Name, state and place in the kernel of every thread, for a look at one that hangs.
fn threads(service: &Service) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", service.pid));
    let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
    let said = tasks.map(|task| {
        let read = |name: &str| {
            let text = std::fs::read_to_string(task.path().join(name));
            text.unwrap_or_default().trim().to_owned()
        };
        let stat = read("stat");
        let state = stat.rsplit(')').next().unwrap_or_default().trim();
        let state = state.split(' ').next().unwrap_or_default();
        format!(
            "{} {state} {} {}",
            read("comm"),
            read("wchan"),
            read("syscall")
        )
    });
    said.collect::<Vec<_>>().join("; ")
}

/// Waits until the process is gone.
pub fn wait_gone(service: &Service, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    while is_running(service) {
        if Instant::now() > until {
            bail!(
                "{} (process {}) did not end within {limit:?}",
                service.name,
                service.pid
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
