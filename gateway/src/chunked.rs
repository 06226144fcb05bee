//! The framing of bodies in S3's own coding, looked at before it is decoded.
//!
//! Owns how much of a body is held for the sake of its framing: the decoder behind takes a chunk whole, so a chunk that
//! nobody signed is cut into small ones, and one that is signed has a bound. Refuses framing that is none, and a body
//! that ends before its last chunk. Signatures, trailers and lengths are the decoder's.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Bytes of a chunk whose signature is over all of it.
pub(crate) const SIGNED_CHUNK_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a chunk that is handed on as it is.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of the line before a chunk: eight digits, a signature.
const LINE_BYTES_MAX: usize = 8 + SIGNATURE.len() + SIGNATURE_BYTES + 2;
const SIGNATURE: &[u8] = b";chunk-signature=";
const SIGNATURE_BYTES: usize = 64;
/// The header that says how a body is signed.
const CONTENT_HASH: &str = "x-amz-content-sha256";
/// How it begins where the body comes in chunks.
const STREAMING: &[u8] = b"STREAMING-";

/// What a signed chunk that is too large ends its body with.
pub(crate) const CHUNK_TOO_LARGE: &str = "a signed chunk has at most 8388608 bytes";

/// Why a body's framing was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    #[error("{CHUNK_TOO_LARGE}")]
    TooLarge,
    #[error("the framing of a chunk is none")]
    Malformed,
    #[error("the body ended before its last chunk")]
    Incomplete,
}

/// Where in its framing a body is.
#[derive(Debug)]
enum At {
    /// In the line before a chunk.
    Line(Vec<u8>),
    /// So many bytes before the end of a chunk, which is handed on in pieces or as it is.
    Data { left: u64, pieces: bool },
    /// Before the line's end that follows a chunk, some of which may be there.
    Between { seen: usize, pieces: bool },
    /// After the last chunk.
    Trailers,
}

/// The framing of one body.
#[derive(Debug)]
pub(crate) struct Framing {
    at: At,
    whole_bytes_max: u64,
}

impl Framing {
    /// Cuts chunks that are larger than this and not signed.
    pub(crate) fn cutting(whole_bytes_max: u64) -> Self {
        Self {
            at: At::Line(Vec::new()),
            whole_bytes_max,
        }
    }

    /// Takes bytes as they come, and hands on what the decoder is given of them.
    pub(crate) fn take(
        &mut self,
        mut bytes: Bytes,
        on: &mut VecDeque<Bytes>,
    ) -> Result<(), FramingError> {
        while !bytes.is_empty() {
            self.at = match std::mem::replace(&mut self.at, At::Trailers) {
                At::Line(line) => in_line(line, self.whole_bytes_max, &mut bytes, on)?,
                At::Data { left, pieces } => in_data(left, pieces, &mut bytes, on),
                At::Between { seen, pieces } => {
                    let byte = bytes.get_u8();
                    match (seen, byte) {
                        (0, b'\r') => At::Between { seen: 1, pieces },
                        (1, b'\n') => {
                            if !pieces {
                                on.push_back(Bytes::from_static(b"\r\n"));
                            }
                            At::Line(Vec::new())
                        }
                        _ => return Err(FramingError::Malformed),
                    }
                }
                At::Trailers => {
                    on.push_back(std::mem::take(&mut bytes));
                    At::Trailers
                }
            };
        }
        Ok(())
    }

    /// The body has ended.
    pub(crate) fn end(&self) -> Result<(), FramingError> {
        match self.at {
            At::Trailers => Ok(()),
            _ => Err(FramingError::Incomplete),
        }
    }
}

fn in_line(
    mut line: Vec<u8>,
    whole_bytes_max: u64,
    bytes: &mut Bytes,
    on: &mut VecDeque<Bytes>,
) -> Result<At, FramingError> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let part = bytes.split_to(end.map_or(bytes.len(), |end| end + 1));
    if line.len() + part.len() > LINE_BYTES_MAX {
        return Err(FramingError::Malformed);
    }
    line.extend_from_slice(&part);
    if end.is_none() {
        return Ok(At::Line(line));
    }
    let (size, signed) = chunk(&line).ok_or(FramingError::Malformed)?;
    if signed && size > SIGNED_CHUNK_BYTES_MAX {
        return Err(FramingError::TooLarge);
    }
    let pieces = size > whole_bytes_max && !signed;
    if !pieces {
        on.push_back(line.into());
    }
    Ok(match size {
        0 => At::Trailers,
        left => At::Data { left, pieces },
    })
}

fn in_data(left: u64, pieces: bool, bytes: &mut Bytes, on: &mut VecDeque<Bytes>) -> At {
    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let data = bytes.split_to(here);
    if pieces {
        on.push_back(format!("{here:x}\r\n").into());
        on.push_back(data);
        on.push_back(Bytes::from_static(b"\r\n"));
    } else {
        on.push_back(data);
    }
    match left - here as u64 {
        0 => At::Between { seen: 0, pieces },
        left => At::Data { left, pieces },
    }
}

