//! The two regions of a dataset that moves, and what they are asked when it has ended.
//!
//! Owns the last looks: who takes writes, and what every register holds.

use anyhow::{Result, bail};
use checker::{F, Op, Workload};
use client::ids::{DatasetName, ObjectKey};
use client::{Error, PutOptions, Region};
use futures::StreamExt as _;
use local::RegionEntry;

use super::APP;
use crate::recorder::Recorder;
use crate::workload::keys::touched;
use crate::workload::register::last_read;
use crate::workload::session::{insist, tuning};
use crate::workload::{Access, PATIENCE};

const LAST_AT_ONCE: usize = 8;
/// Written by nobody else.
const PROBE: &str = "probe";

/// The two regions, and the dataset that moves from one to the other.
#[derive(Debug, Clone)]
pub(crate) struct Sides {
    pub(crate) source: RegionEntry,
    pub(crate) destination: RegionEntry,
    pub(crate) name: DatasetName,
    pub(crate) seed: u64,
}

impl Sides {
    pub(super) fn access(&self, moved: bool) -> Access {
        let region = if moved {
            &self.destination
        } else {
            &self.source
        };
        Access {
            region: region.clone(),
            seed: self.seed,
            patience: PATIENCE,
        }
    }

    /// Whether a region takes a write to the dataset, asked there alone.
    pub(crate) async fn accepts(&self, moved: bool) -> Result<bool, Error> {
        let context = self.access(moved).region.context(APP);
        let region = Region::connect(&context, tuning()).await?;
        let dataset = match region.dataset(&self.name).await {
            Ok(dataset) => dataset,
            Err(Error::Moved { .. } | Error::NoSuchDataset) => return Ok(false),
            Err(error) => return Err(error),
        };
        let key: ObjectKey = PROBE.parse()?;
        match dataset.put(&key, "probe", &PutOptions::default()).await {
            Ok(_) => Ok(true),
            Err(Error::Moved { .. } | Error::NoSuchDataset) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The last look at every register, in the region that serves the dataset now.
pub(crate) async fn read_back(sides: &Sides, moved: bool, recorder: &Recorder) -> Result<()> {
    let written = |op: &Op| op.f != F::Read;
    let keys = touched(&recorder.recall(Workload::Register)?, written);
    let region = sides.access(moved).last_connect(APP).await?;
    let found = insist("finding what moved", async || {
        region.dataset(&sides.name).await
    });
    let dataset = found.await?;
    let reads = keys.into_iter().map(|name| {
        let (dataset, mut client) = (dataset.clone(), recorder.client(Workload::Register));
        async move { last_read(&dataset, &mut client, &name).await }
    });
    let mut reads = futures::stream::iter(reads).buffer_unordered(LAST_AT_ONCE);
    while let Some(read) = reads.next().await {
        read?;
    }
    Ok(())
}

/// Who serves the dataset takes a write to it, and the other region takes none.
pub(crate) async fn only_one_accepts(sides: &Sides, moved: bool) -> Result<()> {
    let serves = insist("a write to who serves", async || sides.accepts(moved).await);
    if !serves.await? {
        bail!("who has to serve the dataset refuses a write to it");
    }
    // One that is not served is refused; that nobody could say so in time is as good.
    if matches!(sides.accepts(!moved).await, Ok(true)) {
        bail!("both regions take writes to the dataset");
    }
    Ok(())
}
