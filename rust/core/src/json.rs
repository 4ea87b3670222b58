//! JSON by `serde_json` into the arena: its strings are borrowed unless they hold escapes.
//!
//! UTF-8 is checked once for the whole text with SIMD instructions, which is cheaper than
//! string by string (ARCHITECTURE.md has the figures of the crates that were compared).

use std::cell::RefCell;
use std::fmt;

use bumpalo::Bump;
use bumpalo::collections::Vec;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::decode::Budget;
use crate::reject::{Reason, Reject};
use crate::value::Value;

const TYPICAL_ITEMS: usize = 8;

pub(crate) fn read<'a>(
    payload: &'a [u8],
    arena: &'a Bump,
    budget: &Budget,
) -> Result<Value<'a>, Reject> {
    let text = simdutf8::basic::from_utf8(payload)
        .map_err(|_| Reject::new(Reason::Utf8, "payload is neither MessagePack nor UTF-8 text"))?;
    let refusal = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let reader = Reader { arena, budget, refusal: &refusal, depth: 0 };
    let read = reader.deserialize(&mut deserializer);
    match read.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) => Err(refusal.take().unwrap_or_else(|| syntax(&error))),
    }
}

/// `serde_json`'s message quotes no more than a character of the payload.
fn syntax(error: &serde_json::Error) -> Reject {
    Reject::new(Reason::Json, format!("payload is not JSON: {error}"))
}

#[derive(Clone, Copy)]
struct Reader<'a, 'b> {
    arena: &'a Bump,
    budget: &'b Budget,
    /// Our own refusal, carried around serde's error type.
    refusal: &'b RefCell<Option<Reject>>,
    depth: usize,
}

impl Reader<'_, '_> {
    fn allow<T, E: serde::de::Error>(&self, checked: Result<T, Reject>) -> Result<T, E> {
        checked.map_err(|reject| {
            let error = E::custom(&reject.detail);
            self.refusal.replace(Some(reject));
            error
        })
    }

    fn inside<E: serde::de::Error>(&self) -> Result<Self, E> {
        Ok(Self { depth: self.allow(self.budget.descend(self.depth))?, ..*self })
    }
}

impl<'a> DeserializeSeed<'a> for Reader<'a, '_> {
    type Value = Value<'a>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Value<'a>, D::Error> {
        self.allow(self.budget.take(1))?;
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Reader<'a, '_> {
    type Value = Value<'a>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value<'a>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'a>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'a>, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'a>, E> {
        Ok(i64::try_from(value).map_or(Value::UInt(value), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'a>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'a str) -> Result<Value<'a>, E> {
        Ok(Value::Text(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value<'a>, E> {
        Ok(Value::Text(self.arena.alloc_str(value)))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut access: A) -> Result<Value<'a>, A::Error> {
        let inside = self.inside()?;
        let mut items = Vec::with_capacity_in(TYPICAL_ITEMS, self.arena);
        while let Some(item) = access.next_element_seed(inside)? {
            items.push(item);
        }
        Ok(Value::Array(items.into_bump_slice()))
    }

    fn visit_map<A: MapAccess<'a>>(self, mut access: A) -> Result<Value<'a>, A::Error> {
        let inside = self.inside()?;
        let mut entries = Vec::with_capacity_in(TYPICAL_ITEMS, self.arena);
        while let Some(key) = access.next_key_seed(Key(self.arena))? {
            entries.push((key, access.next_value_seed(inside)?));
        }
        Ok(Value::Map(entries.into_bump_slice()))
    }
}

struct Key<'a>(&'a Bump);

impl<'a> DeserializeSeed<'a> for Key<'a> {
    type Value = &'a str;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<&'a str, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key<'a> {
    type Value = &'a str;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, value: &'a str) -> Result<&'a str, E> {
        Ok(value)
    }

    fn visit_str<E>(self, value: &str) -> Result<&'a str, E> {
        Ok(self.0.alloc_str(value))
    }
}
