//! The way into the log: policy, then the record, then and only then the release.
//!
//! Owns [`Recorded`], the proof that a request was allowed and that its record is committed and applied. Refuses
//! everyone else a way to make one: key material leaves through functions that consume a `Recorded`, so a handler
//! that skips policy or record does not compile. The verdict travels in the entry as the versions it was reached
//! under, and apply refuses an entry whose versions have moved: it is judged anew here, within its time.

mod batch;
mod clocks;
mod views;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use proto::danger::{Switch, broken};
use proto::ids::{DatasetId, Identity, LeafIndex, NodeId, RegionId, Role, UnixMs};
use proto::store::Reader;
use proto::time::KEEP_TIME_MS;
use proto::v1;
use replica::host::Group;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use transport::{Enrolments, LeaderHint, SharedClock};

use crate::approvals::{self, ApprovalError, Approved};
use crate::gate::{Gate, Unwitnessed};
use crate::peers::Peers;
use crate::policy::{Denied, Permit, Policy, Verdict};
use crate::random;
use batch::{Outcome, Waiting};
use clocks::Clocks;
use views::Views;

/// Records waiting for a place in an entry; beyond, requests are refused as overload.
pub(crate) const QUEUE_MAX: usize = 8192;
/// Between two tries of a verdict that moved.
const FOLLOW_PAUSE: Duration = Duration::from_millis(2);

/// A request that releases key material, or a secret.
pub(crate) trait Release {
    /// The key that it is decided on: what is released is that, or opens with it.
    type Key;
    /// Who asks, as authenticated.
    fn actor(&self) -> &Identity;
    /// The statement it is recorded with; its actor is set by the KMS.
    fn claim(&self) -> &v1::Claim;
    /// Approvals that came with it.
    fn approved(&self) -> Option<&Approved> {
        None
    }
    /// What policy says on the state the leader sees.
    fn permit(&self, policy: &Policy, state: &dyn Reader) -> Result<Permit<Self::Key>, Denied>;
    /// What the leaf will say, given the key it was decided on.
    fn record(&self, key: &Self::Key) -> v1::Record;
}

/// A key that is brought in, and shown to who asked for it.
pub(crate) trait New {
    /// What it is once it is in.
    type Key;
    /// Who asks, as authenticated.
    fn requester(&self) -> &Identity;
    /// What for, as stated.
    fn purpose(&self) -> &str;
    /// The key in the state, if this leaf brought it in.
    fn found(&self, state: &dyn Reader, leaf: LeafIndex) -> Option<Self::Key>;
}

/// A use of a dataset's key.
pub(crate) trait DatasetUse {
    /// Who asks, as authenticated.
    fn actor(&self) -> &Identity;
    /// Of which dataset.
    fn dataset(&self) -> DatasetId;
    /// What a grant must allow.
    fn action(&self) -> v1::Action;
    /// The statement it is recorded with; its actor is set by the KMS.
    fn claim(&self) -> &v1::Claim;
    /// Names the request; a retry reuses the leaf.
    fn request_id(&self) -> [u8; 16];
    /// The lowest KEK version it needs, or 0 where that is the current one's business.
    fn kek_version_min(&self) -> u32 {
        0
    }
    /// Where what is released goes; `None` is the region itself.
    fn recipient_region(&self) -> Option<&RegionId> {
        None
    }
    /// Approvals that came with it.
    fn approved(&self) -> Option<&Approved> {
        None
    }
    /// What the leaf will say, given the key it was decided on.
    fn kind(&self, key: &v1::KekRecord) -> v1::record::Kind;
}

impl<R: DatasetUse> Release for R {
    type Key = v1::KekRecord;

    fn actor(&self) -> &Identity {
        DatasetUse::actor(self)
    }

    fn claim(&self) -> &v1::Claim {
        DatasetUse::claim(self)
    }

    fn approved(&self) -> Option<&Approved> {
        DatasetUse::approved(self)
    }

    fn permit(&self, policy: &Policy, state: &dyn Reader) -> Result<Permit<Self::Key>, Denied> {
        policy.permit(state, self)
    }

    fn record(&self, key: &v1::KekRecord) -> v1::Record {
        v1::Record {
            request_id: Bytes::copy_from_slice(&self.request_id()),
            dataset_id: self.dataset().into(),
            state_version: key.state_version,
            claim: Some(stated(self)),
            kind: Some(self.kind(key)),
        }
    }
}

