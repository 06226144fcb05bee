//! An object on its way back: blocks from any replica, opened chunk by chunk.
//!
//! Owns the read-ahead window, the fall-back over replicas, and the renewal of a key whose time is over (a new
//! open, with a record of its own). Refuses to hand out a byte that did not open.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use envelope::{Manifest, OpenError, PartNumber, RangeOpener, StreamHeader};
use proto::ids::{NodeId, ObjectKey, UnixMs};
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use tokio::task::JoinHandle;
use transport::{Fault, Lane};

use crate::dataset::{Dataset, GetOptions, agree, time_left};
use crate::error::Error;
use crate::opens::Opened;
use crate::upload::BLOCK_BYTES;

/// A key with less time than this is renewed before the next piece.
const RENEW_BEFORE: Duration = Duration::from_secs(5);
const HEADER_BYTES: u64 = envelope::HEADER_BYTES as u64;
/// Rounds over all replicas before a block counts as damaged or gone.
const ROUNDS: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(150);
/// How long one block may take from one replica.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// An object as it was found: everything a reader needs to go on, or to start again elsewhere.
pub(crate) struct Found {
    pub(crate) dataset: Dataset,
    pub(crate) key: ObjectKey,
    pub(crate) entry: v1::ObjectEntry,
    pub(crate) token: Bytes,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) options: GetOptions,
}

/// Reads an object's plaintext in pieces.
pub struct ObjectReader {
    found: Arc<Found>,
    end: u64,
    position: u64,
    stream: Stream,
}

struct Stream {
    source: Source,
    opener: RangeOpener,
    usable_until: UnixMs,
}

/// Sealed bytes on their way, asked for before the key is there.
pub(crate) struct Source {
    /// Inline bytes, or what is left of a piece whose start was the header.
    ready: Bytes,
    blocks: Option<Blocks>,
}

struct Blocks {
    found: Arc<Found>,
    starts: Vec<u64>,
    /// Ranges of the sealed stream still to be asked for, none across a block's end.
    wanted: VecDeque<Range<u64>>,
    running: VecDeque<JoinHandle<Result<Bytes, Error>>>,
    window: usize,
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.running.iter().for_each(JoinHandle::abort);
    }
}

impl Source {
    /// Starts reading `plain` of the object.
    pub(crate) fn start(found: &Arc<Found>, plain: Range<u64>) -> Result<Self, Error> {
        let entry = &found.entry;
        let span = envelope::chunk_span(entry.plain_bytes, plain).map_err(|_| Error::Caller {
            reason: "range-not-satisfiable".to_owned(),
            message: format!("the object has {} bytes", entry.plain_bytes),
        })?;
        let sealed = span.sealed_range();
        if entry.blocks.is_empty() {
            let inline = &entry.inline;
            let cut = usize::try_from(sealed.end)
                .ok()
                .filter(|end| *end <= inline.len());
            let end = cut.ok_or(Error::Protocol {
                what: "an entry shorter than its object",
            })?;
            let mut bytes = BytesMut::from(&inline[..envelope::HEADER_BYTES.min(end)]);
            bytes.extend_from_slice(&inline[sealed.start as usize..end]);
            return Ok(Self {
                ready: bytes.freeze(),
                blocks: None,
            });
        }
        let mut at = 0;
        let starts = entry.blocks.iter().map(|block| {
            let start = at;
            at += u64::from(block.bytes);
            start
        });
        let mut blocks = Blocks {
            starts: starts.collect(),
            window: found
                .dataset
                .0
                .region
                .0
                .tuning
                .download_window_blocks
                .max(1),
            found: found.clone(),
            wanted: VecDeque::new(),
            running: VecDeque::new(),
        };
        if at < sealed.end {
            return Err(Error::Protocol {
                what: "an entry shorter than its object",
            });
        }
        if sealed.start > HEADER_BYTES {
            blocks.want(0..HEADER_BYTES);
            blocks.want(sealed);
        } else {
            // The header is the stream's first bytes and comes along.
            blocks.want(0..sealed.end);
        }
        blocks.fill();
        Ok(Self {
            ready: Bytes::new(),
            blocks: Some(blocks),
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.ready.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ready)));
        }
        match &mut self.blocks {
            Some(blocks) => blocks.next().await,
            None => Ok(None),
        }
    }

    /// Takes the stream's header off the front.
    async fn header(&mut self) -> Result<StreamHeader, Error> {
        let piece = self.next().await?.ok_or(Error::NotAuthentic(OpenError))?;
        let (header, rest) = StreamHeader::split(&piece).map_err(Error::NotAuthentic)?;
        self.ready = piece.slice(piece.len() - rest.len()..);
        Ok(header)
    }
}

