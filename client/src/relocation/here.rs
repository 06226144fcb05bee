//! The region that a dataset comes to, as its mover asks it: the shard's leader, under the purpose `relocation`.
//!
//! Owns what a batch is made of and the handle under which its streams are stored. Refuses nothing: what is taken, apply
//! decides.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use proto::ids::ObjectVersionId;
use proto::v1;
use proto::v1::import::Span;
use proto::v1::imported_unit::Content;
use proto::v1::read_departure_request::Next;
use proto::v1::relocations_client::RelocationsClient;
use tonic::Status;
use tonic::transport::Channel;
use transport::Stated;

use super::digests::Digests;
use super::keys::{Handed, ITEMS_MAX, Sealed, Tokens};
use super::{How, Inner, PURPOSE};
use crate::acting::ActingChannel;
use crate::dataset::put::LEASE_REASONS;
use crate::dataset::{Dataset, MESSAGE_BYTES_MAX};
use crate::error::Error;

/// Versions that are on their way at once.
const AT_ONCE: usize = 4;

/// What of a batch has been made ready.
struct Ready {
    unit: v1::ImportedUnit,
    receipts: Vec<v1::Receipt>,
    read: u64,
    learnt: Option<Learnt>,
}

/// What was seen of a copy as it was made.
enum Learnt {
    Version(ObjectVersionId, Digests),
    Metadata(ObjectVersionId, [u8; 32]),
}

/// One unit on its way.
enum Work {
    AsItIs(v1::ImportedUnit),
    Version(v1::ImportedUnit, Box<v1::ImportedVersion>, Box<Handed>),
}

pub(super) fn done(answer: v1::ShardAnswer) -> Result<v1::Done, Status> {
    match answer.answer {
        Some(v1::shard_answer::Answer::Done(done)) => Ok(done),
        _ => Err(transport::fault::status(
            transport::Fault::Internal,
            "protocol",
            "a refusal that is no status",
        )),
    }
}

