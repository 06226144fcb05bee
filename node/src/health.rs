//! What an orchestrator, a person and Prometheus ask over plain HTTP: alive, ready and why not, numbers.
//!
//! Owns the words of `/readyz`. Refuses to say anything about datasets, objects or who asks for them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use daemon::Numbers;
use tokio::net::TcpListener;

use crate::core::Core;

impl Core {
    /// What keeps this node from serving everything, in words; empty when nothing does.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(why) = self.engine_failure() {
            reasons.push(format!("the engine has failed: {why}"));
        }
        let age = self.enrolments.age();
        if self.enrolments.stale() {
            let hours = age.as_secs() / 3600;
            reasons.push(format!(
                "enrolments are {hours} h old, over 24 h: nobody is served; is the kms up?"
            ));
        }
        if let Err(full) = self.disk.check() {
            reasons.push(full.to_string());
        }
        let shards = self.groups.shards();
        if shards.is_empty() {
            reasons.push(
                "the region's shards are not known here: not founded, or not added yet".to_owned(),
            );
        }
        for group in self.groups.all() {
            let view = group.status();
            let id = group.id();
            if !view.voters.all().contains(&self.node_id) {
                reasons.push(format!("this node has no vote in group {id}"));
            }
            if view.leader.is_none() {
                reasons.push(format!("group {id} has no leader"));
            }
        }
        for shard in shards {
            let id = shard.group.id();
            match self.missing(&shard, shard.aged()) {
                Ok(missing) if missing.missing > 0 => {
                    reasons.push(format!(
                        "{} blocks of shard {id} are missing here",
                        missing.missing
                    ));
                }
                Ok(_) => {}
                Err(error) => reasons.push(error.to_string()),
            }
        }
        reasons
    }
}

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
