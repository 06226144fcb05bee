//! What moves: a tree of files, large objects beside it, and what writers write meanwhile; and that it is the same after.
//!
//! Owns the comparison: every object whole, byte for byte, and none more than were stored.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::ObjectKey;
use client::{Body, Dataset, GetOptions, PutOptions};
use futures::{StreamExt as _, TryStreamExt as _};
use local::Local;

use super::super::objects::{Large, Work};
use super::super::table::Table;
use super::super::{Options, PARALLEL};
use super::writers::Written;

/// Large objects, which sum up to what was asked for.
const LARGE: u64 = 4;
const LARGE_MIB_DEFAULT: u32 = 2_048;
/// With the canary in each line, and more than a connection takes without being read.
pub(super) const HUGE: &str = "canary/huge.txt";
const HUGE_BYTES: usize = 24 << 20;

pub(super) struct Content {
    pub(super) work: Work,
    pub(super) huge: Bytes,
    large: Vec<(ObjectKey, Large)>,
}

impl Content {
    pub(super) fn collect(local: &Local, options: &Options) -> Result<Self> {
        let work = Work::collect(tree(local, options)?)?;
        let line = format!("evidence of a case: {}\n", work.canary);
        let mut huge = line.repeat(HUGE_BYTES.div_ceil(line.len())).into_bytes();
        huge.truncate(HUGE_BYTES);
        let bytes = u64::from(options.large_mib.unwrap_or(LARGE_MIB_DEFAULT)) << 20;
        let large = |number| -> Result<(ObjectKey, Large)> {
            let key = format!("generated/large-{number}.bin").parse()?;
            Ok((key, Large::numbered(bytes / LARGE, number)))
        };
        Ok(Self {
            work,
            huge: huge.into(),
            large: (0..LARGE).map(large).collect::<Result<_>>()?,
        })
    }

    pub(super) async fn store(&self, dataset: &Dataset, table: &mut Table) -> Result<()> {
        let started = Instant::now();
        let puts = futures::stream::iter(self.work.sources.clone()).map(|source| {
            let dataset = dataset.clone();
            async move { super::super::put(&dataset, &source).await }
        });
        let mut puts = puts.buffer_unordered(PARALLEL);
        while let Some(stored) = puts.next().await {
            stored?;
        }
        let (key, options) = (HUGE.parse()?, PutOptions::default());
        let put = dataset.put(&key, self.huge.clone(), &options);
        put.await.context("storing a large text")?;
        let bytes: u64 = self.work.sources.iter().map(|source| source.bytes).sum();
        let count = self.work.sources.len() as u64 + 1;
        let bytes = bytes + self.huge.len() as u64;
        table.row(
            "stored",
            format!("{count} objects, {} MB", bytes / 1_000_000),
        );
        table.rate("store", count, bytes, started.elapsed());
        let started = Instant::now();
        for (key, large) in &self.large {
            let body = Body::stream(large.reader());
            let put = dataset.put(key, body, &options);
            put.await
                .with_context(|| format!("storing {}", key.as_str()))?;
        }
        let bytes: u64 = self.large.iter().map(|(_, large)| large.bytes).sum();
        let what = format!("{LARGE} large objects in");
        table.rate(&what, 1, bytes, started.elapsed());
        Ok(())
    }

    /// Everything is there, and nothing else.
    pub(super) async fn is_in(
        &self,
        dataset: &Dataset,
        written: &Written,
        table: &mut Table,
    ) -> Result<()> {
        super::super::read_back(dataset, &self.work, table).await?;
        ensure!(
            dataset.get_bytes(&HUGE.parse()?).await? == self.huge,
            "{HUGE} differs"
        );
        let started = Instant::now();
        for (key, large) in &self.large {
            let object = dataset.get(key, &GetOptions::default()).await;
            let mut object = object.with_context(|| format!("opening {}", key.as_str()))?;
            let mut compare = large.comparer();
            while let Some(chunk) = object.body.chunk().await.context("reading it")? {
                compare
                    .take(&chunk)
                    .with_context(|| format!("{} differs", key.as_str()))?;
            }
            compare
                .finish()
                .with_context(|| format!("{} differs", key.as_str()))?;
        }
        let bytes: u64 = self.large.iter().map(|(_, large)| large.bytes).sum();
        let what = format!("{LARGE} large objects out, equal");
        table.rate(&what, 1, bytes, started.elapsed());
        self.of_writers(dataset, written, table).await
    }

    async fn of_writers(
        &self,
        dataset: &Dataset,
        written: &Written,
        table: &mut Table,
    ) -> Result<()> {
        let reads = futures::stream::iter(written.bodies.clone()).map(|(key, body)| {
            let dataset = dataset.clone();
            async move {
                let found = dataset.get_bytes(&key).await;
                let found = found.with_context(|| format!("{} was acknowledged", key.as_str()))?;
                ensure!(
                    found == body,
                    "{} is not what was acknowledged",
                    key.as_str()
                );
                Ok(1_usize)
            }
        });
        let equal = reads.buffer_unordered(PARALLEL);
        let equal = equal.try_fold(0, async |sum, one| Ok(sum + one)).await?;
        let listed = dataset.list_all("").await?.len();
        let expected = self.work.sources.len() + 1 + self.large.len() + written.bodies.len();
        ensure!(
            listed == expected,
            "{listed} objects listed, {expected} were stored"
        );
        table.row(
            "acknowledged meanwhile, equal",
            format!("{equal} objects; {listed} listed in all, as many as were stored"),
        );
        Ok(())
    }
}

/// The tree to store: as told, else the archive that `REDUIT_CTI` names, else this project's own files.
fn tree(local: &Local, options: &Options) -> Result<PathBuf> {
    if let Some(data) = &options.data {
        return Ok(data.clone());
    }
    let Some(archive) = std::env::var_os("REDUIT_CTI") else {
        return Ok(crate::repository());
    };
    let folder = local.federation.dir.join("tree");
    std::fs::create_dir_all(&folder)?;
    let mut tar = Command::new("tar");
    tar.args(["--zstd", "-xf"]).arg(archive);
    tar.arg("-C").arg(&folder);
    ensure!(tar.status()?.success(), "REDUIT_CTI does not unpack");
    Ok(folder)
}
