//! The gRPC service that answers peers.
//!
//! Owns the step from an authenticated connection to a [`Caller`]. Refuses a request without one: the acceptor has
//! already refused whoever is not enrolled, and each request asks again whether the enrolment stands.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use proto::v1::raft_peer_server::{RaftPeer, RaftPeerServer};
use tonic::{Request, Response, Status, Streaming};
use transport::fault::status_of;

use super::handler::{Caller, PeerHandler, Refusal};
use super::link::{Inbound, LinkError, LinkFault};
use super::tonic_link::MESSAGE_BYTES_MAX;

/// Answers peers; see [`RaftService::server`].
#[derive(Clone)]
pub struct RaftService(pub(crate) Arc<PeerHandler>);

impl RaftService {
    /// The service, to be added to a server whose connections come from `transport`'s acceptor.
    pub fn server(&self) -> RaftPeerServer<Self> {
        RaftPeerServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

fn status(refusal: Refusal) -> Status {
    tracing::debug!(%refusal, "peer refused");
    status_of(&refusal)
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let peer = transport::peer(request)?;
    match peer.node_id {
        Some(node) => Ok(Caller {
            node,
            identity: peer.identity,
        }),
        None => Err(Status::permission_denied(
            "the caller is no member of a group",
        )),
    }
}

fn inbound<T: Send + 'static>(stream: Streaming<T>) -> Inbound<T> {
    stream
        .map(|item| item.map_err(|s| LinkError::new(LinkFault::Broken, s.message().to_owned())))
        .boxed()
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

fn outbound<T: 'static>(answers: BoxStream<'static, Result<T, Refusal>>) -> Response<Answers<T>> {
    Response::new(answers.map(|item| item.map_err(status)).boxed())
}

#[tonic::async_trait]
impl RaftPeer for RaftService {
    type AppendStream = Answers<v1::RaftAppended>;
    type AttendStream = Answers<v1::RaftBeat>;

    async fn append(
        &self,
        request: Request<Streaming<v1::RaftAppend>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let caller = caller(&request)?;
        let requests = inbound(request.into_inner());
        Ok(outbound(Arc::clone(&self.0).append(caller, requests)))
    }

    async fn vote(
        &self,
        request: Request<v1::RaftBallot>,
    ) -> Result<Response<v1::RaftBallotResult>, Status> {
        let caller = caller(&request)?;
        self.0
            .vote(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn transfer(
        &self,
        request: Request<v1::RaftTransfer>,
    ) -> Result<Response<v1::RaftTransferred>, Status> {
        let caller = caller(&request)?;
        self.0
            .transfer(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<v1::RaftSnapshotFrame>>,
    ) -> Result<Response<v1::RaftSnapshotResult>, Status> {
        let caller = caller(&request)?;
        let frames = inbound(request.into_inner());
        self.0
            .snapshot(&caller, frames)
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn read_index(
        &self,
        request: Request<v1::RaftReadIndex>,
    ) -> Result<Response<v1::RaftReadIndexResult>, Status> {
        let caller = caller(&request)?;
        self.0
            .read_index(&caller, request.into_inner())
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn attend(
        &self,
        request: Request<v1::RaftAttend>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let caller = caller(&request)?;
        self.0
            .attend(&caller, request.get_ref())
            .map(outbound)
            .map_err(status)
    }

    async fn survey(
        &self,
        request: Request<v1::RaftSurvey>,
    ) -> Result<Response<v1::RaftSurveyResult>, Status> {
        let caller = caller(&request)?;
        self.0
            .survey(&caller, request.get_ref())
            .map(Response::new)
            .map_err(status)
    }
}
