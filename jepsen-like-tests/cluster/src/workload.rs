//! What clients do to a region while it is tormented, and what they look at when it is healed.
//!
//! Owns one shape for all workloads: several clients until told to stop, every operation recorded with its outcome;
//! afterwards a last look. Refuses to end because the region is dead: clients go on trying. Operations that were sent
//! are never forgotten: a task ends between operations alone.

use std::time::Duration;

use anyhow::Result;
use checker::{F, Op, Verdict, Workload};
use local::RegionEntry;
use tokio::sync::watch;

use crate::recorder::Recorder;

mod append;
mod blocks;
mod conditions;
mod content;
mod ended;
mod key_states;
mod keys;
mod locks;
pub(crate) mod moving;
mod parts;
mod records;
mod register;
mod retry;
mod session;
mod set;

/// How long a region that has been healed is asked again: [`Access::patience`], unless nothing is expected of it.
pub const PATIENCE: Duration = session::LAST_LOOK_MAX;

/// How a region is reached, and where chance comes from.
#[derive(Debug, Clone)]
pub struct Access {
    /// The region, with its identities.
    pub region: RegionEntry,
    /// Of everything that a workload chooses.
    pub seed: u64,
    /// How long an object that cannot be read is tried again at the end.
    pub patience: Duration,
}

/// Runs a workload until `stop` says so. An error is the harness's; what the product does is recorded.
pub async fn run(
    workload: Workload,
    access: &Access,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let stop = Stop(stop);
    match workload {
        Workload::Register => register::run(access, recorder, stop).await,
        Workload::Set => set::run(access, recorder, stop).await,
        Workload::Append => append::run(access, recorder, stop).await,
        Workload::Blocks => blocks::run(access, recorder, stop).await,
        Workload::Retry => retry::run(access, recorder, stop).await,
        Workload::KeyStates => key_states::run(access, recorder, stop).await,
        Workload::Records => records::run(access, recorder, stop).await,
        Workload::Conditions => conditions::run(access, recorder, stop).await,
        Workload::Parts => parts::run(access, recorder, stop).await,
        Workload::Locks => locks::run(access, recorder, stop).await,
        // Compared at the end, by who knows the members.
        Workload::Replicas => Ok(()),
    }
}

/// The last look at everything the workload has done, once the region is whole and [`run`] has ended.
pub async fn finish(workload: Workload, access: &Access, recorder: Recorder) -> Result<()> {
    match workload {
        Workload::Register => register::finish(access, recorder).await,
        Workload::Set => set::finish(access, recorder).await,
        Workload::Append => append::finish(access, recorder).await,
        Workload::Blocks => blocks::finish(access, recorder).await,
        Workload::Retry => retry::finish(access, recorder).await,
        Workload::KeyStates => key_states::finish(access, recorder).await,
        Workload::Records => records::finish(access, recorder).await,
        Workload::Conditions => conditions::finish(access, recorder).await,
        Workload::Parts => parts::finish(access, recorder).await,
        Workload::Locks => locks::finish(access, recorder).await,
        Workload::Replicas => Ok(()),
    }
}

/// What the judges say of a workload's operations.
pub fn judge(workload: Workload, ops: &[Op]) -> Verdict {
    checker::judge(workload, ops, needed(workload))
}

/// How many acknowledged operations it takes for a verdict.
pub fn needed(workload: Workload) -> &'static [(F, u64)] {
    match workload {
        Workload::Register => &[
            (F::Read, 40),
            (F::Write, 20),
            (F::Create, 2),
            (F::Cas, 5),
            (F::Delete, 2),
            (F::DeleteIf, 1),
        ],
        Workload::Set => &[(F::Add, 30), (F::Remove, 3), (F::List, 15)],
        Workload::Append => &[(F::Append, 30), (F::Versions, 15)],
        Workload::Blocks => &[(F::Write, 5), (F::Read, 5)],
        Workload::Retry => &[
            (F::Send, 30),
            (F::Append, 4),
            (F::Versions, 4),
            (F::Write, 2),
            (F::Read, 2),
        ],
        Workload::KeyStates => &[
            (F::Disable, 2),
            (F::Enable, 2),
            (F::Put, 10),
            (F::Open, 10),
            (F::Lease, 2),
        ],
        Workload::Records => &[(F::Release, 30), (F::TreeHead, 5), (F::Leaves, 1)],
        Workload::Conditions => &[
            (F::Read, 40),
            (F::Create, 2),
            (F::Cas, 15),
            (F::DeleteIf, 1),
        ],
        Workload::Parts => &[(F::Complete, 6), (F::Abort, 1), (F::Read, 10)],
        Workload::Locks => &[
            (F::Lock, 10),
            (F::Put, 4),
            (F::Remove, 1),
            (F::Read, 2),
            (F::Versions, 3),
        ],
        Workload::Replicas => &[(F::Digest, 3)],
    }
}

/// Whether it is time to end.
#[derive(Clone)]
struct Stop(watch::Receiver<bool>);

impl Stop {
    fn is_now(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits, at most until the end.
    async fn pause(&mut self, time: Duration) {
        // A sender that went away is an end, too.
        drop(tokio::time::timeout(time, self.0.wait_for(|stop| *stop)).await);
    }
}
