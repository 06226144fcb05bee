//! What holds in every state, checked by tests and by whoever replays a log.
//!
//! Owns the checks; they read everything and are slow. Refuses: to repair.

mod access_keys;
mod hand_over;
mod regions;
mod restores;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use prost::Message;
use proto::ids::{DatasetId, Role};
use proto::store::{Reader, prefix_end};
use proto::v1::{
    KekRecord, KekVersionRecord, KeyState, LeaseRecord, RequestMemory, TokenSealRecord,
};
use tlog::{Frontier, Hash, Leaf, Openings, StoredAt};

pub use access_keys::invariant_access_keys_are_in_order;
pub use hand_over::invariant_hand_overs_are_in_order;
pub use regions::invariant_regions_are_in_order;
pub use restores::invariant_restores_are_on_record;

use crate::authority::Authority;
use crate::keys::WRAPPED_BYTES;
use crate::labels::{ALIASES_MAX, TAGS_MAX, by_alias, is_alias, is_tag};
use crate::rotation::{ROTATION_AGE_MS, ROTATION_USES, metadata_under, oldest_living};
use crate::witnesses::WitnessRule;
use crate::{custody, kek_rows, layout, read, requests};

/// What is wrong with a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant} does not hold: {what}")]
pub struct Broken {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was found.
    pub what: String,
}

type Checked = Result<(), Broken>;

fn hold(holds: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Broken {
            invariant,
            what: what(),
        })
    }
}

fn table(state: &dyn Reader, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let end = prefix_end(prefix).expect("no table's byte is 0xFF");
    let mut rows = Vec::new();
    state.scan(prefix, &end, &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        true
    });
    rows
}

fn stored_leaves(state: &dyn Reader) -> Vec<Vec<u8>> {
    table(state, &[layout::LEAVES])
        .into_iter()
        .map(|(_, leaf)| leaf)
        .collect()
}

/// Every invariant of one state.
pub fn all(state: &dyn Reader) -> Checked {
    invariant_tree_is_recomputed_from_its_leaves(state)?;
    invariant_openings_open_their_leaves(state)?;
    invariant_dataset_chains_are_complete(state)?;
    invariant_keys_are_in_order(state)?;
    invariant_authority_parses(state)?;
    invariant_access_keys_are_in_order(state)?;
    invariant_restores_are_on_record(state)?;
    invariant_hand_overs_are_in_order(state)?;
    invariant_regions_are_in_order(state)?;
    invariant_witness_policy_parses(state)?;
    invariant_custody_is_whole(state)?;
    invariant_queues_match_their_tables(state)
}

/// A policy of witnesses is one that this region's replicas can follow.
pub fn invariant_witness_policy_parses(state: &dyn Reader) -> Checked {
    const NAME: &str = "the witness policy parses";
    let (Some(stored), Some(region)) = (read::witness_policy(state), read::region(state)) else {
        return Ok(());
    };
    let parsed = WitnessRule::parse(&stored, &region.region, &region.log_origin);
    parsed.map(drop).map_err(|refusal| Broken {
        invariant: NAME,
        what: refusal.to_string(),
    })
}

