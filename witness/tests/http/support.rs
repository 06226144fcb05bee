//! A log's key and trees, requests, and a small HTTP client that sees what is on the wire.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tlog::{
    AddCheckpoint, Checkpoint, Frontier, Hash, HashReader, Note, SignatureType, SignerKey,
    StoredAt, leaf_hash, prove_consistency,
};
use witness::{Algorithm, Config};

pub(crate) const ORIGIN: &str = "ch-zrh/main/1";
pub(crate) const NAME: &str = "witness.example/w1";
/// Far beyond what anything here takes: a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn log_key() -> SignerKey {
    key(ORIGIN, 1)
}

pub(crate) fn key(name: &str, seed: u8) -> SignerKey {
    let name = name.parse().expect("a name");
    SignerKey::from_seed(name, SignatureType::Ed25519, &[seed; 32]).expect("a key")
}

/// A history that is told apart from others by a word.
pub(crate) struct Tree {
    frontier: Frontier,
    stored: BTreeMap<StoredAt, Hash>,
    pub(crate) roots: Vec<Hash>,
}

impl Tree {
    pub(crate) fn of(size: u64) -> Self {
        Self::forked(size, size, "")
    }

    /// The first `same` leaves are everybody's.
    pub(crate) fn forked(same: u64, size: u64, word: &str) -> Self {
        Self::by(size, |i| {
            if i < same {
                String::new()
            } else {
                word.to_owned()
            }
        })
    }

    /// Each leaf is told apart by its word.
    pub(crate) fn by(size: u64, word: impl Fn(u64) -> String) -> Self {
        let mut tree = Self {
            frontier: Frontier::default(),
            stored: BTreeMap::new(),
            roots: Vec::new(),
        };
        tree.roots.push(tree.frontier.root());
        for i in 0..size {
            let word = word(i);
            let stored = &mut tree.stored;
            let appended = tree.frontier.append(
                leaf_hash(format!("{word}{i}").as_bytes()),
                &mut |at, hash| {
                    stored.insert(at, hash);
                },
            );
            appended.expect("room");
            tree.roots.push(tree.frontier.root());
        }
        tree
    }

    pub(crate) fn proof(&self, old: u64, new: u64) -> Vec<Hash> {
        match old {
            0 => Vec::new(),
            old => prove_consistency(self, old, new).expect("in order"),
        }
    }

    pub(crate) fn request(&self, old: u64, new: u64) -> String {
        let note = signed(ORIGIN, new, self.roots[new as usize], &log_key());
        request(old, self.proof(old, new), note)
    }
}

impl HashReader for Tree {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let at = |index| StoredAt { index, ..first };
        let range = first.index..first.index + count;
        range.map(|i| self.stored.get(&at(i)).copied()).collect()
    }
}

pub(crate) fn signed(origin: &str, size: u64, root: Hash, by: &SignerKey) -> Note {
    let origin = origin.parse().expect("an origin");
    let checkpoint = Checkpoint::new(origin, size, root).expect("a checkpoint");
    let line = by.sign_checkpoint(&checkpoint, None).expect("signs");
    Note::new(checkpoint.to_string(), vec![line]).expect("a note")
}

pub(crate) fn request(old: u64, proof: Vec<Hash>, note: Note) -> String {
    AddCheckpoint::new(old, proof, note)
        .expect("one")
        .to_string()
}

/// The folder of a witness with a key of each type, and its configuration.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) keys: Vec<tlog::VerifierKey>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let name = NAME.parse().expect("a name");
        let make = |file: &str, algorithm| {
            witness::generate(&name, algorithm, &folder.path().join(file)).expect("made")
        };
        let keys = vec![
            make("w1.key", Algorithm::Ed25519),
            make("w1-pq.key", Algorithm::MlDsa44),
        ];
        Self { folder, keys }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Where the checkpoint cosigned last is.
    pub(crate) fn state_file(&self) -> PathBuf {
        let origin = hex::encode(tlog::sha256(&[ORIGIN.as_bytes()]).0);
        self.state().join("logs").join(origin).join("checkpoint")
    }

    pub(crate) fn text(&self) -> String {
        let path = |path: PathBuf| path.to_str().expect("text").to_owned();
        format!(
            "state_dir = {:?}\nkeys = [{:?}, {:?}]\nlisten = \"127.0.0.1:0\"\n\
             status_listen = \"127.0.0.1:0\"\nsubmission_prefix = \"/sub\"\n\
             monitoring_prefix = \"/mon\"\nlog = \"witness=debug\"\n\
             [[logs]]\norigin = {ORIGIN:?}\nkeys = [{:?}]\n",
            path(self.state()),
            path(self.folder.path().join("w1.key")),
            path(self.folder.path().join("w1-pq.key")),
            log_key().verifier().to_string(),
        )
    }

    pub(crate) fn config(&self) -> Config {
        Config::parse(&self.text()).expect("valid")
    }
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// A connection that is kept.
pub(crate) struct Connection(TcpStream);

impl Connection {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(stream)
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> std::io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: w\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(head.as_bytes())?;
        self.0.write_all(body)
    }

    /// An answer, or that the connection broke.
    pub(crate) fn receive(&mut self) -> std::io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let header = |name: &str| {
            let mut lines = head.lines();
            let found = lines.find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then_some(value.to_owned())
            });
            found.unwrap_or_default()
        };
        let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
        self.0.read_exact(&mut body)?;
        Ok(Answer {
            status: head[9..12].parse().expect("a status"),
            content_type: header("content-type"),
            body: String::from_utf8(body).expect("text"),
        })
    }

    /// Whether an answer, or a part of one, is there already.
    pub(crate) fn has_answer(&self) -> bool {
        self.0.set_nonblocking(true).expect("set");
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).expect("set");
        peeked.is_ok()
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.send(method, path, body).expect("sent");
        self.receive().expect("answered")
    }

    pub(crate) fn add(&mut self, body: &str) -> Answer {
        self.ask("POST", "/sub/add-checkpoint", body.as_bytes())
    }
}

/// One request on a connection of its own.
pub(crate) fn add(address: SocketAddr, body: &str) -> Answer {
    Connection::to(address).add(body)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    Connection::to(address).ask("GET", path, b"")
}

/// What a file says now.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("there")
}
