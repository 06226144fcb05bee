//! What readers of the KMS's state see against what the model says.
//!
//! Owns the comparison of keys, authority, members, memory and log, and the check of the log by its proofs alone.

use std::collections::BTreeSet;

use kms_state::{LeavesAsked, StateHashes};
use prost::Message as _;
use proto::ids::{LeafIndex, NodeId};
use proto::store::MemoryStore;
use proto::v1::{AccessKeyState, Grant, KekRecord, KeyState};
use rand::Rng;
use rand::rngs::StdRng;
use tlog::{Field, Hash, Kind};

use super::model::{Key, Leaf, Model};
use super::region::DATASETS;
use super::uses::Opened;
use crate::{Broken, hold};

/// Everything but the log.
pub(super) fn state(state: &MemoryStore, model: &Model) -> Result<(), Broken> {
    let held = (
        kms_state::region(state).is_some(),
        kms_state::region_time(state).0,
        kms_state::authority_version(state),
    );
    let wanted = (model.founded, model.time, model.authority);
    hold!(
        held == wanted,
        "the KMS says {held:?}, the model {wanted:?}"
    );
    let set = kms_state::authority_set(state).unwrap_or_default();
    let enrolled = set.enrolments.iter().map(|one| (&one.identity, one));
    hold!(
        enrolled.eq(model.enrolled.iter()),
        "another set is enrolled than the model's: {:?}",
        model.enrolled.keys()
    );
    let grants: BTreeSet<_> = set.grants.iter().map(Grant::encode_to_vec).collect();
    hold!(grants == model.grants, "other grants than the model's");
    hold!(
        set.policy == model.policy,
        "another policy text than the model's"
    );
    hold!(
        model.principals().into_iter().eq(&set.service_principals),
        "service principals are {:?}, the model's {:?}",
        set.service_principals,
        model.principals()
    );
    let held = kms_state::access_keys(state, None, usize::MAX);
    let held = held.into_iter().map(|key| {
        let enabled = key.state() == AccessKeyState::Enabled;
        let told = (key.state_version, key.created_leaf, key.given_until_ms);
        (key.access_key_id.to_vec(), (key.principal, enabled, told))
    });
    let wanted = model.access.iter().map(|(id, key)| {
        let told = (key.version, key.created_leaf, key.until);
        (id.clone(), (key.principal.clone(), key.enabled, told))
    });
    hold!(
        held.eq(wanted),
        "other access keys than the model's: {:?}",
        model.access
    );
    let due = kms_state::erase_due(state).map(|due| due.leaf.0);
    hold!(
        due == model.ended,
        "leaf {due:?} was the last end, in the model {:?}",
        model.ended
    );
    for dataset in &DATASETS {
        let held = kms_state::key(state, dataset);
        match (&held, model.keys.get(dataset)) {
            (None, None) => {}
            (Some(held), Some(key)) => {
                same_key(held, key)?;
                let silent = kms_state::not_erased(state, held);
                let silent: BTreeSet<_> = silent.iter().map(ToString::to_string).collect();
                let wanted = model.waited_for(key.ended);
                hold!(
                    held.ended_leaf == key.ended && silent == wanted,
                    "{dataset} was ended by leaf {} and waits for {silent:?}, in the model {} and {wanted:?}",
                    held.ended_leaf,
                    key.ended
                );
            }
            (held, key) => {
                return Err(Broken(format!(
                    "the key of {dataset} is {held:?}, the model's {key:?}"
                )));
            }
        }
    }
    for ((role, node), owner) in &model.members {
        let held = kms_state::member(state, *role, NodeId(*node));
        hold!(
            held.as_ref().map(ToString::to_string).as_ref() == Some(owner),
            "{role:?} {node} is {held:?}, it was {owner}'s"
        );
    }
    for boot in &model.boots {
        let boot = boot.as_ref().try_into().unwrap_or([0; 16]);
        hold!(
            kms_state::boot(state, &boot).is_some(),
            "a boot was forgotten"
        );
    }
    for (dataset, lease) in model.leases.keys() {
        hold!(
            kms_state::lease(state, dataset, lease).is_some(),
            "lease {lease} was forgotten before it ran out"
        );
    }
    Ok(())
}

fn same_key(held: &KekRecord, key: &Key) -> Result<(), Broken> {
    let is = (
        held.state(),
        held.state_version,
        held.current_version,
        held.shard,
        held.confirmed_state_version,
        held.destroy_after_ms,
        held.min_version,
        held.rotation
            .map(|plan| (plan.max_age_ms, plan.max_uses, plan.uses)),
        held.leaf_sequence,
    );
    let should = (
        key.state,
        key.state_version,
        key.versions,
        key.shard,
        key.confirmed,
        key.destroy_after,
        key.oldest,
        key.plan,
        key.chain,
    );
    hold!(
        is == should && held.kek_id == key.kek_id && held.pseudonym == key.pseudonym,
        "a key is {is:?}, the model's {should:?}"
    );
    let tags = held
        .tags
        .iter()
        .map(|tag| (tag.name.clone(), tag.value.clone()));
    hold!(
        held.aliases.iter().eq(&key.aliases) && tags.eq(key.tags.clone()),
        "a key has aliases {:?} and tags {:?}, the model's {:?} and {:?}",
        held.aliases,
        held.tags,
        key.aliases,
        key.tags
    );
    let destroyed = key.state == KeyState::Destroyed;
    let there = |number: u32| !destroyed && number >= key.living;
    let versions_ok = (1..).zip(&held.versions).all(|(number, version)| {
        version.wrapped_kek.is_empty() != there(number)
            && version.wrapped_metadata_key.is_empty() == destroyed
    });
    let under: Vec<u32> = held
        .versions
        .iter()
        .map(kms_state::metadata_under)
        .collect();
    hold!(
        versions_ok && under == key.metadata_under,
        "a key's metadata keys are under {under:?} and its versions living by {is:?}, in the model under {:?}, from {} on",
        key.metadata_under,
        key.living
    );
    Ok(())
}

