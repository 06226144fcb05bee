//! A dataset that arrives: the steps of an arrival in its destination's shard.
//!
//! Owns the row of the arrival and what each step does to the dataset: made when keys are, opened when the source has
//! moved, emptied when the relocation ends before that. Refuses to open it by anything but what [`Arrival`] says has
//! arrived, and to mix it with a dataset that is here.

use prost::Message as _;
use proto::ids::{DatasetEpoch, DatasetId, HandOverKeyId, LogIndex, RelocationId, UnixMs};
use proto::relocation::CatalogRoot;
use proto::v1;
use proto::v1::arrive::Step;

use super::refusal::{Answer, malformed, of, refuse};
use super::relocation::{approved, relocation_id};
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::EPOCHS_KEPT;
use crate::record;
use crate::relocation::{
    Arrival, Comparison, DepartureVersion, Phase, Prepared, StepRefused, Terms, moved, released,
};

mod said;
#[cfg(test)]
mod tests;
mod work;

use work::Work;
pub(super) use work::takes;
pub use work::{MOVER_LEVEL, PACE_LEVEL};

/// An arrival being worked on, and what apply keeps with it.
pub(super) struct Arriving {
    pub(super) id: DatasetId,
    pub(super) arrival: Arrival,
    descriptor: u64,
    /// Source log index of the settings that were taken.
    pub(super) settings_index: u64,
    request_epoch: u64,
    pub(super) crossed_until: u64,
    work: Work,
}

type Stepped = Result<Result<Arrival, StepRefused>, v1::Refused>;

