//! A version of the source, opened and sealed anew under a lease of this region.
//!
//! Owns what stays as it is (its id, when it was finished, what keeps it, its metadata, how its bytes are laid out) and what
//! is new: lease, salts, streams, manifest. Refuses what does not open as its sealed manifest says. More than one block of a
//! stream is never in memory, besides those on their way.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use envelope::{Manifest, ManifestPart, OpenError, StreamHeader};
use proto::ids::{ObjectVersionId, UploadEpoch};
use proto::v1;
use transport::Stated;

use super::digests::{Digests, PartSeen};
use super::incoming::{Incoming, Running, SharedKey, streamed, unread};
use super::keys::{Handed, Sealed};
use super::{How, Inner};
use crate::body::Body;
use crate::dataset::put::Sealing;
use crate::dataset::{agree, time_left};
use crate::download::{Layout, only_part};
use crate::error::Error;
use crate::upload;

/// What is larger begins under a lease that is as good as new: below feature level 9 of the shard one in parts is imported
/// while its lease lives, and no later.
const FRESH_LEASE_BYTES: u64 = 8 << 30;
/// How good that is.
const FRESH_LEASE_LEFT: Duration = Duration::from_secs(3_300);

/// A version, sealed anew.
pub(super) struct Anew {
    pub(super) entry: v1::ObjectEntry,
    pub(super) parts: Vec<v1::PartName>,
    pub(super) receipts: Vec<v1::Receipt>,
    /// Sealed bytes that were read of the source.
    pub(super) read: u64,
    pub(super) digests: Digests,
}

/// Streams of one version, on their way.
pub(super) struct Reading<'a> {
    pub(super) mover: &'a Arc<Inner>,
    pub(super) how: &'a How,
    key: SharedKey,
    running: Running,
}

/// Where the streams of a version lie here.
#[derive(Default)]
pub(super) struct Laid {
    pub(super) stream: Stream,
    pub(super) parts: Vec<(ManifestPart, v1::PartName)>,
    pub(super) seen: Vec<PartSeen>,
    pub(super) read: u64,
}

/// Where one stream lies here.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) inline: Bytes,
    pub(super) blocks: Vec<v1::BlockRef>,
    pub(super) upload_epoch: u64,
    pub(super) receipts: Vec<v1::Receipt>,
}

pub(super) fn broken() -> Error {
    Error::NotAuthentic(OpenError)
}

/// The id that a part's blocks are kept under: the beginning of its stream's commitment.
pub(super) fn part_id(header: &StreamHeader) -> ObjectVersionId {
    let mut id = [0; 16];
    id.copy_from_slice(&header.commitment().0[..16]);
    ObjectVersionId(id)
}

impl Inner {
    /// Opens a version and seals it anew; its bytes are durable here then, and not yet imported.
    pub(super) async fn anew(
        self: &Arc<Self>,
        how: &How,
        mut handed: Handed,
    ) -> Result<Anew, Error> {
        let sealed = handed.sealed.clone();
        let there = &sealed.entry;
        let opened = handed
            .dek(self)
            .await?
            .open_manifest(&there.sealed_manifest);
        let manifest = opened.map_err(Error::NotAuthentic)?;
        agree(&manifest, there)?;
        let metadata = self.source_metadata(sealed.id, &there.sealed_metadata);
        let metadata = metadata.await?;
        let sealing = self.sealing(&sealed).await?;
        let reading = Reading::new(self, how, handed);
        let laid = match there.parts {
            0 => reading.one_stream(&sealing, &sealed, &manifest).await?,
            _ => reading.parts(&sealing, &sealed, &manifest).await?,
        };
        let (parts, names): (Vec<_>, Vec<_>) = laid.parts.into_iter().unzip();
        let remade = Manifest::new(parts, manifest.checksums().to_vec());
        let remade = remade.map_err(|_| Error::Seal(envelope::SealError::TooLong))?;
        let (sealed_metadata, metadata_key_version) = match metadata.is_empty() {
            true => (Bytes::new(), 0),
            false => {
                let (sealed, version) = sealing.seal_metadata(&metadata)?;
                (Bytes::copy_from_slice(sealed.as_bytes()), version)
            }
        };
        let entry = v1::ObjectEntry {
            finished_at_ms: there.finished_at_ms,
            retention: there.retention,
            legal_hold: there.legal_hold,
            sealed_bytes: remade.sealed_total(),
            sealed_metadata,
            metadata_key_version,
            inline: laid.stream.inline,
            blocks: laid.stream.blocks,
            upload_epoch: laid.stream.upload_epoch,
            ..sealing.bare_entry(&remade)?
        };
        Ok(Anew {
            entry,
            // Of one stream nothing is named.
            parts: if there.parts == 0 { Vec::new() } else { names },
            receipts: laid.stream.receipts,
            read: laid.read,
            digests: Digests {
                content: self.digester.content(&reading.running, &laid.seen),
                metadata: self.digester.metadata(&metadata),
            },
        })
    }

    /// What a version of the source comes to, without storing it.
    pub(super) async fn source_digests(
        self: &Arc<Self>,
        how: &How,
        mut handed: Handed,
    ) -> Result<(Digests, u64), Error> {
        let sealed = handed.sealed.clone();
        let there = &sealed.entry;
        let opened = handed
            .dek(self)
            .await?
            .open_manifest(&there.sealed_manifest);
        let manifest = opened.map_err(Error::NotAuthentic)?;
        agree(&manifest, there)?;
        let metadata = self.source_metadata(sealed.id, &there.sealed_metadata);
        let metadata = metadata.await?;
        let reading = Reading::new(self, how, handed);
        let (seen, read) = match there.parts {
            0 => {
                let part = *only_part(&manifest)?;
                let read = reading.through(Layout::of_entry(there), part).await?;
                (vec![PartSeen::bare(&part)], read)
            }
            _ => reading.parts_through(&sealed, &manifest).await?,
        };
        let digests = Digests {
            content: self.digester.content(&reading.running, &seen),
            metadata: self.digester.metadata(&metadata),
        };
        Ok((digests, read))
    }

