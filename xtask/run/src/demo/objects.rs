//! What the demo stores: a folder's files, one of them with the canary, and one large generated object.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::ObjectKey;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use tokio::io::{AsyncRead, ReadBuf};

/// One object to be.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) key: ObjectKey,
    pub(crate) bytes: u64,
    pub(crate) note: String,
    from: From,
}

#[derive(Clone)]
enum From {
    File(PathBuf),
    Memory(Bytes),
}

impl Source {
    pub(crate) fn read(&self) -> Result<Bytes> {
        match &self.from {
            From::File(path) => Ok(std::fs::read(path)
                .with_context(|| format!("reading {}", path.display()))?
                .into()),
            From::Memory(bytes) => Ok(bytes.clone()),
        }
    }
}

/// Everything, and the text that must not be found anywhere.
pub(crate) struct Work {
    pub(crate) sources: Vec<Source>,
    pub(crate) canary: String,
}

impl Work {
    pub(crate) fn collect(folder: PathBuf) -> Result<Self> {
        let mut files = Vec::new();
        walk(&folder, &mut files)?;
        files.sort();
        ensure!(!files.is_empty(), "{} holds no files", folder.display());
        let mut id = [0; 16];
        rand::rng().fill_bytes(&mut id);
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let canary = format!("CANARY-{hex}");
        let mut sources = vec![
            canary_file("canary/small.txt", &canary, 40)?,
            // Larger than the inline bound: goes in blocks.
            canary_file("canary/large.txt", &canary, 4_000)?,
        ];
        for path in files {
            let name = path
                .strip_prefix(&folder)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            let bytes = std::fs::metadata(&path)?.len();
            sources.push(Source {
                key: name.parse()?,
                bytes,
                note: "a file".to_owned(),
                from: From::File(path),
            });
        }
        Ok(Self { sources, canary })
    }
}

fn canary_file(key: &str, canary: &str, lines: usize) -> Result<Source> {
    let body = Bytes::from(format!("telemetry of a customer: {canary}\n").repeat(lines));
    Ok(Source {
        key: key.parse()?,
        bytes: body.len() as u64,
        // In the sealed user metadata too.
        note: canary.to_owned(),
        from: From::Memory(body),
    })
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        if kind.is_dir() && name != ".git" && name != "target" {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Random bytes from a seed, made again for the comparison instead of kept.
pub(crate) struct Large {
    pub(crate) bytes: u64,
    seed: u64,
}

const SEED: u64 = 0x7265_6475_6974;
/// Generated in pieces, so that a range can be made without what stands before it.
const PIECE: u64 = 64 * 1024;

fn piece(seed: u64, number: u64) -> Vec<u8> {
    let mut bytes = vec![0; PIECE as usize];
    SmallRng::seed_from_u64(seed ^ number).fill_bytes(&mut bytes);
    bytes
}

impl Large {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, seed: SEED }
    }

    /// One of several, each of other bytes.
    pub(crate) fn numbered(bytes: u64, number: u64) -> Self {
        let seed = SEED ^ (number << 48);
        Self { bytes, seed }
    }

    pub(crate) fn reader(&self) -> LargeReader {
        LargeReader {
            at: 0,
            bytes: self.bytes,
            seed: self.seed,
            piece: Vec::new(),
        }
    }

    pub(crate) fn comparer(&self) -> Comparer {
        Comparer {
            at: 0,
            bytes: self.bytes,
            seed: self.seed,
            piece: Vec::new(),
        }
    }

    pub(crate) fn range(&self, (start, end): (u64, u64)) -> Vec<u8> {
        let first = start / PIECE;
        let all: Vec<u8> = (first..end.div_ceil(PIECE))
            .flat_map(|number| piece(self.seed, number))
            .collect();
        all[(start - first * PIECE) as usize..(end - first * PIECE) as usize].to_vec()
    }
}

pub(crate) struct LargeReader {
    at: u64,
    bytes: u64,
    seed: u64,
    piece: Vec<u8>,
}

impl AsyncRead for LargeReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let left = self.bytes - self.at;
        if left > 0 {
            let offset = (self.at % PIECE) as usize;
            if offset == 0 {
                self.piece = piece(self.seed, self.at / PIECE);
            }
            let take = buffer
                .remaining()
                .min(PIECE as usize - offset)
                .min(left as usize);
            buffer.put_slice(&self.piece[offset..offset + take]);
            self.at += take as u64;
        }
        Poll::Ready(Ok(()))
    }
}

pub(crate) struct Comparer {
    at: u64,
    bytes: u64,
    seed: u64,
    piece: Vec<u8>,
}

impl Comparer {
    pub(crate) fn take(&mut self, mut chunk: &[u8]) -> Result<()> {
        ensure!(
            self.at + chunk.len() as u64 <= self.bytes,
            "more bytes than were stored"
        );
        while !chunk.is_empty() {
            let offset = (self.at % PIECE) as usize;
            if offset == 0 {
                self.piece = piece(self.seed, self.at / PIECE);
            }
            let take = chunk.len().min(PIECE as usize - offset);
            let (head, rest) = chunk.split_at(take);
            ensure!(
                head == &self.piece[offset..offset + take],
                "byte {} or after differs",
                self.at
            );
            self.at += take as u64;
            chunk = rest;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<()> {
        ensure!(
            self.at == self.bytes,
            "{} bytes came back, {} were stored",
            self.at,
            self.bytes
        );
        Ok(())
    }
}
