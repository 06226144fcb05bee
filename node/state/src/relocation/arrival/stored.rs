//! An arrival as it stands in its record.
//!
//! Owns both directions: of each step what it has, and nothing of another's.

use proto::ids::{DatasetEpoch, DatasetId, HandOverKeyId, KekId, LogIndex, RelocationId, UnixMs};
use proto::relocation::CatalogRoot;
use proto::v1;
use proto::v1::ArrivalPhase as Stored;

use super::{Arrival, Phase, State};
use crate::relocation::departure::DepartureVersion;
use crate::relocation::fenced::Fenced;
use crate::relocation::filling::Filling;
use crate::relocation::image::{Image, Position};
use crate::relocation::steps::{
    Aborted, Aborting, Certified, CutOver, Held, Opened, Prepared, Shredding,
};
use crate::relocation::terms::Terms;
use crate::relocation::vouched::FenceRecord;
use crate::relocation::{moved, moved_record, released, released_record};

const OURS: &str = "records are written by this crate alone";

impl From<Phase> for Stored {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Plan => Self::Plan,
            Phase::Prepared => Self::Prepared,
            Phase::Copying => Self::Copying,
            Phase::CatchUp => Self::CatchUp,
            Phase::Verifying => Self::Verifying,
            Phase::Fenced => Self::Fenced,
            Phase::Cutover => Self::Cutover,
            Phase::Hold => Self::Hold,
            Phase::Shred => Self::Shred,
            Phase::Certified => Self::Certified,
            Phase::Aborting => Self::Aborting,
            Phase::Aborted => Self::Aborted,
        }
    }
}

impl Arrival {
    /// As it stands in the record of this dataset.
    pub fn stored(dataset: DatasetId, record: &v1::ArrivalRecord) -> Self {
        let terms = terms(dataset, record);
        let state = match record.phase() {
            Stored::Plan => State::Plan,
            Stored::Prepared => State::Prepared(prepared(record)),
            Stored::Copying => State::Copying(filling(record)),
            Stored::CatchUp => State::CatchingUp(filling(record)),
            Stored::Verifying => State::Verifying(filling(record)),
            Stored::Fenced => State::Fenced(fenced(&terms, record)),
            Stored::Cutover => State::CutOver(cut(record)),
            Stored::Hold => State::Held(Held {
                cut: cut(record),
                until: UnixMs(record.hold_until_ms),
            }),
            Stored::Shred => State::Shredding(Shredding {
                cut: cut(record),
                shredded: record.shredded,
                erased: record.erased,
            }),
            Stored::Certified => State::Certified(Certified { cut: cut(record) }),
            Stored::Aborting => State::Aborting(Aborting {
                ended: record.ended,
                erased: record.erased,
                closed: record.released.as_ref().map(released),
            }),
            Stored::Aborted => State::Aborted(Aborted {
                disclosed: record.released.as_ref().map(released).expect(OURS),
            }),
        };
        Self { terms, state }
    }

    /// As it stands in the record, beside what apply keeps with it.
    pub(crate) fn record(&self) -> v1::ArrivalRecord {
        let terms = &self.terms;
        let record = v1::ArrivalRecord {
            format: 1,
            relocation_id: terms.relocation.into(),
            terms: Some(v1::ArrivalTerms {
                source: terms.source.as_str().to_owned(),
                destination: terms.destination.as_str().to_owned(),
                epoch: terms.epoch.0,
                from_version: terms.from_version.0,
            }),
            phase: Stored::from(self.phase()).into(),
            ..Default::default()
        };
        match &self.state {
            State::Plan => record,
            State::Prepared(prepared) => with_prepared(record, prepared),
            State::Copying(filling) | State::CatchingUp(filling) | State::Verifying(filling) => {
                with_filling(record, filling)
            }
            State::Fenced(fenced) => with_fenced(record, fenced),
            State::CutOver(cut) | State::Certified(Certified { cut }) => with_cut(record, cut),
            State::Held(held) => v1::ArrivalRecord {
                hold_until_ms: held.until.0,
                ..with_cut(record, &held.cut)
            },
            State::Shredding(shredding) => v1::ArrivalRecord {
                shredded: shredding.shredded,
                erased: shredding.erased,
                ..with_cut(record, &shredding.cut)
            },
            State::Aborting(aborting) => v1::ArrivalRecord {
                ended: aborting.ended,
                erased: aborting.erased,
                released: aborting.closed.as_ref().map(released_record),
                ..record
            },
            State::Aborted(aborted) => v1::ArrivalRecord {
                released: Some(released_record(&aborted.disclosed)),
                ..record
            },
        }
    }
}

impl Position {
    /// As it is stored and sent; `None` for no place.
    pub fn stored(place: Option<&v1::Place>) -> Option<Self> {
        let Some(place) = place else {
            return Some(Self::Start);
        };
        match (place.end, place.within) {
            (true, 0) if place.key.is_empty() => Some(Self::End),
            (true, _) => None,
            (false, 0) => Some(Self::After(place.key.parse().ok()?)),
            (false, index) => Some(Self::Within(place.key.parse().ok()?, LogIndex(index))),
        }
    }

