//! Which run a seed stands for, and what a long run of seeds has to reach.
//!
//! Owns the mix: most seeds are spent on the pure machines, which are cheap, and some on replicas. Refuses to let a
//! generator go blind: what is listed here and never reached is printed, and a long run fails for it.

use std::fmt;
use std::str::FromStr;

use proto::v1;

use crate::logbook::{Coverage, Logbook};
use crate::nemesis::Fault;
use crate::{Broken, kms, node, run};

/// What a seed runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Shard and catalog as pure machines.
    Node,
    /// The KMS as a pure machine.
    Kms,
    /// Either machine on replicas.
    Replica,
}

/// Seeds of a turn of the mix.
const TURN: u64 = 5;

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Node, Self::Kms, Self::Replica];

    /// The kind a seed has in the mix.
    pub fn mixed(seed: u64) -> Self {
        match seed % TURN {
            0 => Self::Replica,
            1 | 3 => Self::Node,
            _ => Self::Kms,
        }
    }

    /// Runs one seed here.
    pub fn run(self, seed: u64, book: &Logbook) -> Result<(), Broken> {
        match self {
            Self::Node => node::seed(seed, book),
            Self::Kms => kms::seed(seed, book),
            Self::Replica => run::seed(seed, book),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Kms => "kms",
            Self::Replica => "replica",
        })
    }
}

/// Text that names no kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is none of node, kms, replica")]
pub struct NoKind(String);

impl FromStr for Kind {
    type Err = NoKind;
    fn from_str(text: &str) -> Result<Self, NoKind> {
        let found = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| NoKind(text.to_owned()))
    }
}

/// What seeds of these kinds have to reach, and did not: section and name.
pub fn missing(kinds: &[Kind], coverage: &Coverage) -> Vec<(String, String)> {
    let wanted = kinds.iter().flat_map(|kind| match kind {
        Kind::Node => of_node(),
        Kind::Kms => of_kms(),
        Kind::Replica => of_replica(),
    });
    wanted
        .filter(|(section, name)| coverage.of(section, name) == 0)
        .collect()
}

type Wanted = Vec<(String, String)>;

fn all(section: &str, names: impl IntoIterator<Item = String>) -> Wanted {
    let named = names.into_iter().map(|name| (section.to_owned(), name));
    named.collect()
}

fn both(section: &str, kinds: &[&str]) -> Wanted {
    let how = ["done", "refused"];
    let names = kinds
        .iter()
        .flat_map(|kind| how.map(|how| format!("{kind} {how}")));
    all(section, names)
}

/// What commands of a shard have to meet.
const MET: [&str; 12] = [
    "joint membership at a command",
    "upload under way",
    "version in parts",
    "doomed parts left by a command",
    "object lock",
    "versioning suspended",
    "version under governance",
    "version under compliance",
    "version under a legal hold",
    "version with other metadata",
    "quota",
    "lifecycle",
];
const EVENTS: [&str; 7] = [
    "state taken up from its stored form",
    "state taken up with parts still to be freed",
    "unknown command",
    "command of a later level",
    "feature level raised",
    "round of lifecycles",
    "whole log replayed",
];
/// How versions, uploads and parts end beside plain deletes.
const ENDINGS: [&str; 7] = [
    "doomed parts freed",
    "version deleted by who passes over governance",
    "upload ended by its age",
    "older version ended by its age",
    "current version ended by its age",
    "current version covered by its age",
    "marker ended that stood alone",
];

/// What commands of a relocation alone are refused with, and datasets that they changed: worlds of two regions are drawn
/// elsewhere (`relocation-model`, the tests of `node-state`). That an epoch moved, any command may be told.
fn of_relocation(reason: v1::Refusal) -> bool {
    let (first, last) = (v1::Refusal::DatasetMoved, v1::Refusal::NotResealed);
    let theirs = i32::from(first)..=i32::from(last);
    let of_work = matches!(reason, v1::Refusal::MoverAtWork | v1::Refusal::PaceMoved);
    let only = of_work || theirs.contains(&i32::from(reason));
    only && reason != v1::Refusal::DatasetEpochMoved
}

