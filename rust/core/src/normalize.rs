//! Stage `normalize`: the three payload shapes to rows (reference section 4.1).
//!
//! First match: `messages[]` each with `readings[]`; `readings[]`; a single object or value.
//! A reading that cannot pass is rejected alone; its neighbors are stored.

use crate::extra::{self, Extra};
use crate::fields::{Device, Fields, is_name, number, truthy};
use crate::limits::Limits;
use crate::reading::{Protocol, Quality};
use crate::reject::{Reason, Reject};
use crate::rows::{Row, Rows, Series, Span};
use crate::time;
use crate::value::Value;

/// What surrounds a payload: where it came from, and what stands in for what it omits.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// Index into [`Rows::agents`].
    pub agent: u32,
    /// Index of the message within the batch.
    pub message: u32,
    pub device_name: Option<&'a str>,
    pub timestamp: Value<'a>,
    /// Said by the entry's metadata: counts before anything in the payload.
    pub protocol: Option<Protocol>,
    /// Said by the topic: counts after everything in the payload.
    pub topic_protocol: Option<Protocol>,
    /// Last resort for a metric's name: what follows `endpoints/` in the topic.
    pub topic_name: &'a str,
    pub received_us: i64,
}

/// What became of the readings of one message, besides the rows.
#[derive(Debug, Default)]
pub struct Tally {
    pub readings: u32,
    pub dropped: u32,
    /// Rejected readings by reason, with the first sentence of each.
    pub rejects: Vec<(Reject, u32)>,
}

impl Tally {
    fn reject(&mut self, reject: Reject) {
        match self.rejects.iter_mut().find(|(known, _)| known.reason == reject.reason) {
            Some((_, count)) => *count += 1,
            None => self.rejects.push((reject, 1)),
        }
    }

    pub fn rejected(&self) -> u32 {
        self.rejects.iter().map(|(_, count)| count).sum()
    }
}

/// Buffers reused from message to message.
#[derive(Default)]
pub struct Scratch {
    device: Vec<u8>,
    message: Vec<u8>,
    extra: Vec<u8>,
}

/// Times between which readings are accepted, in microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub oldest_us: i64,
    pub newest_us: i64,
}

impl Window {
    pub fn around(now_ms: i64, limits: &Limits) -> Self {
        let now_us = now_ms.saturating_mul(1000);
        Self {
            oldest_us: now_us.saturating_sub(i64::from(limits.retention_days) * time::DAY_US),
            newest_us: now_us.saturating_add(i64::from(limits.future_s) * 1_000_000),
        }
    }
}

/// Turns decoded payloads into rows.
pub struct Normalizer<'r> {
    pub rows: &'r mut Rows,
    pub scratch: &'r mut Scratch,
    pub limits: &'r Limits,
    pub window: Window,
    /// Where [`Rows::bytes`] must end: one message may not blow up what it repeats.
    pub bytes_end: usize,
}

/// What the readings of one message share.
struct Message<'a> {
    envelope: Envelope<'a>,
    device: Device<'a>,
    timestamp: Value<'a>,
    protocol: Option<Protocol>,
    /// The message's own extras do not pass, and so none of its readings does.
    broken: Option<Reject>,
    shared: Option<Shared<'a>>,
    last_time: Option<(Value<'a>, Option<i64>)>,
}

/// A device of the message, with the `extra` of its readings that add nothing.
#[derive(Clone, Copy)]
struct Shared<'a> {
    device: Device<'a>,
    index: u32,
    extra: Span,
}

