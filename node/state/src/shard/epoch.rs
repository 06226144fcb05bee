//! What only the shard's own driver proposes: epochs, authority, sweeps.
//!
//! Owns the two numbers that every other command is compared with. Refuses to move either back.

use proto::ids::UploadEpoch;
use proto::v1;

use super::Apply;
use super::refusal::{Answer, of, refuse};
use crate::limits::SWEEP_STEPS_MAX;

impl Apply<'_> {
    /// One on from the epoch the driver saw: sent twice it has effect once.
    pub(super) fn advance_upload_epoch(&mut self, advance: &v1::AdvanceUploadEpoch) -> Answer {
        if advance.from != self.meta.upload_epoch.0 {
            return refuse(v1::Refusal::StaleEpoch);
        }
        self.meta.upload_epoch = UploadEpoch(advance.from + 1);
        self.meta.epoch_began = self.meta.time;
        self.expire();
        Ok(self.done())
    }

    pub(super) fn set_authority(&mut self, set: &v1::SetAuthority) -> Answer {
        let held = self.meta.authority_version;
        if set.version < held {
            return Err(v1::Refused {
                moved_to: held,
                ..of(v1::Refusal::AuthorityMoved)
            });
        }
        self.meta.authority_version = set.version;
        Ok(self.done())
    }

    pub(super) fn sweep_more(&mut self, sweep: &v1::Sweep) -> Answer {
        let more = self.sweep(sweep.steps.min(SWEEP_STEPS_MAX));
        Ok(v1::Done {
            more,
            ..self.done()
        })
    }
}
