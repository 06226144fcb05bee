//! Sends a snapshot: its file list, then the files in pieces, at a bounded rate.
//!
//! Owns the pace, shared by all groups of the process. Refuses to wait for ever: a peer that takes no more pieces,
//! or does not answer once it has them all, ends the attempt.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use proto::v1;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::link::{Link, LinkError, LinkFault, LinkResult};
use crate::blocking::away;
use crate::disk::DiskFile;
use crate::raft::snapshot::SnapshotFiles;
use crate::state::Checkpoint;

/// Bytes of a piece.
pub(crate) const CHUNK_BYTES: usize = 512 << 10;
/// Pieces read ahead of the connection.
const AHEAD: usize = 2;
/// How long the connection may take no piece.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long the peer may take to install what it has received.
const INSTALL_MAX: Duration = Duration::from_secs(600);

/// The rate all snapshots of a process share.
pub(crate) struct Pace {
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most `bytes_per_second`, about.
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            free_at: Mutex::new(None),
        }
    }

    /// Waits for its turn to send `bytes`.
    async fn take(&self, bytes: usize) {
        let turn = {
            let mut free_at = self.free_at.lock();
            let now = Instant::now();
            let turn = free_at.map_or(now, |at| at.max(now));
            let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            *free_at = Some(turn + cost);
            turn
        };
        sleep_until(turn).await;
    }
}

/// The list of files of `checkpoint` as a peer is told it.
pub(crate) fn file_list(checkpoint: &Checkpoint) -> Vec<v1::RaftSnapshotFile> {
    checkpoint
        .files
        .iter()
        .map(|file| v1::RaftSnapshotFile {
            name: file.name.clone(),
            bytes: file.bytes,
            digest: Bytes::copy_from_slice(&file.blake3),
        })
        .collect()
}

/// Sends `files` and waits until the peer has installed them. Dropping the future ends the transfer.
pub(crate) async fn send(
    link: Arc<dyn Link>,
    begin: v1::RaftSnapshotBegin,
    files: SnapshotFiles,
    pace: Arc<Pace>,
) -> LinkResult<v1::RaftSnapshotResult> {
    let (tx, rx) = mpsc::channel(AHEAD);
    let answer = link.snapshot(ReceiverStream::new(rx).boxed());
    tokio::pin!(answer);
    let feeding = feed(tx, begin, files, pace);
    tokio::select! {
        biased;
        // The peer may answer before the end: it has a higher vote, or refuses.
        answer = &mut answer => return answer,
        fed = feeding => fed?,
    }
    match timeout(INSTALL_MAX, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(LinkError::new(
            LinkFault::TimedOut,
            "snapshot not installed in time",
        )),
    }
}

async fn feed(
    tx: mpsc::Sender<v1::RaftSnapshotFrame>,
    begin: v1::RaftSnapshotBegin,
    files: SnapshotFiles,
    pace: Arc<Pace>,
) -> LinkResult<()> {
    use v1::raft_snapshot_frame::Frame;
    put(&tx, Frame::Begin(begin)).await?;
    for (number, file) in files.checkpoint().files.iter().enumerate() {
        let path = files.dir().join(&file.name);
        let opened = files.disk().open(&path).map_err(|e| unreadable(&e))?;
        let mut offset = 0;
        while offset < file.bytes {
            let length = (file.bytes - offset).min(CHUNK_BYTES as u64);
            pace.take(length as usize).await;
            let source = Arc::clone(&opened);
            let data = away(move || read(source.as_ref(), offset, length as usize))
                .await
                .map_err(|e| LinkError::new(LinkFault::Broken, e.to_string()))?
                .map_err(|e| unreadable(&e))?;
            let file = u32::try_from(number)
                .map_err(|_| LinkError::new(LinkFault::Broken, "too many files"))?;
            put(
                &tx,
                Frame::Chunk(v1::RaftSnapshotChunk { file, offset, data }),
            )
            .await?;
            offset += length;
        }
    }
    put(&tx, Frame::End(true)).await
}

async fn put(
    tx: &mpsc::Sender<v1::RaftSnapshotFrame>,
    frame: v1::raft_snapshot_frame::Frame,
) -> LinkResult<()> {
    match timeout(
        STALL_MAX,
        tx.send(v1::RaftSnapshotFrame { frame: Some(frame) }),
    )
    .await
    {
        Ok(Ok(())) => Ok(()),
        // The call has ended; its answer says why, and the caller polls that first.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(LinkError::new(LinkFault::TimedOut, "snapshot stalled")),
    }
}

fn read(file: &dyn DiskFile, offset: u64, length: usize) -> std::io::Result<Bytes> {
    let mut buffer = vec![0; length];
    file.read_at(&mut buffer, offset)?;
    Ok(buffer.into())
}

fn unreadable(error: &std::io::Error) -> LinkError {
    LinkError::new(
        LinkFault::Broken,
        format!("snapshot file could not be read: {error}"),
    )
}
