//! What came out of a certificate, for people and for programs.
//!
//! Owns the result, its text and its JSON. Refuses control characters out of the file, and to leave out assumptions and limits.

use std::fmt::Write as _;

use serde::Serialize;
use tlog::certificate::Relocation;

use super::CertificateClaim;
use crate::limits::{ASSUMPTIONS, LIMITS};
use crate::time::utc;

/// Every claim of a certificate, and what it is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CertificateReport {
    format: u32,
    holds: bool,
    claims: Vec<CertificateClaim>,
    assumptions: Vec<Words>,
    limits: Vec<Words>,
    statement: Relocation,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Words {
    id: &'static str,
    text: &'static str,
}

fn words(list: &[(&'static str, &'static str)]) -> Vec<Words> {
    let words = list.iter().map(|(id, text)| Words { id, text });
    words.collect()
}

impl CertificateReport {
    pub(super) fn new(statement: Relocation, claims: Vec<CertificateClaim>) -> Self {
        Self {
            format: 1,
            holds: claims.iter().all(|claim| claim.holds),
            claims,
            assumptions: words(ASSUMPTIONS),
            limits: words(LIMITS),
            statement,
        }
    }

    /// Whether every claim came out as a certificate needs it.
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// All claims, in order.
    pub fn claims(&self) -> &[CertificateClaim] {
        &self.claims
    }

    /// One claim.
    pub fn claim(&self, id: &str) -> Option<&CertificateClaim> {
        self.claims.iter().find(|claim| claim.id == id)
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("no map key and no value of it can fail")
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.lines(&mut out).expect("a string takes every write");
        out.chars()
            .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
            .collect()
    }

    fn lines(&self, out: &mut String) -> std::fmt::Result {
        let said = &self.statement;
        let (from, to) = (&said.source.party, &said.destination.party);
        writeln!(out, "Certificate of relocation {}", said.relocation)?;
        writeln!(out, "  dataset  {}", said.dataset)?;
        writeln!(out, "  from     {} ({})", from.region, from.jurisdiction)?;
        writeln!(out, "  to       {} ({})", to.region, to.jurisdiction)?;
        writeln!(out, "  epoch    {} to {}", said.epoch_from, said.epoch_to)?;
        writeln!(out, "  root     {}", said.catalog_root)?;
        writeln!(out, "  made     {}\n", utc(said.issued_ms))?;
        let open: Vec<&str> = self
            .claims
            .iter()
            .filter(|claim| !claim.holds)
            .map(|claim| claim.id)
            .collect();
        match open.is_empty() {
            true => writeln!(
                out,
                "The certificate holds, under the assumptions and with the limits below.\n"
            )?,
            false => writeln!(
                out,
                "The certificate does not hold as it is: {}.\n",
                open.join(", ")
            )?,
        }
        for claim in &self.claims {
            let mark = if claim.holds { ' ' } else { '!' };
            writeln!(
                out,
                "{mark}{} {}: {}",
                claim.id,
                plain(&claim.verdict.to_string()),
                claim.title
            )?;
            writeln!(out, "     {}", plain(&claim.statement))?;
            let mut on = claim.rests_on.to_vec();
            on.extend(claim.assumptions);
            on.push("A9");
            writeln!(out, "     rests on {}", on.join(", "))?;
        }
        writeln!(out, "\nIn the statement, word for word:")?;
        said.limits
            .iter()
            .try_for_each(|limit| writeln!(out, "  {}", plain(limit)))?;
        writeln!(out, "\nAssumptions:")?;
        ASSUMPTIONS
            .iter()
            .try_for_each(|(id, text)| writeln!(out, "  {id} {text}"))?;
        writeln!(out, "\nLimits. No certificate shows:")?;
        LIMITS
            .iter()
            .try_for_each(|(id, text)| writeln!(out, "  {id} {text}"))
    }
}

/// A name out of the file as one line.
fn plain(text: &str) -> String {
    text.replace('\n', "?")
}