impl Blocks {
    fn want(&mut self, sealed: Range<u64>) {
        let mut at = sealed.start;
        while at < sealed.end {
            let number = self.starts.partition_point(|start| *start <= at) - 1;
            let block_end = self.starts[number] + u64::from(self.found.entry.blocks[number].bytes);
            let end = sealed.end.min(block_end);
            self.wanted.push_back(at..end);
            at = end;
        }
    }

    fn fill(&mut self) {
        while self.running.len() < self.window
            && let Some(range) = self.wanted.pop_front()
        {
            let number = self.starts.partition_point(|start| *start <= range.start) - 1;
            let offset = range.start - self.starts[number];
            let length = range.end - range.start;
            let found = self.found.clone();
            self.running.push_back(tokio::spawn(async move {
                fetch(
                    &found,
                    number,
                    u32::try_from(offset).unwrap_or(0),
                    u32::try_from(length).unwrap_or(0),
                )
                .await
            }));
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        self.fill();
        let Some(first) = self.running.pop_front() else {
            return Ok(None);
        };
        let bytes = first.await.map_err(|_| Error::Protocol {
            what: "a read task ended early",
        })??;
        self.fill();
        Ok(Some(bytes))
    }
}

/// One range of one block, from whichever replica has it whole.
async fn fetch(found: &Found, number: usize, offset: u32, length: u32) -> Result<Bytes, Error> {
    let block = &found.entry.blocks[number];
    let whole = offset == 0 && length == block.bytes;
    let request = v1::ReadBlockRequest {
        shard: found.dataset.shard().0,
        dataset_id: found.dataset.id().into(),
        version_id: found.entry.version_id.clone(),
        number: u32::try_from(number).expect("an entry names far fewer blocks"),
        offset,
        length,
    };
    let mut last = Miss::Away("no replica is known".to_owned());
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE * round).await;
        }
        // Spread over the replicas: block n starts with replica n.
        let count = found.replicas.len().max(1);
        let mut away = None;
        for turn in 0..found.replicas.len() {
            let node = found.replicas[(number + turn) % count];
            let read = fetch_from(found, node, &request);
            let read = tokio::time::timeout(BLOCK_TIMEOUT, read).await;
            let read = read.unwrap_or_else(|_| Err(Miss::Away("no answer in time".to_owned())));
            let read = read.and_then(|bytes| match whole {
                true if blake3::hash(&bytes).as_bytes()[..] != block.digest[..] => {
                    Err(Miss::Bad("bytes of another digest".to_owned()))
                }
                _ => Ok(bytes),
            });
            match read {
                Ok(bytes) => return Ok(bytes),
                Err(why) => last = why,
            }
            tracing::debug!(node = node.0, block = number, why = ?last, "block not from this replica");
            if let Miss::Away(_) = &last {
                away = Some(last.clone());
            }
        }
        // Whoever did not answer may have it.
        last = away.unwrap_or(last);
    }
    let message = |why| format!("block {number} is not to be had from any replica: {why}");
    Err(match last {
        Miss::Bad(why) => Error::Damaged {
            message: message(why),
        },
        Miss::Away(why) => Error::Unavailable {
            reason: "block-unreachable".to_owned(),
            message: message(why),
        },
    })
}

/// Why a replica did not give a block.
#[derive(Debug, Clone)]
enum Miss {
    /// It could not be asked, or cannot say now.
    Away(String),
    /// It has another block than the entry names, a damaged one, or none.
    Bad(String),
}

impl From<tonic::Status> for Miss {
    fn from(status: tonic::Status) -> Self {
        let why = status.message().to_owned();
        match Fault::of(&status) {
            Fault::Missing | Fault::Damaged | Fault::Caller => Self::Bad(why),
            _ => Self::Away(why),
        }
    }
}

