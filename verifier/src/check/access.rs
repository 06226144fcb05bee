//! D4 to D6: accesses, their recipients, approvals; and what a report draws.
//!
//! Owns what counts as an access. Refuses to guess at a value that is not disclosed.

use std::collections::BTreeSet;

use proto::ids::Identity;
use serde::Deserialize;
use tlog::{Field, Kind, ObjectItem};

use super::Finding;
use super::dataset::Slice;
use super::log::{Log, Shown};
use super::region::Members;
use crate::claim::ClaimId;
use crate::folder::Folder;
use crate::report::{Access, Facts};

/// Purposes that people alone may state (docs/decisions/0008).
const HUMAN: &[&str] = &[
    "investigation",
    "third-party-request",
    "legal-request",
    "support",
];
/// What an access must show where its leaf commits to it.
const TOLD: &[Field] = &[
    Field::Actor,
    Field::OnBehalfOf,
    Field::Case,
    Field::LegalBasis,
    Field::RecipientRegion,
    Field::Bytes,
];
const APPROVERS_MIN: usize = 2;

fn is_access(shown: &Shown) -> bool {
    matches!(
        shown.leaf.kind(),
        Kind::Open | Kind::Lease | Kind::MetadataLease
    )
}

fn field(shown: &Shown, field: Field) -> Option<&str> {
    shown.disclosed.fields.get(&field).map(String::as_str)
}

/// Objects of an open, where all of them are disclosed and read.
pub(super) fn objects(shown: &Shown) -> Option<Vec<ObjectItem>> {
    let objects = shown.disclosed.objects.iter();
    objects
        .map(|object| serde_json::from_str(object.as_deref()?).ok())
        .collect()
}

pub(super) fn judge(folder: &Folder, slice: &Slice<'_>) -> [(ClaimId, Finding); 3] {
    [
        (ClaimId::D4, told(folder, slice)),
        (ClaimId::D5, recipients(folder, slice)),
        (ClaimId::D6, approvals(slice)),
    ]
}

fn in_period<'s>(folder: &Folder, slice: &'s Slice<'_>) -> impl Iterator<Item = &'s Shown> {
    let period = folder.index().period;
    let inside = period.from_ms..=period.to_ms;
    let accesses = slice
        .leaves
        .iter()
        .copied()
        .filter(|shown| is_access(shown));
    accesses.filter(move |shown| inside.contains(&shown.leaf.time_ms().0))
}

fn told(folder: &Folder, slice: &Slice<'_>) -> Finding {
    let (mut accesses, mut objects_named) = (0_u64, 0);
    for shown in in_period(folder, slice) {
        accesses += 1;
        let hidden = shown.disclosed.withheld.iter().find(|f| TOLD.contains(f));
        if let Some(hidden) = hidden {
            let (index, name) = (shown.index, hidden.name());
            return Finding::not_shown(format!("the {name} of leaf {index} is not disclosed"));
        }
        if field(shown, Field::Actor).is_none() {
            return Finding::contradicted(format!("leaf {} names no actor", shown.index));
        }
        if shown.leaf.kind() != Kind::Open {
            continue;
        }
        let Some(items) = objects(shown) else {
            let index = shown.index;
            return Finding::not_shown(format!("not every object of leaf {index} is disclosed"));
        };
        let sum = items
            .iter()
            .fold(0_u64, |sum, item| sum.saturating_add(item.bytes));
        if field(shown, Field::Bytes) != Some(sum.to_string().as_str()) {
            let index = shown.index;
            return Finding::contradicted(format!("the objects of leaf {index} are not its bytes"));
        }
        objects_named += items.len();
    }
    Finding::proven(format!(
        "{accesses} recorded accesses in the period, each with actor and purpose and what was stated of case and legal basis; keys of {objects_named} object versions were released in them"
    ))
}

