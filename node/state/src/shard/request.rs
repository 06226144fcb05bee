//! The request id window: a request that is sent again has effect once.
//!
//! Owns the binding of an id to the hash of its request for 24 upload epochs. Refuses ids from outside the window
//! without running them: whether they ran is no longer known.

use bytes::Bytes;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, RequestId, UploadEpoch};
use proto::v1;
use proto::v1::shard_command::Command;

use super::refusal::{Answer, is_final, of};
use super::relocation::RELOCATION_LEVEL;
use super::{Apply, encode};
use crate::keys::{self, table};
use crate::limits::EPOCHS_KEPT;
use crate::record;

/// What the window says of a command.
pub(super) enum Window {
    /// Not run yet, or a command without an id: run it.
    Free(Option<Claim>),
    /// Run before; this was the answer.
    Answered(Bytes),
    /// Not to be run.
    Refused(v1::Refused),
}

/// A request id that is about to be used.
pub(super) struct Claim {
    /// In the shard's epochs, under which it is kept.
    id: RequestId,
    /// In the dataset's, as it was sent.
    sent: RequestId,
    hash: [u8; 32],
    dataset: Option<DatasetId>,
    offset: u64,
}

impl Apply<'_> {
    pub(super) fn window(&self, command: &v1::ShardCommand, kind: &Command) -> Window {
        if command.request_id.is_empty() {
            let by_itself = !matches!(
                kind,
                Command::PutObject(_)
                    | Command::FinishObject(_)
                    | Command::DeleteObject(_)
                    | Command::CreateUpload(_)
                    | Command::FinishPart(_)
                    | Command::CompleteUpload(_)
                    | Command::AbortUpload(_)
                    | Command::SetRetention(_)
                    | Command::SetLegalHold(_)
                    | Command::SetMetadata(_)
            );
            return if by_itself {
                Window::Free(None)
            } else {
                Window::Refused(of(v1::Refusal::Malformed))
            };
        }
        let Ok(id) = RequestId::try_from(command.request_id.as_ref()) else {
            return Window::Refused(of(v1::Refusal::Malformed));
        };
        let (hash, dataset) = (hash(command), subject(kind));
        let of_dataset = dataset.filter(|_| self.level >= RELOCATION_LEVEL);
        // First: what ran where the dataset came from ran in epochs of that shard.
        if let Some(kept) = of_dataset.and_then(|dataset| self.crossed(&dataset, &id)) {
            return answered(kept, &hash);
        }
        let record = of_dataset.and_then(|dataset| self.dataset(&dataset));
        let offset = record.as_ref().map_or(0, |record| record.request_offset);
        // A mover's own ids stay where it fills.
        let arriving = |record: v1::DatasetRecord| record.status() == v1::DatasetStatus::Arriving;
        let dataset = dataset.filter(|_| !record.is_some_and(arriving));
        let sent = id;
        let Some(epoch) = id.epoch.0.checked_sub(offset).map(UploadEpoch) else {
            return Window::Refused(of(v1::Refusal::RequestTooOld));
        };
        let id = RequestId { epoch, ..id };
        let now = self.meta.upload_epoch;
        // An id from the future would outlive the window that its retries are promised.
        if id.epoch > now {
            return Window::Refused(of(v1::Refusal::Malformed));
        }
        // Before the look-up, so that the answer does not depend on how far the sweep has come.
        if now.0 - id.epoch.0 > EPOCHS_KEPT {
            return Window::Refused(of(v1::Refusal::RequestTooOld));
        }
        let kept: Option<v1::RequestRecord> = record::load(&*self.state, &keys::request(&id));
        match kept.filter(|_| !broken(Switch::RetryTwice)) {
            Some(kept) => answered(kept, &hash),
            None => Window::Free(Some(Claim {
                id,
                hash,
                sent,
                dataset,
                offset,
            })),
        }
    }

    /// What the id did in the region that the dataset came from, once it serves here.
    fn crossed(&self, dataset: &DatasetId, id: &RequestId) -> Option<v1::RequestRecord> {
        let kept = record::load(&*self.state, &keys::crossed(dataset, id))?;
        let serves = |record: v1::DatasetRecord| record.status() != v1::DatasetStatus::Arriving;
        self.dataset(dataset).is_some_and(serves).then_some(kept)
    }

    /// Encodes the answer, and keeps it under the id when it is final.
    pub(super) fn remember(&mut self, claim: Option<Claim>, answer: Answer) -> Bytes {
        let keep = is_final(&answer);
        let offset = claim.as_ref().map_or(0, |claim| claim.offset);
        let answer = encode(answer.map(|done| v1::Done {
            request_epoch: match offset {
                0 => 0,
                ahead => done.upload_epoch + ahead,
            },
            ..done
        }));
        if let Some(claim) = claim.filter(|_| keep) {
            let kept = v1::RequestRecord {
                request_hash: Bytes::copy_from_slice(&claim.hash),
                answer: answer.clone(),
                ..Default::default()
            };
            let kept = self.indexed(&claim, kept);
            self.state
                .put(&keys::request(&claim.id), &kept.encode_to_vec());
        }
        answer
    }

    /// The record of an id, once the index of its dataset leads to it: from level 6 on ids leave with their dataset,
    /// final refusals among them, which leave no change.
    fn indexed(&mut self, claim: &Claim, kept: v1::RequestRecord) -> v1::RequestRecord {
        if self.level < RELOCATION_LEVEL {
            return kept;
        }
        self.index_requests();
        let Some(dataset) = claim.dataset else {
            return kept;
        };
        let place = keys::change(table::REQUEST_AT, &dataset, self.index);
        self.state.put(&place, &claim.sent.to_bytes());
        v1::RequestRecord {
            dataset_id: dataset.into(),
            log_index: self.index.0,
            ..kept
        }
    }

    /// Notes from which upload epoch on every id that is answered is indexed, and answers it.
    pub(super) fn index_requests(&mut self) -> UploadEpoch {
        let place = keys::single(table::INDEXED);
        if let Some(from) = self.state.value(&place) {
            let from = from.as_ref().try_into().expect("written as eight bytes");
            return UploadEpoch(u64::from_be_bytes(from));
        }
        let (first, end) = keys::range(table::REQUEST, &[]);
        let none_before = self.some_records(&first, &end, 1).is_empty();
        let from = match none_before {
            true => UploadEpoch(0),
            // What was answered in this epoch before now is not.
            false => UploadEpoch(self.meta.upload_epoch.0 + 1),
        };
        self.state.put(&place, &from.0.to_be_bytes());
        from
    }
}