    /// Lease, salts and keys for a version that keeps its id.
    async fn sealing(&self, sealed: &Sealed) -> Result<Sealing, Error> {
        let dataset = self.dataset().await?;
        if sealed.entry.plain_bytes > FRESH_LEASE_BYTES {
            let (keys, acting) = (dataset.keys(), dataset.acting());
            let held = dataset.seal_lease().await?;
            if time_left(held.expires()) < FRESH_LEASE_LEFT {
                keys.drop_lease(dataset.id(), acting, &held).await;
            }
        }
        dataset.sealing_of(&sealed.key, sealed.id).await
    }
}

impl PartSeen {
    pub(super) fn bare(part: &ManifestPart) -> Self {
        Self {
            number: part.number.0,
            plain: part.plain,
            beside: Vec::new(),
        }
    }
}

impl<'a> Reading<'a> {
    fn new(mover: &'a Arc<Inner>, how: &'a How, handed: Handed) -> Self {
        Self {
            mover,
            how,
            key: Arc::new(tokio::sync::Mutex::new(handed)),
            running: mover.digester.running(),
        }
    }

    async fn one_stream(
        &self,
        sealing: &Sealing,
        sealed: &Sealed,
        manifest: &Manifest,
    ) -> Result<Laid, Error> {
        let part = *only_part(manifest)?;
        let layout = Layout::of_entry(&sealed.entry);
        let (header, stream, read) = self.stream(sealing, layout, part, false).await?;
        let remade = remade(&part, &header)?;
        Ok(Laid {
            stream,
            parts: vec![(remade, v1::PartName::default())],
            seen: vec![PartSeen::bare(&part)],
            read,
        })
    }

    /// Opens one stream and seals it anew, as it was laid out; `in_parts` says that it is one part of a version.
    pub(super) async fn stream(
        &self,
        sealing: &Sealing,
        layout: Layout,
        part: ManifestPart,
        in_parts: bool,
    ) -> Result<(StreamHeader, Stream, u64), Error> {
        if layout.blocks.is_empty() {
            let read = layout.inline.len() as u64;
            let plain = self.inline(&layout.inline, &part).await?;
            let stream = sealing.dek.seal_part(part.number, &plain)?;
            let (header, _) = StreamHeader::split(&stream).map_err(Error::NotAuthentic)?;
            let stream = Stream {
                inline: stream.into(),
                ..Stream::default()
            };
            return Ok((header, stream, read));
        }
        let dataset = self.mover.dataset().await?;
        let sealer = sealing.dek.sealer(part.number)?;
        let version = sealing.dek.context().version;
        let target = upload::Target {
            shard: dataset.shard(),
            dataset: dataset.id(),
            version: match in_parts {
                true => part_id(sealer.header()),
                false => version,
            },
            part_of: in_parts.then_some(version),
            upload_epoch: UploadEpoch(dataset.0.upload_epoch.load(Ordering::Relaxed)),
            lease: sealing.lease.id(),
            replicas: dataset.replicas().await?,
            stated: Stated::default(),
        };
        let upload_epoch = target.upload_epoch.0;
        let body = Body::Stream(streamed(self.incoming(layout, part)));
        let uploaded = upload::run(&dataset.0.region, target, sealer, Vec::new(), body);
        let uploaded = uploaded.await.map_err(unread)?;
        if uploaded.plain_bytes != part.plain {
            return Err(broken());
        }
        let stream = Stream {
            inline: Bytes::new(),
            blocks: uploaded.blocks,
            upload_epoch,
            receipts: uploaded.receipts,
        };
        // As many sealed bytes as there are plaintext ones in both regions.
        Ok((uploaded.header, stream, uploaded.sealed_bytes))
    }

    /// Opens one stream for what it comes to.
    pub(super) async fn through(&self, layout: Layout, part: ManifestPart) -> Result<u64, Error> {
        if layout.blocks.is_empty() {
            self.inline(&layout.inline, &part).await?;
            return Ok(layout.inline.len() as u64);
        }
        let mut incoming = self.incoming(layout, part);
        while incoming.next().await?.is_some() {}
        Ok(part.sealed)
    }

    fn incoming(&self, layout: Layout, part: ManifestPart) -> Incoming {
        let by = (self.mover, &self.how.throttle);
        Incoming::new(by, &self.key, (layout, part), &self.running)
    }

    async fn inline(&self, stream: &Bytes, part: &ManifestPart) -> Result<Vec<u8>, Error> {
        self.how.throttle.take(stream.len() as u64).await;
        let (header, _) = StreamHeader::split(stream).map_err(Error::NotAuthentic)?;
        if !part.matches(&header) {
            return Err(broken());
        }
        let mut key = self.key.lock().await;
        let opened = key.dek(self.mover).await?.open_part(part.number, stream);
        let plain = opened.map_err(Error::NotAuthentic)?;
        if plain.len() as u64 != part.plain {
            return Err(broken());
        }
        self.running.lock().update(&plain);
        Ok(plain)
    }
}

/// A part of the manifest, of the stream that it has here.
pub(super) fn remade(part: &ManifestPart, header: &StreamHeader) -> Result<ManifestPart, Error> {
    ManifestPart::new(part.number, part.plain, header)
        .map_err(|_| Error::Seal(envelope::SealError::TooLong))
}
