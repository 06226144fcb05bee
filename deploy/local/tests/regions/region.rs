//! Regions of real processes: promises and bad input, end to end.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the
//! tests say that they skip. CI builds them first.

use std::pin::Pin;
use std::process::Command;
use std::task::{Context as Poll1, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use client::ids::{Identity, NodeId, ObjectKey, Role};
use client::{Body, CreateOptions, Error, GetOptions, Precondition, PutOptions};
use local::files::{self, CLIENTS};
use local::{Kind, ceremony, process};
use tokio::io::{AsyncRead, ReadBuf};
use transport::{KeyPair, RegionCa};

use crate::common::{binaries, contains, dataset, find, key, region_as, with_region};

/// A call with a deadline of two seconds has an answer by then.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// P4: what customers store, and what they say of it, is on no disk of the region.
#[test]
fn no_disk_of_a_region_holds_plaintext() {
    with_region(1, async |local| {
        let dataset = dataset(local).await?;
        let canary = "CANARY-of-a-customer-0123456789abcdef";
        let options = PutOptions {
            content_type: Some(format!("text/{canary}")),
            metadata: [("note".to_owned(), canary.to_owned())].into(),
            tags: [("tag".to_owned(), canary.to_owned())].into(),
            ..PutOptions::default()
        };
        dataset
            .put(&key("small"), canary.as_bytes().to_vec(), &options)
            .await?;
        dataset
            .put(&key("large"), canary.repeat(3_000).into_bytes(), &options)
            .await?;
        local.down()?;
        for service in local.services() {
            for place in [&service.data, &service.log] {
                let found = contains(place, canary.as_bytes())?;
                ensure!(found.is_none(), "plaintext in {found:?}");
            }
            std::fs::write(service.data.join("planted"), canary)?;
            ensure!(
                contains(&service.data, canary.as_bytes())?.is_some(),
                "the search finds nothing"
            );
        }
        Ok(())
    });
}

/// Every process of a region is killed once under load; every acknowledged write is read back.
#[test]
fn killing_each_process_once_loses_no_acknowledged_write() {
    with_region(3, async |local| {
        let dataset = dataset(local).await?;
        let names: Vec<_> = local
            .services()
            .map(|service| service.name.clone())
            .collect();
        let mut written = Vec::new();
        for (turn, name) in names.iter().enumerate() {
            for number in 0..10 {
                let (at, body) = (
                    key(&format!("{turn}/{number}")),
                    format!("body {turn} {number}"),
                );
                dataset
                    .put(&at, body.clone().into_bytes(), &PutOptions::default())
                    .await?;
                written.push((at, body));
                if number == 3 {
                    local.kill(name)?;
                }
            }
            local.restart(name).await?;
        }
        for (at, body) in &written {
            ensure!(
                dataset.get_bytes(at).await?[..] == *body.as_bytes(),
                "an acknowledged write is lost"
            );
        }
        ensure!(
            dataset.list_all("").await?.len() == written.len(),
            "the listing differs"
        );
        Ok(())
    });
}

struct CutOff {
    left: usize,
}

impl AsyncRead for CutOff {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Poll1<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(std::io::Error::other("the source went away")));
        }
        let take = self.left.min(out.remaining());
        out.put_slice(&vec![7; take]);
        self.left -= take;
        Poll::Ready(Ok(()))
    }
}

/// What callers get wrong: each time a clear error, and nothing lost.
/// Goes red where whoever holds the shares stays with the first replica: sealed ones with longer logs do not lead.
#[test]
fn a_kms_that_was_lost_as_a_whole_comes_back_though_its_first_replica_lags() {
    with_region(3, async |local| {
        let dataset = dataset(local).await?;
        dataset
            .put(&key("kept"), "content", &PutOptions::default())
            .await?;
        let replicas = local.services().filter(|service| service.kind == Kind::Kms);
        let names: Vec<String> = replicas.map(|service| service.name.clone()).collect();
        local.kill(&names[0])?;
        for _ in 0..3 {
            // Each is on record with the other two.
            dataset.get_bytes(&key("kept")).await?;
        }
        local.kill_all_of(&names[1..])?;
        local.start_all_of(&names)?;
        ceremony::unseal(local.federation.region("ch-zrh")?).await?;
        ensure!(
            dataset.get_bytes(&key("kept")).await? == "content",
            "read again"
        );
        Ok(())
    });
}

