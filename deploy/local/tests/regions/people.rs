//! What people do with the `reduit` command: a policy text approved by files, an object opened for an investigation, the
//! versions of a key from plan to end, and a dataset resealed whose key is compromised.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::common::reduit::Reduit;
use crate::common::{dataset, key, with_region};
use anyhow::{Context as _, Result, ensure};
use client::{
    CompleteOptions, CreateOptions, Dataset, OutsideWitness, PartOptions, PutOptions, RESEALED_FROM,
};
use local::files::{AUDITOR, CLIENTS, OPERATORS};
use local::{Local, ceremony};
use transport::SystemClock;
use witness::{Algorithm, Config, Witness};

const BODY: &str = "who was on call that night";

/// Clients work for the service, auditors open for one case, operators see to keys.
const TEXT: &str = r#"
@id("clients")
permit (principal in Role::"client", action in [Action::"create", Action::"list", Action::"read", Action::"write"], resource)
when { context.purpose == "service" };

@id("operators")
permit (principal in Role::"operator", action == Action::"keys", resource)
when { context.purpose == "service" };

@id("case-17")
permit (principal == Identity::"spiffe://ch-zrh/auditor/auditor-1", action == Action::"read", resource)
when { context.purpose == "investigation" && context has case && context.case == "2026-17" };
"#;

/// The witness of another organisation, in this process.
async fn witness(local: &Local) -> Result<Witness> {
    let region = local.federation.region("ch-zrh")?;
    let folder = local.federation.dir.join("witness");
    std::fs::create_dir_all(&folder)?;
    let key = folder.join("w1.key");
    let name = "witness.example/w1".parse()?;
    let vkey = witness::generate(&name, Algorithm::Ed25519, &key)?;
    let operator = ceremony::connect(region, OPERATORS[0]).await?;
    let log = operator.log_keys().await?.log.context("a log key")?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let text = format!(
        "state_dir = {folder:?}\nkeys = [{key:?}]\nlisten = \"{listen}\"\n\
         [[logs]]\norigin = \"ch-zrh/main/1\"\nkeys = [\"{log}\"]\n"
    );
    let config: Config = toml::from_str(&text)?;
    let running = Witness::start(&config, SystemClock::shared()).await?;
    let outside = OutsideWitness {
        vkey: vkey.to_string(),
        url: format!("http://{}", running.address()),
    };
    ceremony::until("a first checkpoint", async || {
        let day = Duration::from_secs(24 * 3600);
        ceremony::witnessed_by(region, std::slice::from_ref(&outside), 1, day).await
    })
    .await?;
    Ok(running)
}

#[test]
fn a_policy_is_set_and_an_object_opened_by_people_who_approve_in_files() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        std::fs::write(reduit.folder.join("report.txt"), BODY)?;
        reduit.said("app-1", &["dataset", "create", "cti"])?;
        reduit.said("app-1", &["put", "report.txt", "cti/report.txt"])?;
        let witness = witness(local).await?;
        the_text_is_approved_and_set(&reduit).await?;
        an_object_is_opened_for_the_case(&reduit).await?;
        witness.stop().await;
        Ok(())
    });
}

async fn the_text_is_approved_and_set(reduit: &Reduit) -> Result<()> {
    let shown = reduit.said("op-1", &["policy", "show"])?;
    ensure!(shown.contains("grant-0"), "made of the grants: {shown}");
    std::fs::write(reduit.folder.join("region.cedar"), TEXT)?;
    reduit.said("op-1", &["policy", "check", "region.cedar"])?;
    let ask = ["approve", "policy", "region.cedar", "-o", "text.request"];
    reduit.said("op-1", &ask)?;
    let own = ["approve", "sign", "text.request", "-o", "text.op-1"];
    let why = reduit.refused("op-1", &own, 1)?;
    ensure!(why.contains("nobody approves what they asked for"), "{why}");
    for who in ["op-2", "op-3"] {
        let output = format!("text.{who}");
        let signed = reduit.said(who, &["approve", "sign", "text.request", "-o", &output])?;
        ensure!(signed.contains("case-17"), "it shows the text: {signed}");
    }
    let mut set = vec!["policy", "set", "--request", "text.request"];
    set.extend(["--approval", "text.op-2", "--approval", "text.op-3"]);
    let one = &set[..6];
    let why = reduit.refused("op-1", one, 5)?;
    ensure!(why.contains("2 are needed"), "{why}");
    let done = reduit.said("op-1", &set)?;
    ensure!(done.contains("policy in force"), "{done}");
    let why = reduit.refused("op-1", &set, 5)?;
    ensure!(why.contains("used before"), "once: {why}");
    let shown = reduit.said("op-1", &["policy", "show"])?;
    ensure!(shown.trim() == TEXT.trim(), "{shown}");
    let got = reduit.said("app-1", &["get", "cti/report.txt", "-"])?;
    ensure!(got == BODY, "{got}");
    Ok(())
}

