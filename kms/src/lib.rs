//! The KMS of a region: where keys are born, wrapped, leased and released, each release on record first.
//!
//! Owns custody of the root key, policy decisions on key use, the order of the region's transparency log, and the
//! region's enrolments. Refuses everything while sealed, and everything that no grant allows.
//!
//! **Invariant:** no key bytes leave this process but wrapped under a parent key or sealed to an enrolled receiver's
//! session, and none does before its record is committed and applied (promise P3): a release consumes a
//! `Recorded`, which only the ledger makes.

mod access_keys;
pub mod approvals;
mod attest;
mod authority;
mod backup;
mod ceremony;
mod checkpoints;
mod config;
mod confirm;
mod core;
mod cosigner;
mod custody;
mod destruction;
mod erase;
mod fault;
mod federation;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod hand_over;
mod health;
mod impact;
mod kek_rotation;
mod keys;
mod labels;
mod leases;
mod ledger;
mod log;
mod log_http;
mod log_port;
mod machine;
mod membership;
mod opens;
mod peer_unseal;
mod peers;
mod policy;
mod publish;
mod regions;
mod reshare;
mod restore;
mod rotation;
mod seal;
mod server;
mod service;
mod sessions;
mod slots;
mod token;
mod token_seals;
mod unseal;
mod warrants;
mod witness_client;
mod word_of_shard;

pub use config::{
    Config, ConfigError, EXAMPLE as CONFIG_EXAMPLE, LEASE_SECONDS_MAX, LogFormat, PinSource,
    Pkcs11Config, SealConfig,
};
pub use cosigner::CosignerError;
pub use opens::OPEN_ITEMS_MAX;
pub use server::{Failure, Parts, Replica, StartError};

/// Random bytes from the operating system's generator.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("AWS-LC aborts rather than fail to be random");
    bytes
}
