//! Our KMS as the SDK uses it: one connection, one session, one lease, and one stream of opens; one by one, many at
//! once, in batches.
//!
//! Owns one caller. Every answer is looked at: an open without its key counts for nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use client::ids::NodeId;
use envelope::{Encapsulated, SessionInfo, SessionOffer};
use local::{Kind, Local};
use proto::ids::{Identity, Role};
use proto::transcript;
use proto::v1;
use proto::v1::kms_client::KmsClient;
use rand::RngCore as _;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use transport::{Connector, Expect, KeyExchange, Lane, LocalIdentity, RegionTrust};

use super::super::measure::Latency;

/// Opens of one stream that are not answered yet, as many as a replica serves at once.
const PIPELINED: usize = 128;

/// One connection to the leader, and the stream on it.
pub(super) struct Caller {
    kms: KmsClient<Channel>,
    requests: mpsc::Sender<v1::OpenRequest>,
    replies: tonic::Streaming<v1::OpenReply>,
    session: Bytes,
    token: Bytes,
    dataset: Bytes,
    /// Whether each request is of a case of its own, and so has a leaf of its own: opens of one claim share one.
    own_cases: bool,
}

pub(super) fn random<const N: usize>() -> Bytes {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    Bytes::copy_from_slice(&bytes)
}

/// The leading replica, as the others see it: its place among the services and its process.
pub(super) async fn leader(local: &Local) -> Result<(String, Identity, u32)> {
    let region = local.federation.region("ch-zrh")?;
    let operator = local::ceremony::connect(region, local::files::OPERATORS[0]).await?;
    let first = region.living(Kind::Kms).next().context("a replica")?;
    let status = operator.kms_status(NodeId(first.node_id)).await?;
    let mut replicas = region.living(Kind::Kms);
    let leader = replicas.find(|replica| replica.node_id == status.leader);
    let leader = leader.context("a leader")?;
    Ok((
        leader.endpoint.clone(),
        leader.identity.parse()?,
        leader.pid,
    ))
}

impl Caller {
    /// Connects, opens a session and takes a lease of the dataset.
    pub(super) async fn new(local: &Local, dataset: &Bytes) -> Result<Self> {
        let (endpoint, identity, _) = leader(local).await?;
        let context = local.federation.region("ch-zrh")?.context("app-1");
        let trust = RegionTrust::load(context.region.clone(), &context.ca)?;
        let own = LocalIdentity::load(&context.certificate, &context.key)?;
        ensure!(own.identity().role() == Role::Client, "app-1 is a client");
        let connector = Connector::pinned(own.clone(), trust, KeyExchange::HybridOnly);
        let expect = Expect::Identity(identity.clone());
        let mut kms = KmsClient::new(connector.channel_lazy(&endpoint, expect, Lane::Control)?);
        let offer = SessionOffer::generate()?;
        let public = offer.public().as_bytes().to_vec();
        let replica = identity.to_string();
        let signed = transcript::session_offer(&public, &replica);
        let request = v1::OpenSessionRequest {
            signature: own
                .sign(transcript::LABEL_SESSION_OFFER, &signed)
                .to_vec()
                .into(),
            offer: public.clone().into(),
            replica: replica.clone(),
        };
        let opened = kms.open_session(request).await?.into_inner();
        let key = own.public_key();
        let region = context.region.as_str();
        let parts = transcript::session_info(region, key.as_spki(), &replica, &public);
        let encapsulated = Encapsulated::try_from(opened.encapsulated.as_ref())
            .map_err(|_| anyhow::anyhow!("no encapsulated key"))?;
        offer
            .accept(&encapsulated, &SessionInfo::of(&parts))
            .map_err(|_| anyhow::anyhow!("the session key does not open"))?;
        let lease = v1::IssueLeaseRequest {
            session_id: opened.session_id.clone(),
            dataset_id: dataset.clone(),
            request_id: random::<16>(),
            ..Default::default()
        };
        let lease = kms.issue_lease(lease).await?.into_inner();
        let (requests, queued) = mpsc::channel(PIPELINED);
        let queued = futures::stream::unfold(queued, |mut queued| async move {
            Some((queued.recv().await?, queued))
        });
        let replies = kms.open_stream(queued).await?.into_inner();
        Ok(Self {
            kms,
            requests,
            replies,
            session: opened.session_id,
            token: lease.token,
            dataset: dataset.clone(),
            own_cases: false,
        })
    }

    /// Each of its requests has a leaf that it shares with no other.
    pub(super) fn with_own_cases(self) -> Self {
        Self {
            own_cases: true,
            ..self
        }
    }

    fn request(&self, items: usize) -> v1::OpenRequest {
        let item = |place: usize| v1::OpenItem {
            token: match place {
                0 => self.token.clone(),
                _ => Bytes::new(),
            },
            version_id: random::<16>(),
            dek_salt: random::<32>(),
            name_commitment: random::<32>(),
            bytes: 4096,
        };
        let request_id = random::<16>();
        let claim = self.own_cases.then(|| v1::Claim {
            case_id: hex::encode(&request_id),
            ..Default::default()
        });
        v1::OpenRequest {
            request_id,
            claim,
            session_id: self.session.clone(),
            dataset_id: self.dataset.clone(),
            items: (0..items).map(item).collect(),
            ..Default::default()
        }
    }

    /// Opens so many items under one leaf; answers its index.
    pub(super) async fn open(&mut self, items: usize) -> Result<u64> {
        let request = self.request(items);
        let asked = request.request_id.clone();
        self.send(request).await?;
        let reply = self.reply(items).await?;
        ensure!(reply.request_id == asked, "an unasked reply");
        Ok(reply.leaf_index)
    }

    async fn send(&self, request: v1::OpenRequest) -> Result<()> {
        let sent = self.requests.send(request).await;
        sent.map_err(|_| anyhow::anyhow!("the stream has ended"))
    }

    async fn reply(&mut self, items: usize) -> Result<v1::OpenReply> {
        let reply = self.replies.message().await?;
        let reply = reply.context("the stream has ended")?;
        opened(&reply, items)?;
        Ok(reply)
    }

    /// From an open's start until somebody can keep proof that it is on record.
    pub(super) async fn receipt_time(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let leaf_index = self.open(1).await?;
        let request = v1::ReceiptRequest { leaf_index };
        let receipt = self.kms.receipt(request).await?.into_inner();
        ensure!(!receipt.proof.is_empty(), "an empty receipt");
        Ok(began.elapsed())
    }

    /// Opens one by one until `until`, [`PIPELINED`] of them unanswered at any time.
    pub(super) async fn pipelined(&mut self, until: Instant) -> Result<Latency> {
        let mut began = HashMap::with_capacity(PIPELINED);
        let mut latency = Latency::new();
        while Instant::now() < until {
            while began.len() < PIPELINED {
                let request = self.request(1);
                began.insert(request.request_id.clone(), Instant::now());
                self.send(request).await?;
            }
            let reply = self.reply(1).await?;
            let sent = began
                .remove(&reply.request_id)
                .context("an unasked reply")?;
            latency.record(sent.elapsed());
        }
        Ok(latency)
    }
}

fn opened(reply: &v1::OpenReply, items: usize) -> Result<()> {
    if let Some(error) = &reply.error {
        anyhow::bail!("{}: {}", error.reason, error.message);
    }
    let whole = reply.keys.iter().filter(|key| !key.sealed_dek.is_empty());
    ensure!(whole.count() == items, "an open without its keys");
    Ok(())
}
