//! Independent witness and monitor of a region's transparency log, for another organisation to review and run.
//!
//! Owns two things that share a process and nothing else: the **witness**, which cosigns a checkpoint only when it
//! extends what it cosigned before (C2SP tlog-witness), and the **monitor**, which follows the log by its checkpoints and
//! tiles, hashes everything again, reads the entries and alarms. Refuses customer data: leaves show pseudonyms and
//! commitments, and nothing here asks for what is behind them.
//!
//! **Invariant:** no cosignature leaves before what it is of is on the disk; what was verified once is never taken back;
//! what cannot be told to a person is not passed over.

mod alarm;
mod config;
mod cosigned;
mod daemon;
mod durable;
mod http;
mod keys;
mod monitor;
mod status;
mod submit;

pub use alarm::{Alarm, Alarms, EVIDENCE_MAX, Evidence, RECENT_MAX, Rule, Weight};
pub use config::{
    CONFIG_EXAMPLE, Config, ConfigError, EntriesConfig, Hours, HoursError, KEYS_MAX, LOGS_MAX,
    LogConfig, LogFormat, LogUrl, MonitorConfig, Prefix, Rate, Rules,
};
pub use cosigned::{CosignError, CosignedLog, StateError};
pub use daemon::{StartError, Witness};
pub use http::{CONNECTIONS_MAX, HEAD_TIMEOUT};
pub use keys::{Algorithm, KeyFileError, generate, load};
pub use monitor::{
    DATASETS_MAX, Finding, Follower, MonitorError, PURPOSES_MAX, PositionError, Reader,
    parse_position,
};
pub use status::{FetchStatusError, LogStatus, MonitorStatus, Status, fetch as fetch_status};
pub use submit::{BODY_TIMEOUT, REQUESTS_MAX};
