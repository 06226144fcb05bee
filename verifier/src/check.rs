//! The verdicts: every claim of the list, in order, each on what the ones before it established.
//!
//! Owns the order and the rule that a claim is not better than what it rests on. Refuses to look at anything but the
//! folder, the trust policy and what the investigator brought along.

mod access;
mod attested;
mod dataset;
mod log;
mod region;
mod store;
mod whole;

use std::collections::BTreeMap;

use tlog::Policy;

use crate::claim::{Claim, ClaimId, Verdict};
use crate::folder::Folder;
use crate::format::{
    CHALLENGE, CHECKPOINTS, GAPS, HEADERS, INDEX_FILE, LEAVES, OBJECTS, SIGNATURE_FILE, WITNESSES,
};
use crate::report::Report;

/// What the investigator brings besides the trust policy.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Asked {
    /// The nonce of the storage challenge, kept apart from the folder.
    pub nonce: Option<[u8; 32]>,
    /// Claims that have to be proven; empty: those of [`ClaimId::is_asked`].
    pub claims: Vec<ClaimId>,
}

/// What one check found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Finding {
    verdict: Verdict,
    statement: String,
}

impl Finding {
    pub(crate) fn proven(statement: impl Into<String>) -> Self {
        Self::of(Verdict::Proven, statement)
    }

    pub(crate) fn not_shown(statement: impl Into<String>) -> Self {
        Self::of(Verdict::NotShown, statement)
    }

    pub(crate) fn contradicted(statement: impl Into<String>) -> Self {
        Self::of(Verdict::Contradicted, statement)
    }

    pub(crate) fn asserted(who: impl Into<String>, statement: impl Into<String>) -> Self {
        Self::of(Verdict::AssertedBy(who.into()), statement)
    }

    fn of(verdict: Verdict, statement: impl Into<String>) -> Self {
        let statement = statement.into();
        Self { verdict, statement }
    }

    pub(crate) fn into_parts(self) -> (Verdict, String) {
        (self.verdict, self.statement)
    }
}

/// Judges every claim.
pub fn verify(folder: &Folder, policy: &Policy, asked: &Asked) -> Report {
    let log = log::read(folder, policy);
    let slice = dataset::read(folder, &log);
    let region = region::read(folder, &log);
    let mut found: BTreeMap<ClaimId, Finding> = BTreeMap::new();
    found.extend(log.findings(folder));
    found.insert(ClaimId::F1, whole::judge(folder, &region));
    found.extend(slice.findings(folder, &log));
    found.extend(access::judge(folder, &slice));
    found.extend(region.findings(folder));
    found.extend(store::judge(folder, &slice, asked));
    found.insert(ClaimId::X1, attested::judge(folder, &region));
    found.extend(not_in_this_version());
    let mut claims: Vec<Claim> = Vec::new();
    for id in ClaimId::ALL {
        let finding = found
            .remove(id)
            .unwrap_or_else(|| Finding::not_shown("nothing in the folder speaks of it"));
        claims.push(bounded_by(*id, finding, &claims));
    }
    let chosen = |id: ClaimId| match asked.claims.is_empty() {
        true => id.is_asked(),
        false => asked.claims.contains(&id),
    };
    let asked = claims.iter().map(|claim| claim.id).filter(|id| chosen(*id));
    Report {
        asked: asked.collect(),
        claims,
        facts: access::facts(folder, &log, &slice, &region),
    }
}

/// A claim is proven, or somebody's word, only on claims that are proven.
fn bounded_by(id: ClaimId, finding: Finding, before: &[Claim]) -> Claim {
    let weak = id.rests_on().iter().find(|needed| {
        let claim = before.iter().find(|claim| claim.id == **needed);
        claim.is_none_or(|claim| claim.verdict != Verdict::Proven)
    });
    let Finding { verdict, statement } = finding;
    let (verdict, statement) = match (verdict, weak) {
        (Verdict::Proven | Verdict::AssertedBy(_), Some(weak)) => (
            Verdict::NotShown,
            format!("{} is not proven, and this rests on it", weak.as_str()),
        ),
        (verdict, _) => (verdict, statement),
    };
    Claim {
        id,
        title: id.title(),
        verdict,
        statement,
        evidence: evidence(id),
        rests_on: id.rests_on(),
        assumptions: id.assumptions(),
    }
}

fn evidence(id: ClaimId) -> &'static [&'static str] {
    match id {
        ClaimId::F1 => &[INDEX_FILE, SIGNATURE_FILE],
        ClaimId::L1 | ClaimId::L2 | ClaimId::L3 => &[CHECKPOINTS],
        ClaimId::L4 | ClaimId::L5 => &[LEAVES, CHECKPOINTS],
        ClaimId::L6 => &[GAPS, CHECKPOINTS],
        ClaimId::D1 | ClaimId::D2 | ClaimId::D3 => &[LEAVES],
        ClaimId::D4 | ClaimId::D5 | ClaimId::D6 | ClaimId::R1 => &[LEAVES],
        ClaimId::W1 => &[WITNESSES, LEAVES],
        ClaimId::O1 | ClaimId::O3 => &[OBJECTS, INDEX_FILE],
        ClaimId::O2 => &[OBJECTS, LEAVES],
        ClaimId::O4 => &[CHALLENGE, OBJECTS],
        ClaimId::X1 => &[HEADERS, OBJECTS, LEAVES],
        ClaimId::X2 | ClaimId::X3 | ClaimId::X4 => &[],
    }
}

fn not_in_this_version() -> [(ClaimId, Finding); 3] {
    [
        (
            ClaimId::X2,
            "no attestation of hardware or software is part of a folder of this format",
        ),
        (
            ClaimId::X3,
            "destruction of keys is not part of a folder of this format",
        ),
        (
            ClaimId::X4,
            "no software shows where a machine stands; see limit N4",
        ),
    ]
    .map(|(id, why)| (id, Finding::not_shown(why)))
}
