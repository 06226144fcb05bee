//! L1 to L6: checkpoints, growth, inclusion, times, gaps.
//!
//! Owns what is believed of the log: checkpoints that the trust policy accepts and leaves that lead to the last of
//! them. Refuses to hand on a leaf whose proof or opening does not hold.

use proto::ids::LeafIndex;
use tlog::{
    Disclosure, Hash, Leaf, Note, Openings, Origin, Policy, PolicyRefused, Trusted, leaf_hash,
    openings_of, verify_consistency, verify_inclusion,
};

use super::Finding;
use crate::claim::ClaimId;
use crate::folder::Folder;
use crate::format::LeafLine;
use crate::parts::gaps_between;
use crate::time::{span, utc};

/// Region time may lag by half a minute and lead by one; cosigners take seconds. What is further off is a wrong clock.
const CLOCKS_APART_MS: u64 = 120_000;

/// A leaf that stands in the log, and what is shown of it.
pub(super) struct Shown {
    pub(super) index: u64,
    pub(super) hash: Hash,
    pub(super) leaf: Leaf,
    pub(super) disclosed: Disclosure,
}

pub(super) struct Log {
    /// One for each line, in order.
    checkpoints: Vec<Result<Trusted, Refused>>,
    /// Leaves that hold, by ascending index.
    pub(super) leaves: Vec<Shown>,
    inclusion: Finding,
}

enum Refused {
    NotANote,
    Policy(PolicyRefused),
}

pub(super) fn read(folder: &Folder, policy: &Policy) -> Log {
    let judge = |text: &str| {
        let note = Note::parse(text.as_bytes()).map_err(|_| Refused::NotANote)?;
        policy.check(&note).map_err(Refused::Policy)
    };
    let checkpoints: Vec<_> = folder
        .checkpoints()
        .iter()
        .map(|line| judge(&line.note))
        .collect();
    let (leaves, inclusion) = match checkpoints.last() {
        Some(Ok(last)) => included(folder.leaves(), last),
        _ => (
            Vec::new(),
            Finding::not_shown("there is no believed checkpoint for the leaves to stand in"),
        ),
    };
    Log {
        checkpoints,
        leaves,
        inclusion,
    }
}

fn included(lines: &[LeafLine], last: &Trusted) -> (Vec<Shown>, Finding) {
    let mut leaves: Vec<Shown> = Vec::new();
    let mut wrong = None;
    for line in lines {
        let ascends = leaves.last().is_none_or(|before| before.index < line.index);
        let shown = shown(line, last);
        match shown {
            Ok(shown) if ascends => leaves.push(shown),
            Ok(_) => wrong = wrong.or(Some((line.index, "stands twice or out of order"))),
            Err(why) => wrong = wrong.or(Some((line.index, why))),
        }
    }
    let finding = match wrong {
        Some((index, why)) => Finding::contradicted(format!("leaf {index} {why}")),
        None => Finding::proven(format!(
            "all {} leaves of the folder stand in the tree of {} leaves, and what is opened of them is what they committed to",
            leaves.len(),
            last.checkpoint().size()
        )),
    };
    (leaves, finding)
}

fn shown(line: &LeafLine, last: &Trusted) -> Result<Shown, &'static str> {
    let hash = leaf_hash(line.leaf.as_bytes());
    let tree = last.checkpoint();
    let index = LeafIndex(line.index);
    verify_inclusion(&hash, index, tree.size(), &line.proof, &tree.root())
        .map_err(|_| "does not stand in the log at its index")?;
    let leaf = Leaf::parse(line.leaf.as_bytes()).map_err(|_| "is none that this verifier knows")?;
    let disclosed = match &line.openings {
        // The line's own reader does not look at the schema of openings.
        Some(openings) => Openings::parse(&openings.encode())
            .ok()
            .and_then(|openings| openings_of(&leaf, &openings).ok())
            .ok_or("committed to something else than is opened")?,
        None => Disclosure {
            withheld: leaf.commitments().keys().copied().collect(),
            objects: vec![None; leaf.objects().len()],
            ..Disclosure::default()
        },
    };
    Ok(Shown {
        index: line.index,
        hash,
        leaf,
        disclosed,
    })
}

