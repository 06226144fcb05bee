//! What every handler of this replica shares.
//!
//! Owns the parts and the words for why the replica is not ready. Refuses to serve keys while sealed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::ids::{FeatureLevel, Identity, NodeId, Role, UnixMs};
use proto::store::Reader;
use proto::v1;
use replica::host::{Group, GroupRole, ReadError};
use replica::state::StateError;
use tokio::sync::watch;
use tokio::time::Instant;
use transport::{Connector, Enrolments, LocalIdentity, SharedClock};

use crate::checkpoints::{Checkpoints, Rules};
use crate::config::Config;
use crate::cosigner::Cosigner;
use crate::custody::Custody;
use crate::ledger::Ledger;
use crate::machine::Changes;
use crate::peers::Peers;
use crate::regions::Heard;
use crate::seal::{Posture, Seal, Sealed};
use crate::sessions::Sessions;
use crate::token::Token;
use crate::witness_client::Witnesses;

/// Why a read has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StaleError {
    /// The majority's word did not come.
    #[error("the state cannot be confirmed as current")]
    Read(#[source] ReadError),
    /// The state store.
    #[error("the state could not be read")]
    State(#[source] StateError),
}

/// Replicas of older builds would stop at what was asked.
#[derive(Debug, thiserror::Error)]
#[error("the KMS is at feature level {in_force}, this takes level {needed}: raise it first")]
pub(crate) struct LevelTooLow {
    in_force: FeatureLevel,
    needed: FeatureLevel,
}

/// The parts of a replica.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) local: LocalIdentity,
    pub(crate) enrolments: Enrolments,
    pub(crate) clock: SharedClock,
    pub(crate) group: Group,
    pub(crate) peers: Arc<Peers>,
    pub(crate) connector: Connector,
    pub(crate) seal: Arc<Seal>,
    pub(crate) sessions: Sessions,
    pub(crate) custody: Custody,
    pub(crate) ledger: Ledger,
    pub(crate) changes: watch::Receiver<Changes>,
    /// This replica's own word on the log.
    pub(crate) cosigner: Cosigner,
    pub(crate) checkpoints: Arc<Checkpoints>,
    /// The witness policy in force.
    pub(crate) rules: Arc<Rules>,
    pub(crate) witnesses: Witnesses,
    /// Where other regions reach this replica; empty where they do not.
    pub(crate) federation: String,
    /// What was heard of other regions.
    pub(crate) heard: Heard,
    /// One ceremony at a time; what it made stays until its outcome is known.
    pub(crate) ceremony: tokio::sync::Mutex<Option<crate::ceremony::Made>>,
    /// One change of membership at a time.
    pub(crate) membership: tokio::sync::Mutex<()>,
    /// One change of custody at a time, with the shares that the last one made until they are known to be on record.
    pub(crate) reshare: tokio::sync::Mutex<Option<crate::reshare::Made>>,
    /// This replica's token, where it is told of one.
    pub(crate) token: Option<Arc<Token>>,
    /// One token's seal at a time, with what was made for the last one until it is known to be on record.
    pub(crate) token_seal: tokio::sync::Mutex<Option<crate::token_seals::MadeSeal>>,
    /// One request to be unsealed at a time.
    pub(crate) unsealing: tokio::sync::Mutex<()>,
    /// The backup whose root key this replica takes shares of while it has no region.
    pub(crate) restoring: Mutex<Option<Arc<proto::backup::Start>>>,
    /// One backup at a time.
    pub(crate) backing_up: Arc<tokio::sync::Mutex<()>>,
    /// Held while the state is being flushed.
    pub(crate) flushing: Arc<tokio::sync::Mutex<()>>,
    /// Why the process has to exit, once it has.
    pub(crate) failure: Mutex<Option<crate::server::Failure>>,
}

impl Core {
    /// Now, by this host's clock.
    pub(crate) fn now(&self) -> UnixMs {
        self.clock.now()
    }

