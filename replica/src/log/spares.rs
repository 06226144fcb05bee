//! Segments before and after their life: prepared ahead, and retired when nothing in them is live.
//!
//! Owns the files that are no segments yet or no longer. A spare gets its name only when every block of it is
//! written and durable, so that an append is a sync of blocks that exist. Refuses to fill the disk: below the
//! configured floor, or when the system says full, no new segment is made and the last spare is the reserve.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::accepted::{Segment, State, Supply};
use super::core::Shared;
use super::writer::FULL_RETRY;
use super::{LogError, Retired};
use crate::disk::{DiskFile, is_full};

/// A file of a segment's length whose blocks are allocated and durable.
pub(super) struct Spare {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
}

/// Spares to have: one to go on with, one in reserve.
const SPARES: usize = 2;
/// Spares to keep when segments retire: purges come in bursts, and a segment made anew is written twice.
const SPARES_KEPT: usize = 4;

/// How long upkeep that could not be done is left alone.
const UPKEEP_RETRY: Duration = Duration::from_millis(5);

enum Job {
    Nothing,
    Retire(u32, Segment),
    Prepare,
    Clean,
}

impl Shared {
    /// Retires, prepares or cleans one segment. Answers whether there was anything to do.
    pub(super) fn upkeep_step(&self) -> bool {
        let job = {
            let mut state = self.state.lock();
            if state.fatal.is_some() || state.closing {
                return false;
            }
            if state.must_clear() {
                let writing = state.written.segment;
                state.retire(writing);
            }
            if let Some((number, segment)) = state.retired.pop_front() {
                state.retiring += 1;
                Job::Retire(number, segment)
            } else if state.spares.len() < SPARES.max(state.spares_wanted)
                && state.supply == Supply::Open
            {
                Job::Prepare
            } else if self.wants_cleaning(&state) {
                Job::Clean
            } else {
                Job::Nothing
            }
        };
        let outcome = match job {
            Job::Nothing => return false,
            Job::Retire(number, segment) => self.retire_segment(number, segment).map(|()| true),
            Job::Prepare => self.prepare().map(|()| true),
            Job::Clean => self.clean(),
        };
        self.room.notify_all();
        match outcome {
            Ok(did) => did,
            Err(error) => {
                self.fail(error, Vec::new());
                true
            }
        }
    }

    /// With nobody else to do it: makes one more spare, if `needed` are not there, for a caller that waits for room.
    pub(super) fn prepare_for_caller(&self, needed: usize) {
        {
            let mut state = self.state.lock();
            if state.spares.len() >= needed {
                return;
            }
            state.supply = Supply::Open;
        }
        let retired = {
            let mut state = self.state.lock();
            let retired = state.retired.pop_front();
            state.retiring += usize::from(retired.is_some());
            retired
        };
        let outcome = match retired {
            Some((number, segment)) => self.retire_segment(number, segment),
            None => self.prepare(),
        };
        if let Err(error) = outcome {
            self.fail(error, Vec::new());
        }
    }

    /// Makes one spare, or notes that the disk is full.
    fn prepare(&self) -> Result<(), LogError> {
        let made = self.make_spare()?;
        let mut state = self.state.lock();
        match made {
            Some(spare) => {
                state.supply = Supply::Open;
                state.spares.push(spare);
            }
            None => {
                if state.supply == Supply::Open {
                    tracing::warn!("disk full: no new raft log segment can be made");
                }
                state.supply = Supply::Full;
            }
        }
        Ok(())
    }

    /// A new spare, or `None` when the disk is full.
    pub(super) fn make_spare(&self) -> Result<Option<Spare>, LogError> {
        let number = self.spare_number();
        let unready = self
            .dir
            .join(format!("{UNREADY_PREFIX}{number:08x}{UNREADY_SUFFIX}"));
        let ready = self
            .dir
            .join(format!("{SPARE_PREFIX}{number:08x}{SPARE_SUFFIX}"));
        let bytes = self.options.segment_bytes;
        let free = self.disk.space_available(&self.dir);
        let floor = bytes.saturating_add(self.options.space_bytes_min);
        if free.map_err(|source| self.device_in_dir("ask the free space of", source))? < floor {
            return Ok(None);
        }
        let made = self.disk.create(&unready).and_then(|file| {
            file.zero(bytes)?;
            file.sync_data()?;
            self.disk.rename(&unready, &ready)?;
            self.disk.sync_dir(&self.dir)?;
            Ok(file)
        });
        match made {
            Ok(file) => Ok(Some(Spare { file, path: ready })),
            Err(error) if is_full(&error) => {
                // What could be written of it must not stay and keep the disk full.
                let removed = self
                    .disk
                    .remove(&unready)
                    .and_then(|()| self.disk.sync_dir(&self.dir));
                removed.map_err(|source| LogError::Device {
                    doing: "remove",
                    path: unready,
                    source,
                })?;
                Ok(None)
            }
            Err(source) => Err(LogError::Device {
                doing: "prepare",
                path: unready,
                source,
            }),
        }
    }