async fn an_object_is_opened_for_the_case(reduit: &Reduit) -> Result<()> {
    let object = "cti/report.txt";
    let mut ask = vec!["approve", "ask", object, "--purpose", "investigation"];
    ask.extend([
        "--case",
        "2026-17",
        "--legal-basis",
        "warrant 9",
        "-o",
        "7.request",
    ]);
    let other: Vec<_> = ask
        .iter()
        .map(|word| if *word == "2026-17" { "2026-18" } else { *word })
        .collect();
    // Nodes learn the text within seconds; until then the grants let auditors list.
    ceremony::until("another case is refused", async || {
        reduit.refused(AUDITOR, &other, 3)
    })
    .await?;
    reduit.said(AUDITOR, &ask)?;
    let mut get = vec!["get", object, "-", "--purpose", "investigation"];
    get.extend(["--case", "2026-17"]);
    let why = reduit.refused(AUDITOR, &get, 5)?;
    ensure!(why.contains("reduit approve ask"), "{why}");
    let shown = reduit.said("op-2", &["approve", "show", "7.request"])?;
    for word in [object, "investigation", "2026-17", "warrant 9", "auditor-1"] {
        ensure!(shown.contains(word), "{word}: {shown}");
    }
    for who in ["op-2", "op-3"] {
        let output = format!("7.{who}");
        reduit.said(who, &["approve", "sign", "7.request", "-o", &output])?;
    }
    let mut open = vec!["approve", "open", "7.request", "--approval", "7.op-2"];
    let mut alone = open.clone();
    alone.push("-");
    let why = reduit.refused(AUDITOR, &alone, 5)?;
    ensure!(why.contains("1 distinct approvers are not enough"), "{why}");
    open.extend(["--approval", "7.op-3", "opened.txt"]);
    let said = reduit.said(AUDITOR, &open)?;
    ensure!(said.contains("recorded as leaf"), "{said}");
    let opened = std::fs::read_to_string(Path::new(&reduit.folder).join("opened.txt"))?;
    ensure!(opened == BODY, "{opened}");
    Ok(())
}