/// What a request states, with the actor that was authenticated.
pub(crate) fn stated(request: &impl Release) -> v1::Claim {
    v1::Claim {
        actor: request.actor().to_string(),
        ..request.claim().clone()
    }
}

/// Where and when a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Its place in the transparency log.
    pub(crate) index: LeafIndex,
    /// Region time in it. Earlier than now where a retry found the leaf of its first try.
    pub(crate) recorded_at: UnixMs,
}

/// A request that policy has allowed and the log has recorded, with the key it is about. Only [`Ledger::commit`] and
/// [`Ledger::commit_new`] build one and using it consumes it.
pub(crate) struct Recorded<R, K = v1::KekRecord> {
    request: R,
    key: Arc<K>,
    leaf: Leaf,
}

impl<R, K> Recorded<R, K> {
    /// The request, the key as it stood at the record, and the record's place.
    pub(crate) fn into_parts(self) -> (R, Arc<K>, Leaf) {
        (self.request, self.key, self.leaf)
    }
}

/// Why something did not get into the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommitError {
    /// Another replica leads. Nothing was recorded.
    #[error("this replica does not lead the KMS")]
    NotLeader {
        /// Who does, if known.
        leader: Option<LeaderHint>,
    },
    /// Policy says no. Nothing was recorded.
    #[error("not allowed")]
    Denied(#[source] Denied),
    /// Approvals that do not hold. Nothing was recorded.
    #[error("the approvals do not carry the request")]
    Approval(#[source] ApprovalError),
    /// The state refused it. Nothing was recorded.
    #[error("refused: {}", refusal_text(*reason))]
    Refused {
        /// Why.
        reason: v1::KmsRefusal,
    },
    /// Too much at once. Nothing was recorded.
    #[error("too many requests at once")]
    Busy,
    /// The command is larger than an entry may be. Nothing was recorded.
    #[error("the request is too large to be recorded")]
    TooLarge,
    /// What it was decided on kept moving, or the leader changed, for the whole of its time. Nothing was recorded.
    #[error("the request could not be decided in its time")]
    Undecided,
    /// No word of the outcome: it may be recorded. Nothing was released.
    #[error("the outcome is not known: the request may be on record, and nothing was released")]
    Unknown,
    /// The replica is stopping. Nothing was recorded.
    #[error("this replica is stopping")]
    Stopped,
    /// Outside witnesses have not said what a release needs them to.
    #[error("not witnessed")]
    Unwitnessed(#[source] Unwitnessed),
    /// A local failure to read the state. Nothing was recorded.
    #[error("the state could not be read")]
    State,
}

/// For people: what happened and, where there is something, what to do.
fn refusal_text(reason: v1::KmsRefusal) -> String {
    use v1::KmsRefusal as R;
    let words = match reason {
        R::ApprovalReplayed => {
            "the approvals' single-use id was used before: each approval serves once, ask for new ones"
        }
        R::ApprovalExpired => "an approval has expired: ask for new ones",
        R::TooFewApprovals => "too few distinct approvers",
        R::SelfApproval => {
            "the requester is among the approvers: nobody approves their own request"
        }
        R::NotEnrolled => "an identity it names or needs is not enrolled in the role this takes",
        R::WrongJurisdiction => "it is of another region or jurisdiction than this one",
        R::PolicyRules => {
            "the region has a policy text, and grants no longer count: change the text"
        }
        R::RequestIdReused => "the request id belongs to another request",
        R::NotBackedUp => {
            "the newest confirmed backup stands under that root key, or there is none: take one and confirm it (`reduit \
             kms backup`)"
        }
        R::OtherRestore => {
            "rows of another backup are in this cluster: begin again on replicas with empty folders"
        }
        R::NoSuchAccessKey => "there is no such access key",
        R::AccessKeyExists => "the access key's id is taken",
        R::TooManyAccessKeys => {
            "the region has as many access keys, or as large an enrolment set, as it may have: delete access keys that \
             are disabled, or shorten the policy text"
        }
        R::RegionNotTrusted => "no region of that name is trusted here",
        R::DescriptorOlder => "a descriptor of that region is held that is as new or newer",
        R::DescriptorExpired => "the region's descriptor has expired, or is not good yet",
        R::DescriptorNotPinned => {
            "the region's descriptor does not follow the one that is held: people have to compare its fingerprint and \
             trust it (`reduit region trust`)"
        }
        R::OtherFingerprint => "the fingerprint is of another descriptor",
        R::TooManyRegions => {
            "the region trusts as many regions as it may, or its enrolment set is as large as it may be"
        }
        R::AliasTaken => {
            "an alias is another key's: take it from that one first (reduit key label --remove-alias)"
        }
        R::OtherKey => "the requester or an approver has another key here than in the backup",
        R::NoSuchRelocation => {
            "nothing is granted to that relocation of the dataset, and no key was made for it"
        }
        R::HandOverNotOpen => {
            "the relocation is granted no keys now: its dataset is fenced, or the grant is closed"
        }
        R::HandOverClosed => {
            "the relocation's grant of keys is closed for good: begin a new relocation"
        }
        R::OtherHandOver => {
            "the relocation is granted to another region, dataset or hand-over key: begin one under another id"
        }
        R::OtherFence => "that fence of the dataset is over, or another one stands",
        R::RelocationUnderWay => {
            "a relocation is granted the dataset's keys: close its grant first, or shred the key by its evidence"
        }
        R::NotMoved => "the dataset's own shard does not say that it moved",
        R::NotServed => {
            "no majority of the destination's replicas says that it serves just what moved, by a descriptor as new as \
             the one that was approved"
        }
        R::StillGranted => "keys may still be released to the relocation: pause or close its grant",
        R::HandOverEnded => "the relocation's hand-over key is destroyed: begin a new relocation",
        R::Gap => "leaves are lost, and no witness policy for the log's next origin was given",
        R::LocksOut => "too few operators or replicas would be left to change anything",
        other => {
            let name = other.as_str_name();
            let name = name.strip_prefix("KMS_REFUSAL_").unwrap_or(name);
            return name.to_ascii_lowercase().replace('_', " ");
        }
    };
    words.to_owned()
}

impl CommitError {
    /// Whether the record may exist all the same.
    pub(crate) fn maybe_recorded(&self) -> bool {
        matches!(
            self,
            Self::Unknown | Self::Unwitnessed(Unwitnessed::NotCovered { .. })
        )
    }
}

/// The leader's pen.
pub(crate) struct Ledger {
    group: Group,
    clock: SharedClock,
    enrolments: Enrolments,
    identity: Identity,
    clocks: Clocks,
    policy: Arc<Policy>,
    gate: Gate,
    views: Views,
    queue: mpsc::Sender<Waiting>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.get_mut() {
            writer.abort();
        }
    }
}

impl Ledger {
    /// Starts the task that puts waiting records into entries.
    pub(crate) fn start(
        group: Group,
        enrolments: Enrolments,
        identity: Identity,
        peers: Arc<Peers>,
        gate: Gate,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let clock = enrolments.clock().clone();
        let writer = tokio::spawn(batch::write(group.clone(), clock.clone(), waiting));
        let clocks = Clocks::new(group.clone(), clock.clone(), peers);
        let policy = Arc::default();
        Self {
            group,
            clock,
            enrolments,
            identity,
            clocks,
            policy,
            gate,
            views: Views::default(),
            queue,
            writer: Mutex::new(Some(writer)),
        }
    }

    /// Lets go of the state that was last looked at: held for long, it holds what was overwritten since.
    pub(crate) fn let_go(&self) {
        self.views.clear();
    }

    /// Ends the task that writes: what waits is of unknown outcome, and the group is let go.
    pub(crate) async fn end(&self) {
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            writer.abort();
            // An error is the abort itself.
            let _ = writer.await;
        }
        self.views.clear();
    }

    /// Judges, records, and answers with the proof. Retries a verdict that moved until `deadline`.
    pub(crate) async fn commit<R: Release>(
        &self,
        request: R,
        deadline: Instant,
    ) -> Result<Recorded<R, R::Key>, CommitError> {
        loop {
            self.leading()?;
            let permit = {
                let state = self.views.of(&self.group).map_err(|_| CommitError::State)?;
                let state = &*state;
                let permit = request
                    .permit(&self.policy, state)
                    .map_err(CommitError::Denied)?;
                let purpose = request.claim().purpose.as_str();
                self.gate
                    .may_release(state, purpose)
                    .map_err(CommitError::Unwitnessed)?;
                permit
            };
            let record = request.record(permit.key());
            let verdict = permit.verdict();
            if broken(Switch::ReleaseBeforeRecord) {
                // The promise, broken: the key leaves on the strength of the verdict alone.
                let (queue, authority) = (self.queue.clone(), verdict.authority_version);
                let (answer, _nobody) = oneshot::channel();
                drop(queue.try_send(Waiting::new(record, authority, answer)));
                let key = permit.into_key();
                let leaf = Leaf {
                    index: LeafIndex(0),
                    recorded_at: self.clock.now(),
                };
                return Ok(Recorded { request, key, leaf });
            }
            let outcome = match self.counted(&request, verdict)? {
                Approvals::NotNeeded => {
                    self.write(record, verdict.authority_version, deadline)
                        .await?
                }
                // This process's own enrolment set follows the state a moment later.
                Approvals::Behind => Outcome::Refused(v1::KmsRefusal::AuthorityMoved),
                Approvals::Counted(claims) => {
                    let command = v1::KmsCommand {
                        authority_version: verdict.authority_version,
                        approvals: claims,
                        requester: request.actor().to_string(),
                        ..v1::KmsCommand::default()
                    };
                    self.write_alone(record, command, deadline).await
                }
            };
            match outcome {
                Outcome::Recorded(leaf) => {
                    self.witnessed(&request, leaf, deadline).await?;
                    let key = permit.into_key();
                    return Ok(Recorded { request, key, leaf });
                }
                Outcome::Refused(reason) if again(reason) => self.follow(reason, deadline).await?,
                Outcome::Refused(reason) => return Err(CommitError::Refused { reason }),
                Outcome::NotLeader(leader) => return Err(self.not_leader(leader)),
                Outcome::Busy => return Err(CommitError::Busy),
                Outcome::TooLarge => return Err(CommitError::TooLarge),
                Outcome::Stopped => return Err(CommitError::Stopped),
                Outcome::Unknown => return Err(CommitError::Unknown),
            }
        }
    }

    /// Verifies and counts the approvals that a verdict asks for, by the enrolments of the very version it names.
    fn counted<R: Release>(&self, request: &R, verdict: Verdict) -> Result<Approvals, CommitError> {
        let approved = match request.approved() {
            Some(approved) if verdict.approvals_needed > 0 => approved,
            _ => return Ok(Approvals::NotNeeded),
        };
        let table = self.enrolments.current();
        if table.version() != verdict.authority_version {
            return Ok(Approvals::Behind);
        }
        let id = Some(approved.single_use_id.as_ref());
        let (hash, given) = (&approved.hash, &approved.approvals);
        let claims = approvals::verified(&table, hash, id, given, self.clock.now())
            .map_err(CommitError::Approval)?;
        let needed = verdict.approvals_needed as usize;
        approvals::counted(&claims, request.actor(), needed).map_err(CommitError::Approval)?;
        Ok(Approvals::Counted(claims))
    }

    /// Records a use under dual control, in an entry of its own.
    async fn write_alone(
        &self,
        record: v1::Record,
        command: v1::KmsCommand,
        deadline: Instant,
    ) -> Outcome {
        let records = vec![record];
        let batch = v1::kms_command::Command::Records(v1::RecordBatch { records });
        let command = v1::KmsCommand {
            now_ms: self.clock.now().0,
            salts: Bytes::copy_from_slice(&random::<32>()),
            command: Some(batch),
            ..command
        };
        let proposed = self.group.propose_reserved(command.encode_to_vec().into());
        match tokio::time::timeout_at(deadline, proposed).await {
            Ok(Ok(applied)) => batch::read_one(applied.answer),
            Ok(Err(error)) => batch::outcome(error),
            // It is on its way and cannot be called back.
            Err(_) => Outcome::Unknown,
        }
    }

    /// Waits for the witnesses where the request's purpose needs them to have seen its record.
    async fn witnessed<R: Release>(
        &self,
        request: &R,
        leaf: Leaf,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        let rule = {
            let state = self
                .views
                .of(&self.group)
                .map_err(|_| CommitError::Unknown)?;
            self.gate.rule_of(&*state, &request.claim().purpose)
        };
        self.gate
            .covered(rule, leaf.index, deadline)
            .await
            .map_err(CommitError::Unwitnessed)
    }

    /// Proposes one command built from the state as it stands, anew when what it was built on moved.
    pub(crate) async fn command<E: From<CommitError>>(
        &self,
        requester: &Identity,
        deadline: Instant,
        mut build: impl FnMut(&dyn Reader) -> Result<Command, E>,
    ) -> Result<v1::KmsDone, E> {
        loop {
            self.leading()?;
            let command = {
                let state = self.group.reader().map_err(|_| CommitError::State)?;
                build(&*state)?
            };
            match self.propose(requester, command, deadline).await {
                Err(CommitError::Refused { reason }) if again(reason) => {
                    self.follow(reason, deadline).await?;
                }
                Err(error) => return Err(error.into()),
                Ok(done) => return Ok(done),
            }
        }
    }

    /// Commits a command that brings in a key under dual control, and answers with the proof by which it is shown to who
    /// asked for it. `found` is the key as the command, or its first try, left it.
    pub(crate) async fn commit_new<R: New, E: From<CommitError>>(
        &self,
        request: R,
        deadline: Instant,
        mut build: impl FnMut(&R, &dyn Reader) -> Result<Command, E>,
    ) -> Result<Recorded<R, R::Key>, E> {
        let done = self
            .command::<E>(request.requester(), deadline, |state| {
                let released = self.gate.may_release(state, request.purpose());
                released.map_err(CommitError::Unwitnessed)?;
                build(&request, state)
            })
            .await?;
        let state = self.group.reader().map_err(|_| CommitError::Unknown)?;
        let index = LeafIndex(done.leaf_index);
        let key = request.found(&*state, index);
        let key = key.ok_or(CommitError::Unknown)?;
        let leaf = Leaf {
            index,
            recorded_at: kms_state::region_time(&*state),
        };
        let key = Arc::new(key);
        Ok(Recorded { request, key, leaf })
    }

    /// Brings up to date what a refused verdict was behind of.
    async fn follow(&self, reason: v1::KmsRefusal, deadline: Instant) -> Result<(), CommitError> {
        if Instant::now() >= deadline {
            return Err(CommitError::Undecided);
        }
        if reason == v1::KmsRefusal::ClockJump {
            return self.advance_time(Vec::new(), deadline).await;
        }
        // The refusal was applied here before it was answered, so the next look sees what moved; this process's own
        // enrolment set follows a moment later.
        tokio::time::sleep(FOLLOW_PAUSE).await;
        Ok(())
    }

    /// Moves region time to the median of a majority's clocks. Over a day it takes approvals.
    pub(crate) async fn advance_time(
        &self,
        approvals: Vec<v1::ApprovalClaim>,
        deadline: Instant,
    ) -> Result<(), CommitError> {
        self.leading()?;
        let clocks_ms = self
            .clocks
            .of_majority(deadline)
            .await
            .ok_or(CommitError::Undecided)?;
        let command = Command {
            authority_version: self.enrolments.version(),
            approvals,
            what: v1::kms_command::Command::AdvanceTime(v1::AdvanceTime { clocks_ms }),
        };
        self.propose(&self.identity, command, deadline)
            .await
            .map(drop)
    }

    /// Moves region time on while no request does, so that the next one finds it current.
    pub(crate) async fn keep_time(&self, stands_at: UnixMs, deadline: Instant) {
        let behind = self.clock.now().0.saturating_sub(stands_at.0);
        if behind < KEEP_TIME_MS || !self.group.is_leader() {
            return;
        }
        if let Err(error) = self.advance_time(Vec::new(), deadline).await {
            tracing::info!(%error, behind_ms = behind, "region time not moved on");
        }
    }

    /// Proposes one command.
    pub(crate) async fn propose(
        &self,
        requester: &Identity,
        command: Command,
        deadline: Instant,
    ) -> Result<v1::KmsDone, CommitError> {
        // A clock reading beside the majority's clocks would be judged as a jump before they are looked at.
        let by_majority = matches!(command.what, v1::kms_command::Command::AdvanceTime(_));
        let command = v1::KmsCommand {
            now_ms: if by_majority { 0 } else { self.clock.now().0 },
            authority_version: command.authority_version,
            salts: Bytes::copy_from_slice(&random::<32>()),
            approvals: command.approvals,
            requester: requester.to_string(),
            command: Some(command.what),
        };
        // A new key can wait for room; everything else must work on a full disk.
        let bytes: Bytes = command.encode_to_vec().into();
        let proposal = async {
            match command.command {
                Some(
                    v1::kms_command::Command::CreateKek(_)
                    | v1::kms_command::Command::CreateAccessKey(_),
                ) => self.group.propose_at(bytes).await,
                _ => self.group.propose_reserved(bytes).await,
            }
        };
        let answer = tokio::time::timeout_at(deadline, proposal)
            .await
            .map_err(|_| CommitError::Unknown)?
            .map_err(|error| match batch::outcome(error) {
                Outcome::NotLeader(leader) => self.not_leader(leader),
                Outcome::Busy => CommitError::Busy,
                Outcome::TooLarge => CommitError::TooLarge,
                Outcome::Stopped => CommitError::Stopped,
                Outcome::Recorded(_) | Outcome::Refused(_) | Outcome::Unknown => {
                    CommitError::Unknown
                }
            })?;
        match v1::KmsAnswer::decode(answer.answer)
            .ok()
            .and_then(|answer| answer.answer)
        {
            Some(v1::kms_answer::Answer::Done(done)) => Ok(done),
            Some(v1::kms_answer::Answer::Refused(refused)) => Err(CommitError::Refused {
                reason: refused.reason(),
            }),
            // It was applied, and what was answered cannot be read: of unknown outcome to the caller.
            Some(v1::kms_answer::Answer::Records(_)) | None => Err(CommitError::Unknown),
        }
    }

    /// Whether witnesses let keys go.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Who may do what.
    pub(crate) fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Refuses unless this replica leads, as far as it knows; a proposal then proves it.
    pub(crate) fn leading(&self) -> Result<(), CommitError> {
        if self.group.is_leader() {
            return Ok(());
        }
        Err(self.not_leader(self.group.leader()))
    }

    fn not_leader(&self, leader: Option<NodeId>) -> CommitError {
        CommitError::NotLeader {
            leader: leader.map(|id| hint(&self.enrolments, id)),
        }
    }

    async fn write(
        &self,
        record: v1::Record,
        authority: u64,
        deadline: Instant,
    ) -> Result<Outcome, CommitError> {
        let (answer, outcome) = oneshot::channel();
        self.queue
            .try_send(Waiting::new(record, authority, answer))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommitError::Busy,
                mpsc::error::TrySendError::Closed(_) => CommitError::Stopped,
            })?;
        match tokio::time::timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => Ok(outcome),
            // The record is on its way and cannot be called back.
            Ok(Err(_)) | Err(_) => Err(CommitError::Unknown),
        }
    }
}

/// What became of a request's approvals.
enum Approvals {
    /// The verdict asks for none.
    NotNeeded,
    /// They are to be judged by enrolments that this process does not hold yet.
    Behind,
    /// They hold.
    Counted(Vec<v1::ApprovalClaim>),
}

/// A command and what it was decided on.
pub(crate) struct Command {
    pub(crate) authority_version: u64,
    pub(crate) approvals: Vec<v1::ApprovalClaim>,
    pub(crate) what: v1::kms_command::Command,
}

/// Refusals of what was right when it was proposed, or of a time that a majority can move.
fn again(reason: v1::KmsRefusal) -> bool {
    matches!(
        reason,
        v1::KmsRefusal::AuthorityMoved
            | v1::KmsRefusal::KeyStateMoved
            | v1::KmsRefusal::RootMoved
            | v1::KmsRefusal::ClockJump
    )
}

/// A member and where the enrolment set says it listens.
pub(crate) fn hint(enrolments: &Enrolments, id: NodeId) -> LeaderHint {
    let enrolled = enrolments.by_node_id(Role::Kms, id);
    LeaderHint {
        id,
        endpoint: enrolled
            .map(|enrolled| enrolled.endpoint)
            .unwrap_or_default(),
    }
}
