//! Why a command is refused, the same on every replica.
//!
//! Owns the mapping to and from the wire. Refuses: object names, claims and key bytes in its words.

use proto::v1::{KmsRefusal, KmsRefused};

/// Why state refuses a command. Display is for logs and operators; it names ids and counts only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The init ceremony has not taken place.
    #[error("the region's KMS is not initialised")]
    NotInitialised,
    /// It has, and happens once.
    #[error("the region's KMS is initialised already")]
    AlreadyInitialised,
    /// The dataset has no KEK.
    #[error("the dataset has no key")]
    NoSuchKey,
    /// The dataset, KEK id or pseudonym is taken.
    #[error("the dataset has a key already, or its key id or pseudonym is taken")]
    KeyExists,
    /// Enrolments or grants changed since the leader decided.
    #[error("enrolments or grants moved to version {to} since the decision")]
    AuthorityMoved {
        /// Version in force.
        to: u64,
    },
    /// The key changed since the leader decided.
    #[error("the key's state moved to version {to} since the decision")]
    KeyStateMoved {
        /// Version in force.
        to: u64,
    },
    /// The key's state allows no such use.
    #[error("the key's state allows no such use")]
    KeyDisabled,
    /// No grant allows it.
    #[error("no grant allows this")]
    NotGranted,
    /// Fewer distinct approvers than dual control takes.
    #[error("dual control takes {needed} approvers, {found} approved")]
    TooFewApprovals {
        /// Distinct approvers needed.
        needed: u32,
        /// Distinct approvers found.
        found: u32,
    },
    /// The single-use id served before.
    #[error("the approvals' single-use id was used before")]
    ApprovalReplayed,
    /// An approval has expired by region time.
    #[error("an approval has expired")]
    ApprovalExpired,
    /// The requester approved its own request.
    #[error("the requester is among the approvers")]
    SelfApproval,
    /// Another region or jurisdiction than this one.
    #[error("another region or jurisdiction than this region's")]
    WrongJurisdiction,
    /// The request id served another request.
    #[error("the request id belongs to another request")]
    RequestIdReused,
    /// A lease under a KEK version that is no longer current.
    #[error("the KEK version is no longer issued")]
    VersionTooOld,
    /// A command that no correct leader builds.
    #[error("malformed command: {0}")]
    Malformed(&'static str),
    /// The identity is not enrolled, or not in the role this takes.
    #[error("an identity is not enrolled in the role this takes")]
    NotEnrolled,
    /// Time would jump. See [`crate::JUMP_MS_MAX`].
    #[error("region time stands at {now} and may not jump there")]
    ClockJump {
        /// Region time in force.
        now: u64,
    },
    /// This life of the replica was unsealed before.
    #[error("this boot of the replica was unsealed before")]
    AlreadyUnsealed,
    /// The key's state does not lead there, or not yet.
    #[error("the key's state does not lead there, or not yet")]
    WrongState,
    /// Identity, public key or member id belongs to someone.
    #[error("an identity, public key or member id is taken")]
    AlreadyEnrolled,
    /// Too few would be left to undo it.
    #[error("too few operators or replicas would be left to change anything")]
    LocksOut,
    /// Grants ended with the first policy text.
    #[error("the region has a policy text, and grants no longer count: change the text")]
    PolicyRules,
    /// No such split of the root key, or not the one under way.
    #[error("no such split of the root key, or not the one under way")]
    NoSuchSplit,
    /// Shares that nobody has seen in their custodians' hands.
    #[error("custodians have not shown every share of the split under way")]
    NotConfirmed,
    /// A KEK without a copy under the new root key.
    #[error("a key is not wrapped under the root key under way")]
    NotRewrapped,
    /// The root key could still be rebuilt.
    #[error("too few custodians have signed that their shares are erased")]
    NotErased,
    /// Decided on another root key.
    #[error("the root key in force is of epoch {to}")]
    RootMoved {
        /// Epoch in force.
        to: u32,
    },
    /// Witnesses would be shown checkpoints of a key they do not know.
    #[error("the witness policy does not name the log key of the root key under way")]
    LogKeyUnknown,
    /// A root key whose end would leave no backup.
    #[error("no backup under a later root key is confirmed")]
    NotBackedUp,
    /// Rows of another backup, or too few.
    #[error("the rows here are of another backup, or not all of this one")]
    OtherRestore,
    /// Someone who is not whom the backup knows.
    #[error("the requester or an approver has another key here than in the backup")]
    OtherKey,
    /// The log would go on under an origin that a witness has seen more of.
    #[error("leaves are lost, and no witness policy for the log's next origin was stated")]
    Gap,
    /// No such seal of the root key in force or under way.
    #[error("no such token's seal of the root key in force or under way")]
    NoSuchSeal,
    /// The next root key would have one seal fewer.
    #[error("the root key in force has a token's seal, and the one under way has none")]
    SealMissing,
    /// A token still gives its half.
    #[error("a token still holds its half of the epoch's root key")]
    SealNotDeleted,
    /// No access key of that id.
    #[error("there is no such access key")]
    NoSuchAccessKey,
    /// The id is another access key's.
    #[error("the access key's id is taken")]
    AccessKeyExists,
    /// No gateway is given its secret.
    #[error("the access key is disabled")]
    AccessKeyDisabled,
    /// See [`crate::ACCESS_KEYS_MAX`].
    #[error("the region has as many access keys as it may have")]
    TooManyAccessKeys,
    /// An alias leads to one key.
    #[error("an alias is another key's")]
    AliasTaken,
    /// Nothing is granted to that relocation of the dataset, or no key made for it.
    #[error("there is no such relocation of the dataset")]
    NoSuchRelocation,
    /// Paused under a fence, or closed.
    #[error("the relocation is granted no keys now")]
    HandOverNotOpen,
    /// For ever.
    #[error("the relocation's grant of keys is closed")]
    HandOverClosed,
    /// One relocation has one destination and one key.
    #[error("the relocation is granted to another region or hand-over key")]
    OtherHandOver,
    /// What is said of a fence is late.
    #[error("that fence is over, or another one stands")]
    OtherFence,
    /// A key is granted to one relocation, and not destroyed while it is.
    #[error("a relocation of the dataset is granted its keys")]
    RelocationUnderWay,
    /// One side of the evidence.
    #[error("the own shard does not say that the dataset moved")]
    NotMoved,
    /// The other one.
    #[error("no majority of the destination's shard says that it serves what moved")]
    NotServed,
    /// The grant has to be paused under the fence of the cutover, or closed.
    #[error("keys may still be released to the relocation")]
    StillGranted,
    /// It opens nothing any more.
    #[error("the relocation's hand-over key is destroyed")]
    HandOverEnded,
    /// Nothing may be asked on account of a region that is not trusted.
    #[error("no region of that name is trusted here")]
    RegionNotTrusted,
    /// Versions never go back.
    #[error("version {held} of the region's descriptor is held, and that one is no newer")]
    DescriptorOlder {
        /// Version held.
        held: u64,
    },
    /// By region time.
    #[error("the region's descriptor has expired, or is not good yet")]
    DescriptorExpired,
    /// People have to pin it anew, or never may.
    #[error("the region's descriptor does not follow the one that is held: {0}")]
    DescriptorNotPinned(&'static str),
    /// What people compared is another descriptor.
    #[error("the fingerprint is of another descriptor")]
    OtherFingerprint,
    /// See [`crate::REGIONS_MAX`].
    #[error(
        "the region trusts as many regions as it may, or its enrolment set is as large as it may be"
    )]
    TooManyRegions,
}