#[test]
fn a_key_is_rotated_by_plan_and_demand_rewrapped_and_its_old_version_ended() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        let dataset = dataset(local).await?;
        dataset.put(&key("a"), BODY, &PutOptions::default()).await?;
        let operator = |words: &str| {
            let words: Vec<_> = words.split_whitespace().collect();
            reduit.said(OPERATORS[0], &words)
        };
        let refused = |words: &str, code| {
            let words: Vec<_> = words.split_whitespace().collect();
            reduit.refused(OPERATORS[0], &words, code)
        };
        refused("key plan test --max-uses 10", 2)?;
        let said = operator("key plan test --max-age-days 90 --max-uses 1000000")?;
        ensure!(
            said.contains("rotated every 90 days or 1000000 uses (0 so far)"),
            "{said}"
        );
        let said = operator("key rotate test")?;
        ensure!(said.contains("enabled, version 2"), "{said}");

        let region = local.federation.region("ch-zrh")?;
        let approval = |name| {
            let (certificate, key) = region.identity_files(name);
            format!(
                "--certificate {} --key {}",
                certificate.display(),
                key.display()
            )
        };
        let (b, c) = (approval(OPERATORS[1]), approval(OPERATORS[2]));
        let said = refused(&format!("key end-versions test {b} {c}"), 1)?;
        ensure!(said.contains("takes commits from version 1 on"), "{said}");
        let said = operator("key rewrap test")?;
        ensure!(
            said.contains("1 tokens rewrapped under version 2"),
            "{said}"
        );
        ensure!(said.contains("no token needs a version below 2"), "{said}");
        let said = operator("key rewrap test --json")?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        ensure!(said["rewrapped"] == 0 && said["min_version"] == 2, "{said}");
        let said = refused(&format!("key end-versions test --below 3 {b} {c}"), 1)?;
        ensure!(said.contains("takes commits from version 2 on"), "{said}");
        refused(&format!("key end-versions test {b}"), 5)?;
        let said = operator(&format!("key end-versions test {b} {c}"))?;
        ensure!(said.contains("versions below 2 are ended"), "{said}");
        let said: serde_json::Value = serde_json::from_str(&operator("key info test --json")?)?;
        ensure!(
            said["oldest_version"] == 2 && said["confirmed_by_shard"] == true,
            "{said}"
        );
        ensure!(said["rotation"]["max_uses"] == 1_000_000, "{said}");

        // What was sealed under the version that is gone opens, by its own new token and with its metadata.
        ensure!(dataset.get_bytes(&key("a")).await? == BODY, "it opens");
        dataset.head(&key("a"), None).await?;
        dataset.put(&key("b"), BODY, &PutOptions::default()).await?;
        ensure!(dataset.get_bytes(&key("b")).await? == BODY, "another opens");
        let said = operator("key plan test")?;
        ensure!(
            !said.contains("rotated every"),
            "the plan is taken back: {said}"
        );
        Ok(())
    });
}

const LARGE: usize = 3 << 20;
const PARTS: [(u32, &[u8]); 3] = [(2, &[1; 100_000]), (3, &[2; 2 << 20]), (7, &[3; 10])];

/// A versioned dataset: an object with two versions and all that is sealed with one, a deleted one, one of two blocks,
/// one in parts.
async fn dataset_with_histories(local: &Local) -> Result<Dataset> {
    let region = local.federation.region("ch-zrh")?;
    let app = ceremony::connect(region, CLIENTS[0]).await?;
    let options = CreateOptions { versioning: true };
    let dataset = app.create_dataset(&"cases".parse()?, &options).await?;
    dataset
        .put(&key("a"), "before", &PutOptions::default())
        .await?;
    let one = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    let described = PutOptions {
        content_type: Some("text/plain".to_owned()),
        metadata: one("source", "sensor-7"),
        tags: one("tlp", "amber"),
        ..PutOptions::default()
    };
    dataset.put(&key("a"), BODY, &described).await?;
    for name in ["ab", "gone"] {
        dataset
            .put(&key(name), BODY, &PutOptions::default())
            .await?;
    }
    dataset
        .delete(&key("gone"), None, client::Precondition::Any)
        .await?;
    let large = vec![7_u8; LARGE];
    dataset
        .put(&key("large"), large, &PutOptions::default())
        .await?;
    let upload = dataset.create_upload(&key("parts"), &described).await?;
    let mut named = Vec::new();
    for (number, body) in PARTS {
        let checksums = [("SHA256".to_owned(), body[..1].to_vec().into())];
        let options = PartOptions {
            checksums: BTreeMap::from(checksums).into(),
        };
        let part = dataset.upload_part(&upload, number, body.to_vec(), &options);
        named.push((number, part.await?.id));
    }
    dataset
        .complete_upload(&upload, &named, &CompleteOptions::default())
        .await?;
    Ok(dataset)
}