fn of_node() -> Wanted {
    // These are the catalog's.
    let catalogs = [21, 23, 24, 25];
    let refusals = (1..)
        .map_while(|n| v1::Refusal::try_from(n).ok())
        .filter(|reason| !catalogs.contains(&i32::from(*reason)) && !of_relocation(*reason));
    let catalog = [1, 2, 7, 20, 21, 23, 24, 25, 26];
    let catalog = catalog
        .into_iter()
        .filter_map(|n| v1::Refusal::try_from(n).ok());
    let states = ["Active", "Fenced", "Tombstoned"].map(|state| format!("dataset {state}"));
    let keys = (1..).map_while(|n| v1::KeyState::try_from(n).ok());
    [
        both(
            "shard commands",
            &[
                "AdvanceUploadEpoch",
                "SetAuthority",
                "CreateDataset",
                "TombstoneDataset",
                "SetKeyState",
                "RegisterToken",
                "PutObject",
                "FinishObject",
                "DeleteObject",
                "SetVersioning",
                "SetHold",
                "AdvanceTime",
                "CreateUpload",
                "FinishPart",
                "CompleteUpload",
                "AbortUpload",
                "SetObjectLock",
                "SetRetention",
                "SetLegalHold",
                "SetMetadata",
                "SetConfig",
                "SetQuota",
            ],
        ),
        both(
            "catalog commands",
            &[
                "SetAuthority",
                "FoundRegion",
                "PlaceDataset",
                "PublishDataset",
                "UnpublishDataset",
                "AllocateNodeId",
                "AdvanceTime",
            ],
        ),
        all(
            "shard commands",
            ["Sweep done", "LifecycleStep done"].map(str::to_owned),
        ),
        all("shard refusals", refusals.map(|r| format!("{r:?}"))),
        all("catalog refusals", catalog.map(|r| format!("{r:?}"))),
        all("shard states", states),
        all("shard states", keys.map(|state| format!("key {state:?}"))),
        all("shard states", MET.map(str::to_owned)),
        all("shard events", EVENTS.map(str::to_owned)),
        all("shard endings", ENDINGS.map(str::to_owned)),
    ]
    .concat()
}

fn of_kms() -> Wanted {
    let refusals = (1..).map_while(|n| v1::KmsRefusal::try_from(n).ok());
    let keys = (1..).map_while(|n| v1::KeyState::try_from(n).ok());
    [
        both(
            "kms commands",
            &[
                "Init",
                "CreateKek",
                "RotateKek",
                "ChangeKeyState",
                "ChangeEnrolment",
                "ChangeGrants",
                "ChangePolicy",
                "ChangeWitnesses",
                "DestroyKek",
                "PlanKeyRotation",
                "RaiseMinVersion",
                "EndKekVersions",
                "ConfirmErased",
                "LabelKey",
                "CreateAccessKey",
                "SetAccessKeyState",
                "DeleteAccessKey",
                "RecordUnseal",
                "ConfirmShard",
                "AllocateKmsId",
                "RegisterShard",
                "AdvanceTime",
            ],
        ),
        all(
            "kms commands",
            ["recorded", "found again", "refused"].map(|how| format!("Record {how}")),
        ),
        all("kms refusals", refusals.map(|r| format!("{r:?}"))),
        all("kms states", keys.map(|state| format!("key {state:?}"))),
    ]
    .concat()
}

fn of_replica() -> Wanted {
    let states = [
        "runs of Shard",
        "runs of Kms",
        "runs of 1 members",
        "runs of 5 members",
        "applied in joint membership",
        "snapshots installed",
        "terms in which commands committed",
        "members replaced",
        "leadership handed over",
        "disks lost",
        "logs without room",
        "processes that ended by themselves",
        "an empty folder does not resume",
        "an id that was a member does not join",
    ];
    let faults = [
        "power cuts of all members",
        "unsynced sectors torn",
        "unsynced names lost",
        "syncs failed",
        "connection broken",
        "packet of a stream lost",
        "call lost",
        "answer lost",
        "call delivered twice",
    ];
    let load = [
        "acknowledged writes found",
        "completions of uploads acknowledged",
        "answers given again",
        "requests of unknown outcome",
        "leaves that were told of, found",
        "linearizable reads compared",
    ];
    [
        all("replica states", states.map(str::to_owned)),
        all("faults", faults.map(str::to_owned)),
        all("faults", Fault::ALL.map(|fault| format!("{fault:?}"))),
        all("replica load", load.map(str::to_owned)),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_the_mix_has_every_kind() {
        let of = |kind| (0..TURN).filter(|seed| Kind::mixed(*seed) == kind).count();
        assert_eq!(Kind::ALL.map(of), [2, 2, 1]);
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn what_is_never_reached_is_missed() {
        let nothing = missing(&Kind::ALL, &Coverage::default());
        assert!(nothing.len() > 80, "{nothing:?}");
        let mut coverage = Coverage::default();
        for (section, name) in &nothing {
            coverage.add(section, name, 1);
        }
        assert_eq!(missing(&Kind::ALL, &coverage), []);
    }
}
