//! One promise each.

use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Condvar;

use super::*;
use crate::disk::{DirLock, DiskFile, RealDisk, SimDisk};

fn threads(salt: u64) -> LogOptions {
    LogOptions {
        segment_bytes: 1 << 20,
        payload_bytes_max: 64 * 1024,
        driver: Driver::Threads,
        ..options(&salts(salt))
    }
}

fn wait(answer: mpsc::Receiver<Result<(), Arc<LogError>>>) -> Result<(), Arc<LogError>> {
    answer
        .recv_timeout(Duration::from_secs(60))
        .expect("answered")
}

fn channel() -> (Done, mpsc::Receiver<Result<(), Arc<LogError>>>) {
    let (send, receive) = mpsc::sync_channel(1);
    // The receiver may have given up.
    (Box::new(move |outcome| drop(send.send(outcome))), receive)
}

/// It needs more segments at once than are kept ready, and so does its neighbour.
#[test]
fn an_append_may_take_more_segments_than_are_kept_ready() {
    let options = LogOptions {
        segment_bytes: 80 * 1024,
        payload_bytes_max: 4096,
        ..threads(3)
    };
    let log = RaftLog::open(SimDisk::new(3).boot(), &dir(), options).expect("opens");
    let answers = [16, 17].map(|id| {
        let (done, answer) = channel();
        let group = log.group(GroupId(id));
        let entries = (0..100).map(|index| entry(1, index, vec![7; 3000]));
        let entries: Vec<_> = entries.collect();
        // On a thread of its own, since it waits for room.
        std::thread::spawn(move || group.append(entries, done));
        answer
    });
    for answer in answers {
        wait(answer).expect("durable");
    }
    for id in [16, 17] {
        assert_eq!(everything(&log.group(GroupId(id))).len(), 100);
    }
}

#[test]
fn many_threads_share_syncs_and_everything_is_there_after_reopening() {
    let temp = tempfile::tempdir().expect("tempdir");
    let log = RaftLog::open(Arc::new(RealDisk), temp.path(), threads(1)).expect("opens");
    const EACH: u64 = 200;
    std::thread::scope(|scope| {
        for id in 0..16 {
            let group = log.group(GroupId(16 + id));
            scope.spawn(move || {
                for index in 0..EACH {
                    let (done, answer) = channel();
                    group.append(vec![entry(1, index, vec![id as u8; 500])], done);
                    wait(answer).expect("durable");
                }
            });
        }
    });
    let stats = log.stats();
    assert_eq!(stats.batch_records.count(), stats.syncs);
    assert!(stats.records >= 16 * EACH);
    assert!(
        stats.syncs < 16 * EACH,
        "{} syncs for {} entries",
        stats.syncs,
        16 * EACH
    );
    log.close().expect("closes");
    let error = {
        let (done, answer) = channel();
        log.group(GroupId(16)).save_vote(Bytes::new(), done);
        wait(answer).expect_err("closed")
    };
    assert!(matches!(*error, LogError::Closed));
    let log = RaftLog::open(Arc::new(RealDisk), temp.path(), threads(2)).expect("opens");
    for id in 0..16 {
        let entries = everything(&log.group(GroupId(16 + id)));
        assert_eq!(entries.len() as u64, EACH);
        assert!(
            entries
                .iter()
                .all(|entry| entry.payload == vec![id as u8; 500])
        );
    }
}

#[test]
fn answers_come_in_the_order_of_acceptance() {
    let temp = tempfile::tempdir().expect("tempdir");
    let log = RaftLog::open(Arc::new(RealDisk), temp.path(), threads(3)).expect("opens");
    let order = Arc::new(Mutex::new(Vec::new()));
    for index in 0..500u64 {
        let order = order.clone();
        let done: Done = Box::new(move |outcome| {
            outcome.expect("durable");
            order.lock().push(index);
        });
        match index % 3 {
            0 => log
                .group(GroupId(16))
                .append(vec![entry(1, index / 3, vec![1; 2000])], done),
            1 => log
                .group(GroupId(17))
                .save_vote(Bytes::from(index.to_le_bytes().to_vec()), done),
            _ => log.group(GroupId(17)).truncate_after(None, done),
        }
    }
    log.close().expect("closes");
    assert_eq!(*order.lock(), (0..500).collect::<Vec<_>>());
}

