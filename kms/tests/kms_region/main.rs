//! What a region's KMS promises, with all its replicas in one process. One program, so that it is linked once.

mod access_keys;
mod approved_opens;
mod attest;
mod ceremony;
mod certify;
mod common;
mod custody;
mod dataset_restore;
mod destruction;
mod drill;
mod hand_over;
mod log;
mod membership;
mod policy;
mod promises;
mod refused;
mod region;
mod restore;
mod rotation;
mod token;
mod witnesses;
