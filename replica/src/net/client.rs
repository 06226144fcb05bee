//! The engine's network: one object a peer and purpose, on [`Link`]s.
//!
//! Owns the streams: replication is pipelined on one stream a session, heartbeats share one stream for as long as
//! it works. Refuses to wait for a peer that takes requests and answers none: the engine sets no limit on a stream,
//! so a half-open peer would wedge replication for ever.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RPCTypes, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::raft::{TransferLeaderRequest, TransferLeaderResponse};
use parking_lot::Mutex;
use proto::ids::{GroupId, NodeId};
use proto::v1;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::link::{Dialer, Inbound, Lane, Link, LinkError, LinkFault, LinkResult};
use super::piggyback::piggyback;
use super::seen::SeenTable;
use super::snapshot_send::{self, Pace};
use crate::raft::codec;
use crate::raft::snapshot::SnapshotData;
use crate::raft::types::{Config, Member, Vote};

type Rpc<T> = Result<T, RPCError<Config>>;
type AppendResult = Rpc<StreamAppendResult<Config>>;

/// What every network object of one group shares.
pub(crate) struct Context {
    pub(crate) cluster: [u8; 16],
    pub(crate) group: GroupId,
    pub(crate) me: NodeId,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) seen: Arc<SeenTable>,
    pub(crate) pace: Arc<Pace>,
    /// How long a peer may take to answer anything.
    pub(crate) response_max: Duration,
    /// How long a commit waits for entries to go with.
    pub(crate) commit_wait: Duration,
}

impl Context {
    /// The header of a message to `to`.
    pub(crate) fn header(&self, to: NodeId) -> v1::RaftHeader {
        v1::RaftHeader {
            cluster: self.cluster.to_vec().into(),
            group: self.group.0,
            from: self.me.0,
            to: to.0,
            seen: Some(self.seen.of(self.group, to).to_wire()),
        }
    }
}

/// Makes network objects for the engine.
pub(crate) struct NetworkFactory(pub(crate) Arc<Context>);

impl NetworkFactory {
    fn network(&self, target: u64, node: &Member, lane: Lane) -> Network {
        Network {
            context: Arc::clone(&self.0),
            to: NodeId(target),
            member: node.clone(),
            lane,
            beats: Mutex::new(None),
        }
    }
}

