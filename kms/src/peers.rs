//! Channels to the other KMS replicas.
//!
//! Owns one lazy channel a member, dialled again when its enrolled endpoint moves. Refuses anyone there who is not
//! the enrolled member of that id: the connector checks it in every handshake.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::{NodeId, Role};
use proto::v1::kms_client::KmsClient;
use proto::v1::kms_peer_client::KmsPeerClient;
use tonic::transport::Channel;
use transport::{Connector, Enrolments, Expect, Lane};

/// How long one call to a peer may take.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(5);

/// A peer that cannot be called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PeerUnreachable {
    /// Not enrolled as a KMS replica.
    #[error("member {0} is not enrolled as a KMS replica")]
    NotEnrolled(NodeId),
    /// Its enrolment states no endpoint that can be dialled.
    #[error("member {0} has no endpoint that can be dialled")]
    Endpoint(NodeId),
}

/// Channels by member.
pub(crate) struct Peers {
    connector: Connector,
    enrolments: Enrolments,
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

impl Peers {
    pub(crate) fn new(connector: Connector, enrolments: Enrolments) -> Self {
        Self {
            connector,
            enrolments,
            channels: Mutex::default(),
        }
    }

    /// The replicas' service of the member `id`.
    pub(crate) fn peer(&self, id: NodeId) -> Result<KmsPeerClient<Channel>, PeerUnreachable> {
        self.channel(id).map(KmsPeerClient::new)
    }

    /// The public service of the member `id`.
    pub(crate) fn kms(&self, id: NodeId) -> Result<KmsClient<Channel>, PeerUnreachable> {
        self.channel(id).map(KmsClient::new)
    }

    fn channel(&self, id: NodeId) -> Result<Channel, PeerUnreachable> {
        let enrolled = self
            .enrolments
            .by_node_id(Role::Kms, id)
            .ok_or(PeerUnreachable::NotEnrolled(id))?;
        let mut channels = self.channels.lock();
        if let Some((endpoint, channel)) = channels.get(&id)
            && *endpoint == enrolled.endpoint
        {
            return Ok(channel.clone());
        }
        let expect = Expect::Identity(enrolled.identity);
        let channel = self
            .connector
            .channel_lazy(&enrolled.endpoint, expect, Lane::Control)
            .map_err(|_| PeerUnreachable::Endpoint(id))?;
        channels.insert(id, (enrolled.endpoint, channel.clone()));
        Ok(channel)
    }
}
