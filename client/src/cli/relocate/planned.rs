//! What a plan found, and a notice of one, as they are shown.
//!
//! Owns the words. Refuses to show an estimate as a promise: it is of one pass at the rate that was given.

use client::moving::{Blocker, MovesAlong, Planned, RelocationNotice, transfer_seconds};
use indicatif::{HumanBytes, HumanDuration};
use proto::v1;
use serde_json::{Value, json};

use super::super::Session;
use super::super::output::{self, line, time};
use super::shown::optional_time;

/// What is in the way.
pub(super) fn blockers(session: &Session, found: &[Blocker]) {
    if session.json {
        line(json!({ "blockers": blockers_json(found) }));
        return;
    }
    for blocker in found {
        line(format!("in the way   {}: {blocker}", blocker.name()));
    }
}

fn blockers_json(found: &[Blocker]) -> Vec<Value> {
    let one =
        |blocker: &Blocker| json!({ "blocker": blocker.name(), "message": blocker.to_string() });
    found.iter().map(one).collect()
}

fn along_json(along: &MovesAlong) -> Value {
    json!({
        "settings": along.settings,
        "versioning": along.versioning,
        "suspended": along.suspended,
        "object_lock": along.lock.map(output::lock),
        "objects_max": (along.quota.objects_max > 0).then_some(along.quota.objects_max),
        "sealed_bytes_max": (along.quota.sealed_bytes_max > 0).then_some(along.quota.sealed_bytes_max),
        "legal_hold": along.hold.legal,
        "retain_until": optional_time(along.hold.retain_until_ms),
        "versions_under_legal_hold": along.legal_holds,
        "compliance_until": optional_time(along.compliance_until_ms),
    })
}

/// What moves besides objects, in words.
fn along_words(along: &MovesAlong) -> Vec<String> {
    let mut words = Vec::new();
    if along.versioning || along.suspended {
        let state = if along.suspended { "suspended" } else { "on" };
        words.push(format!("versioning {state}"));
    }
    words.extend(
        along
            .lock
            .map(|lock| format!("object lock {}", output::lock(lock))),
    );
    if along.quota != v1::Quota::default() {
        words.push("quota".to_owned());
    }
    match &along.settings {
        Some(settings) => words.extend(settings.iter().map(|name| (*name).to_owned())),
        None => words.push("settings, which you may not read".to_owned()),
    }
    if along.hold.legal {
        words.push("legal hold of the dataset".to_owned());
    }
    words.extend(
        optional_time(along.hold.retain_until_ms)
            .map(|until| format!("retention of the dataset until {until}")),
    );
    if along.legal_holds > 0 {
        words.push(format!("legal holds of {} versions", along.legal_holds));
    }
    words.extend(
        optional_time(along.compliance_until_ms)
            .map(|until| format!("compliance retention of versions until {until}")),
    );
    words
}

/// A plan, and what was found.
pub(super) fn planned(session: &Session, planned: &Planned, rate: Option<u64>) {
    let Planned {
        plan,
        blockers: found,
        along,
        uploads,
    } = planned;
    let seconds = rate.and_then(|rate| transfer_seconds(plan.sealed_bytes, rate));
    if session.json {
        line(json!({
            "relocation": plan.relocation.to_string(), "dataset": plan.dataset.to_string(), "name": plan.name.to_string(),
            "source": plan.source.as_str(), "destination": plan.destination.as_str(), "shard": plan.shard.0,
            "epoch": plan.epoch, "objects": plan.objects, "versions": plan.versions, "sealed_bytes": plan.sealed_bytes,
            "uploads": uploads, "along": along_json(along), "estimate_s": seconds, "blockers": blockers_json(found),
        }));
        return;
    }
    line(format!("relocation   {}", plan.relocation));
    line(format!(
        "dataset      {} ({}), epoch {}, from {} to {}",
        plan.name, plan.dataset, plan.epoch, plan.source, plan.destination
    ));
    line(format!(
        "moves        {} objects, {} versions and delete markers, {}",
        plan.objects,
        plan.versions,
        HumanBytes(plan.sealed_bytes)
    ));
    let words = along_words(along);
    if !words.is_empty() {
        line(format!("moves along  {}", words.join(", ")));
    }
    if *uploads > 0 {
        line(format!(
            "stays        {uploads} uploads in parts, which end"
        ));
    }
    if let (Some(seconds), Some(rate)) = (seconds, rate) {
        line(format!(
            "takes        about {} for one pass at {}/s",
            HumanDuration(std::time::Duration::from_secs(seconds)),
            HumanBytes(rate)
        ));
    }
    blockers(session, found);
}

pub(super) fn notice(session: &Session, notice: &RelocationNotice) {
    let plan = &notice.plan;
    let fingerprint = hex::encode(notice.key_fingerprint);
    if session.json {
        line(json!({
            "by": notice.by.to_string(), "at": time(notice.at.0), "key_fingerprint": fingerprint,
            "relocation": plan.relocation.to_string(), "name": plan.name.to_string(), "source": plan.source.as_str(),
            "destination": plan.destination.as_str(), "objects": plan.objects, "versions": plan.versions,
            "sealed_bytes": plan.sealed_bytes,
        }));
        return;
    }
    line(format!("by           {}", notice.by));
    line(format!("at           {}", time(notice.at.0)));
    line(format!("key SHA-256  {fingerprint}"));
    line(format!("relocation   {}", plan.relocation));
    line(format!(
        "dataset      {} ({}), from {} to {}: {} objects, {}",
        plan.name,
        plan.dataset,
        plan.source,
        plan.destination,
        plan.objects,
        HumanBytes(plan.sealed_bytes)
    ));
}
