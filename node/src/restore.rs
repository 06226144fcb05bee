//! The gRPC service `Restores`: datasets that come back from a backup.
//!
//! Owns the order across catalog and shard, the same as for a creation: placed, begun in its shard, its name published, each
//! done again when it was done before. Refuses to begin or to confirm without a warrant of the KMS for that very step, and
//! rows from anybody but who began it, or went on with it, by that warrant. What rows say is sealed: nodes check shape,
//! tokens' headers and receipts.

use std::sync::Arc;

use bytes::Bytes;
use node_state::listing::{self, PartsQuery};
use node_state::shard::RESTORE_LEVEL;
use node_state::{ShardMeta, catalog, read};
use proto::ids::{DatasetId, DatasetName, GroupId, ObjectVersionId, Role};
use proto::store::Reader;
use proto::v1;
use proto::v1::Action;
use proto::v1::catalog_command::Command as CatalogCommand;
use proto::v1::restore_dataset::Step;
use proto::v1::restore_step_request::Step as Asked;
use proto::v1::restores_server::RestoresServer;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_command::Command;
use tonic::{Request, Response, Status};
use transport::enrolment::EnrolmentTable;
use transport::{Peer, require_role};

use crate::catalog::ShardCall;
use crate::core::{Core, Decision, Room};
use crate::error::CallError;
use crate::groups::Shard;
use crate::metered::metered;
use crate::shard::tokens::{self, holder_of};
use crate::shard::{at_level, receipts};
use crate::warrants::{self, WarrantError};

/// Bytes of a request: one entry and its framing.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// The service.
pub(crate) struct RestoreService(pub(crate) Arc<Core>);

