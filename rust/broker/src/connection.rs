//! One connection: bytes in, packets handled in order, bytes out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};
use mqtt_proto::Pid;
use mqtt_proto::v5::{
    Connect, ConnectReasonCode, Disconnect, DisconnectReasonCode as Reason, Packet,
};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::broker::Broker;
use crate::frame::{self, Broken};
use crate::handshake::{self, Admitted};
use crate::journal::Ticket;
use crate::message::Message;
use crate::session::{Link, SessionId};

/// The broker, as the tasks of its thread share it; never borrowed across an `await`.
pub type Shared = Rc<RefCell<Broker>>;

const READ_BYTES: usize = 16 * 1024;
/// Packets are made ready up to this many bytes ahead of the socket.
const AHEAD_BYTES: usize = 64 * 1024;
/// A CONNECT is not larger than this, whatever packets are allowed later.
const MAX_CONNECT_BYTES: u32 = 256 * 1024;
/// A connection is read on while its publishes that wait for room are below this.
const FEW_WAITING_BYTES: usize = 64 * 1024;
/// Above this it is not; between the two it depends on how much waits on all connections.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;

/// A QoS 1 publish that waits for room in its subscribers' queues.
pub(crate) struct Waiting {
    pub(crate) packet_id: Pid,
    pub(crate) message: Message,
    pub(crate) retain: bool,
}

/// An answer, in order, that may go out when its commit is on disk.
pub(crate) struct Answer {
    pub(crate) ticket: Ticket,
    pub(crate) packet: Packet,
}

/// One connection with a client that was let in.
pub(crate) struct Conversation {
    pub(crate) stream: TcpStream,
    pub(crate) broker: Shared,
    pub(crate) session: SessionId,
    pub(crate) link: Rc<Link>,
    pub(crate) max_packet_bytes: u32,
    pub(crate) receive_maximum: usize,
    pub(crate) max_subscriptions: usize,
    pub(crate) input: BytesMut,
    pub(crate) output: BytesMut,
    pub(crate) answers: VecDeque<Answer>,
    /// PUBACKs among the answers.
    pub(crate) unacknowledged: usize,
    pub(crate) waiting: VecDeque<Waiting>,
    pub(crate) waiting_bytes: usize,
}

/// Why a conversation ended.
#[derive(PartialEq, Eq)]
pub(crate) enum End {
    /// DISCONNECT with this code, or without one because the client is gone.
    Closed,
    /// The client said goodbye; its will is kept or published as it asked.
    Goodbye {
        with_will: bool,
    },
    Broken(Reason),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// Serve one connection to its end.
pub async fn serve(stream: TcpStream, broker: Shared) {
    let limit = broker.borrow().limits.connect_timeout;
    let link = Link::new();
    let opened = timeout(limit, open(&stream, &broker, &link)).await;
    // From here on nothing is awaited but by the conversation, which ends with `close`.
    let Ok(Some((admitted, input))) = opened else {
        return;
    };
    let client_id = admitted.client_id.clone();
    let mut conversation = Conversation::new(stream, broker, admitted, link, input);
    let end = conversation.run().await;
    conversation.close(&end, &client_id);
}

/// Read the CONNECT and answer it.
async fn open(
    stream: &TcpStream,
    broker: &Shared,
    link: &Rc<Link>,
) -> Option<(Admitted, BytesMut)> {
    let max_bytes = broker.borrow().limits.max_packet_bytes.min(MAX_CONNECT_BYTES);
    let mut input = BytesMut::new();
    let connect = match read_connect(stream, &mut input, max_bytes).await.ok()? {
        Ok(connect) => connect,
        Err(refusal) => {
            write_all(stream, &refusal).await;
            return None;
        }
    };
    let user = connect.username.clone();
    match handshake::admit(broker, connect, link).await {
        Ok(admitted) => {
            ::log::debug!(client_id = &*admitted.client_id; "client connected");
            Some((admitted, input))
        }
        Err(reason) => {
            ::log::info!(user = user.as_deref().unwrap_or(""), reason:debug = reason; "client refused");
            write_all(stream, Packet::Connack(handshake::refusal(reason)).encode().ok()?.as_ref())
                .await;
            None
        }
    }
}

/// The first packet, or the bytes with which to refuse.
async fn read_connect(
    stream: &TcpStream,
    input: &mut BytesMut,
    max_bytes: u32,
) -> io::Result<Result<Connect, Vec<u8>>> {
    loop {
        let refused = match frame::next(input, max_bytes) {
            Ok(Some(Packet::Connect(connect))) => return Ok(Ok(connect)),
            Ok(None) => {
                stream.readable().await?;
                match read(stream, input) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => continue,
                }
            }
            // CONNACK of MQTT 3.1.1: unacceptable protocol version.
            Err(Broken::OldProtocol) => return Ok(Err(vec![0x20, 2, 0, 1])),
            Err(Broken::UnknownProtocol) => ConnectReasonCode::UnsupportedProtocolVersion,
            Err(Broken::TooLarge) if input.first() == Some(&0x10) => {
                ConnectReasonCode::PacketTooLarge
            }
            // Not MQTT at all: no answer.
            _ => return Ok(Err(Vec::new())),
        };
        let packet = Packet::Connack(handshake::refusal(refused)).encode();
        return Ok(Err(packet.map(|bytes| bytes.as_ref().to_vec()).unwrap_or_default()));
    }
}

