//! Connections to the web processes: kept alive, taken in turn, and given up when they break.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::counters::Counters;
use crate::refusal::Refusal;

const CONNECT_TIME: Duration = Duration::from_secs(1);
/// Robyn keeps idle connections for longer.
const IDLE_TIME: Duration = Duration::from_secs(15);
/// A process that is starting again is not asked by every request.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_IDLE: usize = 256;

/// A connection to a web process, and what it has sent that was not used yet.
#[derive(Debug)]
pub struct Link {
    pub stream: TcpStream,
    pub input: Vec<u8>,
    number: usize,
}

impl Link {
    /// Wait for more; the number of bytes, 0 at the end.
    pub async fn fill(&mut self, at_least: usize) -> io::Result<usize> {
        self.input.reserve(at_least);
        self.stream.read_buf(&mut self.input).await
    }

    /// Whether nothing has come, not even the end, where nothing is due.
    fn is_quiet(&self) -> bool {
        let nothing = self.stream.try_read(&mut [0]);
        self.input.is_empty()
            && nothing.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    idle: RefCell<Vec<(Link, Instant)>>,
    down_until: Cell<Option<Instant>>,
}

/// The web processes, as one thread of the door sees them.
#[derive(Debug)]
pub struct Upstreams {
    list: Vec<Upstream>,
    next: Cell<usize>,
    counters: Arc<Counters>,
}

impl Upstreams {
    pub fn new(addresses: &[SocketAddr], counters: Arc<Counters>) -> Self {
        let upstream = |&address| Upstream {
            address,
            idle: RefCell::new(Vec::new()),
            down_until: Cell::new(None),
        };
        Self { list: addresses.iter().map(upstream).collect(), next: Cell::new(0), counters }
    }

    /// A connection to the next process that takes one.
    pub async fn connect(&self) -> Result<Link, Refusal> {
        let first = self.next.get();
        self.next.set(first.wrapping_add(1));
        // Those that just failed only if all others fail too.
        for with_failed in [false, true] {
            for step in 0..self.list.len() {
                let number = first.wrapping_add(step) % self.list.len();
                if self.is_down(number) == with_failed
                    && let Some(link) = self.try_one(number).await
                {
                    return Ok(link);
                }
            }
        }
        Err(Refusal::NoUpstream)
    }

    async fn try_one(&self, number: usize) -> Option<Link> {
        let upstream = self.list.get(number)?;
        while let Some((link, since)) = upstream.take_idle() {
            if since.elapsed() < IDLE_TIME && link.is_quiet() {
                return Some(link);
            }
        }
        let stream = timeout(CONNECT_TIME, TcpStream::connect(upstream.address)).await;
        let Ok(Ok(stream)) = stream else {
            self.failed(number);
            return None;
        };
        if upstream.down_until.take().is_some() {
            log::info!(upstream:display = upstream.address; "web process answers again");
        }
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!(error:display = error; "cannot set TCP_NODELAY");
        }
        Some(Link { stream, input: Vec::new(), number })
    }

    fn is_down(&self, number: usize) -> bool {
        let until = self.list.get(number).and_then(|upstream| upstream.down_until.get());
        until.is_some_and(|until| Instant::now() < until)
    }

    fn failed(&self, number: usize) {
        self.counters.upstream_failures.add(1);
        let Some(upstream) = self.list.get(number) else { return };
        if upstream.down_until.replace(Some(Instant::now() + PAUSE)).is_none() {
            log::warn!(upstream:display = upstream.address; "web process does not answer");
        }
    }

    /// Note that a connection broke. Others to the same process may still be good: `is_quiet` tells.
    pub fn broke(&self, link: &Link) {
        self.counters.upstream_failures.add(1);
        log::debug!(upstream = link.number; "connection to a web process broke");
    }

    /// Keep a connection for the next request.
    pub fn put_back(&self, mut link: Link) {
        let Some(upstream) = self.list.get(link.number) else { return };
        let mut idle = upstream.idle.borrow_mut();
        if link.input.is_empty() && idle.len() < MAX_IDLE {
            link.input.shrink_to(4096);
            idle.push((link, Instant::now()));
        }
    }

    /// Whether some process takes a connection now.
    pub async fn is_any_there(&self) -> bool {
        for upstream in &self.list {
            let stream = timeout(CONNECT_TIME, TcpStream::connect(upstream.address)).await;
            if matches!(stream, Ok(Ok(_))) {
                return true;
            }
        }
        false
    }
}

impl Upstream {
    fn take_idle(&self) -> Option<(Link, Instant)> {
        self.idle.borrow_mut().pop()
    }
}
