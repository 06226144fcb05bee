//! Where in a relocation something goes wrong, and what: the matrix of both.
//!
//! Owns the names and the lists. Refuses to say whether a relocation got there: that is seen.

use proto::v1::ArrivalPhase as Phase;
use serde::Serialize;

/// A state of a relocation, as both regions show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Point {
    /// The destination has a place for it, and the source has not granted its keys.
    Prepared,
    /// Objects are read.
    Copying,
    /// Changes are followed.
    CatchUp,
    /// Copies are read back.
    Verifying,
    /// Writes wait in the source.
    Fenced,
    /// The source has said that it moved, and the destination does not know.
    Moved,
    /// It is served in the destination.
    Cutover,
    /// It is given up.
    Aborting,
}

impl Point {
    /// Every one, in order.
    pub const ALL: [Self; 8] = [
        Self::Prepared,
        Self::Copying,
        Self::CatchUp,
        Self::Verifying,
        Self::Fenced,
        Self::Moved,
        Self::Cutover,
        Self::Aborting,
    ];

    /// Those at which a link is cut in one relocation that moves.
    pub const ON_THE_WAY: [Self; 6] = [
        Self::Prepared,
        Self::Copying,
        Self::CatchUp,
        Self::Verifying,
        Self::Fenced,
        Self::Cutover,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Copying => "copying",
            Self::CatchUp => "catch-up",
            Self::Verifying => "verifying",
            Self::Fenced => "fenced",
            Self::Moved => "moved",
            Self::Cutover => "cutover",
            Self::Aborting => "aborting",
        }
    }
}

/// What is seen of a relocation at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// As the destination's node has it that applied most.
    pub(super) phase: Phase,
    /// Whether a node of the source says that the dataset has moved.
    pub(super) moved: bool,
}

impl Sight {
    /// Served in the destination.
    pub(super) fn is_served(self) -> bool {
        matches!(
            self.phase,
            Phase::Cutover | Phase::Hold | Phase::Shred | Phase::Certified
        )
    }

    /// Given up, or about to be.
    pub(super) fn is_given_up(self) -> bool {
        matches!(self.phase, Phase::Aborting | Phase::Aborted)
    }
}

/// Whether a relocation is somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Before,
    There,
    Past,
}

impl Point {
    /// Where a relocation is, seen from here.
    pub(super) fn place(self, sight: Sight) -> Place {
        // A fence may end and stand again, so that a relocation that is verified may have been there before.
        let wanted = match self {
            Self::Prepared => Phase::Prepared,
            Self::Copying => Phase::Copying,
            Self::CatchUp => Phase::CatchUp,
            Self::Verifying => Phase::Verifying,
            Self::Fenced => Phase::Fenced,
            Self::Moved => {
                return match (sight.moved, sight.is_served()) {
                    (_, true) => Place::Past,
                    (true, false) => Place::There,
                    (false, false) => Place::Before,
                };
            }
            Self::Cutover => {
                return match sight.is_served() {
                    true => Place::There,
                    false => Place::Before,
                };
            }
            Self::Aborting => Phase::Aborting,
        };
        match i32::from(sight.phase).cmp(&i32::from(wanted)) {
            std::cmp::Ordering::Less => Place::Before,
            std::cmp::Ordering::Equal => Place::There,
            std::cmp::Ordering::Greater => Place::Past,
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Kill -9 of the node that leads the dataset's shard in the source.
    SourceLeader,
    /// The same in the destination.
    DestinationLeader,
    /// Kill -9 of the gateway that moves.
    Mover,
    /// Kill -9 of the leader of the source's KMS.
    SourceKms,
    /// The same in the destination.
    DestinationKms,
    /// Nothing passes between the regions.
    Cut,
    /// Kill -9 of every node and KMS replica of the source at once.
    Source,
    /// The same in the destination, its gateway too.
    Destination,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::SourceLeader,
        Self::DestinationLeader,
        Self::Mover,
        Self::SourceKms,
        Self::DestinationKms,
        Self::Cut,
        Self::Source,
        Self::Destination,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::SourceLeader => "source-leader",
            Self::DestinationLeader => "destination-leader",
            Self::Mover => "mover",
            Self::SourceKms => "source-kms",
            Self::DestinationKms => "destination-kms",
            Self::Cut => "cut",
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Every fault at every point.
pub fn matrix() -> Vec<(Point, Fault)> {
    let faults = |point| Fault::ALL.into_iter().map(move |fault| (point, fault));
    Point::ALL.into_iter().flat_map(faults).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(phase: Phase, moved: bool) -> Sight {
        Sight { phase, moved }
    }

    #[test]
    fn every_fault_comes_at_every_point_once() {
        let all = matrix();
        assert!(all.len() >= 60, "{}", all.len());
        let mut names: Vec<_> = all
            .iter()
            .map(|(point, fault)| format!("{}-{}", point.name(), fault.name()))
            .collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn a_relocation_is_at_each_point_in_order() {
        let way = [
            seen(Phase::Prepared, false),
            seen(Phase::Copying, false),
            seen(Phase::CatchUp, false),
            seen(Phase::Verifying, false),
            seen(Phase::Fenced, false),
            seen(Phase::Fenced, true),
            seen(Phase::Cutover, true),
        ];
        for (at, sight) in way.into_iter().enumerate() {
            let point = Point::ALL[at];
            assert_eq!(point.place(sight), Place::There, "{point:?}");
            for later in &Point::ALL[at + 1..7] {
                let before = later.place(sight);
                // The source has moved under the fence.
                assert_eq!(before, Place::Before, "{later:?} at {sight:?}");
            }
        }
        assert_eq!(Point::Moved.place(way[6]), Place::Past);
        assert_eq!(Point::Copying.place(way[4]), Place::Past);
        assert_eq!(Point::Cutover.place(seen(Phase::Hold, true)), Place::There);
        let aborting = seen(Phase::Aborting, false);
        assert_eq!(Point::Aborting.place(aborting), Place::There);
        assert!(aborting.is_given_up() && !aborting.is_served());
    }
}
