//! What `reduit key impact` and `reduit key inventory` print.
//!
//! Owns the words. Refuses to leave out what is not known: a shard that was not asked, a use that was not looked for.

use std::collections::BTreeSet;

use client::ids::DatasetName;
use proto::v1;
use serde_json::{Value, json};

use super::key_name::KeyName;
use super::output::time;

/// A key's state as people write it.
pub(crate) fn state(key: &v1::KekRecord) -> String {
    let name = key.state().as_str_name();
    name.trim_start_matches("KEY_STATE_")
        .to_lowercase()
        .replace('_', "-")
}

fn at(ms: u64) -> Option<String> {
    (ms > 0).then(|| time(ms))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Root epochs that wrap a living version, oldest first.
fn epochs(key: &v1::KekRecord) -> BTreeSet<u32> {
    key.versions.iter().map(|held| held.root_epoch).collect()
}

/// What a destruction leaves: said in every report, before and after.
pub(crate) fn what_remains(report: &v1::KeyImpactReply, key: &v1::KekRecord) -> String {
    let before = match (key.state(), at(key.destroy_after_ms)) {
        (v1::KeyState::PendingDestruction, Some(due)) => format!("the destruction ({due})"),
        _ => "the destruction".to_owned(),
    };
    let epochs: Vec<_> = epochs(key).iter().map(ToString::to_string).collect();
    format!(
        "destroyed, and erased from each replica's files once that says so on record; recoverable from backups made \
         before {before} with {} of {} shares of root epoch {}",
        report.shares_needed,
        report.shares,
        epochs.join(", ")
    )
}

/// What is left of what was last ended of a key; nothing where nothing was.
pub(crate) fn left(info: &v1::KeyInfo) -> Vec<String> {
    let Some(key) = info.key.as_ref().filter(|key| key.ended_leaf > 0) else {
        return Vec::new();
    };
    let mut lines = vec![match &info.not_erased[..] {
        [] => format!(
            "what leaf {} ended is erased from every replica's files, as each has said on record",
            key.ended_leaf
        ),
        silent => format!(
            "what leaf {} ended may still be in files of {}: they have not said that they erased it",
            key.ended_leaf,
            silent.join(", ")
        ),
    }];
    if !info.recoverable_under.is_empty() {
        let epochs: Vec<_> = info.recoverable_under.iter().map(u32::to_string).collect();
        lines.push(format!(
            "recoverable from backups made before, with shares of root epoch {}",
            epochs.join(", ")
        ));
    }
    lines
}

/// What keeps a key from being destroyed, or why that is not known.
pub(crate) fn hold(report: &v1::KeyImpactReply) -> String {
    if !report.not_asked.is_empty() {
        return format!("not known, so it cannot be destroyed: {}", report.not_asked);
    }
    let hold = report.dataset.as_ref().and_then(|dataset| dataset.hold);
    let hold = hold.unwrap_or_default();
    let retained = hold.retain_until_ms > report.now_ms;
    match (hold.legal, retained) {
        (false, false) => "none".to_owned(),
        (true, false) => "legal hold".to_owned(),
        (legal, true) => {
            let until = time(hold.retain_until_ms);
            let also = if legal { ", and a legal hold" } else { "" };
            format!("compliance retention until {until}{also}")
        }
    }
}

/// An impact report for people.
pub(crate) fn impact_lines(
    name: &KeyName,
    report: &v1::KeyImpactReply,
    key: &v1::KekRecord,
) -> Vec<String> {
    let mut lines = vec![format!(
        "{name}: {}, {} versions, the newest is {}",
        state(key),
        key.versions.len(),
        key.current_version
    )];
    lines.push(match &report.dataset {
        Some(dataset) => format!(
            "under it: {} objects, {} versions of them, {} sealed bytes",
            dataset.objects, dataset.versions, dataset.sealed_bytes
        ),
        None if report.not_asked.is_empty() => "under it: nothing, no shard holds it".to_owned(),
        None => format!(
            "under it: NOT KNOWN, its shard was not asked: {}",
            report.not_asked
        ),
    });
    lines.push(format!("hold: {}", hold(report)));
    for live in &report.leases {
        lines.push(format!(
            "live leases of version {}: {} to seal, {} for metadata, the last until {}",
            live.kek_version,
            live.sealing,
            live.metadata,
            time(live.latest_expiry_ms)
        ));
    }
    if report.leases.is_empty() {
        lines.push("live leases: none".to_owned());
    }
    lines.push(match &report.last_use {
        Some(used) => format!(
            "last used: {} by {} for {} at {}, leaf {}",
            used.kind,
            or_unknown(&used.actor),
            used.purpose,
            time(used.time_ms),
            used.leaf_index
        ),
        None => format!(
            "last used: not within the log's last {} leaves",
            report.leaves_looked_at
        ),
    });
    lines.push(format!("if destroyed: {}", what_remains(report, key)));
    lines
}

fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "(erased)" } else { text }
}

