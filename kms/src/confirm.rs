//! Telling a dataset's shard what state its key is in, until the shard has committed it.
//!
//! Owns finding the shard and the record that it has committed. Refuses to call a state confirmed on anything less
//! than the shard leader's answer: until then the KMS has stopped opens, and what is stored under the key still is
//! accepted by the shard, which the answer to the operator says.

use std::sync::Arc;
use std::time::Duration;

use proto::ids::{DatasetId, NodeId, Role};
use proto::v1;
use proto::v1::catalog_client::CatalogClient;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_client::ShardClient;
use tonic::transport::Channel;
use tonic::{Request, Status};
use transport::fault::{Chain, leader_hint};
use transport::{Expect, Lane};

use crate::core::Core;
use crate::ledger::{Command, CommitError};

/// How long the one try within an operator's request may take.
pub(crate) const ONE_TRY_MAX: Duration = Duration::from_secs(3);
/// Between two rounds of the driver.
const ROUND_EVERY: Duration = Duration::from_secs(5);
/// Keys looked at in one round.
const ROUND_KEYS_MAX: usize = 256;
/// How long one call to a node may take.
const CALL_MAX: Duration = Duration::from_secs(3);
/// Calls that one confirmation may take: shards times members is bounded by this.
const CALLS_MAX: usize = 256;
/// Groups from here on are shards.
const FIRST_SHARD: u64 = proto::ids::GroupId::FIRST_SHARD;

/// Why a key's state is not confirmed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfirmError {
    /// No such key here.
    #[error("there is no key of this dataset")]
    NoKey,
    /// No node answered.
    #[error("no storage node answered: {0}")]
    Nodes(String),
    /// No shard holds the dataset.
    #[error("no shard holds this dataset yet")]
    NoShard,
    /// The shard refused.
    #[error("the shard refused: {}", refusal.as_str_name())]
    Refused {
        /// Why.
        refusal: v1::Refusal,
    },
    /// Confirmed, and the confirmation was not recorded.
    #[error("the confirmation was not recorded")]
    Commit(#[from] CommitError),
}

impl Core {
    /// Looks after unconfirmed keys while this replica leads, a page of all keys in each round.
    pub(crate) async fn confirm_keys(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ROUND_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut after = None;
        loop {
            rounds.tick().await;
            if !self.group.is_leader() || self.serving().is_err() {
                continue;
            }
            let Ok(state) = self.reader() else { return };
            let page = kms_state::keys(&*state, after.as_ref(), ROUND_KEYS_MAX);
            drop(state);
            let id = |key: &v1::KekRecord| DatasetId::try_from(key.dataset_id.as_ref()).ok();
            after = page
                .last()
                .and_then(id)
                .filter(|_| page.len() == ROUND_KEYS_MAX);
            for dataset in page.iter().filter(|key| !confirmed(key)).filter_map(id) {
                match self.confirm(dataset).await {
                    Ok(()) => tracing::info!(%dataset, "key state confirmed by its shard"),
                    // A key whose dataset is still being created has no shard: nothing to report.
                    Err(ConfirmError::NoShard) => {}
                    Err(error) => {
                        tracing::debug!(%dataset, error = %Chain(&error), "key state not confirmed");
                    }
                }
            }
        }
    }

    /// Has the dataset's shard commit the key's state, and records that it did.
    pub(crate) async fn confirm(&self, dataset: DatasetId) -> Result<(), ConfirmError> {
        let state = self.reader().map_err(|_| CommitError::State)?;
        let key = kms_state::key(&*state, &dataset).ok_or(ConfirmError::NoKey)?;
        if confirmed(&key) {
            return Ok(());
        }
        drop(state);
        let nodes = self.nodes();
        let shard = match key.shard {
            0 => {
                let shard = self.find_shard(&nodes, dataset).await?;
                self.register_shard(dataset, shard).await?;
                shard
            }
            known => known,
        };
        let request = v1::SetKeyStateRequest {
            shard,
            dataset_id: dataset.into(),
            state: key.state,
            version: key.state_version,
            min_kek_version: key.min_version,
        };
        let set = |mut client: ShardClient<Channel>| {
            let request = timed(request.clone());
            async move {
                client
                    .set_key_state(request)
                    .await
                    .map(tonic::Response::into_inner)
            }
        };
        match self.at_leader(&nodes, set).await?.answer {
            Some(Answer::Done(_)) => {}
            // The shard holds this version or a newer one: it has committed it before.
            Some(Answer::Refused(refused)) if refused.reason() == v1::Refusal::KeyStateMoved => {}
            Some(Answer::Refused(refused)) => {
                return Err(ConfirmError::Refused {
                    refusal: refused.reason(),
                });
            }
            None => return Err(ConfirmError::Nodes("an empty answer".to_owned())),
        }
        let what = v1::kms_command::Command::ConfirmShard(v1::ConfirmShard {
            dataset_id: dataset.into(),
            state_version: key.state_version,
        });
        self.note(what).await
    }

