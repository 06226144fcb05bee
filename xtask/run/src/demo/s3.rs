//! What comes in by S3: every kind of data that a client gives away, each with a canary, stored and read at the gateway.
//!
//! Owns the canaries. Bodies, parts, metadata, tags, content type and checksums are sealed before they leave the gateway,
//! and the access key's secret never leaves the KMS but sealed: none of them may be found behind it.

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use client::ids::{Identity, Role};
use client::{NewAccessKey, Region};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use local::files::OPERATORS;
use local::s3::{Client, Credentials, Endpoint, Method, Request, Response, StatusCode};
use local::{Kind, Local, ceremony};
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};

use super::search::Needle;
use super::table::Table;

const REGION: &str = "ch-zrh";
const BUCKET: &str = "demo-s3";
/// In one Raft entry, in a block, in several blocks; larger than what a connection takes without being read.
const SIZES: [(&str, usize); 3] = [("small", 2_000), ("block", 300_000), ("large", 24 << 20)];
/// Of a part that is not the last.
const PART_BYTES: usize = 5 << 20;
const LAST_PART_BYTES: usize = 100_000;

/// What was stored by S3.
pub(crate) struct Stored {
    endpoint: Endpoint,
    key: NewAccessKey,
    canary: String,
    checksums: Vec<[u8; 32]>,
    large: Bytes,
}

/// Makes an access key, stores one of everything through the gateway, and reads it back.
pub(crate) async fn store(local: &Local, table: &mut Table) -> Result<Stored> {
    let region = local.federation.region(REGION)?;
    let gateway = region.living(Kind::Gateway).next().context("a gateway")?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let principal = Identity::new(region.region.clone(), Role::Service, "demo")?;
    let approvers = ceremony::approvers(region)?;
    let key = operator.create_access_key(&principal, &approvers).await?;
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    let canary = format!("s3canary-{}", hex::encode(id));
    let endpoint = Endpoint {
        address: gateway.endpoint.clone(),
        region: REGION.to_owned(),
        credentials: Credentials::new(key.secret.id().to_string(), key.secret.text().as_str()),
    };
    let mut s3 = Client::new(&endpoint, BUCKET)?;
    said(&mut s3, Request::new(Method::Put, "")).await?;

    let (mut checksums, mut large) = (Vec::new(), Bytes::new());
    for (name, bytes) in SIZES {
        let body = text(&canary, name, bytes);
        let sum: [u8; 32] = Sha256::digest(&body).into();
        checksums.push(sum);
        let put = described(Request::new(Method::Put, name), &canary)
            .header("x-amz-checksum-sha256", STANDARD.encode(sum))
            .body(body.clone());
        said(&mut s3, put).await?;
        equal(&mut s3, name, &body, &canary).await?;
        large = body;
    }
    let body = parts(&mut s3, &canary).await?;
    equal(&mut s3, "parts", &body, &canary).await?;
    let copy =
        Request::new(Method::Put, "copy").header("x-amz-copy-source", format!("/{BUCKET}/block"));
    said(&mut s3, copy).await?;
    equal(
        &mut s3,
        "copy",
        &text(&canary, "block", SIZES[1].1),
        &canary,
    )
    .await?;
    let listed = Request::new(Method::Get, "").query("list-type", "2");
    let listed = said(&mut s3, listed).await?;
    let keys = String::from_utf8_lossy(&listed).matches("<Key>").count();
    ensure!(keys == SIZES.len() + 2, "{keys} objects listed by S3");
    table.row(
        "by S3",
        format!("{keys} objects with canaries in bodies, parts, metadata, tags; read back equal"),
    );
    Ok(Stored {
        endpoint,
        key,
        canary,
        checksums,
        large,
    })
}

impl Stored {
    /// What must not be found behind the gateway.
    pub(crate) fn needles(&self) -> Result<Vec<Needle>> {
        let secret = self.key.secret.text();
        let raw = STANDARD
            .decode(secret.as_bytes())
            .context("a secret is 30 bytes in base64")?;
        let mut needles = vec![
            Needle::new("data given by S3", self.canary.as_bytes()),
            Needle::new("an access key's secret", secret.as_bytes()),
            Needle::new("the bytes of an access key's secret", &raw),
        ];
        for sum in &self.checksums {
            needles.push(Needle::new("a checksum", sum));
            needles.push(Needle::new("a checksum", STANDARD.encode(sum).as_bytes()));
            needles.push(Needle::new("a checksum", hex::encode(sum).as_bytes()));
        }
        Ok(needles)
    }

    /// A read under way: the gateway has opened what nobody has taken yet.
    pub(crate) async fn reading(&self) -> Result<Reading> {
        let mut s3 = Client::new(&self.endpoint, BUCKET)?;
        let mut answer = s3.ask(&Request::new(Method::Get, "large")).await?;
        let first = answer.frame().await.context("a first piece")??;
        let first = first.into_data().ok().context("bytes")?;
        ensure!(
            answer.status() == StatusCode::OK && self.large.starts_with(&first),
            "a read begins with other bytes"
        );
        let answer = answer
            .into_body()
            .map_err(anyhow::Error::from)
            .boxed_unsync();
        Ok(Reading { s3, answer })
    }

