//! When a key is rotated by itself, and the end of its older versions.
//!
//! Owns the plan in a key's record, the count of uses it goes by, the oldest version under which the dataset's shard
//! takes commits, and the purge of versions that nothing needs. Refuses a plan out of its bounds, to bring an older
//! version back, and to end a version before the shard has confirmed that it takes no commit under it. Uses are counted
//! for keys with a plan alone, so that a log from before plans applies as it did.

use std::ops::{ControlFlow, RangeInclusive};

use proto::ids::UnixMs;
use proto::v1::{
    EndKekVersions, KekRecord, KekVersionRecord, KeyRotation, KeyState, KmsDone, PlanKeyRotation,
    RaiseMinVersion,
};
use serde::Serialize;
use tlog::Kind;

use crate::append::Applying;
use crate::apply::Stop;
use crate::changing::{Changing, begin};
use crate::erase;
use crate::keys::{KEK_VERSIONS_MAX, KeyDetails, WRAPPED_BYTES};
use crate::refusal::Refusal;

/// Milliseconds of age at which a plan may rotate: an hour to ten years.
pub const ROTATION_AGE_MS: RangeInclusive<u64> = 3_600_000..=10 * 365 * 24 * 3_600_000;
/// Uses at which a plan may rotate. Far more than come while one rotation is made, and less than a counter holds.
pub const ROTATION_USES: RangeInclusive<u64> = 256..=1 << 48;

/// Why a key is due to be rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationDue {
    /// Its newest version is old enough.
    Age,
    /// It was used often enough.
    Use,
}

/// Whether a key's plan asks for a rotation now. A key that is not enabled, or has all the versions one may have, waits.
pub fn rotation_due(key: &KekRecord, now: UnixMs) -> Option<RotationDue> {
    let plan = key.rotation?;
    if key.state() != KeyState::Enabled || key.current_version >= KEK_VERSIONS_MAX {
        return None;
    }
    let born = key.versions.last().map_or(0, |newest| newest.created_at_ms);
    if plan.max_age_ms > 0 && now.0.saturating_sub(born) >= plan.max_age_ms {
        return Some(RotationDue::Age);
    }
    (plan.max_uses > 0 && plan.uses >= plan.max_uses).then_some(RotationDue::Use)
}

/// The oldest version of a key that was not ended.
pub fn oldest_living(key: &KekRecord) -> u32 {
    let mut held = key.versions.iter();
    let living = held.find(|version| !version.wrapped_kek.is_empty());
    living.map_or(key.current_version, |version| version.version)
}

/// Which KEK version a version's metadata key is wrapped under.
pub fn metadata_under(version: &KekVersionRecord) -> u32 {
    match version.metadata_kek_version {
        0 => version.version,
        other => other,
    }
}

/// Versions whose metadata keys are lost with versions below one, unless they are wrapped under another.
pub fn metadata_below(
    key: &KekRecord,
    below_version: u32,
) -> impl Iterator<Item = &KekVersionRecord> {
    let held = key.versions.iter();
    held.filter(move |version| {
        !version.wrapped_metadata_key.is_empty() && metadata_under(version) < below_version
    })
}

#[derive(Serialize)]
struct PlanDetails {
    #[serde(flatten)]
    key: KeyDetails,
    max_age_ms: u64,
    max_uses: u64,
}

#[derive(Serialize)]
struct RetiredDetails {
    #[serde(flatten)]
    key: KeyDetails,
    min_version: u32,
}

#[derive(Serialize)]
struct EndedDetails {
    #[serde(flatten)]
    key: KeyDetails,
    below_version: u32,
    ended: u32,
}

pub(crate) fn plan(
    applying: &mut Applying<'_>,
    command: &PlanKeyRotation,
) -> Result<KmsDone, Stop> {
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let key = &mut changing.key;
    let within = |asked: u64, bounds: RangeInclusive<u64>| asked == 0 || bounds.contains(&asked);
    if !within(command.max_age_ms, ROTATION_AGE_MS) || !within(command.max_uses, ROTATION_USES) {
        return Err(Refusal::Malformed("a plan of rotation is out of its bounds").into());
    }
    if ends(key) {
        return Err(Refusal::WrongState.into());
    }
    key.rotation = Some(KeyRotation {
        max_age_ms: command.max_age_ms,
        max_uses: command.max_uses,
        uses: key.rotation.unwrap_or_default().uses,
    });
    let said = |key: &KekRecord| PlanDetails {
        key: KeyDetails::of(key),
        max_age_ms: command.max_age_ms,
        max_uses: command.max_uses,
    };
    Ok(changing.finish(applying, Kind::KeyRotationPlanned, said))
}

pub(crate) fn raise_min(
    applying: &mut Applying<'_>,
    command: &RaiseMinVersion,
) -> Result<KmsDone, Stop> {
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let key = &mut changing.key;
    let rises = key.min_version < command.min_version && command.min_version <= key.current_version;
    if !rises || ends(key) {
        return Err(Refusal::WrongState.into());
    }
    key.min_version = command.min_version;
    let said = |key: &KekRecord| RetiredDetails {
        key: KeyDetails::of(key),
        min_version: key.min_version,
    };
    Ok(changing.finish(applying, Kind::KeyVersionsRetired, said))
}

pub(crate) fn end(applying: &mut Applying<'_>, command: &EndKekVersions) -> Result<KmsDone, Stop> {
    let mut changing = match begin(applying, command)? {
        ControlFlow::Break(done) => return Ok(done),
        ControlFlow::Continue(changing) => changing,
    };
    let Changing { key, private, .. } = &mut changing;
    let below = command.below_version;
    // What the shard said of its tokens holds from where it takes no more of them.
    let confirmed = key.confirmed_state_version == key.state_version;
    let some = oldest_living(key) < below && below <= key.min_version;
    if !some || !confirmed || ends(key) {
        return Err(Refusal::WrongState.into());
    }
    let asked = metadata_below(key, below).map(|version| version.version);
    let given = command.metadata_keys.iter();
    if !asked.eq(given.clone().map(|given| given.version)) {
        return Err(
            Refusal::Malformed("metadata keys of other versions than those that end").into(),
        );
    }
    // 32 bytes here would be a key in the clear, replicated for ever.
    let mut lengths = given.map(|given| given.wrapped_metadata_key.len());
    if !lengths.all(|length| WRAPPED_BYTES.contains(&length)) {
        return Err(Refusal::Malformed("a key is not wrapped").into());
    }
    let authority = applying.authority()?;
    let approved = applying.approvals(&authority, authority.approvals_min())?;
    applying.use_approvals(&approved, private);
    erase::ended(applying, key);
    let newest = key.current_version;
    let mut ended = 0;
    for version in &mut key.versions {
        if version.version < below && !version.wrapped_kek.is_empty() {
            version.wrapped_kek.clear();
            ended += 1;
        }
        let mut given = command.metadata_keys.iter();
        if let Some(given) = given.find(|given| given.version == version.version) {
            version.wrapped_metadata_key = given.wrapped_metadata_key.clone();
            version.metadata_kek_version = newest;
        }
    }
    let said = |key: &KekRecord| EndedDetails {
        key: KeyDetails::of(key),
        below_version: below,
        ended,
    };
    Ok(changing.finish(applying, Kind::KeyVersionsEnded, said))
}

/// Its versions are past changing.
fn ends(key: &KekRecord) -> bool {
    matches!(
        key.state(),
        KeyState::PendingDestruction | KeyState::Destroyed
    )
}
