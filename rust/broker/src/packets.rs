//! What each packet of a client does.

use std::sync::Arc;

use bytes::BufMut;
use mqtt_proto::v5::{
    Disconnect, DisconnectReasonCode as Reason, Packet, Puback, PubackReasonCode, Publish, Suback,
    Subscribe, SubscribeReasonCode, SubscriptionOptions, Unsuback, Unsubscribe,
    UnsubscribeReasonCode, VarByteInt,
};
use mqtt_proto::{Pid, QoS, QosPid};

use crate::broker::Broker;
use crate::connection::{Answer, Conversation, End, Waiting};
use crate::journal::Ticket;
use crate::message::Message;
use crate::routing::Published;
use crate::subscription::Options;
use crate::topic;

impl Conversation {
    pub(crate) fn handle(&mut self, packet: Packet) -> Result<(), End> {
        self.broker.borrow_mut().statistics.packets_received += 1;
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::Puback(puback) => {
                self.broker.borrow_mut().acknowledge(self.session, puback.pid.value());
                Ok(())
            }
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(&unsubscribe);
                Ok(())
            }
            Packet::Pingreq => {
                self.output.put_slice(&[0xd0, 0]);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.goodbye(&disconnect)),
            _ => Err(End::Broken(Reason::ProtocolError)),
        }
    }

    fn goodbye(&mut self, disconnect: &Disconnect) -> End {
        if let Some(expiry_s) = disconnect.properties.session_expiry_interval
            && !self.broker.borrow_mut().set_expiry(self.session, expiry_s)
        {
            return End::Broken(Reason::ProtocolError);
        }
        End::Goodbye { with_will: disconnect.reason_code != Reason::NormalDisconnect }
    }

    fn publish(&mut self, publish: Publish) -> Result<(), End> {
        if publish.properties.topic_alias.is_some() {
            return Err(End::Broken(Reason::TopicAliasInvalid));
        }
        if publish.topic_name.is_empty() || publish.properties.subscription_id.is_some() {
            return Err(End::Broken(Reason::ProtocolError));
        }
        let packet_id = match publish.qos_pid {
            QosPid::Level0 => None,
            QosPid::Level1(packet_id) => Some(packet_id),
            QosPid::Level2(_) => return Err(End::Broken(Reason::QoSNotSupported)),
        };
        if packet_id.is_some() && self.unacknowledged + self.waiting.len() >= self.receive_maximum {
            return Err(End::Broken(Reason::ReceiveMaximumExceeded));
        }
        let mut broker = self.broker.borrow_mut();
        broker.statistics.publishes_received += 1;
        let allowed = broker.may_write(self.session, &publish.topic_name);
        let retain = publish.retain;
        let message = Message::from_publish(broker.next_message(), publish);
        let Some(packet_id) = packet_id else {
            if allowed {
                broker.publish(self.session, &self.link, message, retain);
            }
            return Ok(());
        };
        drop(broker);
        if !allowed && self.waiting.is_empty() {
            self.acknowledge(packet_id, PubackReasonCode::NotAuthorized, 0);
        } else {
            // Behind those that wait already: the order of a publisher is kept.
            self.waiting_bytes += message.footprint();
            self.broker.borrow_mut().waiting_bytes += message.footprint();
            self.waiting.push_back(Waiting { packet_id, message, retain });
            if self.waiting.len() == 1 {
                self.retry_waiting();
            }
        }
        Ok(())
    }

    /// Publish what waits, as far as there is room.
    pub(crate) fn retry_waiting(&mut self) {
        while let Some(Waiting { packet_id, message, retain }) = self.waiting.pop_front() {
            let bytes = message.footprint();
            let mut broker = self.broker.borrow_mut();
            let published = match broker.may_write(self.session, message.topic()) {
                true => broker.publish(self.session, &self.link, message, retain),
                false => Published::Taken(PubackReasonCode::NotAuthorized, 0),
            };
            drop(broker);
            match published {
                Published::Taken(reason, ticket) => {
                    self.waiting_bytes -= bytes;
                    self.broker.borrow_mut().waiting_bytes -= bytes;
                    self.acknowledge(packet_id, reason, ticket);
                }
                Published::Blocked(message) => {
                    self.waiting.push_front(Waiting { packet_id, message, retain });
                    break;
                }
            }
        }
    }

    fn acknowledge(&mut self, packet_id: Pid, reason: PubackReasonCode, ticket: Ticket) {
        self.unacknowledged += 1;
        let packet = Packet::Puback(Puback::new(packet_id, reason));
        self.answers.push_back(Answer { ticket, packet });
    }

    fn subscribe(&mut self, subscribe: &Subscribe) -> Result<(), End> {
        let identifier = subscribe.properties.subscription_id.map_or(0, VarByteInt::value);
        if subscribe.properties.subscription_id.is_some() && identifier == 0 {
            return Err(End::Broken(Reason::ProtocolError));
        }
        if subscribe.topics.iter().any(|(filter, asked)| asked.no_local && filter.is_shared()) {
            return Err(End::Broken(Reason::ProtocolError));
        }
        let mut broker = self.broker.borrow_mut();
        let wanted = subscribe.topics.iter();
        let reasons = wanted
            .map(|(filter, asked)| self.subscribe_one(&mut broker, filter, *asked, identifier))
            .collect();
        let ticket = broker.journal.last_ticket();
        drop(broker);
        let packet = Packet::Suback(Suback::new(subscribe.pid, reasons));
        self.answers.push_back(Answer { ticket, packet });
        Ok(())
    }

    fn subscribe_one(
        &self,
        broker: &mut Broker,
        filter: &str,
        asked: SubscriptionOptions,
        identifier: u32,
    ) -> SubscribeReasonCode {
        if !topic::is_filter(filter) {
            return SubscribeReasonCode::TopicFilterInvalid;
        }
        if !broker.may_subscribe(self.session, filter) {
            return SubscribeReasonCode::NotAuthorized;
        }
        if broker.subscriptions(self.session) >= self.max_subscriptions {
            return SubscribeReasonCode::QuotaExceeded;
        }
        let durable = asked.max_qos != QoS::Level0;
        let options = Options {
            durable,
            no_local: asked.no_local,
            retain_as_published: asked.retain_as_published,
            identifier,
        };
        let filter: Arc<str> = filter.into();
        broker.subscribe(self.session, &filter, options, asked.retain_handling);
        match durable {
            true => SubscribeReasonCode::GrantedQoS1,
            false => SubscribeReasonCode::GrantedQoS0,
        }
    }

    fn unsubscribe(&mut self, unsubscribe: &Unsubscribe) {
        let mut broker = self.broker.borrow_mut();
        let removed = unsubscribe.topics.iter().map(|filter| {
            match broker.unsubscribe(self.session, filter) {
                true => UnsubscribeReasonCode::Success,
                false => UnsubscribeReasonCode::NoSubscriptionExisted,
            }
        });
        let reasons = removed.collect();
        let ticket = broker.journal.last_ticket();
        drop(broker);
        let packet = Packet::Unsuback(Unsuback::new(unsubscribe.pid, reasons));
        self.answers.push_back(Answer { ticket, packet });
    }
}
