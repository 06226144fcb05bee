//! Three processes of a trivial machine over TLS, loaded beside a three-node etcd by one and the same client.
//!
//! Owns the comparison: same wire protocol (etcd's own `Put` and `Range`), same payloads, same client code, all
//! writes synced, reads linearizable. Refuses to judge by one number: every row stands beside what a sync of this
//! disk took at that time.

mod etcd;
mod kv;
mod loader;
mod node;
mod report;
mod wire;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use node::{NodeArguments, serve};
pub use report::{Floor, Row, render};

/// What to compare.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the members' folders go; needs room for logs of both.
    pub dir: PathBuf,
    /// This program, to be started again as `node <id> <dir>`.
    pub program: PathBuf,
    /// Whether to compare with etcd.
    pub etcd: Option<PathBuf>,
    /// How long each cell is loaded.
    pub cell: Duration,
    /// Concurrent clients.
    pub clients: Vec<usize>,
    /// Bytes of a value.
    pub sizes: Vec<usize>,
}

/// What went wrong with the comparison itself.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or a process.
    #[error("{0}")]
    Io(String, #[source] std::io::Error),
    /// Something else, in words.
    #[error("{0}")]
    Failed(String),
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> BenchError {
    move |e| BenchError::Io(what.to_owned(), e)
}

/// A process that ends with its handle.
pub(crate) struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the whole plan.
pub async fn compare(plan: &Plan) -> Result<Vec<Row>, BenchError> {
    std::fs::create_dir_all(&plan.dir).map_err(io("the folder could not be made"))?;
    let region = node::prepare(&plan.dir)?;
    let ours = node::start(plan, &region).await?;
    let theirs = match &plan.etcd {
        Some(program) => Some(etcd::start(program, &plan.dir, &region).await?),
        None => None,
    };
    let mut rows = Vec::new();
    for &bytes in &plan.sizes {
        for &clients in &plan.clients {
            for op in [loader::Op::Put, loader::Op::Get] {
                for (name, channels) in [
                    ("reduit", Some(&ours.channels)),
                    ("etcd", theirs.as_ref().map(|t| &t.channels)),
                ] {
                    let Some(channels) = channels else { continue };
                    let sync = sync_latency(&plan.dir)?;
                    let load = loader::Load {
                        op,
                        clients,
                        bytes,
                        cell: plan.cell,
                    };
                    let outcome = loader::run(channels, &load).await?;
                    let row = Row::new(name, &load, outcome, sync);
                    eprintln!("{row}");
                    rows.push(row);
                }
            }
        }
    }
    Ok(rows)
}

/// Median time of a synced write of 256 bytes into preallocated blocks, right now.
fn sync_latency(dir: &Path) -> Result<Duration, BenchError> {
    use std::os::unix::fs::FileExt;
    const WRITES: usize = 64;
    let path = dir.join("sync-probe");
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io("the probe could not be opened"))?;
    file.write_all_at(&vec![0; WRITES * 4096], 0)
        .map_err(io("the probe could not be written"))?;
    file.sync_all()
        .map_err(io("the probe could not be synced"))?;
    let mut taken = Vec::with_capacity(WRITES);
    for i in 0..WRITES {
        let start = std::time::Instant::now();
        file.write_all_at(&[1; 256], (i * 4096) as u64)
            .map_err(io("the probe could not be written"))?;
        file.sync_data()
            .map_err(io("the probe could not be synced"))?;
        taken.push(start.elapsed());
    }
    taken.sort();
    Ok(taken[WRITES / 2])
}
