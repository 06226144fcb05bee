//! Counts and times every call of the node's services.
//!
//! Owns the names of these metrics. Refuses labels that callers choose: methods and reasons are a bounded set, object
//! names are customer data.

use std::time::Instant;

use tonic::Status;
use transport::Faulty as _;

use crate::error::CallError;

/// Runs one call and turns its error into a status.
pub(crate) async fn metered<T>(
    method: &'static str,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, Status> {
    let began = Instant::now();
    let answer = call.await;
    let outcome = match &answer {
        Ok(_) => "ok",
        Err(error) => error.reason(),
    };
    metrics::counter!("reduit_requests_total", "method" => method, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("reduit_request_seconds", "method" => method)
        .record(began.elapsed().as_secs_f64());
    answer.map_err(|error| {
        if error.fault() == transport::Fault::Internal {
            tracing::error!(method, error = %transport::fault::Chain(&error), "call failed");
        }
        error.into_status()
    })
}
