//! Every error of the KMS, mapped to whose turn it is and to a reason for machines: the one place.
//!
//! Owns the reasons, which callers branch on and which therefore never change. Refuses to call a request without
//! effect where it may be on record.

use proto::v1::KmsRefusal;
use replica::host::{MemberError, ProposeError, RaiseError, ReadError};
use tlog::OwnTreeRefused;
use transport::{Fault, Faulty, LeaderHint};

use crate::access_keys::AccessKeyError;
use crate::approvals::ApprovalError;
use crate::attest::AttestError;
use crate::authority::AuthorityError;
use crate::backup::BackupError;
use crate::ceremony::CeremonyError;
use crate::checkpoints::{ReceiptError, TakeError};
use crate::core::StaleError;
use crate::cosigner::CosignError;
use crate::custody::CustodyError;
use crate::gate::Unwitnessed;
use crate::hand_over::{CertifyError, HandOverError};
use crate::kek_rotation::RewrapError;
use crate::keys::KeyError;
use crate::leases::LeaseError;
use crate::ledger::CommitError;
use crate::log::LogError;
use crate::membership::MembershipError;
use crate::opens::OpenError;
use crate::peer_unseal::{AskError, ReleaseError};
use crate::policy::Denied;
use crate::publish::CosignAnswerError;
use crate::regions::RegionError;
use crate::reshare::ReshareError;
use crate::restore::RestoreError;
use crate::rotation::SendRootError;
use crate::seal::{Sealed, UnsealError};
use crate::sessions::{NoSession, OpenSessionError};
use crate::token::TokenError;
use crate::token_seals::TokenSealRefused;
use crate::unseal::{SealRefused, ShareRefused};
use crate::word_of_shard::HeldError;

