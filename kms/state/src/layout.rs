//! Where each record stands in the replicated state: one byte of table, then the key, numbers big-endian.
//!
//! Owns the key bytes, which are a disk format. Refuses: reuse of a table's byte for another meaning.

use proto::ids::{AccessKeyId, DatasetId, LeaseId, NodeId, RegionId, RelocationId, Role, UnixMs};
use tlog::StoredAt;

/// The region's record ([`proto::v1::KmsRegion`]).
pub const REGION: &[u8] = b"R";
/// The enrolment set and grants in force ([`proto::v1::EnrolmentSet`]).
pub const AUTHORITY: &[u8] = b"A";
/// Version of the enrolment set, u64: read by every record without decoding the set.
pub const AUTHORITY_VERSION: &[u8] = b"V";
/// Region time in milliseconds, u64.
pub const TIME: &[u8] = b"T";
/// Frontier of the log's tree ([`tlog::Frontier::to_bytes`]).
pub const FRONTIER: &[u8] = b"F";
/// Who vouches for the log ([`proto::v1::WitnessPolicy`]); absent where nobody ever did.
pub const WITNESSES: &[u8] = b"W";
/// Where [`LEASE_QUEUE`] begins: the last key that was taken from it.
pub const LEASE_QUEUE_HEAD: &[u8] = b"X";
/// Where [`REQUEST_QUEUE`] begins: the last key that was taken from it.
pub const REQUEST_QUEUE_HEAD: &[u8] = b"Y";

/// Custody of the root key ([`proto::v1::CustodyRecord`]); absent before its first change.
pub const CUSTODY: &[u8] = b"C";

/// How far a restore has come ([`proto::v1::RestoreProgress`]); absent once the region is in force.
pub const RESTORE: &[u8] = b"P";
/// Table of records that wait for the end of a restore, by their own keys.
pub const RESTORED: u8 = b'z';

/// What ended keys have left for the replicas to erase ([`proto::v1::EraseRecord`]); absent before the first.
pub const ERASE: &[u8] = b"E";

/// Table of KEK records by dataset ([`proto::v1::KekRecord`]).
pub const KEKS: u8 = b'k';
/// Table of datasets by pseudonym: 16 bytes of dataset id.
pub const PSEUDONYMS: u8 = b'p';
/// Table of datasets by KEK id: 16 bytes of dataset id.
pub const KEK_IDS: u8 = b'i';
/// Table of datasets by their keys' aliases: 16 bytes of dataset id.
pub const ALIASES: u8 = b'a';
/// Table of live leases by dataset and lease ([`proto::v1::LeaseRecord`]).
pub const LEASES: u8 = b'l';
/// Queue of leases by expiry; no value.
pub const LEASE_QUEUE: u8 = b'x';
/// Table of request ids ([`proto::v1::RequestMemory`]).
pub const REQUESTS: u8 = b'q';
/// Queue of request ids by time, [`crate::USABLE_MS`] before they are forgotten: a use's is that of its leaf. One id with
/// no value, or the ids of a leaf.
pub const REQUEST_QUEUE: u8 = b'y';
/// Table of used single-use ids of approvals: u64 of the log index that used it.
pub const USED_APPROVALS: u8 = b's';
/// Table of boots by id ([`proto::v1::UnsealRecord`]).
pub const BOOTS: u8 = b'b';
/// Table of member ids by role and id: the identity that owns it for ever.
pub const MEMBERS: u8 = b'm';
/// Table of leaves by index: the leaf's bytes.
pub const LEAVES: u8 = b'e';
/// Table of openings by leaf index: JSON.
pub const OPENINGS: u8 = b'o';
/// Table of tree hashes by tile level and index: 32 bytes each.
pub const HASHES: u8 = b'h';

/// Table of wrapped keys that stand apart from their records, by dataset, version and which: 1 the KEK, 2 the metadata
/// key. Of at most [`crate::WRAPPED_ROW_BYTES_MAX`], as everything with a wrapped key in it is from level 7 on.
pub const WRAPPED: u8 = b'v';
/// Table of KEKs wrapped under the root key under way, by dataset and version.
pub const REWRAPPED: u8 = b'w';

/// Table of access keys by id ([`proto::v1::AccessKeyRecord`]).
pub const ACCESS_KEYS: u8 = b'c';
/// Table of access keys' wrapped secrets by id, one for each record.
pub const ACCESS_SECRETS: u8 = b'd';
/// Table of secrets wrapped under the root key under way, by access key.
pub const REWRAPPED_SECRETS: u8 = b'n';

/// Table of restores of datasets that were approved, by request id ([`proto::v1::ApprovedRestore`]).
pub const APPROVED_RESTORES: u8 = b'j';

/// Table of a source's grants by relocation ([`proto::v1::HandOverGrantRecord`]), kept for ever.
pub const HAND_OVER_GRANTS: u8 = b'g';
/// Table of a destination's hand-over keys by relocation ([`proto::v1::HandOverKeyRecord`]), kept for ever.
pub const HAND_OVER_KEYS: u8 = b'f';
/// Table of wrapped private halves of hand-over keys by relocation, one for each that is not destroyed.
pub const HAND_OVER_PRIVATES: u8 = b't';
/// Table of private halves wrapped under the root key under way, by relocation.
pub const REWRAPPED_HAND_OVERS: u8 = b'u';

/// Table of regions by id, the own one included ([`proto::v1::RegionRecord`]). Kept for ever: versions never go back.
pub const REGIONS: u8 = b'r';

