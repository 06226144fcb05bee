//! Which dataset a command is of.
//!
//! Owns the one list of that for whoever proposes commands. Refuses to look at anything else of them.

use proto::ids::DatasetId;
use proto::v1::shard_command::Command;

/// The dataset that a command is decided on; none where it is the shard's own, or makes one.
pub fn subject(command: &Command) -> Option<DatasetId> {
    let id = match command {
        Command::TombstoneDataset(drop) => &drop.dataset_id,
        Command::SetKeyState(set) => &set.dataset_id,
        Command::SetVersioning(set) => &set.dataset_id,
        Command::SetHold(set) => &set.dataset_id,
        Command::RegisterToken(register) => &register.token.as_ref()?.dataset_id,
        Command::PutObject(put) => &put.dataset_id,
        Command::FinishObject(finish) => &finish.dataset_id,
        Command::DeleteObject(delete) => &delete.dataset_id,
        Command::CreateUpload(create) => &create.dataset_id,
        Command::FinishPart(finish) => &finish.dataset_id,
        Command::CompleteUpload(complete) => &complete.dataset_id,
        Command::AbortUpload(abort) => &abort.dataset_id,
        Command::SetObjectLock(set) => &set.dataset_id,
        Command::SetRetention(set) => &set.dataset_id,
        Command::SetLegalHold(set) => &set.dataset_id,
        Command::SetMetadata(set) => &set.dataset_id,
        Command::SetConfig(set) => &set.dataset_id,
        Command::SetQuota(set) => &set.dataset_id,
        Command::Depart(depart) => &depart.dataset_id,
        Command::Arrive(arrive) => &arrive.dataset_id,
        Command::Import(import) => &import.dataset_id,
        Command::Restore(restore) => &restore.dataset_id,
        Command::CreateDataset(_)
        | Command::AdvanceUploadEpoch(_)
        | Command::SetAuthority(_)
        | Command::Sweep(_)
        | Command::LifecycleStep(_)
        | Command::AdvanceTime(_) => return None,
    };
    DatasetId::try_from(id.as_ref()).ok()
}
