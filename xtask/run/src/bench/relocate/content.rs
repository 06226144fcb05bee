//! What a dataset is filled with, and its plain copy: each object of one region got and put into another, by the SDK.
//!
//! Owns how much is under way at once. A plain copy has as many objects on their way as a mover, and streams them.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use client::ids::{DatasetName, ObjectKey};
use client::{Body, CreateOptions, Dataset, GetOptions, PutOptions, Region};
use futures::stream;
use rand::RngCore as _;
use tokio::task::JoinSet;
use tokio_util::io::StreamReader;

use super::Set;

/// Puts under way while a dataset is filled, and their bytes.
const FILLERS_MAX: u64 = 64;
const FILLING_BYTES_MAX: u64 = 64 << 20;
/// As many versions as a mover has on their way at once.
const AT_ONCE: u64 = 4;

fn key(at: u64) -> Result<ObjectKey> {
    Ok(format!("object/{at:09}").parse()?)
}

/// Makes a dataset with the objects of a set in it.
pub(super) async fn fill(region: &Region, name: &DatasetName, set: Set) -> Result<Dataset> {
    let dataset = region
        .create_dataset(name, &CreateOptions::default())
        .await?;
    let mut body = vec![0; usize::try_from(set.bytes)?];
    rand::rng().fill_bytes(&mut body);
    let body = Bytes::from(body);
    let fillers = (FILLING_BYTES_MAX / set.bytes).clamp(1, FILLERS_MAX);
    let mut filling = JoinSet::new();
    for filler in 0..fillers {
        let (dataset, body) = (dataset.clone(), body.clone());
        filling.spawn(async move {
            for at in (filler..set.objects).step_by(fillers as usize) {
                let options = PutOptions::default();
                dataset.put(&key(at)?, body.clone(), &options).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    all(filling).await?;
    Ok(dataset)
}

/// Copies a set into a new dataset of another region; how long it took.
pub(super) async fn copy(
    from: &Dataset,
    (region, name): (&Region, &DatasetName),
    set: Set,
) -> Result<Duration> {
    let to = region
        .create_dataset(name, &CreateOptions::default())
        .await?;
    let began = Instant::now();
    let mut copying = JoinSet::new();
    for copier in 0..AT_ONCE {
        let (from, to) = (from.clone(), to.clone());
        copying.spawn(async move {
            for at in (copier..set.objects).step_by(AT_ONCE as usize) {
                let bytes = copied(&from, &to, &key(at)?).await?;
                ensure!(bytes == set.bytes, "an object of another length was copied");
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    all(copying).await?;
    Ok(began.elapsed())
}

async fn copied(from: &Dataset, to: &Dataset, key: &ObjectKey) -> Result<u64> {
    let object = from.get(key, &GetOptions::default()).await?;
    let bytes = object.info.bytes;
    let pieces = stream::try_unfold(object.body, |mut body| async move {
        let piece = body.chunk().await.map_err(io::Error::other)?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, body)))
    });
    let body = Body::sized(StreamReader::new(pieces), bytes);
    let put = to.put(key, body, &PutOptions::default()).await?;
    Ok(put.bytes)
}

async fn all(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(one) = tasks.join_next().await {
        one??;
    }
    Ok(())
}
