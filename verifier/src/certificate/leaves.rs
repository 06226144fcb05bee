//! What the leaves of both logs say of a relocation, held against its statement.
//!
//! Owns what each named leaf has to record. Refuses to guess at details that are not disclosed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use tlog::certificate::{DescriptorNamed, OpenedBy, Relocation};
use tlog::{Field, Kind};

use super::details::{Ended, Erased, Granted, KeyMade, Keyed, Opened, Shred, Totals};
use super::side::{Shown, Side};
use crate::check::Finding;
use crate::time::utc;

/// The purpose under which keys are handed over.
const RELOCATION: &str = "relocation";

/// What is read of both sides.
pub(super) struct Read<'r> {
    pub(super) said: &'r Relocation,
    pub(super) source: &'r Side,
    pub(super) destination: &'r Side,
}

/// The leaf at an index, of this kind.
fn named(side: &Side, index: u64, kind: Kind) -> Result<&Shown, Finding> {
    let name = side.name;
    let Some(shown) = side.at(index) else {
        return Err(Finding::not_shown(format!(
            "leaf {index} of the {name} is not shown"
        )));
    };
    match shown.leaf.kind() == kind {
        true => Ok(shown),
        false => Err(Finding::contradicted(format!(
            "leaf {index} of the {name} records something else"
        ))),
    }
}

fn read<'s, T: Deserialize<'s>>(shown: &'s Shown) -> Result<T, Finding> {
    let hidden = || format!("the details of leaf {} are not disclosed", shown.index);
    shown.details().ok_or_else(|| Finding::not_shown(hidden()))
}

fn other(shown: &Shown) -> Finding {
    let index = shown.index;
    Finding::contradicted(format!(
        "leaf {index} says something else than the statement"
    ))
}

fn is_descriptor(said: &DescriptorNamed, version: u64, fingerprint: &str) -> bool {
    said.version == version && said.fingerprint == fingerprint
}

/// Either end of a look at one leaf.
pub(super) fn judged(found: Result<Finding, Finding>) -> Finding {
    found.unwrap_or_else(|finding| finding)
}

