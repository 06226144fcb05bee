//! S3 in front of a real region: what boto3 makes of it.
//!
//! The region's own gateway serves, and the access key is one that its operators made. Python with boto3 is
//! `REDUIT_S3_PYTHON`, which `cargo xtask test` sets; without it, or without the daemons, the tests say that they skip.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use client::NewAccessKey;
use client::ids::{Identity, ObjectKey, Role};
use local::files::{CLIENTS, OPERATORS};
use local::launch::{ask, http};
use local::{Kind, Local, Service, ceremony};

mod common;

use common::{contains, region_as, with_plan};

/// Who is at the other end of the session.
const PRINCIPAL: &str = "session";

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("REDUIT_S3_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: REDUIT_S3_PYTHON names no Python with boto3");
    }
    python
}

fn gateway_of(local: &Local) -> Result<Service> {
    let region = local.federation.region("ch-zrh")?;
    let gateway = region.living(Kind::Gateway).next();
    gateway.cloned().context("a gateway")
}

/// An access key, made by one operator and approved by two.
async fn access_key(local: &Local) -> Result<NewAccessKey> {
    let region = local.federation.region("ch-zrh")?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let principal = Identity::new(region.region.clone(), Role::Service, PRINCIPAL)?;
    let approvers = ceremony::approvers(region)?;
    Ok(operator.create_access_key(&principal, &approvers).await?)
}

/// Runs a script against a gateway, outside of this process's runtime.
async fn run(python: PathBuf, script: &str, local: &Local, key: &NewAccessKey) -> Result<String> {
    let (service, region) = (gateway_of(local)?, local.federation.region("ch-zrh")?);
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/s3")
        .join(script);
    let mut command = Command::new(python);
    command
        .arg("-u")
        .arg(script)
        .env("S3_HTTP", format!("http://{}", service.endpoint))
        .env("S3_HTTPS", format!("https://{}", service.https))
        .env("S3_CA", region.dir.join("ca.pem"))
        .env("S3_REGION", "ch-zrh")
        .env("S3_ACCESS_KEY", key.secret.id().to_string())
        .env("S3_SECRET", key.secret.text().as_str())
        .env_remove("AWS_PROFILE")
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY")
        .env("NO_PROXY", "*")
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "the session ended with {}:\n{said}\n{complained}",
        output.status
    );
    Ok(said)
}

/// Every operation that docs/S3.md lists, its errors by S3's own codes, and that nothing of it is on a node's disk.
#[test]
fn a_session_of_boto3_finds_what_s3_promises() {
    let Some(python) = python() else { return };
    with_plan(&[("ch-zrh", "CH", 1)], 1, async |local| {
        let service = gateway_of(local)?;
        ensure!(ask(&service).ready, "the gateway is not ready");
        let (status, body) = http(&service.endpoint, "/")?;
        ensure!(
            status == 403 && body.contains("<Code>AccessDenied</Code>"),
            "an unsigned request: {status} {body}"
        );
        let key = access_key(local).await?;
        let said = run(python, "session.py", local, &key).await?;
        print!("{said}");
        ensure!(said.contains("all passed"), "the session broke off");
        let (_, metrics) = http(&service.health, "/metrics")?;
        ensure!(
            metrics.contains(r#"reduit_s3_requests_total{operation="PutObject",status="200"}"#),
            "no count of what was put"
        );

        // What S3 stored, the SDK reads: one format.
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        let kept = region.dataset(&"s3-kept".parse()?).await?;
        let described: ObjectKey = "described".parse()?;
        let info = kept.head(&described, None).await?;
        ensure!(
            info.metadata.content_type == "text/x-canary"
                && info.metadata.user.get("note").map(String::as_str) == Some("S3-CANARY-metadata")
                && info.metadata.checksums.contains_key("SHA256"),
            "what was sealed with it: {:?}",
            info.metadata
        );
        ensure!(
            kept.get_bytes(&described).await?[..] == *b"S3-CANARY-content".repeat(1_000),
            "its bytes"
        );
        local.down()?;
        let secret = key.secret.text();
        for service in local.services() {
            for place in [&service.data, &service.log] {
                for canary in ["S3-CANARY", secret.as_str()] {
                    let found = contains(place, canary.as_bytes())?;
                    ensure!(found.is_none(), "plaintext in {found:?}");
                }
            }
            let named = contains(&service.log, b"s3-kept")?;
            ensure!(named.is_none(), "a bucket's name in {named:?}");
        }
        Ok(())
    });
}
