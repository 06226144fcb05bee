//! What holds of grants and hand-over keys in every state.

use std::collections::BTreeMap;

use proto::ids::RelocationId;
use proto::store::Reader;
use proto::v1::{HandOverGrantRecord, HandOverKeyRecord, HandOverStage, KeyState};

use super::{Broken, Checked, hold, table};
use crate::hand_over::{
    HAND_OVER_KEY_BYTES, hand_over_grant, hand_over_grants, hand_over_key, hand_over_keys,
    relocation_id,
};
use crate::keys::{WRAPPED_BYTES, dataset_id};
use crate::{custody, layout, read};

/// A key is granted to the relocation that its record names and to no other; a grant that is not closed says whereto, and
/// counts leaves that are there. Each hand-over key that is not destroyed has one wrapped private half, under the root key in
/// force; what is wrapped for another root key belongs to a change under way.
pub fn invariant_hand_overs_are_in_order(state: &dyn Reader) -> Checked {
    const NAME: &str = "hand-overs are in order";
    let grants = hand_over_grants(state);
    let rows = table(state, &[layout::HAND_OVER_GRANTS]);
    let mut open = BTreeMap::new();
    for (grant, (row, _)) in grants.iter().zip(&rows) {
        let id = named(NAME, &grant.relocation_id)?;
        hold(*row == layout::hand_over_grant(&id), NAME, || {
            format!("the grant of {id} stands in the row of another")
        })?;
        hold(is_whole(state, grant), NAME, || {
            format!("the grant of {id}")
        })?;
        if grant.stage() != HandOverStage::Closed {
            let other = open.insert(grant.dataset_id.clone(), grant.relocation_id.clone());
            hold(other.is_none(), NAME, || {
                "a dataset granted to two relocations".into()
            })?;
        }
    }
    for key in read::keys(state, None, usize::MAX) {
        let granted = open.remove(&key.dataset_id).unwrap_or_default();
        let ends = matches!(
            key.state(),
            KeyState::PendingDestruction | KeyState::Destroyed
        );
        let same = key.relocation_id == granted && (granted.is_empty() || !ends);
        hold(same, NAME, || "a key granted to another relocation".into())?;
    }
    hold(open.is_empty(), NAME, || "a grant of no key".into())?;
    keys_are_in_order(state, NAME)
}

fn named(name: &'static str, bytes: &[u8]) -> Result<RelocationId, Broken> {
    relocation_id(bytes).map_err(|refusal| Broken {
        invariant: name,
        what: refusal.to_string(),
    })
}

fn is_whole(state: &dyn Reader, grant: &HandOverGrantRecord) -> bool {
    let closed = grant.stage() == HandOverStage::Closed;
    let released = grant.released.as_ref();
    let (objects, leaves) = released.map_or((0, 0), |released| (released.objects, released.leaves));
    let fenced = grant.stage() == HandOverStage::Paused;
    let terms = match &grant.terms {
        Some(terms) => terms.hand_over_key.len() == HAND_OVER_KEY_BYTES,
        // Closed before it was granted.
        None => closed && objects == 0 && grant.moved.is_none(),
    };
    let size = read::frontier(state).size();
    terms
        && grant.format == 1
        // A metadata key is no object's.
        && (objects == 0 || leaves > 0)
        && leaves <= size
        && grant.leaf_index < size
        && (fenced || grant.fence == 0)
        && (!fenced || grant.fence > grant.reverted)
        && (closed || grant.moved.is_none())
}

fn keys_are_in_order(state: &dyn Reader, name: &'static str) -> Checked {
    let region = read::region(state).unwrap_or_default();
    let mut living = 0;
    let keys = hand_over_keys(state);
    for (key, (row, _)) in keys.iter().zip(table(state, &[layout::HAND_OVER_KEYS])) {
        let id = named(name, &key.relocation_id)?;
        hold(row == layout::hand_over_key(&id), name, || {
            format!("the hand-over key of {id} stands in the row of another")
        })?;
        let dataset = dataset_id(&key.dataset_id).ok();
        let of = dataset.and_then(|dataset| read::key_bare(state, &dataset));
        hold(of.is_some(), name, || format!("{id}: of no dataset"))?;
        let private = state.value(&layout::hand_over_private(&id));
        let whole = match &private {
            Some(wrapped) => {
                living += 1;
                !key.destroyed
                    && WRAPPED_BYTES.contains(&wrapped.len())
                    && key.public_key.len() == HAND_OVER_KEY_BYTES
                    && key.root_epoch == region.root_epoch
            }
            None => key.destroyed,
        };
        hold(whole, name, || format!("{id}: its private half"))?;
    }
    let privates = table(state, &[layout::HAND_OVER_PRIVATES]);
    hold(privates.len() == living, name, || {
        "a private half without a hand-over key".into()
    })?;
    let rewrapped = table(state, &[layout::REWRAPPED_HAND_OVERS]);
    let under_way = custody::custody(state).and_then(|custody| custody.pending);
    let for_a_change = under_way.is_some_and(|plan| plan.root_epoch > region.root_epoch);
    let of_living = rewrapped.iter().all(|(row, _)| {
        let id = RelocationId::try_from(&row[1..]).ok();
        let key = id.and_then(|id| hand_over_key(state, &id));
        key.is_some_and(|key| !key.destroyed)
    });
    hold(
        rewrapped.is_empty() || (for_a_change && of_living),
        name,
        || "a hand-over key wrapped for no change, or a destroyed one".into(),
    )
}

/// From one state to a later one: what was granted stays what it was, what was released stays counted, and what is over
/// stays over.
pub(super) fn only_grow(before: &dyn Reader, after: &dyn Reader, name: &'static str) -> Checked {
    for old in hand_over_grants(before) {
        let id = named(name, &old.relocation_id)?;
        let grown = hand_over_grant(after, &id).is_some_and(|new| {
            let count = |grant: &HandOverGrantRecord| {
                let released = grant.released.as_ref();
                released.map_or((0, 0), |released| (released.objects, released.leaves))
            };
            let ((objects, leaves), (now, through)) = (count(&old), count(&new));
            let open = old.stage() == HandOverStage::Open;
            new.dataset_id == old.dataset_id
                && new.terms == old.terms
                && new.leaf_index == old.leaf_index
                && new.reverted >= old.reverted
                && now >= objects
                && through >= leaves
                && (open || now == objects)
                && (old.stage() != HandOverStage::Closed || new.stage() == HandOverStage::Closed)
        });
        hold(grown, name, || format!("the grant of relocation {id}"))?;
    }
    for old in hand_over_keys(before) {
        let id = named(name, &old.relocation_id)?;
        let born = |key: &HandOverKeyRecord| HandOverKeyRecord {
            root_epoch: 0,
            destroyed: false,
            ..key.clone()
        };
        let grown = hand_over_key(after, &id).is_some_and(|new| {
            born(&new) == born(&old)
                && new.root_epoch >= old.root_epoch
                && (!old.destroyed || new.destroyed)
        });
        hold(grown, name, || {
            format!("the hand-over key of relocation {id}")
        })?;
    }
    Ok(())
}
