//! A shard at its leader: objects, leases, key states, holds, and datasets as the catalog admits and drops them.
//!
//! Owns what each request asks of policy and the translation of requests into commands; which roles may call at all is
//! in [`service`]. Refuses everything no grant allows, reads that a majority has not confirmed unless a stale one is
//! asked for by name, and puts on a full disk.

use std::time::Instant;

use bytes::Bytes;
use node_state::listing::{self, ObjectsQuery, VersionsQuery};
use node_state::shard::{HOLD_LEVEL, LOCK_LEVEL, unserved};
use node_state::{ShardMeta, limits, read};
use proto::ids::{DatasetId, FeatureLevel, LeaseId, LogIndex, ObjectKey, ObjectVersionId, Role};
use proto::v1;
use proto::v1::Action;
use proto::v1::shard_answer::Answer;
use proto::v1::shard_command::Command;
use replica::host::Group;
use transport::Peer;

use crate::approvals::{Asked, approvers, request_hash};
use crate::core::{Core, Decision, Room};
use crate::error::CallError;

mod locks;
mod metadata;
mod multipart;
pub(crate) mod receipts;
mod service;
mod settings;
pub(crate) mod stored;
pub(crate) mod tokens;

pub(crate) use self::service::ShardService;
pub(crate) use self::service::answered;
use self::tokens::holder_of;

/// Tokens of one page: under 1 MiB.
const TOKENS_MAX: usize = 256;

/// Refuses what replicas at the group's feature level do not know.
pub(crate) fn at_level(group: &Group, needed: FeatureLevel) -> Result<(), CallError> {
    let level = group.level();
    if level >= needed {
        return Ok(());
    }
    Err(CallError::Level {
        group: group.id(),
        level: level.0,
        needed: needed.0,
    })
}

pub(crate) fn key_state_version(
    state: &dyn proto::store::Reader,
    id: &DatasetId,
) -> Result<u64, CallError> {
    let dataset = read::dataset(state, id).ok_or(CallError::NoSuchDataset)?;
    Ok(dataset.key_state_version)
}

impl Core {
    async fn register_lease(
        &self,
        peer: &Peer,
        request: v1::RegisterLeaseRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        self.decide_shard(
            &shard.group,
            Room::Reserved,
            Bytes::new(),
            |table, state| {
                self.check(table, peer, Some(&id), &[Action::Write])?;
                let dataset = read::dataset(state, &id).ok_or(CallError::NoSuchDataset)?;
                let (lease, token) = tokens::verify(table, peer, &dataset, &request.token)?;
                let register = v1::RegisterToken {
                    lease_id: lease.into(),
                    token: Some(token),
                };
                Ok(Decision {
                    key_state_version: dataset.key_state_version,
                    command: Command::RegisterToken(register),
                })
            },
        )
        .await
    }

