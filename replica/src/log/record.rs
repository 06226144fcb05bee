//! The bytes of one record: a 48-byte header, the payload, zeros up to a multiple of 8.
//!
//! Owns encoding and checking. A record checks only at the offset and under the salt it was written for, so stale
//! bytes of a reused file, or a write that landed elsewhere, never parse. Refuses unknown kinds and stray padding.
//!
//! | offset | bytes | field (little-endian) |
//! |---|---|---|
//! | 0 | 4 | CRC32C over salt (8), offset in the segment (8), header bytes 4..48 |
//! | 4 | 4 | CRC32C over the payload |
//! | 8 | 4 | payload length |
//! | 12 | 1 | kind |
//! | 13 | 1 | format version, 1 |
//! | 14 | 2 | zero |
//! | 16 | 4 | offset up to which the segment was known synced when this was written |
//! | 20 | 4 | zero |
//! | 24 | 8 | group |
//! | 32 | 8 | term |
//! | 40 | 8 | index |

use proto::ids::{GroupId, LogIndex, Term};

/// Bytes of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 48;
/// Records start at multiples of this.
pub(super) const RECORD_ALIGN: usize = 8;
/// The record format this build writes.
const RECORD_VERSION: u8 = 1;
/// Bytes that a record's payload can have in any segment. A header that claims more is none, whatever its checksum
/// says: offsets are counted in 32 bits.
const PAYLOAD_BYTES_MAX: u32 = 1 << 31;
/// The last index an entry can have: there is always a next one.
pub(super) const INDEX_MAX: u64 = u64::MAX - 1;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An entry that follows the group's last.
    Entry = 1,
    /// The payload is the vote.
    Vote = 2,
    /// Entries after `index` are gone; `term` is that entry's.
    TruncateAfter = 3,
    /// Entries up to `index` are gone; the payload is the host's log id.
    Purge = 4,
    /// The payload is the committed position.
    Committed = 5,
    /// An entry the group holds already, written again so that its old segment can go.
    Moved = 6,
    /// Every entry of the group is gone and nothing is purged: as if none had been written.
    TruncateAll = 7,
    /// Says nothing but how far the segment was synced.
    Mark = 8,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Entry,
            2 => Self::Vote,
            3 => Self::TruncateAfter,
            4 => Self::Purge,
            5 => Self::Committed,
            6 => Self::Moved,
            7 => Self::TruncateAll,
            8 => Self::Mark,
            _ => return None,
        })
    }
}

/// Where in which segment a record stands, as the checksum binds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) salt: u64,
    pub(super) offset: u32,
}

/// A record's header, parsed or to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) kind: Kind,
    pub(super) group: GroupId,
    pub(super) term: Term,
    pub(super) index: LogIndex,
    /// Offset up to which the segment was known synced when this record was written.
    pub(super) synced: u32,
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
}

impl RecordHeader {
    /// The header as it stands at `place`.
    pub(super) fn encode(&self, place: Place) -> [u8; RECORD_HEADER_BYTES] {
        let mut out = [0; RECORD_HEADER_BYTES];
        out[4..8].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[8..12].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[12] = self.kind as u8;
        out[13] = RECORD_VERSION;
        out[16..20].copy_from_slice(&self.synced.to_le_bytes());
        out[24..32].copy_from_slice(&self.group.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.term.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.index.0.to_le_bytes());
        let crc = header_crc(place, &out);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at `place`, or `None` when these bytes are not one written there.
    pub(super) fn parse(place: Place, bytes: &[u8; RECORD_HEADER_BYTES]) -> Option<Self> {
        let kind = Kind::parse(bytes[12])?;
        if bytes[13] != RECORD_VERSION || u32_at(bytes, 0) != header_crc(place, bytes) {
            return None;
        }
        if bytes[14..16] != [0; 2] || bytes[20..24] != [0; 4] {
            return None;
        }
        let (payload_bytes, index) = (u32_at(bytes, 8), u64_at(bytes, 40));
        if payload_bytes > PAYLOAD_BYTES_MAX || index > INDEX_MAX {
            return None;
        }
        Some(Self {
            kind,
            group: GroupId(u64_at(bytes, 24)),
            term: Term(u64_at(bytes, 32)),
            index: LogIndex(index),
            synced: u32_at(bytes, 16),
            payload_bytes,
            payload_crc: u32_at(bytes, 4),
        })
    }

    /// Whether `payload`, with the padding after it, is the one this header was written with.
    pub(super) fn holds(&self, payload: &[u8], padding: &[u8]) -> bool {
        crc32c::crc32c(payload) == self.payload_crc && padding.iter().all(|byte| *byte == 0)
    }

    /// Bytes of the whole record.
    pub(super) fn record_bytes(&self) -> u32 {
        record_bytes(self.payload_bytes)
    }
}

/// Bytes on disk of a record with `payload_bytes` of payload.
pub(super) fn record_bytes(payload_bytes: u32) -> u32 {
    (payload_bytes + RECORD_HEADER_BYTES as u32).next_multiple_of(RECORD_ALIGN as u32)
}

/// Appends the record to `out`, which stands at `place` when its last byte is the one before.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    place: Place,
    header: &RecordHeader,
    payload: &[u8],
) {
    let end = out.len() + header.record_bytes() as usize;
    out.extend_from_slice(&header.encode(place));
    out.extend_from_slice(payload);
    out.resize(end, 0);
}

