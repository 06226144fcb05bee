//! Reads of the KMS state: what drivers and the API answer from.
//!
//! Owns the decoding of every record. Refuses: to go on over a record it cannot read, which only a damaged or
//! foreign store can hold.

use prost::Message;
use proto::ids::{DatasetId, Identity, LeafIndex, LeaseId, NodeId, Role, UnixMs};
use proto::store::{Reader, prefix_end};
use proto::v1::{
    EnrolmentSet, KekRecord, KeyInfo, KeyState, KmsRegion, LeafEntry, LeaseRecord, RequestMemory,
    UnsealRecord, WitnessPolicy,
};
use tlog::{Frontier, Hash, HashReader, Origin, ProveError, StoredAt};

use crate::custody;
use crate::erase;
use crate::kek_rows;
use crate::layout;
use crate::rotation;

fn record<M: Message + Default>(state: &dyn Reader, key: &[u8]) -> Option<M> {
    let bytes = state.value(key)?;
    Some(M::decode(bytes).expect("state holds what this machine wrote"))
}

fn number(state: &dyn Reader, key: &[u8]) -> u64 {
    let Some(bytes) = state.value(key) else {
        return 0;
    };
    u64::from_be_bytes(
        bytes
            .as_ref()
            .try_into()
            .expect("a stored number is 8 bytes"),
    )
}

/// The region's record, once initialised.
pub fn region(state: &dyn Reader) -> Option<KmsRegion> {
    record(state, layout::REGION)
}

/// Region time; 0 before the init ceremony.
pub fn region_time(state: &dyn Reader) -> UnixMs {
    UnixMs(number(state, layout::TIME))
}

/// The enrolments and grants in force, unsigned; `signed_at_ms` is for whoever signs it.
pub fn authority_set(state: &dyn Reader) -> Option<EnrolmentSet> {
    record(state, layout::AUTHORITY)
}

/// Version of the enrolments and grants in force; 0 before the init ceremony.
pub fn authority_version(state: &dyn Reader) -> u64 {
    number(state, layout::AUTHORITY_VERSION)
}

/// A dataset's key with its wrapped versions.
pub fn key(state: &dyn Reader, dataset: &DatasetId) -> Option<KekRecord> {
    let row = state.value(&layout::kek(dataset))?;
    Some(kek_rows::filled(state, &row))
}

/// As [`key`], without wrapped keys that stand apart: for who only uses it.
pub(crate) fn key_bare(state: &dyn Reader, dataset: &DatasetId) -> Option<KekRecord> {
    record(state, &layout::kek(dataset))
}

/// Up to `limit` keys in order of their dataset ids, from the first after `after`.
pub fn keys(state: &dyn Reader, after: Option<&DatasetId>, limit: usize) -> Vec<KekRecord> {
    let mut start = vec![layout::KEKS];
    if let Some(after) = after {
        start.extend_from_slice(&after.0);
        start.push(0);
    }
    let mut found = Vec::new();
    state.scan(&start, &[layout::KEKS + 1], &mut |_, value| {
        if found.len() < limit {
            found.push(kek_rows::filled(state, value));
        }
        found.len() < limit
    });
    found
}

/// What the API says about a key: the record without its wrapped keys, and what still runs.
pub fn key_info(state: &dyn Reader, dataset: &DatasetId) -> Option<KeyInfo> {
    let mut key = key(state, dataset)?;
    let recoverable_under = match key.state() {
        KeyState::Destroyed => custody::recoverable_under(state, &key),
        _ => Vec::new(),
    };
    let oldest_version = rotation::oldest_living(&key);
    let not_erased = erase::not_erased(state, &key);
    for version in &mut key.versions {
        version.wrapped_kek.clear();
        version.wrapped_metadata_key.clear();
    }
    Some(KeyInfo {
        shard_confirmed: key.shard != 0 && key.confirmed_state_version == key.state_version,
        latest_lease_expiry_ms: latest_lease_expiry(state, dataset).0,
        recoverable_under,
        oldest_version,
        not_erased: not_erased.iter().map(ToString::to_string).collect(),
        key: Some(key),
    })
}

/// Which dataset a pseudonym of the log stands for.
pub fn pseudonym_owner(state: &dyn Reader, pseudonym: &[u8; 16]) -> Option<DatasetId> {
    let bytes = state.value(&layout::pseudonym(pseudonym))?;
    Some(DatasetId::try_from(bytes.as_ref()).expect("a stored dataset id is 16 bytes"))
}

/// A lease that had not expired when it was last looked at.
pub fn lease(state: &dyn Reader, dataset: &DatasetId, lease: &LeaseId) -> Option<LeaseRecord> {
    record(state, &layout::lease(dataset, lease))
}

