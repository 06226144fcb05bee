//! A notice: an operator's signed word to others that a relocation is planned.
//!
//! Owns its file. Refuses one whose signature does not hold. Whose the key is that signed, people compare by its fingerprint:
//! no region knows another one's operators.

use proto::ids::{Identity, UnixMs};
use proto::transcript::LABEL_RELOCATION_NOTICE;
use serde::{Deserialize, Serialize};
use transport::{LocalIdentity, PublicKey};

use super::malformed;
use super::plan::RelocationPlan;
use crate::error::Error;
use crate::kms::now;
use crate::operator::sha256;

const FORMAT: u32 = 1;
/// Bytes of a notice as a file.
const NOTICE_BYTES_MAX: usize = 256 << 10;

/// A notice that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelocationNotice {
    /// Who gives it.
    pub by: Identity,
    /// When, by their clock.
    pub at: UnixMs,
    /// What is planned.
    pub plan: RelocationPlan,
    /// SHA-256 of the public key that signed (DER SubjectPublicKeyInfo).
    pub key_fingerprint: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoticeFile {
    reduit_relocation_notice: u32,
    statement: String,
    signer: String,
    signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Statement {
    by: String,
    at_ms: u64,
    plan: String,
}

impl RelocationNotice {
    /// Signs a notice of a plan, as a file.
    pub fn sign(plan: &RelocationPlan, by: &LocalIdentity) -> String {
        let statement = Statement {
            by: by.identity().to_string(),
            at_ms: now().0,
            plan: plan.to_text(),
        };
        let statement = serde_json::to_vec(&statement).expect("text and numbers always encode");
        let signature = by.sign(LABEL_RELOCATION_NOTICE, &statement);
        let file = NoticeFile {
            reduit_relocation_notice: FORMAT,
            signer: hex::encode(by.public_key().as_spki()),
            signature: hex::encode(signature),
            statement: hex::encode(statement),
        };
        let mut text = serde_json::to_string_pretty(&file).expect("text always encodes");
        text.push('\n');
        text
    }

    /// From a file, whose signature holds by the key that it names.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let none = || malformed("that file is no notice of a relocation");
        if text.len() > NOTICE_BYTES_MAX {
            return Err(none());
        }
        let file: NoticeFile = serde_json::from_str(text).map_err(|_| none())?;
        if file.reduit_relocation_notice != FORMAT {
            return Err(malformed("a notice of a later format"));
        }
        let bytes = |text: &str| hex::decode(text).map_err(|_| none());
        let (statement, signer) = (bytes(&file.statement)?, bytes(&file.signer)?);
        let signature = bytes(&file.signature)?;
        PublicKey::from_spki(&signer)
            .ok()
            .and_then(|key| {
                key.verify(LABEL_RELOCATION_NOTICE, &statement, &signature)
                    .ok()
            })
            .ok_or_else(|| malformed("the notice's signature does not hold"))?;
        let stated: Statement = serde_json::from_slice(&statement).map_err(|_| none())?;
        Ok(Self {
            by: stated.by.parse()?,
            at: UnixMs(stated.at_ms),
            plan: RelocationPlan::parse(&stated.plan)?,
            key_fingerprint: sha256(&signer),
        })
    }
}
