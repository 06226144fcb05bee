//! A full disk, the way out of it, and segments that come and go.

use super::*;
use crate::disk::SimDisk;

/// Appends until refused; how many were accepted.
fn fill(log: &RaftLog, group: &GroupLog, from: u64) -> (u64, Arc<LogError>) {
    for index in from.. {
        let answer = append_now(log, group, vec![entry(1, index, vec![7; 3000])]);
        if let Some(error) = answer.error() {
            return (index, error);
        }
        assert!(answer.is_ok());
        assert!(index < 10_000, "the disk never fills");
    }
    unreachable!("the loop returns")
}

#[test]
fn a_full_disk_refuses_entries_takes_votes_and_purges_and_opens_again() {
    let sim = SimDisk::new(1);
    sim.set_capacity(80 * 1024 * 5);
    let mut options = options(&salts(1));
    options.segments_soft_max = 100;
    let log = RaftLog::open(sim.boot(), &dir(), options).expect("opens");
    finish(&log);
    let group = log.group(GroupId(16));
    let (full_at, error) = fill(&log, &group, 0);
    assert!(matches!(*error, LogError::NoSpace), "{error}");
    assert!(!error.is_fatal() && log.fatal().is_none());
    assert!(log.is_full());
    assert_eq!(
        everything(&group).len() as u64,
        full_at,
        "nothing that was accepted is lost"
    );
    // The reserve takes a vote and a membership entry.
    let vote = Answer::default();
    group.save_vote(Bytes::from_static(b"vote"), vote.done());
    let membership = Answer::default();
    group.append_with(
        Priority::Reserve,
        vec![entry(2, full_at, b"m".to_vec())],
        membership.done(),
    );
    finish(&log);
    assert!(vote.is_ok() && membership.is_ok());
    let again = append_now(&log, &group, vec![entry(2, full_at + 1, vec![7; 3000])]);
    assert!(again.error().is_some());
    // The way out: purge what is flushed elsewhere.
    let purge = Answer::default();
    group.purge(
        Term(1),
        LogIndex(full_at - 1),
        Bytes::from_static(b"id"),
        purge.done(),
    );
    finish(&log);
    assert!(purge.is_ok());
    assert!(!log.is_full());
    let (next, error) = fill(&log, &group, full_at + 1);
    assert!(matches!(*error, LogError::NoSpace), "{error}");
    assert!(next > full_at + 40, "there was room again: {next}");
    drop(log);
    sim.power_cut();
    let log =
        RaftLog::open(sim.boot(), &dir(), super::options(&salts(2))).expect("opens when full");
    assert_eq!(
        log.group(GroupId(16)).state().last,
        Some((Term(1), LogIndex(next - 1)))
    );
}

#[test]
fn what_was_accepted_always_has_blocks() {
    // The disk gets full at every possible point; no accepted record may ever meet it.
    for capacity in 3..9 {
        let sim = SimDisk::new(capacity);
        sim.set_capacity(80 * 1024 * capacity + 40 * 1024);
        let log = RaftLog::open(sim.boot(), &dir(), options(&salts(capacity))).expect("opens");
        let group = log.group(GroupId(16));
        let (_, error) = fill(&log, &group, 0);
        assert!(matches!(*error, LogError::NoSpace));
        assert!(log.fatal().is_none());
        for _ in 0..60 {
            let answer = Answer::default();
            group.save_vote(Bytes::from_static(&[1; 200]), answer.done());
            finish(&log);
            assert!(answer.is_ok(), "the reserve takes votes");
        }
    }
}

#[test]
fn an_idle_group_does_not_pin_every_segment_after_its_own() {
    let sim = SimDisk::new(2);
    let salts = salts(2);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
    let (idle, busy) = (log.group(GroupId(1)), log.group(GroupId(16)));
    let kept: Vec<_> = (0..20)
        .map(|index| entry(1, index, vec![index as u8; 100]))
        .collect();
    assert!(append_now(&log, &idle, kept.clone()).is_ok());
    for index in 0..600 {
        assert!(append_now(&log, &busy, vec![entry(1, index, vec![9; 3000])]).is_ok());
        if index % 10 == 9 {
            let purge = Answer::default();
            busy.purge(
                Term(1),
                LogIndex(index - 5),
                Bytes::from_static(b"id"),
                purge.done(),
            );
            finish(&log);
            assert!(purge.is_ok());
        }
    }
    let stats = log.stats();
    assert!(stats.rotations > 20 && stats.moved >= 20, "{stats:?}");
    let held = log.shared.state.lock().segments.len();
    assert!(held <= 5, "{held} segments are held for 26 entries");
    assert_eq!(everything(&idle), kept);
    drop(log);
    sim.power_cut();
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
    assert_eq!(everything(&log.group(GroupId(1))), kept);
    assert_eq!(log.group(GroupId(16)).state().first, Some(LogIndex(595)));
}

