//! The machine of one shard: datasets and their settings, objects and what locks them, uploads in parts, tokens, request
//! ids, upload epochs, datasets that leave for another region, come from one, or come back from a backup.
//!
//! Owns the order of checks, the same in every command: the leader's clock; size and shape; request id window; verdict;
//! dataset; key; token; version id; upload epoch and receipts; precondition. Nothing is written before all of them have
//! passed. A refusal is an answer, equal on every replica; a command this build does not know stops the replica.

use bytes::Bytes;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetEpoch, DatasetId, FeatureLevel, LogIndex};
use proto::store::Writer;
use proto::v1;
use proto::v1::shard_command::Command;

use crate::at::{At, Majority, Unknown};
use crate::keys::{self, table};
use crate::limits::{COMMAND_BYTES_MAX, SWEEP_STEPS};
use crate::record::{self, ShardMeta};
use crate::relocation::{Authority, Change};
use crate::time::{self, TIME_BOUND_LEVEL};

mod arrive;
mod config;
mod dataset;
mod delete;
mod depart;
mod epoch;
mod evidence;
mod hold;
mod import;
pub mod lifecycle;
mod lock;
mod metadata;
mod multipart;
mod put;
mod refusal;
mod relocation;
mod request;
mod restore;
mod subject;
mod sweep;
mod token;
pub(crate) mod tombstone;
mod versions;

pub use arrive::{MOVER_LEVEL, PACE_LEVEL};
pub use config::CONFIG_LEVEL;
pub use hold::{HOLD_LEVEL, is_held};
pub use import::LATE_PARTS_LEVEL;
pub use lock::LOCK_LEVEL;
pub use metadata::METADATA_LEVEL;
pub use multipart::MULTIPART_LEVEL;
use refusal::{Answer, malformed, refuse};
use relocation::not_admitted;
pub use relocation::{RELOCATION_LEVEL, unserved};
use request::Window;
pub use restore::RESTORE_LEVEL;
pub use subject::subject;

/// Applies the commands of one shard's log.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShardMachine;

impl ShardMachine {
    /// Applies one committed command (`ShardCommand`) and answers with an encoded `ShardAnswer`. Writes `state`,
    /// and to `local` what this replica has to look for on its disk ([`crate::local`]).
    pub fn apply(
        &self,
        at: At<'_>,
        command: &Bytes,
        state: &mut dyn Writer,
        local: &mut dyn Writer,
    ) -> Result<Bytes, Unknown> {
        let unknown = |what| Unknown {
            index: at.index,
            what,
        };
        let bytes = command.len();
        let command = v1::ShardCommand::decode(command.clone())
            .map_err(|_| unknown("bytes that are no shard command"))?;
        let Some(kind) = &command.command else {
            return Err(unknown(
                "a shard command of a kind this build does not know",
            ));
        };
        let by_majority = match kind {
            Command::AdvanceTime(advance) => Some(advance),
            _ => None,
        };
        let takes = match kind {
            Command::AdvanceTime(_) => TIME_BOUND_LEVEL,
            Command::SetHold(_) => HOLD_LEVEL,
            Command::CreateUpload(_)
            | Command::FinishPart(_)
            | Command::CompleteUpload(_)
            | Command::AbortUpload(_) => MULTIPART_LEVEL,
            Command::SetObjectLock(_) | Command::SetRetention(_) | Command::SetLegalHold(_) => {
                LOCK_LEVEL
            }
            Command::SetConfig(_) | Command::SetQuota(_) | Command::LifecycleStep(_) => {
                CONFIG_LEVEL
            }
            Command::Arrive(arrive) => arrive::takes(arrive),
            Command::Depart(_) | Command::Import(_) => RELOCATION_LEVEL,
            Command::SetMetadata(_) => METADATA_LEVEL,
            Command::Restore(_) => RESTORE_LEVEL,
            _ => FeatureLevel(0),
        };
        if at.level < takes {
            return Err(unknown("a shard command of a later feature level"));
        }
        let before = ShardMeta::load(&*state);
        let time = match time::after(at, before.time, command.now_ms, by_majority) {
            Ok(time) => time,
            // Before the request window: a retry that was done finds its answer when time has been moved on.
            Err(refused) => return Ok(encode(Err(refused))),
        };
        let mut apply = Apply {
            index: at.index,
            level: at.level,
            voters: at.voters,
            state,
            local,
            meta: ShardMeta { time, ..before },
            decided_in: None,
        };
        let answer = if bytes > COMMAND_BYTES_MAX {
            encode(malformed())
        } else {
            match apply.window(&command, kind) {
                Window::Answered(answer) => answer,
                Window::Refused(refused) => encode(Err(refused)),
                Window::Free(claim) => {
                    let answer = apply.run(&command, kind);
                    apply.remember(claim, answer)
                }
            }
        };
        apply.sweep(SWEEP_STEPS);
        if apply.meta != before {
            apply
                .state
                .put(&keys::single(table::META), &apply.meta.encode());
        }
        Ok(answer)
    }
}

