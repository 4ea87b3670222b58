//! One connection: requests one after the other, each read whole before any of it goes on.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::answer::{Extras, Persistence};
use crate::body::Body;
use crate::chunks::Dechunker;
use crate::cors::{self, Origins};
use crate::door::Worker;
use crate::forwarded::Origin;
use crate::inflate::inflate;
use crate::refusal::Refusal;
use crate::request::{Coding, Length, Request, Version};
use crate::scan::Scanner;

/// Read at once.
const READ_BYTES: usize = 4 * 1024;
const BODY_READ_BYTES: usize = 64 * 1024;
/// What a client may send ahead while it waits for an answer.
const MAX_AHEAD: usize = 16 * 1024;
/// Chunk extensions and trailers of one body.
const MAX_CHUNK_OVERHEAD: usize = 16 * 1024;
/// A client that has closed its side gets an answer that comes within this time.
const HALF_CLOSED_TIME: Duration = Duration::from_secs(5);
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// Why a request ends without an answer of a web process.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Refused(Refusal),
    /// There is nobody to answer.
    Gone,
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Request,
    /// The client has been told, or knows from the framing.
    Goodbye,
    /// Nothing more is to be said, or to nobody.
    Cut,
}

impl Persistence {
    pub fn next(self) -> Next {
        match self {
            Self::Close => Next::Goodbye,
            _ => Next::Request,
        }
    }
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

pub struct Connection<S> {
    pub stream: S,
    /// Received and not used yet.
    pub input: Vec<u8>,
    pub peer: IpAddr,
    pub is_tls: bool,
    pub worker: Rc<Worker>,
    pub stop: watch::Receiver<bool>,
    /// The client has closed its side.
    is_half_closed: bool,
    /// The request's body has been taken off the connection: another request may follow.
    is_whole: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(stream: S, peer: IpAddr, is_tls: bool, worker: Rc<Worker>) -> Self {
        let stop = worker.door.stop.subscribe();
        let input = Vec::new();
        Self { stream, input, peer, is_tls, worker, stop, is_half_closed: false, is_whole: true }
    }

    /// Answer requests until either side has enough.
    pub async fn serve(mut self) {
        let mut wait = self.worker.door.config.times.head;
        loop {
            let next = match self.read_head(wait).await {
                Ok(head) => self.answer(&head).await,
                Err(End::Refused(refusal)) => self.refuse_unread(refusal).await,
                Err(End::Gone) => Next::Cut,
            };
            match next {
                Next::Request => {}
                Next::Goodbye => return self.linger().await,
                Next::Cut => return,
            }
            wait = self.worker.door.config.times.idle;
        }
    }

    /// Receive more; 0 is the end.
    pub async fn fill(&mut self, bytes: usize) -> io::Result<usize> {
        self.input.reserve(bytes);
        let count = self.stream.read_buf(&mut self.input).await?;
        self.worker.door.counters.received_bytes.add(count as u64);
        Ok(count)
    }

