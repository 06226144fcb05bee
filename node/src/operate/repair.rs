//! What an operator is told of this node's files, and what they may ask of its scrubber and repair.
//!
//! Owns the counts: each is of a table or a counter of this node, at the time of the call. Refuses to say how long
//! something will take.

use std::sync::Arc;

use proto::v1;
use replica::host::{GroupRole, ProposeError};

use crate::core::Core;
use crate::error::CallError;
use crate::repair::{Holding, Pass, Refill};

impl Core {
    /// Everything about this node's files. Reads the tables of missing blocks.
    pub(super) async fn repair_status(
        self: &Arc<Self>,
    ) -> Result<v1::RepairStatusReply, CallError> {
        let core = Arc::clone(self);
        let read = tokio::task::spawn_blocking(move || core.read_repair_status()).await;
        match read.map_err(|error| error.try_into_panic()) {
            Ok(status) => status,
            // The state's readers panic when the store cannot be read: that must end the process, not this task.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(CallError::Propose(ProposeError::Stopped)),
        }
    }

    fn read_repair_status(&self) -> Result<v1::RepairStatusReply, CallError> {
        let groups = self.groups.all();
        let groups = groups.iter().map(|group| self.group_repair(group));
        let groups = groups.collect::<Result<_, _>>()?;
        let (space, stats) = (self.disk.space(), self.store.stats());
        let passes = self.repair.passes();
        let (repaired_blocks, repairs_failed) = self.repair.repaired();
        Ok(v1::RepairStatusReply {
            node_id: self.node_id.0,
            groups,
            disk_bytes: space.bytes,
            disk_free_bytes: space.free,
            blocks: stats.blocks,
            block_bytes: stats.bytes,
            damaged_blocks: stats.damaged,
            damaged_found: stats.damaged_found,
            repaired_blocks,
            repairs_failed,
            scrub_bytes_per_s: self.repair.scrub_bytes_per_s(),
            scrub: passes.now.map(pass_message),
            last_scrub: passes.last.map(pass_message),
            last_asked_scrub: passes.last_asked.map(pass_message),
            started_at_ms: self.repair.started_at().0,
        })
    }

    fn group_repair(&self, group: &replica::Group) -> Result<v1::GroupRepair, CallError> {
        let id = group.id();
        let view = group.status();
        let role = match view.role {
            GroupRole::Leader => v1::MemberRole::Leader,
            GroupRole::Follower => v1::MemberRole::Follower,
            GroupRole::Candidate => v1::MemberRole::Candidate,
            GroupRole::Learner => v1::MemberRole::Learner,
            GroupRole::Stopped => v1::MemberRole::Stopped,
        };
        // The catalog has no blocks.
        let holding = match self.groups.shard(id) {
            Some(shard) => self
                .repair
                .holding(shard.as_ref())
                .map_err(|_| CallError::NotReconciled(id))?,
            None => Holding::default(),
        };
        Ok(v1::GroupRepair {
            group: id.0,
            role: role.into(),
            leader: view.leader.unwrap_or_default().0,
            applied_index: group.applied().unwrap_or_default().0,
            committed_index: group.committed().unwrap_or_default().0,
            comparing: holding.comparing,
            missing_blocks: holding.missing,
            refill: holding.refill.map(refill_message),
        })
    }
}

fn refill_message(refill: Refill) -> v1::Refill {
    v1::Refill {
        began_at_ms: refill.began_at.0,
        elapsed_ms: u64::try_from(refill.elapsed().as_millis()).unwrap_or(u64::MAX),
        fetched_blocks: refill.fetched_blocks,
        fetched_bytes: refill.fetched_bytes,
    }
}

fn pass_message(pass: Pass) -> v1::ScrubPass {
    v1::ScrubPass {
        number: pass.number,
        asked: pass.asked,
        began_at_ms: pass.began_at.0,
        ended_at_ms: pass.ended_at.unwrap_or_default().0,
        bytes_per_s: pass.bytes_per_s,
        total_blocks: pass.total_blocks,
        total_bytes: pass.total_bytes,
        blocks: pass.blocks.blocks + pass.blocks.damaged,
        bytes: pass.blocks.bytes,
        damaged_blocks: pass.damaged(),
        unread_blocks: pass.blocks.unread,
        segments: pass.segments.segments,
        lost_segments: pass.segments.lost,
        mended_headers: pass.segments.mended,
        repaired_blocks: pass.repaired,
        state_bytes: pass.rest.state_bytes,
        log_segments: pass.rest.log_segments,
        log_bytes: pass.rest.log_bytes,
        log_damage: pass.rest.log_damage.unwrap_or_default(),
    }
}
