//! Operators of one region, each with the `reduit` command.
//!
//! Owns what they do to have their region trust another. Refuses nothing by itself: what the command says of a refusal is
//! what a caller gets.

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use local::files::{CLIENTS, OPERATORS};
use local::{Local, RegionEntry, ceremony};
use serde_json::Value;

/// How the command ends where a precondition does not hold.
const REFUSED: i32 = 4;

/// A region's operators and their files.
pub(super) struct People {
    pub(super) region: RegionEntry,
    binary: PathBuf,
    contexts: PathBuf,
    folder: PathBuf,
}

impl People {
    pub(super) fn of(local: &Local, region: &str) -> Result<Self> {
        let folder = local.federation.dir.join("people").join(region);
        std::fs::create_dir_all(&folder)?;
        let region = local.federation.region(region)?.clone();
        let mut file = client::ContextFile::default();
        for name in OPERATORS.into_iter().chain(CLIENTS) {
            file.contexts.insert(name.to_owned(), region.context(name));
        }
        let contexts = folder.join("contexts.toml");
        file.save(&contexts)?;
        let binary = local.binaries().join("reduit");
        ensure!(
            binary.is_file(),
            "{} is not there: build it",
            binary.display()
        );
        Ok(Self {
            region,
            binary,
            contexts,
            folder,
        })
    }

    /// A file of theirs.
    pub(super) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Runs the command as the first operator, to its end.
    pub(super) fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).env_clear();
        command.arg("--config").arg(&self.contexts);
        command.args(["--context", OPERATORS[0]]).args(words);
        let ran = tokio::task::block_in_place(|| command.output());
        ran.with_context(|| format!("cannot start {}", self.binary.display()))
    }

    /// What it printed; it has to succeed.
    pub(super) fn said(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: {}: {}",
            self.region.region,
            words.join(" "),
            errors.trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`Self::said`], as JSON.
    pub(super) fn json(&self, words: &[&str]) -> Result<Value> {
        let said = self.said(&[words, &["--json"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("{}: {said}", words.join(" ")))
    }

    /// Has the two other operators approve.
    pub(super) fn approved(&self, words: &[&str]) -> Result<String> {
        let by = self.approvers();
        let by: Vec<_> = by.iter().map(String::as_str).collect();
        self.said(&[words, &by].concat())
    }

    /// As [`Self::approved`]; it has to be refused because of where things stand, and not by chance.
    pub(super) fn refused(&self, words: &[&str]) -> Result<()> {
        let by = self.approvers();
        let by: Vec<_> = by.iter().map(String::as_str).collect();
        let output = self.run(&[words, &by].concat())?;
        if output.status.code() != Some(REFUSED) {
            bail!(
                "{}: {} was not refused: {}, {}",
                self.region.region,
                words.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    fn approvers(&self) -> Vec<String> {
        let files = OPERATORS[1..].iter().flat_map(|name| {
            let (certificate, key) = self.region.identity_files(name);
            [("--certificate", certificate), ("--key", key)]
        });
        files
            .flat_map(|(option, path)| [option.to_owned(), path.display().to_string()])
            .collect()
    }

    /// What the region says of itself, once every member of it that listens for others is in it: file and fingerprint.
    async fn described(&self) -> Result<(String, String)> {
        let file = self.file("own.region");
        let listens = self.region.services.iter();
        let wanted = listens.filter(|one| !one.federation.is_empty()).count();
        let shown = ceremony::until("the region is described", async || {
            let shown = self.json(&["region", "show", "-o", &file])?;
            let members = shown["members"].as_array().context("members")?;
            let listening = members.iter().filter(|one| one["endpoint"].is_string());
            let found = listening.count();
            ensure!(found == wanted, "{found} of {wanted} listen: {shown}");
            Ok(shown)
        });
        let shown = shown.await?;
        let fingerprint = shown["fingerprint"].as_str().context("a fingerprint")?;
        Ok((file, fingerprint.to_owned()))
    }

    /// The other region is trusted, and was heard since.
    async fn hears(&self) -> Result<()> {
        ceremony::until("the other region is heard", async || {
            let peers = self.json(&["region", "peers"])?;
            let peer = &peers["regions"][0];
            let heard = peer["heard"].is_string() && peer["trouble"] == "";
            ensure!(heard, "not yet: {peers}");
            Ok(())
        })
        .await
    }
}

/// People of each region trust the other one, and both have heard of each other since.
pub(super) async fn trust_each_other(one: &People, other: &People) -> Result<()> {
    for (here, there) in [(one, other), (other, one)] {
        let (file, fingerprint) = there.described().await?;
        here.approved(&["region", "trust", &file, "--fingerprint", &fingerprint])?;
    }
    one.hears().await?;
    other.hears().await
}
