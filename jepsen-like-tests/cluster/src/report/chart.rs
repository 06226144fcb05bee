//! Lines over time, with the faults as bands behind them, as inline SVG.
//!
//! Owns scales and marks. Refuses scripts: what a person sees is in the file.

use std::fmt::Write as _;

use super::FaultEvent;

const WIDTH: f64 = 1120.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 12.0;
/// Points of one line; more are thinned by taking the largest of each step.
const POINTS_MAX: usize = 600;
const TICKS: u32 = 4;

/// One line.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) colour: &'a str,
    /// A value a second.
    pub(super) values: Vec<f64>,
}

/// Lines over `seconds`, faults behind.
pub(super) fn chart(
    title: &str,
    unit: &str,
    lines: &[Line],
    faults: &[FaultEvent],
    seconds: u64,
) -> String {
    let most = lines
        .iter()
        .flat_map(|line| &line.values)
        .copied()
        .fold(0.0, f64::max);
    let top = nice(most.max(1.0));
    let span = seconds.max(1) as f64;
    let x = |second: f64| LEFT + (WIDTH - LEFT - 8.0) * (second / span).min(1.0);
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top);
    let mut out = String::new();
    let _ = write!(
        out,
        "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
    );
    for fault in faults {
        let (from, until) = (
            x(fault.from_ms as f64 / 1e3),
            x(fault.until_ms as f64 / 1e3),
        );
        let _ = write!(
            out,
            "<rect class=\"fault\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}: {}</title></rect>",
            (until - from).max(1.0),
            HEIGHT - TOP - BOTTOM,
            super::html::escape(&fault.name),
            super::html::escape(&fault.what)
        );
    }
    for tick in 0..=TICKS {
        let value = top * f64::from(tick) / f64::from(TICKS);
        let at = y(value);
        let _ = write!(
            out,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"end\">{value:.0}</text>",
            LEFT - 6.0,
            at + 4.0
        );
        let second = span * f64::from(tick) / f64::from(TICKS);
        let anchor = if tick == TICKS { "end" } else { "middle" };
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\" text-anchor=\"{anchor}\">{second:.0} s</text>",
            x(second),
            HEIGHT - 6.0
        );
    }
    for line in lines {
        let step = line.values.len().div_ceil(POINTS_MAX).max(1);
        let points: Vec<_> = line
            .values
            .chunks(step)
            .enumerate()
            .map(|(at, values)| {
                let value = values.iter().copied().fold(0.0, f64::max);
                format!("{:.1},{:.1}", x((at * step) as f64), y(value))
            })
            .collect();
        let _ = write!(
            out,
            "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\" points=\"{}\"><title>{}</title></polyline>",
            line.colour,
            points.join(" "),
            super::html::escape(line.name)
        );
    }
    let _ = write!(out, "</svg><p class=\"legend\">{unit}; ");
    for line in lines {
        let _ = write!(
            out,
            "<span><i style=\"background:{}\"></i>{}</span> ",
            line.colour,
            super::html::escape(line.name)
        );
    }
    out.push_str("<span><i class=\"fault\"></i>a fault</span></p></figure>");
    out
}

/// The next of 1, 2, 5 times a power of ten.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|top| *top >= value)
        .unwrap_or(value)
}
