//! People of several regions with the `reduit` command: what they say of their region, and whom they trust.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, ensure};
use local::federation::RegionEntry;
use local::files::OPERATORS;
use local::{Local, ceremony};
use serde_json::Value;

use super::reduit::Reduit;

/// A region's operators and their files.
pub(crate) struct People {
    pub(crate) region: RegionEntry,
    pub(crate) reduit: Reduit,
}

impl People {
    pub(crate) fn of(local: &Local, region: &str) -> Result<Self> {
        Ok(Self {
            region: local.federation.region(region)?.clone(),
            reduit: Reduit::of(local, region)?,
        })
    }

    pub(crate) fn json(&self, words: &[&str]) -> Result<Value> {
        let words = [words, &["--json"]].concat();
        Ok(serde_json::from_str(
            &self.reduit.said(OPERATORS[0], &words)?,
        )?)
    }

    /// Words that name those operators as approvers.
    pub(crate) fn by(&self, names: &[&str]) -> Vec<String> {
        let words = names.iter().flat_map(|name| {
            let (certificate, key) = self.region.identity_files(name);
            let shown = |path: PathBuf| path.display().to_string();
            [
                "--certificate".to_owned(),
                shown(certificate),
                "--key".to_owned(),
                shown(key),
            ]
        });
        words.collect()
    }

    pub(crate) fn trust(&self, told: &Told, approvers: &[&str]) -> Vec<String> {
        let words = [
            "region",
            "trust",
            &told.file,
            "--fingerprint",
            &told.fingerprint,
        ];
        let words = words.into_iter().map(str::to_owned);
        words.chain(self.by(approvers)).collect()
    }

    pub(crate) fn said(&self, words: &[String]) -> Result<String> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.reduit.said(OPERATORS[0], &words)
    }

    pub(crate) fn refused(&self, words: &[String], code: i32) -> Result<String> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        self.reduit.refused(OPERATORS[0], &words, code)
    }

    /// What it says of itself, once every member of it that listens is in it.
    pub(crate) async fn described(&self) -> Result<Told> {
        let file = self.region.dir.join("told.region").display().to_string();
        let shown = ceremony::until("the region is described", async || {
            let shown = self.json(&["region", "show", "-o", &file])?;
            let members = shown["members"].as_array().context("members")?;
            let listening = members.iter().filter(|one| one["endpoint"].is_string());
            let members = self.region.services.iter();
            let wanted = members.filter(|one| !one.federation.is_empty()).count();
            let found = listening.count();
            ensure!(found == wanted, "{found} of {wanted} listen: {shown}");
            Ok(shown)
        })
        .await?;
        let fingerprint = shown["fingerprint"].as_str().context("a fingerprint")?;
        Ok(Told {
            file,
            fingerprint: fingerprint.to_owned(),
            version: shown["version"].as_u64().context("a version")?,
        })
    }

    /// What it holds of the other region, once it is so.
    pub(crate) async fn peer(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        ceremony::until(what, async || {
            let peers = self.json(&["region", "peers"])?;
            let peer = peers["regions"][0].clone();
            match wanted(&peer) {
                true => Ok(peer),
                false => Err(anyhow!("not yet: {peers}")),
            }
        })
        .await
    }
}

/// A region's word, as a file and as people say it.
pub(crate) struct Told {
    pub(crate) file: String,
    pub(crate) fingerprint: String,
    pub(crate) version: u64,
}

/// People of each region trust the other one, and both have heard of each other since.
pub(crate) async fn trust_each_other(one: &People, other: &People) -> Result<()> {
    for (here, there) in [(one, other), (other, one)] {
        let told = there.described().await?;
        here.said(&here.trust(&told, &OPERATORS[1..]))?;
    }
    for people in [one, other] {
        let heard = |peer: &Value| peer["heard"].is_string() && peer["trouble"] == "";
        people.peer("the other region is heard", heard).await?;
    }
    Ok(())
}
