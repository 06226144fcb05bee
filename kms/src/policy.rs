//! The verdict on a request: what the region's policy text allows, on the state the leader sees; where no text was ever
//! set, what its grants do.
//!
//! Owns the question put to `policy` or `kms-state`, and [`Permit`], the proof of a yes, with the versions it rests on:
//! apply refuses it where they have moved. Refuses everything that nothing allows, and everything under a text that this
//! build cannot read.

use std::sync::Arc;

use kms_state::{Authority, Question};
use parking_lot::RwLock;
use policy::{PolicyText, Why};
use proto::danger::{Switch, broken};
use proto::ids::{AccessKeyId, DatasetId, Identity, RegionId, Role, UnixMs};
use proto::relocation::Named;
use proto::store::Reader;
use proto::v1;
use tlog::Purpose;

use crate::access_keys::AccessKey;
use crate::hand_over::Granted;
use crate::ledger::DatasetUse;

/// Why policy says no. Names no dataset and no caller: who asked knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// No grant, no enrolment, or a role that never may.
    #[error(transparent)]
    Policy(#[from] kms_state::Denied),
    /// The region's policy text does not permit it.
    #[error(
        "no policy permits this identity this action on this dataset for this purpose, case and time"
    )]
    NothingPermits,
    /// The region's policy text forbids it.
    #[error("forbidden by policy: {by}")]
    Forbidden {
        /// The policies that do, by name.
        by: String,
    },
    /// A policy failed on the request, which denies it.
    #[error("the region's policy fails on this request, which denies it: {why}")]
    PolicyFails {
        /// What failed.
        why: String,
    },
    /// The text in force was accepted by another build.
    #[error(
        "this build cannot read the policy text in force: everything is denied until it can, or the text is changed"
    )]
    PolicyUnread,
    /// Who acts on behalf of a service principal is a gateway.
    #[error("only a gateway acts on behalf of a service principal")]
    NotAGateway,
    /// It is spelled as an identity, and is none.
    #[error("whom it acts for is spelled as an identity and is none")]
    OnBehalfOf,
    /// The service principal that a gateway acts for may not: its access keys are disabled, or policy says no.
    #[error("the service principal it acts for is not allowed")]
    Principal(#[source] Box<Denied>),
    /// No such relocation, as far as another region may know.
    #[error("nothing of the dataset is granted to that relocation of this caller's region")]
    NoRelocation,
    /// No such access key, as far as a gateway may know.
    #[error("there is no such access key, or it is disabled")]
    NoAccessKey,
    /// The purpose stated is none.
    #[error("the purpose is not one: 1 to 64 of a-z, 0-9 and inner hyphens")]
    Purpose,
    /// A person's purpose, and not everything that takes one can be approved.
    #[error(
        "a person's purpose is for opening single objects that two operators approved: see `reduit approve ask`"
    )]
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

/// Policy's yes to one request, and what it rests on: the key it was decided on, a dataset's or an access key. Only
/// [`Policy`] makes one.
pub(crate) struct Permit<K> {
    key: Arc<K>,
    verdict: Verdict,
}

/// A yes, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The version of enrolments, grants and policy text it was judged by.
    pub(crate) authority_version: u64,
    /// Distinct approvers it takes besides; 0 for everyday use.
    pub(crate) approvals_needed: u32,
}

impl<K> Permit<K> {
    /// The key as it stood.
    pub(crate) fn key(&self) -> &K {
        &self.key
    }

    /// The key as it stood.
    pub(crate) fn into_key(self) -> Arc<K> {
        self.key
    }

    /// What it was judged by.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// What one version of the authority says.
struct Held {
    authority: Authority,
    rules: Rules,
}

enum Rules {
    /// No text was ever set.
    Grants,
    Text(Arc<policy::Policy>),
    /// A text that this build refuses.
    Unread,
}

impl Held {
    /// Parses the text, unless it is the one parsed `before`.
    fn of(authority: Authority, before: Option<&Self>) -> Self {
        let Some(text) = authority.policy_text() else {
            let rules = Rules::Grants;
            return Self { authority, rules };
        };
        if let Some(Self {
            authority: known,
            rules: Rules::Text(parsed),
        }) = before
            && known.policy_text() == Some(text)
        {
            let rules = Rules::Text(parsed.clone());
            return Self { authority, rules };
        }
        let rules = match PolicyText::parse(text) {
            Ok(parsed) => Rules::Text(Arc::new(parsed)),
            Err(errors) => {
                let version = authority.version();
                tracing::error!(version, %errors, "the policy text in force cannot be read: everything is denied");
                Rules::Unread
            }
        };
        Self { authority, rules }
    }
}

/// What one identity is judged on.
struct Asked<'a> {
    dataset: DatasetId,
    action: v1::Action,
    purpose: Purpose,
    stated: Statement<'a>,
    /// Region time.
    at: UnixMs,
}

