//! How a version of an object comes to be: sealed here, laid out, committed.
//!
//! Owns which keys a version is sealed under and what is tried again with fresh ones. Refuses to call a put done
//! before its shard has committed it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use envelope::{
    DekSalt, Manifest, ManifestPart, MetadataContext, NameCommitment, NameSalt, PartNumber,
    SealDek, SealedMetadata, StreamHeader,
};
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{ObjectKey, ObjectVersionId, UploadEpoch};
use proto::v1;
use tokio::time::Instant;
use transport::Stated;

use super::{Dataset, INLINE_SEALED_MAX, PutOptions, PutOutcome};
use crate::body::Body;
use crate::error::Error;
use crate::lease::{MetadataKeys, SealLease};
use crate::locks::Retention;
use crate::prepared::{Prepared, Request};
use crate::region::random;
use crate::upload;

/// Tries of one put whose lease or upload epoch went out of date on the way.
pub(crate) const PUT_TRIES: u32 = 3;
/// Before an upload is tried again.
pub(crate) const UPLOAD_PAUSE: Duration = Duration::from_millis(100);
/// Refusals after which a new lease helps.
pub(crate) const LEASE_REASONS: [&str; 3] = ["token-expired", "token-too-old", "no-such-token"];

impl Dataset {
    /// Seals and stores an object. Acknowledged means: on disk on a majority, and visible.
    pub async fn put(
        &self,
        key: &ObjectKey,
        body: impl Into<Body>,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let mut body = body.into();
        let stream_max = self.0.region.0.tuning.stream_bytes_max;
        if let Some(bytes) = body.bytes().filter(|bytes| *bytes > stream_max) {
            return self.put_in_parts(key, body, bytes, options).await;
        }
        let inline_plain = envelope::plain_len(INLINE_SEALED_MAX).unwrap_or(0) as usize;
        let mut head = Vec::new();
        body.fill(&mut head, inline_plain + 1).await?;
        if head.len() > inline_plain {
            return self.put_large(key, head, body, options).await;
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let sealing = self.sealing(key).await?;
            let lease = sealing.lease.clone();
            let put = self.prepare_inline(key, &head, options, &sealing)?;
            match put.send().await {
                Err(Error::Caller { reason, .. })
                    if tries < PUT_TRIES && LEASE_REASONS.contains(&reason.as_str()) =>
                {
                    self.keys()
                        .drop_lease(self.0.id, self.acting(), &lease)
                        .await;
                }
                Err(Error::Caller { reason, .. })
                    if tries < PUT_TRIES && reason == "request-too-old" =>
                {
                    self.learn_epoch().await?;
                }
                answer => return answer,
            }
        }
    }

    /// Seals a put, and stores its blocks where it has some, without committing it: [`Prepared::send`] does, any
    /// number of times with one effect. Its lease and its upload go out of date like those of any put.
    pub async fn prepare(
        &self,
        key: &ObjectKey,
        body: impl Into<Body>,
        options: &PutOptions,
    ) -> Result<Prepared, Error> {
        let mut body = body.into();
        let inline_plain = envelope::plain_len(INLINE_SEALED_MAX).unwrap_or(0) as usize;
        let mut head = Vec::new();
        body.fill(&mut head, inline_plain + 1).await?;
        let sealing = self.sealing(key).await?;
        if head.len() > inline_plain {
            let request_id = self.request_id(options.invocation)?;
            return self
                .prepare_blocks(key, head, body, options, sealing, &request_id)
                .await;
        }
        self.prepare_inline(key, &head, options, &sealing)
    }

    fn prepare_inline(
        &self,
        key: &ObjectKey,
        plain: &[u8],
        options: &PutOptions,
        sealing: &Sealing,
    ) -> Result<Prepared, Error> {
        let stream = sealing.dek.seal_part(PartNumber::FIRST, plain)?;
        let (header, _) = StreamHeader::split(&stream).map_err(Error::NotAuthentic)?;
        let mut entry = sealing.entry(plain.len() as u64, &header, options)?;
        lock(&mut entry, options);
        entry.sealed_bytes = stream.len() as u64;
        entry.inline = stream.into();
        if broken(Switch::PlaintextOnNode) {
            entry.sealed_bytes = plain.len() as u64;
            entry.inline = Bytes::copy_from_slice(plain);
        }
        Ok(Prepared {
            dataset: self.clone(),
            version: sealing.dek.context().version,
            bytes: plain.len() as u64,
            request: Request::Inline(v1::PutObjectRequest {
                shard: self.0.shard.0,
                request_id: self.request_id(options.invocation)?,
                dataset_id: self.0.id.into(),
                key: key.as_str().to_owned(),
                precondition: options.precondition.wire(),
                entry: Some(entry),
            }),
        })
    }

