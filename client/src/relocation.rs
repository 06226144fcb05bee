//! Moving a dataset to this region, step by step: what a gateway does with both ends of a relocation (DESIGN section 8).
//!
//! Owns the way of objects: read there as they are sealed, opened under keys that the source's KMS hands over, sealed anew,
//! imported, read back and compared. Refuses to decide anything: when a step is due is the caller's, whether it is taken is
//! for the shards, which believe no mover.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::ids::{DatasetId, GroupId, RegionId};
use proto::v1;
use proto::v1::arrival_step_request::Step as Arrives;
use proto::v1::departure_step_request::Step as Departs;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::import::Span;
use proto::v1::read_departure_request::Next;
use proto::v1::relocations_client::RelocationsClient;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use self::batches::{SEALED_MAX, place_of, split};
pub use self::compare::Compared;
use self::compare::Seen;
use self::digests::Digester;
use self::here::done;
use self::keys::{MetadataHanded, Tokens};
use self::reached::Reached;
use self::source::Source;
use self::words::{taken_by, takes_own_nodes};
use crate::dataset::Dataset;
use crate::error::Error;
use crate::region::{Region, random};

mod again;
mod anew;
mod batches;
mod compare;
mod digests;
mod here;
mod incoming;
mod keys;
mod parts;
mod reached;
mod source;
mod words;

/// What gateways state as their purpose while they move a dataset, in every call here and every claim.
const PURPOSE: &str = "relocation";
/// Units of one page.
const PAGE_MAX: u32 = 1_000;
/// Between two tries of a step for which too few replicas have said the same.
const WORDS_PAUSE: Duration = Duration::from_millis(50);
const WORDS_PAUSE_MAX: Duration = Duration::from_millis(500);

/// Movers of this process so far: digests of two do not compare.
static MOVERS: AtomicU64 = AtomicU64::new(1);

/// One relocation into this region, as the gateway that moves it sees both ends. Cheap to clone.
#[derive(Clone)]
pub struct Mover(Arc<Inner>);

struct Inner {
    region: Region,
    of: v1::Relocated,
    shard: GroupId,
    dataset_id: DatasetId,
    source_region: RegionId,
    source: Mutex<Arc<Source>>,
    dataset: OnceCell<Dataset>,
    hand_over_key: OnceCell<Bytes>,
    metadata: tokio::sync::Mutex<Option<MetadataHanded>>,
    digester: Digester,
    instance: u64,
    seen: Mutex<Seen>,
    reached: Mutex<Reached>,
}

/// How much at once, and how fast.
#[derive(Clone)]
pub struct How {
    /// Units of one page, at most 1000; 0 is as many.
    pub limit: u32,
    /// Asked before sealed bytes are read of the source.
    pub throttle: Arc<dyn Throttle>,
}

/// Waits before sealed bytes are read of the source.
pub trait Throttle: Send + Sync {
    /// Completes when so many bytes may be read.
    fn take(&self, bytes: u64) -> BoxFuture<'_, ()>;
}

/// What one call has brought, or compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Brought {
    /// Units, or copies that were opened.
    pub units: u64,
    /// Sealed bytes that were read of the source.
    pub bytes: u64,
    /// Whether there is more.
    pub more: bool,
}

