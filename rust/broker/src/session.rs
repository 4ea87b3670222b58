//! A client's session: its subscriptions and the messages that wait for it.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use mqtt_proto::v5::{DisconnectReasonCode, LastWill};
use tokio::sync::Notify;

use crate::acl::Permissions;
use crate::credentials::Password;
use crate::in_flight::InFlight;
use crate::message::{self, Envelope, Message};
use crate::subscription::Options;

/// Number of a session, never given twice.
pub type SessionId = u64;

/// QoS 0 messages beyond this are dropped; nobody was promised them.
const MAX_FLEETING: usize = 1000;

/// How the broker reaches the task of a connection.
#[derive(Debug)]
pub struct Link {
    pub wake: Notify,
    /// Set when the connection is to be closed.
    pub kick: Cell<Option<DisconnectReasonCode>>,
    pub last_seen: Cell<Instant>,
    /// The task does not read because a publish waits; silence is not the client's fault.
    pub paused: Cell<bool>,
    /// It stands in the list of those that wait for room.
    pub blocked: Cell<bool>,
    /// It stands in the list of those that wait for the journal.
    pub unanswered: Cell<bool>,
}

impl Link {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            wake: Notify::new(),
            kick: Cell::new(None),
            last_seen: Cell::new(Instant::now()),
            paused: Cell::new(false),
            blocked: Cell::new(false),
            unanswered: Cell::new(false),
        })
    }

    /// Close the connection with `reason`.
    pub fn kick(&self, reason: DisconnectReasonCode) {
        self.kick.set(Some(reason));
        self.wake.notify_one();
    }
}

/// What a connected client agreed on.
#[derive(Debug)]
pub struct Connection {
    pub link: Rc<Link>,
    pub password: Arc<Password>,
    pub receive_maximum: u16,
    pub max_packet_bytes: u32,
    pub keep_alive_s: u16,
}

/// A message on its way to one session.
#[derive(Debug)]
pub struct Delivery {
    pub id: u64,
    pub message: Rc<Message>,
    pub retain: bool,
    pub subscription_ids: Vec<u32>,
    pub group: Option<Arc<str>>,
}

/// What became of one call of `Session::send`.
#[derive(Debug, Default)]
pub struct Sent {
    pub messages: u64,
    /// Larger than the client takes.
    pub dropped: u64,
    /// QoS 1 deliveries that ended here: too large or expired.
    pub ended: Vec<Delivery>,
}

/// State that outlives a connection.
#[derive(Debug)]
pub struct Session {
    pub id: SessionId,
    pub client_id: Arc<str>,
    pub user: Arc<str>,
    pub permissions: Permissions,
    pub expiry_s: u32,
    /// It is in the journal.
    pub persistent: bool,
    pub connection: Option<Connection>,
    pub expires_at: Option<Instant>,
    pub will: Option<LastWill>,
    pub will_at: Option<Instant>,
    pub subscriptions: HashMap<Arc<str>, Options>,
    /// A publisher waits for room here.
    pub throttling: bool,
    pub bytes: usize,
    queue: VecDeque<Delivery>,
    in_flight: InFlight<Delivery>,
    fleeting: VecDeque<Delivery>,
}

impl Session {
    pub fn new(
        id: SessionId,
        client_id: Arc<str>,
        user: Arc<str>,
        permissions: Permissions,
    ) -> Self {
        Self {
            id,
            client_id,
            user,
            permissions,
            expiry_s: 0,
            persistent: false,
            connection: None,
            expires_at: None,
            will: None,
            will_at: None,
            subscriptions: HashMap::new(),
            throttling: false,
            bytes: 0,
            queue: VecDeque::new(),
            in_flight: InFlight::default(),
            fleeting: VecDeque::new(),
        }
    }

    /// Messages of QoS 1 that the client has not acknowledged.
    pub fn len(&self) -> usize {
        self.queue.len() + self.in_flight.len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Does the client owe acknowledgements?
    pub fn awaits_client(&self) -> bool {
        self.in_flight.outstanding > 0
    }

    /// Queue a QoS 1 delivery. Room was checked before.
    pub fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.message.footprint();
        self.queue.push_back(delivery);
        self.wake();
    }

    /// Queue a QoS 0 delivery for a connected client; false if it was dropped.
    pub fn push_fleeting(&mut self, delivery: Delivery) -> bool {
        let room = self.connection.is_some() && self.fleeting.len() < MAX_FLEETING;
        if room {
            self.fleeting.push_back(delivery);
            self.wake();
        }
        room
    }

    /// Take an acknowledged delivery out.
    pub fn acknowledge(&mut self, packet_id: u16) -> Option<Delivery> {
        let delivery = self.in_flight.take(packet_id)?;
        self.bytes -= delivery.message.footprint();
        Some(delivery)
    }

    /// A client took the session up.
    pub fn attach(&mut self, connection: Connection) {
        self.in_flight.restart();
        self.connection = Some(connection);
        self.expires_at = None;
        self.will_at = None;
    }

    /// The client went away; QoS 0 messages go with it.
    pub fn detach(&mut self) {
        self.connection = None;
        self.fleeting.clear();
    }

    /// Append packets to `out` until it holds `limit` bytes or the client's quota is used up.
    pub fn send(&mut self, out: &mut BytesMut, limit: usize) -> Sent {
        let mut sent = Sent::default();
        let Some(connection) = &self.connection else {
            return sent;
        };
        let max_bytes = connection.max_packet_bytes;
        let quota = usize::from(connection.receive_maximum);
        while out.len() < limit {
            let Some(delivery) = self.fleeting.pop_front() else {
                break;
            };
            sent.count(encode(&delivery, 0, false, max_bytes, out));
        }
        while out.len() < limit && self.in_flight.outstanding < quota {
            if let Some((packet_id, delivery)) = self.in_flight.next_again() {
                let fits = encode(delivery, packet_id, true, max_bytes, out);
                sent.count(fits);
                if !fits && let Some(delivery) = self.in_flight.take(packet_id) {
                    self.bytes -= delivery.message.footprint();
                    sent.ended.push(delivery);
                }
                continue;
            }
            let Some(packet_id) = self.in_flight.free_id() else {
                break;
            };
            let Some(delivery) = self.queue.pop_front() else {
                break;
            };
            let expired = delivery.message.is_expired();
            if !expired && encode(&delivery, packet_id, false, max_bytes, out) {
                sent.messages += 1;
                self.in_flight.push(delivery);
            } else {
                sent.dropped += u64::from(!expired);
                self.bytes -= delivery.message.footprint();
                sent.ended.push(delivery);
            }
        }
        sent
    }

    /// All QoS 1 deliveries, oldest first.
    pub fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.in_flight.iter().chain(&self.queue)
    }

    fn wake(&self) {
        if let Some(connection) = &self.connection {
            connection.link.wake.notify_one();
        }
    }
}

impl Sent {
    fn count(&mut self, sent: bool) {
        self.messages += u64::from(sent);
        self.dropped += u64::from(!sent);
    }
}

fn encode(
    delivery: &Delivery,
    packet_id: u16,
    duplicate: bool,
    max_bytes: u32,
    out: &mut BytesMut,
) -> bool {
    let subscription_ids = &delivery.subscription_ids;
    let envelope = Envelope { packet_id, duplicate, retain: delivery.retain, subscription_ids };
    message::encode(&delivery.message, envelope, max_bytes, out)
}
