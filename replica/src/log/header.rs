//! The first 32 KiB of a segment: who it is, where the one before it ends, and every group's state at its start.
//!
//! Owns the header's bytes. It is written and synced before the segment gets its name, so a named segment with a
//! bad header is damage and not a torn write. With it, older segments are needed only for the entries in them.
//!
//! | offset | bytes | field (little-endian) |
//! |---|---|---|
//! | 0 | 8 | `RDTRLOG1` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | CRC32C over bytes 0..12 and 16..length |
//! | 16 | 4 | length of the header |
//! | 20 | 4 | segment number, from 1 |
//! | 24 | 8 | salt of every record in it |
//! | 32 | 8 | bytes of a segment |
//! | 40 | 4 | where the records of the previous segment end; 0 in the first segment |
//! | 44 | 4 | number of groups |
//! | 48 | | for each group: id (8), vote, committed, purged, last |
//!
//! A vote or committed position is a `u16` length and the bytes, `0xFFFF` for none. Purged is a byte 0, or 1, term
//! (8), index (8), `u16` length and the log id. Last is a byte 0, or 1, term (8), index (8).

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::ids::{GroupId, LogIndex, Term};

use super::record::{INDEX_MAX, u32_at, u64_at};

/// Groups a process may have.
pub const GROUPS_MAX: usize = 32;
/// Bytes of a vote, a committed position or a purged log id.
pub const META_BYTES_MAX: usize = 256;

/// Bytes kept for the header; records start here.
pub(super) const HEADER_REGION_BYTES: u32 = 32 * 1024;
const HEADER_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"RDTRLOG1";
const FIXED_BYTES: usize = 48;
const NONE: u16 = u16::MAX;
const GROUP_BYTES_MAX: usize = 8 + 2 * (2 + META_BYTES_MAX) + (19 + META_BYTES_MAX) + 17;
const _: () = assert!(FIXED_BYTES + GROUPS_MAX * GROUP_BYTES_MAX <= HEADER_REGION_BYTES as usize);

/// Up to where a group's entries are gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) term: Term,
    pub(super) index: LogIndex,
    pub(super) log_id: Bytes,
}

/// What a group's records up to some point amount to, entries aside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct GroupMeta {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<Purged>,
    /// The last entry or, when all are purged, the purged position.
    pub(super) last: Option<(Term, LogIndex)>,
}

/// A segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) number: u32,
    pub(super) salt: u64,
    pub(super) segment_bytes: u64,
    /// Where the records of segment `number - 1` end.
    pub(super) previous_end: u32,
    pub(super) groups: BTreeMap<GroupId, GroupMeta>,
}

/// Why bytes are not a header of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged(&'static str),
    Version(u32),
}

impl SegmentHeader {
    /// The whole header region. Counts and lengths were bounded when the state was accepted.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_REGION_BYTES as usize);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&HEADER_VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.segment_bytes.to_le_bytes());
        out.extend_from_slice(&self.previous_end.to_le_bytes());
        out.extend_from_slice(&(self.groups.len() as u32).to_le_bytes());
        for (group, meta) in &self.groups {
            out.extend_from_slice(&group.0.to_le_bytes());
            encode_bytes(&mut out, meta.vote.as_ref());
            encode_bytes(&mut out, meta.committed.as_ref());
            match &meta.purged {
                None => out.push(0),
                Some(purged) => {
                    out.push(1);
                    out.extend_from_slice(&purged.term.0.to_le_bytes());
                    out.extend_from_slice(&purged.index.0.to_le_bytes());
                    encode_bytes(&mut out, Some(&purged.log_id));
                }
            }
            match meta.last {
                None => out.push(0),
                Some((term, index)) => {
                    out.push(1);
                    out.extend_from_slice(&term.0.to_le_bytes());
                    out.extend_from_slice(&index.0.to_le_bytes());
                }
            }
        }
        let bytes = out.len() as u32;
        out[16..20].copy_from_slice(&bytes.to_le_bytes());
        let crc = header_crc(&out);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out.resize(HEADER_REGION_BYTES as usize, 0);
        out
    }

    /// Parses a header region of [`HEADER_REGION_BYTES`].
    pub(super) fn parse(region: &[u8]) -> Result<Self, HeaderError> {
        if region.len() < FIXED_BYTES || &region[..8] != MAGIC {
            return Err(HeaderError::Damaged("not a raft log segment"));
        }
        let bytes = u32_at(region, 16) as usize;
        if bytes < FIXED_BYTES || bytes > region.len() {
            return Err(HeaderError::Damaged("header length is out of range"));
        }
        if u32_at(region, 12) != header_crc(&region[..bytes]) {
            return Err(HeaderError::Damaged("header checksum does not match"));
        }
        let version = u32_at(region, 8);
        if version != HEADER_VERSION {
            return Err(HeaderError::Version(version));
        }
        let mut cursor = Cursor {
            rest: &region[FIXED_BYTES..bytes],
        };
        let mut groups = BTreeMap::new();
        for _ in 0..u32_at(region, 44) {
            let group = GroupId(cursor.u64()?);
            let vote = cursor.bytes()?;
            let committed = cursor.bytes()?;
            let purged = match cursor.flag()? {
                false => None,
                true => Some(Purged {
                    term: Term(cursor.u64()?),
                    index: cursor.index()?,
                    log_id: cursor.bytes()?.ok_or(MALFORMED)?,
                }),
            };
            let last = match cursor.flag()? {
                false => None,
                true => Some((Term(cursor.u64()?), cursor.index()?)),
            };
            groups.insert(
                group,
                GroupMeta {
                    vote,
                    committed,
                    purged,
                    last,
                },
            );
        }
        if !cursor.rest.is_empty() {
            return Err(MALFORMED);
        }
        Ok(Self {
            number: u32_at(region, 20),
            salt: u64_at(region, 24),
            segment_bytes: u64_at(region, 32),
            previous_end: u32_at(region, 40),
            groups,
        })
    }
}