    /// As it is stored and sent.
    pub fn record(&self) -> Option<v1::Place> {
        let of_key = |key: &proto::ids::ObjectKey, within| v1::Place {
            key: key.as_str().to_owned(),
            within,
            end: false,
        };
        match self {
            Self::Start => None,
            Self::Within(key, index) => Some(of_key(key, index.0)),
            Self::After(key) => Some(of_key(key, 0)),
            Self::End => Some(v1::Place {
                end: true,
                ..Default::default()
            }),
        }
    }
}

fn terms(dataset: DatasetId, record: &v1::ArrivalRecord) -> Terms {
    let terms = record.terms.as_ref().expect(OURS);
    Terms {
        relocation: RelocationId::try_from(record.relocation_id.as_ref()).expect(OURS),
        dataset,
        source: terms.source.parse().expect(OURS),
        destination: terms.destination.parse().expect(OURS),
        epoch: DatasetEpoch(terms.epoch),
        from_version: DepartureVersion(terms.from_version),
    }
}

fn prepared(record: &v1::ArrivalRecord) -> Prepared {
    Prepared {
        kek: KekId::try_from(record.kek_id.as_ref()).expect(OURS),
        hand_over: HandOverKeyId::try_from(record.hand_over_key_id.as_ref()).expect(OURS),
    }
}

fn filling(record: &v1::ArrivalRecord) -> Filling {
    let image = record.image.as_ref().expect(OURS);
    Filling {
        prepared: prepared(record),
        image: Image {
            base: LogIndex(image.base),
            listed: Position::stored(image.listed.as_ref()).expect(OURS),
            changes: LogIndex(image.changes),
            requests: LogIndex(image.requests),
            changed: LogIndex(image.changed),
        },
        reverted: LogIndex(record.reverted),
    }
}

fn fenced(terms: &Terms, record: &v1::ArrivalRecord) -> Fenced {
    let fence = record.fence.as_ref().expect(OURS);
    Fenced {
        filling: filling(record),
        record: FenceRecord {
            relocation: terms.relocation,
            epoch: DatasetEpoch(fence.epoch),
            fence: LogIndex(fence.fence),
            root: CatalogRoot(fence.root.as_ref().try_into().expect(OURS)),
        },
        equal: record.equal,
        released: record.released.as_ref().map(released),
        aborting: record.aborting,
    }
}

fn cut(record: &v1::ArrivalRecord) -> CutOver {
    CutOver {
        moved: record.moved.as_ref().and_then(moved).expect(OURS),
        opened: match record.opened() {
            v1::Opened::Moved => Opened::Moved,
            v1::Opened::ByForce => Opened::ByForce,
            v1::Opened::ByForceThenMoved => Opened::ByForceThenMoved,
        },
        released: record.released.as_ref().map(released).expect(OURS),
    }
}

fn with_prepared(record: v1::ArrivalRecord, prepared: &Prepared) -> v1::ArrivalRecord {
    v1::ArrivalRecord {
        kek_id: prepared.kek.into(),
        hand_over_key_id: prepared.hand_over.into(),
        ..record
    }
}

fn with_filling(record: v1::ArrivalRecord, filling: &Filling) -> v1::ArrivalRecord {
    let image = &filling.image;
    v1::ArrivalRecord {
        image: Some(v1::ImageRecord {
            base: image.base.0,
            listed: image.listed.record(),
            changes: image.changes.0,
            requests: image.requests.0,
            changed: image.changed.0,
        }),
        reverted: filling.reverted.0,
        ..with_prepared(record, &filling.prepared)
    }
}

fn with_fenced(record: v1::ArrivalRecord, fenced: &Fenced) -> v1::ArrivalRecord {
    let fence = fenced.record;
    v1::ArrivalRecord {
        fence: Some(v1::ArrivalFence {
            epoch: fence.epoch.0,
            fence: fence.fence.0,
            root: bytes::Bytes::copy_from_slice(&fence.root.0),
            upload_epoch: 0,
        }),
        equal: fenced.equal,
        released: fenced.released.as_ref().map(released_record),
        aborting: fenced.aborting,
        ..with_filling(record, &fenced.filling)
    }
}

fn with_cut(record: v1::ArrivalRecord, cut: &CutOver) -> v1::ArrivalRecord {
    let opened = match cut.opened {
        Opened::Moved => v1::Opened::Moved,
        Opened::ByForce => v1::Opened::ByForce,
        Opened::ByForceThenMoved => v1::Opened::ByForceThenMoved,
    };
    v1::ArrivalRecord {
        moved: Some(moved_record(&cut.moved)),
        opened: opened.into(),
        released: Some(released_record(&cut.released)),
        ..record
    }
}