impl Log {
    /// Leaves of the last believed tree.
    pub(super) fn size(&self) -> Option<u64> {
        match self.checkpoints.last() {
            Some(Ok(last)) => Some(last.checkpoint().size()),
            _ => None,
        }
    }

    /// Sizes and times of the checkpoints that are believed.
    pub(super) fn believed(&self) -> impl Iterator<Item = (u64, Option<u64>)> {
        self.checkpoints.iter().flatten().map(|trusted| {
            let time = trusted.as_of().map(tlog::UnixSeconds::get);
            (trusted.checkpoint().size(), time)
        })
    }

    pub(super) fn findings(&self, folder: &Folder) -> [(ClaimId, Finding); 6] {
        [
            (ClaimId::L1, self.end(folder)),
            (ClaimId::L2, self.start(folder)),
            (ClaimId::L3, self.growth(folder)),
            (ClaimId::L4, self.inclusion.clone()),
            (ClaimId::L5, self.times()),
            (ClaimId::L6, self.gaps(folder)),
        ]
    }

    fn end(&self, folder: &Folder) -> Finding {
        let period = folder.index().period;
        if period.from_ms > period.to_ms {
            return Finding::contradicted("the period ends before it starts");
        }
        let (size, as_of) = match vouched(self.checkpoints.last(), folder) {
            Ok(vouched) => vouched,
            Err(finding) => return finding,
        };
        let (at, end) = (as_of.saturating_mul(1_000), period.to_ms);
        if at < end {
            return Finding::not_shown(format!(
                "the log was last vouched for at {}, before the period ends at {}",
                utc(at),
                utc(end)
            ));
        }
        Finding::proven(format!(
            "the log {} had {size} leaves; it signed that tree and the quorum of the trust policy vouched for it as of {}",
            folder.index().origin,
            utc(at)
        ))
    }

    fn start(&self, folder: &Folder) -> Finding {
        let start = folder.index().period.from_ms;
        let (size, as_of) = match vouched(self.checkpoints.first(), folder) {
            Ok(vouched) => vouched,
            Err(finding) => return finding,
        };
        let at = as_of.saturating_mul(1_000);
        if at > start {
            return Finding::not_shown(format!(
                "the first checkpoint is of {}, after the period starts at {}",
                utc(at),
                utc(start)
            ));
        }
        Finding::proven(format!(
            "before the period the log had {size} leaves, vouched for as of {}",
            utc(at)
        ))
    }

    fn growth(&self, folder: &Folder) -> Finding {
        let lines = folder.checkpoints();
        if lines
            .first()
            .is_some_and(|line| !line.consistency.is_empty())
        {
            return Finding::contradicted("the first checkpoint has a proof from nothing");
        }
        if let Some(at) = (1..lines.len()).find(|at| lines[*at].note == lines[at - 1].note) {
            return Finding::contradicted(format!("checkpoint {at} stands twice"));
        }
        let mut before: Option<&Trusted> = None;
        for (line, judged) in lines.iter().zip(&self.checkpoints) {
            let Ok(now) = judged else {
                return Finding::not_shown("a checkpoint of the folder is not believed");
            };
            let now_is = now.checkpoint();
            if now_is.origin().as_str() != folder.index().origin {
                return Finding::contradicted(format!("a checkpoint is of {}", now_is.origin()));
            }
            if let Some(old) = before.replace(now).map(Trusted::checkpoint) {
                let held = verify_consistency(
                    old.size(),
                    &old.root(),
                    now_is.size(),
                    &now_is.root(),
                    &line.consistency,
                );
                if let Err(why) = held {
                    let sizes = (old.size(), now_is.size());
                    return Finding::contradicted(format!(
                        "the tree of {} leaves is not shown to extend that of {}: {why}",
                        sizes.1, sizes.0
                    ));
                }
            }
        }
        Finding::proven(format!(
            "{} checkpoints extend one another; cosigners were shown no other history",
            lines.len()
        ))
    }

