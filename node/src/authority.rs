//! Who may do what with the catalog: the region's policy text, or its grants where no text was ever set; default deny,
//! and how this node keeps them fresh.
//!
//! Owns the question put to policy for catalog actions and the refresh from the KMS. Refuses everything that nothing
//! allows, and everything under a text that this build cannot read. Purpose and case are what the caller states in its
//! request's headers, as they are in a claim to the KMS; grants, which are older than that, count whatever their purpose.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use policy::{Policy, PolicyText};
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, Identity, Role};
use proto::v1::Action;
use proto::v1::kms_client::KmsClient;
use proto::{v1, v1::FetchEnrolmentsRequest};
use tlog::Purpose;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status};
use transport::enrolment::{EnrolmentTable, Grant, Principal};
use transport::fault::Chain;
use transport::{Connector, EnrolmentError, Enrolments, Expect, Lane, Peer};

use crate::core::Core;
use crate::error::CallError;
use crate::upload::{Authority, NotGranted};

/// The purpose of who copies datasets as they are sealed.
const BACKUP: &str = "backup";
/// How long a call waits for whether a principal that is not known here became known to the KMS.
const LEARN_MAX: Duration = Duration::from_secs(1);
/// How often the KMS is asked for principals that nobody knows.
const LEARN_EVERY: Duration = Duration::from_millis(200);
/// Between two refreshes: a change is learnt within 5 s, with one attempt lost.
const REFRESH_EVERY: Duration = Duration::from_secs(2);
/// How long one KMS replica may take to answer.
const FETCH_MAX: Duration = Duration::from_secs(2);

/// The rules of one enrolment set.
enum Rules {
    /// No policy text was ever set.
    Grants,
    Text(Arc<Policy>),
    /// A text that this build refuses: everything is denied.
    Unread,
}

/// The rules in force, parsed once for each text.
#[derive(Default)]
pub(crate) struct Policies {
    held: Mutex<Option<(String, Arc<Rules>)>>,
}

impl Policies {
    fn of(&self, table: &EnrolmentTable) -> Arc<Rules> {
        let text = table.policy().unwrap_or_default();
        if let Some((held, rules)) = &*self.held.lock()
            && held == text
        {
            return rules.clone();
        }
        let rules = Arc::new(match table.policy().map(PolicyText::parse) {
            None => Rules::Grants,
            Some(Ok(parsed)) => Rules::Text(Arc::new(parsed)),
            Some(Err(errors)) => {
                let version = table.version();
                tracing::error!(version, %errors, "the policy text in force cannot be read: everything is denied");
                Rules::Unread
            }
        });
        *self.held.lock() = Some((text.to_owned(), rules.clone()));
        rules
    }
}

impl Core {
    /// Whether policy allows one of `actions`; `dataset` is `None` for what concerns no dataset in particular. Where no
    /// text was ever set a grant counts whatever purpose it is for. What a gateway asks on behalf of a service principal
    /// has to be allowed to both: neither widens what the other may.
    pub(crate) fn may(
        &self,
        table: &EnrolmentTable,
        peer: &Peer,
        dataset: Option<&DatasetId>,
        actions: &[Action],
    ) -> bool {
        if broken(Switch::IgnorePolicy) {
            return true;
        }
        let Ok(served) = Identity::service_principal(&peer.stated.on_behalf_of) else {
            return false;
        };
        let served = served.filter(|_| !broken(Switch::GatewayAlone));
        let known = |served: &Identity| {
            peer.identity.role() == Role::Gateway && table.is_service_principal(served)
        };
        if !served.as_ref().is_none_or(known) {
            return false;
        }
        let rules = self.refresher.policies.of(table);
        let both = || std::iter::once(&peer.identity).chain(&served);
        actions.iter().any(|action| {
            both().all(|identity| self.allowed(table, &rules, identity, peer, dataset, *action))
        })
    }

    fn allowed(
        &self,
        table: &EnrolmentTable,
        rules: &Rules,
        identity: &Identity,
        peer: &Peer,
        dataset: Option<&DatasetId>,
        action: Action,
    ) -> bool {
        let text = match rules {
            Rules::Grants => {
                let mut grants = table.grants().iter();
                return grants.any(|grant| allows(grant, identity, dataset, action));
            }
            Rules::Unread => return false,
            Rules::Text(text) => text,
        };
        let stated = &peer.stated;
        let purpose = match stated.purpose.as_str() {
            "" => Some(Purpose::service()),
            stated => stated.parse().ok(),
        };
        // Who may take seal leases for a backup seals its pages, and stores nothing here.
        if stated.purpose == BACKUP && action == Action::Write {
            return false;
        }
        let (Some(purpose), Ok(action)) = (purpose, action.try_into()) else {
            return false;
        };
        let request = policy::Request {
            principal: identity.clone(),
            action,
            dataset: dataset.copied(),
            purpose,
            case: Some(stated.case.clone()).filter(|case| !case.is_empty()),
            recipient_region: identity.region().clone(),
            at: self.clock.now(),
        };
        text.decide(&request).allowed
    }