/// Whose turn it is after a refusal by the state, and its reason.
fn refusal(refusal: KmsRefusal) -> (Fault, &'static str) {
    match refusal {
        KmsRefusal::Unspecified => (Fault::Internal, "unspecified"),
        KmsRefusal::NotInitialised => (Fault::Precondition, "not-initialised"),
        KmsRefusal::AlreadyInitialised => (Fault::Exists, "already-initialised"),
        KmsRefusal::NoSuchKey => (Fault::Missing, "no-such-key"),
        KmsRefusal::KeyExists => (Fault::Exists, "key-exists"),
        KmsRefusal::AuthorityMoved => (Fault::Unavailable, "authority-moved"),
        KmsRefusal::KeyStateMoved => (Fault::Unavailable, "key-state-moved"),
        KmsRefusal::KeyDisabled => (Fault::Precondition, "key-disabled"),
        KmsRefusal::NotGranted => (Fault::Denied, "not-granted"),
        KmsRefusal::TooFewApprovals => (Fault::Denied, "too-few-approvals"),
        KmsRefusal::ApprovalReplayed => (Fault::Denied, "approval-replayed"),
        KmsRefusal::ApprovalExpired => (Fault::Denied, "approval-expired"),
        KmsRefusal::SelfApproval => (Fault::Denied, "self-approval"),
        KmsRefusal::WrongJurisdiction => (Fault::Denied, "wrong-jurisdiction"),
        KmsRefusal::RequestIdReused => (Fault::Caller, "request-id-reused"),
        KmsRefusal::VersionTooOld => (Fault::Precondition, "key-version-too-old"),
        KmsRefusal::Malformed => (Fault::Caller, "malformed"),
        KmsRefusal::NotEnrolled => (Fault::Denied, "not-enrolled"),
        KmsRefusal::ClockJump => (Fault::Unavailable, "clock-jump"),
        KmsRefusal::AlreadyUnsealed => (Fault::Precondition, "already-unsealed"),
        KmsRefusal::WrongState => (Fault::Precondition, "wrong-key-state"),
        KmsRefusal::AlreadyEnrolled => (Fault::Exists, "already-enrolled"),
        KmsRefusal::LocksOut => (Fault::Precondition, "locks-out"),
        KmsRefusal::PolicyRules => (Fault::Precondition, "policy-rules"),
        KmsRefusal::NoSuchSplit => (Fault::Missing, "no-such-split"),
        KmsRefusal::NotConfirmed => (Fault::Precondition, "not-confirmed"),
        KmsRefusal::NotRewrapped => (Fault::Unavailable, "not-rewrapped"),
        KmsRefusal::NotErased => (Fault::Precondition, "not-erased"),
        KmsRefusal::RootMoved => (Fault::Precondition, "root-moved"),
        KmsRefusal::LogKeyUnknown => (Fault::Precondition, "log-key-unknown"),
        KmsRefusal::NotBackedUp => (Fault::Precondition, "not-backed-up"),
        KmsRefusal::OtherRestore => (Fault::Precondition, "other-restore"),
        KmsRefusal::OtherKey => (Fault::Denied, "other-key-than-in-backup"),
        KmsRefusal::Gap => (Fault::Precondition, "leaves-lost"),
        KmsRefusal::NoSuchSeal => (Fault::Missing, "no-such-seal"),
        KmsRefusal::SealMissing => (Fault::Precondition, "seal-missing"),
        KmsRefusal::SealNotDeleted => (Fault::Precondition, "seal-not-deleted"),
        KmsRefusal::AliasTaken => (Fault::Exists, "alias-taken"),
        KmsRefusal::NoSuchAccessKey => (Fault::Missing, "no-such-access-key"),
        KmsRefusal::AccessKeyExists => (Fault::Exists, "access-key-exists"),
        KmsRefusal::AccessKeyDisabled => (Fault::Missing, "no-such-access-key"),
        KmsRefusal::TooManyAccessKeys => (Fault::Precondition, "too-many-access-keys"),
        KmsRefusal::NoSuchRelocation => (Fault::Missing, "no-such-relocation"),
        KmsRefusal::HandOverNotOpen => (Fault::Precondition, "hand-over-not-open"),
        KmsRefusal::HandOverClosed => (Fault::Precondition, "hand-over-closed"),
        KmsRefusal::OtherHandOver => (Fault::Exists, "other-hand-over"),
        KmsRefusal::OtherFence => (Fault::Precondition, "other-fence"),
        KmsRefusal::RelocationUnderWay => (Fault::Precondition, "relocation-under-way"),
        KmsRefusal::NotMoved => (Fault::Precondition, "not-moved"),
        KmsRefusal::NotServed => (Fault::Precondition, "not-served"),
        KmsRefusal::StillGranted => (Fault::Precondition, "still-granted"),
        KmsRefusal::HandOverEnded => (Fault::Precondition, "hand-over-ended"),
        KmsRefusal::RegionNotTrusted => (Fault::Missing, "region-not-trusted"),
        KmsRefusal::DescriptorOlder => (Fault::Precondition, "descriptor-older"),
        KmsRefusal::DescriptorExpired => (Fault::Precondition, "descriptor-expired"),
        KmsRefusal::DescriptorNotPinned => (Fault::Denied, "descriptor-not-pinned"),
        KmsRefusal::OtherFingerprint => (Fault::Denied, "other-fingerprint"),
        KmsRefusal::TooManyRegions => (Fault::Precondition, "too-many-regions"),
    }
}

/// Implements [`Faulty`] from a table of pattern to fault and reason; errors that wrap a Faulty one pass it on.
macro_rules! faulty {
    ($error:ty { $($own:pat => ($fault:ident, $reason:literal),)* } $(inner { $($wrapped:ident),* $(,)? })?) => {
        impl Faulty for $error {
            fn fault(&self) -> Fault {
                match self {
                    $($own => Fault::$fault,)*
                    $($(Self::$wrapped(inner) => inner.fault(),)*)?
                }
            }

            fn reason(&self) -> &'static str {
                match self {
                    $($own => $reason,)*
                    $($(Self::$wrapped(inner) => inner.reason(),)*)?
                }
            }

            fn leader(&self) -> Option<LeaderHint> {
                match self {
                    $($own => None,)*
                    $($(Self::$wrapped(inner) => inner.leader(),)*)?
                }
            }
        }
    };
}

impl Faulty for Sealed {
    fn fault(&self) -> Fault {
        Fault::Unavailable
    }

    fn reason(&self) -> &'static str {
        "sealed"
    }
}

