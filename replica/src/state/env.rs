//! What the RocksDB folders of a process share: cache, write memory, rate, threads.
//!
//! Owns every RocksDB option. The log before the state makes the engine's own WAL needless, so it is off, and a
//! flush takes all column families at once.

use std::path::Path;
use std::sync::Arc;

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType,
    LogLevel, Options, WriteBufferManager,
};
use rustix::fs::{Mode, OFlags};

use super::StateError;

/// Called once, from any thread, with the error that ended a store. The process must exit.
pub type OnFailed = Arc<dyn Fn(&Arc<StateError>) + Send + Sync>;

/// Limits for all stores of a process together, unless said otherwise.
#[derive(Clone)]
pub struct StateOptions {
    /// Bytes of the block cache; write memory is charged to it.
    pub cache_bytes: usize,
    /// Bytes of unflushed writes of all stores. Past it the engine flushes by itself.
    pub write_bytes: usize,
    /// Bytes a second that flushes and compactions may write.
    pub rate_bytes: u64,
    /// Values of at least this many bytes lie in blob files and are not rewritten by compaction.
    pub blob_bytes_min: u64,
    /// Told when a store fails.
    pub on_failed: Option<OnFailed>,
}

impl Default for StateOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            write_bytes: 48 << 20,
            rate_bytes: 256 << 20,
            blob_bytes_min: 1024,
            on_failed: None,
        }
    }
}

/// Shared by all RocksDB stores of a process. Clones share.
#[derive(Clone)]
pub struct StateEnv {
    options: StateOptions,
    cache: Cache,
    write_buffers: WriteBufferManager,
    /// Copies of it share the rate limiter.
    base: Options,
}

impl StateEnv {
    /// Prepares what is shared. Opens nothing.
    pub fn new(options: StateOptions) -> Self {
        let cache = Cache::new_lru_cache(options.cache_bytes);
        let write_buffers = WriteBufferManager::new_write_buffer_manager_with_cache(
            options.write_bytes,
            false,
            cache.clone(),
        );
        let mut base = Options::default();
        base.set_ratelimiter(
            i64::try_from(options.rate_bytes).unwrap_or(i64::MAX),
            RATE_REFILL_US,
            RATE_FAIRNESS,
        );
        base.set_write_buffer_manager(&write_buffers);
        base.set_atomic_flush(true);
        base.set_paranoid_checks(true);
        base.set_max_background_jobs(BACKGROUND_JOBS);
        base.set_max_open_files(OPEN_FILES_MAX);
        base.set_stats_dump_period_sec(0);
        base.set_log_level(LogLevel::Warn);
        base.set_keep_log_file_num(2);
        base.set_max_log_file_size(ENGINE_LOG_BYTES);
        base.set_bytes_per_sync(1 << 20);
        Self {
            options,
            cache,
            write_buffers,
            base,
        }
    }

    /// Bytes of unflushed writes of all stores.
    pub fn write_bytes(&self) -> usize {
        self.write_buffers.get_usage()
    }

    pub(super) fn on_failed(&self) -> Option<OnFailed> {
        self.options.on_failed.clone()
    }

    /// Options of a database in `dir`.
    pub(super) fn database(&self, dir: &Path, create: bool) -> Options {
        let mut options = self.base.clone();
        options.create_if_missing(create);
        options.create_missing_column_families(create);
        options.set_use_direct_io_for_flush_and_compaction(takes_direct_io(dir));
        options
    }

    /// Options of one column family.
    pub(super) fn family(&self, blobs: bool) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        // In parts of a block's size: whole, an index or a filter is larger than what the cache has left, and each
        // lookup reads it from the file again.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(METADATA_BLOCK_BYTES);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_top_level_index_and_filter(true);
        table.set_bloom_filter(BLOOM_BITS, false);
        table.set_format_version(TABLE_FORMAT);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_write_buffer_size(self.options.write_bytes / 3);
        // Values lie in blob files, so that what is left of a write buffer is a tenth of it. Levels in proportion: with
        // the engine's own base of 256 MiB every few of those would be merged into all there is.
        options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
        options.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
        options.set_max_bytes_for_level_multiplier(LEVEL_RATIO);
        options.set_target_file_size_base(TABLE_BYTES);
        options.set_target_file_size_multiplier(TABLE_RATIO);
        options.set_max_write_buffer_number(4);
        options.set_arena_block_size(ARENA_BYTES);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_enable_blob_files(blobs);
        if blobs {
            // Most keys that are looked up are new: what is not there is not searched for.
            options.set_memtable_prefix_bloom_ratio(MEMTABLE_BLOOM_RATIO);
            options.set_memtable_whole_key_filtering(true);
            options.set_min_blob_size(self.options.blob_bytes_min);
            options.set_blob_file_size(BLOB_FILE_BYTES);
            // Sealed content does not compress.
            options.set_blob_compression_type(DBCompressionType::None);
            // Collection moves what lives in the oldest quarter of the files with every compaction, however little
            // garbage there is: the store turns it on while there is enough.
            options.set_enable_blob_gc(false);
            options.set_blob_gc_age_cutoff(COLLECT_OLDEST);
            options.set_blob_gc_force_threshold(COLLECT_FORCED_AT);
        }
        options
    }

    pub(super) fn descriptors(&self) -> Vec<ColumnFamilyDescriptor> {
        vec![
            ColumnFamilyDescriptor::new(META, self.family(false)),
            ColumnFamilyDescriptor::new(STATE, self.family(true)),
            ColumnFamilyDescriptor::new(LOCAL, self.family(false)),
        ]
    }
}

/// Whether the file system of `dir` takes O_DIRECT.
fn takes_direct_io(dir: &Path) -> bool {
    let path = dir.join(PROBE);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
    // Left over, it is an empty file that nothing reads.
    let _ = std::fs::remove_file(&path);
    opened.is_ok()
}

/// The column family of the applied index.
pub(super) const META: &str = "default";
/// The column family of replicated keys.
pub(super) const STATE: &str = "state";
/// The column family of this replica's own keys.
pub(super) const LOCAL: &str = "local";

const PROBE: &str = "direct-io.probe";
const LEVEL_0_FILES: i32 = 6;
const LEVEL_BASE_BYTES: u64 = 16 << 20;
const LEVEL_RATIO: f64 = 8.0;
const TABLE_BYTES: u64 = 4 << 20;
/// From one level to the next, so that the number of files stays small.
const TABLE_RATIO: i32 = 2;
const RATE_REFILL_US: i64 = 100_000;
const RATE_FAIRNESS: i32 = 10;
const BACKGROUND_JOBS: i32 = 2;
const OPEN_FILES_MAX: i32 = 128;
const ENGINE_LOG_BYTES: usize = 1 << 20;
const BLOOM_BITS: f64 = 10.0;
/// Of a write buffer, for the filter of what is in it.
const MEMTABLE_BLOOM_RATIO: f64 = 0.01;
const METADATA_BLOCK_BYTES: usize = 4 << 10;
const TABLE_FORMAT: i32 = 5;
const ARENA_BYTES: usize = 64 << 10;
const BLOB_FILE_BYTES: u64 = 64 << 20;
/// Share of the blob files, oldest first, that a collection takes on.
const COLLECT_OLDEST: f64 = 0.25;
/// Garbage in them, as a share, at which a compaction is made for their sake.
const COLLECT_FORCED_AT: f64 = 0.5;
