//! The MQTT broker, as one call that lasts as long as it runs.

use std::net::IpAddr;
use std::path::PathBuf;

use iotistica_broker::{Config, Limits};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// The attributes of `iotistica.embedded.builtin_broker.BrokerConfig`.
#[derive(FromPyObject)]
pub struct BrokerConfig {
    address: IpAddr,
    port: u16,
    data_dir: PathBuf,
    password_file: PathBuf,
    acl_file: PathBuf,
    log_level: String,
    max_connections: usize,
    max_packet_bytes: u32,
    receive_maximum: u16,
    max_queued_messages: usize,
    max_queued_bytes: usize,
    max_total_queued_bytes: usize,
    max_session_expiry_s: u32,
    compact_bytes: u64,
}

/// Serve until SIGTERM or SIGINT; SIGHUP reloads the credentials.
#[pyfunction]
pub fn serve_broker(py: Python<'_>, config: BrokerConfig) -> PyResult<()> {
    iotistica_events::configure(&config.log_level, &[("process", "broker")]);
    let limits = Limits {
        max_connections: config.max_connections,
        max_packet_bytes: config.max_packet_bytes,
        receive_maximum: config.receive_maximum,
        max_queued_messages: config.max_queued_messages,
        max_queued_bytes: config.max_queued_bytes,
        max_total_queued_bytes: config.max_total_queued_bytes,
        max_session_expiry_s: config.max_session_expiry_s,
        compact_bytes: config.compact_bytes,
        ..Limits::default()
    };
    let config = Config {
        address: (config.address, config.port).into(),
        data_dir: config.data_dir,
        password_file: config.password_file,
        acl_file: config.acl_file,
        limits,
    };
    py.detach(|| iotistica_broker::serve(&config)).map_err(PyOSError::new_err)
}
