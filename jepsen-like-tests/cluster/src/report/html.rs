//! The page of a run for a person: verdict first, then the timeline, faults, anomalies, and how to see it again.
//!
//! Owns the layout. Refuses anything from outside the file, and text that was not escaped.

use std::fmt::Write as _;

use checker::Workload;

use super::Report;
use super::chart::{Line, chart};

const COLOURS: [&str; 8] = [
    "#3366cc", "#d9822b", "#2b9a66", "#a8324a", "#7a52b3", "#0f8b8d", "#8a6d3b", "#5c6b7a",
];
/// Operations of an anomaly that are shown.
const OPERATIONS_SHOWN: usize = 40;
/// Anomalies of a workload that are shown.
const ANOMALIES_SHOWN: usize = 20;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1160px;margin:2rem auto;padding:0 1rem;color:#1c2330;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5dbe3}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e4e8ee}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.good{color:#1c7a4b}.bad{color:#b3261e;font-weight:600}\
pre{background:#f4f6f9;padding:.6rem;overflow-x:auto;font-size:13px}svg{width:100%;height:auto}.grid{stroke:#e4e8ee}\
.tick{font-size:11px;fill:#5c6b7a}rect.fault{fill:#f2b8b5;opacity:.35}i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}\
i.fault{background:#f2b8b5}.legend span{margin-right:1em}figure{margin:1rem 0}figcaption{font-weight:600}code{background:#f4f6f9;padding:0 .2em}";

/// Which promise a workload tries to break.
fn promise(workload: Workload) -> &'static str {
    match workload {
        Workload::Register => "P6 linearizable, conditional writes included",
        Workload::Set => "P6 a listing is a snapshot; P5 nothing acknowledged is missing",
        Workload::Append => "P6 versions in one order; P5 none vanishes",
        Workload::Blocks => "P5 durable, large objects",
        Workload::Retry => "P6 a retry has effect once",
        Workload::KeyStates => "P2, P3 no use of a key after an acknowledged disable",
        Workload::Records => "P3 logged before released",
        Workload::Conditions => "P6 of those who state one condition one wins",
        Workload::Parts => "P5, P6 an upload becomes one object, whole, or none",
        Workload::Locks => "what is under compliance retention stays",
        Workload::Replicas => "every replica of a group holds the same",
    }
}

pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    let good = report.is_good();
    let (ok, fail, info) = report.totals();
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Reduit fault run, seed {seed}</title><style>{STYLE}</style>\
         <h1>Fault run, seed {seed}: <span class=\"{class}\">{verdict}</span></h1>\
         <p>{seconds} s of load: {all} operations, {ok} ok, {fail} refused, {info} of unknown outcome; acknowledged and lost or wrong: {wrong}; {faults} faults of {kinds} kinds. \
         Longest time without an acknowledged write {pause} ms. After the last fault the region was ready in {recovery} ms.</p>",
        seed = report.seed,
        class = if good { "good" } else { "bad" },
        verdict = if good {
            "every promise kept"
        } else {
            "NOT GOOD"
        },
        seconds = report.seconds,
        all = ok + fail + info,
        wrong = report.wrong(),
        faults = report.faults.len(),
        kinds = report.by_kind().len(),
        pause = report.write_pause_ms,
        recovery = report.recovery_ms,
    );
    if let Some(danger) = &report.danger {
        let _ = write!(
            out,
            "<p class=\"bad\">A promise was switched off on purpose in this run: <code>{}</code>.</p>",
            escape(danger)
        );
    }
    for reason in report.reasons() {
        let _ = write!(out, "<p class=\"bad\">{}</p>", escape(&reason));
    }
    verdicts(&mut out, report);
    timeline(&mut out, report);
    faults(&mut out, report);
    searches(&mut out, report);
    anomalies(&mut out, report);
    let _ = write!(
        out,
        "<h2>Again</h2><p>The seed fixes the world, the load and the order of faults; the machine's timing is its own.</p><pre>{}</pre></html>",
        escape(&report.replay)
    );
    out
}

