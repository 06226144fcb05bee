//! D1 to D3: the dataset's chain, from the birth of its key.
//!
//! Owns which leaves are the dataset's and that none is missing between them. Refuses to take the exporter's word for
//! what follows the last one.

use std::collections::BTreeMap;

use serde::Deserialize;
use tlog::{Field, Kind, Pseudonym};

use super::Finding;
use super::log::{Log, Shown};
use crate::claim::ClaimId;
use crate::folder::Folder;
use crate::format;

/// What a key event's details state, of what is looked at here.
#[derive(Deserialize)]
pub(super) struct KeyDetails {
    pub(super) dataset: String,
    pub(super) kek: String,
    pub(super) kek_version: u32,
}

/// What a lease's details state.
#[derive(Deserialize)]
struct LeaseDetails {
    lease: String,
    kek_version: u32,
}

pub(super) struct Slice<'l> {
    /// The dataset's leaves in the order of the log.
    pub(super) leaves: Vec<&'l Shown>,
    /// Leases disclosed, with the version of the KEK around them when they were given.
    pub(super) leases: BTreeMap<String, u32>,
    /// The newest version of the KEK that its disclosed events state.
    pub(super) newest_version: u32,
}

pub(super) fn read<'l>(folder: &Folder, log: &'l Log) -> Slice<'l> {
    let name = format::id(&folder.index().dataset.pseudonym).map(Pseudonym);
    let is_its = |shown: &&Shown| {
        let link = shown.leaf.dataset();
        name.is_some() && link.map(|link| link.pseudonym) == name
    };
    let leaves: Vec<&Shown> = log.leaves.iter().filter(is_its).collect();
    let leases = leaves
        .iter()
        .filter(|shown| shown.leaf.kind() == Kind::Lease);
    let leases = leases.filter_map(|shown| {
        let details: LeaseDetails = details(shown)?;
        Some((details.lease, details.kek_version))
    });
    let events = leaves.iter().filter(|shown| of_key(shown));
    let versions = events.filter_map(|shown| Some(details::<KeyDetails>(shown)?.kek_version));
    Slice {
        leases: leases.collect(),
        newest_version: versions.max().unwrap_or(0),
        leaves,
    }
}

/// The details that are disclosed, read.
pub(super) fn details<'s, T: Deserialize<'s>>(shown: &'s Shown) -> Option<T> {
    serde_json::from_str(shown.disclosed.fields.get(&Field::Details)?).ok()
}

impl Slice<'_> {
    pub(super) fn findings(&self, folder: &Folder, log: &Log) -> [(ClaimId, Finding); 3] {
        [
            (ClaimId::D1, self.birth(folder)),
            (ClaimId::D2, self.chain()),
            (ClaimId::D3, self.tail(folder, log)),
        ]
    }

    fn birth(&self, folder: &Folder) -> Finding {
        let names = &folder.index().dataset;
        let first = self.leaves.first().filter(|shown| sequence(shown) == 0);
        let Some(first) = first else {
            return Finding::not_shown("the first leaf of the dataset is not in the folder");
        };
        if first.leaf.kind() != Kind::KeyCreated {
            return Finding::contradicted("the dataset's first leaf is not the birth of its key");
        }
        let Some(born) = details::<KeyDetails>(first) else {
            return Finding::not_shown("the details of the key's birth are not disclosed");
        };
        if (born.dataset.as_str(), born.kek.as_str()) != (names.id.as_str(), names.kek.as_str()) {
            return Finding::contradicted(format!(
                "the log says that key {} was born for dataset {}",
                born.kek, born.dataset
            ));
        }
        let mut version = born.kek_version;
        for shown in &self.leaves {
            let Some(later) = of_key(shown)
                .then(|| details::<KeyDetails>(shown))
                .flatten()
            else {
                continue;
            };
            if (&later.dataset, &later.kek) != (&born.dataset, &born.kek) {
                return Finding::contradicted(format!("leaf {} is of another key", shown.index));
            }
            if shown.leaf.kind() == Kind::KeyRotated && later.kek_version <= version {
                return Finding::contradicted(format!("leaf {} rotates backwards", shown.index));
            }
            version = version.max(later.kek_version);
        }
        let rotations = self.count(|kind| kind == Kind::KeyRotated);
        Finding::proven(format!(
            "key {} of dataset {} was made by the region's KMS as leaf {} and rotated {rotations} times since, to version {version}. The log knows no event by which a key is exported",
            born.kek, born.dataset, first.index
        ))
    }

    fn chain(&self) -> Finding {
        let Some(first) = self.leaves.first() else {
            return Finding::not_shown("the folder has no leaf of the dataset");
        };
        if sequence(first) != 0 {
            return Finding::not_shown(format!(
                "the slice begins with the dataset's leaf {}",
                sequence(first)
            ));
        }
        for pair in self.leaves.windows(2) {
            let (before, now) = (pair[0], pair[1]);
            if sequence(now) != sequence(before).saturating_add(1) {
                return Finding::not_shown(format!(
                    "after the dataset's leaf {} the folder goes on with {}",
                    sequence(before),
                    sequence(now)
                ));
            }
            let link = now.leaf.dataset().and_then(|link| link.previous);
            if link != Some(before.hash) {
                return Finding::contradicted(format!(
                    "the dataset's leaf {} names another predecessor",
                    sequence(now)
                ));
            }
        }
        let last = self.leaves.last().unwrap_or(first);
        Finding::proven(format!(
            "the folder has all {} events of the dataset from its first, leaf {}, to leaf {}",
            self.leaves.len(),
            first.index,
            last.index
        ))
    }

    fn tail(&self, folder: &Folder, log: &Log) -> Finding {
        let (Some(last), Some(size)) = (self.leaves.last(), log.size()) else {
            return Finding::not_shown("the folder has no leaf of the dataset in a believed tree");
        };
        // Ascending indices, each once: so many of them above the last one fill the rest of the tree.
        let shown = log.leaves.iter().filter(|shown| shown.index > last.index);
        if shown.count() as u64 == size - last.index - 1 {
            return Finding::proven(format!(
                "every leaf from {} to the end of the tree, {size}, is in the folder, and none is of the dataset",
                last.index + 1
            ));
        }
        Finding::asserted(
            folder.index().exporter.as_str(),
            format!(
                "that none of the leaves from {} to {size} is of the dataset; not all of them are in the folder",
                last.index + 1
            ),
        )
    }

    pub(super) fn count(&self, of: impl Fn(Kind) -> bool) -> usize {
        let kinds = self.leaves.iter().map(|shown| shown.leaf.kind());
        kinds.filter(|kind| of(*kind)).count()
    }
}

fn of_key(shown: &Shown) -> bool {
    matches!(
        shown.leaf.kind(),
        Kind::KeyCreated
            | Kind::KeyRotated
            | Kind::KeyRotationPlanned
            | Kind::KeyVersionsRetired
            | Kind::KeyVersionsEnded
            | Kind::KeyLabelled
            | Kind::KeyEnabled
            | Kind::KeyDisabled
            | Kind::KeyCompromised
            | Kind::KeyDestructionPending
            | Kind::KeyDestroyed
            | Kind::KeyStateAcknowledged
            | Kind::ShardRegistered
    )
}

fn sequence(shown: &Shown) -> u64 {
    // Leaves of a slice have a link: that is how they were chosen.
    shown.leaf.dataset().map_or(0, |link| link.sequence)
}