/// The size that a chunk's line states, and whether the chunk is signed.
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let line = line.strip_suffix(b"\r\n")?;
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let (size, rest) = line.split_at(digits.count());
    let signed = match rest.strip_prefix(SIGNATURE) {
        Some(signature)
            if signature.len() == SIGNATURE_BYTES
                && signature.iter().all(u8::is_ascii_hexdigit) =>
        {
            true
        }
        None if rest.is_empty() => false,
        _ => return None,
    };
    let size = std::str::from_utf8(size)
        .ok()
        .filter(|size| size.len() <= 8)?;
    Some((u64::from_str_radix(size, 16).ok()?, signed))
}

/// A request's body, its framing looked at where it has any.
pub(crate) struct Framed<B> {
    body: B,
    framing: Option<Framing>,
    on: VecDeque<Bytes>,
    ended: bool,
}

impl<B> Framed<B> {
    pub(crate) fn new(body: B, headers: &HeaderMap) -> Self {
        let hash = headers.get(CONTENT_HASH);
        let coded = hash.is_some_and(|hash| hash.as_bytes().starts_with(STREAMING));
        Self {
            body,
            framing: coded.then(|| Framing::cutting(WHOLE_BYTES_MAX)),
            on: VecDeque::new(),
            ended: false,
        }
    }
}

impl<B> Body for Framed<B>
where
    B: Body<Data = Bytes, Error = io::Error> + Unpin,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let Some(framing) = &mut this.framing else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        loop {
            if let Some(bytes) = this.on.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let taken = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => framing.take(bytes, &mut this.on),
                    Err(_) => Ok(()),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    this.ended = true;
                    framing.end()
                }
            };
            if let Err(error) = taken {
                this.ended = true;
                this.on.clear();
                return Poll::Ready(Some(Err(io::Error::other(error))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.framing.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.framing {
            // Cut chunks have more lines than came.
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn through(pieces: &[&[u8]]) -> Result<Vec<u8>, FramingError> {
        let mut framing = Framing::cutting(WHOLE_BYTES_MAX);
        let mut on = VecDeque::new();
        for piece in pieces {
            framing.take(Bytes::copy_from_slice(piece), &mut on)?;
        }
        framing.end()?;
        Ok(Vec::from(on).concat())
    }

    fn signed(size: usize) -> String {
        format!("{size:x};chunk-signature={}\r\n", "0".repeat(64))
    }

    #[test]
    fn small_and_signed_chunks_pass_as_they_are_however_they_come() {
        let plain = b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:x\r\n\r\n".to_vec();
        let signed = [
            signed(3),
            "abc\r\n".to_owned(),
            signed(0),
            "\r\n".to_owned(),
        ];
        for body in [plain, signed.concat().into_bytes()] {
            assert_eq!(through(&[&body]), Ok(body.clone()));
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(through(&bytes), Ok(body.clone()));
        }
    }

    #[test]
    fn a_large_chunk_that_nobody_signed_is_cut() {
        let size = WHOLE_BYTES_MAX as usize + 1;
        let (line, data) = (format!("{size:x}\r\n"), vec![7; size]);
        let (first, second) = data.split_at(1_000);
        let on = through(&[line.as_bytes(), first, second, b"\r", b"\n0\r\n\r\n"]);
        let cut =
            |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        let expected = [cut(first), cut(second), b"0\r\n\r\n".to_vec()].concat();
        assert!(on == Ok(expected));
    }

    #[test]
    fn a_signed_chunk_has_a_bound() {
        let most = signed(SIGNED_CHUNK_BYTES_MAX as usize);
        assert_eq!(through(&[most.as_bytes()]), Err(FramingError::Incomplete));
        let more = signed(SIGNED_CHUNK_BYTES_MAX as usize + 1);
        assert_eq!(through(&[more.as_bytes()]), Err(FramingError::TooLarge));
    }

    #[test]
    fn what_is_no_framing_is_refused_and_what_breaks_off_too() {
        let long = [
            b"3;chunk-signature=".to_vec(),
            vec![b'0'; 65],
            b"\r\n".to_vec(),
        ]
        .concat();
        let malformed: [&[u8]; 9] = [
            b"\r\n",
            b"zz\r\n",
            b"3zz\r\n",
            b"-1\r\n",
            b"123456789\r\n",
            b"3\nabc",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n",
            &long,
        ];
        for bad in malformed {
            assert_eq!(through(&[bad]), Err(FramingError::Malformed), "{bad:?}");
        }
        assert_eq!(through(&[&[b'1'; 200]]), Err(FramingError::Malformed));
        let early: [&[u8]; 4] = [b"", b"3", b"3\r\nab", b"3\r\nabc\r\n"];
        for early in early {
            assert_eq!(
                through(&[early]),
                Err(FramingError::Incomplete),
                "{early:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_body_is_looked_at_where_it_is_coded() {
        let body = || {
            let frame = Ok::<_, io::Error>(Frame::data(Bytes::from_static(b"hello")));
            StreamBody::new(stream::iter([frame]))
        };
        let plain = Framed::new(body(), &HeaderMap::new()).collect().await;
        assert_eq!(plain.expect("no framing").to_bytes(), "hello");
        let mut headers = HeaderMap::new();
        let kind = http::HeaderValue::from_static("STREAMING-UNSIGNED-PAYLOAD-TRAILER");
        headers.insert(CONTENT_HASH, kind);
        let coded = Framed::new(body(), &headers).collect().await;
        assert!(coded.is_err(), "it has framing, and this is none");
    }
}
