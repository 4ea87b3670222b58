//! The records of an entry in the reference's form, which share one field.

use bumpalo::Bump;

use crate::decode;
use crate::entry::Records;
use crate::ids::{self, AgentId};
use crate::limits::Limits;
use crate::normalize::Envelope;
use crate::reading::Protocol;
use crate::reject::Reject;
use crate::value::Value;

/// One record of the reference's entries.
pub(crate) struct Record<'a> {
    whole: Value<'a>,
    pub(crate) data: Value<'a>,
}

impl<'a> Record<'a> {
    /// An object with `data` is a record; anything else is a payload of the entry's own agent.
    fn of(value: Value<'a>) -> Self {
        Self { whole: value, data: value.get("data").unwrap_or(value) }
    }

    pub(crate) fn agent(&self, records: Records<'_>) -> Option<AgentId> {
        let own = self.whole.get("deviceUuid").and_then(|uuid| ids::parse_uuid(uuid.as_text()?));
        own.or_else(|| ids::parse_uuid(std::str::from_utf8(records.device_uuid?).ok()?))
    }

    pub(crate) fn envelope(
        &self,
        agent: u32,
        message: u32,
        received_ms: i64,
        records: Records<'a>,
    ) -> Envelope<'a> {
        let text = |key| self.whole.get(key).and_then(|value| value.as_text());
        let entry_name = records.device_name.and_then(|name| std::str::from_utf8(name).ok());
        let metadata = self.whole.get("metadata");
        let said = metadata.and_then(|metadata| metadata.get("protocol"));
        let from_system = matches!(records.source, b"system" | b"metrics");
        Envelope {
            agent,
            message,
            device_name: text("deviceName").or(entry_name).filter(|name| !name.is_empty()),
            timestamp: self.whole.get("timestamp").unwrap_or(Value::Null),
            protocol: said.and_then(|protocol| Protocol::parse(protocol.as_text()?)),
            topic_protocol: from_system.then_some(Protocol::System),
            topic_name: "",
            received_us: received_ms.saturating_mul(1000),
        }
    }
}

/// Split an entry's text into records: a JSON array, lines of JSON, or a single payload.
pub(crate) fn split<'a>(
    text: &'a [u8],
    records: Records<'_>,
    arena: &'a Bump,
    limits: &Limits,
) -> Result<Vec<Record<'a>>, Reject> {
    if records.content_type.ends_with(b"ndjson") {
        let lines = text.split(|&c| c == b'\n').filter(|line| !line.trim_ascii().is_empty());
        return lines.map(|line| Ok(Record::of(decode::decode(line, arena, limits)?))).collect();
    }
    let value = decode::decode(text, arena, limits)?;
    let is_record = |value: &Value<'_>| value.get("data").is_some();
    Ok(match value {
        Value::Array(items) if items.iter().any(is_record) => {
            items.iter().map(|&item| Record::of(item)).collect()
        }
        value => vec![Record::of(value)],
    })
}

/// Milliseconds of a stream entry's id, `{ms}-{sequence}`.
pub(crate) fn id_ms(id: &[u8]) -> Option<i64> {
    std::str::from_utf8(id).ok()?.split_once('-')?.0.parse().ok()
}
