//! Stage `entry`: what stands in a stream entry, ours and the reference's (section 3).
//!
//! Ours: any number of fields `"{received_ms}-{sequence} {MQTT topic}"` with a payload each.
//! The reference's: `data`, a JSON array of `{deviceUuid, deviceName, timestamp, data, metadata}`;
//! or `compressed=1` with `encoding` and `payload_b64` (base64) or `payload` (hex), which holds
//! such an array, lines of such objects, or a bare payload.

use std::borrow::Cow;
use std::io::{Read, Take};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use brotli_decompressor::Decompressor;

use crate::inflate::{Inflater, Wrapping};
use crate::limits::Limits;
use crate::reject::{Reason, Reject};

const BROTLI_BUFFER_BYTES: usize = 4096;

/// A stream entry as Redis gives it: fields alternate name and value.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    pub id: &'a [u8],
    pub fields: Vec<&'a [u8]>,
}

/// What an entry carries.
#[derive(Debug)]
pub enum Form<'e, 'a> {
    /// Ours: (name, payload) pairs.
    Messages(&'e [&'a [u8]]),
    /// The reference's, with its fields.
    Records(Records<'a>),
}

/// One entry in the reference's form.
#[derive(Debug, Default, Clone, Copy)]
pub struct Records<'a> {
    pub data: Option<&'a [u8]>,
    pub source: &'a [u8],
    compressed: bool,
    encoding: &'a [u8],
    pub content_type: &'a [u8],
    base64: Option<&'a [u8]>,
    hex: Option<&'a [u8]>,
    pub device_uuid: Option<&'a [u8]>,
    pub device_name: Option<&'a [u8]>,
}

/// Tell the forms apart: only our field names hold a space.
pub fn form<'e, 'a>(entry: &'e Entry<'a>) -> Form<'e, 'a> {
    if entry.fields.first().is_some_and(|name| name.contains(&b' ')) {
        return Form::Messages(&entry.fields);
    }
    let mut records = Records::default();
    for pair in entry.fields.chunks_exact(2) {
        let value = pair[1];
        match pair[0] {
            b"data" => records.data = Some(value),
            b"source" => records.source = value,
            b"compressed" => records.compressed = value == b"1",
            b"encoding" => records.encoding = value,
            b"contentType" => records.content_type = value,
            b"payload_b64" => records.base64 = Some(value),
            b"payload" => records.hex = Some(value),
            b"deviceUuid" => records.device_uuid = Some(value),
            b"deviceName" => records.device_name = Some(value),
            _ => {}
        }
    }
    Form::Records(records)
}

/// Name of one of our fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub received_ms: i64,
    pub topic: &'a str,
}

impl<'a> Header<'a> {
    pub fn parse(name: &'a [u8]) -> Result<Self, Reject> {
        let parse = || {
            let (head, topic) = std::str::from_utf8(name).ok()?.split_once(' ')?;
            let (received_ms, _sequence) = head.split_once('-')?;
            Some(Self { received_ms: received_ms.parse().ok()?, topic })
        };
        parse().ok_or_else(|| {
            Reject::new(
                Reason::EntryForm,
                "entry has a field that is not \"{received_ms}-{sequence} {topic}\"",
            )
        })
    }
}

impl<'a> Records<'a> {
    /// The text that holds the records: `data`, or the compressed payload unpacked.
    pub fn unpack(
        &self,
        inflater: &'a mut Inflater,
        limits: &Limits,
    ) -> Result<Cow<'a, [u8]>, Reject> {
        if let (false, Some(data)) = (self.compressed, self.data) {
            check_size(data.len(), limits.inflated_bytes)?;
            return Ok(data.into());
        }
        if !self.compressed {
            return Err(Reject::new(
                Reason::EntryForm,
                "entry has neither messages, nor a field data, nor compressed=1",
            ));
        }
        let packed = self.packed(limits)?;
        let wrapping = match self.encoding {
            b"identity" | b"" => return Ok(packed.into()),
            b"br" => return unbrotli(&packed, limits).map(Cow::Owned),
            b"gzip" => Wrapping::Gzip,
            b"deflate" if crate::inflate::is_deflated(&packed) => Wrapping::Zlib,
            b"deflate" => Wrapping::Raw,
            other => {
                let name: String = String::from_utf8_lossy(other).chars().take(40).collect();
                let detail =
                    format!("field encoding: {name:?} is none of br, gzip, deflate, identity");
                return Err(Reject::new(Reason::EntryEncoding, detail));
            }
        };
        inflater.inflate(&packed, wrapping).map(|bytes| Cow::Owned(bytes.to_vec()))
    }

    fn packed(&self, limits: &Limits) -> Result<Vec<u8>, Reject> {
        let (text, decoded) = match (self.base64, self.hex) {
            (Some(text), _) => (text, STANDARD.decode(text).ok()),
            (None, Some(text)) => (text, unhex(text)),
            (None, None) => {
                let detail = "entry is compressed but has neither payload_b64 nor payload";
                return Err(Reject::new(Reason::EntryForm, detail));
            }
        };
        check_size(text.len(), limits.message_bytes.saturating_mul(2))?;
        decoded.ok_or_else(|| {
            let rule =
                if self.base64.is_some() { "payload_b64: not base64" } else { "payload: not hex" };
            Reject::new(Reason::EntryEncoding, format!("field {rule}"))
        })
    }
}

pub(crate) fn check_size(bytes: usize, limit: usize) -> Result<(), Reject> {
    match bytes > limit {
        true => Err(Reject::new(
            Reason::MessageTooLarge,
            format!("message of {bytes} bytes is larger than the limit of {limit} bytes"),
        )),
        false => Ok(()),
    }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let nibble = |&digit: &u8| char::from(digit).to_digit(16);
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes: Option<Vec<u8>> =
        pairs.iter().map(|[a, b]| Some((nibble(a)? << 4 | nibble(b)?) as u8)).collect();
    bytes.filter(|_| rest.is_empty())
}

fn unbrotli(packed: &[u8], limits: &Limits) -> Result<Vec<u8>, Reject> {
    let limit = limits.inflated_bytes;
    let mut reader: Take<_> = Decompressor::new(packed, BROTLI_BUFFER_BYTES).take(limit as u64 + 1);
    let mut output = Vec::new();
    match reader.read_to_end(&mut output) {
        Ok(bytes) if bytes > limit => Err(Reject::new(
            Reason::InflateTooLarge,
            format!(
                "payload of {} bytes inflates to more than the limit of {limit} bytes",
                packed.len()
            ),
        )),
        Ok(_) => Ok(output),
        Err(_) => Err(Reject::new(
            Reason::InflateCorrupt,
            format!("payload of {} bytes is not a complete Brotli stream", packed.len()),
        )),
    }
}