/// What `request` asks for, as one replica has it.
async fn fetch_from(
    found: &Found,
    node: NodeId,
    request: &v1::ReadBlockRequest,
) -> Result<Bytes, Miss> {
    let nodes = &found.dataset.0.region.0.nodes;
    let length = request.length as usize;
    let member = nodes.member(node);
    let member = member.ok_or_else(|| Miss::Away("its address is not known".to_owned()))?;
    let channel = nodes.channel(&member, Lane::Data, 0);
    let channel = channel.map_err(|error| Miss::Away(error.to_string()))?;
    let mut blocks = BlocksClient::new(channel);
    let request = found.options.stated().of(request.clone());
    let mut stream = blocks.read(request).await?.into_inner();
    // Whoever made the entry says how long it is: room is taken for what came.
    let mut bytes = BytesMut::with_capacity(length.min(BLOCK_BYTES));
    while let Some(data) = stream.message().await? {
        if bytes.len() + data.data.len() > length {
            return Err(Miss::Bad("more bytes than were asked for".to_owned()));
        }
        bytes.extend_from_slice(&data.data);
    }
    if bytes.len() != length {
        return Err(Miss::Bad("fewer bytes than were asked for".to_owned()));
    }
    Ok(bytes.freeze())
}

impl Stream {
    async fn open(
        mut source: Source,
        found: &Found,
        opened: Opened,
        plain: Range<u64>,
    ) -> Result<Self, Error> {
        let entry = &found.entry;
        let manifest = opened
            .dek
            .open_manifest(&entry.sealed_manifest)
            .map_err(Error::NotAuthentic)?;
        agree(&manifest, entry)?;
        let header = source.header().await?;
        let part = only_part(&manifest)?;
        if !part.matches(&header) {
            return Err(Error::NotAuthentic(OpenError));
        }
        let span = envelope::chunk_span(manifest.plain_total(), plain)
            .map_err(|_| Error::NotAuthentic(OpenError))?;
        let opener = opened
            .dek
            .range_opener(part.number, &header, span)
            .map_err(Error::NotAuthentic)?;
        Ok(Self {
            source,
            opener,
            usable_until: opened.usable_until,
        })
    }
}

/// The object's one stream. Several come with multipart uploads, which this build does not write.
fn only_part(manifest: &Manifest) -> Result<&envelope::ManifestPart, Error> {
    match manifest.parts() {
        [part] if part.number == PartNumber::FIRST => Ok(part),
        _ => Err(Error::Protocol {
            what: "a manifest of several parts, which this build does not read",
        }),
    }
}

impl ObjectReader {
    pub(crate) async fn open(
        found: Arc<Found>,
        source: Source,
        opened: Opened,
        plain: Range<u64>,
    ) -> Result<Self, Error> {
        let stream = Stream::open(source, &found, opened, plain.clone()).await?;
        Ok(Self {
            found,
            end: plain.end,
            position: plain.start,
            stream,
        })
    }

    /// The next piece of plaintext; `None` at the end, once the last chunk has proved the length.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if time_left(self.stream.usable_until) < RENEW_BEFORE && self.position < self.end {
                self.renew().await?;
            }
            let Some(sealed) = self.stream.source.next().await? else {
                let done = self.position == self.end && self.stream.opener.is_done();
                return if done {
                    Ok(None)
                } else {
                    Err(Error::NotAuthentic(OpenError))
                };
            };
            let mut plain = Vec::with_capacity(sealed.len());
            self.stream
                .opener
                .update(&sealed, &mut plain)
                .map_err(Error::NotAuthentic)?;
            self.position += plain.len() as u64;
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
    }

    /// Opens again from where this stands: a new record, a new key.
    async fn renew(&mut self) -> Result<(), Error> {
        let plain = self.position..self.end;
        let source = Source::start(&self.found, plain.clone())?;
        let opened = self.found.dataset.open(&self.found).await?;
        self.stream = Stream::open(source, &self.found, opened, plain).await?;
        Ok(())
    }

    /// Plaintext bytes still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    /// All that is left, in memory.
    pub async fn into_bytes(mut self) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if all.is_empty() {
                all = BytesMut::from(chunk);
            } else {
                all.extend_from_slice(&chunk);
            }
        }
        Ok(all.freeze())
    }

    /// Writes all that is left.
    pub async fn copy_to(
        mut self,
        mut out: impl tokio::io::AsyncWrite + Unpin,
    ) -> Result<u64, Error> {
        use tokio::io::AsyncWriteExt as _;
        let mut written = 0;
        while let Some(chunk) = self.chunk().await? {
            out.write_all(&chunk).await?;
            written += chunk.len() as u64;
        }
        out.flush().await?;
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn who_does_not_answer_has_said_nothing_of_the_block() {
        for status in [
            Status::unavailable("gone"),
            Status::deadline_exceeded("slow"),
            Status::unknown("transport error"),
        ] {
            assert!(matches!(Miss::from(status), Miss::Away(_)));
        }
        for status in [Status::not_found("no"), Status::data_loss("damaged")] {
            assert!(matches!(Miss::from(status), Miss::Bad(_)));
        }
    }
}
