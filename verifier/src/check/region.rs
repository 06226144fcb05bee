//! R1 and W1: who was enrolled, and the region's own witness policy.
//!
//! Owns the replay of enrolment leaves. Refuses to call the set complete where leaves of the log are not in the folder:
//! events of a region have no chain of their own.

use std::collections::BTreeMap;

use proto::ids::Identity;
use serde::Deserialize;
use tlog::{Kind, sha256};

use super::Finding;
use super::dataset::details;
use super::log::Log;
use crate::claim::ClaimId;
use crate::folder::Folder;

#[derive(Deserialize)]
struct Enrolled {
    identity: String,
    public_key_sha256: String,
}

#[derive(Deserialize)]
struct Began {
    origin: String,
    enrolled: Vec<Enrolled>,
}

#[derive(Deserialize)]
struct Changed {
    added: Vec<Enrolled>,
    removed: Vec<String>,
}

#[derive(Deserialize)]
struct Witnesses {
    policy_sha256: String,
}

/// Enrolments at the end, as the leaves shown have them.
pub(super) struct Members {
    /// Identity, and SHA-256 of its public key in hexadecimal.
    keys: BTreeMap<String, String>,
    /// Every identity that ever was enrolled.
    ever: BTreeMap<String, u64>,
    hidden: Option<u64>,
    began: Option<String>,
    witnesses: Option<(u64, Option<String>)>,
    complete: bool,
}

pub(super) fn read(_folder: &Folder, log: &Log) -> Members {
    let mut members = Members {
        keys: BTreeMap::new(),
        ever: BTreeMap::new(),
        hidden: None,
        began: None,
        witnesses: None,
        complete: log.size() == Some(log.leaves.len() as u64),
    };
    for shown in &log.leaves {
        let index = shown.index;
        let (added, removed) = match shown.leaf.kind() {
            Kind::Initialised => match details::<Began>(shown) {
                Some(began) => {
                    members.began = Some(began.origin);
                    (began.enrolled, Vec::new())
                }
                None => {
                    members.hidden = Some(index);
                    continue;
                }
            },
            Kind::EnrolmentChanged => match details::<Changed>(shown) {
                Some(changed) => (changed.added, changed.removed),
                None => {
                    members.hidden = Some(index);
                    continue;
                }
            },
            Kind::WitnessesChanged => {
                let policy = details::<Witnesses>(shown).map(|w| w.policy_sha256);
                members.witnesses = Some((index, policy));
                continue;
            }
            _ => continue,
        };
        for gone in removed {
            members.keys.remove(&gone);
        }
        for Enrolled {
            identity,
            public_key_sha256,
        } in added
        {
            members.ever.insert(identity.clone(), index);
            members.keys.insert(identity, public_key_sha256);
        }
    }
    members
}

impl Members {
    /// SHA-256, in hexadecimal, of the key under which an identity is enrolled.
    pub(super) fn key_of(&self, identity: &str) -> Option<&str> {
        self.keys.get(identity).map(String::as_str)
    }

    pub(super) fn identities(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }

    pub(super) fn findings(&self, folder: &Folder) -> [(ClaimId, Finding); 2] {
        [
            (ClaimId::R1, self.enrolled(folder)),
            (ClaimId::W1, self.policy(folder)),
        ]
    }

    fn enrolled(&self, folder: &Folder) -> Finding {
        let index = folder.index();
        let Some(began) = &self.began else {
            return Finding::not_shown("the region's first leaf is not disclosed");
        };
        if *began != index.origin {
            return Finding::contradicted(format!("the region began with the log {began}"));
        }
        if let Some(leaf) = self.hidden {
            return Finding::not_shown(format!("the enrolments of leaf {leaf} are not disclosed"));
        }
        for (identity, leaf) in &self.ever {
            let of = identity.parse::<Identity>().ok();
            if of.is_none_or(|identity| identity.region().as_str() != index.region) {
                return Finding::contradicted(format!("leaf {leaf} enrolled {identity}"));
            }
        }
        let statement = format!(
            "{} identities are enrolled at the end, {} ever were, all of region {}",
            self.keys.len(),
            self.ever.len(),
            index.region
        );
        if self.complete {
            return Finding::proven(statement + "; every leaf of the log is in the folder");
        }
        Finding::asserted(
            index.exporter.as_str(),
            statement + "; not every leaf of the log is in the folder",
        )
    }

    fn policy(&self, folder: &Folder) -> Finding {
        let Some(policy) = folder.witness_policy() else {
            return Finding::not_shown("the region's witness policy is not in the folder");
        };
        let Some((leaf, Some(recorded))) = &self.witnesses else {
            return Finding::not_shown("no leaf of the folder shows which policy is in force");
        };
        if hex::encode(sha256(&[policy]).0) != *recorded {
            return Finding::contradicted(format!("leaf {leaf} recorded another witness policy"));
        }
        let statement = format!("the policy in the folder is the one that leaf {leaf} recorded");
        if self.complete {
            return Finding::proven(statement + ", and no later leaf changed it");
        }
        Finding::asserted(
            folder.index().exporter.as_str(),
            statement + ", the newest shown",
        )
    }
}
