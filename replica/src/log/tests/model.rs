//! Random multi-group workloads with crashes of every kind, against a model.
//!
//! The log is one order of operations. After any crash it must hold exactly the effect of a prefix of what was
//! accepted, and the prefix reaches at least to the last operation that was acknowledged.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::disk::SimDisk;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ModelGroup {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<(u64, Bytes)>,
    last: Option<(u64, u64)>,
    entries: BTreeMap<u64, (u64, Bytes)>,
}

pub(super) type Model = BTreeMap<u64, ModelGroup>;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Entry {
        term: u64,
        index: u64,
        payload: Bytes,
    },
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<u64>),
    Purge {
        term: u64,
        index: u64,
        log_id: Bytes,
    },
}

pub(super) struct Step {
    group: u64,
    op: Op,
    answer: Option<Answer>,
}

impl ModelGroup {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Entry {
                term,
                index,
                payload,
            } => {
                self.entries.insert(*index, (*term, payload.clone()));
                self.last = Some((*term, *index));
            }
            Op::Vote(vote) => self.vote = Some(vote.clone()),
            Op::Committed(committed) => self.committed = Some(committed.clone()),
            Op::Truncate(after) => {
                let after = after.or(self.purged.as_ref().map(|(index, _)| *index));
                match after {
                    None => {
                        self.entries.clear();
                        self.last = None;
                    }
                    Some(after) if self.last.is_some_and(|(_, last)| after < last) => {
                        self.entries.split_off(&(after + 1));
                        let purged_term = self.purged.as_ref().map(|(_, id)| term_of(id));
                        self.last = match self.entries.get(&after) {
                            Some((term, _)) => Some((*term, after)),
                            None => purged_term.map(|term| (term, after)),
                        };
                    }
                    Some(_) => {}
                }
            }
            Op::Purge {
                term,
                index,
                log_id,
            } => {
                if self
                    .purged
                    .as_ref()
                    .is_none_or(|(purged, _)| index > purged)
                {
                    self.entries = self.entries.split_off(&(index + 1));
                    self.purged = Some((*index, log_id.clone()));
                    if self.last.is_none_or(|(_, last)| last <= *index) {
                        self.last = Some((*term, *index));
                    }
                }
            }
        }
    }
}

/// The model writes the term into the log id, as a host would.
fn log_id(term: u64, index: u64) -> Bytes {
    Bytes::from([term.to_le_bytes(), index.to_le_bytes()].concat())
}

fn term_of(log_id: &Bytes) -> u64 {
    u64::from_le_bytes(*log_id.first_chunk().expect("16 bytes"))
}

/// What the log says it holds.
pub(super) fn observed(log: &RaftLog) -> Model {
    let mut model = Model::new();
    for id in log.groups() {
        let group = log.group(id);
        let state = group.state();
        let entries = everything(&group);
        assert_eq!(state.first, entries.first().map(|entry| entry.index));
        let entries: BTreeMap<_, _> = entries
            .into_iter()
            .map(|entry| (entry.index.0, (entry.term.0, entry.payload)))
            .collect();
        let gap = entries
            .keys()
            .zip(entries.keys().skip(1))
            .find(|(a, b)| *a + 1 != **b);
        assert_eq!(gap, None, "a gap in group {id}");
        let observed = ModelGroup {
            vote: state.vote,
            committed: state.committed,
            purged: state.purged.map(|(index, id)| (index.0, id)),
            last: state.last.map(|(term, index)| (term.0, index.0)),
            entries,
        };
        model.insert(id.0, observed);
    }
    model
}

/// The length of the shortest prefix of `steps`, not below `at_least`, whose effect on `base` is `found`.
pub(super) fn matching_prefix(
    base: &Model,
    steps: &[Step],
    at_least: usize,
    found: &Model,
) -> Option<usize> {
    let mut model = base.clone();
    for length in 0..=steps.len() {
        if length >= at_least && strip(&model) == *found {
            return Some(length);
        }
        if let Some(step) = steps.get(length) {
            model.entry(step.group).or_default().apply(&step.op);
        }
    }
    None
}

pub(super) fn applied(base: &Model, steps: &[Step]) -> Model {
    let mut model = base.clone();
    for step in steps {
        model.entry(step.group).or_default().apply(&step.op);
    }
    model
}

/// Steps known to be durable: up to the last one answered with success.
pub(super) fn acknowledged(steps: &[Step]) -> usize {
    let acknowledged = |step: &Step| step.answer.as_ref().is_some_and(Answer::is_ok);
    steps
        .iter()
        .rposition(acknowledged)
        .map_or(0, |last| last + 1)
}

const GROUPS: [u64; 4] = [1, 2, 16, 17];

