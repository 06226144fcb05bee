//! Whole regions on one machine: CAs, keys, enrolments, configurations, processes.
//!
//! Owns what a region's operators would do by hand on several machines, and the folder it leaves behind
//! (`federation.json` names everything in it). Nothing that ships imports this crate: it holds every key of its
//! regions at once, which is exactly what a real region must not allow.

pub mod ceremony;
pub mod federation;
pub mod files;
pub mod launch;
mod loss;
pub mod place;
pub mod plan;
pub mod process;
pub mod s3;
pub mod search;

pub use federation::{Federation, Kind, RegionEntry, Service};
pub use launch::{Local, ServiceStatus};
pub use plan::{FederationPlan, RegionPlan};