impl Faulty for CommitError {
    fn fault(&self) -> Fault {
        match self {
            Self::NotLeader { .. } | Self::Undecided | Self::Stopped | Self::State => {
                Fault::Unavailable
            }
            Self::Denied(denied) => denied.fault(),
            Self::Approval(approval) => approval.fault(),
            Self::Refused { reason } => refusal(*reason).0,
            Self::Busy => Fault::Busy,
            Self::TooLarge => Fault::Caller,
            Self::Unknown => Fault::Unknown,
            Self::Unwitnessed(unwitnessed) => unwitnessed.fault(),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not-leader",
            Self::Denied(denied) => denied.reason(),
            Self::Approval(approval) => approval.reason(),
            Self::Refused { reason } => refusal(*reason).1,
            Self::Busy => "busy",
            Self::TooLarge => "too-large",
            Self::Undecided => "undecided",
            Self::Unknown => "maybe-recorded",
            Self::Stopped => "stopping",
            Self::State => "state-unreadable",
            Self::Unwitnessed(unwitnessed) => unwitnessed.reason(),
        }
    }

    fn leader(&self) -> Option<LeaderHint> {
        match self {
            Self::NotLeader { leader } => leader.clone(),
            _ => None,
        }
    }
}

faulty!(Denied {
    Self::Policy(kms_state::Denied::NotInitialised) => (Precondition, "not-initialised"),
    Self::Policy(kms_state::Denied::NotEnrolled) => (Denied, "not-enrolled"),
    Self::Policy(kms_state::Denied::Role) => (Denied, "role-may-not"),
    Self::Policy(kms_state::Denied::NoGrant) => (Denied, "not-granted"),
    Self::NothingPermits => (Denied, "not-permitted"),
    Self::Forbidden { .. } => (Denied, "forbidden-by-policy"),
    Self::PolicyFails { .. } => (Denied, "policy-fails"),
    Self::PolicyUnread => (Denied, "policy-unread"),
    Self::Purpose | Self::OnBehalfOf => (Caller, "malformed"),
    Self::NotAGateway => (Denied, "not-gateway"),
    Self::Principal(_) => (Denied, "principal-not-allowed"),
    Self::NoAccessKey => (Missing, "no-such-access-key"),
    Self::NoRelocation => (Missing, "no-such-relocation"),
    Self::NeedsApprovals => (Denied, "needs-approvals"),
    Self::NoSuchKey => (Missing, "no-such-key"),
    Self::KeyNotEnabled => (Precondition, "key-disabled"),
    Self::VersionTooOld => (Precondition, "key-version-too-old"),
});

faulty!(Unwitnessed {
    Self::NeverHere | Self::TooOld { .. } => (Unavailable, "unwitnessed"),
    Self::NoWitnesses => (Precondition, "no-witnesses"),
    // On record, and nothing released: as after any cut answer.
    Self::NotCovered { .. } => (Unknown, "not-witnessed-in-time"),
});

faulty!(CosignAnswerError {
    Self::Malformed(_) => (Caller, "malformed"),
    Self::NotInitialised => (Precondition, "not-initialised"),
    Self::Clock => (Internal, "no-clock"),
} inner { Stale, Cosign });

faulty!(CosignError {
    Self::Refused(OwnTreeRefused::Behind { .. }) => (Unavailable, "behind"),
    Self::Refused(OwnTreeRefused::GoneBack { .. }) => (Damaged, "gone-back"),
    Self::Refused(OwnTreeRefused::Unreadable(_)) => (Damaged, "tree-unreadable"),
    Self::Refused(_) => (Precondition, "other-tree"),
    Self::NotDurable(_) | Self::Sign(_) => (Internal, "not-cosigned"),
});

faulty!(TakeError {
    Self::Note(_) | Self::Checkpoint(_) => (Caller, "malformed"),
    Self::OtherTree => (Precondition, "other-tree"),
    Self::NotSigned(_) => (Denied, "bad-signature"),
    Self::Ahead { .. } => (Unavailable, "behind"),
} inner { Stale });

faulty!(ReceiptError {
    Self::NoSuchLeaf { .. } => (Caller, "tree-smaller"),
    Self::NotCovered => (Unavailable, "no-checkpoint"),
    Self::Prove(_) => (Caller, "no-such-proof"),
} inner { Stale });

