//! OpenBao beside ours: the real server with raft storage and a file audit device, and encrypts on its transit engine.
//!
//! Owns its process and a plain HTTP client that keeps its connection. It speaks without TLS and answers before its
//! audit line is synced, both of which ours does not: what is measured is in its favour.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long the server may take to listen and to lead.
const START_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Answers are small; a batch of a hundred is some 20 KiB.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// 32 bytes, as the DEKs of ours are.
const PLAINTEXT: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A running server, unsealed, with a key.
pub(super) struct OpenBao {
    audit: PathBuf,
    serving: Child,
    port: u16,
    token: String,
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        // It is gone already, or goes now.
        drop(self.serving.kill());
        drop(self.serving.wait());
    }
}

/// One connection.
pub(super) struct Caller {
    stream: TcpStream,
    token: String,
    buffer: Vec<u8>,
}

impl OpenBao {
    /// Starts the program that `REDUIT_BAO` names.
    pub(super) async fn start(dir: &Path) -> Result<Self> {
        let program = std::env::var_os("REDUIT_BAO").map(PathBuf::from);
        let program = program.context("REDUIT_BAO does not name OpenBao's server")?;
        std::fs::create_dir_all(dir.join("data"))?;
        let (port, cluster) = (free_port()?, free_port()?);
        let config = format!(
            "storage \"raft\" {{\n  path = \"{dir}/data\"\n  node_id = \"n1\"\n}}\n\
             listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  tls_disable = true\n}}\n\
             audit \"file\" \"bench\" {{\n  options {{\n    file_path = \"{dir}/audit.log\"\n  }}\n}}\n\
             api_addr = \"http://127.0.0.1:{port}\"\ncluster_addr = \"http://127.0.0.1:{cluster}\"\nlog_level = \"error\"\n",
            dir = dir.display()
        );
        let path = dir.join("bao.hcl");
        std::fs::write(&path, config)?;
        let log = std::fs::File::create(dir.join("bao.log"))?;
        let mut serve = Command::new(program);
        serve.arg("server").arg("-config").arg(&path);
        let serving = serve
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("OpenBao does not start")?;
        let mut server = Self {
            audit: dir.join("audit.log"),
            serving,
            port,
            token: String::new(),
        };
        server.set_up().await.context("setting OpenBao up")?;
        Ok(server)
    }

    async fn set_up(&mut self) -> Result<()> {
        let one = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = self.until("/v1/sys/init", &one).await?;
        let key = made["keys_base64"][0].as_str().context("an unseal key")?;
        self.token = made["root_token"].as_str().context("a token")?.to_owned();
        self.until("/v1/sys/unseal", &json!({ "key": key })).await?;
        let transit = json!({ "type": "transit" });
        self.until("/v1/sys/mounts/transit", &transit).await?;
        self.until("/v1/transit/keys/bench", &json!({})).await?;
        Ok(())
    }

    /// Posts until it is taken: the server starts, and elects itself.
    async fn until(&self, path: &str, body: &Value) -> Result<Value> {
        let end = Instant::now() + START_MAX;
        loop {
            let tried = async { self.caller().await?.post(path, &body.to_string()).await }.await;
            match tried {
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() > end => return Err(error.context(path.to_owned())),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Bytes of its audit file.
    pub(super) fn audited(&self) -> Result<u64> {
        Ok(std::fs::metadata(&self.audit)?.len())
    }

    pub(super) fn pid(&self) -> u32 {
        self.serving.id()
    }

    pub(super) async fn caller(&self) -> Result<Caller> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Caller {
            stream,
            token: self.token.clone(),
            buffer: Vec::new(),
        })
    }
}

impl Caller {
    /// Encrypts so many plaintexts in one request.
    pub(super) async fn encrypt(&mut self, items: usize) -> Result<()> {
        let body = if items == 1 {
            format!("{{\"plaintext\":\"{PLAINTEXT}\"}}")
        } else {
            let one = json!({ "plaintext": PLAINTEXT });
            json!({ "batch_input": vec![one; items] }).to_string()
        };
        let answer = self.post("/v1/transit/encrypt/bench", &body).await?;
        let data = &answer["data"];
        let done = match items {
            1 => usize::from(data["ciphertext"].is_string()),
            _ => data["batch_results"].as_array().map_or(0, Vec::len),
        };
        ensure!(done == items, "OpenBao answered {done} of {items}");
        Ok(())
    }

    async fn post(&mut self, path: &str, body: &str) -> Result<Value> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: bao\r\nX-Vault-Token: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        let head_end = loop {
            let end = self.buffer.windows(4).position(|w| w == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8(self.buffer[..head_end].to_vec())?.to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        self.buffer.drain(..head_end);
        let body = match length {
            Some(length) => self.take(length).await?,
            None if head.contains(" 204 ") => Vec::new(),
            None if head.contains("transfer-encoding: chunked") => self.chunks().await?,
            None => bail!("an answer of unknown length: {head}"),
        };
        let status = head.split(' ').nth(1).unwrap_or_default();
        ensure!(
            status.starts_with('2'),
            "{path}: {status}: {}",
            String::from_utf8_lossy(&body)
        );
        match body.is_empty() {
            true => Ok(Value::Null),
            false => Ok(serde_json::from_slice(&body)?),
        }
    }

    /// Takes so many bytes of an answer.
    async fn take(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// The chunked coding (RFC 9112 section 7.1), without trailers.
    async fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line_end = loop {
                match self.buffer.windows(2).position(|two| two == b"\r\n") {
                    Some(end) => break end,
                    None => self.fill().await?,
                }
            };
            let size = std::str::from_utf8(&self.buffer[..line_end])?;
            let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
            self.buffer.drain(..line_end + 2);
            body.extend(self.take(size).await?);
            self.take(2).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "OpenBao closed the connection");
        ensure!(self.buffer.len() < ANSWER_BYTES_MAX, "a long answer");
        Ok(())
    }
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(listener.local_addr()?.port())
}
