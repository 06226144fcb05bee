//! One stream's sealed bytes on their way: inline, or blocks from whichever replica has them.
//!
//! Owns the read-ahead window and the fall-back over replicas. Refuses bytes that are not as many as were asked for,
//! and a whole block of another digest than the shard names.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use envelope::{OpenError, StreamHeader};
use proto::ids::NodeId;
use proto::v1;
use proto::v1::blocks_client::BlocksClient;
use tokio::task::JoinHandle;
use tracing::Instrument as _;
use transport::{Fault, Lane};

use super::Found;
use crate::error::Error;
use crate::upload::BLOCK_BYTES;

const HEADER_BYTES: u64 = envelope::HEADER_BYTES as u64;
/// Rounds over all replicas before a block counts as damaged or gone.
const ROUNDS: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(150);
/// How long one block may take from one replica.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// Where one stream lies.
pub(crate) struct Layout {
    /// The id its blocks are kept under: the version's, or the part's.
    pub(crate) id: Bytes,
    pub(crate) plain_bytes: u64,
    pub(crate) inline: Bytes,
    pub(crate) blocks: Vec<v1::BlockRef>,
}

impl Layout {
    /// Of an object that is one stream.
    pub(crate) fn of_entry(entry: &v1::ObjectEntry) -> Self {
        Self {
            id: entry.version_id.clone(),
            plain_bytes: entry.plain_bytes,
            inline: entry.inline.clone(),
            blocks: entry.blocks.clone(),
        }
    }
}

/// Sealed bytes on their way, asked for before the key is there.
pub(crate) struct Source {
    /// Inline bytes, or what is left of a piece whose start was the header.
    ready: Bytes,
    blocks: Option<Blocks>,
}

struct Blocks {
    found: Arc<Found>,
    layout: Arc<Layout>,
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
    /// Starts reading `plain` of the stream.
    pub(crate) fn start(
        found: &Arc<Found>,
        layout: Layout,
        plain: Range<u64>,
    ) -> Result<Self, Error> {
        let span = envelope::chunk_span(layout.plain_bytes, plain).map_err(|_| Error::Caller {
            reason: "range-not-satisfiable".to_owned(),
            message: format!("the object has {} bytes", found.entry.plain_bytes),
        })?;
        let sealed = span.sealed_range();
        if layout.blocks.is_empty() {
            let inline = &layout.inline;
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
        let starts = layout.blocks.iter().map(|block| {
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
            layout: Arc::new(layout),
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

    /// Blocks that are on their way.
    pub(crate) fn in_flight(&self) -> usize {
        self.blocks
            .as_ref()
            .map_or(0, |blocks| blocks.running.len())
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if !self.ready.is_empty() {
            return Ok(Some(std::mem::take(&mut self.ready)));
        }
        match &mut self.blocks {
            Some(blocks) => blocks.next().await,
            None => Ok(None),
        }
    }

    /// Takes the stream's header off the front.
    pub(crate) async fn header(&mut self) -> Result<StreamHeader, Error> {
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
            let block_end = self.starts[number] + u64::from(self.layout.blocks[number].bytes);
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
            let (found, layout) = (self.found.clone(), self.layout.clone());
            let fetched = async move {
                let stored = Stored {
                    id: &layout.id,
                    number,
                    block: &layout.blocks[number],
                };
                let offset = u32::try_from(offset).unwrap_or(0);
                let length = u32::try_from(length).unwrap_or(0);
                fetch(&found, stored, offset, length).await
            };
            self.running
                .push_back(tokio::spawn(fetched.in_current_span()));
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

/// A block as it is stored: under whose id, which one.
#[derive(Clone, Copy)]
pub(crate) struct Stored<'a> {
    pub(crate) id: &'a Bytes,
    pub(crate) number: usize,
    pub(crate) block: &'a v1::BlockRef,
}

/// A whole block of the digest that the shard names.
pub(crate) async fn whole_block(found: &Found, stored: Stored<'_>) -> Result<Bytes, Error> {
    fetch(found, stored, 0, stored.block.bytes).await
}

/// One range of one block, from whichever replica has it whole.
async fn fetch(
    found: &Found,
    stored: Stored<'_>,
    offset: u32,
    length: u32,
) -> Result<Bytes, Error> {
    let Stored { id, number, block } = stored;
    let whole = offset == 0 && length == block.bytes;
    let request = v1::ReadBlockRequest {
        shard: found.dataset.shard().0,
        dataset_id: found.dataset.id().into(),
        version_id: id.clone(),
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
    let mut blocks = BlocksClient::new(found.dataset.0.region.1.over(channel));
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