/// One split of one root key is in force, it is the region's, every key stands under that root key, and what is wrapped
/// for another one belongs to a change under way.
pub fn invariant_custody_is_whole(state: &dyn Reader) -> Checked {
    const NAME: &str = "custody is whole";
    let (Some(region), Some(custody)) = (read::region(state), custody::custody(state)) else {
        return Ok(());
    };
    let ascending = custody
        .epochs
        .windows(2)
        .all(|pair| pair[0].epoch < pair[1].epoch && pair[0].superseded_at_ms != 0);
    let last = custody.epochs.last();
    let current = last.is_some_and(|epoch| {
        epoch.epoch == region.root_epoch
            && epoch.root_check == region.root_check
            && epoch.superseded_at_ms == 0
            && epoch.retired_at_ms == 0
    });
    hold(ascending && current, NAME, || "root epochs".into())?;
    let splits = custody.epochs.iter().flat_map(|epoch| &epoch.splits);
    let in_force: Vec<_> = splits.filter(|split| !split.superseded).collect();
    let one = in_force.len() == 1
        && in_force.iter().all(|split| {
            split.set_id == custody::set_id(&region.share_set)
                && split.custodians == region.custodians
                && split.shares_needed == region.shares_needed
                && split.erased.is_empty()
        });
    hold(one, NAME, || "the split in force".into())?;
    let own_seals = custody.epochs.iter().all(|epoch| {
        let own = |seal: &TokenSealRecord| seal.root_epoch == epoch.epoch;
        let living = epoch.retired_at_ms == 0 || epoch.token_seals.is_empty();
        living && epoch.token_seals.iter().all(own)
    });
    hold(own_seals, NAME, || {
        "a token's seal of another root key".into()
    })?;
    for key in read::keys(state, None, usize::MAX) {
        let mut living = key.versions.iter().filter(|v| !v.wrapped_kek.is_empty());
        hold(
            living.all(|v| v.root_epoch == region.root_epoch),
            NAME,
            || "a key under another root key".into(),
        )?;
    }
    let rewrapped = table(state, &[layout::REWRAPPED]);
    let for_a_change = custody.pending.as_ref().is_some_and(|plan| {
        plan.root_epoch > region.root_epoch && plan.confirmed.len() == plan.custodians.len()
    });
    hold(rewrapped.is_empty() || for_a_change, NAME, || {
        "keys wrapped for no change".into()
    })?;
    for (row, _) in rewrapped {
        let dataset = DatasetId::try_from(&row[1..17]).expect("16 bytes");
        let version = u32::from_be_bytes(row[17..].try_into().expect("4 bytes"));
        let living = read::key(state, &dataset).is_some_and(|key| {
            let mut versions = key.versions.iter();
            versions.any(|v| v.version == version && !v.wrapped_kek.is_empty())
        });
        hold(living, NAME, || {
            format!("{dataset}: a copy of a purged key")
        })?;
    }
    Ok(())
}

/// Leaves are gapless, frontier and stored hashes are what hashing them anew gives.
pub fn invariant_tree_is_recomputed_from_its_leaves(state: &dyn Reader) -> Checked {
    const NAME: &str = "the tree is recomputed from its leaves";
    let rows = table(state, &[layout::LEAVES]);
    let (mut frontier, mut hashes) = (Frontier::default(), BTreeMap::new());
    for (index, (key, leaf)) in (0_u64..).zip(&rows) {
        hold(*key == layout::leaf(index), NAME, || {
            format!("leaf {index} is missing")
        })?;
        frontier
            .append(tlog::leaf_hash(leaf), &mut |at: StoredAt, hash: Hash| {
                hashes.insert(layout::hash(at), hash.0.to_vec());
            })
            .map_err(|error| Broken {
                invariant: NAME,
                what: error.to_string(),
            })?;
    }
    hold(read::frontier(state) == frontier, NAME, || {
        "the frontier differs".into()
    })?;
    let stored: BTreeMap<_, _> = table(state, &[layout::HASHES]).into_iter().collect();
    hold(stored == hashes, NAME, || "the stored hashes differ".into())
}

/// Each leaf parses, and its openings show all it commits to and nothing else.
pub fn invariant_openings_open_their_leaves(state: &dyn Reader) -> Checked {
    const NAME: &str = "openings open their leaves";
    for (index, leaf) in (0_u64..).zip(stored_leaves(state)) {
        let broken = |what: String| Broken {
            invariant: NAME,
            what: format!("leaf {index}: {what}"),
        };
        let leaf = Leaf::parse(&leaf).map_err(|error| broken(error.to_string()))?;
        let openings = state.value(&layout::openings(index)).unwrap_or_default();
        let openings = Openings::kept(&openings).map_err(|error| broken(error.to_string()))?;
        let shown =
            tlog::openings_of(&leaf, &openings).map_err(|error| broken(error.to_string()))?;
        let complete = shown.withheld.is_empty() && shown.objects.iter().all(Option::is_some);
        hold(complete, NAME, || {
            format!("leaf {index} has commitments without openings")
        })?;
    }
    Ok(())
}

