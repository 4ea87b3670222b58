//! What the broker counts, under the `$SYS` topics that mosquitto uses.

use std::time::Instant;

/// Counters since the start.
#[derive(Debug)]
pub struct Statistics {
    pub started: Instant,
    pub packets_received: u64,
    pub packets_sent: u64,
    pub publishes_received: u64,
    pub publishes_sent: u64,
    /// Messages that somebody subscribed to and will never get.
    pub publishes_dropped: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub connected: usize,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            packets_received: 0,
            packets_sent: 0,
            publishes_received: 0,
            publishes_sent: 0,
            publishes_dropped: 0,
            bytes_received: 0,
            bytes_sent: 0,
            connected: 0,
        }
    }
}

/// What is measured rather than counted.
#[derive(Clone, Copy, Debug)]
pub struct Gauges {
    pub sessions: usize,
    pub subscriptions: usize,
    pub retained: usize,
    pub stored_messages: usize,
    pub stored_bytes: usize,
}

impl Statistics {
    /// Topic and payload of every figure.
    pub fn topics(&self, gauges: Gauges) -> Vec<(&'static str, String)> {
        let uptime = format!("{} seconds", self.started.elapsed().as_secs());
        vec![
            ("$SYS/broker/version", concat!("iotistica broker ", env!("CARGO_PKG_VERSION")).into()),
            ("$SYS/broker/uptime", uptime),
            ("$SYS/broker/clients/connected", self.connected.to_string()),
            ("$SYS/broker/clients/total", gauges.sessions.to_string()),
            ("$SYS/broker/messages/received", self.packets_received.to_string()),
            ("$SYS/broker/messages/sent", self.packets_sent.to_string()),
            ("$SYS/broker/publish/messages/received", self.publishes_received.to_string()),
            ("$SYS/broker/publish/messages/sent", self.publishes_sent.to_string()),
            ("$SYS/broker/publish/messages/dropped", self.publishes_dropped.to_string()),
            ("$SYS/broker/bytes/received", self.bytes_received.to_string()),
            ("$SYS/broker/bytes/sent", self.bytes_sent.to_string()),
            ("$SYS/broker/subscriptions/count", gauges.subscriptions.to_string()),
            ("$SYS/broker/retained messages/count", gauges.retained.to_string()),
            ("$SYS/broker/store/messages/count", gauges.stored_messages.to_string()),
            ("$SYS/broker/store/messages/bytes", gauges.stored_bytes.to_string()),
        ]
    }
}
