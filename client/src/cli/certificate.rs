//! `reduit relocate certificate`: what both regions sign of a relocation, as one file that `reduit verify` reads.
//!
//! Owns files and what is printed.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use client::ids::RegionId;
use client::{CertificateStep, Region, Tuning};
use indicatif::{ProgressBar, ProgressStyle};
use proto::relocation::Named;
use serde::Deserialize;

use super::Session;
use super::failure::{Failure, file};
use super::output::line;

pub(crate) const HELP: &str = "Both contexts have to be of an auditor, who is shown what leaves commit to. The end of the source's key has to be
scheduled (`reduit relocate shred`); made before it was performed, the certificate says so, and is made again after it.

Examples:
  reduit relocate certificate plan.json --source-context zrh-audit --destination-context fra-audit --out cert.json
  reduit verify cert.json --source-fingerprint 3f0c... --destination-fingerprint 91ab...
  jq -r .certificate.payload cert.json | base64 -d | jq .predicate";

/// Bytes of a plan.
const PLAN_BYTES_MAX: u64 = 64 << 10;

/// What both regions sign of a relocation, with the proofs from both logs.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct Certificate {
    /// The plan, as `reduit relocate plan` wrote it.
    plan: PathBuf,
    /// The context of an auditor of the region that it was in.
    #[arg(long)]
    source_context: String,
    /// The context of an auditor of the region that it is in.
    #[arg(long)]
    destination_context: String,
    /// Where to write it.
    #[arg(short, long)]
    out: PathBuf,
}

/// What is needed of a plan.
#[derive(Deserialize)]
struct Plan {
    relocation: String,
    dataset: String,
    source: RegionId,
    destination: RegionId,
}

impl Plan {
    fn read(path: &Path) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(PLAN_BYTES_MAX).read_to_end(&mut bytes))
            .map_err(file(format!("reading {}", path.display())))?;
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::Usage(format!("{} is no plan of a relocation", path.display())))
    }

    fn named(&self) -> Result<Named, Failure> {
        let bytes = |text: &str| hex::decode(text).unwrap_or_default();
        Ok(Named::parse(
            &bytes(&self.dataset),
            &bytes(&self.relocation),
        )?)
    }
}

impl Certificate {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let plan = Plan::read(&self.plan)?;
        let named = plan.named()?;
        let source = connected(session, &self.source_context, &plan.source).await?;
        let destination = connected(session, &self.destination_context, &plan.destination).await?;
        let bar = match session.json {
            true => ProgressBar::hidden(),
            false => ProgressBar::no_length(),
        };
        bar.set_style(
            ProgressStyle::with_template("{msg} {pos}").expect("the template is a constant"),
        );
        let told = |step: CertificateStep| match step {
            CertificateStep::Reading(region) => bar.set_message(format!("reading {region}'s log")),
            CertificateStep::Signing(region) => bar.set_message(format!("signed by {region}")),
            CertificateStep::Proving {
                region,
                done,
                total,
            } => {
                bar.set_message(format!("proofs of {region}, of {total}:"));
                bar.set_position(done);
            }
        };
        let bundle = source
            .certify_relocation(&destination, &named, &told)
            .await?;
        bar.finish_and_clear();
        let bytes = bundle.encode();
        if bytes.len() as u64 > verifier::FILE_BYTES_MAX {
            return Err(Failure::Usage(format!(
                "the certificate has {} bytes, more than `reduit verify` reads",
                bytes.len()
            )));
        }
        std::fs::write(&self.out, &bytes)
            .map_err(file(format!("writing {}", self.out.display())))?;
        let leaves = [bundle.source(), bundle.destination()].map(|part| part.leaves().len());
        if session.json {
            line(serde_json::json!({
                "file": self.out,
                "relocation": named.relocation.to_string(),
                "source_leaves": leaves[0],
                "destination_leaves": leaves[1],
                "bytes": bytes.len(),
            }));
        } else {
            line(format!(
                "{}: signed by {} and {}, with {} and {} leaves",
                self.out.display(),
                plan.source,
                plan.destination,
                leaves[0],
                leaves[1]
            ));
        }
        Ok(())
    }
}

/// The region of a context, if it is the one that the plan names.
async fn connected(session: &Session, name: &str, region: &RegionId) -> Result<Region, Failure> {
    let contexts = session.contexts()?;
    let (_, context) = contexts.choose(Some(name))?;
    if context.region != *region {
        return Err(Failure::Usage(format!(
            "context {name} is of region {}, and the plan names {region}",
            context.region
        )));
    }
    Ok(Region::connect(context, Tuning::default()).await?)
}
