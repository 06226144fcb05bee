//! A change of a key on its way: a retry is answered as the change was, and what is new is decided on the key as it stands.
//!
//! Owns what every such command has in common, from its request id to its leaf. Refuses one decided on a key that moved,
//! and one whose claim is not its requester's.

use std::ops::ControlFlow;

use proto::ids::DatasetId;
use proto::v1::kms_command::Command;
use proto::v1::{
    ChangeKeyState, Claim, EndKekVersions, KekRecord, KmsDone, LabelKey, PlanKeyRotation,
    RaiseMinVersion, RotateKek, ShredKey,
};
use serde::Serialize;
use tlog::{Kind, Purpose};

use crate::append::{Applying, Private, details};
use crate::keys::{done_before, moved_by, requested, store};
use crate::refusal::Refusal;
use crate::requests::ChangeRequest;

/// A command that changes a key.
pub(crate) trait ChangesKey {
    /// Which key, at which version of its state.
    fn decided_on(&self) -> (&[u8], u64);
    fn claim(&self) -> Option<&Claim>;
    fn request_id(&self) -> &[u8];
    /// The change without what the leader adds anew for each attempt: what its request id is bound to.
    fn bound(&self) -> Command;
}

/// For each command the fields that are made anew beside the version it is decided on.
macro_rules! changes_key {
    ($($command:ident { $($anew:ident),* })*) => {$(
        impl ChangesKey for $command {
            fn decided_on(&self) -> (&[u8], u64) {
                (&self.dataset_id, self.state_version)
            }

            fn claim(&self) -> Option<&Claim> {
                self.claim.as_ref()
            }

            fn request_id(&self) -> &[u8] {
                &self.request_id
            }

            fn bound(&self) -> Command {
                Command::$command($command {
                    state_version: 0,
                    $($anew: Default::default(),)*
                    ..self.clone()
                })
            }
        }
    )*};
}

changes_key! {
    RotateKek { version }
    ChangeKeyState {}
    PlanKeyRotation {}
    RaiseMinVersion {}
    EndKekVersions { metadata_keys }
    LabelKey {}
    ShredKey {}
}

/// A change that was not made before, of a key that has not moved.
pub(crate) struct Changing {
    pub(crate) dataset: DatasetId,
    pub(crate) key: KekRecord,
    pub(crate) private: Private,
    purpose: Purpose,
    request: Option<ChangeRequest>,
}

/// The change, or its answer where it was made before.
pub(crate) fn begin(
    applying: &Applying<'_>,
    command: &impl ChangesKey,
) -> Result<ControlFlow<KmsDone, Changing>, Refusal> {
    let (dataset_id, state_version) = command.decided_on();
    let request = ChangeRequest::of(applying, command.request_id(), command.bound())?;
    if let Some(done) = done_before(applying, dataset_id, request.as_ref())? {
        return Ok(ControlFlow::Break(done));
    }
    let (dataset, key) = moved_by(applying, dataset_id, state_version)?;
    let (purpose, private) = requested(applying, command.claim())?;
    Ok(ControlFlow::Continue(Changing {
        dataset,
        key,
        private,
        purpose,
        request,
    }))
}

impl Changing {
    /// Moves the version of the key's state on, and puts the change on record with what `said` makes of the key as it is
    /// then. Writes: call it when nothing can fail.
    pub(crate) fn finish<S: Serialize>(
        mut self,
        applying: &mut Applying<'_>,
        kind: Kind,
        said: impl FnOnce(&KekRecord) -> S,
    ) -> KmsDone {
        self.key.state_version += 1;
        details(&mut self.private, &said(&self.key));
        if let Some(request) = &self.request {
            request.name_in(&mut self.private);
        }
        let leaf = applying.append(kind, self.purpose, Some(&mut self.key), self.private);
        if let Some(request) = &self.request {
            request.remember(applying, &leaf);
        }
        store(applying, &self.dataset, &self.key, &leaf)
    }
}
