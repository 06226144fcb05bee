//! What is in a dataset that moves, and all that clients see of it.

use anyhow::{Result, ensure};
use bytes::Bytes;
use client::ids::UnixMs;
use client::{CreateOptions, Dataset, Precondition, PutOptions, Region, Retention, RetentionMode};
use http_body_util::BodyExt as _;
use local::Local;
use local::files::now;
use local::s3::{Client, Credentials, Endpoint, Method, Request, StatusCode};
use proto::v1::{ConfigKind, Lifecycle, LifecycleRule};

use crate::common::content::{Seen, described, put_in_parts, versions_seen};
use crate::common::key;
use crate::common::s3::{access_key_in, gateway_in};

const HOUR_MS: u64 = 3_600_000;
/// What nobody writes to while it moves.
pub(crate) const KEPT: &str = "kept/";
const BY_S3: &str = "kept/s3";
const BY_S3_BODY: &str = "what came by S3";

/// A dataset of that name with everything that one can hold.
pub(crate) async fn fill(region: &Region, name: &str) -> Result<Dataset> {
    let options = CreateOptions { versioning: true };
    let dataset = region.create_dataset(&name.parse()?, &options).await?;
    dataset.set_object_lock(None).await?;
    versions_and_sizes(&dataset).await?;
    put_in_parts(&dataset, "kept/parts").await?;
    locked(&dataset).await?;
    settings(&dataset).await?;
    Ok(dataset)
}

async fn versions_and_sizes(dataset: &Dataset) -> Result<()> {
    let put = async |name: &str, body: Vec<u8>| dataset.put(&key(name), body, &described()).await;
    // The first of all is more than a batch has of others.
    put("kept/a-first", vec![9; 65 << 20]).await?;
    for n in 0..5_u8 {
        put("kept/gate", vec![n; 100]).await?;
        if n == 2 {
            let at = key("kept/gate");
            dataset.delete(&at, None, Precondition::Any).await?;
        }
    }
    for n in 0..40_u8 {
        put(&format!("kept/many/{n:03}"), vec![n; 3_000]).await?;
    }
    for length in [0, 1, 300_000, 9 << 20, 20 << 20] {
        put(&format!("kept/sized/{length}"), vec![7; length]).await?;
    }
    put("kept/gone", b"gone".to_vec()).await?;
    let at = key("kept/gone");
    let gone = dataset.delete(&at, None, Precondition::Any).await?;
    ensure!(gone.marker.is_some(), "a marker covers it");
    Ok(())
}

async fn locked(dataset: &Dataset) -> Result<()> {
    let retention = Retention {
        mode: RetentionMode::Compliance,
        until: UnixMs(now().0 + HOUR_MS),
    };
    let options = PutOptions {
        retention: Some(retention),
        ..described()
    };
    dataset
        .put(&key("kept/retained"), "stays an hour", &options)
        .await?;
    let at = key("kept/held");
    let held = dataset.put(&at, "stays", &described()).await?;
    dataset.set_legal_hold(&at, held.version, true).await?;
    dataset.delete(&at, None, Precondition::Any).await?;
    Ok(())
}

async fn settings(dataset: &Dataset) -> Result<()> {
    let tags = [("desk".to_owned(), "south".to_owned())].into();
    dataset.set_tags(&key("kept/sized/1"), None, &tags).await?;
    dataset
        .set_dataset_tags(&[("owner".to_owned(), "watch".to_owned())])
        .await?;
    let rule = LifecycleRule {
        id: "old".to_owned(),
        prefix: "kept/many/".to_owned(),
        noncurrent_days: 3_000,
        enabled: true,
        ..LifecycleRule::default()
    };
    let rules = Lifecycle { rules: vec![rule] };
    Ok(dataset.set_lifecycle(&rules).await?)
}

/// All that clients see of what is below a prefix, and the settings.
pub(crate) async fn seen(dataset: &Dataset, prefix: &str) -> Result<Vec<Seen>> {
    let mut seen = Vec::new();
    for kind in [ConfigKind::Lifecycle, ConfigKind::Tagging, ConfigKind::Cors] {
        let setting = dataset.setting(kind).await?;
        seen.push((format!("{kind:?} {:?}", setting.content), Bytes::new()));
    }
    seen.extend(versions_seen(dataset, prefix).await?);
    Ok(seen)
}

/// A bucket at a region's gateway, as a service of it sees it.
pub(crate) struct S3 {
    client: Client,
}

impl S3 {
    pub(crate) async fn of(local: &Local, region: &str, bucket: &str) -> Result<Self> {
        let key = access_key_in(local, region, "session").await?;
        let (id, secret) = (key.secret.id().to_string(), key.secret.text());
        let endpoint = Endpoint {
            address: gateway_in(local, region)?.endpoint,
            region: region.to_owned(),
            credentials: Credentials::new(id, secret.as_str()),
        };
        let client = Client::new(&endpoint, bucket)?;
        Ok(Self { client })
    }

    async fn ask(&mut self, request: &Request) -> Result<(StatusCode, Bytes)> {
        self.client.hang_up();
        let answer = self.client.ask(request).await?;
        let status = answer.status();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    pub(crate) async fn put_kept(&mut self) -> Result<()> {
        let put = Request::new(Method::Put, BY_S3).body(BY_S3_BODY);
        let (status, said) = self.ask(&put).await?;
        ensure!(status == StatusCode::OK, "{status}: {said:?}");
        Ok(())
    }

    pub(crate) async fn still_has_it(&mut self) -> Result<()> {
        let (status, body) = self.ask(&Request::new(Method::Get, BY_S3)).await?;
        ensure!(status == StatusCode::OK, "{status}: {body:?}");
        ensure!(body == BY_S3_BODY, "{body:?}");
        Ok(())
    }

    pub(crate) async fn says_it_is_elsewhere(&mut self) -> Result<()> {
        let (status, said) = self.ask(&Request::new(Method::Get, BY_S3)).await?;
        ensure!(
            status == StatusCode::MOVED_PERMANENTLY,
            "{status}: {said:?}"
        );
        Ok(())
    }
}