/// The leaves from `from` on are the model's, and the tree has no others.
pub(super) fn leaves(state: &MemoryStore, model: &Model, from: u64) -> Result<(), Broken> {
    let size = kms_state::frontier(state).size();
    let wanted = model.leaves.len() as u64;
    hold!(
        size == wanted,
        "the log has {size} leaves, the model {wanted}"
    );
    let asked = LeavesAsked {
        start: LeafIndex(from),
        limit: u32::MAX,
        bytes_max: usize::MAX,
        with_openings: true,
    };
    let entries = kms_state::leaves(state, asked);
    hold!(
        entries.len() as u64 == size - from,
        "{} leaves can be read from {from} of {size}",
        entries.len()
    );
    for entry in entries {
        let wanted = &model.leaves[entry.index as usize];
        let told = told(&entry.leaf, &entry.openings)
            .map_err(|why| Broken(format!("leaf {}: {why}", entry.index)))?;
        hold!(
            told == *wanted,
            "leaf {} says {told:?}, the model {wanted:?}",
            entry.index
        );
    }
    Ok(())
}

fn told(leaf: &[u8], openings: &[u8]) -> Result<Leaf, String> {
    let leaf = tlog::Leaf::parse(leaf).map_err(|e| e.to_string())?;
    let openings = tlog::Openings::parse(openings).map_err(|e| e.to_string())?;
    let shown = tlog::openings_of(&leaf, &openings).map_err(|e| e.to_string())?;
    let dataset = leaf.dataset().map(|link| {
        let pseudonym = bytes::Bytes::copy_from_slice(&link.pseudonym.0);
        (pseudonym, link.sequence)
    });
    Ok(Leaf {
        kind: leaf.kind(),
        time: leaf.time_ms().0,
        purpose: leaf.purpose().clone(),
        dataset,
        actor: shown.fields.get(&Field::Actor).cloned().unwrap_or_default(),
        opened: match leaf.kind() {
            Kind::Open => Some(opened(&shown)?),
            _ => None,
        },
    })
}

/// What a leaf says of the opens in it.
fn opened(shown: &tlog::Disclosure) -> Result<Opened, String> {
    let field = |field: Field| shown.fields.get(&field).cloned().unwrap_or_default();
    let details: serde_json::Value =
        serde_json::from_str(&field(Field::Details)).map_err(|e| e.to_string())?;
    let numbers = |list: &Vec<serde_json::Value>| {
        let numbers = list
            .iter()
            .map(|number| number.as_u64().map(|n| n as usize));
        numbers.collect::<Option<Vec<usize>>>()
    };
    Ok(Opened {
        requests: field(Field::RequestId)
            .split(',')
            .map(str::to_owned)
            .collect(),
        objects_of: details["objects_of"].as_array().and_then(numbers),
        objects: shown.objects.len(),
        bytes: field(Field::Bytes),
    })
}

/// A head that somebody has seen: the log must contain it for ever.
#[derive(Debug, Clone)]
pub(super) struct Head {
    size: u64,
    root: Hash,
}

impl Head {
    /// The log's head now, once it has one.
    pub(super) fn of(state: &MemoryStore) -> Option<Self> {
        let head = kms_state::tree_head(state).filter(|head| head.size > 0)?;
        Some(Self {
            size: head.size,
            root: head.root,
        })
    }
}

/// By proofs alone: the log extends what was seen, and a leaf of it is in it.
pub(super) fn proofs(state: &MemoryStore, seen: &Head, rng: &mut StdRng) -> Result<(), Broken> {
    let hashes = StateHashes(state);
    let Some(now) = Head::of(state) else {
        return Err(Broken("the log has lost its head".to_owned()));
    };
    let proven = hashes.consistency(seen.size, now.size);
    let (proof, root) = proven.map_err(|e| Broken(format!("no consistency proof: {e}")))?;
    hold!(root == now.root, "the proof leads to another root");
    tlog::verify_consistency(seen.size, &seen.root, now.size, &now.root, &proof)
        .map_err(|e| Broken(format!("the log does not extend size {}: {e}", seen.size)))?;
    let index = LeafIndex(rng.random_range(0..now.size));
    let asked = LeavesAsked {
        start: index,
        limit: 1,
        bytes_max: usize::MAX,
        with_openings: false,
    };
    let leaf = kms_state::leaves(state, asked).pop();
    let leaf = leaf.ok_or_else(|| Broken(format!("leaf {index} cannot be read")))?;
    let proven = hashes.inclusion(index, now.size);
    let (proof, _) = proven.map_err(|e| Broken(format!("no inclusion proof: {e}")))?;
    let hash = tlog::leaf_hash(&leaf.leaf);
    tlog::verify_inclusion(&hash, index, now.size, &proof, &now.root)
        .map_err(|e| Broken(format!("leaf {index} is not in the tree: {e}")))
}