#[test]
fn callers_mistakes_have_clear_errors_and_lose_nothing() {
    with_region(1, async |local| {
        let dataset = dataset(local).await?;
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        let unknown = region.dataset(&"nobody-made-it".parse()?).await;
        ensure!(
            matches!(unknown, Err(Error::NoSuchDataset)),
            "an unknown dataset"
        );
        ensure!(
            "".parse::<ObjectKey>().is_err() && "k".repeat(1025).parse::<ObjectKey>().is_err(),
            "bad keys"
        );
        let taken = region
            .create_dataset(&"test".parse()?, &CreateOptions::default())
            .await;
        let error = taken.err().context("a second dataset of one name")?;
        ensure!(
            error.to_string().contains("taken") || error.to_string().contains("exists"),
            "{error}"
        );

        dataset
            .put(
                &key("k".repeat(1024).as_str()),
                "longest key",
                &PutOptions::default(),
            )
            .await?;
        dataset
            .put(&key("empty"), "", &PutOptions::default())
            .await?;
        ensure!(
            dataset.get_bytes(&key("empty")).await?.is_empty(),
            "an empty object comes back empty"
        );
        ensure!(
            matches!(
                dataset.get_bytes(&key("absent")).await,
                Err(Error::NoSuchObject)
            ),
            "an absent object"
        );

        dataset
            .put(&key("kept"), "what was there", &PutOptions::default())
            .await?;
        let cut = Body::stream(CutOff { left: 20 << 20 });
        let outcome = dataset.put(&key("kept"), cut, &PutOptions::default()).await;
        ensure!(
            matches!(outcome, Err(Error::Io(_))),
            "an object cut off midway: {outcome:?}"
        );
        ensure!(
            dataset.get_bytes(&key("kept")).await? == "what was there",
            "the old object is still there"
        );

        let bad = GetOptions {
            range: Some((100, 200)),
            ..GetOptions::default()
        };
        let outcome = dataset
            .get(&key("kept"), &bad)
            .await
            .err()
            .context("a range outside")?;
        ensure!(outcome.reason() == "range-not-satisfiable", "{outcome}");
        let part = GetOptions {
            range: Some((5, 8)),
            ..GetOptions::default()
        };
        ensure!(
            dataset
                .get(&key("kept"), &part)
                .await?
                .body
                .into_bytes()
                .await?
                == "was",
            "a range inside"
        );

        let human = GetOptions {
            purpose: "investigation".to_owned(),
            ..GetOptions::default()
        };
        let outcome = dataset
            .get(&key("kept"), &human)
            .await
            .err()
            .context("a human purpose")?;
        ensure!(
            matches!(outcome, Error::Denied { .. }),
            "a client under a human purpose: {outcome}"
        );
        let sealing = GetOptions {
            purpose: "multipart".to_owned(),
            ..GetOptions::default()
        };
        let outcome = dataset.get(&key("kept"), &sealing).await.err();
        let outcome = outcome.context("a purpose that opens nothing")?;
        ensure!(
            outcome.reason() == "purpose-not-for-reading",
            "a read under an upload's purpose: {outcome}"
        );
        let refused = dataset
            .delete(
                &key("kept"),
                None,
                Precondition::Is(client::ids::ObjectVersionId([0; 16])),
            )
            .await;
        ensure!(
            matches!(refused, Err(Error::PreconditionFailed { .. })),
            "{refused:?}"
        );
        Ok(())
    });
}

/// Who may not act is told so, and why.
#[test]
fn strangers_are_refused_with_reasons() {
    with_region(1, async |local| {
        let entry = local.federation.region("ch-zrh")?.clone();
        let ca = RegionCa::load(
            entry.region.clone(),
            &entry.dir.join("ca.pem"),
            &entry.dir.join("ca.key"),
        )?;
        // Minted by the region's own CA, enrolled nowhere.
        files::make_identity(&entry, &ca, Role::Client, "stranger")?;
        let short = Duration::from_secs(3);
        let outcome = region_as(local, "stranger", short)
            .await
            .err()
            .context("a stranger got in")?;
        ensure!(
            format!("{outcome:#}").contains("not enrolled"),
            "{outcome:#}"
        );
        // An operator: enrolled, and without any right to data.
        let operator = region_as(local, files::OPERATORS[0], short).await?;
        dataset(local)
            .await?
            .put(&key("secret"), "of a customer", &PutOptions::default())
            .await?;
        let theirs = operator.dataset(&"test".parse()?).await?;
        let read = theirs
            .get_bytes(&key("secret"))
            .await
            .err()
            .context("an operator read customer data")?;
        ensure!(matches!(read, Error::Denied { .. }), "{read}");
        // A certificate of another region's CA under this region's name.
        let other = RegionCa::create(
            entry.region.clone(),
            files::now(),
            Duration::from_secs(3_600),
        )?;
        let identity = Identity::new(entry.region.clone(), Role::Client, "foreign")?;
        let pair = KeyPair::generate();
        let (certificate, key_path) = entry.identity_files("foreign");
        std::fs::write(
            certificate,
            other.issue(&transport::ca::Request {
                identity: &identity,
                public_key: pair.public_key(),
                dns_names: &[],
                ip_addresses: &[],
                now: files::now(),
                validity: Duration::from_secs(3_600),
            })?,
        )?;
        files::write_private(&key_path, pair.to_pem().as_bytes())?;
        ensure!(
            region_as(local, "foreign", short).await.is_err(),
            "a foreign certificate got in"
        );
        Ok(())
    });
}

