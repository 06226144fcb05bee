//! Bounds that apply holds. They are part of the format: changing one takes a new feature level.

/// Upload epochs for which request ids are kept and uploads may be finished.
pub const EPOCHS_KEPT: u64 = 24;
/// Sealed bytes that may ride in an entry. Clients choose a lower bound by measurement (16 KiB at first).
pub const INLINE_BYTES_MAX: usize = 64 << 10;
/// Bytes of one block.
pub const BLOCK_BYTES_MAX: u32 = 8 << 20;
/// Blocks of one stream, an object's only one or a part's: 64 GiB. Larger objects are finished part by part.
pub const BLOCKS_MAX: usize = 8192;

/// Parts of one object, and the highest number one may have.
pub const PARTS_MAX: u32 = 10_000;

/// Plaintext bytes of an object in parts: 5 TiB.
pub const OBJECT_BYTES_MAX: u64 = 5 << 40;

/// Bytes of what is sealed beside one part: checksums. All parts' of an object stay under 10 MiB.
pub const PART_METADATA_BYTES_MAX: usize = 1 << 10;
/// Bytes of a sealed manifest.
pub const MANIFEST_BYTES_MAX: usize = 512 << 10;
/// Bytes of sealed metadata: one 16 KiB chunk and its seal.
pub const METADATA_BYTES_MAX: usize = 17 << 10;
/// Bytes of an encoded lease token.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;
/// Encoded bytes of one command; under the 1 MiB of an entry.
pub const COMMAND_BYTES_MAX: usize = 1_000_000;
/// Receipts in one command: more members than a shard has while its membership changes.
pub const RECEIPTS_MAX: usize = 32;
/// Ranges of blocks in one receipt.
pub const RANGES_MAX: usize = 256;
/// Bytes of one setting of a dataset.
pub const CONFIG_BYTES_MAX: usize = 64 << 10;

/// Rules of one lifecycle.
pub const RULES_MAX: usize = 1000;

/// Tombstones kept in one dataset's change index.
pub const TOMBSTONES_MAX: u64 = 65_536;
/// Tombstones that nobody needs, dropped with each removal: more than it adds, so that their number shrinks.
pub const TOMBSTONE_STEPS: u32 = 2;
/// Milliseconds for which a fence may stop writes.
pub const FENCE_MS_MAX: u64 = 5_000;
/// The fewest that operators may leave a mover for it: less ends before anything is compared.
pub const FENCE_MS_MIN: u64 = 100;
/// The longest hold that operators may ask for: 30 days. Once it has begun nobody shortens it.
pub const HOLD_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;
/// Milliseconds for which one gateway may claim an arrival, before it claims it again.
pub const CLAIM_MS_MAX: u64 = 60_000;
/// Bytes of the identity of who claims an arrival.
pub const MOVER_BYTES_MAX: usize = 256;
/// Bytes of a mover's reason of its last failure.
pub const FAILURE_BYTES_MAX: usize = 64;
/// Units or request ids in one batch of imports.
pub const IMPORTS_MAX: usize = 1000;
/// Tokens, versions or parts in one batch of a restore.
pub const RESTORED_MAX: usize = 1000;
/// By how many epochs a restored dataset's request ids go on after those of the shard that was lost: more than a shard
/// makes in a hundred years.
pub const RESTORED_EPOCHS: u64 = 1_000_000;
/// Replicas of another group that are named in one command, and people who approve it.
pub const SIGNERS_MAX: usize = 32;
/// Records that are due and that each command removes besides its own work: more than a put adds, so that the
/// backlog shrinks under any load.
pub const SWEEP_STEPS: u32 = 8;
/// Records that one `Sweep` command removes at most.
pub const SWEEP_STEPS_MAX: u32 = 1024;

/// Entries in one listing page.
pub const PAGE_ENTRIES_MAX: usize = 1000;
/// Encoded bytes of one listing page, about; under gRPC's 4 MiB message.
pub const PAGE_BYTES_MAX: usize = 2 << 20;
/// Records one listing page may look at, delete markers among them.
pub const PAGE_SCANS_MAX: usize = 10_000;
/// Bytes of a listing's delimiter.
pub const DELIMITER_BYTES_MAX: usize = 1024;

/// Bytes of a digest, of a salt and of a holder.
pub const DIGEST_BYTES: usize = 32;
