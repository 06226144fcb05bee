//! How the witness stands: for a person, for programs, for Prometheus, and for the command `status`.
//!
//! Owns `/`, `/status.json`, `/metrics` and `/healthz` of the status port. Refuses nothing and changes nothing: whoever
//! reaches the port may look, so it stays inside. What it shows are sizes, times, kinds, purposes and pseudonyms.

mod metrics;
mod page;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tlog::{OriginLine, VerifierKey};
use transport::SharedClock;

use crate::alarm::{Alarm, Alarms, Evidence};
use crate::cosigned::CosignedLog;

/// A status of 256 logs with their alarms.
const STATUS_BYTES_MAX: usize = 64 << 20;

/// How everything stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The time here.
    pub now_ms: u64,
    /// Public keys that this witness cosigns with, for policies.
    pub keys: Vec<String>,
    /// The logs.
    pub logs: Vec<LogStatus>,
    /// Conditions that hold now.
    pub conditions: Vec<Alarm>,
    /// What never ends, of this life and earlier ones, with its evidence.
    pub permanent: Vec<Evidence>,
    /// Alarms since the start, newest first, the last two hundred.
    pub recent: Vec<Alarm>,
}

/// How one log stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogStatus {
    /// The log.
    pub origin: String,
    /// Leaves of the checkpoint cosigned last; absent when none was.
    pub cosigned_size: Option<u64>,
    /// Its root.
    pub cosigned_root: Option<String>,
    /// When, since the start of this process, in Unix seconds.
    pub cosigned_s: Option<u64>,
    /// Answers to `add-checkpoint` since the start, by status.
    pub answered: BTreeMap<u16, u64>,
    /// How far it was followed; absent when it is not.
    pub monitor: Option<MonitorStatus>,
}

/// How far a log was followed.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MonitorStatus {
    /// Where the log is.
    pub url: String,
    /// Leaves of the checkpoint held.
    pub size: u64,
    /// Its root.
    pub root: Option<String>,
    /// Leaves hashed again.
    pub hashed: u64,
    /// Leaves read; absent when entries are not fetched.
    pub read: Option<u64>,
    /// Leaves copied; absent when no copy is kept.
    pub copied: Option<u64>,
    /// Datasets whose chains are checked.
    pub datasets: u64,
    /// Leaves read, by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Leaves read that this build does not know.
    pub strange: u64,
    /// Purposes seen.
    pub purposes: Vec<String>,
    /// The newest time stated by a cosigner that the policy names, in Unix seconds.
    pub cosigned_s: Option<u64>,
    /// When something newer was last seen, by the clock here.
    pub news_ms: u64,
    /// When it was last looked at.
    pub looked_ms: u64,
    /// The log was caught and is not followed any further.
    pub is_stopped: bool,
    /// What the last look ended with.
    pub error: Option<String>,
}

impl Status {
    /// Whether no alarm holds: none that never ends and no condition. Alarms that happened once are not held against it.
    pub fn is_well(&self) -> bool {
        self.permanent.is_empty() && self.conditions.is_empty()
    }
}

/// For a terminal.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for evidence in &self.permanent {
            let alarm = &evidence.alarm;
            writeln!(f, "CAUGHT  {}: {}", alarm.origin, alarm.text)?;
        }
        for alarm in &self.conditions {
            writeln!(
                f,
                "ALARM   {}: {} ({})",
                alarm.origin,
                alarm.text,
                alarm.rule.name()
            )?;
        }
        if self.is_well() {
            writeln!(f, "well: no alarm holds")?;
        }
        for log in &self.logs {
            writeln!(f, "{}", log.origin)?;
            match log.cosigned_size {
                Some(size) => writeln!(f, "  cosigned   {size} leaves")?,
                None => writeln!(f, "  cosigned   nothing yet")?,
            }
            let Some(monitor) = &log.monitor else {
                continue;
            };
            writeln!(
                f,
                "  verified   {} of {} leaves",
                monitor.hashed, monitor.size
            )?;
            if let Some(read) = monitor.read {
                writeln!(
                    f,
                    "  read       {read} leaves, {} datasets",
                    monitor.datasets
                )?;
            }
            if let Some(error) = &monitor.error {
                writeln!(f, "  last look  {error}")?;
            }
        }
        for alarm in self.recent.iter().take(10) {
            writeln!(
                f,
                "recently    {}: {} ({})",
                alarm.origin,
                alarm.text,
                alarm.rule.name()
            )?;
        }
        Ok(())
    }
}

