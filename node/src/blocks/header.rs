//! The bytes of a segment's and a record's header. Format 1; little-endian; golden bytes below.
//!
//! Owns their layout. Refuses a header whose checksum does not fit, also when it stands at another place than it was
//! written for, and one that does not carry the segment's salt: block bytes are chosen by clients, and a scan that
//! looks for the next header after damage must not take theirs for one.
//!
//! ```text
//! segment   0..1024     the segment header twice, one in each sector; zeros up to 4096
//!           4096..      records, each aligned to 512 bytes
//! record    0..160      the fixed header
//!           160..       CRC32C of each 64 KiB of data, u32 each; zeros up to the next 512
//!           then        data; zeros (or nothing, at the end of the file) up to the next 512
//! ```

use proto::ids::{DatasetId, GroupId, ObjectVersionId, UnixMs, UploadEpoch};

use super::block::{
    BLOCK_BYTES_MAX, BlockDigest, BlockHead, BlockKey, BlockNumber, BlockOwner, units,
};

/// What the device writes or loses as one, and the alignment of records.
pub(super) const SECTOR_BYTES: usize = 512;
/// Where the first record of a segment stands.
pub(super) const RECORDS_AT: u64 = 4096;
pub(super) const FIXED_BYTES: usize = 160;
const SEGMENT_HEADER_BYTES: usize = 40;
const SEGMENT_MAGIC: [u8; 8] = *b"RDUTSEG\0";
const RECORD_MAGIC: [u8; 8] = *b"RDUTBLK\0";
const FORMAT: u32 = 1;

/// One segment among those of a node. Numbers go up and are not used twice while any file of theirs exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SegmentId(pub(super) u32);

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) id: SegmentId,
    pub(super) salt: u64,
}

impl SegmentHeader {
    /// The first [`RECORDS_AT`] bytes of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut one = [0; SEGMENT_HEADER_BYTES];
        one[..8].copy_from_slice(&SEGMENT_MAGIC);
        one[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        one[16..20].copy_from_slice(&self.id.0.to_le_bytes());
        one[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&one);
        one[12..16].copy_from_slice(&crc.to_le_bytes());
        let mut out = vec![0; RECORDS_AT as usize];
        out[..SEGMENT_HEADER_BYTES].copy_from_slice(&one);
        out[SECTOR_BYTES..SECTOR_BYTES + SEGMENT_HEADER_BYTES].copy_from_slice(&one);
        out
    }

    /// Reads either copy out of a file's first kibibyte.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        [0, SECTOR_BYTES].into_iter().find_map(|at| {
            let mut one = *bytes.get(at..at + SEGMENT_HEADER_BYTES)?.first_chunk()?;
            let _: &[u8; SEGMENT_HEADER_BYTES] = &one;
            let crc = u32_at(&one, 12);
            one[12..16].fill(0);
            if one[..8] != SEGMENT_MAGIC || u32_at(&one, 8) != FORMAT || crc32c::crc32c(&one) != crc
            {
                return None;
            }
            Some(Self {
                id: SegmentId(u32_at(&one, 16)),
                salt: u64_at(&one, 24),
            })
        })
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordKind {
    /// A block.
    Block,
    /// A block that was unlinked; only its extent still counts.
    Tombstone,
    /// A block whose bytes are known not to be what the header says: torn before they were acknowledged.
    Torn,
}

/// A record's fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: RecordKind,
    pub(super) head: BlockHead,
    /// CRC32C of the table of unit checksums.
    pub(super) table_crc: u32,
}

/// Where a header stands: part of its checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) segment: SegmentHeader,
    pub(super) offset: u64,
}

impl RecordHeader {
    /// The header of a block with the given unit checksums, and the table that follows it.
    pub(super) fn of_block(head: BlockHead, sums: &[u32]) -> (Self, Vec<u8>) {
        let table: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let table_crc = crc32c::crc32c(&table);
        (
            Self {
                kind: RecordKind::Block,
                head,
                table_crc,
            },
            table,
        )
    }

