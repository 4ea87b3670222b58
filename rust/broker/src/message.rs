//! A published message, in the form in which it is queued, logged and sent.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use mqtt_proto::v5::{LastWill, Publish, PublishProperties};
use mqtt_proto::{Encodable, QoS, var_int_len};
use serde::{Deserialize, Serialize};

/// A message without what differs from subscriber to subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Ascending in the order of arrival.
    pub id: u64,
    /// QoS 1, otherwise 0.
    pub durable: bool,
    /// Seconds since 1970; 0 is never.
    pub expires_at: u64,
    topic_len: u16,
    /// Topic, properties with their length in front, payload: as in a PUBLISH packet.
    body: Bytes,
}

impl Message {
    /// Take over a PUBLISH. Properties that concern one hop only are left behind.
    pub fn from_publish(id: u64, publish: Publish) -> Self {
        let durable = publish.qos_pid.qos() != QoS::Level0;
        Self::new(id, durable, &publish.topic_name, publish.properties, &publish.payload)
    }

    /// The will of a client, to be published now.
    pub fn from_will(id: u64, will: LastWill) -> Self {
        let properties = PublishProperties {
            payload_is_utf8: will.properties.payload_is_utf8,
            message_expiry_interval: will.properties.message_expiry_interval,
            response_topic: will.properties.response_topic,
            correlation_data: will.properties.correlation_data,
            user_properties: will.properties.user_properties,
            content_type: will.properties.content_type,
            ..PublishProperties::default()
        };
        Self::new(id, will.qos != QoS::Level0, &will.topic_name, properties, &will.payload)
    }

    /// A QoS 0 message of the broker itself.
    pub fn of_broker(id: u64, topic: &str, payload: &str) -> Self {
        Self::new(id, false, topic, PublishProperties::default(), payload.as_bytes())
    }

    fn new(
        id: u64,
        durable: bool,
        topic: &str,
        mut properties: PublishProperties,
        payload: &[u8],
    ) -> Self {
        let expires_at = properties
            .message_expiry_interval
            .take()
            .map_or(0, |seconds| now_s() + u64::from(seconds));
        properties.topic_alias = None;
        properties.subscription_id = None;
        let mut body = Vec::with_capacity(topic.len() + properties.encode_len() + payload.len());
        body.extend_from_slice(topic.as_bytes());
        if properties.encode(&mut body).is_err() {
            // Writing to a Vec cannot fail; a message without properties is better than none.
            body.truncate(topic.len());
            body.push(0);
        }
        body.extend_from_slice(payload);
        Self { id, durable, expires_at, topic_len: topic.len() as u16, body: body.into() }
    }

    pub fn topic(&self) -> &str {
        let topic = self.body.get(..usize::from(self.topic_len)).unwrap_or_default();
        // It was UTF-8 when it came, and the journal is checksummed.
        std::str::from_utf8(topic).unwrap_or_default()
    }

    /// Properties with their length, then the payload.
    fn rest(&self) -> &[u8] {
        self.body.get(usize::from(self.topic_len)..).unwrap_or_default()
    }

    /// An empty payload clears a retained message.
    pub fn is_empty(&self) -> bool {
        let (length, digits) = read_var_int(self.rest());
        self.rest().len() <= length + digits
    }

    /// Memory that a queued message takes, about.
    pub fn footprint(&self) -> usize {
        self.body.len() + 128
    }

    pub fn is_expired(&self) -> bool {
        self.expires_at != 0 && self.expires_at <= now_s()
    }
}

/// What differs from subscriber to subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// 0 for QoS 0.
    pub packet_id: u16,
    pub duplicate: bool,
    pub retain: bool,
    pub subscription_ids: &'a [u32],
}

