//! What lies on a node's disk besides blocks: the state of each group, and the Raft log.
//!
//! Owns the order in which a pass reads them. Refuses to mend them: a state that cannot be read ends the process, and
//! of a damaged log the operator is told, since the member goes on until its next start.

use std::sync::Arc;

use replica::Group;
use replica::log::RaftLog;
use replica::state::StatePlace;

use super::passes::Pace;
use super::{Repair, RepairError, blocking};

/// Where the rest is.
pub struct Rest {
    /// The log of all groups.
    pub log: RaftLog,
    /// The groups there are.
    pub groups: Box<dyn Fn() -> Vec<Group> + Send + Sync>,
}

/// What a pass has read of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestRead {
    /// Bytes of states.
    pub state_bytes: u64,
    /// Segments of the log.
    pub log_segments: u64,
    /// Bytes of them.
    pub log_bytes: u64,
    /// What the next start would say of the first damaged segment, and refuse.
    pub log_damage: Option<String>,
}

impl Repair {
    /// Has passes of the scrubber read the rest of the node's files too. The first one counts.
    pub fn also_reads(&self, rest: Rest) {
        let _ = self.rest.set(rest);
    }

    /// Reads all of it once. Says `false` where another pass is asked for meanwhile.
    pub(super) async fn read_rest(&self, pace: &mut Pace) -> Result<bool, RepairError> {
        let Some(rest) = self.rest.get() else {
            return Ok(true);
        };
        for group in (rest.groups)() {
            if !self.read_state(&group, pace).await? {
                return Ok(false);
            }
        }
        let mut after = None;
        loop {
            if !self.scrubber.undisturbed(pace).await {
                return Ok(false);
            }
            let log = rest.log.clone();
            let Some(segment) = blocking(move || log.read_again(after)).await? else {
                return Ok(true);
            };
            after = Some(segment.number);
            pace.pay(segment.bytes);
            if let Some(error) = &segment.damage {
                metrics::counter!("reduit_scrub_log_damaged_total").increment(1);
                tracing::error!(
                    error = %transport::fault::Chain(error),
                    "the raft log is damaged: this member will not start again; replace it now"
                );
            }
            self.scrubber.change(self.counts.repaired(), |pass| {
                pass.rest.log_segments += 1;
                pass.rest.log_bytes += segment.bytes;
                let said = segment
                    .damage
                    .map(|error| transport::fault::Chain(&error).to_string());
                pass.rest.log_damage = pass.rest.log_damage.take().or(said);
            });
        }
    }

    async fn read_state(&self, group: &Group, pace: &mut Pace) -> Result<bool, RepairError> {
        let (mut place, mut done) = (StatePlace::default(), false);
        while !done {
            if !self.scrubber.undisturbed(pace).await {
                return Ok(false);
            }
            let (group, bytes_max) = (group.clone(), pace.step_bytes());
            // Who stops the node waits until nobody holds its groups, and with them their folders.
            let held = Arc::clone(&self.shards);
            let (read, moved) = blocking(move || {
                let read = group
                    .view()
                    .map(|view| view.read_again(&mut place, bytes_max));
                drop((group, held));
                (read, place)
            })
            .await?;
            let read = read.map_err(RepairError::State)?;
            (place, done) = (moved, read.done);
            pace.pay(read.bytes);
            self.scrubber.change(self.counts.repaired(), |pass| {
                pass.rest.state_bytes += read.bytes;
            });
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;
    use proto::ids::{GroupId, LogIndex, Term};
    use replica::disk::SimDisk;
    use replica::log::{LogEntry, LogOptions};

    use super::*;

    fn options() -> LogOptions {
        LogOptions {
            segment_bytes: 80 << 10,
            payload_bytes_max: 4 << 10,
            ..LogOptions::default()
        }
    }

    fn append(log: &RaftLog, indexes: std::ops::Range<u64>) {
        let entry = |index| LogEntry {
            term: Term(1),
            index: LogIndex(index),
            payload: Bytes::from(vec![0xA5; 4_000]),
        };
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let done = Box::new(move |outcome| drop(tell.send(outcome)));
        log.group(GroupId(16))
            .append(indexes.map(entry).collect(), done);
        told.recv()
            .expect("the log answers")
            .expect("a healthy disk");
    }

    fn damage(log: &RaftLog) -> (usize, Vec<String>) {
        let (mut after, mut segments, mut damage) = (None, 0, Vec::new());
        while let Some(segment) = log.read_again(after) {
            segments += 1;
            damage.extend(segment.damage.map(|error| error.to_string()));
            after = Some(segment.number);
        }
        (segments, damage)
    }

    /// The last segment, which is being written, is read up to what is written.
    #[test]
    fn a_log_that_a_start_would_refuse_is_told_of_and_goes_on() {
        let disk = SimDisk::new(1);
        let log = RaftLog::open(disk.boot(), Path::new("/log"), options()).expect("a folder");
        append(&log, 1..60);
        let (segments, found) = damage(&log);
        assert!(segments > 3 && found.is_empty(), "{segments}: {found:?}");
        let mut paths = disk.paths();
        paths.retain(|path| path.extension().is_some_and(|found| found == "log"));
        let mut next = 60;
        for (path, at) in [(&paths[0], 40_000), (&paths[segments - 1], 36_000)] {
            assert!(disk.flip_bit(path, at * 8));
            let (_, found) = damage(&log);
            assert!(
                found.len() == 1 && found[0].contains("is damaged"),
                "{found:?}"
            );
            assert!(log.fatal().is_none());
            append(&log, next..next + 4);
            next += 4;
            assert!(disk.flip_bit(path, at * 8));
            assert_eq!(damage(&log).1, Vec::<String>::new());
        }
        disk.boot().remove(&paths[1]).expect("it is there");
        assert!(!damage(&log).1.is_empty(), "a start opens it by its name");
        log.close().expect("a healthy disk");
    }
}
