//! Starting and ending processes by their own id.
//!
//! Owns the check that a process id is still the process that was started: ids are reused. Refuses to end anything
//! else. A started process is in a group of its own and outlives the launcher.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::federation::{Kind, Service};

const ARGUMENTS_MAX: Duration = Duration::from_secs(1);
/// Longer than the command line of any service.
const COMMAND_LINE_MAX: usize = 64 * 1024;

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
        Kind::Gateway => "reduit-gateway",
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
    let until = Instant::now() + ARGUMENTS_MAX;
    while command_line(pid).is_ok_and(|line| line.is_empty()) && Instant::now() < until {
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
    command_line(service.pid).is_ok_and(|line| line.is_empty() || is_of(&line, service))
}

/// The arguments of a process, each with a NUL after it. In one read: a service starts as a program that becomes
/// another, and two reads can see a part of each.
fn command_line(pid: u32) -> io::Result<Vec<u8>> {
    let mut line = vec![0; COMMAND_LINE_MAX];
    let read = File::open(format!("/proc/{pid}/cmdline"))?.read(&mut line)?;
    line.truncate(read);
    Ok(line)
}

fn is_of(line: &[u8], service: &Service) -> bool {
    let config = service.config.as_os_str().as_encoded_bytes();
    line.split(|byte| *byte == 0)
        .any(|argument| argument == config)
}

/// Sends a signal (`KILL`, `TERM`, `STOP`, `CONT`) to the service's process, if it still is that process.
pub fn signal(service: &Service, name: &str) -> Result<()> {
    let is_it = command_line(service.pid).is_ok_and(|line| is_of(&line, service));
    if service.pid == 0 || !is_it {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_becomes_another_program_is_running_all_the_time() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let service = Service {
            name: "ch-zrh/n1".to_owned(),
            kind: Kind::Node,
            node_id: 1,
            identity: String::new(),
            endpoint: String::new(),
            https: String::new(),
            health: String::new(),
            log_http: String::new(),
            federation: String::new(),
            config: path("n1.toml"),
            data: path("data"),
            log: path("n1.log"),
            pid: 0,
            joining: false,
            removed: false,
        };
        // Becomes itself again many times, each time with an argument more, then stops.
        let again =
            r#"[ $# -gt 400 ] && exec sh -c 'kill -STOP $$' "$@"; exec sh -c "$0" "$0" "$@" more"#;
        let mut command = Command::new("sh");
        command.args(["-c", again, again]);
        let pid = start(&service, command).expect("starts");
        let service = Service { pid, ..service };
        let (mut looks, until) = (0, Instant::now() + Duration::from_secs(2));
        while Instant::now() < until {
            assert!(is_running(&service), "not running at look {looks}");
            looks += 1;
        }
        signal(&service, "KILL").expect("it is that process");
        wait_gone(&service, Duration::from_secs(10)).expect("gone");
    }
}
