//! Damage is told from a torn tail.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Model, acknowledged, applied, matching_prefix, observed, random_step};
use super::*;
use crate::disk::SimDisk;
use crate::log::accepted::Point;
use crate::log::header::HEADER_REGION_BYTES;
use crate::log::record::{RECORD_HEADER_BYTES, u32_at};

/// A log with a few segments of random operations, all written; where its records end.
fn filled(seed: u64, sim: &SimDisk) -> (RaftLog, Vec<super::model::Step>, Point) {
    let mut rng = StdRng::seed_from_u64(seed);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(seed))).expect("opens");
    let (mut model, mut steps) = (Model::new(), Vec::new());
    for _ in 0..120 {
        random_step(&mut rng, &log, &mut model, &mut steps);
        if rng.random_ratio(1, 2) {
            log.turn();
        }
    }
    while log.shared.write_step() {}
    let end = log.shared.state.lock().next;
    (log, steps, end)
}

fn reopen(seed: u64, sim: &SimDisk) -> Result<Model, LogError> {
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(seed + 7_000)))?;
    Ok(observed(&log))
}

fn segments(sim: &SimDisk) -> Vec<std::path::PathBuf> {
    sim.paths()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect()
}

#[test]
fn after_a_clean_close_every_flipped_bit_of_a_record_is_damage() {
    let mut refused = 0;
    for seed in 0..250 {
        let sim = SimDisk::new(seed);
        let (log, steps, _) = filled(seed, &sim);
        log.close().expect("closes");
        let end = log.shared.state.lock().next;
        drop(log);
        sim.power_cut();
        let mut rng = StdRng::seed_from_u64(!seed);
        let paths = segments(&sim);
        let path = paths[rng.random_range(0..paths.len())].clone();
        let last = paths.last() == Some(&path);
        let content = sim.content(&path).expect("there");
        // The closing mark vouches for what lies before it; itself it says nothing that could be missed.
        let records_end = match last {
            true => end.offset as usize - RECORD_HEADER_BYTES,
            false => {
                let next =
                    sim.content(&paths[paths.iter().position(|p| *p == path).expect("in it") + 1]);
                u32_at(&next.expect("there"), 40) as usize
            }
        };
        let header_end = u32_at(&content, 16) as usize;
        let records = records_end - HEADER_REGION_BYTES as usize;
        let at = rng.random_range(0..header_end + records);
        let byte = if at < header_end {
            at
        } else {
            at - header_end + HEADER_REGION_BYTES as usize
        };
        assert!(sim.flip_bit(&path, byte as u64 * 8 + rng.random_range(0..8)));
        let error = reopen(seed, &sim).expect_err("a durable bit is wrong");
        match error {
            LogError::Damaged {
                path: named,
                offset,
                ..
            } => {
                assert!(
                    named == path || offset == 0,
                    "seed {seed}: {path:?} byte {byte}, not {named:?}"
                );
            }
            LogError::Version { .. } | LogError::SegmentBytes { .. } => {
                panic!("seed {seed}: the header's checksum comes first")
            }
            other => panic!("seed {seed}: {other}"),
        }
        refused += 1;
        drop(steps);
    }
    assert_eq!(refused, 250);
}

#[test]
fn a_flip_outside_every_record_changes_nothing() {
    for seed in 0..60 {
        let sim = SimDisk::new(seed);
        let (log, steps, _) = filled(seed, &sim);
        log.close().expect("closes");
        let end = log.shared.state.lock().next;
        drop(log);
        let path = segment(end.segment);
        let bytes = sim.content(&path).expect("there").len() as u64;
        let bit = StdRng::seed_from_u64(seed).random_range(u64::from(end.offset) * 8..bytes * 8);
        assert!(sim.flip_bit(&path, bit));
        sim.kill();
        let found = reopen(seed, &sim).expect("opens");
        let expected = applied(&Model::new(), &steps);
        assert_eq!(
            matching_prefix(&expected, &[], 0, &found),
            Some(0),
            "seed {seed}"
        );
    }
}

#[test]
fn a_flip_in_the_last_batch_before_a_crash_is_cut_like_a_torn_tail() {
    let mut cut = 0;
    for seed in 0..200 {
        let sim = SimDisk::new(seed);
        let (log, steps, end) = filled(seed, &sim);
        let told = log.shared.writer.lock().told;
        if log.shared.writer.lock().number != end.segment || told >= end.offset {
            continue;
        }
        drop(log);
        let bit = StdRng::seed_from_u64(seed)
            .random_range(u64::from(told) * 8..u64::from(end.offset) * 8);
        assert!(sim.flip_bit(&segment(end.segment), bit));
        sim.kill();
        // Nothing on the disk says that these bytes were synced: they may as well be a torn write. What was told to
        // be synced is still there.
        let found = reopen(seed, &sim).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let length = matching_prefix(&Model::new(), &steps, 0, &found);
        let length = length.unwrap_or_else(|| panic!("seed {seed}: no prefix"));
        cut += usize::from(length < acknowledged(&steps));
    }
    assert!(
        cut > 20,
        "some of these flips hit what was acknowledged: {cut}"
    );
}

