//! The `reduit` command as it is typed: what is said and refused before a region is asked.

#![allow(clippy::unwrap_used, reason = "a test that cannot begin has failed")]

mod backup;
mod region;
mod settings;

use std::process::{Command, Output};

fn reduit(words: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_reduit"))
        .current_dir(folder.path())
        .env_remove("REDUIT_CONTEXT")
        .env("REDUIT_CONFIG", folder.path().join("contexts.toml"))
        .args(words)
        .output()
        .unwrap()
}
