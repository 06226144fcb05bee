//! The report for a terminal.
//!
//! Owns its lines. Refuses control characters out of the folder: they could rewrite what stands above them.

use std::fmt::Write as _;

use super::Report;
use crate::limits::{ASSUMPTIONS, LIMITS};
use crate::time::utc;

pub(super) fn write(report: &Report) -> String {
    let mut out = String::new();
    lines(report, &mut out).expect("a string takes every write");
    out.chars()
        .map(|c| if c.is_control() && c != '\n' { '?' } else { c })
        .collect()
}

/// A name out of the folder as one line.
fn plain(text: &str) -> String {
    text.replace('\n', "?")
}

fn lines(report: &Report, out: &mut String) -> std::fmt::Result {
    let facts = &report.facts;
    writeln!(out, "Evidence about dataset {}", plain(&facts.dataset))?;
    writeln!(out, "  region   {}", plain(&facts.region))?;
    writeln!(out, "  log      {}", plain(&facts.origin))?;
    let period = (utc(facts.period.from_ms), utc(facts.period.to_ms));
    writeln!(out, "  period   {} to {}", period.0, period.1)?;
    let made = (plain(&facts.exporter), utc(facts.made_ms));
    writeln!(out, "  made by  {}, {} by its clock\n", made.0, made.1)?;
    writeln!(out, "{}\n", report.conclusion())?;
    for claim in &report.claims {
        let asked = if report.asked.contains(&claim.id) {
            "*"
        } else {
            " "
        };
        writeln!(
            out,
            "{asked}{} {}: {}",
            claim.id.as_str(),
            plain(&claim.verdict.to_string()),
            claim.title
        )?;
        writeln!(out, "     {}", plain(&claim.statement))?;
        let mut on: Vec<&str> = claim.evidence.to_vec();
        on.extend(claim.rests_on.iter().map(|id| id.as_str()));
        on.extend(claim.assumptions);
        on.push("A9");
        writeln!(out, "     rests on {}", on.join(", "))?;
    }
    writeln!(out, "\n* asked for. Gaps between cosignatures:")?;
    if facts.gaps.is_empty() {
        writeln!(out, "  none")?;
    }
    for gap in &facts.gaps {
        let times = (
            utc(gap.from_s.saturating_mul(1_000)),
            utc(gap.to_s.saturating_mul(1_000)),
        );
        writeln!(out, "  {} to {}", times.0, times.1)?;
    }
    writeln!(out, "\nAssumptions:")?;
    ASSUMPTIONS
        .iter()
        .try_for_each(|(id, text)| writeln!(out, "  {id} {text}"))?;
    writeln!(out, "\nLimits. No folder shows:")?;
    LIMITS
        .iter()
        .try_for_each(|(id, text)| writeln!(out, "  {id} {text}"))
}
