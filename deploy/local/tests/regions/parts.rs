//! Uploads in parts on a region of real processes: by two clients, over the loss of a node, read back as one object.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use client::ids::ObjectVersionId;
use client::{
    Body, CompleteOptions, Dataset, Error, GetOptions, Invocation, Part, PartId, PartOptions,
    Precondition, PutOptions, Region, Tuning, Upload, UploadsQuery,
};
use local::files::CLIENTS;
use local::{Kind, Local};

use crate::common::{contains, dataset, key, region_as, with_region};

const KEY: &str = "cases/7/memory-dump";
const MIB: usize = 1 << 20;

/// The same dataset, as another enrolled process sees it: another session, and no lease of the first one's.
async fn second(local: &Local, first: &Dataset) -> Result<Dataset> {
    let region = region_as(local, CLIENTS[1], Duration::from_secs(30)).await?;
    Ok(region.dataset(first.name()).await?)
}

/// The names of the region's storage nodes.
fn nodes(local: &Local) -> Vec<String> {
    let nodes = local
        .services()
        .filter(|service| service.kind == Kind::Node);
    nodes.map(|service| service.name.clone()).collect()
}

/// Bytes that differ at each place, so that a part in another's place is seen.
fn body(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 8);
    let mut at = seed;
    while out.len() < bytes {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        out.extend_from_slice(&at.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

async fn read(dataset: &Dataset, range: Option<(u64, u64)>) -> Result<Vec<u8>> {
    let options = GetOptions {
        range,
        ..GetOptions::default()
    };
    let object = dataset.get(&key(KEY), &options).await?;
    Ok(object.body.into_bytes().await?.to_vec())
}

fn names(parts: &[&Part]) -> Vec<(u32, PartId)> {
    parts.iter().map(|part| (part.number, part.id)).collect()
}

async fn put_part(
    dataset: &Dataset,
    upload: &Upload,
    number: u32,
    plain: &[u8],
) -> Result<Part, Error> {
    let options = PartOptions::default();
    dataset
        .upload_part(upload, number, plain.to_vec(), &options)
        .await
}

/// Parts of many blocks, of one and inline, put by two clients in any order, are one object after completion and
/// nothing before; every range of it opens, whatever parts it crosses, and on two nodes of three too.
#[test]
fn parts_of_two_clients_read_as_one_object() {
    with_region(3, async |local| {
        let one = dataset(local).await?;
        let two = second(local, &one).await?;
        let at = key(KEY);
        let options = PutOptions {
            content_type: Some("application/x-dump".to_owned()),
            ..PutOptions::default()
        };
        let upload = one.create_upload(&at, &options).await?;
        let bodies = [body(1, 9 * MIB), body(2, 17 * MIB + 3), body(3, 1_000)];
        let last = put_part(&one, &upload, 9, &bodies[2]).await?;
        let first = put_part(&one, &upload, 2, &bodies[0]).await?;
        // Another process goes on: it has no lease of the upload's, and the KMS releases its DEK on record.
        let there = two.find_upload(&at, upload.id()).await?;
        let middle = put_part(&two, &there, 5, &bodies[1]).await?;
        ensure!(two.upload_metadata(&there).await?.content_type == "application/x-dump");
        ensure!(
            matches!(
                one.get(&at, &GetOptions::default()).await.err(),
                Some(Error::NoSuchObject)
            ),
            "an object before its completion"
        );
        let page = one.list_parts(&at, upload.id(), 0, 2).await?;
        ensure!(page.next == Some(5), "{page:?}");
        let page = one.list_parts(&at, upload.id(), 5, 2).await?;
        ensure!(
            page.next.is_none() && page.parts[0].id == last.id,
            "{page:?}"
        );

        let parts = names(&[&first, &middle, &last]);
        let done = two
            .complete_upload(&there, &parts, &CompleteOptions::default())
            .await?;
        ensure!(done.version == upload.id());
        let whole = bodies.concat();
        ensure!(done.bytes == whole.len() as u64);
        let info = one.head(&at, None).await?;
        ensure!(
            (info.parts, info.bytes) == (3, whole.len() as u64),
            "{info:?}"
        );
        ensure!(info.metadata.content_type == "application/x-dump");
        ensure!(read(&one, None).await? == whole, "the whole object");

        // Completed again by the one that does not know: answered, and once.
        let again = one
            .complete_upload(&upload, &parts, &CompleteOptions::default())
            .await?;
        ensure!(again.version == done.version);
        // And by one that cannot find the upload any more.
        let gone = two.find_upload(&at, upload.id()).await;
        ensure!(gone.err().map(|error| error.reason().to_owned()) == Some("no-such-upload".into()));
        let again = two.completed_upload(&at, upload.id(), &parts).await?;
        ensure!((again.version, again.bytes) == (done.version, done.bytes));
        let fewer = two.completed_upload(&at, upload.id(), &parts[1..]).await;
        ensure!(
            fewer.err().map(|error| error.reason().to_owned()) == Some("no-such-upload".into())
        );
        let late = put_part(&one, &upload, 5, &bodies[2]).await;
        ensure!(
            late.as_ref().err().map(Error::reason) == Some("no-such-upload"),
            "a part of a completed upload: {late:?}"
        );

        local.kill(&nodes(local)[1])?;
        let (a, b) = (9 * MIB as u64, (26 * MIB + 3) as u64);
        let end = whole.len() as u64;
        let ranges = [
            (0, 1),
            (0, a),
            (a - 1, a + 1),
            (a, a),
            (a, b),
            (a + 16_383, a + 16_385),
            (b - 1, b + 1),
            (b, end),
            (end - 1, end),
            (end, end),
            (a - 5, end),
            (1, end - 1),
        ];
        for (start, stop) in ranges {
            let got = read(&one, Some((start, stop))).await?;
            ensure!(
                got == whole[start as usize..stop as usize],
                "bytes {start} to {stop}"
            );
        }
        Ok(())
    });
}

/// Parts without bytes are parts: an object with some reads as if they were not there, by every range.
#[test]
fn parts_without_bytes_hide_none_of_the_others() {
    with_region(1, async |local| {
        let one = dataset(local).await?;
        let at = key(KEY);
        let (data, more) = (&body(1, 40_000)[..], &body(2, 20_000)[..]);
        let nothing: &[u8] = &[];
        for bodies in [
            [data, nothing, more],
            [data, nothing, nothing],
            [nothing, data, nothing],
            [nothing; 3],
        ] {
            let upload = one.create_upload(&at, &PutOptions::default()).await?;
            let mut parts = Vec::new();
            for (number, plain) in (1..).zip(bodies) {
                parts.push(put_part(&one, &upload, number, plain).await?);
            }
            let named = names(&parts.iter().collect::<Vec<_>>());
            one.complete_upload(&upload, &named, &CompleteOptions::default())
                .await?;
            let whole = bodies.concat();
            ensure!(read(&one, None).await? == whole, "the whole object");
            let end = whole.len() as u64;
            let middle = bodies[0].len() as u64;
            for (start, stop) in [
                (0, middle),
                (middle, end),
                (middle.saturating_sub(1), end),
                (end.saturating_sub(1), end),
                (end, end),
            ] {
                let got = read(&one, Some((start, stop))).await?;
                let lengths = bodies.map(<[u8]>::len);
                ensure!(
                    got == whole[start as usize..stop as usize],
                    "bytes {start} to {stop} of {lengths:?}"
                );
            }
        }
        Ok(())
    });
}

/// An object that is deleted or overwritten while it is read is read to its end, as one that is one stream is.
#[test]
fn a_read_outlives_its_object_in_parts() {
    with_region(1, async |local| {
        let one = dataset(local).await?;
        let at = key(KEY);
        let part = body(1, 20_000);
        let count = 80;
        for delete in [true, false] {
            let upload = one.create_upload(&at, &PutOptions::default()).await?;
            let mut parts = Vec::new();
            for number in 1..=count {
                parts.push(put_part(&one, &upload, number, &part).await?);
            }
            let named = names(&parts.iter().collect::<Vec<_>>());
            one.complete_upload(&upload, &named, &CompleteOptions::default())
                .await?;
            let mut reader = one.get(&at, &GetOptions::default()).await?.body;
            let mut read = reader.chunk().await?.context("a beginning")?.to_vec();
            if delete {
                one.delete(&at, None, Precondition::Any).await?;
            } else {
                one.put(&at, "another", &PutOptions::default()).await?;
            }
            while let Some(chunk) = reader.chunk().await? {
                read.extend_from_slice(&chunk);
            }
            ensure!(read == part.repeat(count as usize), "deleted: {delete}");
        }
        Ok(())
    });
}

/// A node that dies in the middle of an upload costs it nothing, and has the parts it missed when it is back.
#[test]
fn an_upload_outlives_the_loss_of_a_node() {
    with_region(3, async |local| {
        let one = dataset(local).await?;
        let at = key(KEY);
        let upload = one.create_upload(&at, &PutOptions::default()).await?;
        let bodies = [body(1, 6 * MIB), body(2, 6 * MIB), body(3, 6 * MIB)];
        let mut parts = Vec::new();
        for ((number, plain), name) in (1..).zip(&bodies).zip(nodes(local)) {
            local.kill(&name)?;
            parts.push(put_part(&one, &upload, number, plain).await?);
            local.restart(&name).await?;
        }
        // The first one again: what was there before is garbage and in no object.
        let first = put_part(&one, &upload, 1, &body(9, 7 * MIB)).await?;
        let stale = names(&[&parts[0], &parts[1], &parts[2]]);
        let refused = one
            .complete_upload(&upload, &stale, &CompleteOptions::default())
            .await;
        ensure!(
            refused.as_ref().err().map(Error::reason) == Some("invalid-part"),
            "{refused:?}"
        );
        let named = names(&[&first, &parts[2]]);
        one.complete_upload(&upload, &named, &CompleteOptions::default())
            .await?;
        let whole = [body(9, 7 * MIB), bodies[2].clone()].concat();
        ensure!(read(&one, None).await? == whole);
        Ok(())
    });
}

/// Of two completions at once one takes effect; readers see the old object or the new one, and no mixture.
#[test]
fn a_completion_is_atomic_and_one_of_two_wins() {
    with_region(1, async |local| {
        let one = dataset(local).await?;
        let two = second(local, &one).await?;
        let at = key(KEY);
        let old = body(7, 40_000);
        one.put(&at, old.clone(), &PutOptions::default()).await?;
        let upload = one.create_upload(&at, &PutOptions::default()).await?;
        let bodies = [body(1, 50_000), body(2, 60_000), body(3, 100)];
        let mut parts = Vec::new();
        for (number, plain) in (1..).zip(&bodies) {
            parts.push(put_part(&one, &upload, number, plain).await?);
        }
        let there = two.find_upload(&at, upload.id()).await?;
        let (both, two_of_them) = (
            names(&[&parts[0], &parts[1], &parts[2]]),
            names(&[&parts[0], &parts[2]]),
        );
        let options = CompleteOptions::default();
        let (a, b, seen) = tokio::join!(
            one.complete_upload(&upload, &both, &options),
            two.complete_upload(&there, &two_of_them, &options),
            async {
                let mut seen = Vec::new();
                for _ in 0..20 {
                    seen.push(read(&one, None).await);
                }
                seen
            }
        );
        let new = match (a, b) {
            (Ok(_), Err(_)) => bodies.concat(),
            (Err(_), Ok(_)) => [bodies[0].clone(), bodies[2].clone()].concat(),
            other => anyhow::bail!("of two completions one is done: {other:?}"),
        };
        for read in seen {
            match read {
                Ok(read) => ensure!(read == old || read == new, "a mixture"),
                // Found, and replaced before its parts were asked for.
                Err(error) => {
                    let gone = error.downcast_ref::<Error>();
                    ensure!(matches!(gone, Some(Error::NoSuchObject)), "{error:?}");
                }
            }
        }
        ensure!(read(&one, None).await? == new);
        // A condition that does not hold leaves the upload as it is.
        let upload = one.create_upload(&at, &PutOptions::default()).await?;
        let part = put_part(&one, &upload, 1, b"new").await?;
        let conditional = CompleteOptions {
            precondition: Precondition::Is(ObjectVersionId([0; 16])),
            ..CompleteOptions::default()
        };
        let refused = one
            .complete_upload(&upload, &names(&[&part]), &conditional)
            .await;
        ensure!(
            matches!(refused, Err(Error::PreconditionFailed { .. })),
            "{refused:?}"
        );
        ensure!(read(&one, None).await? == new);
        one.complete_upload(&upload, &names(&[&part]), &CompleteOptions::default())
            .await?;
        ensure!(read(&one, None).await? == b"new");
        Ok(())
    });
}

/// Uploads under way are listed and end without a trace; a part is copied from an object; no disk has plaintext.
#[test]
fn uploads_are_listed_aborted_and_sealed() {
    with_region(1, async |local| {
        let one = dataset(local).await?;
        let canary = "CANARY-of-a-part-0123456789abcdef";
        let source = key("source");
        one.put(
            &source,
            canary.repeat(4_000).into_bytes(),
            &PutOptions::default(),
        )
        .await?;
        let mut uploads = Vec::new();
        for name in ["a/1", "a/1", "b"] {
            uploads.push(
                one.create_upload(&key(name), &PutOptions::default())
                    .await?,
            );
        }
        let checksums = [("SHA256".to_owned(), canary.as_bytes().to_vec().into())];
        let options = PartOptions {
            checksums: BTreeMap::from(checksums).into(),
        };
        let inline = one
            .upload_part(&uploads[0], 1, canary.as_bytes().to_vec(), &options)
            .await?;
        let range = GetOptions {
            range: Some((5, 100_005)),
            ..GetOptions::default()
        };
        let copied = one
            .copy_part(&uploads[0], 2, (&one, &source, &range))
            .await?;
        ensure!(copied.bytes == 100_000, "{copied:?}");
        let page = one.list_parts(&key("a/1"), uploads[0].id(), 0, 0).await?;
        ensure!(
            page.parts[0].checksums == options.checksums.all(),
            "{page:?}"
        );

        let query = UploadsQuery {
            limit: 2,
            ..UploadsQuery::default()
        };
        let page = one.list_uploads(&query).await?;
        let ids: Vec<_> = page.uploads.iter().map(|upload| upload.id).collect();
        ensure!(ids == [uploads[0].id(), uploads[1].id()], "{page:?}");
        let next = UploadsQuery {
            start_after: page.next.context("more follow")?,
            ..query
        };
        let page = one.list_uploads(&next).await?;
        ensure!(page.uploads.len() == 1 && page.next.is_none(), "{page:?}");
        let folded = UploadsQuery {
            delimiter: "/".to_owned(),
            ..UploadsQuery::default()
        };
        let page = one.list_uploads(&folded).await?;
        ensure!(page.common_prefixes == ["a/"] && page.uploads.len() == 1);

        let done = one
            .complete_upload(
                &uploads[0],
                &names(&[&inline, &copied]),
                &CompleteOptions::default(),
            )
            .await?;
        ensure!(done.bytes == 100_000 + canary.len() as u64);
        for upload in &uploads[1..] {
            put_part(&one, upload, 1, canary.repeat(1_000).as_bytes()).await?;
            one.abort_upload(upload.key(), upload.id()).await?;
        }
        ensure!(
            one.list_uploads(&UploadsQuery::default())
                .await?
                .uploads
                .is_empty()
        );
        let gone = one.find_upload(uploads[1].key(), uploads[1].id()).await;
        ensure!(
            gone.err().map(|error| error.reason().to_owned()).as_deref() == Some("no-such-upload")
        );
        local.down()?;
        for service in local.services() {
            let found = contains(&service.data, canary.as_bytes())?;
            ensure!(found.is_none(), "plaintext in {found:?}");
        }
        Ok(())
    });
}

/// A put that is too long for one stream is one object all the same, and one that ends early is none.
#[test]
fn a_long_put_is_put_in_parts() {
    with_region(1, async |local| {
        let first = dataset(local).await?;
        let context = local.federation.region("ch-zrh")?.context(CLIENTS[0]);
        let tuning = Tuning {
            stream_bytes_max: 100_000,
            ..Tuning::default()
        };
        let region = Region::connect(&context, tuning).await?;
        let one = region.dataset(first.name()).await?;
        let at = key(KEY);
        let whole = body(1, 250_001);
        let options = PutOptions::default();
        let done = one.put(&at, whole.clone(), &options).await?;
        ensure!(done.bytes == 250_001, "{done:?}");
        ensure!(first.head(&at, None).await?.parts == 3);
        ensure!(read(&first, None).await? == whole);
        // Of a caller's tries of one put one has effect, though each began an upload of its own.
        let tried = PutOptions {
            invocation: Some(Invocation([7; 16])),
            ..PutOptions::default()
        };
        let once = one.put(&at, whole.clone(), &tried).await?;
        let again = one.put(&at, whole.clone(), &tried).await;
        let of_it = |error: &Error| matches!(error, Error::AlreadyDone { version } if *version == once.version);
        ensure!(again.as_ref().is_err_and(of_it), "{again:?}");
        ensure!(first.head(&at, None).await?.version == once.version);
        let short = Body::sized(std::io::Cursor::new(whole[..150_000].to_vec()), 250_001);
        let refused = one.put(&key("short"), short, &options).await;
        ensure!(
            refused.as_ref().err().map(Error::reason) == Some("body-too-short"),
            "{refused:?}"
        );
        let gone = one.head(&key("short"), None).await.err();
        ensure!(matches!(gone, Some(Error::NoSuchObject)), "{gone:?}");
        ensure!(
            one.list_uploads(&UploadsQuery::default())
                .await?
                .uploads
                .is_empty()
        );
        Ok(())
    });
}

/// Completes an upload of two parts whose bytes are all `round`.
async fn replace(dataset: &Dataset, round: u8) -> Result<()> {
    let upload = dataset
        .create_upload(&key(KEY), &PutOptions::default())
        .await?;
    let plain = vec![round; 20_000];
    let one = put_part(dataset, &upload, 1, &plain).await?;
    let two = put_part(dataset, &upload, 2, &plain).await?;
    let named = names(&[&one, &two]);
    let options = CompleteOptions::default();
    dataset.complete_upload(&upload, &named, &options).await?;
    Ok(())
}

/// P6. A key that always holds an object never looks empty, though each object that a reader finds is replaced before it
/// asks where the parts lie.
#[test]
fn a_reader_finds_an_object_that_is_replaced_all_the_time() {
    const ROUNDS: u8 = 120;
    with_region(1, async |local| {
        let first = dataset(local).await?;
        replace(&first, 0).await?;
        let (over, ended) = tokio::sync::watch::channel(false);
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let (dataset, ended) = (second(local, &first).await?, ended.clone());
            readers.spawn(async move {
                let mut reads = 0;
                while !*ended.borrow() {
                    let plain = read(&dataset, None).await.context("a read")?;
                    let whole = plain.len() == 40_000 && plain.iter().all(|byte| *byte == plain[0]);
                    ensure!(whole, "two objects in one");
                    reads += 1;
                }
                Ok(reads)
            });
        }
        for round in 1..=ROUNDS {
            replace(&first, round).await?;
        }
        over.send_replace(true);
        let mut reads = 0;
        while let Some(reader) = readers.join_next().await {
            reads += reader??;
        }
        ensure!(reads > 30, "{reads} reads are none");
        Ok(())
    });
}
