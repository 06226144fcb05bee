//! The enemy of a relocation: all of ru-mow, before and after. Disks, a backup of its keys, its processes, old shares.
//!
//! Owns the controls: the same script opens everything before the keys are destroyed, and as many shares as it takes
//! rebuild the root key, one fewer do not.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use client::ids::DatasetId;
use client::{CreateOptions, DetachedObject, PutOptions};
use envelope::{HpkeInfo, RootCheck, Share, ShareError, hpke_open};
use local::federation::RegionEntry;
use local::files::{OPERATORS, custodian_key};
use local::{Kind, Local, ceremony};
use prost::Message as _;
use proto::{transcript, v1};

use super::super::search::{self, Needle};
use super::super::table::Table;
use super::super::{connect, enemy};
use super::ending::{custodians, share};
use super::{DESTINATION, Relocation, SOURCE};

/// What the enemy took while ru-mow still had the dataset.
pub(super) struct Loot {
    copies: Vec<DetachedObject>,
    /// A backup of ru-mow's KMS.
    pub(super) backup: PathBuf,
}

/// Takes it, and shows that it opens with ru-mow's KMS as it is.
pub(super) async fn take(local: &mut Local, dataset: DatasetId, table: &mut Table) -> Result<Loot> {
    let copies = enemy::loot(local, SOURCE, dataset)?;
    let region = local.federation.region(SOURCE)?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let backup = local.federation.dir.join("kms-before.backup");
    let held = operator.backup_kms(&backup, |_| {}).await?;
    ensure!(held.rows > 0, "a backup of nothing");
    let kms = connect(local, SOURCE, "app-1").await?;
    let (opened, refused) = enemy::attack(&kms, &copies).await;
    ensure!(
        refused == 0 && opened > 0,
        "the positive control opened {opened}, {refused} were refused"
    );
    table.row(
        "the enemy takes, before",
        format!(
            "{opened} sealed objects from disks of {SOURCE} and a backup of its KMS; all open with its KMS (positive control)"
        ),
    );
    Ok(Loot { copies, backup })
}

/// As many of the old shares as it takes rebuild the old root key: positive control, before any is erased.
pub(super) fn shares_suffice(relocation: &Relocation<'_>) -> Result<()> {
    let region = &relocation.source.region;
    let needed = usize::try_from(region.shares_needed)?;
    let names = custodians(relocation);
    let names = names.get(..needed).unwrap_or(&names);
    let root = combined(region, &region.dir.join("shares"), names)?;
    root.map(drop)
        .map_err(|error| anyhow!("{needed} shares do not rebuild the root key: {error}"))
}

/// After the end: nothing opens.
pub(super) async fn run(
    local: &mut Local,
    relocation: &Relocation<'_>,
    loot: &Loot,
    shares: (&Path, &[String]),
    table: &mut Table,
) -> Result<()> {
    let dataset = relocation.dataset;
    let kms = connect(local, SOURCE, "app-1").await?;
    let (opened, refused) = enemy::attack(&kms, &loot.copies).await;
    ensure!(opened == 0, "{opened} objects of before still open");
    table.row(
        "copies of before, ru-mow's unsealed KMS",
        format!("0 opened, {refused} refused"),
    );

    // It serves others: what it refuses, it refuses because that key has ended.
    let alive = kms
        .create_dataset(&"alive".parse()?, &CreateOptions::default())
        .await
        .context("the KMS that is attacked")?;
    let (key, options) = ("control".parse()?, PutOptions::default());
    alive.put(&key, "opens", &options).await?;
    ensure!(
        alive.get_bytes(&key).await? == "opens",
        "the KMS that is attacked opens nothing at all"
    );

    let moved = enemy::loot(local, DESTINATION, dataset)?;
    let (opened, refused) = enemy::attack(&kms, &moved).await;
    ensure!(opened == 0, "{opened} objects of {DESTINATION} open there");
    let own = connect(local, DESTINATION, "app-1").await?;
    let (control, closed) = enemy::attack(&own, &moved).await;
    ensure!(
        closed == 0 && control > 0,
        "the positive control opened {control}, {closed} were refused"
    );
    table.row(
        "ch-zrh's disks, ru-mow's unsealed KMS",
        format!("0 opened, {refused} refused; ch-zrh's own opens {control} (positive control)"),
    );

    let (folder, names) = shares;
    let region = &relocation.source.region;
    match combined(region, folder, names)? {
        Err(ShareError::TooFew { have, need }) => table.row(
            "the backup of before, old shares",
            format!(
                "{have} of {need} shares: the root key that opens it is not rebuilt (with {need}, before they were erased, it was)"
            ),
        ),
        Err(error) => return Err(anyhow!("the shares that are left do not even fit: {error}")),
        Ok(_) => return Err(anyhow!("{} old shares rebuild the root key", names.len())),
    }
    Ok(())
}

/// Nothing of what was stored lies open in memory of ru-mow's KMS either; nodes, disks and the backup are searched with
/// all others.
pub(super) fn memory(local: &Local, needles: &[Needle], table: &mut Table) -> Result<()> {
    let region = local.federation.region(SOURCE)?;
    let (mut replicas, mut scanned) = (0, 0);
    for service in region.living(Kind::Kms) {
        let (read, found) = search::in_memory(service.pid, needles)?;
        ensure!(
            found.is_none(),
            "{} is in the memory of {}",
            found.unwrap_or_default(),
            service.name
        );
        ensure!(read > 1_000_000, "only {read} bytes of {}", service.name);
        (replicas, scanned) = (replicas + 1, scanned + read);
    }
    table.row(
        "canaries in memory of its KMS",
        format!("0 hits in {replicas} replicas, {} MB", scanned / 1_000_000),
    );
    Ok(())
}

/// What shares of these custodians come to, in the hands of who has their keys too.
fn combined(
    region: &RegionEntry,
    folder: &Path,
    names: &[String],
) -> Result<Result<RootCheck, ShareError>> {
    let mut shares = Vec::new();
    for name in names {
        let sealed = v1::SealedShare::decode(&std::fs::read(share(folder, name))?[..])?;
        let key = custodian_key(region, name)?;
        let index = sealed.index.to_be_bytes();
        let info = HpkeInfo::of(&transcript::custodian_share_info(
            region.region.as_str(),
            &sealed.share_set,
            &index,
            &sealed.custodian,
        ));
        let plain = hpke_open(&key, &info, b"", &sealed.sealed)
            .map_err(|_| anyhow!("the share of {name} does not open with its key"))?;
        shares.push(Share::from_bytes(&plain)?);
    }
    Ok(envelope::combine(&shares).map(|root| root.check_value()))
}
