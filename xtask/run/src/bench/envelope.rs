//! Sealing against raw AES-256-GCM of the same library, chunk size and core.

use anyhow::Result;
use serde_json::json;

use super::Report;

/// Share of raw AES-256-GCM that sealing and opening must reach.
const FLOOR: f64 = 0.90;

pub(crate) fn run() -> Result<Report> {
    let mut report = Report::new();
    let found = envelope::bench::envelope()?;
    for (what, side) in [("seal", &found.seal), ("open", &found.open)] {
        report.row(json!({ "what": what, "in_place_ratio": side.in_place_ratio, "streamed_ratio": side.streamed_ratio }));
        report.at_least(
            &format!("{what} in place / raw AES-256-GCM"),
            side.in_place_ratio,
            FLOOR,
            FLOOR,
        );
        println!("  streamed into another buffer: {:.2}", side.streamed_ratio);
    }
    println!("{found:?}");
    Ok(report)
}
