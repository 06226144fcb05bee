//! What daemons tell whoever operates them: numbers to Prometheus, spans to a collector, and nothing of customers.
//!
//! Python with boto3 is `REDUIT_S3_PYTHON`; without it, or without the daemons, the test says that it skips.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use local::launch::http;
use local::{Kind, Local, Service};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::common::s3::{access_key, session};
use crate::common::with_plan;

/// The trace that the client says its requests are part of.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// What the client sends that is its own.
const CANARIES: [&str; 3] = ["span-canary", "canary/name", "canary-content"];
const ARRIVES_MAX: Duration = Duration::from_secs(30);

/// A span as the collector took it.
#[derive(Debug, Clone)]
struct Taken {
    service: String,
    trace: String,
    text: String,
}

/// A collector: the other end of OTLP, by its own definition.
#[derive(Debug, Clone, Default)]
struct Collector(watch::Sender<Vec<Taken>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_service in request.into_inner().resource_spans {
            let resource = of_service.resource.unwrap_or_default();
            let named = resource.attributes.iter().find(|a| a.key == "service.name");
            let value = named.and_then(|a| a.value.clone()).and_then(|v| v.value);
            let Some(Value::StringValue(service)) = value else {
                return Err(Status::invalid_argument("no service.name"));
            };
            for span in of_service.scope_spans.into_iter().flat_map(|s| s.spans) {
                let taken = Taken {
                    service: service.clone(),
                    trace: hex::encode(&span.trace_id),
                    text: format!("{span:?}"),
                };
                self.0.send_modify(|all| all.push(taken));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Spans of the client's trace, once every kind of daemon that it passes through has sent one.
    async fn of_the_trace(&self) -> Result<Vec<Taken>> {
        let ours = |all: &Vec<Taken>| -> Vec<Taken> {
            let ours = all.iter().filter(|taken| taken.trace == TRACE);
            ours.cloned().collect()
        };
        let came = |all: &Vec<Taken>| {
            let ours = ours(all);
            let sent = |service: &str, what: &str| {
                let mut ours = ours.iter().filter(|taken| taken.service == service);
                ours.any(|taken| taken.text.contains(what))
            };
            let gateway = ["\"PutObject\"", "\"GetObject\""];
            let node = ["/reduit.v1.Blocks/Write", "/reduit.v1.Blocks/Read"];
            gateway.into_iter().all(|what| sent("reduit-gateway", what))
                && node.into_iter().all(|what| sent("reduit-node", what))
        };
        let mut taken = self.0.subscribe();
        let gathered = tokio::time::timeout(ARRIVES_MAX, taken.wait_for(came)).await;
        let gathered = gathered.with_context(|| format!("of all spans: {:?}", self.0.borrow()))?;
        Ok(ours(&*gathered?))
    }
}

/// Has a service send spans, from its next start on.
fn send_spans(service: &Service, endpoint: &str) -> Result<()> {
    let mut config = std::fs::OpenOptions::new()
        .append(true)
        .open(&service.config)?;
    writeln!(config, "\n[otlp]\nendpoint = \"{endpoint}\"\nsample = 0.0")?;
    Ok(())
}

async fn restart_with_spans(local: &mut Local, endpoint: &str) -> Result<()> {
    for kind in [Kind::Node, Kind::Gateway] {
        let region = local.federation.region("ch-zrh")?;
        let services: Vec<_> = region.living(kind).cloned().collect();
        for service in services {
            send_spans(&service, endpoint)?;
            local.restart(&service.name).await?;
        }
    }
    Ok(())
}

fn traced(python: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3/traced.py");
    let mut command = Command::new(python);
    command
        .arg("-u")
        .arg(script)
        .env("S3_TRACE", TRACE)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("AWS_PROFILE");
    command
}

/// Names of metrics in Prometheus' text format, without what buckets add.
fn names(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let names = lines.filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// A client's trace goes through gateway and nodes and names nothing of its own; what a daemon counts is written down.
#[test]
fn a_trace_passes_through_and_numbers_are_documented() {
    let Some(python) = std::env::var_os("REDUIT_S3_PYTHON").map(PathBuf::from) else {
        println!("skipped: REDUIT_S3_PYTHON names no Python with boto3");
        return;
    };
    with_plan(&[("ch-zrh", "CH", 3)], 1, async |local| {
        let collector = Collector::default();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let served = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(incoming);
        let served = tokio::spawn(served);
        restart_with_spans(local, &endpoint).await?;
        let key = access_key(local, "traced").await?;
        session(traced(&python), local, &key).await?;
        let ours = collector.of_the_trace().await?;
        let all = collector.0.borrow().clone();
        ensure!(
            all.len() == ours.len(),
            "of a share of 0 nothing else is sent: {all:?}"
        );
        let secret = key.secret.text();
        for canary in CANARIES.into_iter().chain([secret.as_str()]) {
            let told = all.iter().find(|taken| taken.text.contains(canary));
            ensure!(told.is_none(), "a span has {canary}: {told:?}");
        }

        let documented = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/METRICS.md"),
        )?;
        let region = local.federation.region("ch-zrh")?;
        for (kind, bucketed) in [
            (Kind::Node, "reduit_log_sync_seconds_bucket"),
            (Kind::Kms, "reduit_kms_open_seconds_bucket"),
            (Kind::Gateway, "reduit_s3_request_seconds_bucket"),
        ] {
            let mut seen = false;
            for service in region.living(kind) {
                let (_, text) = http(&service.health, "/metrics")?;
                seen |= text.contains(bucketed);
                for name in names(&text) {
                    let known = documented.contains(&format!("`{name}`"));
                    ensure!(known, "{name} of {} is not in METRICS.md", service.name);
                }
                ensure!(text.contains("process_resident_memory_bytes "), "{text}");
            }
            ensure!(seen, "no daemon has {bucketed}");
        }
        served.abort();
        Ok(())
    });
}
