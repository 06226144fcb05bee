//! Lines of log on standard error, and spans to a collector where one is named.
//!
//! Owns the order in which they are set up. Refuses spans on lines: a line says by itself what it is about.

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::spans::{self, Exporting, Otlp};

/// How a daemon logs.
#[derive(Debug)]
pub struct Logging<'a> {
    /// What, as `tracing` filters say it.
    pub filter: &'a str,
    /// Targets of which nothing is ever logged: libraries whose lines name what is customers'.
    pub silent: &'a [&'a str],
    /// One JSON object a line.
    pub json: bool,
    /// Where spans go.
    pub otlp: Option<&'a Otlp>,
    /// Which daemon this is, such as `reduit-node`.
    pub service: &'static str,
    /// The region it serves.
    pub region: String,
    /// Which of the region's it is.
    pub instance: String,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("log filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The collector cannot be spoken to as it is named.
    #[error("otlp endpoint")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The share is none.
    #[error("otlp sample is {0}: it is a share from 0 to 1")]
    Sample(f64),
    /// Something logs already.
    #[error("logging was set up before")]
    Taken(#[from] TryInitError),
}

impl Logging<'_> {
    /// Logs from here on. Spans need a runtime that was entered; those under way are sent when the answer is dropped.
    pub fn start(&self) -> Result<Exporting, LogError> {
        let mut filter = EnvFilter::try_new(self.filter)?;
        for target in self.silent.iter().chain([&transport::spans::TARGET]) {
            filter = filter.add_directive(format!("{target}=off").parse()?);
        }
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = match self.json {
            true => lines.json().boxed(),
            false => lines.boxed(),
        };
        let (exporting, spans) = spans::exporter(self)?;
        tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(spans)
            .try_init()?;
        Ok(exporting)
    }
}
