//! A block on its way in: its id, its owner, and the proof that its bytes are what its digest says.
//!
//! Owns [`NewBlock`], which only [`BlockDraft::finish`] makes, so that nothing unverified reaches the disk. Refuses
//! a block that is too long, too short, cut into dust, or whose BLAKE3 digest is another.

use bytes::Bytes;
use proto::ids::{DatasetId, GroupId, ObjectVersionId, UnixMs, UploadEpoch};
use tokio::sync::OwnedSemaphorePermit;

/// Bytes a block may have (DESIGN section 6): sealed bytes, the last block of an object is shorter.
pub const BLOCK_BYTES_MAX: u32 = 8 << 20;
/// Bytes covered by one fast checksum: what a range read has to read at least.
pub const UNIT_BYTES: usize = 64 << 10;
/// Bytes a frame has at least, but for a block's last: a handle costs some 100 bytes, and a block of one-byte frames
/// would cost a hundred times its length.
pub const FRAME_BYTES_MIN: usize = 4 << 10;

/// Position of a block in its object version, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockNumber(pub u32);

/// Which block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// Of which object version.
    pub version: ObjectVersionId,
    /// Which of its blocks.
    pub number: BlockNumber,
}

/// BLAKE3-256 of a block's sealed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockDigest(pub [u8; 32]);

impl TryFrom<&[u8]> for BlockDigest {
    type Error = std::array::TryFromSliceError;
    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self(bytes.try_into()?))
    }
}

/// Whose block it is and since when: what garbage collection and receipts go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockOwner {
    /// The shard of the dataset.
    pub shard: GroupId,
    /// The dataset.
    pub dataset: DatasetId,
    /// The shard's upload epoch under which it was uploaded.
    pub upload_epoch: UploadEpoch,
    /// This node's clock at the upload's first frame, or later; never earlier.
    pub begun_at: UnixMs,
}

/// What is known of a block before its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    /// Which block.
    pub key: BlockKey,
    /// Whose.
    pub owner: BlockOwner,
    /// What its bytes must hash to.
    pub digest: BlockDigest,
    /// How many bytes.
    pub bytes: u32,
}

/// Room for a block's bytes in memory, given back when dropped. See [`super::BlockStore::room`].
#[derive(Debug)]
pub struct Room {
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Why bytes are not the block they were announced as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DraftError {
    /// Empty, or over [`BLOCK_BYTES_MAX`].
    #[error("a block has 1 to {BLOCK_BYTES_MAX} bytes, {bytes} were announced")]
    Length {
        /// Announced.
        bytes: u32,
    },
    /// More bytes than announced.
    #[error("more bytes came than the {bytes} announced")]
    TooLong {
        /// Announced.
        bytes: u32,
    },
    /// Fewer bytes than announced.
    #[error("{received} of {bytes} bytes came")]
    TooShort {
        /// Announced.
        bytes: u32,
        /// Received.
        received: u32,
    },
    /// A frame that is neither the block's last nor of [`FRAME_BYTES_MIN`].
    #[error("a frame of {bytes} bytes is too small")]
    Dust {
        /// Its length.
        bytes: usize,
    },
    /// The bytes hash to something else.
    #[error("the bytes do not match the announced digest")]
    Digest,
}

/// A block being received. Holds its frames as they came, without another copy.
pub struct BlockDraft {
    head: BlockHead,
    frames: Vec<Bytes>,
    received: u32,
    hasher: blake3::Hasher,
    sums: UnitSums,
    room: Room,
}

/// A block whose bytes match its digest.
pub struct NewBlock {
    pub(super) head: BlockHead,
    pub(super) frames: Vec<Bytes>,
    pub(super) sums: Vec<u32>,
    pub(super) _room: Room,
}

impl BlockDraft {
    /// Begins to receive. `room` is for at least `head.bytes`.
    pub fn new(head: BlockHead, room: Room) -> Result<Self, DraftError> {
        if head.bytes == 0 || head.bytes > BLOCK_BYTES_MAX {
            return Err(DraftError::Length { bytes: head.bytes });
        }
        Ok(Self {
            head,
            frames: Vec::new(),
            received: 0,
            hasher: blake3::Hasher::new(),
            sums: UnitSums::default(),
            room,
        })
    }

    /// Takes the next bytes.
    pub fn push(&mut self, frame: Bytes) -> Result<(), DraftError> {
        let left = self.head.bytes - self.received;
        let bytes = match u32::try_from(frame.len()) {
            Ok(bytes) if bytes <= left => bytes,
            _ => {
                return Err(DraftError::TooLong {
                    bytes: self.head.bytes,
                });
            }
        };
        if frame.is_empty() || (frame.len() < FRAME_BYTES_MIN && bytes < left) {
            return Err(DraftError::Dust { bytes: frame.len() });
        }
        self.received += bytes;
        self.hasher.update(&frame);
        self.sums.update(&frame);
        self.frames.push(frame);
        Ok(())
    }

