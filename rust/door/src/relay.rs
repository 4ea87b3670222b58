//! Hands a request to a web process and its answer back, as it comes.

use std::io::Write;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use crate::answer::{Answer, Extras, Form, Framing, Persistence};
use crate::body::Body;
use crate::chunks::Dechunker;
use crate::compress::{Gzip, is_compressible};
use crate::connection::{Connection, End, Next};
use crate::forwarded::Origin;
use crate::refusal::Refusal;
use crate::request::{Request, Version};
use crate::scan::{Found, HeadLimits, Scanner};
use crate::tunnel;
use crate::upstream::Link;

const ANSWER_LIMITS: HeadLimits = HeadLimits { line_bytes: 16 * 1024, head_bytes: 128 * 1024 };
const HEAD_READ_BYTES: usize = 4 * 1024;
const READ_BYTES: usize = 64 * 1024;
/// A body as short as this is sent together with its head.
const SHORT_BYTES: usize = 16 * 1024;

/// Why there is no answer.
enum Lost {
    Client,
    /// Before the first byte of an answer, or after.
    Upstream {
        before_answer: bool,
    },
    Time,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Get the answer of a web process and pass it on.
    pub async fn exchange(
        &mut self,
        request: &Request<'_>,
        body: &Body,
        origin: &Origin<'_>,
        extras: &Extras<'_>,
    ) -> Result<Next, End> {
        let mut head = Vec::with_capacity(1024);
        write_request(request, body, extras.request_id, &mut head);
        origin.write(self.peer, request.host.unwrap_or("localhost"), self.is_tls, &mut head);
        head.extend_from_slice(b"\r\n");
        let (mut link, found) = self.ask(request, head, body.bytes()).await?;
        let head = link.input.get(found.start..found.end).unwrap_or_default().to_vec();
        link.input.drain(..found.next);
        let answer = Answer::parse(&head, request.method == "HEAD")?;
        let worker = self.worker.clone();
        worker.door.counters.answered(answer.status);
        if answer.status == 101 {
            return self.open_tunnel(link, &answer, extras).await;
        }
        let relay = Relay::new(&answer, request, extras.persistence);
        let persistence = relay.persistence;
        match self.relay(relay, &mut link, &answer, extras).await {
            Ok(()) if answer.keep_alive && answer.framing != Framing::Close => {
                worker.upstreams_for(request).put_back(link);
            }
            Ok(()) => {}
            // What the client has got is not whole: only a close can tell it.
            Err(Lost::Upstream { .. } | Lost::Time) => {
                worker.upstreams_for(request).broke(&link);
                return Ok(Next::Cut);
            }
            Err(Lost::Client) => return Err(End::Gone),
        }
        Ok(persistence.next())
    }

    /// Send the request, once more where that is the same, until an answer begins.
    async fn ask(
        &mut self,
        request: &Request<'_>,
        mut head: Vec<u8>,
        body: &[u8],
    ) -> Result<(Link, Found), End> {
        let mut body = body;
        if body.len() <= SHORT_BYTES {
            head.extend_from_slice(std::mem::take(&mut body));
        }
        let worker = self.worker.clone();
        let upstreams = worker.upstreams_for(request);
        let mut may_retry = request.is_idempotent();
        loop {
            let mut link = upstreams.connect().await?;
            match self.ask_one(&mut link, [&head, body], request.upgrade).await {
                Ok(found) => return Ok((link, found)),
                Err(Lost::Client) => return Err(End::Gone),
                Err(Lost::Time) => return Err(Refusal::UpstreamTimeout.into()),
                Err(Lost::Upstream { before_answer }) => {
                    upstreams.broke(&link);
                    if !before_answer || !may_retry {
                        return Err(Refusal::UpstreamBroken.into());
                    }
                    may_retry = false;
                    worker.door.counters.upstream_retries.add(1);
                }
            }
        }
    }

    async fn ask_one(
        &mut self,
        link: &mut Link,
        message: [&[u8]; 2],
        upgrade: bool,
    ) -> Result<Found, Lost> {
        let times = self.worker.door.config.times;
        let broken = Lost::Upstream { before_answer: true };
        for part in message {
            match timeout(times.write, link.stream.write_all(part)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(broken),
                Err(_) => return Err(Lost::Time),
            }
        }
        let deadline = Instant::now() + times.answer;
        let mut scanner = Scanner::default();
        loop {
            let scanned = scanner.scan(&link.input, ANSWER_LIMITS);
            match scanned.map_err(|_| Lost::Upstream { before_answer: false })? {
                Some(found) if is_interim(&link.input[found.start..found.end], upgrade) => {
                    link.input.drain(..found.next);
                    scanner = Scanner::default();
                    continue;
                }
                Some(found) => return Ok(found),
                None => {}
            }
            let before_answer = link.input.is_empty();
            tokio::select! {
                biased;
                read = link.fill(HEAD_READ_BYTES) => match read {
                    Ok(0) | Err(_) => return Err(Lost::Upstream { before_answer }),
                    Ok(_) => {}
                },
                () = self.wait_for_end() => return Err(Lost::Client),
                () = sleep_until(deadline) => return Err(Lost::Time),
            }
        }
    }