impl Held {
    /// Whether text or grants allow it to an identity that is enrolled, or to a service principal that is in.
    fn allows(&self, principal: &Identity, asked: &Asked<'_>) -> Result<(), Denied> {
        let authority = &self.authority;
        let text = match &self.rules {
            Rules::Grants => {
                let question = Question {
                    principal,
                    dataset: &asked.dataset,
                    action: asked.action,
                    purpose: &asked.purpose,
                };
                authority.may(question)?;
                return Ok(());
            }
            Rules::Unread => return Err(Denied::PolicyUnread),
            Rules::Text(text) => text,
        };
        authority.check_known(principal)?;
        let case = &asked.stated.claim.case_id;
        let recipient_region = asked.stated.recipient_region;
        let request = policy::Request {
            principal: principal.clone(),
            action: asked
                .action
                .try_into()
                .map_err(|_| Denied::NothingPermits)?,
            dataset: Some(asked.dataset),
            purpose: asked.purpose.clone(),
            case: Some(case.clone()).filter(|case| !case.is_empty()),
            recipient_region: recipient_region.unwrap_or(authority.region()).clone(),
            at: asked.at,
        };
        let decision = text.decide(&request);
        match decision.why {
            Why::Permitted => Ok(()),
            Why::Forbidden => Err(Denied::Forbidden {
                by: decision.by.join(", "),
            }),
            Why::NothingPermits => Err(Denied::NothingPermits),
            Why::RoleBound => Err(kms_state::Denied::Role.into()),
            Why::Error => Err(Denied::PolicyFails {
                why: decision.errors.join("; "),
            }),
        }
    }
}

/// What a request states of itself besides who asks what of which dataset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Statement<'a> {
    pub(crate) claim: &'a v1::Claim,
    /// Where what is released goes; `None` is the region itself.
    pub(crate) recipient_region: Option<&'a RegionId>,
}

impl<'a> From<&'a v1::Claim> for Statement<'a> {
    fn from(claim: &'a v1::Claim) -> Self {
        Self {
            claim,
            recipient_region: None,
        }
    }
}

/// Evaluates policy. Keeps the parsed authority of one version, so that a verdict costs no parsing.
#[derive(Default)]
pub(crate) struct Policy {
    held: RwLock<Option<Arc<Held>>>,
}

impl Policy {
    fn held(&self, state: &dyn Reader) -> Result<Arc<Held>, Denied> {
        let version = kms_state::authority_version(state);
        if let Some(held) = self
            .held
            .read()
            .as_ref()
            .filter(|held| held.authority.version() == version)
        {
            return Ok(held.clone());
        }
        let loaded = Authority::load(state).ok_or(kms_state::Denied::NotInitialised)?;
        let before = self.held.read().clone();
        let loaded = Arc::new(Held::of(loaded, before.as_deref()));
        *self.held.write() = Some(loaded.clone());
        Ok(loaded)
    }

    /// Parses what is in force, so that no request has to: a long text takes a while.
    pub(crate) fn prepare(&self, state: &dyn Reader) {
        // Before the ceremony there is nothing to parse.
        let _ = self.held(state);
    }

    /// Whether `actor` may do `action` with the dataset for what it states, and what that rests on. What a gateway asks on
    /// behalf of a service principal has to be allowed to both: neither widens what the other may.
    pub(crate) fn judge(
        &self,
        state: &dyn Reader,
        actor: &Identity,
        dataset: DatasetId,
        action: v1::Action,
        stated: Statement<'_>,
    ) -> Result<Verdict, Denied> {
        let purpose = match stated.claim.purpose.as_str() {
            "" => Purpose::service(),
            stated => stated.parse().map_err(|_| Denied::Purpose)?,
        };
        let held = self.held(state)?;
        let authority = &held.authority;
        let verdict = Verdict {
            authority_version: authority.version(),
            approvals_needed: match kms_state::is_human_purpose(&purpose) {
                true => authority.approvals_min(),
                false => 0,
            },
        };
        if broken(Switch::IgnorePolicy) {
            return Ok(verdict);
        }
        let asked = Asked {
            dataset,
            action,
            purpose,
            stated,
            at: kms_state::region_time(state),
        };
        held.allows(actor, &asked)?;
        let served = Identity::service_principal(&stated.claim.on_behalf_of)
            .map_err(|_| Denied::OnBehalfOf)?
            .filter(|_| !broken(Switch::GatewayAlone));
        if let Some(principal) = served {
            if actor.role() != Role::Gateway {
                return Err(Denied::NotAGateway);
            }
            let allowed = held.allows(&principal, &asked);
            allowed.map_err(|denied| Denied::Principal(Box::new(denied)))?;
        }
        Ok(verdict)
    }

