//! The one borrowed tree that `decode` and `expand` produce.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// A decoded value. Text and bytes borrow from the payload, containers from the arena.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// Only what does not fit `Int`.
    UInt(u64),
    Float(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// MessagePack timestamp: microseconds since 1970.
    Time(i64),
    Array(&'a [Value<'a>]),
    /// In the order of the payload; of a repeated key the last one counts.
    Map(&'a [(&'a str, Value<'a>)]),
}

impl<'a> Value<'a> {
    /// Value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        let Value::Map(entries) = self else { return None };
        entries.iter().rev().find(|(name, _)| *name == key).map(|&(_, value)| value)
    }

    pub fn as_text(&self) -> Option<&'a str> {
        match *self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&'a [Value<'a>]> {
        match *self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// Number as a double; integers beyond 2^53 lose their last digits, as in JavaScript.
    pub fn as_number(&self) -> Option<f64> {
        match *self {
            Value::Int(number) => Some(number as f64),
            Value::UInt(number) => Some(number as f64),
            Value::Float(number) => Some(number),
            _ => None,
        }
    }

    /// Number without a fraction.
    pub fn as_integer(&self) -> Option<i64> {
        match *self {
            Value::Int(number) => Some(number),
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => {
                Some(number as i64)
            }
            _ => None,
        }
    }

    /// JavaScript's idea of an absent value: null, "", 0, false, NaN.
    pub fn is_falsy(&self) -> bool {
        match *self {
            Value::Null | Value::Bool(false) | Value::Int(0) | Value::Text("") => true,
            Value::Float(number) => number == 0.0 || number.is_nan(),
            _ => false,
        }
    }
}

/// JSON, with bytes as base64, times as ISO 8601 and numbers that JSON lacks as null.
impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(value),
            Value::Int(value) => serializer.serialize_i64(value),
            Value::UInt(value) => serializer.serialize_u64(value),
            Value::Float(value) => serializer.serialize_f64(value),
            Value::Text(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&STANDARD.encode(value)),
            Value::Time(value) => serializer.serialize_str(&crate::time::format(value)),
            Value::Array(items) => serializer.collect_seq(items),
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}
