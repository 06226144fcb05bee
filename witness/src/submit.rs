//! C2SP tlog-witness over HTTP: `POST <prefix>/add-checkpoint` and `GET <prefix>/<sha256 of origin>/checkpoint`.
//!
//! Owns statuses and content types. Refuses bodies that are too long or too slow before anything is parsed. The
//! decision is `tlog`'s, the order of remembering and signing that of `cosigned`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tlog::{ADD_CHECKPOINT_BYTES_MAX, AddCheckpoint, OriginLine, SIZE_CONTENT_TYPE, SignerKey};
use tokio::sync::Semaphore;
use transport::SharedClock;

use crate::config::Prefix;
use crate::cosigned::{CosignError, CosignedLog, origin_hash};

/// From a request's head to the end of its body.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests that are checked or written at once.
pub const REQUESTS_MAX: usize = 32;

const TEXT: &str = "text/plain; charset=utf-8";

/// What the handlers share.
pub(crate) struct Submissions {
    by_origin: BTreeMap<OriginLine, Arc<CosignedLog>>,
    by_hash: BTreeMap<String, Arc<CosignedLog>>,
    signers: Vec<SignerKey>,
    clock: SharedClock,
    room: Semaphore,
}

impl Submissions {
    pub(crate) fn new(
        logs: &[Arc<CosignedLog>],
        signers: Vec<SignerKey>,
        clock: SharedClock,
    ) -> Arc<Self> {
        let by_origin = logs.iter().map(|log| (log.origin().clone(), log.clone()));
        let by_hash = logs
            .iter()
            .map(|log| (origin_hash(log.origin()), log.clone()));
        Arc::new(Self {
            by_origin: by_origin.collect(),
            by_hash: by_hash.collect(),
            signers,
            clock,
            room: Semaphore::new(REQUESTS_MAX),
        })
    }

    /// The two calls, each below its prefix.
    pub(crate) fn router(self: Arc<Self>, submission: &Prefix, monitoring: &Prefix) -> Router {
        let add = format!("{}/add-checkpoint", submission.as_str());
        let latest = format!("{}/{{origin}}/checkpoint", monitoring.as_str());
        Router::new()
            .route(&add, post(add_checkpoint))
            .route(&latest, get(checkpoint))
            .with_state(self)
    }
}

async fn add_checkpoint(
    State(submissions): State<Arc<Submissions>>,
    request: Request<Body>,
) -> Response {
    let body = to_bytes(request.into_body(), ADD_CHECKPOINT_BYTES_MAX);
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return say(StatusCode::BAD_REQUEST, "the body is too long or broke off"),
        Err(_) => return say(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
    };
    // After the body: whoever sends slowly keeps nobody waiting.
    let _seat = submissions.room.acquire().await.expect("never closed");
    let request = match AddCheckpoint::parse(&body) {
        Ok(request) => request,
        Err(error) => return say(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Some(log) = submissions.by_origin.get(request.origin()).cloned() else {
        return say(
            StatusCode::NOT_FOUND,
            "the log is not known to this witness",
        );
    };
    let all = submissions.clone();
    let of = log.clone();
    // On a thread of its own: it waits for the disk, and it goes on when whoever asked hangs up.
    let answer =
        tokio::task::spawn_blocking(move || of.add(&request, &all.signers, &all.clock)).await;
    let response = match answer {
        Ok(Ok(lines)) => (StatusCode::OK, [(CONTENT_TYPE, TEXT)], lines).into_response(),
        Ok(Err(error)) => refusal(&log, &error),
        Err(_) => say(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
    };
    log.count(response.status().as_u16());
    response
}

fn refusal(log: &CosignedLog, error: &CosignError) -> Response {
    match error {
        CosignError::Refused(refused) => {
            tracing::info!(origin = %log.origin(), why = %refused, "not cosigned");
            let status = StatusCode::from_u16(refused.status());
            let status = status.expect("a status of the protocol");
            match refused.size_body() {
                Some(size) => (status, [(CONTENT_TYPE, SIZE_CONTENT_TYPE)], size).into_response(),
                None => say(status, &refused.to_string()),
            }
        }
        CosignError::Disk(_) | CosignError::Sign(_) | CosignError::Clock => {
            let why = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(origin = %log.origin(), %error, why, "not cosigned");
            say(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
        }
    }
}

async fn checkpoint(
    State(submissions): State<Arc<Submissions>>,
    Path(origin): Path<String>,
) -> Response {
    let log = submissions.by_hash.get(&origin);
    match log.and_then(|log| log.shown()) {
        Some(note) => {
            let headers = [(CONTENT_TYPE, TEXT), (CACHE_CONTROL, "no-cache")];
            (headers, note.to_string()).into_response()
        }
        None => say(
            StatusCode::NOT_FOUND,
            "nothing of such a log was cosigned here",
        ),
    }
}

fn say(status: StatusCode, why: &str) -> Response {
    (status, [(CONTENT_TYPE, TEXT)], format!("{why}\n")).into_response()
}
