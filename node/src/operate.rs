//! The gRPC service `NodeOperate`: founding, membership, levels, and how this node is.
//!
//! Owns who may operate: operators, and nodes for the steps they do for one another. Refuses to change anything for
//! anybody else.

use std::sync::Arc;

use futures::stream::BoxStream;
use proto::ids::{GroupId, Identity, LogIndex, NodeId, Role};
use proto::v1;
use proto::v1::catalog_command::Command;
use proto::v1::node_operate_server::NodeOperateServer;
use tonic::{Request, Response, Status};
use transport::require_role;

use crate::core::Core;
use crate::error::CallError;
use crate::machine::LEVEL_MAX;
use crate::metered::metered;

mod found;
mod groups;
mod members;
mod repair;

/// Missing references are counted up to here: to a person more is not more, and clients ask often.
const MISSING_MAX: u64 = 10_000;

/// The service.
pub(crate) struct OperateService(pub(crate) Arc<Core>);

impl OperateService {
    pub(crate) fn into_server(self) -> NodeOperateServer<Self> {
        NodeOperateServer::new(self)
    }
}

impl Core {
    /// Every group of this node as it sees it.
    pub(crate) fn group_infos(&self) -> Vec<v1::GroupInfo> {
        let groups = self.groups.all();
        groups.iter().map(|group| self.group_info(group)).collect()
    }

    fn group_info(&self, group: &replica::Group) -> v1::GroupInfo {
        let view = group.status();
        let missing = self
            .groups
            .shard(group.id())
            .and_then(|shard| self.missing(&shard, LogIndex(u64::MAX)).ok())
            .map_or(0, |missing| missing.missing);
        v1::GroupInfo {
            group: group.id().0,
            leader: view.leader.unwrap_or_default().0,
            voters: view.voters.all().iter().map(|node| node.0).collect(),
            applied_index: group.applied().unwrap_or_default().0,
            term: view.term.0,
            level: view.level.0,
            learners: view.learners.iter().map(|node| node.0).collect(),
            missing_blocks: missing,
        }
    }

    /// How many references of a shard up to `index` this node cannot serve.
    pub(crate) fn missing(
        &self,
        shard: &crate::groups::Shard,
        index: LogIndex,
    ) -> Result<v1::MissingReply, CallError> {
        let id = shard.group.id();
        let missing = self
            .repair
            .missing(shard, index, MISSING_MAX)
            .map_err(|_| CallError::NotReconciled(id))?
            .ok_or(CallError::NotReconciled(id))?;
        Ok(v1::MissingReply {
            missing: missing.count,
            applied_index: missing.applied.0,
        })
    }

    /// What an operator compares replicas by.
    async fn digest(&self, id: GroupId) -> Result<v1::DigestReply, CallError> {
        let group = self.groups.group(id).ok_or(CallError::NoSuchGroup(id))?;
        let read = tokio::task::spawn_blocking(move || group.digest()).await;
        let digest = match read.map_err(|error| error.try_into_panic()) {
            Ok(digest) => digest.map_err(CallError::State)?,
            // The state's readers panic when the store cannot be read: that must end the process, not this task.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(CallError::NoSuchGroup(id)),
        };
        Ok(v1::DigestReply {
            applied_index: digest.applied.unwrap_or_default().0,
            blake3: digest.blake3.to_vec().into(),
        })
    }

    fn node_status(&self) -> v1::NodeStatusReply {
        let space = self.disk.space();
        let age = self.enrolments.age();
        v1::NodeStatusReply {
            node_id: self.node_id.0,
            identity: self.local.identity().to_string(),
            groups: self.group_infos(),
            disk_bytes: space.bytes,
            disk_free_bytes: space.free,
            blocks: self.store.stats().blocks,
            authority_version: self.enrolments.version(),
            authority_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            level_max: LEVEL_MAX.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            full: self.disk.check().is_err(),
            federation: self.federation.clone(),
        }
    }

    async fn allocate_node_id(&self, identity: &str) -> Result<NodeId, CallError> {
        let identity: Identity = identity.parse()?;
        let allocated = self
            .decide_catalog(|_, _| {
                let identity = identity.to_string();
                Ok(Command::AllocateNodeId(v1::AllocateNodeId { identity }))
            })
            .await?;
        Ok(NodeId(allocated.node_id))
    }
}

#[tonic::async_trait]
impl v1::node_operate_server::NodeOperate for OperateService {
    type AddNodeStream = BoxStream<'static, Result<v1::Progress, Status>>;
    type RemoveNodeStream = BoxStream<'static, Result<v1::Progress, Status>>;

