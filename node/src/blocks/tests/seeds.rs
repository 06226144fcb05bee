//! Random puts, unlinks, cuts, kills, failed syncs, full disks and flips, over many seeds.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::disk::SimFaults;

use super::model::{Data, Model};
use super::*;

const SEEDS: u64 = 1_000;
const STEPS: usize = 60;

struct Run {
    seed: u64,
    rng: StdRng,
    disk: SimDisk,
    store: BlockStore,
    model: Model,
    waiting: Vec<Waiting>,
    may_flip: bool,
    epoch: u64,
    counts: Counted,
}

/// So that a run without faults is not taken for a run that survives them.
#[derive(Debug, Default, Clone, Copy)]
struct Counted {
    puts: u64,
    unlinks: u64,
    conflicts: u64,
    full: u64,
    failed: u64,
    torn: u64,
    gaps: u64,
    rewritten: u64,
}

enum Waiting {
    Put {
        key: BlockKey,
        epoch: u64,
        data: Data,
        outcome: Outcome<Result<Stored, PutError>>,
    },
    Unlink {
        keys: Vec<BlockKey>,
        epoch_max: u64,
        outcome: Outcome<Result<u64, UnlinkError>>,
    },
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let (store, _) = open(&disk);
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed ^ 0x5eed),
            disk,
            store,
            model: Model::default(),
            waiting: Vec::new(),
            may_flip: seed % 2 == 1,
            epoch: 10,
            counts: Counted::default(),
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..=39 => self.put(),
            40..=54 => self.unlink(),
            55..=74 => self.turn(),
            75..=79 => self.epoch += 1,
            80..=82 => {
                self.drain();
                let _ = self.store.roll();
            }
            83..=86 => self.fail_something(),
            87..=89 => self.capacity(),
            90..=92 if self.may_flip => self.flip(),
            93..=97 => self.crash(),
            _ => {
                self.drain();
                if self.store.failed().is_none() {
                    self.model.check(&self.store, self.seed);
                }
            }
        }
    }

    fn put(&mut self) {
        let key = key(self.rng.random_range(0..8), self.rng.random_range(0..4));
        // Mostly the same bytes again, as a retry has them; sometimes others.
        let other = self.rng.random_bool(0.1);
        let mode = if self.rng.random_bool(0.1) {
            PutMode::Repair
        } else {
            PutMode::Upload
        };
        let salt = u64::from(key.version.0[0]) << 8 | u64::from(key.number.0);
        let variant = if other {
            self.rng.random_range(1..4)
        } else {
            0
        };
        let len = 1 + (salt as usize * 1_237 + variant * 991) % 30_000;
        let bytes = Arc::new(data(salt << 8 | variant as u64, len));
        let epoch = self.epoch - self.rng.random_range(0..2);
        let block = block(&self.store, key, epoch, &bytes);
        self.model.put_begun(key, epoch, &bytes);
        let outcome = submit_put(&self.store, block, mode);
        self.waiting.push(Waiting::Put {
            key,
            epoch,
            data: bytes,
            outcome,
        });
    }

    fn unlink(&mut self) {
        let all = self.model.keys();
        let mut keys = Vec::new();
        for _ in 0..self.rng.random_range(1..4) {
            keys.extend(all.get(self.rng.random_range(0..all.len().max(1))).copied());
        }
        keys.sort_unstable();
        keys.dedup();
        let epoch_max = if self.rng.random_bool(0.2) {
            self.epoch - 1
        } else {
            self.epoch
        };
        keys.iter()
            .for_each(|key| self.model.unlink_begun(*key, epoch_max));
        let outcome = submit_unlink(&self.store, keys.clone(), epoch_max);
        self.waiting.push(Waiting::Unlink {
            keys,
            epoch_max,
            outcome,
        });
    }

    fn turn(&mut self) {
        self.store.turn();
        self.collect();
    }

    fn drain(&mut self) {
        while self.store.turn() {}
        self.collect();
    }

    /// Takes the answers that have come, in the order of the requests.
    fn collect(&mut self) {
        let mut later = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            match &waiting {
                Waiting::Put {
                    key,
                    epoch,
                    data,
                    outcome,
                } => match outcome.lock().take() {
                    None => {}
                    Some(Ok(Stored::Written)) => {
                        self.counts.puts += 1;
                        self.model.synced();
                        self.model.put_done(*key, *epoch, data);
                        continue;
                    }
                    // Held under this epoch or a newer one: which, the next look at the store tells.
                    Some(Ok(Stored::Held)) => {
                        let held = self.store.of_version(key.version);
                        let held = held
                            .iter()
                            .find(|h| h.key == *key)
                            .map(|h| h.upload_epoch.0);
                        if let Some(held) = held {
                            assert!(
                                held >= *epoch,
                                "seed {}: held under an older epoch",
                                self.seed
                            );
                            self.model.put_done(*key, held, data);
                        }
                        continue;
                    }
                    Some(Err(error)) => {
                        match &error {
                            PutError::Conflict => self.counts.conflicts += 1,
                            PutError::Full { .. } => self.counts.full += 1,
                            PutError::Failed(_) => self.counts.failed += 1,
                            PutError::Closed => panic!("nobody closed the store"),
                        }
                        // A conflict changed nothing; else it may be there, after what was answered before it.
                        match error {
                            PutError::Conflict => {}
                            PutError::Full { .. } => self.model.put_full(*key),
                            _ => self.model.put_begun(*key, *epoch, data),
                        }
                        continue;
                    }
                },
                Waiting::Unlink {
                    keys,
                    epoch_max,
                    outcome,
                } => match outcome.lock().take() {
                    None => {}
                    Some(Ok(_)) => {
                        self.counts.unlinks += 1;
                        keys.iter()
                            .for_each(|key| self.model.unlink_done(*key, *epoch_max));
                        continue;
                    }
                    Some(Err(_)) => {
                        keys.iter()
                            .for_each(|key| self.model.unlink_begun(*key, *epoch_max));
                        continue;
                    }
                },
            }
            later.push(waiting);
        }
        // An answer says what is certain; what was asked for after it is still open.
        for waiting in &later {
            match waiting {
                Waiting::Put {
                    key, epoch, data, ..
                } => self.model.put_begun(*key, *epoch, data),
                Waiting::Unlink {
                    keys, epoch_max, ..
                } => {
                    keys.iter()
                        .for_each(|key| self.model.unlink_begun(*key, *epoch_max));
                }
            }
        }
        self.waiting = later;
    }

    fn fail_something(&mut self) {
        let within = self.rng.random_range(0..3);
        match self.rng.random_bool(0.7) {
            true => self.disk.fail_sync_in(within),
            false => self.disk.fail_write_in(within),
        }
        self.drain();
    }

    fn capacity(&mut self) {
        let extra = self.rng.random_range(0..60_000);
        self.disk.set_capacity(self.disk.used_bytes() + extra);
        for _ in 0..4 {
            self.put();
        }
        self.drain();
        self.disk.set_capacity(u64::MAX);
    }

    fn flip(&mut self) {
        let paths = self.disk.paths();
        let Some(path) = paths.get(self.rng.random_range(0..paths.len().max(1))) else {
            return;
        };
        let bytes = self.disk.content(path).map_or(0, |content| content.len());
        if bytes > 0 {
            self.model.flipped |= self
                .disk
                .flip_bit(path, self.rng.random_range(0..bytes as u64 * 8));
        }
    }

    fn crash(&mut self) {
        // What was handed in and not answered stays possible; its answers are gone with the process.
        self.collect();
        self.waiting.clear();
        match self.rng.random_bool(0.7) {
            true => self.disk.power_cut(),
            false => self.disk.kill(),
        }
        let (store, report) = open(&self.disk);
        self.store = store;
        self.counts.torn += report.torn;
        self.counts.gaps += report.gaps;
        self.counts.rewritten += u64::from(report.rewritten);
        self.model.headers_lost |=
            report.gaps > 0 || report.tail_cut_bytes > 0 || report.unreadable_segments > 0;
        self.model.check(&self.store, self.seed);
    }
}