/// One dataset's leaves count from 0 without a gap, each names the hash of the one before, and the key's record
/// knows the last.
pub fn invariant_dataset_chains_are_complete(state: &dyn Reader) -> Checked {
    const NAME: &str = "dataset chains are complete";
    let mut chains: BTreeMap<[u8; 16], (u64, Option<Hash>)> = BTreeMap::new();
    for (index, bytes) in (0_u64..).zip(stored_leaves(state)) {
        let leaf = Leaf::parse(&bytes).map_err(|error| Broken {
            invariant: NAME,
            what: error.to_string(),
        })?;
        let Some(link) = leaf.dataset() else { continue };
        let (length, last) = chains.entry(link.pseudonym.0).or_default();
        let follows = link.sequence == *length && link.previous == *last;
        hold(follows, NAME, || {
            format!("leaf {index} does not follow in its chain")
        })?;
        (*length, *last) = (*length + 1, Some(tlog::leaf_hash(&bytes)));
    }
    let keys = read::keys(state, None, usize::MAX);
    hold(keys.len() == chains.len(), NAME, || {
        "a chain without a key, or the reverse".into()
    })?;
    for key in keys {
        let chain = chains.get(&key.pseudonym[..]);
        let known = chain.is_some_and(|(length, last)| {
            key.leaf_sequence == *length
                && last.is_some_and(|last| last.0.as_slice() == key.last_leaf_hash)
        });
        hold(known, NAME, || {
            "a key's record is not at the end of its chain".into()
        })?;
    }
    Ok(())
}

/// Versions count from 1, a wrapped key is long enough to be one, a destroyed key holds none and an ended version no KEK.
pub fn invariant_keys_are_in_order(state: &dyn Reader) -> Checked {
    const NAME: &str = "keys are in order";
    let rows = table(state, &[layout::KEKS]);
    let mut aliases = 0;
    for (row, value) in &rows {
        let key = KekRecord::decode(&value[..]).map_err(|error| Broken {
            invariant: NAME,
            what: error.to_string(),
        })?;
        let key = match key.wrapped_apart {
            true => {
                let bare = |v: &KekVersionRecord| {
                    v.wrapped_kek.is_empty() && v.wrapped_metadata_key.is_empty()
                };
                hold(key.versions.iter().all(bare), NAME, || {
                    "a wrapped key in a long row".into()
                })?;
                kek_rows::filled(state, value)
            }
            false => key,
        };
        let dataset = DatasetId::try_from(&key.dataset_id[..]).map_err(|error| Broken {
            invariant: NAME,
            what: error.to_string(),
        })?;
        hold(*row == layout::kek(&dataset), NAME, || {
            "a key under another dataset".into()
        })?;
        let counted = (1..)
            .zip(&key.versions)
            .all(|(number, v): (u32, _)| v.version == number)
            && key.versions.len() == key.current_version as usize
            && (1..=key.current_version).contains(&key.min_version);
        hold(counted, NAME, || {
            format!("{dataset}: versions do not count from 1")
        })?;
        let destroyed = key.state() == KeyState::Destroyed;
        let oldest = oldest_living(&key);
        let held = |wrapped: &[u8], ended: bool| match destroyed || ended {
            true => wrapped.is_empty(),
            false => WRAPPED_BYTES.contains(&wrapped.len()),
        };
        let lengths_ok = key.versions.iter().all(|version| {
            held(&version.wrapped_kek, version.version < oldest)
                && held(&version.wrapped_metadata_key, false)
        });
        hold(lengths_ok, NAME, || {
            format!("{dataset}: a wrapped key of no such length")
        })?;
        let under = |version| (oldest..=key.current_version).contains(&metadata_under(version));
        let readable = destroyed || (oldest <= key.min_version && key.versions.iter().all(under));
        hold(readable, NAME, || {
            format!("{dataset}: a metadata key under a version that was ended")
        })?;
        let waits = key.state() == KeyState::PendingDestruction;
        hold(waits == (key.destroy_after_ms != 0), NAME, || {
            format!("{dataset}: destruction")
        })?;
        let planned = key.rotation.is_none_or(|plan| {
            let within =
                |held: u64, bounds: RangeInclusive<u64>| held == 0 || bounds.contains(&held);
            within(plan.max_age_ms, ROTATION_AGE_MS) && within(plan.max_uses, ROTATION_USES)
        });
        hold(planned, NAME, || format!("{dataset}: its plan of rotation"))?;
        let confirmed = key.confirmed_state_version <= key.state_version;
        hold(confirmed, NAME, || {
            format!("{dataset}: confirmed ahead of its state")
        })?;
        let named = key.aliases.is_sorted_by(|a, b| a < b)
            && key.tags.is_sorted_by(|a, b| a.name < b.name)
            && key.aliases.len() <= ALIASES_MAX
            && key.tags.len() <= TAGS_MAX
            && key.aliases.iter().all(|alias| is_alias(alias))
            && key.tags.iter().all(is_tag);
        hold(named, NAME, || format!("{dataset}: its aliases and tags"))?;
        for alias in &key.aliases {
            let own = by_alias(state, alias) == Some(dataset);
            hold(own, NAME, || format!("{dataset}: its alias {alias}"))?;
        }
        aliases += key.aliases.len();
        for owner in [layout::KEK_IDS, layout::PSEUDONYMS] {
            let id = if owner == layout::KEK_IDS {
                &key.kek_id
            } else {
                &key.pseudonym
            };
            let found = state.value(&[&[owner], &id[..]].concat());
            let own = found.is_some_and(|bytes| bytes == dataset.0.as_slice());
            hold(own, NAME, || format!("{dataset}: its index entry"))?;
        }
    }
    let indexed =
        table(state, &[layout::KEK_IDS]).len() + table(state, &[layout::PSEUDONYMS]).len();
    hold(
        aliases == table(state, &[layout::ALIASES]).len(),
        NAME,
        || "an alias without a key".into(),
    )?;
    hold(indexed == 2 * rows.len(), NAME, || {
        "an index entry without a key".into()
    })
}