/// The same for machines.
pub(crate) fn impact_json(
    name: &KeyName,
    report: &v1::KeyImpactReply,
    key: &v1::KekRecord,
) -> Value {
    let dataset = report.dataset.as_ref().map(|dataset| {
        let hold = dataset.hold.unwrap_or_default();
        json!({
            "objects": dataset.objects,
            "versions": dataset.versions,
            "sealed_bytes": dataset.sealed_bytes,
            "legal_hold": hold.legal,
            "retain_until": at(hold.retain_until_ms),
        })
    });
    let leases: Vec<_> = report
        .leases
        .iter()
        .map(|live| {
            json!({
                "kek_version": live.kek_version,
                "sealing": live.sealing,
                "metadata": live.metadata,
                "latest_expiry": time(live.latest_expiry_ms),
            })
        })
        .collect();
    let last_use = report.last_use.as_ref().map(|used| {
        json!({
            "leaf": used.leaf_index,
            "time": time(used.time_ms),
            "kind": used.kind,
            "purpose": used.purpose,
            "actor": used.actor,
            "on_behalf_of": used.on_behalf_of,
        })
    });
    let oldest = report.key.as_ref().map_or(0, |info| info.oldest_version);
    json!({
        "dataset": name.to_string(),
        "key": inventory_json(key, oldest, None),
        "under_it": dataset,
        "shard_not_asked": Some(&report.not_asked).filter(|why| !why.is_empty()),
        "hold": hold(report),
        "leases": leases,
        "last_use": last_use,
        "leaves_looked_at": report.leaves_looked_at,
        "if_destroyed": what_remains(report, key),
        "region_time": time(report.now_ms),
    })
}

/// What became of older versions, where anything did. `oldest`: the oldest that was not ended.
pub(crate) fn older(key: &v1::KekRecord, oldest: u32) -> Option<String> {
    // A KMS of an older build says nothing of it.
    let (oldest, min) = (oldest.max(1), key.min_version);
    match (oldest > 1, min > oldest) {
        _ if key.state() == v1::KeyState::Destroyed => None,
        (false, false) => None,
        (true, false) => Some(format!("versions below {oldest} are ended")),
        (false, true) => Some(format!("commits are taken from version {min} on")),
        (true, true) => Some(format!(
            "versions below {oldest} are ended, commits are taken from version {min} on"
        )),
    }
}

/// A key's plan of rotation for machines.
pub(crate) fn rotation_json(key: &v1::KekRecord) -> Option<Value> {
    let plan = key.rotation?;
    Some(json!({
        "max_age_ms": plan.max_age_ms,
        "max_uses": plan.max_uses,
        "uses": plan.uses,
    }))
}

/// And for people, where there is one.
pub(crate) fn rotation(key: &v1::KekRecord) -> Option<String> {
    let plan = key.rotation?;
    let age = format!("{} days", plan.max_age_ms / (24 * 3_600_000));
    let uses = format!("{} uses ({} so far)", plan.max_uses, plan.uses);
    match (plan.max_age_ms, plan.max_uses) {
        (0, 0) => None,
        (_, 0) => Some(format!("rotated every {age}")),
        (0, _) => Some(format!("rotated every {uses}")),
        (_, _) => Some(format!("rotated every {age} or {uses}")),
    }
}

/// What people call a key, and what they noted on it.
pub(crate) fn labels(key: &v1::KekRecord) -> Vec<String> {
    let aliases = key.aliases.iter().map(|alias| format!("alias/{alias}"));
    let tags = key
        .tags
        .iter()
        .map(|tag| format!("{}={}", tag.name, tag.value));
    aliases.chain(tags).collect()
}

/// A key's tags for machines.
pub(crate) fn tags_json(key: &v1::KekRecord) -> Value {
    let tags = key
        .tags
        .iter()
        .map(|tag| (tag.name.clone(), Value::from(tag.value.clone())));
    Value::Object(tags.collect())
}

/// One key of the inventory.
pub(crate) fn inventory_json(
    key: &v1::KekRecord,
    oldest: u32,
    name: Option<&DatasetName>,
) -> Value {
    let versions: Vec<_> = key
        .versions
        .iter()
        .map(|held| {
            json!({
                "version": held.version,
                "created": at(held.created_at_ms),
                "root_epoch": held.root_epoch,
            })
        })
        .collect();
    json!({
        "dataset": name.map(DatasetName::as_str),
        "dataset_id": hex(&key.dataset_id),
        "kek_id": hex(&key.kek_id),
        "pseudonym": hex(&key.pseudonym),
        "state": state(key),
        "state_version": key.state_version,
        "current_version": key.current_version,
        "min_version": key.min_version,
        "oldest_version": oldest,
        "rotation": rotation_json(key),
        "aliases": key.aliases,
        "tags": tags_json(key),
        "versions": versions,
        "created": at(key.created_at_ms),
        "shard": key.shard,
        "confirmed_by_shard": key.shard != 0 && key.confirmed_state_version == key.state_version,
        "destroyed_after": at(key.destroy_after_ms),
    })
}

/// The columns of the inventory as CSV (RFC 4180; no field of it takes quotes).
pub(crate) const CSV_HEAD: &str = "dataset,dataset_id,kek_id,state,current_version,min_version,root_epochs,created,\
                                   newest_version_created,destroyed_after,aliases";