    /// Returns when nobody waits for the answer any more.
    pub async fn wait_for_end(&mut self) {
        while !self.is_half_closed && self.input.len() < MAX_AHEAD {
            match self.fill(READ_BYTES).await {
                Ok(0) => self.is_half_closed = true,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        match self.is_half_closed {
            true => sleep(HALF_CLOSED_TIME).await,
            false => std::future::pending().await,
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let time = self.worker.door.config.times.write;
        for piece in bytes.chunks(BODY_READ_BYTES) {
            timeout(time, self.stream.write_all(piece)).await.map_err(|_| End::Gone)??;
        }
        timeout(time, self.stream.flush()).await.map_err(|_| End::Gone)??;
        self.worker.door.counters.sent_bytes.add(bytes.len() as u64);
        Ok(())
    }

    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    async fn read_head(&mut self, wait: Duration) -> Result<Vec<u8>, End> {
        let limits = self.worker.door.config.limits.head;
        if self.input.is_empty() {
            // Of ten thousand idle connections the room of a large body would fill the memory.
            self.input.shrink_to(READ_BYTES);
        }
        let mut deadline = Instant::now() + wait;
        let mut scanner = Scanner::default();
        let mut has_begun = false;
        loop {
            if !self.input.is_empty() && !has_begun {
                has_begun = true;
                deadline = Instant::now() + self.worker.door.config.times.head;
            }
            if let Some(found) = scanner.scan(&self.input, limits)? {
                let head = self.input.get(found.start..found.end).unwrap_or_default().to_vec();
                self.input.drain(..found.next);
                return Ok(head);
            }
            if self.is_half_closed {
                return Err(End::Gone);
            }
            let mut stop = self.stop.clone();
            let read = tokio::select! {
                biased;
                read = timeout_at(deadline, self.fill(READ_BYTES)) => read,
                _ = stop.wait_for(|stop| *stop), if !has_begun => return Err(End::Gone),
            };
            match read {
                Ok(Ok(0) | Err(_)) => return Err(End::Gone),
                Ok(Ok(_)) => {}
                Err(_) if has_begun => return Err(Refusal::HeadTimeout.into()),
                Err(_) => return Err(End::Gone),
            }
        }
    }

    async fn answer(&mut self, head: &[u8]) -> Next {
        let worker = self.worker.clone();
        let request = match Request::parse(head, worker.door.config.limits.fields) {
            Ok(request) => request,
            Err(refusal) => return self.refuse_unread(refusal).await,
        };
        let made;
        let request_id = if let Some(id) = request.request_id.filter(|id| is_request_id(id)) {
            id
        } else {
            made = make_request_id();
            &made
        };
        let persistence = match (request.keep_alive && !self.is_stopping(), request.version) {
            (false, _) => Persistence::Close,
            (true, Version::Http10) => Persistence::KeepAlive,
            (true, Version::Http11) => Persistence::Implied,
        };
        let extras = Extras {
            request_id,
            origin: request.origin,
            origins: &worker.door.config.origins,
            is_tls: self.is_tls,
            persistence,
        };
        self.is_whole = request.length == Length::Known(0);
        match self.handle(&request, &extras).await {
            Ok(next) => next,
            Err(End::Gone) => Next::Cut,
            Err(End::Refused(refusal)) => {
                let persistence = if self.is_whole { persistence } else { Persistence::Close };
                let extras = Extras { persistence, ..extras };
                self.refuse(refusal, &extras, request.method == "HEAD").await
            }
        }
    }

    async fn handle(&mut self, request: &Request<'_>, extras: &Extras<'_>) -> Result<Next, End> {
        let worker = self.worker.clone();
        let config = &worker.door.config;
        let origin = Origin::of(self.peer, &request.forwarded, &config.trusted);
        worker.door.addresses.ask(origin.client, std::time::Instant::now())?;
        if let Some(answer) = preflight(request, extras)? {
            self.send(&answer).await?;
            worker.door.counters.answered(204);
            return Ok(if self.is_whole { extras.persistence.next() } else { Next::Goodbye });
        }
        let mut body = self.receive(request).await?;
        if request.coding != Coding::Identity {
            let _turn = worker.inflating.acquire().await;
            body = inflate(request.coding, body, config.limits.body_bytes).await?;
        }
        self.exchange(request, &body, &origin, extras).await
    }

    /// Read the body whole.
    async fn receive(&mut self, request: &Request<'_>) -> Result<Body, End> {
        let worker = self.worker.clone();
        let (limit, times) = (worker.door.config.limits.body_bytes, worker.door.config.times);
        let mut body = Body::new(&worker.door.room);
        if matches!(request.length, Length::Known(length) if length > limit as u64) {
            return Err(Refusal::BodyTooLarge.into());
        }
        let mut dechunker = Dechunker::new(limit as u64, MAX_CHUNK_OVERHEAD);
        let end = Instant::now() + times.body;
        if request.expects_continue && !self.is_whole && self.input.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        loop {
            let used = match request.length {
                Length::Known(length) => {
                    let left = (length as usize).saturating_sub(body.bytes().len());
                    let piece = self.input.get(..left).unwrap_or(&self.input);
                    body.extend(piece)?;
                    self.is_whole = piece.len() == left;
                    piece.len()
                }
                Length::Chunked => {
                    let used = body.write(|out| dechunker.push(&self.input, out))?;
                    self.is_whole = dechunker.is_done();
                    used
                }
            };
            self.input.drain(..used);
            if self.is_whole {
                return Ok(body);
            }
            let deadline = end.min(Instant::now() + times.body_idle);
            let bytes = if body.bytes().is_empty() { READ_BYTES } else { BODY_READ_BYTES };
            match timeout_at(deadline, self.fill(bytes)).await {
                Ok(Ok(0) | Err(_)) => return Err(End::Gone),
                Ok(Ok(_)) => {}
                Err(_) => return Err(Refusal::BodyTimeout.into()),
            }
        }
    }

    /// Refuse what could not be read as a request.
    async fn refuse_unread(&mut self, refusal: Refusal) -> Next {
        let worker = self.worker.clone();
        let extras = Extras {
            request_id: &make_request_id(),
            origin: None,
            origins: &worker.door.config.origins,
            is_tls: self.is_tls,
            persistence: Persistence::Close,
        };
        self.refuse(refusal, &extras, false).await
    }

    async fn refuse(&mut self, refusal: Refusal, extras: &Extras<'_>, to_head: bool) -> Next {
        let facts = refusal.facts();
        log::debug!(reason = facts.label, peer:display = self.peer, request = extras.request_id; "request refused");
        let door = self.worker.door.clone();
        door.counters.refused(refusal);
        door.counters.answered(facts.status);
        match self.send(&extras.refuse(refusal, to_head)).await {
            Ok(()) => extras.persistence.next(),
            Err(_) => Next::Cut,
        }
    }

    /// Read on for a while: what the client is still sending would otherwise reset the connection,
    /// and the answer might be lost with it.
    async fn linger(&mut self) {
        let mut left = LINGER_BYTES;
        let reading = async {
            self.stream.shutdown().await?;
            while left > 0 {
                self.input.clear();
                match self.fill(READ_BYTES).await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            Ok::<(), io::Error>(())
        };
        // Whatever comes of it, the connection ends here.
        let _ = timeout(LINGER_TIME, reading).await;
    }
}

/// The answer to a CORS preflight, or to a question about the server as a whole.
fn preflight(request: &Request<'_>, extras: &Extras<'_>) -> Result<Option<Vec<u8>>, Refusal> {
    if request.method != "OPTIONS" {
        return Ok(None);
    }
    match (request.origin, request.asks_method) {
        (Some(origin), Some(_)) if *extras.origins != Origins::None => {
            if !extras.origins.is_allowed(origin) {
                return Err(Refusal::Origin);
            }
            Ok(Some(extras.own(204, "No Content", &cors::preflight(request.asks_headers))))
        }
        _ if request.target == "*" => Ok(Some(extras.own(204, "No Content", ""))),
        _ => Ok(None),
    }
}

/// The rule of `iotistica.ops.request_id`.
fn is_request_id(text: &str) -> bool {
    matches!(text.len(), 1..=128) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn make_request_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}