/// A sealed KMS says so and refuses; two operators bring it back.
#[test]
fn a_sealed_kms_says_so_and_refuses() {
    with_region(1, async |local| {
        let dataset = dataset(local).await?;
        dataset.put(&key("a"), "b", &PutOptions::default()).await?;
        let region = local.federation.region("ch-zrh")?.clone();
        let kms = region.living(Kind::Kms).next().context("a kms")?.clone();
        let operator = ceremony::connect(&region, files::OPERATORS[0]).await?;
        operator.seal(NodeId(kms.node_id)).await?;
        ensure!(
            operator.kms_status(NodeId(kms.node_id)).await?.sealed,
            "it says it is sealed"
        );
        let ready = local::launch::http(&kms.health, "/readyz")?;
        ensure!(ready.0 == 503 && ready.1.contains("sealed"), "{ready:?}");
        let short = region_as(local, CLIENTS[1], Duration::from_secs(2)).await?;
        let read = short
            .dataset(dataset.name())
            .await?
            .get_bytes(&key("a"))
            .await;
        let error = read.err().context("a sealed kms opened an object")?;
        ensure!(
            error.to_string().contains("sealed") || matches!(error, Error::Unavailable { .. }),
            "{error}"
        );
        // Who runs the region is told within the deadline too, and does not wait for somebody to unseal it.
        let short = region_as(local, files::OPERATORS[0], Duration::from_secs(2)).await?;
        let fresh = Identity::new(region.region.clone(), Role::Kms, "k9")?;
        let allocated = tokio::time::timeout(ANSWER_MAX, short.allocate_kms_id(&fresh)).await;
        let error = allocated
            .context("an operator waits for a sealed kms")?
            .err()
            .context("a sealed kms enrols")?;
        ensure!(matches!(error, Error::Unavailable { .. }), "{error}");
        ceremony::unseal(&region).await?;
        ensure!(
            dataset.get_bytes(&key("a")).await? == "b",
            "unsealed by custodians it opens again"
        );
        Ok(())
    });
}

/// Folders and configurations that must not start, each with its own words.
#[test]
fn what_must_not_start_does_not_and_says_why() {
    with_region(1, async |local| {
        let bin = binaries().context("the daemons")?;
        for kind in [Kind::Node, Kind::Kms] {
            let region = local.federation.region("ch-zrh")?.clone();
            let service = region.living(kind).next().context("a service")?.clone();
            let start = |service: &local::Service| -> Result<String> {
                let binary = process::binary_in(&bin, kind)?;
                let mut command = Command::new(binary);
                let output = command.arg("--config").arg(&service.config).output()?;
                if output.status.success() {
                    bail!("it started");
                }
                let text = [output.stdout, output.stderr].concat();
                Ok(String::from_utf8_lossy(&text).to_lowercase())
            };
            // Twice on one folder: other ports, the same data.
            let mut twin = service.clone();
            twin.config = service.config.with_extension("twin.toml");
            let text = std::fs::read_to_string(&service.config)?;
            let moved = text
                .replace(&service.endpoint, "127.0.0.1:0")
                .replace(&service.health, "127.0.0.1:0");
            std::fs::write(&twin.config, &moved)?;
            let said = start(&twin)?;
            ensure!(
                said.contains("in use")
                    || said.contains("lock")
                    || said.contains("another process"),
                "twice: {said}"
            );
            // An empty folder under a known id.
            let empty = service.data.with_extension("empty");
            std::fs::create_dir_all(&empty)?;
            let data = service.data.display().to_string();
            std::fs::write(
                &twin.config,
                moved.replace(&format!("\"{data}\""), &format!("\"{}\"", empty.display())),
            )?;
            local.kill(&service.name)?;
            let said = start(&twin);
            local.start(&service.name)?;
            let said = said?;
            ensure!(
                said.contains("join") || said.contains("empty"),
                "empty folder: {said}"
            );
            // A misspelt key.
            std::fs::write(&twin.config, format!("lisen = \"127.0.0.1:1\"\n{moved}"))?;
            let said = start(&twin)?;
            ensure!(said.contains("lisen"), "unknown key: {said}");
            ceremony::unseal(&region).await?;
        }
        Ok(())
    });
}