#[test]
fn valid_records_behind_a_hole_never_come_back() {
    let mut holes = 0;
    for seed in 0..300 {
        let sim = SimDisk::new(seed);
        let salts = salts(seed);
        let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
        let group = log.group(GroupId(16));
        finish(&log);
        assert!(append_now(&log, &group, vec![entry(1, 0, vec![1; 700])]).is_ok());
        // One batch of equal records, written and not synced: some sectors survive, some do not.
        let old: Vec<_> = (1..5).map(|index| entry(1, index, vec![2; 700])).collect();
        sim.fail_sync_in(0);
        assert!(!append_now(&log, &group, old).is_ok());
        drop(log);
        sim.power_cut();
        let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
        let group = log.group(GroupId(16));
        let kept = everything(&group).len() as u64;
        if kept == 5 {
            continue;
        }
        holes += 1;
        // The same length at the place of the first lost one: what follows it would parse if it were still there.
        assert!(append_now(&log, &group, vec![entry(2, kept, vec![3; 700])]).is_ok());
        drop(log);
        sim.kill();
        let log = RaftLog::open(sim.boot(), &dir(), options(&salts)).expect("opens");
        let entries = everything(&log.group(GroupId(16)));
        assert_eq!(entries.len() as u64, kept + 1, "seed {seed}");
        assert_eq!(
            entries.last().map(|entry| entry.term),
            Some(Term(2)),
            "seed {seed}"
        );
    }
    assert!(holes > 100);
}

#[test]
fn a_missing_or_short_segment_is_damage() {
    let sim = SimDisk::new(5);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(5))).expect("opens");
    for index in 0..60 {
        assert!(
            append_now(
                &log,
                &log.group(GroupId(16)),
                vec![entry(1, index, vec![1; 3000])]
            )
            .is_ok()
        );
    }
    log.close().expect("closes");
    drop(log);
    let paths = segments(&sim);
    assert!(paths.len() >= 3, "the log has a middle");
    let middle = &paths[1];
    assert!(sim.cut_file(middle, 50_000));
    let error = reopen(5, &sim).expect_err("cut short");
    assert!(
        matches!(&error, LogError::Damaged { path, .. } if path == middle),
        "{error}"
    );
    sim.kill();
    sim.boot().remove(middle).expect("removed");
    let error = reopen(5, &sim).expect_err("missing");
    assert!(
        matches!(&error, LogError::Missing { path } if path == middle),
        "{error}"
    );
    assert!(error.is_fatal());
}

#[test]
fn an_entry_that_rots_while_the_log_is_open_ends_it() {
    let sim = SimDisk::new(9);
    let mut options = options(&salts(9));
    options.cache_bytes_max = 0;
    let log = RaftLog::open(sim.boot(), &dir(), options).expect("opens");
    let group = log.group(GroupId(16));
    assert!(append_now(&log, &group, vec![entry(1, 0, vec![1; 100])]).is_ok());
    assert_eq!(everything(&group).len(), 1);
    let at = HEADER_REGION_BYTES as u64 + RECORD_HEADER_BYTES as u64 + 50;
    assert!(sim.flip_bit(&segment(1), at * 8));
    let error = group
        .read(LogIndex(0)..LogIndex(9), 1000)
        .expect_err("rotten");
    assert!(matches!(&*error, LogError::Damaged { .. }));
    assert!(log.fatal().is_some());
}

#[test]
fn segments_at_rest_are_read_again_as_a_start_reads_them() {
    let sim = SimDisk::new(7);
    let log = RaftLog::open(sim.boot(), &dir(), options(&salts(7))).expect("opens");
    finish(&log);
    let group = log.group(GroupId(16));
    for index in 0..60 {
        assert!(append_now(&log, &group, vec![entry(1, index, vec![7; 3000])]).is_ok());
    }
    let read = || {
        let (mut after, mut all) = (None, Vec::new());
        while let Some(segment) = log.read_again(after) {
            after = Some(segment.number);
            all.push((segment.number, segment.damage.is_some()));
        }
        all
    };
    let whole = read();
    assert!(whole.len() > 1, "{whole:?}");
    assert!(whole.iter().all(|(_, damaged)| !damaged), "{whole:?}");
    assert!(sim.flip_bit(&segment(whole[0].0), 40_000 * 8));
    let damaged: Vec<_> = read().into_iter().filter(|(_, damaged)| *damaged).collect();
    assert_eq!(damaged, [(whole[0].0, true)]);
    assert!(log.fatal().is_none());
}