    /// In blocks; again from the start where the upload itself was the trouble and the bytes are still at hand. A
    /// stream has gone by: its caller is told, and nothing was stored.
    async fn put_large(
        &self,
        key: &ObjectKey,
        head: Vec<u8>,
        mut body: Body,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let rest = match &body {
            Body::Bytes(rest) => Some(rest.clone()),
            Body::Stream(_) | Body::Sized(..) => None,
        };
        let deadline = Instant::now() + self.0.region.0.tuning.deadline;
        // One id for all uploads: a refusal for want of a majority is not final, and a copy of the refused request
        // that is still under way must not take effect beside the next one.
        let mut request_id = self.request_id(options.invocation)?;
        loop {
            let sealing = self.sealing(key).await?;
            let lease = sealing.lease.clone();
            let put = self.prepare_blocks(key, head.clone(), body, options, sealing, &request_id);
            let put = async { put.await?.send().await };
            let error = match put.await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            // Each of these but the first says that the object was not stored.
            match error.reason() {
                "request-id-reused" => {
                    return already_done(error, options, || {
                        let rest = rest.as_ref().map_or(0, Bytes::len);
                        (head.len() + rest) as u64
                    });
                }
                reason if LEASE_REASONS.contains(&reason) => {
                    self.keys()
                        .drop_lease(self.0.id, self.acting(), &lease)
                        .await;
                }
                "request-too-old" | "upload-too-old" => {
                    self.learn_epoch().await?;
                    // Refused for good under the old one.
                    request_id = self.request_id(options.invocation)?;
                }
                // Replicas went, or are others by now.
                "not-on-majority" | "no-majority" => self.forget_replicas(),
                _ => return Err(error),
            }
            let Some(rest) = rest.clone() else {
                return Err(error);
            };
            if Instant::now() + UPLOAD_PAUSE >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "uploading again");
            tokio::time::sleep(UPLOAD_PAUSE).await;
            body = Body::Bytes(rest);
        }
    }

    async fn prepare_blocks(
        &self,
        key: &ObjectKey,
        head: Vec<u8>,
        body: Body,
        options: &PutOptions,
        sealing: Sealing,
        request_id: &Bytes,
    ) -> Result<Prepared, Error> {
        let target = upload::Target {
            shard: self.0.shard,
            dataset: self.0.id,
            version: sealing.dek.context().version,
            part_of: None,
            upload_epoch: UploadEpoch(self.0.upload_epoch.load(Ordering::Relaxed)),
            lease: sealing.lease.id(),
            replicas: self.replicas().await?,
            stated: Stated::default(),
        };
        let epoch = target.upload_epoch;
        let sealer = sealing.dek.sealer(PartNumber::FIRST)?;
        let uploaded = upload::run(&self.0.region, target, sealer, head, body)
            .await
            .inspect_err(|_| self.forget_replicas())?;
        let mut entry = sealing.entry(uploaded.plain_bytes, &uploaded.header, options)?;
        lock(&mut entry, options);
        entry.sealed_bytes = uploaded.sealed_bytes;
        entry.blocks = uploaded.blocks;
        entry.upload_epoch = epoch.0;
        Ok(Prepared {
            dataset: self.clone(),
            version: sealing.dek.context().version,
            bytes: uploaded.plain_bytes,
            request: Request::Blocks(v1::FinishObjectRequest {
                shard: self.0.shard.0,
                request_id: request_id.clone(),
                dataset_id: self.0.id.into(),
                key: key.as_str().to_owned(),
                precondition: options.precondition.wire(),
                entry: Some(entry),
                receipts: uploaded.receipts,
            }),
        })
    }

    /// Lease, salts, ids and the metadata key for one new version.
    pub(crate) async fn sealing(&self, key: &ObjectKey) -> Result<Sealing, Error> {
        self.sealing_of(key, ObjectVersionId(random()?)).await
    }

    /// As [`Self::sealing`], for a version that has its id.
    pub(crate) async fn sealing_of(
        &self,
        key: &ObjectKey,
        version: ObjectVersionId,
    ) -> Result<Sealing, Error> {
        let (lease, metadata) = self.ready_to_seal().await?;
        let (salt, name_salt) = (DekSalt::random()?, NameSalt::random()?);
        let context = self.context(version, NameCommitment::of(&name_salt, key));
        let dek = lease.key.seal_dek(&salt, &context)?;
        Ok(Sealing {
            lease,
            dek,
            salt,
            name_salt,
            metadata,
            metadata_context: self.metadata_context(version),
        })
    }

    /// A lease that the shard knows, and the keys that metadata is sealed under.
    pub(crate) async fn ready_to_seal(&self) -> Result<(Arc<SealLease>, Arc<MetadataKeys>), Error> {
        let lease = self.seal_lease().await?;
        if !lease.registered() {
            let request = v1::RegisterLeaseRequest {
                shard: self.0.shard.0,
                dataset_id: self.0.id.into(),
                token: lease.token.clone(),
            };
            self.write(|mut shard| {
                let request = request.clone();
                async move { Ok(shard.register_lease(request).await?.into_inner()) }
            })
            .await?;
            lease.set_registered();
        }
        let metadata = self
            .keys()
            .metadata_keys(self.0.id, None, "", self.acting())
            .await?;
        Ok((lease, metadata))
    }
}

