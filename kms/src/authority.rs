//! Who may act: signing the enrolment set for the region, and changing it by dual control.
//!
//! Owns the way from replicated state to every process's trust. Refuses to sign a set whose currency the majority
//! has not confirmed: a replica that was cut off would otherwise keep a removed identity alive by refreshing it.

use std::sync::Arc;
use std::time::Duration;

use kms_state::WitnessRule;
use policy::PolicyText;
use prost::Message as _;
use proto::ids::{FeatureLevel, Identity, Role};
use proto::v1;
use tonic::Request;
use transport::enrolment::sign_set;
use transport::fault::Chain;
use transport::{EnrolmentError, Enrolments, Peer};

use crate::approvals::{self, ApprovalError};
use crate::core::{Core, LevelTooLow, StaleError};
use crate::gate::OutgoingSilent;
use crate::ledger::{Command, CommitError};
use crate::peers::{CALL_MAX, Peers};
use crate::seal::Sealed;
use crate::witness_client::{NoAddress, reachable};

/// Between attempts of a new member to learn a set that enrols it.
const LEARN_EVERY: Duration = Duration::from_millis(500);
/// Between questions of a replica that does not lead for a newer set.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Why the authority was not read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The replica is sealed.
    #[error(transparent)]
    Sealed(#[from] Sealed),
    /// The state could not be confirmed.
    #[error(transparent)]
    Stale(#[from] StaleError),
    /// Only operators change it.
    #[error("{0} is not an operator")]
    NotOperator(Identity),
    /// Approvals that do not hold.
    #[error("the approvals do not carry the change")]
    Approval(#[from] ApprovalError),
    /// Not recorded.
    #[error("the change was not recorded")]
    Commit(#[from] CommitError),
    /// Older replicas would stop at it.
    #[error(transparent)]
    Level(#[from] LevelTooLow),
    /// The text is not a policy.
    #[error("the policy text is not taken: {first}{more} (see `reduit policy check`)")]
    PolicyText {
        /// Its first mistake.
        first: String,
        /// How many others there are, in words.
        more: String,
    },
    /// The policy is not one for this region.
    #[error("the witness policy is not taken")]
    WitnessPolicy(#[source] kms_state::Refusal),
    /// Its log is not signed by this region's key.
    #[error("no log of the witness policy has this region's log key (see `reduit log keys`)")]
    OtherLogKey,
    /// A witness in it cannot be asked.
    #[error(transparent)]
    NoAddress(#[from] NoAddress),
    /// There is nothing to cosign yet.
    #[error("there is no finished checkpoint yet for witnesses to cosign")]
    NoCheckpoint,
    /// The new quorum does not answer.
    #[error("the new witnesses do not cosign the newest checkpoint")]
    IncomingSilent(#[source] tlog::PolicyRefused),
    /// The old quorum has not seen everything.
    #[error(transparent)]
    OutgoingSilent(#[from] OutgoingSilent),
}

/// Builds from before service principals refuse a grant for one.
fn of_service_principals(grant: &v1::Grant) -> bool {
    let role = match grant.principal.strip_prefix("role:") {
        Some(role) => role.parse().ok(),
        None => grant.principal.parse().ok().map(|id: Identity| id.role()),
    };
    role == Some(Role::Service)
}

impl Core {
    /// The current set, signed now by this replica. Before the ceremony it is the CA's.
    pub(crate) async fn fetch_enrolments(&self) -> Result<v1::SignedEnrolmentSet, AuthorityError> {
        let state = self.current().await?;
        Ok(match kms_state::authority_set(&*state) {
            Some(set) => sign_set(
                &self.local,
                &v1::EnrolmentSet {
                    signed_at_ms: self.now().0,
                    ..set
                },
            ),
            None => self.enrolments.current().signed().clone(),
        })
    }

    /// Adds and removes identities. The approvals sign exactly this request.
    pub(crate) async fn change_enrolment(
        &self,
        peer: &Peer,
        mut request: v1::ChangeEnrolmentRequest,
    ) -> Result<v1::KmsDone, AuthorityError> {
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ChangeEnrolment", &request);
        let claim = Some(self.stated(peer, request.claim.take()));
        let single_use_id = request.single_use_id;
        let what = v1::kms_command::Command::ChangeEnrolment(v1::ChangeEnrolment {
            add: request.add,
            remove: request.remove,
            claim,
        });
        self.dual_control(peer, &hash, &single_use_id, &approvals, what)
            .await
    }

    /// Adds and removes grants. The approvals sign exactly this request.
    pub(crate) async fn change_grants(
        &self,
        peer: &Peer,
        mut request: v1::ChangeGrantsRequest,
    ) -> Result<v1::KmsDone, AuthorityError> {
        if request.add.iter().any(of_service_principals) {
            self.may_change(peer, kms_state::LEVEL_ACCESS_KEYS)?;
        }
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ChangeGrants", &request);
        let claim = Some(self.stated(peer, request.claim.take()));
        let single_use_id = request.single_use_id;
        let what = v1::kms_command::Command::ChangeGrants(v1::ChangeGrants {
            add: request.add,
            remove: request.remove,
            claim,
        });
        self.dual_control(peer, &hash, &single_use_id, &approvals, what)
            .await
    }

    /// Replaces the policy text. The approvals sign exactly this request.
    pub(crate) async fn change_policy(
        &self,
        peer: &Peer,
        mut request: v1::ChangePolicyRequest,
    ) -> Result<v1::KmsDone, AuthorityError> {
        self.may_change(peer, kms_state::LEVEL_POLICY)?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ChangePolicy", &request);
        // Before the text is parsed on their account: it may be long.
        let claims = approvals::verified(
            &self.enrolments.current(),
            &hash,
            Some(request.single_use_id.as_ref()),
            &approvals,
            self.now(),
        )?;
        approvals::counted(&claims, &peer.identity, self.approvers_min())?;
        let claim = Some(self.stated(peer, request.claim.take()));
        let text = request.text;
        let parsed = tokio::task::spawn_blocking(move || {
            let parsed = PolicyText::parse(&text).map(|text| text.names_service_principals());
            (text, parsed)
        });
        let (text, parsed) = match parsed.await {
            Ok(parsed) => parsed,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        let of_service_principals = parsed.map_err(|errors| {
            let problems = errors.problems();
            // Its first line: the rest is a hint, and a status is no place for all of it.
            let first = problems.first().map(ToString::to_string);
            let first = first.and_then(|first| first.lines().next().map(str::to_owned));
            let more = match problems.len() {
                0 | 1 => String::new(),
                several => format!(", and {} more", several - 1),
            };
            AuthorityError::PolicyText {
                first: first.unwrap_or_default(),
                more,
            }
        })?;
        // Builds of before could not read it, and would deny everything.
        if of_service_principals {
            self.at_level(kms_state::LEVEL_ACCESS_KEYS)?;
        }
        let what = v1::kms_command::Command::ChangePolicy(v1::ChangePolicy { text, claim });
        let single_use_id = request.single_use_id;
        self.dual_control(peer, &hash, &single_use_id, &approvals, what)
            .await
    }

    /// Whether this operator may ask this replica now for what takes a feature level.
    pub(crate) fn may_change(
        &self,
        peer: &Peer,
        needed: FeatureLevel,
    ) -> Result<(), AuthorityError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(AuthorityError::NotOperator(peer.identity.clone()));
        }
        Ok(self.at_level(needed)?)
    }

    /// Replaces the policy of witnesses. The approvals sign exactly this request.
    pub(crate) async fn change_witnesses(
        &self,
        peer: &Peer,
        mut request: v1::ChangeWitnessesRequest,
    ) -> Result<v1::KmsDone, AuthorityError> {
        self.may_change(peer, kms_state::LEVEL_WITNESSES)?;
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("ChangeWitnesses", &request);
        let policy = request.policy.take().unwrap_or_default();
        // Before anybody is asked on its account.
        let claims = approvals::verified(
            &self.enrolments.current(),
            &hash,
            Some(request.single_use_id.as_ref()),
            &approvals,
            self.now(),
        )?;
        approvals::counted(&claims, &peer.identity, self.approvers_min())?;
        let rule = self.check_witness_policy(&policy)?;
        let outgoing_size = self.witnesses_answer(&rule).await?;
        let claim = Some(self.stated(peer, request.claim.take()));
        let single_use_id = request.single_use_id;
        let what = v1::kms_command::Command::ChangeWitnesses(v1::ChangeWitnesses {
            policy: Some(policy),
            claim,
            outgoing_size,
        });
        self.dual_control(peer, &hash, &single_use_id, &approvals, what)
            .await
    }

    /// What the state cannot check: the log's key, and that every witness can be asked.
    fn check_witness_policy(
        &self,
        stored: &v1::WitnessPolicy,
    ) -> Result<WitnessRule, AuthorityError> {
        let state = self.reader().map_err(StaleError::State)?;
        let region = kms_state::region(&*state).unwrap_or_default();
        let rule = WitnessRule::parse(stored, &region.region, &region.log_origin)
            .map_err(AuthorityError::WitnessPolicy)?;
        let key = self.log_verifier(&*state);
        let listed = |key| rule.policy().logs().iter().any(|log| log.key == key);
        if !key.is_some_and(listed) {
            return Err(AuthorityError::OtherLogKey);
        }
        reachable(rule.policy(), &region.region)?;
        Ok(rule)
    }

    /// Has the incoming quorum cosign the newest checkpoint, or nothing could be released once it is in force, and asks
    /// that the outgoing one has. Answers how far the outgoing one vouches.
    async fn witnesses_answer(&self, incoming: &WitnessRule) -> Result<u64, AuthorityError> {
        let newest = self.checkpoints.now().newest;
        let newest = newest.ok_or(AuthorityError::NoCheckpoint)?;
        let size = newest.checkpoint.size();
        if incoming.witnessed() {
            let policy = incoming.policy();
            let note = self
                .ask_witnesses_of(policy, newest.note.clone(), size)
                .await;
            policy
                .check(&note)
                .map_err(AuthorityError::IncomingSilent)?;
        }
        let state = self.reader().map_err(StaleError::State)?;
        let outgoing = self.ledger.gate().outgoing(&*state, size)?;
        Ok(outgoing.unwrap_or_default())
    }

    /// Lets region time follow the clocks of a majority by more than a day. Works before this region serves: an unseal
    /// is recorded with a time too.
    pub(crate) async fn advance_time(
        &self,
        peer: &Peer,
        mut request: v1::AdvanceTimeRequest,
    ) -> Result<v1::KmsDone, AuthorityError> {
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(AuthorityError::NotOperator(peer.identity.clone()));
        }
        let approvals = std::mem::take(&mut request.approvals);
        let hash = approvals::request_hash("AdvanceTime", &request);
        let table = self.enrolments.current();
        let id = Some(request.single_use_id.as_ref());
        let claims = approvals::verified(&table, &hash, id, &approvals, self.now())?;
        approvals::counted(&claims, &peer.identity, self.approvers_min())?;
        self.ledger.advance_time(claims, self.deadline()).await?;
        Ok(v1::KmsDone::default())
    }

    pub(crate) fn stated(&self, peer: &Peer, claim: Option<v1::Claim>) -> v1::Claim {
        v1::Claim {
            actor: peer.identity.to_string(),
            ..claim.unwrap_or_default()
        }
    }

    pub(crate) async fn dual_control(
        &self,
        peer: &Peer,
        hash: &[u8; 32],
        single_use_id: &[u8],
        approvals: &[v1::Approval],
        what: v1::kms_command::Command,
    ) -> Result<v1::KmsDone, AuthorityError> {
        self.serving()?;
        self.ledger.leading()?;
        if peer.identity.role() != Role::Operator {
            return Err(AuthorityError::NotOperator(peer.identity.clone()));
        }
        self.ledger
            .command::<AuthorityError>(&peer.identity, self.deadline(), |_state| {
                // Judged by one set and bound to its version: apply refuses if the authority has moved.
                let table = self.enrolments.current();
                let now = self.now();
                let claims =
                    approvals::verified(&table, hash, Some(single_use_id), approvals, now)?;
                approvals::counted(&claims, &peer.identity, self.approvers_min())?;
                Ok(Command {
                    authority_version: table.version(),
                    approvals: claims,
                    what: what.clone(),
                })
            })
            .await
    }

    /// Distinct approvers a dual-controlled request takes in this region.
    pub(crate) fn approvers_min(&self) -> usize {
        let state = self.reader().ok();
        let set = state.and_then(|state| kms_state::authority_set(&*state));
        set.map_or(approvals::APPROVERS_MIN, |set| set.approvals_min as usize)
    }

    /// Brings every set that is applied here into force here, for as long as the replica runs.
    pub(crate) async fn follow_authority(self: Arc<Self>) {
        let mut changes = self.changes.clone();
        loop {
            let told = changes.borrow_and_update().authority_version;
            // Told while the entry was being applied: readable a moment later.
            let mut applied = self.group.watch_applied();
            while self.applied_version() < told {
                if applied.changed().await.is_err() {
                    return;
                }
            }
            self.prepare_policy().await;
            self.take_applied_set().await;
            self.flush_state().await;
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Learns newer sets from the peers it knows while this replica does not lead, for as long as it runs. Who was away
    /// while the members changed may be led by one whose enrolment it has missed: it refuses that one's calls, and its
    /// own log, which would say who that is, goes on by those calls alone.
    pub(crate) async fn learn_authority(self: Arc<Self>) {
        let mut rounds = tokio::time::interval(ASK_EVERY);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if !self.group.is_leader() {
                learn_from_peers(&self.enrolments, &self.peers, self.identity()).await;
            }
        }
    }

    /// Parses the policy text that is applied here, off the threads that serve.
    async fn prepare_policy(&self) {
        let Ok(state) = self.reader() else { return };
        let policy = self.ledger.policy().clone();
        let prepared = tokio::task::spawn_blocking(move || policy.prepare(&*state));
        if let Err(panic) = prepared.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }

    /// Makes the state durable now. The region's record names the shares: a replica that comes back without it cannot
    /// be unsealed before a leader has committed the log again, and sealed replicas have none.
    pub(crate) async fn flush_state(&self) {
        let group = self.group.clone();
        // Held by the work itself, which goes on when who asked for it is gone: whoever stops waits for it.
        let busy = self.flushing.clone().lock_owned().await;
        let flush = move || {
            let flushed = group.flush();
            drop((group, busy));
            flushed
        };
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "state not flushed"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn applied_version(&self) -> u64 {
        self.reader()
            .map(|state| kms_state::authority_version(&*state))
            .unwrap_or(u64::MAX)
    }

    async fn take_applied_set(&self) {
        let set = self
            .reader()
            .ok()
            .and_then(|state| kms_state::authority_set(&*state));
        let Some(set) = set.filter(|set| set.version > self.enrolments.version()) else {
            return;
        };
        let version = set.version;
        let signed = sign_set(
            &self.local,
            &v1::EnrolmentSet {
                signed_at_ms: self.now().0,
                ..set
            },
        );
        match offer(&self.enrolments, signed).await {
            Ok(true) => tracing::info!(version, "enrolment set in force"),
            Ok(false) => {}
            // This replica is no longer enrolled by the set it holds: its peers' next call says so.
            Err(error) => {
                tracing::warn!(version, error = %Chain(&error), "applied enrolment set not taken");
                learn_from_peers(&self.enrolments, &self.peers, self.identity()).await;
            }
        }
    }
}

/// Offers a set where blocking for the disk is allowed.
async fn offer(
    enrolments: &Enrolments,
    signed: v1::SignedEnrolmentSet,
) -> Result<bool, EnrolmentError> {
    let enrolments = enrolments.clone();
    match tokio::task::spawn_blocking(move || enrolments.offer(&signed)).await {
        Ok(taken) => taken,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Asks the replicas that the held set names for a newer one.
async fn learn_from_peers(enrolments: &Enrolments, peers: &Peers, own: &Identity) {
    let members = enrolments.members(Role::Kms).into_iter();
    for id in members
        .filter(|member| member.identity != *own)
        .filter_map(|member| member.node_id)
    {
        let Ok(mut client) = peers.kms(id) else {
            continue;
        };
        let newer_than = enrolments.version();
        let mut request = Request::new(v1::FetchEnrolmentsRequest { newer_than });
        request.set_timeout(CALL_MAX);
        let fetched = match client.fetch_enrolments(request).await {
            Ok(fetched) => fetched.into_inner(),
            Err(status) => {
                tracing::debug!(member = id.0, %status, "no enrolment set from a peer");
                continue;
            }
        };
        // One that states the same is no news, and to save it would cost a sync.
        let version = v1::EnrolmentSet::decode(fetched.set.clone()).map_or(0, |set| set.version);
        if version <= newer_than {
            continue;
        }
        match offer(enrolments, fetched).await {
            Ok(true) => {
                tracing::info!(version, member = id.0, "enrolment set learnt from a peer");
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(member = id.0, error = %Chain(&error), "set not taken"),
        }
    }
}

/// Before a new member opens its log: waits until the set it holds enrols it, asking those it knows.
pub(crate) async fn learn_own_enrolment(enrolments: &Enrolments, peers: &Peers, own: &Identity) {
    while enrolments.current().by_identity(own).is_none() {
        learn_from_peers(enrolments, peers, own).await;
        if enrolments.current().by_identity(own).is_some() {
            return;
        }
        tokio::time::sleep(LEARN_EVERY).await;
    }
}
