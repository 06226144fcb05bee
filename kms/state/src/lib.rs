//! The KMS of a region as a pure state machine: keys, leases, authority, records, transparency log.
//!
//! Owns what a committed command does to replicated state, the verdict of policy, and the leaf of every event.
//! Refuses: clocks, randomness, files and key bytes; wrapped keys pass through it unread. The same log gives the
//! same state on every replica, and a refused command changes nothing.
//!
//! **Invariant:** no key material is released by this crate, and nothing that a driver releases is without a
//! leaf: [`apply`] answers with the leaf's index, and an answer without one is a refusal.

mod access_keys;
mod append;
mod apply;
mod approvals;
mod authority;
mod backup;
mod changing;
mod custody;
mod destroy;
mod erase;
mod hand_over;
mod impact;
pub mod invariant;
mod kek_rows;
mod keys;
mod labels;
pub mod layout;
mod members;
mod policy;
pub mod prepare;
mod read;
mod records;
mod refusal;
mod regions;
pub mod relocation;
mod requests;
mod restore;
mod restores;
mod rotation;
mod time;
mod witnesses;

pub use access_keys::{
    ACCESS_GIVEN_MS_MAX, ACCESS_KEYS_MAX, access_key, access_key_id, access_keys, access_secret,
    secrets_not_rewrapped,
};
pub use apply::{
    At, LEVEL_ACCESS_KEYS, LEVEL_CUSTODY, LEVEL_DATASET_RESTORES, LEVEL_DESTRUCTION, LEVEL_ERASE,
    LEVEL_KEPT_OPENINGS, LEVEL_LABELS, LEVEL_MAX, LEVEL_POLICY, LEVEL_QUEUE_HEADS, LEVEL_REGIONS,
    LEVEL_RELOCATION, LEVEL_RESEAL, LEVEL_RESTORE, LEVEL_ROTATION, LEVEL_SEALS,
    LEVEL_SHARED_LEAVES, LEVEL_WITNESSES, UnknownCommand, apply,
};
pub use approvals::APPROVALS_MAX;
pub use authority::{
    Authority, Denied, ENROLMENTS_MAX, GRANTS_MAX, Question, Verdict, is_human_purpose, may,
};
pub use custody::retire::retirable;
pub use custody::rewrap::{REWRAP_MAX, not_rewrapped};
pub use custody::token::{TOKEN_SEALS_MAX, token_seal, token_seals};
pub use custody::{CUSTODIANS_MAX, custody, custody_version, recoverable_under, set_id};
pub use erase::{EraseDue, erase_due, erased_through, not_erased, not_erased_at_all};
pub use hand_over::{
    HAND_OVER_KEY_BYTES, RELOCATION, hand_over_grant, hand_over_grants, hand_over_key,
    hand_over_keys, hand_over_keys_not_rewrapped, hand_over_private,
};
pub use impact::{last_use, live_leases};
pub use kek_rows::{WRAPPED_ROW_BYTES_MAX, wrapped_ranges};
pub use keys::{DESTRUCTION_DAYS, KEK_VERSIONS_MAX, WRAPPED_BYTES};
pub use labels::{
    ALIAS_BYTES_MAX, ALIASES_MAX, TAG_NAME_BYTES_MAX, TAG_VALUE_BYTES_MAX, TAGS_MAX, by_alias,
    is_alias, is_tag,
};
pub use members::CHANGES_MAX;
pub use policy::TEXT_BYTES_MAX;
pub use read::{
    LeavesAsked, StateHashes, TreeHead, authority_set, authority_version, boot, frontier, key,
    key_info, keys, latest_lease_expiry, lease, leaves, member, pseudonym_owner, region,
    region_time, tree_head, witness_policy,
};
pub use records::{
    CLAIM_TEXT_MAX, LEASE_MS_MAX, OPEN_ITEMS_MAX, RECORDS_MAX, RESEAL, USABLE_MS, living_metadata,
};
pub use refusal::Refusal;
pub use regions::{
    KnownRegion, REGIONS_MAX, known_region, known_regions, own_region, region_fingerprint,
    trusted_region,
};
pub use requests::CHANGE_REMEMBERED_MS;
pub use restore::{AUTHORITY_STEP, next_origin, restoring};
pub use restores::{RESTORE_DATASETS_MAX, approved_restore};
pub use rotation::{
    ROTATION_AGE_MS, ROTATION_USES, RotationDue, metadata_below, metadata_under, oldest_living,
    rotation_due,
};
pub use time::{IDLE_JUMP_MS_MAX, JUMP_MS_MAX};
pub use witnesses::{POLICY_TEXT_MAX, UNWITNESSED_MS, WitnessRule, is_own_name};
