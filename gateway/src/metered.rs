//! Counts, times and logs every request, and is its span.
//!
//! Owns the names of these metrics and what stands in a line of the access log. Refuses names of buckets and objects,
//! queries and secrets: they are customer data. An access key's id is none of these.

use std::time::Instant;

use http::{HeaderMap, Method, StatusCode};
use tracing::Span;
use tracing::field::Empty;

use crate::s3::Noted;

/// An operation before its signature was checked.
const UNKNOWN: &str = "unknown";

/// One request, from its first line to its last byte.
pub(crate) struct Metered {
    request_id: String,
    method: Method,
    noted: Noted,
    began: Instant,
    status: Option<StatusCode>,
    bytes: u64,
    span: Span,
}

impl Metered {
    pub(crate) fn begin(
        request_id: String,
        method: Method,
        headers: &HeaderMap,
        noted: Noted,
    ) -> Self {
        let span = tracing::info_span!(
            target: transport::spans::TARGET,
            "request",
            "otel.kind" = "server",
            "http.request.method" = %method,
            "http.response.status_code" = Empty,
            "reduit.operation" = Empty,
            "reduit.request_id" = %request_id,
        );
        transport::spans::follow(&span, headers);
        metrics::gauge!("reduit_s3_requests_in_flight").increment(1.0);
        Self {
            request_id,
            method,
            noted,
            began: Instant::now(),
            status: None,
            bytes: 0,
            span,
        }
    }

    /// What is done for it is part of its trace.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// The answer's head is there.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// Bytes of its body have been handed on.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        metrics::gauge!("reduit_s3_requests_in_flight").decrement(1.0);
        let (operation, access_key) = self.noted.known().unwrap_or((UNKNOWN, ""));
        let status = self.status.map_or(0, |status| status.as_u16());
        let elapsed = self.began.elapsed();
        self.span.record("reduit.operation", operation);
        self.span.record("http.response.status_code", status);
        let labels = [
            ("operation", operation.to_owned()),
            ("status", status.to_string()),
        ];
        metrics::counter!("reduit_s3_requests_total", &labels).increment(1);
        metrics::counter!("reduit_s3_bytes_sent_total").increment(self.bytes);
        metrics::histogram!("reduit_s3_request_seconds", "operation" => operation.to_owned())
            .record(elapsed.as_secs_f64());
        tracing::info!(
            target: "gateway::access",
            request_id = %self.request_id,
            method = %self.method,
            operation,
            access_key,
            status,
            bytes = self.bytes,
            ms = elapsed.as_millis() as u64,
            "request"
        );
    }
}