    /// Takes a backup of the region's keys, and says where it is.
    pub(crate) async fn back_up(&self, local: &Local) -> Result<std::path::PathBuf> {
        let region = local.federation.region(REGION)?;
        let operator: Region = ceremony::connect(region, OPERATORS[0]).await?;
        let out = local.federation.dir.join("kms.backup");
        let held = operator.backup_kms(&out, |_| {}).await?;
        ensure!(held.rows > 0, "a backup of nothing");
        Ok(out)
    }
}

/// A read that is under way for as long as this is held.
pub(crate) struct Reading {
    s3: Client,
    answer: UnsyncBoxBody<Bytes, anyhow::Error>,
}

impl Reading {
    /// Reads the rest, which is whole.
    pub(crate) async fn rest(mut self) -> Result<()> {
        while let Some(frame) = self.answer.frame().await {
            frame.context("the rest of a read")?;
        }
        self.s3.hang_up();
        Ok(())
    }
}

/// Two parts.
async fn parts(s3: &mut Client, canary: &str) -> Result<Bytes> {
    let begin = Request::new(Method::Post, "parts").query("uploads", "");
    let begun = said(s3, described(begin, canary)).await?;
    let begun = String::from_utf8_lossy(&begun).into_owned();
    let id = between(&begun, "<UploadId>", "</UploadId>").context("an upload id")?;
    let (mut named, mut whole) = (String::new(), Vec::new());
    for (number, bytes) in [(1, PART_BYTES), (2, LAST_PART_BYTES)] {
        let body = text(canary, &format!("part {number}"), bytes);
        whole.extend_from_slice(&body);
        let put = Request::new(Method::Put, "parts")
            .query("partNumber", number.to_string())
            .query("uploadId", id)
            .body(body);
        let answer = s3.ask(&put).await?;
        let etag = answer.headers().get("etag").context("a part's ETag")?;
        let etag = etag.to_str()?.to_owned();
        whole_of(answer).await?;
        named.push_str(&format!(
            "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        ));
    }
    let complete = Request::new(Method::Post, "parts")
        .query("uploadId", id)
        .body(format!(
            "<CompleteMultipartUpload>{named}</CompleteMultipartUpload>"
        ));
    let done = said(s3, complete).await?;
    let done = String::from_utf8_lossy(&done);
    ensure!(done.contains("<ETag>"), "not completed: {done}");
    Ok(whole.into())
}

/// A canary wherever a put or an upload has room for one.
fn described(request: Request, canary: &str) -> Request {
    request
        .header("content-type", format!("text/x-{canary}"))
        .header("content-disposition", format!("inline; filename={canary}"))
        .header("x-amz-meta-note", format!("{canary}-note"))
        .header(&format!("x-amz-meta-{canary}"), "a name")
        .header("x-amz-tagging", format!("{canary}=case&case={canary}-tag"))
}

/// The object is what was stored, its description included, whole and in a range.
async fn equal(s3: &mut Client, key: &str, body: &Bytes, canary: &str) -> Result<()> {
    let answer = s3.ask(&Request::new(Method::Get, key)).await?;
    let of = |name: &str| {
        answer
            .headers()
            .get(name)
            .and_then(|text| text.to_str().ok())
    };
    ensure!(
        of("content-type") == Some(&format!("text/x-{canary}"))
            && of("x-amz-meta-note") == Some(&format!("{canary}-note")),
        "{key} is described otherwise by S3"
    );
    ensure!(whole_of(answer).await? == body, "{key} differs by S3");
    let range = Request::new(Method::Get, key).header("range", "bytes=1000-1999");
    ensure!(
        said(s3, range).await? == body[1_000..2_000],
        "a range of {key} differs by S3"
    );
    let tags = said(s3, Request::new(Method::Get, key).query("tagging", "")).await?;
    let tags = String::from_utf8_lossy(&tags).into_owned();
    ensure!(tags.contains(&format!("{canary}-tag")), "the tags of {key}");
    Ok(())
}

/// So many bytes of lines with the canary in each.
fn text(canary: &str, what: &str, bytes: usize) -> Bytes {
    let line = format!("{what} of a customer: {canary}\n");
    let mut text = line.repeat(bytes.div_ceil(line.len())).into_bytes();
    text.truncate(bytes);
    text.into()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?
        .1
        .split_once(after)
        .map(|(found, _)| found)
}

async fn said(s3: &mut Client, request: Request) -> Result<Bytes> {
    let answer = s3.ask(&request).await?;
    whole_of(answer).await
}

async fn whole_of<B>(answer: Response<B>) -> Result<Bytes>
where
    B: BodyExt<Data = Bytes>,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("S3 says {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(body)
}
