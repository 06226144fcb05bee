//! The file of a KMS backup, as it is laid out around what is sealed.
//!
//! Owns its start in the clear and its bounds; `docs/FORMATS.md` has the byte table. Refuses another format, a header
//! longer than it may be, and one that names no custodians. What the header says is believed once the sealed part has
//! opened: it is bound to these bytes.

use prost::Message as _;

use crate::v1::{KmsBackupFrame, KmsBackupHeader, KmsRegion, StateRow};

/// The first bytes of the file.
pub const MAGIC: &[u8] = b"reduit kms backup 1\n";
/// Bytes of the header, at most: it names every custodian.
pub const HEADER_BYTES_MAX: usize = 256 << 10;
/// Bytes of the SHA-256 of everything before it, with which the file ends.
pub const CHECKSUM_BYTES: usize = 32;
/// Bytes of a frame, at most: it fits into one entry of the consensus log.
pub const FRAME_BYTES_MAX: usize = (1 << 20) - (64 << 10);
/// Bytes of rows at which a frame is closed.
pub const FRAME_BYTES_TARGET: usize = 256 << 10;
const LENGTH_BYTES: usize = 4;

/// Why bytes are no start of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Other first bytes.
    #[error("this is no backup of a KMS, or one of a later build")]
    Magic,
    /// Longer than a header is.
    #[error("the backup's header is too long")]
    Length,
    /// It does not decode, or has a field that cannot be.
    #[error("the backup's header is malformed: {0}")]
    Header(&'static str),
}

/// The start of a backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// What it says.
    pub header: KmsBackupHeader,
    /// The region's record in it.
    pub region: KmsRegion,
    /// Its bytes, magic and length included: what is sealed is bound to them.
    pub bytes: Vec<u8>,
}

impl Start {
    /// Lays out a header.
    pub fn new(header: KmsBackupHeader) -> Result<Self, Malformed> {
        let encoded = header.encode_to_vec();
        let length = u32::try_from(encoded.len()).map_err(|_| Malformed::Length)?;
        let bytes = [MAGIC, &length.to_be_bytes(), &encoded].concat();
        Self::parse(&bytes)?.ok_or(Malformed::Length)
    }

    /// Reads a start off the first bytes of a file; `None` while they are too few.
    pub fn parse(file: &[u8]) -> Result<Option<Self>, Malformed> {
        let known = file.len().min(MAGIC.len());
        if file[..known] != MAGIC[..known] {
            return Err(Malformed::Magic);
        }
        let Some((length, rest)) = file[known..].split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > HEADER_BYTES_MAX {
            return Err(Malformed::Length);
        }
        let Some(encoded) = rest.get(..length) else {
            return Ok(None);
        };
        let header = KmsBackupHeader::decode(encoded)
            .map_err(|_| Malformed::Header("it does not decode"))?;
        // Protobuf drops what it does not know, and what it knows has more than one spelling.
        if header.encode_to_vec() != encoded {
            return Err(Malformed::Header(
                "it has another encoding, or fields of a later build",
            ));
        }
        let region = check(&header)?;
        let bytes = file[..MAGIC.len() + LENGTH_BYTES + length].to_vec();
        Ok(Some(Self {
            header,
            region,
            bytes,
        }))
    }
}

fn check(header: &KmsBackupHeader) -> Result<KmsRegion, Malformed> {
    let region = header.region.clone();
    let region = region.ok_or(Malformed::Header("no region"))?;
    if header.format != 1 || region.format != 1 {
        return Err(Malformed::Header("format"));
    }
    if header.root_hash.len() != 32 {
        return Err(Malformed::Header("the tree's root"));
    }
    if region.root_epoch == 0 || region.root_check.is_empty() || region.share_set.is_empty() {
        return Err(Malformed::Header("the root key"));
    }
    let shares = region.custodians.len() as u64;
    if region.shares_needed < 2 || shares < u64::from(region.shares_needed) {
        return Err(Malformed::Header("the custodians"));
    }
    Ok(region)
}

/// Frames out of the plaintext of a backup, as it arrives.
#[derive(Debug, Default)]
pub struct Frames {
    held: Vec<u8>,
}

/// Why plaintext is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of the backup is malformed")]
pub struct MalformedFrame;

impl Frames {
    /// Takes more of it.
    pub fn push(&mut self, plain: &[u8]) {
        self.held.extend_from_slice(plain);
    }

