//! An object on its way back: its streams opened chunk by chunk, one after the other.
//!
//! Owns the renewal of a key whose time is over (a new open, with a record of its own) and the order of parts. Refuses
//! to hand out a byte that did not open, and a part that is not the stream the sealed manifest names.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use envelope::{Manifest, ManifestPart, OpenDek, OpenError, RangeOpener};
use proto::ids::{NodeId, ObjectKey, UnixMs};
use proto::v1;

pub(crate) use self::parts::layout;
use self::parts::{Layouts, Parts};
pub(crate) use self::source::{Layout, Source, Stored, whole_block};
use crate::dataset::{Dataset, GetOptions, agree, time_left};
use crate::error::Error;
use crate::opens::Opened;

mod parts;
mod source;

/// A key with less time than this is renewed before the next piece.
const RENEW_BEFORE: Duration = Duration::from_secs(5);

/// An object as it was found: everything a reader needs to go on, or to start again elsewhere.
pub(crate) struct Found {
    pub(crate) dataset: Dataset,
    pub(crate) key: ObjectKey,
    pub(crate) entry: v1::ObjectEntry,
    pub(crate) token: Bytes,
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) options: GetOptions,
    /// Of a dataset that arrives by a relocation: its parts are listed to who moves it alone.
    pub(crate) arriving: Option<v1::Relocated>,
}

impl Found {
    /// Asks for the sealed bytes of `plain` before the key is there, where the entry says where they are.
    pub(crate) fn start(self: &Arc<Self>, plain: Range<u64>) -> Result<Option<Source>, Error> {
        match self.entry.parts {
            0 => Source::start(self, Layout::of_entry(&self.entry), plain).map(Some),
            // Which parts hold them is in the sealed manifest.
            _ => Ok(None),
        }
    }
}

/// Reads an object's plaintext in pieces.
pub struct ObjectReader {
    found: Arc<Found>,
    end: u64,
    position: u64,
    usable_until: UnixMs,
    stream: Option<Stream>,
    parts: Option<Parts>,
}

/// One part being read.
struct Stream {
    source: Source,
    opener: RangeOpener,
}

impl Stream {
    async fn open(
        mut source: Source,
        dek: &OpenDek,
        part: &ManifestPart,
        plain: Range<u64>,
    ) -> Result<Self, Error> {
        let header = source.header().await?;
        if !part.matches(&header) {
            return Err(Error::NotAuthentic(OpenError));
        }
        let span =
            envelope::chunk_span(part.plain, plain).map_err(|_| Error::NotAuthentic(OpenError))?;
        let opener = dek
            .range_opener(part.number, &header, span)
            .map_err(Error::NotAuthentic)?;
        Ok(Self { source, opener })
    }
}

/// The one stream of an object that did not come in parts.
pub(crate) fn only_part(manifest: &Manifest) -> Result<&ManifestPart, Error> {
    match manifest.parts() {
        [part] => Ok(part),
        _ => Err(Error::NotAuthentic(OpenError)),
    }
}

impl ObjectReader {
    pub(crate) async fn open(
        found: Arc<Found>,
        source: Option<Source>,
        opened: Opened,
        plain: Range<u64>,
    ) -> Result<Self, Error> {
        Self::resume(found, source, opened, plain, Layouts::default()).await
    }

    /// As [`open`](Self::open), where it is known already where parts lie.
    async fn resume(
        found: Arc<Found>,
        source: Option<Source>,
        opened: Opened,
        plain: Range<u64>,
        layouts: Layouts,
    ) -> Result<Self, Error> {
        let entry = &found.entry;
        let manifest = opened
            .dek
            .open_manifest(&entry.sealed_manifest)
            .map_err(Error::NotAuthentic)?;
        agree(&manifest, entry)?;
        let (end, position) = (plain.end, plain.start);
        let usable_until = opened.usable_until;
        let (stream, parts) = match source {
            Some(source) => {
                let part = only_part(&manifest)?;
                let stream = Stream::open(source, &opened.dek, part, plain).await?;
                (Some(stream), None)
            }
            None => {
                let mut parts = Parts::new(found.clone(), opened.dek, manifest, plain, layouts)?;
                (parts.next().await?, Some(parts))
            }
        };
        Ok(Self {
            found,
            end,
            position,
            usable_until,
            stream,
            parts,
        })
    }

    /// The next piece of plaintext; `None` at the end, once the last chunk has proved the length.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if time_left(self.usable_until) < RENEW_BEFORE && self.position < self.end {
                self.renew().await?;
            }
            let Some(stream) = &mut self.stream else {
                return self.ended();
            };
            let Some(sealed) = stream.source.next().await? else {
                if !stream.opener.is_done() {
                    return Err(Error::NotAuthentic(OpenError));
                }
                self.stream = match &mut self.parts {
                    Some(parts) => parts.next().await?,
                    None => None,
                };
                continue;
            };
            let mut plain = Vec::with_capacity(sealed.len());
            stream
                .opener
                .update(&sealed, &mut plain)
                .map_err(Error::NotAuthentic)?;
            self.position += plain.len() as u64;
            if !plain.is_empty() {
                return Ok(Some(plain.into()));
            }
        }
    }

    fn ended(&self) -> Result<Option<Bytes>, Error> {
        match self.position == self.end {
            true => Ok(None),
            false => Err(Error::NotAuthentic(OpenError)),
        }
    }

    /// Opens again from where this stands: a new record, a new key.
    async fn renew(&mut self) -> Result<(), Error> {
        let plain = self.position..self.end;
        let source = self.found.start(plain.clone())?;
        let opened = self.found.dataset.open(&self.found).await?;
        // The version may be gone by now: where its parts lie is told no more.
        let layouts = self.parts.as_mut().map(Parts::take_layouts);
        let layouts = layouts.unwrap_or_default();
        *self = Self::resume(self.found.clone(), source, opened, plain, layouts).await?;
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