/// A log and, where it is followed, how far.
type Shown = (Arc<CosignedLog>, Option<Arc<Mutex<MonitorStatus>>>);

/// Everything that is shown, where it comes from.
pub(crate) struct Board {
    keys: Vec<VerifierKey>,
    logs: Vec<Shown>,
    alarms: Arc<Alarms>,
    clock: SharedClock,
}

impl Board {
    pub(crate) fn new(
        keys: Vec<VerifierKey>,
        logs: &[Arc<CosignedLog>],
        monitors: impl Iterator<Item = (OriginLine, Arc<Mutex<MonitorStatus>>)>,
        alarms: Arc<Alarms>,
        clock: SharedClock,
    ) -> Self {
        let monitors: BTreeMap<_, _> = monitors.collect();
        let logs = logs.iter();
        let logs = logs.map(|log| (log.clone(), monitors.get(log.origin()).cloned()));
        Self {
            keys,
            logs: logs.collect(),
            alarms,
            clock,
        }
    }

    pub(crate) fn status(&self) -> Status {
        let log = |(log, monitor): &Shown| {
            let cosigned = log.checkpoint();
            LogStatus {
                origin: log.origin().to_string(),
                cosigned_size: cosigned.as_ref().map(|c| c.size()),
                cosigned_root: cosigned.as_ref().map(|c| c.root().to_string()),
                cosigned_s: log.last_time(),
                answered: log.answered(),
                monitor: monitor.as_ref().map(|monitor| monitor.lock().clone()),
            }
        };
        Status {
            now_ms: self.clock.now().0,
            keys: self.keys.iter().map(ToString::to_string).collect(),
            logs: self.logs.iter().map(log).collect(),
            conditions: self.alarms.conditions(),
            permanent: self.alarms.evidence(),
            recent: self.alarms.recent(),
        }
    }
}

pub(crate) fn router(board: Arc<Board>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/status.json", get(json))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(board)
}

async fn page(State(board): State<Arc<Board>>) -> impl IntoResponse {
    // Nothing on the page runs or loads anything, whatever a log may have put into it.
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ),
    ];
    (headers, page::html(&board.status()))
}

async fn json(State(board): State<Arc<Board>>) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    match serde_json::to_string_pretty(&board.status()) {
        Ok(text) => (StatusCode::OK, headers, text),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            headers,
            error.to_string(),
        ),
    }
}

async fn metrics(State(board): State<Arc<Board>>) -> impl IntoResponse {
    let headers = [(CONTENT_TYPE, "text/plain; version=0.0.4")];
    let counts = board.alarms.counts();
    (headers, metrics::exposition(&board.status(), &counts))
}

/// Why a running witness did not say how it stands.
#[derive(Debug, thiserror::Error)]
pub enum FetchStatusError {
    /// Not `host:port`.
    #[error("the address is not host:port")]
    Address(#[source] http::Error),
    /// No answer.
    #[error("no answer")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    /// Another answer.
    #[error("the answer is not a witness's status")]
    Other,
}

/// Asks a running witness at `host:port` of its status page. Answers the status and its JSON.
pub async fn fetch(address: &str) -> Result<(Status, String), FetchStatusError> {
    let url = format!("http://{address}/status.json");
    let request = Request::get(url).body(Body::empty());
    let request = request.map_err(FetchStatusError::Address)?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let response = client.request(request).await;
    let response = response.map_err(FetchStatusError::Unreachable)?;
    let body = to_bytes(Body::new(response.into_body()), STATUS_BYTES_MAX).await;
    let body = body.map_err(|_| FetchStatusError::Other)?;
    let text = String::from_utf8(body.to_vec()).map_err(|_| FetchStatusError::Other)?;
    let status = serde_json::from_str(&text).map_err(|_| FetchStatusError::Other)?;
    Ok((status, text))
}

#[cfg(test)]
mod tests;
