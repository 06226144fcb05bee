//! How a host is set up, and every bound and time-out of it.
//!
//! Owns the defaults: chosen for two shared cores, where a sync may take 60 ms. Refuses combinations the engine
//! would misbehave with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config as EngineConfig, SnapshotPolicy};
use proto::ids::{Identity, Jurisdiction, NodeId};

use crate::disk::Disk;
use crate::log::LogOptions;
use crate::net::link::Dialer;
use crate::state::StateOptions;

/// Bytes an entry's payload may have, the two bytes of its prefix included.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Groups a process may have.
pub const GROUPS_MAX: usize = 32;

/// How this process comes to be the member it says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The folder must be this member's already. An empty one is refused: its log would vote with no memory.
    Resume,
    /// An empty folder becomes that of a founder, before any group has members. One that is this member's already
    /// is resumed.
    Found,
    /// An empty folder becomes that of a new member under an id that never was one. One that is this member's
    /// already is resumed.
    Join,
}

/// What a host is opened with.
pub struct HostOptions {
    /// The member's id.
    pub node_id: NodeId,
    /// Who it is: region and role are those of its peers.
    pub identity: Identity,
    /// The region's jurisdiction.
    pub jurisdiction: Jurisdiction,
    /// 16 bytes made when the region was founded, the same for all members.
    pub cluster: [u8; 16],
    /// How it is let in.
    pub admission: Admission,
    /// The member's folder: identity file, log, states and snapshots.
    pub dir: PathBuf,
    /// The disk the log is on. States and snapshots use the file system at `dir`.
    pub disk: Arc<dyn Disk>,
    /// How peers are reached.
    pub dialer: Arc<dyn Dialer>,
    /// How the log is kept.
    pub log: LogOptions,
    /// How states are kept.
    pub state: StateOptions,
    /// Time-outs and bounds.
    pub tuning: Tuning,
}

/// Time-outs and bounds of every group of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Shortest election time-out.
    pub election_min: Duration,
    /// Longest election time-out, and the leader lease.
    pub election_max: Duration,
    /// How long a peer may take to answer anything, a sync of its disk included.
    pub response_max: Duration,
    /// How long followers are not told of a commit, so that it goes with the next entries: a read there may wait so long.
    pub commit_wait: Duration,
    /// How long a broken connection to a peer may stay broken before the peer counts as lost.
    pub lost_after: Duration,
    /// Between the first campaigns of two members that lost their leader at once.
    pub campaign_step: Duration,
    /// Campaigns after one loss; then the election time-out decides.
    pub campaigns_max: u32,
    /// Proposals in flight in one group; further ones are refused as overload.
    pub proposals_max: usize,
    /// Bytes of proposals in flight in one group.
    pub proposal_bytes_max: usize,
    /// How long a proposal waits for a leader that has no lease yet.
    pub lease_wait: Duration,
    /// How long a proposal waits for its answer; then its outcome is unknown.
    pub propose_wait: Duration,
    /// Reads waiting in one group; further ones are refused as overload.
    pub reads_max: usize,
    /// How long a read waits for the majority's word, and then for the state.
    pub read_wait: Duration,
    /// Unflushed bytes at which a state store is flushed.
    pub flush_bytes: u64,
    /// Age at which unflushed writes are flushed.
    pub flush_every: Duration,
    /// Applied entries kept in the log.
    pub keep_entries: u64,
    /// Applied payload bytes kept in the log.
    pub keep_bytes: u64,
    /// Log bytes of one group beyond which applied entries go, whatever is to be kept.
    pub log_bytes_max: u64,
    /// Rate of all snapshots this process sends.
    pub snapshot_bytes_per_second: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1500),
            election_max: Duration::from_millis(3000),
            response_max: Duration::from_secs(2),
            commit_wait: Duration::from_millis(1),
            lost_after: Duration::from_millis(100),
            campaign_step: Duration::from_millis(120),
            campaigns_max: 12,
            proposals_max: 8192,
            proposal_bytes_max: 64 << 20,
            lease_wait: Duration::from_secs(2),
            propose_wait: Duration::from_secs(15),
            reads_max: 65_536,
            read_wait: Duration::from_secs(3),
            flush_bytes: 16 << 20,
            flush_every: Duration::from_secs(15),
            keep_entries: 100_000,
            keep_bytes: 64 << 20,
            log_bytes_max: 2 << 30,
            snapshot_bytes_per_second: 64 << 20,
        }
    }
}

/// A tuning the engine would misbehave with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("raft tuning is out of range: {0}")]
pub struct BadTuning(String);

impl Tuning {
    /// The engine's configuration.
    pub(crate) fn engine(&self) -> Result<EngineConfig, BadTuning> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let config = EngineConfig {
            cluster_name: "reduit".to_owned(),
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            // Answers to appends prove the same as answers to heartbeats, and there are plenty under load.
            heartbeat_min_interval: Some(ms(self.heartbeat)),
            enable_pre_vote: Some(true),
            quorum_loss_probe_interval: Some(2 * ms(self.election_max)),
            // A leader that was restarted cannot know what its peers decided meanwhile.
            enable_leader_restore: Some(false),
            // A log that went back is lost data, never a thing to paper over.
            allow_log_reversion: None,
            snapshot_policy: SnapshotPolicy::Never,
            // The host purges by itself, by entries and bytes and below what is flushed.
            max_in_snapshot_log_to_keep: u64::MAX,
            install_snapshot_timeout: 600_000,
            max_payload_entries: 4096,
            max_append_entries: Some(4096),
            api_channel_size: Some(16_384),
            notification_channel_size: Some(16_384),
            state_machine_channel_size: Some(1024),
            // Followers sync while the leader does.
            broadcast_submitted_on_append: Some(true),
            ..EngineConfig::default()
        };
        config.validate().map_err(|e| BadTuning(e.to_string()))
    }
}
