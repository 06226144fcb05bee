//! Every error of the node's API, mapped to whose turn it is and to a reason for machines: the one place.
//!
//! Owns the reasons, which callers branch on and which therefore never change. Refuses to call a request without
//! effect where it may have had one.

use node_state::relocation::Overrun;
use proto::ids::{GroupId, IdError, Identity, NodeId, ObjectVersionId};
use proto::v1::{self, Refusal};
use replica::host::{MemberError, ProposeError, RaiseError, ReadError};
use replica::state::StateError;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;
use transport::fault::status_of;
use transport::panel::WordError;
use transport::{Fault, Faulty, LeaderHint};

use crate::approvals::ApprovalError;
use crate::shard::receipts::ReceiptError;
use crate::shard::tokens::TokenError;
use crate::warrants::WarrantError;

/// Metadata of a failed precondition: the current version's id, hexadecimal; absent when there is none.
const CURRENT_VERSION: &str = "reduit-current-version";
/// Metadata of a dataset that moved: the region where it is.
const REGION: &str = "reduit-region";
/// Metadata of a dataset that is fenced: when that ends by the shard's time, in Unix milliseconds.
const FENCE_ENDS: &str = "reduit-fence-ends-ms";

/// Why a call to the catalog, a shard or the operators' service failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// An id or name that is none.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A request that lacks something or is out of bounds.
    #[error("request is malformed: {0}")]
    Malformed(&'static str),
    /// No grant allows it.
    #[error("no grant and no policy allows {identity} this")]
    NotGranted {
        /// Who asked.
        identity: Identity,
    },
    /// Another node leads the group, or none does.
    #[error("this node does not lead group {group}")]
    NotLeader {
        /// Which group.
        group: GroupId,
        /// Who leads, as far as is known.
        leader: Option<LeaderHint>,
    },
    /// This node has no replica of the group.
    #[error("this node has no replica of group {0}")]
    NoSuchGroup(GroupId),
    /// The region has not been founded.
    #[error("the region's storage groups are not founded yet: an operator has to call Found")]
    NotFounded,
    /// Apply refused it.
    #[error("{}", words(refused.reason()))]
    Refused {
        /// What apply said.
        refused: v1::Refused,
    },
    /// A lease token that does not hold.
    #[error("lease token is not accepted")]
    Token(#[from] TokenError),
    /// A warrant for a restore that does not hold.
    #[error("the warrant is not accepted")]
    Warrant(#[from] WarrantError),
    /// Approvals that do not hold.
    #[error("the approvals do not carry it")]
    Approval(#[from] ApprovalError),
    /// Older replicas would stop at it.
    #[error("group {group} is at feature level {level}, this takes level {needed}: raise it first")]
    Level {
        /// Which group.
        group: GroupId,
        /// In force.
        level: u32,
        /// Needed.
        needed: u32,
    },
    /// A receipt that does not hold.
    #[error("receipt is not accepted")]
    Receipt(#[from] ReceiptError),
    /// There is no such object, or its current version is a delete marker.
    #[error("no such object")]
    NoSuchObject,
    /// There is no such dataset.
    #[error("no such dataset")]
    NoSuchDataset,
    /// The disk is full.
    #[error("the disk of this node is {percent} % full: puts are refused, deletes still work")]
    DiskFull {
        /// Used share.
        percent: u64,
    },
    /// Proposing failed.
    #[error("it could not be proposed")]
    Propose(#[source] ProposeError),
    /// The read could not be made linearizable.
    #[error("it could not be read")]
    Read(#[source] ReadError),
    /// The group's authority is newer than what this node has learnt.
    #[error(
        "this node has learnt enrolments {held}, the group goes by {in_force}: it asks the kms again"
    )]
    AuthorityBehind {
        /// The version held here.
        held: u64,
        /// The version in force.
        in_force: u64,
    },
    /// Authority or key state moved at each attempt.
    #[error("authority or key state kept moving; nothing was done")]
    KeptMoving,
    /// An answer that does not decode: replicas of another build.
    #[error("apply's answer does not decode")]
    Answer,
    /// The state store.
    #[error("the state could not be read")]
    State(#[source] StateError),
    /// A change of membership.
    #[error("membership was not changed")]
    Member(#[source] MemberError),
    /// A change of level.
    #[error("the feature level was not raised")]
    Raise(#[source] RaiseError),
    /// A forced removal.
    #[error("removing a voter by force needs dual approval, which this build does not take")]
    Force,
    /// The node is unknown to the region.
    #[error("node {0} is not enrolled as a storage node")]
    NotEnrolled(NodeId),
    /// Nobody answered for the group within the time there was.
    #[error("no leader of group {group} answered in time: {why}")]
    NoAnswer {
        /// Which group.
        group: GroupId,
        /// What the last one said.
        why: String,
    },
    /// Not enough voters said what time it is.
    #[error(
        "this node's clock is off group {0}'s time, and no majority of the voters said what time it is"
    )]
    NoClocks(GroupId),
    /// References have not been compared with the disk since the start.
    #[error("this node has not compared its blocks with shard {0} yet")]
    NotReconciled(GroupId),
    /// Other auditors have the disk.
    #[error("this node is reading objects for other auditors: ask again later, or another node")]
    TooManyAudits,
    /// Other backups read states.
    #[error("this node is being read for other backups: try again later")]
    TooManyBackups,
    /// Words of another group that do not hold.
    #[error("what other replicas say does not carry it")]
    Word(#[from] WordError),
    /// A mover was too slow.
    #[error("removals after the cursor are forgotten: list again, from now on")]
    Overrun(#[from] Overrun),
    /// A peer's answer, passed on.
    #[error("{}", .0.message())]
    Peer(Box<Status>),
}

impl CallError {
    /// As a gRPC status.
    pub(crate) fn into_status(self) -> Status {
        if let Self::Peer(status) = self {
            return *status;
        }
        let mut status = status_of(&self);
        if let Self::Refused { refused } = &self
            && let Ok(current) = ObjectVersionId::try_from(refused.current_version_id.as_ref())
            && let Ok(current) = AsciiMetadataValue::try_from(current.to_string())
        {
            status.metadata_mut().insert(CURRENT_VERSION, current);
        }
        if let Self::Refused { refused } = &self
            && !refused.region.is_empty()
            && let Ok(region) = AsciiMetadataValue::try_from(refused.region.as_str())
        {
            status.metadata_mut().insert(REGION, region);
        }
        if let Self::Refused { refused } = &self
            && refused.reason() == Refusal::DatasetFenced
            && refused.moved_to > 0
        {
            let ends = AsciiMetadataValue::from(refused.moved_to);
            status.metadata_mut().insert(FENCE_ENDS, ends);
        }
        status
    }

    /// A refusal by apply with nothing but its reason.
    pub(crate) fn refused(reason: Refusal) -> Self {
        Self::Refused {
            refused: v1::Refused {
                reason: reason.into(),
                ..Default::default()
            },
        }
    }
}

impl Faulty for CallError {
    fn fault(&self) -> Fault {
        match self {
            Self::Id(_) | Self::Malformed(_) => Fault::Caller,
            Self::NotGranted { .. } | Self::Force => Fault::Denied,
            Self::NotLeader { .. }
            | Self::NoSuchGroup(_)
            | Self::NotFounded
            | Self::AuthorityBehind { .. }
            | Self::KeptMoving
            | Self::NoAnswer { .. }
            | Self::NoClocks(_)
            | Self::NotReconciled(_) => Fault::Unavailable,
            Self::Refused { refused } => refusal(refused.reason()).0,
            Self::Token(error) => error.fault(),
            Self::Receipt(error) => error.fault(),
            Self::Warrant(error) => error.fault(),
            Self::Approval(_) => Fault::Denied,
            Self::Word(error) => error.fault(),
            Self::Overrun(_) => Fault::Precondition,
            Self::Level { .. } => Fault::Precondition,
            Self::NoSuchObject | Self::NoSuchDataset | Self::NotEnrolled(_) => Fault::Missing,
            Self::DiskFull { .. } => Fault::Precondition,
            Self::Propose(error) => proposing(error).0,
            Self::Read(error) => reading(error).0,
            Self::TooManyAudits | Self::TooManyBackups => Fault::Busy,
            Self::Answer | Self::State(_) => Fault::Internal,
            Self::Member(error) => membership(error).0,
            Self::Raise(error) => raising(error).0,
            Self::Peer(status) => Fault::of(status),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Id(_) => "bad-id",
            Self::Malformed(_) => "malformed",
            Self::NotGranted { .. } => "not-granted",
            Self::NotLeader { .. } => "not-leader",
            Self::NoSuchGroup(_) => "no-such-group",
            Self::NotFounded => "not-founded",
            Self::Refused { refused } => refusal(refused.reason()).1,
            Self::Token(error) => error.reason(),
            Self::Receipt(error) => error.reason(),
            Self::Warrant(error) => error.reason(),
            Self::Approval(error) => error.reason(),
            Self::Word(error) => error.reason(),
            Self::Overrun(_) => "feed-overrun",
            Self::Level { .. } => "level-too-low",
            Self::NoSuchObject => "no-such-object",
            Self::NoSuchDataset => "no-such-dataset",
            Self::DiskFull { .. } => "disk-full",
            Self::Propose(error) => proposing(error).1,
            Self::Read(error) => reading(error).1,
            Self::AuthorityBehind { .. } => "authority-behind",
            Self::KeptMoving => "kept-moving",
            Self::Answer => "answer-unreadable",
            Self::State(_) => "state-unreadable",
            Self::Member(error) => membership(error).1,
            Self::Raise(error) => raising(error).1,
            Self::Force => "force-needs-approvals",
            Self::NotEnrolled(_) => "not-enrolled",
            Self::NoAnswer { .. } => "no-answer",
            Self::NoClocks(_) => "no-clocks",
            Self::NotReconciled(_) => "not-reconciled",
            Self::TooManyAudits => "too-many-audits",
            Self::TooManyBackups => "too-many-backups",
            Self::Peer(_) => "peer",
        }
    }

    fn leader(&self) -> Option<LeaderHint> {
        match self {
            Self::NotLeader { leader, .. } => leader.clone(),
            _ => None,
        }
    }
}

/// Whose turn it is after a refusal by apply, and its reason.
fn refusal(refusal: Refusal) -> (Fault, &'static str) {
    match refusal {
        Refusal::Unspecified => (Fault::Internal, "unspecified"),
        Refusal::NoSuchDataset => (Fault::Missing, "no-such-dataset"),
        Refusal::DatasetExists => (Fault::Exists, "dataset-exists"),
        Refusal::DatasetNotEmpty => (Fault::Precondition, "dataset-not-empty"),
        Refusal::DatasetFenced => (Fault::Unavailable, "dataset-fenced"),
        Refusal::NoSuchObject => (Fault::Missing, "no-such-object"),
        Refusal::PreconditionFailed => (Fault::Precondition, "precondition-failed"),
        Refusal::AuthorityMoved => (Fault::Unavailable, "authority-moved"),
        Refusal::KeyStateMoved => (Fault::Unavailable, "key-state-moved"),
        Refusal::KeyDisabled => (Fault::Precondition, "key-disabled"),
        Refusal::NoSuchToken => (Fault::Caller, "no-such-token"),
        Refusal::TokenNotHolders => (Fault::Denied, "token-not-holders"),
        Refusal::TokenExpired => (Fault::Caller, "token-expired"),
        Refusal::TokenTooOld => (Fault::Caller, "token-too-old"),
        Refusal::NotOnMajority => (Fault::Precondition, "not-on-majority"),
        Refusal::UploadTooOld => (Fault::Caller, "upload-too-old"),
        Refusal::RequestTooOld => (Fault::Caller, "request-too-old"),
        Refusal::RequestIdReused => (Fault::Caller, "request-id-reused"),
        Refusal::VersionIdReused => (Fault::Caller, "version-id-reused"),
        Refusal::StaleEpoch => (Fault::Precondition, "stale-epoch"),
        Refusal::Malformed => (Fault::Caller, "malformed"),
        Refusal::NameTaken => (Fault::Exists, "name-taken"),
        Refusal::DatasetGone => (Fault::Missing, "dataset-gone"),
        Refusal::AlreadyFounded => (Fault::Exists, "already-founded"),
        Refusal::NotFounded => (Fault::Unavailable, "not-founded"),
        Refusal::NoSuchShard => (Fault::Missing, "no-such-shard"),
        Refusal::ClockJump => (Fault::Unavailable, "clock-jump"),
        Refusal::DatasetHeld => (Fault::Precondition, "dataset-held"),
        Refusal::HoldMoved => (Fault::Precondition, "hold-moved"),
        Refusal::RetentionShortened => (Fault::Precondition, "retention-shortened"),
        Refusal::NoSuchUpload => (Fault::Missing, "no-such-upload"),
        Refusal::InvalidPart => (Fault::Precondition, "invalid-part"),
        Refusal::ObjectLocked => (Fault::Denied, "object-locked"),
        Refusal::NoObjectLock => (Fault::Precondition, "no-object-lock"),
        Refusal::LockKeepsVersions => (Fault::Precondition, "lock-keeps-versions"),
        Refusal::ConfigMoved => (Fault::Precondition, "config-moved"),
        Refusal::QuotaExceeded => (Fault::Precondition, "quota-exceeded"),
        Refusal::TooFewApprovals => (Fault::Denied, "too-few-approvals"),
        Refusal::DatasetMoved => (Fault::Missing, "dataset-moved"),
        Refusal::DatasetArriving => (Fault::Unavailable, "dataset-arriving"),
        Refusal::DatasetEpochMoved => (Fault::Unavailable, "dataset-epoch-moved"),
        Refusal::DatasetUnconfirmed => (Fault::Precondition, "dataset-unconfirmed"),
        Refusal::DatasetDeparting => (Fault::Precondition, "dataset-departing"),
        Refusal::NotUnderWay => (Fault::Precondition, "not-under-way"),
        Refusal::DepartureMoved => (Fault::Precondition, "departure-moved"),
        Refusal::FenceOver => (Fault::Precondition, "fence-over"),
        Refusal::RequestsNotIndexed => (Fault::Unavailable, "requests-not-indexed"),
        Refusal::NoMajority => (Fault::Denied, "no-majority"),
        Refusal::DescriptorOld => (Fault::Precondition, "descriptor-old"),
        Refusal::OutOfOrder => (Fault::Precondition, "out-of-order"),
        Refusal::OtherHandOverKey => (Fault::Precondition, "other-hand-over-key"),
        Refusal::Behind => (Fault::Precondition, "behind"),
        Refusal::ComparedBefore => (Fault::Precondition, "compared-before"),
        Refusal::NotEqual => (Fault::Precondition, "not-equal"),
        Refusal::SourceNotMoved => (Fault::Precondition, "source-not-moved"),
        Refusal::HoldNotOver => (Fault::Precondition, "hold-not-over"),
        Refusal::NotTaking => (Fault::Precondition, "not-taking"),
        Refusal::ImportGap => (Fault::Precondition, "import-gap"),
        Refusal::OtherPass => (Fault::Precondition, "other-pass"),
        Refusal::FoundEqual => (Fault::Precondition, "found-equal"),
        Refusal::NotResealed => (Fault::Caller, "not-resealed"),
        Refusal::MoverAtWork => (Fault::Precondition, "mover-at-work"),
        Refusal::PaceMoved => (Fault::Precondition, "pace-moved"),
        Refusal::MetadataMoved => (Fault::Precondition, "metadata-moved"),
        Refusal::RestoreGap => (Fault::Precondition, "restore-gap"),
        Refusal::NotRestoring => (Fault::Precondition, "not-restoring"),
        Refusal::RestoreIncomplete => (Fault::Precondition, "restore-incomplete"),
    }
}

/// What happened and what to do, for people.
fn words(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Unspecified => "refused for no stated reason",
        Refusal::NoSuchDataset => "no such dataset",
        Refusal::DatasetExists => "this dataset id is in use",
        Refusal::DatasetNotEmpty => {
            "the dataset holds objects: delete them, or delete it with force"
        }
        Refusal::DatasetFenced => {
            "the dataset is being relocated and takes no writes right now: try again"
        }
        Refusal::NoSuchObject => "no such object",
        Refusal::PreconditionFailed => "the precondition does not hold: read again, then decide",
        Refusal::AuthorityMoved => {
            "enrolments or grants changed meanwhile: nothing was done, try again"
        }
        Refusal::KeyStateMoved => {
            "the dataset's key changed meanwhile: nothing was done, try again"
        }
        Refusal::KeyDisabled => {
            "the dataset's key is not enabled: no object can be stored under it"
        }
        Refusal::NoSuchToken => "the lease's token is not registered: register it, then try again",
        Refusal::TokenNotHolders => "the lease is another holder's",
        Refusal::TokenExpired => "the lease has expired: take a new one",
        Refusal::TokenTooOld => "the lease's key version is retired: take a new lease",
        Refusal::NotOnMajority => "not every block is durable on a majority of the replicas",
        Refusal::UploadTooOld => "the upload began more than 24 epochs ago: upload again",
        Refusal::RequestTooOld => {
            "the request id is more than 24 epochs old: whether it ran is no longer known"
        }
        Refusal::RequestIdReused => "the request id was used for another request",
        Refusal::VersionIdReused => {
            "the object version id was used before: seal again under a new one"
        }
        Refusal::StaleEpoch => "the upload epoch is another",
        Refusal::Malformed => "the request is malformed",
        Refusal::NameTaken => "a dataset of this name exists",
        Refusal::DatasetGone => "the dataset was deleted or moved away",
        Refusal::AlreadyFounded => "the region was founded with other shards",
        Refusal::NotFounded => "the region's storage groups are not founded yet",
        Refusal::NoSuchShard => "the region has no such shard, or the dataset is on another",
        Refusal::ClockJump => {
            "the clocks are over 24 h ahead of the group's time: an operator has to let time advance"
        }
        Refusal::DatasetHeld => {
            "the dataset is under compliance retention or a legal hold: nothing was done"
        }
        Refusal::HoldMoved => {
            "the dataset's hold was changed meanwhile: read it again, then decide"
        }
        Refusal::RetentionShortened => {
            "compliance retention cannot end earlier than it was stated to"
        }
        Refusal::NoSuchUpload => "no such upload: it was completed, aborted, or never begun",
        Refusal::InvalidPart => {
            "a part that was named is not there, or was uploaded again since: list the parts"
        }
        Refusal::ObjectLocked => "retention or a legal hold keeps this version: nothing was done",
        Refusal::NoObjectLock => "the dataset has no object lock: nothing in it can be locked",
        Refusal::LockKeepsVersions => "the dataset has object lock: versioning stays on",
        Refusal::ConfigMoved => "the setting was changed meanwhile: read it again, then decide",
        Refusal::QuotaExceeded => "the dataset would hold more than its quota: nothing was stored",
        Refusal::TooFewApprovals => "this takes the approvals of two operators besides who asks",
        Refusal::DatasetMoved => "the dataset is in another region now: ask there",
        Refusal::DatasetArriving => {
            "the dataset is being filled, from another region or from a backup, and serves nothing yet"
        }
        Refusal::DatasetEpochMoved => {
            "the dataset was relocated meanwhile: nothing was done, take a new lease and try again"
        }
        Refusal::DatasetUnconfirmed => {
            "the dataset was restored from a backup: it is read, and takes no changes until two operators confirm that it \
             is still this region's (`reduit backup ask-confirm`)"
        }
        Refusal::DatasetDeparting => "the dataset is being relocated: abort that first",
        Refusal::NotUnderWay => "no relocation of this id is under way for the dataset",
        Refusal::DepartureMoved => {
            "another relocation of the dataset was begun or ended meanwhile: plan anew"
        }
        Refusal::FenceOver => "the fence that this is of does not stand any more",
        Refusal::RequestsNotIndexed => {
            "request ids of before the upgrade, or of the last relocation, are still kept: try again in a day"
        }
        Refusal::NoMajority => "not a majority of the other group's replicas say so",
        Refusal::DescriptorOld => "a newer descriptor of that region is known: exchange them again",
        Refusal::OutOfOrder => "the relocation is at another step",
        Refusal::OtherHandOverKey => "the keys were granted for another hand-over key",
        Refusal::Behind => "not everything up to the fence has been taken yet",
        Refusal::ComparedBefore => "copies changed after they were compared: compare again",
        Refusal::NotEqual => "not all copies are equal: nothing moves",
        Refusal::SourceNotMoved => {
            "the source has not said that it moved the dataset: its keys stay"
        }
        Refusal::HoldNotOver => "the source keeps its keys until the hold is over",
        Refusal::NotTaking => "the relocation takes no imports now",
        Refusal::ImportGap => "the batch does not go on where the last one ended",
        Refusal::OtherPass => "the batch was read in another pass than the one that counts",
        Refusal::FoundEqual => "all copies were found equal: nothing is imported any more",
        Refusal::NotResealed => "the object is not sealed under this region's key",
        Refusal::MoverAtWork => {
            "another gateway moves the dataset: its claim ends by itself, within a minute"
        }
        Refusal::PaceMoved => {
            "somebody else changed how the dataset is moved: read it again, then decide"
        }
        Refusal::MetadataMoved => {
            "the object's metadata was changed meanwhile: read it again, then decide"
        }
        Refusal::RestoreGap => {
            "the batch does not go on where the last one ended: run the restore again"
        }
        Refusal::NotRestoring => {
            "no restore of this warrant is at this step for the dataset: `reduit backup standing` says where it is"
        }
        Refusal::RestoreIncomplete => {
            "not everything that the backup counts is here: run the restore again"
        }
    }
}

fn proposing(error: &ProposeError) -> (Fault, &'static str) {
    match error {
        ProposeError::NotLeader { .. } => (Fault::Unavailable, "not-leader"),
        ProposeError::TooLarge { .. } => (Fault::Caller, "too-large"),
        ProposeError::Overloaded => (Fault::Busy, "busy"),
        ProposeError::Full => (Fault::Precondition, "disk-full"),
        ProposeError::Unknown => (Fault::Unknown, "outcome-unknown"),
        ProposeError::Stopped => (Fault::Unavailable, "stopping"),
    }
}

fn reading(error: &ReadError) -> (Fault, &'static str) {
    match error {
        ReadError::NotLeader { .. } => (Fault::Unavailable, "not-leader"),
        ReadError::NoQuorum => (Fault::Unavailable, "no-quorum"),
        ReadError::Behind => (Fault::Unavailable, "behind"),
        ReadError::Overloaded => (Fault::Busy, "busy"),
        ReadError::Stopped => (Fault::Unavailable, "stopping"),
    }
}

fn membership(error: &MemberError) -> (Fault, &'static str) {
    match error {
        MemberError::NotLeader { .. } => (Fault::Unavailable, "not-leader"),
        MemberError::Reused(_) => (Fault::Precondition, "node-id-reused"),
        MemberError::NotEnrolled(_) => (Fault::Missing, "not-enrolled"),
        MemberError::Unconfirmed(error) => reading(error),
        MemberError::NotALearner(_) | MemberError::NotAMember(_) => {
            (Fault::Missing, "not-a-member")
        }
        MemberError::LastVoter(_) => (Fault::Precondition, "last-voter"),
        MemberError::Lagging(_) => (Fault::Unavailable, "lagging"),
        MemberError::Withheld(_) => (Fault::Unavailable, "withheld"),
        MemberError::InProgress => (Fault::Unavailable, "change-in-progress"),
        // Every step is done again when repeated, so trying again is right.
        MemberError::Unknown => (Fault::Unavailable, "change-undecided"),
        MemberError::HandOver(_) => (Fault::Unavailable, "no-successor"),
        MemberError::Stopped => (Fault::Unavailable, "stopping"),
    }
}

fn raising(error: &RaiseError) -> (Fault, &'static str) {
    match error {
        RaiseError::Unknown(_) => (Fault::Caller, "level-unknown"),
        RaiseError::NotSupported { .. } => (Fault::Precondition, "level-not-supported"),
        RaiseError::NoAnswer(_) => (Fault::Unavailable, "level-no-answer"),
        RaiseError::Propose(error) => proposing(error),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_failed_precondition_says_what_is_there() {
        let version = ObjectVersionId([0xAB; 16]);
        let refused = v1::Refused {
            reason: Refusal::PreconditionFailed.into(),
            current_version_id: Bytes::copy_from_slice(&version.0),
            ..Default::default()
        };
        let status = CallError::Refused { refused }.into_status();
        assert_eq!(
            transport::fault::reason(&status),
            Some("precondition-failed")
        );
        let current = status
            .metadata()
            .get(CURRENT_VERSION)
            .and_then(|v| v.to_str().ok());
        assert_eq!(current, Some("ab".repeat(16).as_str()));
        assert_eq!(Fault::of(&status), Fault::Precondition);
    }

    #[test]
    fn a_dataset_that_moved_says_where_it_is() {
        let moved = CallError::Refused {
            refused: v1::Refused {
                reason: Refusal::DatasetMoved.into(),
                moved_to: 2,
                region: "de-fra".to_owned(),
                ..Default::default()
            },
        };
        let status = moved.into_status();
        let region = status.metadata().get(REGION);
        assert_eq!(region.and_then(|v| v.to_str().ok()), Some("de-fra"));
        assert_eq!(Fault::of(&status), Fault::Missing);
        let elsewhere = CallError::refused(Refusal::NoSuchObject).into_status();
        assert!(elsewhere.metadata().get(REGION).is_none());
    }

    #[test]
    fn no_two_refusals_share_a_reason() {
        let numbered = (0..1000).filter_map(|number| Refusal::try_from(number).ok());
        let reasons: Vec<_> = numbered.map(|of| refusal(of).1).collect();
        let distinct: std::collections::BTreeSet<_> = reasons.iter().collect();
        assert_eq!(distinct.len(), reasons.len());
        assert_eq!(reasons.len(), 67, "a new refusal belongs in this test");
    }
}
