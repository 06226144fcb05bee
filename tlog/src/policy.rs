//! Trust policies: which logs, and whose cosignatures, make a checkpoint believable (C2SP tlog-policy).
//!
//! Owns the decision about one signed checkpoint, when it was last vouched for, and who is missing. Refuses: a
//! checkpoint of a log that is not listed under its origin, one signature of a listed key that does not hold, and too
//! few cosignatures. A cosignature that states no time counts for nothing: a witness always states one.

mod parse;

use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::cosignature::UnixSeconds;
use crate::key::VerifierKey;
use crate::note::{Note, NoteRefused, Signed};

pub use parse::{POLICY_BYTES_MAX, PolicyError, PolicyErrorKind};

/// Logs of a policy at most.
pub const LOGS_MAX: usize = 64;
/// Witnesses of a policy at most: one signature of each still fits into a note beside the log's.
pub const WITNESSES_MAX: usize = 64;
/// Groups of a policy at most, and so the depth of their nesting.
pub const GROUPS_MAX: usize = 64;

/// Name of a witness or group within a policy: octets without meaning elsewhere.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName(Vec<u8>);

impl PolicyName {
    /// As it stands in the file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PolicyName({self})")
    }
}

/// A log or witness and, where the policy has one, the address it is reached at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Party {
    /// Its key.
    pub key: VerifierKey,
    /// Its address, as written.
    pub url: Option<Vec<u8>>,
}

/// A policy as read from its file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    logs: Vec<Party>,
    /// Witnesses and groups in the order of their lines: a group refers to smaller positions alone, so that one pass
    /// from the front decides all of them.
    names: Vec<Named>,
    /// Position of the quorum; `None` for `quorum none`.
    quorum: Option<usize>,
    /// Every key once.
    keys: Vec<VerifierKey>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    name: PolicyName,
    is: Is,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Is {
    Witness(Party),
    Group {
        /// At least 1, at most the number of members.
        threshold: usize,
        members: Vec<usize>,
    },
}

/// A checkpoint that a policy accepts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trusted {
    checkpoint: Checkpoint,
    log: VerifierKey,
    cosigned: Vec<Cosigned>,
    as_of: Option<UnixSeconds>,
}

/// A witness that cosigned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cosigned {
    /// Its name in the policy.
    pub witness: PolicyName,
    /// When, as it states.
    pub time: UnixSeconds,
}

/// Why a policy does not accept a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefused {
    /// The signed text is no checkpoint.
    #[error("the signed text is no checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// A signature of a listed key does not hold, or no listed key signed.
    #[error("the signatures of the checkpoint do not hold")]
    Signatures(#[from] NoteRefused),
    /// No listed key of that name signed as the log.
    #[error("no log of the policy has signed as {origin}")]
    NotItsLog {
        /// Origin of the checkpoint.
        origin: crate::OriginLine,
    },
    /// The quorum is not reached.
    #[error("too few witnesses have cosigned; missing: {}", join(missing))]
    NoQuorum {
        /// Witnesses whose cosignature would count, in the order of the policy.
        missing: Vec<PolicyName>,
    },
}

fn join(names: &[PolicyName]) -> String {
    let names: Vec<String> = names.iter().map(PolicyName::to_string).collect();
    names.join(", ")
}

impl Trusted {
    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The log's key that signed it.
    pub fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// All witnesses that cosigned, whether the quorum needed them or not.
    pub fn cosigned(&self) -> &[Cosigned] {
        &self.cosigned
    }

    /// The latest time such that cosignatures of then or later make the quorum; `None` under `quorum none`.
    pub fn as_of(&self) -> Option<UnixSeconds> {
        self.as_of
    }
}

impl Policy {
    /// Logs, in the order of the file.
    pub fn logs(&self) -> &[Party] {
        &self.logs
    }

    /// Witnesses by name, in the order of the file.
    pub fn witnesses(&self) -> impl Iterator<Item = (&PolicyName, &Party)> {
        self.names.iter().filter_map(|named| match &named.is {
            Is::Witness(party) => Some((&named.name, party)),
            Is::Group { .. } => None,
        })
    }

    /// Whether cosignatures of exactly the witnesses that `signs` holds for would make the quorum. Under `quorum none`
    /// they always do.
    pub fn quorum_of(&self, signs: impl Fn(&Party) -> bool) -> bool {
        let mut met: Vec<bool> = Vec::with_capacity(self.names.len());
        for named in &self.names {
            met.push(match &named.is {
                Is::Witness(party) => signs(party),
                Is::Group { threshold, members } => {
                    members.iter().filter(|member| met[**member]).count() >= *threshold
                }
            });
        }
        self.quorum.is_none_or(|quorum| met[quorum])
    }

