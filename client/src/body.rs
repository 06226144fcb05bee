//! Plaintext on its way in.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// What is to be stored: bytes at hand, or a stream.
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// Read as it is sealed; of unknown length.
    Stream(Reader),
    /// Read as it is sealed; of so many bytes, as its giver says.
    Sized(Reader, u64),
}

/// Where plaintext is read from.
pub type Reader = Pin<Box<dyn AsyncRead + Send>>;

/// One reader, for bodies that follow one another.
pub(crate) struct Shared(Arc<Mutex<Reader>>);

/// Up to so many of the next bytes of a shared reader.
struct Next {
    reader: Arc<Mutex<Reader>>,
    left: u64,
}

impl Body {
    /// A stream.
    pub fn stream(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::Stream(Box::pin(reader))
    }

    /// A stream of so many bytes. Over [`crate::Tuning::stream_bytes_max`] it is put in parts.
    pub fn sized(reader: impl AsyncRead + Send + 'static, bytes: u64) -> Self {
        Self::Sized(Box::pin(reader), bytes)
    }

    /// How many bytes there are, if that is known.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match self {
            Self::Bytes(all) => Some(all.len() as u64),
            Self::Stream(_) => None,
            Self::Sized(_, bytes) => Some(*bytes),
        }
    }

    /// To be read by several bodies, one after the other.
    pub(crate) fn shared(self) -> Shared {
        let reader: Reader = match self {
            Self::Bytes(all) => Box::pin(std::io::Cursor::new(all)),
            Self::Stream(reader) | Self::Sized(reader, _) => reader,
        };
        Shared(Arc::new(Mutex::new(reader)))
    }

    /// Appends up to `bytes` to `out`; fewer only at the end. Returns how many came.
    pub(crate) async fn fill(&mut self, out: &mut Vec<u8>, bytes: usize) -> std::io::Result<usize> {
        match self {
            Self::Bytes(all) => {
                let part = all.split_to(bytes.min(all.len()));
                out.extend_from_slice(&part);
                Ok(part.len())
            }
            Self::Stream(reader) | Self::Sized(reader, _) => {
                let start = out.len();
                out.reserve(bytes);
                let mut limited = reader.as_mut().take(bytes as u64);
                while out.len() - start < bytes {
                    if limited.read_buf(out).await? == 0 {
                        break;
                    }
                }
                Ok(out.len() - start)
            }
        }
    }
}

impl Shared {
    /// A body of up to so many of the bytes that come next.
    pub(crate) fn next(&self, bytes: u64) -> Body {
        Body::stream(Next {
            reader: self.0.clone(),
            left: bytes,
        })
    }
}

impl AsyncRead for Next {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX);
        let room = room.min(out.remaining());
        let mut limited = ReadBuf::new(out.initialize_unfilled_to(room));
        // Bodies follow one another, so nobody waits here.
        ready!(self.reader.lock().as_mut().poll_read(cx, &mut limited))?;
        let read = limited.filled().len();
        self.left -= read as u64;
        out.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Body({} bytes)", bytes.len()),
            Self::Stream(_) => f.write_str("Body(stream)"),
            Self::Sized(_, bytes) => write!(f, "Body(stream of {bytes} bytes)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_of_one_reader_follow_one_another() {
        let all: Vec<u8> = (0..=255).collect();
        let shared = Body::from(all.clone()).shared();
        let mut got = Vec::new();
        for bytes in [100, 1, 154, 7] {
            let mut body = shared.next(bytes);
            let before = got.len();
            while body.fill(&mut got, 64).await.expect("memory") > 0 {}
            let left = 256 - before as u64;
            assert_eq!((got.len() - before) as u64, bytes.min(left));
        }
        assert_eq!(got, all);
    }
}
