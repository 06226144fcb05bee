//! Signed words of both regions' replicas, gathered for the steps that take them.
//!
//! Owns which step takes whose words. Refuses nothing: who counts them verifies each, and a replica that does not answer has
//! said nothing.

use std::time::Duration;

use futures::future::join_all;
use proto::v1;
use proto::v1::arrival_step_request::Step as Arrives;
use proto::v1::departure_step_request::Step as Departs;
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_hand_over_client::KmsHandOverClient;
use transport::Lane;

use super::Inner;
use super::source::departures;
use crate::error::Error;

/// How long one replica may take for its word. With `follow` it may have to read all there is first.
const WORD_PATIENCE: Duration = Duration::from_secs(2);
/// The same where nobody waits for it.
const WARM_PATIENCE: Duration = Duration::from_secs(60);

/// Whose words a step of the arrival takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Takes {
    /// Of the source's nodes.
    pub(super) nodes: bool,
    /// Of the source's KMS.
    pub(super) kms: bool,
    /// Of the own KMS.
    pub(super) own_kms: bool,
}

pub(super) fn taken_by(step: &Arrives) -> Takes {
    let none = Takes::default();
    match step {
        Arrives::Copy(_) => Takes {
            nodes: true,
            kms: true,
            ..none
        },
        Arrives::Fenced(_) | Arrives::Moved(_) | Arrives::Reverted(_) | Arrives::Ended(_) => {
            Takes {
                nodes: true,
                ..none
            }
        }
        Arrives::Paused(_) | Arrives::Closed(_) | Arrives::Shredded(_) => {
            Takes { kms: true, ..none }
        }
        Arrives::HandOverEnded(_) => Takes {
            own_kms: true,
            ..none
        },
        Arrives::CopyAgain(_)
        | Arrives::CatchUp(_)
        | Arrives::Verify(_)
        | Arrives::Compared(_)
        | Arrives::HoldUntilMs(_)
        | Arrives::Force(_)
        | Arrives::Abort(_)
        | Arrives::Shred(_)
        | Arrives::Pace(_)
        | Arrives::Claim(_) => none,
    }
}

/// Whether a step of the departure takes the words of the own nodes.
pub(super) fn takes_own_nodes(step: &Departs) -> bool {
    matches!(step, Departs::Moved(_) | Departs::Superseded(_))
}

impl Inner {
    /// What every node of the source says now.
    pub(super) async fn source_words(
        &self,
        warm: bool,
    ) -> Result<Vec<v1::SignedDepartureState>, Error> {
        let source = self.source()?;
        let words = source.nodes.each().map(|channel| {
            let request = v1::DepartureStateRequest {
                of: Some(self.there()),
                follow: true,
            };
            async move {
                let mut client = departures(channel);
                heard(client.state(request), warm).await
            }
        });
        Ok(join_all(words).await.into_iter().flatten().collect())
    }

    /// What every node of this region says now.
    pub(super) async fn own_words(&self, warm: bool) -> Result<Vec<v1::SignedArrivalState>, Error> {
        let nodes = &self.region.0.nodes;
        let words = nodes.members().into_iter().map(|member| async move {
            let channel = nodes.channel(&member, Lane::Control, 0)?;
            let request = v1::ArrivalStateRequest {
                of: Some(self.of.clone()),
                follow: true,
            };
            let mut client = self.relocations_at(channel);
            Ok::<_, Error>(heard(client.state(request), warm).await)
        });
        let words: Vec<_> = join_all(words).await;
        let words: Result<Vec<_>, Error> = words.into_iter().collect();
        Ok(words?.into_iter().flatten().collect())
    }

    fn stated(&self) -> v1::StateHandOverRequest {
        v1::StateHandOverRequest {
            relocation_id: self.of.relocation_id.clone(),
            dataset_id: self.of.dataset_id.clone(),
        }
    }

    /// What every replica of the source's KMS says now.
    pub(super) async fn source_kms_words(&self) -> Result<Vec<v1::SignedHandOverState>, Error> {
        let source = self.source()?;
        let words = source.kms.each().map(|channel| async move {
            let mut client = KmsHandOverClient::new(channel);
            heard(client.state(self.stated()), false).await
        });
        Ok(join_all(words).await.into_iter().flatten().collect())
    }

    /// What every replica of the own KMS says now.
    pub(super) async fn own_kms_words(&self) -> Result<Vec<v1::SignedHandOverState>, Error> {
        let pool = self.region.0.keys.pool();
        let words = pool.members().into_iter().map(|member| async move {
            let channel = pool.channel(&member, Lane::Control, 0)?;
            let mut client = KmsClient::new(channel);
            Ok::<_, Error>(heard(client.state_hand_over(self.stated()), false).await)
        });
        let words: Vec<_> = join_all(words).await;
        let words: Result<Vec<_>, Error> = words.into_iter().collect();
        Ok(words?.into_iter().flatten().collect())
    }
}

/// A word, if it comes in time.
async fn heard<T>(
    word: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    warm: bool,
) -> Option<T> {
    let patience = match warm {
        true => WARM_PATIENCE,
        false => WORD_PATIENCE,
    };
    match tokio::time::timeout(patience, word).await {
        Ok(Ok(word)) => Some(word.into_inner()),
        Ok(Err(status)) => {
            tracing::debug!(code = ?status.code(), why = status.message(), "a replica gave no word");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_region_says_comes_with_its_words() {
        let both = taken_by(&Arrives::Copy(true));
        assert!(both.nodes && both.kms && !both.own_kms);
        for step in [
            Arrives::Fenced(true),
            Arrives::Moved(true),
            Arrives::Reverted(7),
            Arrives::Ended(true),
        ] {
            let takes = taken_by(&step);
            assert!(takes.nodes && !takes.kms, "{step:?}");
        }
        for step in [
            Arrives::Paused(true),
            Arrives::Closed(true),
            Arrives::Shredded(true),
        ] {
            let takes = taken_by(&step);
            assert!(takes.kms && !takes.nodes, "{step:?}");
        }
        assert!(taken_by(&Arrives::HandOverEnded(true)).own_kms);
        for step in [
            Arrives::CatchUp(true),
            Arrives::Verify(true),
            Arrives::Abort(true),
        ] {
            assert_eq!(taken_by(&step), Takes::default(), "{step:?}");
        }
        assert!(takes_own_nodes(&Departs::Moved(true)));
        assert!(!takes_own_nodes(&Departs::Taken(7)));
    }
}