/// Does one random thing to the log and the model.
pub(super) fn random_step(
    rng: &mut StdRng,
    log: &RaftLog,
    model: &mut Model,
    steps: &mut Vec<Step>,
) {
    // The first two are mostly quiet, so that what they hold pins old segments.
    let from = if rng.random_ratio(1, 30) { 0 } else { 2 };
    let id = GROUPS[rng.random_range(from..GROUPS.len())];
    let group = log.group(GroupId(id));
    let state = model.entry(id).or_default();
    let purged = state.purged.as_ref().map(|(index, _)| *index);
    let answer = Answer::default();
    let random = |rng: &mut StdRng, bytes| {
        Bytes::from((0..bytes).map(|_| rng.random()).collect::<Vec<u8>>())
    };
    let mut ops = Vec::new();
    match rng.random_range(0..20) {
        0..12 => {
            let next = state
                .last
                .map_or(rng.random_range(0..3), |(_, last)| last + 1);
            let term = state.last.map_or(1, |(term, _)| term) + u64::from(rng.random_ratio(1, 8));
            let count = rng.random_range(1..6);
            let mut entries = Vec::new();
            for index in next..next + count {
                let most = if rng.random_ratio(1, 8) { 4096 } else { 300 };
                let bytes = rng.random_range(0..=most);
                let payload = random(rng, bytes);
                entries.push(LogEntry {
                    term: Term(term),
                    index: LogIndex(index),
                    payload: payload.clone(),
                });
                ops.push(Op::Entry {
                    term,
                    index,
                    payload,
                });
            }
            group.append(entries, answer.done());
        }
        12..14 => {
            let vote = random(rng, 17);
            group.save_vote(vote.clone(), answer.done());
            ops.push(Op::Vote(vote));
        }
        14..16 => {
            let committed = random(rng, 16);
            if let Err(error) = group.save_committed(committed.clone()) {
                // Making a segment for it met the injected fault.
                assert!(error.is_fatal() && log.fatal().is_some());
                return;
            }
            state.apply(&Op::Committed(committed.clone()));
            steps.push(Step {
                group: id,
                op: Op::Committed(committed),
                answer: None,
            });
            return;
        }
        16..18 => {
            let floor = purged.or(state.entries.keys().next().copied());
            let after = match (floor, state.last) {
                (Some(floor), Some((_, last))) if !rng.random_ratio(1, 12) => {
                    // Mostly the last few entries, as after a change of leader.
                    Some(rng.random_range(floor.max(last.saturating_sub(4))..=last))
                }
                _ => None,
            };
            group.truncate_after(after.map(LogIndex), answer.done());
            ops.push(Op::Truncate(after));
        }
        _ => {
            let last = state.last.map_or(0, |(_, last)| last);
            let beyond = rng.random_ratio(1, 16);
            let index = match beyond {
                true => last + rng.random_range(1..5),
                false => last.saturating_sub(rng.random_range(0..6)),
            };
            let term = match state.entries.get(&index) {
                Some((term, _)) => *term,
                None => state.last.map_or(1, |(term, _)| term),
            };
            let first = state.entries.keys().next().copied();
            if state.purged.is_none() && first.is_some_and(|first| index < first) {
                return;
            }
            group.purge(
                Term(term),
                LogIndex(index),
                log_id(term, index),
                answer.done(),
            );
            ops.push(Op::Purge {
                term,
                index,
                log_id: log_id(term, index),
            });
        }
    }
    let count = ops.len();
    for (position, op) in ops.into_iter().enumerate() {
        state.apply(&op);
        // The answer of an append speaks for its last entry.
        let answer = (position + 1 == count).then(|| answer.clone());
        steps.push(Step {
            group: id,
            op,
            answer,
        });
    }
}

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    Power,
    Kill,
    FailedSync { then_power: bool },
    FailedWrite { then_power: bool },
    Close,
}

#[derive(Debug)]
struct Tally {
    acknowledged: usize,
    lost: usize,
    kept_unacknowledged: usize,
    retired: u64,
    moved: u64,
    rotations: u64,
    turned_over: u64,
    disk_reads: u64,
}