impl Mover {
    /// Every arrival of this region that we may move, those that have ended among them, as any node has them.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn arrivals(region: &Region) -> Result<Vec<v1::ArrivalStatus>, Error> {
        let region = region.for_purpose(PURPOSE);
        let listed = region
            .0
            .nodes
            .on_leader(GroupId(0), &region.0.tuning, |_, channel| {
                let client = RelocationsClient::new(region.1.over(channel));
                let mut client =
                    client.max_decoding_message_size(crate::dataset::MESSAGE_BYTES_MAX);
                async move {
                    let listed = client.list(v1::ListArrivalsRequest {}).await?;
                    Ok(listed.into_inner().arrivals)
                }
            });
        listed.await
    }

    /// Finds the source by its newest descriptor that this region trusts. Nobody there is called yet.
    ///
    /// # Errors
    /// If this region does not trust the source, or its descriptor is not good.
    pub async fn connect(region: &Region, arrival: &v1::ArrivalStatus) -> Result<Self, Error> {
        let none = |what| Error::Protocol { what };
        let record = arrival.arrival.as_ref().ok_or(none("no arrival"))?;
        let terms = record
            .terms
            .as_ref()
            .ok_or(none("no terms of an arrival"))?;
        let dataset = arrival.dataset.as_ref().ok_or_else(|| Error::Unavailable {
            reason: "not-prepared".to_owned(),
            message: "the arrival has no dataset here yet".to_owned(),
        })?;
        let source_region: RegionId = terms.source.parse()?;
        if region.described(&source_region).is_none() {
            region.refresh().await?;
        }
        let source = found(region, &source_region)?;
        let key = record.hand_over_key_id.clone();
        let key = Some(key).filter(|key| !key.is_empty());
        Ok(Self(Arc::new(Inner {
            region: region.for_purpose(PURPOSE),
            of: v1::Relocated {
                shard: arrival.shard,
                dataset_id: dataset.dataset_id.clone(),
                relocation_id: record.relocation_id.clone(),
            },
            shard: GroupId(arrival.shard),
            dataset_id: DatasetId::try_from(&dataset.dataset_id[..])?,
            source_region,
            source: Mutex::new(Arc::new(source)),
            dataset: OnceCell::new(),
            hand_over_key: OnceCell::new_with(key),
            metadata: tokio::sync::Mutex::default(),
            digester: Digester::new(random()?),
            instance: MOVERS.fetch_add(1, Ordering::Relaxed),
            seen: Mutex::default(),
            reached: Mutex::default(),
        })))
    }

    /// The arrival, at its leader here.
    ///
    /// # Errors
    /// If it cannot be asked, or the relocation is none of it.
    pub async fn status(&self) -> Result<v1::ArrivalStatus, Error> {
        self.0.status().await
    }

    /// The departure, at its leader there.
    ///
    /// # Errors
    /// If it cannot be asked, or leads elsewhere.
    pub async fn departure(&self) -> Result<v1::DepartureStatus, Error> {
        let there = self.0.departures(|mut client| {
            let of = self.0.there();
            async move { Ok(client.status(of).await?.into_inner()) }
        });
        there.await
    }

    /// Says that this gateway moves it for so long, at most 60,000 ms, and how far it is; 0 gives it up.
    ///
    /// # Errors
    /// `mover-at-work` while another gateway does.
    pub async fn claim(&self, for_ms: u32, report: &v1::MoverReport) -> Result<(), Error> {
        // Who it is, the leader sees.
        let claim = v1::ClaimArrival {
            mover: String::new(),
            for_ms,
            report: Some(report.clone()),
        };
        let claimed = self.arrive(Arrives::Claim(claim), Duration::ZERO);
        claimed.await.map(drop)
    }

    /// One step here, with the words that it takes, gathered again while too few say the same, for at most `patience`.
    ///
    /// # Errors
    /// As the step was refused.
    pub async fn arrive(&self, step: Arrives, patience: Duration) -> Result<v1::Done, Error> {
        let takes = taken_by(&step);
        let mover = &self.0;
        tried(patience, || async {
            let (said, theirs, own) = tokio::join!(
                async {
                    match takes.nodes {
                        true => mover.source_words(false).await,
                        false => Ok(Vec::new()),
                    }
                },
                async {
                    match takes.kms {
                        true => mover.source_kms_words().await,
                        false => Ok(Vec::new()),
                    }
                },
                async {
                    match takes.own_kms {
                        true => mover.own_kms_words().await,
                        false => Ok(Vec::new()),
                    }
                }
            );
            let mut keys = theirs?;
            keys.extend(own?);
            let request = v1::ArrivalStepRequest {
                of: Some(mover.of.clone()),
                said: said?,
                keys,
                step: Some(step.clone()),
                ..v1::ArrivalStepRequest::default()
            };
            let stepped = mover.relocations(|mut client| {
                let request = request.clone();
                async move { done(client.step(request).await?.into_inner()) }
            });
            stepped.await
        })
        .await
    }

    /// One step there, likewise.
    ///
    /// # Errors
    /// As the step was refused.
    pub async fn depart(&self, step: Departs, patience: Duration) -> Result<v1::Done, Error> {
        let mover = &self.0;
        tried(patience, || async {
            let said = match takes_own_nodes(&step) {
                true => mover.own_words(false).await?,
                false => Vec::new(),
            };
            let request = v1::DepartureStepRequest {
                of: Some(mover.there()),
                said,
                keys: Vec::new(),
                step: Some(step),
            };
            let stepped = mover.departures(|mut client| {
                let request = request.clone();
                async move { done(client.step(request).await?.into_inner()) }
            });
            stepped.await
        })
        .await
    }

    /// Has all replicas of both sides keep their roots at hand for the next ten minutes.
    ///
    /// # Errors
    /// If the source is not known any more. A replica that does not answer is no error.
    pub async fn warm(&self) -> Result<(), Error> {
        let (there, here) = tokio::join!(self.0.source_words(true), self.0.own_words(true));
        there?;
        here.map(drop)
    }

    /// The source's KMS hands nothing over while this fence of its shard stands.
    ///
    /// # Errors
    /// As it was refused.
    pub async fn pause_keys(&self, fence: u64) -> Result<(), Error> {
        let request = v1::PauseHandOverRequest {
            relocation_id: self.0.of.relocation_id.clone(),
            dataset_id: self.0.of.dataset_id.clone(),
            fence,
        };
        let tuning = &self.0.region.0.tuning;
        let source = self.0.source()?;
        let paused = source.hand_over(tuning, |mut kms| {
            let request = request.clone();
            async move { kms.pause(request).await.map(drop) }
        });
        paused.await
    }

    /// The source's KMS hands nothing over ever again.
    ///
    /// # Errors
    /// As it was refused.
    pub async fn close_keys(&self) -> Result<(), Error> {
        let request = v1::StateHandOverRequest {
            relocation_id: self.0.of.relocation_id.clone(),
            dataset_id: self.0.of.dataset_id.clone(),
        };
        let tuning = &self.0.region.0.tuning;
        let source = self.0.source()?;
        let closed = source.hand_over(tuning, |mut kms| {
            let request = request.clone();
            async move { kms.close(request).await.map(drop) }
        });
        closed.await
    }

    /// Ends every upload in parts that is open here. A mover's are over with what it brings; others' hold the cutover back.
    /// Called while this mover brings nothing.
    ///
    /// # Errors
    /// As one was refused.
    pub async fn end_left_uploads(&self) -> Result<(), Error> {
        self.0.end_left_uploads().await
    }

    /// Brings the next page of the listing. `image` is the one in the status.
    ///
    /// # Errors
    /// If anything of the page could not be brought: what was imported of it stays, and the cursor says so.
    pub async fn bring_page(&self, image: &v1::ImageRecord, how: &How) -> Result<Brought, Error> {
        let mover = &self.0;
        if image.listed.as_ref().is_some_and(|listed| listed.end) {
            return Ok(Brought::default());
        }
        mover.reached.lock().goes_on(image);
        let mut after = image.listed.clone();
        let next = Next::Page(v1::PageFrom {
            after: after.clone(),
        });
        let page = mover.read_source(next, how.limit).await?;
        let page = mover.against_here(after.as_ref(), page).await?;
        let end = page.place.clone().ok_or(Error::Protocol {
            what: "a listing that gets nowhere",
        })?;
        let tokens = Tokens::of(&page.tokens)?;
        let mut brought = Brought {
            more: !end.end,
            ..Brought::default()
        };
        for batch in split(page.units, end, place_of) {
            let through = batch.through;
            let span = Span::Page(v1::PageSpan {
                after,
                through: Some(through.clone()),
                at: page.at_index,
            });
            brought.units += batch.units.len() as u64;
            let with = (image.base, span);
            brought.bytes += mover.bring(with, batch.units, &tokens, how).await?;
            after = Some(through);
            if brought.bytes >= SEALED_MAX {
                // What there is to say of it is said meanwhile.
                brought.more |= after.as_ref() != page.place.as_ref();
                break;
            }
        }
        Ok(brought)
    }

    /// Brings the next changes.
    ///
    /// # Errors
    /// As [`Self::bring_page`]; `overrun` where the source has forgotten some.
    pub async fn bring_changes(
        &self,
        image: &v1::ImageRecord,
        how: &How,
    ) -> Result<Brought, Error> {
        let mover = &self.0;
        mover.reached.lock().goes_on(image);
        let next = Next::Changes(image.changes);
        let page = mover.read_source(next, how.limit).await?;
        let tokens = Tokens::of(&page.tokens)?;
        let mut brought = Brought {
            more: page.index < page.at_index,
            ..Brought::default()
        };
        let mut after = image.changes;
        let changes = mover.not_here(page.units).await?;
        for batch in split(changes, page.index, |unit| Some(unit.index)) {
            let through = batch.through;
            let span = Span::Changes(v1::IndexSpan { after, through });
            brought.units += batch.units.len() as u64;
            let with = (image.base, span);
            brought.bytes += mover.bring(with, batch.units, &tokens, how).await?;
            after = through;
            if brought.bytes >= SEALED_MAX {
                brought.more |= after < page.index;
                break;
            }
        }
        Ok(brought)
    }

    /// Brings the next request ids, with what they did.
    ///
    /// # Errors
    /// As [`Self::bring_page`].
    pub async fn bring_requests(&self, image: &v1::ImageRecord) -> Result<Brought, Error> {
        let mover = &self.0;
        let next = Next::Requests(image.requests);
        let page = mover.read_source(next, PAGE_MAX).await?;
        let brought = Brought {
            units: page.crossed.len() as u64,
            bytes: 0,
            more: page.index < page.at_index,
        };
        let import = v1::Import {
            dataset_id: mover.of.dataset_id.clone(),
            relocation_id: mover.of.relocation_id.clone(),
            pass: image.base,
            span: Some(Span::Requests(v1::IndexSpan {
                after: image.requests,
                through: page.index,
            })),
            units: Vec::new(),
            crossed: page.crossed,
        };
        mover.import(import, Vec::new()).await?;
        Ok(brought)
    }

    /// Reads copies back that were not compared since they were imported, opens them and compares; to be called again while
    /// there is more.
    ///
    /// # Errors
    /// `damaged` where a copy is not what the source has.
    pub async fn compare(&self, compared: &mut Compared, how: &How) -> Result<Brought, Error> {
        self.0.compare(compared, how).await
    }
}