/// P5 for one replica's blocks: what was acknowledged is there after every cut, and equal, or says that it is damaged
/// (only where bits were flipped); what was unlinked does not come back; the index is what a model says.
#[test]
fn acknowledged_blocks_survive_and_unlinked_ones_stay_gone() {
    let mut total = Counted::default();
    let mut faults = SimFaults::default();
    for seed in 0..SEEDS {
        let mut run = Run::new(seed);
        for _ in 0..STEPS {
            run.step();
            // The process exits; what was under way is unknown until it is back.
            if run.store.failed().is_some() {
                run.crash();
            }
        }
        run.drain();
        run.crash();
        let seen = run.disk.faults();
        faults.power_cuts += seen.power_cuts;
        faults.sectors_lost += seen.sectors_lost;
        faults.sectors_torn += seen.sectors_torn;
        faults.syncs_failed += seen.syncs_failed;
        faults.bits_flipped += seen.bits_flipped;
        total.puts += run.counts.puts;
        total.unlinks += run.counts.unlinks;
        total.conflicts += run.counts.conflicts;
        total.full += run.counts.full;
        total.failed += run.counts.failed;
        total.torn += run.counts.torn;
        total.gaps += run.counts.gaps;
        total.rewritten += run.counts.rewritten;
    }
    println!("{total:?} {faults:?}");
    for (what, count) in [
        ("puts", total.puts),
        ("unlinks", total.unlinks),
        ("conflicts", total.conflicts),
        ("refusals for want of space", total.full),
        ("failed puts", total.failed),
        ("torn records", total.torn),
        ("gaps", total.gaps),
        ("starts after a failed sync", total.rewritten),
        ("power cuts", faults.power_cuts),
        ("sectors lost", faults.sectors_lost),
        ("sectors torn", faults.sectors_torn),
        ("failed syncs", faults.syncs_failed),
        ("bits flipped", faults.bits_flipped),
    ] {
        assert!(count > 100, "too few {what} to mean anything: {count}");
    }
}
