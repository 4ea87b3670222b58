//! The fields of a reading, a message or a payload, picked from its map in one pass.
//!
//! What no column or shape takes is an extra: nothing that an agent sends is dropped.

use crate::extra::Extra;
use crate::ids;
use crate::reading::Protocol;
use crate::reject::{Reason, Reject};
use crate::value::Value;

/// Fields of a reading, a message or a payload, picked from its map in one pass.
#[derive(Default)]
pub(crate) struct Fields<'a> {
    pub(crate) metric: Option<Value<'a>>,
    pub(crate) node_name: Option<Value<'a>>,
    pub(crate) name: Option<Value<'a>>,
    pub(crate) value: Option<Value<'a>>,
    pub(crate) unit: Option<Value<'a>>,
    pub(crate) quality: Option<Value<'a>>,
    pub(crate) timestamp: Option<Value<'a>>,
    pub(crate) protocol: Option<Value<'a>>,
    pub(crate) node_type: Option<Value<'a>>,
    pub(crate) anomaly_score: Option<Value<'a>>,
    pub(crate) anomaly_threshold: Option<Value<'a>>,
    pub(crate) device: Device<'a>,
    pub(crate) readings: Option<Value<'a>>,
    pub(crate) messages: Option<Value<'a>>,
    pub(crate) data: Option<Value<'a>>,
    pub(crate) metadata: Option<Value<'a>>,
    pub(crate) sensor: Option<&'a str>,
    pub(crate) extras: Vec<Extra<'a>>,
    /// Whether there are keys that most readings do without; saves looking for them one by one.
    pub(crate) is_unusual: bool,
}

/// What names the device; the parts that a reading omits come from its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Device<'a> {
    pub(crate) endpoint: Option<&'a str>,
    pub(crate) uuid: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
}

impl Device<'_> {
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            endpoint: self.endpoint.or(other.endpoint),
            uuid: self.uuid.or(other.uuid),
            name: self.name.or(other.name),
        }
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn of(entries: &'a [(&'a str, Value<'a>)]) -> Self {
        let mut fields = Self::default();
        fields.refill(entries);
        fields
    }

    /// Start over with another map; moving the struct once a reading would cost more.
    pub(crate) fn refill(&mut self, entries: &'a [(&'a str, Value<'a>)]) {
        let mut extras = std::mem::take(&mut self.extras);
        extras.clear();
        *self = Self { extras, ..Self::default() };
        for &(key, value) in entries {
            if !matches!(value, Value::Null) && !self.take(key, value) {
                self.extras.push(Extra { key, value });
            }
        }
    }

    /// Whether the key is one that columns or shapes are made of.
    fn take(&mut self, key: &'a str, value: Value<'a>) -> bool {
        let slot = match key {
            "metric" => &mut self.metric,
            "value" => &mut self.value,
            "unit" => &mut self.unit,
            "quality" => &mut self.quality,
            "timestamp" => &mut self.timestamp,
            "protocol" => &mut self.protocol,
            _ => return self.take_unusual(key, value),
        };
        *slot = Some(value);
        true
    }

    fn take_unusual(&mut self, key: &'a str, value: Value<'a>) -> bool {
        let slot = match key {
            "nodeName" => &mut self.node_name,
            "name" => &mut self.name,
            "nodeType" => &mut self.node_type,
            "anomaly_score" => &mut self.anomaly_score,
            "anomaly_threshold" => &mut self.anomaly_threshold,
            "readings" => &mut self.readings,
            "messages" => &mut self.messages,
            "data" => &mut self.data,
            "metadata" => &mut self.metadata,
            "msgId" => return true,
            _ => return self.take_device(key, value),
        };
        *slot = Some(value);
        self.is_unusual = true;
        true
    }

    fn take_device(&mut self, key: &'a str, value: Value<'a>) -> bool {
        let Value::Text(text) = value else { return false };
        let slot = match key {
            "deviceName" | "device_name" if !text.is_empty() => &mut self.device.name,
            "device_uuid" | "deviceUuid" | "asset_uuid" => {
                return take_uuid(&mut self.device.uuid, text, key != "device_uuid");
            }
            "endpoint_uuid" | "endpointUuid" => {
                return take_uuid(&mut self.device.endpoint, text, key != "endpoint_uuid");
            }
            "sensor" => {
                self.is_unusual = true;
                &mut self.sensor
            }
            _ => return false,
        };
        *slot = Some(text);
        true
    }
}

/// Take a UUID unless an earlier spelling gave one. What agents write for none is swallowed;
/// an identifier of another kind stays an extra under its own name.
fn take_uuid<'a>(slot: &mut Option<&'a str>, text: &'a str, is_alias: bool) -> bool {
    if !ids::is_rfc_uuid(text) {
        return matches!(text, "" | "undefined" | "null");
    }
    if slot.is_none() || !is_alias {
        *slot = Some(text);
    }
    true
}

impl<'a> Fields<'a> {
    /// Keys that a message shares with a reading, but that say nothing about its readings here.
    pub(crate) fn keep_as_message(&mut self) {
        let unused = [
            ("metric", self.metric.take()),
            ("nodeName", self.node_name.take()),
            ("name", self.name.take()),
            ("value", self.value.take()),
            ("unit", self.unit.take()),
            ("quality", self.quality.take()),
            ("nodeType", self.node_type.take()),
        ];
        for (key, value) in unused {
            self.extras.extend(value.map(|value| Extra { key, value }));
        }
    }

    /// Keys that shape a payload or a message, but say nothing inside a reading.
    pub(crate) fn keep_as_reading(&mut self) {
        if !self.is_unusual {
            return;
        }
        let unused = [
            ("messages", self.messages.take()),
            ("readings", self.readings.take()),
            ("data", self.data.take()),
            ("metadata", self.metadata.take()),
            ("nodeType", self.node_type.take()),
            ("sensor", self.sensor.take().map(Value::Text)),
        ];
        for (key, value) in unused {
            self.extras.extend(value.map(|value| Extra { key, value }));
        }
    }

    pub(crate) fn protocol(&self) -> Option<Protocol> {
        Protocol::parse(self.protocol?.as_text()?)
    }

    /// The payload of another: `{data, timestamp, deviceName, metadata}` around it.
    pub(crate) fn enveloped(&self) -> Option<Value<'a>> {
        let is_reading = self.metric.or(self.node_name).or(self.name).or(self.value).is_some();
        self.data.filter(|_| !is_reading)
    }
}

/// A value that JavaScript would not skip with `||`, as the reference's rules are written.
pub(crate) fn truthy(value: Option<Value<'_>>) -> Option<Value<'_>> {
    value.filter(|value| !value.is_falsy())
}

/// What can name a metric.
pub(crate) fn is_name(value: Value<'_>) -> bool {
    matches!(value, Value::Text(_) | Value::Int(_))
}

/// Numbers are stored; what is none stays in `extra`, and the column is NULL.
pub(crate) fn number<'a>(
    given: Option<Value<'a>>,
    key: &'static str,
    extras: &mut Vec<Extra<'a>>,
) -> Result<Option<f64>, Reject> {
    let Some(value) = given else { return Ok(None) };
    match value.as_number() {
        Some(number) if number.is_finite() => Ok(Some(number)),
        Some(number) => {
            let detail = format!("field {key}: {number} is not a finite number");
            Err(Reject::new(Reason::ValueNotFinite, detail))
        }
        None => {
            extras.push(Extra { key, value });
            Ok(None)
        }
    }
}
