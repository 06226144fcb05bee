//! What people do at a region's beginning and after its KMS restarted: init ceremony, unsealing, founding.
//!
//! Owns their order. The same calls as `reduit operator`: nothing here goes around the product.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use client::backup::{BackupFile, NewReplica, RestoreTerms};
use client::operator::CustodianShare;
use client::{OutsideWitness, Region, Tuning};
use envelope::HpkePrivateKey;
use prost::Message as _;
use proto::ids::{Identity, NodeId};
use proto::v1;
use transport::LocalIdentity;

use crate::federation::{Kind, RegionEntry, Service};
use crate::files::{OPERATORS, custodian_key, write_private};

/// How long a step of the ceremony may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// The feature level of the KMS from which on it knows witnesses.
const LEVEL_WITNESSES: u32 = 2;

/// Connects as one of a region's identities.
pub async fn connect(region: &RegionEntry, name: &str) -> Result<Region> {
    let context = region.context(name);
    Region::connect(&context, Tuning::default())
        .await
        .with_context(|| format!("cannot reach {} as {name}", region.region))
}

/// One of a region's identities, to sign approvals.
pub fn identity(region: &RegionEntry, name: &str) -> Result<LocalIdentity> {
    let (certificate, key) = region.identity_files(name);
    Ok(LocalIdentity::load(&certificate, &key)?)
}

/// The operators who approve what the first one asks for.
pub fn approvers(region: &RegionEntry) -> Result<Vec<LocalIdentity>> {
    OPERATORS[1..]
        .iter()
        .map(|name| identity(region, name))
        .collect()
}