/// A disk whose syncs wait until they are let through.
struct Gated {
    disk: Arc<dyn Disk>,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    waiting: Mutex<u64>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        *self.waiting.lock() += 1;
        self.changed.notify_all();
        let mut shut = self.shut.lock();
        while *shut {
            self.changed.wait(&mut shut);
        }
    }

    fn set(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.changed.notify_all();
    }
}

struct GatedFile(Arc<dyn DiskFile>, Arc<Gate>);

impl DiskFile for GatedFile {
    fn bytes(&self) -> std::io::Result<u64> {
        self.0.bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        self.0.write_at(data, offset)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.1.pass();
        self.0.sync_data()
    }
}

impl Gated {
    fn gated(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(GatedFile(file, self.gate.clone()))
    }
}

impl Disk for Gated {
    fn create_dir_all(&self, dir: &Path) -> std::io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn lock_dir(&self, dir: &Path) -> std::io::Result<DirLock> {
        self.disk.lock_dir(dir)
    }

    fn create(&self, path: &Path) -> std::io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.gated(file))
    }

    fn open(&self, path: &Path) -> std::io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path).map(|file| self.gated(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> std::io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> std::io::Result<Vec<std::ffi::OsString>> {
        self.disk.list(dir)
    }

    fn remove_dir_all(&self, dir: &Path) -> std::io::Result<()> {
        self.disk.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn space_available(&self, dir: &Path) -> std::io::Result<u64> {
        self.disk.space_available(dir)
    }
}

#[test]
fn reading_does_not_wait_for_a_sync_and_nothing_is_acknowledged_before_it() {
    let gate = Arc::new(Gate::default());
    let disk = Gated {
        disk: SimDisk::new(1).boot(),
        gate: gate.clone(),
    };
    let mut options = threads(4);
    options.cache_bytes_max = 0;
    let log = RaftLog::open(Arc::new(disk), &dir(), options).expect("opens");
    let group = log.group(GroupId(16));
    let (done, first) = channel();
    group.append(vec![entry(1, 0, vec![1; 100])], done);
    wait(first).expect("durable");
    gate.set(true);
    let before = *gate.waiting.lock();
    let (done, second) = channel();
    group.append(vec![entry(1, 1, vec![2; 100])], done);
    {
        let mut waiting = gate.waiting.lock();
        while *waiting == before {
            gate.changed.wait(&mut waiting);
        }
    }
    // The sync stands still: old entries, from the disk, and the new one are readable; it is not acknowledged.
    assert_eq!(everything(&group).len(), 2);
    assert_eq!(group.state().last, Some((Term(1), LogIndex(1))));
    assert!(
        second.try_recv().is_err(),
        "acknowledged before its sync returned"
    );
    gate.set(false);
    wait(second).expect("durable");
}

#[test]
fn a_failed_sync_ends_the_log_for_all_and_is_not_repeated() {
    let sim = SimDisk::new(6);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(6))).expect("opens");
    finish(&log);
    let watch = log.watch_fatal();
    let (first, second) = (Answer::default(), Answer::default());
    let (a, b) = (log.group(GroupId(16)), log.group(GroupId(17)));
    a.append(vec![entry(1, 0, b"x".to_vec())], first.done());
    b.save_vote(Bytes::from_static(b"v"), second.done());
    sim.fail_sync_in(0);
    let syncs = sim.syncs();
    finish(&log);
    assert!(first.error().is_some_and(|error| error.is_fatal()));
    assert!(second.error().is_some());
    assert!(watch.borrow().is_some() && log.fatal().is_some() && log.wait_fatal().is_some());
    let third = append_now(&log, &a, vec![entry(1, 1, b"y".to_vec())]);
    assert!(third.error().is_some());
    assert!(log.close().is_err());
    assert_eq!(sim.syncs(), syncs, "no sync followed the failed one");
}