/// When the last lease of a dataset ends, metadata leases included; 0 when none is known. Expired leases are
/// forgotten in the course of later commands, so this may name a time in the past.
pub fn latest_lease_expiry(state: &dyn Reader, dataset: &DatasetId) -> UnixMs {
    let start = layout::leases_of(dataset);
    let end = prefix_end(&start).expect("the table's byte is not 0xFF");
    let mut latest = UnixMs(0);
    state.scan(&start, &end, &mut |_, value| {
        let lease = LeaseRecord::decode(value).expect("state holds what this machine wrote");
        latest = latest.max(UnixMs(lease.expires_at_ms));
        true
    });
    latest
}

pub(crate) fn request(state: &dyn Reader, request_id: &[u8; 16]) -> Option<RequestMemory> {
    record(state, &layout::request(request_id))
}

/// What is recorded of one life of a replica.
pub fn boot(state: &dyn Reader, boot_id: &[u8; 16]) -> Option<UnsealRecord> {
    record(state, &layout::boot(boot_id))
}

/// Whose a member id is, for ever.
pub fn member(state: &dyn Reader, role: Role, id: NodeId) -> Option<Identity> {
    let bytes = state.value(&layout::member(role, id))?;
    let text = std::str::from_utf8(&bytes).expect("a stored identity is text");
    Some(text.parse().expect("a stored identity is valid"))
}

/// Who vouches for the log, where somebody does.
pub fn witness_policy(state: &dyn Reader) -> Option<WitnessPolicy> {
    record(state, layout::WITNESSES)
}

/// The tree's frontier.
pub fn frontier(state: &dyn Reader) -> Frontier {
    state
        .value(layout::FRONTIER)
        .map_or_else(Frontier::default, |bytes| {
            Frontier::parse(&bytes).expect("state holds what this machine wrote")
        })
}

/// Size and root of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeHead {
    /// Which log.
    pub origin: Origin,
    /// Leaves in it.
    pub size: u64,
    /// Its root hash.
    pub root: Hash,
}

/// The log's head, once the region is initialised.
pub fn tree_head(state: &dyn Reader) -> Option<TreeHead> {
    let region = region(state)?;
    let frontier = frontier(state);
    let origin = region
        .log_origin
        .parse()
        .expect("init refuses an origin that does not parse");
    Some(TreeHead {
        origin,
        size: frontier.size(),
        root: frontier.root(),
    })
}

/// Which leaves to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeavesAsked {
    /// The first.
    pub start: LeafIndex,
    /// At most so many.
    pub limit: u32,
    /// No further leaf once so many bytes of leaves and openings are read; one is always read.
    pub bytes_max: usize,
    /// Openings too, for whom policy names.
    pub with_openings: bool,
}

/// Leaves in log order.
pub fn leaves(state: &dyn Reader, asked: LeavesAsked) -> Vec<LeafEntry> {
    let mut found: Vec<LeafEntry> = Vec::new();
    let mut bytes = 0;
    state.scan(
        &layout::leaf(asked.start.0),
        &[layout::LEAVES + 1],
        &mut |key, leaf| {
            let full = !found.is_empty() && bytes >= asked.bytes_max;
            if full || found.len() >= asked.limit as usize {
                return false;
            }
            let index = key[1..].try_into().expect("a leaf's key is 1 + 8 bytes");
            let index = u64::from_be_bytes(index);
            let openings = match asked.with_openings {
                true => openings(state, index),
                false => bytes::Bytes::new(),
            };
            bytes += leaf.len() + openings.len();
            found.push(LeafEntry {
                index,
                leaf: bytes::Bytes::copy_from_slice(leaf),
                openings,
            });
            true
        },
    );
    found
}

/// What opens a leaf, as JSON; empty where there is nothing.
fn openings(state: &dyn Reader, index: u64) -> bytes::Bytes {
    let kept = state.value(&layout::openings(index)).unwrap_or_default();
    tlog::Openings::kept(&kept)
        .map(|openings| openings.encode().into())
        .unwrap_or_default()
}

/// The tree's stored hashes, for [`tlog::prove_inclusion`] and [`tlog::prove_consistency`].
pub struct StateHashes<'a>(pub &'a dyn Reader);

impl HashReader for StateHashes<'_> {
    fn stored(&self, first: StoredAt, count: u64) -> Option<Vec<Hash>> {
        let end = StoredAt {
            level: first.level,
            index: first.index + count,
        };
        let mut found = Vec::new();
        self.0
            .scan(&layout::hash(first), &layout::hash(end), &mut |_, value| {
                found.push(Hash::try_from(value).expect("a stored hash is 32 bytes"));
                true
            });
        (found.len() as u64 == count).then_some(found)
    }
}

impl StateHashes<'_> {
    /// Inclusion proof and the root it leads to.
    pub fn inclusion(&self, index: LeafIndex, size: u64) -> Result<(Vec<Hash>, Hash), ProveError> {
        Ok((
            tlog::prove_inclusion(self, index, size)?,
            tlog::root_at(self, size)?,
        ))
    }

    /// Consistency proof and the newer root it leads to.
    pub fn consistency(&self, old: u64, new: u64) -> Result<(Vec<Hash>, Hash), ProveError> {
        Ok((
            tlog::prove_consistency(self, old, new)?,
            tlog::root_at(self, new)?,
        ))
    }
}