impl Inner {
    pub(super) fn relocations_at(&self, channel: Channel) -> RelocationsClient<ActingChannel> {
        let client = RelocationsClient::new(self.region.1.over(channel));
        client.max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Calls the leader of the shard here.
    pub(super) async fn relocations<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(RelocationsClient<ActingChannel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let region = &self.region.0;
        let call = |_, channel| call(self.relocations_at(channel));
        region
            .nodes
            .on_leader(self.shard, &region.tuning, call)
            .await
    }

    pub(super) async fn status(&self) -> Result<v1::ArrivalStatus, Error> {
        self.relocations(|mut client| {
            let of = self.of.clone();
            async move { Ok(client.status(of).await?.into_inner()) }
        })
        .await
    }

    /// The dataset as it is stored in while it arrives.
    pub(super) async fn dataset(&self) -> Result<&Dataset, Error> {
        let found = self.dataset.get_or_try_init(|| async {
            let status = self.status().await?;
            let info = v1::DatasetInfo {
                dataset: Some(status.dataset.ok_or_else(not_prepared)?),
                shard: status.shard,
                upload_epoch: status.upload_epoch,
                ..v1::DatasetInfo::default()
            };
            let stated = Stated {
                purpose: PURPOSE.to_owned(),
                ..Stated::default()
            };
            Dataset::new(self.region.clone(), info, stated)
        });
        found.await
    }

    /// The key that the source's KMS hands over to.
    pub(super) async fn hand_over_key(&self) -> Result<Bytes, Error> {
        let key = self.hand_over_key.get_or_try_init(|| async {
            let arrival = self.status().await?.arrival.unwrap_or_default();
            match arrival.hand_over_key_id.is_empty() {
                true => Err(not_prepared()),
                false => Ok(arrival.hand_over_key_id),
            }
        });
        key.await.cloned()
    }

    /// What is here after a place.
    pub(super) async fn read_here(
        &self,
        after: Option<v1::Place>,
        limit: u32,
    ) -> Result<v1::FeedPage, Error> {
        let request = v1::ReadArrivalRequest {
            of: Some(self.of.clone()),
            after,
            limit,
        };
        self.relocations(|mut client| {
            let request = request.clone();
            async move { Ok(client.read(request).await?.into_inner()) }
        })
        .await
    }

    /// Has a batch made ready and taken; how many sealed bytes were read of the source for it.
    pub(super) async fn bring(
        self: &Arc<Self>,
        (pass, span): (u64, Span),
        units: Vec<v1::ImportedUnit>,
        tokens: &Tokens,
        how: &How,
    ) -> Result<u64, Error> {
        let brought = self.bring_once((pass, span), units, tokens, how).await;
        if let Err(error) = &brought {
            self.make_up_for(error).await;
        }
        brought
    }

    async fn bring_once(
        self: &Arc<Self>,
        (pass, span): (u64, Span),
        units: Vec<v1::ImportedUnit>,
        tokens: &Tokens,
        how: &How,
    ) -> Result<u64, Error> {
        let mut ready = Vec::with_capacity(units.len());
        let mut units = units.into_iter().peekable();
        while units.peek().is_some() {
            let chunk = units.by_ref().take(ITEMS_MAX).collect();
            let work = self.work(chunk, tokens).await?;
            let made = stream::iter(work).map(|work| self.made_ready(work, how).boxed());
            let made: Vec<Ready> = made.buffered(AT_ONCE).try_collect().await?;
            ready.extend(made);
        }
        let (mut import, mut receipts, mut learnt) = (Vec::new(), Vec::new(), Vec::new());
        let (mut read, mut keys) = (0, BTreeSet::new());
        for (one, at) in ready.into_iter().zip(0..) {
            if !one.receipts.is_empty() {
                receipts.push(v1::UnitReceipts {
                    unit: at,
                    receipts: one.receipts,
                });
            }
            if !one.unit.key.is_empty() {
                keys.insert(one.unit.key.clone());
            }
            read += one.read;
            learnt.extend(one.learnt);
            import.push(one.unit);
        }
        // Before it is proposed: what may have changed is looked at again, whatever the answer.
        self.seen.lock().touch(keys);
        self.reached.lock().tries(pass, &span);
        let import = v1::Import {
            dataset_id: self.of.dataset_id.clone(),
            relocation_id: self.of.relocation_id.clone(),
            pass,
            span: Some(span),
            units: import,
            crossed: Vec::new(),
        };
        self.import(import, receipts).await?;
        let mut seen = self.seen.lock();
        for one in learnt {
            match one {
                Learnt::Version(id, digests) => seen.note(id, digests),
                Learnt::Metadata(id, metadata) => seen.note_metadata(id, metadata),
            }
        }
        drop(seen);
        Ok(read)
    }

    /// With the keys of all versions among them.
    async fn work(
        &self,
        units: Vec<v1::ImportedUnit>,
        tokens: &Tokens,
    ) -> Result<Vec<Work>, Error> {
        let mut sealed = Vec::new();
        for unit in &units {
            if let Some(entry) = sealed_entry(unit) {
                let one = Sealed::of(self, &unit.key, entry.clone(), tokens)?;
                sealed.push(Arc::new(one));
            }
        }
        if !sealed.is_empty() {
            // What leaves the source counts as disclosed: nothing is asked for that could not be sealed here.
            self.dataset().await?.ready_to_seal().await?;
        }
        let mut handed = self.handed(sealed).await?.into_iter();
        let mut work = Vec::with_capacity(units.len());
        for mut unit in units {
            let is_sealed = sealed_entry(&unit).is_some();
            work.push(match unit.content.take() {
                Some(Content::Version(version)) if is_sealed => {
                    let handed = handed.next().ok_or(Error::Protocol {
                        what: "fewer keys than versions",
                    })?;
                    Work::Version(unit, Box::new(version), Box::new(handed))
                }
                content => Work::AsItIs(v1::ImportedUnit { content, ..unit }),
            });
        }
        Ok(work)
    }

    async fn made_ready(self: &Arc<Self>, work: Work, how: &How) -> Result<Ready, Error> {
        let (unit, version, handed) = match work {
            Work::AsItIs(unit) => return self.unsealed(unit).await,
            Work::Version(unit, version, handed) => (unit, *version, *handed),
        };
        let id = handed.sealed.id;
        let anew = self.anew(how, handed).await?;
        let version = v1::ImportedVersion {
            entry: Some(anew.entry),
            parts: anew.parts,
            ..version
        };
        Ok(Ready {
            unit: v1::ImportedUnit {
                content: Some(Content::Version(version)),
                ..unit
            },
            receipts: anew.receipts,
            read: anew.read,
            learnt: Some(Learnt::Version(id, anew.digests)),
        })
    }

    /// What no lease seals: metadata that was changed is sealed anew, a delete marker is left with what it is.
    async fn unsealed(&self, mut unit: v1::ImportedUnit) -> Result<Ready, Error> {
        let mut learnt = None;
        let content = match unit.content.take() {
            Some(Content::Metadata(metadata)) => {
                let (metadata, seen) = self.metadata_anew(&unit, metadata).await?;
                learnt = seen;
                Content::Metadata(metadata)
            }
            Some(Content::Version(version)) => {
                let there = version.entry.unwrap_or_default();
                let entry = v1::ObjectEntry {
                    format: 1,
                    version_id: there.version_id,
                    finished_at_ms: there.finished_at_ms,
                    delete_marker: true,
                    ..v1::ObjectEntry::default()
                };
                Content::Version(v1::ImportedVersion {
                    entry: Some(entry),
                    ..version
                })
            }
            Some(content) => content,
            None => {
                return Err(Error::Protocol {
                    what: "a unit without content",
                });
            }
        };
        unit.content = Some(content);
        Ok(Ready {
            unit,
            receipts: Vec::new(),
            read: 0,
            learnt,
        })
    }

    async fn metadata_anew(
        &self,
        unit: &v1::ImportedUnit,
        metadata: v1::ImportedMetadata,
    ) -> Result<(v1::ImportedMetadata, Option<Learnt>), Error> {
        let version = self.version_of(unit).await?;
        let plain = self.source_metadata(version, &metadata.sealed_metadata);
        let plain = plain.await?;
        let (sealed, metadata_key_version) = self
            .dataset()
            .await?
            .seal_plain_metadata(version, &plain)
            .await?;
        let learnt = Learnt::Metadata(version, self.digester.metadata(&plain));
        let metadata = v1::ImportedMetadata {
            sealed_metadata: Bytes::copy_from_slice(sealed.as_bytes()),
            metadata_key_version,
            ..metadata
        };
        Ok((metadata, Some(learnt)))
    }

    /// Which version changed metadata is of. A null version goes by its key alone: its id is what the source says now.
    async fn version_of(&self, unit: &v1::ImportedUnit) -> Result<ObjectVersionId, Error> {
        if !unit.version_id.is_empty() {
            return Ok(ObjectVersionId::try_from(&unit.version_id[..])?);
        }
        let mut from = v1::Place {
            key: unit.key.clone(),
            within: 1,
            end: false,
        };
        loop {
            let next = Next::Page(v1::PageFrom { after: Some(from) });
            let page = self.read_source(next, 0).await?;
            for one in page.units {
                if let Some(Content::Version(version)) = one.content
                    && one.key == unit.key
                    && one.version_id.is_empty()
                {
                    let entry = version.entry.unwrap_or_default();
                    return Ok(ObjectVersionId::try_from(&entry.version_id[..])?);
                }
            }
            match page.place {
                Some(place) if place.key == unit.key && place.within > 0 => from = place,
                // It was replaced meanwhile: the changes say so when they are read again.
                _ => {
                    return Err(Error::Unavailable {
                        reason: "changed-meanwhile".to_owned(),
                        message: "a version whose metadata changed is gone from the source"
                            .to_owned(),
                    });
                }
            }
        }
    }

    pub(super) async fn import(
        &self,
        import: v1::Import,
        receipts: Vec<v1::UnitReceipts>,
    ) -> Result<v1::Done, Error> {
        let request = v1::ImportRequest {
            shard: self.shard.0,
            import: Some(import),
            receipts,
        };
        let answer = self.relocations(|mut client| {
            let request = request.clone();
            async move { done(client.import(request).await?.into_inner()) }
        });
        let taken = answer.await?;
        if let Some(dataset) = self.dataset.get() {
            dataset.learn(taken.upload_epoch, taken.request_epoch);
        }
        Ok(taken)
    }

    /// What helps the next try.
    async fn make_up_for(&self, error: &Error) {
        let Some(dataset) = self.dataset.get() else {
            return;
        };
        match error.reason() {
            "upload-too-old" | "request-too-old" => {
                if let Err(error) = dataset.learn_epoch().await {
                    tracing::debug!(%error, "the upload epoch could not be learnt");
                }
            }
            "not-on-majority" | "no-majority" => dataset.forget_replicas(),
            reason if LEASE_REASONS.contains(&reason) => {
                let (keys, acting) = (dataset.keys(), dataset.acting());
                if let Ok(held) = dataset.seal_lease().await {
                    keys.drop_lease(dataset.id(), acting, &held).await;
                }
            }
            _ => {}
        }
    }
}

/// The entry of what is sealed under a lease.
fn sealed_entry(unit: &v1::ImportedUnit) -> Option<&v1::ObjectEntry> {
    match &unit.content {
        Some(Content::Version(version)) => {
            version.entry.as_ref().filter(|entry| !entry.delete_marker)
        }
        _ => None,
    }
}

fn not_prepared() -> Error {
    Error::Unavailable {
        reason: "not-prepared".to_owned(),
        message: "the arrival has no dataset here yet, or is past its copies".to_owned(),
    }
}