#[test]
fn a_failure_on_the_threads_reaches_whoever_waits_for_it() {
    let sim = SimDisk::new(7);
    let log = RaftLog::open(sim.boot(), &dir(), threads(7)).expect("opens");
    let waiter = {
        let log = log.clone();
        std::thread::spawn(move || log.wait_fatal())
    };
    sim.power_cut();
    let (done, answer) = channel();
    log.group(GroupId(16))
        .save_vote(Bytes::from_static(b"v"), done);
    assert!(wait(answer).is_err());
    assert!(waiter.join().expect("no panic").is_some());
}

#[test]
fn one_folder_has_one_log() {
    let temp = tempfile::tempdir().expect("tempdir");
    let sim = SimDisk::new(8).boot();
    let places: [(Arc<dyn Disk>, PathBuf); 2] =
        [(Arc::new(RealDisk), temp.path().join("log")), (sim, dir())];
    for (disk, dir) in places {
        let first = RaftLog::open(disk.clone(), &dir, options(&salts(8))).expect("opens");
        let error = RaftLog::open(disk.clone(), &dir, options(&salts(9)))
            .err()
            .expect("in use");
        assert!(
            matches!(&error, LogError::InUse { path } if *path == dir),
            "{error}"
        );
        first.close().expect("closes");
        RaftLog::open(disk, &dir, options(&salts(10))).expect("free after close");
    }
}

#[test]
fn what_cannot_be_accepted_is_refused_and_changes_nothing() {
    let sim = SimDisk::new(11);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(11))).expect("opens");
    let group = log.group(GroupId(16));
    assert!(
        append_now(
            &log,
            &group,
            vec![entry(1, 5, b"a".to_vec()), entry(1, 6, b"b".to_vec())]
        )
        .is_ok()
    );
    let state = group.state();
    let gap = append_now(&log, &group, vec![entry(1, 8, b"c".to_vec())]);
    assert!(matches!(
        gap.error().as_deref(),
        Some(LogError::NotContiguous {
            expected: LogIndex(7),
            got: LogIndex(8),
            ..
        })
    ));
    let inner_gap = append_now(&log, &group, vec![entry(1, 7, vec![]), entry(1, 9, vec![])]);
    assert!(matches!(
        inner_gap.error().as_deref(),
        Some(LogError::NotContiguous { .. })
    ));
    let last = LogIndex(u64::MAX);
    let fresh = log.group(GroupId(99));
    let without_next = append_now(&log, &fresh, vec![entry(1, last.0, vec![])]);
    let purged = Answer::default();
    fresh.purge(Term(1), last, Bytes::new(), purged.done());
    for refused in [without_next, purged] {
        let error = refused.error();
        assert!(matches!(
            error.as_deref(),
            Some(LogError::NoNextIndex { .. })
        ));
    }
    let long = append_now(&log, &group, vec![entry(1, 7, vec![0; 5000])]);
    assert!(matches!(
        long.error().as_deref(),
        Some(LogError::TooLong { bytes: 5000, .. })
    ));
    let vote = Answer::default();
    group.save_vote(Bytes::from(vec![0; META_BYTES_MAX + 1]), vote.done());
    assert!(matches!(
        vote.error().as_deref(),
        Some(LogError::TooLong { .. })
    ));
    let purge = Answer::default();
    group.purge(
        Term(1),
        LogIndex(5),
        Bytes::from_static(b"id"),
        purge.done(),
    );
    let below = Answer::default();
    group.truncate_after(Some(LogIndex(4)), below.done());
    finish(&log);
    assert!(purge.is_ok());
    assert!(matches!(
        below.error().as_deref(),
        Some(LogError::BelowPurged { .. })
    ));
    assert_eq!(group.state().last, state.last);
    for id in 100..131 {
        assert!(append_now(&log, &log.group(GroupId(id)), vec![entry(1, 0, vec![])]).is_ok());
    }
    let many = append_now(&log, &log.group(GroupId(131)), vec![entry(1, 0, vec![])]);
    assert!(matches!(
        many.error().as_deref(),
        Some(LogError::TooManyGroups { groups_max: 32 })
    ));
    let none = append_now(&log, &group, vec![]);
    assert!(none.is_ok(), "nothing to append is durable at once");
    assert!(log.fatal().is_none());
}