    async fn relay(
        &mut self,
        mut relay: Relay,
        link: &mut Link,
        answer: &Answer<'_>,
        extras: &Extras<'_>,
    ) -> Result<(), Lost> {
        let extras = Extras { persistence: relay.persistence, ..*extras };
        let mut out = Vec::with_capacity(1024);
        answer.write(relay.form, &extras, &mut out);
        let broken = |()| Lost::Upstream { before_answer: false };
        let mut stop = self.stop.clone();
        loop {
            let is_done = relay.encode(&mut link.input, &mut out).map_err(broken)?;
            if !out.is_empty() {
                self.send(&out).await.map_err(|_| Lost::Client)?;
                out.clear();
            }
            if is_done {
                return Ok(());
            }
            let deadline = Instant::now() + self.worker.door.config.times.stream_idle;
            let read = tokio::select! {
                biased;
                read = link.fill(READ_BYTES) => read,
                () = self.wait_for_end() => return Err(Lost::Client),
                () = sleep_until(deadline) => return Err(Lost::Time),
                _ = stop.wait_for(|stop| *stop), if answer.is_endless() => return Err(Lost::Client),
            };
            match read {
                Ok(0) => relay.end().map_err(broken)?,
                Ok(_) => {}
                Err(_) => return Err(broken(())),
            }
        }
    }

    async fn open_tunnel(
        &mut self,
        link: Link,
        answer: &Answer<'_>,
        extras: &Extras<'_>,
    ) -> Result<Next, End> {
        let mut out = Vec::new();
        let form = Form { framing: Framing::Empty, is_compressed: false, varies: false };
        let extras = Extras { persistence: Persistence::WebSocket, ..*extras };
        answer.write(form, &extras, &mut out);
        self.send(&out).await?;
        let door = self.worker.door.clone();
        door.counters.tunnels.add(1);
        tunnel::run(self, link).await;
        door.counters.tunnels.subtract(1);
        Ok(Next::Cut)
    }
}

/// The head for a web process, up to the fields about where the request comes from.
fn write_request(request: &Request<'_>, body: &Body, request_id: &str, out: &mut Vec<u8>) {
    let mut put =
        |parts: &[&str]| parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    put(&[request.method, " ", &request.target, " HTTP/1.1\r\nHost: "]);
    put(&[request.host.unwrap_or("localhost"), "\r\nX-Request-ID: ", request_id, "\r\n"]);
    for field in &request.fields {
        put(&[field.name, ": ", field.value, "\r\n"]);
    }
    if request.upgrade {
        put(&["Connection: Upgrade\r\nUpgrade: websocket\r\n"]);
    } else if !body.bytes().is_empty() || matches!(request.method, "POST" | "PUT" | "PATCH") {
        put(&["Content-Length: ", itoa::Buffer::new().format(body.bytes().len()), "\r\n"]);
    }
}

/// 100 to 199, without the 101 that was asked for.
fn is_interim(head: &[u8], upgrade: bool) -> bool {
    let status = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    status.starts_with(b"1") && !(upgrade && status == b"101")
}

/// The body of an answer on its way to the client.
struct Relay {
    source: Source,
    form: Form,
    gzip: Option<Gzip>,
    persistence: Persistence,
    piece: Vec<u8>,
}

enum Source {
    Left(u64),
    Chunked(Dechunker),
    Close { has_ended: bool },
}

impl Relay {
    fn new(answer: &Answer<'_>, request: &Request<'_>, persistence: Persistence) -> Self {
        let varies = is_compressible(answer);
        let is_compressed = varies && request.accepts_gzip && request.version == Version::Http11;
        let source = match answer.framing {
            Framing::Empty => Source::Left(0),
            Framing::Length(length) => Source::Left(length),
            Framing::Chunked => Source::Chunked(Dechunker::new(u64::MAX, usize::MAX)),
            Framing::Close => Source::Close { has_ended: false },
        };
        let framing = match (answer.framing, request.version) {
            (Framing::Empty, _) => Framing::Empty,
            (Framing::Length(length), _) if !is_compressed => Framing::Length(length),
            (_, Version::Http11) => Framing::Chunked,
            (_, Version::Http10) => Framing::Close,
        };
        Self {
            source,
            form: Form { framing, is_compressed, varies },
            gzip: is_compressed.then(Gzip::default),
            persistence: if framing == Framing::Close { Persistence::Close } else { persistence },
            piece: Vec::new(),
        }
    }

    /// Move what has come to `out`, in the form for the client; whether that is all.
    fn encode(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, ()> {
        if self.gzip.is_none() && self.form.framing != Framing::Chunked {
            return self.source.take(input, out);
        }
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        let is_done = self.source.take(input, &mut piece)?;
        if let Some(gzip) = &mut self.gzip {
            // Of a known length nobody waits for the pieces.
            let flush = !matches!(self.source, Source::Left(_));
            piece = gzip.push(&piece, flush);
        }
        if is_done && let Some(gzip) = self.gzip.take() {
            piece.extend(gzip.finish());
        }
        if !piece.is_empty() {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{:x}\r\n", piece.len());
            out.extend_from_slice(&piece);
            out.extend_from_slice(b"\r\n");
        }
        if is_done {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        self.piece = piece;
        Ok(is_done)
    }

    /// The web process has closed the connection.
    fn end(&mut self) -> Result<(), ()> {
        match &mut self.source {
            Source::Close { has_ended } => {
                *has_ended = true;
                Ok(())
            }
            _ => Err(()),
        }
    }
}

impl Source {
    /// Move what has come of the body to `out`; whether that is all.
    fn take(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<bool, ()> {
        match self {
            Self::Left(left) => {
                let count = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                out.extend(input.drain(..count));
                *left -= count as u64;
                Ok(*left == 0)
            }
            Self::Chunked(dechunker) => {
                let used = dechunker.push(input, out).map_err(|_| ())?;
                input.drain(..used);
                Ok(dechunker.is_done())
            }
            Self::Close { has_ended } => {
                out.append(input);
                Ok(*has_ended)
            }
        }
    }
}
