//! S3 clients at a region's gateway: the access keys they sign with, and what they are told of the region.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use client::NewAccessKey;
use client::ids::{Identity, Role};
use local::files::OPERATORS;
use local::{Kind, Local, Service, ceremony};

/// A gateway of `ch-zrh`.
pub(crate) fn gateway_of(local: &Local) -> Result<Service> {
    gateway_in(local, "ch-zrh")
}

/// A gateway of a region.
pub(crate) fn gateway_in(local: &Local, region: &str) -> Result<Service> {
    let region = local.federation.region(region)?;
    let gateway = region.living(Kind::Gateway).next();
    gateway.cloned().context("a gateway")
}

/// An access key of a service, made by one operator and approved by two.
pub(crate) async fn access_key(local: &Local, service: &str) -> Result<NewAccessKey> {
    access_key_in(local, "ch-zrh", service).await
}

/// The same in a region.
pub(crate) async fn access_key_in(
    local: &Local,
    region: &str,
    service: &str,
) -> Result<NewAccessKey> {
    let region = local.federation.region(region)?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let principal = Identity::new(region.region.clone(), Role::Service, service)?;
    let approvers = ceremony::approvers(region)?;
    Ok(operator.create_access_key(&principal, &approvers).await?)
}

/// Runs a client's session against a gateway, outside of this process's runtime, and says what it printed. It has to
/// succeed.
pub(crate) async fn session(
    mut command: Command,
    local: &Local,
    key: &NewAccessKey,
) -> Result<String> {
    let (service, region) = (gateway_of(local)?, local.federation.region("ch-zrh")?);
    command
        .env("S3_HTTP", format!("http://{}", service.endpoint))
        .env("S3_HTTPS", format!("https://{}", service.https))
        .env("S3_CA", region.dir.join("ca.pem"))
        .env("S3_REGION", "ch-zrh")
        .env("S3_ACCESS_KEY", key.secret.id().to_string())
        .env("S3_SECRET", key.secret.text().as_str())
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
    ensure!(said.contains("all passed"), "the session broke off: {said}");
    Ok(said)
}
