//! The gRPC service `Catalog`: names of datasets, and where everything is.
//!
//! Owns creation and deletion across catalog and shard, in an order that a crash between two steps cannot spoil.
//! Refuses everything no grant allows; a dataset that no grant shows is not listed.

use std::sync::Arc;

use bytes::Bytes;
use node_state::{ShardMeta, catalog};
use proto::ids::{DatasetId, DatasetName, GroupId, KekId, Role};
use proto::v1;
use proto::v1::Action;
use proto::v1::catalog_command::Command;
use proto::v1::catalog_server::CatalogServer;
use proto::v1::relocations_client::RelocationsClient;
use proto::v1::restores_client::RestoresClient;
use proto::v1::shard_client::ShardClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use transport::Peer;

use crate::core::{Core, LEADER_WAIT};
use crate::error::CallError;
use crate::metered::metered;
use crate::shard::request_epoch;

/// Pause between attempts to reach a shard's leader.
const LEADER_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// What shows a dataset to somebody.
const ANY: [Action; 5] = [
    Action::Create,
    Action::List,
    Action::Read,
    Action::Write,
    Action::Keys,
];

/// The service.
pub(crate) struct CatalogService(pub(crate) Arc<Core>);

impl CatalogService {
    pub(crate) fn into_server(self) -> CatalogServer<Self> {
        CatalogServer::new(self)
    }
}

impl Core {
    /// Place, admit, publish: each step done again when it was done before, so that the same request finishes what
    /// a crash left.
    async fn create_dataset(
        &self,
        peer: &Peer,
        request: v1::CreateDatasetRequest,
    ) -> Result<v1::DatasetInfo, CallError> {
        self.disk.check()?;
        let name: DatasetName = request.name.parse()?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        KekId::try_from(request.kek_id.as_ref())?;
        let shard = self
            .place_dataset(peer, &name, &id, &[Action::Create])
            .await?;
        let record = v1::DatasetRecord {
            format: 1,
            dataset_id: request.dataset_id.clone(),
            name: request.name.clone(),
            epoch: 1,
            status: v1::DatasetStatus::Active.into(),
            versioning: request.versioning,
            kek_id: request.kek_id,
            min_kek_version: request.kek_version,
            key_state: v1::KeyState::Enabled.into(),
            key_state_version: request.key_state_version,
            pseudonym: request.pseudonym,
            ..Default::default()
        };
        let admit = v1::AdmitDatasetRequest {
            shard: shard.0,
            dataset: Some(record.clone()),
        };
        let done = self
            .at_shard_leader(shard, ShardCall::Admit(Box::new(admit)))
            .await?;
        let publish = v1::PublishDataset {
            name: request.name,
            dataset_id: request.dataset_id.clone(),
            shard: shard.0,
            created_at_ms: 0,
        };
        let published = self
            .decide_catalog(|table, _| {
                self.check(table, peer, Some(&id), &[Action::Create])?;
                Ok(Command::PublishDataset(publish.clone()))
            })
            .await;
        if let Err(error) = published {
            // The name went to another dataset meanwhile: this one will never have one.
            if matches!(&error, CallError::Refused { refused }
                if refused.reason() == v1::Refusal::NameTaken)
            {
                let drop = v1::DropDatasetRequest {
                    shard: shard.0,
                    dataset_id: request.dataset_id,
                    force: false,
                };
                if let Err(why) = self.at_shard_leader(shard, ShardCall::Drop(drop)).await {
                    let error = transport::fault::Chain(&why).to_string();
                    tracing::warn!(dataset = %id, error, "a dataset without a name is left behind");
                }
            }
            return Err(error);
        }
        self.dataset_info(&id, shard, Some(done.log_index)).await
    }

    /// The dataset's shard, chosen once for ever; its name is free, or its own.
    pub(crate) async fn place_dataset(
        &self,
        peer: &Peer,
        name: &DatasetName,
        id: &DatasetId,
        may: &[Action],
    ) -> Result<GroupId, CallError> {
        let emptiest = self.emptiest_shard();
        let placed = self
            .decide_catalog(|table, state| {
                self.check(table, peer, Some(id), may)?;
                let held = catalog::find(state, name.as_str());
                if held.is_some_and(|held| held.dataset_id != id.as_bytes()[..]) {
                    return Err(CallError::refused(v1::Refusal::NameTaken));
                }
                let shard = emptiest.ok_or(CallError::NotFounded)?;
                let dataset_id = Bytes::copy_from_slice(id.as_bytes());
                Ok(Command::PlaceDataset(v1::PlaceDataset {
                    dataset_id,
                    shard: shard.0,
                }))
            })
            .await?;
        Ok(GroupId(placed.shard))
    }

