//! `cargo xtask bench NAME`: measured in one run, printed as ratios, written as JSON, exit 1 below a floor.
//!
//! Owns what is common: fsync latency beside every row, CPU and bytes of processes, floors.

mod envelope;
mod growth;
mod kms;
pub(crate) mod measure;
mod put_get;
mod relocate;
mod s3;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Which benchmark, and where its JSON goes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// envelope, growth, kms, put-get, relocate or s3.
    name: String,
    /// Where the JSON goes.
    #[arg(long)]
    json: PathBuf,
    /// Seconds of each row.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Objects that `growth` goes up to: 100000 for a quick run.
    #[arg(long, default_value_t = 1_000_000)]
    objects_max: u64,
    #[command(flatten)]
    relocate: relocate::Sizes,
}

/// What a benchmark found.
pub(crate) struct Report {
    rows: Vec<Value>,
    below: Vec<String>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self {
            rows: Vec::new(),
            below: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, row: Value) {
        self.rows.push(row);
    }

    /// Notes a floor: `value` must be at least `floor`.
    pub(crate) fn at_least(&mut self, what: &str, value: f64, floor: f64, aim: f64) {
        let verdict = if value < floor {
            "BELOW THE FLOOR"
        } else if value < aim {
            "floor held"
        } else {
            "aim met"
        };
        println!("{what}: {value:.2} (floor {floor}, aim {aim}): {verdict}");
        if value < floor {
            self.below.push(format!("{what}: {value:.2} < {floor}"));
        }
        self.rows
            .push(json!({ "check": what, "value": value, "floor": floor, "aim": aim }));
    }

    /// Notes a ceiling: `value` must be at most `floor`.
    pub(crate) fn at_most(&mut self, what: &str, value: f64, floor: f64, aim: f64) {
        let verdict = if value > floor {
            "ABOVE THE BOUND"
        } else if value > aim {
            "bound held"
        } else {
            "aim met"
        };
        println!("{what}: {value:.2} (bound {floor}, aim {aim}): {verdict}");
        if value > floor {
            self.below.push(format!("{what}: {value:.2} > {floor}"));
        }
        self.rows
            .push(json!({ "check": what, "value": value, "bound": floor, "aim": aim }));
    }
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let fsync = measure::fsync(&std::env::temp_dir())?;
    println!(
        "fdatasync of 4 KiB: p50 {:.3} ms, p99 {:.3} ms",
        fsync.p50_ms, fsync.p99_ms
    );
    let report = match options.name.as_str() {
        "envelope" => envelope::run()?,
        "growth" => growth::run(options.seconds, options.objects_max).await?,
        "kms" => kms::run(options.seconds).await?,
        "put-get" => put_get::run(options.seconds).await?,
        "relocate" => relocate::run(&options.relocate).await?,
        "s3" => s3::run(options.seconds).await?,
        other => {
            bail!("no benchmark {other}; there are envelope, growth, kms, put-get, relocate and s3")
        }
    };
    write(
        &options.json,
        &json!({
            "bench": options.name,
            "fdatasync_4k_ms": { "p50": fsync.p50_ms, "p99": fsync.p99_ms },
            "rows": report.rows,
            "below": report.below,
        }),
    )?;
    println!("json: {}", options.json.display());
    if !report.below.is_empty() {
        bail!("below a floor: {}", report.below.join("; "));
    }
    Ok(())
}

fn write(path: &Path, value: &Value) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(path, serde_json::to_vec_pretty(value)?)
        .with_context(|| format!("writing {}", path.display()))
}