const MALFORMED: HeaderError = HeaderError::Damaged("header is malformed");

struct Cursor<'a> {
    rest: &'a [u8],
}

impl Cursor<'_> {
    fn take(&mut self, bytes: usize) -> Result<&[u8], HeaderError> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(MALFORMED)?;
        self.rest = rest;
        Ok(head)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        Ok(u64_at(self.take(8)?, 0))
    }

    fn index(&mut self) -> Result<LogIndex, HeaderError> {
        match self.u64()? {
            index @ ..=INDEX_MAX => Ok(LogIndex(index)),
            _ => Err(MALFORMED),
        }
    }

    fn flag(&mut self) -> Result<bool, HeaderError> {
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(MALFORMED),
        }
    }

    fn bytes(&mut self) -> Result<Option<Bytes>, HeaderError> {
        let length = self.take(2)?;
        match u16::from_le_bytes([length[0], length[1]]) {
            NONE => Ok(None),
            length => Ok(Some(Bytes::copy_from_slice(
                self.take(usize::from(length))?,
            ))),
        }
    }
}

fn encode_bytes(out: &mut Vec<u8>, bytes: Option<&Bytes>) {
    match bytes {
        None => out.extend_from_slice(&NONE.to_le_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> SegmentHeader {
        let meta = GroupMeta {
            vote: Some(Bytes::from_static(b"v")),
            committed: None,
            purged: Some(Purged {
                term: Term(1),
                index: LogIndex(4),
                log_id: Bytes::from_static(b"p"),
            }),
            last: Some((Term(2), LogIndex(9))),
        };
        SegmentHeader {
            number: 2,
            salt: 0x0102_0304_0506_0708,
            segment_bytes: 64 << 20,
            previous_end: 40_000,
            groups: BTreeMap::from([(GroupId(1), GroupMeta::default()), (GroupId(16), meta)]),
        }
    }

    #[test]
    fn golden_bytes_of_a_segment_header() {
        let bytes = sample().encode();
        assert_eq!(bytes.len(), HEADER_REGION_BYTES as usize);
        let used = u32_at(&bytes, 16) as usize;
        assert!(bytes[used..].iter().all(|byte| *byte == 0));
        let hex: String = bytes[..used]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, GOLDEN_HEADER);
    }

    const GOLDEN_HEADER: &str = "524454524c4f4731010000007f0aefaf700000000200000008070605040302010000000400000000\
        409c0000020000000100000000000000ffffffff00001000000000000000010076ffff0101000000\
        0000000004000000000000000100700102000000000000000900000000000000";

    #[test]
    fn a_newer_version_is_named_and_not_called_damage() {
        let mut bytes = sample().encode();
        bytes[8] = 2;
        let used = u32_at(&bytes, 16) as usize;
        let crc = header_crc(&bytes[..used]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::parse(&bytes), Err(HeaderError::Version(2)));
    }

    fn meta() -> impl Strategy<Value = GroupMeta> {
        let bytes =
            || proptest::collection::vec(any::<u8>(), 0..META_BYTES_MAX).prop_map(Bytes::from);
        let position = || (any::<u64>(), 0..=INDEX_MAX);
        (
            proptest::option::of(bytes()),
            proptest::option::of(bytes()),
            proptest::option::of((position(), bytes())),
            proptest::option::of(position()),
        )
            .prop_map(|(vote, committed, purged, last)| GroupMeta {
                vote,
                committed,
                purged: purged.map(|((term, index), log_id)| Purged {
                    term: Term(term),
                    index: LogIndex(index),
                    log_id,
                }),
                last: last.map(|(term, index)| (Term(term), LogIndex(index))),
            })
    }

    proptest! {
        #[test]
        fn any_header_round_trips_and_any_flipped_bit_is_seen(
            groups in proptest::collection::btree_map(any::<u64>().prop_map(GroupId), meta(), 0..GROUPS_MAX),
            at: proptest::sample::Index,
        ) {
            let header = SegmentHeader { groups, ..sample() };
            let mut bytes = header.encode();
            prop_assert_eq!(SegmentHeader::parse(&bytes), Ok(header));
            let bit = at.index(u32_at(&bytes, 16) as usize * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(SegmentHeader::parse(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), fix: bool) {
            if fix && bytes.len() >= FIXED_BYTES {
                bytes[..8].copy_from_slice(MAGIC);
                let length = bytes.len() as u32;
                bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
                bytes[16..20].copy_from_slice(&length.to_le_bytes());
                let crc = header_crc(&bytes);
                bytes[12..16].copy_from_slice(&crc.to_le_bytes());
            }
            let parsed = SegmentHeader::parse(&bytes);
            prop_assert!(fix || parsed.is_err());
        }
    }
}
