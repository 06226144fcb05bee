//! Listing, overwriting and deleting by preconditions: what is done and what has to be refused.

use std::time::Instant;

use anyhow::{Result, ensure};
use client::{Dataset, Precondition, PutOptions};

use super::objects::Work;
use super::table::Table;

pub(super) async fn run(dataset: &Dataset, work: &Work, table: &mut Table) -> Result<()> {
    let started = Instant::now();
    let listed = dataset.list_all("").await?;
    ensure!(
        listed.len() == work.sources.len() + 1,
        "{} listed, {} stored",
        listed.len(),
        work.sources.len() + 1
    );
    table.row(
        "listed",
        format!(
            "{} objects in {} ms",
            listed.len(),
            started.elapsed().as_millis()
        ),
    );
    let source = &work.sources[0];
    let first = dataset.head(&source.key, None).await?;
    let with = |precondition| PutOptions {
        precondition,
        ..PutOptions::default()
    };
    let absent = dataset
        .put(&source.key, "x", &with(Precondition::Absent))
        .await;
    ensure!(
        matches!(absent, Err(client::Error::PreconditionFailed { .. })),
        "if-none-match was not refused"
    );
    let second = dataset
        .put(
            &source.key,
            "second",
            &with(Precondition::Is(first.version)),
        )
        .await?;
    let stale = dataset
        .put(&source.key, "third", &with(Precondition::Is(first.version)))
        .await;
    ensure!(
        matches!(stale, Err(client::Error::PreconditionFailed { .. })),
        "a stale if-match was not refused"
    );
    ensure!(
        dataset.get_bytes(&source.key).await? == "second",
        "the overwrite is not what is read"
    );
    table.row(
        "preconditions",
        "one overwrite done, two refused".to_owned(),
    );
    dataset
        .delete(&source.key, None, Precondition::Is(second.version))
        .await?;
    let gone = dataset.head(&source.key, None).await;
    ensure!(
        matches!(gone, Err(client::Error::NoSuchObject)),
        "a deleted object is still there"
    );
    dataset
        .put(&source.key, source.read()?, &PutOptions::default())
        .await?;
    table.row("delete", "gone when read, stored again".to_owned());
    Ok(())
}
