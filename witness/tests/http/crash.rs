//! The shipped binary, killed: what left it is never taken back, and what did not leave it was remembered or never was.

use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rustix::fs::OFlags;

use crate::support::{
    Connection, NAME, PATIENCE, Place, Tree, add, log_key, read, request, signed,
};

/// A running binary. Its log lines go into a pipe that this end can fill up.
struct Process {
    child: Child,
    address: SocketAddr,
    lines: BufReader<PipeReader>,
    pipe: PipeWriter,
}

impl Process {
    fn start(place: &Place) -> Self {
        let config = place.folder.path().join("witness.toml");
        std::fs::write(&config, place.text()).expect("room");
        let (reader, pipe) = std::io::pipe().expect("a pipe");
        let child = Command::new(binary())
            .args(["serve", "--config"])
            .arg(&config)
            .stderr(pipe.try_clone().expect("a descriptor"))
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        let mut process = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            lines: BufReader::new(reader),
            pipe,
        };
        process.address = process.wait_for_address();
        process
    }

    fn wait_for_address(&mut self) -> SocketAddr {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).expect("text"), 0);
            // Colours, where a terminal is believed to be, end before the value.
            let Some((_, rest)) = line.split_once("127.0.0.1:") else {
                assert!(!line.contains("reduit-witness:"), "{line}");
                continue;
            };
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return format!("127.0.0.1:{port}").parse().expect("an address");
        }
    }

    /// From now on the next log line does not return: the thread that writes it stands still there.
    fn hold_log_lines(&mut self) {
        let flags = rustix::fs::fcntl_getfl(&self.pipe).expect("flags");
        rustix::fs::fcntl_setfl(&self.pipe, flags | OFlags::NONBLOCK).expect("set");
        while self.pipe.write(&[b'.'; 4096]).is_ok() {}
        while self.pipe.write(b".").is_ok() {}
        // The flag is the other end's too, which shall wait and not fail.
        rustix::fs::fcntl_setfl(&self.pipe, flags).expect("set");
    }

    /// As `kill -9`, and gone when this returns.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    /// A test that fails leaves no process either.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_reduit-witness"))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Killed after it remembered a checkpoint and before it answered: nobody has the cosignature, and still no smaller and
/// no other tree is cosigned afterwards.
#[test]
fn killed_between_remembering_and_answering_it_has_not_forgotten() {
    let (place, tree) = (Place::new(), Tree::of(9));
    let mut process = Process::start(&place);
    assert_eq!(add(process.address, &tree.request(0, 3)).status, 200);
    process.hold_log_lines();
    let mut connection = Connection::to(process.address);
    let body = tree.request(3, 7);
    connection
        .send("POST", "/sub/add-checkpoint", body.as_bytes())
        .expect("sent");
    let state = place.state_file();
    until("it remembers", || read(&state).contains("main/1\n7\n"));
    assert!(!connection.has_answer(), "it stands between the two");
    process.kill();
    assert!(connection.receive().is_err(), "nothing was answered");

    let process = Process::start(&place);
    for (old, new) in [(0, 3), (3, 5), (3, 7)] {
        let answer = add(process.address, &tree.request(old, new));
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (409, "7\n"),
            "{old} to {new}"
        );
    }
    let other = Tree::forked(3, 9, "x");
    let note = signed(crate::support::ORIGIN, 7, other.roots[7], &log_key());
    assert_eq!(
        add(process.address, &request(7, Vec::new(), note)).status,
        409
    );
    assert_eq!(add(process.address, &other.request(7, 9)).status, 422);
    assert_eq!(add(process.address, &tree.request(7, 9)).status, 200);
    process.kill();
}

/// Killed at any moment under load: where it stands is at least what it last answered, and one step more at most.
#[test]
fn killed_at_any_moment_it_stands_where_it_last_answered_or_one_step_further() {
    const KILLS: u64 = 8;
    let (place, tree) = (Place::new(), Tree::of(2_000));
    let mut size = 0;
    for kill in 1..=KILLS {
        let process = Process::start(&place);
        let address = process.address;
        let answered = AtomicU64::new(size);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                let mut connection = Connection::to(address);
                let mut at = size;
                while at < 2_000 {
                    let body = tree.request(at, at + 1);
                    let sent = connection.send("POST", "/sub/add-checkpoint", body.as_bytes());
                    let Ok(answer) = sent.and_then(|()| connection.receive()) else {
                        break;
                    };
                    assert_eq!(answer.status, 200, "{answer:?}");
                    at += 1;
                    answered.store(at, Ordering::SeqCst);
                }
            });
            // At another point of the work each time.
            let enough = size + 3 * kill;
            until("it answers", || answered.load(Ordering::SeqCst) >= enough);
            process.kill();
            load.join().expect("it ended with the connection");
        });
        let process = Process::start(&place);
        let stands = add(process.address, &tree.request(0, 1));
        assert_eq!(stands.status, 409);
        let stands: u64 = stands.body.trim_end().parse().expect("a size");
        let answered = answered.load(Ordering::SeqCst);
        assert!(
            (answered..=answered + 1).contains(&stands),
            "{answered} answered, {stands} now"
        );
        size = stands;
        process.kill();
    }
    assert!(size >= 3 * KILLS * (KILLS + 1) / 2);
}

#[test]
fn the_command_makes_keys_says_how_it_stands_and_stops_when_told() {
    let place = Place::new();
    let out = place.folder.path().join("other.key");
    let keygen = || {
        let made = Command::new(binary())
            .args(["keygen", "--name", NAME, "--out"])
            .arg(&out)
            .output();
        made.expect("it runs")
    };
    let made = keygen();
    assert!(made.status.success());
    let line = String::from_utf8(made.stdout).expect("text");
    let key: tlog::VerifierKey = line.trim_end().parse().expect("a key");
    assert_eq!(witness::load(&out).expect("read").verifier(), &key);
    assert!(!keygen().status.success(), "never over another");

    let mut process = Process::start(&place);
    let id = rustix::process::Pid::from_child(&process.child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
    assert!(process.child.wait().expect("it ends").success());
    let status = Command::new(binary())
        .args(["status", "--address", &process.address.to_string()])
        .output()
        .expect("it runs");
    assert_eq!(status.status.code(), Some(1), "nobody answers");
}