impl Inner {
    /// The relocation as the source knows it: its shards have other numbers.
    fn there(&self) -> v1::Relocated {
        v1::Relocated {
            shard: 0,
            ..self.of.clone()
        }
    }

    /// The source, by the newest descriptor that is known of it.
    fn source(&self) -> Result<Arc<Source>, Error> {
        let signed = self.region.described(&self.source_region);
        let mut held = self.source.lock();
        if signed.is_some_and(|signed| !held.is_by(&signed)) {
            *held = Arc::new(found(&self.region, &self.source_region)?);
        }
        Ok(held.clone())
    }

    /// Calls the leader of the shard there.
    async fn departures<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(DeparturesClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let source = self.source()?;
        source.departures(&self.region.0.tuning, call).await
    }

    async fn read_source(&self, next: Next, limit: u32) -> Result<v1::FeedPage, Error> {
        let request = v1::ReadDepartureRequest {
            of: Some(self.there()),
            next: Some(next),
            limit,
        };
        self.departures(|mut client| {
            let request = request.clone();
            async move { Ok(client.read(request).await?.into_inner()) }
        })
        .await
    }
}

fn found(region: &Region, source: &RegionId) -> Result<Source, Error> {
    let signed = region.described(source).ok_or_else(|| Error::Denied {
        reason: "region-not-trusted".to_owned(),
        message: format!("this region does not trust {source}"),
    })?;
    Source::new(&region.0.local, signed)
}

