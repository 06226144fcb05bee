//! Getting a missing block from another replica.
//!
//! Owns the call and its time-outs. Refuses bytes that do not hash to the digest the state names, from whomever they
//! come, and any peer that is not the enrolled node it asked.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use proto::ids::{GroupId, NodeId, Role};
use proto::v1::ReadBlockRequest;
use proto::v1::blocks_client::BlocksClient;
use tonic::transport::Channel;
use transport::{Connector, Enrolments, Expect, Lane};

use crate::blocks::{BlockDraft, BlockHead, DraftError, NewBlock, Room};

/// How long a peer may take for its next piece.
const PIECE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole block may take: a peer that drips holds memory that uploads need.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a peer did not give a block.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It has no enrolment with an endpoint.
    #[error("node {0} is not enrolled with an endpoint")]
    NotEnrolled(NodeId),
    /// The channel could not be made.
    #[error("no channel to node {node}")]
    Channel {
        /// To whom.
        node: NodeId,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// It answered with an error: not held there either, damaged, refused.
    #[error("node {node} did not give the block")]
    Refused {
        /// Who.
        node: NodeId,
        /// What it said.
        #[source]
        source: Box<tonic::Status>,
    },
    /// It stopped sending.
    #[error("node {0} stalled")]
    Stalled(NodeId),
    /// It sent something else.
    #[error("node {node} sent another block")]
    Draft {
        /// Who.
        node: NodeId,
        /// What differs.
        #[source]
        source: DraftError,
    },
}

/// Where blocks come from.
pub trait Peers: Send + Sync + 'static {
    /// Reads one block from one peer. The answer's bytes match `head`.
    fn fetch(
        &self,
        node: NodeId,
        shard: GroupId,
        head: BlockHead,
        room: Room,
    ) -> BoxFuture<'_, Result<NewBlock, FetchError>>;
}

/// The enrolled nodes of the region, over mTLS.
pub struct RegionPeers {
    connector: Connector,
    enrolments: Enrolments,
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

impl RegionPeers {
    /// Peers as `enrolments` names them, reached by `connector`.
    pub fn new(connector: Connector, enrolments: Enrolments) -> Self {
        Self {
            connector,
            enrolments,
            channels: Mutex::default(),
        }
    }

    fn channel(&self, node: NodeId) -> Result<Channel, FetchError> {
        let enrolled = self.enrolments.by_node_id(Role::Node, node);
        let endpoint = enrolled
            .map(|e| e.endpoint)
            .filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.ok_or(FetchError::NotEnrolled(node))?;
        let mut channels = self.channels.lock();
        // Nodes that are no longer enrolled are forgotten with the next new one: bounded by the enrolments.
        if let Some((known, channel)) = channels.get(&node)
            && *known == endpoint
        {
            return Ok(channel.clone());
        }
        let expect = Expect::Node(Role::Node, node);
        let channel = self
            .connector
            .channel_lazy(&endpoint, expect, Lane::Data)
            .map_err(|source| FetchError::Channel { node, source })?;
        channels.retain(|known, _| self.enrolments.by_node_id(Role::Node, *known).is_some());
        channels.insert(node, (endpoint, channel.clone()));
        Ok(channel)
    }
}

impl Peers for RegionPeers {
    fn fetch(
        &self,
        node: NodeId,
        shard: GroupId,
        head: BlockHead,
        room: Room,
    ) -> BoxFuture<'_, Result<NewBlock, FetchError>> {
        let fetch = async move {
            let mut client = BlocksClient::new(self.channel(node)?);
            let refused = |status| FetchError::Refused {
                node,
                source: Box::new(status),
            };
            let draft_error = |source| FetchError::Draft { node, source };
            let request = ReadBlockRequest {
                shard: shard.0,
                dataset_id: head.owner.dataset.into(),
                version_id: head.key.version.into(),
                number: head.key.number.0,
                offset: 0,
                length: 0,
            };
            let stalled = |_| FetchError::Stalled(node);
            let answer = tokio::time::timeout(PIECE_TIMEOUT, client.read(request)).await;
            let mut pieces = answer.map_err(stalled)?.map_err(refused)?.into_inner();
            let mut draft = BlockDraft::new(head, room).map_err(draft_error)?;
            while !draft.complete() {
                let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await;
                let Some(piece) = piece.map_err(stalled)?.map_err(refused)? else {
                    break;
                };
                draft.push(piece.data).map_err(draft_error)?;
            }
            draft.finish().map_err(draft_error)
        };
        Box::pin(async move {
            let fetched = tokio::time::timeout(BLOCK_TIMEOUT, fetch).await;
            fetched.map_err(|_| FetchError::Stalled(node))?
        })
    }
}
