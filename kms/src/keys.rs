//! The life of a dataset's key: born, rotated, disabled, enabled, compromised. Its end is in [`crate::destruction`].
//!
//! Owns what each change asks of policy and what its answer says. Refuses changes that a grant does not allow. Key
//! bytes are born in [`crate::custody`] and enter the log wrapped.

use bytes::Bytes;
use proto::ids::{DatasetId, Identity, KekId, KekVersion, RootEpoch, UnixMs};
use proto::store::Reader;
use proto::v1;
use transport::Peer;

use crate::approvals::{self, ApprovalError};
use crate::core::{Core, LevelTooLow, StaleError};
use crate::custody::CustodyError;
use crate::destruction::DAYS;
use crate::kek_rotation::RewrapError;
use crate::ledger::{Command, CommitError};
use crate::opens::request_id;
use crate::policy::Denied;
use crate::random;
use crate::seal::Sealed;
use crate::word_of_shard::HeldError;

/// Why a key was not changed or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// A field is not what it must be.
    #[error("the key request's {field} is malformed")]
    Malformed {
        /// Which field.
        field: &'static str,
    },
    /// No such key.
    #[error("there is no key of dataset {dataset}")]
    NoSuchKey {
        /// Of which dataset.
        dataset: DatasetId,
    },
    /// No key has it.
    #[error("no key has this alias")]
    NoSuchAlias,
    /// The caller may not know of it.
    #[error("not allowed")]
    Denied(#[source] Denied),
    /// The key could not be made.
    #[error("the key could not be made")]
    Custody(#[from] CustodyError),
    /// The change was not recorded.
    #[error("the change was not recorded")]
    Commit(#[from] CommitError),
    /// The state could not be read.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// The key's state does not lead there.
    #[error("the key is {}: this takes one that is {takes}", state_name(*state))]
    State {
        /// Its state.
        state: v1::KeyState,
        /// Which states lead there.
        takes: &'static str,
    },
    /// Too soon or too late.
    #[error(
        "a destruction waits {} to {} days, not {days}",
        DAYS.start(),
        DAYS.end()
    )]
    Days {
        /// Asked for.
        days: u32,
    },
    /// Something keeps it, or may.
    #[error("the key cannot be destroyed")]
    Held(#[from] HeldError),
    /// Tokens that are not of the newest version, or may not be.
    #[error("older versions of the key are needed, or may be")]
    Rewrap(#[from] RewrapError),
    /// Approvals that do not hold.
    #[error("the approvals do not carry the destruction")]
    Approval(#[from] ApprovalError),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
}

/// A state in an operator's words.
fn state_name(state: v1::KeyState) -> &'static str {
    match state {
        v1::KeyState::Unspecified => "in no state",
        v1::KeyState::Enabled => "enabled",
        v1::KeyState::Disabled => "disabled",
        v1::KeyState::Compromised => "compromised",
        v1::KeyState::PendingDestruction => "pending destruction",
        v1::KeyState::Destroyed => "destroyed",
    }
}

/// A change of a key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new version becomes current; leases under older ones are still opened.
    Rotate,
    /// Opens and leases stop.
    Disable,
    /// They go on.
    Enable,
    /// They stop for good: there is no way back to enabled.
    Compromise,
    /// Back to what the key was before its destruction was scheduled.
    CancelDestruction,
    /// The dataset's shard takes no commit under older versions than the newest.
    RetireVersions,
}

impl Change {
    /// States it leads from.
    fn takes(self) -> &'static str {
        match self {
            Self::Rotate => "enabled or compromised, and of fewer versions than a key may have",
            Self::Disable => "enabled",
            Self::Enable => "disabled",
            Self::Compromise => "enabled or disabled",
            Self::CancelDestruction => "pending destruction",
            Self::RetireVersions => {
                "enabled, disabled or compromised, and rotated since versions were last retired"
            }
        }
    }
}

/// What approvers signed, and who asked for it with which words.
pub(crate) struct UnderDualControl<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) dataset: DatasetId,
    pub(crate) stated: &'a v1::Claim,
    /// Of the request, its approvals left out.
    pub(crate) hash: [u8; 32],
    pub(crate) single_use_id: &'a [u8],
    pub(crate) approvals: &'a [v1::Approval],
    /// States that it leads from, for who is refused.
    pub(crate) takes: &'static str,
}

/// What every try of a change has in common.
struct Asked {
    dataset: DatasetId,
    request_id: [u8; 16],
    claim: v1::Claim,
    now: UnixMs,
}

