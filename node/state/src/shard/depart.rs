//! A dataset that leaves: the steps of a departure in its shard.
//!
//! Owns what each writes beside the authority: when a fence is due to be reverted, tombstones that nobody needs any more,
//! what is removed once the keys are destroyed. Refuses to begin while request ids that do not say their dataset may be in
//! the window, and to give the dataset away on one replica's word.

use proto::ids::{DatasetId, LogIndex, RegionId, RelocationId};
use proto::v1;
use proto::v1::depart::Step;

use super::refusal::{Answer, malformed, of, refuse};
use super::relocation::{approved, gone, not_authorised, relocation_id, vouched};
use super::{Apply, Dataset};
use crate::keys::{self, table};
use crate::limits::{EPOCHS_KEPT, FENCE_MS_MAX, SWEEP_STEPS};
use crate::relocation::{
    Authority, AuthorityRefused, DepartureVersion, Fence, FenceCount, Shredded, Standing, moved,
};

type Decided = Result<Authority, AuthorityRefused>;

impl Apply<'_> {
    pub(super) fn depart(&mut self, depart: &v1::Depart) -> Answer {
        let Some(step) = &depart.step else {
            return malformed();
        };
        let relocation = relocation_id(&depart.relocation_id)?;
        let mut dataset = self.held(&depart.dataset_id)?;
        match dataset.record.status() {
            v1::DatasetStatus::Arriving => return refuse(v1::Refusal::DatasetArriving),
            v1::DatasetStatus::Tombstoned if !matches!(step, Step::Finish(_)) => {
                return Err(gone(&dataset.record));
            }
            _ => {}
        }
        let before = Authority::stored(&dataset.record);
        let authority = before.clone();
        let decided = match step {
            Step::Begin(begin) => {
                self.begin_departure(&dataset.id, authority, relocation, begin)?
            }
            Step::Taken(through) if *through > self.index.0 => return malformed(),
            Step::Taken(through) => authority.taken(relocation, LogIndex(*through)),
            Step::Fence(fence) => {
                let fence = wanted(&dataset, relocation, fence)?;
                authority.fence(fence, self.index)
            }
            Step::Revert(fence) => authority.revert(relocation, LogIndex(*fence)),
            Step::Moved(record) | Step::Superseded(record) => {
                let said = moved(record).filter(|said| said.relocation == relocation);
                let Some(said) = said else {
                    return malformed();
                };
                let said = vouched(said, depart.vouch.as_ref())?;
                match step {
                    Step::Moved(_) => authority.moved(*said.record()),
                    _ => authority.superseded(*said.record()),
                }
            }
            Step::End(from) => authority.end(relocation, DepartureVersion(*from)),
            Step::Finish(_) => return self.finish_departure(dataset, relocation, depart),
        };
        let after = decided.map_err(|refused| not_authorised(refused, &dataset.record))?;
        if after != before {
            dataset.settle(&after);
            self.drop_tombstones(&mut dataset, SWEEP_STEPS);
            self.save(&dataset);
        }
        if let (Step::Fence(fence), true) = (step, after.standing() != before.standing()) {
            let due = self.meta.time.0.saturating_add(fence.pause_ms);
            let place = keys::dataset(table::FENCE, &dataset.id);
            self.state.put(&place, &due.to_be_bytes());
        }
        Ok(self.done())
    }

    fn begin_departure(
        &mut self,
        id: &DatasetId,
        authority: Authority,
        relocation: RelocationId,
        begin: &v1::BeginDeparture,
    ) -> Result<Decided, v1::Refused> {
        let Ok(destination) = begin.destination.parse::<RegionId>() else {
            return malformed();
        };
        approved(begin.approvals.as_ref())?;
        // Those that were answered before stay in the window for so long, and would stay behind.
        let indexed = match self.index_requests().0 {
            0 => 0,
            from => from + EPOCHS_KEPT,
        };
        // Ids that came with the dataset are in no index here.
        let crossed = self.arriving(id).map_or(0, |held| held.crossed_until);
        let clear = indexed.max(crossed);
        if self.meta.upload_epoch.0 < clear {
            return Err(v1::Refused {
                moved_to: clear,
                ..of(v1::Refusal::RequestsNotIndexed)
            });
        }
        let from = DepartureVersion(begin.from_version);
        Ok(authority.open(relocation, destination, from, self.index))
    }

    /// The keys are destroyed: nothing here can be opened any more, and it is removed as a dropped dataset's contents
    /// are. What says where it went stays for ever.
    fn finish_departure(
        &mut self,
        mut dataset: Dataset,
        relocation: RelocationId,
        depart: &v1::Depart,
    ) -> Answer {
        vouched(Shredded { relocation }, depart.vouch.as_ref())?;
        match Authority::stored(&dataset.record).standing() {
            Standing::Moved(moved) if moved.relocation == relocation => {}
            _ => return refuse(v1::Refusal::NotUnderWay),
        }
        if dataset.record.status() == v1::DatasetStatus::Tombstoned {
            return Ok(self.done());
        }
        dataset.record.set_status(v1::DatasetStatus::Tombstoned);
        self.drop_contents(&mut dataset);
        Ok(self.done())
    }
}

/// The fence that is asked for, where it may be: what does not open any more cannot be compared.
fn wanted(
    dataset: &Dataset,
    relocation: RelocationId,
    fence: &v1::Fence,
) -> Result<Fence, v1::Refused> {
    if !(1..=FENCE_MS_MAX).contains(&fence.pause_ms) {
        return malformed();
    }
    if dataset.record.key_state() != v1::KeyState::Enabled {
        return refuse(v1::Refusal::KeyDisabled);
    }
    Ok(Fence {
        relocation,
        epoch: proto::ids::DatasetEpoch(fence.epoch),
        from: FenceCount(fence.from),
    })
}

#[cfg(test)]
mod tests;
