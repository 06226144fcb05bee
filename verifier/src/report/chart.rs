//! Two drawings as inline SVG: accesses over time, and when the log was vouched for.
//!
//! Owns their scale. Refuses to draw more bars than fit, and to smooth a gap over.

use std::fmt::Write as _;

use super::Facts;
use crate::time::utc;

const WIDTH: u64 = 720;
const HEIGHT: u64 = 120;
const BARS: usize = 60;

/// Accesses of each kind in 60 equal parts of the period.
pub(super) fn accesses(facts: &Facts) -> String {
    let (from, to) = (facts.period.from_ms, facts.period.to_ms);
    let long = to.saturating_sub(from).max(1);
    let mut counts = [[0_u64; 2]; BARS];
    for access in &facts.accesses {
        let at = u128::from(access.time_ms.saturating_sub(from)) * BARS as u128 / u128::from(long);
        let bar = usize::try_from(at).unwrap_or(BARS).min(BARS - 1);
        counts[bar][usize::from(access.kind != "open")] += 1;
    }
    let most = counts
        .iter()
        .map(|bar| bar[0] + bar[1])
        .max()
        .unwrap_or(0)
        .max(1);
    let mut out = head("Accesses over time: opens dark, leases light");
    let step = WIDTH / BARS as u64;
    for (number, [opens, leases]) in counts.iter().enumerate() {
        let x = number as u64 * step;
        // A bar that is not empty is never invisible.
        let height = |count: u64| {
            if count == 0 {
                0
            } else {
                (count * HEIGHT / most).max(2)
            }
        };
        let (dark, light) = (height(*opens), height(*leases));
        bar(
            &mut out,
            x,
            HEIGHT.saturating_sub(dark),
            step - 2,
            dark,
            "#1d3557",
        );
        let y = HEIGHT.saturating_sub(dark + light);
        bar(&mut out, x, y, step - 2, light, "#8fb3d9");
    }
    foot(out, from, to, &format!("most in one bar: {most}"))
}

/// One line for the period, a tick for each cosigned checkpoint, a red stretch for each gap.
pub(super) fn gaps(facts: &Facts) -> String {
    let seconds = |s: u64| s.saturating_mul(1_000);
    let times: Vec<u64> = facts.cosigned.iter().copied().map(seconds).collect();
    let from = times
        .iter()
        .copied()
        .min()
        .unwrap_or(0)
        .min(facts.period.from_ms);
    let to = times
        .iter()
        .copied()
        .max()
        .unwrap_or(0)
        .max(facts.period.to_ms);
    let long = u128::from(to.saturating_sub(from).max(1));
    let x = |ms: u64| {
        let x = u128::from(ms.saturating_sub(from)) * u128::from(WIDTH) / long;
        u64::try_from(x).unwrap_or(WIDTH).min(WIDTH)
    };
    let mut out = head("When the quorum vouched for the log: ticks; gaps red");
    bar(&mut out, 0, HEIGHT / 2, WIDTH, 2, "#555");
    for gap in &facts.gaps {
        let (left, right) = (x(seconds(gap.from_s)), x(seconds(gap.to_s)));
        let wide = right.saturating_sub(left).max(2);
        bar(&mut out, left, HEIGHT / 2 - 14, wide, 30, "#c1121f");
    }
    let mut drawn = None;
    for at in times.into_iter().map(x) {
        // Ticks at the same place are one.
        if drawn.replace(at) != Some(at) {
            bar(
                &mut out,
                at.min(WIDTH - 1),
                HEIGHT / 2 - 20,
                1,
                42,
                "#1d3557",
            );
        }
    }
    foot(out, from, to, &format!("gaps: {}", facts.gaps.len()))
}

fn head(title: &str) -> String {
    let high = HEIGHT + 22;
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {high}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\"><title>{title}</title>\n"
    )
}

fn bar(out: &mut String, x: u64, y: u64, wide: u64, high: u64, colour: &str) {
    if high > 0 {
        writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{high}\" fill=\"{colour}\"/>"
        )
        .expect("a string takes every write");
    }
}

fn foot(mut out: String, from: u64, to: u64, note: &str) -> String {
    let (y, middle) = (HEIGHT + 16, WIDTH / 2);
    writeln!(
        out,
        "<text x=\"0\" y=\"{y}\">{}</text><text x=\"{middle}\" y=\"{y}\" text-anchor=\"middle\">{note}</text>\
         <text x=\"{WIDTH}\" y=\"{y}\" text-anchor=\"end\">{}</text></svg>",
        utc(from),
        utc(to)
    )
    .expect("a string takes every write");
    out
}
