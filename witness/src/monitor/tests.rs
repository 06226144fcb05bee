//! Claims about what is seen of a log that is honest, forked, rolled back, lying or silent.

mod log;

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tlog::{Kind, Purpose, SignedCheckpoint, Tile, bundle_bytes, tiles_of};
use transport::testing::ManualClock;

use super::*;
use crate::alarm::Weight;
use crate::config::{EntriesConfig, LogConfig, Rate, Rules};
use crate::cosigned::StateFolder;
use log::{FakeLog, Files, NOW, ORIGIN, Tree, cosigner, log_key};

/// A log, and a monitor that looks when told.
struct Bench {
    log: FakeLog,
    folder: TempDir,
    clock: Arc<ManualClock>,
    config: MonitorConfig,
    state: Option<StateFolder>,
    alarms: Arc<Alarms>,
    follower: Option<Follower>,
}

impl Bench {
    async fn of(tree: Tree) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(ManualClock::at(NOW));
        let log = FakeLog::start(folder.path(), &clock, tree).await;
        let config = MonitorConfig {
            url: format!("http://{}/log/", log.address)
                .try_into()
                .expect("a url"),
            policy: None,
            poll_seconds: 1,
            copy_dir: None,
            entries: None,
            rules: Rules {
                purposes: [Purpose::service()].into(),
                ..Rules::default()
            },
        };
        let alarms = folder.path().join("alarms/alarms.jsonl");
        durable::create_folder(alarms.parent().expect("a folder")).expect("room");
        let mut bench = Self {
            log,
            clock,
            config,
            state: None,
            alarms: Arc::new(Alarms::to_file(alarms)),
            follower: None,
            folder,
        };
        bench.restart();
        bench
    }

    /// With entries, as the auditor that is enrolled.
    async fn reading(tree: Tree) -> Self {
        let mut bench = Self::of(tree).await;
        bench.read_as(bench.log.auditor.clone());
        bench
    }

    fn read_as(&mut self, files: Files) {
        self.config.entries = Some(EntriesConfig {
            region: "ch-zrh".parse().expect("a region"),
            endpoints: vec![self.log.entries_address.to_string()],
            certificate: files.certificate,
            key: files.key,
            ca: files.ca,
        });
        self.restart();
    }

    fn alarms_file(&self) -> PathBuf {
        self.folder.path().join("alarms/alarms.jsonl")
    }

    /// Ends this monitor, and one of a new process goes on.
    fn restart(&mut self) {
        self.follower = None;
        self.state = None;
        self.alarms = Arc::new(Alarms::to_file(self.alarms_file()));
        let state = StateFolder::take(&self.folder.path().join("state")).expect("free");
        let log = LogConfig {
            origin: ORIGIN.parse().expect("an origin"),
            keys: vec![log_key().verifier().clone()],
            monitor: None,
        };
        let log = CosignedLog::open(&state, &log, self.alarms.clone()).expect("opens");
        let watched = Watched {
            log: Arc::new(log),
            alarms: self.alarms.clone(),
            clock: self.clock.clone(),
        };
        self.follower = Some(Follower::open(watched, &self.config).expect("opens"));
        self.state = Some(state);
    }

    fn follower(&self) -> &Follower {
        self.follower.as_ref().expect("between looks")
    }

    async fn look(&mut self) -> MonitorStatus {
        let mut follower = self.follower.take().expect("between looks");
        let looked = tokio::task::spawn_blocking(move || {
            follower.round();
            follower
        });
        self.follower = Some(looked.await.expect("it looks"));
        self.follower().status.lock().clone()
    }

    async fn looks(&mut self, times: u32) -> MonitorStatus {
        for _ in 1..times {
            self.look().await;
        }
        self.look().await
    }

    /// Everything told, in the order of the file.
    fn told(&self) -> Vec<Alarm> {
        let text = std::fs::read_to_string(self.alarms_file()).unwrap_or_default();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().expect("alarms")
    }

    fn rules_told(&self) -> Vec<(Rule, bool)> {
        self.told()
            .iter()
            .map(|alarm| (alarm.rule, alarm.ended))
            .collect()
    }

    fn assert_caught(&self) {
        let evidence = self.alarms.evidence();
        assert_eq!(evidence.len(), 1, "{evidence:#?}");
        assert_eq!(evidence[0].alarm.weight, Weight::Permanent);
        // Whoever has the log's public key sees that it signed both.
        let keys = [log_key().verifier().clone()];
        let signed = evidence[0].checkpoints.iter();
        let signed = signed.map(|note| SignedCheckpoint::verify(note.as_bytes(), &keys));
        let signed: Vec<_> = signed.collect::<Result<_, _>>().expect("signed by the log");
        assert_eq!(signed.len(), 2);
        assert_ne!(signed[0].checkpoint().root(), signed[1].checkpoint().root());
    }
}

