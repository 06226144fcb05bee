//! Re-reading segments at rest as a start does, so that damage is known while the other members are whole.
//!
//! Owns what a start would say of each segment. Refuses to end the log for it: what is needed of a damaged segment may
//! be in memory, or in the state, and the next start alone has to read it.

use std::io;

use super::core::Shared;
use super::replayed::Replayed;
use super::segment::SegmentReader;
use super::{LogError, RaftLog};

/// One segment, read again.
#[derive(Debug)]
pub struct SegmentAtRest {
    /// Its number.
    pub number: u32,
    /// Bytes of it that a start would read; 0 where they cannot be read.
    pub bytes: u64,
    /// Why a start would refuse it.
    pub damage: Option<LogError>,
}

impl RaftLog {
    /// Reads the first segment after `after` again, up to what is written; `None` after the last. *Blocks* for as long
    /// as a segment takes to read.
    pub fn read_again(&self, after: Option<u32>) -> Option<SegmentAtRest> {
        self.shared.read_again(after)
    }
}

impl Shared {
    fn read_again(&self, after: Option<u32>) -> Option<SegmentAtRest> {
        let (number, end) = {
            let state = self.state.lock();
            let from = after.map_or(0, |after| after.saturating_add(1));
            let written = state.written;
            if from > written.segment {
                return None;
            }
            let (number, _) = state.segments.range(from..=written.segment).next()?;
            let is_last = *number == written.segment;
            (*number, is_last.then_some(written.offset))
        };
        let (bytes, damage) = match self.read_segment_again(number, end) {
            Ok(bytes) => (bytes, None),
            // Given up and written over meanwhile.
            Err(_) if !self.state.lock().segments.contains_key(&number) => (0, None),
            Err(error) if !is_loss(&error) => {
                tracing::warn!(segment = number, %error, "a segment of the raft log was not read again");
                (0, None)
            }
            Err(error) => (0, Some(error)),
        };
        Some(SegmentAtRest {
            number,
            bytes,
            damage,
        })
    }

    fn read_segment_again(&self, number: u32, end: Option<u32>) -> Result<u64, LogError> {
        let (header, file) = self.open_segment(number)?;
        let end = match end {
            Some(end) => end,
            None => self.open_segment(number + 1)?.0.previous_end,
        };
        let reader = SegmentReader {
            path: self.path(number),
            file: &*file,
            salt: header.salt,
            bytes: self.options.segment_bytes,
        };
        let groups = header.groups.iter();
        let mut groups = groups.map(|(id, meta)| (*id, Replayed::at(meta))).collect();
        reader.replay(number, Some(end), &mut groups)?;
        Ok(end.into())
    }
}

/// Whether an error tells of the medium or the file. Others (too many open files, no memory) pass.
fn is_loss(error: &LogError) -> bool {
    let LogError::Device { source, .. } = error else {
        return true;
    };
    matches!(
        source.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    ) || source.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}
