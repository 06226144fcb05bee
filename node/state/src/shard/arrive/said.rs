//! Steps of an arrival that another group has to have said.
//!
//! Owns which record each step is of. Refuses the word of less than a majority of that group, and one that was checked by an
//! older descriptor of the source's region than the newest that counted: its keys and members may be retired.

use proto::ids::{DatasetEpoch, HandOverKeyId, LogIndex};
use proto::relocation::CatalogRoot;
use proto::v1;
use proto::v1::arrive::Step;

use super::{Arriving, Stepped, moved_of, released};
use crate::relocation::{
    Closed, DepartureRecord, Ended, FenceRecord, GrantRecord, HandOverEnded, Paused, Reverted,
    Shredded, Vouched,
};
use crate::shard::refusal::{malformed, of};
use crate::shard::relocation::vouched;

impl Arriving {
    pub(super) fn hears(&mut self, arrive: &v1::Arrive, step: &Step) -> Stepped {
        let arrival = self.arrival.clone();
        let relocation = arrival.terms().relocation;
        let vouch = arrive.vouch.as_ref();
        Ok(match step {
            Step::Copy(copy) => {
                let Ok(hand_over) = HandOverKeyId::try_from(copy.hand_over_key_id.as_ref()) else {
                    return malformed();
                };
                let base = LogIndex(copy.base);
                let opened = self.source_says(DepartureRecord { relocation, base }, vouch)?;
                let granted = GrantRecord {
                    relocation,
                    hand_over,
                };
                let granted = self.source_says(granted, copy.granted.as_ref())?;
                arrival.copy(&opened, &granted)
            }
            Step::Fenced(fence) => {
                let Ok(root) = fence.root.as_ref().try_into() else {
                    return malformed();
                };
                let record = FenceRecord {
                    relocation,
                    epoch: DatasetEpoch(fence.epoch),
                    fence: LogIndex(fence.fence),
                    root: CatalogRoot(root),
                };
                let said = self.source_says(record, vouch)?;
                self.request_epoch = self.request_epoch.max(fence.upload_epoch);
                arrival.fenced(&said)
            }
            Step::Paused(paused) => {
                let released = paused.released.as_ref().map(released);
                let record = Paused {
                    relocation,
                    fence: LogIndex(paused.fence),
                    released: released.unwrap_or_default(),
                };
                arrival.paused(&self.source_says(record, vouch)?)
            }
            Step::Moved(record) => arrival.moved(&self.source_says(moved_of(record)?, vouch)?),
            Step::Reverted(fence) => {
                let fence = LogIndex(*fence);
                arrival.reverted(&self.source_says(Reverted { relocation, fence }, vouch)?)
            }
            Step::Closed(record) => {
                let released = released(record);
                let record = Closed {
                    relocation,
                    released,
                };
                arrival.closed(&self.source_says(record, vouch)?)
            }
            Step::Plain(plain) => match v1::ArrivalStep::try_from(*plain).unwrap_or_default() {
                v1::ArrivalStep::Ended => {
                    arrival.ended(&self.source_says(Ended { relocation }, vouch)?)
                }
                v1::ArrivalStep::Shredded => {
                    arrival.shredded(&self.source_says(Shredded { relocation }, vouch)?)
                }
                v1::ArrivalStep::HandOverEnded => {
                    arrival.hand_over_ended(&vouched(HandOverEnded { relocation }, vouch)?)
                }
                _ => return malformed(),
            },
            _ => return malformed(),
        })
    }

    fn source_says<R>(
        &mut self,
        record: R,
        vouch: Option<&v1::Vouch>,
    ) -> Result<Vouched<R>, v1::Refused> {
        let said = vouched(record, vouch)?;
        let version = vouch.map_or(0, |vouch| vouch.descriptor_version);
        if version < self.descriptor {
            return Err(v1::Refused {
                moved_to: self.descriptor,
                ..of(v1::Refusal::DescriptorOld)
            });
        }
        self.descriptor = version;
        Ok(said)
    }
}