    /// As [`Self::judge`], for what nobody can approve beside it; the version of the authority that says so.
    pub(crate) fn may(
        &self,
        state: &dyn Reader,
        actor: &Identity,
        dataset: DatasetId,
        action: v1::Action,
        claim: &v1::Claim,
    ) -> Result<u64, Denied> {
        let verdict = self.judge(state, actor, dataset, action, claim.into())?;
        if verdict.approvals_needed > 0 {
            return Err(Denied::NeedsApprovals);
        }
        Ok(verdict.authority_version)
    }

    /// The verdict on a request that releases key material of a dataset.
    pub(crate) fn permit<R: DatasetUse>(
        &self,
        state: &dyn Reader,
        request: &R,
    ) -> Result<Permit<v1::KekRecord>, Denied> {
        let (actor, dataset) = (request.actor(), request.dataset());
        let stated = Statement {
            claim: request.claim(),
            recipient_region: request.recipient_region(),
        };
        let verdict = self.judge(state, actor, dataset, request.action(), stated)?;
        if verdict.approvals_needed > 0 && request.approved().is_none() {
            return Err(Denied::NeedsApprovals);
        }
        // After the grants: who is not granted does not learn which datasets have keys.
        let key = kms_state::key(state, &dataset).ok_or(Denied::NoSuchKey)?;
        // The state has the last word; said here, it costs no record.
        let reseals = request.claim().purpose == kms_state::RESEAL
            && matches!(request.action(), v1::Action::Read | v1::Action::List);
        match key.state() {
            v1::KeyState::Enabled => {}
            v1::KeyState::Compromised if reseals => {}
            _ => return Err(Denied::KeyNotEnabled),
        }
        let version = request.kek_version_min();
        if version != 0 && version < kms_state::oldest_living(&key) {
            return Err(Denied::VersionTooOld);
        }
        Ok(Permit {
            key: Arc::new(key),
            verdict,
        })
    }

    /// The verdict on a gateway's request for an access key's secret. No policy is asked: which gateways a region enrols
    /// says whom its principals sign for, and a principal that is out has no enabled access key.
    pub(crate) fn permit_access(
        &self,
        state: &dyn Reader,
        actor: &Identity,
        id: &AccessKeyId,
    ) -> Result<Permit<AccessKey>, Denied> {
        let held = self.held(state)?;
        let enrolled = held.authority.enrolment(actor);
        enrolled.ok_or(kms_state::Denied::NotEnrolled)?;
        if actor.role() != Role::Gateway {
            return Err(kms_state::Denied::Role.into());
        }
        let key = AccessKey::find(state, id)
            .filter(|key| key.record.state() == v1::AccessKeyState::Enabled)
            .ok_or(Denied::NoAccessKey)?;
        Ok(Permit {
            key: Arc::new(key),
            verdict: Verdict {
                authority_version: held.authority.version(),
                approvals_needed: 0,
            },
        })
    }

    /// The verdict on a hand-over to another region. No policy is asked: two people besides who asked have said whereto, and
    /// the state holds the grant. Trust in that region is of the authority's version, so that a hand-over which was decided
    /// before it ended is refused.
    pub(crate) fn permit_hand_over(
        &self,
        state: &dyn Reader,
        actor: &Identity,
        named: &Named,
    ) -> Result<Permit<Granted>, Denied> {
        let region = actor.region();
        let granted = Granted::find(state, &named.relocation, &named.dataset)
            .filter(|granted| granted.terms.destination == region.as_str())
            .ok_or(Denied::NoRelocation)?;
        kms_state::trusted_region(state, region).ok_or(Denied::NoRelocation)?;
        if granted.key.state() != v1::KeyState::Enabled {
            return Err(Denied::KeyNotEnabled);
        }
        Ok(Permit {
            key: Arc::new(granted),
            verdict: Verdict {
                authority_version: kms_state::authority_version(state),
                approvals_needed: 0,
            },
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