#[test]
fn zeroed_segments_hold_nothing_of_what_was_purged() {
    const CANARY: &[u8] = b"wrapped key that was destroyed";
    for (retired, found_expected) in [(Retired::Reuse, true), (Retired::Zero, false)] {
        let sim = SimDisk::new(3);
        let mut options = options(&salts(3));
        options.retired = retired;
        let log = RaftLog::open(sim.boot(), &dir(), options).expect("opens");
        finish(&log);
        let group = log.group(GroupId(2));
        for index in 0..60 {
            assert!(append_now(&log, &group, vec![entry(1, index, CANARY.repeat(60))]).is_ok());
        }
        let purge = Answer::default();
        group.purge(
            Term(1),
            LogIndex(59),
            Bytes::from_static(b"id"),
            purge.done(),
        );
        finish(&log);
        // Two whole segments held nothing else; they are spares now.
        let spares: Vec<_> = sim
            .paths()
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "seg"))
            .collect();
        assert!(!spares.is_empty());
        let found = spares
            .iter()
            .filter_map(|path| sim.content(path))
            .any(|content| content.windows(CANARY.len()).any(|window| window == CANARY));
        assert_eq!(found, found_expected, "{retired:?}");
    }
}

#[test]
fn unfinished_spares_are_removed_and_finished_ones_taken_up() {
    let sim = SimDisk::new(4);
    let salts = salts(4);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
    finish(&log);
    drop(log);
    let disk = sim.boot();
    disk.create(&dir().join("unready-00000099.tmp"))
        .expect("create");
    disk.create(&dir().join("spare-00000098.seg"))
        .expect("a spare of the wrong length");
    sim.kill();
    let before = sim.used_bytes();
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
    finish(&log);
    assert_eq!(sim.used_bytes(), before, "no segment was made anew");
    let names: Vec<_> = sim.paths();
    assert!(
        !names
            .iter()
            .any(|path| path.to_string_lossy().contains("0000009")),
        "{names:?}"
    );
}

/// Whether any file of the log's folder holds the bytes.
fn on_disk(disk: &dyn Disk, bytes: &[u8]) -> bool {
    let names = disk.list(&dir()).expect("lists");
    names.iter().any(|name| {
        let file = disk.open(&dir().join(name)).expect("opens");
        let mut content = vec![0; file.bytes().expect("a length") as usize];
        file.read_at(&mut content, 0).expect("reads");
        content.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn after_a_turn_over_no_file_holds_what_was_purged_and_what_is_held_is_there() {
    const PURGED: &[u8] = b"a key that was destroyed";
    let disk = SimDisk::new(1).boot();
    let with = |retired| LogOptions {
        retired,
        ..options(&salts(1))
    };
    for retired in [Retired::Zero, Retired::Reuse] {
        let log = RaftLog::open(disk.clone(), &dir(), with(retired)).expect("opens");
        finish(&log);
        let [group, idle] = [16, 17].map(|id| log.group(GroupId(id)));
        let from = group.state().last.map_or(0, |(_, last)| last.0 + 1);
        if from == 0 {
            append_now(&log, &idle, vec![entry(1, 0, b"of an idle group".to_vec())]);
        }
        // Over several segments, and what is held begins in the middle of one.
        let last = from + 60;
        for index in from..=last {
            let payload = [PURGED, &vec![index as u8; 3000]].concat();
            append_now(&log, &group, vec![entry(1, index, payload)]);
        }
        append_now(&log, &group, vec![entry(1, last + 1, b"held".to_vec())]);
        let purge = Answer::default();
        let id = Bytes::from_static(b"id");
        group.purge(Term(1), LogIndex(last), id, purge.done());
        finish(&log);
        assert!(purge.is_ok());
        assert!(on_disk(&*disk, PURGED), "it would be found");
        log.turn_over().expect("there is room");
        finish(&log);
        assert!(log.turned_over(Duration::ZERO));
        let left = on_disk(&*disk, PURGED);
        assert_eq!(left, retired == Retired::Reuse, "{retired:?}");
        let held = [everything(&group), everything(&idle)];
        assert_eq!([held[0].len(), held[1].len()], [1, 1]);
        drop((group, idle));
        log.close().expect("closes");
        drop(log);
        let log = RaftLog::open(disk.clone(), &dir(), with(retired)).expect("opens again");
        let again = [16, 17].map(|id| everything(&log.group(GroupId(id))));
        assert_eq!(again, held);
        log.close().expect("closes");
    }
}