    /// The next frame, once it is whole.
    pub fn take(&mut self) -> Result<Option<KmsBackupFrame>, MalformedFrame> {
        let Some((length, rest)) = self.held.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(MalformedFrame);
        }
        let Some(encoded) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = KmsBackupFrame::decode(encoded).map_err(|_| MalformedFrame)?;
        if frame.frame.is_none() {
            return Err(MalformedFrame);
        }
        self.held.drain(..LENGTH_BYTES + length);
        Ok(Some(frame))
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

/// One frame as it stands in the plaintext. `None` for one that is longer than a frame may be.
pub fn framed(frame: &KmsBackupFrame) -> Option<Vec<u8>> {
    let length = frame.encoded_len();
    if length > FRAME_BYTES_MAX {
        return None;
    }
    let mut out = Vec::with_capacity(LENGTH_BYTES + length);
    let length = u32::try_from(length).expect("a frame is under a megabyte");
    out.extend_from_slice(&length.to_be_bytes());
    frame.encode(&mut out).expect("a vector has room");
    Some(out)
}

/// Bytes that a row takes in a frame, about.
pub fn row_bytes(row: &StateRow) -> usize {
    row.key.len() + row.value.len() + 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{KmsBackupEnd, KmsBackupRows, ShareHolder, kms_backup_frame::Frame};

    fn header() -> KmsBackupHeader {
        let holder = |index: u32| ShareHolder {
            identity: format!("spiffe://ch-zrh/custodian/c{index}"),
            share_check: vec![1; 32].into(),
            share_index: index,
        };
        KmsBackupHeader {
            format: 1,
            region: Some(KmsRegion {
                format: 1,
                region: "ch-zrh".to_owned(),
                jurisdiction: "CH".to_owned(),
                root_epoch: 2,
                root_check: vec![2; 32].into(),
                shares_needed: 2,
                custodians: vec![holder(1), holder(2), holder(3)],
                log_origin: "ch-zrh/main/1".to_owned(),
                share_set: vec![3; 40].into(),
            }),
            tree_size: 7,
            root_hash: vec![4; 32].into(),
            taken_at_ms: 5,
            level: 4,
        }
    }

    #[test]
    fn a_start_reads_back_from_a_file_that_goes_on_and_waits_for_one_that_is_cut() {
        let start = Start::new(header()).expect("a start");
        let file = [&start.bytes[..], b"what is sealed"].concat();
        assert_eq!(Start::parse(&file), Ok(Some(start.clone())));
        for cut in 0..start.bytes.len() {
            assert_eq!(Start::parse(&file[..cut]), Ok(None), "{cut} bytes");
        }
    }

    #[test]
    fn every_field_that_cannot_be_is_refused() {
        let changed = |change: &dyn Fn(&mut KmsBackupHeader, &mut KmsRegion)| {
            let mut header = header();
            let mut region = header.region.take().expect("a region");
            change(&mut header, &mut region);
            header.region = Some(region);
            Start::new(header).expect_err("it cannot be")
        };
        let no_region = KmsBackupHeader {
            region: None,
            ..header()
        };
        assert!(Start::new(no_region).is_err());
        changed(&|header, _| header.format = 2);
        changed(&|header, _| header.root_hash = vec![4; 31].into());
        changed(&|_, region| region.format = 0);
        changed(&|_, region| region.root_epoch = 0);
        changed(&|_, region| region.root_check.clear());
        changed(&|_, region| region.share_set.clear());
        changed(&|_, region| region.shares_needed = 1);
        changed(&|_, region| region.shares_needed = 4);
        let long = changed(&|_, region| region.share_set = vec![0; HEADER_BYTES_MAX].into());
        assert_eq!(long, Malformed::Length);
        let start = Start::new(header()).expect("a start").bytes;
        let mut later = start.clone();
        later[MAGIC.len() - 2] = b'2';
        assert_eq!(Start::parse(&later), Err(Malformed::Magic));
        // An unknown field, and a known one spelled twice.
        for tail in [&[0x78, 1][..], &[0x18, 7][..]] {
            let length = (start.len() - MAGIC.len() - 4 + tail.len()) as u32;
            let header = &start[MAGIC.len() + 4..];
            let file = [MAGIC, &length.to_be_bytes(), header, tail].concat();
            assert!(matches!(Start::parse(&file), Err(Malformed::Header(_))));
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_plaintext_is_cut() {
        let row = StateRow {
            key: vec![1].into(),
            value: vec![2; 100].into(),
        };
        let frames = [
            Frame::Rows(KmsBackupRows { rows: vec![row] }),
            Frame::End(KmsBackupEnd {
                rows: 1,
                checkpoint: bytes::Bytes::new(),
            }),
        ]
        .map(|frame| KmsBackupFrame { frame: Some(frame) });
        let plain: Vec<u8> = frames
            .iter()
            .flat_map(|frame| framed(frame).expect("short"))
            .collect();
        let mut taken = Frames::default();
        let mut found = Vec::new();
        for byte in &plain {
            taken.push(&[*byte]);
            found.extend(taken.take().expect("frames"));
        }
        assert_eq!(found, frames);
        assert!(taken.is_empty());
        let mut long = Frames::default();
        long.push(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes());
        assert_eq!(long.take(), Err(MalformedFrame));
    }
}
