//! Rotation of dataset keys without a person, and the end of their older versions: the plan of a key, the driver that
//! keeps to it, tokens wrapped anew, and versions that nothing needs.
//!
//! Owns what a plan asks of policy, the rotations that are due, and the walk over a shard's tokens. Refuses to end
//! versions while the dataset's shard takes commits under one of them, holds a token under one, or cannot be asked: what
//! lies under it would not open. A rewrap releases nothing, so it has no leaf; that versions were ended has one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use proto::ids::{DatasetId, KekId, KekVersion};
use proto::v1;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_client::ShardClient;
use tonic::transport::Channel;
use transport::Peer;
use transport::fault::Chain;

use crate::approvals;
use crate::confirm::{ConfirmError, timed};
use crate::core::{Core, StaleError};
use crate::custody::CustodyError;
use crate::keys::{KeyError, UnderDualControl, claim, dataset, in_force, named};
use crate::ledger::{Command, CommitError};

/// Between two rounds of the driver. A plan is at least an hour, or hundreds of uses.
const ROUND_EVERY: Duration = Duration::from_secs(10);
/// Keys looked at in one round.
const ROUND_KEYS_MAX: usize = 256;
/// Tokens looked at in one page of a shard, and so rewrapped in one call: each is an entry of the shard's log.
const PAGE_MAX: u32 = 64;
/// Tokens looked at in one page when the shard states that there are none.
const STATED_PAGE_MAX: u32 = 256;
/// Pages looked at before versions are ended: a million tokens.
const STATED_PAGES_MAX: usize = 4096;

/// Why tokens were not rewrapped, or versions not ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewrapError {
    /// The shard could not be asked, or refused.
    #[error("the dataset's shard")]
    Shard(#[from] ConfirmError),
    /// A token that does not open, or no key to wrap it with.
    #[error("a token could not be rewrapped")]
    Custody(#[from] CustodyError),
    /// What the shard holds as a token is none.
    #[error("the shard holds a token that does not decode")]
    Malformed,
    /// The shard still takes commits under them.
    #[error(
        "the dataset's shard takes commits from version {min_version} on, so no version from there on ends: rewrap \
         first (reduit key rewrap)"
    )]
    Taken {
        /// From which version on.
        min_version: u32,
    },
    /// Not yet.
    #[error(
        "the dataset's shard holds tokens under older versions: rewrap them first (reduit key rewrap)"
    )]
    Left,
}