impl RestoreService {
    pub(crate) fn into_server(self) -> RestoresServer<Self> {
        RestoresServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl Core {
    /// Place, begin, publish. A name that another dataset has is refused before anything is done.
    async fn begin_restore(
        &self,
        peer: &Peer,
        request: v1::BeginRestoreRequest,
    ) -> Result<v1::RestoreStanding, CallError> {
        self.disk.check()?;
        let record = request.dataset.as_ref();
        let record = record.ok_or(CallError::Malformed("it has no dataset"))?;
        let name: DatasetName = record.name.parse()?;
        let id = DatasetId::try_from(record.dataset_id.as_ref())?;
        let may = [Action::Write];
        let table = self.enrolments.current();
        self.check(&table, peer, Some(&id), &may)?;
        let step = (v1::RestoreWhat::Restore, &id);
        let warranted = warrants::verify(&table, self.clock.now(), &request.warrant, step)?;
        let shard = self.place_dataset(peer, &name, &id, &may).await?;
        let begin = v1::RestoreStepRequest {
            shard: shard.0,
            dataset_id: id.into(),
            restore_id: warranted.restore_id,
            restorer: holder_of(&peer.public_key),
            step: Some(Asked::Begin(request)),
        };
        self.at_shard_leader(shard, ShardCall::Restore(Box::new(begin)))
            .await?;
        let publish = v1::PublishDataset {
            name: name.to_string(),
            dataset_id: id.into(),
            shard: shard.0,
            created_at_ms: 0,
        };
        self.decide_catalog(|table, _| {
            self.check(table, peer, Some(&id), &may)?;
            Ok(CatalogCommand::PublishDataset(publish.clone()))
        })
        .await?;
        self.standing(shard, &id, None).await
    }

    async fn find_restore(
        &self,
        peer: &Peer,
        request: v1::FindRestoreRequest,
    ) -> Result<v1::RestoreStanding, CallError> {
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        let version = match request.version_id.len() {
            0 => None,
            _ => Some(ObjectVersionId::try_from(request.version_id.as_ref())?),
        };
        let any = [Action::List, Action::Write, Action::Create, Action::Keys];
        self.check(&self.enrolments.current(), peer, Some(&id), &any)?;
        let shard = self.placed(&id).await?;
        self.standing(shard, &id, version.as_ref()).await
    }

    /// The shard's tombstone first, as for a deletion: from then on nobody uses it, and the name may go.
    async fn abandon_restore(
        &self,
        peer: &Peer,
        request: v1::AbandonRestoreRequest,
    ) -> Result<v1::RestoreStanding, CallError> {
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        self.leading(&self.groups.catalog)?;
        let may = [Action::Create, Action::Keys];
        self.check(&self.enrolments.current(), peer, Some(&id), &may)?;
        let shard = self.placed(&id).await?;
        let abandon = v1::RestoreStepRequest {
            shard: shard.0,
            dataset_id: request.dataset_id.clone(),
            restore_id: request.restore_id,
            restorer: Bytes::new(),
            step: Some(Asked::Abandon(true)),
        };
        self.at_shard_leader(shard, ShardCall::Restore(Box::new(abandon)))
            .await?;
        let published = {
            let (view, _) = self.read(&self.groups.catalog).await?;
            catalog::find_by_id(&*view.state, &id)
        };
        if let Some(record) = published {
            let unpublish = v1::UnpublishDataset {
                name: record.name,
                dataset_id: request.dataset_id,
            };
            self.decide_catalog(|table, _| {
                self.check(table, peer, Some(&id), &may)?;
                Ok(CatalogCommand::UnpublishDataset(unpublish.clone()))
            })
            .await?;
        }
        self.standing(shard, &id, None).await
    }

    /// The shard that the dataset was given.
    async fn placed(&self, id: &DatasetId) -> Result<GroupId, CallError> {
        let (view, _) = self.read(&self.groups.catalog).await?;
        catalog::placement(&*view.state, id).ok_or(CallError::NoSuchDataset)
    }

    async fn standing(
        &self,
        shard: GroupId,
        id: &DatasetId,
        version: Option<&ObjectVersionId>,
    ) -> Result<v1::RestoreStanding, CallError> {
        let replica = self.shard(shard.0)?;
        let (view, index) = self.read(&replica.group).await?;
        let state = &*view.state;
        let voters = replica.group.voters();
        Ok(v1::RestoreStanding {
            shard: shard.0,
            restore: read::restore(state, id),
            dataset: read::dataset(state, id),
            upload_epoch: ShardMeta::load(state).upload_epoch.0,
            replicas: voters.all().iter().map(|node| node.0).collect(),
            parts: version.map(|of| numbers(state, of)).unwrap_or_default(),
            at_index: index.0,
        })
    }

    /// One step at the shard's leader. `peer` is who asks from outside; the catalog's leader asks for what it has checked.
    pub(crate) async fn restore_step(
        &self,
        peer: Option<&Peer>,
        request: v1::RestoreStepRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        at_level(&shard.group, RESTORE_LEVEL)?;
        // Before the signatures: who does not lead need not check them.
        self.leading(&shard.group)?;
        let v1::RestoreStepRequest {
            restore_id,
            restorer,
            step,
            ..
        } = request;
        let asked = match step {
            Some(Asked::Batch(brought)) => {
                Brought::Batch(Box::new(self.claimed(&shard, &id, brought)?))
            }
            Some(other) => Brought::Other(Box::new(other)),
            None => return Err(CallError::Malformed("it has no step")),
        };
        let room = match asked.stores() {
            true => {
                self.disk.check()?;
                Room::Needed
            }
            false => Room::Reserved,
        };
        self.decide_shard(&shard.group, room, Bytes::new(), |table, state| {
            if let Some(peer) = peer {
                self.brings(table, state, (peer, &id), &asked)?;
            }
            let step = match &asked {
                Brought::Batch(batch) => Step::Batch((**batch).clone()),
                Brought::Other(other) => match &**other {
                    Asked::Begin(begin) => Step::Begin(self.begun(table, &id, begin, &restorer)?),
                    Asked::Confirm(warrant) => {
                        Step::Confirm(self.confirmed(table, state, &id, warrant)?)
                    }
                    Asked::End(_) => Step::End(true),
                    Asked::Abandon(_) => Step::Abandon(true),
                    Asked::Batch(_) => {
                        return Err(CallError::Malformed("its batch has no claims"));
                    }
                },
            };
            let command = Command::Restore(v1::RestoreDataset {
                dataset_id: id.into(),
                restore_id: restore_id.clone(),
                step: Some(step),
            });
            Ok(Decision {
                key_state_version: 0,
                command,
            })
        })
        .await
    }

    /// Rows come from who began the restore, or went on with it; a confirmation from whoever shows the warrant.
    fn brings(
        &self,
        table: &EnrolmentTable,
        state: &dyn Reader,
        (peer, id): (&Peer, &DatasetId),
        asked: &Brought,
    ) -> Result<(), CallError> {
        if !asked.is_of_restorer() {
            return Ok(());
        }
        self.check(table, peer, Some(id), &[Action::Write])?;
        let held = read::restore(state, id);
        let held = held.ok_or_else(|| CallError::refused(v1::Refusal::NotRestoring))?;
        if held.restorer == holder_of(&peer.public_key) {
            return Ok(());
        }
        Err(CallError::NotGranted {
            identity: peer.identity.clone(),
        })
    }

    /// The first step. Which key it is of, and how that stands, is the KMS's word and not the backup's.
    fn begun(
        &self,
        table: &EnrolmentTable,
        id: &DatasetId,
        begin: &v1::BeginRestoreRequest,
        restorer: &Bytes,
    ) -> Result<v1::RestoreBegin, CallError> {
        let record = begin.dataset.as_ref();
        let record = record.ok_or(CallError::Malformed("it has no dataset"))?;
        let step = (v1::RestoreWhat::Restore, id);
        let warranted = warrants::verify(table, self.clock.now(), &begin.warrant, step)?;
        let (target, key) = (&warranted.target, &warranted.key);
        if target.name != record.name {
            return Err(WarrantError::OtherName.into());
        }
        if key.kek_id != record.kek_id || key.pseudonym != record.pseudonym {
            return Err(WarrantError::OtherKey.into());
        }
        let dataset = v1::DatasetRecord {
            key_state: key.state,
            key_state_version: key.state_version,
            min_kek_version: key.min_version,
            ..record.clone()
        };
        Ok(v1::RestoreBegin {
            dataset: Some(dataset),
            configs: begin.configs.clone(),
            backup_id: warranted.backup_id,
            index_digest: warranted.index_digest,
            restorer: restorer.clone(),
            oldest_kek_version: key.oldest_version,
            items: begin.items,
            approvals: Some(warranted.approvals),
        })
    }

    fn confirmed(
        &self,
        table: &EnrolmentTable,
        state: &dyn Reader,
        id: &DatasetId,
        warrant: &Bytes,
    ) -> Result<v1::RestoreConfirm, CallError> {
        let step = (v1::RestoreWhat::Confirm, id);
        let warranted = warrants::verify(table, self.clock.now(), warrant, step)?;
        let held = read::restore(state, id);
        let held = held.ok_or_else(|| CallError::refused(v1::Refusal::NotRestoring))?;
        let same =
            held.backup_id == warranted.backup_id && held.index_digest == warranted.index_digest;
        if !same {
            return Err(WarrantError::OtherBackup.into());
        }
        let target = &warranted.target;
        let dataset = read::dataset(state, id).unwrap_or_default();
        if dataset.name != target.name {
            return Err(WarrantError::OtherName.into());
        }
        if dataset.epoch != target.epoch {
            return Err(WarrantError::OtherEpoch.into());
        }
        Ok(v1::RestoreConfirm {
            epoch: target.epoch,
            approvals: Some(warranted.approvals),
        })
    }

    /// A batch with what apply needs of its receipts, once those and the headers of its tokens hold.
    fn claimed(
        &self,
        shard: &Shard,
        dataset: &DatasetId,
        brought: v1::BroughtBatch,
    ) -> Result<v1::RestoreBatch, CallError> {
        let batch = brought.batch;
        let mut batch = batch.ok_or(CallError::Malformed("it has no batch"))?;
        let table = self.enrolments.current();
        for token in &batch.tokens {
            tokens::agrees(table.region(), dataset, token)?;
        }
        let mut lists = brought.receipts.into_iter();
        let mut claims = |version: &Bytes, upload_epoch, blocks: &[v1::BlockRef]| {
            let given = lists.next().unwrap_or_default().receipts;
            if blocks.is_empty() {
                return Ok(Vec::new());
            }
            let upload = receipts::Upload {
                shard: shard.group.id(),
                dataset: *dataset,
                version: ObjectVersionId::try_from(version.as_ref())?,
                upload_epoch,
                blocks,
            };
            Ok::<_, CallError>(receipts::verify(&table, &upload, &given)?)
        };
        for version in &mut batch.versions {
            if let Some(entry) = &version.entry {
                let claimed = claims(&entry.version_id, entry.upload_epoch, &entry.blocks)?;
                version.receipts = claimed;
            }
        }
        for restored in batch.parts.iter_mut().flat_map(|parts| &mut parts.parts) {
            if let Some(part) = &restored.part {
                let epoch = restored.upload_epoch;
                restored.receipts = claims(&part.part_id, epoch, &restored.blocks)?;
            }
        }
        Ok(batch)
    }
}

/// A step that is asked for. A batch has been looked at already.
enum Brought {
    Batch(Box<v1::RestoreBatch>),
    Other(Box<Asked>),
}

impl Brought {
    /// Whether it takes room on the disk.
    fn stores(&self) -> bool {
        match self {
            Self::Batch(_) => true,
            Self::Other(asked) => matches!(**asked, Asked::Begin(_)),
        }
    }

    /// Whether it is for who brings the rows alone.
    fn is_of_restorer(&self) -> bool {
        match self {
            Self::Batch(_) => true,
            Self::Other(asked) => matches!(**asked, Asked::End(_) | Asked::Batch(_)),
        }
    }
}

/// Numbers of the parts that are there of a version that is being brought.
fn numbers(state: &dyn Reader, of: &ObjectVersionId) -> Vec<u32> {
    let (mut numbers, mut start_after) = (Vec::new(), 0);
    loop {
        let query = PartsQuery {
            of,
            start_after,
            limit: 0,
            with_bodies: false,
        };
        let (parts, more) = listing::parts(state, query);
        let number = |part: &v1::ListedPart| part.part.as_ref().map(|part| part.number);
        numbers.extend(parts.iter().filter_map(number));
        match numbers.last() {
            Some(last) if more => start_after = *last,
            _ => return numbers,
        }
    }
}

/// Who may hold leases, and so open pages of a backup.
const RESTORERS: [Role; 2] = [Role::Gateway, Role::Client];

#[tonic::async_trait]
impl v1::restores_server::Restores for RestoreService {
    async fn begin(
        &self,
        request: Request<v1::BeginRestoreRequest>,
    ) -> Result<Response<v1::RestoreStanding>, Status> {
        let peer = self.0.caller(&request).await?;
        require_role(&peer, &RESTORERS)?;
        let call = self.0.begin_restore(&peer, request.into_inner());
        metered("begin_restore", call).await.map(Response::new)
    }

    async fn find_restore(
        &self,
        request: Request<v1::FindRestoreRequest>,
    ) -> Result<Response<v1::RestoreStanding>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.find_restore(&peer, request.into_inner());
        metered("find_restore", call).await.map(Response::new)
    }

    async fn abandon(
        &self,
        request: Request<v1::AbandonRestoreRequest>,
    ) -> Result<Response<v1::RestoreStanding>, Status> {
        let peer = self.0.caller(&request).await?;
        let call = self.0.abandon_restore(&peer, request.into_inner());
        metered("abandon_restore", call).await.map(Response::new)
    }

    async fn step(
        &self,
        request: Request<v1::RestoreStepRequest>,
    ) -> Result<Response<v1::ShardAnswer>, Status> {
        let peer = self.0.caller(&request).await?;
        let request = request.into_inner();
        match &request.step {
            Some(Asked::Begin(_) | Asked::Abandon(_)) => require_role(&peer, &[Role::Node])?,
            Some(Asked::Confirm(_)) => {
                require_role(&peer, &[Role::Operator, Role::Gateway, Role::Client])?;
            }
            Some(Asked::Batch(_) | Asked::End(_)) | None => require_role(&peer, &RESTORERS)?,
        }
        let call = self.0.restore_step(Some(&peer), request);
        let done = metered("restore_step", call).await?;
        Ok(Response::new(v1::ShardAnswer {
            answer: Some(Answer::Done(done)),
        }))
    }
}
