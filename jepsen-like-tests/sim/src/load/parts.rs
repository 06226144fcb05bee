//! What comes before the completion of an object in parts: its upload, parts, one sent again, one that is left out.
//!
//! Owns their bytes, all made of the version's id, so that every try of a step is the same request. Refuses to keep what
//! was answered: steps are asked for again with each try of the completion, and have effect once.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{FeatureLevel, NodeId, ObjectVersionId};
use proto::v1;
use proto::v1::shard_command::Command;

use super::{DATASET, HOLDER, LEASE, Request, command, fill, receipt};

/// The level from which a shard knows uploads in parts.
pub const LEVEL: FeatureLevel = FeatureLevel(3);

/// One stream of an upload.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    of: ObjectVersionId,
    /// Which of the streams sent.
    nth: u8,
    number: u32,
    in_blocks: bool,
}

impl Stream {
    fn new(of: ObjectVersionId, nth: u8, number: u32, in_blocks: bool) -> Self {
        Self {
            of,
            nth,
            number,
            in_blocks,
        }
    }

    fn commitment(&self) -> Bytes {
        // Ids of versions begin with a zero byte.
        let mut bytes = fill(self.of, 0x50 ^ self.nth, 32).to_vec();
        bytes[0] = 0xC0 | self.nth;
        bytes.into()
    }

    fn sealed_bytes(&self) -> u64 {
        match self.in_blocks {
            true => 100,
            false => 20 + u64::from(self.nth),
        }
    }

    /// As a completion names it.
    pub fn name(&self) -> v1::PartName {
        v1::PartName {
            number: self.number,
            part_id: self.commitment().slice(..16),
        }
    }

    /// As it is listed, but for what apply sets.
    pub fn listed(&self) -> v1::ListedPart {
        let block = |tag| v1::BlockRef {
            digest: fill(self.of, tag, 32),
            bytes: 50,
        };
        v1::ListedPart {
            part: Some(v1::PartRecord {
                number: self.number,
                part_id: self.commitment().slice(..16),
                commitment: self.commitment(),
                plain_bytes: 3,
                sealed_bytes: self.sealed_bytes(),
                ..Default::default()
            }),
            inline: match self.in_blocks {
                true => Bytes::new(),
                false => fill(self.of, 0x70 ^ self.nth, self.sealed_bytes() as usize),
            },
            blocks: match self.in_blocks {
                true => vec![block(0x71), block(0x72)],
                false => Vec::new(),
            },
        }
    }
}

/// Every stream that is sent, in order: the second part twice, the third in vain.
fn sent(of: ObjectVersionId) -> [Stream; 4] {
    [
        Stream::new(of, 1, 1, true),
        Stream::new(of, 2, 2, true),
        Stream::new(of, 3, 2, false),
        Stream::new(of, 4, 3, true),
    ]
}

/// The parts that the version comes to have.
pub fn named(of: ObjectVersionId) -> [Stream; 2] {
    let [first, _, second, _] = sent(of);
    [first, second]
}

/// The entry of the version, but for what apply sets.
pub fn entry(of: ObjectVersionId) -> v1::ObjectEntry {
    let parts = named(of);
    v1::ObjectEntry {
        plain_bytes: 3 * parts.len() as u64,
        sealed_bytes: parts.iter().map(Stream::sealed_bytes).sum(),
        inline: Bytes::new(),
        parts: parts.len() as u32,
        ..super::entry(of, false, 0)
    }
}

/// What has to be done before the completion `request` of `of`, in order.
pub fn steps(request: &Request, of: ObjectVersionId, signers: &BTreeSet<NodeId>) -> Vec<Bytes> {
    let entry = entry(of);
    let create = Command::CreateUpload(v1::CreateUpload {
        dataset_id: DATASET.into(),
        key: request.key.clone(),
        upload: Some(v1::UploadRecord {
            format: 1,
            version_id: of.into(),
            lease_id: Bytes::copy_from_slice(&LEASE),
            dek_salt: entry.dek_salt,
            name_salt: entry.name_salt,
            sealed_metadata: entry.sealed_metadata,
            metadata_key_version: 1,
            placement: 1,
            ..Default::default()
        }),
        holder: Bytes::copy_from_slice(&HOLDER),
    });
    let part = |stream: Stream| {
        let listed = stream.listed();
        Command::FinishPart(v1::FinishPart {
            dataset_id: DATASET.into(),
            key: request.key.clone(),
            version_id: of.into(),
            part: listed.part,
            inline: listed.inline,
            blocks: listed.blocks,
            upload_epoch: match stream.in_blocks {
                true => request.id.epoch.0,
                false => 0,
            },
            receipts: match stream.in_blocks {
                true => signers.iter().copied().map(receipt).collect(),
                false => Vec::new(),
            },
        })
    };
    let kinds = std::iter::once(create).chain(sent(of).map(part));
    kinds
        .zip(1..)
        .map(|(kind, step)| {
            let mut id = request.id;
            id.nonce[15] = step;
            let id = Bytes::copy_from_slice(&id.to_bytes());
            command(id, 1, 1, kind).encode_to_vec().into()
        })
        .collect()
}
