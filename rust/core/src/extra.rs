//! Column `extra`: what has no column of its own, as members of a JSON object.
//!
//! Members are written without braces, so that device, message and reading parts can be joined;
//! of a repeated key jsonb keeps the last, which is the reading's.

use crate::reject::{Reason, Reject};
use crate::value::Value;

/// One member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Extra<'a> {
    pub key: &'a str,
    pub value: Value<'a>,
}

/// Append `"key":value` to members, after a comma where needed.
pub fn write(members: &mut Vec<u8>, extra: Extra<'_>) -> Result<(), Reject> {
    if extra.key.contains('\0') || has_nul(extra.value) {
        let detail =
            format!("field {:?}: text holds a NUL, which PostgreSQL cannot store", extra.key);
        return Err(Reject::new(Reason::TextNul, detail));
    }
    if !members.is_empty() {
        members.push(b',');
    }
    let written = serde_json::to_writer(&mut *members, extra.key).and_then(|()| {
        members.push(b':');
        serde_json::to_writer(&mut *members, &extra.value)
    });
    // Writing to memory fails for no value of ours; a library that disagrees costs one reading.
    written.map_err(|error| {
        Reject::new(Reason::ReadingForm, format!("field {:?}: {error}", extra.key))
    })
}

fn has_nul(value: Value<'_>) -> bool {
    match value {
        Value::Text(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(|&item| has_nul(item)),
        Value::Map(entries) => {
            entries.iter().any(|&(key, value)| key.contains('\0') || has_nul(value))
        }
        _ => false,
    }
}
