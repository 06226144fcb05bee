//! Relocation of a dataset to another region: what both shards decide, over plain values (DESIGN section 8).
//!
//! Owns who may write, what crosses, and in which order steps follow. Refuses to decide by a clock, and on the word of
//! another group unless a majority of its replicas gave it.
//!
//! - Both sides: [`Authority`] says who may write, [`retry`] what becomes of a request that is sent again,
//!   [`Vouched`] and [`Approved`] whose word counts.
//! - Source: [`Tombstones`] says how far back its change index reaches.
//! - Destination: [`Arrival`] holds the steps, [`import`] one object's.
//!
//! The KMSs' part is in `kms-state`.

mod approved;
mod arrival;
mod authority;
mod departure;
mod feed;
mod fenced;
mod filling;
mod image;
mod import;
mod retry;
mod steps;
mod stored;
mod terms;
mod unit;
mod vouched;

pub use approved::{Approved, TooFewApprovers};
pub use arrival::{Arrival, Phase, State};
pub use authority::{Authority, Change, NotAdmitted, Standing};
pub use departure::{AuthorityRefused, Departure, DepartureVersion, Fence, FenceCount};
pub use feed::{Overrun, Tombstones};
pub use fenced::{Comparison, Fenced};
pub use filling::Filling;
pub use image::{Batch, Image, ImportRefused, Position, Span};
pub use import::{Content, Effect, Import, Known, NotResealed, import};
pub use retry::{Retry, retry};
pub use steps::{
    Aborted, Aborting, Certified, CutOver, Held, Opened, Prepared, Shredding, StepRefused,
};
pub use stored::moved_record;
pub(crate) use stored::{moved, released, released_record};
pub use terms::Terms;
pub use unit::Unit;
pub use vouched::{
    Closed, DepartureRecord, Ended, FenceRecord, GrantRecord, HandOverEnded, NoMajority, Paused,
    Reverted, Shredded, Vouched,
};

#[cfg(test)]
mod tests;
