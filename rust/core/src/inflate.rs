//! Stage `inflate`: zlib-wrapped DEFLATE into a reused buffer of fixed size.
//!
//! The buffer is the limit: libdeflate never writes past it, so a bomb costs at most
//! `Limits::inflated_bytes` and ends as a reject.

use libdeflater::{DecompressionError, Decompressor};

use crate::reject::{Reason, Reject};

/// Whether a payload carries a zlib header (RFC 1950) as the agents write it.
pub fn is_deflated(payload: &[u8]) -> bool {
    matches!(payload, [0x78, 0x01 | 0x5E | 0x9C | 0xDA, ..])
}

/// How a payload is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapping {
    /// RFC 1950.
    Zlib,
    /// RFC 1952.
    Gzip,
    /// RFC 1951, without header.
    Raw,
}

/// A decompressor with its output buffer, reused from message to message.
pub struct Inflater {
    decompressor: Decompressor,
    output: Vec<u8>,
}

impl Inflater {
    /// Reserve an output of `limit` bytes; the pages are touched only when used.
    pub fn new(limit: usize) -> Self {
        Self { decompressor: Decompressor::new(), output: vec![0; limit] }
    }

    /// The payload itself, or what it inflates to where it carries a zlib header.
    pub fn open<'a>(&'a mut self, payload: &'a [u8]) -> Result<&'a [u8], Reject> {
        match is_deflated(payload) {
            true => self.inflate(payload, Wrapping::Zlib),
            false => Ok(payload),
        }
    }

    /// Inflate a payload; the result borrows the buffer until the next call.
    pub fn inflate(&mut self, payload: &[u8], wrapping: Wrapping) -> Result<&[u8], Reject> {
        let output = &mut self.output[..];
        let written = match wrapping {
            Wrapping::Zlib => self.decompressor.zlib_decompress(payload, output),
            Wrapping::Gzip => self.decompressor.gzip_decompress(payload, output),
            Wrapping::Raw => self.decompressor.deflate_decompress(payload, output),
        };
        match written {
            Ok(bytes) => Ok(&self.output[..bytes]),
            Err(DecompressionError::InsufficientSpace) => Err(Reject::new(
                Reason::InflateTooLarge,
                format!(
                    "payload of {} bytes inflates to more than the limit of {} bytes",
                    payload.len(),
                    self.output.len()
                ),
            )),
            Err(DecompressionError::BadData) => Err(Reject::new(
                Reason::InflateCorrupt,
                format!("payload of {} bytes is not a complete DEFLATE stream", payload.len()),
            )),
        }
    }
}
