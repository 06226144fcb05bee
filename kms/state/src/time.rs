//! Region time: how a clock's reading becomes state.
//!
//! Owns the rule of the KMS; its bounds are those of every group ([`proto::time`]). Time never goes back; a command of the leader moves it by at most a minute; anything more takes
//! the clocks of a majority of voters, and more than a day dual control too.
//!
//! A group that is idle sends no command, so after a quiet hour the first command meets [`Refusal::ClockJump`]:
//! the leader then collects its peers' clocks, proposes `AdvanceTime` with them and proposes its command again; or
//! it proposes `AdvanceTime` whenever half a minute passed without a command, and meets the refusal never. The
//! rule's limits: clocks are what the leader says it heard (assumption A1), and a time server that deceives a
//! majority moves time by up to a day at once, which the leaf `time-advanced` shows. Irreversible timers therefore
//! do not rest on this alone where a region has a witness.

use proto::ids::UnixMs;
pub use proto::time::{IDLE_JUMP_MS_MAX, JUMP_MS_MAX};
use proto::v1::{AdvanceTime, KmsAnswer};

use crate::append::{Applying, done};
use crate::refusal::Refusal;

/// Region time after a command that carries the leader's reading; 0 means no reading.
pub(crate) fn advanced(stands_at: UnixMs, reading: u64) -> Result<UnixMs, Refusal> {
    proto::time::advanced(stands_at, UnixMs(reading)).map_err(|ahead| Refusal::ClockJump {
        now: ahead.stands_at.0,
    })
}

#[derive(serde::Serialize)]
struct Details {
    from_ms: u64,
    to_ms: u64,
    clocks: usize,
}

pub(crate) fn advance(
    applying: &mut Applying<'_>,
    command: &AdvanceTime,
) -> Result<KmsAnswer, Refusal> {
    let clocks = command.clocks_ms.clone();
    let voters = applying.at.voters as usize;
    let count = clocks.len();
    let none = Refusal::Malformed("the clocks are not those of a majority");
    if count * 2 <= voters || count > voters {
        return Err(none);
    }
    let median = proto::time::median(clocks).ok_or(none)?;
    let stands_at = applying.now;
    let jump = median.0.saturating_sub(stands_at.0);
    applying.now = stands_at.max(median);
    if jump <= JUMP_MS_MAX {
        return Ok(done(applying.answer()));
    }
    let mut private = applying.private_of_requester();
    if jump > IDLE_JUMP_MS_MAX {
        let authority = applying.authority()?;
        applying.requester(&authority)?;
        let needed = authority.approvals_min();
        let approvals = applying.approvals(&authority, needed)?;
        applying.use_approvals(&approvals, &mut private);
    }
    let details = Details {
        from_ms: stands_at.0,
        to_ms: applying.now.0,
        clocks: count,
    };
    crate::append::details(&mut private, &details);
    let leaf = applying.append(
        tlog::Kind::TimeAdvanced,
        tlog::Purpose::service(),
        None,
        private,
    );
    let mut answer = applying.answer();
    answer.leaf_index = leaf.index.0;
    Ok(done(answer))
}