faulty!(NoSession { Self::Unknown => (Precondition, "no-such-session"), });

faulty!(OpenSessionError {
    Self::OtherReplica => (Caller, "other-replica"),
    Self::Signature => (Denied, "bad-signature"),
    Self::Session(_) => (Caller, "bad-offer"),
});

faulty!(CustodyError {
    Self::NoVersion { .. } => (Precondition, "no-such-key-version"),
    Self::Wrapped(_) | Self::NotAuthentic => (Damaged, "key-does-not-open"),
    Self::Key(_) => (Busy, "no-key-memory"),
    Self::Session(_) => (Precondition, "no-such-session"),
} inner { Sealed });

faulty!(OpenError {
    Self::Role { .. } => (Denied, "role-receives-no-keys"),
    Self::Malformed { .. } => (Caller, "malformed"),
    Self::Items => (Caller, "too-many-items"),
} inner { Sealed, Session, Commit, Custody });

faulty!(AttestError {
    Self::NotAuditor(_) => (Denied, "not-auditor"),
    Self::Malformed { .. } => (Caller, "malformed"),
    Self::Items => (Caller, "too-many-items"),
    Self::NoSuchKey { .. } => (Missing, "no-such-key"),
} inner { Sealed, Item, Stale });

faulty!(AccessKeyError {
    Self::Role { .. } => (Denied, "role-receives-no-keys"),
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::NotAuditor(_) => (Denied, "not-auditor"),
    Self::Malformed { .. } => (Caller, "malformed"),
    Self::NoSuch { .. } => (Missing, "no-such-access-key"),
    Self::StillEnabled { .. } => (Precondition, "access-key-enabled"),
    Self::Moved { .. } => (Precondition, "access-key-moved"),
    Self::NotEnabled { .. } => (Precondition, "access-key-disabled"),
    Self::Level(_) => (Precondition, "level-too-low"),
} inner { Sealed, Session, Stale, Approval, Commit, Custody });

faulty!(HandOverError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::NotAGateway(_) => (Denied, "not-gateway"),
    Self::Malformed { .. } => (Caller, "malformed"),
    Self::NotTrusted(_) => (Precondition, "region-not-trusted"),
    Self::Signature(_) => (Denied, "bad-signature"),
    Self::OtherSource(_) => (Denied, "other-hand-over"),
    Self::NoSuch(_) => (Missing, "no-such-relocation"),
    Self::Ended(_) => (Precondition, "hand-over-ended"),
    Self::NoSuchKey(_) => (Missing, "no-such-key"),
    Self::Id(_) => (Caller, "malformed"),
    Self::NotAsked(_) => (Unavailable, "shard-not-heard"),
    Self::Level(_) => (Precondition, "level-too-low"),
} inner { Sealed, Item, Session, Stale, Approval, Commit, Custody, Words, Key });

faulty!(CertifyError {
    Self::Role(_) => (Denied, "role-asks-no-certificate"),
    Self::Statement(_) => (Caller, "bad-statement"),
    Self::OtherRegions => (Caller, "other-regions"),
    Self::Differs(_) => (Precondition, "statement-differs"),
    Self::NotYet(_) => (Precondition, "not-certified-yet"),
    Self::Shard(_) => (Unavailable, "shard-not-heard"),
    Self::Level(_) => (Precondition, "level-too-low"),
} inner { Sealed, Stale, Commit, Words });

faulty!(LeaseError {
    Self::Role { .. } => (Denied, "role-receives-no-keys"),
    Self::Malformed { .. } => (Caller, "malformed"),
} inner { Sealed, Session, Commit, Custody });

faulty!(KeyError {
    Self::Malformed { .. } => (Caller, "malformed"),
    Self::NoSuchKey { .. } => (Missing, "no-such-key"),
    Self::NoSuchAlias => (Missing, "no-such-alias"),
    Self::State { .. } => (Precondition, "wrong-key-state"),
    Self::Days { .. } => (Caller, "destruction-days"),
    Self::Level(_) => (Precondition, "level-too-low"),
} inner { Sealed, Denied, Custody, Commit, Stale, Approval, Held, Rewrap });

