//! Whether each segment is where a start looks for it, under a header that a start can read.
//!
//! Owns what a scrub of blocks cannot see: reads go by open handles and by what is in memory, so a file that was
//! removed, or a header that went bad, shows only at the next start, when its blocks are missing all at once. Refuses
//! to believe that a file is the store's own by its name: only one that carries the segment's salt is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::BlockStore;
use super::error::StoreFailed;
use super::header::{RECORDS_AT, SegmentHeader};
use super::read::is_loss;
use super::writer::Shared;

/// What a look at all segments found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentsChecked {
    /// Segments looked at.
    pub segments: u64,
    /// Headers that had gone bad and were written again.
    pub mended: u64,
    /// Segments whose file is gone, or is another one.
    pub lost: u64,
    /// Blocks in them that count as damaged now.
    pub lost_blocks: u64,
    /// Segments that could not be looked at, for a reason that is not theirs.
    pub unread: u64,
}

/// How a segment stands on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Whole,
    /// Something has its name, and not its header.
    Unlike,
    Gone,
}

impl BlockStore {
    /// Looks at every segment's name and header. Mends headers; notes the blocks of a lost segment as damaged.
    /// *Blocks.*
    pub fn check_segments(&self) -> Result<SegmentsChecked, Arc<StoreFailed>> {
        let mut checked = SegmentsChecked::default();
        for header in self.shared.segments.headers() {
            checked.segments += 1;
            match self.shared.stand(header)? {
                Stood::Whole => {}
                Stood::Mended => checked.mended += 1,
                Stood::Unread => checked.unread += 1,
                Stood::Lost { blocks } => {
                    checked.lost += 1;
                    checked.lost_blocks += blocks;
                }
            }
        }
        Ok(checked)
    }
}

/// What came of one segment.
enum Stood {
    Whole,
    Mended,
    Lost { blocks: u64 },
    Unread,
}

impl Shared {
    fn stand(&self, header: SegmentHeader) -> Result<Stood, Arc<StoreFailed>> {
        let id = header.id.0;
        let unread = |error: &io::Error| {
            tracing::warn!(segment = id, %error, "a segment could not be looked at");
            Ok(Stood::Unread)
        };
        match self.look(header) {
            Ok(Standing::Whole) => return Ok(Stood::Whole),
            // By the handle that is open, if one is: where the name leads to another file, that one is left alone.
            Ok(Standing::Unlike) if !self.write_header_again(header)? => return Ok(Stood::Unread),
            Ok(_) => {}
            Err(error) => return unread(&error),
        }
        match self.look(header) {
            Ok(Standing::Whole) => {
                tracing::error!(
                    segment = id,
                    "a segment's header was damaged; written again"
                );
                Ok(Stood::Mended)
            }
            Ok(_) => {
                let blocks = self.give_up_segment(header.id)?;
                let Some(blocks) = blocks else {
                    return Ok(Stood::Whole);
                };
                self.counts
                    .damaged_found
                    .fetch_add(blocks, Ordering::Relaxed);
                metrics::counter!("reduit_blocks_damaged_total").increment(blocks);
                tracing::error!(
                    segment = id,
                    blocks,
                    "a segment's file is gone; its blocks are missing"
                );
                self.damage_noted.notify_one();
                Ok(Stood::Lost { blocks })
            }
            Err(error) => unread(&error),
        }
    }

    /// By its name, as a start does.
    fn look(&self, header: SegmentHeader) -> io::Result<Standing> {
        let mut found = vec![0; RECORDS_AT as usize];
        let read = self
            .segments
            .disk()
            .open(&self.segments.path(header.id))
            .and_then(|file| file.read_at(&mut found, 0));
        match read {
            Ok(()) if found == header.encode() => Ok(Standing::Whole),
            Ok(()) => Ok(Standing::Unlike),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Standing::Gone),
            Err(error) if is_loss(&error) => Ok(Standing::Unlike),
            Err(error) => Err(error),
        }
    }
}
