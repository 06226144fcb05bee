//! Where key bytes lie, and where they do not: with keys that can be searched for.

#![cfg(feature = "danger_scannable_keys")]

#[path = "../kms_region/common/mod.rs"]
mod common;
mod memory;
mod no_key_bytes;