fn answered(kept: v1::RequestRecord, hash: &[u8; 32]) -> Window {
    match kept.request_hash == hash[..] {
        true => Window::Answered(kept.answer),
        false => Window::Refused(v1::Refused {
            current_version_id: made(&kept.answer),
            ..of(v1::Refusal::RequestIdReused)
        }),
    }
}

/// The version that a request made, if it made one: who seals every try anew asks for another each time, and is told
/// what the first one came to, whatever has become of it since.
fn made(answer: &Bytes) -> Bytes {
    let answer = v1::ShardAnswer::decode(answer.as_ref()).ok();
    match answer.and_then(|answer| answer.answer) {
        Some(v1::shard_answer::Answer::Done(done)) => done.version_id,
        Some(v1::shard_answer::Answer::Refused(_)) | None => Bytes::new(),
    }
}

/// The dataset of a command that takes a request id.
fn subject(kind: &Command) -> Option<DatasetId> {
    let id = match kind {
        Command::PutObject(put) => &put.dataset_id,
        Command::FinishObject(finish) => &finish.dataset_id,
        Command::DeleteObject(delete) => &delete.dataset_id,
        Command::CreateUpload(create) => &create.dataset_id,
        Command::FinishPart(finish) => &finish.dataset_id,
        Command::CompleteUpload(complete) => &complete.dataset_id,
        Command::AbortUpload(abort) => &abort.dataset_id,
        Command::SetRetention(set) => &set.dataset_id,
        Command::SetLegalHold(set) => &set.dataset_id,
        Command::SetMetadata(set) => &set.dataset_id,
        _ => return None,
    };
    DatasetId::try_from(id.as_ref()).ok()
}

/// What was asked for. Clock and verdict are the leader's and differ between tries; receipts are evidence, of which
/// a later try may have more.
fn hash(command: &v1::ShardCommand) -> [u8; 32] {
    let mut asked = command.clone();
    asked.now_ms = 0;
    asked.verdict = None;
    match &mut asked.command {
        Some(Command::FinishObject(finish)) => finish.receipts.clear(),
        Some(Command::FinishPart(finish)) => finish.receipts.clear(),
        _ => {}
    }
    blake3::hash(&asked.encode_to_vec()).into()
}