    /// Tokens that a newer KEK version is to wrap, for the KMS.
    async fn list_tokens(
        &self,
        request: v1::ListTokensRequest,
    ) -> Result<v1::ListTokensReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        let after = match request.start_after.len() {
            0 => None,
            _ => Some(LeaseId::try_from(request.start_after.as_ref())?),
        };
        let (view, _) = self.read(&shard.group).await?;
        self.living(&*view.state, &id)?;
        let limit = (request.limit as usize).clamp(1, TOKENS_MAX);
        let (tokens, next) = blocking(|| {
            read::tokens_below(
                &*view.state,
                &id,
                request.below_version,
                after.as_ref(),
                limit,
            )
        });
        Ok(v1::ListTokensReply {
            tokens: tokens.into_iter().map(|token| token.token).collect(),
            next_start_after: next.map(Into::into).unwrap_or_default(),
        })
    }

    /// Replaces the token of a lease that is here by one of a newer KEK version. Whose lease it is and until when must
    /// not change: apply compares with the one held.
    async fn rewrap_token(&self, request: v1::RegisterLeaseRequest) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        self.decide_shard(
            &shard.group,
            Room::Reserved,
            Bytes::new(),
            |table, state| {
                let dataset = read::dataset(state, &id).ok_or(CallError::NoSuchDataset)?;
                let (lease, token) = tokens::verify_signed(table, &dataset, &request.token)?;
                if read::token(state, &id, &lease).is_none() {
                    return Err(CallError::refused(v1::Refusal::NoSuchToken));
                }
                let register = v1::RegisterToken {
                    lease_id: lease.into(),
                    token: Some(token),
                };
                Ok(Decision {
                    key_state_version: dataset.key_state_version,
                    command: Command::RegisterToken(register),
                })
            },
        )
        .await
    }

    async fn put_object(
        &self,
        peer: &Peer,
        request: v1::PutObjectRequest,
    ) -> Result<v1::Done, CallError> {
        self.disk.check()?;
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        locks::sound(&shard.group, request.entry.as_ref())?;
        let put = v1::PutObject {
            dataset_id: request.dataset_id,
            key: request.key,
            precondition: request.precondition,
            entry: request.entry,
            holder: holder_of(&peer.public_key),
        };
        self.decide_shard(
            &shard.group,
            Room::Needed,
            request.request_id,
            |table, state| {
                self.check(table, peer, Some(&id), &[Action::Write])?;
                Ok(Decision {
                    key_state_version: key_state_version(state, &id)?,
                    command: Command::PutObject(put.clone()),
                })
            },
        )
        .await
    }

    async fn finish_object(
        &self,
        peer: &Peer,
        request: v1::FinishObjectRequest,
    ) -> Result<v1::Done, CallError> {
        self.disk.check()?;
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        locks::sound(&shard.group, request.entry.as_ref())?;
        // Before the signatures: who does not lead need not check them.
        self.leading(&shard.group)?;
        let entry = request
            .entry
            .ok_or(CallError::Malformed("it has no entry"))?;
        let upload = receipts::Upload {
            shard: shard.group.id(),
            dataset: id,
            version: ObjectVersionId::try_from(entry.version_id.as_ref())?,
            upload_epoch: entry.upload_epoch,
            blocks: &entry.blocks,
        };
        let claims = receipts::verify(&self.enrolments.current(), &upload, &request.receipts)?;
        let finish = v1::FinishObject {
            dataset_id: request.dataset_id,
            key: request.key,
            precondition: request.precondition,
            receipts: claims,
            holder: holder_of(&peer.public_key),
            entry: Some(entry),
        };
        self.decide_shard(
            &shard.group,
            Room::Needed,
            request.request_id,
            |table, state| {
                self.check(table, peer, Some(&id), &[Action::Write])?;
                Ok(Decision {
                    key_state_version: key_state_version(state, &id)?,
                    command: Command::FinishObject(finish.clone()),
                })
            },
        )
        .await
    }

    async fn delete_object(
        &self,
        peer: &Peer,
        request: v1::DeleteObjectRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        request.key.parse::<ObjectKey>()?;
        let delete = v1::DeleteObject {
            dataset_id: request.dataset_id,
            key: request.key,
            precondition: request.precondition,
            version_id: request.version_id,
            new_marker_id: request.new_marker_id,
            bypass_governance: request.bypass_governance,
        };
        if delete.bypass_governance {
            at_level(&shard.group, LOCK_LEVEL)?;
        }
        self.decide_shard(
            &shard.group,
            Room::Reserved,
            request.request_id,
            |table, _| {
                self.check(table, peer, Some(&id), &[Action::Write])?;
                if delete.bypass_governance {
                    self.check(table, peer, Some(&id), &[Action::Keys])?;
                }
                // A delete involves no key: it works whatever the key's state is.
                let command = Command::DeleteObject(delete.clone());
                Ok(Decision {
                    key_state_version: 0,
                    command,
                })
            },
        )
        .await
    }

    async fn get_object(
        &self,
        peer: &Peer,
        request: v1::GetObjectRequest,
    ) -> Result<v1::GetObjectReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        let mut version = match request.version_id.len() {
            0 => None,
            _ => Some(ObjectVersionId::try_from(request.version_id.as_ref())?),
        };
        self.check(
            &self.enrolments.current(),
            peer,
            Some(&id),
            &[Action::Read, Action::List],
        )?;
        let asked_at = Instant::now();
        let (view, index, stale_ms) = if request.allow_stale {
            let stale = shard.stale_ms(asked_at);
            let (view, index) = self.view(&shard.group)?;
            // Never confirmed since the start: nothing can be said, so nothing is served.
            let stale = stale.ok_or(CallError::Read(replica::host::ReadError::Behind))?;
            (view, index, stale)
        } else {
            let (view, index) = self.read(&shard.group).await?;
            shard.confirmed(asked_at);
            (view, index, 0)
        };
        let state = &*view.state;
        self.living(state, &id)?;
        if request.null_version {
            let null = read::null_version(state, &id, &request.key);
            let null = null.ok_or(CallError::NoSuchObject)?.version_id;
            version = Some(ObjectVersionId::try_from(null.as_ref())?);
        }
        let mut entry = read::object(state, &id, &request.key, version.as_ref())
            .ok_or(CallError::NoSuchObject)?;
        // Asked for by its id, a marker is answered as one; as the current version it hides the object.
        if entry.delete_marker && version.is_none() {
            return Err(CallError::NoSuchObject);
        }
        if request.head_only {
            entry.inline = Bytes::new();
        }
        let token = LeaseId::try_from(entry.lease_id.as_ref())
            .ok()
            .and_then(|lease| read::token(state, &id, &lease))
            .map(|record| record.token)
            .unwrap_or_default();
        Ok(v1::GetObjectReply {
            entry: Some(entry),
            token,
            at_index: index.0,
            replicas: shard
                .group
                .voters()
                .all()
                .iter()
                .map(|node| node.0)
                .collect(),
            stale_ms,
        })
    }

    /// The dataset, if it is served here; under a fence it is read as ever.
    pub(crate) fn living(
        &self,
        state: &dyn proto::store::Reader,
        id: &DatasetId,
    ) -> Result<v1::DatasetRecord, CallError> {
        let dataset = read::dataset(state, id).ok_or(CallError::NoSuchDataset)?;
        match unserved(&dataset) {
            Some(refused) => Err(CallError::Refused { refused }),
            None => Ok(dataset),
        }
    }

    async fn list_objects(
        &self,
        peer: &Peer,
        request: v1::ListObjectsRequest,
    ) -> Result<v1::ListObjectsReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        bounded(&[&request.prefix, &request.delimiter, &request.start_after])?;
        self.check(&self.enrolments.current(), peer, Some(&id), &[Action::List])?;
        let (view, index) = self.read(&shard.group).await?;
        self.living(&*view.state, &id)?;
        let query = ObjectsQuery {
            dataset: &id,
            prefix: &request.prefix,
            delimiter: &request.delimiter,
            start_after: &request.start_after,
            limit: request.limit as usize,
        };
        // Up to ten thousand records, from disk perhaps.
        let page = blocking(|| listing::objects(&*view.state, query));
        Ok(v1::ListObjectsReply {
            at_index: index.0,
            ..page
        })
    }

    async fn list_versions(
        &self,
        peer: &Peer,
        request: v1::ListVersionsRequest,
    ) -> Result<v1::ListVersionsReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        bounded(&[&request.prefix, &request.start_after_key])?;
        self.check(&self.enrolments.current(), peer, Some(&id), &[Action::List])?;
        let (view, index) = self.read(&shard.group).await?;
        self.living(&*view.state, &id)?;
        let query = VersionsQuery {
            dataset: &id,
            prefix: &request.prefix,
            start_after_key: &request.start_after_key,
            start_after_index: LogIndex(request.start_after_index),
            limit: request.limit as usize,
        };
        let page = blocking(|| listing::versions(&*view.state, query));
        Ok(v1::ListVersionsReply {
            at_index: index.0,
            ..page
        })
    }

    /// A refusal is answered as one and not as a status: to the KMS a version that was overtaken is committed.
    async fn set_key_state(
        &self,
        request: v1::SetKeyStateRequest,
    ) -> Result<v1::ShardAnswer, CallError> {
        let shard = self.shard(request.shard)?;
        let set = v1::SetKeyState {
            dataset_id: request.dataset_id,
            state: request.state,
            version: request.version,
            min_kek_version: request.min_kek_version,
        };
        let answer = self
            .decide_shard(&shard.group, Room::Reserved, Bytes::new(), |_, state| {
                let id = DatasetId::try_from(set.dataset_id.as_ref())?;
                let held = read::dataset(state, &id).map_or(0, |dataset| dataset.key_state_version);
                if held > set.version {
                    // Said here, because a verdict that moved would be decided anew for ever.
                    let refused = v1::Refused {
                        reason: v1::Refusal::KeyStateMoved.into(),
                        moved_to: held,
                        ..Default::default()
                    };
                    return Err(CallError::Refused { refused });
                }
                let command = Command::SetKeyState(set.clone());
                Ok(Decision {
                    key_state_version: 0,
                    command,
                })
            })
            .await;
        match answer {
            Ok(done) => Ok(answered(done)),
            Err(CallError::Refused { refused }) => Ok(v1::ShardAnswer {
                answer: Some(Answer::Refused(refused)),
            }),
            Err(error) => Err(error),
        }
    }

    async fn set_versioning(
        &self,
        peer: &Peer,
        request: v1::SetVersioningRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        self.decide_shard(&shard.group, Room::Reserved, Bytes::new(), |table, _| {
            self.check(table, peer, Some(&id), &[Action::Create])?;
            let (dataset_id, enabled) = (request.dataset_id.clone(), request.enabled);
            let set = v1::SetVersioning {
                dataset_id,
                enabled,
            };
            Ok(Decision {
                key_state_version: 0,
                command: Command::SetVersioning(set),
            })
        })
        .await
    }

    /// Retention and legal hold. Approvals are checked before anything is proposed; apply counts them again.
    async fn set_hold(
        &self,
        peer: &Peer,
        mut request: v1::SetHoldRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let id = DatasetId::try_from(request.dataset_id.as_ref())?;
        at_level(&shard.group, HOLD_LEVEL)?;
        let given = std::mem::take(&mut request.approvals);
        let asked = Asked {
            requester: &peer.identity,
            request_hash: request_hash("SetHold", &request),
            single_use_id: &request.single_use_id,
            now: self.clock.now(),
        };
        self.decide_shard(
            &shard.group,
            Room::Reserved,
            Bytes::new(),
            |table, state| {
                self.check(table, peer, Some(&id), &[Action::Keys])?;
                let held = read::dataset(state, &id).ok_or(CallError::NoSuchDataset)?;
                let lifts = held.hold.is_some_and(|hold| hold.legal) && !request.legal;
                let approvers = match lifts {
                    true => approvers(table, &asked, &given)?,
                    false => Vec::new(),
                };
                let set = v1::SetHold {
                    dataset_id: request.dataset_id.clone(),
                    from_version: request.from_version,
                    retain_until_ms: request.retain_until_ms,
                    legal: request.legal,
                    requester: peer.identity.to_string(),
                    approvers,
                };
                Ok(Decision {
                    key_state_version: 0,
                    command: Command::SetHold(set),
                })
            },
        )
        .await
    }

    /// From the catalog's leader, which has checked the grant.
    pub(crate) async fn admit_dataset(
        &self,
        request: v1::AdmitDatasetRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        let dataset = request.dataset.map(|asked| v1::DatasetRecord {
            // A count, which is apply's: a replica that does not know the field would keep none.
            uploads: 0,
            ..asked
        });
        self.decide_shard(&shard.group, Room::Needed, Bytes::new(), |_, _| {
            let create = v1::CreateDataset {
                dataset: dataset.clone(),
            };
            Ok(Decision {
                key_state_version: 0,
                command: Command::CreateDataset(create),
            })
        })
        .await
    }

    /// From the catalog's leader, which has checked the grant.
    pub(crate) async fn drop_dataset(
        &self,
        request: v1::DropDatasetRequest,
    ) -> Result<v1::Done, CallError> {
        let shard = self.shard(request.shard)?;
        self.decide_shard(&shard.group, Room::Reserved, Bytes::new(), |_, _| {
            let (dataset_id, force) = (request.dataset_id.clone(), request.force);
            let drop = v1::TombstoneDataset { dataset_id, force };
            Ok(Decision {
                key_state_version: 0,
                command: Command::TombstoneDataset(drop),
            })
        })
        .await
    }

    async fn shard_status(
        &self,
        peer: &Peer,
        request: v1::ShardStatusRequest,
    ) -> Result<v1::ShardStatusReply, CallError> {
        let shard = self.shard(request.shard)?;
        let id = match request.dataset_id.len() {
            0 => None,
            _ => Some(DatasetId::try_from(request.dataset_id.as_ref())?),
        };
        if !matches!(peer.identity.role(), Role::Node | Role::Kms) {
            let any = [Action::List, Action::Read, Action::Write];
            self.check(&self.enrolments.current(), peer, id.as_ref(), &any)?;
        }
        let (view, index) = self.read(&shard.group).await?;
        let meta = ShardMeta::load(&*view.state);
        let dataset = id.and_then(|id| read::dataset(&*view.state, &id));
        Ok(v1::ShardStatusReply {
            request_epoch: dataset
                .as_ref()
                .map_or(0, |dataset| request_epoch(&meta, dataset)),
            dataset,
            upload_epoch: meta.upload_epoch.0,
            sealed_bytes: meta.sealed_bytes,
            at_index: index.0,
            datasets: meta.datasets,
        })
    }
}

/// The epoch for request ids of a dataset, where that is ahead of the shard's: of one that came from a shard ahead.
pub(crate) fn request_epoch(meta: &ShardMeta, dataset: &v1::DatasetRecord) -> u64 {
    match dataset.request_offset {
        0 => 0,
        ahead => meta.upload_epoch.0 + ahead,
    }
}

pub(crate) fn bounded(texts: &[&str]) -> Result<(), CallError> {
    // A common prefix that a page ends with is a key's prefix and a delimiter.
    if texts
        .iter()
        .all(|text| text.len() <= ObjectKey::BYTES_MAX + limits::DELIMITER_BYTES_MAX)
    {
        return Ok(());
    }
    Err(CallError::Malformed(
        "a prefix, delimiter or start is longer than any key",
    ))
}

/// Runs what may wait for the disk where that is allowed.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let threads = tokio::runtime::Handle::current().runtime_flavor();
    match threads {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
