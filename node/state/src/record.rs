//! Records as they stand in the state: protobuf messages, and two fixed-length ones that every command writes.
//!
//! Owns encoding and decoding. Refuses to go on with a record that does not decode: only this crate writes them, so
//! the state is damaged and the replica must stop.

use bytes::Bytes;
use prost::Message;
use proto::ids::{UnixMs, UploadEpoch};
use proto::store::Reader;

use crate::keys;

/// Decodes a record.
pub(crate) fn decode<M: Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("records are written by this crate alone")
}

/// The record at `key`.
pub(crate) fn load<M: Message + Default>(state: &(impl Reader + ?Sized), key: &[u8]) -> Option<M> {
    state
        .value(key)
        .map(|value| M::decode(value).expect("records are written by this crate alone"))
}

/// Clocks and counters of a shard. 50 bytes: format 1, sweeping, then six numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardMeta {
    /// Whether something is due to be removed.
    pub sweeping: bool,
    /// Region time here: it never goes back, and moves as [`crate::time`] says.
    pub time: UnixMs,
    /// Version of enrolments and grants in force.
    pub authority_version: u64,
    /// The upload epoch.
    pub upload_epoch: UploadEpoch,
    /// State time at which the upload epoch began: when the next is due, whoever leads by then.
    pub epoch_began: UnixMs,
    /// Datasets that are not dropped.
    pub datasets: u64,
    /// Sealed bytes of every version in the shard.
    pub sealed_bytes: u64,
}

impl ShardMeta {
    const BYTES: usize = 50;

    /// As it stands in a state; all zero before the first command.
    pub fn load(state: &(impl Reader + ?Sized)) -> Self {
        let Some(bytes) = state.value(&keys::single(keys::table::META)) else {
            return Self::default();
        };
        let [sweeping, n @ ..] = numbers(&bytes);
        Self {
            sweeping: sweeping != 0,
            time: UnixMs(n[0]),
            authority_version: n[1],
            upload_epoch: UploadEpoch(n[2]),
            epoch_began: UnixMs(n[3]),
            datasets: n[4],
            sealed_bytes: n[5],
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = FORMAT;
        out[1] = self.sweeping.into();
        let numbers = [
            self.time.0,
            self.authority_version,
            self.upload_epoch.0,
            self.epoch_began.0,
            self.datasets,
            self.sealed_bytes,
        ];
        for (at, number) in numbers.into_iter().enumerate() {
            out[2 + at * 8..10 + at * 8].copy_from_slice(&number.to_be_bytes());
        }
        out
    }
}

fn numbers(bytes: &Bytes) -> [u64; 7] {
    assert!(
        bytes.len() == ShardMeta::BYTES && bytes[0] == FORMAT,
        "the shard's own record is not one of this build"
    );
    let mut out = [u64::from(bytes[1]), 0, 0, 0, 0, 0, 0];
    for (number, chunk) in out[1..].iter_mut().zip(bytes[2..].chunks_exact(8)) {
        *number = u64::from_be_bytes(chunk.try_into().expect("chunks are of 8"));
    }
    out
}

/// Clocks of the catalog. 17 bytes: format 1, then two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CatalogMeta {
    /// Region time here: it never goes back, and moves as [`crate::time`] says.
    pub time: UnixMs,
    /// Version of enrolments and grants in force.
    pub authority_version: u64,
}

impl CatalogMeta {
    const BYTES: usize = 17;

    /// As it stands in a state; all zero before the first command.
    pub fn load(state: &(impl Reader + ?Sized)) -> Self {
        let Some(bytes) = state.value(&keys::single(keys::catalog_table::META)) else {
            return Self::default();
        };
        assert!(
            bytes.len() == Self::BYTES && bytes[0] == FORMAT,
            "the catalog's own record is not one of this build"
        );
        let number = |at: usize| {
            u64::from_be_bytes(
                bytes[at..at + 8]
                    .try_into()
                    .expect("eight bytes were taken"),
            )
        };
        Self {
            time: UnixMs(number(1)),
            authority_version: number(9),
        }
    }

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = FORMAT;
        out[1..9].copy_from_slice(&self.time.0.to_be_bytes());
        out[9..].copy_from_slice(&self.authority_version.to_be_bytes());
        out
    }
}

const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use proto::store::{MemoryStore, Writer};

    use super::*;

    #[test]
    fn golden_bytes_of_the_meta_records() {
        let meta = ShardMeta {
            sweeping: true,
            time: UnixMs(0x0102),
            authority_version: 3,
            upload_epoch: UploadEpoch(4),
            epoch_began: UnixMs(5),
            datasets: 6,
            sealed_bytes: 7,
        };
        assert_eq!(
            hex::encode(meta.encode()),
            "0101000000000000010200000000000000030000000000000004\
             000000000000000500000000000000060000000000000007"
        );
        let mut store = MemoryStore::default();
        assert_eq!(ShardMeta::load(&store), ShardMeta::default());
        store.put(&keys::single(keys::table::META), &meta.encode());
        assert_eq!(ShardMeta::load(&store), meta);

        let meta = CatalogMeta {
            time: UnixMs(7),
            authority_version: 8,
        };
        assert_eq!(
            hex::encode(meta.encode()),
            "0100000000000000070000000000000008"
        );
        store.put(&keys::single(keys::catalog_table::META), &meta.encode());
        assert_eq!(CatalogMeta::load(&store), meta);
    }

    #[test]
    #[should_panic(expected = "not one of this build")]
    fn a_meta_record_of_another_format_stops_the_replica() {
        let mut store = MemoryStore::default();
        let mut bytes = ShardMeta::default().encode();
        bytes[0] = 2;
        store.put(&keys::single(keys::table::META), &bytes);
        ShardMeta::load(&store);
    }
}