/// Tries a step again while too few replicas have said the same: followers apply a little later.
async fn tried<F, Fut>(patience: Duration, step: F) -> Result<v1::Done, Error>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<v1::Done, Error>>,
{
    let deadline = Instant::now() + patience;
    let mut pause = WORDS_PAUSE;
    loop {
        match step().await {
            Err(error)
                if error.reason() == "too-few-words" && Instant::now() + pause < deadline =>
            {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(WORDS_PAUSE_MAX);
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(reason: &str) -> Error {
        Error::Caller {
            reason: reason.to_owned(),
            message: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_waits_for_words_and_for_nothing_else() {
        let tries = AtomicU64::new(0);
        let step = |enough: u64| {
            let tries = &tries;
            move || async move {
                match tries.fetch_add(1, Ordering::Relaxed) + 1 {
                    count if count >= enough => Ok(v1::Done::default()),
                    _ => Err(refused("too-few-words")),
                }
            }
        };
        let patience = Duration::from_secs(2);
        tried(patience, step(4)).await.expect("enough in the end");
        let never = tried(patience, step(u64::MAX)).await;
        assert_eq!(
            never.map_err(|error| error.reason().to_owned()),
            Err("too-few-words".into())
        );
        let before = tries.load(Ordering::Relaxed);
        let other = || async {
            tries.fetch_add(1, Ordering::Relaxed);
            Err(refused("fence-over"))
        };
        assert!(tried(patience, other).await.is_err());
        assert_eq!(tries.load(Ordering::Relaxed), before + 1);
    }
}