    async fn register_shard(&self, dataset: DatasetId, shard: u64) -> Result<(), ConfirmError> {
        let register = v1::RegisterShard {
            dataset_id: dataset.into(),
            shard,
        };
        self.note(v1::kms_command::Command::RegisterShard(register))
            .await
    }

    async fn note(&self, what: v1::kms_command::Command) -> Result<(), ConfirmError> {
        self.ledger
            .command::<CommitError>(self.identity(), self.deadline(), |state| {
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: what.clone(),
                })
            })
            .await?;
        Ok(())
    }

    /// Nodes to ask: those configured, else those enrolled.
    pub(crate) fn nodes(&self) -> Vec<(Option<NodeId>, String, Expect)> {
        let enrolled = self
            .enrolments
            .members(Role::Node)
            .into_iter()
            .map(|node| (node.node_id, node.endpoint, Expect::Identity(node.identity)));
        let configured = self.config.nodes.iter();
        match self.config.nodes.is_empty() {
            true => enrolled
                .filter(|(_, endpoint, _)| !endpoint.is_empty())
                .collect(),
            false => configured
                .map(|endpoint| (None, endpoint.clone(), Expect::Role(Role::Node)))
                .collect(),
        }
    }

    pub(crate) fn channel(&self, endpoint: &str, expect: &Expect) -> Result<Channel, ConfirmError> {
        self.connector
            .channel_lazy(endpoint, expect.clone(), Lane::Control)
            .map_err(|error| ConfirmError::Nodes(error.to_string()))
    }

    /// Asks every shard whether it holds the dataset: once in the life of a dataset. That none does is said only where
    /// every one has answered.
    pub(crate) async fn find_shard(
        &self,
        nodes: &[(Option<NodeId>, String, Expect)],
        dataset: DatasetId,
    ) -> Result<u64, ConfirmError> {
        let mut why = String::from("none is known");
        for (_, endpoint, expect) in nodes {
            let mut catalog = CatalogClient::new(self.channel(endpoint, expect)?);
            let described = match catalog.describe(timed(v1::DescribeRequest {})).await {
                Ok(described) => described.into_inner(),
                Err(status) => {
                    why = status.message().to_owned();
                    continue;
                }
            };
            let mut silent = None;
            for shard in described
                .groups
                .iter()
                .map(|group| group.group)
                .filter(|g| *g >= FIRST_SHARD)
            {
                let request = v1::ShardStatusRequest {
                    shard,
                    dataset_id: dataset.into(),
                };
                let ask = |mut client: ShardClient<Channel>| {
                    let request = timed(request.clone());
                    async move {
                        client
                            .shard_status(request)
                            .await
                            .map(tonic::Response::into_inner)
                    }
                };
                let held = match self.at_leader(nodes, ask).await {
                    Ok(status) => status.dataset,
                    Err(error) => {
                        silent = Some(error);
                        continue;
                    }
                };
                if held.is_some_and(|held| held.dataset_id.as_ref() == dataset.as_bytes()) {
                    return Ok(shard);
                }
            }
            return Err(silent.unwrap_or(ConfirmError::NoShard));
        }
        Err(ConfirmError::Nodes(why))
    }

    /// Calls nodes until one that leads the shard answers, following what they say of the leader.
    pub(crate) async fn at_leader<T, F>(
        &self,
        nodes: &[(Option<NodeId>, String, Expect)],
        call: impl Fn(ShardClient<Channel>) -> F,
    ) -> Result<T, ConfirmError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut todo: std::collections::VecDeque<_> = nodes.iter().collect();
        let mut why = String::from("none is known");
        for _ in 0..CALLS_MAX.min(2 * nodes.len()) {
            let Some((id, endpoint, expect)) = todo.pop_front() else {
                break;
            };
            match call(ShardClient::new(self.channel(endpoint, expect)?)).await {
                Ok(answer) => return Ok(answer),
                Err(status) => {
                    why = status.message().to_owned();
                    let hinted = leader_hint(&status).filter(|hint| Some(hint.id) != *id);
                    let leader = hinted.and_then(|hint| {
                        nodes.iter().find(|(id, endpoint, _)| {
                            *id == Some(hint.id) || *endpoint == hint.endpoint
                        })
                    });
                    if let Some(leader) = leader {
                        todo.push_front(leader);
                    }
                }
            }
        }
        Err(ConfirmError::Nodes(why))
    }
}

/// Whether the shard has committed the state the key is in.
fn confirmed(key: &v1::KekRecord) -> bool {
    key.shard != 0 && key.confirmed_state_version == key.state_version
}

pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_MAX);
    request
}
