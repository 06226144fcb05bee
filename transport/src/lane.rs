//! What a channel is for, and its HTTP/2 settings: one connection never carries two kinds of traffic.
//!
//! Owns window and frame sizes, keep-alive and connect time-outs of both ends. A snapshot on the connection of
//! the heartbeats would cost an election; hence separate lanes, and a connection window larger than a stream's.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
/// HTTP/2 pings: a peer that vanished without a reset is noticed within interval + time-out.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Streams one connection may have open at a server.
pub const STREAMS_MAX: u32 = 1024;
/// Bytes of one stream that a server has not read yet.
pub const SERVER_STREAM_WINDOW: u32 = 512 * KIB;
/// The same of a whole connection: at least as much as all streams may have that a server makes wait, or those that wait
/// keep the others' bytes from coming, for which they wait.
pub const SERVER_CONNECTION_WINDOW: u32 = 128 * MIB;

/// The kinds of traffic that get connections of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Heartbeats and votes: small, and late is lost.
    Heartbeat,
    /// The stream of log entries.
    Append,
    /// Snapshots: bulk, may wait.
    Snapshot,
    /// Blocks and object bodies: bulk, several channels.
    Data,
    /// Everything else.
    Control,
}

struct Settings {
    stream_window: u32,
    connection_window: u32,
    frame: u32,
    connect_timeout: Duration,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Self; 5] = [
        Self::Heartbeat,
        Self::Append,
        Self::Snapshot,
        Self::Data,
        Self::Control,
    ];

    fn settings(self) -> Settings {
        let settings = |stream_window, connection_window, frame, connect_ms| Settings {
            stream_window,
            connection_window,
            frame,
            connect_timeout: Duration::from_millis(connect_ms),
        };
        match self {
            Self::Heartbeat => settings(64 * KIB, 256 * KIB, 16 * KIB, 1_000),
            Self::Append => settings(8 * MIB, 32 * MIB, 256 * KIB, 2_000),
            Self::Snapshot => settings(8 * MIB, 16 * MIB, 256 * KIB, 5_000),
            Self::Data => settings(8 * MIB, 32 * MIB, 256 * KIB, 5_000),
            Self::Control => settings(MIB, 4 * MIB, 64 * KIB, 5_000),
        }
    }

    /// How long a connection of this lane may take to be made, TLS included.
    pub fn connect_timeout(self) -> Duration {
        self.settings().connect_timeout
    }

    pub(crate) fn apply(self, endpoint: Endpoint) -> Endpoint {
        let settings = self.settings();
        endpoint
            .initial_stream_window_size(settings.stream_window)
            .initial_connection_window_size(settings.connection_window)
            .max_frame_size(settings.frame)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_timeout(settings.connect_timeout)
    }
}

/// A tonic server with the windows that bulk lanes need; it cannot know which lane a connection is. Calls that come with
/// a trace are part of it.
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(SERVER_STREAM_WINDOW)
        .initial_connection_window_size(SERVER_CONNECTION_WINDOW)
        .max_frame_size(256 * KIB)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .trace_fn(crate::spans::of_call)
}
