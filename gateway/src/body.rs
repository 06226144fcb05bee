//! A body on its way in: counted, summed, and compared with what its client says of it before anything is committed.
//!
//! Owns the end of a body. Refuses one that is shorter or longer than stated, or whose checksum is another: the stream
//! ends in an error, so the put fails and nothing becomes visible.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use client::{Body, Checksums};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tokio_util::io::StreamReader;

use crate::checksum::{Algorithm, Md5, Sum};
use crate::error::ApiError;

/// Bodies up to this are held in memory, so that the SDK can try their puts again.
pub(crate) const IN_MEMORY_MAX: u64 = 1 << 20;

/// Bytes as they come.
pub(crate) type Incoming = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// Tells a checksum that came after the body, once the body has ended.
pub(crate) type Trailer = Box<dyn Fn(Algorithm) -> Option<String> + Send>;

/// What a client says of its body.
#[derive(Default)]
pub(crate) struct Stated {
    /// Bytes it has.
    pub(crate) length: u64,
    /// Checksums to be kept, with their values where those came first.
    pub(crate) sums: Vec<(Algorithm, Option<Bytes>)>,
    /// Where values that came last are.
    pub(crate) trailer: Option<Trailer>,
    /// `Content-MD5`.
    pub(crate) md5: Option<[u8; 16]>,
}

/// A body that is checked as it passes.
pub(crate) struct Checked {
    incoming: Incoming,
    left: u64,
    sums: Vec<(Sum, Option<Bytes>)>,
    trailer: Option<Trailer>,
    md5: Option<(Md5, [u8; 16])>,
    checksums: Checksums,
    ended: bool,
}

impl Checked {
    /// Sets `checksums` when the body has ended well.
    pub(crate) fn new(incoming: Incoming, stated: Stated, checksums: Checksums) -> Self {
        let mut sums = stated.sums;
        if sums.is_empty() {
            sums.push((Algorithm::Crc64Nvme, None));
        }
        Self {
            incoming,
            left: stated.length,
            sums: sums
                .into_iter()
                .map(|(algorithm, value)| (Sum::of(algorithm), value))
                .collect(),
            trailer: stated.trailer,
            md5: stated.md5.map(|value| (Md5::default(), value)),
            checksums,
            ended: false,
        }
    }

    /// As the SDK takes it: at hand where it is small, else as it comes.
    pub(crate) async fn into_body(mut self) -> Result<Body, ApiError> {
        if self.left > IN_MEMORY_MAX {
            let bytes = self.map_err(std::io::Error::other);
            return Ok(Body::stream(StreamReader::new(bytes)));
        }
        let mut all = BytesMut::with_capacity(usize::try_from(self.left).unwrap_or(0));
        while let Some(bytes) = self.next().await {
            all.extend_from_slice(&bytes?);
        }
        Ok(Body::Bytes(all.freeze()))
    }