    /// The shard with the fewest bytes, as far as is applied here: a hint, so that no shard has to be asked.
    fn emptiest_shard(&self) -> Option<GroupId> {
        let shards = self.groups.shards();
        let filled = shards.iter().filter_map(|shard| {
            let state = shard.group.reader().ok()?;
            let meta = ShardMeta::load(&*state);
            Some((meta.sealed_bytes, meta.datasets, shard.group.id()))
        });
        filled.min().map(|(_, _, shard)| shard)
    }

    async fn dataset_info(
        &self,
        id: &DatasetId,
        shard: GroupId,
        at_least: Option<u64>,
    ) -> Result<v1::DatasetInfo, CallError> {
        let replica = self.shard(shard.0)?;
        let (view, index) = self.read(&replica.group).await?;
        debug_assert!(
            at_least.is_none_or(|at_least| index.0 >= at_least),
            "reads are linearizable"
        );
        let dataset = self.living(&*view.state, id)?;
        let meta = ShardMeta::load(&*view.state);
        Ok(v1::DatasetInfo {
            request_epoch: request_epoch(&meta, &dataset),
            dataset: Some(dataset),
            shard: shard.0,
            shard_leader: replica.group.leader().unwrap_or_default().0,
            upload_epoch: meta.upload_epoch.0,
            at_index: index.0,
        })
    }

    async fn find_dataset(
        &self,
        peer: &Peer,
        request: v1::FindDatasetRequest,
    ) -> Result<v1::DatasetInfo, CallError> {
        let name: DatasetName = request.name.parse()?;
        let record = {
            let (view, _) = self.read(&self.groups.catalog).await?;
            catalog::find(&*view.state, name.as_str()).ok_or(CallError::NoSuchDataset)?
        };
        let id = DatasetId::try_from(record.dataset_id.as_ref())?;
        if peer.identity.role() != Role::Kms {
            // As if it were not there: names are for those who may use them.
            self.check(&self.enrolments.current(), peer, Some(&id), &ANY)
                .map_err(|_| CallError::NoSuchDataset)?;
        }
        self.dataset_info(&id, GroupId(record.shard), None).await
    }

    async fn list_datasets(
        &self,
        peer: &Peer,
        request: v1::ListDatasetsRequest,
    ) -> Result<v1::ListDatasetsReply, CallError> {
        if !request.start_after.is_empty() {
            request.start_after.parse::<DatasetName>()?;
        }
        let table = self.enrolments.current();
        let (view, index) = self.read(&self.groups.catalog).await?;
        let limit = request.limit as usize;
        let page = catalog::list(&*view.state, &request.start_after, limit, &mut |record| {
            DatasetId::try_from(record.dataset_id.as_ref())
                .is_ok_and(|id| self.may(&table, peer, Some(&id), &ANY))
        });
        Ok(v1::ListDatasetsReply {
            at_index: index.0,
            ..page
        })
    }

    /// The shard's tombstone first: from then on nobody uses it, and the name may go.
    async fn delete_dataset(
        &self,
        peer: &Peer,
        request: v1::DeleteDatasetRequest,
    ) -> Result<(), CallError> {
        let name: DatasetName = request.name.parse()?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        self.leading(&self.groups.catalog)?;
        self.check(
            &self.enrolments.current(),
            peer,
            Some(&id),
            &[Action::Create],
        )?;
        let record = {
            let (view, _) = self.read(&self.groups.catalog).await?;
            catalog::find(&*view.state, name.as_str())
                .filter(|record| record.dataset_id == request.dataset_id)
                .ok_or(CallError::NoSuchDataset)?
        };
        let drop = v1::DropDatasetRequest {
            shard: record.shard,
            dataset_id: request.dataset_id.clone(),
            force: request.force,
        };
        self.at_shard_leader(GroupId(record.shard), ShardCall::Drop(drop))
            .await?;
        let unpublish = v1::UnpublishDataset {
            name: request.name,
            dataset_id: request.dataset_id,
        };
        self.decide_catalog(|table, _| {
            self.check(table, peer, Some(&id), &[Action::Create])?;
            Ok(Command::UnpublishDataset(unpublish.clone()))
        })
        .await
        .map(drop_done)
    }

