//! Promises switched off on purpose, so that their tests can be seen to go red.
//!
//! Owns the list of switches. Without the feature `danger_switches`, which release builds refuse, every switch is a
//! constant `false` and what it guards is not compiled in. With it, `REDUIT_DANGER` names the switches of a process,
//! separated by commas; one build serves them all, and a process without the variable keeps every promise.

#[cfg(all(feature = "danger_switches", not(debug_assertions)))]
compile_error!("danger_switches switches promises off: it is refused in release builds");

/// A promise that can be switched off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// P5: the log says that entries are durable before they are synced.
    AckBeforeSync,
    /// P6: a read takes what is applied here for current.
    ReadWithoutBarrier,
    /// P6: a precondition that does not hold does not refuse.
    IgnorePrecondition,
    /// P6: a retried request takes effect again.
    RetryTwice,
    /// P5: object lock keeps nothing.
    IgnoreLocks,
    /// P5: one receipt counts as a majority.
    OneReceipt,
    /// P5: receipts count whoever votes at the command's position.
    ReceiptsOfAnyone,
    /// P5: a member that lost its disk comes back under its old id.
    ReuseNodeId,
    /// P3, P6: a verdict counts although what it was given on has changed.
    UnboundVerdict,
    /// P2: no approval is missed.
    IgnoreApprovals,
    /// P3: a key leaves before its record is committed.
    ReleaseBeforeRecord,
    /// P5: a block goes by the age of its upload.
    UnlinkByClock,
    /// P3: keys leave although no witness has vouched for the log.
    IgnoreWitnesses,
    /// P4: small objects go to the nodes unsealed.
    PlaintextOnNode,
    /// P5: what is damaged or missing here is not fetched from peers.
    LeaveDamaged,
    /// P3: what no policy permits is allowed.
    IgnorePolicy,
    /// P3: purposes are not bound to roles: a service states a person's.
    AnyonesPurpose,
    /// P2: a replica says that it erased what was ended, and does not.
    KeepEnded,
    /// P3: policy is not asked about the service principal that a gateway acts for.
    GatewayAlone,
    /// P7: keys are destroyed although nobody has shown a verified cutover.
    ShredBeforeVerify,
    /// P7: a revert applies although the dataset has moved.
    RevertRacesCutover,
    /// P7: an import goes by its arrival and not by the source's order.
    ImportWithoutIndex,
    /// P7: a write counts whichever dataset epoch it is of.
    EpochIgnored,
    /// P7: a cutover does not wait for the source's request ids.
    RequestsNotCrossed,
    /// P7: a destination serves before the source's word that it moved.
    ServeBeforeMoved,
    /// P7: a reader of changes is not told that tombstones before it were dropped.
    TombstoneForgotten,
    /// P7: a cutover decided under one fence applies under a later one.
    FenceUnnamed,
    /// P7: what was read in an earlier listing is imported in a later one.
    PassIgnored,
    /// P7: an abort states what was disclosed before the grant is closed.
    GrantOutlivesAbort,
    /// P4: a dataset is told for a backup to whoever holds a lease of it.
    BackupsForAll,
    /// P5: a dataset is told for a backup as it is from page to page.
    BackupMoves,
    /// P1: what another region signs for a relocation is taken from anyone.
    UnsignedHandOver,
}

impl Switch {
    /// Every switch.
    pub const ALL: [Self; 32] = [
        Self::AckBeforeSync,
        Self::ReadWithoutBarrier,
        Self::IgnorePrecondition,
        Self::RetryTwice,
        Self::IgnoreLocks,
        Self::OneReceipt,
        Self::ReceiptsOfAnyone,
        Self::ReuseNodeId,
        Self::UnboundVerdict,
        Self::IgnoreApprovals,
        Self::ReleaseBeforeRecord,
        Self::UnlinkByClock,
        Self::IgnoreWitnesses,
        Self::PlaintextOnNode,
        Self::LeaveDamaged,
        Self::IgnorePolicy,
        Self::AnyonesPurpose,
        Self::KeepEnded,
        Self::GatewayAlone,
        Self::ShredBeforeVerify,
        Self::RevertRacesCutover,
        Self::ImportWithoutIndex,
        Self::EpochIgnored,
        Self::RequestsNotCrossed,
        Self::ServeBeforeMoved,
        Self::TombstoneForgotten,
        Self::FenceUnnamed,
        Self::PassIgnored,
        Self::GrantOutlivesAbort,
        Self::BackupsForAll,
        Self::BackupMoves,
        Self::UnsignedHandOver,
    ];

    /// As in `REDUIT_DANGER`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack_before_sync",
            Self::ReadWithoutBarrier => "read_without_barrier",
            Self::IgnorePrecondition => "ignore_precondition",
            Self::RetryTwice => "retry_twice",
            Self::IgnoreLocks => "ignore_locks",
            Self::OneReceipt => "one_receipt",
            Self::ReceiptsOfAnyone => "receipts_of_anyone",
            Self::ReuseNodeId => "reuse_node_id",
            Self::UnboundVerdict => "unbound_verdict",
            Self::IgnoreApprovals => "ignore_approvals",
            Self::ReleaseBeforeRecord => "release_before_record",
            Self::UnlinkByClock => "unlink_by_clock",
            Self::IgnoreWitnesses => "ignore_witnesses",
            Self::PlaintextOnNode => "plaintext_on_node",
            Self::LeaveDamaged => "leave_damaged",
            Self::IgnorePolicy => "ignore_policy",
            Self::AnyonesPurpose => "anyones_purpose",
            Self::KeepEnded => "keep_ended",
            Self::GatewayAlone => "gateway_alone",
            Self::ShredBeforeVerify => "shred_before_verify",
            Self::RevertRacesCutover => "revert_races_cutover",
            Self::ImportWithoutIndex => "import_without_index",
            Self::EpochIgnored => "epoch_ignored",
            Self::RequestsNotCrossed => "requests_not_crossed",
            Self::ServeBeforeMoved => "serve_before_moved",
            Self::TombstoneForgotten => "tombstone_forgotten",
            Self::FenceUnnamed => "fence_unnamed",
            Self::PassIgnored => "pass_ignored",
            Self::GrantOutlivesAbort => "grant_outlives_abort",
            Self::BackupsForAll => "backups_for_all",
            Self::BackupMoves => "backup_moves",
            Self::UnsignedHandOver => "unsigned_hand_over",
        }
    }
}

/// False: this build breaks no promise.
#[cfg(not(feature = "danger_switches"))]
#[inline(always)]
pub const fn broken(_: Switch) -> bool {
    false
}

/// Whether this process is to break the promise.
///
/// # Panics
/// If `REDUIT_DANGER` names a switch that does not exist: a test that switched nothing off would prove nothing.
#[cfg(feature = "danger_switches")]
pub fn broken(switch: Switch) -> bool {
    use std::sync::OnceLock;
    static BROKEN: OnceLock<Vec<Switch>> = OnceLock::new();
    BROKEN.get_or_init(from_environment).contains(&switch)
}

#[cfg(feature = "danger_switches")]
fn from_environment() -> Vec<Switch> {
    let named = std::env::var("REDUIT_DANGER").unwrap_or_default();
    let names = named.split(',').filter(|name| !name.is_empty());
    let switch = |name: &str| {
        let found = Switch::ALL.into_iter().find(|one| one.name() == name);
        found.unwrap_or_else(|| panic!("REDUIT_DANGER names no switch: {name}"))
    };
    names.map(switch).collect()
}