/// Why a round did not rotate a key.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error("the key's plan asks for no rotation any more")]
    NotDue,
    #[error("the key's record cannot be read")]
    Record,
    #[error("no new version was made")]
    Custody(#[from] CustodyError),
    #[error("the rotation was not recorded")]
    Commit(#[from] CommitError),
}

impl Core {
    /// Replaces the plan by which the leader rotates a key. A retry has effect once.
    pub(crate) async fn plan_key_rotation(
        &self,
        peer: &Peer,
        request: v1::PlanKeyRotationRequest,
    ) -> Result<v1::KeyInfo, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_ROTATION)?;
        let (dataset, request_id) = named(&request.dataset_id, &request.request_id)?;
        let bounded =
            |asked, bounds: std::ops::RangeInclusive<u64>| asked == 0 || bounds.contains(&asked);
        if !bounded(request.max_age_ms, kms_state::ROTATION_AGE_MS)
            || !bounded(request.max_uses, kms_state::ROTATION_USES)
        {
            return Err(KeyError::Malformed {
                field: "plan (an hour to ten years; 256 uses or more)",
            });
        }
        let stated = claim(request.claim, &peer.identity);
        let takes = "enabled, disabled or compromised";
        self.change_as_stated(peer, dataset, &stated, takes, |_, key| {
            let plan = v1::PlanKeyRotation {
                dataset_id: dataset.into(),
                state_version: key.state_version,
                max_age_ms: request.max_age_ms,
                max_uses: request.max_uses,
                claim: Some(stated.clone()),
                request_id: Bytes::copy_from_slice(&request_id),
            };
            Ok(v1::kms_command::Command::PlanKeyRotation(plan))
        })
        .await?;
        self.confirm_shard(dataset).await;
        self.key_info(dataset)
    }

    /// Rotates keys whose plan asks for it while this replica leads, a page of all keys in each round.
    pub(crate) async fn rotate_due_keys(self: Arc<Self>) {
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
            let now = kms_state::region_time(&*state);
            drop(state);
            let id = |key: &v1::KekRecord| DatasetId::try_from(key.dataset_id.as_ref()).ok();
            after = page
                .last()
                .and_then(id)
                .filter(|_| page.len() == ROUND_KEYS_MAX);
            let due = |key: &&v1::KekRecord| kms_state::rotation_due(key, now).is_some();
            for dataset in page.iter().filter(due).filter_map(id) {
                match self.rotate_when_due(dataset).await {
                    Ok(why) => tracing::info!(%dataset, ?why, "key rotated by its plan"),
                    Err(error) => {
                        tracing::warn!(%dataset, error = %Chain(&error), "key not rotated by its plan");
                    }
                }
            }
        }
    }

    async fn rotate_when_due(
        &self,
        dataset: DatasetId,
    ) -> Result<kms_state::RotationDue, RotateError> {
        let mut reason = None;
        self.ledger
            .command::<RotateError>(self.identity(), self.deadline(), |state| {
                let key = kms_state::key(state, &dataset).ok_or(RotateError::NotDue)?;
                let now = kms_state::region_time(state);
                let due = kms_state::rotation_due(&key, now).ok_or(RotateError::NotDue)?;
                reason = Some(due);
                let id = KekId::try_from(key.kek_id.as_ref()).map_err(|_| RotateError::Record)?;
                let next = KekVersion(key.current_version + 1);
                let rotate = v1::RotateKek {
                    dataset_id: dataset.into(),
                    state_version: key.state_version,
                    version: Some(self.custody.born(
                        dataset,
                        id,
                        next,
                        self.now(),
                        in_force(state),
                    )?),
                    claim: Some(claim(None, self.identity())),
                    // The version it is decided on is what a second try is refused by.
                    request_id: Bytes::new(),
                };
                Ok(Command {
                    authority_version: kms_state::authority_version(state),
                    approvals: Vec::new(),
                    what: v1::kms_command::Command::RotateKek(rotate),
                })
            })
            .await?;
        self.custody.clear();
        self.confirm_shard(dataset).await;
        reason.ok_or(RotateError::NotDue)
    }

    /// Rewraps one page of the shard's tokens that are under an older version than the newest. Opens go on meanwhile,
    /// under whichever token their reader was given.
    pub(crate) async fn rewrap_tokens(
        &self,
        peer: &Peer,
        request: v1::RewrapTokensRequest,
    ) -> Result<v1::RewrapTokensReply, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        let dataset = dataset(&request.dataset_id)?;
        self.may_change_key(peer, dataset, request.claim.as_ref())?;
        // By a majority's word: a leader that was deposed must not go by a version that is not the newest.
        drop(self.current().await?);
        let key = self.key_record(dataset)?;
        if key.state() != v1::KeyState::Enabled {
            return Err(KeyError::State {
                state: key.state(),
                takes: "enabled",
            });
        }
        let newest = key.current_version;
        let page = self.tokens_below(&key, newest, request.start_after, PAGE_MAX);
        let page = page.await?;
        for token in &page.tokens {
            self.rewrap(&key, token).await?;
        }
        Ok(v1::RewrapTokensReply {
            rewrapped: page.tokens.len() as u64,
            kek_version: newest,
            next_start_after: page.next_start_after,
        })
    }

    async fn rewrap(&self, key: &v1::KekRecord, token: &Bytes) -> Result<(), RewrapError> {
        let old = v1::LeaseToken::decode(token.clone()).map_err(|_| RewrapError::Malformed)?;
        let new = self.custody.rewrap(key, &old, &self.local)?;
        let request = v1::RegisterLeaseRequest {
            shard: key.shard,
            dataset_id: key.dataset_id.clone(),
            token: new.encode_to_vec().into(),
        };
        let put = |mut client: ShardClient<Channel>| {
            let request = timed(request.clone());
            async move { Ok(client.rewrap_token(request).await?.into_inner()) }
        };
        match self.at_leader(&self.nodes(), put).await?.answer {
            Some(Answer::Done(_)) => Ok(()),
            Some(Answer::Refused(refused)) => Err(ConfirmError::Refused {
                refusal: refused.reason(),
            }
            .into()),
            None => Err(ConfirmError::Nodes("an empty answer".to_owned()).into()),
        }
    }

    async fn tokens_below(
        &self,
        key: &v1::KekRecord,
        below_version: u32,
        start_after: Bytes,
        limit: u32,
    ) -> Result<v1::ListTokensReply, RewrapError> {
        if key.shard == 0 {
            return Err(ConfirmError::NoShard.into());
        }
        let request = v1::ListTokensRequest {
            shard: key.shard,
            dataset_id: key.dataset_id.clone(),
            below_version,
            start_after,
            limit,
        };
        let list = |mut client: ShardClient<Channel>| {
            let request = timed(request.clone());
            async move { Ok(client.list_tokens(request).await?.into_inner()) }
        };
        Ok(self.at_leader(&self.nodes(), list).await?)
    }

    /// The shard's word that none of its tokens is under a version below one. It holds from then on: the shard has
    /// confirmed that it takes none.
    async fn none_below(&self, key: &v1::KekRecord, below_version: u32) -> Result<(), RewrapError> {
        let mut after = Bytes::new();
        for _ in 0..STATED_PAGES_MAX {
            let page = self.tokens_below(key, below_version, after, STATED_PAGE_MAX);
            let page = page.await?;
            if !page.tokens.is_empty() {
                break;
            }
            if page.next_start_after.is_empty() {
                return Ok(());
            }
            after = page.next_start_after;
        }
        Err(RewrapError::Left)
    }

    /// Ends versions of a key below one that the shard takes commits from, where no token of the shard needs them. The
    /// approvals sign exactly this request. A retry has effect once.
    pub(crate) async fn end_key_versions(
        &self,
        peer: &Peer,
        mut request: v1::EndKeyVersionsRequest,
    ) -> Result<v1::KeyInfo, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        self.at_level(kms_state::LEVEL_ROTATION)?;
        let (dataset, request_id) = named(&request.dataset_id, &request.request_id)?;
        let below_version = request.below_version;
        self.may_change_key(peer, dataset, request.claim.as_ref())?;
        drop(self.current().await?);
        let key = self.key_record(dataset)?;
        if below_version <= 1 || below_version > key.min_version {
            let min_version = key.min_version;
            return Err(RewrapError::Taken { min_version }.into());
        }
        self.confirm(dataset).await.map_err(RewrapError::Shard)?;
        let key = self.key_record(dataset)?;
        self.none_below(&key, below_version).await?;
        let given = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("EndKeyVersions", &request);
        let stated = claim(request.claim.take(), &peer.identity);
        let asked = UnderDualControl {
            peer,
            dataset,
            stated: &stated,
            hash,
            single_use_id: &request.single_use_id,
            approvals: &given,
            takes: "enabled, disabled or compromised, with versions to end that its shard takes no commit under",
        };
        self.change_under_dual_control(&asked, |key| {
            let metadata_keys = self
                .custody
                .rewrapped_metadata(key, dataset, below_version)?;
            let end = v1::EndKekVersions {
                dataset_id: dataset.into(),
                state_version: key.state_version,
                below_version,
                claim: Some(stated.clone()),
                request_id: Bytes::copy_from_slice(&request_id),
                metadata_keys,
            };
            Ok(v1::kms_command::Command::EndKekVersions(end))
        })
        .await?;
        tracing::warn!(%dataset, below_version, by = %peer.identity, "key versions ended");
        self.custody.clear();
        self.confirm_shard(dataset).await;
        self.key_info(dataset)
    }

    fn key_record(&self, dataset: DatasetId) -> Result<v1::KekRecord, KeyError> {
        let state = self.reader().map_err(StaleError::State)?;
        kms_state::key(&*state, &dataset).ok_or(KeyError::NoSuchKey { dataset })
    }
}
