//! The KMS as a client uses it: keys of datasets, leases, opens, the log.
//!
//! Owns one session a replica and one lease a dataset. Key bytes are inside `envelope`'s types alone.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::ids::{DatasetId, GroupId, NodeId, RegionId, UnixMs};
use proto::v1;
use proto::v1::kms_client::KmsClient;
use tonic::Status;
use tonic::transport::Channel;
use transport::{Clock as _, Lane, LocalIdentity, SystemClock};

use crate::acting::Acting;
use crate::error::Error;
use crate::lease::{MetadataKeys, SealLease};
use crate::opens::line::Line;
use crate::operator::{approve, request_hash};
use crate::region::random_id;
use crate::route::{Member, Pool};
use crate::session::{self, Session};
use crate::settings::Tuning;

/// Leases are asked for whole hours at most.
const LEASE_SECONDS: u32 = 3_600;
/// Leases of each kind held at once: a gateway has one for each dataset and principal. What is over is asked for again.
const LEASES_MAX: usize = 8_192;
/// Leaves of one read at most.
const LEAVES_PAGE: u32 = 1_000;
/// A session the replica has forgotten (it restarted): made again this often in one call.
const SESSIONS_PER_CALL: u32 = 3;

/// Keys of one region, for one identity.
pub struct Keys {
    pub(crate) region: RegionId,
    pub(crate) local: LocalIdentity,
    pool: Arc<Pool>,
    pub(crate) tuning: Tuning,
    sessions: Mutex<HashMap<NodeId, Arc<Session>>>,
    lines: Mutex<HashMap<NodeId, Arc<Line>>>,
    making: tokio::sync::Mutex<()>,
    leases: tokio::sync::Mutex<HashMap<Held, Arc<SealLease>>>,
    metadata: tokio::sync::Mutex<HashMap<Held, Arc<MetadataKeys>>>,
}

/// Of which dataset a lease is, and for whom: policy allowed it to both.
type Held = (DatasetId, Acting);

/// What changes of a key's aliases and tags: what is removed goes first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyLabels {
    /// Names that lead to the key from now on: 1 to 64 of `a-z 0-9 - _ .`, at most 16 a key.
    pub add_aliases: Vec<String>,
    /// Names that no longer do.
    pub remove_aliases: Vec<String>,
    /// Names, of 1 to 64 bytes, and their values, of at most 256; at most 32 a key.
    pub set_tags: Vec<(String, String)>,
    /// Names of tags that go.
    pub remove_tags: Vec<String>,
}

/// Reads the transparency log in order.
pub struct LeafReader<'a> {
    keys: &'a Keys,
    next: u64,
    with_openings: bool,
}

