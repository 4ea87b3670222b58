//! What a broker is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const MIB: usize = 1024 * 1024;

/// Where the broker listens and keeps its files.
#[derive(Clone, Debug)]
pub struct Config {
    pub address: SocketAddr,
    pub data_dir: PathBuf,
    /// In the format of `mosquitto_passwd`.
    pub password_file: PathBuf,
    /// In the format of mosquitto's `acl_file`.
    pub acl_file: PathBuf,
    pub limits: Limits,
}

/// Bounds on what clients may use.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_connections: usize,
    /// Largest packet taken; announced in CONNACK, tested on the fixed header.
    pub max_packet_bytes: u32,
    /// QoS 1 messages that one client may have unacknowledged; announced in CONNACK.
    pub receive_maximum: u16,
    /// Messages waiting for one session; above it its publishers wait.
    pub max_queued_messages: usize,
    /// Bytes waiting for one session; above it its publishers wait.
    pub max_queued_bytes: usize,
    /// Bytes waiting for all sessions together; above it every publisher waits.
    pub max_total_queued_bytes: usize,
    pub max_retained_messages: usize,
    pub max_retained_bytes: usize,
    pub max_sessions: usize,
    pub max_subscriptions_per_session: usize,
    /// Longest time that a session is kept for an absent client, seconds.
    pub max_session_expiry_s: u32,
    /// The log is rewritten when it is twice as long as after the last time, and over this.
    pub compact_bytes: u64,
    /// A connection that has not sent its CONNECT by then is closed.
    pub connect_timeout: Duration,
    /// `$SYS` topics are published this often.
    pub statistics_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_packet_bytes: 2 * MIB as u32,
            receive_maximum: 256,
            max_queued_messages: 100_000,
            max_queued_bytes: 64 * MIB,
            max_total_queued_bytes: 256 * MIB,
            max_retained_messages: 100_000,
            max_retained_bytes: 64 * MIB,
            max_sessions: 100_000,
            max_subscriptions_per_session: 1000,
            max_session_expiry_s: 7 * 86_400,
            compact_bytes: 64 * MIB as u64,
            connect_timeout: Duration::from_secs(10),
            statistics_interval: Duration::from_secs(10),
        }
    }
}
