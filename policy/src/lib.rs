//! Who may do what in a region, in Cedar: principal, role, dataset, action, purpose, case, recipient region, time.
//!
//! Owns the schema, the parse of a policy text, the decision, its explanation, and what changes between two texts.
//! Pure: no clock, file or randomness, so the same text and the same request give the same decision wherever they
//! meet (docs/decisions/0015). Refuses: what no policy permits, what one forbids, what a role may never do, and any
//! request on which a policy fails. Enrolment and approvals are decided beside it.

mod bounds;
mod decide;
mod diff;
mod errors;
mod explain;
mod grants;
mod lint;
mod literals;
mod parts;
mod place;
mod request;
mod schema;
mod shape;
mod text;

pub use bounds::{HUMAN_PURPOSES, is_human, role_may};
pub use decide::{Decision, Why};
pub use diff::{COMBINATIONS_MAX, Change, Difference, Dimensions, TooMany, diff, differing};
pub use errors::{PolicyErrors, Problem};
pub use explain::{Explanation, Named, Near};
pub use grants::GrantsError;
pub use parts::Unmet;
pub use place::Place;
pub use request::{Action, NoAction, Request};
pub use schema::SCHEMA;
pub use shape::{POLICIES_MAX, TEXT_BYTES_MAX};
pub use text::{Policy, PolicyText};