    async fn status(
        &self,
        request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatusReply>, Status> {
        transport::peer(&request)?;
        Ok(Response::new(self.0.node_status()))
    }

    async fn found(
        &self,
        request: Request<v1::FoundRequest>,
    ) -> Result<Response<v1::FoundReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        tracing::info!(operator = %peer.identity, "founding asked for");
        let call = self.0.found(request.into_inner().shards);
        let groups = metered("found", call).await?;
        let groups = groups.into_iter().map(|group: GroupId| group.0).collect();
        Ok(Response::new(v1::FoundReply { groups }))
    }

    async fn allocate_node_id(
        &self,
        request: Request<v1::AllocateNodeIdRequest>,
    ) -> Result<Response<v1::AllocateNodeIdReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        let request = request.into_inner();
        let id = metered(
            "allocate_node_id",
            self.0.allocate_node_id(&request.identity),
        )
        .await?;
        Ok(Response::new(v1::AllocateNodeIdReply { node_id: id.0 }))
    }

    async fn add_node(
        &self,
        request: Request<v1::AddNodeRequest>,
    ) -> Result<Response<Self::AddNodeStream>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        let node = NodeId(request.into_inner().node_id);
        tracing::info!(operator = %peer.identity, %node, "adding a node asked for");
        let begun = members::add(Arc::clone(&self.0), node)
            .await
            .map_err(CallError::into_status)?;
        Ok(Response::new(begun))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<Self::RemoveNodeStream>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        let request = request.into_inner();
        if request.force {
            return Err(CallError::Force.into_status());
        }
        let node = NodeId(request.node_id);
        tracing::info!(operator = %peer.identity, %node, "removing a node asked for");
        let begun = members::remove(Arc::clone(&self.0), node).map_err(CallError::into_status)?;
        Ok(Response::new(begun))
    }

    async fn raise_level(
        &self,
        request: Request<v1::RaiseLevelRequest>,
    ) -> Result<Response<v1::RaiseLevelReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        let level = request.into_inner().level;
        tracing::info!(operator = %peer.identity, level, "raising the feature level asked for");
        let level = metered("raise_level", self.0.raise_everywhere(level)).await?;
        Ok(Response::new(v1::RaiseLevelReply { level }))
    }

    async fn missing(
        &self,
        request: Request<v1::MissingRequest>,
    ) -> Result<Response<v1::MissingReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Node, Role::Operator])?;
        let request = request.into_inner();
        let call = async {
            let shard = self.0.shard(request.shard)?;
            self.0.missing(&shard, LogIndex(request.at_least_index))
        };
        metered("missing", call).await.map(Response::new)
    }

    async fn read_clock(
        &self,
        request: Request<v1::ReadClockRequest>,
    ) -> Result<Response<v1::ReadClockReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Node])?;
        let clock_ms = self.0.clock.now().0;
        Ok(Response::new(v1::ReadClockReply { clock_ms }))
    }

    async fn advance_time(
        &self,
        request: Request<v1::AdvanceGroupsRequest>,
    ) -> Result<Response<v1::AdvanceGroupsReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        tracing::warn!(operator = %peer.identity, "letting time advance asked for");
        metered("advance_time", self.0.advance_time_everywhere()).await?;
        Ok(Response::new(v1::AdvanceGroupsReply {}))
    }

    async fn digest(
        &self,
        request: Request<v1::DigestRequest>,
    ) -> Result<Response<v1::DigestReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        let group = GroupId(request.into_inner().group);
        metered("digest", self.0.digest(group))
            .await
            .map(Response::new)
    }

    async fn repair_status(
        &self,
        request: Request<v1::RepairStatusRequest>,
    ) -> Result<Response<v1::RepairStatusReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        metered("repair_status", self.0.repair_status())
            .await
            .map(Response::new)
    }

    async fn scrub(
        &self,
        request: Request<v1::ScrubRequest>,
    ) -> Result<Response<v1::ScrubReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        let bytes_per_s = request.into_inner().bytes_per_s;
        tracing::info!(operator = %peer.identity, bytes_per_s, "a scrub asked for");
        let number = self.0.repair.scrub_now(bytes_per_s);
        Ok(Response::new(v1::ScrubReply { number }))
    }

    async fn repair(
        &self,
        request: Request<v1::RepairRequest>,
    ) -> Result<Response<v1::RepairReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Operator])?;
        tracing::info!(operator = %peer.identity, "repair asked for");
        self.0.repair.repair_now();
        Ok(Response::new(v1::RepairReply {}))
    }

    async fn change_group(
        &self,
        request: Request<v1::ChangeGroupRequest>,
    ) -> Result<Response<v1::ChangeGroupReply>, Status> {
        let peer = transport::peer(&request)?;
        require_role(&peer, &[Role::Node])?;
        metered("change_group", self.0.change_here(request.into_inner()))
            .await
            .map(Response::new)
    }
}
