//! The `reduit` command as each person of a region runs it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use local::Local;
use local::files::{AUDITOR, CLIENTS, OPERATORS};

use super::binaries;

/// The command with everybody's context.
pub(crate) struct Reduit {
    binary: PathBuf,
    contexts: PathBuf,
    /// Where it runs.
    pub(crate) folder: PathBuf,
    /// All of its environment.
    pub(crate) environment: Vec<(String, String)>,
}

impl Reduit {
    /// For the region `ch-zrh`.
    pub(crate) fn new(local: &Local) -> Result<Self> {
        Self::of(local, "ch-zrh")
    }

    /// For another one.
    pub(crate) fn of(local: &Local, region: &str) -> Result<Self> {
        let folder = local.federation.dir.join("people").join(region);
        std::fs::create_dir_all(&folder)?;
        let region = local.federation.region(region)?;
        let people = OPERATORS.into_iter().chain(CLIENTS).chain([AUDITOR]);
        let mut file = client::ContextFile::default();
        for name in people {
            file.contexts.insert(name.to_owned(), region.context(name));
        }
        let contexts = folder.join("contexts.toml");
        file.save(&contexts)?;
        let binary = binaries().context("the binaries")?.join("reduit");
        Ok(Self {
            binary,
            contexts,
            folder,
            environment: Vec::new(),
        })
    }

    /// As `who`, with its own environment and nothing of this process's.
    fn command(&self, who: &str, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.folder).env_clear();
        command.envs(self.environment.iter().cloned());
        command.arg("--config").arg(&self.contexts);
        command.args(["--context", who]).args(words);
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, who: &str, words: &[&str]) -> Result<Output> {
        Ok(self.command(who, words).output()?)
    }

    /// Starts it, to be killed; what it says is not kept.
    pub(crate) fn started(&self, who: &str, words: &[&str]) -> Result<Child> {
        let mut command = self.command(who, words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.spawn()?)
    }

    /// What it printed; it has to succeed.
    pub(crate) fn said(&self, who: &str, words: &[&str]) -> Result<String> {
        let output = self.run(who, words)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{who}: {words:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What it complained of; it has to fail with this exit code.
    pub(crate) fn refused(&self, who: &str, words: &[&str], code: i32) -> Result<String> {
        let output = self.run(who, words)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = output.status.code();
        ensure!(found == Some(code), "{who}: {words:?}: {found:?}: {errors}");
        Ok(errors)
    }
}