    fn times(&self) -> Finding {
        let known: Vec<(u64, u64)> = self
            .believed()
            .filter_map(|(size, time)| Some((size, time?.saturating_mul(1_000))))
            .collect();
        let mut latest = 0;
        for shown in &self.leaves {
            let time = shown.leaf.time_ms().0;
            if time < latest {
                return Finding::contradicted(format!("time goes back at leaf {}", shown.index));
            }
            latest = time;
            let not_before = known.iter().rev().find(|(size, _)| *size <= shown.index);
            let not_after = known.iter().find(|(size, _)| *size > shown.index);
            let early =
                not_before.is_some_and(|(_, at)| time.saturating_add(CLOCKS_APART_MS) < *at);
            let late = not_after.is_some_and(|(_, at)| time > at.saturating_add(CLOCKS_APART_MS));
            if early || late {
                return Finding::contradicted(format!(
                    "leaf {} states {}, which the checkpoints around it exclude",
                    shown.index,
                    utc(time)
                ));
            }
        }
        Finding::proven(format!(
            "every leaf's time lies between the cosigners' times around it, within {}",
            span(CLOCKS_APART_MS / 1_000)
        ))
    }

    fn gaps(&self, folder: &Folder) -> Finding {
        let Some(times) = self
            .believed()
            .map(|(_, time)| time)
            .collect::<Option<Vec<_>>>()
        else {
            return Finding::not_shown(
                "the trust policy asks for no cosignature, so nothing states a time",
            );
        };
        if times.windows(2).any(|pair| pair[0] > pair[1]) {
            return Finding::contradicted("a later checkpoint was vouched for earlier");
        }
        let real = gaps_between(&times);
        if real != *folder.gaps() {
            return Finding::contradicted(format!(
                "the folder states {} gaps, its checkpoints show {}",
                folder.gaps().gaps.len(),
                real.gaps.len()
            ));
        }
        Finding::proven(format!(
            "{} gaps of more than {}; the longest time without a word of the quorum was {}",
            real.gaps.len(),
            span(real.threshold_s),
            span(real.longest_s)
        ))
    }
}

/// Size and time of a checkpoint of the folder's own log, or why it says nothing.
fn vouched(
    checkpoint: Option<&Result<Trusted, Refused>>,
    folder: &Folder,
) -> Result<(u64, u64), Finding> {
    let trusted = match checkpoint {
        None => return Err(Finding::not_shown("the folder has no checkpoint")),
        Some(Err(Refused::NotANote)) => {
            return Err(Finding::contradicted("the checkpoint is no signed note"));
        }
        Some(Err(Refused::Policy(why @ PolicyRefused::NoQuorum { .. }))) => {
            return Err(Finding::not_shown(why.to_string()));
        }
        Some(Err(Refused::Policy(why))) => return Err(Finding::contradicted(why.to_string())),
        Some(Ok(trusted)) => trusted,
    };
    let (tree, index) = (trusted.checkpoint(), folder.index());
    let origin: Option<Origin> = tree.origin().as_str().parse().ok();
    let its = origin.is_some_and(|origin| origin.region().as_str() == index.region);
    if !its || tree.origin().as_str() != index.origin {
        return Err(Finding::contradicted(format!(
            "the checkpoint is of the log {}, the folder of {} in region {}",
            tree.origin(),
            index.origin,
            index.region
        )));
    }
    match trusted.as_of() {
        Some(as_of) => Ok((tree.size(), as_of.get())),
        None => Err(Finding::asserted(
            tree.origin().as_str(),
            "the trust policy asks for no cosignature: this is the log's own word, at no time",
        )),
    }
}
