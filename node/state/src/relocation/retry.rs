//! What becomes of a request that is sent again, perhaps to the region the dataset moved to.
//!
//! Owns the order: first whether its id is known, then whether it may run. Refuses to run what was sealed for another
//! epoch: source and destination have different keys, so a client that is told it did not run seals anew.

use proto::ids::DatasetEpoch;

use super::authority::{Authority, Change, NotAdmitted};

/// What becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Retry<A> {
    /// It ran, here or where the dataset was before: this was the answer.
    Answered(A),
    /// It runs now; the authority is then this.
    Runs(Authority),
    /// It does not run here. Where the dataset's ids have all crossed, it never ran elsewhere either.
    NotRun(NotAdmitted),
}

/// Judges a request of dataset epoch `epoch` whose id has the answer `known`, where there is one. A fence or a move does
/// not hide an answer.
pub fn retry<A>(
    known: Option<A>,
    authority: &Authority,
    change: Change,
    epoch: DatasetEpoch,
) -> Retry<A> {
    if let Some(answer) = known {
        return Retry::Answered(answer);
    }
    match authority.clone().admit(change, epoch) {
        Ok(after) => Retry::Runs(after),
        Err(refused) => Retry::NotRun(refused),
    }
}
