//! Spans of requests to a collector, by OTLP over gRPC.
//!
//! Owns what is sent of each request and how a request that passes through several daemons becomes one trace (W3C Trace
//! Context). Refuses everything but spans of [`transport::spans::TARGET`]: spans of libraries name what they are given.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::Deserialize;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use transport::spans::{HEADER, Tracing};

use crate::logging::{LogError, Logging};

/// How long a batch may take to be sent. What is not taken by then is dropped: nothing waits for a collector.
const EXPORT_MAX: Duration = Duration::from_secs(3);

/// A collector of spans.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// Where it takes OTLP over gRPC, in clear: `http://127.0.0.1:4317`. Keep it on this host or inside the region.
    pub endpoint: String,
    /// Share of requests whose spans are sent, 0 to 1. A request that comes with a trace is sent as its caller decided.
    #[serde(default = "default_sample")]
    pub sample: f64,
}

fn default_sample() -> f64 {
    0.01
}

/// Sends spans as long as it lives, and when it is dropped those that are left.
#[derive(Debug)]
pub struct Exporting(Option<SdkTracerProvider>);

impl Drop for Exporting {
    fn drop(&mut self) {
        // What cannot be sent now is lost with the process; nobody is left to tell.
        let _ = self
            .0
            .take()
            .map(|provider| provider.shutdown_with_timeout(EXPORT_MAX));
    }
}

type Spans<S> = Option<Box<dyn Layer<S> + Send + Sync>>;

/// The layer that sends spans, where a collector is named.
pub(crate) fn exporter<S>(logging: &Logging<'_>) -> Result<(Exporting, Spans<S>), LogError>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let Some(otlp) = logging.otlp else {
        return Ok((Exporting(None), None));
    };
    if !(0.0..=1.0).contains(&otlp.sample) {
        return Err(LogError::Sample(otlp.sample));
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&otlp.endpoint)
        .with_timeout(EXPORT_MAX)
        .build()?;
    let sampled = Sampler::TraceIdRatioBased(otlp.sample);
    let resource = Resource::builder()
        .with_service_name(logging.service)
        .with_attributes([
            KeyValue::new("service.instance.id", logging.instance.clone()),
            KeyValue::new("service.namespace", logging.region.clone()),
        ])
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(sampled)))
        .with_resource(resource)
        .build();
    let only = Targets::new().with_target(transport::spans::TARGET, LevelFilter::INFO);
    let layer = tracing_opentelemetry::layer()
        .with_location(false)
        .with_threads(false)
        .with_tracer(provider.tracer("reduit"))
        .with_filter(only);
    transport::spans::install(Tracing {
        follows,
        of_current,
    });
    Ok((Exporting(Some(provider)), Some(layer.boxed())))
}

/// Makes a span part of the trace that a header names. One that names none begins its own.
fn follows(span: &Span, header: &str) {
    let carried = HashMap::from([(HEADER.to_owned(), header.to_owned())]);
    let parent = TraceContextPropagator::new().extract(&carried);
    // A span that is not sent follows nothing.
    let _ = span.set_parent(parent);
}

/// The header that makes a call part of the current span's trace.
fn of_current() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    span.span_context().is_valid().then_some(())?;
    let mut carried = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carried);
    carried.remove(HEADER)
}