#[test]
fn a_dataset_of_a_compromised_key_is_sealed_again_under_another_with_every_version() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        let old = dataset_with_histories(local).await?;
        dataset(local).await?;
        let (operator, app) = (OPERATORS[0], CLIENTS[0]);
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let said = |who: &str, text: &str| {
            let words = words(text);
            reduit.said(who, &words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let refused = |who: &str, text: &str, code| {
            let words = words(text);
            reduit.refused(
                who,
                &words.iter().map(String::as_str).collect::<Vec<_>>(),
                code,
            )
        };
        // A key goes by its aliases too.
        said(operator, "key label cases --alias hot --tag owner=cert")?;
        let info = said(operator, "key info alias/hot")?;
        ensure!(info.contains("alias/hot\nowner=cert"), "its labels: {info}");
        let taken = refused(operator, "key label test --alias hot", 1)?;
        ensure!(taken.contains("another key's"), "{taken}");
        refused(operator, "key info alias/cold", 3)?;
        said(operator, "key compromised alias/hot")?;

        ensure!(old.get_bytes(&key("a")).await.is_err(), "nothing opens");
        refused(app, "dataset reseal cases cases-2", 3)?;
        said(app, "dataset create cases-2")?;
        let flat = refused(app, "dataset reseal cases cases-2", 2)?;
        ensure!(flat.contains("turn versioning on"), "{flat}");
        said(app, "dataset versioning cases-2 on")?;
        // Somebody works in the new one already.
        let region = local.federation.region("ch-zrh")?;
        let new = ceremony::connect(region, app).await?;
        let new = new.dataset(&"cases-2".parse()?).await?;
        let own = new.put(&key("ab"), "new", &PutOptions::default()).await?;
        let partly = refused(app, "dataset reseal cases cases-2", 1)?;
        ensure!(
            partly.contains("changed-meanwhile") || partly.contains("are left alone"),
            "{partly}"
        );
        ensure!(
            new.get_bytes(&key("ab")).await? == "new",
            "it is left alone"
        );
        new.delete(&key("ab"), Some(own.version), client::Precondition::Any)
            .await?;
        let done = said(app, "dataset reseal cases cases-2 --json")?;
        let done: serde_json::Value = serde_json::from_str(&done)?;
        ensure!(
            done["versions"] == 1 && done["versions_before"] == 6 && done["failed"] == 0,
            "{done}"
        );

        let histories = new.histories("").await?;
        let shape: Vec<_> = histories
            .iter()
            .map(|(key, versions)| {
                let markers = versions.iter().map(|v| v.delete_marker).collect::<Vec<_>>();
                (key.as_str(), markers)
            })
            .collect();
        let expected = [
            ("a", vec![false, false]),
            ("ab", vec![false]),
            ("gone", vec![false, true]),
            ("large", vec![false]),
            ("parts", vec![false]),
        ];
        ensure!(shape == expected, "{shape:?}");
        let versions = &histories[0].1;
        let first = client::GetOptions {
            version: Some(versions[0].version),
            ..Default::default()
        };
        let before = new.get(&key("a"), &first).await?.body.into_bytes().await?;
        ensure!(before == "before", "the older version");
        let now = new.head(&key("a"), None).await?;
        let sealed = &now.metadata;
        ensure!(
            sealed.content_type == "text/plain" && sealed.tags["tlp"] == "amber",
            "{now:?}"
        );
        ensure!(
            sealed.user["source"] == "sensor-7" && sealed.user.contains_key(RESEALED_FROM),
            "{now:?}"
        );
        for name in ["a", "ab"] {
            ensure!(new.get_bytes(&key(name)).await? == BODY, "{name}");
        }
        let large = new.get_bytes(&key("large")).await?;
        ensure!(
            large.len() == LARGE && large.iter().all(|byte| *byte == 7),
            "the large one"
        );
        let copy = new.head(&key("parts"), None).await?;
        ensure!(
            copy.metadata.user.contains_key(RESEALED_FROM)
                && copy.metadata.content_type == "text/plain",
            "{copy:?}"
        );
        let parts = new.list_parts(&key("parts"), copy.version, 0, 0).await?;
        let parts = parts.parts.iter().map(|part| {
            let checksum = part.checksums.get("SHA256").map(|sum| sum.to_vec());
            (part.number, part.bytes, checksum)
        });
        let expected = PARTS.map(|(number, body)| {
            let bytes = body.len() as u64;
            (number, bytes, Some(body[..1].to_vec()))
        });
        ensure!(parts.eq(expected), "of the same parts");
        let whole: Vec<u8> = PARTS.iter().flat_map(|(_, body)| body.to_vec()).collect();
        ensure!(new.get_bytes(&key("parts")).await? == whole, "in parts");
        // Nothing is done twice, and the old one stays closed.
        let again = said(app, "dataset reseal cases cases-2")?;
        ensure!(
            again.contains("0 versions sealed again in cases-2, 7 were there"),
            "{again}"
        );
        ensure!(old.get_bytes(&key("a")).await.is_err(), "nothing opens");
        Ok(())
    });
}
