//! What a version comes to when it is opened: two copies of it are equal where these are.
//!
//! Owns what counts: all plaintext in order, how it is cut into parts, what is sealed beside each part, and the metadata. Ids
//! of streams do not: they are of the keys that each copy is sealed under. Keyed at random, so that nobody else can tell by a
//! digest what an object holds.

use std::sync::Arc;

use bytes::Bytes;
use envelope::OpenError;
use parking_lot::Mutex;
use prost::Message as _;
use proto::v1;

use super::incoming::Running;
use crate::error::Error;

/// Of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    pub(super) content: [u8; 32],
    pub(super) metadata: [u8; 32],
}

/// A part as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartSeen {
    pub(super) number: u32,
    pub(super) plain: u64,
    /// What is sealed beside it, without the id of its stream.
    pub(super) beside: Vec<u8>,
}

/// Makes digests that compare with each other.
pub(super) struct Digester([u8; 32]);

impl Digester {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// To be fed with plaintext.
    pub(super) fn running(&self) -> Running {
        Arc::new(Mutex::new(blake3::Hasher::new_keyed(&self.0)))
    }

    /// Once all plaintext was fed.
    pub(super) fn content(&self, running: &Running, parts: &[PartSeen]) -> [u8; 32] {
        let plain = running.lock().finalize();
        let mut whole = blake3::Hasher::new_keyed(&self.0);
        whole.update(b"content");
        whole.update(plain.as_bytes());
        for part in parts {
            whole.update(&part.number.to_be_bytes());
            whole.update(&part.plain.to_be_bytes());
            whole.update(&(part.beside.len() as u64).to_be_bytes());
            whole.update(&part.beside);
        }
        whole.finalize().into()
    }

    pub(super) fn metadata(&self, plain: &[u8]) -> [u8; 32] {
        let mut whole = blake3::Hasher::new_keyed(&self.0);
        whole.update(b"metadata");
        whole.update(plain);
        whole.finalize().into()
    }
}

/// What is sealed beside a part: as it is compared, and as it stands beside the stream `to`. Refuses what is another part's,
/// or another stream's.
pub(super) fn beside_part(
    plain: &[u8],
    number: u32,
    of: &[u8],
    to: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    if plain.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let metadata = v1::UserMetadata::decode(plain);
    let mut metadata = metadata.map_err(|_| Error::Protocol {
        what: "metadata of an unknown format",
    })?;
    if metadata.part != number || metadata.part_id != *of {
        return Err(Error::NotAuthentic(OpenError));
    }
    metadata.part_id = Bytes::new();
    let compared = metadata.encode_to_vec();
    metadata.part_id = Bytes::copy_from_slice(to);
    Ok((compared, metadata.encode_to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(key: u8, plain: &[&[u8]], parts: &[PartSeen]) -> [u8; 32] {
        let digester = Digester::new([key; 32]);
        let running = digester.running();
        for plain in plain {
            running.lock().update(plain);
        }
        digester.content(&running, parts)
    }

    fn part(number: u32, plain: u64, beside: &[u8]) -> PartSeen {
        PartSeen {
            number,
            plain,
            beside: beside.to_vec(),
        }
    }

    #[test]
    fn what_is_read_in_other_pieces_is_the_same_and_anything_else_is_not() {
        let parts = [part(1, 2, b""), part(3, 1, b"sum")];
        let whole = digest(1, &[b"abc"], &parts);
        assert_eq!(digest(1, &[b"a", b"bc"], &parts), whole);
        assert_ne!(digest(2, &[b"abc"], &parts), whole, "another mover's");
        assert_ne!(digest(1, &[b"abd"], &parts), whole);
        for other in [
            [part(1, 1, b""), part(3, 2, b"sum")],
            [part(1, 2, b""), part(2, 1, b"sum")],
            [part(1, 2, b"s"), part(3, 1, b"um")],
        ] {
            assert_ne!(digest(1, &[b"abc"], &other), whole, "{other:?}");
        }
        let digester = Digester::new([1; 32]);
        assert_ne!(digester.metadata(b""), digest(1, &[], &[]));
    }

    #[test]
    fn what_stands_beside_a_part_goes_to_its_new_stream_alone() {
        let sealed = v1::UserMetadata {
            format: 1,
            part: 3,
            part_id: Bytes::from_static(&[1; 16]),
            ..v1::UserMetadata::default()
        };
        let plain = sealed.encode_to_vec();
        let (compared, remade) = beside_part(&plain, 3, &[1; 16], &[2; 16]).expect("its own");
        let remade = v1::UserMetadata::decode(&remade[..]).expect("metadata");
        assert_eq!(remade.part_id, [2; 16][..]);
        let (again, _) = beside_part(&remade.encode_to_vec(), 3, &[2; 16], &[]).expect("its own");
        assert_eq!(compared, again);
        assert!(beside_part(&plain, 4, &[1; 16], &[2; 16]).is_err());
        assert!(beside_part(&plain, 3, &[9; 16], &[2; 16]).is_err());
        let nothing = beside_part(&[], 3, &[1; 16], &[2; 16]).expect("nothing is nothing");
        assert_eq!(nothing, (Vec::new(), Vec::new()));
    }
}