    fn pass(&mut self, bytes: &Bytes) -> Result<(), ApiError> {
        let length = bytes.len() as u64;
        self.left = self
            .left
            .checked_sub(length)
            .ok_or(ApiError::IncompleteBody)?;
        for (sum, _) in &mut self.sums {
            sum.update(bytes);
        }
        if let Some((md5, _)) = &mut self.md5 {
            md5.update(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ApiError> {
        if self.left > 0 {
            return Err(ApiError::IncompleteBody);
        }
        for (sum, stated) in std::mem::take(&mut self.sums) {
            let algorithm = sum.algorithm();
            let came_last = self.trailer.as_ref().and_then(|trailer| trailer(algorithm));
            let stated = match (stated, came_last) {
                (None, Some(text)) => Some(algorithm.parse(&text)?),
                (stated, _) => stated,
            };
            let value = sum.finish();
            if stated.is_some_and(|stated| stated != value) {
                return Err(ApiError::BadDigest);
            }
            self.checksums.set(algorithm.name(), value);
        }
        if let Some((md5, stated)) = self.md5.take()
            && md5.finish() != stated
        {
            return Err(ApiError::BadDigest);
        }
        Ok(())
    }
}

impl Stream for Checked {
    type Item = Result<Bytes, ApiError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.incoming.poll_next_unpin(cx));
        let item = match next {
            Some(Ok(bytes)) => self.pass(&bytes).map(|()| Some(bytes)),
            Some(Err(error)) => Err(error),
            None => self.end().map(|()| None),
        };
        self.ended = !matches!(item, Ok(Some(_)));
        Poll::Ready(item.transpose())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;
    use crate::checksum::text;

    const BODY: &[u8] = b"123456789";

    fn incoming() -> Incoming {
        let pieces = BODY
            .chunks(4)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)));
        Box::pin(stream::iter(pieces.collect::<Vec<_>>()))
    }

    async fn outcome(stated: Stated) -> (Result<Vec<u8>, &'static str>, Checksums) {
        let checksums = Checksums::default();
        let checked = Checked::new(incoming(), stated, checksums.clone());
        let all: Result<Vec<Bytes>, ApiError> = checked.try_collect().await;
        let all = all
            .map(|pieces| pieces.concat())
            .map_err(|error| error.code());
        (all, checksums)
    }

    fn stated(length: u64) -> Stated {
        Stated {
            length,
            ..Stated::default()
        }
    }

    #[tokio::test]
    async fn a_body_that_is_as_stated_passes_and_leaves_its_sum() {
        let (all, checksums) = outcome(stated(9)).await;
        assert_eq!(all, Ok(BODY.to_vec()));
        let kept = checksums.all();
        assert_eq!(hex::encode(&kept["CRC64NVME"]), "ae8b14860a799888");
        assert_eq!(kept.len(), 1);
    }

    #[tokio::test]
    async fn a_length_that_is_another_ends_it() {
        for length in [8, 10] {
            let (all, checksums) = outcome(stated(length)).await;
            assert_eq!(all, Err("IncompleteBody"), "{length}");
            assert!(checksums.all().is_empty());
        }
    }

    #[tokio::test]
    async fn a_checksum_that_is_another_ends_it_wherever_it_came() {
        let right = hex::decode("cbf43926").expect("hexadecimal");
        let first = |value: &[u8]| Stated {
            sums: vec![(Algorithm::Crc32, Some(Bytes::copy_from_slice(value)))],
            ..stated(9)
        };
        assert!(outcome(first(&right)).await.0.is_ok());
        assert_eq!(outcome(first(&[0; 4])).await.0, Err("BadDigest"));
        let last = |value: String| Stated {
            sums: vec![(Algorithm::Crc32, None)],
            trailer: Some(Box::new(move |_| Some(value.clone()))),
            ..stated(9)
        };
        assert!(outcome(last(text(&right))).await.0.is_ok());
        assert_eq!(outcome(last(text(&[0; 4]))).await.0, Err("BadDigest"));
        assert_eq!(outcome(last("?".to_owned())).await.0, Err("InvalidDigest"));
        let md5 = |value| Stated {
            md5: Some(value),
            ..stated(9)
        };
        let mut right = [0; 16];
        hex::decode_to_slice("25f9e794323b453885f5181f1b624d0b", &mut right).expect("MD5");
        assert!(outcome(md5(right)).await.0.is_ok());
        assert_eq!(outcome(md5([0; 16])).await.0, Err("BadDigest"));
    }

    #[tokio::test]
    async fn an_error_on_the_way_is_the_end() {
        let broken: Incoming = Box::pin(stream::iter([Err(ApiError::RequestTimeout)]));
        let mut checked = Checked::new(broken, stated(9), Checksums::default());
        let first = checked
            .next()
            .await
            .expect("an item")
            .expect_err("the error");
        assert_eq!(first.code(), "RequestTimeout");
        assert!(checked.next().await.is_none());
    }
}
