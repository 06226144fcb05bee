//! Writers that go on while their dataset moves, and follow it.
//!
//! Owns what was acknowledged: each of it has to be there in the end. A write whose outcome is unknown is made again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use client::ids::ObjectKey;
use client::{Dataset, Error, PutOptions, Region};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::key;

const WRITERS: usize = 3;
const PAUSE: Duration = Duration::from_millis(60);
/// One in so many has more bytes than ride in an entry.
const IN_BLOCKS_ONE_IN: usize = 3;
/// A write is tried again for so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What one writer saw.
#[derive(Default)]
pub(crate) struct Written {
    acknowledged: BTreeMap<ObjectKey, String>,
    /// The longest that one write took.
    pub(crate) longest: Duration,
}

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    /// How many have had a write acknowledged where the dataset is now.
    followed: Arc<watch::Sender<usize>>,
    at_work: Vec<JoinHandle<Result<Written>>>,
}

impl Writers {
    pub(crate) fn begin(region: &Region, name: &str) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let followed = Arc::<watch::Sender<usize>>::default();
        let begin = |writer| {
            let (region, name) = (region.clone(), name.to_owned());
            let (stop, followed) = (stop.clone(), followed.clone());
            tokio::spawn(async move { write(&region, &name, writer, &stop, &followed).await })
        };
        let at_work = (0..WRITERS).map(begin).collect();
        Self {
            stop,
            followed,
            at_work,
        }
    }

    /// Until each has had a write acknowledged where the dataset is now. What one of them fails with, [`Self::end`] says.
    pub(crate) async fn all_followed(&self) {
        let mut followed = self.followed.subscribe();
        // The sender lives in `self`.
        drop(followed.wait_for(|followed| *followed == WRITERS).await);
    }

    /// What all of them saw.
    pub(crate) async fn end(self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Written::default();
        for writer in self.at_work {
            let one = writer.await??;
            all.longest = all.longest.max(one.longest);
            all.acknowledged.extend(one.acknowledged);
        }
        Ok(all)
    }
}

async fn write(
    region: &Region,
    name: &str,
    writer: usize,
    stop: &AtomicBool,
    followed: &watch::Sender<usize>,
) -> Result<Written> {
    let mut written = Written::default();
    let mut dataset = region.dataset(&name.parse()?).await?;
    let (mut moved, mut told) = (false, false);
    for n in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (at, body) = (
            key(&format!("written/{writer}/{n:05}")),
            format!("{writer}: {n}").repeat(if n % IN_BLOCKS_ONE_IN == 0 { 5_000 } else { 1 }),
        );
        let began = Instant::now();
        loop {
            match dataset
                .put(&at, body.clone().into_bytes(), &PutOptions::default())
                .await
            {
                Ok(_) => break,
                Err(Error::Moved { .. }) => {
                    dataset = region.dataset(&name.parse()?).await?;
                    moved = true;
                }
                Err(error @ (Error::Unavailable { .. } | Error::Unknown { .. })) => {
                    if began.elapsed() > PATIENCE {
                        bail!("{}: {error}", at.as_str());
                    }
                }
                Err(error) => bail!("{}: {error}", at.as_str()),
            }
        }
        written.longest = written.longest.max(began.elapsed());
        if moved && !std::mem::replace(&mut told, true) {
            followed.send_modify(|followed| *followed += 1);
        }
        written.acknowledged.insert(at, body);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(written)
}

impl Written {
    /// All that was acknowledged is there.
    pub(crate) async fn is_in(&self, dataset: &Dataset) -> Result<()> {
        ensure!(!self.acknowledged.is_empty(), "nobody wrote anything");
        for (at, body) in &self.acknowledged {
            let found = dataset.get_bytes(at).await?;
            ensure!(
                found == body.as_bytes(),
                "{}: {} bytes that are others",
                at.as_str(),
                found.len()
            );
        }
        Ok(())
    }
}
