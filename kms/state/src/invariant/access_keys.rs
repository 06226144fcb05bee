//! What holds of access keys in every state.

use std::collections::BTreeSet;

use prost::Message as _;
use proto::ids::{AccessKeyId, Identity, Role};
use proto::store::Reader;
use proto::v1::{AccessKeyRecord, AccessKeyState};

use super::{Broken, Checked, hold, table};
use crate::access_keys::{ACCESS_KEYS_MAX, access_key, access_keys};
use crate::keys::WRAPPED_BYTES;
use crate::{custody, layout, read};

/// Each has one wrapped secret under the root key in force, and the enrolment set names the principals of those that are
/// enabled and no others. What is wrapped for another root key belongs to a change under way.
pub fn invariant_access_keys_are_in_order(state: &dyn Reader) -> Checked {
    const NAME: &str = "access keys are in order";
    let rows = table(state, &[layout::ACCESS_KEYS]);
    hold(rows.len() <= ACCESS_KEYS_MAX, NAME, || "too many".into())?;
    let region = read::region(state).unwrap_or_default();
    let mut enabled = BTreeSet::new();
    for (row, value) in &rows {
        let broken = |what: String| Broken {
            invariant: NAME,
            what,
        };
        let record = AccessKeyRecord::decode(&value[..]).map_err(|e| broken(e.to_string()))?;
        let id = AccessKeyId::try_from(&record.access_key_id[..]);
        let id = id.map_err(|error| broken(error.to_string()))?;
        hold(*row == layout::access_key(&id), NAME, || {
            format!("{id} stands in the row of another")
        })?;
        let principal: Identity = record
            .principal
            .parse()
            .map_err(|_| broken(format!("{id}: its principal")))?;
        let own = principal.role() == Role::Service && principal.region().as_str() == region.region;
        hold(own, NAME, || format!("{id}: its principal"))?;
        hold(record.root_epoch == region.root_epoch, NAME, || {
            format!("{id}: its secret is under another root key")
        })?;
        let secret = state.value(&layout::access_secret(&id)).unwrap_or_default();
        hold(WRAPPED_BYTES.contains(&secret.len()), NAME, || {
            format!("{id}: a wrapped secret of no such length")
        })?;
        match record.state() {
            AccessKeyState::Enabled => drop(enabled.insert(record.principal)),
            AccessKeyState::Disabled => {}
            AccessKeyState::Unspecified => hold(false, NAME, || format!("{id}: its state"))?,
        }
    }
    let secrets = table(state, &[layout::ACCESS_SECRETS]);
    hold(secrets.len() == rows.len(), NAME, || {
        "a secret without an access key".into()
    })?;
    let named = read::authority_set(state).unwrap_or_default();
    let same = enabled.iter().eq(&named.service_principals);
    hold(same, NAME, || {
        "the enrolment set names other principals".into()
    })?;
    let rewrapped = table(state, &[layout::REWRAPPED_SECRETS]);
    let under_way = custody::custody(state).and_then(|custody| custody.pending);
    let for_a_change = under_way.is_some_and(|plan| plan.root_epoch > region.root_epoch);
    let living = rewrapped.iter().all(|(row, _)| {
        let id = AccessKeyId::try_from(&row[1..]);
        id.is_ok_and(|id| access_key(state, &id).is_some())
    });
    hold(
        rewrapped.is_empty() || (for_a_change && living),
        NAME,
        || "a secret wrapped for no change, or of no access key".into(),
    )
}

/// From one state to a later one: an access key keeps its principal and its birth, and only a disabled one goes.
pub(super) fn only_grow(before: &dyn Reader, after: &dyn Reader, name: &'static str) -> Checked {
    for old in access_keys(before, None, usize::MAX) {
        let id = AccessKeyId::try_from(&old.access_key_id[..]).expect("checked by the keys' own");
        let grown = match access_key(after, &id) {
            None => old.state() == AccessKeyState::Disabled,
            Some(new) => {
                let changed = new.state != old.state;
                new.principal == old.principal
                    && new.created_leaf == old.created_leaf
                    && new.root_epoch >= old.root_epoch
                    && new.given_until_ms >= old.given_until_ms
                    && new.state_version >= old.state_version
                    && (!changed || new.state_version > old.state_version)
            }
        };
        hold(grown, name, || format!("access key {id}"))?;
    }
    Ok(())
}
