//! The report as one page that a lawyer reads and prints.
//!
//! Owns the page and its escaping. Refuses scripts, fonts, pictures and addresses from elsewhere: its content security
//! policy forbids them to a browser as well.

use std::fmt::Write as _;

use super::{Access, Report, chart};
use crate::claim::Verdict;
use crate::limits::{ASSUMPTIONS, LIMITS};
use crate::time::{span, utc};

/// Rows of one table; what is left out is counted. Everything is in the JSON.
const ROWS_MAX: usize = 500;

const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
<title>Evidence report</title><style>\
body{font:15px/1.5 Georgia,serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#111}\
h1,h2,th,.v{font-family:Helvetica,Arial,sans-serif}h2{margin-top:2rem;border-bottom:1px solid #999}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .5rem;border-bottom:1px solid #ccc;overflow-wrap:anywhere}\
.v{font-weight:bold;font-size:.8rem}.p{color:#186a3b}.a{color:#7d6608}.n{color:#555}.c{color:#c1121f}\
.box{border:2px solid #111;padding:.6rem 1rem}small{color:#444}svg{width:100%;height:auto}svg text{font:11px Helvetica,Arial,sans-serif}\
@media print{body{margin:0;max-width:none}h2{break-after:avoid}tr{break-inside:avoid}}\
</style></head><body>\n";

pub(super) fn write(report: &Report) -> String {
    let mut out = HEAD.to_owned();
    page(report, &mut out).expect("a string takes every write");
    out
}

fn page(report: &Report, out: &mut String) -> std::fmt::Result {
    let facts = &report.facts;
    writeln!(
        out,
        "<h1>Evidence about dataset {}</h1>",
        safe(&facts.dataset)
    )?;
    writeln!(
        out,
        "<p>Region <b>{}</b>, log <b>{}</b>. Period: {} to {}.<br>Made by {}, {} by its clock. Checked offline, \
         against the trust policy that the reader brought along.</p>",
        safe(&facts.region),
        safe(&facts.origin),
        utc(facts.period.from_ms),
        utc(facts.period.to_ms),
        safe(&facts.exporter),
        utc(facts.made_ms)
    )?;
    writeln!(out, "<p class=\"box\">{}</p>", safe(&report.conclusion()))?;
    writeln!(
        out,
        "<p><small><b>PROVEN</b>: follows from signatures of the trust policy and from hashes, under the assumptions \
         named. <b>ASSERTED-BY</b>: the word of whoever is named. <b>NOT-SHOWN</b>: this folder does not show it. \
         <b>CONTRADICTED</b>: this folder shows otherwise, or does not belong together.</small></p>"
    )?;
    claims(report, out)?;
    writeln!(out, "<h2>Accesses over time</h2>{}", chart::accesses(facts))?;
    events("Accesses in the period", &facts.accesses, out)?;
    events("Events of the key", &facts.key_events, out)?;
    writeln!(
        out,
        "<h2>When the log was vouched for</h2>{}",
        chart::gaps(facts)
    )?;
    writeln!(
        out,
        "<table><tr><th>no word of the quorum from</th><th>to</th><th>for</th></tr>"
    )?;
    for gap in facts.gaps.iter().take(ROWS_MAX) {
        let apart = gap.to_s.saturating_sub(gap.from_s);
        let times = [gap.from_s, gap.to_s].map(|s| utc(s.saturating_mul(1_000)));
        let [from, to] = times;
        writeln!(
            out,
            "<tr><td>{from}</td><td>{to}</td><td>{}</td></tr>",
            span(apart)
        )?;
    }
    writeln!(out, "</table>{}", left_out(facts.gaps.len()))?;
    words("Assumptions", ASSUMPTIONS, out)?;
    words("Limits: what no folder shows", LIMITS, out)?;
    writeln!(out, "</body></html>")
}

fn claims(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "<h2>Claims</h2><table><tr><th></th><th>verdict</th><th>claim</th></tr>"
    )?;
    for claim in &report.claims {
        let class = match claim.verdict {
            Verdict::Proven => "p",
            Verdict::AssertedBy(_) => "a",
            Verdict::NotShown => "n",
            Verdict::Contradicted => "c",
        };
        let asked = if report.asked.contains(&claim.id) {
            "asked for"
        } else {
            "not asked for"
        };
        let mut on: Vec<&str> = claim.evidence.to_vec();
        on.extend(claim.rests_on.iter().map(|id| id.as_str()));
        on.extend(claim.assumptions);
        on.push("A9");
        writeln!(
            out,
            "<tr><td>{}</td><td class=\"v {class}\">{}</td><td><b>{}</b><br>{}<br><small>{asked}; rests on {}</small></td></tr>",
            claim.id.as_str(),
            safe(&claim.verdict.to_string()),
            claim.title,
            safe(&claim.statement),
            on.join(", ")
        )?;
    }
    writeln!(out, "</table>")
}

fn events(title: &str, events: &[Access], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "<h2>{title}</h2><table><tr><th>leaf</th><th>time</th><th>what</th><th>purpose, case</th><th>who</th><th>objects</th></tr>"
    )?;
    for event in events.iter().take(ROWS_MAX) {
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}<br>{}</td><td>{}</td><td>{}</td></tr>",
            event.leaf,
            utc(event.time_ms),
            safe(&event.kind),
            safe(&event.purpose),
            safe(event.case.as_deref().unwrap_or("")),
            safe(event.actor.as_deref().unwrap_or("not disclosed")),
            event.objects
        )?;
    }
    writeln!(out, "</table>{}", left_out(events.len()))
}

fn words(title: &str, list: &[(&str, &str)], out: &mut String) -> std::fmt::Result {
    writeln!(out, "<h2>{title}</h2><table>")?;
    for (id, text) in list {
        writeln!(out, "<tr><td><b>{id}</b></td><td>{text}</td></tr>")?;
    }
    writeln!(out, "</table>")
}

fn left_out(rows: usize) -> String {
    match rows.checked_sub(ROWS_MAX) {
        Some(more) if more > 0 => format!("<p>{more} more rows are in the JSON report.</p>"),
        _ => String::new(),
    }
}

/// Text out of the folder, as text.
fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