impl RaftNetworkFactory<Config> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Member) -> Network {
        self.network(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Network {
        self.network(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Network {
        self.network(target, node, Lane::Snapshot)
    }
}

/// One peer, for one purpose.
pub(crate) struct Network {
    context: Arc<Context>,
    to: NodeId,
    member: Member,
    lane: Lane,
    // The engine wants its networks `Sync`; nobody ever waits for this.
    beats: Mutex<Option<Beats>>,
}

/// A stream of heartbeats with no answer outstanding.
struct Beats {
    requests: mpsc::Sender<v1::RaftAppend>,
    answers: Inbound<v1::RaftAppended>,
}

impl Network {
    fn link(&self, lane: Lane) -> Rpc<Arc<dyn Link>> {
        self.context
            .dialer
            .link(self.to, &self.member, lane)
            .map_err(|e| self.rpc_error(&e, RPCTypes::AppendEntries))
    }

    fn rpc_error(&self, error: &LinkError, action: RPCTypes) -> RPCError<Config> {
        match error.fault {
            LinkFault::TimedOut => RPCError::Timeout(Timeout {
                action,
                id: self.context.me.0,
                target: self.to.0,
                timeout: self.context.response_max,
            }),
            // Refused counts as unreachable: asking again at once would be refused again.
            LinkFault::Unreachable | LinkFault::Refused => {
                RPCError::Unreachable(Unreachable::new(error))
            }
            LinkFault::Broken => RPCError::Network(NetworkError::new(error)),
        }
    }

    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: BoxFuture<'static, LinkResult<T>>,
    ) -> Rpc<T> {
        let result = match timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(LinkError::new(LinkFault::TimedOut, "no answer")),
        };
        result.map_err(|e| self.rpc_error(&e, action))
    }

    async fn ballot(
        &self,
        rpc: VoteRequest<Config>,
        pre: bool,
        option: &RPCOption,
    ) -> Rpc<VoteResponse<Config>> {
        let term = rpc.vote.leader_id.term;
        let ballot = v1::RaftBallot {
            header: Some(self.context.header(self.to)),
            vote: Some(codec::vote_to_wire(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(codec::log_id_to_wire),
            pre,
            transfer: rpc.leadership_transfer,
        };
        let limit = option.soft_ttl().min(self.context.response_max);
        let call = self.link(Lane::Heartbeat)?.vote(ballot);
        let answer = self.call(RPCTypes::Vote, limit, call).await?;
        let vote = self.decoded(codec::vote_from_wire(answer.vote))?;
        if answer.granted && !pre {
            // Granting makes the vote durable there.
            self.context
                .seen
                .note(self.context.group, self.to, term, None);
        }
        Ok(VoteResponse::new(
            vote,
            answer.last.map(codec::log_id_from_wire),
            answer.granted,
        ))
    }

    fn decoded<T>(&self, result: Result<T, codec::CodecError>) -> Rpc<T> {
        result.map_err(|e| RPCError::Network(NetworkError::new(&e)))
    }

    /// Sends one heartbeat on the standing stream, opening it where there is none.
    async fn beat<S>(&mut self, mut input: S) -> Rpc<BoxStream<'_, AppendResult>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + Send + Unpin + 'static,
    {
        let Some(request) = input.next().await else {
            return Ok(futures::stream::empty().boxed());
        };
        let term = request.vote.leader_id.term;
        let limit = self.context.response_max;
        // Taken out, and put back only with its answer read: a beat that is cancelled half way leaves an answer
        // behind that the next one would take for its own.
        let (mut beats, header) = match self.beats.get_mut().take() {
            Some(beats) => (beats, None),
            None => (self.open_beats().await?, Some(self.context.header(self.to))),
        };
        let message = append_message(request, header);
        if beats.requests.send(message).await.is_err() {
            let error = LinkError::new(LinkFault::Broken, "heartbeat stream closed");
            return Err(self.rpc_error(&error, RPCTypes::AppendEntries));
        }
        let answer = match timeout(limit, beats.answers.next()).await {
            Ok(Some(Ok(answer))) => answer,
            Ok(Some(Err(error))) => return Err(self.rpc_error(&error, RPCTypes::AppendEntries)),
            Ok(None) => {
                let error = LinkError::new(LinkFault::Broken, "heartbeat stream ended");
                return Err(self.rpc_error(&error, RPCTypes::AppendEntries));
            }
            Err(_) => {
                let error = LinkError::new(LinkFault::TimedOut, "heartbeat not answered");
                return Err(self.rpc_error(&error, RPCTypes::AppendEntries));
            }
        };
        let result = self.decoded(append_result(&self.context, self.to, term, answer))?;
        if result.is_ok() {
            *self.beats.get_mut() = Some(beats);
        }
        Ok(futures::stream::iter([Ok(result)]).boxed())
    }

    async fn open_beats(&self) -> Rpc<Beats> {
        let (requests, rx) = mpsc::channel(1);
        let outbound = tokio_stream::wrappers::ReceiverStream::new(rx).boxed();
        let call = self.link(self.lane)?.append(outbound);
        let answers = self
            .call(RPCTypes::AppendEntries, self.context.response_max, call)
            .await?;
        Ok(Beats { requests, answers })
    }

    /// Starts a replication session.
    async fn replicate<S>(&mut self, mut input: S) -> Rpc<BoxStream<'_, AppendResult>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + Send + Unpin + 'static,
    {
        // The engine waits inside its requests before it tries a peer again that was not reached. Dialled before the
        // first one, a peer that refuses at once would be dialled again at once, for as long as it is away.
        let Some(first) = input.next().await else {
            return Ok(futures::stream::empty().boxed());
        };
        let rest = piggyback(input.boxed(), self.context.commit_wait);
        let input = futures::stream::iter([first]).chain(rest);
        let flight = Arc::new(Mutex::new(Flight::default()));
        let mut header = Some(self.context.header(self.to));
        let outstanding = Arc::clone(&flight);
        let outbound = input.map(move |request| {
            outstanding.lock().sent(request.vote.leader_id.term);
            append_message(request, header.take())
        });
        let call = self.link(self.lane)?.append(outbound.boxed());
        let answers = self
            .call(RPCTypes::AppendEntries, self.context.response_max, call)
            .await?;
        let session = Session {
            network: self,
            flight,
            answers: Some(answers),
        };
        let stream = futures::stream::unfold(session, |mut session| async move {
            let result = session.next().await?;
            Some((result, session))
        });
        Ok(stream.boxed())
    }
}

/// Requests on a stream that have no answer yet.
#[derive(Default)]
struct Flight {
    /// Term and moment of each.
    sent: VecDeque<(u64, Option<Instant>)>,
}

impl Flight {
    fn sent(&mut self, term: u64) {
        // Only the oldest one's age matters; reading the clock for each would be the costliest part of sending.
        let at = if self.sent.is_empty() {
            Some(Instant::now())
        } else {
            None
        };
        self.sent.push_back((term, at));
    }

    fn answered(&mut self) -> Option<u64> {
        let (term, _) = self.sent.pop_front()?;
        if let Some((_, at)) = self.sent.front_mut() {
            *at = Some(Instant::now());
        }
        Some(term)
    }

    fn waiting_since(&self) -> Option<Instant> {
        self.sent.front().and_then(|(_, at)| *at)
    }
}

struct Session<'s> {
    network: &'s Network,
    flight: Arc<Mutex<Flight>>,
    answers: Option<Inbound<v1::RaftAppended>>,
}

impl Session<'_> {
    async fn next(&mut self) -> Option<AppendResult> {
        let context = &self.network.context;
        let answers = self.answers.as_mut()?;
        let answer = loop {
            match timeout(context.response_max, answers.next()).await {
                Ok(answer) => break answer,
                Err(_) => {
                    let stuck = self
                        .flight
                        .lock()
                        .waiting_since()
                        .is_some_and(|since| since.elapsed() >= context.response_max);
                    if stuck {
                        break Some(Err(LinkError::new(
                            LinkFault::TimedOut,
                            "append not answered",
                        )));
                    }
                }
            }
        };
        let result = match answer? {
            Ok(answer) => {
                let term = self.flight.lock().answered().unwrap_or_default();
                self.network
                    .decoded(append_result(context, self.network.to, term, answer))
            }
            Err(error) => Err(self.network.rpc_error(&error, RPCTypes::AppendEntries)),
        };
        if !matches!(result, Ok(Ok(_))) {
            self.answers = None;
        }
        Some(result)
    }
}

fn append_message(
    request: AppendEntriesRequest<Config>,
    header: Option<v1::RaftHeader>,
) -> v1::RaftAppend {
    v1::RaftAppend {
        header,
        vote: Some(codec::vote_to_wire(&request.vote)),
        prev: request.prev_log_id.as_ref().map(codec::log_id_to_wire),
        commit: request.leader_commit.as_ref().map(codec::log_id_to_wire),
        entries: request
            .entries
            .into_iter()
            .map(codec::entry_to_wire)
            .collect(),
    }
}

fn append_result(
    context: &Context,
    from: NodeId,
    term: u64,
    answer: v1::RaftAppended,
) -> Result<StreamAppendResult<Config>, codec::CodecError> {
    use v1::raft_appended::Outcome;
    let at = answer.log_id.map(codec::log_id_from_wire);
    match answer.outcome() {
        Outcome::Matched => {
            context.seen.note(context.group, from, term, at);
            Ok(Ok(at))
        }
        Outcome::Conflict => {
            let at = at.ok_or(codec::CodecError::Malformed("append answer"))?;
            Ok(Err(StreamAppendError::Conflict(at)))
        }
        Outcome::HigherVote => {
            let vote: Vote = codec::vote_from_wire(answer.vote)?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        Outcome::Unspecified => Err(codec::CodecError::Malformed("append answer")),
    }
}

impl NetBackoff<Config> for Network {
    // A member that restarts is wanted back soon; one that stays away costs five attempts a second at first and
    // two later.
    fn backoff(&self) -> Option<Backoff> {
        let steps = [50, 100, 200].into_iter().chain(std::iter::repeat(500));
        Some(Backoff::new(steps.map(Duration::from_millis)))
    }
}

impl NetStreamAppend<Config> for Network {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, AppendResult>>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        match self.lane {
            Lane::Heartbeat => Box::pin(self.beat(input)),
            Lane::Append | Lane::Snapshot => Box::pin(self.replicate(input)),
        }
    }
}

impl NetVote<Config> for Network {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Config>> {
        self.ballot(rpc, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Config>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Config>> {
        self.ballot(rpc, true, &option).await
    }
}

impl NetTransferLeader<Config> for Network {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Config>> {
        let transfer = v1::RaftTransfer {
            header: Some(self.context.header(self.to)),
            leader: Some(codec::vote_to_wire(req.from_leader())),
            to_node: *req.to_node_id(),
            last: req.last_log_id().map(codec::log_id_to_wire),
        };
        let call = self.link(Lane::Heartbeat)?.transfer(transfer);
        let answer = self
            .call(RPCTypes::TransferLeader, option.soft_ttl(), call)
            .await?;
        if !answer.accepted {
            tracing::info!(group = %self.context.group, to = %self.to, "peer declined the leadership");
        }
        Ok(Ok(()))
    }
}

impl NetSnapshot<Config> for Network {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Config>,
        snapshot: SnapshotOf<Config, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let SnapshotData::Files(files) = snapshot.snapshot else {
            let error = LinkError::new(LinkFault::Broken, "the snapshot has no files");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let link = self.link(Lane::Snapshot)?;
        let begin = v1::RaftSnapshotBegin {
            header: Some(self.context.header(self.to)),
            vote: Some(codec::vote_to_wire(&vote)),
            applied: Some(
                codec::AppliedState {
                    last: snapshot.meta.last_log_id,
                    membership: snapshot.meta.last_membership,
                }
                .to_wire(),
            ),
            files: snapshot_send::file_list(files.checkpoint()),
        };
        let sending = snapshot_send::send(link, begin, files, Arc::clone(&self.context.pace));
        let answer = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = sending => answer,
        };
        let answer = answer.map_err(|e| self.rpc_error(&e, RPCTypes::InstallSnapshot))?;
        let answered = self.decoded(codec::vote_from_wire(answer.vote))?;
        // Under our own vote the answer means that the snapshot is installed, durably.
        if answered.leader_id == vote.leader_id
            && let Some(last) = snapshot.meta.last_log_id
        {
            let term = vote.leader_id.term;
            self.context
                .seen
                .note(self.context.group, self.to, term, Some(last));
        }
        Ok(SnapshotResponse::new(answered))
    }
}
