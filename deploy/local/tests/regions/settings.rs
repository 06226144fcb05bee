//! Locks, lifecycles, quotas and uploads in parts by the `reduit` command, on a region of real processes.
//!
//! The daemons are taken from `REDUIT_BIN`, else from beside the test's own folder; where they are not built the tests
//! say that they skip.

use std::time::Duration;

use crate::common::reduit::Reduit;
use crate::common::{key, region_as, with_region};
use anyhow::{Context as _, Result, ensure};
use client::{PartOptions, PutOptions};
use local::Local;
use local::files::CLIENTS;
use serde_json::{Value, json};

const RULES: &str = r#"{"rules": [
  {"id": "old", "prefix": "logs/", "noncurrent_days": 30, "newer_noncurrent": 3},
  {"id": "tidy", "expire_days": 365, "expire_markers": true, "abort_days": 7, "enabled": false}
]}"#;
const UNTIL: &str = "2036-01-01T00:00:00Z";
/// Over what one entry takes, so that it goes in blocks, and over what a terminal is shown the progress of.
const LONG: usize = (64 << 20) + 17;

/// One JSON value a line, as `--json` prints lists.
fn values(said: &str) -> Result<Vec<Value>> {
    let lines = said.lines();
    Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn value(said: &str) -> Result<Value> {
    values(said)?.pop().context("nothing was printed")
}

#[test]
fn what_is_locked_stays_by_whatever_command() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        std::fs::write(reduit.folder.join("dump"), "body")?;
        let app = |words: &[&str]| reduit.said("app-1", words);
        let refused = |words: &[&str], code| reduit.refused("app-1", words, code);
        app(&["dataset", "create", "cases"])?;
        app(&["put", "dump", "cases/7"])?;
        let unlocked = ["object", "hold", "cases/7", "on"];
        ensure!(refused(&unlocked, 1)?.contains("object lock"));
        let versioned = app(&["dataset", "versioning", "cases", "on", "--json"])?;
        ensure!(value(&versioned)?["versioning"] == true, "{versioned}");
        let lock = [
            "dataset",
            "lock",
            "cases",
            "--default",
            "governance",
            "--days",
            "30",
        ];
        let said = app(&lock)?;
        ensure!(
            said.contains("on, governance for 30 days by default"),
            "{said}"
        );
        let info = value(&app(&["dataset", "info", "cases", "--json"])?)?;
        let default = json!({ "default_mode": "governance", "default_days": 30 });
        ensure!(info["object_lock"] == default, "{info}");
        refused(&["dataset", "versioning", "cases", "off"], 1)?;

        let put = value(&app(&["put", "dump", "cases/7", "--json"])?)?;
        let version = put["version"].as_str().context("a version")?;
        let stat = value(&app(&["stat", "cases/7", "--json"])?)?;
        ensure!(stat["retention"]["mode"] == "governance", "{stat}");
        let rm = ["rm", "cases/7", "--version", version];
        ensure!(refused(&rm, 5)?.contains("lock"));
        // Whoever may write, but may not change keys, passes nothing over.
        refused(&[&rm[..], &["--bypass-governance"]].concat(), 5)?;
        refused(
            &["object", "lock", "cases/7", "--end", "--bypass-governance"],
            5,
        )?;

        let longer = [
            "object",
            "lock",
            "cases/7",
            "--mode",
            "compliance",
            "--until",
            UNTIL,
        ];
        let said = app(&longer)?;
        ensure!(
            said.contains(&format!("compliance until {UNTIL}")),
            "{said}"
        );
        let ended = ["object", "lock", "cases/7", "--version", version, "--end"];
        ensure!(refused(&ended, 5)?.contains("lock"));
        let held = value(&app(&["object", "hold", "cases/7", "on", "--json"])?)?;
        ensure!(
            held == json!({ "version": version, "legal_hold": true }),
            "{held}"
        );
        refused(&["object", "hold", "cases/7", "off"], 5)?;
        let lifted = ["object", "hold", "cases/7", "off", "--version", version];
        ensure!(reduit.said("op-1", &lifted)?.contains("legal hold off"));
        refused(&["dataset", "rm", "cases", "--force"], 4)?;
        let kept = [
            &["put", "dump", "cases/8", "--legal-hold"][..],
            &["--retain-until", UNTIL, "--retention", "compliance"],
        ];
        app(&kept.concat())?;
        let stat = value(&app(&["stat", "cases/8", "--json"])?)?;
        let until = json!({ "mode": "compliance", "until": UNTIL });
        ensure!(
            stat["retention"] == until && stat["legal_hold"] == true,
            "{stat}"
        );
        ensure!(app(&["get", "cases/7", "-"])? == "body");
        Ok(())
    });
}

