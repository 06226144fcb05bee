//! Who vouches for the region's log besides the region itself.
//!
//! Owns the policy in force: a C2SP tlog-policy of this log's origin, and how long a release may go without a fresh
//! cosignature. Refuses: a policy of another log, a quorum that the region's own replicas make by themselves, and a
//! change without dual control. Cosignatures are not state: each replica checks them where it uses them.

use prost::Message;
use proto::v1::{ChangeWitnesses, KmsDone, WitnessPolicy};
use serde::Serialize;
use tlog::{Kind, Policy};

use crate::append::Applying;
use crate::apply::Stop;
use crate::layout;
use crate::members::DualControlled;
use crate::read;
use crate::refusal::Refusal;

/// Bytes of a policy: a log, and tens of witnesses with their addresses.
pub const POLICY_TEXT_MAX: usize = 64 << 10;
/// How long a region may choose to release keys without a fresh cosignature: a minute, so that one missed round does
/// not stop it, to 30 days.
pub const UNWITNESSED_MS: std::ops::RangeInclusive<u64> = 60_000..=30 * 24 * 3_600_000;
const FORMAT: u32 = 1;

/// A policy that holds for this region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessRule {
    policy: Policy,
    unwitnessed_max_ms: u64,
    witnessed: bool,
}

/// Whether a key's name is one of the region's own: its log and its replicas, which never count as outside.
pub fn is_own_name(region: &str, name: &str) -> bool {
    name.strip_prefix(region)
        .is_some_and(|rest| rest.starts_with('/'))
}

impl WitnessRule {
    /// Checks a policy completely.
    pub fn parse(stored: &WitnessPolicy, region: &str, origin: &str) -> Result<Self, Refusal> {
        let malformed = |what| Err(Refusal::Malformed(what));
        if stored.format != FORMAT || stored.policy.len() > POLICY_TEXT_MAX {
            return malformed("format or length of the witness policy");
        }
        if !UNWITNESSED_MS.contains(&stored.unwitnessed_max_ms) {
            return malformed("releases go without a witness for a minute to 30 days");
        }
        let policy = Policy::parse(&stored.policy)
            .map_err(|_| Refusal::Malformed("the witness policy is no tlog-policy"))?;
        let logs = policy.logs();
        if logs.is_empty() || logs.iter().any(|log| log.key.name().as_str() != origin) {
            return malformed("the witness policy is not of this region's log");
        }
        let witnessed = !policy.quorum_of(|_| false);
        let own = |party: &tlog::Party| is_own_name(region, party.key.name().as_str());
        if witnessed && policy.quorum_of(own) {
            return malformed("the region's own replicas would make the quorum");
        }
        Ok(Self {
            policy,
            unwitnessed_max_ms: stored.unwitnessed_max_ms,
            witnessed,
        })
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether it asks for anybody's cosignature; `quorum none` does not.
    pub fn witnessed(&self) -> bool {
        self.witnessed
    }

    /// How old the newest witnessed checkpoint may be.
    pub fn unwitnessed_max_ms(&self) -> u64 {
        self.unwitnessed_max_ms
    }
}

#[derive(Serialize)]
struct Details {
    policy_sha256: String,
    before_sha256: String,
    outgoing_size: u64,
    unwitnessed_max_ms: u64,
    witnesses: Vec<String>,
    quorum: bool,
}

fn digest(policy: &[u8]) -> String {
    hex::encode(tlog::sha256(&[policy]).0)
}

pub(crate) fn change(
    applying: &mut Applying<'_>,
    command: &ChangeWitnesses,
) -> Result<KmsDone, Stop> {
    let stored = command
        .policy
        .as_ref()
        .ok_or(Refusal::Malformed("no witness policy"))?;
    let region = read::region(&*applying.state).ok_or(Refusal::NotInitialised)?;
    if stored.format > FORMAT {
        return Err(Stop::Unknown("a witness policy of a later format"));
    }
    let rule = WitnessRule::parse(stored, &region.region, &region.log_origin)?;
    let change = DualControlled::check(applying, command.claim.as_ref())?;
    let before = read::witness_policy(&*applying.state).unwrap_or_default();
    let shown = Details {
        policy_sha256: digest(&stored.policy),
        before_sha256: if before.policy.is_empty() {
            String::new()
        } else {
            digest(&before.policy)
        },
        outgoing_size: command.outgoing_size,
        unwitnessed_max_ms: stored.unwitnessed_max_ms,
        witnesses: rule
            .policy()
            .witnesses()
            .map(|(_, party)| party.key.to_string())
            .collect(),
        quorum: rule.witnessed(),
    };
    applying
        .state
        .put(layout::WITNESSES, &stored.encode_to_vec());
    Ok(change.record(applying, Kind::WitnessesChanged, &shown))
}