fn purpose(text: &str) -> Purpose {
    text.parse().expect("a purpose")
}

/// Another history from leaf `same` on.
fn forked(same: u64, size: u64) -> Tree {
    let mut tree = Tree::of(same);
    tree.grow(size, purpose("support"));
    tree
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_log_is_hashed_read_and_copied_whole_and_a_restart_goes_on() {
    let mut bench = Bench::reading(Tree::of(3)).await;
    bench.config.copy_dir = Some(bench.folder.path().join("copy"));
    bench.restart();
    let mut seen = Vec::new();
    for size in [3, 300, 512, 700] {
        bench.log.show(|shown| {
            shown.tree.grow(size, Purpose::service());
            shown.size = size;
            shown.asked.clear();
        });
        let status = bench.look().await;
        assert_eq!(status.error, None);
        assert_eq!((status.size, status.hashed), (size, size));
        assert_eq!((status.read, status.copied), (Some(size), Some(size)));
        assert_eq!((status.datasets, status.kinds["open"]), (3, size));
        seen.extend(bench.log.shown.lock().asked.clone());
        bench.restart();
    }
    assert_eq!(bench.told(), []);
    // No leaf was read by a later life that an earlier one had read, but for the bundle it stopped in.
    let bundles: Vec<_> = seen
        .iter()
        .filter(|path| path.contains("entries"))
        .collect();
    assert_eq!(
        bundles,
        ["000.p/3", "000", "001.p/44", "001", "002.p/188"]
            .map(|n| format!("tile/entries/{n}"))
            .iter()
            .collect::<Vec<_>>()
    );
    let copy = bench
        .folder
        .path()
        .join("copy")
        .join(origin_hash(&ORIGIN.parse().expect("one")));
    let tree = bench.log.shown.lock().tree.clone();
    for tile in tiles_of(700) {
        let copied = std::fs::read(copy.join(tile.to_string())).expect("copied");
        assert_eq!(Some(copied), tree.tile(&tile), "{tile}");
    }
    assert!(
        !copy.join("tile/entries/001.p").exists(),
        "the full one took its place"
    );
    let checkpoint = std::fs::read_to_string(copy.join("checkpoint")).expect("copied");
    assert_eq!(checkpoint, tree.signed(700).to_string());
}

/// As the process runs it: by itself, and ended when told although the log never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_monitor_follows_by_itself_and_stops_while_it_waits() {
    let mut bench = Bench::reading(Tree::of(300)).await;
    (bench.follower, bench.state) = (None, None);
    let key = bench.folder.path().join("w1.key");
    let name = "witness.example/w1".parse().expect("a name");
    crate::generate(&name, crate::Algorithm::Ed25519, &key).expect("made");
    let any = "127.0.0.1:0".parse().expect("an address");
    let config = crate::Config {
        state_dir: bench.folder.path().join("state"),
        keys: vec![key],
        listen: any,
        status_listen: None,
        submission_prefix: crate::Prefix::default(),
        monitoring_prefix: crate::Prefix::default(),
        alarms: None,
        log_format: crate::LogFormat::Text,
        log: String::new(),
        logs: vec![LogConfig {
            origin: ORIGIN.parse().expect("an origin"),
            keys: vec![log_key().verifier().clone()],
            monitor: Some(bench.config.clone()),
        }],
    };
    let witness = crate::Witness::start(&config, bench.clock.clone()).await;
    let witness = witness.expect("starts");
    let read = || {
        witness.status().logs[0]
            .monitor
            .as_ref()
            .and_then(|m| m.read)
    };
    until("it reads", || read() == Some(300)).await;
    bench.log.show(|shown| {
        shown.tree.grow(400, Purpose::service());
        shown.size = 400;
    });
    until("it reads on", || read() == Some(400)).await;
    bench.log.show(|shown| {
        shown.hangs = true;
        shown.asked.clear();
    });
    until("it waits", || !bench.log.shown.lock().asked.is_empty()).await;
    let stopped = tokio::time::timeout(Duration::from_secs(5), witness.stop());
    stopped.await.expect("long before the answer is given up");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waited).await;
    waited.expect(what);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_identity_hashes_alone_are_followed() {
    let mut bench = Bench::of(Tree::of(300)).await;
    let status = bench.look().await;
    assert_eq!(
        (status.hashed, status.read, status.error),
        (300, None, None)
    );
    // With one later, everything is read from the beginning.
    bench.read_as(bench.log.auditor.clone());
    assert_eq!(bench.look().await.read, Some(300));
    assert_eq!(bench.told(), []);
}

