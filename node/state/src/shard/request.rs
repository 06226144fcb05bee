//! The request id window: a request that is sent again has effect once.
//!
//! Owns the binding of an id to the hash of its request for 24 upload epochs. Refuses ids from outside the window
//! without running them: whether they ran is no longer known.

use bytes::Bytes;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::RequestId;
use proto::v1;
use proto::v1::shard_command::Command;

use super::refusal::{Answer, is_final, of};
use super::{Apply, encode};
use crate::limits::EPOCHS_KEPT;
use crate::{keys, record};

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
    id: RequestId,
    hash: [u8; 32],
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
        let now = self.meta.upload_epoch;
        // An id from the future would outlive the window that its retries are promised.
        if id.epoch > now {
            return Window::Refused(of(v1::Refusal::Malformed));
        }
        // Before the look-up, so that the answer does not depend on how far the sweep has come.
        if now.0 - id.epoch.0 > EPOCHS_KEPT {
            return Window::Refused(of(v1::Refusal::RequestTooOld));
        }
        let hash = hash(command);
        let kept: Option<v1::RequestRecord> = record::load(&*self.state, &keys::request(&id));
        match kept {
            None => Window::Free(Some(Claim { id, hash })),
            Some(_) if broken(Switch::RetryTwice) => Window::Free(Some(Claim { id, hash })),
            Some(kept) if kept.request_hash == hash[..] => Window::Answered(kept.answer),
            Some(_) => Window::Refused(of(v1::Refusal::RequestIdReused)),
        }
    }

    /// Encodes the answer, and keeps it under the id when it is final.
    pub(super) fn remember(&mut self, claim: Option<Claim>, answer: Answer) -> Bytes {
        let keep = is_final(&answer);
        let answer = encode(answer);
        if let Some(claim) = claim.filter(|_| keep) {
            let kept = v1::RequestRecord {
                request_hash: Bytes::copy_from_slice(&claim.hash),
                answer: answer.clone(),
            };
            self.state
                .put(&keys::request(&claim.id), &kept.encode_to_vec());
        }
        answer
    }
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
