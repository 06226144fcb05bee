//! Channels to the other storage nodes of the region.
//!
//! Owns one lazy control channel a node, dialled again when its enrolled endpoint moves. Refuses anyone there who is
//! not the enrolled node of that id: the connector checks it in every handshake.

use std::collections::HashMap;

use parking_lot::Mutex;
use proto::ids::{NodeId, Role};
use tonic::transport::Channel;
use transport::{Connector, Enrolments, Expect, Lane, LeaderHint};

use crate::error::CallError;

/// Control channels by node.
pub(crate) struct NodePeers {
    connector: Connector,
    enrolments: Enrolments,
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

impl NodePeers {
    pub(crate) fn new(connector: Connector, enrolments: Enrolments) -> Self {
        Self {
            connector,
            enrolments,
            channels: Mutex::default(),
        }
    }

    /// A channel to `node`.
    pub(crate) fn channel(&self, node: NodeId) -> Result<Channel, CallError> {
        let enrolled = self
            .enrolments
            .by_node_id(Role::Node, node)
            .filter(|enrolled| !enrolled.endpoint.is_empty())
            .ok_or(CallError::NotEnrolled(node))?;
        let mut channels = self.channels.lock();
        if let Some((endpoint, channel)) = channels.get(&node)
            && *endpoint == enrolled.endpoint
        {
            return Ok(channel.clone());
        }
        let channel = self
            .connector
            .channel_lazy(
                &enrolled.endpoint,
                Expect::Identity(enrolled.identity),
                Lane::Control,
            )
            .map_err(|_| CallError::NotEnrolled(node))?;
        // Bounded by the enrolments: those withdrawn are forgotten with the next new one.
        channels.retain(|known, _| self.enrolments.by_node_id(Role::Node, *known).is_some());
        channels.insert(node, (enrolled.endpoint, channel.clone()));
        Ok(channel)
    }

    /// Who leads, in the form that answers carry.
    pub(crate) fn hint(&self, leader: Option<NodeId>) -> Option<LeaderHint> {
        let id = leader?;
        let enrolled = self.enrolments.by_node_id(Role::Node, id);
        let endpoint = enrolled
            .map(|enrolled| enrolled.endpoint)
            .unwrap_or_default();
        Some(LeaderHint { id, endpoint })
    }
}
