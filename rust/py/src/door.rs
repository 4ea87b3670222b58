//! The front door, as one call that lasts as long as it runs.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::FromRawFd;
use std::path::PathBuf;
use std::time::Duration;

use iotistica_door::addresses::AddressLimits;
use iotistica_door::cors::Origins;
use iotistica_door::scan::HeadLimits;
use iotistica_door::{Config, Limits, Listeners, Times, TlsFiles};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// The attributes of `iotistica.api.door.DoorConfig`.
#[derive(FromPyObject)]
pub struct DoorConfig {
    service_fd: i32,
    operations_fd: i32,
    upstreams: Vec<String>,
    sockets: Vec<String>,
    streamed: Vec<String>,
    process: String,
    log_level: String,
    threads: usize,
    trusted_proxies: Vec<String>,
    cors_origins: Vec<String>,
    tls_certificate_file: Option<PathBuf>,
    tls_key_file: Option<PathBuf>,
    head_bytes: usize,
    target_bytes: usize,
    head_fields: usize,
    body_bytes: usize,
    bodies_bytes: usize,
    connections: usize,
    address_connections: usize,
    address_rate_per_s: f64,
    address_burst: f64,
    head_s: f64,
    idle_s: f64,
    body_idle_s: f64,
    body_s: f64,
    write_s: f64,
    answer_s: f64,
    stream_idle_s: f64,
    stop_grace_s: f64,
}

/// Serve until SIGTERM or SIGINT; SIGHUP reads the certificate again.
#[pyfunction]
pub fn serve_door(py: Python<'_>, config: DoorConfig) -> PyResult<()> {
    let context = [("service", "api"), ("process", config.process.as_str())];
    iotistica_events::configure(&config.log_level, &context);
    let listeners = Listeners {
        service: listener(config.service_fd),
        operations: listener(config.operations_fd),
    };
    let config = door_config(config).map_err(PyValueError::new_err)?;
    py.detach(|| iotistica_door::serve(config, listeners)).map_err(PyOSError::new_err)
}

fn listener(descriptor: i32) -> TcpListener {
    // SAFETY: the caller gives the descriptor away (`socket.detach`), so nobody else closes it.
    unsafe { TcpListener::from_raw_fd(descriptor) }
}

fn door_config(config: DoorConfig) -> Result<Config, String> {
    let address = |text: &String| -> Result<SocketAddr, String> {
        text.parse().map_err(|_| format!("{text:?} is not an address with a port"))
    };
    let trusted: Result<Vec<_>, String> =
        config.trusted_proxies.iter().map(|text| text.parse()).collect();
    let tls = match (config.tls_certificate_file, config.tls_key_file) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
        _ => None,
    };
    let seconds = Duration::from_secs_f64;
    Ok(Config {
        upstreams: config.upstreams.iter().map(address).collect::<Result<_, _>>()?,
        sockets: config.sockets.iter().map(address).collect::<Result<_, _>>()?,
        streamed: config.streamed,
        limits: Limits {
            head: HeadLimits { line_bytes: config.target_bytes, head_bytes: config.head_bytes },
            fields: config.head_fields,
            body_bytes: config.body_bytes,
            bodies_bytes: config.bodies_bytes,
            connections: config.connections,
            address: AddressLimits {
                connections: config.address_connections,
                rate_per_s: config.address_rate_per_s,
                burst: config.address_burst,
            },
        },
        times: Times {
            head: seconds(config.head_s),
            idle: seconds(config.idle_s),
            body_idle: seconds(config.body_idle_s),
            body: seconds(config.body_s),
            write: seconds(config.write_s),
            answer: seconds(config.answer_s),
            stream_idle: seconds(config.stream_idle_s),
            stop: seconds(config.stop_grace_s),
        },
        trusted: trusted?,
        origins: Origins::parse(&config.cors_origins),
        tls,
        threads: config.threads,
    })
}
