//! The verdict on a request: what the grants of the region allow, on the state the leader sees.
//!
//! Owns the question put to `kms-state`, which evaluates it, and [`Permit`], the proof of a yes, with the versions
//! it rests on: apply refuses it where they have moved. Refuses everything that no grant allows.

use std::sync::Arc;

use kms_state::{Authority, Question};
use parking_lot::RwLock;
use proto::ids::{DatasetId, Identity, Role};
use proto::store::Reader;
use proto::v1;
use tlog::Purpose;

use crate::ledger::Release;

/// Why policy says no. Names no dataset and no caller: who asked knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No grant, no enrolment, or a role that never may.
    #[error(transparent)]
    Policy(#[from] kms_state::Denied),
    /// The purpose stated is none.
    #[error("the purpose is not one")]
    Purpose,
    /// A person's purpose, which takes approvals that this call cannot carry.
    #[error("this purpose takes dual approval")]
    NeedsApprovals,
    /// The dataset has no key.
    #[error("the dataset has no key")]
    NoSuchKey,
    /// The key's state allows no use.
    #[error("the key is not enabled")]
    KeyNotEnabled,
    /// The lease is of a key version that is no longer opened.
    #[error("the lease is of a key version that is no longer used")]
    VersionTooOld,
}

/// Policy's yes to one request, and what it rests on. Only [`Policy::permit`] makes one.
pub(crate) struct Permit {
    key: Arc<v1::KekRecord>,
    authority_version: u64,
}

impl Permit {
    /// The dataset's key as it stood.
    pub(crate) fn key(&self) -> &v1::KekRecord {
        &self.key
    }

    /// The dataset's key as it stood.
    pub(crate) fn into_key(self) -> Arc<v1::KekRecord> {
        self.key
    }

    /// The version of enrolments and grants it was judged by.
    pub(crate) fn authority_version(&self) -> u64 {
        self.authority_version
    }
}

/// Evaluates policy. Keeps the parsed authority of one version, so that a verdict costs no parsing.
#[derive(Default)]
pub(crate) struct Policy {
    held: RwLock<Option<Arc<Authority>>>,
}

impl Policy {
    fn authority(&self, state: &dyn Reader) -> Result<Arc<Authority>, Denied> {
        let version = kms_state::authority_version(state);
        if let Some(held) = self
            .held
            .read()
            .as_ref()
            .filter(|held| held.version() == version)
        {
            return Ok(held.clone());
        }
        let loaded = Authority::load(state).ok_or(kms_state::Denied::NotInitialised)?;
        let loaded = Arc::new(loaded);
        *self.held.write() = Some(loaded.clone());
        Ok(loaded)
    }

    /// Whether `actor` may do `action` with the dataset for the purpose stated; the version of the authority that
    /// says so.
    pub(crate) fn may(
        &self,
        state: &dyn Reader,
        actor: &Identity,
        dataset: DatasetId,
        action: v1::Action,
        claim: &v1::Claim,
    ) -> Result<u64, Denied> {
        let purpose = match claim.purpose.as_str() {
            "" => Purpose::service(),
            stated => stated.parse().map_err(|_| Denied::Purpose)?,
        };
        let question = Question {
            principal: actor,
            dataset: &dataset,
            action,
            purpose: &purpose,
        };
        let verdict = self.authority(state)?.may(question)?;
        if verdict.approvals_needed > 0 {
            return Err(Denied::NeedsApprovals);
        }
        Ok(verdict.authority_version)
    }

    /// The verdict on a request that releases key material.
    pub(crate) fn permit<R: Release>(
        &self,
        state: &dyn Reader,
        request: &R,
    ) -> Result<Permit, Denied> {
        let (actor, dataset) = (request.actor(), request.dataset());
        let authority_version =
            self.may(state, actor, dataset, request.action(), request.claim())?;
        // After the grants: who is not granted does not learn which datasets have keys.
        let key = kms_state::key(state, &dataset).ok_or(Denied::NoSuchKey)?;
        if key.state() != v1::KeyState::Enabled {
            return Err(Denied::KeyNotEnabled);
        }
        let version = request.kek_version_min();
        if version != 0 && version < key.min_version {
            return Err(Denied::VersionTooOld);
        }
        Ok(Permit {
            key: Arc::new(key),
            authority_version,
        })
    }

    /// Whether `actor` may learn of the dataset's key: whoever runs or audits the region, and whoever may do
    /// anything with the dataset.
    pub(crate) fn may_find(
        &self,
        state: &dyn Reader,
        actor: &Identity,
        dataset: DatasetId,
    ) -> Result<(), Denied> {
        if matches!(actor.role(), Role::Operator | Role::Auditor | Role::Kms) {
            return Ok(());
        }
        let claim = v1::Claim::default();
        let actions = [
            v1::Action::List,
            v1::Action::Read,
            v1::Action::Write,
            v1::Action::Keys,
            v1::Action::Create,
        ];
        let mut last = Denied::Policy(kms_state::Denied::NoGrant);
        for action in actions {
            match self.may(state, actor, dataset, action, &claim) {
                Ok(_) => return Ok(()),
                Err(denied) => last = denied,
            }
        }
        Err(last)
    }
}