fn verdicts(out: &mut String, report: &Report) {
    out.push_str(
        "<h2>Verdicts</h2><table><tr><th>workload<th>tries to break<th class=n>operations<th class=n>ok<th class=n>refused\
         <th class=n>unknown<th>verdict",
    );
    for verdict in &report.verdicts {
        let _ = write!(
            out,
            "<tr><td>{}<td>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=n>{}<td class=\"{}\">{}",
            verdict.workload,
            promise(verdict.workload),
            verdict.operations,
            verdict.ok,
            verdict.fail,
            verdict.info,
            if verdict.valid { "good" } else { "bad" },
            if verdict.valid {
                "valid, 0 anomalies"
            } else {
                "NOT VALID"
            }
        );
    }
    let differing = report.replicas.len();
    let _ = write!(
        out,
        "<tr><td>replicas<td>every replica of a group holds the same<td class=n>{}<td class=n>{}<td class=n>{differing}<td class=n>0<td class=\"{}\">{}</table>",
        report.replicas_compared,
        report.replicas_compared.saturating_sub(differing),
        if differing == 0 { "good" } else { "bad" },
        if differing == 0 { "equal" } else { "DIFFERENT" }
    );
}

fn timeline(out: &mut String, report: &Report) {
    out.push_str("<h2>Timeline</h2>");
    let line = |value: fn(&super::Second) -> f64| -> Vec<Line<'_>> {
        let all = report.series.iter().zip(COLOURS.iter().cycle());
        all.map(|((name, seconds), colour)| Line {
            name,
            colour,
            values: seconds.iter().map(value).collect(),
        })
        .collect()
    };
    let show =
        |title, unit, value| chart(title, unit, &line(value), &report.faults, report.seconds);
    out.push_str(&show(
        "Acknowledged operations",
        "operations a second",
        |s| s.ok as f64,
    ));
    out.push_str(&show(
        "Latency",
        "99th percentile of each second, milliseconds",
        |s| s.p99_ms,
    ));
    out.push_str(&show("Unknown or refused", "operations a second", |s| {
        (s.info + s.fail) as f64
    }));
}

fn faults(out: &mut String, report: &Report) {
    out.push_str("<h2>Faults</h2><table><tr><th>kind<th class=n>times<th class=n>mean recovery, ms<th class=n>at most, ms");
    for (kind, (times, mean, most)) in report.by_kind() {
        let _ = write!(
            out,
            "<tr><td>{}<td class=n>{times}<td class=n>{mean}<td class=n>{most}",
            escape(kind)
        );
    }
    out.push_str("</table>");
    for why in &report.not_injected {
        let _ = write!(out, "<p>Not injected: {}</p>", escape(why));
    }
    out.push_str("<details><summary>Each fault</summary><table><tr><th class=n>from, s<th class=n>until, s<th>what");
    for fault in &report.faults {
        let _ = write!(
            out,
            "<tr><td class=n>{:.1}<td class=n>{:.1}<td>{}: {}",
            fault.from_ms as f64 / 1e3,
            fault.until_ms as f64 / 1e3,
            escape(&fault.name),
            escape(&fault.what)
        );
    }
    out.push_str("</table></details>");
}

fn searches(out: &mut String, report: &Report) {
    if report.searches.is_empty() {
        return;
    }
    out.push_str("<h2>Where nothing readable may be</h2><table><tr><th>place<th class=n>bytes<th class=n>found<th>planted control");
    for search in &report.searches {
        let _ = write!(
            out,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td>{}",
            escape(&search.place),
            search.bytes,
            search.found.len(),
            if search.control_found {
                "found"
            } else {
                "NOT FOUND"
            }
        );
    }
    let _ = write!(
        out,
        "</table><p>{} bytes crossed the link between the regions.</p>",
        report.link_bytes
    );
}

fn anomalies(out: &mut String, report: &Report) {
    out.push_str("<h2>Anomalies</h2>");
    let mut none = true;
    for verdict in &report.verdicts {
        for anomaly in verdict.anomalies.iter().take(ANOMALIES_SHOWN) {
            none = false;
            let _ = write!(
                out,
                "<h3 class=\"bad\">{}: {}</h3><pre>",
                verdict.workload,
                escape(&anomaly.what)
            );
            for operation in anomaly.history.iter().take(OPERATIONS_SHOWN) {
                let line = serde_json::to_string(operation).unwrap_or_default();
                let _ = writeln!(out, "{}", escape(&line));
            }
            out.push_str("</pre>");
        }
    }
    if none {
        out.push_str("<p class=\"good\">None.</p>");
    }
}

/// Text as HTML shows it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