    /// Decides about a checkpoint.
    pub fn check(&self, note: &Note) -> Result<Trusted, PolicyRefused> {
        let checkpoint: Checkpoint = note.text().parse()?;
        let signed = note.verify(&self.keys)?;
        let is_its_log = |s: &&Signed<'_>| {
            let named = s.key.name().as_str() == checkpoint.origin().as_str();
            named && self.logs.iter().any(|log| log.key == *s.key)
        };
        let Some(log) = signed.iter().find(is_its_log) else {
            let origin = checkpoint.origin().clone();
            return Err(PolicyRefused::NotItsLog { origin });
        };
        let times = self.times(&signed);
        let as_of = match self.quorum {
            None => None,
            Some(quorum) if times[quorum].is_some() => times[quorum],
            Some(quorum) => {
                let missing = self.missing(quorum, &times);
                return Err(PolicyRefused::NoQuorum { missing });
            }
        };
        let cosigned = self.names.iter().zip(&times);
        let cosigned = cosigned.filter_map(|(named, time)| match (&named.is, time) {
            (Is::Witness(_), Some(time)) => Some(Cosigned {
                witness: named.name.clone(),
                time: *time,
            }),
            _ => None,
        });
        Ok(Trusted {
            log: log.key.clone(),
            cosigned: cosigned.collect(),
            as_of,
            checkpoint,
        })
    }

    /// For each name, since when it has witnessed the checkpoint: a witness since its own time, a group of threshold k
    /// since the k-th latest of its members.
    fn times(&self, signed: &[Signed<'_>]) -> Vec<Option<UnixSeconds>> {
        let mut times: Vec<Option<UnixSeconds>> = Vec::with_capacity(self.names.len());
        for named in &self.names {
            times.push(match &named.is {
                Is::Witness(party) => {
                    let own = signed.iter().find(|s| *s.key == party.key);
                    own.and_then(|s| s.time)
                }
                Is::Group { threshold, members } => {
                    let mut known: Vec<_> = members.iter().filter_map(|m| times[*m]).collect();
                    known.sort_unstable_by(|a, b| b.cmp(a));
                    known.get(threshold - 1).copied()
                }
            });
        }
        times
    }

    /// Witnesses without a cosignature below the groups that lack one.
    fn missing(&self, quorum: usize, times: &[Option<UnixSeconds>]) -> Vec<PolicyName> {
        // Each name is a member at most once, so nothing is visited twice.
        let (mut next, mut found) = (vec![quorum], Vec::new());
        while let Some(position) = next.pop() {
            if times[position].is_some() {
                continue;
            }
            match &self.names[position].is {
                Is::Witness(_) => found.push(position),
                Is::Group { members, .. } => next.extend(members),
            }
        }
        found.sort_unstable();
        found
            .into_iter()
            .map(|position| self.names[position].name.clone())
            .collect()
    }

    /// The policy's file, without comments.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut line = |words: &[&[u8]]| {
            out.extend_from_slice(&words.join(&b' '));
            out.push(b'\n');
        };
        for log in &self.logs {
            let key = log.key.to_string();
            let mut words: Vec<&[u8]> = vec![b"log", key.as_bytes()];
            words.extend(log.url.as_deref());
            line(&words);
        }
        for named in &self.names {
            match &named.is {
                Is::Witness(party) => {
                    let key = party.key.to_string();
                    let mut words: Vec<&[u8]> = vec![b"witness", &named.name.0, key.as_bytes()];
                    words.extend(party.url.as_deref());
                    line(&words);
                }
                Is::Group { threshold, members } => {
                    let threshold = threshold.to_string();
                    let mut words: Vec<&[u8]> = vec![b"group", &named.name.0, threshold.as_bytes()];
                    words.extend(members.iter().map(|m| &self.names[*m].name.0[..]));
                    line(&words);
                }
            }
        }
        match self.quorum {
            None => line(&[b"quorum", NONE]),
            Some(quorum) => line(&[b"quorum", &self.names[quorum].name.0]),
        }
        out
    }
}

/// The quorum that needs no cosignature; no witness or group may be called so.
const NONE: &[u8] = b"none";
