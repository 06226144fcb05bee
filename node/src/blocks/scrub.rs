//! Re-reading blocks at rest, so that damage is found while other copies exist.
//!
//! Owns the cursor, in order of key: what is indexed is what must be readable, so a block whose header went bad since
//! the start is met too. Refuses to set the pace: the caller asks for a number of bytes. The calls block on the
//! device.

use proto::ids::ObjectVersionId;

use super::BlockStore;
use super::block::{BlockKey, BlockNumber};
use super::error::ReadError;

/// Blocks looked up at a time.
const PAGE_BLOCKS: usize = 64;

/// Where a scrub stands. A round is over when every block has been read, wherever it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubCursor {
    after: Option<BlockKey>,
    /// Where each round begins; `None` for the first block.
    begin: Option<BlockKey>,
    /// The last block has been read, and those up to `begin` are left.
    wrapped: bool,
}

/// What one step of a scrub did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Blocks read whole, and found whole.
    pub blocks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Blocks found damaged, noted for repair.
    pub damaged: u64,
    /// Blocks that were not read, for a reason that is not theirs.
    pub unread: u64,
    /// Every block has been read: the next step starts a new round.
    pub round_done: bool,
}

impl ScrubCursor {
    /// Starts at a place given by `seed`, so that a node restarted often does not read the same blocks each time.
    /// Version ids are random, so that a random one is somewhere in the middle.
    pub fn starting_near(seed: u64) -> Self {
        let mut version = [0; 16];
        version[..8].copy_from_slice(&seed.to_be_bytes());
        let begin = Some(BlockKey {
            version: ObjectVersionId(version),
            number: BlockNumber(0),
        });
        Self {
            after: begin,
            begin,
            wrapped: false,
        }
    }

    fn begin_again(&mut self) {
        self.after = self.begin;
        self.wrapped = false;
    }

    fn is_past_the_round(&self, key: BlockKey) -> bool {
        self.wrapped && self.begin.is_some_and(|begin| key > begin)
    }
}

impl BlockStore {
    /// Reads and checks about `bytes_max` bytes of blocks from the cursor on. *Blocks.*
    pub fn scrub(&self, cursor: &mut ScrubCursor, bytes_max: u64) -> Scrubbed {
        let mut done = Scrubbed::default();
        while done.bytes < bytes_max {
            let page = self.page(cursor.after, PAGE_BLOCKS);
            if page.is_empty() && cursor.begin.is_some() && !cursor.wrapped {
                cursor.after = None;
                cursor.wrapped = true;
                continue;
            }
            if page
                .first()
                .is_none_or(|held| cursor.is_past_the_round(held.key))
            {
                cursor.begin_again();
                done.round_done = true;
                break;
            }
            for held in page {
                if done.bytes >= bytes_max || cursor.is_past_the_round(held.key) {
                    break;
                }
                cursor.after = Some(held.key);
                if held.damaged {
                    continue;
                }
                done.bytes += u64::from(held.bytes);
                match self.read_whole(held.key) {
                    Ok(()) => done.blocks += 1,
                    Err(ReadError::Damaged) => done.damaged += 1,
                    // In the next round.
                    Err(ReadError::Unreadable) => done.unread += 1,
                    // Unlinked or replaced since the page was taken.
                    Err(ReadError::NotHeld | ReadError::OutOfRange { .. }) => {}
                }
            }
        }
        done
    }

    fn read_whole(&self, key: BlockKey) -> Result<(), ReadError> {
        let mut reader = self.read(key, 0..0)?;
        while reader.piece()?.is_some() {}
        Ok(())
    }
}
