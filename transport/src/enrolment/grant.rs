//! One permission of an enrolment set, parsed. Pure; default deny.
//!
//! Refuses a grant it cannot read in full: an action or a dataset this software does not know might be the one that
//! was meant to narrow it.

use proto::ids::{DatasetId, Identity, RegionId, Role};
use proto::v1;

/// The purpose that a grant without purposes is for.
pub const SERVICE: &str = "service";

/// Whom a grant is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// One identity.
    Identity(Identity),
    /// Every enrolled identity of a role.
    Role(Role),
}

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// For whom.
    pub principal: Principal,
    /// On which dataset; `None` is all of them.
    pub dataset: Option<DatasetId>,
    /// To do what.
    pub actions: Vec<v1::Action>,
    /// For which purposes; empty is `service` alone.
    pub purposes: Vec<String>,
}

impl Grant {
    /// Parses a grant of `region`; the error says which part of it is not valid.
    pub(super) fn parse(message: v1::Grant, region: &RegionId) -> Result<Self, &'static str> {
        let principal = match message.principal.strip_prefix("role:") {
            Some(role) => Principal::Role(role.parse().map_err(|_| "principal")?),
            None => Principal::Identity(message.principal.parse().map_err(|_| "principal")?),
        };
        if matches!(&principal, Principal::Identity(identity) if identity.region() != region) {
            return Err("principal of this region");
        }
        let dataset = match message.dataset.as_str() {
            "*" => None,
            id => Some(id.parse().map_err(|_| "dataset")?),
        };
        let action = |number: &i32| match v1::Action::try_from(*number) {
            Ok(v1::Action::Unspecified) | Err(_) => Err("action"),
            Ok(action) => Ok(action),
        };
        let actions = message
            .actions
            .iter()
            .map(action)
            .collect::<Result<_, _>>()?;
        if message.purposes.iter().any(String::is_empty) {
            return Err("purpose");
        }
        Ok(Self {
            principal,
            dataset,
            actions,
            purposes: message.purposes,
        })
    }

    pub(super) fn allows(
        &self,
        identity: &Identity,
        dataset: Option<&DatasetId>,
        action: v1::Action,
        purpose: &str,
    ) -> bool {
        let who = match &self.principal {
            Principal::Identity(principal) => principal == identity,
            Principal::Role(role) => *role == identity.role(),
        };
        let what = self.dataset.is_none() || self.dataset.as_ref() == dataset;
        let why = match self.purposes.as_slice() {
            [] => purpose == SERVICE,
            purposes => purposes.iter().any(|granted| granted == purpose),
        };
        who && what && why && self.actions.contains(&action)
    }
}
