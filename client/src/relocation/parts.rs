//! Versions that came in parts: an upload of the version's own id here, a stream of its DEK for each part.
//!
//! Owns the order of parts, which is the sealed manifest's, and the end of an upload that another mover left: it is under that
//! one's lease. Refuses a part that the manifest does not name as it lies there.

use bytes::Bytes;
use envelope::{Manifest, ManifestPart};
use proto::ids::ObjectVersionId;
use proto::v1;

use super::Inner;
use super::anew::{Laid, Reading, Stream, broken, part_id, remade};
use super::digests::{PartSeen, beside_part};
use super::keys::Sealed;
use crate::dataset::put::Sealing;
use crate::download::{Layout, layout};
use crate::error::Error;

/// Parts of one page.
const PAGE: u32 = 64;

/// One part as the source has it.
struct There {
    part: ManifestPart,
    layout: Layout,
    sealed_metadata: Bytes,
}

/// The parts of a version in the source, page by page.
struct Listing<'a> {
    mover: &'a Inner,
    sealed: &'a Sealed,
    wanted: std::slice::Iter<'a, ManifestPart>,
    held: std::vec::IntoIter<v1::ListedPart>,
    after: u32,
    more: bool,
}

impl<'a> Listing<'a> {
    fn new(mover: &'a Inner, sealed: &'a Sealed, manifest: &'a Manifest) -> Self {
        Self {
            mover,
            sealed,
            wanted: manifest.parts().iter(),
            held: Vec::new().into_iter(),
            after: 0,
            more: true,
        }
    }

    /// The next part that the manifest names.
    async fn next(&mut self) -> Result<Option<There>, Error> {
        let Some(part) = self.wanted.next().copied() else {
            return Ok(None);
        };
        loop {
            let Some(listed) = self.listed().await? else {
                return Err(broken());
            };
            let Some(record) = &listed.part else {
                return Err(broken());
            };
            if record.number < part.number.0 {
                continue;
            }
            let sealed_metadata = record.sealed_metadata.clone();
            let layout = layout(listed, &part).ok_or_else(broken)?;
            return Ok(Some(There {
                part,
                layout,
                sealed_metadata,
            }));
        }
    }

    async fn listed(&mut self) -> Result<Option<v1::ListedPart>, Error> {
        loop {
            if let Some(listed) = self.held.next() {
                return Ok(Some(listed));
            }
            if !self.more {
                return Ok(None);
            }
            let page = self.mover.source_parts(self.sealed, self.after).await?;
            let numbers = page.parts.iter().filter_map(|listed| listed.part.as_ref());
            let last = numbers.map(|part| part.number).max().unwrap_or(self.after);
            self.more = page.truncated && last > self.after;
            self.after = last;
            self.held = page.parts.into_iter();
        }
    }
}

impl Reading<'_> {
    /// Puts the parts of a version in an upload of its id.
    pub(super) async fn parts(
        &self,
        sealing: &Sealing,
        sealed: &Sealed,
        manifest: &Manifest,
    ) -> Result<Laid, Error> {
        self.mover
            .end_left_upload(sealed.key.as_str(), sealed.id)
            .await?;
        self.mover.begin_upload(sealing, sealed).await?;
        let mut laid = Laid::default();
        let mut listing = Listing::new(self.mover, sealed, manifest);
        while let Some(there) = listing.next().await? {
            let (number, of) = (there.part.number.0, there.layout.id.clone());
            let stream = self.stream(sealing, there.layout, there.part, true);
            let (header, stream, read) = stream.await?;
            let id = part_id(&header);
            let beside = self
                .mover
                .source_metadata(sealed.id, &there.sealed_metadata);
            let (seen, beside) = beside_part(&beside.await?, number, &of, &id.0)?;
            let (sealed_metadata, metadata_key_version) = match beside.is_empty() {
                true => (Bytes::new(), 0),
                false => {
                    let (sealed, version) = sealing.seal_metadata(&beside)?;
                    (Bytes::copy_from_slice(sealed.as_bytes()), version)
                }
            };
            let remade = remade(&there.part, &header)?;
            let record = v1::PartRecord {
                number,
                part_id: id.into(),
                commitment: Bytes::copy_from_slice(&remade.commitment.0),
                plain_bytes: remade.plain,
                sealed_bytes: remade.sealed,
                sealed_metadata,
                metadata_key_version,
                ..v1::PartRecord::default()
            };
            self.mover.finish_part(sealed, record, stream).await?;
            laid.seen.push(PartSeen {
                number,
                plain: remade.plain,
                beside: seen,
            });
            let part_id = id.into();
            laid.parts.push((remade, v1::PartName { number, part_id }));
            laid.read += read;
        }
        Ok(laid)
    }

    /// What the parts of a version come to, and how many sealed bytes were read.
    pub(super) async fn parts_through(
        &self,
        sealed: &Sealed,
        manifest: &Manifest,
    ) -> Result<(Vec<PartSeen>, u64), Error> {
        let (mut all, mut read) = (Vec::new(), 0);
        let mut listing = Listing::new(self.mover, sealed, manifest);
        while let Some(there) = listing.next().await? {
            let (part, of) = (there.part, there.layout.id.clone());
            read += self.through(there.layout, part).await?;
            let beside = self
                .mover
                .source_metadata(sealed.id, &there.sealed_metadata);
            let (beside, _) = beside_part(&beside.await?, part.number.0, &of, &of)?;
            all.push(PartSeen {
                beside,
                ..PartSeen::bare(&part)
            });
        }
        Ok((all, read))
    }
}

