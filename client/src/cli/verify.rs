//! `reduit verify`: an evidence folder is judged, offline.
//!
//! Owns files and what is printed; what is proven is `verifier`'s to say. Asks no region and needs no context.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use verifier::{Asked, ClaimId, Folder, verify};

use super::failure::{Failure, file};
use super::output::line;

const HELP: &str = "Exit codes:
  0  every claim asked for is proven
  1  at least one is not; the report says which and why
  2  wrong arguments, or folder or policy cannot be read

Examples:
  reduit verify evidence/ --policy trust.policy
  reduit verify evidence/ --policy trust.policy --html report.html
  reduit verify evidence/ --policy trust.policy --json | jq '.claims[] | {id, verdict}'
  reduit verify evidence/ --policy trust.policy --claim D2 --claim O4 --nonce 4f1c...";

/// Judges an evidence folder by a trust policy, offline.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Verify {
    /// The folder.
    folder: PathBuf,
    /// Whose signatures you trust: a C2SP tlog-policy, which you did not get from the exporter.
    #[arg(long)]
    policy: PathBuf,
    /// Also write the report as one self-contained page.
    #[arg(long)]
    html: Option<PathBuf>,
    /// A claim that has to be proven, instead of the usual ones; may be repeated.
    #[arg(long)]
    claim: Vec<ClaimId>,
    /// The nonce you chose for the storage challenge, 64 hexadecimal digits.
    #[arg(long, value_parser = nonce)]
    nonce: Option<[u8; 32]>,
}

pub(crate) fn nonce(text: &str) -> Result<[u8; 32], &'static str> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "not 64 hexadecimal digits")?;
    Ok(bytes)
}

impl Verify {
    pub(crate) fn run(self, json: bool) -> Result<(), Failure> {
        let policy = read_policy(&self.policy)?;
        let folder = Folder::read(&self.folder)
            .map_err(|error| Failure::NoAnswer(format!("{}: {error}", self.folder.display())))?;
        let asked = Asked {
            nonce: self.nonce,
            claims: self.claim,
        };
        let report = verify(&folder, &policy, &asked);
        if let Some(path) = &self.html {
            std::fs::write(path, report.to_html())
                .map_err(file(format!("writing {}", path.display())))?;
        }
        line(if json {
            report.to_json()
        } else {
            report.to_text()
        });
        if report.is_proven() {
            Ok(())
        } else {
            Err(Failure::No)
        }
    }
}

/// Reads a trust policy, within its bound.
pub(crate) fn read_policy(path: &Path) -> Result<tlog::Policy, Failure> {
    let unreadable = |why: String| Failure::NoAnswer(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| {
            file.take(tlog::POLICY_BYTES_MAX as u64 + 1)
                .read_to_end(&mut bytes)
        })
        .map_err(|error| unreadable(error.to_string()))?;
    tlog::Policy::parse(&bytes).map_err(|error| unreadable(error.to_string()))
}
