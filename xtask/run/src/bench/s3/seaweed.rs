//! SeaweedFS beside ours: one master, three volume servers, a filer with S3, every needle on three volume servers.
//!
//! Owns its processes. Two buckets are asked of it: one whose writes are synced (`fs.configure -fsync`), in plain, and one
//! sealed (SSE-S3), not synced. Ours is both. It speaks in plain between its processes and records no read, all of which
//! is in its favour.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use local::s3::{Credentials, Endpoint};

use super::load::Loader;
use crate::bench::measure::Used;

/// A bucket whose writes are synced.
pub(super) const SYNCED: &str = "synced";
/// A bucket whose objects are sealed.
pub(super) const SEALED: &str = "sealed";
/// What a put into it says.
pub(super) const SEALED_HEADERS: [(&str, &str); 1] = [("x-amz-server-side-encryption", "AES256")];

const VOLUME_SERVERS: usize = 3;
/// How long it may take to serve.
const START_MAX: Duration = Duration::from_secs(60);
/// Between a process's port of HTTP and that of gRPC.
const GRPC_AFTER: u16 = 10_000;
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(500);
const IDENTITY: &str = r#"{"identities":[{"name":"bench","credentials":[{"accessKey":"bench","secretKey":"bench-secret"}],
"actions":["Admin","Read","Write","List","Tagging"]}]}"#;

pub(super) struct Seaweed {
    program: PathBuf,
    dir: PathBuf,
    master: String,
    serving: Vec<Child>,
    pub(super) endpoint: Endpoint,
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        for process in &mut self.serving {
            // It is gone already, or goes now.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Seaweed {
    /// Starts the program that `REDUIT_WEED` names, and waits until both buckets take objects.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let program = std::env::var_os("REDUIT_WEED").map(PathBuf::from);
        let program = program.context("REDUIT_WEED does not name SeaweedFS's program")?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("s3.json"), IDENTITY)?;
        let (master, s3) = (Ports::find()?, Ports::find()?);
        let mut weed = Self {
            program,
            dir: dir.to_owned(),
            master: format!("127.0.0.1:{}.{}", master.http, master.grpc),
            serving: Vec::new(),
            endpoint: Endpoint {
                address: format!("127.0.0.1:{}", s3.http),
                region: "us-east-1".to_owned(),
                credentials: Credentials::new("bench", "bench-secret"),
            },
        };
        let flags = ["-defaultReplication=002", "-volumeSizeLimitMB=1024"];
        weed.serve("master", &master, &flags, "-mdir")?;
        let to_master = format!("-master={}", weed.master);
        for _ in 0..VOLUME_SERVERS {
            weed.serve("volume", &Ports::find()?, &["-max=100", &to_master], "-dir")?;
        }
        let config = format!("-s3.config={}", dir.join("s3.json").display());
        let (http, grpc) = (
            format!("-s3.port={}", s3.http),
            format!("-s3.port.grpc={}", s3.grpc),
        );
        let flags = [
            to_master.as_str(),
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            &config,
            &http,
            &grpc,
        ];
        weed.serve("filer", &Ports::find()?, &flags, "-defaultStoreDir")?;
        weed.set_up().await.context("setting SeaweedFS up")?;
        Ok(weed)
    }

    fn serve(&mut self, what: &str, ports: &Ports, flags: &[&str], folder: &str) -> Result<()> {
        let name = format!("{what}-{}", self.serving.len());
        let data = self.dir.join(&name);
        std::fs::create_dir_all(&data)?;
        let log = File::create(self.dir.join(format!("{name}.log")))?;
        let mut serve = Command::new(&self.program);
        serve
            // Without one it seals nothing.
            .env("WEED_S3_SSE_KEY", "the key of a benchmark")
            .arg("-logtostderr=true")
            .arg(what)
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
            .arg(format!("-port={}", ports.http))
            .arg(format!("-port.grpc={}", ports.grpc))
            .arg(format!("{folder}={}", data.display()))
            .args(flags);
        if what == "master" {
            // It reports to its makers unless told not to.
            serve.arg("-telemetry=false");
        }
        let serving = serve.stdout(Stdio::null()).stderr(log).spawn();
        self.serving
            .push(serving.context("SeaweedFS does not start")?);
        Ok(())
    }

    async fn set_up(&self) -> Result<()> {
        self.until(async || {
            let mut loader = Loader::new(&self.endpoint, SYNCED, &[])?;
            loader.create_bucket().await
        })
        .await?;
        self.shell(&format!(
            "fs.configure -locationPrefix=/buckets/{SYNCED}/ -fsync -replication=002 -apply"
        ))?;
        let mut loader = Loader::new(&self.endpoint, SEALED, &[])?;
        loader.create_bucket().await?;
        for (bucket, headers) in [(SYNCED, &[][..]), (SEALED, &SEALED_HEADERS[..])] {
            self.until(async || {
                let mut loader = Loader::new(&self.endpoint, bucket, headers)?;
                let body = bytes::Bytes::from_static(b"a first object");
                loader.put("first", body).await
            })
            .await?;
        }
        Ok(())
    }

    /// Tries until it is done: its processes find one another.
    async fn until(&self, attempt: impl AsyncFn() -> Result<()>) -> Result<()> {
        let end = Instant::now() + START_MAX;
        loop {
            match attempt().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    fn shell(&self, line: &str) -> Result<()> {
        let mut shell = Command::new(&self.program);
        shell
            .arg("shell")
            .arg(format!("-master={}", self.master))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut shell = shell.spawn()?;
        let mut input = shell.stdin.take().context("its input")?;
        writeln!(input, "{line}")?;
        drop(input);
        let said = shell.wait_with_output()?;
        let said = String::from_utf8_lossy(&said.stdout);
        if !said.contains("\"fsync\":  true") {
            bail!("its shell did not take `{line}`: {said}");
        }
        Ok(())
    }

    /// CPU in ms and resident KiB of all its processes.
    pub(super) fn used(&self) -> Result<(f64, u64)> {
        let mut all = (0.0, 0);
        for process in &self.serving {
            let used = Used::of(process.id())?;
            all = (all.0 + used.cpu_ms, all.1 + used.rss_kib);
        }
        Ok(all)
    }
}

/// Two free ports of one process.
struct Ports {
    http: u16,
    grpc: u16,
}

impl Ports {
    /// The second is the first and 10,000: its S3 looks for the filer there, whatever the filer was told.
    fn find() -> Result<Self> {
        for _ in 0..TRIES {
            let http = TcpListener::bind("127.0.0.1:0")?;
            let port = http.local_addr()?.port();
            let Some(grpc) = port.checked_add(GRPC_AFTER) else {
                continue;
            };
            if TcpListener::bind(("127.0.0.1", grpc)).is_ok() {
                return Ok(Self { http: port, grpc });
            }
        }
        bail!("no two free ports {GRPC_AFTER} apart")
    }
}