impl Normalizer<'_> {
    /// Append the rows of a payload; tell what became of its readings.
    pub fn payload(&mut self, value: Value<'_>, envelope: Envelope<'_>) -> Tally {
        let mut tally = Tally::default();
        match value {
            Value::Array(items) => {
                for &item in items {
                    self.object(item, envelope, true, &mut tally);
                }
            }
            value => self.object(value, envelope, true, &mut tally),
        }
        tally
    }

    fn object<'a>(
        &mut self,
        value: Value<'a>,
        envelope: Envelope<'a>,
        may_unwrap: bool,
        tally: &mut Tally,
    ) {
        let Value::Map(entries) = value else {
            let mut fields = Fields { value: Some(value), ..Fields::default() };
            let mut message = self.message(&mut Fields::default(), envelope, None);
            return self.reading(&mut fields, &mut message, tally);
        };
        let mut fields = Fields::of(entries);
        let timestamp = truthy(fields.timestamp).unwrap_or(envelope.timestamp);
        let device_name = fields.device.name.or(fields.sensor).or(envelope.device_name);
        let protocol = envelope.protocol.or_else(|| fields.protocol());
        let inner = Envelope { device_name, timestamp, protocol, ..envelope };
        if let Some(Value::Array(messages)) = fields.messages {
            let mut shared = None;
            for &message in messages {
                self.message_of_batch(message, inner, &mut shared, tally);
            }
        } else if let Some(Value::Array(readings)) = fields.readings {
            self.readings(readings, &mut fields, inner, &mut None, tally);
        } else if let Some(data) = fields.enveloped().filter(|_| may_unwrap) {
            let said = fields.metadata.and_then(|metadata| metadata.get("protocol"));
            let said = said.and_then(|protocol| Protocol::parse(protocol.as_text()?));
            let inner = Envelope { protocol: said.or(inner.protocol), ..inner };
            self.object(data, inner, false, tally);
        } else {
            let mut message = self.message(&mut Fields::default(), inner, None);
            self.reading(&mut fields, &mut message, tally);
        }
    }

    /// One of `messages[]`; without a list of readings it holds nothing to store.
    fn message_of_batch<'a>(
        &mut self,
        message: Value<'a>,
        envelope: Envelope<'a>,
        shared: &mut Option<Shared<'a>>,
        tally: &mut Tally,
    ) {
        if let Value::Map(entries) = message {
            let mut fields = Fields::of(entries);
            if let Some(Value::Array(readings)) = fields.readings {
                return self.readings(readings, &mut fields, envelope, shared, tally);
            }
        }
        tally.readings += 1;
        tally.dropped += 1;
    }

    fn readings<'a>(
        &mut self,
        readings: &'a [Value<'a>],
        fields: &mut Fields<'a>,
        envelope: Envelope<'a>,
        shared: &mut Option<Shared<'a>>,
        tally: &mut Tally,
    ) {
        let mut message = self.message(fields, envelope, *shared);
        for &reading in readings {
            if let Value::Map(entries) = reading {
                fields.refill(entries);
                self.reading(fields, &mut message, tally);
            } else {
                tally.readings += 1;
                let detail = "field readings: an item is not an object";
                tally.reject(Reject::new(Reason::ReadingForm, detail));
            }
        }
        // What a message adds to `extra` is its own; a bare device serves the next one as well.
        *shared = message.shared.filter(|_| self.scratch.message.is_empty());
    }

    fn message<'a>(
        &mut self,
        fields: &mut Fields<'a>,
        envelope: Envelope<'a>,
        shared: Option<Shared<'a>>,
    ) -> Message<'a> {
        fields.keep_as_message();
        self.scratch.message.clear();
        let mut broken = None;
        for &extra in &fields.extras {
            if let Err(reject) = extra::write(&mut self.scratch.message, extra) {
                broken = Some(reject);
            }
        }
        let name = fields.sensor.or(envelope.device_name);
        Message {
            envelope,
            device: fields.device.or(Device { name, ..Device::default() }),
            timestamp: truthy(fields.timestamp).unwrap_or(envelope.timestamp),
            protocol: envelope.protocol.or_else(|| fields.protocol()),
            broken,
            shared: shared.filter(|_| self.scratch.message.is_empty()),
            last_time: None,
        }
    }

    fn reading<'a>(
        &mut self,
        fields: &mut Fields<'a>,
        message: &mut Message<'a>,
        tally: &mut Tally,
    ) {
        tally.readings += 1;
        if matches!(fields.node_type, Some(Value::Text("metadata"))) {
            tally.dropped += 1;
            return;
        }
        match self.row(fields, message) {
            Ok(row) => self.rows.rows.push(row),
            Err(reject) => tally.reject(reject),
        }
    }

    fn row<'a>(
        &mut self,
        fields: &mut Fields<'a>,
        message: &mut Message<'a>,
    ) -> Result<Row, Reject> {
        if let Some(reject) = &message.broken {
            return Err(reject.clone());
        }
        let time_us = self.time(fields, message)?;
        let device = fields.device.or(message.device);
        let protocol = protocol(fields, message, device);
        let value = number(fields.value, "value", &mut fields.extras)?;
        let quality = fields.quality.map_or(Quality::Unknown, Quality::parse);
        let unit = self.unit(fields)?;
        let score = number(fields.anomaly_score, "anomaly_score", &mut fields.extras)?;
        let threshold = number(fields.anomaly_threshold, "anomaly_threshold", &mut fields.extras)?;
        let metric = self.metric(fields, device, message.envelope.topic_name)?;
        let shared = self.shared(device, message)?;
        fields.keep_as_reading();
        let extra = self.extra(fields, shared)?;
        let agent = message.envelope.agent;
        let series = self.rows.series(Series { agent, metric, device: shared.index });
        Ok(Row {
            time_us,
            value,
            anomaly_score: score,
            anomaly_threshold: threshold,
            series,
            unit,
            extra,
            message: message.envelope.message,
            quality,
            protocol,
        })
    }

    fn time<'a>(&self, fields: &Fields<'a>, message: &mut Message<'a>) -> Result<i64, Reject> {
        let given = truthy(fields.timestamp).unwrap_or(message.timestamp);
        if given.is_falsy() {
            return Ok(message.envelope.received_us);
        }
        let parsed = match message.last_time {
            Some((known, parsed)) if known == given => parsed,
            _ => time::parse(given),
        };
        message.last_time = Some((given, parsed));
        let Some(time_us) = parsed else {
            return Err(Reject::new(Reason::TimeInvalid, invalid_time(given)));
        };
        if time_us < self.window.oldest_us {
            return Err(Reject::new(
                Reason::TimeTooOld,
                format!(
                    "field timestamp: {} is older than the retention of {} days",
                    time::format(time_us),
                    self.limits.retention_days
                ),
            ));
        }
        if time_us > self.window.newest_us {
            return Err(Reject::new(
                Reason::TimeInFuture,
                format!(
                    "field timestamp: {} is more than {} s ahead of the clock",
                    time::format(time_us),
                    self.limits.future_s
                ),
            ));
        }
        Ok(time_us)
    }

    fn unit(&mut self, fields: &mut Fields<'_>) -> Result<Option<u32>, Reject> {
        match truthy(fields.unit.take()) {
            Some(Value::Text(unit)) => {
                let check = || check_text("unit", unit, self.limits);
                self.rows.units.intern_checked(unit.as_bytes(), check).map(Some)
            }
            Some(value) => {
                fields.extras.push(Extra { key: "unit", value });
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Name of the metric: `metric`, `nodeName`, `name`, the device's name, the topic's.
    fn metric<'a>(
        &mut self,
        fields: &mut Fields<'a>,
        device: Device<'a>,
        topic_name: &'a str,
    ) -> Result<u32, Reject> {
        if let (false, Some(Value::Text(metric))) = (fields.is_unusual, truthy(fields.metric)) {
            return self.intern_metric(metric);
        }
        let named =
            [("metric", fields.metric), ("nodeName", fields.node_name), ("name", fields.name)];
        let mut chosen = None;
        for (key, value) in named {
            match truthy(value) {
                Some(value) if chosen.is_none() && is_name(value) => chosen = Some(value),
                Some(value) if Some(value) != chosen => fields.extras.push(Extra { key, value }),
                _ => {}
            }
        }
        let fallback = device.name.unwrap_or(topic_name);
        match chosen {
            Some(Value::Text(metric)) => self.intern_metric(metric),
            Some(Value::Int(number)) => self.intern_metric(&number.to_string()),
            _ if !fallback.is_empty() => self.intern_metric(fallback),
            _ => Err(Reject::new(
                Reason::MetricMissing,
                "field metric: missing, and neither nodeName, name nor a device name stands in",
            )),
        }
    }

    fn intern_metric(&mut self, metric: &str) -> Result<u32, Reject> {
        let check = || check_text("metric", metric, self.limits);
        self.rows.metrics.intern_checked(metric.as_bytes(), check)
    }

    /// Index and plain `extra` of a device, made when the device changes within the message.
    fn shared<'a>(
        &mut self,
        device: Device<'a>,
        message: &mut Message<'a>,
    ) -> Result<Shared<'a>, Reject> {
        if let Some(shared) = message.shared.filter(|shared| shared.device == device) {
            return Ok(shared);
        }
        let name = device.name.unwrap_or_default();
        check_text("deviceName", name, self.limits)?;
        let identity = &mut self.scratch.device;
        identity.clear();
        let parts = [
            ("endpoint_uuid", device.endpoint),
            ("device_uuid", device.uuid),
            ("device_name", device.name),
        ];
        for (key, text) in parts {
            if let Some(text) = text {
                extra::write(identity, Extra { key, value: Value::Text(text) })?;
            }
        }
        let index = self.rows.device(identity, name);
        let extra = join(&mut self.rows.bytes, &[&self.scratch.device, &self.scratch.message]);
        let shared = Shared { device, index, extra };
        message.shared = Some(shared);
        Ok(shared)
    }

    fn extra(&mut self, fields: &Fields<'_>, shared: Shared<'_>) -> Result<Span, Reject> {
        let own = &mut self.scratch.extra;
        own.clear();
        for &extra in &fields.extras {
            extra::write(own, extra)?;
        }
        let length = (shared.extra.end - shared.extra.start) as usize + own.len();
        if length > self.limits.extra_bytes {
            return Err(Reject::new(
                Reason::ExtraTooLarge,
                format!(
                    "fields without a column: {length} bytes as JSON are more than the limit of {}",
                    self.limits.extra_bytes
                ),
            ));
        }
        if own.is_empty() {
            return Ok(shared.extra);
        }
        if self.rows.bytes.len() + length > self.bytes_end {
            return Err(Reject::new(
                Reason::ExtraTooLarge,
                format!(
                    "fields without a column: those of the message exceed {} bytes as JSON",
                    self.limits.inflated_bytes
                ),
            ));
        }
        let parts =
            [self.rows.devices.get(shared.index), &self.scratch.message, &self.scratch.extra];
        Ok(join(&mut self.rows.bytes, &parts))
    }
}

