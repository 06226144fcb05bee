//! What an orchestrator, a person and Prometheus ask over plain HTTP: alive, ready and why not, numbers.
//!
//! Owns the words of `/readyz`. Refuses to say anything about buckets, objects or who asks for them.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use client::Region;
use daemon::Numbers;
use tokio::net::TcpListener;

/// The region, once it was reached.
pub(crate) type Reached = Arc<OnceLock<Region>>;

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    region: Reached,
    metrics: Option<Numbers>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || render(metrics.clone())))
        .with_state(region);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

/// Binds the health port; `None` when none is configured.
pub(crate) async fn bind(address: Option<SocketAddr>) -> std::io::Result<Option<TcpListener>> {
    match address {
        Some(address) => TcpListener::bind(address).await.map(Some),
        None => Ok(None),
    }
}

/// What keeps this gateway from serving, in words; empty when nothing does.
async fn not_ready(region: &Reached) -> Vec<String> {
    let Some(region) = region.get() else {
        return vec!["the region has not been reached yet: do its nodes answer?".to_owned()];
    };
    let status = region.status().await;
    let mut reasons = Vec::new();
    if !status.nodes.iter().any(|(_, _, answer)| answer.is_ok()) {
        reasons.push("no storage node answers".to_owned());
    }
    let unsealed = |answer: &Result<proto::v1::KmsStatusReply, String>| {
        answer.as_ref().is_ok_and(|reply| !reply.sealed)
    };
    if !status.kms.iter().any(|(_, _, answer)| unsealed(answer)) {
        reasons.push("no unsealed kms replica answers: nothing can be put or read".to_owned());
    }
    reasons
}

async fn readyz(State(region): State<Reached>) -> (StatusCode, String) {
    let reasons = not_ready(&region).await;
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

async fn render(metrics: Option<Numbers>) -> String {
    metrics.map_or_else(String::new, |metrics| metrics.render())
}