impl Apply<'_> {
    pub(super) fn arrive(&mut self, arrive: &v1::Arrive) -> Answer {
        let (Some(step), Ok(id)) = (
            &arrive.step,
            DatasetId::try_from(arrive.dataset_id.as_ref()),
        ) else {
            return malformed();
        };
        let relocation = relocation_id(&arrive.relocation_id)?;
        if let Step::Plan(terms) = step {
            return self.plan_arrival(id, relocation, terms);
        }
        let arriving = self.arriving(&id);
        let Some(mut arriving) =
            arriving.filter(|held| held.arrival.terms().relocation == relocation)
        else {
            return refuse(v1::Refusal::NotUnderWay);
        };
        let after = match step {
            Step::Prepare(prepare) => self.prepare_arrival(&arriving, arrive, prepare)?,
            Step::Pace(pace) => arriving.paced(pace, self.level)?,
            Step::Claim(claim) => arriving.claimed(claim, self.meta.time)?,
            _ => self.stepped(&mut arriving, arrive, step)?,
        };
        let after = after.map_err(step_refused)?;
        self.settle_arrival(arriving, after);
        Ok(self.done())
    }

    /// The arrival of a dataset, ended ones included.
    pub(super) fn arriving(&self, id: &DatasetId) -> Option<Arriving> {
        let place = keys::dataset(table::ARRIVAL, id);
        let record: v1::ArrivalRecord = record::load(&*self.state, &place)?;
        Some(Arriving {
            id: *id,
            arrival: Arrival::stored(*id, &record),
            descriptor: record.descriptor_version,
            settings_index: record.settings_index,
            request_epoch: record.request_epoch,
            crossed_until: record.crossed_until,
            work: Work::stored(&record),
        })
    }

    pub(super) fn save_arrival(&mut self, arriving: &Arriving) {
        let record = v1::ArrivalRecord {
            descriptor_version: arriving.descriptor,
            settings_index: arriving.settings_index,
            request_epoch: arriving.request_epoch,
            crossed_until: arriving.crossed_until,
            pace: arriving.work.pace,
            mover: arriving.work.mover.clone(),
            ..arriving.arrival.record()
        };
        let place = keys::dataset(table::ARRIVAL, &arriving.id);
        self.state.put(&place, &record.encode_to_vec());
    }

    /// The dataset, while imports are taken.
    pub(super) fn filling(&self, dataset: Dataset) -> Result<Dataset, v1::Refused> {
        let arriving = self.arriving(&dataset.id);
        match arriving.is_some_and(|held| held.arrival.filling().is_some()) {
            true => Ok(dataset),
            false => refuse(v1::Refusal::DatasetArriving),
        }
    }

    fn plan_arrival(
        &mut self,
        id: DatasetId,
        relocation: RelocationId,
        terms: &v1::ArrivalTerms,
    ) -> Answer {
        let (Ok(source), Ok(destination)) = (terms.source.parse(), terms.destination.parse())
        else {
            return malformed();
        };
        let terms = Terms {
            relocation,
            dataset: id,
            source,
            destination,
            epoch: DatasetEpoch(terms.epoch),
            from_version: DepartureVersion(terms.from_version),
        };
        if terms.source == terms.destination || terms.epoch.0 == u64::MAX {
            return malformed();
        }
        if let Some(held) = self.arriving(&id) {
            let phase = held.arrival.phase();
            if phase == Phase::Plan && *held.arrival.terms() == terms {
                return Ok(self.done());
            }
            let over = matches!(phase, Phase::Plan | Phase::Certified | Phase::Aborted);
            if !over || held.arrival.terms().relocation == relocation {
                return Err(step_refused(StepRefused::OutOfOrder(phase)));
            }
        }
        self.vacant(&id, terms.epoch)?;
        let arriving = Arriving {
            id,
            arrival: Arrival::planned(terms),
            descriptor: 0,
            settings_index: 0,
            request_epoch: 0,
            crossed_until: 0,
            work: Work::default(),
        };
        self.save_arrival(&arriving);
        Ok(self.done())
    }

    /// Nothing of the dataset is here; it may have left in an earlier epoch, or an arrival or a restore of it may have been
    /// given up.
    pub(super) fn vacant(&self, id: &DatasetId, epoch: DatasetEpoch) -> Result<(), v1::Refused> {
        let Some(held) = self.dataset(id) else {
            return Ok(());
        };
        if held.status() != v1::DatasetStatus::Tombstoned {
            return refuse(v1::Refusal::DatasetExists);
        }
        let moved = held.authority.as_ref().and_then(|held| held.moved.as_ref());
        let left = moved.is_some_and(|moved| moved.epoch <= epoch.0);
        let purged = self.state.value(&keys::dataset(table::PURGE, id)).is_none();
        let empty = (held.versions, held.uploads, held.sealed_bytes) == (0, 0, 0);
        match (left || held.never_served, purged && empty) {
            (true, true) => Ok(()),
            (true, false) => refuse(v1::Refusal::DatasetExists),
            (false, _) => refuse(v1::Refusal::DatasetGone),
        }
    }

    fn prepare_arrival(
        &mut self,
        arriving: &Arriving,
        arrive: &v1::Arrive,
        prepare: &v1::PrepareArrival,
    ) -> Stepped {
        let approved = approved(arrive.approvals.as_ref())?;
        let (Some(asked), Ok(hand_over)) = (
            &prepare.dataset,
            HandOverKeyId::try_from(prepare.hand_over_key_id.as_ref()),
        ) else {
            return malformed();
        };
        let (id, kek) = super::dataset::well_formed(asked)?;
        let terms = arriving.arrival.terms();
        if id != arriving.id || asked.epoch != terms.epoch.0 {
            return malformed();
        }
        let prepared = Prepared { kek, hand_over };
        let after = match arriving.arrival.clone().prepare(prepared, approved) {
            Ok(after) => after,
            refused => return Ok(refused),
        };
        self.vacant(&id, terms.epoch)?;
        let mut record = self.founded(asked);
        record.set_status(v1::DatasetStatus::Arriving);
        self.meta.datasets += 1;
        self.save(&Dataset { id, record });
        Ok(Ok(after))
    }

    fn stepped(&self, arriving: &mut Arriving, arrive: &v1::Arrive, step: &Step) -> Stepped {
        let arrival = arriving.arrival.clone();
        let now = self.meta.time;
        Ok(match step {
            Step::CopyAgain(base) => arrival.copy_again(LogIndex(*base)),
            Step::Compared(compared) => arrival.compared(self.comparison(&arriving.id, compared)?),
            Step::HoldUntilMs(until) if *until < now.0 => return malformed(),
            Step::HoldUntilMs(until) if arriving.holds_too_long(*until, now, self.level) => {
                return malformed();
            }
            Step::HoldUntilMs(until) => arrival.hold(UnixMs(*until)),
            Step::Shred(shred) => {
                let now = match shred.witnessed_ms {
                    0 => now,
                    witnessed => now.min(UnixMs(witnessed)),
                };
                arrival.shred(approved(arrive.approvals.as_ref())?, now)
            }
            Step::Plain(plain) => match v1::ArrivalStep::try_from(*plain).unwrap_or_default() {
                v1::ArrivalStep::CatchUp => arrival.catch_up(),
                v1::ArrivalStep::Verify => arrival.verify(),
                v1::ArrivalStep::Force => arrival.force(approved(arrive.approvals.as_ref())?),
                v1::ArrivalStep::Abort => arrival.abort(),
                v1::ArrivalStep::Unspecified => return malformed(),
                _ => return arriving.hears(arrive, step),
            },
            _ => return arriving.hears(arrive, step),
        })
    }

    /// Of everything that is here: one copy left out is one that nobody compared, and an upload that a mover left would
    /// be a user's once the dataset serves.
    fn comparison(
        &self,
        id: &DatasetId,
        compared: &v1::Compared,
    ) -> Result<Comparison, v1::Refused> {
        let held = self.dataset(id).unwrap_or_default();
        if held.uploads > 0 {
            return refuse(v1::Refusal::NotEqual);
        }
        let Ok(root) = compared.root.as_ref().try_into() else {
            return malformed();
        };
        if compared.total != held.versions || compared.at > self.index.0 {
            return malformed();
        }
        Ok(Comparison {
            fence: LogIndex(compared.fence),
            root: CatalogRoot(root),
            equal: compared.equal,
            total: compared.total,
            at: LogIndex(compared.at),
        })
    }

    /// Saves a step, and does to the dataset what follows from it.
    fn settle_arrival(&mut self, mut arriving: Arriving, after: Arrival) {
        arriving.arrival = after;
        let here = self.dataset(&arriving.id);
        let here = here.filter(|held| held.status() == v1::DatasetStatus::Arriving);
        if let Some(record) = here {
            let id = arriving.id;
            let dataset = Dataset { id, record };
            let phase = arriving.arrival.phase();
            if arriving.arrival.arrived().is_some() {
                self.open_arrived(dataset, &mut arriving);
            } else if matches!(phase, Phase::Aborting | Phase::Aborted) {
                let mut dataset = dataset;
                dataset.record.set_status(v1::DatasetStatus::Tombstoned);
                dataset.record.never_served = true;
                self.drop_contents(&mut dataset);
            }
        }
        self.save_arrival(&arriving);
    }

    /// From here on it serves. What only imports needed goes; request ids of the source stay as long as its own would.
    fn open_arrived(&mut self, mut dataset: Dataset, arriving: &mut Arriving) {
        let Some(authority) = arriving.arrival.arrived() else {
            return;
        };
        let now = self.meta.upload_epoch.0;
        dataset.record.epoch = authority.epoch().0;
        dataset.record.set_status(v1::DatasetStatus::Active);
        // An id of the source that it no longer knew must not look like a fresh one here: epochs of this dataset's ids go
        // on after the last one of the source.
        dataset.record.request_offset = (arriving.request_epoch + 1).saturating_sub(now);
        self.save(&dataset);
        arriving.crossed_until = now + EPOCHS_KEPT + 1;
        for (of, epoch) in [
            (table::KNOWN, now),
            (table::CROSSED, arriving.crossed_until),
        ] {
            let due = keys::due(proto::ids::UploadEpoch(epoch), of, &dataset.id);
            self.state.put(&due, &[]);
        }
        self.meta.sweeping = true;
    }
}