/// What a put came to whose id is used. Without an invocation the earlier try was of this very call, with these bytes. With
/// one it is the caller's, who is told whether it took effect: one that was refused for good makes no version.
fn already_done(
    error: Error,
    options: &PutOptions,
    bytes: impl FnOnce() -> u64,
) -> Result<PutOutcome, Error> {
    match (error, options.invocation) {
        (Error::AlreadyDone { version }, None) => Ok(PutOutcome {
            version,
            replaced: None,
            bytes: bytes(),
        }),
        (error, Some(_)) => Err(error),
        (_, None) => Err(Error::Unknown {
            message: "an earlier try of this put took effect".to_owned(),
        }),
    }
}

fn lock(entry: &mut v1::ObjectEntry, options: &PutOptions) {
    entry.retention = options.retention.map(Retention::wire);
    entry.legal_hold = options.legal_hold;
}

/// What one new version is sealed with.
pub(crate) struct Sealing {
    pub(crate) lease: Arc<SealLease>,
    pub(crate) dek: SealDek,
    pub(crate) salt: DekSalt,
    pub(crate) name_salt: NameSalt,
    metadata: Arc<MetadataKeys>,
    metadata_context: MetadataContext,
}

impl Sealing {
    /// The entry but for where its bytes are. One stream, part 1. The metadata is sealed last: checksums are known when
    /// the body has been read.
    fn entry(
        &self,
        plain: u64,
        header: &StreamHeader,
        options: &PutOptions,
    ) -> Result<v1::ObjectEntry, Error> {
        let (sealed, metadata_key_version) = self.sealed_metadata(options)?;
        let part = ManifestPart::new(PartNumber::FIRST, plain, header);
        let manifest = part
            .and_then(|part| Manifest::new(vec![part], Vec::new()))
            .map_err(|_| Error::Seal(envelope::SealError::TooLong))?;
        Ok(v1::ObjectEntry {
            sealed_metadata: Bytes::copy_from_slice(sealed.as_bytes()),
            metadata_key_version,
            ..self.bare_entry(&manifest)?
        })
    }

    /// The entry but for where its bytes are and what is said of it.
    pub(crate) fn bare_entry(&self, manifest: &Manifest) -> Result<v1::ObjectEntry, Error> {
        Ok(v1::ObjectEntry {
            format: 1,
            version_id: self.dek.context().version.into(),
            lease_id: self.lease.id().into(),
            dek_salt: Bytes::copy_from_slice(self.salt.as_bytes()),
            name_salt: Bytes::copy_from_slice(self.name_salt.as_bytes()),
            plain_bytes: manifest.plain_total(),
            sealed_manifest: self.dek.seal_manifest(manifest)?.into(),
            placement: 1,
            ..v1::ObjectEntry::default()
        })
    }

    /// What the options state, sealed under the newest metadata key; that key's version too.
    pub(crate) fn sealed_metadata(
        &self,
        options: &PutOptions,
    ) -> Result<(SealedMetadata, u32), Error> {
        self.seal_metadata(&options.metadata().encode_to_vec())
    }

    /// Metadata of the version or of a part of it, encoded, sealed likewise.
    pub(crate) fn seal_metadata(&self, plain: &[u8]) -> Result<(SealedMetadata, u32), Error> {
        let key = self.metadata.current()?;
        let sealed = key.seal(&self.metadata_context, plain)?;
        Ok((sealed, key.version()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::Invocation;

    #[test]
    fn a_put_whose_id_is_used_says_what_is_known_of_its_earlier_try() {
        let version = ObjectVersionId([1; 16]);
        let done = || Error::AlreadyDone { version };
        let refused = || Error::Caller {
            reason: "request-id-reused".to_owned(),
            message: String::new(),
        };
        let own = PutOptions::default();
        let callers = PutOptions {
            invocation: Some(Invocation([7; 16])),
            ..PutOptions::default()
        };
        let outcome = already_done(done(), &own, || 5).expect("it took effect");
        assert_eq!((outcome.version, outcome.bytes), (version, 5));
        let reason = |error, options| {
            let answer = already_done(error, options, || 5);
            answer.err().map(|error| error.reason().to_owned())
        };
        assert_eq!(reason(refused(), &own).as_deref(), Some("outcome-unknown"));
        // Never unknown: whoever is told so tries again, and is told so again.
        for error in [done(), refused()] {
            assert_eq!(
                reason(error, &callers).as_deref(),
                Some("request-id-reused")
            );
        }
    }
}
