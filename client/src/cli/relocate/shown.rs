//! How a relocation is shown: to people in lines, to programs as JSON.
//!
//! Owns the words. Refuses to show an estimate as a promise: what is not known is left out, or null.

use client::ids::{DatasetId, RelocationId};
use client::moving::{RelocationProgress, RelocationRate};
use indicatif::{HumanBytes, HumanDuration};
use proto::v1;
use serde_json::{Value, json};

use super::super::Session;
use super::super::output::{line, time};

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 3_600 * 1_000;

pub(super) fn optional_time(ms: u64) -> Option<String> {
    (ms > 0).then(|| time(ms))
}

pub(super) fn pace_json(pace: &v1::ArrivalPace) -> Value {
    json!({
        "paused": pace.paused,
        "bytes_per_s_max": (pace.bytes_per_s > 0).then_some(pace.bytes_per_s),
        "cutover": pace.cutover,
        "pause_ms_max": if pace.pause_ms == 0 { 5_000 } else { pace.pause_ms },
        "hold_ms": pace.hold_ms,
    })
}

pub(super) fn pace_words(pace: &v1::ArrivalPace) -> String {
    let mut words = vec![match pace.bytes_per_s {
        0 => "as fast as it goes".to_owned(),
        rate => format!("at most {}/s", HumanBytes(rate)),
    }];
    if pace.paused {
        words.push("paused".to_owned());
    }
    words.push(match pace.cutover {
        true => format!(
            "moves once all copies are equal, within a pause of {} ms, with a hold of {} days",
            if pace.pause_ms == 0 {
                5_000
            } else {
                pace.pause_ms
            },
            pace.hold_ms / DAY_MS
        ),
        false => "no cutover yet".to_owned(),
    });
    words.join(", ")
}