fn encode(answer: Answer) -> Bytes {
    use v1::shard_answer::Answer as Kind;
    let answer = match answer {
        Ok(done) => Kind::Done(done),
        Err(refused) => Kind::Refused(refused),
    };
    v1::ShardAnswer {
        answer: Some(answer),
    }
    .encode_to_vec()
    .into()
}

/// One command being applied.
struct Apply<'a> {
    index: LogIndex,
    level: FeatureLevel,
    voters: &'a dyn Majority,
    state: &'a mut dyn Writer,
    local: &'a mut dyn Writer,
    meta: ShardMeta,
    /// The dataset epoch that the leader decided in; from level 6 on, where it decided on a dataset.
    decided_in: Option<DatasetEpoch>,
}

/// A dataset being worked on. Written back with [`Apply::save`].
struct Dataset {
    id: DatasetId,
    record: v1::DatasetRecord,
}

impl Apply<'_> {
    fn run(&mut self, command: &v1::ShardCommand, kind: &Command) -> Answer {
        match kind {
            Command::AdvanceUploadEpoch(advance) => return self.advance_upload_epoch(advance),
            Command::SetAuthority(set) => return self.set_authority(set),
            Command::Sweep(sweep) => return self.sweep_more(sweep),
            Command::LifecycleStep(step) => return self.lifecycle_step(step),
            // Time is all it moves.
            Command::AdvanceTime(_) => return Ok(self.done()),
            _ => {}
        }
        let verdict = self.verdict(command)?;
        if self.level >= RELOCATION_LEVEL {
            self.decided_in = Some(DatasetEpoch(verdict.dataset_epoch));
        }
        match kind {
            Command::CreateDataset(create) => self.create_dataset(create),
            Command::TombstoneDataset(tombstone) => self.tombstone_dataset(tombstone),
            Command::SetKeyState(set) => self.set_key_state(set),
            Command::SetVersioning(set) => self.set_versioning(set),
            Command::SetHold(set) => self.set_hold(set),
            Command::RegisterToken(register) => self.register_token(verdict, register),
            Command::PutObject(put) => self.put_object(verdict, put),
            Command::FinishObject(finish) => self.finish_object(verdict, finish),
            Command::DeleteObject(delete) => self.delete_object(delete),
            Command::CreateUpload(create) => self.create_upload(verdict, create),
            Command::FinishPart(finish) => self.finish_part(verdict, finish),
            Command::CompleteUpload(complete) => self.complete_upload(verdict, complete),
            Command::AbortUpload(abort) => self.abort_upload(abort),
            Command::SetObjectLock(set) => self.set_object_lock(set),
            Command::SetRetention(set) => self.set_retention(set),
            Command::SetLegalHold(set) => self.set_legal_hold(set),
            Command::SetMetadata(set) => self.set_metadata(verdict, set),
            Command::SetConfig(set) => self.set_config(set),
            Command::SetQuota(set) => self.set_quota(set),
            Command::Depart(depart) => self.depart(depart),
            Command::Arrive(arrive) => self.arrive(arrive),
            Command::Import(import) => self.import(verdict, import),
            Command::Restore(restore) => self.restore(restore),
            Command::AdvanceUploadEpoch(_)
            | Command::SetAuthority(_)
            | Command::Sweep(_)
            | Command::LifecycleStep(_)
            | Command::AdvanceTime(_) => malformed(),
        }
    }

    /// What the leader decided on must still be what is in force: between its decision and this position a
    /// revocation may have been committed.
    fn verdict(&self, command: &v1::ShardCommand) -> Result<v1::Verdict, v1::Refused> {
        let Some(verdict) = command.verdict else {
            return malformed();
        };
        if verdict.authority_version != self.meta.authority_version
            && !broken(Switch::UnboundVerdict)
        {
            return Err(v1::Refused {
                moved_to: self.meta.authority_version,
                ..refusal::of(v1::Refusal::AuthorityMoved)
            });
        }
        Ok(verdict)
    }

    /// The dataset, if it takes this change here, and in the epoch that the leader decided in.
    fn writable(&self, id: &[u8], change: Change) -> Result<Dataset, v1::Refused> {
        let mut dataset = self.held(id)?;
        match dataset.record.status() {
            v1::DatasetStatus::Active | v1::DatasetStatus::Fenced | v1::DatasetStatus::Moved => {}
            v1::DatasetStatus::Arriving => return refuse(v1::Refusal::DatasetArriving),
            v1::DatasetStatus::Tombstoned | v1::DatasetStatus::Unspecified => {
                return Err(relocation::gone(&dataset.record));
            }
        }
        let authority = Authority::stored(&dataset.record);
        let epoch = self.decided_in.unwrap_or(authority.epoch());
        let after = authority
            .clone()
            .admit(change, epoch)
            .map_err(|refused| not_admitted(refused, &dataset.record))?;
        // Below, a fence is a record alone, and stays what it is.
        if after != authority && self.level >= RELOCATION_LEVEL {
            dataset.settle(&after);
        }
        Ok(dataset)
    }

    /// The dataset, whatever its status.
    fn held(&self, id: &[u8]) -> Result<Dataset, v1::Refused> {
        let Ok(id) = DatasetId::try_from(id) else {
            return malformed();
        };
        match self.dataset(&id) {
            Some(record) => Ok(Dataset { id, record }),
            None => refuse(v1::Refusal::NoSuchDataset),
        }
    }

    fn dataset(&self, id: &DatasetId) -> Option<v1::DatasetRecord> {
        record::load(&*self.state, &keys::dataset(table::DATASET, id))
    }

    fn save(&mut self, dataset: &Dataset) {
        let key = keys::dataset(table::DATASET, &dataset.id);
        self.state.put(&key, &dataset.record.encode_to_vec());
        let fence = keys::dataset(table::FENCE, &dataset.id);
        let departs = dataset.record.authority.is_some();
        let fenced = dataset.record.status() == v1::DatasetStatus::Fenced;
        if departs && !fenced && self.state.value(&fence).is_some() {
            self.state.delete(&fence);
        }
    }

    /// The key's state is the one the leader saw, and lets new objects be sealed.
    fn key_allows(&self, verdict: v1::Verdict, dataset: &Dataset) -> Result<(), v1::Refused> {
        let held = dataset.record.key_state_version;
        if verdict.key_state_version != held && !broken(Switch::UnboundVerdict) {
            return Err(v1::Refused {
                moved_to: held,
                ..refusal::of(v1::Refusal::KeyStateMoved)
            });
        }
        match dataset.record.key_state() {
            v1::KeyState::Enabled => Ok(()),
            _ => refuse(v1::Refusal::KeyDisabled),
        }
    }

    fn done(&self) -> v1::Done {
        v1::Done {
            log_index: self.index.0,
            upload_epoch: self.meta.upload_epoch.0,
            ..Default::default()
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod relocation_tests;
#[cfg(test)]
mod tests;
