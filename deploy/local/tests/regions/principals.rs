//! Access keys from end to end: made by people with the `reduit` command, used by a gateway on behalf of their principals.

use std::process::{Command, Output};
use std::time::Duration;

use crate::common::{binaries, key, region_as, with_region};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::{AccessKeyId, DatasetName, Identity, Role};
use client::{CreateOptions, ListOptions, PutOptions, Region, service_principal};
use local::files::{OPERATORS, make_identity};
use local::{Local, ceremony};
use proto::v1;
use transport::RegionCa;

const GATEWAY: &str = "gateway-1";
/// More than goes inline: in blocks, on streams of their own.
const LARGE: usize = 300_000;
/// How soon nodes learn who is enrolled, and a margin.
const LEARNT_IN: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(30);

/// The command, as one of the operators.
struct Reduit<'a>(&'a Local);

impl Reduit<'_> {
    fn run(&self, who: &str, words: &[&str]) -> Result<Output> {
        let folder = self.0.federation.dir.join("people");
        std::fs::create_dir_all(&folder)?;
        let region = self.0.federation.region("ch-zrh")?;
        let mut file = client::ContextFile::default();
        for name in OPERATORS {
            file.contexts.insert(name.to_owned(), region.context(name));
        }
        let contexts = folder.join("contexts.toml");
        file.save(&contexts)?;
        let mut command = Command::new(binaries().context("the binaries")?.join("reduit"));
        command.current_dir(&folder).env_clear();
        command.arg("--config").arg(&contexts);
        command.args(["--context", who]).args(words);
        Ok(command.output()?)
    }

    /// What it printed; it has to succeed.
    fn said(&self, who: &str, words: &[&str]) -> Result<String> {
        let output = self.run(who, words)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{who}: {words:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn json(&self, who: &str, words: &[&str]) -> Result<serde_json::Value> {
        let words = [words, &["--json"]].concat();
        Ok(serde_json::from_str(&self.said(who, &words)?)?)
    }

    /// What it complained of; it has to fail with this exit code.
    fn refused(&self, who: &str, words: &[&str], code: i32) -> Result<String> {
        let output = self.run(who, words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = output.status.code();
        ensure!(found == Some(code), "{who}: {words:?}: {found:?}: {errors}");
        Ok(errors)
    }

    /// Words that name two approvers' certificates and keys.
    fn approvers(&self) -> Result<Vec<String>> {
        let region = self.0.federation.region("ch-zrh")?;
        let words = OPERATORS[1..3].iter().flat_map(|name| {
            let (certificate, key) = region.identity_files(name);
            let shown = |path: std::path::PathBuf| path.display().to_string();
            [
                "--certificate".to_owned(),
                shown(certificate),
                "--key".to_owned(),
                shown(key),
            ]
        });
        Ok(words.collect())
    }
}

/// Enrols a gateway, and says what it and two principals may do: `backup` everything with data, `audit` list.
async fn with_a_gateway(local: &Local) -> Result<Region> {
    use v1::Action::{Create, List, Read, Write};
    let entry = local.federation.region("ch-zrh")?;
    let ca = RegionCa::load(
        entry.region.clone(),
        &entry.dir.join("ca.pem"),
        &entry.dir.join("ca.key"),
    )?;
    let enrolment = make_identity(entry, &ca, Role::Gateway, GATEWAY)?;
    let operator = ceremony::connect(entry, OPERATORS[0]).await?;
    let approvers = ceremony::approvers(entry)?;
    operator
        .change_enrolment(vec![enrolment], Vec::new(), &approvers)
        .await?;
    let grant = |principal: String, actions: &[v1::Action]| v1::Grant {
        principal,
        dataset: "*".to_owned(),
        actions: actions.iter().map(|action| i32::from(*action)).collect(),
        purposes: vec!["service".to_owned()],
    };
    let all = [Create, List, Read, Write];
    let of = |name| service_principal(&operator, name).map(|principal| principal.to_string());
    let grants = vec![
        grant("role:gateway".to_owned(), &all),
        grant(of("backup")?, &all),
        grant(of("audit")?, &[List]),
    ];
    operator
        .change_grants(grants, Vec::new(), &approvers)
        .await?;
    ceremony::until("the gateway is known", async || {
        region_as(local, GATEWAY, PATIENCE).await.map(drop)
    })
    .await?;
    region_as(local, GATEWAY, PATIENCE).await
}

#[test]
fn an_access_key_is_made_by_people_and_its_principal_served_by_a_gateway() {
    with_region(3, async |local| {
        let gateway = with_a_gateway(local).await?;
        let reduit = Reduit(local);
        let backup = made_with_approvers_at_hand(&reduit, &gateway).await?;
        let audit = made_with_files(&reduit, &gateway).await?;
        both_may_or_nobody_does(&gateway, &backup.1, &audit.1).await?;
        disabled_enabled_and_deleted(&reduit, &gateway, &backup).await
    });
}

/// The access key and whom it acts for.
type Made = (AccessKeyId, Identity);

async fn made_with_approvers_at_hand(reduit: &Reduit<'_>, gateway: &Region) -> Result<Made> {
    let create = ["access-key", "create", "--principal", "backup"];
    let alone = reduit.refused("op-1", &create, 5)?;
    ensure!(alone.contains("approve"), "{alone}");
    let approvers = reduit.approvers()?;
    let words: Vec<&str> = create
        .into_iter()
        .chain(approvers.iter().map(String::as_str))
        .collect();
    let made = reduit.json("op-1", &words)?;
    let text = |field: &str| made[field].as_str().unwrap_or_default().to_owned();
    let id: AccessKeyId = text("access_key").parse()?;
    let secret = text("secret");
    ensure!(secret.len() == 40, "{made}");
    ensure!(
        text("principal") == "spiffe://ch-zrh/service/backup",
        "{made}"
    );
    let given = gateway.access_secret(&id).await?;
    ensure!(*given.secret.text() == secret, "the secret that was shown");
    ensure!(given.is_usable() && given.principal.to_string() == text("principal"));
    let listed = reduit.json("op-2", &["access-key", "ls"])?;
    ensure!(listed["access_keys"][0]["created_by"] == "spiffe://ch-zrh/operator/op-1");
    ensure!(!listed.to_string().contains(&secret), "shown once");
    Ok((id, given.principal))
}

async fn made_with_files(reduit: &Reduit<'_>, gateway: &Region) -> Result<Made> {
    let ask = ["approve", "access-key", "audit", "-o", "audit.request"];
    reduit.said("op-1", &ask)?;
    let shown = reduit.said("op-2", &["approve", "show", "audit.request"])?;
    ensure!(shown.contains("spiffe://ch-zrh/service/audit"), "{shown}");
    for who in ["op-2", "op-3"] {
        let approval = format!("audit.{who}");
        let sign = ["approve", "sign", "audit.request", "-o", &approval];
        reduit.said(who, &sign)?;
    }
    let create = [
        "access-key",
        "create",
        "--request",
        "audit.request",
        "--approval",
        "audit.op-2",
        "--approval",
        "audit.op-3",
    ];
    // Approved for the first operator: nobody else is shown the secret.
    let other = reduit.refused("op-2", &create, 5)?;
    ensure!(other.contains("another request"), "{other}");
    let words = reduit.said("op-1", &create)?;
    let word = |name: &str| {
        let line = words.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().last())
            .map(str::to_owned)
            .with_context(|| words.clone())
    };
    let id: AccessKeyId = {
        let line = words.lines().next().unwrap_or_default();
        line.trim_start_matches("access key").trim().parse()?
    };
    // The answer was lost, say: the same secret again.
    let again = reduit.said("op-1", &create)?;
    ensure!(again == words, "{again}");
    let given = gateway.access_secret(&id).await?;
    ensure!(*given.secret.text() == word("secret")?);
    Ok((id, given.principal))
}

async fn both_may_or_nobody_does(
    gateway: &Region,
    backup: &Identity,
    audit: &Identity,
) -> Result<()> {
    let for_backup = gateway.on_behalf_of(backup);
    let name: DatasetName = "nightly".parse()?;
    let dataset = for_backup
        .create_dataset(&name, &CreateOptions::default())
        .await?;
    let large = Bytes::from(vec![7; LARGE]);
    let plain = PutOptions::default();
    for (name, body) in [
        ("small", Bytes::from_static(b"small")),
        ("large", large.clone()),
    ] {
        dataset.put(&key(name), body.clone(), &plain).await?;
        ensure!(dataset.get_bytes(&key(name)).await? == body, "{name}");
    }
    let listed = dataset.list(&ListOptions::default()).await?;
    ensure!(listed.objects.len() == 2, "{listed:?}");

    // May list, and nothing else; the gateway may all of it.
    let for_audit = gateway.on_behalf_of(audit);
    let dataset = for_audit.dataset(&name).await?;
    let listed = dataset.list(&ListOptions::default()).await?;
    ensure!(listed.objects.len() == 2, "{listed:?}");
    let denied = |what: &str, reason: &str| {
        let known = ["not-granted", "principal-not-allowed"];
        ensure!(known.contains(&reason), "{what}: {reason}");
        Ok(())
    };
    for object in ["small", "large"] {
        let error = dataset.get_bytes(&key(object)).await.expect_err("denied");
        denied(object, error.reason())?;
    }
    for (what, body) in [("put", Bytes::from_static(b"x")), ("large put", large)] {
        let put = dataset.put(&key("more"), body, &plain).await;
        denied(what, put.expect_err("denied").reason())?;
    }
    let any = client::Precondition::Any;
    let deleted = dataset.delete(&key("small"), None, any).await;
    denied("delete", deleted.expect_err("denied").reason())?;
    let (other, options): (DatasetName, _) = ("another".parse()?, CreateOptions::default());
    let created = for_audit.create_dataset(&other, &options).await;
    let error = created.map(drop).expect_err("denied");
    denied("create", error.reason())?;
    let dropped = for_audit.delete_dataset(&name, true).await;
    denied("drop", dropped.expect_err("denied").reason())
}

async fn disabled_enabled_and_deleted(
    reduit: &Reduit<'_>,
    gateway: &Region,
    (id, principal): &Made,
) -> Result<()> {
    let text = id.to_string();
    let early = reduit.refused("op-2", &["access-key", "rm", &text], 4)?;
    ensure!(early.contains("enabled"), "{early}");
    let record = reduit.json("op-2", &["access-key", "disable", &text])?;
    ensure!(
        record["state"] == "disabled" && record["given_until"].is_string(),
        "{record}"
    );
    let given = gateway.access_secret(id).await.map(drop);
    ensure!(given.expect_err("disabled").reason() == "no-such-access-key");
    let name: DatasetName = "nightly".parse()?;
    let for_backup = gateway.on_behalf_of(principal);
    // The KMS at once.
    let dataset = gateway.dataset(&name).await?;
    let options = client::GetOptions {
        on_behalf_of: principal.to_string(),
        ..client::GetOptions::default()
    };
    ensure!(dataset.get(&key("small"), &options).await.is_err());
    // Nodes within seconds.
    let out = ceremony::until("nodes learn that the principal is out", async || {
        let found = for_backup.dataset(&name).await;
        ensure!(found.is_err(), "it is served still");
        Ok(())
    });
    tokio::time::timeout(LEARNT_IN, out).await??;
    dataset.get_bytes(&key("small")).await?;

    let approvers = reduit.approvers()?;
    let enable = ["access-key", "enable", &text];
    reduit.refused("op-1", &enable, 5)?;
    let words: Vec<&str> = enable
        .into_iter()
        .chain(approvers.iter().map(String::as_str))
        .collect();
    let enabled = reduit.said("op-1", &words)?;
    ensure!(enabled.contains("enabled"), "{enabled}");
    gateway.access_secret(id).await?;
    reduit.said("op-3", &["access-key", "disable", &text])?;
    reduit.said("op-3", &["access-key", "rm", &text])?;
    let listed = reduit.json("op-1", &["access-key", "ls"])?;
    ensure!(
        !listed["access_keys"].to_string().contains(&text),
        "{listed}"
    );
    let gone = reduit.refused("op-3", &["access-key", "rm", &text], 3)?;
    ensure!(gone.contains(&text), "{gone}");
    Ok(())
}