impl Refusal {
    /// Its number on the wire.
    pub fn reason(&self) -> KmsRefusal {
        match self {
            Self::NotInitialised => KmsRefusal::NotInitialised,
            Self::AlreadyInitialised => KmsRefusal::AlreadyInitialised,
            Self::NoSuchKey => KmsRefusal::NoSuchKey,
            Self::KeyExists => KmsRefusal::KeyExists,
            Self::AuthorityMoved { .. } => KmsRefusal::AuthorityMoved,
            Self::KeyStateMoved { .. } => KmsRefusal::KeyStateMoved,
            Self::KeyDisabled => KmsRefusal::KeyDisabled,
            Self::NotGranted => KmsRefusal::NotGranted,
            Self::TooFewApprovals { .. } => KmsRefusal::TooFewApprovals,
            Self::ApprovalReplayed => KmsRefusal::ApprovalReplayed,
            Self::ApprovalExpired => KmsRefusal::ApprovalExpired,
            Self::SelfApproval => KmsRefusal::SelfApproval,
            Self::WrongJurisdiction => KmsRefusal::WrongJurisdiction,
            Self::RequestIdReused => KmsRefusal::RequestIdReused,
            Self::VersionTooOld => KmsRefusal::VersionTooOld,
            Self::Malformed(_) => KmsRefusal::Malformed,
            Self::NotEnrolled => KmsRefusal::NotEnrolled,
            Self::ClockJump { .. } => KmsRefusal::ClockJump,
            Self::AlreadyUnsealed => KmsRefusal::AlreadyUnsealed,
            Self::WrongState => KmsRefusal::WrongState,
            Self::AlreadyEnrolled => KmsRefusal::AlreadyEnrolled,
            Self::LocksOut => KmsRefusal::LocksOut,
            Self::PolicyRules => KmsRefusal::PolicyRules,
            Self::NoSuchSplit => KmsRefusal::NoSuchSplit,
            Self::NotConfirmed => KmsRefusal::NotConfirmed,
            Self::NotRewrapped => KmsRefusal::NotRewrapped,
            Self::NotErased => KmsRefusal::NotErased,
            Self::RootMoved { .. } => KmsRefusal::RootMoved,
            Self::LogKeyUnknown => KmsRefusal::LogKeyUnknown,
            Self::NotBackedUp => KmsRefusal::NotBackedUp,
            Self::OtherRestore => KmsRefusal::OtherRestore,
            Self::OtherKey => KmsRefusal::OtherKey,
            Self::Gap => KmsRefusal::Gap,
            Self::NoSuchSeal => KmsRefusal::NoSuchSeal,
            Self::SealMissing => KmsRefusal::SealMissing,
            Self::SealNotDeleted => KmsRefusal::SealNotDeleted,
            Self::AliasTaken => KmsRefusal::AliasTaken,
            Self::RegionNotTrusted => KmsRefusal::RegionNotTrusted,
            Self::DescriptorOlder { .. } => KmsRefusal::DescriptorOlder,
            Self::DescriptorExpired => KmsRefusal::DescriptorExpired,
            Self::DescriptorNotPinned(_) => KmsRefusal::DescriptorNotPinned,
            Self::OtherFingerprint => KmsRefusal::OtherFingerprint,
            Self::TooManyRegions => KmsRefusal::TooManyRegions,
            Self::NoSuchAccessKey => KmsRefusal::NoSuchAccessKey,
            Self::AccessKeyExists => KmsRefusal::AccessKeyExists,
            Self::AccessKeyDisabled => KmsRefusal::AccessKeyDisabled,
            Self::TooManyAccessKeys => KmsRefusal::TooManyAccessKeys,
            Self::NoSuchRelocation => KmsRefusal::NoSuchRelocation,
            Self::HandOverNotOpen => KmsRefusal::HandOverNotOpen,
            Self::HandOverClosed => KmsRefusal::HandOverClosed,
            Self::OtherHandOver => KmsRefusal::OtherHandOver,
            Self::OtherFence => KmsRefusal::OtherFence,
            Self::RelocationUnderWay => KmsRefusal::RelocationUnderWay,
            Self::NotMoved => KmsRefusal::NotMoved,
            Self::NotServed => KmsRefusal::NotServed,
            Self::StillGranted => KmsRefusal::StillGranted,
            Self::HandOverEnded => KmsRefusal::HandOverEnded,
        }
    }

    /// As it stands in an answer. `moved_to` is the version or time in force where the refusal is about one.
    pub fn to_wire(&self) -> KmsRefused {
        let moved_to = match self {
            Self::AuthorityMoved { to } | Self::KeyStateMoved { to } => *to,
            Self::ClockJump { now } => *now,
            Self::DescriptorOlder { held } => *held,
            Self::RootMoved { to } => u64::from(*to),
            _ => 0,
        };
        KmsRefused {
            reason: self.reason().into(),
            moved_to,
        }
    }

    /// Whether the leader should decide again on the state as it now is and propose once more.
    pub fn decide_again(&self) -> bool {
        matches!(
            self,
            Self::AuthorityMoved { .. } | Self::KeyStateMoved { .. }
        )
    }
}
