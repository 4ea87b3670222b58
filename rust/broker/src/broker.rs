//! The state of the broker: subscriptions, acknowledgements, figures.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use mqtt_proto::v5::{DisconnectReasonCode, RetainHandling};

use crate::config::Limits;
use crate::credentials::Credentials;
use crate::journal::{Journal, Written};
use crate::message::Message;
use crate::record::Record;
use crate::retained::Retained;
use crate::session::{Delivery, Link, Session, SessionId};
use crate::statistics::{Gauges, Statistics};
use crate::subscription::{Options, Tree};
use crate::topic;

/// Everything the broker knows; owned by one thread.
#[derive(Debug)]
pub struct Broker {
    pub limits: Limits,
    pub credentials: Credentials,
    pub statistics: Statistics,
    pub journal: Journal,
    pub(crate) sessions: HashMap<SessionId, Session>,
    pub(crate) clients: HashMap<Arc<str>, SessionId>,
    pub(crate) tree: Tree,
    pub(crate) retained: Retained,
    pub(crate) last_session: SessionId,
    pub(crate) last_message: u64,
    pub(crate) last_delivery: u64,
    /// Bytes that wait in all sessions together.
    pub(crate) bytes: usize,
    /// A publisher waits for room in memory.
    pub(crate) throttling: bool,
    /// Bytes of publishes that found no room, on all connections together.
    pub(crate) waiting_bytes: usize,
    /// Connections with a publish that found no room.
    pub(crate) blocked: Vec<Rc<Link>>,
    /// Connections with answers that wait for the journal.
    pub(crate) unanswered: Vec<Rc<Link>>,
}

impl Broker {
    pub fn new(limits: Limits, credentials: Credentials, journal: Journal) -> Self {
        Self {
            limits,
            credentials,
            statistics: Statistics::default(),
            journal,
            sessions: HashMap::new(),
            clients: HashMap::new(),
            tree: Tree::default(),
            retained: Retained::default(),
            last_session: 0,
            last_message: 0,
            last_delivery: 0,
            bytes: 0,
            throttling: false,
            waiting_bytes: 0,
            blocked: Vec::new(),
            unanswered: Vec::new(),
        }
    }

    /// Take new credentials: sessions of removed users end, changed passwords disconnect, and
    /// subscriptions that are not allowed any more are removed.
    pub fn reload(&mut self, credentials: Credentials) {
        self.credentials = credentials;
        let passwords = &self.credentials.passwords;
        let gone = self.ids(|session| !passwords.contains_key(&*session.user));
        let ended = gone.len();
        for id in gone {
            self.end(id, false);
        }
        let mut forbidden = Vec::new();
        for session in self.sessions.values_mut() {
            let (acl, passwords) = (&self.credentials.acl, &self.credentials.passwords);
            session.permissions = acl.permissions(&session.user, &session.client_id);
            if let Some(connection) = &session.connection
                && passwords.get(&*session.user) != Some(&connection.password)
            {
                connection.link.kick(DisconnectReasonCode::NotAuthorized);
            }
            let filters = session.subscriptions.keys();
            let lost = filters.filter(|filter| !session.permissions.may_subscribe(filter));
            forbidden.extend(lost.map(|filter| (session.id, filter.clone())));
        }
        ::log::info!(users = self.credentials.passwords.len(), sessions_ended = ended, subscriptions_removed = forbidden.len(); "credentials reloaded");
        for (id, filter) in forbidden {
            self.unsubscribe(id, &filter);
        }
        self.journal.flush();
    }

