//! MessagePack (specification of 2013, with the timestamp extension), borrowed from the payload.
//!
//! Our own reader because no crate expresses this one: a tree in an arena that borrows text,
//! with bounds on depth and elements that are checked before anything is allocated.

use bumpalo::Bump;

use crate::decode::Budget;
use crate::reject::{Reason, Reject};
use crate::utf8;
use crate::value::Value;

const TIMESTAMP: i8 = -1;

pub(crate) fn read<'a>(
    payload: &'a [u8],
    arena: &'a Bump,
    budget: &Budget,
) -> Result<Value<'a>, Reject> {
    let mut reader = Reader { rest: payload, length: payload.len(), arena, budget };
    let value = reader.value(0)?;
    match reader.rest.len() {
        0 => Ok(value),
        extra => Err(reader.malformed(&format!("{extra} bytes follow the value"))),
    }
}

struct Reader<'a, 'b> {
    rest: &'a [u8],
    length: usize,
    arena: &'a Bump,
    budget: &'b Budget,
}

impl<'a> Reader<'a, '_> {
    #[cold]
    fn malformed(&self, what: &str) -> Reject {
        let offset = self.length - self.rest.len();
        Reject::new(
            Reason::MessagePack,
            format!("payload is not MessagePack: {what} at byte {offset}"),
        )
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Reject> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.malformed("it ends in the middle of a value"));
        };
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reject> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(self.malformed("it ends in the middle of a value"));
        };
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Reject> {
        Ok(self.array::<1>()?[0])
    }

    fn len16(&mut self) -> Result<usize, Reject> {
        Ok(usize::from(u16::from_be_bytes(self.array()?)))
    }

    fn len32(&mut self) -> Result<usize, Reject> {
        Ok(u32::from_be_bytes(self.array()?) as usize)
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Reject> {
        let marker = self.u8()?;
        Ok(match marker {
            0x00..=0x7F => Value::Int(marker.into()),
            0xE0..=0xFF => Value::Int((marker as i8).into()),
            0x80..=0x8F => self.map((marker & 0x0F).into(), depth)?,
            0x90..=0x9F => self.items((marker & 0x0F).into(), depth)?,
            0xA0..=0xBF => self.text((marker & 0x1F).into())?,
            0xC0 => Value::Null,
            0xC1 => return Err(self.malformed("marker C1 is never used")),
            0xC2 => Value::Bool(false),
            0xC3 => Value::Bool(true),
            0xC4..=0xC6 => {
                let length = self.length_of(marker - 0xC4)?;
                Value::Bytes(self.bytes(length)?)
            }
            0xC7..=0xC9 => {
                let length = self.length_of(marker - 0xC7)?;
                self.extension(length)?
            }
            0xCA => Value::Float(f32::from_be_bytes(self.array()?).into()),
            0xCB => Value::Float(f64::from_be_bytes(self.array()?)),
            0xCC..=0xD3 => self.integer(marker)?,
            0xD4..=0xD8 => self.extension(1 << (marker - 0xD4))?,
            0xD9..=0xDB => {
                let length = self.length_of(marker - 0xD9)?;
                self.text(length)?
            }
            0xDC => {
                let count = self.len16()?;
                self.items(count, depth)?
            }
            0xDD => {
                let count = self.len32()?;
                self.items(count, depth)?
            }
            0xDE => {
                let count = self.len16()?;
                self.map(count, depth)?
            }
            0xDF => {
                let count = self.len32()?;
                self.map(count, depth)?
            }
        })
    }

    fn length_of(&mut self, width: u8) -> Result<usize, Reject> {
        match width {
            0 => Ok(self.u8()?.into()),
            1 => self.len16(),
            _ => self.len32(),
        }
    }

    fn integer(&mut self, marker: u8) -> Result<Value<'a>, Reject> {
        Ok(Value::Int(match marker {
            0xCC => self.u8()?.into(),
            0xCD => u16::from_be_bytes(self.array()?).into(),
            0xCE => u32::from_be_bytes(self.array()?).into(),
            0xCF => {
                let number = u64::from_be_bytes(self.array()?);
                return Ok(i64::try_from(number).map_or(Value::UInt(number), Value::Int));
            }
            0xD0 => i8::from_be_bytes(self.array()?).into(),
            0xD1 => i16::from_be_bytes(self.array()?).into(),
            0xD2 => i32::from_be_bytes(self.array()?).into(),
            _ => i64::from_be_bytes(self.array()?),
        }))
    }

    fn str(&mut self, length: usize) -> Result<&'a str, Reject> {
        let bytes = self.bytes(length)?;
        utf8::from_utf8(bytes).ok_or_else(not_utf8)
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, Reject> {
        Ok(Value::Text(self.str(length)?))
    }

    /// Every element takes a byte at least: a count beyond the rest is a lie, refused unallocated.
    fn expect(&self, count: usize, bytes_each: usize) -> Result<(), Reject> {
        if count.saturating_mul(bytes_each) > self.rest.len() {
            return Err(self.malformed("it promises more elements than it has bytes"));
        }
        self.budget.take(count)
    }

    fn items(&mut self, count: usize, depth: usize) -> Result<Value<'a>, Reject> {
        let depth = self.budget.descend(depth)?;
        self.expect(count, 1)?;
        let arena = self.arena;
        let items = arena.alloc_slice_try_fill_with(count, |_| self.value(depth))?;
        Ok(Value::Array(items))
    }

    fn map(&mut self, count: usize, depth: usize) -> Result<Value<'a>, Reject> {
        let depth = self.budget.descend(depth)?;
        self.expect(count, 2)?;
        let arena = self.arena;
        let entries = arena.alloc_slice_try_fill_with(count, |_| {
            let key = self.key()?;
            Ok::<_, Reject>((key, self.value(depth)?))
        })?;
        Ok(Value::Map(entries))
    }

    fn key(&mut self) -> Result<&'a str, Reject> {
        if let Some((&marker @ 0xA0..=0xBF, rest)) = self.rest.split_first() {
            self.rest = rest;
            return self.str((marker & 0x1F).into());
        }
        self.rare_key()
    }

    /// Keys are text; whole numbers become text, as they do in JavaScript.
    #[cold]
    fn rare_key(&mut self) -> Result<&'a str, Reject> {
        let key = match self.rest.first() {
            Some(0x80..=0x9F | 0xDC..=0xDF) => Value::Null,
            _ => self.value(0)?,
        };
        match key {
            Value::Text(key) => Ok(key),
            Value::Int(key) => Ok(self.arena.alloc_str(&key.to_string())),
            _ => Err(self.malformed("a map key is neither text nor a whole number")),
        }
    }

    /// Timestamps become times; extensions that nobody agreed on have no value.
    fn extension(&mut self, length: usize) -> Result<Value<'a>, Reject> {
        let kind = self.u8()? as i8;
        let data = self.bytes(length)?;
        if kind != TIMESTAMP {
            return Ok(Value::Null);
        }
        timestamp(data)
            .map(Value::Time)
            .ok_or_else(|| self.malformed("a timestamp is out of range"))
    }
}

#[cold]
fn not_utf8() -> Reject {
    Reject::new(Reason::Utf8, "payload is MessagePack with text that is not UTF-8")
}

/// The three forms of the timestamp extension, to microseconds.
fn timestamp(data: &[u8]) -> Option<i64> {
    let (seconds, nanos) = match data.len() {
        4 => (u32::from_be_bytes(data.try_into().ok()?).into(), 0),
        8 => {
            let packed = u64::from_be_bytes(data.try_into().ok()?);
            ((packed & 0x3_FFFF_FFFF) as i64, (packed >> 34) as u32)
        }
        12 => {
            let (nanos, seconds) = data.split_first_chunk::<4>()?;
            (i64::from_be_bytes(seconds.try_into().ok()?), u32::from_be_bytes(*nanos))
        }
        _ => return None,
    };
    seconds.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1000))
}