/// Larger, equal and smaller than what was held: each with signatures, tiles and all.
#[tokio::test(flavor = "multi_thread")]
async fn a_forked_log_is_caught_for_ever_with_evidence_that_others_can_check() {
    for size in [400, 300, 250] {
        let mut bench = Bench::of(Tree::of(300)).await;
        assert_eq!(bench.look().await.hashed, 300);
        let mut other = forked(200, 400);
        if size == 250 {
            // Only the smaller tree is another one: who held the larger one asks for its tiles.
            bench.log.show(|shown| {
                shown.checkpoint = Some(other.signed(250).to_string());
            });
        } else {
            bench
                .log
                .show(|shown| (shown.tree, shown.size) = (other.clone(), size));
        }
        let status = bench.look().await;
        assert!(status.is_stopped, "{size}: {status:?}");
        assert_eq!(bench.rules_told(), [(Rule::Fork, false)]);
        bench.assert_caught();
        // Nothing makes up for it: not a restart, not the old history going on.
        bench.restart();
        other = Tree::of(500);
        bench.log.show(|shown| {
            (shown.tree, shown.size, shown.checkpoint) = (other, 500, None);
        });
        let status = bench.look().await;
        assert_eq!((status.is_stopped, status.size), (true, 300));
        bench.assert_caught();
        assert_eq!(bench.told().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_goes_back_is_told_once_it_is_no_lagging_replica() {
    let mut bench = Bench::of(Tree::of(300)).await;
    bench.look().await;
    bench.log.show(|shown| shown.size = 200);
    let status = bench.looks(ROUNDS_OF_GRACE - 1).await;
    assert_eq!(bench.told(), []);
    assert_eq!((status.size, status.is_stopped), (300, false));
    bench.look().await;
    assert_eq!(bench.rules_told(), [(Rule::RolledBack, false)]);
    // Lost its tiles too, as after a restore: still no reason to believe the smaller tree.
    bench.log.show(|shown| shown.tree = Tree::of(200));
    assert_eq!(bench.look().await.size, 300);
    assert_eq!(bench.rules_told()[1..], [(Rule::TilesRefused, false)]);
    bench
        .log
        .show(|shown| (shown.tree, shown.size) = (Tree::of(320), 320));
    assert_eq!(bench.look().await.hashed, 320);
    assert_eq!(
        bench.rules_told()[2..],
        [(Rule::RolledBack, true), (Rule::TilesRefused, true)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_not_the_leaf_is_refused_and_nothing_behind_it_read() {
    let mut bench = Bench::reading(Tree::of(600)).await;
    let tile: Tile = "tile/entries/001".parse().expect("a path");
    let lie = {
        let mut other = Tree::of(600);
        let leaf = other.leaf(0, Purpose::service());
        let shown = bench.log.shown.lock();
        let bundle = shown.tree.tile(&tile).expect("there");
        let mut entries = Vec::new();
        let mut rest = bundle.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<2>() {
            let (entry, after) = after.split_at(u16::from_be_bytes(*length).into());
            entries.push(entry);
            rest = after;
        }
        entries[5] = &leaf;
        bundle_bytes(entries.into_iter()).expect("short")
    };
    bench.log.show(|shown| {
        shown.lies.insert(tile, lie);
    });
    let status = bench.look().await;
    assert_eq!((status.hashed, status.read), (600, Some(256)));
    assert!(status.error.expect("said").contains("entry 5 of a bundle"));
    assert_eq!(bench.rules_told(), [(Rule::EntriesRefused, false)]);
    bench.log.show(|shown| shown.lies.clear());
    assert_eq!(bench.look().await.read, Some(600));
    assert_eq!(bench.rules_told()[1..], [(Rule::EntriesRefused, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_tile_of_another_tree_is_refused_and_no_checkpoint_held_by_it() {
    for path in ["tile/0/001", "tile/0/002.p/88", "tile/1/000.p/2"] {
        let mut bench = Bench::of(Tree::of(300)).await;
        bench.look().await;
        let tile: Tile = path.parse().expect("a path");
        let lie = forked(300, 600).tile(&tile).expect("there");
        bench.log.show(|shown| {
            shown.tree.grow(600, Purpose::service());
            shown.size = 600;
            shown.lies.insert(tile, lie);
        });
        let status = bench.look().await;
        assert!(
            !status.is_stopped && status.hashed < 600,
            "{path}: {status:?}"
        );
        assert_eq!(bench.rules_told(), [(Rule::TilesRefused, false)], "{path}");
        bench.log.show(|shown| shown.lies.clear());
        assert_eq!(bench.look().await.hashed, 600);
        assert_eq!(bench.rules_told()[1..], [(Rule::TilesRefused, true)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_did_not_sign_is_no_checkpoint() {
    let mut bench = Bench::of(Tree::of(300)).await;
    bench.look().await;
    let good = Tree::of(400).signed(400).to_string();
    // Signed by this log's key, of another log.
    let elsewhere = {
        let root = Tree::of(400).checkpoint(400).root();
        let origin = "ch-zrh/main/2".parse().expect("an origin");
        let checkpoint = tlog::Checkpoint::new(origin, 400, root).expect("a checkpoint");
        let line = log_key().sign_checkpoint(&checkpoint, None).expect("signs");
        tlog::Note::new(checkpoint.to_string(), vec![line])
            .expect("a note")
            .to_string()
    };
    for bad in [
        elsewhere,
        good.replacen("\n400\n", "\n401\n", 1),
        good.replacen("main/1\n", "main/2\n", 1),
        String::new(),
        "x".repeat(tlog::NOTE_BYTES_MAX + 1),
    ] {
        bench.log.show(|shown| shown.checkpoint = Some(bad));
        let status = bench.look().await;
        assert_eq!((status.size, status.is_stopped), (300, false));
        assert!(status.error.is_some());
        assert_eq!(bench.rules_told(), [(Rule::CheckpointRefused, false)]);
    }
    bench.log.show(|shown| {
        shown.checkpoint = None;
        shown.tree.grow(400, Purpose::service());
        shown.size = 400;
    });
    assert_eq!(bench.look().await.size, 400);
    assert_eq!(bench.rules_told()[1..], [(Rule::CheckpointRefused, true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_log_is_told_by_the_clock_and_so_is_its_return() {
    let mut bench = Bench::of(Tree::of(300)).await;
    bench.look().await;
    bench.log.show(|shown| shown.is_silent = true);
    let minutes = bench.config.rules.silence_minutes;
    bench.clock.advance(Duration::from_secs(minutes * 60 - 1));
    let status = bench.look().await;
    assert!(status.error.expect("said").contains("503"));
    assert_eq!(bench.told(), []);
    bench.clock.advance(Duration::from_secs(1));
    bench.looks(2).await;
    assert_eq!(bench.rules_told(), [(Rule::Silence, false)]);
    // The same checkpoint again is no news.
    bench.log.show(|shown| shown.is_silent = false);
    bench.look().await;
    assert_eq!(bench.rules_told().len(), 1);
    bench.log.show(|shown| {
        shown.tree.grow(301, Purpose::service());
        shown.size = 301;
    });
    bench.look().await;
    assert_eq!(bench.rules_told()[1..], [(Rule::Silence, true)]);
}

/// An idle log shows that it lives by cosignatures with newer times, of keys that the policy names.
#[tokio::test(flavor = "multi_thread")]
async fn expected_cosignatures_are_checked_and_their_times_are_news() {
    let mut bench = Bench::of(Tree::of(300)).await;
    let policy = bench.folder.path().join("policy");
    let (log, replica) = (log_key(), cosigner());
    let (log, replica) = (log.verifier(), replica.verifier());
    let text = format!("log {log}\nwitness k1 {replica}\nquorum k1\n");
    std::fs::write(&policy, text).expect("room");
    bench.config.policy = Some(policy);
    bench.restart();
    bench.look().await;
    assert_eq!(bench.rules_told(), [(Rule::CosignaturesMissing, false)]);
    let now = NOW.0 / 1000;
    bench.log.show(|shown| shown.cosigned_s = Some(now));
    assert_eq!(bench.look().await.cosigned_s, Some(now));
    assert_eq!(bench.rules_told()[1..], [(Rule::CosignaturesMissing, true)]);
    let quarter = bench.config.rules.silence_minutes * 60;
    for later in [1, 2] {
        bench.clock.advance(Duration::from_secs(quarter));
        bench.log.show(|shown| shown.cosigned_s = Some(now + later));
        bench.look().await;
        assert_eq!(bench.rules_told().len(), 2, "a newer time is news");
    }
    bench.clock.advance(Duration::from_secs(quarter));
    bench.look().await;
    assert_eq!(bench.rules_told()[2..], [(Rule::Silence, false)]);
    // A cosignature of something else under a good name.
    let bad = bench.log.shown.lock().tree.signed(300);
    let other = Tree::of(299).checkpoint(299);
    let line = cosigner().sign_checkpoint(&other, tlog::UnixSeconds::new(now + 9));
    let bad = bad.with(line.expect("signs")).expect("room").to_string();
    bench.log.show(|shown| shown.checkpoint = Some(bad));
    bench.look().await;
    assert_eq!(
        bench.rules_told()[3..],
        [(Rule::CosignaturesMissing, false)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_enrolled_reads_nothing_and_is_told_why() {
    let mut bench = Bench::of(Tree::of(300)).await;
    bench.read_as(bench.log.stranger.clone());
    let status = bench.looks(ROUNDS_OF_GRACE - 1).await;
    assert_eq!((status.hashed, status.read), (300, Some(0)));
    assert_eq!(bench.told(), []);
    let status = bench.look().await;
    assert_eq!(bench.rules_told(), [(Rule::EntriesUnavailable, false)]);
    let why = status.error.expect("said");
    assert!(why.contains("refused") || why.contains("enrolled"), "{why}");
    bench.read_as(bench.log.auditor.clone());
    assert_eq!(bench.look().await.read, Some(300));
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_break_a_chain_or_a_rule_are_told_with_their_place() {
    let mut tree = Tree::of(300);
    let skipped = tree.leaf(7, Purpose::service());
    let second = tree.leaf(7, purpose("investigation"));
    tree.push(second);
    let mut bench = Bench::reading(tree).await;
    bench.config.rules.rates = vec![Rate {
        kind: Kind::Open,
        per_hour_max: 299,
    }];
    bench.restart();
    bench.look().await;
    let told = bench.told();
    let told: Vec<_> = told
        .iter()
        .map(|a| (a.rule, a.leaf, a.dataset.as_deref()))
        .collect();
    let seven = "07".repeat(16);
    let zero = "02".repeat(16);
    assert_eq!(
        told,
        [
            (Rule::Rate, Some(299), Some(zero.as_str())),
            (Rule::NewPurpose, Some(300), Some(seven.as_str())),
            (Rule::ChainBroken, Some(300), Some(seven.as_str())),
        ]
    );
    // Not the log as a whole: it is followed on, and the break stays.
    bench.restart();
    bench.log.show(|shown| {
        shown.tree.push(skipped);
        shown.size = 302;
    });
    let status = bench.look().await;
    assert_eq!((status.read, status.is_stopped), (Some(302), false));
    assert_eq!(bench.alarms.evidence().len(), 2);
}

/// The log shows one tree to its witness and another one to everybody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_tree_cosigned_here_that_the_log_does_not_serve_catches_it() {
    let mut bench = Bench::of(Tree::of(300)).await;
    bench.look().await;
    let add = |bench: &Bench, tree: &Tree, size: u64| {
        let log = bench.follower().watched.log.clone();
        let old = log.checkpoint().map_or(0, |c| c.size());
        let proof = match old {
            0 => Vec::new(),
            old => tlog::prove_consistency(tree, old, size).expect("in order"),
        };
        let request = tlog::AddCheckpoint::new(old, proof, tree.signed(size)).expect("one");
        let clock: SharedClock = bench.clock.clone();
        log.add(&request, &[cosigner()], &clock).expect("cosigned");
    };
    // The same tree, and ahead of what is served: nothing to say yet.
    add(&bench, &Tree::of(400), 250);
    bench.look().await;
    add(&bench, &forked(260, 400), 350);
    bench.look().await;
    assert_eq!(bench.told(), []);
    bench.log.show(|shown| {
        shown.tree.grow(400, Purpose::service());
        shown.size = 400;
    });
    assert!(bench.look().await.is_stopped);
    assert_eq!(bench.rules_told(), [(Rule::Fork, false)]);
    bench.assert_caught();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_told_is_not_taken_for_read() {
    let mut tree = Tree::of(10);
    tree.grow(11, purpose("support"));
    let mut bench = Bench::reading(tree).await;
    let file = bench.alarms_file();
    std::fs::create_dir(&file).expect("in the way");
    let status = bench.look().await;
    assert_eq!((status.hashed, status.read), (11, Some(0)));
    assert!(status.error.expect("said").contains("cannot be written"));
    std::fs::remove_dir(&file).expect("out of the way");
    assert_eq!(bench.look().await.read, Some(11));
    assert_eq!(bench.rules_told(), [(Rule::NewPurpose, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_is_damaged_or_of_another_log_is_refused() {
    let mut bench = Bench::reading(Tree::of(300)).await;
    bench.look().await;
    let origin = ORIGIN.parse().expect("an origin");
    let folder = bench.follower().watched.log.folder().to_owned();
    let bytes = std::fs::read(folder.join("position.json")).expect("saved");
    assert_eq!(parse_position(&bytes, &origin).expect("its own"), bytes);
    let text = String::from_utf8(bytes).expect("JSON");
    let other = "ch-zrh/main/2".parse().expect("an origin");
    assert!(matches!(
        parse_position(text.as_bytes(), &other),
        Err(PositionError::OtherLog)
    ));
    let newer = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(matches!(
        parse_position(newer.as_bytes(), &origin),
        Err(PositionError::UnknownFormat(2))
    ));
    let root = bench
        .log
        .shown
        .lock()
        .tree
        .checkpoint(300)
        .root()
        .to_string();
    for (from, to) in [
        ("\"read\":300", "\"read\":301"),
        ("\"copied\":0", "\"copied\":301"),
        ("\\n300\\n", "\\n299\\n"),
        (root.as_str(), &tlog::leaf_hash(b"").to_string()),
        ("\"frontier\":\"01", "\"frontier\":\"02"),
        ("\"reader\":{", "\"reader\":{\"more\":1,"),
    ] {
        let bad = text.replacen(from, to, 1);
        assert_ne!(bad, text, "{from}");
        let read = parse_position(bad.as_bytes(), &origin);
        assert!(matches!(read, Err(PositionError::Damaged)), "{from}");
    }
}