    /// The header and its table, padded to whole sectors.
    pub(super) fn encode(&self, place: Place, table: &[u8]) -> Vec<u8> {
        let mut out = vec![0; header_area(self.head.bytes) as usize];
        let owner = &self.head.owner;
        out[..8].copy_from_slice(&RECORD_MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[16..24].copy_from_slice(&place.segment.salt.to_le_bytes());
        out[24..40].copy_from_slice(&self.head.key.version.0);
        out[40..56].copy_from_slice(&owner.dataset.0);
        out[56..64].copy_from_slice(&owner.shard.0.to_le_bytes());
        out[64..72].copy_from_slice(&owner.upload_epoch.0.to_le_bytes());
        out[72..80].copy_from_slice(&owner.begun_at.0.to_le_bytes());
        out[80..84].copy_from_slice(&self.head.key.number.0.to_le_bytes());
        out[84..88].copy_from_slice(&self.head.bytes.to_le_bytes());
        out[88..120].copy_from_slice(&self.head.digest.0);
        out[120..124].copy_from_slice(&self.table_crc.to_le_bytes());
        let kind: u32 = match self.kind {
            RecordKind::Block => 1,
            RecordKind::Tombstone => 2,
            RecordKind::Torn => 3,
        };
        out[124..128].copy_from_slice(&kind.to_le_bytes());
        let crc = placed_crc(&out[..FIXED_BYTES], place);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out[FIXED_BYTES..FIXED_BYTES + table.len()].copy_from_slice(table);
        out
    }

    /// The first sector alone: what is written over a block's when it is unlinked or found torn.
    pub(super) fn encode_sector(&self, place: Place) -> Vec<u8> {
        let mut out = self.encode(place, &[]);
        out.truncate(SECTOR_BYTES);
        out
    }

    /// Reads a fixed header, if `bytes` are one written for this place.
    pub(super) fn decode(bytes: &[u8], place: Place) -> Option<Self> {
        let mut fixed: [u8; FIXED_BYTES] = *bytes.first_chunk()?;
        if fixed[..8] != RECORD_MAGIC || u64_at(&fixed, 16) != place.segment.salt {
            return None;
        }
        let crc = u32_at(&fixed, 12);
        fixed[12..16].fill(0);
        if crc != placed_crc(&fixed, place) || u32_at(&fixed, 8) != FORMAT {
            return None;
        }
        let kind = match u32_at(&fixed, 124) {
            1 => RecordKind::Block,
            2 => RecordKind::Tombstone,
            3 => RecordKind::Torn,
            _ => return None,
        };
        let bytes = u32_at(&fixed, 84);
        if bytes == 0 || bytes > BLOCK_BYTES_MAX {
            return None;
        }
        let key = BlockKey {
            version: ObjectVersionId(array_at(&fixed, 24)),
            number: BlockNumber(u32_at(&fixed, 80)),
        };
        let owner = BlockOwner {
            dataset: DatasetId(array_at(&fixed, 40)),
            shard: GroupId(u64_at(&fixed, 56)),
            upload_epoch: UploadEpoch(u64_at(&fixed, 64)),
            begun_at: UnixMs(u64_at(&fixed, 72)),
        };
        let digest = BlockDigest(array_at(&fixed, 88));
        let head = BlockHead {
            key,
            owner,
            digest,
            bytes,
        };
        Some(Self {
            kind,
            head,
            table_crc: u32_at(&fixed, 120),
        })
    }

    /// The unit checksums in a header area, if they are what the header says.
    pub(super) fn table(&self, area: &[u8]) -> Option<Vec<u32>> {
        let table = area.get(FIXED_BYTES..FIXED_BYTES + 4 * units(self.head.bytes))?;
        if crc32c::crc32c(table) != self.table_crc {
            return None;
        }
        Some(table.chunks_exact(4).map(|sum| u32_at(sum, 0)).collect())
    }
}

/// Bytes of a record's header and table, whole sectors.
pub(super) fn header_area(bytes: u32) -> u64 {
    sectors((FIXED_BYTES + 4 * units(bytes)) as u64)
}

/// Bytes from a record's start to the next one's.
pub(super) fn extent(bytes: u32) -> u64 {
    header_area(bytes) + sectors(u64::from(bytes))
}

fn sectors(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTOR_BYTES as u64)
}