#[test]
fn lifecycles_and_quotas_are_set_shown_and_ended() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        std::fs::write(reduit.folder.join("a"), "body")?;
        std::fs::write(reduit.folder.join("rules.json"), RULES)?;
        std::fs::write(
            reduit.folder.join("misspelt.json"),
            RULES.replace("prefix", "prefx"),
        )?;
        let app = |words: &[&str]| reduit.said("app-1", words);
        app(&["dataset", "create", "cti"])?;
        let said = app(&["dataset", "lifecycle", "cti", "--set", "rules.json"])?;
        ensure!(said.contains("logs/*: older versions go 30 days"), "{said}");
        ensure!(said.contains("tidy (off)"), "{said}");
        let misspelt = ["dataset", "lifecycle", "cti", "--set", "misspelt.json"];
        ensure!(reduit.refused("app-1", &misspelt, 2)?.contains("prefx"));
        let held = app(&["dataset", "lifecycle", "cti", "--json"])?;
        // What is printed is what is read.
        std::fs::write(reduit.folder.join("again.json"), &held)?;
        app(&["dataset", "lifecycle", "cti", "--set", "again.json"])?;
        ensure!(app(&["dataset", "lifecycle", "cti", "--json"])? == held);
        ensure!(value(&held)?["rules"][0]["newer_noncurrent"] == 3, "{held}");
        let said = app(&["dataset", "lifecycle", "cti", "--clear"])?;
        ensure!(said == "cti: no rules\n", "{said}");

        app(&["put", "a", "cti/a"])?;
        let said = app(&[
            "dataset",
            "quota",
            "cti",
            "--objects",
            "1",
            "--bytes",
            "1MiB",
        ])?;
        ensure!(
            said.contains("objects 1 of 1, ") && said.contains("of 1048576"),
            "{said}"
        );
        ensure!(
            reduit
                .refused("app-1", &["put", "a", "cti/b"], 1)?
                .contains("quota")
        );
        app(&["put", "a", "cti/a"])?;
        let bound = value(&app(&[
            "dataset",
            "quota",
            "cti",
            "--objects",
            "2",
            "--json",
        ])?)?;
        let bounds = (&bound["objects_max"], &bound["sealed_bytes_max"]);
        ensure!(
            bounds == (&json!(2), &json!(1 << 20)),
            "what is not named stays: {bound}"
        );
        app(&["put", "a", "cti/b"])?;
        let said = app(&["dataset", "quota", "cti", "--clear"])?;
        ensure!(said.contains("objects 2 of any number"), "{said}");
        Ok(())
    });
}

#[test]
fn uploads_under_way_are_listed_and_ended() {
    with_region(1, async |local| {
        let reduit = Reduit::new(local)?;
        reduit.said("app-1", &["dataset", "create", "cti"])?;
        let ids = begun(local).await?;
        let app = |words: &[&str]| reduit.said("app-1", words);
        let listed = values(&app(&["upload", "ls", "cti", "--json"])?)?;
        let found: Vec<_> = listed.iter().map(|upload| &upload["upload"]).collect();
        ensure!(found == ids.iter().collect::<Vec<_>>(), "{listed:?}");
        ensure!(
            listed[0]["parts"] == 2 && listed[1]["parts"] == 0,
            "{listed:?}"
        );
        ensure!(app(&["upload", "ls", "cti/b"])?.contains(" b/1"));
        let parts = values(&app(&["upload", "parts", "cti/a", &ids[0], "--json"])?)?;
        let bytes: Vec<_> = parts
            .iter()
            .map(|part| (&part["number"], &part["bytes"]))
            .collect();
        ensure!(
            bytes == [(&json!(1), &json!(4)), (&json!(7), &json!(5))],
            "{parts:?}"
        );
        let info = value(&app(&["dataset", "info", "cti", "--json"])?)?;
        ensure!(info["uploads"] == 3 && info["sealed_bytes"] != 0, "{info}");
        app(&["upload", "abort", "cti/a", &ids[0]])?;
        let again = ["upload", "abort", "cti/a", ids[0].as_str()];
        ensure!(
            reduit
                .refused("app-1", &again, 3)?
                .contains("no such upload")
        );
        let early = [
            "upload",
            "abort",
            "-r",
            "cti/b/",
            "--begun-before",
            "2020-01-01T00:00:00Z",
        ];
        ensure!(app(&early)?.starts_with("0 uploads"));
        ensure!(app(&["upload", "abort", "-r", "cti/b/"])?.starts_with("2 uploads"));
        ensure!(app(&["upload", "ls", "cti"])?.is_empty());
        let info = value(&app(&["dataset", "info", "cti", "--json"])?)?;
        ensure!(info["uploads"] == 0 && info["sealed_bytes"] == 0, "{info}");
        // One long enough to be watched, to nobody's terminal.
        std::fs::write(reduit.folder.join("long"), vec![7; LONG])?;
        let put = reduit.run("app-1", &["put", "long", "cti/long", "--json"])?;
        ensure!(put.status.success() && put.stderr.is_empty(), "{put:?}");
        ensure!(value(&String::from_utf8(put.stdout)?)?["bytes"] == LONG);
        Ok(())
    });
}

/// An upload with two parts, and two without, by the SDK: ids in the order of keys.
async fn begun(local: &Local) -> Result<Vec<String>> {
    let region = region_as(local, CLIENTS[0], Duration::from_secs(30)).await?;
    let dataset = region.dataset(&"cti".parse()?).await?;
    let mut ids = Vec::new();
    for at in ["a", "b/1", "b/2"] {
        let upload = dataset
            .create_upload(&key(at), &PutOptions::default())
            .await?;
        let parts: &[_] = if at == "a" {
            &[(1, "body"), (7, "parts")]
        } else {
            &[]
        };
        for (number, body) in parts {
            let options = PartOptions::default();
            dataset
                .upload_part(&upload, *number, *body, &options)
                .await?;
        }
        ids.push(upload.id().to_string());
    }
    Ok(ids)
}
