//! What operators ask of the nodes' files: how whole they are, a scrub, repair.
//!
//! Owns who is asked: each node for itself, since what it holds is its own. Refuses to add up: nodes hold copies of the
//! same blocks.

use std::time::Duration;

use proto::ids::{Identity, NodeId};
use proto::v1;
use proto::v1::node_operate_client::NodeOperateClient;
use tonic::transport::Channel;

use crate::error::Error;
use crate::operator::answer;
use crate::region::Region;

/// How long a node may take to count what it misses.
const COUNT_MAX: Duration = Duration::from_secs(30);

/// What one node says of its files.
#[derive(Debug)]
pub struct NodeUpkeep {
    /// Its member id.
    pub node: NodeId,
    /// Its identity, where the enrolments name it.
    pub identity: Option<Identity>,
    /// Where it was asked.
    pub endpoint: String,
    /// What it said.
    pub answer: Result<v1::RepairStatusReply, Error>,
}

impl NodeUpkeep {
    /// Its name, or where it is.
    pub fn name(&self) -> &str {
        self.identity
            .as_ref()
            .map_or(self.endpoint.as_str(), Identity::name)
    }
}

impl Region {
    /// What every storage node says of its files, or the one named.
    pub async fn upkeep(&self, node: Option<NodeId>) -> Result<Vec<NodeUpkeep>, Error> {
        let mut members = self.0.nodes.members();
        if let Some(node) = node {
            members.retain(|member| member.id == node);
            if members.is_empty() {
                return Err(no_such_node(node));
            }
        }
        let asked = members.into_iter().map(|member| async move {
            NodeUpkeep {
                node: member.id,
                answer: self.repair_status(member.id).await,
                identity: member.identity,
                endpoint: member.endpoint,
            }
        });
        Ok(futures::future::join_all(asked).await)
    }

    /// What one storage node says of its files.
    pub async fn repair_status(&self, node: NodeId) -> Result<v1::RepairStatusReply, Error> {
        let mut operate = self.node_operate(node)?;
        let request = v1::RepairStatusRequest {};
        match tokio::time::timeout(COUNT_MAX, operate.repair_status(request)).await {
            Ok(reply) => answer(reply),
            Err(_) => Err(Error::Unavailable {
                reason: "no-answer".to_owned(),
                message: format!("node {node} does not answer"),
            }),
        }
    }

    /// Begins a pass of a node's scrubber, from the first block, at so many bytes a second; 0 is the node's own pace.
    /// Answers the pass's number among those of the node's process.
    pub async fn scrub(&self, node: NodeId, bytes_per_s: u64) -> Result<u64, Error> {
        let mut operate = self.node_operate(node)?;
        let reply = answer(operate.scrub(v1::ScrubRequest { bytes_per_s }).await)?;
        Ok(reply.number)
    }

    /// Has a node compare everything it should hold with what it holds, and fetch what is missing at once.
    pub async fn repair(&self, node: NodeId) -> Result<(), Error> {
        let mut operate = self.node_operate(node)?;
        answer(operate.repair(v1::RepairRequest {}).await).map(drop)
    }

    fn node_operate(&self, node: NodeId) -> Result<NodeOperateClient<Channel>, Error> {
        self.node_channel(node).map(NodeOperateClient::new)
    }
}

fn no_such_node(node: NodeId) -> Error {
    Error::Caller {
        reason: "no-such-member".to_owned(),
        message: format!("no storage node {node} is enrolled"),
    }
}
