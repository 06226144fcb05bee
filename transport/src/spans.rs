//! Spans of requests, and how a request that passes through several daemons is one trace.
//!
//! Owns the name of the header (W3C Trace Context) and where it is written and read. What becomes of spans is the
//! daemon's: where none sends them, none are made. Refuses to put into a span what a caller chose: it leaves the host.

use std::sync::OnceLock;

use tonic::metadata::MetadataMap;
use tracing::Span;

/// Target of every span that is sent.
pub const TARGET: &str = "reduit::spans";
/// W3C Trace Context, section 3.2.
pub const HEADER: &str = "traceparent";

/// How spans are joined to traces.
#[derive(Debug, Clone, Copy)]
pub struct Tracing {
    /// Makes a span part of the trace that a header's value names.
    pub follows: fn(&Span, &str),
    /// The header's value for a call made in the current span.
    pub of_current: fn() -> Option<String>,
}

/// Bytes of a method's name; services and methods of ours are shorter.
const METHOD_BYTES_MAX: usize = 64;

static TRACING: OnceLock<Tracing> = OnceLock::new();

/// Joins spans to traces from here on. Once a process; what comes later is dropped.
pub fn install(tracing: Tracing) {
    let _ = TRACING.set(tracing);
}

/// Makes a span part of the trace that a request's header names, if it names one.
pub fn follow(span: &Span, headers: &http::HeaderMap) {
    let Some(tracing) = TRACING.get() else {
        return;
    };
    if let Some(Ok(value)) = headers.get(HEADER).map(|value| value.to_str()) {
        (tracing.follows)(span, value);
    }
}

/// Says in a call's headers which trace it is part of, if it is part of one.
pub fn write(headers: &mut MetadataMap) {
    let value = TRACING.get().and_then(|tracing| (tracing.of_current)());
    if let Some(Ok(value)) = value.map(|value| value.parse()) {
        headers.insert(HEADER, value);
    }
}

/// The span of a call that a server takes. `method` is of a service's definition, not the caller's word.
pub(crate) fn of_call(request: &http::Request<()>) -> Span {
    let path = request.uri().path();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/');
    let known = path.len() <= METHOD_BYTES_MAX && path.bytes().all(plain);
    let method = if known { path } else { "unknown" };
    let span = tracing::info_span!(
        target: TARGET,
        "call",
        "otel.name" = method,
        "otel.kind" = "server",
        "rpc.system" = "grpc",
        "rpc.method" = method,
    );
    follow(&span, request.headers());
    span
}
