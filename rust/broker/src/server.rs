//! The broker as a process: listen, keep time, obey signals, stop in order.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use mqtt_proto::v5::DisconnectReasonCode;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::broker::Broker;
use crate::config::Config;
use crate::connection::{self, Shared};
use crate::credentials::Credentials;
use crate::journal::{Journal, Written};
use crate::record;

/// Password checks run on this many threads; more would only take the cores from the messages.
const CHECKERS: usize = 2;
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// Serve until SIGTERM or SIGINT. The error is one sentence, fit for a person.
pub fn serve(config: &Config) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(CHECKERS)
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    LocalSet::new().block_on(&runtime, run(config))
}

async fn run(config: &Config) -> Result<(), String> {
    // Before the port answers: who sees that may send one, and unhandled it would end the process.
    let signal = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
    let mut stops = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let reloads = signal(SignalKind::hangup())?;
    let credentials = Credentials::load(config)?;
    // The port first: it keeps a second broker out of the data directory of the first.
    let listener = TcpListener::bind(config.address)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", config.address))?;
    let address = listener.local_addr().unwrap_or(config.address);
    let _lock = lock(config)?;
    let (broker, written) = restore(config, credentials).map_err(|error| {
        format!("cannot keep messages in {}: {error}", config.data_dir.display())
    })?;
    let broker = Rc::new(RefCell::new(broker));
    let writer = tokio::task::spawn_local(follow_journal(broker.clone(), written));
    tokio::task::spawn_local(reload(broker.clone(), config.clone(), reloads));
    tokio::task::spawn_local(keep_time(broker.clone()));
    let connections = Rc::new(Cell::new(0));
    let accepting = tokio::task::spawn_local(accept(listener, broker.clone(), connections.clone()));
    ready(address, &broker);
    let [terminate, interrupt] = &mut stops;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    accepting.abort();
    stop(&broker, &connections).await;
    writer.abort();
    broker.borrow_mut().journal.close();
    ::log::info!("broker stopped");
    Ok(())
}

fn ready(address: SocketAddr, broker: &Shared) {
    let broker = broker.borrow();
    ::log::info!(address:display = address, port = address.port(), sessions = broker.session_count(), messages = broker.message_count(); "broker ready");
}

/// Hold the data directory against a second broker on another port.
fn lock(config: &Config) -> Result<std::fs::File, String> {
    let directory = config.data_dir.display();
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| format!("cannot create the data directory {directory}: {error}"))?;
    let file = std::fs::File::create(config.data_dir.join("lock"))
        .map_err(|error| format!("cannot write to the data directory {directory}: {error}"))?;
    file.try_lock()
        .map_err(|_| format!("the data directory {directory} is in use by another broker"))?;
    Ok(file)
}

fn restore(
    config: &Config,
    credentials: Credentials,
) -> io::Result<(Broker, UnboundedReceiver<Written>)> {
    let records = record::read(&config.data_dir)?;
    // The journal is begun anew from the state, which takes the records that it outlived.
    let mut broker = Broker::new(config.limits.clone(), credentials, Journal::closed());
    broker.restore(records);
    let (journal, written) = Journal::create(&config.data_dir, &broker.snapshot())?;
    broker.journal = journal;
    Ok((broker, written))
}

async fn follow_journal(broker: Shared, mut written: UnboundedReceiver<Written>) {
    while let Some(written) = written.recv().await {
        broker.borrow_mut().note_written(&written);
    }
}

async fn keep_time(broker: Shared) {
    let statistics_interval = broker.borrow().limits.statistics_interval;
    let mut statistics_at = Instant::now();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        let mut broker = broker.borrow_mut();
        broker.tick();
        if statistics_at <= Instant::now() {
            broker.publish_statistics();
            statistics_at = Instant::now() + statistics_interval;
        }
    }
}

async fn reload(broker: Shared, config: Config, mut signals: Signal) {
    while signals.recv().await.is_some() {
        match Credentials::load(&config) {
            Ok(credentials) => broker.borrow_mut().reload(credentials),
            Err(error) => {
                ::log::error!(error = error; "credentials not reloaded, the old ones stay");
            }
        }
    }
}

async fn accept(listener: TcpListener, broker: Shared, connections: Rc<Cell<usize>>) {
    let max_connections = broker.borrow().limits.max_connections;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if connections.get() < max_connections => {
                ::log::debug!(peer:display = peer; "connection accepted");
                connections.set(connections.get() + 1);
                tokio::task::spawn_local(serve_one(stream, broker.clone(), connections.clone()));
            }
            Ok(_) => {
                ::log::warn!(max_connections = max_connections; "connection refused: too many");
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come free.
                ::log::error!(error:display = error; "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(stream: TcpStream, broker: Shared, connections: Rc<Cell<usize>>) {
    if let Err(error) = stream.set_nodelay(true) {
        ::log::debug!(error:display = error; "cannot set TCP_NODELAY");
    }
    connection::serve(stream, broker).await;
    connections.set(connections.get() - 1);
}

/// Answer what is on disk, say goodbye, and give the connections a moment to hear it.
async fn stop(broker: &Shared, connections: &Cell<usize>) {
    ::log::info!(connections = connections.get(); "broker stopping");
    let end = Instant::now() + GOODBYE_TIME;
    broker.borrow_mut().journal.flush();
    while broker.borrow().journal.is_writing() && Instant::now() < end {
        sleep(Duration::from_millis(1)).await;
    }
    tokio::task::yield_now().await;
    broker.borrow().kick_all(DisconnectReasonCode::ServerShuttingDown);
    while broker.borrow().statistics.connected > 0 && Instant::now() < end {
        sleep(Duration::from_millis(1)).await;
    }
}
