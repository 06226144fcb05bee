//! Batches of a mover at the leader of the shard that they go into.
//!
//! Owns what the leader knows better than the mover: who it is, under which key a lease seals, which blocks are durable
//! where. Refuses everybody but gateways that may write the dataset for a relocation.

use bytes::Bytes;
use node_state::limits::{COMMAND_BYTES_MAX, IMPORTS_MAX};
use node_state::read;
use prost::Message as _;
use proto::ids::{DatasetId, GroupId, LeaseId, ObjectVersionId, Role};
use proto::store::Reader;
use proto::v1;
use proto::v1::imported_unit::Content;
use proto::v1::shard_command::Command;
use transport::enrolment::EnrolmentTable;
use transport::{Fault, Faulty as _, Peer};

use super::depart::not_granted;
use crate::core::{Core, Decision, Room};
use crate::error::CallError;
use crate::shard::key_state_version;
use crate::shard::receipts::{Upload, verify};
use crate::shard::tokens::holder_of;

impl Core {
    pub(super) async fn import(
        &self,
        peer: &Peer,
        request: v1::ImportRequest,
    ) -> Result<v1::Done, CallError> {
        if peer.identity.role() != Role::Gateway {
            return Err(not_granted(peer));
        }
        self.disk.check()?;
        let none = CallError::Malformed("it has no import");
        let mut import = request.import.ok_or(none)?;
        let (shard, named) = self.relocated(Some(&v1::Relocated {
            shard: request.shard,
            dataset_id: import.dataset_id.clone(),
            relocation_id: import.relocation_id.clone(),
        }))?;
        if import.units.len() > IMPORTS_MAX || import.encoded_len() > COMMAND_BYTES_MAX {
            let why = "a batch has at most 1000 units and 1,000,000 bytes: bring less at once";
            return Err(CallError::Malformed(why));
        }
        // Before the signatures: who does not lead need not check them.
        self.leading(&shard.group)?;
        let table = self.enrolments.current();
        let found = Found {
            table: &table,
            of: (shard.group.id(), named.dataset),
            receipts: &request.receipts,
        };
        found.fill(&mut import.units, &holder_of(&peer.public_key))?;
        let keys = import.units.iter().map(|unit| unit.key.clone()).collect();
        let touching = self.copies.touching(&named.dataset, keys);
        let decide = |table: &EnrolmentTable, state: &dyn Reader| {
            self.may_move(table, peer, &named.dataset)?;
            let mut import = import.clone();
            for unit in &mut import.units {
                if let Some(Content::Version(version)) = &mut unit.content {
                    version.kek_id = kek_of(state, &named.dataset, version)?;
                }
            }
            Ok(Decision {
                key_state_version: key_state_version(state, &named.dataset)?,
                command: Command::Import(import),
            })
        };
        let answer = self
            .decide_shard(&shard.group, Room::Needed, Bytes::new(), decide)
            .await;
        let known = |error: &CallError| error.fault() != Fault::Unknown;
        if answer.as_ref().err().is_none_or(known) {
            touching.settled();
        }
        answer
    }
}

/// What the leader puts in a batch that came.
struct Found<'a> {
    table: &'a EnrolmentTable,
    of: (GroupId, DatasetId),
    receipts: &'a [v1::UnitReceipts],
}

impl Found<'_> {
    fn fill(&self, units: &mut [v1::ImportedUnit], holder: &Bytes) -> Result<(), CallError> {
        for unit in units.iter_mut() {
            if let Some(Content::Version(version)) = &mut unit.content {
                put_aside(version, holder);
            }
        }
        for given in self.receipts {
            let unit = units.get_mut(given.unit as usize);
            let Some(Content::Version(version)) = unit.and_then(|unit| unit.content.as_mut())
            else {
                return Err(CallError::Malformed(
                    "receipts are of a unit that has no blocks",
                ));
            };
            let none = CallError::Malformed("a version has no entry");
            let entry = version.entry.as_ref().ok_or(none)?;
            let (shard, dataset) = self.of;
            let upload = Upload {
                shard,
                dataset,
                version: ObjectVersionId::try_from(entry.version_id.as_ref())?,
                upload_epoch: entry.upload_epoch,
                blocks: &entry.blocks,
            };
            version.receipts = verify(self.table, &upload, &given.receipts)?;
        }
        Ok(())
    }
}

/// Takes out what only the leader says. A delete marker is nobody's.
fn put_aside(version: &mut v1::ImportedVersion, holder: &Bytes) {
    let marker = version
        .entry
        .as_ref()
        .is_some_and(|entry| entry.delete_marker);
    version.receipts = Vec::new();
    version.holder = match marker {
        true => Bytes::new(),
        false => holder.clone(),
    };
}

/// The key that a version's lease is of, by its token, which was checked when it was registered. A delete marker has none.
fn kek_of(
    state: &dyn Reader,
    dataset: &DatasetId,
    version: &v1::ImportedVersion,
) -> Result<Bytes, CallError> {
    let entry = version.entry.as_ref().filter(|entry| !entry.delete_marker);
    let Some(entry) = entry else {
        return Ok(Bytes::new());
    };
    let none = || CallError::refused(v1::Refusal::NoSuchToken);
    let lease = LeaseId::try_from(entry.lease_id.as_ref()).map_err(|_| none())?;
    let held = read::token(state, dataset, &lease).ok_or_else(none)?;
    let token = v1::LeaseToken::decode(held.token).map_err(|_| none())?;
    let header = v1::LeaseHeader::decode(token.header).map_err(|_| none())?;
    Ok(header.kek_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mover_says_of_holders_and_receipts_counts_for_nothing() {
        let told = |delete_marker| v1::ImportedUnit {
            content: Some(Content::Version(v1::ImportedVersion {
                entry: Some(v1::ObjectEntry {
                    delete_marker,
                    ..Default::default()
                }),
                holder: Bytes::from_static(b"another"),
                receipts: vec![v1::ReceiptClaim::default()],
                ..Default::default()
            })),
            ..Default::default()
        };
        let mut units = [told(false), told(true)];
        for (unit, holder) in units.iter_mut().zip([&b"me"[..], b""]) {
            let Some(Content::Version(version)) = &mut unit.content else {
                panic!("made above");
            };
            assert!(!version.receipts.is_empty());
            put_aside(version, &Bytes::from_static(b"me"));
            assert_eq!(version.holder, holder);
            assert!(version.receipts.is_empty());
        }
    }
}
