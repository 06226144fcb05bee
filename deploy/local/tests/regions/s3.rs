//! S3 in front of a real region: what boto3 makes of it.
//!
//! The region's own gateway serves, and the access key is one that its operators made. Python with boto3 is
//! `REDUIT_S3_PYTHON`, which `cargo xtask test` sets; without it, or without the daemons, the tests say that they skip.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use client::NewAccessKey;
use client::ids::{Identity, ObjectKey, Role};
use local::files::{CLIENTS, OPERATORS};
use local::launch::{ask, http};
use local::{Local, ceremony};
use proto::v1;

use crate::common::s3::{access_key, gateway_of, session};
use crate::common::{contains, region_as, with_plan};

/// Who is at the other end of the session.
const PRINCIPAL: &str = "session";
/// Who passes over what keeps versions.
const KEEPER: &str = "keeper";

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("REDUIT_S3_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: REDUIT_S3_PYTHON names no Python with boto3");
    }
    python
}

/// An access key of a service that may change keys, through gateways.
async fn keepers_key(local: &Local) -> Result<NewAccessKey> {
    let region = local.federation.region("ch-zrh")?;
    let keeper = Identity::new(region.region.clone(), Role::Service, KEEPER)?;
    let grant = |principal: String| v1::Grant {
        principal,
        dataset: "*".to_owned(),
        actions: vec![v1::Action::Keys.into()],
        purposes: Vec::new(),
    };
    let grants = vec![grant("role:gateway".to_owned()), grant(keeper.to_string())];
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let approvers = ceremony::approvers(region)?;
    operator
        .change_grants(grants, Vec::new(), &approvers)
        .await?;
    access_key(local, KEEPER).await
}

/// A script of the folder `s3`.
fn script(python: &Path, name: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3");
    let mut command = Command::new(python);
    command
        .arg("-u")
        .arg(folder.join(name))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("AWS_PROFILE")
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY");
    command
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
        let key = access_key(local, PRINCIPAL).await?;
        let said = session(script(&python, "session.py"), local, &key).await?;
        print!("{said}");
        let keepers = keepers_key(local).await?;
        session(script(&python, "keeper.py"), local, &keepers).await?;
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