    /// Turns a segment into a spare, or removes it. Its name is durably gone before the next one is touched, so that
    /// segments go oldest first whatever a power cut keeps.
    fn retire_segment(&self, number: u32, segment: Segment) -> Result<(), LogError> {
        let path = self.path(number);
        let wanted = self.state.lock().spares.len() < SPARES_KEPT;
        // A reader may still hold the file: then its bytes must stay as they are.
        let alone = Arc::strong_count(&segment.file) == 1;
        let spare = self.spare_number();
        let ready = self
            .dir
            .join(format!("{SPARE_PREFIX}{spare:08x}{SPARE_SUFFIX}"));
        let outcome = if wanted && alone {
            let renamed = match self.options.retired {
                Retired::Reuse => self.disk.rename(&path, &ready),
                Retired::Zero => {
                    let unready = self
                        .dir
                        .join(format!("{UNREADY_PREFIX}{spare:08x}{UNREADY_SUFFIX}"));
                    self.disk
                        .rename(&path, &unready)
                        .and_then(|()| self.disk.sync_dir(&self.dir))
                        .and_then(|()| segment.file.zero(self.options.segment_bytes))
                        .and_then(|()| segment.file.sync_data())
                        .and_then(|()| self.disk.rename(&unready, &ready))
                }
            };
            renamed.map(|()| {
                Some(Spare {
                    file: segment.file,
                    path: ready,
                })
            })
        } else {
            self.disk.remove(&path).map(|()| None)
        };
        let spare = outcome
            .and_then(|spare| self.disk.sync_dir(&self.dir).map(|()| spare))
            .map_err(|source| self.device("retire", number, source))?;
        self.stats.lock().retired += 1;
        let mut state = self.state.lock();
        state.retiring -= 1;
        state.spares.extend(spare);
        // Blocks were freed, or are at hand: whether the disk is full is to be found out anew.
        state.supply = Supply::Open;
        Ok(())
    }

    fn spare_number(&self) -> u32 {
        let mut state = self.state.lock();
        let number = state.spare_next;
        state.spare_next += 1;
        number
    }

    pub(super) fn device_in_dir(&self, doing: &'static str, source: std::io::Error) -> LogError {
        LogError::Device {
            doing,
            path: self.dir.clone(),
            source,
        }
    }

    pub(super) fn upkeep_thread(&self) {
        loop {
            while self.upkeep_step() {}
            let mut state = self.state.lock();
            if state.fatal.is_some() || state.closing {
                return;
            }
            if self.has_upkeep(&state) {
                // Not to be done this moment: what it waits for is on its way to the disk.
                self.upkeep.wait_for(&mut state, UPKEEP_RETRY);
                continue;
            }
            if state.supply == Supply::Full {
                if self.upkeep.wait_for(&mut state, FULL_RETRY).timed_out() {
                    state.supply = Supply::Open;
                }
            } else {
                self.upkeep.wait(&mut state);
            }
        }
    }

    fn has_upkeep(&self, state: &State) -> bool {
        !state.retired.is_empty()
            || (state.spares.len() < SPARES.max(state.spares_wanted)
                && state.supply == Supply::Open)
            || self.wants_cleaning(state)
    }
}

/// Names of files in preparation; a restart removes them.
pub(super) const UNREADY_PREFIX: &str = "unready-";
pub(super) const UNREADY_SUFFIX: &str = ".tmp";
/// Names of spares; a restart takes them up.
pub(super) const SPARE_PREFIX: &str = "spare-";
pub(super) const SPARE_SUFFIX: &str = ".seg";