/// The set in force parses, has the version that records are held to, and its members own their ids.
pub fn invariant_authority_parses(state: &dyn Reader) -> Checked {
    const NAME: &str = "the authority parses";
    let Some(set) = read::authority_set(state) else {
        return hold(read::region(state).is_none(), NAME, || {
            "a region without a set".into()
        });
    };
    let authority = Authority::parse(set).map_err(|refusal| Broken {
        invariant: NAME,
        what: refusal.to_string(),
    })?;
    let same = authority.version() == read::authority_version(state);
    hold(same, NAME, || "two versions of the authority".into())?;
    hold(authority.approvals_min() >= 2, NAME, || {
        "dual control by one".into()
    })?;
    for role in [Role::Kms, Role::Node] {
        for (identity, enrolment) in authority.of_role(role) {
            let owner = read::member(state, role, proto::ids::NodeId(enrolment.node_id));
            hold(owner.as_ref() == Some(identity), NAME, || {
                format!("member id of {identity}")
            })?;
        }
    }
    Ok(())
}

/// Nothing is remembered that no queue will forget, and no queue names what is gone.
pub fn invariant_queues_match_their_tables(state: &dyn Reader) -> Checked {
    const NAME: &str = "queues match their tables";
    let queued = |queue: u8| -> BTreeSet<Vec<u8>> {
        table(state, &[queue])
            .into_iter()
            .map(|(key, _)| key)
            .collect()
    };
    let mut leases = BTreeSet::new();
    for (key, value) in table(state, &[layout::LEASES]) {
        let lease = LeaseRecord::decode(&value[..]).map_err(|error| Broken {
            invariant: NAME,
            what: error.to_string(),
        })?;
        let time = lease.expires_at_ms.to_be_bytes();
        leases.insert([&[layout::LEASE_QUEUE], &time[..], &key[1..]].concat());
    }
    hold(leases == queued(layout::LEASE_QUEUE), NAME, || {
        "leases".into()
    })?;
    let mut queued_requests = BTreeSet::new();
    for (key, several) in table(state, &[layout::REQUEST_QUEUE]) {
        let (time, one) = key[1..].split_at(size_of::<u64>());
        let of_leaf = (!several.is_empty()).then(|| one.to_vec());
        let ids = match several.is_empty() {
            true => one,
            false => &several[..],
        };
        for id in ids.chunks(16) {
            let new = queued_requests.insert((id.to_vec(), time.to_vec(), of_leaf.clone()));
            hold(new, NAME, || "an id stands twice in a row".into())?;
        }
    }
    for (key, value) in table(state, &[layout::REQUESTS]) {
        let memory = RequestMemory::decode(&value[..]).map_err(|error| Broken {
            invariant: NAME,
            what: error.to_string(),
        })?;
        let time = requests::queued_at(&memory).0.to_be_bytes().to_vec();
        let leaf = memory.leaf_index.to_be_bytes().to_vec();
        let id = key[1..].to_vec();
        // By itself, or with the others of its leaf.
        let alone = queued_requests.remove(&(id.clone(), time.clone(), None));
        let with_others = queued_requests.remove(&(id, time, Some(leaf)));
        hold(alone != with_others, NAME, || "request ids".into())?;
    }
    hold(queued_requests.is_empty(), NAME, || {
        "request ids that are gone".into()
    })?;
    for (queued, head) in [
        (leases, layout::LEASE_QUEUE_HEAD),
        (queued(layout::REQUEST_QUEUE), layout::REQUEST_QUEUE_HEAD),
    ] {
        let head = state.value(head);
        let before = queued
            .first()
            .zip(head)
            .filter(|(first, head)| first[..] <= head[..]);
        hold(before.is_none(), NAME, || {
            "one stands before the head".into()
        })?;
    }
    Ok(())
}

