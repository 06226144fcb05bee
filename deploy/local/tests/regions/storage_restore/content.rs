//! What is in the datasets of a region that is lost, and all that clients see of it.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::{GroupId, UnixMs};
use client::{CreateOptions, Dataset, Precondition, PutOptions, Region, Retention, RetentionMode};
use local::files::now;
use proto::v1::{ConfigKind, Lifecycle, LifecycleRule};

use super::BODY;
use crate::common::content::{Seen, described, put_in_parts, same, versions_seen};
use crate::common::key;

const HOUR_MS: u64 = 3_600_000;

pub(crate) async fn create(region: &Region, name: &str, versioning: bool) -> Result<Dataset> {
    let options = CreateOptions { versioning };
    Ok(region.create_dataset(&name.parse()?, &options).await?)
}

/// Everything that a region can hold.
pub(crate) async fn fill(region: &Region) -> Result<()> {
    fill_northwatch(region).await?;
    fill_evidence(region).await?;
    fill_the_others(region).await
}

/// Versions of a key, delete markers, objects of one entry, of blocks and of parts, an upload under way, settings.
async fn fill_northwatch(region: &Region) -> Result<()> {
    let dataset = create(region, "northwatch", true).await?;
    let put = async |name: &str, body: Vec<u8>| dataset.put(&key(name), body, &described()).await;
    for n in 0..5 {
        put("observed/gate", format!("{BODY} {n}").into_bytes()).await?;
        if n == 2 {
            let at = key("observed/gate");
            dataset.delete(&at, None, Precondition::Any).await?;
        }
    }
    for n in 0..30 {
        put(&format!("observed/{n:03}"), BODY.repeat(80).into_bytes()).await?;
    }
    put("gone", BODY.as_bytes().to_vec()).await?;
    let gone = dataset
        .delete(&key("gone"), None, Precondition::Any)
        .await?;
    ensure!(gone.marker.is_some(), "{gone:?}");
    for length in [0, 1, 300_000, 9 << 20, 20 << 20] {
        put(&format!("sized/{length}"), vec![7; length]).await?;
    }
    put("sized/300000", vec![8; 400_000]).await?;
    put_in_parts(&dataset, "parts").await?;
    dataset
        .create_upload(&key("under way"), &described())
        .await?;
    let tags = [("desk".to_owned(), "south".to_owned())].into();
    dataset.set_tags(&key("sized/1"), None, &tags).await?;
    dataset.set_quota(1_000, 1 << 40).await?;
    dataset
        .set_dataset_tags(&[("owner".to_owned(), "watch".to_owned())])
        .await?;
    let rule = LifecycleRule {
        id: "old".to_owned(),
        prefix: "observed/".to_owned(),
        noncurrent_days: 3_000,
        enabled: true,
        ..LifecycleRule::default()
    };
    let rules = Lifecycle { rules: vec![rule] };
    Ok(dataset.set_lifecycle(&rules).await?)
}

/// What is locked, in each way, and covered by a delete.
async fn fill_evidence(region: &Region) -> Result<()> {
    let dataset = create(region, "evidence", false).await?;
    dataset
        .put(&key("case/0"), "of before", &described())
        .await?;
    let default = Some((RetentionMode::Governance, 3));
    dataset.set_object_lock(default).await?;
    let until = UnixMs(now().0 + HOUR_MS);
    for mode in [RetentionMode::Governance, RetentionMode::Compliance] {
        let options = PutOptions {
            retention: Some(Retention { mode, until }),
            ..described()
        };
        dataset.put(&key("case/1"), BODY, &options).await?;
    }
    let held = dataset.put(&key("case/2"), BODY, &described()).await?;
    dataset
        .set_legal_hold(&key("case/2"), held.version, true)
        .await?;
    dataset
        .delete(&key("case/2"), None, Precondition::Any)
        .await?;
    dataset
        .put(&key("case/0"), "of after", &described())
        .await?;
    Ok(())
}

/// Versioning that was on and is suspended: null versions between others. And a dataset without any content.
async fn fill_the_others(region: &Region) -> Result<()> {
    let dataset = create(region, "suspended", true).await?;
    dataset.put(&key("a"), "kept", &described()).await?;
    dataset.set_versioning(false).await?;
    for body in ["null", "null again"] {
        dataset.put(&key("a"), body, &described()).await?;
    }
    dataset.set_versioning(true).await?;
    dataset.put(&key("a"), "on top", &described()).await?;
    dataset.set_versioning(false).await?;
    create(region, "empty", false).await.map(drop)
}

/// All that clients see of a dataset: its settings, each version with what is sealed with it and its bytes. Places in the
/// log and in the region are its new shard's own; uploads under way are in no backup.
pub(crate) async fn seen(region: &Region, name: &str) -> Result<Vec<Seen>> {
    let name = name.parse()?;
    let mut info = region.dataset_info(&name).await?;
    info.uploads = 0;
    info.shard = GroupId(0);
    let mut seen = vec![(format!("{info:?}"), Bytes::new())];
    let dataset = region.dataset(&name).await?;
    for kind in [ConfigKind::Lifecycle, ConfigKind::Tagging, ConfigKind::Cors] {
        let setting = dataset.setting(kind).await?;
        seen.push((format!("{kind:?} {setting:?}"), Bytes::new()));
    }
    seen.extend(versions_seen(&dataset, "").await?);
    Ok(seen)
}

pub(crate) const DATASETS: [&str; 4] = ["northwatch", "evidence", "suspended", "empty"];

pub(crate) async fn all_seen(region: &Region) -> Result<Vec<Vec<Seen>>> {
    let mut all = Vec::new();
    for name in DATASETS {
        all.push(seen(region, name).await.context(name)?);
    }
    Ok(all)
}

pub(crate) fn all_same(before: &[Vec<Seen>], after: &[Vec<Seen>]) -> Result<()> {
    ensure!(before.len() == after.len(), "not as many datasets");
    let mut both = before.iter().zip(after);
    both.try_for_each(|(before, after)| same(before, after))
}