fn recipients(folder: &Folder, slice: &Slice<'_>) -> Finding {
    let region = folder.index().region.as_str();
    let mut releases = 0_u64;
    for shown in slice
        .leaves
        .iter()
        .copied()
        .filter(|shown| is_access(shown))
    {
        releases += 1;
        let index = shown.index;
        let Some(actor) = field(shown, Field::Actor) else {
            return Finding::not_shown(format!("the actor of leaf {index} is not disclosed"));
        };
        let of = actor.parse::<Identity>().ok();
        if of.is_none_or(|actor| actor.region().as_str() != region) {
            return Finding::contradicted(format!("keys of leaf {index} went to {actor}"));
        }
        if shown.leaf.kind() != Kind::Open {
            continue;
        }
        match field(shown, Field::RecipientRegion) {
            Some(to) if to == region => {}
            Some(to) => {
                return Finding::contradicted(format!("keys of leaf {index} went to region {to}"));
            }
            None => {
                return Finding::not_shown(format!(
                    "where keys of leaf {index} went is not disclosed"
                ));
            }
        }
    }
    Finding::proven(format!(
        "all {releases} recorded releases and leases went to enrolled identities of region {region}"
    ))
}

#[derive(Deserialize)]
struct Approval {
    approver: String,
}

fn approvals(slice: &Slice<'_>) -> Finding {
    let mut human = 0_u64;
    for shown in slice
        .leaves
        .iter()
        .copied()
        .filter(|shown| is_access(shown))
    {
        if !HUMAN.contains(&shown.leaf.purpose().as_str()) {
            continue;
        }
        human += 1;
        let index = shown.index;
        let committed = shown.leaf.commitments().contains_key(&Field::Approvals);
        let approvals = field(shown, Field::Approvals);
        let approvals: Option<Vec<Approval>> = approvals.and_then(|a| serde_json::from_str(a).ok());
        let (Some(approvals), Some(actor)) = (approvals, field(shown, Field::Actor)) else {
            return match committed {
                true => {
                    Finding::not_shown(format!("the approvals of leaf {index} are not disclosed"))
                }
                false => Finding::contradicted(format!("leaf {index} carries no approval")),
            };
        };
        let others: BTreeSet<&str> = approvals.iter().map(|a| a.approver.as_str()).collect();
        if others.iter().filter(|who| **who != actor).count() < APPROVERS_MIN {
            return Finding::contradicted(format!("leaf {index} carries too few approvals"));
        }
    }
    Finding::proven(format!(
        "{human} releases for a person's purpose; each carries {APPROVERS_MIN} approvers other than the actor"
    ))
}

pub(super) fn facts(folder: &Folder, log: &Log, slice: &Slice<'_>, region: &Members) -> Facts {
    let index = folder.index();
    let access = |shown: &Shown| Access {
        leaf: shown.index,
        time_ms: shown.leaf.time_ms().0,
        kind: kind_name(shown.leaf.kind()),
        purpose: shown.leaf.purpose().to_string(),
        actor: field(shown, Field::Actor).map(str::to_owned),
        case: field(shown, Field::Case).map(str::to_owned),
        objects: shown.leaf.objects().len(),
        bytes: field(shown, Field::Bytes).and_then(|bytes| bytes.parse().ok()),
    };
    Facts {
        region: index.region.clone(),
        origin: index.origin.clone(),
        dataset: index.dataset.id.clone(),
        period: index.period,
        made_ms: index.made_ms,
        exporter: index.exporter.clone(),
        accesses: in_period(folder, slice).map(access).collect(),
        key_events: slice
            .leaves
            .iter()
            .filter(|shown| !is_access(shown))
            .map(|shown| access(shown))
            .collect(),
        enrolled: region.identities(),
        cosigned: log.believed().filter_map(|(_, time)| time).collect(),
        gaps: crate::parts::gaps_between(
            &log.believed()
                .filter_map(|(_, time)| time)
                .collect::<Vec<_>>(),
        )
        .gaps,
    }
}

/// As in the leaf.
fn kind_name(kind: Kind) -> String {
    let text = crate::format::encode(&kind);
    text.trim_matches('"').to_owned()
}