impl Core {
    /// Makes a dataset's key. A retry answers the key that its first try made.
    pub(crate) async fn create_key(
        &self,
        peer: &Peer,
        request: v1::CreateKeyRequest,
    ) -> Result<v1::KeyInfo, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        let (dataset, request_id) = named(&request.dataset_id, &request.request_id)?;
        let (kek_id, pseudonym) = (KekId(random()), random::<16>());
        let claim = claim(request.claim, &peer.identity);
        self.ledger
            .command::<KeyError>(&peer.identity, self.deadline(), |state| {
                let authority_version = self
                    .ledger
                    .policy()
                    .may(state, &peer.identity, dataset, v1::Action::Create, &claim)
                    .map_err(CommitError::Denied)?;
                // Under the root key in force: made anew when that has moved.
                let root_epoch = in_force(state);
                let version =
                    self.custody
                        .born(dataset, kek_id, KekVersion(1), self.now(), root_epoch)?;
                Ok(Command {
                    authority_version,
                    approvals: Vec::new(),
                    what: v1::kms_command::Command::CreateKek(v1::CreateKek {
                        kek_id: kek_id.into(),
                        dataset_id: dataset.into(),
                        pseudonym: pseudonym.to_vec().into(),
                        version: Some(version),
                        claim: Some(claim.clone()),
                        request_id: request_id.to_vec().into(),
                    }),
                })
            })
            .await?;
        self.key_info(dataset)
    }

    /// Changes the state or the current version of a key. The answer says whether the dataset's shard has
    /// committed it yet; this KMS refuses by it from now on. A retry has effect once.
    pub(crate) async fn change_key(
        &self,
        peer: &Peer,
        request: v1::KeyChangeRequest,
        change: Change,
    ) -> Result<v1::KeyInfo, KeyError> {
        self.serving()?;
        self.ledger.leading()?;
        let (dataset, request_id) = named(&request.dataset_id, &request.request_id)?;
        if change == Change::RetireVersions {
            self.at_level(kms_state::LEVEL_ROTATION)?;
        }
        let asked = Asked {
            dataset,
            request_id,
            claim: claim(request.claim, &peer.identity),
            now: self.now(),
        };
        self.change_as_stated(peer, dataset, &asked.claim, change.takes(), |state, key| {
            self.key_command(state, key, change, &asked, in_force(state))
        })
        .await?;
        // Unwrapped copies are unfindable from now on; this frees their slots at once.
        self.custody.clear();
        // One try within the request, so that the common answer is `confirmed`; the driver goes on with the rest.
        self.confirm_shard(dataset).await;
        self.key_info(dataset)
    }

    /// Commits a change of a key that the caller alone may make, made anew for every try.
    pub(crate) async fn change_as_stated(
        &self,
        peer: &Peer,
        dataset: DatasetId,
        stated: &v1::Claim,
        takes: &'static str,
        what: impl Fn(&dyn Reader, &v1::KekRecord) -> Result<v1::kms_command::Command, KeyError>,
    ) -> Result<(), KeyError> {
        let actor = &peer.identity;
        let build = |state: &dyn Reader| {
            let policy = self.ledger.policy();
            let authority_version = policy
                .may(state, actor, dataset, v1::Action::Keys, stated)
                .map_err(CommitError::Denied)?;
            let key = kms_state::key(state, &dataset).ok_or(KeyError::NoSuchKey { dataset })?;
            Ok(Command {
                authority_version,
                approvals: Vec::new(),
                what: what(state, &key)?,
            })
        };
        self.ledger
            .command::<KeyError>(actor, self.deadline(), build)
            .await
            .map(drop)
            .map_err(|error| self.explained(error, dataset, takes))
    }

    /// Commits a change of a key that two besides who asks approved, made anew for every try.
    pub(crate) async fn change_under_dual_control(
        &self,
        asked: &UnderDualControl<'_>,
        what: impl Fn(&v1::KekRecord) -> Result<v1::kms_command::Command, KeyError>,
    ) -> Result<(), KeyError> {
        let (actor, dataset) = (&asked.peer.identity, asked.dataset);
        let build = |state: &dyn Reader| {
            let policy = self.ledger.policy();
            let granted_at = policy
                .may(state, actor, dataset, v1::Action::Keys, asked.stated)
                .map_err(CommitError::Denied)?;
            let key = kms_state::key(state, &dataset).ok_or(KeyError::NoSuchKey { dataset })?;
            let table = self.enrolments.current();
            let id = Some(asked.single_use_id);
            let claims = approvals::verified(&table, &asked.hash, id, asked.approvals, self.now())?;
            approvals::counted(&claims, actor, self.approvers_min())?;
            Ok(Command {
                // Judged by two views of the authority: where one is behind, apply refuses.
                authority_version: granted_at.min(table.version()),
                approvals: claims,
                what: what(&key)?,
            })
        };
        self.ledger
            .command::<KeyError>(actor, self.deadline(), build)
            .await
            .map(drop)
            .map_err(|error| self.explained(error, dataset, asked.takes))
    }

    fn key_command(
        &self,
        state: &dyn Reader,
        key: &v1::KekRecord,
        change: Change,
        asked: &Asked,
        root_epoch: RootEpoch,
    ) -> Result<v1::kms_command::Command, KeyError> {
        let (dataset_id, state_version) = (asked.dataset.into(), key.state_version);
        let claim = Some(asked.claim.clone());
        // The same for every try: the state knows by it that one of them had effect.
        let request_id = Bytes::copy_from_slice(&asked.request_id);
        let pending = key.state() == v1::KeyState::PendingDestruction;
        let refused = KeyError::State {
            state: key.state(),
            takes: change.takes(),
        };
        let target = match change {
            Change::Rotate => {
                let id = KekId::try_from(key.kek_id.as_ref())
                    .map_err(|_| KeyError::Malformed { field: "record" })?;
                let next = KekVersion(key.current_version + 1);
                let born = self
                    .custody
                    .born(asked.dataset, id, next, asked.now, root_epoch)?;
                let version = Some(born);
                let rotate = v1::RotateKek {
                    dataset_id,
                    state_version,
                    version,
                    claim,
                    request_id,
                };
                return Ok(v1::kms_command::Command::RotateKek(rotate));
            }
            Change::RetireVersions => {
                let raise = v1::RaiseMinVersion {
                    dataset_id,
                    state_version,
                    min_version: key.current_version,
                    claim,
                    request_id,
                };
                return Ok(v1::kms_command::Command::RaiseMinVersion(raise));
            }
            // From pending destruction these two are ways back, which are taken by name alone.
            Change::Disable | Change::Compromise if pending => return Err(refused),
            Change::Disable => v1::KeyState::Disabled,
            Change::Enable => v1::KeyState::Enabled,
            Change::Compromise => v1::KeyState::Compromised,
            Change::CancelDestruction => {
                kms_state::prepare::cancels_to(state, key, &asked.request_id).ok_or(refused)?
            }
        };
        Ok(v1::kms_command::Command::ChangeKeyState(
            v1::ChangeKeyState {
                dataset_id,
                state_version,
                state: target.into(),
                claim,
                destruction_days: 0,
                request_id,
            },
        ))
    }

    /// A key as the region knows it, for those who may do anything with it, and for who runs or audits the region.
    pub(crate) async fn find_key(
        &self,
        peer: &Peer,
        request: &v1::FindKeyRequest,
    ) -> Result<v1::KeyInfo, KeyError> {
        let state = self.current().await?;
        let dataset = self.dataset_or_alias(&*state, request)?;
        let policy = self.ledger.policy();
        policy
            .may_find(&*state, &peer.identity, dataset)
            .map_err(KeyError::Denied)?;
        drop(state);
        self.key_info(dataset)
    }

    /// The state's refusal, with what it was about.
    pub(crate) fn explained(
        &self,
        error: KeyError,
        dataset: DatasetId,
        takes: &'static str,
    ) -> KeyError {
        let KeyError::Commit(CommitError::Refused { reason }) = &error else {
            return error;
        };
        let wrong = matches!(
            reason,
            v1::KmsRefusal::WrongState | v1::KmsRefusal::KeyDisabled
        );
        let key = self
            .key_info(dataset)
            .ok()
            .and_then(|info| info.key)
            .filter(|_| wrong);
        match key {
            Some(key) => KeyError::State {
                state: key.state(),
                takes,
            },
            None => error,
        }
    }

    pub(crate) fn key_info(&self, dataset: DatasetId) -> Result<v1::KeyInfo, KeyError> {
        let state = self.reader().map_err(StaleError::State)?;
        kms_state::key_info(&*state, &dataset).ok_or(KeyError::NoSuchKey { dataset })
    }

    /// Tells the dataset's shard of the key's state, once. Failure is the driver's to make good.
    pub(crate) async fn confirm_shard(&self, dataset: DatasetId) {
        let tried = tokio::time::timeout(crate::confirm::ONE_TRY_MAX, self.confirm(dataset)).await;
        match tried {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::info!(%dataset, %error, "key state not confirmed by its shard")
            }
            Err(_) => tracing::info!(%dataset, "key state not confirmed by its shard in time"),
        }
    }
}

/// Which key a request is about, and the id that its retries have in common.
pub(crate) fn named(dataset_id: &[u8], id: &[u8]) -> Result<(DatasetId, [u8; 16]), KeyError> {
    let id = request_id(id).ok_or(KeyError::Malformed {
        field: "request id",
    })?;
    Ok((dataset(dataset_id)?, id))
}

pub(crate) fn dataset(bytes: &[u8]) -> Result<DatasetId, KeyError> {
    DatasetId::try_from(bytes).map_err(|_| KeyError::Malformed {
        field: "dataset id",
    })
}

/// The caller's statement with its actor as authenticated.
pub(crate) fn claim(stated: Option<v1::Claim>, actor: &Identity) -> v1::Claim {
    v1::Claim {
        actor: actor.to_string(),
        ..stated.unwrap_or_default()
    }
}

/// The epoch of the root key that new keys are wrapped under.
pub(crate) fn in_force(state: &dyn Reader) -> RootEpoch {
    RootEpoch(kms_state::region(state).map_or(0, |region| region.root_epoch))
}
