//! People of the two regions, each with the `reduit` command and the contexts of their own region.
//!
//! Owns how the command is called: with its own environment and the demo's clock, and nothing else of this process.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use local::Local;
use local::federation::RegionEntry;
use local::files::{AUDITOR, CLIENTS, OPERATORS};
use serde_json::Value;
use tokio::process::Command;

use super::clock::CLOCK_AHEAD;

/// How long something that people wait for may take on a loaded machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(500);

/// A region's people.
pub(super) struct People {
    pub(super) region: RegionEntry,
    binary: PathBuf,
    contexts: PathBuf,
    folder: PathBuf,
    clock: PathBuf,
}

/// What a region says of itself, as a file and as people say it.
struct Told {
    file: String,
    fingerprint: String,
}

impl People {
    pub(super) fn of(local: &Local, region: &str, clock: &Path) -> Result<Self> {
        let folder = local.federation.dir.join("people").join(region);
        std::fs::create_dir_all(&folder)?;
        let mut file = client::ContextFile::default();
        // An auditor of a certificate is one of each region.
        for each in &local.federation.regions {
            let name = auditor(each.region.as_str());
            file.contexts.insert(name, each.context(AUDITOR));
        }
        let region = local.federation.region(region)?.clone();
        let people = OPERATORS.into_iter().chain(CLIENTS).map(str::to_owned);
        let custodians = region.identities.iter().cloned();
        for name in people.chain(custodians) {
            let context = region.context(&name);
            file.contexts.insert(name, context);
        }
        let contexts = folder.join("contexts.toml");
        file.save(&contexts)?;
        Ok(Self {
            region,
            binary: local.binaries().join("reduit"),
            contexts,
            folder,
            clock: clock.to_owned(),
        })
    }

    /// A file of theirs.
    pub(super) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    async fn run(&self, who: &str, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).env_clear();
        command.env(CLOCK_AHEAD, &self.clock).stdin(Stdio::null());
        command.arg("--config").arg(&self.contexts);
        command.args(["--context", who]).args(words);
        let output = command.output().await;
        output.with_context(|| format!("starting {}", self.binary.display()))
    }

    /// What it printed; it has to succeed.
    pub(super) async fn said(&self, who: &str, words: &[&str]) -> Result<String> {
        let output = self.run(who, words).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let said = String::from_utf8_lossy(&output.stdout);
        let region = &self.region.region;
        ensure!(
            output.status.success(),
            "{who} of {region}: reduit {}: {}: {}{}",
            words.join(" "),
            output.status,
            errors.trim(),
            said.trim()
        );
        Ok(said.into_owned())
    }

    /// By the first operator.
    pub(super) async fn operator(&self, words: &[&str]) -> Result<String> {
        self.said(OPERATORS[0], words).await
    }

    /// By the first operator, with two others present who approve.
    pub(super) async fn approved(&self, words: &[&str]) -> Result<String> {
        let approvers = self.approvers();
        let approvers: Vec<_> = approvers.iter().map(String::as_str).collect();
        self.operator(&[words, &approvers].concat()).await
    }

    /// By the first operator, for programs.
    pub(super) async fn json(&self, words: &[&str]) -> Result<Value> {
        let said = self.operator(&[words, &["--json"]].concat()).await?;
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }

    fn approvers(&self) -> Vec<String> {
        let words = OPERATORS[1..].iter().flat_map(|name| {
            let (certificate, key) = self.region.identity_files(name);
            [
                "--certificate".to_owned(),
                certificate.display().to_string(),
                "--key".to_owned(),
                key.display().to_string(),
            ]
        });
        words.collect()
    }

    async fn described(&self) -> Result<Told> {
        let file = self.file("told.region");
        let members = self.region.services.iter();
        let wanted = members.filter(|one| !one.federation.is_empty()).count();
        let shown = until("every member listens for other regions", async || {
            let shown = self.json(&["region", "show", "-o", &file]).await?;
            let members = shown["members"].as_array().context("members")?;
            let listening = members.iter().filter(|one| one["endpoint"].is_string());
            let found = listening.count();
            ensure!(found == wanted, "{found} of {wanted} listen");
            Ok(shown)
        })
        .await?;
        let fingerprint = shown["fingerprint"].as_str().context("a fingerprint")?;
        let fingerprint = fingerprint.to_owned();
        Ok(Told { file, fingerprint })
    }

    /// The fingerprint that its operators give by telephone.
    pub(super) async fn fingerprint(&self) -> Result<String> {
        Ok(self.described().await?.fingerprint)
    }

    /// Trusts another region by its file and by the fingerprint that its people told.
    pub(super) async fn trust(&self, other: &Self) -> Result<String> {
        let told = other.described().await?;
        let (file, fingerprint) = (&told.file[..], &told.fingerprint[..]);
        self.approved(&["region", "trust", file, "--fingerprint", fingerprint])
            .await?;
        Ok(told.fingerprint)
    }

    /// Waits until the other region was heard of.
    pub(super) async fn heard(&self) -> Result<()> {
        until("the other region is heard of", async || {
            let peers = self.json(&["region", "peers"]).await?;
            let peer = &peers["regions"][0];
            ensure!(
                peer["heard"].is_string() && peer["trouble"] == "",
                "not yet: {peers}"
            );
            Ok(())
        })
        .await
    }
}

/// The context of a region's auditor.
pub(super) fn auditor(region: &str) -> String {
    format!("audit-{region}")
}

/// Tries until it works or patience ends.
pub(super) async fn until<T, F>(what: &str, mut attempt: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() > end => {
                bail!("{what}: not within {} s: {error:#}", PATIENCE.as_secs())
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