impl Inner {
    async fn source_parts(
        &self,
        sealed: &Sealed,
        start_after: u32,
    ) -> Result<v1::ListPartsReply, Error> {
        let request = v1::RelocatedPartsRequest {
            of: Some(self.there()),
            key: sealed.key.as_str().to_owned(),
            version_id: sealed.id.into(),
            start_after,
            limit: PAGE,
        };
        self.departures(|mut client| {
            let request = request.clone();
            async move { Ok(client.parts(request).await?.into_inner()) }
        })
        .await
    }

    async fn begin_upload(&self, sealing: &Sealing, sealed: &Sealed) -> Result<(), Error> {
        let dataset = self.dataset().await?;
        let create = v1::CreateUploadRequest {
            shard: dataset.shard().0,
            request_id: Bytes::new(),
            dataset_id: dataset.id().into(),
            key: sealed.key.as_str().to_owned(),
            upload: Some(v1::UploadRecord {
                format: 1,
                version_id: sealed.id.into(),
                lease_id: sealing.lease.id().into(),
                dek_salt: Bytes::copy_from_slice(sealing.salt.as_bytes()),
                name_salt: Bytes::copy_from_slice(sealing.name_salt.as_bytes()),
                placement: 1,
                ..v1::UploadRecord::default()
            }),
        };
        let mut request_id = dataset.request_id(None)?;
        let created = dataset.write_once(&mut request_id, |mut shard, request_id| {
            let request = v1::CreateUploadRequest {
                request_id,
                ..create.clone()
            };
            async move { Ok(shard.create_upload(request).await?.into_inner()) }
        });
        created.await.map(drop)
    }

    async fn finish_part(
        &self,
        sealed: &Sealed,
        record: v1::PartRecord,
        stream: Stream,
    ) -> Result<(), Error> {
        let dataset = self.dataset().await?;
        let finish = v1::FinishPartRequest {
            shard: dataset.shard().0,
            request_id: Bytes::new(),
            dataset_id: dataset.id().into(),
            key: sealed.key.as_str().to_owned(),
            version_id: sealed.id.into(),
            part: Some(record),
            inline: stream.inline,
            blocks: stream.blocks,
            upload_epoch: stream.upload_epoch,
            receipts: stream.receipts,
        };
        let mut request_id = dataset.request_id(None)?;
        let finished = dataset.write_once(&mut request_id, |mut shard, request_id| {
            let request = v1::FinishPartRequest {
                request_id,
                ..finish.clone()
            };
            async move { Ok(shard.finish_part(request).await?.into_inner()) }
        });
        finished.await.map(drop)
    }

    /// Ends the upload of a version that a mover left.
    async fn end_left_upload(&self, key: &str, version: ObjectVersionId) -> Result<(), Error> {
        let mut from = (String::new(), 0);
        loop {
            let page = self.uploads(&from).await?;
            let of = |one: &v1::ListedUpload| {
                let upload = one.upload.as_ref();
                upload.is_some_and(|upload| upload.version_id[..] == version.0)
            };
            if page.uploads.iter().any(of) {
                let dataset = self.dataset().await?;
                return dataset.abort_upload(&key.parse()?, version).await;
            }
            let next = (page.next_key, page.next_index);
            if !page.truncated || next == from {
                return Ok(());
            }
            from = next;
        }
    }

    /// Ends every upload that is open: called while none of this mover's is.
    pub(super) async fn end_left_uploads(&self) -> Result<(), Error> {
        let mut from = (String::new(), 0);
        loop {
            let page = self.uploads(&from).await?;
            let dataset = self.dataset().await?;
            for left in page.uploads {
                let version = left.upload.unwrap_or_default().version_id;
                let version = ObjectVersionId::try_from(&version[..])?;
                match dataset.abort_upload(&left.key.parse()?, version).await {
                    Ok(()) => {}
                    Err(error) if error.reason() == "no-such-upload" => {}
                    Err(error) => return Err(error),
                }
            }
            let next = (page.next_key, page.next_index);
            if !page.truncated || next == from {
                return Ok(());
            }
            from = next;
        }
    }

    async fn uploads(&self, (key, index): &(String, u64)) -> Result<v1::ListUploadsReply, Error> {
        let request = v1::RelocatedUploadsRequest {
            of: Some(self.of.clone()),
            start_after_key: key.clone(),
            start_after_index: *index,
            limit: 0,
        };
        self.relocations(|mut client| {
            let request = request.clone();
            async move { Ok(client.uploads(request).await?.into_inner()) }
        })
        .await
    }
}
