//! From a published message to the queues of its subscribers.

use std::rc::Rc;
use std::sync::Arc;

use mqtt_proto::v5::PubackReasonCode;

use crate::broker::Broker;
use crate::journal::Ticket;
use crate::message::Message;
use crate::record::{Record, Target};
use crate::session::{Delivery, Link, Session, SessionId};
use crate::subscription::{Group, Match, Options};
use crate::topic;

/// What became of a published message.
#[derive(Debug)]
pub enum Published {
    /// To be acknowledged with this reason, once the commit is on disk.
    Taken(PubackReasonCode, Ticket),
    /// A subscriber has no room: to be tried again, and not acknowledged until then.
    Blocked(Message),
}

/// One subscriber of a message.
#[derive(Debug)]
struct Route {
    session: SessionId,
    durable: bool,
    retain: bool,
    subscription_ids: Vec<u32>,
    group: Option<Arc<str>>,
}

impl Broker {
    /// Publish a message of a client.
    pub fn publish(
        &mut self,
        publisher: SessionId,
        link: &Rc<Link>,
        message: Message,
        retain: bool,
    ) -> Published {
        if retain && self.retained.is_full_for(&message, &self.limits) {
            return Published::Taken(PubackReasonCode::QuotaExceeded, 0);
        }
        let routes = self.routes(&message, retain, Some(publisher));
        if message.durable && !self.make_room(&routes) {
            if !link.blocked.replace(true) {
                self.blocked.push(link.clone());
            }
            return Published::Blocked(message);
        }
        let reason = match routes.is_empty() {
            true => PubackReasonCode::NoMatchingSubscribers,
            false => PubackReasonCode::Success,
        };
        let ticket = self.distribute(message, routes, retain);
        Published::Taken(reason, ticket)
    }

    /// Publish a message that cannot wait: a will, a figure of the broker itself.
    pub(crate) fn publish_anyway(&mut self, message: Message, retain: bool) {
        let routes = self.routes(&message, retain, None);
        let retain = retain && !self.retained.is_full_for(&message, &self.limits);
        self.distribute(message, routes, retain);
    }

    /// Every session that is to get the message, once for its own subscriptions together and
    /// once for each group in which it was chosen.
    fn routes(&self, message: &Message, retain: bool, publisher: Option<SessionId>) -> Vec<Route> {
        let mut matches = Vec::new();
        self.tree.find(message.topic(), &mut matches);
        let mut routes: Vec<Route> = Vec::with_capacity(matches.len());
        for found in matches {
            let (session, options, group) = match found {
                Match::Plain(session, options) => (session, options, None),
                Match::Shared(group) => match self.choose(group, message.durable) {
                    Some((session, options)) => (session, options, Some(group.filter.clone())),
                    None => continue,
                },
            };
            if self.may_deliver(session, options, message, publisher) {
                routes.push(Route {
                    session,
                    durable: message.durable && options.durable,
                    retain: retain && options.retain_as_published,
                    subscription_ids: match options.identifier {
                        0 => Vec::new(),
                        id => vec![id],
                    },
                    group,
                });
            }
        }
        if routes.len() > 1 {
            merge_overlapping(&mut routes);
        }
        routes
    }

    fn may_deliver(
        &self,
        session: SessionId,
        options: Options,
        message: &Message,
        publisher: Option<SessionId>,
    ) -> bool {
        let Some(found) = self.sessions.get(&session) else {
            return false;
        };
        !(options.no_local && publisher == Some(session))
            && (!found.permissions.has_denials() || found.permissions.may_read(message.topic()))
    }

    /// The member of a group whose turn it is: a connected one with the shortest queue, or,
    /// for QoS 1, an absent one whose session is kept.
    fn choose(&self, group: &Group, durable: bool) -> Option<(SessionId, Options)> {
        let mut best = None;
        for (index, &(id, options)) in group.in_turn() {
            let Some(session) = self.sessions.get(&id) else {
                continue;
            };
            let connected = session.connection.is_some();
            if !(connected || durable && options.durable) {
                continue;
            }
            let cost = (!self.has_room(session), !connected, session.len());
            if best.as_ref().is_none_or(|(least, _, _)| cost < *least) {
                best = Some((cost, index, (id, options)));
            }
            if cost == (false, false, 0) {
                break;
            }
        }
        let (_, index, member) = best?;
        group.chosen(index);
        Some(member)
    }

    fn has_room(&self, session: &Session) -> bool {
        session.len() < self.limits.max_queued_messages
            && session.bytes < self.limits.max_queued_bytes
    }