    /// Calls the leader of a shard, here or elsewhere, for as long as [`LEADER_WAIT`]. Only for calls that may be
    /// repeated.
    pub(crate) async fn at_shard_leader(
        &self,
        shard: GroupId,
        call: ShardCall,
    ) -> Result<v1::Done, CallError> {
        let replica = self.shard(shard.0)?;
        let deadline = Instant::now() + LEADER_WAIT;
        loop {
            let answer = match replica.group.leader() {
                Some(leader) if leader == self.node_id => call.here(self).await,
                Some(leader) => match self.peers.channel(leader) {
                    Ok(channel) => call.there(channel).await,
                    Err(error) => Err(error),
                },
                None => Err(self.not_leader(shard, None)),
            };
            let error = match answer {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let fault = transport::Faulty::fault(&error);
            if !fault.retriable() && fault != transport::Fault::Unknown {
                return Err(error);
            }
            if Instant::now() + LEADER_PAUSE >= deadline {
                let why = transport::fault::Chain(&error).to_string();
                return Err(CallError::NoAnswer { group: shard, why });
            }
            tokio::time::sleep(LEADER_PAUSE).await;
        }
    }

    fn describe(&self) -> v1::DescribeReply {
        let table = self.enrolments.current();
        v1::DescribeReply {
            enrolments: Some(table.signed().clone()),
            groups: self.group_infos(),
            node_id: self.node_id.0,
            region: table.region().to_string(),
            jurisdiction: table.jurisdiction().to_string(),
        }
    }
}

fn drop_done(_: v1::CatalogDone) {}

/// What the catalog's leader asks of a shard's.
#[derive(Clone)]
pub(crate) enum ShardCall {
    Admit(Box<v1::AdmitDatasetRequest>),
    Drop(v1::DropDatasetRequest),
    Restore(Box<v1::RestoreStepRequest>),
    Arrival(Box<v1::AdmitArrivalRequest>),
}

impl ShardCall {
    async fn here(&self, core: &Core) -> Result<v1::Done, CallError> {
        match self.clone() {
            Self::Admit(request) => core.admit_dataset(*request).await,
            Self::Drop(request) => core.drop_dataset(request).await,
            Self::Restore(request) => core.restore_step(None, *request).await,
            Self::Arrival(request) => core.admit_arrival(*request).await,
        }
    }

    async fn there(&self, channel: Channel) -> Result<v1::Done, CallError> {
        let call = async {
            match self.clone() {
                Self::Admit(request) => ShardClient::new(channel).admit_dataset(*request).await,
                Self::Drop(request) => ShardClient::new(channel).drop_dataset(request).await,
                Self::Restore(request) => RestoresClient::new(channel).step(*request).await,
                Self::Arrival(request) => RelocationsClient::new(channel).admit(*request).await,
            }
        };
        let answer = tokio::time::timeout(LEADER_WAIT, call).await;
        let answer = answer
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
            .map_err(|status| CallError::Peer(status.into()))?;
        match answer.into_inner().answer {
            Some(v1::shard_answer::Answer::Done(done)) => Ok(done),
            Some(v1::shard_answer::Answer::Refused(refused)) => Err(CallError::Refused { refused }),
            None => Err(CallError::Answer),
        }
    }
}

#[tonic::async_trait]
impl v1::catalog_server::Catalog for CatalogService {
    async fn create_dataset(
        &self,
        request: Request<v1::CreateDatasetRequest>,
    ) -> Result<Response<v1::DatasetInfo>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.create_dataset(&peer, request.into_inner());
        metered("create_dataset", call).await.map(Response::new)
    }

    async fn find_dataset(
        &self,
        request: Request<v1::FindDatasetRequest>,
    ) -> Result<Response<v1::DatasetInfo>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.find_dataset(&peer, request.into_inner());
        metered("find_dataset", call).await.map(Response::new)
    }

    async fn list_datasets(
        &self,
        request: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.list_datasets(&peer, request.into_inner());
        metered("list_datasets", call).await.map(Response::new)
    }

    async fn delete_dataset(
        &self,
        request: Request<v1::DeleteDatasetRequest>,
    ) -> Result<Response<v1::DeleteDatasetReply>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.delete_dataset(&peer, request.into_inner());
        let deleted = metered("delete_dataset", call).await;
        deleted.map(|()| Response::new(v1::DeleteDatasetReply {}))
    }

    async fn describe(
        &self,
        request: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeReply>, Status> {
        transport::peer(&request)?;
        Ok(Response::new(self.0.describe()))
    }
}