fn relocation_of(status: &v1::ArrivalStatus) -> String {
    let id = status
        .arrival
        .as_ref()
        .map(|arrival| &arrival.relocation_id[..]);
    let id = id.and_then(|id| RelocationId::try_from(id).ok());
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn dataset_of(status: &v1::ArrivalStatus) -> (String, String) {
    let Some(dataset) = &status.dataset else {
        return (String::new(), String::new());
    };
    let id = DatasetId::try_from(&dataset.dataset_id[..]);
    let id = id.map(|id| id.to_string()).unwrap_or_default();
    (dataset.name.clone(), id)
}

/// One object that says all.
pub(super) fn status_json(
    status: &v1::ArrivalStatus,
    progress: &RelocationProgress,
    rate: Option<RelocationRate>,
) -> Value {
    let (name, dataset) = dataset_of(status);
    let terms = status
        .arrival
        .as_ref()
        .and_then(|arrival| arrival.terms.clone());
    let terms = terms.unwrap_or_default();
    let mut told = json!({
        "relocation": relocation_of(status),
        "name": name,
        "dataset": dataset,
        "shard": status.shard,
        "source": terms.source,
        "destination": terms.destination,
        "phase": progress.phase,
        "waits_for": (!progress.waits_for.is_empty()).then_some(progress.waits_for),
        "versions": progress.versions,
        "source_versions": progress.source_versions,
        "bytes": progress.bytes,
        "source_bytes": progress.source_bytes,
        "moved_bytes": progress.moved_bytes,
        "changes_behind": progress.changes_behind,
        "compared": progress.compared,
        "mover": progress.mover,
        "failures": progress.failures,
        "failure": (!progress.failure.is_empty()).then_some(&progress.failure),
        "fence": progress.fence,
        "equal": progress.equal,
        "pause_ms": (progress.pause_ms > 0).then_some(progress.pause_ms),
        "released_versions": progress.released,
        "hold_until": progress.hold_until.map(|until| time(until.0)),
        "by_force": progress.by_force,
        "pace": pace_json(&progress.pace),
    });
    if let Some(rate) = rate {
        told["bytes_per_s"] = rate.bytes_per_s.into();
        told["left_s"] = json!(rate.left.map(|left| left.as_secs()));
    }
    told
}

/// One line of it.
pub(super) fn brief(status: &v1::ArrivalStatus, progress: &RelocationProgress) -> String {
    let (name, _) = dataset_of(status);
    let waits = match progress.waits_for {
        "" => String::new(),
        waits => format!("; waits for {waits}"),
    };
    format!(
        "{}  {name}  {}  {}{waits}",
        relocation_of(status),
        progress.phase,
        counts(progress)
    )
}

/// How much is here, of how much.
pub(super) fn counts(progress: &RelocationProgress) -> String {
    match (progress.source_versions, progress.source_bytes) {
        (Some(versions), Some(bytes)) => format!(
            "{} of {versions} versions, {} of {}",
            progress.versions,
            HumanBytes(progress.bytes),
            HumanBytes(bytes)
        ),
        _ => format!(
            "{} versions, {}",
            progress.versions,
            HumanBytes(progress.bytes)
        ),
    }
}

/// All lines of it.
pub(super) fn status_lines(
    status: &v1::ArrivalStatus,
    progress: &RelocationProgress,
    rate: Option<RelocationRate>,
) -> Vec<String> {
    let (name, dataset) = dataset_of(status);
    let terms = status
        .arrival
        .as_ref()
        .and_then(|arrival| arrival.terms.clone());
    let terms = terms.unwrap_or_default();
    let mut lines = vec![
        format!("relocation   {}", relocation_of(status)),
        format!(
            "dataset      {name} ({dataset}), shard {}, from {}",
            status.shard, terms.source
        ),
        format!("phase        {}", progress.phase),
        format!("here         {}", counts(progress)),
    ];
    if !progress.waits_for.is_empty() {
        lines.push(format!("waits for    {}", progress.waits_for));
    }
    if let Some(behind) = progress.changes_behind {
        let more = if behind >= 1_000 { " or more" } else { "" };
        lines.push(format!("behind       {behind}{more} changes"));
    }
    if progress.compared > 0 {
        lines.push(format!(
            "compared     {} of {} copies, {} %",
            progress.compared,
            progress.versions,
            progress.compared_percent()
        ));
    }
    if let Some(rate) = rate {
        let left = rate
            .left
            .map(|left| format!(", about {} left", HumanDuration(left)));
        lines.push(format!(
            "rate         {}/s{}",
            HumanBytes(rate.bytes_per_s),
            left.unwrap_or_default()
        ));
    }
    let mover = progress.mover.as_deref().unwrap_or("nobody");
    lines.push(format!("moved by     {mover}"));
    lines.push(format!("pace         {}", pace_words(&progress.pace)));
    if progress.failures > 0 {
        lines.push(format!(
            "failures     {}, the last one: {}",
            progress.failures, progress.failure
        ));
    }
    if let Some(fence) = progress.fence {
        let equal = if progress.equal {
            ", all copies equal"
        } else {
            ""
        };
        lines.push(format!(
            "fence        at log index {fence} of the source{equal}"
        ));
    }
    if progress.pause_ms > 0 {
        lines.push(format!(
            "pause        writes waited {} ms",
            progress.pause_ms
        ));
    }
    if let Some(released) = progress.released {
        lines.push(format!("released     keys of the source, {released} times"));
    }
    if let Some(until) = progress.hold_until {
        lines.push(format!("hold         until {}", time(until.0)));
    }
    if progress.by_force {
        lines.push("by force     the source has not said that it moved".to_owned());
    }
    lines
}

/// How a source sees it.
pub(super) fn departure(
    session: &Session,
    relocation: &RelocationId,
    status: &v1::DepartureStatus,
) {
    let dataset = status.dataset.clone().unwrap_or_default();
    let authority = dataset.authority.clone().unwrap_or_default();
    let own = |id: &[u8]| *id == relocation.as_bytes()[..];
    let departure = authority
        .departure
        .as_ref()
        .filter(|departure| own(&departure.relocation_id));
    let moved = authority
        .moved
        .as_ref()
        .filter(|moved| own(&moved.relocation_id));
    let phase = match (moved, departure) {
        (Some(_), _) => "moved",
        (None, Some(_)) if status.fence_ends_ms > 0 => "fenced",
        (None, Some(_)) => "open",
        (None, None) => "not under way",
    };
    if session.json {
        line(json!({
            "relocation": relocation.to_string(), "name": dataset.name, "phase": phase, "shard": status.shard,
            "epoch": dataset.epoch, "versions": dataset.versions, "sealed_bytes": dataset.sealed_bytes,
            "destination": departure.map(|departure| &departure.destination),
            "taken": departure.map(|departure| departure.taken), "fences": departure.map(|departure| departure.fences),
            "changes_behind": status.changes, "fence_ends": optional_time(status.fence_ends_ms),
            "moved_epoch": moved.map(|moved| moved.epoch),
        }));
        return;
    }
    line(format!("relocation   {relocation}"));
    line(format!(
        "dataset      {}, shard {}",
        dataset.name, status.shard
    ));
    line(format!("phase        {phase}"));
    line(format!(
        "here         {} versions, {}",
        dataset.versions,
        HumanBytes(dataset.sealed_bytes)
    ));
    if let Some(departure) = departure {
        line(format!(
            "goes to      {}: changes through {} are taken, {} are not; {} fences so far",
            departure.destination, departure.taken, status.changes, departure.fences
        ));
    }
    if status.fence_ends_ms > 0 {
        line(format!("fence        until {}", time(status.fence_ends_ms)));
    }
}