fn run(seed: u64, tally: &mut Tally) {
    let mut rng = StdRng::seed_from_u64(seed);
    let sim = SimDisk::new(seed ^ 0xD15C);
    let salts = salts(seed);
    let mut base = Model::new();
    for round in 0..6 {
        let mut options = options(&salts);
        options.retired = if seed.is_multiple_of(4) {
            Retired::Zero
        } else {
            Retired::Reuse
        };
        let log = RaftLog::open(sim.boot(), &dir(), options)
            .unwrap_or_else(|error| panic!("seed {seed} round {round}: {error} {error:?}"));
        let found = observed(&log);
        assert_eq!(
            found,
            strip(&base),
            "seed {seed} round {round}: reopened otherwise"
        );
        let crash = match rng.random_range(0..10) {
            0..5 => Crash::Power,
            5 => Crash::Kill,
            6 | 7 => Crash::FailedSync {
                then_power: rng.random(),
            },
            8 => Crash::FailedWrite {
                then_power: rng.random(),
            },
            _ => Crash::Close,
        };
        match crash {
            Crash::FailedSync { .. } => sim.fail_sync_in(rng.random_range(0..40)),
            Crash::FailedWrite { .. } => sim.fail_write_in(rng.random_range(0..200)),
            _ => {}
        }
        let mut model = base.clone();
        let mut steps = Vec::new();
        for _ in 0..rng.random_range(1..200) {
            random_step(&mut rng, &log, &mut model, &mut steps);
            if log.fatal().is_some() {
                break;
            }
            match rng.random_range(0..30) {
                0 => finish(&log),
                1..10 => {
                    log.turn();
                }
                // As on its own thread, which does not wait for the queue.
                10..13 => {
                    log.shared.upkeep_step();
                }
                // Refused where it has failed; it loses nothing either way.
                13 => tally.turned_over += u64::from(log.turn_over().is_ok()),
                _ => {}
            }
            if rng.random_ratio(1, 16) && log.fatal().is_none() {
                assert_eq!(
                    observed(&log),
                    strip(&model),
                    "seed {seed}: accepted is readable"
                );
            }
        }
        if crash == Crash::Close && log.fatal().is_none() {
            log.close().expect("nothing fails");
            let open = steps
                .iter()
                .filter_map(|step| step.answer.as_ref())
                .any(Answer::is_open);
            assert!(!open, "seed {seed}: closing answers everybody");
        }
        if let Some(fatal) = log.fatal() {
            finish(&log);
            let open = steps
                .iter()
                .filter_map(|step| step.answer.as_ref())
                .any(Answer::is_open);
            assert!(!open, "seed {seed}: a failed log leaves nobody waiting");
            let late = Answer::default();
            log.group(GroupId(1))
                .save_vote(Bytes::from_static(b"late"), late.done());
            assert_eq!(
                late.error().map(|error| error.to_string()),
                Some(fatal.to_string())
            );
        }
        let stats = log.stats();
        tally.retired += stats.retired;
        tally.moved += stats.moved;
        tally.rotations += stats.rotations;
        tally.disk_reads += stats.disk_reads;
        let closed = crash == Crash::Close && log.fatal().is_none();
        let at_least = if closed {
            steps.len()
        } else {
            acknowledged(&steps)
        };
        tally.acknowledged += at_least;
        drop(log);
        match crash {
            Crash::Power
            | Crash::Close
            | Crash::FailedSync { then_power: true }
            | Crash::FailedWrite { then_power: true } => sim.power_cut(),
            _ => sim.kill(),
        }
        let log =
            RaftLog::open(sim.boot(), &dir(), super::options(&salts)).unwrap_or_else(|error| {
                panic!("seed {seed} round {round} {crash:?}: {error} {error:?}")
            });
        let found = observed(&log);
        let length = matching_prefix(&base, &steps, at_least, &found).unwrap_or_else(|| {
            let shorter = matching_prefix(&base, &steps, 0, &found);
            let count = steps.len();
            panic!(
                "seed {seed} round {round} {crash:?}: {count} steps, {at_least} acknowledged, \
                 found prefix {shorter:?}"
            )
        });
        tally.lost += steps.len() - length;
        tally.kept_unacknowledged += length - at_least;
        base = applied(&base, &steps[..length]);
        drop(log);
        // What a restart has shown is durable: the next thing may be a power cut.
        if rng.random() {
            sim.power_cut()
        } else {
            sim.kill()
        }
    }
}

/// The log does not list groups without anything.
fn strip(model: &Model) -> Model {
    let used = |group: &ModelGroup| *group != ModelGroup::default();
    model
        .iter()
        .filter(|(_, group)| used(group))
        .map(|(id, group)| (*id, group.clone()))
        .collect()
}

#[test]
fn a_crash_keeps_a_prefix_that_reaches_the_last_acknowledgement() {
    let mut tally = Tally {
        acknowledged: 0,
        lost: 0,
        kept_unacknowledged: 0,
        retired: 0,
        moved: 0,
        rotations: 0,
        turned_over: 0,
        disk_reads: 0,
    };
    for seed in 0..SEEDS {
        run(seed, &mut tally);
    }
    // The run means something only if every kind of thing happened.
    println!("{SEEDS} seeds: {tally:?}");
    assert!(tally.acknowledged > 10_000 && tally.lost > 1_000 && tally.kept_unacknowledged > 100);
    assert!(
        tally.rotations > 500 && tally.retired > 300 && tally.moved > 100,
        "segments came and went"
    );
    assert!(tally.turned_over > 1_000, "the log was turned over");
    assert!(tally.disk_reads > 10_000, "reads went to the disk");
}

const SEEDS: u64 = 1_200;