/// Append a PUBLISH packet, unless it would be longer than `max_bytes`.
pub fn encode(
    message: &Message,
    envelope: Envelope<'_>,
    max_bytes: u32,
    out: &mut BytesMut,
) -> bool {
    let rest = message.rest();
    let (properties_len, digits) = read_var_int(rest);
    let remaining_s = match message.expires_at {
        0 => None,
        at => Some(at.saturating_sub(now_s()) as u32),
    };
    let extra_len = remaining_s.map_or(0, |_| 5)
        + envelope.subscription_ids.iter().map(|&id| 1 + width(id as usize)).sum::<usize>();
    let properties_len = properties_len + extra_len;
    let topic = &message.body[..usize::from(message.topic_len)];
    let packet_id_len = if envelope.packet_id == 0 { 0 } else { 2 };
    let length =
        2 + topic.len() + packet_id_len + width(properties_len) + extra_len + rest.len() - digits;
    if 1 + width(length) + length > max_bytes as usize {
        return false;
    }
    out.reserve(5 + length);
    out.put_u8(
        0x30 | u8::from(envelope.duplicate) << 3
            | u8::from(envelope.packet_id != 0) << 1
            | u8::from(envelope.retain),
    );
    put_var_int(out, length);
    out.put_u16(message.topic_len);
    out.put_slice(topic);
    if envelope.packet_id != 0 {
        out.put_u16(envelope.packet_id);
    }
    put_var_int(out, properties_len);
    if let Some(seconds) = remaining_s {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    for &id in envelope.subscription_ids {
        out.put_u8(0x0B);
        put_var_int(out, id as usize);
    }
    out.put_slice(rest.get(digits..).unwrap_or_default());
    true
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

fn width(value: usize) -> usize {
    var_int_len(value).unwrap_or(4)
}

fn put_var_int(out: &mut BytesMut, mut value: usize) {
    loop {
        let more = value > 0x7f;
        out.put_u8((value & 0x7f) as u8 | u8::from(more) << 7);
        value >>= 7;
        if !more {
            return;
        }
    }
}

/// Value of a variable byte integer and its width, of data that were valid when they came.
fn read_var_int(data: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (index, &byte) in data.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return (value, index + 1);
        }
    }
    (value, data.len().min(4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_proto::v5::{Packet, UserProperty};
    use mqtt_proto::{Pid, QosPid, TopicName};
    use proptest::prelude::*;

    fn publish(topic: &str, payload: &[u8], users: Vec<(String, String)>) -> Publish {
        let mut publish = Publish::new(
            QosPid::Level1(Pid::try_from(7).unwrap()),
            TopicName::try_from(topic).unwrap(),
            Bytes::copy_from_slice(payload),
        );
        publish.properties.user_properties = users
            .into_iter()
            .map(|(name, value)| UserProperty { name: name.into(), value: value.into() })
            .collect();
        publish
    }

    fn sent(message: &Message, envelope: Envelope<'_>) -> Publish {
        let mut out = BytesMut::new();
        assert!(encode(message, envelope, u32::MAX, &mut out));
        assert!(!encode(message, envelope, out.len() as u32 - 1, &mut BytesMut::new()));
        match Packet::decode(&out).unwrap().unwrap() {
            Packet::Publish(publish) => publish,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_message_is_sent_as_it_came(
            topic in "[a-z/]{1,200}", payload in prop::collection::vec(any::<u8>(), 0..300),
            users in prop::collection::vec(("[a-z]{0,90}", "[a-z]{0,90}"), 0..3),
            packet_id in 1u16.., duplicate: bool, retain: bool
        ) {
            let came = publish(&topic, &payload, users);
            let message = Message::from_publish(1, came.clone());
            prop_assert_eq!(message.topic(), &topic);
            prop_assert_eq!(message.is_empty(), payload.is_empty());
            let envelope = Envelope { packet_id, duplicate, retain, subscription_ids: &[] };
            let mut expected = came;
            expected.qos_pid = QosPid::Level1(Pid::try_from(packet_id).unwrap());
            (expected.dup, expected.retain) = (duplicate, retain);
            prop_assert_eq!(sent(&message, envelope), expected);
        }

        #[test]
        fn a_subscription_id_and_the_remaining_time_are_added(id in 1u32..268_435_455) {
            let mut came = publish("t", b"x", vec![("a".into(), "b".repeat(120))]);
            came.properties.message_expiry_interval = Some(1000);
            came.properties.topic_alias = Some(3);
            let message = Message::from_publish(1, came);
            let ids = [id];
            let envelope = Envelope { packet_id: 0, duplicate: false, retain: false, subscription_ids: &ids };
            let properties = sent(&message, envelope).properties;
            prop_assert!((998..=1000).contains(&properties.message_expiry_interval.unwrap()));
            prop_assert_eq!(properties.subscription_id.unwrap().value(), id);
            prop_assert_eq!(properties.topic_alias, None);
            prop_assert_eq!(properties.user_properties.len(), 1);
        }
    }
}
