//! The life of a dataset's key: born, rotated, disabled, enabled.
//!
//! Owns what each change asks of policy and what its answer says. Refuses changes that a grant does not allow. Key
//! bytes are born in [`crate::custody`] and enter the log wrapped.

use bytes::Bytes;
use proto::ids::{DatasetId, Identity, KekId, KekVersion, RootEpoch, UnixMs};
use proto::store::Reader;
use proto::v1;
use transport::Peer;

use crate::core::{Core, StaleError};
use crate::custody::CustodyError;
use crate::ledger::{Command, CommitError};
use crate::opens::request_id;
use crate::policy::Denied;
use crate::random;
use crate::seal::Sealed;

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
}

/// What every try of a change has in common.
struct Asked {
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
        let dataset = dataset(&request.dataset_id)?;
        let request_id = request_id(&request.request_id).ok_or(KeyError::Malformed {
            field: "request id",
        })?;
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
        let dataset = dataset(&request.dataset_id)?;
        let request_id = request_id(&request.request_id).ok_or(KeyError::Malformed {
            field: "request id",
        })?;
        let asked = Asked {
            request_id,
            claim: claim(request.claim, &peer.identity),
            now: self.now(),
        };
        self.ledger
            .command::<KeyError>(&peer.identity, self.deadline(), |state| {
                let authority_version = self
                    .ledger
                    .policy()
                    .may(
                        state,
                        &peer.identity,
                        dataset,
                        v1::Action::Keys,
                        &asked.claim,
                    )
                    .map_err(CommitError::Denied)?;
                let key = kms_state::key(state, &dataset).ok_or(KeyError::NoSuchKey { dataset })?;
                let root_epoch = in_force(state);
                let what = self.key_command(&key, dataset, change, &asked, root_epoch)?;
                Ok(Command {
                    authority_version,
                    approvals: Vec::new(),
                    what,
                })
            })
            .await?;
        // Unwrapped copies are unfindable from now on; this frees their slots at once.
        self.custody.clear();
        // One try within the request, so that the common answer is `confirmed`; the driver goes on with the rest.
        self.confirm_shard(dataset).await;
        self.key_info(dataset)
    }

    fn key_command(
        &self,
        key: &v1::KekRecord,
        dataset: DatasetId,
        change: Change,
        asked: &Asked,
        root_epoch: RootEpoch,
    ) -> Result<v1::kms_command::Command, KeyError> {
        let (dataset_id, state_version) = (dataset.into(), key.state_version);
        let claim = Some(asked.claim.clone());
        // The same for every try: the state knows by it that one of them had effect.
        let request_id = Bytes::copy_from_slice(&asked.request_id);
        let state = match change {
            Change::Rotate => {
                let id = KekId::try_from(key.kek_id.as_ref())
                    .map_err(|_| KeyError::Malformed { field: "record" })?;
                let next = KekVersion(key.current_version + 1);
                let born = self
                    .custody
                    .born(dataset, id, next, asked.now, root_epoch)?;
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
            Change::Disable => v1::KeyState::Disabled,
            Change::Enable => v1::KeyState::Enabled,
        };
        Ok(v1::kms_command::Command::ChangeKeyState(
            v1::ChangeKeyState {
                dataset_id,
                state_version,
                state: state.into(),
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
        let dataset = dataset(&request.dataset_id)?;
        let state = self.current().await?;
        let policy = self.ledger.policy();
        policy
            .may_find(&*state, &peer.identity, dataset)
            .map_err(KeyError::Denied)?;
        drop(state);
        self.key_info(dataset)
    }

    fn key_info(&self, dataset: DatasetId) -> Result<v1::KeyInfo, KeyError> {
        let state = self.reader().map_err(StaleError::State)?;
        kms_state::key_info(&*state, &dataset).ok_or(KeyError::NoSuchKey { dataset })
    }

    /// Tells the dataset's shard of the key's state, once. Failure is the driver's to make good.
    async fn confirm_shard(&self, dataset: DatasetId) {
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

fn dataset(bytes: &[u8]) -> Result<DatasetId, KeyError> {
    DatasetId::try_from(bytes).map_err(|_| KeyError::Malformed {
        field: "dataset id",
    })
}

/// The caller's statement with its actor as authenticated.
fn claim(stated: Option<v1::Claim>, actor: &Identity) -> v1::Claim {
    v1::Claim {
        actor: actor.to_string(),
        ..stated.unwrap_or_default()
    }
}

/// The epoch of the root key that new keys are wrapped under.
pub(crate) fn in_force(state: &dyn Reader) -> RootEpoch {
    RootEpoch(kms_state::region(state).map_or(0, |region| region.root_epoch))
}