fn placed_crc(fixed: &[u8], place: Place) -> u32 {
    let crc = crc32c::crc32c(&place.segment.id.0.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &place.offset.to_le_bytes());
    crc32c::crc32c_append(crc, fixed)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        let segment = SegmentHeader {
            id: SegmentId(7),
            salt: 0x0123_4567_89ab_cdef,
        };
        Place {
            segment,
            offset: 8192,
        }
    }

    fn header() -> (RecordHeader, Vec<u8>) {
        let owner = BlockOwner {
            shard: GroupId(16),
            dataset: DatasetId([0xd5; 16]),
            upload_epoch: UploadEpoch(9),
            begun_at: UnixMs(1_700_000_000_000),
        };
        let key = BlockKey {
            version: ObjectVersionId([0xee; 16]),
            number: BlockNumber(3),
        };
        let digest = BlockDigest([0xab; 32]);
        let head = BlockHead {
            key,
            owner,
            digest,
            bytes: 70_000,
        };
        RecordHeader::of_block(head, &[0x1111_1111, 0x2222_2222])
    }

    #[test]
    fn golden_bytes_of_a_record_header() {
        let (header, table) = header();
        let bytes = header.encode(place(), &table);
        assert_eq!(bytes.len(), 512);
        assert_eq!(hex::encode(&bytes[..168]), GOLDEN_RECORD);
        assert!(bytes[168..].iter().all(|byte| *byte == 0));
        assert_eq!(RecordHeader::decode(&bytes, place()), Some(header));
        assert_eq!(header.table(&bytes), Some(vec![0x1111_1111, 0x2222_2222]));
    }

    #[test]
    fn golden_bytes_of_a_segment_header() {
        let bytes = place().segment.encode();
        assert_eq!(bytes.len() as u64, RECORDS_AT);
        assert_eq!(hex::encode(&bytes[..40]), GOLDEN_SEGMENT);
        assert_eq!(bytes[..40], bytes[512..552]);
        assert_eq!(SegmentHeader::decode(&bytes), Some(place().segment));
    }

    #[test]
    fn either_copy_of_a_segment_header_is_enough() {
        for damaged in [0, SECTOR_BYTES] {
            let mut bytes = place().segment.encode();
            bytes[damaged + 20] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes), Some(place().segment));
            bytes[SECTOR_BYTES - damaged + 20] ^= 1;
            assert_eq!(SegmentHeader::decode(&bytes), None);
        }
        assert_eq!(SegmentHeader::decode(&[]), None);
    }

    #[test]
    fn a_header_with_any_bit_flipped_does_not_parse() {
        let (header, table) = header();
        let bytes = header.encode(place(), &table);
        for bit in 0..FIXED_BYTES * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(RecordHeader::decode(&flipped, place()), None, "bit {bit}");
        }
        let mut flipped = bytes.clone();
        flipped[FIXED_BYTES] ^= 1;
        let decoded = RecordHeader::decode(&flipped, place()).expect("the fixed part is whole");
        assert_eq!(decoded.table(&flipped), None);
    }

    #[test]
    fn a_header_does_not_parse_at_another_place_or_in_another_segment() {
        let (header, table) = header();
        let bytes = header.encode(place(), &table);
        let elsewhere = Place {
            offset: 8704,
            ..place()
        };
        assert_eq!(RecordHeader::decode(&bytes, elsewhere), None);
        let id = SegmentHeader {
            id: SegmentId(8),
            ..place().segment
        };
        assert_eq!(
            RecordHeader::decode(
                &bytes,
                Place {
                    segment: id,
                    ..place()
                }
            ),
            None
        );
        let salt = SegmentHeader {
            salt: 1,
            ..place().segment
        };
        assert_eq!(
            RecordHeader::decode(
                &bytes,
                Place {
                    segment: salt,
                    ..place()
                }
            ),
            None
        );
    }

    #[test]
    fn records_end_on_sectors() {
        assert_eq!(extent(1), 1024);
        assert_eq!(extent(512), 1024);
        assert_eq!(extent(513), 1536);
        // 88 units are the last that share the header's sector.
        assert_eq!(header_area(88 * 64 * 1024), 512);
        assert_eq!(header_area(88 * 64 * 1024 + 1), 1024);
        assert_eq!(extent(BLOCK_BYTES_MAX), 1024 + (8 << 20));
    }

    const GOLDEN_SEGMENT: &str =
        "52445554534547000100000042e9fbfb0700000000000000efcdab89674523010000000000000000";
    const GOLDEN_RECORD: &str = "\
        52445554424c4b00010000000a72bb38efcdab8967452301eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\
        d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5100000000000000009000000000000000068e5cf8b010000\
        0300000070110100abababababababababababababababababababababababababababababababab\
        f9f61472010000000000000000000000000000000000000000000000000000000000000000000000\
        1111111122222222";
}