    /// Who asks. For whom a gateway asks may have become known to the region a moment ago.
    pub(crate) async fn caller<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let peer = transport::peer(request)?;
        self.refresher.learn(&peer).await;
        Ok(peer)
    }

    /// Whether policy lets the caller copy a dataset as it is sealed: who may list it for a backup. It takes no more, so
    /// that who makes backups need not be allowed to open anything.
    pub(crate) fn may_back_up(
        &self,
        table: &EnrolmentTable,
        peer: &Peer,
        dataset: &DatasetId,
    ) -> bool {
        if broken(Switch::BackupsForAll) {
            return true;
        }
        if peer.stated.purpose != BACKUP {
            return false;
        }
        match *self.refresher.policies.of(table) {
            // A grant that names the purpose: one for everyday service is none for a copy of everything.
            Rules::Grants => table.allows(&peer.identity, Some(dataset), Action::List, BACKUP),
            _ => self.may(table, peer, Some(dataset), &[Action::List]),
        }
    }

    /// Refuses what [`Self::may`] does not allow.
    pub(crate) fn check(
        &self,
        table: &EnrolmentTable,
        peer: &Peer,
        dataset: Option<&DatasetId>,
        actions: &[Action],
    ) -> Result<(), CallError> {
        if self.may(table, peer, dataset, actions) {
            return Ok(());
        }
        Err(CallError::NotGranted {
            identity: peer.identity.clone(),
        })
    }
}

fn allows(grant: &Grant, identity: &Identity, dataset: Option<&DatasetId>, action: Action) -> bool {
    let who = match &grant.principal {
        Principal::Identity(principal) => principal == identity,
        Principal::Role(role) => *role == identity.role(),
    };
    let what = grant.dataset.is_none() || grant.dataset.as_ref() == dataset;
    let stores = action != Action::Write || grant.purposes != [BACKUP];
    who && what && stores && grant.actions.contains(&action)
}

/// Grants and disk, as the block service asks for them.
pub(crate) struct Grants(pub(crate) Arc<Core>);

impl Authority for Grants {
    fn may_read_blocks(&self, peer: &Peer, dataset: DatasetId) -> Result<(), NotGranted> {
        let table = self.0.enrolments.current();
        if self.0.may_back_up(&table, peer, &dataset) {
            return Ok(());
        }
        self.granted(peer, dataset, Action::Read)
    }

    fn may_write_blocks(&self, peer: &Peer, dataset: DatasetId) -> Result<(), NotGranted> {
        self.granted(peer, dataset, Action::Write)
    }

    fn learn<'a>(&'a self, peer: &'a Peer) -> BoxFuture<'a, ()> {
        Box::pin(self.0.refresher.learn(peer))
    }

    fn disk_full(&self) -> Option<u64> {
        match self.0.disk.check() {
            Err(CallError::DiskFull { percent }) => Some(percent),
            _ => None,
        }
    }
}

impl Grants {
    fn granted(&self, peer: &Peer, dataset: DatasetId, action: Action) -> Result<(), NotGranted> {
        let table = self.0.enrolments.current();
        if self.0.may(&table, peer, Some(&dataset), &[action]) {
            return Ok(());
        }
        Err(NotGranted)
    }
}

/// Keeps the enrolment set fresh.
pub(crate) struct Refresher {
    connector: Connector,
    enrolments: Enrolments,
    configured: Vec<String>,
    channels: Mutex<HashMap<String, Channel>>,
    asked: Notify,
    /// When a set was last asked for on a caller's account.
    learnt: tokio::sync::Mutex<Option<Instant>>,
    policies: Arc<Policies>,
}