    /// When a request that begins now is given up.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.config.request_time()
    }

    /// Who this replica is.
    pub(crate) fn identity(&self) -> &Identity {
        self.local.identity()
    }

    /// Refuses while the root key is not here, or its coming is not on record.
    pub(crate) fn serving(&self) -> Result<(), Sealed> {
        self.seal.root().map(drop)
    }

    /// Refuses what replicas below this feature level would stop at.
    pub(crate) fn at_level(&self, needed: FeatureLevel) -> Result<(), LevelTooLow> {
        let in_force = self.group.level();
        match in_force < needed {
            true => Err(LevelTooLow { in_force, needed }),
            false => Ok(()),
        }
    }

    /// The state as applied here: may be behind.
    pub(crate) fn reader(&self) -> Result<Box<dyn Reader + Send + Sync>, StateError> {
        self.group.reader()
    }

    /// The state with everything in it that was acknowledged anywhere before the call.
    pub(crate) async fn current(&self) -> Result<Box<dyn Reader + Send + Sync>, StaleError> {
        let confirmed = tokio::time::timeout(self.config.request_time(), self.group.read_index());
        confirmed
            .await
            .map_err(|_| StaleError::Read(ReadError::Behind))?
            .map_err(StaleError::Read)?;
        self.reader().map_err(StaleError::State)
    }

    /// This replica leads by a majority's word, and its enrolments are those of everything acknowledged before the
    /// call: what it then refuses for who is enrolled, it refuses for good.
    pub(crate) async fn enrolments_current(&self) -> Result<(), StaleError> {
        let confirmed = async {
            self.group.read_index_as_leader().await?;
            let version =
                kms_state::authority_version(&*self.reader().map_err(|_| ReadError::Stopped)?);
            let mut table = self.enrolments.watch();
            let level = table.wait_for(|table| table.version() >= version).await;
            level.map(drop).map_err(|_| ReadError::Stopped)
        };
        let confirmed = tokio::time::timeout(self.config.request_time(), confirmed).await;
        confirmed
            .unwrap_or(Err(ReadError::Behind))
            .map_err(StaleError::Read)
    }

    /// Why the process is about to exit.
    pub(crate) fn engine_failure(&self) -> Option<String> {
        self.failure.lock().as_ref().map(ToString::to_string)
    }

    /// In words, what keeps this replica from serving; empty when nothing does.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(why) = self.engine_failure() {
            reasons.push(format!("the engine has failed: {why}"));
            return reasons;
        }
        let region = self
            .reader()
            .ok()
            .and_then(|state| kms_state::region(&*state));
        match (self.seal.posture(), &region) {
            (Posture::Sealed { .. }, None) => {
                reasons
                    .push("not initialised, or still catching up: there is no root key".to_owned());
            }
            (Posture::Sealed { have }, Some(region)) => reasons.push(format!(
                "sealed: needs {} of {} shares, has {have}; or one approved unseal by a peer{}",
                region.shares_needed,
                region.custodians.len(),
                if self.token.is_some() { "; or its token, a holder's half and two approvals" } else { "" },
            )),
            (Posture::Unrecorded, _) => reasons.push(
                "unsealed, but not on record yet: waits for a majority of the replicas, and where another one's log \
                 goes further, for that one to be unsealed too"
                    .to_owned(),
            ),
            (Posture::Unsealed, _) => {}
        }
        if self.group.leader().is_none() {
            reasons.push(
                "no leader: fewer than a majority of the replicas can be reached, \
                          or every one of them is sealed"
                    .to_owned(),
            );
        }
        reasons
    }

    /// What an operator compares replicas by.
    pub(crate) async fn digest(&self) -> Result<v1::KmsDigestReply, StaleError> {
        let group = self.group.clone();
        let read = tokio::task::spawn_blocking(move || group.digest()).await;
        let digest = match read.map_err(|error| error.try_into_panic()) {
            Ok(digest) => digest.map_err(StaleError::State)?,
            // The state's readers panic when the store cannot be read: that must end the process, not this task.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => return Err(StaleError::Read(ReadError::Stopped)),
        };
        Ok(v1::KmsDigestReply {
            applied_index: digest.applied.unwrap_or_default().0,
            blake3: digest.blake3.to_vec().into(),
        })
    }

    /// What `Status` answers. Open to every enrolled peer: a sealed replica must be able to say so.
    pub(crate) fn status(&self) -> v1::KmsStatusReply {
        let view = self.group.status();
        let state = self.reader().ok();
        let region = state.as_deref().and_then(|state| kms_state::region(state));
        let (boot, _) = self.seal.offer();
        let have = match self.seal.posture() {
            Posture::Sealed { have } => u32::from(have),
            Posture::Unrecorded => region.as_ref().map_or(0, |region| region.shares_needed),
            Posture::Unsealed => 0,
        };
        let ids = |ids: &mut dyn Iterator<Item = NodeId>| ids.map(|id| id.0).collect();
        v1::KmsStatusReply {
            initialised: region.is_some(),
            sealed: self.seal.posture() != Posture::Unsealed,
            identity: self.identity().to_string(),
            boot_id: boot.to_vec().into(),
            leader: view.leader.map(|leader| leader.0).unwrap_or_default(),
            voters: ids(&mut view.voters.all().into_iter()),
            learners: ids(&mut view.learners.iter().copied()),
            applied_index: self
                .group
                .applied()
                .map(|index| index.0)
                .unwrap_or_default(),
            term: view.term.0,
            authority_version: state
                .as_deref()
                .map(|state| kms_state::authority_version(state))
                .unwrap_or_default(),
            tree_size: state
                .as_deref()
                .map(|state| kms_state::frontier(state).size())
                .unwrap_or_default(),
            shares_have: have,
            shares_needed: region
                .as_ref()
                .map(|region| region.shares_needed)
                .unwrap_or_default(),
            root_epoch: region
                .as_ref()
                .map(|region| region.root_epoch)
                .unwrap_or_default(),
            region: self.config.region.to_string(),
            jurisdiction: self.config.jurisdiction.to_string(),
            level: view.level.0,
            level_max: crate::machine::LEVEL_MAX.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_id: self.config.node_id,
            unseal_offer_hash: self.seal.offer_hash().to_vec().into(),
            clock_ms: self.now().0,
            held_epoch: self.seal.held_epoch().map_or(0, |epoch| epoch.0),
            next_epoch: self.seal.next().map_or(0, |root| root.epoch().0),
            federation: self.federation.clone(),
        }
    }

    /// Drops every unwrapped key that is no longer to be held: while sealed, while not leading, and what is old.
    /// Brings into line whether this replica may lead, and gives leadership away while it cannot serve.
    pub(crate) async fn sweep(&self) {
        self.sessions.expire(self.now());
        self.ledger.let_go();
        let leads = self.group.status().role == GroupRole::Leader;
        if leads && self.serving().is_ok() {
            self.custody.expire();
        } else {
            self.custody.clear();
        }
        self.seal.forget_former(FORMER_MAX);
        self.drop_unrecorded_root();
        // During the ceremony a sealed replica leads on purpose.
        if let Ok(_no_ceremony) = self.ceremony.try_lock() {
            let may_lead = self.may_lead();
            self.group.set_may_campaign(may_lead);
            if leads && !may_lead {
                // Nobody to hand over to is no news: then every replica is sealed.
                let _ = self.group.hand_over().await;
            }
        }
        metrics::gauge!("reduit_kms_sessions").set(self.sessions.len() as f64);
        metrics::gauge!("reduit_kms_keys_unwrapped").set(self.custody.held() as f64);
        let sealed = self.seal.posture() != Posture::Unsealed;
        metrics::gauge!("reduit_kms_sealed").set(f64::from(u8::from(sealed)));
        metrics::gauge!("reduit_kms_leads").set(f64::from(u8::from(leads)));
        self.group.gauge_lag();
    }

    /// Whether this replica may lead. A sealed one may not, with one exception: when every replica lost power before
    /// the state that names the shares was flushed, that state comes back only by a leader who commits the log again,
    /// and nobody could be unsealed without it. Such a leader serves nothing and ends as soon as it knows the region.
    fn may_lead(&self) -> bool {
        match self.seal.posture() {
            Posture::Unsealed | Posture::Unrecorded => true,
            Posture::Sealed { .. } => {
                let founded = !self.group.status().voters.all().is_empty();
                let known =
                    |state: Box<dyn Reader + Send + Sync>| kms_state::region(&*state).is_some();
                founded && !self.reader().is_ok_and(known)
            }
        }
    }

    /// Members of the KMS besides this one, as enrolled.
    pub(crate) fn others(&self) -> Vec<(NodeId, Identity)> {
        let members = self.enrolments.members(Role::Kms).into_iter();
        let members = members.filter_map(|enrolled| Some((enrolled.node_id?, enrolled.identity)));
        members
            .filter(|(id, _)| *id != self.config.node_id())
            .collect()
    }
}

/// How long a root key stays here after another took its place: longer than any request that began under it.
const FORMER_MAX: Duration = Duration::from_secs(30);
/// How often [`Core::sweep`] runs: well under the life of an unwrapped key.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);
