//! Links over gRPC on mutually authenticated TLS.
//!
//! Owns one channel a peer and lane, dialled at first use and again when the peer's endpoint moves. Refuses a server
//! that is not the enrolled member of the wanted id: the connector checks that in every handshake.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use proto::ids::{NodeId, Role};
use proto::v1;
use proto::v1::raft_peer_client::RaftPeerClient;
use tonic::transport::Channel;
use transport::{Connector, Enrolments, Expect};

use super::link::{Dialer, Inbound, Lane, Link, LinkError, LinkFault, LinkResult, Outbound};
use crate::raft::types::Member;

/// Bytes of a message a peer may send: an append of 1 MiB of payload and its framing fit with room to spare.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Dials the members of one role by the region's enrolment set.
pub struct TonicDialer {
    connector: Connector,
    enrolments: Enrolments,
    role: Role,
    me: NodeId,
    channels: Mutex<HashMap<(NodeId, Lane), (String, Channel)>>,
}

impl TonicDialer {
    /// A dialer for the member `me` of `role`.
    pub fn new(connector: Connector, enrolments: Enrolments, role: Role, me: NodeId) -> Self {
        Self {
            connector,
            enrolments,
            role,
            me,
            channels: Mutex::default(),
        }
    }
}

impl Dialer for TonicDialer {
    fn link(&self, to: NodeId, member: &Member, lane: Lane) -> LinkResult<Arc<dyn Link>> {
        let enrolled = self
            .enrolments
            .by_node_id(self.role, to)
            .ok_or_else(|| LinkError::new(LinkFault::Unreachable, "peer is not enrolled"))?;
        let endpoint = if enrolled.endpoint.is_empty() {
            member.endpoint.clone()
        } else {
            enrolled.endpoint
        };
        let mut channels = self.channels.lock();
        let channel = match channels.get(&(to, lane)) {
            Some((known, channel)) if *known == endpoint => channel.clone(),
            _ => {
                let expect = Expect::Node(self.role, to);
                let made = self
                    .connector
                    .channel_lazy(&endpoint, expect, lane.into())
                    .map_err(|e| LinkError::new(LinkFault::Unreachable, e.to_string()))?;
                channels.insert((to, lane), (endpoint, made.clone()));
                made
            }
        };
        let client = RaftPeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Arc::new(TonicLink(client)))
    }

    fn own(&self) -> Member {
        self.enrolments
            .by_node_id(self.role, self.me)
            .map(record)
            .unwrap_or_default()
    }

    fn peers(&self) -> Vec<(NodeId, Member)> {
        let members = self.enrolments.members(self.role).into_iter();
        members
            .filter_map(|enrolled| Some((enrolled.node_id?, record(enrolled))))
            .filter(|(node, _)| *node != self.me)
            .collect()
    }
}

fn record(enrolled: transport::enrolment::Enrolled) -> Member {
    Member {
        identity: enrolled.identity.to_string(),
        endpoint: enrolled.endpoint,
        jurisdiction: enrolled.jurisdiction.map(String::from).unwrap_or_default(),
    }
}

impl From<Lane> for transport::Lane {
    fn from(lane: Lane) -> Self {
        match lane {
            Lane::Heartbeat => Self::Heartbeat,
            Lane::Append => Self::Append,
            Lane::Snapshot => Self::Snapshot,
        }
    }
}

struct TonicLink(RaftPeerClient<Channel>);

/// A stream with a name: the compiler cannot see that a future holding a boxed one is `Send`.
struct Named<T>(Outbound<T>);

impl<T> Stream for Named<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(cx)
    }
}

fn error(status: &tonic::Status) -> LinkError {
    let fault = match status.code() {
        tonic::Code::Unavailable => LinkFault::Unreachable,
        tonic::Code::DeadlineExceeded => LinkFault::TimedOut,
        _ if transport::fault::reason(status).is_some() => LinkFault::Refused,
        _ => LinkFault::Broken,
    };
    LinkError::new(fault, format!("{:?}: {}", status.code(), status.message()))
}

macro_rules! unary {
    ($name:ident, $request:ty, $answer:ty) => {
        fn $name(&self, request: $request) -> BoxFuture<'static, LinkResult<$answer>> {
            let mut client = self.0.clone();
            async move {
                let answer = client.$name(request).await.map_err(|s| error(&s))?;
                Ok(answer.into_inner())
            }
            .boxed()
        }
    };
}

impl Link for TonicLink {
    fn append(
        &self,
        requests: Outbound<v1::RaftAppend>,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftAppended>>> {
        let mut client = self.0.clone();
        async move {
            let answer = client
                .append(Named(requests))
                .await
                .map_err(|s| error(&s))?;
            Ok(answer
                .into_inner()
                .map(|item| item.map_err(|s| error(&s)))
                .boxed())
        }
        .boxed()
    }

    fn attend(
        &self,
        request: v1::RaftAttend,
    ) -> BoxFuture<'static, LinkResult<Inbound<v1::RaftBeat>>> {
        let mut client = self.0.clone();
        async move {
            let answer = client.attend(request).await.map_err(|s| error(&s))?;
            Ok(answer
                .into_inner()
                .map(|item| item.map_err(|s| error(&s)))
                .boxed())
        }
        .boxed()
    }

    fn snapshot(
        &self,
        frames: Outbound<v1::RaftSnapshotFrame>,
    ) -> BoxFuture<'static, LinkResult<v1::RaftSnapshotResult>> {
        let mut client = self.0.clone();
        async move {
            let answer = client
                .snapshot(Named(frames))
                .await
                .map_err(|s| error(&s))?;
            Ok(answer.into_inner())
        }
        .boxed()
    }

    unary!(vote, v1::RaftBallot, v1::RaftBallotResult);
    unary!(transfer, v1::RaftTransfer, v1::RaftTransferred);
    unary!(read_index, v1::RaftReadIndex, v1::RaftReadIndexResult);
    unary!(survey, v1::RaftSurvey, v1::RaftSurveyResult);
}