/// Why one KMS replica gave no set that was taken.
#[derive(Debug, thiserror::Error)]
enum RefreshError {
    #[error("it cannot be dialled")]
    Dial(#[source] tonic::transport::Error),
    #[error("it did not answer in time")]
    Late,
    #[error("it refused: {0}")]
    Refused(String),
    #[error("its set was not taken")]
    NotTaken(#[source] EnrolmentError),
}

impl Refresher {
    pub(crate) fn new(
        connector: Connector,
        enrolments: Enrolments,
        configured: Vec<String>,
    ) -> Arc<Self> {
        let (channels, asked) = (Mutex::default(), Notify::new());
        let policies = Arc::default();
        Arc::new(Self {
            connector,
            enrolments,
            configured,
            channels,
            asked,
            learnt: tokio::sync::Mutex::default(),
            policies,
        })
    }

    /// Asks for a refresh now: somebody goes by a newer set.
    pub(crate) fn hurry(&self) {
        self.asked.notify_one();
    }

    /// Asks for a newer set where a gateway acts for a principal that the one held does not know.
    pub(crate) async fn learn(&self, peer: &Peer) {
        let served = match Identity::service_principal(&peer.stated.on_behalf_of) {
            Ok(Some(served)) if peer.identity.role() == Role::Gateway => served,
            _ => return,
        };
        let unknown = || !self.enrolments.current().is_service_principal(&served);
        if !unknown() {
            return;
        }
        let learning = async {
            let mut learnt = self.learnt.lock().await;
            if unknown() && learnt.is_none_or(|at| at.elapsed() >= LEARN_EVERY) {
                self.refresh().await;
                *learnt = Some(Instant::now());
            }
        };
        if tokio::time::timeout(LEARN_MAX, learning).await.is_err() {
            tracing::debug!(%served, "no kms replica said in time who this is");
        }
    }

    /// Refreshes for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut failing = false;
        loop {
            match (self.refresh().await, failing) {
                (true, _) => failing = false,
                (false, false) => {
                    failing = true;
                    tracing::warn!(
                        "no kms replica gave an enrolment set: going on with the one held"
                    );
                }
                (false, true) => {}
            }
            metrics::gauge!("reduit_authority_version").set(self.enrolments.version() as f64);
            metrics::gauge!("reduit_authority_age_seconds")
                .set(self.enrolments.age().as_secs_f64());
            tokio::select! {
                biased;
                () = self.asked.notified() => {}
                () = tokio::time::sleep(REFRESH_EVERY) => {}
            }
        }
    }

    /// Asks the replicas in turn until one gives a set; answers whether one did.
    pub(crate) async fn refresh(&self) -> bool {
        for (endpoint, expect) in self.replicas() {
            match self.fetch(&endpoint, expect).await {
                Ok(()) => return true,
                Err(error) => {
                    tracing::debug!(%endpoint, error = %Chain(&error), "enrolments not refreshed");
                }
            }
        }
        false
    }

    /// Those enrolled, then those configured that are none of them.
    fn replicas(&self) -> Vec<(String, Expect)> {
        let mut all: Vec<_> = self
            .enrolments
            .members(Role::Kms)
            .into_iter()
            .filter(|kms| !kms.endpoint.is_empty())
            .map(|kms| (kms.endpoint, Expect::Identity(kms.identity)))
            .collect();
        for endpoint in &self.configured {
            if !all.iter().any(|(known, _)| known == endpoint) {
                all.push((endpoint.clone(), Expect::Role(Role::Kms)));
            }
        }
        all
    }

    async fn fetch(&self, endpoint: &str, expect: Expect) -> Result<(), RefreshError> {
        let channel = self.channel(endpoint, expect).map_err(RefreshError::Dial)?;
        let mut kms = KmsClient::new(channel);
        let asked = kms.fetch_enrolments(FetchEnrolmentsRequest { newer_than: 0 });
        let signed: v1::SignedEnrolmentSet = match tokio::time::timeout(FETCH_MAX, asked).await {
            Err(_) => return Err(RefreshError::Late),
            Ok(Err(status)) => return Err(RefreshError::Refused(status.message().to_owned())),
            Ok(Ok(answer)) => answer.into_inner(),
        };
        let (enrolments, policies) = (self.enrolments.clone(), self.policies.clone());
        // The set is written and synced, a new text parsed: a place where blocking is allowed.
        let take = move || {
            let taken = enrolments.offer(&signed);
            policies.of(&enrolments.current());
            taken
        };
        let taken = tokio::task::spawn_blocking(take).await;
        match taken {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(RefreshError::NotTaken(error)),
            // Cancelled: the runtime is going down.
            Err(_) => Err(RefreshError::Late),
        }
    }

    fn channel(&self, endpoint: &str, expect: Expect) -> Result<Channel, tonic::transport::Error> {
        // A replica that was replaced at its endpoint is another identity.
        let key = format!("{endpoint} {expect}");
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = self
            .connector
            .channel_lazy(endpoint, expect, Lane::Control)?;
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}
