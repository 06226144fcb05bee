//! The other side: three etcd processes with TLS between them and to their clients, defaults otherwise.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use super::node::{self, Region};
use super::{BenchError, Process, io, loader};

/// Running members and channels to their leader.
pub(crate) struct Cluster {
    pub(crate) channels: Vec<Channel>,
    _processes: Vec<Process>,
}

/// Starts three members and connects to their leader.
pub(crate) async fn start(
    program: &Path,
    dir: &Path,
    region: &Region,
) -> Result<Cluster, BenchError> {
    let mut ports = Vec::new();
    for _ in 0..3 {
        ports.push((node::free_port()?, node::free_port()?));
    }
    let peers: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(i, (_, peer))| format!("e{i}=https://127.0.0.1:{peer}"))
        .collect();
    let mut processes = Vec::new();
    for (i, (client, peer)) in ports.iter().enumerate() {
        let log = std::fs::File::create(dir.join(format!("e{i}.log"))).map_err(io("a log file"))?;
        let (client, peer) = (
            format!("https://127.0.0.1:{client}"),
            format!("https://127.0.0.1:{peer}"),
        );
        let path = |name: &str| dir.join(name).display().to_string();
        let (ca, cert, key) = (
            region.ca_pem.display().to_string(),
            path("etcd.pem"),
            path("etcd.key"),
        );
        let child = Command::new(program)
            .args([
                "--name",
                &format!("e{i}"),
                "--data-dir",
                &path(&format!("etcd{i}")),
            ])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args([
                "--initial-cluster",
                &peers.join(","),
                "--initial-cluster-state",
                "new",
            ])
            .args([
                "--cert-file",
                &cert,
                "--key-file",
                &key,
                "--trusted-ca-file",
                &ca,
            ])
            .args(["--peer-cert-file", &cert, "--peer-key-file", &key])
            .args([
                "--peer-trusted-ca-file",
                &ca,
                "--client-cert-auth",
                "--peer-client-cert-auth",
            ])
            .args(["--log-level", "warn", "--quota-backend-bytes", "8589934592"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(io("etcd could not be started"))?;
        processes.push(Process(child));
    }
    let tls = tls(dir, region)?;
    let endpoints = ports.iter().map(|(client, _)| {
        let (tls, client) = (tls.clone(), *client);
        Arc::new(move || Ok(channel(tls.clone(), client)))
            as Arc<dyn Fn() -> Result<Channel, BenchError> + Send + Sync>
    });
    let channels = loader::to_leader(endpoints.collect()).await?;
    Ok(Cluster {
        channels,
        _processes: processes,
    })
}

fn tls(dir: &Path, region: &Region) -> Result<TlsConnector, BenchError> {
    let failed = |e: String| BenchError::Failed(format!("TLS to etcd: {e}"));
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(&region.ca_pem).map_err(|e| failed(e.to_string()))?;
    roots.add(ca).map_err(|e| failed(e.to_string()))?;
    let chain =
        CertificateDer::from_pem_file(dir.join("loader.pem")).map_err(|e| failed(e.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_file(dir.join("loader.key")).map_err(|e| failed(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| failed(e.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![chain], key)
        .map_err(|e| failed(e.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn channel(tls: TlsConnector, port: u16) -> Channel {
    let endpoint =
        Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address and a port");
    endpoint
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            dial(tls.clone(), port)
        }))
}

fn dial(
    tls: TlsConnector,
    port: u16,
) -> BoxFuture<'static, std::io::Result<TokioIo<TlsStream<TcpStream>>>> {
    async move {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        Ok(TokioIo::new(tls.connect(name, tcp).await?))
    }
    .boxed()
}
