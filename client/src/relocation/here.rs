//! The region that a dataset comes to, as its mover asks it: the shard's leader, under the purpose `relocation`.
//!
//! Owns what a batch is made of, the handle under which its streams are stored, and what is already here of a listing that is
//! read a second time. Refuses nothing: what is taken, apply decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

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
    Version(Bytes, Digests),
    Metadata(Bytes, [u8; 32]),
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
                Learnt::Metadata(id, metadata) => seen.note_metadata(&id, metadata),
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
        let anew = self.anew(how, handed).await?;
        let id = anew.entry.version_id.clone();
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
        let learnt = Learnt::Metadata(version.into(), self.digester.metadata(&plain));
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
        self.imported.fetch_max(taken.log_index, Ordering::Relaxed);
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

    /// What of a page is here already, by what an earlier pass brought, left out; and what is here and not in it, as gone.
    pub(super) async fn against_here(
        &self,
        after: Option<&v1::Place>,
        page: v1::FeedPage,
    ) -> Result<v1::FeedPage, Error> {
        let through = page.place.clone().unwrap_or_default();
        let mut from = own_place(after);
        let mut here: BTreeMap<(String, Bytes), u64> = BTreeMap::new();
        loop {
            let own = self.read_here(from, 0).await?;
            let mut past = own.place.as_ref().is_none_or(|place| place.end);
            for unit in own.units {
                let Some(Content::Version(version)) = unit.content else {
                    continue;
                };
                if !through.end && unit.key > through.key {
                    past = true;
                    break;
                }
                let index = version.entry.map_or(0, |entry| entry.source_index);
                here.insert((unit.key, unit.version_id), index);
            }
            if past {
                break;
            }
            from = own.place;
        }
        here.retain(|_, index| *index <= page.at_index);
        if here.is_empty() {
            return Ok(page);
        }
        let cut = after.filter(|place| place.within > 0);
        let before = match cut.filter(|cut| here.keys().any(|(key, _)| *key == cut.key)) {
            Some(cut) => self.told_before(cut).await?,
            None => BTreeSet::new(),
        };
        Ok(reconciled(page, &through, &before, here))
    }

    /// Versions of a key that earlier pages told of.
    async fn told_before(&self, cut: &v1::Place) -> Result<BTreeSet<(String, Bytes)>, Error> {
        let mut told = BTreeSet::new();
        let mut from = v1::Place {
            within: 1,
            ..cut.clone()
        };
        loop {
            let page = self
                .read_source(Next::Page(v1::PageFrom { after: Some(from) }), 0)
                .await?;
            let of_key = page.units.iter().filter(|unit| unit.key == cut.key);
            let before = of_key.filter(|unit| unit.index <= cut.within && is_version(unit));
            told.extend(before.map(named));
            match page.place {
                Some(place) if place.key == cut.key && (1..cut.within).contains(&place.within) => {
                    from = place;
                }
                _ => return Ok(told),
            }
        }
    }
}

fn named(unit: &v1::ImportedUnit) -> (String, Bytes) {
    (unit.key.clone(), unit.version_id.clone())
}

