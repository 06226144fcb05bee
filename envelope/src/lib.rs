//! Where key bytes live: the key types, what they seal and open, and the formats of both.
//!
//! Owns the hierarchy of DESIGN section 5 (root key, KEK, lease key, DEK, Cobblestone-256 stream),
//! wrapping, sessions that carry keys between processes, custodians' shares, and the locked memory
//! under all of it. Synchronous and pure: no clock, no socket, no file. Randomness comes from
//! `aws-lc-rs` alone, except inside HPKE encapsulation, where the `hpke` crate asks the operating
//! system.
//!
//! **Invariant:** no public function gives out the bytes of a root key, KEK, lease key, metadata
//! key or DEK. What leaves does so wrapped, sealed to a session or to an HPKE key, or split into
//! shares. The one exception by purpose is [`HpkePrivateKey::to_seed`], which a custodian's or a
//! process's own key file needs.
//!
//! A key type has exactly the operations its holder may do, and misuse does not compile:
//!
//! ```compile_fail
//! // A lease key as a gateway holds it seals; it cannot derive a key that opens.
//! fn opens(lease: &envelope::SealingLease, s: &envelope::DekSalt, c: &envelope::ObjectContext) {
//!     let _ = lease.open_dek(s, c);
//! }
//! ```
//! ```compile_fail
//! // What a lease derives cannot open either.
//! fn opens(dek: &envelope::SealDek, header: &envelope::StreamHeader) {
//!     let _ = dek.opener(envelope::PartNumber::FIRST, header);
//! }
//! ```
//! ```compile_fail
//! // A key released for reading cannot seal.
//! fn seals(dek: &envelope::OpenDek) {
//!     let _ = dek.sealer(envelope::PartNumber::FIRST);
//! }
//! ```
//! ```compile_fail
//! // A metadata lease opens metadata and derives no data key.
//! fn derives(lease: &envelope::MetadataLease, s: &envelope::DekSalt, c: &envelope::ObjectContext) {
//!     let _ = lease.seal_dek(s, c);
//! }
//! ```
//! ```compile_fail
//! // Keys are not copied, ...
//! fn copies(kek: &envelope::Kek) -> envelope::Kek {
//!     kek.clone()
//! }
//! ```
//! ```compile_fail
//! // ... an access key's secret no more than others, ...
//! fn copies(secret: &envelope::AccessSecret) -> envelope::AccessSecret {
//!     secret.clone()
//! }
//! ```
//! ```compile_fail
//! // ... printed, ...
//! fn prints(root: &envelope::RootKey) -> String {
//!     format!("{root:?}")
//! }
//! ```
//! ```compile_fail
//! // ... compared with a variable-time `==`, ...
//! fn compares(a: &envelope::OpenDek, b: &envelope::OpenDek) -> bool {
//!     a == b
//! }
//! ```
//! ```compile_fail
//! // A log key signs and tells nothing of itself.
//! fn reads(key: &envelope::LogKey) -> &[u8] {
//!     key.seed()
//! }
//! ```
//! ```compile_fail
//! // Half of what opens a root key opens nothing, and is not read out either.
//! fn reads(half: &envelope::PersonHalf) -> &[u8; 32] {
//!     half.bytes()
//! }
//! ```
//! ```compile_fail
//! // ... or sent across a session as what they are not: a KEK has no way out.
//! fn exports(session: &envelope::SessionSender, kek: &envelope::Kek) {
//!     let _ = session.send_lease(kek, b"");
//! }
//! ```
//! ```compile_fail
//! // No lease key crosses to another region: what is handed over opens one object version.
//! fn exports(batch: &envelope::HandOverSender, lease: &envelope::LeaseKey) {
//!     let _ = batch.send(lease, b"");
//! }
//! ```

#[cfg(all(feature = "danger_scannable_keys", not(debug_assertions)))]
compile_error!(
    "danger_scannable_keys leaves keys in scannable memory: it is refused in release builds"
);

// Not called here; named so that its `zeroize` feature, which `hpke` does not turn on, stays in the
// graph.
use aes_gcm as _;

mod access_secret;
mod backup;
#[cfg(feature = "bench")]
pub mod bench;
mod cobblestone;
mod context;
mod encode;
#[cfg(feature = "danger_scannable_keys")]
pub mod fingerprints;
mod hand_over;
mod hpke_key;
mod kdf;
mod keys;
mod locked;
mod log_key;
mod manifest;
mod metadata;
mod session;
mod shamir;
mod token_seal;
mod wrap;

pub use access_secret::{ACCESS_SECRET_CHARS, AccessSecret};
pub use cobblestone::{
    CHUNK_BYTES, CHUNKS_MAX, COMMITMENT_BYTES, ChunkSpan, Commitment, HEADER_BYTES, OpenError,
    Opener, PLAIN_BYTES_MAX, RangeError, RangeOpener, SEALED_CHUNK_BYTES, STREAM_SALT_BYTES,
    SealError, Sealer, StreamHeader, StreamSalt, TAG_BYTES, chunk_span, plain_len, sealed_len,
};
pub use context::{
    DekSalt, MetadataContext, NameCommitment, NameSalt, ObjectContext, PartNumber, Suite,
};
pub use hand_over::{HandOverKey, HandOverReceiver, HandOverSender, hand_over};
pub use hpke_key::{
    HPKE_OVERHEAD_BYTES, HpkeError, HpkeInfo, HpkePrivateKey, HpkePublicKey, hpke_open, hpke_seal,
};
pub use keys::{
    Kek, LeaseKey, MetadataKey, MetadataLease, OpenDek, OpenMetadata, PROOF_BYTES, RootKey,
    SealDek, SealingLease,
};
pub use locked::{KEY_SLOTS_MAX, KeyError, KeyMemory, MemoryMode, key_memory};
pub use log_key::{LOG_PUBLIC_KEY_BYTES, LOG_SIGNATURE_BYTES, LogKey};
pub use manifest::{Checksum, Manifest, ManifestError, ManifestPart, PARTS_MAX, PartRange};
pub use metadata::{METADATA_BYTES_MAX, SealedMetadata};
pub use session::{
    Encapsulated, OfferPublic, SEALED_KEY_BYTES, SealedKey, SessionError, SessionInfo,
    SessionOffer, SessionReceiver, SessionSender, establish,
};
pub use shamir::{RootCheck, SetId, Share, ShareError, ShareSet, combine};
pub use token_seal::{
    HALF_BYTES, PersonHalf, SealedRoot, TokenHalf, TokenSealError, TokenSealId, token_challenge,
};
pub use wrap::{KeyType, UnwrapError, WrapHeader, Wrapped, WrappedError};