fn joined(table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = vec![table];
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Key of a dataset's KEK.
pub fn kek(dataset: &DatasetId) -> Vec<u8> {
    joined(KEKS, &[&dataset.0])
}

/// Key that finds a dataset by its pseudonym.
pub fn pseudonym(pseudonym: &[u8; 16]) -> Vec<u8> {
    joined(PSEUDONYMS, &[pseudonym])
}

/// Key that finds a dataset by its KEK's id.
pub fn kek_id(kek_id: &[u8; 16]) -> Vec<u8> {
    joined(KEK_IDS, &[kek_id])
}

/// Key that finds a dataset by an alias of its key.
pub fn alias(alias: &str) -> Vec<u8> {
    joined(ALIASES, &[alias.as_bytes()])
}

/// Key of a wrapped key that stands apart from its record.
pub fn wrapped(dataset: &DatasetId, version: u32, which: u8) -> Vec<u8> {
    joined(WRAPPED, &[&dataset.0, &version.to_be_bytes(), &[which]])
}

/// Key of a KEK version wrapped under the root key under way.
pub fn rewrapped(dataset: &DatasetId, version: u32) -> Vec<u8> {
    joined(REWRAPPED, &[&dataset.0, &version.to_be_bytes()])
}

/// Key of an access key.
pub fn access_key(id: &AccessKeyId) -> Vec<u8> {
    joined(ACCESS_KEYS, &[id.as_str().as_bytes()])
}

/// Key of an access key's wrapped secret.
pub fn access_secret(id: &AccessKeyId) -> Vec<u8> {
    joined(ACCESS_SECRETS, &[id.as_str().as_bytes()])
}

/// Key of a secret wrapped under the root key under way.
pub fn rewrapped_secret(id: &AccessKeyId) -> Vec<u8> {
    joined(REWRAPPED_SECRETS, &[id.as_str().as_bytes()])
}

/// Key of what a source has granted to a relocation.
pub fn hand_over_grant(relocation: &RelocationId) -> Vec<u8> {
    joined(HAND_OVER_GRANTS, &[&relocation.0])
}

/// Key of a destination's hand-over key for a relocation.
pub fn hand_over_key(relocation: &RelocationId) -> Vec<u8> {
    joined(HAND_OVER_KEYS, &[&relocation.0])
}

/// Key of its wrapped private half.
pub fn hand_over_private(relocation: &RelocationId) -> Vec<u8> {
    joined(HAND_OVER_PRIVATES, &[&relocation.0])
}

/// Key of that half wrapped under the root key under way.
pub fn rewrapped_hand_over(relocation: &RelocationId) -> Vec<u8> {
    joined(REWRAPPED_HAND_OVERS, &[&relocation.0])
}

/// Key of a region.
pub fn region(region: &RegionId) -> Vec<u8> {
    joined(REGIONS, &[region.as_str().as_bytes()])
}

/// Key of a record that waits for the end of a restore.
pub fn restored(key: &[u8]) -> Vec<u8> {
    joined(RESTORED, &[key])
}

/// Key of a lease.
pub fn lease(dataset: &DatasetId, lease: &LeaseId) -> Vec<u8> {
    joined(LEASES, &[&dataset.0, &lease.0])
}

/// First bytes of the keys of a dataset's leases.
pub fn leases_of(dataset: &DatasetId) -> Vec<u8> {
    joined(LEASES, &[&dataset.0])
}

/// Key of a lease in the queue that forgets it.
pub fn lease_queue(expires: UnixMs, dataset: &DatasetId, lease: &LeaseId) -> Vec<u8> {
    joined(
        LEASE_QUEUE,
        &[&expires.0.to_be_bytes(), &dataset.0, &lease.0],
    )
}

/// Key of a request id.
pub fn request(request_id: &[u8; 16]) -> Vec<u8> {
    joined(REQUESTS, &[request_id])
}

/// Key of a request id in the queue that forgets it.
pub fn request_queue(at: UnixMs, request_id: &[u8; 16]) -> Vec<u8> {
    joined(REQUEST_QUEUE, &[&at.0.to_be_bytes(), request_id])
}

/// Key of the request ids of one leaf in the queue that forgets them; its value is the ids, 16 bytes each.
pub fn request_queue_of_leaf(at: UnixMs, leaf: u64) -> Vec<u8> {
    joined(REQUEST_QUEUE, &[&at.0.to_be_bytes(), &leaf.to_be_bytes()])
}

/// Key of a used single-use id.
pub fn used_approval(single_use_id: &[u8; 16]) -> Vec<u8> {
    joined(USED_APPROVALS, &[single_use_id])
}

/// Key of a restore that was approved.
pub fn approved_restore(request_id: &[u8; 16]) -> Vec<u8> {
    joined(APPROVED_RESTORES, &[request_id])
}

/// Key of one life of a replica.
pub fn boot(boot_id: &[u8; 16]) -> Vec<u8> {
    joined(BOOTS, &[boot_id])
}

/// Key of a member id. Storage nodes and KMS replicas count separately.
pub fn member(role: Role, id: NodeId) -> Vec<u8> {
    let position = Role::ALL
        .iter()
        .position(|other| *other == role)
        .expect("every role is in ALL");
    let number = u8::try_from(position + 1).expect("there are few roles");
    joined(MEMBERS, &[&[number], &id.0.to_be_bytes()])
}

/// Key of a leaf.
pub fn leaf(index: u64) -> Vec<u8> {
    joined(LEAVES, &[&index.to_be_bytes()])
}

/// Key of a leaf's openings.
pub fn openings(index: u64) -> Vec<u8> {
    joined(OPENINGS, &[&index.to_be_bytes()])
}

/// Key of a tree hash.
pub fn hash(at: StoredAt) -> Vec<u8> {
    joined(HASHES, &[&[at.level], &at.index.to_be_bytes()])
}