faulty!(RewrapError {
    Self::Shard(_) => (Unavailable, "shard-not-asked"),
    Self::Malformed => (Damaged, "token-unreadable"),
    Self::Taken { .. } => (Precondition, "versions-in-use"),
    Self::Left => (Precondition, "tokens-left"),
} inner { Custody });

faulty!(HeldError {
    Self::NotAsked(_) => (Unavailable, "hold-unknown"),
    Self::Retained { .. } | Self::LegalHold => (Precondition, "dataset-held"),
    Self::Moved => (Precondition, "dataset-moved-away"),
});

faulty!(ApprovalError {
    Self::TooMany | Self::Malformed => (Caller, "malformed"),
    Self::NotOperator { .. } => (Denied, "approver-not-operator"),
    Self::Signature { .. } => (Denied, "bad-signature"),
    Self::OtherRequest { .. } => (Denied, "approval-of-other-request"),
    Self::Expired { .. } => (Denied, "approval-expired"),
    Self::SelfApproval { .. } => (Denied, "self-approval"),
    Self::TooFew { .. } => (Denied, "too-few-approvals"),
});

faulty!(AuthorityError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::Level(_) => (Precondition, "level-too-low"),
    Self::PolicyText { .. } => (Caller, "bad-policy-text"),
    Self::WitnessPolicy(_) | Self::OtherLogKey | Self::NoAddress(_) => (Caller, "bad-witness-policy"),
    Self::NoCheckpoint => (Unavailable, "no-checkpoint"),
    Self::IncomingSilent(_) => (Precondition, "new-witnesses-silent"),
    Self::OutgoingSilent(_) => (Precondition, "outgoing-witnesses-behind"),
} inner { Sealed, Stale, Approval, Commit });

faulty!(RegionError {
    Self::Descriptor(_) | Self::LogKey => (Caller, "bad-descriptor"),
    Self::Own(_) => (Caller, "own-region"),
    Self::Malformed(_) => (Caller, "malformed"),
    Self::OtherFingerprint { .. } => (Denied, "other-fingerprint"),
    Self::Older { .. } => (Precondition, "descriptor-older"),
    Self::NotPinned(_) => (Denied, "descriptor-not-pinned"),
    Self::Expired(_) => (Precondition, "descriptor-expired"),
    Self::NotTrusted(_) => (Missing, "region-not-trusted"),
} inner { Authority, Stale, Commit });

faulty!(UnsealError {
    Self::NotSealed => (Precondition, "not-sealed"),
    Self::NotAuthentic | Self::Answer(_) => (Caller, "does-not-open"),
    Self::Share(_) => (Caller, "bad-share"),
    Self::NotTheHolders => (Denied, "not-the-holders-share"),
    Self::NotTheRoot => (Damaged, "not-the-root-key"),
    Self::OfferUsed => (Precondition, "offer-used"),
    Self::Halves(_) => (Caller, "bad-half"),
});

faulty!(TokenError {
    Self::NotConfigured => (Precondition, "no-token"),
    Self::Module { .. } => (Precondition, "token-module"),
    Self::Absent { .. } => (Unavailable, "token-absent"),
    Self::Other { .. } => (Precondition, "other-token"),
    Self::Ambiguous { .. } => (Precondition, "token-ambiguous"),
    Self::NoPin { .. } => (Precondition, "no-pin"),
    Self::PinOpen { .. } => (Precondition, "pin-file-open"),
    Self::PinWrong { .. } | Self::PinWrongBefore { .. } => (Precondition, "wrong-pin"),
    Self::PinLastTry => (Precondition, "pin-last-try"),
    Self::PinLocked => (Precondition, "pin-locked"),
    Self::NoKey(_) => (Missing, "no-token-key"),
    Self::TwoKeys(_) | Self::Exportable(_) => (Precondition, "bad-token-key"),
    Self::NotDeleted(_) => (Precondition, "token-key-not-deleted"),
    Self::Answer(_) | Self::Device(_) => (Precondition, "token-failed"),
    Self::Busy => (Busy, "token-busy"),
    Self::Silent => (Unavailable, "token-silent"),
});

