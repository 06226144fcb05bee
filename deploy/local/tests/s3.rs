//! S3 in front of a real region: what boto3 makes of it.
//!
//! The gateway that ships takes access keys from the region's KMS alone. Here it runs in this process, under the
//! identity of the region's own gateway, with a table of its own: that is what is exchanged, and nothing else.
//! Python with boto3 is `REDUIT_S3_PYTHON`, which `cargo xtask test` sets; without it, or without the daemons, the tests
//! say that they skip.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use client::ids::ObjectKey;
use gateway::access::{AccessError, AccessGrant, AccessKeys};
use gateway::{Config, Gateway};
use local::files::CLIENTS;
use local::launch::{ask, http};
use local::{Kind, Local, Service};
use zeroize::Zeroizing;

mod common;

use common::{contains, region_as, with_plan};

const ACCESS_KEY: &str = "RDTEST00000000000001";
const SECRET: &str = "a-secret-of-this-test-alone-0123456789ab";
const PRINCIPAL: &str = "spiffe://ch-zrh/service/session";

/// Access keys of this test.
struct Table;

#[async_trait::async_trait]
impl AccessKeys for Table {
    async fn grant(&self, id: &str) -> Result<AccessGrant, AccessError> {
        if id != ACCESS_KEY {
            return Err(AccessError::Unknown);
        }
        Ok(AccessGrant {
            secret: Zeroizing::new(SECRET.to_owned()),
            principal: PRINCIPAL.to_owned(),
            valid_for: Duration::from_secs(3_600),
        })
    }
}

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

/// The region's gateway exchanged for one with the test's access keys, at the same ports.
async fn exchanged(local: &mut Local) -> Result<(Gateway, Service)> {
    let service = gateway_of(local)?;
    local.kill(&service.name)?;
    let config = Config::load(&service.config)?;
    let gateway = Gateway::start(config, Box::new(|_| Arc::new(Table)), None).await?;
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while !matches!(http(&service.health, "/readyz"), Ok((200, _))) {
        ensure!(std::time::Instant::now() < end, "it is not ready in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok((gateway, service))
}

/// Runs a script against a gateway, outside of this process's runtime.
async fn run(python: PathBuf, script: &str, service: &Service, ca: &Path) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/s3")
        .join(script);
    let mut command = Command::new(python);
    command
        .arg("-u")
        .arg(script)
        .env("S3_HTTP", format!("http://{}", service.endpoint))
        .env("S3_HTTPS", format!("https://{}", service.https))
        .env("S3_CA", ca)
        .env("S3_REGION", "ch-zrh")
        .env("S3_ACCESS_KEY", ACCESS_KEY)
        .env("S3_SECRET", SECRET)
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
        // What ships: it is up, and nobody it does not know gets in.
        ensure!(ask(&service).ready, "the gateway is not ready");
        let (status, body) = http(&service.endpoint, "/")?;
        ensure!(
            status == 403 && body.contains("<Code>AccessDenied</Code>"),
            "an unsigned request: {status} {body}"
        );
        let ca = local.federation.region("ch-zrh")?.dir.join("ca.pem");
        let (gateway, service) = exchanged(local).await?;
        let said = run(python, "session.py", &service, &ca).await?;
        print!("{said}");
        ensure!(said.contains("all passed"), "the session broke off");

        // What S3 stored, the SDK reads: one format.
        let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
        let kept = region.dataset(&"s3-kept".parse()?).await?;
        let key: ObjectKey = "described".parse()?;
        let info = kept.head(&key, None).await?;
        ensure!(
            info.metadata.content_type == "text/x-canary"
                && info.metadata.user.get("note").map(String::as_str) == Some("S3-CANARY-metadata")
                && info.metadata.checksums.contains_key("SHA256"),
            "what was sealed with it: {:?}",
            info.metadata
        );
        ensure!(
            kept.get_bytes(&key).await?[..] == *b"S3-CANARY-content".repeat(1_000),
            "its bytes"
        );
        gateway.stop().await;
        local.down()?;
        for service in local.services() {
            for place in [&service.data, &service.log] {
                let found = contains(place, b"S3-CANARY")?;
                ensure!(found.is_none(), "plaintext in {found:?}");
            }
        }
        Ok(())
    });
}