impl Read<'_> {
    pub(super) fn granted(&self) -> Result<Finding, Finding> {
        let said = self.said;
        let leaf = named(self.source, said.source.grant_leaf, Kind::HandOverGranted)?;
        let granted: Granted = read(leaf)?;
        let there = &said.destination.party;
        let same = granted.dataset == said.dataset
            && granted.relocation == said.relocation
            && granted.destination == there.region
            && granted.jurisdiction == there.jurisdiction
            && granted.hand_over_key == said.hand_over_key
            && is_descriptor(
                &said.source.approved,
                granted.descriptor_version,
                &granted.descriptor_fingerprint,
            );
        if !same {
            return Err(other(leaf));
        }
        approved(leaf, &there.region)
    }

    pub(super) fn key_made(&self) -> Result<Finding, Finding> {
        let said = self.said;
        let index = said.destination.key_leaf;
        let leaf = named(self.destination, index, Kind::HandOverKeyCreated)?;
        let made: KeyMade = read(leaf)?;
        let from = &said.source.party.region;
        let same = made.dataset == said.dataset
            && made.relocation == said.relocation
            && made.source == *from
            && made.hand_over_key == said.hand_over_key
            && is_descriptor(
                &said.destination.approved,
                made.descriptor_version,
                &made.descriptor_fingerprint,
            );
        if !same {
            return Err(other(leaf));
        }
        approved(leaf, from)
    }

    /// Leaves that record a release.
    fn releases(&self) -> impl Iterator<Item = &Shown> {
        let id = self.said.relocation.as_str();
        let releases = move |shown: &&Shown| {
            matches!(shown.leaf.kind(), Kind::Open | Kind::MetadataLease)
                && shown.is_of_relocation(id)
        };
        self.source.leaves.iter().filter(releases)
    }

    pub(super) fn released(&self) -> Finding {
        let ours = &self.said.source;
        let objects: u64 = self.releases().map(count).sum();
        let (first, last) = (self.releases().next(), self.releases().last());
        if objects < ours.released_objects {
            return Finding::not_shown(format!(
                "the file shows {objects} of {} releases",
                ours.released_objects
            ));
        }
        let within = first.is_none_or(|shown| shown.index > ours.grant_leaf)
            && last.is_none_or(|shown| shown.index < ours.shred_leaf);
        if objects > ours.released_objects
            || last.map(|shown| shown.index) != ours.released_through
            || !within
        {
            return Finding::contradicted("the leaves show other releases than the statement");
        }
        let totals = self.source.leaves.iter().rev().find(|shown| {
            matches!(
                shown.leaf.kind(),
                Kind::HandOverPaused | Kind::HandOverResumed | Kind::HandOverClosed
            ) && shown.is_of_relocation(&self.said.relocation)
        });
        if let Some(shown) = totals {
            let stated = shown.details::<Totals>();
            let same = stated.is_some_and(|totals| {
                totals.objects == ours.released_objects
                    && totals.leaves.checked_sub(1) == ours.released_through
            });
            if !same {
                return other(shown);
            }
        }
        Finding::proven(format!(
            "{objects} releases in {} leaves, each counted before its key left",
            self.releases().count()
        ))
    }

    pub(super) fn whereto(&self) -> Finding {
        let there = &self.said.destination.party.region;
        let of = |shown: &&Shown| shown.is_of_relocation(&self.said.relocation);
        let mut all = self.source.leaves.iter().filter(of);
        if let Some(shown) = all.find(|shown| shown.leaf.kind() == Kind::Lease) {
            return Finding::contradicted(format!("leaf {} released a lease key", shown.index));
        }
        for shown in self.releases() {
            let index = shown.index;
            let Some(recipient) = shown.field(Field::RecipientRegion) else {
                return Finding::not_shown(format!(
                    "the recipient of leaf {index} is not disclosed"
                ));
            };
            let keyed = shown.details::<Keyed>();
            let sealed = keyed.is_some_and(|keyed| keyed.hand_over_key == self.said.hand_over_key);
            if recipient != there || !sealed || shown.leaf.purpose().as_str() != RELOCATION {
                return Finding::contradicted(format!(
                    "leaf {index} released keys to somebody else"
                ));
            }
        }
        Finding::proven(format!(
            "what is recorded as released are keys of object versions and of metadata, sealed to the key that {there} made for this relocation"
        ))
    }

    pub(super) fn opened(&self) -> Finding {
        let ours = &self.said.destination;
        let released: BTreeMap<u64, u64> = self
            .releases()
            .map(|shown| (shown.index, count(shown)))
            .collect();
        let mut openings = 0_u64;
        for shown in &self.destination.leaves {
            if shown.leaf.kind() != Kind::HandOverOpened {
                continue;
            }
            let index = shown.index;
            let Some(opened) = shown.details::<Opened>() else {
                return Finding::not_shown(format!(
                    "the details of leaf {index} are not disclosed"
                ));
            };
            let lived =
                index > ours.key_leaf && ours.key_destroyed_leaf.is_none_or(|ended| index < ended);
            let same = opened.source == self.said.source.party.region
                && opened.hand_over_key == self.said.hand_over_key
                && released.get(&opened.source_leaf) == Some(&count(shown));
            if !same || !lived || !shown.is_of_relocation(&self.said.relocation) {
                return Finding::contradicted(format!(
                    "leaf {index} of the destination opened what the source's leaves do not show"
                ));
            }
            openings += 1;
        }
        if openings == 0 && released.values().any(|objects| *objects > 0) {
            return Finding::not_shown("no leaf of the destination shows an opening");
        }
        Finding::proven(format!(
            "{openings} leaves of the destination open keys; each names its release in the source's log"
        ))
    }

    fn shred(&self) -> Result<(), Finding> {
        let said = self.said;
        let index = said.source.shred_leaf;
        let leaf = named(self.source, index, Kind::KeyDestructionPending)?;
        let shred: Shred = read(leaf)?;
        let (signers, voters) = (distinct(&shred.signers), distinct(&shred.voters));
        let is_majority = signers.is_subset(&voters) && 2 * signers.len() > voters.len();
        let same = shred.relocation == said.relocation
            && shred.destination == said.destination.party.region
            && shred.epoch == said.epoch_to
            && shred.fence == said.fence
            && shred.catalog_root == said.catalog_root
            && is_majority;
        match same && leaf.is_approved() {
            true => Ok(()),
            false => Err(other(leaf)),
        }
    }

    pub(super) fn equal(&self) -> Result<Finding, Finding> {
        self.shred()?;
        let (here, there) = (&self.said.source.party, &self.said.destination.party);
        Ok(Finding::asserted(
            format!(
                "a majority of the nodes of {} and of {}",
                here.region, there.region
            ),
            format!(
                "under the fence at log index {} both had the catalog root {}",
                self.said.fence, self.said.catalog_root
            ),
        ))
    }

    pub(super) fn served(&self) -> Finding {
        let (epoch, there) = (self.said.epoch_to, &self.said.destination.party.region);
        if self.said.opened == OpenedBy::Forced {
            return Finding::not_shown(format!(
                "{there} opened it by force, on two people's word: writes that the source took after the fence may be lost"
            ));
        }
        let served = self.shred().map(|()| {
            Finding::asserted(
                format!("a majority of the nodes of {there}"),
                format!("they serve it in epoch {epoch}, by the record that moved it there"),
            )
        });
        judged(served)
    }

    pub(super) fn destroyed(&self) -> Result<Finding, Finding> {
        let ours = &self.said.source;
        self.shred()?;
        let Some(index) = ours.destroyed_leaf else {
            return Err(Finding::not_shown("its destruction waits for its time"));
        };
        let leaf = named(self.source, index, Kind::KeyDestroyed)?;
        let ended: Ended = read(leaf)?;
        if ended.dataset != self.said.dataset || ended.kek != ours.party.kek {
            return Err(other(leaf));
        }
        let at = utc(leaf.leaf.time_ms().0);
        Ok(Finding::asserted(
            format!("the KMS replicas of {}", ours.party.region),
            format!(
                "key {} was destroyed at {at}, recorded in leaf {index}",
                ended.kek
            ),
        ))
    }

    pub(super) fn erased(&self) -> Result<Finding, Finding> {
        let ours = &self.said.source;
        let (Some(index), Some(destroyed)) = (ours.erased_leaf, ours.destroyed_leaf) else {
            return Err(Finding::not_shown(
                "not every replica has said that it erased the key",
            ));
        };
        let leaf = named(self.source, index, Kind::KeysErased)?;
        let erased: Erased = read(leaf)?;
        if erased.through_leaf < destroyed || !erased.waiting_for.is_empty() {
            return Err(other(leaf));
        }
        Ok(Finding::asserted(
            format!("each KMS replica of {}", ours.party.region),
            format!("the last of them said so in leaf {index}"),
        ))
    }

    pub(super) fn hand_over_ended(&self) -> Result<Finding, Finding> {
        let ours = &self.said.destination;
        let Some(index) = ours.key_destroyed_leaf else {
            return Err(Finding::not_shown("it is not destroyed"));
        };
        let leaf = named(self.destination, index, Kind::HandOverKeyDestroyed)?;
        let ended: Keyed = read(leaf)?;
        let same = ended.hand_over_key == self.said.hand_over_key
            && leaf.is_of_relocation(&self.said.relocation)
            && index > ours.key_leaf;
        if !same {
            return Err(other(leaf));
        }
        Ok(Finding::asserted(
            format!("the KMS replicas of {}", ours.party.region),
            format!("recorded in leaf {index}"),
        ))
    }
}

fn distinct(ids: &[u64]) -> BTreeSet<u64> {
    ids.iter().copied().collect()
}

fn count(shown: &Shown) -> u64 {
    shown.leaf.objects().len() as u64
}

fn approved(leaf: &Shown, other: &str) -> Result<Finding, Finding> {
    let index = leaf.index;
    match leaf.is_approved() {
        true => Ok(Finding::proven(format!(
            "leaf {index} carries the approval of two people besides who asked, for {other} by its descriptor"
        ))),
        false => Err(Finding::not_shown(format!(
            "leaf {index} shows no two approvals"
        ))),
    }
}