faulty!(TokenSealRefused {
    Self::NotInitialised => (Precondition, "not-initialised"),
    Self::NotHolder(_) => (Denied, "not-holder"),
    Self::NoSuchSeal => (Missing, "no-such-seal"),
    Self::NotUnderWay => (Missing, "no-such-split"),
    Self::Halves(_) => (Damaged, "bad-half"),
    Self::Key(_) => (Busy, "no-key-memory"),
} inner { Change, Stale, Holders, Approval, Token, Session, Unseal, Commit });

faulty!(ShareRefused {
    Self::NotInitialised => (Precondition, "not-initialised"),
    Self::NotCustodian(_) => (Denied, "not-custodian"),
} inner { Session, Unseal });

faulty!(SealRefused {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::Key(_) => (Busy, "no-key-memory"),
});

faulty!(AskError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::NotSealed => (Precondition, "not-sealed"),
    Self::OtherBoot => (Precondition, "other-boot"),
    Self::NoApproval => (Denied, "no-approval"),
    Self::NotInitialised => (Precondition, "not-initialised"),
    Self::Nobody(_) => (Unavailable, "no-peer-released"),
    Self::Signature => (Damaged, "bad-signature"),
} inner { Approval, Unseal });

faulty!(ReleaseError {
    Self::NotReplica(_) => (Denied, "not-replica"),
    Self::Malformed(_) => (Caller, "malformed"),
    Self::Signature => (Denied, "bad-signature"),
    Self::NoApproval => (Denied, "no-approval"),
    Self::Session(_) => (Caller, "bad-offer"),
} inner { Sealed, Approval, Commit });

faulty!(CeremonyError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::Already => (Exists, "already-initialised"),
    Self::OtherGenesis => (Caller, "other-genesis"),
    Self::NotGenesis => (Precondition, "not-genesis"),
    Self::NotCustodian(_) => (Caller, "not-custodian"),
    Self::Split(_) | Self::Shares { .. } => (Caller, "bad-split"),
    Self::Key(_) => (Busy, "no-key-memory"),
    Self::Found(_) => (Precondition, "not-founded"),
    Self::NotLed => (Unavailable, "no-leader"),
} inner { Commit });

faulty!(ReshareError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::NotCustodian(_) => (Denied, "not-custodian"),
    Self::Level(_) => (Precondition, "level-too-low"),
    Self::NotUnderWay => (Missing, "no-such-split"),
    Self::RootLost => (Precondition, "new-root-lost"),
    Self::PeersBehind(_) => (Unavailable, "peers-without-new-root"),
    Self::Signature => (Denied, "bad-signature"),
    Self::StillBorn => (Unavailable, "not-rewrapped"),
} inner { Token, Sealed, Stale, Approval, Commit, Ceremony, Session, Share, Custody });

faulty!(BackupError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::Level(_) => (Precondition, "level-too-low"),
    Self::UnderWay => (Busy, "backup-under-way"),
    Self::RowTooLong(_) | Self::Header(_) | Self::Seal(_) => (Internal, "not-backed-up"),
    Self::Key(_) => (Busy, "no-key-memory"),
    Self::NotOurs => (Denied, "no-proof"),
    Self::Gone => (Caller, "gone"),
} inner { Sealed, Stale, Commit });

faulty!(RestoreError {
    Self::NotOperator(_) => (Denied, "not-operator"),
    Self::Already => (Exists, "already-initialised"),
    Self::OtherGenesis => (Caller, "other-genesis"),
    Self::OtherRegion(_) => (Denied, "wrong-jurisdiction"),
    Self::Malformed(_) | Self::Frame(_) => (Caller, "malformed"),
    Self::NotPrepared => (Precondition, "not-prepared"),
    Self::Sealed { .. } => (Precondition, "sealed"),
    Self::NotAuthentic => (Caller, "does-not-open"),
    Self::Key(_) => (Busy, "no-key-memory"),
    Self::OtherBackup => (Caller, "other-backup"),
    Self::Level(_) => (Precondition, "level-too-low"),
    Self::Behind { .. } => (Precondition, "behind-witness"),
    Self::WitnessesSilent => (Precondition, "witnesses-silent"),
    Self::Cut => (Caller, "cut"),
} inner { Approval, Found, Stale, Commit });

