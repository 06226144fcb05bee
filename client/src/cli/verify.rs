//! `reduit verify`: an evidence folder, or the certificate of a relocation, is judged, offline.
//!
//! Owns files and what is printed; what is proven is `verifier`'s to say. Asks no region and needs no context.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use verifier::{Asked, Bundle, ClaimId, FILE_BYTES_MAX, Folder, Pins, verify, verify_certificate};

use super::failure::{Failure, file};
use super::output::line;
use super::regions::{Fingerprint, parse_fingerprint};

const HELP: &str = "A folder is evidence about a dataset (reduit evidence export), and takes a policy. A file is the certificate of a
relocation (reduit relocate certificate), and takes the fingerprints of both regions' descriptors, as their operators
told you on another way than the file came. Without them nothing of it is proven, and the report says whose word it is.

Exit codes:
  0  every claim asked for is proven; a certificate holds
  1  at least one is not; the report says which and why
  2  wrong arguments, or folder, file or policy cannot be read

Examples:
  reduit verify evidence/ --policy trust.policy
  reduit verify evidence/ --policy trust.policy --html report.html
  reduit verify evidence/ --policy trust.policy --json | jq '.claims[] | {id, verdict}'
  reduit verify evidence/ --policy trust.policy --claim D2 --claim O4 --nonce 4f1c...
  reduit verify cert.json --source-fingerprint 3f0c... --destination-fingerprint 91ab...
  reduit verify cert.json --source-fingerprint 3f0c... --destination-fingerprint 91ab... --json | jq .holds";

/// Judges an evidence folder by a trust policy, or the certificate of a relocation, offline.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Verify {
    /// The folder, or the certificate's file.
    folder: PathBuf,
    /// Of a folder: whose signatures you trust, a C2SP tlog-policy, which you did not get from the exporter.
    #[arg(long)]
    policy: Option<PathBuf>,
    /// Of a certificate: the fingerprint of the source's descriptor, which you did not get with the file.
    #[arg(long, value_parser = parse_fingerprint, conflicts_with_all = ["policy", "html", "claim", "nonce"])]
    source_fingerprint: Option<Fingerprint>,
    /// Of a certificate: the fingerprint of the destination's descriptor, likewise.
    #[arg(long, value_parser = parse_fingerprint, conflicts_with_all = ["policy", "html", "claim", "nonce"])]
    destination_fingerprint: Option<Fingerprint>,
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
        if self.folder.is_file() {
            return self.certificate(json);
        }
        let policy = self.policy.as_deref().ok_or_else(|| {
            Failure::Usage("evidence is judged by a trust policy: give --policy".to_owned())
        })?;
        let policy = read_policy(policy)?;
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

impl Verify {
    fn certificate(&self, json: bool) -> Result<(), Failure> {
        if self.policy.is_some() {
            return Err(Failure::Usage(
                "a certificate is judged by fingerprints, not by a policy".to_owned(),
            ));
        }
        let path = self.folder.display();
        let mut bytes = Vec::new();
        std::fs::File::open(&self.folder)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| Failure::NoAnswer(format!("{path}: {error}")))?;
        let bundle =
            Bundle::parse(&bytes).map_err(|error| Failure::NoAnswer(format!("{path}: {error}")))?;
        let pin = |given: Option<Fingerprint>| given.map(|fingerprint| fingerprint.0);
        let pins = Pins {
            source: pin(self.source_fingerprint),
            destination: pin(self.destination_fingerprint),
        };
        let report = verify_certificate(&bundle, &pins);
        line(if json {
            report.to_json()
        } else {
            report.to_text()
        });
        match report.holds() {
            true => Ok(()),
            false => Err(Failure::No),
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