/// From one state to a later one: time, versions and the log only grow, and what was logged stays.
pub fn invariant_only_grows(before: &dyn Reader, after: &dyn Reader) -> Checked {
    const NAME: &str = "time, versions and log only grow";
    let time = read::region_time(before) <= read::region_time(after);
    hold(time, NAME, || "region time went back".into())?;
    let authority = read::authority_version(before) <= read::authority_version(after);
    hold(authority, NAME, || {
        "the authority's version went back".into()
    })?;
    let (old, new) = (custody::custody(before), custody::custody(after));
    let custody = old.is_none_or(|old| {
        new.is_some_and(|new| {
            let kept = old.epochs.iter().zip(&new.epochs).all(|(old, new)| {
                old.epoch == new.epoch
                    && (old.retired_at_ms == 0 || old.retired_at_ms == new.retired_at_ms)
                    && old.splits.len() <= new.splits.len()
            });
            kept && old.epochs.len() <= new.epochs.len()
                && old.version <= new.version
                && old.sealed_leaf <= new.sealed_leaf
        })
    });
    hold(custody, NAME, || "custody went back".into())?;
    for old in read::keys(before, None, usize::MAX) {
        let dataset = DatasetId::try_from(&old.dataset_id[..]).expect("checked by the keys' own");
        let new = read::key(after, &dataset);
        let grown = new.is_some_and(|new| {
            let planned =
                |key: &KekRecord| key.rotation.map(|plan| (plan.max_age_ms, plan.max_uses));
            let changed = new.state != old.state
                || new.current_version != old.current_version
                || new.min_version != old.min_version
                || planned(&new) != planned(&old);
            new.state_version >= old.state_version
                && (!changed || new.state_version > old.state_version)
                && new.current_version >= old.current_version
                && new.min_version >= old.min_version
                && new.leaf_sequence >= old.leaf_sequence
                && new.pseudonym == old.pseudonym
                && (old.state() != KeyState::Destroyed || new.state() == KeyState::Destroyed)
        });
        hold(grown, NAME, || format!("the key of {dataset}"))?;
    }
    access_keys::only_grow(before, after, NAME)?;
    hand_over::only_grow(before, after, NAME)?;
    regions::only_grow(before, after, NAME)?;
    let (old, new) = (stored_leaves(before), stored_leaves(after));
    hold(new.starts_with(&old), NAME, || {
        "a leaf changed or vanished".into()
    })?;
    for (boot, record) in table(before, &[layout::BOOTS]) {
        let same = after.value(&boot).is_some_and(|value| value == record);
        hold(same, NAME, || "a boot was forgotten".into())?;
    }
    for (restore, record) in table(before, &[layout::APPROVED_RESTORES]) {
        let same = after.value(&restore).is_some_and(|value| value == record);
        hold(same, NAME, || "an approved restore was forgotten".into())?;
    }
    for (used, _) in table(before, &[layout::USED_APPROVALS]) {
        hold(after.value(&used).is_some(), NAME, || {
            "a single-use id was forgotten".into()
        })?;
    }
    Ok(())
}