faulty!(SendRootError {
    Self::Malformed(_) => (Caller, "malformed"),
    Self::Signature => (Denied, "bad-signature"),
    Self::NoProof => (Denied, "no-proof"),
    Self::NotUnderWay => (Precondition, "no-such-split"),
    Self::RootLost => (Precondition, "new-root-lost"),
    Self::Session(_) => (Caller, "bad-offer"),
} inner { Sealed, Commit });

faulty!(LogError {
    Self::Role(_) | Self::Openings(_) => (Denied, "not-auditor"),
    Self::NotInitialised => (Precondition, "not-initialised"),
    Self::Prove(_) => (Caller, "no-such-proof"),
    Self::TooLarge { .. } => (Caller, "tree-smaller"),
} inner { Stale });

impl Faulty for StaleError {
    fn fault(&self) -> Fault {
        Fault::Unavailable
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Read(ReadError::NotLeader { .. }) => "not-leader",
            Self::Read(_) => "not-current",
            Self::State(_) => "state-unreadable",
        }
    }
}

impl Faulty for MembershipError {
    fn fault(&self) -> Fault {
        match self {
            Self::Sealed(error) => error.fault(),
            Self::NotOperator(_) => Fault::Denied,
            Self::NotReplica => Fault::Caller,
            Self::Approval(error) => error.fault(),
            Self::Stale(error) => error.fault(),
            Self::Commit(error) => error.fault(),
            Self::Member(error) => member(error).0,
            Self::Raise(error) => raise(error).0,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Sealed(error) => error.reason(),
            Self::NotOperator(_) => "not-operator",
            Self::NotReplica => "not-replica",
            Self::Approval(error) => error.reason(),
            Self::Stale(error) => error.reason(),
            Self::Commit(error) => error.reason(),
            Self::Member(error) => member(error).1,
            Self::Raise(error) => raise(error).1,
        }
    }

    fn leader(&self) -> Option<LeaderHint> {
        match self {
            Self::Commit(error) => error.leader(),
            Self::Member(MemberError::NotLeader { leader: Some(id) })
            | Self::Stale(StaleError::Read(ReadError::NotLeader { leader: Some(id) })) => {
                Some(LeaderHint {
                    id: *id,
                    endpoint: String::new(),
                })
            }
            Self::Raise(RaiseError::Propose(ProposeError::NotLeader { leader: Some(id) })) => {
                Some(LeaderHint {
                    id: *id,
                    endpoint: String::new(),
                })
            }
            _ => None,
        }
    }
}

fn raise(error: &RaiseError) -> (Fault, &'static str) {
    match error {
        RaiseError::Propose(ProposeError::NotLeader { .. }) => (Fault::Unavailable, "not-leader"),
        RaiseError::Propose(_) | RaiseError::NoAnswer(_) => {
            (Fault::Unavailable, "level-not-raised")
        }
        RaiseError::Unknown(_) | RaiseError::NotSupported { .. } => {
            (Fault::Precondition, "level-not-supported")
        }
    }
}

fn member(error: &MemberError) -> (Fault, &'static str) {
    match error {
        MemberError::NotLeader { .. } => (Fault::Unavailable, "not-leader"),
        MemberError::Reused(_) => (Fault::Precondition, "member-id-reused"),
        MemberError::NotEnrolled(_) => (Fault::Precondition, "not-enrolled"),
        MemberError::Unconfirmed(_) => (Fault::Unavailable, "not-confirmed"),
        MemberError::NotALearner(_) | MemberError::NotAMember(_) => {
            (Fault::Missing, "no-such-member")
        }
        MemberError::LastVoter(_) => (Fault::Precondition, "last-voter"),
        MemberError::Lagging(_) | MemberError::Withheld(_) => {
            (Fault::Unavailable, "member-lagging")
        }
        MemberError::InProgress => (Fault::Unavailable, "change-under-way"),
        MemberError::Unknown => (Fault::Unknown, "maybe-changed"),
        MemberError::HandOver(_) => (Fault::Unavailable, "not-handed-over"),
        MemberError::Stopped => (Fault::Unavailable, "stopping"),
    }
}