/// Tries until it works or patience ends.
pub async fn until<T, F>(what: &str, mut attempt: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => return Err(error.context(what.to_owned())),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Init ceremony on the first replica, shares to the custodians, peers unsealed, storage groups founded.
pub async fn found(region: &RegionEntry) -> Result<()> {
    let operator = until("reaching the region's nodes", async || {
        connect(region, OPERATORS[0]).await
    })
    .await?;
    let first = region
        .living(Kind::Kms)
        .next()
        .context("a region without a kms")?;
    let set = v1::SignedEnrolmentSet::decode(&std::fs::read(region.dir.join("genesis.set"))?[..])?;
    let set = v1::EnrolmentSet::decode(set.set)?;
    let custodians: Vec<_> = set
        .enrolments
        .into_iter()
        .filter(|enrolment| enrolment.identity.contains("/custodian/"))
        .collect();
    let made = until("the init ceremony", async || {
        Ok(operator
            .initialise(
                NodeId(first.node_id),
                custodians.clone(),
                region.shares_needed,
            )
            .await?)
    })
    .await?;
    let dir = region.dir.join("shares");
    std::fs::create_dir_all(&dir)?;
    for share in &made.shares {
        let name = share.custodian.rsplit('/').next().unwrap_or_default();
        write_private(&dir.join(format!("{name}.share")), &share.encode_to_vec())?;
    }
    unseal(region).await?;
    found_storage(region).await
}

/// Storage groups on nodes that have none.
pub async fn found_storage(region: &RegionEntry) -> Result<()> {
    let operator = connect(region, OPERATORS[0]).await?;
    until("founding the storage groups", async || {
        Ok(operator.found(region.shards).await?)
    })
    .await?;
    Ok(())
}

/// Unseals every sealed replica: by its peers where one is unsealed, else by custodians' shares. One that is joining
/// has nothing to unseal yet: it has not heard which region it is.
pub async fn unseal(region: &RegionEntry) -> Result<()> {
    let operator = until("reaching the region's nodes", async || {
        connect(region, OPERATORS[0]).await
    })
    .await?;
    let approver = identity(region, OPERATORS[1])?;
    let end = Instant::now() + PATIENCE;
    loop {
        let mut sealed = Vec::new();
        let mut waiting = Vec::new();
        let mut unsealed = 0;
        for replica in region
            .living(Kind::Kms)
            .filter(|s| !s.joining && crate::process::is_running(s))
        {
            match operator.kms_status(NodeId(replica.node_id)).await {
                Ok(status) if !status.sealed => unsealed += 1,
                // It has the root key and cannot lead yet: of the others one may have the longer log, which a sealed
                // replica does not lead with either.
                Ok(status) if status.initialised && status.shares_have >= status.shares_needed => {
                    waiting.push(replica);
                }
                Ok(_) | Err(_) => sealed.push(replica),
            }
        }
        let Some(next) = sealed.first().or(waiting.first()) else {
            return Ok(());
        };
        if Instant::now() > end {
            bail!(
                "{} is still sealed; its log says why: {}",
                next.name,
                next.log.display()
            );
        }
        let outcome = if sealed.is_empty() {
            Err(anyhow::anyhow!("it waits for a majority"))
        } else if unsealed > 0 {
            operator
                .approve_unseal(NodeId(next.node_id), &approver)
                .await
                .map(|_| ())
                .map_err(Into::into)
        } else {
            by_custodians(region, NodeId(next.node_id)).await
        };
        if let Err(error) = outcome {
            tracing::debug!(replica = %next.name, error = format!("{error:#}"), "not unsealed yet");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Has outside witnesses vouch for a region's log from now on: `needed` of them beside a majority of its replicas.
pub async fn witnessed_by(
    region: &RegionEntry,
    witnesses: &[OutsideWitness],
    needed: usize,
    unwitnessed_max: Duration,
) -> Result<()> {
    let operator = connect(region, OPERATORS[0]).await?;
    operator.raise_kms_level(LEVEL_WITNESSES).await?;
    let keys = operator.log_keys().await?;
    let policy = keys
        .policy(witnesses, needed)
        .context("every replica that answers is sealed")?;
    let unwitnessed_ms = u64::try_from(unwitnessed_max.as_millis())?;
    operator
        .change_witnesses(policy.into(), unwitnessed_ms, &approvers(region)?)
        .await?;
    Ok(())
}

/// Restores the KMS of a region that begins anew: custodians open the backup, two operators approve, peers are unsealed.
pub async fn restore_kms(region: &RegionEntry, backup: &Path) -> Result<()> {
    let file = BackupFile::open(backup)?;
    let replicas: Vec<_> = region.living(Kind::Kms).collect();
    // The founder that leads takes it, and which one does only they know.
    let mut tried = replicas.iter().cycle();
    until("restoring the KMS", async || {
        let replica = tried.next().context("a region without a kms")?;
        restore_at(region, replica, &file).await
    })
    .await?;
    unseal(region).await
}

async fn restore_at(region: &RegionEntry, replica: &Service, file: &BackupFile) -> Result<()> {
    let identity: Identity = replica.identity.parse()?;
    let as_who = |name: &str| NewReplica::at(&region.context(name), &identity, &replica.endpoint);
    let operator = as_who(OPERATORS[0])?;
    if !operator.prepare_restore(&file.start).await?.unsealed {
        for (name, share, key) in shares(region)? {
            let (share, key) = (&share, &key);
            as_who(&name)?.unseal(CustodianShare { share, key }).await?;
        }
    }
    let genesis = std::fs::read(region.dir.join("genesis.set"))?;
    let terms = RestoreTerms {
        genesis: Some(v1::SignedEnrolmentSet::decode(&genesis[..])?),
        ..RestoreTerms::default()
    };
    operator
        .restore(file, terms, &approvers(region)?, |_| ())
        .await?;
    Ok(())
}

/// As many shares as it takes, each with its custodian's name and key.
fn shares(region: &RegionEntry) -> Result<Vec<(String, v1::SealedShare, HpkePrivateKey)>> {
    let mut names: Vec<_> = std::fs::read_dir(region.dir.join("shares"))?
        .filter_map(|entry| {
            entry
                .ok()?
                .file_name()
                .to_str()?
                .strip_suffix(".share")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    names.truncate(region.shares_needed as usize);
    let read = |name: String| {
        let share = std::fs::read(region.dir.join("shares").join(format!("{name}.share")))?;
        let key = custodian_key(region, &name)?;
        Ok((name, v1::SealedShare::decode(&share[..])?, key))
    };
    names.into_iter().map(read).collect()
}

/// Gives as many custodians' shares as it takes.
pub async fn by_custodians(region: &RegionEntry, replica: NodeId) -> Result<()> {
    for (name, share, key) in shares(region)? {
        let custodian = connect(region, &name).await?;
        let (share, key) = (&share, &key);
        let reply = custodian
            .unseal(replica, CustodianShare { share, key })
            .await?;
        if !reply.sealed {
            return Ok(());
        }
    }
    Ok(())
}
