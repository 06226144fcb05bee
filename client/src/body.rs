//! Plaintext on its way in.

use std::pin::Pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is to be stored: bytes at hand, or a stream of unknown length.
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// Read as it is sealed.
    Stream(Pin<Box<dyn AsyncRead + Send>>),
}

impl Body {
    /// A stream.
    pub fn stream(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::Stream(Box::pin(reader))
    }

    /// Appends up to `bytes` to `out`; fewer only at the end. Returns how many came.
    pub(crate) async fn fill(&mut self, out: &mut Vec<u8>, bytes: usize) -> std::io::Result<usize> {
        match self {
            Self::Bytes(all) => {
                let part = all.split_to(bytes.min(all.len()));
                out.extend_from_slice(&part);
                Ok(part.len())
            }
            Self::Stream(reader) => {
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
        }
    }
}
