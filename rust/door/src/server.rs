//! The door as a process: threads that accept, signals, and an orderly stop.

use std::io;
use std::net::{IpAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, timeout};

use crate::answer::{Extras, Persistence};
use crate::config::Config;
use crate::connection::Connection;
use crate::cors::Origins;
use crate::door::{Door, Worker};
use crate::ops;
use crate::refusal::Refusal;
use crate::tls::Tls;

/// Peers that have gone without a word are noticed after about this time.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const POLL_TIME: Duration = Duration::from_millis(10);

/// The listening sockets: of the service, and of its operations.
pub struct Listeners {
    pub service: StdListener,
    pub operations: StdListener,
}

/// Serve until SIGTERM or SIGINT; SIGHUP reads the certificate again. The error is one sentence.
pub fn serve(config: Config, listeners: Listeners) -> Result<(), String> {
    let tls = config.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
    let door = Arc::new(Door::new(config));
    let mut others = Vec::new();
    for _ in 1..door.config.threads {
        let service =
            listeners.service.try_clone().map_err(|error| format!("cannot listen: {error}"))?;
        let (door, tls) = (door.clone(), tls.clone());
        others.push(thread::spawn(move || run_thread(accept_until_stop(service, door, tls))));
    }
    run_thread(lead(listeners, door, tls))?;
    for other in others {
        if other.join().is_err() {
            log::error!("a thread of the door ended by a defect");
        }
    }
    Ok(())
}

fn run_thread(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    LocalSet::new().block_on(&runtime, work)
}

/// The first thread: it also has the signals and the operations listener.
async fn lead(listeners: Listeners, door: Arc<Door>, tls: Option<Arc<Tls>>) -> Result<(), String> {
    let signals = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
    let mut stops = [signals(SignalKind::terminate())?, signals(SignalKind::interrupt())?];
    let hangups = signals(SignalKind::hangup())?;
    let operations = listener(listeners.operations)?;
    let address =
        listeners.service.local_addr().map_err(|error| format!("cannot listen: {error}"))?;
    tokio::task::spawn_local(ops::serve(operations, Worker::new(door.clone())));
    tokio::task::spawn_local(reload(tls.clone(), hangups));
    log::info!(address:display = address, tls = tls.is_some(), threads = door.config.threads; "door is open");
    let stop = async {
        let [terminate, interrupt] = &mut stops;
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        log::info!(connections = door.counters.connections.get(); "door is closing");
        door.stop.send_replace(true);
    };
    let ((), accepted) =
        tokio::join!(stop, accept_until_stop(listeners.service, door.clone(), tls));
    log::info!(connections = door.counters.connections.get(); "door is closed");
    accepted
}

async fn reload(tls: Option<Arc<Tls>>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        match tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(())) => log::info!("certificate read again"),
            Some(Err(error)) => {
                log::error!(error = error; "certificate not read again, the old one stays");
            }
            None => {}
        }
    }
}

fn listener(listener: StdListener) -> Result<TcpListener, String> {
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|error| format!("cannot listen: {error}"))
}

/// Accept until the door stops, then give what is in flight its time.
async fn accept_until_stop(
    service: StdListener,
    door: Arc<Door>,
    tls: Option<Arc<Tls>>,
) -> Result<(), String> {
    let service = listener(service)?;
    let worker = Worker::new(door.clone());
    let mut stop = door.stop.subscribe();
    tokio::select! {
        () = accept(&service, &worker, tls.as_ref()) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drop(service);
    let end = Instant::now() + door.config.times.stop;
    while door.counters.connections.get() > 0 && Instant::now() < end {
        sleep(POLL_TIME).await;
    }
    Ok(())
}

async fn accept(listener: &TcpListener, worker: &Rc<Worker>, tls: Option<&Arc<Tls>>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                worker.door.counters.accepted.add(1);
                admit(stream, peer.ip().to_canonical(), worker, tls);
            }
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come free.
                log::error!(error:display = error; "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit(stream: TcpStream, peer: IpAddr, worker: &Rc<Worker>, tls: Option<&Arc<Tls>>) {
    let door = &worker.door;
    if let Err(error) = prepare(&stream) {
        log::debug!(error:display = error; "cannot set options of a connection");
    }
    if door.counters.connections.get() >= door.config.limits.connections as u64 {
        return turn_away(stream, Refusal::Connections, worker, tls.is_some());
    }
    // A trusted proxy has the connections of many clients.
    let is_counted = !door.config.trusted.iter().any(|network| network.contains(peer));
    if is_counted && let Err(refusal) = door.addresses.open(peer) {
        return turn_away(stream, refusal, worker, tls.is_some());
    }
    let guest = Guest { worker: worker.clone(), counted: is_counted.then_some(peer) };
    door.counters.connections.add(1);
    let tls = tls.cloned();
    tokio::task::spawn_local(async move {
        serve_one(stream, peer, &guest.worker, tls).await;
        drop(guest);
    });
}

/// A connection in the counts; goes off them however its task ends.
struct Guest {
    worker: Rc<Worker>,
    counted: Option<IpAddr>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.worker.door.counters.connections.subtract(1);
        if let Some(address) = self.counted {
            self.worker.door.addresses.close(address);
        }
    }
}

async fn serve_one(stream: TcpStream, peer: IpAddr, worker: &Rc<Worker>, tls: Option<Arc<Tls>>) {
    let Some(tls) = tls else {
        return Connection::new(stream, peer, false, worker.clone()).serve().await;
    };
    let shaken = timeout(worker.door.config.times.head, tls.acceptor().accept(stream)).await;
    match shaken {
        Ok(Ok(stream)) => Connection::new(stream, peer, true, worker.clone()).serve().await,
        Ok(Err(error)) => {
            log::debug!(error:display = error, peer:display = peer; "TLS handshake failed");
        }
        Err(_) => log::debug!(peer:display = peer; "TLS handshake took too long"),
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_TIME))
}

/// One write, without waiting: what cannot be told at once is not told.
fn turn_away(mut stream: TcpStream, refusal: Refusal, worker: &Rc<Worker>, is_tls: bool) {
    worker.door.counters.refused(refusal);
    if is_tls {
        return;
    }
    let extras = Extras {
        request_id: "none",
        origin: None,
        origins: &Origins::None,
        is_tls,
        persistence: Persistence::Close,
    };
    let answer = extras.refuse(refusal, false);
    worker.door.counters.answered(refusal.facts().status);
    tokio::task::spawn_local(async move {
        let _ = timeout(Duration::from_millis(200), async {
            stream.write_all(&answer).await?;
            stream.shutdown().await
        })
        .await;
    });
}
