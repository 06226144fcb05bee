//! The operators who approve what somebody else asks for, as their own certificates and keys.

use std::path::PathBuf;

use clap::Args;
use transport::LocalIdentity;

use super::failure::Failure;

/// Operators who approve; not the one who asks. How many it takes, the region says.
#[derive(Args)]
pub(crate) struct Approvers {
    /// An approving operator's certificate (PEM); give it and --key once for each.
    #[arg(long)]
    certificate: Vec<PathBuf>,
    /// The same operator's key (PEM).
    #[arg(long)]
    key: Vec<PathBuf>,
}

impl Approvers {
    pub(crate) fn load(&self) -> Result<Vec<LocalIdentity>, Failure> {
        if self.certificate.len() != self.key.len() {
            let why = "each --certificate takes a --key";
            return Err(Failure::Usage(why.to_owned()));
        }
        let pairs = self.certificate.iter().zip(&self.key);
        pairs
            .map(|(certificate, key)| {
                LocalIdentity::load(certificate, key)
                    .map_err(|error| Failure::Usage(format!("an approver's identity: {error}")))
            })
            .collect()
    }
}
