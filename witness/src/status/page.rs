//! The status page: one HTML document that loads nothing.
//!
//! Owns what a person sees first: whether all is well, and otherwise what is not and what that means. Refuses to put
//! anything into the page that was not escaped: origins, kinds and texts are a stranger's.

use std::fmt::Write as _;

use super::{LogStatus, MonitorStatus, Status};
use crate::alarm::{Alarm, Evidence};

const STYLE: &str = "
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
.verdict{padding:1rem 1.25rem;border-radius:.5rem;font-size:1.25rem;color:#fff}
.well{background:#176b3a}.held{background:#9a5b00}.caught{background:#a3161b}
h2{margin-top:2rem;border-bottom:1px solid #8886}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid #8883}
th{font-weight:600;white-space:nowrap}
code,pre{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
.quiet{opacity:.7}";

/// The page.
pub(super) fn html(status: &Status) -> String {
    let mut out = String::with_capacity(16 << 10);
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"refresh\" content=\"30\">\
         <title>{} - reduit-witness</title><style>{STYLE}</style></head><body>\
         <h1>Witness</h1>",
        headline(status)
    );
    verdict(&mut out, status);
    for log in &status.logs {
        log_section(&mut out, log, status.now_ms);
    }
    alarms(&mut out, &status.recent, status.now_ms);
    let keys: Vec<_> = status.keys.iter().map(|key| escape(key)).collect();
    let _ = write!(
        out,
        "<h2>Public keys of this witness</h2><p>For the policies of logs and verifiers.</p>\
         <pre>{}</pre><p class=\"quiet\">As of {}. The same for programs: <code>/status.json</code>, \
         <code>/metrics</code>.</p></body></html>",
        keys.join("\n"),
        time(status.now_ms)
    );
    out
}

fn headline(status: &Status) -> &'static str {
    match (status.permanent.is_empty(), status.conditions.is_empty()) {
        (false, _) => "CAUGHT",
        (true, false) => "Alarm",
        (true, true) => "All is well",
    }
}

fn verdict(out: &mut String, status: &Status) {
    if !status.permanent.is_empty() {
        let _ = write!(
            out,
            "<div class=\"verdict caught\"><strong>A log was caught.</strong> What it signed or recorded \
             excludes one another. This does not go away: keep the evidence, tell the other witnesses and \
             whoever relies on the log.</div><table>"
        );
        for Evidence { alarm, checkpoints } in &status.permanent {
            let _ = write!(
                out,
                "<tr><th>{}<br>{}</th><td>{}",
                escape(&alarm.origin),
                time(alarm.time_ms),
                escape(&alarm.text)
            );
            for checkpoint in checkpoints {
                let _ = write!(out, "<pre>{}</pre>", escape(checkpoint));
            }
            out.push_str("</td></tr>");
        }
        out.push_str("</table>");
    }
    if !status.conditions.is_empty() {
        let _ = write!(
            out,
            "<div class=\"verdict held\"><strong>{} alarm{} hold{}.</strong></div><table>",
            status.conditions.len(),
            if status.conditions.len() == 1 {
                ""
            } else {
                "s"
            },
            if status.conditions.len() == 1 {
                "s"
            } else {
                ""
            },
        );
        for alarm in &status.conditions {
            let _ = write!(
                out,
                "<tr><th>{}</th><td>since {}</td><td>{} <span class=\"quiet\">({})</span></td></tr>",
                escape(&alarm.origin),
                time(alarm.time_ms),
                escape(&alarm.text),
                alarm.rule.name()
            );
        }
        out.push_str("</table>");
    }
    if status.is_well() {
        out.push_str(
            "<div class=\"verdict well\"><strong>All is well.</strong> No alarm holds.</div>",
        );
    }
}

fn log_section(out: &mut String, log: &LogStatus, now_ms: u64) {
    let _ = write!(out, "<h2>{}</h2><table>", escape(&log.origin));
    let cosigned = match (log.cosigned_size, log.cosigned_s) {
        (Some(size), Some(at)) => {
            format!("{size} leaves, {}", ago(at.saturating_mul(1000), now_ms))
        }
        (Some(size), None) => format!("{size} leaves, before this process started"),
        (None, _) => "nothing yet".to_owned(),
    };
    row(out, "Cosigned here", &cosigned);
    let answered: Vec<_> = log
        .answered
        .iter()
        .map(|(code, n)| format!("{code}: {n}"))
        .collect();
    if !answered.is_empty() {
        row(out, "Answers", &answered.join(", "));
    }
    match &log.monitor {
        Some(monitor) => monitor_rows(out, monitor, now_ms),
        None => row(out, "Followed", "no"),
    }
    out.push_str("</table>");
}

fn monitor_rows(out: &mut String, monitor: &MonitorStatus, now_ms: u64) {
    row(out, "Followed at", &monitor.url);
    let verified = format!("{} of {} leaves hashed again", monitor.hashed, monitor.size);
    row(out, "Verified", &verified);
    match monitor.read {
        Some(read) => {
            let read = format!(
                "{read} leaves of {} datasets, each chain checked",
                monitor.datasets
            );
            row(out, "Read", &read);
            let kinds: Vec<_> = monitor
                .kinds
                .iter()
                .map(|(k, n)| format!("{k}: {n}"))
                .collect();
            row(out, "Kinds", &kinds.join(", "));
            row(out, "Purposes", &monitor.purposes.join(", "));
        }
        None => row(out, "Read", "no: hashes alone are followed"),
    }
    if let Some(copied) = monitor.copied {
        row(out, "Copied", &format!("{copied} leaves"));
    }
    if let Some(at) = monitor.cosigned_s {
        row(
            out,
            "Newest cosignature",
            &ago(at.saturating_mul(1000), now_ms),
        );
    }
    row(out, "Something newer", &ago(monitor.news_ms, now_ms));
    row(out, "Last look", &ago(monitor.looked_ms, now_ms));
    if let Some(error) = &monitor.error {
        row(out, "Last look ended with", error);
    }
    if monitor.is_stopped {
        row(
            out,
            "Stopped",
            "the log was caught and is not followed any further",
        );
    }
}

fn alarms(out: &mut String, recent: &[Alarm], now_ms: u64) {
    out.push_str("<h2>Alarms since the start</h2>");
    if recent.is_empty() {
        out.push_str("<p class=\"quiet\">None.</p>");
        return;
    }
    out.push_str("<table>");
    for alarm in recent {
        let leaf = alarm
            .leaf
            .map(|leaf| format!(" leaf {leaf}"))
            .unwrap_or_default();
        let ended = if alarm.ended { "ended: " } else { "" };
        let _ = write!(
            out,
            "<tr><th>{}</th><td>{}{leaf}</td><td>{ended}{} <span class=\"quiet\">({})</span></td></tr>",
            ago(alarm.time_ms, now_ms),
            escape(&alarm.origin),
            escape(&alarm.text),
            alarm.rule.name()
        );
    }
    out.push_str("</table>");
}

fn row(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(value));
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn ago(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        _ => format!("{} ({} h ago)", time(then_ms), seconds / 3600),
    }
}

/// UTC, to the second (days to date by H. Hinnant's civil_from_days).
fn time(ms: u64) -> String {
    let seconds = ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(951_827_696_000), "2000-02-29 12:34:56 UTC");
        assert_eq!(time(1_795_654_800_000), "2026-11-26 01:00:00 UTC");
    }

    #[test]
    fn what_a_stranger_wrote_is_text() {
        assert_eq!(escape("<b a=\"'&"), "&lt;b a=&quot;&#39;&amp;");
    }
}
