//! The enemy: an operator of de-fra with a full copy of ch-zrh's disks and an unsealed KMS of their own.
//!
//! Owns how copied disks are read, and one attack script, run twice: with de-fra's KMS it must open nothing; with ch-zrh's own it must open
//! everything, or it would prove nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use client::{Dataset, DetachedObject, Region};
use local::{Kind, Local, Service, process};
use node::blocks::{BlockKey, BlockNumber, BlockStore, StoreOptions};
use node_state::{listing, read};
use proto::ids::{DatasetId, LeaseId, ObjectVersionId, RegionId};
use proto::store::Reader;
use proto::v1;
use replica::disk::RealDisk;
use replica::state::{RocksState, StateEnv, StateOptions, StateStore as _};

use super::objects::Work;
use super::table::Table;

/// Copied objects one attack tries; every kind is among them, and the canaries come first in byte order.
const TRIED_MAX: usize = 2_000;
/// One that is larger is left: all that are tried are held in memory.
const LIFTED_BYTES_MAX: u64 = 256 << 20;

pub(crate) async fn run(
    local: &mut Local,
    dataset: &Dataset,
    work: &Work,
    table: &mut Table,
) -> Result<()> {
    let loot = copy_disks(local, "ch-zrh", Which::All)?;
    let copies = find_objects(&loot, dataset.id(), "ch-zrh".parse()?)?;
    ensure!(
        copies.len() >= work.sources.len().min(TRIED_MAX),
        "the enemy found only {} objects",
        copies.len()
    );
    table.row(
        "the enemy holds",
        format!(
            "{} sealed objects with tokens, from copied disks",
            copies.len()
        ),
    );

    let own = super::connect(local, "de-fra", "app-1").await?;
    // The worst case: the enemy has a key of their own made under the very dataset id.
    let forged = own.keys().create_key(dataset.id()).await;
    let (opened, refused) = attack(&own, &copies).await;
    ensure!(opened == 0, "an object of ch-zrh opened in de-fra");
    let twin = if forged.is_ok() { "with" } else { "without" };
    table.row(
        "with de-fra's unsealed KMS",
        format!("0 opened, {refused} refused ({twin} a key of the same id)"),
    );
    ensure!(
        forged.is_ok(),
        "the enemy's own key could not be made: the attack was weaker than it should be"
    );

    let home = super::connect(local, "ch-zrh", "app-1").await?;
    let (opened, refused) = attack(&home, &copies).await;
    ensure!(
        refused == 0 && opened == copies.len(),
        "the positive control opened {opened} of {}",
        copies.len()
    );
    table.row(
        "the same script, ch-zrh's KMS",
        format!("{opened} opened (positive control)"),
    );
    std::fs::remove_dir_all(loot)?;
    Ok(())
}

/// Sealed objects of a dataset, from a copied disk of a region: its other nodes hold the same.
pub(super) fn loot(
    local: &mut Local,
    region: &str,
    dataset: DatasetId,
) -> Result<Vec<DetachedObject>> {
    let loot = copy_disks(local, region, Which::One)?;
    let copies = find_objects(&loot, dataset, region.parse()?);
    std::fs::remove_dir_all(loot)?;
    copies
}

/// Whose disks are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// The node's that is stopped for it.
    One,
}

/// Copies disks of a region. One node is stopped in good order first, so that its state is whole.
fn copy_disks(local: &mut Local, region: &str, which: Which) -> Result<PathBuf> {
    let loot = local.federation.dir.join("loot");
    let region = local.federation.region(region)?.clone();
    let stopped = region.living(Kind::Node).next().context("a node")?.clone();
    process::signal(&stopped, "TERM")?;
    process::wait_gone(&stopped, std::time::Duration::from_secs(20))?;
    let copied = |service: &&Service| which == Which::All || service.name == stopped.name;
    let living = region.services.iter().filter(|service| !service.removed);
    for service in living.filter(copied) {
        let short = service.name.rsplit('/').next().unwrap_or_default();
        copy(&service.data, &loot.join(short))?;
    }
    local.start(&stopped.name)?;
    let short = stopped.name.rsplit('/').next().unwrap_or_default();
    std::fs::write(loot.join("whole"), short)?;
    Ok(loot)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            // Files of living members come and go; the stopped one's are all there.
            match std::fs::copy(entry.path(), &target) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Reads the copied state and blocks as our own software would.
fn find_objects(loot: &Path, dataset: DatasetId, region: RegionId) -> Result<Vec<DetachedObject>> {
    let dir = loot.join(std::fs::read_to_string(loot.join("whole"))?);
    let (blocks, _) = BlockStore::open(
        Arc::new(RealDisk),
        &dir.join("blocks"),
        StoreOptions::new(Arc::new(rand::random)),
    )?;
    let env = StateEnv::new(StateOptions::default());
    for entry in std::fs::read_dir(dir.join("raft").join("state"))? {
        let store = RocksState::open(&env, &entry?.path())?;
        let state = store.reader()?;
        if read::dataset(&*state, &dataset).is_none() {
            continue;
        }
        let mut copies = Vec::new();
        let mut start_after = String::new();
        loop {
            let query = listing::ObjectsQuery {
                dataset: &dataset,
                prefix: "",
                delimiter: "",
                start_after: &start_after,
                limit: 500,
            };
            let page = listing::objects(&*state, query);
            for object in page.objects {
                if copies.len() < TRIED_MAX {
                    copies.extend(lift(&*state, &blocks, dataset, &region, &object.key)?);
                }
            }
            if !page.truncated {
                return Ok(copies);
            }
            start_after = page.next_start_after;
        }
    }
    bail!("no copied state holds the dataset")
}

fn lift(
    state: &dyn Reader,
    blocks: &BlockStore,
    dataset: DatasetId,
    region: &RegionId,
    key: &str,
) -> Result<Option<DetachedObject>> {
    let entry = read::object(state, &dataset, key, None).context("a listed object has an entry")?;
    if entry.plain_bytes > LIFTED_BYTES_MAX {
        return Ok(None);
    }
    let lease = LeaseId::try_from(&entry.lease_id[..])?;
    let token = read::token(state, &dataset, &lease).context("an object's lease has a token")?;
    let version = ObjectVersionId::try_from(&entry.version_id[..])?;
    let mut sealed = BytesMut::from(&entry.inline[..]);
    for number in 0..entry.blocks.len() {
        let number = u32::try_from(number)?;
        let mut reader = blocks.read(
            BlockKey {
                version,
                number: BlockNumber(number),
            },
            0..0,
        )?;
        while let Some(piece) = reader.piece()? {
            sealed.extend_from_slice(&piece);
        }
    }
    Ok(Some(DetachedObject {
        region: region.clone(),
        dataset,
        key: key.parse()?,
        entry,
        token: token.token,
        sealed: sealed.freeze(),
    }))
}

/// Tries every copy with one region's KMS: how many opened, how many did not.
pub(super) async fn attack(kms: &Region, copies: &[DetachedObject]) -> (usize, usize) {
    use futures::StreamExt as _;
    let tries = futures::stream::iter(copies).map(|copy| async move {
        let plain: Result<Bytes, client::Error> =
            kms.open_detached(copy, v1::Claim::default()).await;
        plain.is_ok()
    });
    let outcomes: Vec<bool> = tries.buffer_unordered(32).collect().await;
    let opened = outcomes.iter().filter(|opened| **opened).count();
    (opened, outcomes.len() - opened)
}
