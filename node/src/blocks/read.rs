//! Reading blocks: nothing leaves that was not checked.
//!
//! Owns the checks: the header on disk against the index, each 64 KiB against its checksum before it is handed out,
//! and a block read whole against its BLAKE3 digest. Refuses damage with a typed error and notes it for repair. The
//! calls block on the device.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use replica::disk::DiskFile;

use super::block::{BlockHead, BlockKey, UNIT_BYTES};
use super::error::ReadError;
use super::header::{RecordHeader, RecordKind, header_area};
use super::index::Location;
use super::writer::Shared;

/// Bytes handed out at a time: four units.
pub const PIECE_BYTES: usize = 4 * UNIT_BYTES;

/// Reads one block, or a range of it, in pieces of at most [`PIECE_BYTES`]. Holds one piece in memory.
pub struct BlockReader {
    shared: Arc<Shared>,
    key: BlockKey,
    at: Location,
    file: Arc<dyn DiskFile>,
    header: RecordHeader,
    sums: Vec<u32>,
    /// What is wanted, in bytes of the block.
    range: Range<u32>,
    next: u32,
    /// Present while the whole block is being read.
    hasher: Option<blake3::Hasher>,
}

impl BlockReader {
    pub(super) fn open(
        shared: &Arc<Shared>,
        key: BlockKey,
        range: Range<u32>,
    ) -> Result<Self, ReadError> {
        let slot = *shared.index.read().slot(&key).ok_or(ReadError::NotHeld)?;
        if slot.damaged {
            return Err(ReadError::Damaged);
        }
        let bytes = slot.at.bytes;
        let end = if range.end == 0 { bytes } else { range.end };
        if range.start >= end || end > bytes {
            return Err(ReadError::OutOfRange { bytes });
        }
        let opened = open_record(shared, slot.at)
            .map_err(|error| shared.read_failed(key, slot.at, &error))?
            .filter(|(_, header, _)| {
                header.head.key == key
                    && header.kind == RecordKind::Block
                    && slot.is(&header.head.digest)
            });
        let Some((file, header, sums)) = opened else {
            return Err(shared.damage(key, slot.at));
        };
        let whole = range.start == 0 && end == bytes;
        Ok(Self {
            shared: Arc::clone(shared),
            key,
            at: slot.at,
            file,
            header,
            sums,
            range: range.start..end,
            next: range.start,
            hasher: whole.then(blake3::Hasher::new),
        })
    }

    /// What is being read.
    pub fn head(&self) -> &BlockHead {
        &self.header.head
    }

    /// The next bytes; `None` after the last. The last piece of a whole block comes only if the digest fits.
    pub fn piece(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.next >= self.range.end {
            return Ok(None);
        }
        // From the start of the unit, because a checksum covers all of it, to the end of the piece's last.
        let unit_bytes = UNIT_BYTES as u32;
        let start = self.next / unit_bytes * unit_bytes;
        let end = (start + PIECE_BYTES as u32)
            .min(self.range.end)
            .next_multiple_of(unit_bytes);
        let end = end.min(self.at.bytes);
        let mut buffer = vec![0; (end - start) as usize];
        let data_at = self.at.offset() + header_area(self.at.bytes) + u64::from(start);
        self.file
            .read_at(&mut buffer, data_at)
            .map_err(|error| self.shared.read_failed(self.key, self.at, &error))?;
        let first = (start / unit_bytes) as usize;
        let sums = &self.sums[first..];
        if !buffer
            .chunks(UNIT_BYTES)
            .zip(sums)
            .all(|(unit, sum)| crc32c::crc32c(unit) == *sum)
        {
            return Err(self.shared.damage(self.key, self.at));
        }
        let until = end.min(self.range.end);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer);
            if until == self.range.end && hasher.finalize() != self.header.head.digest.0 {
                return Err(self.shared.damage(self.key, self.at));
            }
        }
        let skip = (self.next - start) as usize;
        let piece = Bytes::from(buffer).slice(skip..(until - start) as usize);
        self.next = until;
        Ok(Some(piece))
    }
}

/// The header of a block held, read from disk.
pub(super) fn head(shared: &Arc<Shared>, key: BlockKey) -> Result<BlockHead, ReadError> {
    Ok(*BlockReader::open(shared, key, 0..0)?.head())
}

impl Shared {
    fn read_failed(&self, key: BlockKey, at: Location, error: &io::Error) -> ReadError {
        if is_loss(error) {
            return self.damage(key, at);
        }
        tracing::warn!(version = %key.version, number = key.number.0, %error, "a block could not be read");
        ReadError::Unreadable
    }

    /// Notes damage unless the block was unlinked or replaced while it was read.
    fn damage(&self, key: BlockKey, at: Location) -> ReadError {
        let mut index = self.index.write();
        match index.slot(&key) {
            Some(slot) if slot.at == at => {
                if index.mark_damaged(&key, at) {
                    drop(index);
                    self.counts.damaged_found.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("reduit_blocks_damaged_total").increment(1);
                    tracing::error!(version = %key.version, number = key.number.0, "a block is damaged");
                    self.damage_noted.notify_one();
                }
                ReadError::Damaged
            }
            // It moved: the copy that counts now is another one, and the caller may ask again.
            _ => ReadError::NotHeld,
        }
    }
}

type Opened = (Arc<dyn DiskFile>, RecordHeader, Vec<u32>);

fn open_record(shared: &Arc<Shared>, at: Location) -> io::Result<Option<Opened>> {
    let Some(place) = shared.segments.place(at.segment, at.offset()) else {
        return Ok(None);
    };
    let file = shared.segments.file(at.segment)?;
    let mut area = vec![0; header_area(at.bytes) as usize];
    file.read_at(&mut area, at.offset())?;
    let header = RecordHeader::decode(&area, place).filter(|h| h.head.bytes == at.bytes);
    Ok(header.and_then(|header| Some((file, header, header.table(&area)?))))
}

/// Whether an error tells of the medium or the file: the bytes are lost. Others (too many open files, no memory)
/// pass, and must not make a good copy count as damaged.
pub(super) fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound
    ) || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Whether a record's table and data are whole.
pub(super) fn verify_units(
    file: &Arc<dyn DiskFile>,
    header: &RecordHeader,
    offset: u64,
) -> io::Result<bool> {
    let bytes = header.head.bytes;
    let mut area = vec![0; header_area(bytes) as usize];
    // Shorter than the header says: cut off.
    let read = |buffer: &mut [u8], at| match file.read_at(buffer, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        other => other.map(|()| true),
    };
    if !read(&mut area, offset)? {
        return Ok(false);
    }
    let Some(sums) = header.table(&area) else {
        return Ok(false);
    };
    let mut buffer = vec![0; PIECE_BYTES.min(bytes as usize)];
    let mut at = offset + area.len() as u64;
    let mut left = bytes as usize;
    for sums in sums.chunks(PIECE_BYTES / UNIT_BYTES) {
        let piece = &mut buffer[..left.min(PIECE_BYTES)];
        if !read(piece, at)? {
            return Ok(false);
        }
        let mut units = piece.chunks(UNIT_BYTES).zip(sums);
        if !units.all(|(unit, sum)| crc32c::crc32c(unit) == *sum) {
            return Ok(false);
        }
        at += piece.len() as u64;
        left -= piece.len();
    }
    Ok(true)
}
