//! Object lock, tags, settings, quotas and null versions on a region of real processes.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use client::ids::UnixMs;
use client::{
    CompleteOptions, CreateOptions, Dataset, Error, PartOptions, Precondition, PutOptions,
    Retention, RetentionMode,
};
use local::files::{CLIENTS, now};
use proto::v1::{ConfigKind, Lifecycle, LifecycleRule};

use crate::common::reduit::Reduit;
use crate::common::{dataset, key, region_as, with_region};

const HOUR_MS: u64 = 3_600_000;

fn reason<T>(answer: Result<T, Error>) -> String {
    answer
        .err()
        .map_or("done".to_owned(), |error| error.reason().to_owned())
}

async fn put(dataset: &Dataset, retention: Option<Retention>) -> Result<client::PutOutcome, Error> {
    let options = PutOptions {
        retention,
        ..PutOptions::default()
    };
    dataset.put(&key("evidence"), "body", &options).await
}

/// What is locked is removed by no client, keeps the dataset's key, and is there after all that was tried.
#[test]
fn what_is_locked_stays_and_keeps_the_key() {
    with_region(3, async |local| {
        let dataset = dataset(local).await?;
        let at = key("evidence");
        let until = UnixMs(now().0 + HOUR_MS);
        let compliance = Retention {
            mode: RetentionMode::Compliance,
            until,
        };
        let governance = Retention {
            mode: RetentionMode::Governance,
            until,
        };
        ensure!(reason(put(&dataset, Some(compliance)).await) == "no-object-lock");
        dataset.set_object_lock(None).await?;
        ensure!(reason(dataset.set_versioning(false).await) == "lock-keeps-versions");
        let kept = put(&dataset, Some(compliance)).await?.version;
        let governed = put(&dataset, Some(governance)).await?.version;
        let held = put(&dataset, None).await?.version;
        dataset.set_legal_hold(&at, held, true).await?;
        for version in [kept, governed, held] {
            let removed = dataset.delete(&at, Some(version), Precondition::Any).await;
            ensure!(reason(removed) == "object-locked", "{version}");
        }
        // What undoes what others rely on takes the grant to change keys, which clients have not.
        let passed_over = dataset
            .delete_bypassing_governance(&at, governed, Precondition::Any, None)
            .await;
        ensure!(reason(passed_over) == "not-granted");
        ensure!(reason(dataset.set_legal_hold(&at, held, false).await) == "not-granted");
        ensure!(reason(dataset.set_retention(&at, governed, None, true).await) == "not-granted");
        let earlier = Retention {
            until: UnixMs(until.0 - 1),
            ..compliance
        };
        for wrong in [None, Some(earlier), Some(governance)] {
            let changed = dataset.set_retention(&at, kept, wrong, false).await;
            ensure!(reason(changed) == "object-locked", "{wrong:?}");
        }
        let later = Retention {
            until: UnixMs(until.0 + HOUR_MS),
            ..compliance
        };
        dataset.set_retention(&at, kept, Some(later), false).await?;
        let info = dataset.head(&at, Some(kept)).await?;
        ensure!(
            info.retention == Some(later) && !info.legal_hold,
            "{info:?}"
        );
        ensure!(dataset.head(&at, Some(held)).await?.legal_hold);
        // A delete covers it and removes nothing.
        dataset.delete(&at, None, Precondition::Any).await?;
        ensure!(dataset.head(&at, Some(kept)).await?.bytes == 4);
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        let dropped = region.delete_dataset(dataset.name(), true).await;
        ensure!(reason(dropped) == "dataset-held");
        Ok(())
    });
}

