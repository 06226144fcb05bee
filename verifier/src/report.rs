//! What came out, for people and for programs.
//!
//! Owns the result and its JSON. Refuses to leave out assumptions and limits in any form.

mod chart;
mod html;
mod text;

use serde::Serialize;

use crate::claim::{Claim, ClaimId, Verdict};
use crate::format::{Gap, Period};
use crate::limits::{ASSUMPTIONS, LIMITS};

/// Every claim, and what a reader wants to see beside them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Claims that have to be proven.
    pub asked: Vec<ClaimId>,
    /// All claims, in order.
    pub claims: Vec<Claim>,
    /// Names, accesses, gaps: out of leaves and checkpoints that hold.
    pub facts: Facts,
}

/// What the folder is about. Nothing here is a verdict.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Facts {
    /// As the index states it.
    pub region: String,
    /// As the index states it.
    pub origin: String,
    /// As the index states it.
    pub dataset: String,
    /// As the index states it.
    pub period: Period,
    /// By the exporter's clock.
    pub made_ms: u64,
    /// As the index states it.
    pub exporter: String,
    /// Leases and opens in the period, of leaves that stand in the log.
    pub accesses: Vec<Access>,
    /// Other leaves of the dataset.
    pub key_events: Vec<Access>,
    /// Who is enrolled at the end, as the leaves shown have it.
    pub enrolled: Vec<String>,
    /// When the quorum vouched for the log, in seconds.
    pub cosigned: Vec<u64>,
    /// When it did not, computed here.
    pub gaps: Vec<Gap>,
}

/// One event, with what is disclosed of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Access {
    /// Index of its leaf.
    pub leaf: u64,
    /// Region time.
    pub time_ms: u64,
    /// Kind of the leaf.
    pub kind: String,
    /// Stated purpose.
    pub purpose: String,
    /// Who; `None` where withheld.
    pub actor: Option<String>,
    /// Stated case; `None` where withheld or not stated.
    pub case: Option<String>,
    /// Objects whose keys were released.
    pub objects: usize,
    /// Plaintext bytes they open.
    pub bytes: Option<u64>,
}

#[derive(Serialize)]
struct Document<'r> {
    format: u32,
    all_asked_proven: bool,
    asked: &'r [ClaimId],
    claims: &'r [Claim],
    assumptions: Vec<Words>,
    limits: Vec<Words>,
    facts: &'r Facts,
}

#[derive(Serialize)]
struct Words {
    id: &'static str,
    text: &'static str,
}

impl Report {
    /// Whether every claim that was asked for is proven.
    pub fn is_proven(&self) -> bool {
        self.unproven().next().is_none()
    }

    /// Claims that were asked for and are not proven.
    pub fn unproven(&self) -> impl Iterator<Item = &Claim> {
        let asked = self
            .claims
            .iter()
            .filter(|claim| self.asked.contains(&claim.id));
        asked.filter(|claim| claim.verdict != Verdict::Proven)
    }

    /// One claim.
    pub fn claim(&self, id: ClaimId) -> &Claim {
        let found = self.claims.iter().find(|claim| claim.id == id);
        found.expect("a report has every claim")
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        let words = |list: &[(&'static str, &'static str)]| {
            let words = list.iter().map(|(id, text)| Words { id, text });
            words.collect::<Vec<_>>()
        };
        let document = Document {
            format: 1,
            all_asked_proven: self.is_proven(),
            asked: &self.asked,
            claims: &self.claims,
            assumptions: words(ASSUMPTIONS),
            limits: words(LIMITS),
            facts: &self.facts,
        };
        serde_json::to_string_pretty(&document).expect("no map key and no value of it can fail")
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        text::write(self)
    }

    /// One self-contained page, to read and to print: no script, nothing from elsewhere.
    pub fn to_html(&self) -> String {
        html::write(self)
    }

    /// The one sentence that stands above everything.
    fn conclusion(&self) -> String {
        let missing: Vec<&str> = self.unproven().map(|claim| claim.id.as_str()).collect();
        if missing.is_empty() {
            return format!(
                "Every claim asked for ({}) is proven, under the assumptions below. In that sense, and no other, \
                 the dataset is cryptographically confined to {} under A1..A9.",
                self.asked.len(),
                self.facts.region
            );
        }
        format!(
            "{} of {} claims asked for are not proven: {}.",
            missing.len(),
            self.asked.len(),
            missing.join(", ")
        )
    }
}