/// A member that joined later stands in no set that is left to it once its disk is lost. It says what is the matter
/// all the same, at once and with nobody there to ask, instead of waiting to be enrolled.
#[test]
fn a_lost_disk_is_named_by_a_member_that_joined_and_can_ask_nobody() {
    with_region(1, async |local| {
        let bin = binaries().context("the daemons")?;
        let mut joined = Vec::new();
        for kind in [Kind::Node, Kind::Kms] {
            let name = local.enrol("ch-zrh", kind).await?;
            local.admit(&name).await?;
            joined.push((kind, name));
        }
        let all: Vec<_> = local.services().map(|s| s.name.clone()).collect();
        local.kill_all_of(&all)?;
        for (kind, name) in joined {
            let service = local.federation.service(&name)?.clone();
            std::fs::remove_dir_all(&service.data)?;
            std::fs::create_dir_all(&service.data)?;
            let mut command = Command::new(process::binary_in(&bin, kind)?);
            let output = command.arg("--config").arg(&service.config).output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "{name} started");
            ensure!(said.contains("is empty"), "{name}: {said}");
        }
        Ok(())
    });
}

/// A file that lost its tail or a bit: the process names it and does not start, or mends it from its peers; nothing
/// that was acknowledged is lost either way.
#[test]
fn damaged_files_are_named_or_mended_and_nothing_is_lost() {
    with_region(3, async |local| {
        let dataset = dataset(local).await?;
        let large: Vec<u8> = (0..1_500_000_u32).map(|at| (at % 251) as u8).collect();
        dataset
            .put(&key("large"), large.clone(), &PutOptions::default())
            .await?;
        for number in 0..20 {
            let body = format!("body {number}").into_bytes();
            dataset
                .put(
                    &key(&format!("small/{number}")),
                    body,
                    &PutOptions::default(),
                )
                .await?;
        }
        let check = async || -> Result<()> {
            ensure!(
                dataset.get_bytes(&key("large")).await?[..] == large[..],
                "large"
            );
            for number in 0..20 {
                let body = dataset.get_bytes(&key(&format!("small/{number}"))).await?;
                ensure!(
                    body[..] == *format!("body {number}").as_bytes(),
                    "small/{number}"
                );
            }
            Ok(())
        };
        let victim = local.federation.region("ch-zrh")?.clone();
        let victim = victim.living(Kind::Node).next().context("a node")?.clone();
        local.kill(&victim.name)?;

        // The Raft log: every record in it was synced, so a bad one is a broken promise, and is said.
        let log = find(&victim.data.join("raft/log"), "log")?;
        let good = std::fs::read(&log)?;
        let used = good
            .iter()
            .rposition(|byte| *byte != 0)
            .context("an empty log")?;
        let mut flipped = good.clone();
        // Records are padded: take a byte with others around it, far enough from the last batch.
        let at = (8..used * 3 / 4)
            .rev()
            .find(|at| good[at - 8..at + 8].iter().all(|byte| *byte != 0))
            .context("no record")?;
        flipped[at] ^= 4;
        for (what, bytes) in [("flipped", &flipped[..]), ("cut", &good[..used / 2])] {
            std::fs::write(&log, bytes)?;
            let said = local.start(&victim.name).err();
            let said = format!("{:#}", said.with_context(|| format!("{what}: it started"))?);
            ensure!(
                said.contains("raft log is damaged") && said.contains(".log"),
                "{what}: {said}"
            );
            check().await?;
        }
        std::fs::write(&log, &good)?;

        // Blocks: what is bad is not served, is fetched from a peer, and is held again.
        let blocks = find(&victim.data.join("blocks"), "blocks")?;
        let mut bytes = std::fs::read(&blocks)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&blocks, &bytes)?;
        local.start(&victim.name)?;
        for _ in 0..6 {
            check().await?;
        }
        local.kill(&victim.name)?;
        // The block that was mended lies in another segment now, and the one it was in may be gone.
        let blocks = find(&victim.data.join("blocks"), "blocks")?;
        let bytes = std::fs::read(&blocks)?;
        std::fs::write(&blocks, &bytes[..bytes.len() / 2])?;
        local.start(&victim.name)?;
        for _ in 0..6 {
            check().await?;
        }
        Ok(())
    });
}