    /// Subscribe a session; the filter was checked. Retained messages follow.
    pub fn subscribe(
        &mut self,
        id: SessionId,
        filter: &Arc<str>,
        options: Options,
        retain: RetainHandling,
    ) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let known = session.subscriptions.insert(filter.clone(), options).is_some();
        self.tree.insert(filter, id, options);
        if session.persistent {
            let filter = filter.clone();
            self.journal.append(Record::Subscribe { session: id, filter, options });
        }
        let (group, plain) = topic::split_shared(filter);
        let wanted = match retain {
            RetainHandling::SendAtSubscribe => true,
            RetainHandling::SendAtSubscribeIfNotExist => !known,
            RetainHandling::DoNotSend => false,
        };
        if wanted && group.is_none() {
            for message in self.retained.matching(plain) {
                self.deliver_retained(id, &message, options);
            }
        }
        self.wake_blocked();
    }

    /// Remove a subscription; false if there is none.
    pub fn unsubscribe(&mut self, id: SessionId, filter: &str) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        let Some((filter, _)) = session.subscriptions.remove_entry(filter) else {
            return false;
        };
        self.tree.remove(&filter, id);
        if session.persistent {
            self.journal.append(Record::Unsubscribe { session: id, filter });
        }
        self.wake_blocked();
        true
    }

    /// Take a PUBACK.
    pub fn acknowledge(&mut self, id: SessionId, packet_id: u16) {
        let delivery = self.sessions.get_mut(&id).and_then(|s| s.acknowledge(packet_id));
        if let Some(delivery) = delivery {
            self.finish(id, &delivery);
        }
    }

    /// Append what the client of `link` may get now to `out`, up to `limit` bytes.
    pub fn send(&mut self, id: SessionId, link: &Rc<Link>, out: &mut BytesMut, limit: usize) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.connection.as_ref().is_none_or(|c| !Rc::ptr_eq(&c.link, link)) {
            return;
        }
        let sent = session.send(out, limit);
        self.statistics.publishes_sent += sent.messages;
        self.statistics.packets_sent += sent.messages;
        self.statistics.publishes_dropped += sent.dropped;
        for delivery in &sent.ended {
            self.finish(id, delivery);
        }
    }

    /// A delivery is over: forget it, and let publishers go on if there is room now.
    fn finish(&mut self, id: SessionId, delivery: &Delivery) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.bytes -= delivery.message.footprint();
        if session.persistent {
            self.journal.append(Record::Acknowledge { session: id, delivery: delivery.id });
        }
        let roomy = session.len() <= self.limits.max_queued_messages / 4 * 3
            && session.bytes <= self.limits.max_queued_bytes / 4 * 3;
        if session.throttling && roomy {
            session.throttling = false;
            self.wake_blocked();
        }
        if self.throttling && self.bytes <= self.limits.max_total_queued_bytes / 4 * 3 {
            self.throttling = false;
            self.wake_blocked();
        }
    }

    /// Let every publisher that waits for room try again.
    pub(crate) fn wake_blocked(&mut self) {
        for link in self.blocked.drain(..) {
            link.blocked.set(false);
            link.wake.notify_one();
        }
    }

    /// The journal has written: answers may go out, and the next commit may begin.
    pub fn note_written(&mut self, written: &Written) {
        self.journal.note(written);
        for link in self.unanswered.drain(..) {
            link.unanswered.set(false);
            link.wake.notify_one();
        }
        if self.journal.wants_replacement(self.limits.compact_bytes) {
            let records = self.snapshot();
            self.journal.replace(records);
        } else {
            self.journal.flush();
        }
    }

    /// Wake this connection when the journal has written more.
    pub fn await_journal(&mut self, link: &Rc<Link>) {
        if !link.unanswered.replace(true) {
            self.unanswered.push(link.clone());
        }
    }

    /// Publish the `$SYS` topics.
    pub fn publish_statistics(&mut self) {
        let gauges = Gauges {
            sessions: self.sessions.len(),
            subscriptions: self.tree.len,
            retained: self.retained.len(),
            stored_messages: self.message_count(),
            stored_bytes: self.bytes,
        };
        for (topic, value) in self.statistics.topics(gauges) {
            let message = Message::of_broker(self.next_message(), topic, &value);
            self.publish_anyway(message, true);
        }
    }

    /// Close all connections, as the broker is about to stop.
    pub fn kick_all(&self, reason: DisconnectReasonCode) {
        let connections = self.sessions.values().filter_map(|session| session.connection.as_ref());
        connections.for_each(|connection| connection.link.kick(reason));
    }

    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// QoS 1 messages that wait, counted once for every session.
    pub fn message_count(&self) -> usize {
        self.sessions.values().map(Session::len).sum()
    }

    /// May the client of this session publish to the topic `name`?
    pub fn may_write(&self, id: SessionId, name: &str) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.permissions.may_write(name))
    }

    /// May the client of this session subscribe to `filter`?
    pub fn may_subscribe(&self, id: SessionId, filter: &str) -> bool {
        self.sessions.get(&id).is_some_and(|session| session.permissions.may_subscribe(filter))
    }

    pub fn subscriptions(&self, id: SessionId) -> usize {
        self.sessions.get(&id).map_or(0, |session| session.subscriptions.len())
    }

    /// Does the client of this session owe acknowledgements?
    pub fn awaits_client(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(Session::awaits_client)
    }

    /// A number that nobody can guess, for assigned client ids.
    pub fn random_number(&self) -> u64 {
        RandomState::new().hash_one(self.last_session)
    }

    pub fn next_message(&mut self) -> u64 {
        self.last_message += 1;
        self.last_message
    }
}