#[test]
fn options_that_cannot_work_are_refused() {
    let sim = SimDisk::new(12);
    let bad = [
        LogOptions {
            segment_bytes: 80 * 1024 + 1,
            ..options(&salts(0))
        },
        LogOptions {
            segment_bytes: 4096,
            ..options(&salts(0))
        },
        LogOptions {
            payload_bytes_max: 40 * 1024,
            ..options(&salts(0))
        },
        LogOptions {
            batch_bytes_max: 0,
            ..options(&salts(0))
        },
    ];
    for options in bad {
        let refused = RaftLog::open(sim.boot(), &dir(), options).err();
        assert!(matches!(refused, Some(LogError::Options { .. })));
    }
    RaftLog::open(sim.boot(), &dir(), options(&salts(1)))
        .expect("opens")
        .close()
        .expect("closes");
    let other = LogOptions {
        segment_bytes: 160 * 1024,
        ..options(&salts(0))
    };
    let refused = RaftLog::open(sim.boot(), &dir(), other).err();
    assert!(matches!(
        refused,
        Some(LogError::SegmentBytes {
            found: 81_920,
            configured: 163_840
        })
    ));
}

#[test]
fn a_read_is_bounded_by_bytes_and_has_at_least_one_entry() {
    let sim = SimDisk::new(13);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(13))).expect("opens");
    let group = log.group(GroupId(16));
    let entries: Vec<_> = (0..40)
        .map(|index| entry(1, index, vec![index as u8; 1000]))
        .collect();
    assert!(append_now(&log, &group, entries).is_ok());
    let read = |from, to, bytes| {
        let read = group
            .read(LogIndex(from)..LogIndex(to), bytes)
            .expect("readable");
        read.iter().map(|entry| entry.index.0).collect::<Vec<_>>()
    };
    assert_eq!(read(3, 40, 0), [3]);
    assert_eq!(read(3, 40, 3500), [3, 4, 5]);
    assert_eq!(read(38, 100, usize::MAX), [38, 39]);
    assert_eq!(read(40, 100, usize::MAX), [0; 0]);
    assert_eq!(read(7, 7, usize::MAX), [0; 0]);
    assert!(log.stats().disk_reads > 0, "the cache holds 8 of 40");
}

#[test]
fn a_committed_position_rides_along_and_causes_no_sync() {
    let sim = SimDisk::new(14);
    let salts = salts(14);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
    finish(&log);
    let group = log.group(GroupId(16));
    let syncs = log.stats().syncs;
    group
        .save_committed(Bytes::from_static(b"c1"))
        .expect("open");
    assert_eq!(group.state().committed, Some(Bytes::from_static(b"c1")));
    finish(&log);
    assert_eq!(log.stats().syncs, syncs);
    assert!(append_now(&log, &group, vec![entry(1, 0, vec![])]).is_ok());
    assert_eq!(log.stats().syncs, syncs + 1);
    drop(log);
    sim.power_cut();
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
    assert_eq!(
        log.group(GroupId(16)).state().committed,
        Some(Bytes::from_static(b"c1"))
    );
}