/// How a step is refused that does not follow.
fn step_refused(refused: StepRefused) -> v1::Refused {
    let at = |reason, moved_to| v1::Refused {
        moved_to,
        ..of(reason)
    };
    match refused {
        StepRefused::OutOfOrder(phase) => {
            let phase = i32::from(v1::ArrivalPhase::from(phase));
            at(v1::Refusal::OutOfOrder, u64::from(phase.unsigned_abs()))
        }
        StepRefused::OtherRelocation(_) => of(v1::Refusal::NotUnderWay),
        StepRefused::OtherEpoch(epoch) => at(v1::Refusal::DatasetEpochMoved, epoch.0),
        StepRefused::OtherKey(_) => of(v1::Refusal::OtherHandOverKey),
        StepRefused::OtherFence(fence) => at(v1::Refusal::FenceOver, fence.0),
        StepRefused::Behind { changes, requests } => {
            at(v1::Refusal::Behind, changes.min(requests).0)
        }
        StepRefused::ComparedBefore(changed) => at(v1::Refusal::ComparedBefore, changed.0),
        StepRefused::NotEqual { .. } => of(v1::Refusal::NotEqual),
        StepRefused::NotMoved => of(v1::Refusal::SourceNotMoved),
        StepRefused::Held(until) => at(v1::Refusal::HoldNotOver, until.0),
    }
}

/// The values that a step brings, checked for shape.
fn moved_of(record: &v1::MovedRecord) -> Result<proto::relocation::Moved, v1::Refused> {
    moved(record).map_or_else(malformed, Ok)
}