impl Conversation {
    fn new(
        stream: TcpStream,
        broker: Shared,
        admitted: Admitted,
        link: Rc<Link>,
        input: BytesMut,
    ) -> Self {
        let limits = broker.borrow().limits.clone();
        Self {
            stream,
            broker,
            session: admitted.session,
            link,
            max_packet_bytes: limits.max_packet_bytes,
            receive_maximum: usize::from(limits.receive_maximum),
            max_subscriptions: limits.max_subscriptions_per_session,
            input,
            output: BytesMut::new(),
            answers: VecDeque::from([Answer {
                ticket: 0,
                packet: Packet::Connack(admitted.connack),
            }]),
            unacknowledged: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    async fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.step() {
                return end;
            }
            let interest = self.interest();
            let ready = async {
                match interest {
                    Some(interest) => self.stream.ready(interest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = ready => {
                    let readable = ready.is_ok_and(|ready| ready.is_readable() || ready.is_read_closed());
                    if readable && self.reads() && let Err(error) = self.receive() {
                        return error;
                    }
                }
                () = self.link.wake.notified() => {}
            }
        }
    }

    /// Do everything that can be done without new bytes from the client.
    fn step(&mut self) -> Result<(), End> {
        // Before anything else: after a take-over the session belongs to another connection.
        if let Some(reason) = self.link.kick.get() {
            return Err(End::Broken(reason));
        }
        self.handle_input()?;
        if !self.link.blocked.get() {
            self.retry_waiting();
        }
        self.broker.borrow_mut().journal.flush();
        self.fill_output();
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(count) => {
                    self.broker.borrow_mut().statistics.bytes_sent += count as u64;
                    let _ = self.output.split_to(count);
                    self.fill_output();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.output.is_empty() {
            self.output = BytesMut::new();
        }
        self.link.paused.set(!self.reads());
        Ok(())
    }

    fn interest(&self) -> Option<Interest> {
        match (self.reads(), !self.output.is_empty()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        }
    }

    /// Many publishes that wait stop the reading, and with it the pings, unless the client owes
    /// acknowledgements: they may be what makes room.
    fn reads(&self) -> bool {
        if self.waiting_bytes < FEW_WAITING_BYTES {
            return true;
        }
        let broker = self.broker.borrow();
        let few = broker.waiting_bytes < broker.limits.max_total_queued_bytes / 4;
        few && self.waiting_bytes < MAX_WAITING_BYTES || broker.awaits_client(self.session)
    }

    fn receive(&mut self) -> Result<(), End> {
        let count = match read(&self.stream, &mut self.input) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.broker.borrow_mut().statistics.bytes_received += count as u64;
        self.link.last_seen.set(std::time::Instant::now());
        Ok(())
    }

    fn handle_input(&mut self) -> Result<(), End> {
        loop {
            match frame::next(&mut self.input, self.max_packet_bytes) {
                Ok(Some(packet)) => self.handle(packet)?,
                Ok(None) => break,
                Err(Broken::TooLarge) => return Err(End::Broken(Reason::PacketTooLarge)),
                Err(_) => return Err(End::Broken(Reason::MalformedPacket)),
            }
        }
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(())
    }

    /// Answers whose commit is on disk, then messages, as far as the socket may soon take them.
    fn fill_output(&mut self) {
        let mut broker = self.broker.borrow_mut();
        while let Some(answer) = self.answers.front() {
            if answer.ticket > broker.journal.durable {
                broker.await_journal(&self.link);
                break;
            }
            let Some(answer) = self.answers.pop_front() else {
                break;
            };
            broker.statistics.packets_sent += 1;
            self.unacknowledged -= usize::from(matches!(answer.packet, Packet::Puback(_)));
            match answer.packet.encode() {
                Ok(bytes) => self.output.put_slice(bytes.as_ref()),
                Err(error) => ::log::error!(error:display = error; "cannot encode an answer"),
            }
        }
        if self.output.len() < AHEAD_BYTES {
            broker.send(self.session, &self.link, &mut self.output, AHEAD_BYTES);
        }
    }

    fn close(self, end: &End, client_id: &str) {
        // A broker that stops does not know that its clients are gone.
        let without = [End::Goodbye { with_will: false }, End::Broken(Reason::ServerShuttingDown)];
        let with_will = !without.contains(end);
        if let &End::Broken(reason) = end {
            ::log::info!(client_id = client_id, reason:debug = reason; "connection closed");
            // Only behind whole packets, and only if the client takes it at once.
            let goodbye = Packet::Disconnect(Disconnect::new(reason)).encode();
            if let (true, Ok(bytes)) = (self.output.is_empty(), goodbye) {
                let _ = self.stream.try_write(bytes.as_ref());
            }
        }
        let mut broker = self.broker.borrow_mut();
        broker.waiting_bytes -= self.waiting_bytes;
        broker.disconnect(self.session, &self.link, with_will);
        broker.journal.flush();
    }
}

/// Read what is there; the end of the stream is an error.
fn read(stream: &TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    input.reserve(READ_BYTES);
    match stream.try_read_buf(input)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => Ok(count),
    }
}

/// Write a first answer; it is small, so it fits into the socket's buffer.
async fn write_all(stream: &TcpStream, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() && stream.writable().await.is_ok() {
        match stream.try_write(rest) {
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
