//! Relocations as operators of both regions look after them: plan, begin, grant, pace, abort, shred and the end.
//!
//! Owns the callers' half of each step, and what people take from one region to the other: plan, offer, words. Refuses what is
//! of another region than the one that is asked. Who moves data is a gateway of the destination; who decides is the shard
//! and the KMS of either side.

mod asked;
mod destination;
mod ending;
mod notice;
mod plan;
mod progress;
mod source;
mod words;

use std::time::Duration;

use prost::Message as _;
use proto::ids::{GroupId, RegionId};
use proto::relocation::Named;
use proto::v1;
use proto::v1::departures_client::DeparturesClient;
use proto::v1::kms_client::KmsClient;
use proto::v1::relocations_client::RelocationsClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use transport::Lane;

use crate::error::Error;
use crate::region::Region;
use crate::route::Pool;

pub use asked::MoveAsked;
pub use destination::Begun;
pub use ending::Finished;
pub use notice::RelocationNotice;
pub use plan::{Blocker, RelocationPlan, transfer_seconds};
pub use progress::{RelocationProgress, RelocationRate, is_over, is_served, phase_name, rate};
pub use source::{MovesAlong, Planned};
pub use words::{OFFER_BYTES_MAX, Offer, RelocationWords, WORDS_BYTES_MAX};

/// How long one replica may take for its word.
const WORD_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries of what waits for replicas to apply what was just done.
const APPLIED_PAUSE: Duration = Duration::from_millis(250);

pub(crate) fn malformed(what: &str) -> Error {
    Error::Caller {
        reason: "bad-relocation-file".to_owned(),
        message: what.to_owned(),
    }
}

fn relocated(named: &Named, shard: GroupId) -> v1::Relocated {
    v1::Relocated {
        shard: shard.0,
        dataset_id: named.dataset.into(),
        relocation_id: named.relocation.into(),
    }
}

/// Every member's word, of those that have one.
async fn words_of<T, F, Fut>(pool: &Pool, ask: F) -> Vec<T>
where
    F: Fn(Channel) -> Fut,
    Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let ask = &ask;
    let asked = pool.members().into_iter().map(|member| async move {
        let channel = pool.channel(&member, Lane::Control, 0).ok()?;
        match tokio::time::timeout(WORD_PATIENCE, ask(channel)).await {
            Ok(Ok(word)) => Some(word.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(member = member.id.0, %status, "a replica has no word on it");
                None
            }
            Err(_) => None,
        }
    });
    let words = futures::future::join_all(asked).await;
    words.into_iter().flatten().collect()
}

impl Region {
    fn is_region(&self, needed: &RegionId, what: &str) -> Result<(), Error> {
        match self.id() == needed {
            true => Ok(()),
            false => Err(Error::Caller {
                reason: "other-region".to_owned(),
                message: format!(
                    "that is done in {needed}, {what} of the relocation; this is {}",
                    self.id()
                ),
            }),
        }
    }

    /// What each replica of this region's KMS has applied of a relocation, signed by it.
    pub async fn hand_over_words(&self, named: &Named) -> Vec<v1::SignedHandOverState> {
        let request = v1::StateHandOverRequest {
            relocation_id: named.relocation.into(),
            dataset_id: named.dataset.into(),
        };
        words_of(self.keys().pool(), |channel| {
            let request = request.clone();
            async move { KmsClient::new(channel).state_hand_over(request).await }
        })
        .await
    }

    /// What each node of this region has applied of a relocation out of it, signed by it.
    pub async fn departure_words(
        &self,
        named: &Named,
        shard: GroupId,
    ) -> Vec<v1::SignedDepartureState> {
        let request = v1::DepartureStateRequest {
            of: Some(relocated(named, shard)),
            follow: false,
        };
        words_of(&self.0.nodes, |channel| {
            let request = request.clone();
            async move { DeparturesClient::new(channel).state(request).await }
        })
        .await
    }

    /// What each node of this region has applied of a relocation into it, signed by it.
    pub async fn arrival_words(
        &self,
        named: &Named,
        shard: GroupId,
    ) -> Vec<v1::SignedArrivalState> {
        let request = v1::ArrivalStateRequest {
            of: Some(relocated(named, shard)),
            follow: false,
        };
        words_of(&self.0.nodes, |channel| {
            let request = request.clone();
            async move { RelocationsClient::new(channel).state(request).await }
        })
        .await
    }

    /// All words of this region on a relocation that leaves it, to be taken to the other one.
    pub async fn source_words(&self, plan: &RelocationPlan) -> Result<RelocationWords, Error> {
        self.is_region(&plan.source, "the source")?;
        let named = plan.named();
        let (departures, keys) = tokio::join!(
            self.departure_words(&named, plan.shard),
            self.hand_over_words(&named)
        );
        Ok(RelocationWords {
            region: self.id().clone(),
            named,
            departures,
            arrivals: Vec::new(),
            keys,
        })
    }

    /// The same, on one that comes to it.
    pub async fn destination_words(&self, named: &Named, shard: GroupId) -> RelocationWords {
        let (arrivals, keys) = tokio::join!(
            self.arrival_words(named, shard),
            self.hand_over_words(named)
        );
        RelocationWords {
            region: self.id().clone(),
            named: *named,
            departures: Vec::new(),
            arrivals,
            keys,
        }
    }

    /// Tries again while too few replicas have applied what was just done.
    async fn once_applied<T, F, Fut>(&self, attempt: F) -> Result<T, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.0.tuning.deadline;
        loop {
            match attempt().await {
                Err(error)
                    if error.reason() == "too-few-words"
                        && Instant::now() + APPLIED_PAUSE < deadline => {}
                answer => return answer,
            }
            tokio::time::sleep(APPLIED_PAUSE).await;
        }
    }

    /// The newest level that a replica of the KMS says, and the lowest of any group that a node says.
    async fn levels(&self) -> Levels {
        let status = self.status().await;
        let kms = status
            .kms
            .iter()
            .filter_map(|(.., said)| said.as_ref().ok());
        let nodes: Vec<_> = status
            .nodes
            .into_iter()
            .filter_map(|(.., said)| said.ok())
            .collect();
        let groups = nodes.iter().flat_map(|node| &node.groups);
        Levels {
            kms: kms.map(|kms| kms.level).max().unwrap_or_default(),
            shards: groups.map(|group| group.level).min().unwrap_or_default(),
            nodes,
        }
    }
}

struct Levels {
    kms: u32,
    shards: u32,
    nodes: Vec<v1::NodeStatusReply>,
}

/// What a state says that a step was taken by, for logs and for people.
fn claim_of(region: &Region) -> v1::Claim {
    v1::Claim {
        actor: region.identity().to_string(),
        ..v1::Claim::default()
    }
}

fn done(answer: v1::ShardAnswer) -> Result<v1::Done, Error> {
    match answer.answer {
        Some(v1::shard_answer::Answer::Done(done)) => Ok(done),
        _ => Err(Error::Protocol {
            what: "an answer that is not that it was done",
        }),
    }
}

/// Reads states out of words, as far as they decode.
fn departure_said(word: &v1::SignedDepartureState) -> Option<v1::DepartureState> {
    v1::DepartureState::decode(word.state.clone()).ok()
}