    /// Is there room for all of them? Notes who is waited for if not.
    fn make_room(&mut self, routes: &[Route]) -> bool {
        let mut durable = routes.iter().filter(|route| route.durable).peekable();
        if durable.peek().is_some() && self.bytes >= self.limits.max_total_queued_bytes {
            self.throttling = true;
            return false;
        }
        for route in durable {
            let full = self.sessions.get(&route.session).is_some_and(|s| !self.has_room(s));
            if full {
                // Any member of the group that finds room again will do.
                let members = route.group.as_deref().and_then(|filter| self.tree.group(filter));
                let members = members.map_or(&[][..], |group| &group.members);
                let waited_for = members.iter().map(|member| member.0).chain([route.session]);
                for id in waited_for {
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.throttling = true;
                    }
                }
                return false;
            }
        }
        true
    }

    /// Queue the message for all of them, and log it if one of them is to survive a crash.
    fn distribute(&mut self, message: Message, routes: Vec<Route>, retain: bool) -> Ticket {
        let message = Rc::new(message);
        let mut ticket = 0;
        if retain {
            if !topic::hidden_from_wildcards(message.topic()) {
                let message = Message::clone(&message);
                ticket = self.journal.append(Record::Retain { message });
            }
            self.retained.put(message.clone());
        }
        let mut targets = Vec::new();
        for route in routes {
            let Some(session) = self.sessions.get_mut(&route.session) else {
                continue;
            };
            self.last_delivery += 1;
            let delivery = Delivery {
                id: self.last_delivery,
                message: message.clone(),
                retain: route.retain,
                subscription_ids: route.subscription_ids,
                group: route.group,
            };
            if !route.durable {
                let kept = session.push_fleeting(delivery);
                self.statistics.publishes_dropped +=
                    u64::from(!kept && session.connection.is_some());
                continue;
            }
            if session.persistent {
                targets.push(target(&delivery, session.id));
            }
            self.bytes += message.footprint();
            session.push(delivery);
        }
        if !targets.is_empty() {
            let message = Message::clone(&message);
            ticket = self.journal.append(Record::Message { message, targets });
        }
        ticket
    }

    /// A new subscriber gets a retained message.
    pub(crate) fn deliver_retained(
        &mut self,
        id: SessionId,
        message: &Rc<Message>,
        options: Options,
    ) {
        let readable = self.may_deliver(id, options, message, None);
        if !readable {
            return;
        }
        let route = Route {
            session: id,
            durable: message.durable && options.durable,
            retain: true,
            subscription_ids: match options.identifier {
                0 => Vec::new(),
                identifier => vec![identifier],
            },
            group: None,
        };
        // A message under its own number, as the journal knows the retained one by its topic.
        let mut message = Message::clone(message);
        message.id = self.next_message();
        self.distribute(message, vec![route], false);
    }

    /// Give a delivery of a session that ended to another member of its group.
    pub(crate) fn redistribute(&mut self, delivery: &Delivery) -> bool {
        let group = delivery.group.as_deref().and_then(|filter| self.tree.group(filter));
        let Some((id, _)) = group.and_then(|group| self.choose(group, true)) else {
            return false;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return false;
        };
        self.last_delivery += 1;
        let moved = Delivery {
            id: self.last_delivery,
            message: delivery.message.clone(),
            retain: delivery.retain,
            subscription_ids: delivery.subscription_ids.clone(),
            group: delivery.group.clone(),
        };
        if session.persistent {
            // Whole, as the session that ended may not have been in the journal.
            let targets = vec![target(&moved, id)];
            let message = Message::clone(&moved.message);
            self.journal.append(Record::Message { message, targets });
        }
        self.bytes += moved.message.footprint();
        session.push(moved);
        true
    }
}

pub(crate) fn target(delivery: &Delivery, session: SessionId) -> Target {
    Target {
        delivery: delivery.id,
        session,
        retain: delivery.retain,
        subscription_ids: delivery.subscription_ids.clone(),
        group: delivery.group.clone(),
    }
}

/// Several subscriptions of one session are served by one packet (section 3.3.4).
fn merge_overlapping(routes: &mut Vec<Route>) {
    routes.sort_by(|a, b| (a.session, &a.group).cmp(&(b.session, &b.group)));
    routes.dedup_by(|next, kept| {
        let same = next.session == kept.session && next.group == kept.group;
        if same {
            kept.durable |= next.durable;
            kept.retain |= next.retain;
            kept.subscription_ids.append(&mut next.subscription_ids);
        }
        same
    });
}

#[cfg(test)]
mod tests;