    /// Whether all its bytes have come.
    pub fn complete(&self) -> bool {
        self.received == self.head.bytes
    }

    /// Checks length and digest.
    pub fn finish(self) -> Result<NewBlock, DraftError> {
        if !self.complete() {
            return Err(DraftError::TooShort {
                bytes: self.head.bytes,
                received: self.received,
            });
        }
        if self.hasher.finalize().as_bytes() != &self.head.digest.0 {
            return Err(DraftError::Digest);
        }
        let sums = self.sums.finish();
        Ok(NewBlock {
            head: self.head,
            frames: self.frames,
            sums,
            _room: self.room,
        })
    }
}

impl NewBlock {
    /// What it is.
    pub fn head(&self) -> &BlockHead {
        &self.head
    }
}

/// CRC32C of each [`UNIT_BYTES`] of a stream cut anywhere.
#[derive(Default)]
pub(super) struct UnitSums {
    done: Vec<u32>,
    current: u32,
    filled: usize,
}

impl UnitSums {
    pub(super) fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(UNIT_BYTES - self.filled));
            self.current = crc32c::crc32c_append(self.current, now);
            self.filled += now.len();
            if self.filled == UNIT_BYTES {
                self.done.push(std::mem::take(&mut self.current));
                self.filled = 0;
            }
            data = later;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u32> {
        if self.filled > 0 {
            self.done.push(self.current);
        }
        self.done
    }
}

/// Units of a block of `bytes`.
pub(super) fn units(bytes: u32) -> usize {
    (bytes as usize).div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    fn room() -> Room {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned();
        Room {
            _permit: permit.expect("one permit"),
        }
    }

    fn head(data: &[u8]) -> BlockHead {
        BlockHead {
            key: BlockKey {
                version: ObjectVersionId([1; 16]),
                number: BlockNumber(0),
            },
            owner: BlockOwner {
                shard: GroupId(16),
                dataset: DatasetId([2; 16]),
                upload_epoch: UploadEpoch(1),
                begun_at: UnixMs(1),
            },
            digest: BlockDigest(*blake3::hash(data).as_bytes()),
            bytes: u32::try_from(data.len()).expect("a test's length"),
        }
    }

    #[test]
    fn checksums_do_not_depend_on_where_frames_are_cut() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let whole: Vec<u32> = data.chunks(UNIT_BYTES).map(crc32c::crc32c).collect();
        for cut in [FRAME_BYTES_MIN, 5_000, UNIT_BYTES - 1, UNIT_BYTES, 199_999] {
            let mut draft = BlockDraft::new(head(&data), room()).expect("length is fine");
            for frame in data.chunks(cut) {
                draft.push(Bytes::copy_from_slice(frame)).expect("fits");
            }
            let block = draft.finish().expect("digest matches");
            assert_eq!(block.sums, whole, "cut every {cut}");
            assert_eq!(block.sums.len(), units(block.head.bytes));
        }
    }

    #[test]
    fn what_is_not_the_announced_block_is_refused() {
        let data = vec![7; 10_000];
        let draft = |head| BlockDraft::new(head, room()).expect("length is fine");
        for bytes in [0, BLOCK_BYTES_MAX + 1] {
            let wrong = BlockHead {
                bytes,
                ..head(&data)
            };
            assert_eq!(
                BlockDraft::new(wrong, room()).err(),
                Some(DraftError::Length { bytes })
            );
        }
        let mut short = draft(head(&data));
        short.push(Bytes::from(vec![7; 9_999])).expect("fits");
        let refused = DraftError::TooShort {
            bytes: 10_000,
            received: 9_999,
        };
        assert_eq!(short.finish().err(), Some(refused));
        let mut long = draft(head(&data));
        let refused = long.push(Bytes::from(vec![7; 10_001])).err();
        assert_eq!(refused, Some(DraftError::TooLong { bytes: 10_000 }));
        let mut dust = draft(head(&data));
        assert_eq!(
            dust.push(Bytes::from(vec![7; 9])).err(),
            Some(DraftError::Dust { bytes: 9 })
        );
        assert_eq!(
            dust.push(Bytes::new()).err(),
            Some(DraftError::Dust { bytes: 0 })
        );
        let mut other = draft(head(&data));
        other.push(Bytes::from(vec![8; 10_000])).expect("fits");
        assert_eq!(other.finish().err(), Some(DraftError::Digest));
    }
}
