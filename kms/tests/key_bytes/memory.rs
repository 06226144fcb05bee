//! Key bytes in the memory of the real daemon: in the key memory alone while it serves, nowhere once it is sealed, and in
//! no core. Runs with `danger_scannable_keys`, under which the daemon writes down a fingerprint of every key it makes.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::{BODY, Begin, Daemon, PATIENCE, REPLICAS, Region};
use envelope::fingerprints::{Fingerprint, Salt, Scanner};
use proto::v1;
use tokio::time::Instant;

const DATASET: [u8; 16] = [0xAE; 16];
const SALT: [u8; 32] = [0x5C; 32];
/// Read at once, with the tail of the piece before it.
const PIECE: usize = 1 << 20;
const OVERLAP: usize = 31;
const PAUSE: Duration = Duration::from_millis(50);

impl Daemon {
    /// Hits in its memory: in the key memory, and anywhere else.
    fn hits(&self, scanner: &Scanner) -> (usize, usize) {
        let pid = self.child.id();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("its mappings");
        let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
        let (mut inside, mut outside) = (0, 0);
        for mapping in mappings(&maps) {
            let found = scan_mapping(&memory, &mapping, scanner);
            if mapping.key_memory {
                inside += found;
            } else {
                outside += found;
            }
        }
        (inside, outside)
    }

    /// Ends it by a signal that makes the system write its memory to a file; the file's hits.
    fn hits_in_core(mut self, scanner: &Scanner) -> usize {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-ABRT", &pid]).status();
        assert!(sent.expect("kill").success());
        self.child.wait().expect("ended");
        let entries = std::fs::read_dir(&self.folder).expect("its folder");
        let core = entries
            .map(|entry| entry.expect("an entry").path())
            .find(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("core"))
            })
            .expect("a core: kernel.core_pattern has to be a relative file name for this test");
        let core = std::fs::read(core).expect("readable");
        assert!(core.len() > PIECE, "a whole core: {}", core.len());
        scanner.scan(&core).len()
    }
}

struct Mapping {
    start: u64,
    end: u64,
    readable: bool,
    /// Locked and kept out of dumps: only the key memory is both.
    key_memory: bool,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for text in smaps.lines() {
        let mut words = text.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if first == "VmFlags:" {
            let flags: Vec<&str> = words.collect();
            if let Some(last) = found.last_mut() {
                last.key_memory = flags.contains(&"lo") && flags.contains(&"dd");
            }
            continue;
        }
        let range = first.split_once('-');
        let readable = words.next().is_some_and(|mode| mode.starts_with('r'));
        if let Some((start, end)) = range {
            let number = |text| u64::from_str_radix(text, 16);
            if let (Ok(start), Ok(end)) = (number(start), number(end)) {
                found.push(Mapping {
                    start,
                    end,
                    readable,
                    key_memory: false,
                });
            }
        }
    }
    // Guard pages: kept until here, so that their flags are not taken for those of what they guard.
    found.retain(|mapping| mapping.readable);
    found
}

fn scan_mapping(memory: &File, mapping: &Mapping, scanner: &Scanner) -> usize {
    let (mut hits, mut at) = (0, mapping.start);
    let mut piece = vec![0; PIECE];
    while at < mapping.end {
        let wanted = usize::try_from(mapping.end - at).map_or(PIECE, |left| left.min(PIECE));
        // Some mappings are not to be read by anybody.
        let Ok(read) = memory.read_at(&mut piece[..wanted], at) else {
            return hits;
        };
        if read == 0 {
            return hits;
        }
        hits += scanner.scan(&piece[..read]).len();
        at += match read {
            read if read == PIECE => (PIECE - OVERLAP) as u64,
            read => read as u64,
        };
    }
    hits
}

fn fingerprints(path: &Path) -> Vec<Fingerprint> {
    let text = std::fs::read_to_string(path).expect("fingerprints");
    let parsed = text.lines().map(|line| line.parse());
    parsed.collect::<Result<_, _>>().expect("fingerprints")
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_has_keys_in_its_key_memory_alone_none_once_sealed_and_none_in_a_core() {
    let mut region = Region::begin(Begin {
        elsewhere: true,
        ..Begin::default()
    })
    .await;
    let written = region.dir.path().join("fingerprints");
    let configs = region.places.iter().map(|place| &place.config);
    let salt = hex::encode(SALT);
    let env = [
        ("REDUIT_FINGERPRINTS", written.as_os_str()),
        ("REDUIT_FINGERPRINT_SALT", OsStr::new(&salt)),
    ];
    let mut daemons: Vec<Daemon> = configs.map(|c| Daemon::start(c, "", &env)).collect();
    let operator = region.caller("op-1");
    for at in 0..REPLICAS {
        until("the daemons answer", async || {
            let status = operator.kms(at).status(v1::KmsStatusRequest {}).await;
            status.is_ok()
        })
        .await;
    }
    region.initialise().await;
    for at in 1..REPLICAS {
        region.unseal_by_peer(at).await.expect("by a peer");
    }
    region.raise_level(3).await;
    let app = region.caller("app");
    app.create_key(DATASET).await.expect("a key");
    let object = app.put_object(DATASET).await.expect("sealed");
    // A new root key on the way too, on every replica, and shares shown.
    let begun = region.begin_custody(&[], 3, true).await.expect("begun");
    for share in &begun.shares {
        region.confirm_share(share).await.expect("shown");
    }
    until("every replica holds the new root key", async || {
        region.finish_custody(&begun.set_id).await.is_ok()
    })
    .await;
    for _ in 0..16 {
        assert_eq!(app.get_object(&object).await.expect("opens"), BODY);
    }

    let keys = fingerprints(&written);
    assert!(keys.len() > 60, "keys were made: {}", keys.len());
    let scanner = Scanner::new(Salt(SALT), keys);
    for daemon in &daemons {
        let (inside, outside) = daemon.hits(&scanner);
        assert!(inside > 0, "the scan finds keys where they are");
        assert_eq!(outside, 0, "keys outside of the key memory while it serves");
    }
    // The one that is ended serves: its key memory is in no core.
    let last = daemons.pop().expect("three");
    assert_eq!(last.hits_in_core(&scanner), 0, "keys in a core");

    let sealed = operator.at_leader(|at| {
        let mut operate = operator.operate(at);
        async move {
            let request = v1::SealRegionRequest::default();
            operate.seal_region(request).await.map(drop)
        }
    });
    sealed.await.expect("on record");
    for (at, daemon) in daemons.iter().enumerate() {
        until("sealed", async || region.status(at).await.sealed).await;
        // Requests that were under way end a moment later.
        until("no key is left", async || daemon.hits(&scanner) == (0, 0)).await;
    }
}
