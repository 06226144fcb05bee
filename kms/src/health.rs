//! What an orchestrator, a person and Prometheus ask over plain HTTP: alive, ready and why not, numbers.
//!
//! Owns the words of `/readyz`. Refuses to say anything about keys, datasets or who asks for them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use daemon::Numbers;
use tokio::net::TcpListener;

use crate::core::Core;

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    core: Arc<Core>,
    metrics: Option<Numbers>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(move || render(metrics.clone())))
        .with_state(core);
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

async fn healthz(State(core): State<Arc<Core>>) -> (StatusCode, String) {
    match core.engine_failure() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the engine has failed: {why}\n"),
        ),
    }
}

async fn readyz(State(core): State<Arc<Core>>) -> (StatusCode, String) {
    let reasons = core.not_ready();
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

async fn render(metrics: Option<Numbers>) -> String {
    metrics.map_or_else(String::new, |metrics| metrics.render())
}