/// One key as CSV.
pub(crate) fn inventory_csv(key: &v1::KekRecord, name: Option<&DatasetName>) -> String {
    let epochs: Vec<_> = epochs(key).iter().map(ToString::to_string).collect();
    let newest = key.versions.last().map_or(0, |held| held.created_at_ms);
    [
        name.map_or(String::new(), ToString::to_string),
        hex(&key.dataset_id),
        hex(&key.kek_id),
        state(key),
        key.current_version.to_string(),
        key.min_version.to_string(),
        epochs.join(" "),
        at(key.created_at_ms).unwrap_or_default(),
        at(newest).unwrap_or_default(),
        at(key.destroy_after_ms).unwrap_or_default(),
        key.aliases.join(" "),
    ]
    .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> v1::KekRecord {
        let version = |version, root_epoch| v1::KekVersionRecord {
            version,
            root_epoch,
            created_at_ms: 1_000,
            ..Default::default()
        };
        let mut key = v1::KekRecord {
            dataset_id: vec![0xD5; 16].into(),
            kek_id: vec![0x6B; 16].into(),
            current_version: 2,
            min_version: 1,
            versions: vec![version(1, 1), version(2, 2)],
            destroy_after_ms: 86_400_000,
            ..Default::default()
        };
        key.set_state(v1::KeyState::PendingDestruction);
        key
    }

    fn report() -> v1::KeyImpactReply {
        v1::KeyImpactReply {
            shares_needed: 3,
            shares: 5,
            leaves_looked_at: 7,
            now_ms: 500,
            dataset: Some(v1::DatasetRecord {
                objects: 4,
                versions: 5,
                sealed_bytes: 6,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn name() -> KeyName {
        "cti".parse().expect("a name")
    }

    #[test]
    fn a_report_says_what_is_lost_and_what_is_not() {
        let lines = impact_lines(&name(), &report(), &key());
        assert_eq!(
            lines,
            [
                "cti: pending-destruction, 2 versions, the newest is 2",
                "under it: 4 objects, 5 versions of them, 6 sealed bytes",
                "hold: none",
                "live leases: none",
                "last used: not within the log's last 7 leaves",
                "if destroyed: destroyed, and erased from each replica's files once that says so on record; recoverable \
                 from backups made before the destruction (1970-01-02T00:00:00Z) with 3 of 5 shares of root epoch 1, 2",
            ]
        );
    }

    #[test]
    fn what_is_left_of_what_was_ended_is_named_by_replica_and_by_epoch() {
        let ended = v1::KekRecord {
            ended_leaf: 40,
            ..key()
        };
        let info = |key: &v1::KekRecord, not_erased: &[&str]| v1::KeyInfo {
            key: Some(key.clone()),
            not_erased: not_erased.iter().map(|&name| name.to_owned()).collect(),
            recoverable_under: vec![1, 2],
            ..v1::KeyInfo::default()
        };
        assert_eq!(
            left(&info(&ended, &["spiffe://ch-zrh/kms/k2"])),
            [
                "what leaf 40 ended may still be in files of spiffe://ch-zrh/kms/k2: they have not said that they erased it",
                "recoverable from backups made before, with shares of root epoch 1, 2",
            ]
        );
        let clean = left(&info(&ended, &[]));
        assert!(
            clean[0].contains("erased from every replica's files"),
            "{clean:?}"
        );
        assert!(left(&info(&key(), &[])).is_empty(), "nothing was ended");
    }

    #[test]
    fn a_shard_that_was_not_asked_is_no_empty_dataset() {
        let silent = v1::KeyImpactReply {
            dataset: None,
            not_asked: "no storage node answered".to_owned(),
            ..report()
        };
        let lines = impact_lines(&name(), &silent, &key()).join("\n");
        assert!(lines.contains("NOT KNOWN"), "{lines}");
        assert!(lines.contains("cannot be destroyed"), "{lines}");
        let json = impact_json(&name(), &silent, &key());
        assert_eq!(json["shard_not_asked"], "no storage node answered");
    }

    #[test]
    fn a_hold_is_named_while_it_lasts() {
        let with = |legal, retain_until_ms| {
            let mut report = report();
            if let Some(dataset) = &mut report.dataset {
                dataset.hold = Some(v1::DatasetHold {
                    version: 1,
                    retain_until_ms,
                    legal,
                });
            }
            hold(&report)
        };
        assert_eq!(with(false, 500), "none");
        assert_eq!(with(true, 500), "legal hold");
        let both = "compliance retention until 1970-01-01T00:00:01Z, and a legal hold";
        assert_eq!(with(true, 1_000), both);
    }

    #[test]
    fn a_line_of_the_inventory_has_a_field_for_each_column() {
        let name: DatasetName = "cti".parse().expect("a name");
        let line = inventory_csv(&key(), Some(&name));
        assert_eq!(line.split(',').count(), CSV_HEAD.split(',').count());
        assert!(line.starts_with("cti,d5d5"), "{line}");
        assert!(line.contains(",pending-destruction,2,1,1 2,"), "{line}");
    }
}
