//! The durable state as records of the journal, and back.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::acl::Permissions;
use crate::broker::Broker;
use crate::message::Message;
use crate::presence::session_record;
use crate::record::{Record, Target};
use crate::routing::target;
use crate::session::{Delivery, Session, SessionId};

/// Deliveries that were not acknowledged, by session and in the order of queueing.
type Open = HashMap<SessionId, BTreeMap<u64, (Rc<Message>, Target)>>;

impl Broker {
    /// Records that describe the whole durable state. Payloads are shared, not copied.
    pub fn snapshot(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let mut messages: BTreeMap<u64, (&Rc<Message>, Vec<Target>)> = BTreeMap::new();
        for session in self.sessions.values().filter(|session| session.persistent) {
            records.push(session_record(session));
            for (filter, &options) in &session.subscriptions {
                let (session, filter) = (session.id, filter.clone());
                records.push(Record::Subscribe { session, filter, options });
            }
            for delivery in session.deliveries() {
                let entry = messages.entry(delivery.message.id);
                let (_, targets) = entry.or_insert((&delivery.message, Vec::new()));
                targets.push(target(delivery, session.id));
            }
        }
        for (message, targets) in messages.into_values() {
            records.push(Record::Message { message: Message::clone(message), targets });
        }
        let retained = self.retained.durable();
        records.extend(retained.map(|message| Record::Retain { message: Message::clone(message) }));
        records
    }

    /// Rebuild the state from the records of an earlier run.
    ///
    /// Sessions begin to expire anew. What was in flight is queued, under new packet ids.
    pub fn restore(&mut self, records: Vec<Record>) {
        let mut open = Open::new();
        let mut shared: HashMap<u64, Rc<Message>> = HashMap::new();
        for record in records {
            match record {
                Record::Session { session: id, client_id, user, expiry_s } => {
                    self.last_session = self.last_session.max(id);
                    self.clients.insert(client_id.clone(), id);
                    let fresh = || Session::new(id, client_id, user, Permissions::default());
                    let session = self.sessions.entry(id).or_insert_with(fresh);
                    (session.expiry_s, session.persistent) = (expiry_s, true);
                }
                Record::SessionEnd { session } => {
                    open.remove(&session);
                    if let Some(ended) = self.sessions.remove(&session) {
                        self.clients.remove(&ended.client_id);
                    }
                }
                Record::Subscribe { session, filter, options } => {
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.subscriptions.insert(filter, options);
                    }
                }
                Record::Unsubscribe { session, filter } => {
                    if let Some(session) = self.sessions.get_mut(&session) {
                        session.subscriptions.remove(&filter);
                    }
                }
                Record::Message { message, targets } => {
                    self.last_message = self.last_message.max(message.id);
                    let id = message.id;
                    let message = shared.entry(id).or_insert_with(|| Rc::new(message));
                    for target in targets {
                        self.last_delivery = self.last_delivery.max(target.delivery);
                        let deliveries = open.entry(target.session).or_default();
                        deliveries.insert(target.delivery, (message.clone(), target));
                    }
                }
                Record::Acknowledge { session, delivery } => {
                    let done = open.get_mut(&session).and_then(|open| open.remove(&delivery));
                    // The last delivery of a message takes it out of memory.
                    if let Some((message, _)) = done
                        && Rc::strong_count(&message) == 2
                    {
                        shared.remove(&message.id);
                    }
                }
                Record::Retain { message } => {
                    self.last_message = self.last_message.max(message.id);
                    self.retained.put(Rc::new(message));
                }
            }
        }
        drop(shared);
        self.revive(open);
    }

    fn revive(&mut self, mut open: Open) {
        let now = Instant::now();
        for session in self.sessions.values_mut() {
            session.permissions =
                self.credentials.acl.permissions(&session.user, &session.client_id);
            session.expires_at = Some(now + Duration::from_secs(u64::from(session.expiry_s)));
            for (filter, &options) in &session.subscriptions {
                self.tree.insert(filter, session.id, options);
            }
            for (message, target) in open.remove(&session.id).unwrap_or_default().into_values() {
                session.push(Delivery {
                    id: target.delivery,
                    message,
                    retain: target.retain,
                    subscription_ids: target.subscription_ids,
                    group: target.group,
                });
            }
            self.bytes += session.bytes;
        }
    }
}
