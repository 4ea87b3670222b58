//! What the door is told at its start; `iotistica.settings` has the defaults and their reasons.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::addresses::AddressLimits;
use crate::cors::Origins;
use crate::forwarded::Network;
use crate::scan::HeadLimits;

#[derive(Clone, Debug)]
pub struct Config {
    /// The web processes.
    pub upstreams: Vec<SocketAddr>,
    /// Where they take an upgrade; where none is given, as everything else.
    pub sockets: Vec<SocketAddr>,
    /// Last levels of paths that are asked for there as well: their answers have no known end.
    pub streamed: Vec<String>,
    pub limits: Limits,
    pub times: Times,
    /// Proxies whose X-Forwarded fields are believed.
    pub trusted: Vec<Network>,
    pub origins: Origins,
    pub tls: Option<TlsFiles>,
    pub threads: usize,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub head: HeadLimits,
    pub fields: usize,
    /// A body, as it comes and inflated.
    pub body_bytes: usize,
    /// All bodies that are being received or handed on.
    pub bodies_bytes: usize,
    pub connections: usize,
    pub address: AddressLimits,
}

#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A head from its first byte to its last; also a TLS handshake.
    pub head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// Between two pieces of a body.
    pub body_idle: Duration,
    /// A whole body.
    pub body: Duration,
    /// A client that takes nothing of its answer; a web process that takes nothing of a request.
    pub write: Duration,
    /// A web process until the head of its answer.
    pub answer: Duration,
    /// Between two pieces of an answer, or of a WebSocket.
    pub stream_idle: Duration,
    /// For what is in flight when the door stops.
    pub stop: Duration,
}