/// Two clients and the command change the tags of a version that is locked, while its lock is changed: each change is whole,
/// none undoes another's, and the version is the same.
#[test]
fn tags_change_in_place_whoever_else_changes_the_version() {
    with_region(3, async |local| {
        let dataset = dataset(local).await?;
        dataset.set_object_lock(None).await?;
        let at = key("evidence");
        let options = PutOptions {
            content_type: Some("text/x".to_owned()),
            tags: tags("put", 0),
            ..PutOptions::default()
        };
        let version = dataset.put(&at, "body", &options).await?.version;
        let before = dataset.head(&at, None).await?;
        let other = region_as(local, CLIENTS[1], Duration::from_secs(30)).await?;
        let other = other.dataset(dataset.name()).await?;
        let change = async |by: &Dataset, who: &str| -> Result<()> {
            for n in 0..25 {
                let info = by.set_tags(&at, None, &tags(who, n)).await?;
                ensure!(info.version == version, "{info:?}");
                let seen = by.head(&at, None).await?.metadata.tags;
                ensure!(seen.len() == 2 && seen["a"] == seen["b"], "{seen:?}");
            }
            Ok(())
        };
        let lock = async || -> Result<()> {
            for n in 1..=25 {
                let kept = Retention {
                    mode: RetentionMode::Compliance,
                    until: UnixMs(now().0 + HOUR_MS + n),
                };
                dataset
                    .set_retention(&at, version, Some(kept), false)
                    .await?;
            }
            Ok(dataset.set_legal_hold(&at, version, true).await?)
        };
        tokio::try_join!(change(&dataset, "one"), change(&other, "two"), lock())?;
        let after = dataset.head(&at, Some(version)).await?;
        let last = &after.metadata.tags["a"];
        ensure!(["one-24", "two-24"].contains(&&**last), "{last}");
        ensure!(after.legal_hold && after.retention.is_some(), "{after:?}");
        let same = (
            before.finished_index,
            before.finished_at,
            &before.metadata.content_type,
        );
        ensure!(
            same == (
                after.finished_index,
                after.finished_at,
                &after.metadata.content_type
            )
        );
        ensure!(dataset.get_bytes(&at).await? == "body");

        let reduit = Reduit::new(local)?;
        let what = format!("{}/evidence", dataset.name());
        let said = reduit.said(
            CLIENTS[0],
            &["object", "tags", &what, "state=closed", "bare"],
        )?;
        ensure!(
            said.contains(&format!("version {version}, 2 tags")),
            "{said}"
        );
        let seen = dataset.head(&at, None).await?.metadata.tags;
        let expected = [("bare", ""), ("state", "closed")];
        ensure!(seen == expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        reduit.said(CLIENTS[0], &["object", "tags", &what, "--none"])?;
        ensure!(dataset.head(&at, None).await?.metadata.tags.is_empty());
        let nothing = dataset.set_tags(&key("nothing"), None, &tags("x", 0)).await;
        ensure!(reason(nothing) == "no-such-object");
        Ok(())
    });
}

/// Two tags of one value.
fn tags(who: &str, n: u32) -> BTreeMap<String, String> {
    ["a", "b"]
        .map(|name| (name.to_owned(), format!("{who}-{n}")))
        .into()
}

/// An upload in parts is locked as it was said to be when it began.
#[test]
fn an_upload_in_parts_is_locked_too() {
    with_region(1, async |local| {
        let dataset = dataset(local).await?;
        dataset
            .set_object_lock(Some((RetentionMode::Compliance, 1)))
            .await?;
        let at = key("evidence");
        let upload = dataset.create_upload(&at, &PutOptions::default()).await?;
        let options = PartOptions::default();
        let part = dataset.upload_part(&upload, 1, "body", &options).await?;
        let done = dataset
            .complete_upload(&upload, &[(1, part.id)], &CompleteOptions::default())
            .await?;
        let info = dataset.head(&at, None).await?;
        let retention = info.retention.context("the default")?;
        ensure!(retention.mode == RetentionMode::Compliance);
        ensure!(retention.until.0 > now().0 + 23 * HOUR_MS, "{retention:?}");
        let removed = dataset
            .delete(&at, Some(done.version), Precondition::Any)
            .await;
        ensure!(reason(removed) == "object-locked");
        Ok(())
    });
}

/// A copy under another key is kept as long as what it is of, and is not made where nothing could be kept.
#[test]
fn what_is_resealed_is_locked_as_before() {
    with_region(1, async |local| {
        let dataset = dataset(local).await?;
        dataset.set_object_lock(None).await?;
        let at = key("evidence");
        let kept = Retention {
            mode: RetentionMode::Compliance,
            until: UnixMs(now().0 + HOUR_MS),
        };
        let put = put(&dataset, Some(kept)).await?;
        let versions = vec![dataset.head(&at, Some(put.version)).await?];
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        let to = region
            .create_dataset(&"resealed".parse()?, &CreateOptions::default())
            .await?;
        to.set_versioning(true).await?;
        let refused = dataset.reseal(&at, &versions, &to).await;
        ensure!(reason(refused) == "no-object-lock");
        to.set_object_lock(None).await?;
        dataset.reseal(&at, &versions, &to).await?;
        let copy = to.head(&at, None).await?;
        ensure!(copy.retention == Some(kept), "{copy:?}");
        let removed = to.delete(&at, Some(copy.version), Precondition::Any).await;
        ensure!(reason(removed) == "object-locked");
        Ok(())
    });
}

/// Settings come back as they were written, changed from one version at a time; a quota holds; there is one null version.
#[test]
fn settings_quotas_and_null_versions() {
    with_region(1, async |local| {
        let dataset = dataset(local).await?;
        let cors = ConfigKind::Cors;
        ensure!(dataset.setting(cors).await?.version == 0);
        dataset.set_setting(cors, "one", Some(0)).await?;
        ensure!(reason(dataset.set_setting(cors, "two", Some(0)).await) == "config-moved");
        dataset.set_setting(cors, "two", Some(1)).await?;
        let held = dataset.setting(cors).await?;
        ensure!(
            (held.version, &held.content[..]) == (2, &b"two"[..]),
            "{held:?}"
        );
        let rules = Lifecycle {
            rules: vec![LifecycleRule {
                id: "tmp".to_owned(),
                enabled: true,
                prefix: "tmp/".to_owned(),
                expire_days: 7,
                abort_days: 2,
                ..LifecycleRule::default()
            }],
        };
        dataset.set_lifecycle(&rules).await?;
        ensure!(dataset.lifecycle().await? == rules);
        let nonsense = dataset
            .set_setting(ConfigKind::Lifecycle, vec![0xFF], None)
            .await;
        ensure!(reason(nonsense) == "malformed");

        let none = PutOptions::default();
        dataset.put(&key("a"), "body", &none).await?;
        dataset.set_quota(1, 0).await?;
        ensure!(reason(dataset.put(&key("b"), "body", &none).await) == "quota-exceeded");
        let null = dataset.put(&key("a"), "again", &none).await?.version;
        dataset.set_quota(0, 0).await?;

        dataset.set_versioning(true).await?;
        let kept = dataset.put(&key("a"), "kept", &none).await?.version;
        dataset.set_versioning(false).await?;
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        ensure!(region.dataset_info(dataset.name()).await?.suspended);
        dataset.put(&key("a"), "null again", &none).await?;
        // The first null version stood under one that is kept, and is gone.
        let gone = dataset.head(&key("a"), Some(null)).await;
        ensure!(reason(gone) == "no-such-object");
        ensure!(dataset.head(&key("a"), Some(kept)).await?.versioned);
        ensure!(!dataset.head(&key("a"), None).await?.versioned);
        dataset.set_versioning(true).await?;
        let current = dataset.put(&key("a"), "covers", &none).await?.version;
        let null = dataset.head_null(&key("a")).await?;
        ensure!(!null.versioned && null.bytes == 10, "{null:?}");
        dataset
            .delete(&key("a"), Some(null.version), Precondition::Any)
            .await?;
        ensure!(reason(dataset.head_null(&key("a")).await) == "no-such-object");
        ensure!(dataset.head(&key("a"), None).await?.version == current);
        Ok(())
    });
}