fn header_crc(place: Place, header: &[u8; RECORD_HEADER_BYTES]) -> u32 {
    let mut bound = [0; 16];
    bound[..8].copy_from_slice(&place.salt.to_le_bytes());
    bound[8..].copy_from_slice(&u64::from(place.offset).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&bound), &header[4..])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place {
        salt: 0x1122_3344_5566_7788,
        offset: 4096,
    };

    fn header(payload: &[u8]) -> RecordHeader {
        RecordHeader {
            kind: Kind::Entry,
            group: GroupId(16),
            term: Term(3),
            index: LogIndex(7),
            synced: 4096,
            payload_bytes: payload.len() as u32,
            payload_crc: crc32c::crc32c(payload),
        }
    }

    #[test]
    fn golden_bytes_of_a_record() {
        let mut out = Vec::new();
        encode_record(&mut out, PLACE, &header(b"reduit"), b"reduit");
        assert_eq!(hex(&out), GOLDEN_RECORD);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const GOLDEN_RECORD: &str = "3ab452ea935862e10600000001010000001000000000000010000000000000000300000000000000\
        07000000000000007265647569740000";

    /// With a checksum that fits, as a confused build or a hostile disk would leave it.
    #[test]
    fn a_length_or_index_that_no_record_has_is_no_header() {
        let whole = header(b"reduit");
        for impossible in [
            RecordHeader {
                payload_bytes: u32::MAX,
                ..whole
            },
            RecordHeader {
                index: LogIndex(u64::MAX),
                ..whole
            },
        ] {
            assert_eq!(RecordHeader::parse(PLACE, &impossible.encode(PLACE)), None);
        }
    }

    proptest! {
        #[test]
        fn a_record_parses_only_where_it_was_written(
            salt: u64, other_salt: u64, offset: u32, other_offset: u32,
            group: u64, term: u64, index in 0..=INDEX_MAX, synced: u32,
            payload in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let header = RecordHeader {
                group: GroupId(group), term: Term(term), index: LogIndex(index), synced,
                ..header(&payload)
            };
            let bytes = header.encode(Place { salt, offset });
            prop_assert_eq!(RecordHeader::parse(Place { salt, offset }, &bytes), Some(header));
            if salt != other_salt {
                prop_assert_eq!(RecordHeader::parse(Place { salt: other_salt, offset }, &bytes), None);
            }
            if offset != other_offset {
                prop_assert_eq!(RecordHeader::parse(Place { salt, offset: other_offset }, &bytes), None);
            }
        }

        #[test]
        fn every_flipped_bit_is_seen(
            payload in proptest::collection::vec(any::<u8>(), 0..100), at: proptest::sample::Index,
        ) {
            let header = header(&payload);
            let mut out = Vec::new();
            encode_record(&mut out, PLACE, &header, &payload);
            let bit = at.index(out.len() * 8);
            out[bit / 8] ^= 1 << (bit % 8);
            let head: &[u8; RECORD_HEADER_BYTES] = out[..RECORD_HEADER_BYTES].try_into().expect("48 bytes");
            let seen = match RecordHeader::parse(PLACE, head) {
                None => true,
                Some(header) => {
                    let end = RECORD_HEADER_BYTES + payload.len();
                    !header.holds(&out[RECORD_HEADER_BYTES..end], &out[end..])
                }
            };
            prop_assert!(seen);
        }
    }
}