fn is_version(unit: &v1::ImportedUnit) -> bool {
    matches!(unit.content, Some(Content::Version(_)))
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

/// Where to begin here so that all of the key is seen which a listing of the source is in: log indexes of the two regions have
/// nothing to do with each other.
pub(super) fn own_place(after: Option<&v1::Place>) -> Option<v1::Place> {
    let after = after?.clone();
    Some(match after.within {
        0 => after,
        _ => v1::Place { within: 1, ..after },
    })
}

/// A page of a later pass: without what is here as it is told, and with removals of what is here and not told. `here`: what
/// is here of its keys, by source log index; `before`: what earlier pages told of the key that it begins in.
fn reconciled(
    page: v1::FeedPage,
    through: &v1::Place,
    before: &BTreeSet<(String, Bytes)>,
    here: BTreeMap<(String, Bytes), u64>,
) -> v1::FeedPage {
    let versions = page.units.iter().filter(|unit| is_version(unit));
    let told: BTreeSet<_> = versions.map(named).collect();
    let mut units = page.units;
    units.retain(|unit| !is_version(unit) || here.get(&named(unit)) != Some(&unit.index));
    // A removal has the listing's log index: of a key that the page cuts, the last page has them.
    let cut = (!through.end && through.within > 0).then_some(&through.key);
    let mut gone = here
        .into_keys()
        .filter(|unit| !told.contains(unit) && !before.contains(unit) && Some(&unit.0) != cut)
        .peekable();
    let removal = |(key, version_id)| v1::ImportedUnit {
        index: page.at_index,
        key,
        version_id,
        content: Some(Content::Gone(true)),
    };
    // After all else of their keys.
    let mut all = Vec::with_capacity(units.len());
    for unit in units {
        while let Some(one) = gone.next_if(|(key, _)| *key < unit.key) {
            all.push(removal(one));
        }
        all.push(unit);
    }
    all.extend(gone.map(removal));
    v1::FeedPage { units: all, ..page }
}

fn not_prepared() -> Error {
    Error::Unavailable {
        reason: "not-prepared".to_owned(),
        message: "the arrival has no dataset here yet, or is past its copies".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(key: &str, id: u8, index: u64) -> v1::ImportedUnit {
        v1::ImportedUnit {
            index,
            key: key.to_owned(),
            version_id: Bytes::copy_from_slice(&[id; 16]),
            content: Some(Content::Version(v1::ImportedVersion::default())),
        }
    }

    fn here(of: &[(&str, u8, u64)]) -> BTreeMap<(String, Bytes), u64> {
        let one = |(key, id, index): &(&str, u8, u64)| {
            let id = Bytes::copy_from_slice(&[*id; 16]);
            (((*key).to_owned(), id), *index)
        };
        of.iter().map(one).collect()
    }

    fn told(page: &v1::FeedPage) -> Vec<(&str, u8, bool)> {
        let one = |unit: &'_ v1::ImportedUnit| (unit.version_id[0], !is_version(unit));
        page.units
            .iter()
            .map(|unit| (unit.key.as_str(), one(unit).0, one(unit).1))
            .collect()
    }

    #[test]
    fn a_second_listing_brings_what_is_new_and_removes_what_is_gone() {
        let page = v1::FeedPage {
            at_index: 50,
            units: vec![unit("b", 1, 5), unit("b", 2, 40), unit("d", 4, 9)],
            ..v1::FeedPage::default()
        };
        let end = v1::Place {
            end: true,
            ..v1::Place::default()
        };
        let held = here(&[
            ("a", 7, 3),
            ("b", 1, 5),
            ("b", 8, 6),
            ("d", 4, 8),
            ("e", 9, 2),
        ]);
        let page = reconciled(page, &end, &BTreeSet::new(), held);
        let expected = [
            ("a", 7, true),
            ("b", 2, false),
            ("b", 8, true),
            ("d", 4, false),
            ("e", 9, true),
        ];
        assert_eq!(told(&page), expected);
        assert_eq!(page.units[0].index, 50);
    }

    #[test]
    fn of_a_key_that_a_page_cuts_nothing_is_removed_before_its_last_page() {
        let page = || v1::FeedPage {
            at_index: 50,
            units: vec![unit("b", 2, 40)],
            ..v1::FeedPage::default()
        };
        let held = || here(&[("b", 1, 5), ("b", 8, 6)]);
        let cut = v1::Place {
            key: "b".to_owned(),
            within: 40,
            end: false,
        };
        let first = reconciled(page(), &cut, &BTreeSet::new(), held());
        assert_eq!(told(&first), [("b", 2, false)]);
        let whole = v1::Place { within: 0, ..cut };
        let before: BTreeSet<_> = here(&[("b", 1, 5)]).into_keys().collect();
        let last = reconciled(page(), &whole, &before, held());
        assert_eq!(told(&last), [("b", 2, false), ("b", 8, true)]);
    }

    #[test]
    fn a_key_that_is_cut_is_read_from_its_beginning_here() {
        let place = |within| v1::Place {
            key: "b".to_owned(),
            within,
            end: false,
        };
        assert_eq!(own_place(None), None);
        assert_eq!(own_place(Some(&place(0))), Some(place(0)));
        assert_eq!(own_place(Some(&place(77))), Some(place(1)));
    }
}