fn check_text(field: &str, text: &str, limits: &Limits) -> Result<(), Reject> {
    if text.len() > limits.text_bytes {
        return Err(Reject::new(
            Reason::TextTooLong,
            format!(
                "field {field}: {} bytes are more than the limit of {}",
                text.len(),
                limits.text_bytes
            ),
        ));
    }
    if text.contains('\0') {
        let detail = format!("field {field}: text holds a NUL, which PostgreSQL cannot store");
        return Err(Reject::new(Reason::TextNul, detail));
    }
    Ok(())
}

/// Join members to an object; nothing at all stays nothing, and is stored as NULL.
fn join(bytes: &mut Vec<u8>, members: &[&[u8]]) -> Span {
    let start = bytes.len();
    for part in members.iter().filter(|part| !part.is_empty()) {
        bytes.push(if bytes.len() == start { b'{' } else { b',' });
        bytes.extend_from_slice(part);
    }
    if bytes.len() > start {
        bytes.push(b'}');
    }
    Span { start: start as u32, end: bytes.len() as u32 }
}

/// Protocol of a reading: from the outside in, then the topic, then the device's name.
fn protocol<'a>(fields: &mut Fields<'a>, message: &Message<'a>, device: Device<'a>) -> Protocol {
    let own = fields.protocol();
    if let (None, Some(value)) = (own, fields.protocol) {
        fields.extras.push(Extra { key: "protocol", value });
    }
    message
        .protocol
        .or(own)
        .or(message.envelope.topic_protocol)
        .or_else(|| Protocol::of_device(device.name?))
        .unwrap_or(Protocol::Mqtt)
}

fn invalid_time(given: Value<'_>) -> String {
    let shown: String = match given {
        Value::Text(text) => text.chars().take(40).collect(),
        value => value.as_number().map_or("a value".into(), |number| number.to_string()),
    };
    format!("field timestamp: {shown:?} is neither ISO 8601, RFC 2822 nor an epoch number")
}
