//! Objects of every kind, and all that clients see of them: what a dataset has to be equal by once it was moved or restored.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::LogIndex;
use client::{CompleteOptions, Dataset, GetOptions, ObjectInfo, PartOptions, PutOptions};

use super::key;

/// A put with everything that describes an object.
pub(crate) fn described() -> PutOptions {
    PutOptions {
        content_type: Some("text/x".to_owned()),
        metadata: [("source".to_owned(), "sensor-seven".to_owned())].into(),
        tags: [("desk".to_owned(), "north".to_owned())].into(),
        ..PutOptions::default()
    }
}

/// An object in three parts, numbered with gaps: of one entry, of blocks, and of a few bytes.
pub(crate) async fn put_in_parts(dataset: &Dataset, name: &str) -> Result<()> {
    let upload = dataset.create_upload(&key(name), &described()).await?;
    let mut named = Vec::new();
    for (number, bytes) in [(2_u32, 100_000), (3, 9 << 20), (7, 10)] {
        let body = vec![number as u8; bytes];
        let part = dataset
            .upload_part(&upload, number, body, &PartOptions::default())
            .await?;
        named.push((number, part.id));
    }
    let complete = CompleteOptions::default();
    dataset.complete_upload(&upload, &named, &complete).await?;
    Ok(())
}

/// Something that clients see, in words and bytes.
pub(crate) type Seen = (String, Bytes);

/// Each version below a prefix with what is sealed with it, and its bytes.
pub(crate) async fn versions_seen(dataset: &Dataset, prefix: &str) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for (at, versions) in dataset.histories(prefix).await? {
        for version in versions {
            let mut body = Bytes::new();
            if !version.delete_marker {
                let options = GetOptions {
                    version: Some(version.version),
                    ..GetOptions::default()
                };
                let object = dataset.get(&at, &options).await.context("a version")?;
                body = object.body.into_bytes().await?;
            }
            // Places in the log are the shard's own.
            let finished_index = LogIndex(0);
            let info = ObjectInfo {
                finished_index,
                ..version
            };
            seen.push((format!("{info:?}"), body));
        }
    }
    Ok(seen)
}

/// Fails with the first thing that differs.
pub(crate) fn same(before: &[Seen], after: &[Seen]) -> Result<()> {
    for ((was, bytes_were), (is, bytes)) in before.iter().zip(after) {
        ensure!(was == is, "\n  was {was}\n  is  {is}");
        ensure!(bytes_were == bytes, "other bytes: {is}");
    }
    let (before, after) = (before.len(), after.len());
    ensure!(before == after, "{after} of {before}");
    Ok(())
}