impl Keys {
    pub(crate) fn new(
        region: RegionId,
        local: LocalIdentity,
        pool: Arc<Pool>,
        tuning: Tuning,
    ) -> Self {
        Self {
            region,
            local,
            pool,
            tuning,
            sessions: Mutex::default(),
            lines: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            leases: tokio::sync::Mutex::default(),
            metadata: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Calls the KMS leader.
    pub(crate) async fn call<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(KmsClient<Channel>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.pool
            .on_leader(GroupId::KMS, &self.tuning, |_, channel| {
                call(KmsClient::new(channel))
            })
            .await
    }

    /// Calls the KMS leader within a session with it. A session the replica does not know is made anew.
    pub(crate) async fn call_in_session<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(KmsClient<Channel>, Arc<Session>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.in_session(|_, channel, session| call(KmsClient::new(channel), session))
            .await
    }

    /// As [`Self::call_in_session`], on the stream of opens to the leader.
    pub(crate) async fn open_in_session<T, F, Fut>(&self, open: F) -> Result<T, Error>
    where
        F: Fn(Arc<Line>, Arc<Session>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.in_session(|replica, channel, session| open(self.line(replica, channel), session))
            .await
    }

    async fn in_session<T, F, Fut>(&self, call: F) -> Result<T, Error>
    where
        F: Fn(NodeId, Channel, Arc<Session>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let call = &call;
        self.pool
            .on_leader(GroupId::KMS, &self.tuning, |replica, channel| async move {
                let mut made = 0;
                loop {
                    let session = self.session(&replica, channel.clone()).await?;
                    match call(replica.id, channel.clone(), session).await {
                        Err(status)
                            if transport::fault::reason(&status) == Some("no-such-session")
                                && made < SESSIONS_PER_CALL =>
                        {
                            self.sessions.lock().remove(&replica.id);
                            made += 1;
                        }
                        answer => return answer,
                    }
                }
            })
            .await
    }

    fn line(&self, replica: NodeId, channel: Channel) -> Arc<Line> {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get(&replica).filter(|line| line.is_open()) {
            return line.clone();
        }
        lines.retain(|_, line| line.is_open());
        let line = Arc::new(Line::start(KmsClient::new(channel)));
        lines.insert(replica, line.clone());
        line
    }

    async fn session(&self, replica: &Member, channel: Channel) -> Result<Arc<Session>, Status> {
        let held = |now| {
            self.sessions
                .lock()
                .get(&replica.id)
                .filter(|s| s.usable(now))
                .cloned()
        };
        if let Some(session) = held(now()) {
            return Ok(session);
        }
        // One at a time: many tasks that find none must not each make one.
        let _making = self.making.lock().await;
        if let Some(session) = held(now()) {
            return Ok(session);
        }
        let session = session::open(&self.region, &self.local, replica, channel).await?;
        self.sessions.lock().insert(replica.id, session.clone());
        Ok(session)
    }

    /// Has the KMS make a dataset's key: the first step of [`Region::create_dataset`](crate::Region::create_dataset).
    /// Refused where the dataset has one.
    pub async fn create_key(&self, dataset: DatasetId) -> Result<v1::KeyInfo, Error> {
        self.create_key_for(dataset, &Acting::default()).await
    }

    pub(crate) async fn create_key_for(
        &self,
        dataset: DatasetId,
        acting: &Acting,
    ) -> Result<v1::KeyInfo, Error> {
        let request = v1::CreateKeyRequest {
            dataset_id: dataset.into(),
            request_id: random_id()?,
            claim: Some(acting.claim()),
        };
        self.call(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.create_key(request).await?.into_inner()) }
        })
        .await
    }

    /// State and versions of a dataset's key, without key bytes.
    pub async fn key_info(&self, dataset: DatasetId) -> Result<v1::KeyInfo, Error> {
        let request = v1::FindKeyRequest {
            dataset_id: dataset.into(),
            ..Default::default()
        };
        self.call(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.find_key(request).await?.into_inner()) }
        })
        .await
    }

    /// What ending a dataset's key would end: to be read before its destruction is approved.
    pub async fn key_impact(&self, dataset: DatasetId) -> Result<v1::KeyImpactReply, Error> {
        let request = v1::FindKeyRequest {
            dataset_id: dataset.into(),
            ..Default::default()
        };
        self.call(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.key_impact(request).await?.into_inner()) }
        })
        .await
    }

    /// Every key of the region, in order of dataset ids: metadata, never keys.
    pub async fn inventory(&self) -> Result<Vec<v1::KeyInfo>, Error> {
        let (mut all, mut start_after) = (Vec::new(), bytes::Bytes::new());
        loop {
            let request = v1::ListKeysRequest {
                start_after: start_after.clone(),
                limit: 0,
            };
            let page = self.call(move |mut kms| {
                let request = request.clone();
                async move { Ok(kms.list_keys(request).await?.into_inner()) }
            });
            let page = page.await?;
            let last = page.keys.last().and_then(|info| info.key.as_ref());
            let next = last.map(|key| key.dataset_id.clone());
            all.extend(page.keys);
            match next {
                Some(next) if page.more => start_after = next,
                _ => return Ok(all),
            }
        }
    }

    /// Schedules the destruction of a disabled or compromised key in 7 to 30 days, approved by at least two operators
    /// other than the caller. The region's leader destroys it when due; until then it can be cancelled.
    pub async fn schedule_destruction(
        &self,
        dataset: DatasetId,
        days: u32,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KeyInfo, Error> {
        let mut request = v1::ScheduleKeyDestructionRequest {
            dataset_id: dataset.into(),
            claim: None,
            request_id: random_id()?,
            days,
            single_use_id: random_id()?,
            approvals: Vec::new(),
        };
        let hash = request_hash("ScheduleKeyDestruction", &request);
        let id = request.single_use_id.clone();
        request.approvals = approvers
            .iter()
            .map(|who| approve(who, hash, id.clone()))
            .collect();
        let call = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move { Ok(kms.schedule_key_destruction(request).await?.into_inner()) }
        };
        self.pool.change(GroupId::KMS, &self.tuning, call).await
    }

    /// Plans when the region rotates a key by itself: at most how old its newest version gets, and how often it is used;
    /// 0 for no such reason.
    pub async fn plan_rotation(
        &self,
        dataset: DatasetId,
        max_age_ms: u64,
        max_uses: u64,
    ) -> Result<v1::KeyInfo, Error> {
        let request = v1::PlanKeyRotationRequest {
            dataset_id: dataset.into(),
            claim: None,
            request_id: random_id()?,
            max_age_ms,
            max_uses,
        };
        let call = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move { Ok(kms.plan_key_rotation(request).await?.into_inner()) }
        };
        self.pool.change(GroupId::KMS, &self.tuning, call).await
    }

    /// Changes a key's aliases and tags. What is removed goes first; an alias of another key is refused.
    pub async fn label_key(
        &self,
        dataset: DatasetId,
        labels: KeyLabels,
    ) -> Result<v1::KeyInfo, Error> {
        let tag = |(name, value)| v1::KeyTag { name, value };
        let request = v1::LabelKeyRequest {
            dataset_id: dataset.into(),
            claim: None,
            request_id: random_id()?,
            add_aliases: labels.add_aliases,
            remove_aliases: labels.remove_aliases,
            set_tags: labels.set_tags.into_iter().map(tag).collect(),
            remove_tags: labels.remove_tags,
        };
        let call = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move { Ok(kms.label_key(request).await?.into_inner()) }
        };
        self.pool.change(GroupId::KMS, &self.tuning, call).await
    }

    /// The key that has an alias.
    pub async fn key_by_alias(&self, alias: &str) -> Result<v1::KeyInfo, Error> {
        let request = v1::FindKeyRequest {
            alias: alias.to_owned(),
            ..Default::default()
        };
        self.call(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.find_key(request).await?.into_inner()) }
        })
        .await
    }

    /// Has a page of the tokens of a dataset's shard wrapped under its key's newest version; the answer says where the
    /// next begins, and nothing at the end.
    pub async fn rewrap_tokens(
        &self,
        dataset: DatasetId,
        start_after: bytes::Bytes,
    ) -> Result<v1::RewrapTokensReply, Error> {
        let request = v1::RewrapTokensRequest {
            dataset_id: dataset.into(),
            claim: None,
            start_after,
        };
        self.call(move |mut kms| {
            let request = request.clone();
            async move { Ok(kms.rewrap_tokens(request).await?.into_inner()) }
        })
        .await
    }

    /// Ends the versions of a key below one, approved by at least two operators other than the caller. Refused while
    /// the dataset's shard takes commits under them, or holds a token that needs one.
    pub async fn end_versions(
        &self,
        dataset: DatasetId,
        below_version: u32,
        approvers: &[LocalIdentity],
    ) -> Result<v1::KeyInfo, Error> {
        let mut request = v1::EndKeyVersionsRequest {
            dataset_id: dataset.into(),
            claim: None,
            request_id: random_id()?,
            below_version,
            single_use_id: random_id()?,
            approvals: Vec::new(),
        };
        let hash = request_hash("EndKeyVersions", &request);
        let id = request.single_use_id.clone();
        request.approvals = approvers
            .iter()
            .map(|who| approve(who, hash, id.clone()))
            .collect();
        let call = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move { Ok(kms.end_key_versions(request).await?.into_inner()) }
        };
        self.pool.change(GroupId::KMS, &self.tuning, call).await
    }

    /// Rotates, disables or enables a dataset's key, marks it compromised, or cancels its destruction.
    pub async fn change_key(
        &self,
        dataset: DatasetId,
        change: KeyChange,
    ) -> Result<v1::KeyInfo, Error> {
        let request = v1::KeyChangeRequest {
            dataset_id: dataset.into(),
            claim: None,
            request_id: random_id()?,
        };
        let call = |_, channel| {
            let (mut kms, request) = (KmsClient::new(channel), request.clone());
            async move {
                let reply = match change {
                    KeyChange::Rotate => kms.rotate_key(request).await?,
                    KeyChange::Disable => kms.disable_key(request).await?,
                    KeyChange::Enable => kms.enable_key(request).await?,
                    KeyChange::Compromise => kms.mark_key_compromised(request).await?,
                    KeyChange::CancelDestruction => kms.cancel_key_destruction(request).await?,
                    KeyChange::RetireVersions => kms.retire_key_versions(request).await?,
                };
                Ok(reply.into_inner())
            }
        };
        self.pool.change(GroupId::KMS, &self.tuning, call).await
    }

    /// The lease this process seals a dataset's objects with; asked for when there is none or it runs out.
    pub(crate) async fn seal_lease(
        &self,
        (dataset, epoch): (DatasetId, u64),
        acting: &Acting,
    ) -> Result<Arc<SealLease>, Error> {
        let held = (dataset, acting.clone());
        let mut leases = self.leases.lock().await;
        let usable = |lease: &&Arc<SealLease>| lease.fresh(now()) && lease.is_of(epoch);
        if let Some(lease) = leases.get(&held).filter(usable) {
            return Ok(lease.clone());
        }
        let asked = (acting.claim(), epoch);
        let lease = SealLease::request(self, dataset, asked, LEASE_SECONDS).await?;
        let lease = Arc::new(lease);
        if leases.len() >= LEASES_MAX {
            leases.retain(|_, lease| lease.fresh(now()));
        }
        if leases.len() >= LEASES_MAX {
            leases.clear();
        }
        leases.insert(held, lease.clone());
        Ok(lease)
    }

    /// Forgets a lease the shard no longer takes.
    pub(crate) async fn drop_lease(&self, dataset: DatasetId, acting: &Acting, lease: &SealLease) {
        let held = (dataset, acting.clone());
        let mut leases = self.leases.lock().await;
        if leases
            .get(&held)
            .is_some_and(|held| held.id() == lease.id())
        {
            leases.remove(&held);
        }
    }

    /// The keys that seal and open a dataset's metadata.
    pub(crate) async fn metadata_keys(
        &self,
        dataset: DatasetId,
        needs: Option<u32>,
        purpose: &'static str,
        acting: &Acting,
    ) -> Result<Arc<MetadataKeys>, Error> {
        let name = (dataset, acting.clone());
        let mut held = self.metadata.lock().await;
        let usable = |keys: &MetadataKeys| keys.fresh(now()) && needs.is_none_or(|v| keys.has(v));
        if let Some(keys) = held.get(&name).filter(|keys| usable(keys)) {
            return Ok(keys.clone());
        }
        let claim = v1::Claim {
            purpose: acting.purpose(purpose).to_owned(),
            ..acting.claim()
        };
        let keys = MetadataKeys::request(self, dataset, claim, LEASE_SECONDS).await?;
        let keys = Arc::new(keys);
        if held.len() >= LEASES_MAX {
            held.retain(|_, keys| keys.fresh(now()));
        }
        if held.len() >= LEASES_MAX {
            held.clear();
        }
        held.insert(name, keys.clone());
        Ok(keys)
    }

    /// The log's size and root hash.
    pub async fn tree_head(&self) -> Result<v1::TreeHeadReply, Error> {
        self.call(
            |mut kms| async move { Ok(kms.tree_head(v1::TreeHeadRequest {}).await?.into_inner()) },
        )
        .await
    }

    /// The log from a leaf on.
    pub fn leaves(&self, start: u64, with_openings: bool) -> LeafReader<'_> {
        LeafReader {
            keys: self,
            next: start,
            with_openings,
        }
    }

    /// A KMS replica's control channel, for operators.
    pub fn replica_channel(&self, id: NodeId) -> Result<Channel, Error> {
        let member = self.pool.member(id).ok_or(Error::Caller {
            reason: "no-such-member".to_owned(),
            message: format!("no kms replica {id} is enrolled"),
        })?;
        self.pool.channel(&member, Lane::Control, 0)
    }
}

/// What can be done to a key besides using it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChange {
    /// A new version; older ones go on opening.
    Rotate,
    /// No opens and no leases.
    Disable,
    /// Opens and leases again.
    Enable,
    /// No opens and no leases, and no way back to enabled.
    Compromise,
    /// Back to what the key was before its destruction was scheduled.
    CancelDestruction,
    /// The dataset's shard takes no commit under versions older than the newest.
    RetireVersions,
}

impl LeafReader<'_> {
    /// The next leaves; empty at the end of the log.
    pub async fn page(&mut self) -> Result<Vec<v1::LeafEntry>, Error> {
        let request = v1::ReadLeavesRequest {
            start: self.next,
            limit: LEAVES_PAGE,
            with_openings: self.with_openings,
        };
        let reply = self
            .keys
            .call(move |mut kms| {
                let request = request;
                async move { Ok(kms.read_leaves(request).await?.into_inner()) }
            })
            .await?;
        self.next += reply.leaves.len() as u64;
        Ok(reply.leaves)
    }
}

/// Wall-clock time, to judge expiries stated by servers.
pub(crate) fn now() -> UnixMs {
    SystemClock.now()
}
