//! One sealed stream of the source, opened as its blocks come.
//!
//! Owns the renewal of a key whose time is over: a chunk that was cut by the end of a block is opened once more under the next
//! one. Refuses to hand out a byte that did not open, a stream that the sealed manifest does not name, and one that is cut.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use envelope::{ManifestPart, OpenError, RangeOpener, SEALED_CHUNK_BYTES, StreamHeader};
use futures::stream;
use parking_lot::Mutex;
use proto::v1;
use tokio_util::io::StreamReader;

use super::keys::Handed;
use super::{Inner, Throttle};
use crate::body::Reader;
use crate::download::Layout;
use crate::error::Error;

/// A version's key, for the streams of it that are read one after the other.
pub(super) type SharedKey = Arc<tokio::sync::Mutex<Handed>>;
/// What all plaintext of a version comes to so far.
pub(super) type Running = Arc<Mutex<blake3::Hasher>>;

/// A stream that lies in blocks.
pub(super) struct Incoming {
    mover: Arc<Inner>,
    throttle: Arc<dyn Throttle>,
    key: SharedKey,
    layout: Layout,
    part: ManifestPart,
    opening: Option<(StreamHeader, RangeOpener)>,
    /// Plaintext that was handed out.
    plain: u64,
    /// Sealed bytes before the next block.
    at: u64,
    next: usize,
    /// The end of what came before the next block.
    tail: Bytes,
    running: Running,
}

fn broken() -> Error {
    Error::NotAuthentic(OpenError)
}

impl Incoming {
    pub(super) fn new(
        (mover, throttle): (&Arc<Inner>, &Arc<dyn Throttle>),
        key: &SharedKey,
        (layout, part): (Layout, ManifestPart),
        running: &Running,
    ) -> Self {
        Self {
            mover: mover.clone(),
            throttle: throttle.clone(),
            key: key.clone(),
            layout,
            part,
            opening: None,
            plain: 0,
            at: 0,
            next: 0,
            tail: Bytes::new(),
            running: running.clone(),
        }
    }

    /// The next plaintext; `None` at the end, once the last chunk has proved the length.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(block) = self.layout.blocks.get(self.next).cloned() else {
                return match &self.opening {
                    Some((_, opener)) if opener.is_done() && self.plain == self.part.plain => {
                        Ok(None)
                    }
                    _ => Err(broken()),
                };
            };
            let sealed = self.block(&block).await?;
            let mut out = Vec::with_capacity(sealed.len());
            self.open(&sealed, &mut out).await?;
            self.next += 1;
            self.at += sealed.len() as u64;
            let kept = sealed.len().saturating_sub(SEALED_CHUNK_BYTES);
            self.tail = Bytes::copy_from_slice(&sealed[kept..]);
            if !out.is_empty() {
                self.plain += out.len() as u64;
                self.running.lock().update(&out);
                return Ok(Some(out.into()));
            }
        }
    }

    async fn block(&mut self, block: &v1::BlockRef) -> Result<Bytes, Error> {
        self.throttle.take(block.bytes.into()).await;
        let number = u32::try_from(self.next).map_err(|_| broken())?;
        let request = v1::RelocatedBlockRequest {
            of: Some(self.mover.there()),
            version_id: self.layout.id.clone(),
            number,
            offset: 0,
            length: 0,
        };
        self.mover.source()?.block(&request, block).await
    }

    async fn open(&mut self, sealed: &Bytes, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut key = self.key.lock().await;
        let (header, opener) = match &mut self.opening {
            Some((_, opener)) if !key.is_ending() => {
                return opener.update(sealed, out).map_err(Error::NotAuthentic);
            }
            Some((header, _)) => (*header, None),
            None => {
                let (header, chunks) = StreamHeader::split(sealed).map_err(Error::NotAuthentic)?;
                if !self.part.matches(&header) {
                    return Err(broken());
                }
                (header, Some(sealed.slice_ref(chunks)))
            }
        };
        let span = envelope::chunk_span(self.part.plain, self.plain..self.part.plain);
        let span = span.map_err(|_| broken())?;
        let begun = span.sealed_range().start;
        let dek = key.dek(&self.mover).await?;
        let mut fresh = dek
            .range_opener(self.part.number, &header, span)
            .map_err(Error::NotAuthentic)?;
        let chunks = match opener {
            Some(chunks) => chunks,
            None => {
                let cut = cut(&self.tail, self.at, begun).ok_or_else(broken)?;
                let mut chunks = BytesMut::from(cut);
                chunks.extend_from_slice(sealed);
                chunks.freeze()
            }
        };
        fresh.update(&chunks, out).map_err(Error::NotAuthentic)?;
        self.opening = Some((header, fresh));
        Ok(())
    }
}

/// The last bytes before `at`, from `begun` on, of which `tail` are the last ones.
fn cut(tail: &[u8], at: u64, begun: u64) -> Option<&[u8]> {
    let held = usize::try_from(at.checked_sub(begun)?).ok()?;
    tail.get(tail.len().checked_sub(held)?..)
}

/// As a body that is read: what fails to open is an error of the stream, never its end.
pub(super) fn streamed(incoming: Incoming) -> Reader {
    let chunks = stream::unfold(Some(incoming), |incoming| async move {
        let mut incoming = incoming?;
        match incoming.next().await {
            Ok(Some(chunk)) => Some((Ok::<Bytes, std::io::Error>(chunk), Some(incoming))),
            Ok(None) => None,
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    Box::pin(StreamReader::new(Box::pin(chunks)))
}

/// An error of a body that was read through [`streamed`], as it was.
pub(super) fn unread(error: Error) -> Error {
    match error {
        Error::Io(error) => error.downcast::<Error>().unwrap_or_else(Error::Io),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_of_a_chunk_lies_in_the_block_before_is_fed_again() {
        let tail = [1, 2, 3, 4];
        assert_eq!(cut(&tail, 100, 98), Some(&[3, 4][..]));
        assert_eq!(cut(&tail, 100, 100), Some(&[][..]));
        assert_eq!(cut(&tail, 100, 96), Some(&tail[..]));
        // More than is held, or bytes that are still to come.
        assert_eq!(cut(&tail, 100, 95), None);
        assert_eq!(cut(&tail, 100, 101), None);
    }

    #[test]
    fn an_error_of_the_source_comes_back_as_it_was() {
        let error = Error::Damaged {
            message: "bad".to_owned(),
        };
        let through = Error::Io(std::io::Error::other(error));
        assert_eq!(unread(through).reason(), "damaged");
        let own = Error::Io(std::io::Error::other("disk"));
        assert_eq!(unread(own).reason(), "io");
    }
}
