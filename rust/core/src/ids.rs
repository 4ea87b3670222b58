//! Identifiers and their short forms in topics (reference section 1.1).
//!
//! A UUID is 16 bytes in 22 base64url characters, a tenant of 12 hex digits is 6 bytes in 8.
//! Anything else (`+`, `#`, `self-hosted`) passes unchanged in both directions.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A UUID as PostgreSQL stores it.
pub type AgentId = [u8; 16];

const TENANT_BYTES: usize = 6;
const TENANT_ENCODED: usize = 8;
const AGENT_ENCODED: usize = 22;
const DASHES: [usize; 4] = [8, 13, 18, 23];

const HEX: &[u8; 16] = b"0123456789abcdef";
const NO_DIGIT: u8 = 0xFF;

/// Value of each hex digit, of either case.
const NIBBLES: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        table[HEX[value] as usize] = value as u8;
        table[b"0123456789ABCDEF"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let (pairs, rest) = digits.as_chunks::<2>();
    let mut bytes = [0; N];
    let mut wrong = 0;
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (NIBBLES[usize::from(high)], NIBBLES[usize::from(low)]);
        wrong |= high | low;
        *byte = high << 4 | low & 0x0F;
    }
    (pairs.len() == N && rest.is_empty() && wrong < 16).then_some(bytes)
}

/// Parse a UUID: 8-4-4-4-12 or 32 hex digits of either case, of any version.
pub fn parse_uuid(text: &str) -> Option<AgentId> {
    let bytes = text.as_bytes();
    match bytes.len() {
        32 => unhex(bytes),
        36 if DASHES.iter().all(|&i| bytes[i] == b'-') => {
            let mut digits = [0; 32];
            for (from, to) in [(0..8, 0), (9..13, 8), (14..18, 12), (19..23, 16), (24..36, 20)] {
                let length = from.len();
                digits[to..to + length].copy_from_slice(&bytes[from]);
            }
            unhex(&digits)
        }
        _ => None,
    }
}

/// Write a UUID in its usual form, lower case.
pub fn format_uuid(id: &AgentId) -> String {
    let mut text = String::with_capacity(36);
    for (i, byte) in id.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(HEX[usize::from(byte >> 4)].into());
        text.push(HEX[usize::from(byte & 15)].into());
    }
    text
}

/// Whether a text is a UUID that RFC 9562 defines (version 1 to 8, its variant).
pub fn is_rfc_uuid(text: &str) -> bool {
    text.len() == 36
        && parse_uuid(text)
            .is_some_and(|id| (1..=8).contains(&(id[6] >> 4)) && id[8] & 0xC0 == 0x80)
}

/// 12 hex digits to 8 characters; anything else unchanged.
pub fn encode_tenant(tenant: &str) -> Cow<'_, str> {
    match unhex::<TENANT_BYTES>(tenant.as_bytes()) {
        Some(bytes) => URL_SAFE_NO_PAD.encode(bytes).into(),
        None => tenant.into(),
    }
}

/// 8 base64url characters to 12 hex digits, lower case as every spelling of them; anything else
/// unchanged.
///
/// An 8-character literal tenant looks the same on the wire: whoever matches tenants has to
/// compare the undecoded form as well (`Topic::raw_tenant`).
pub fn decode_tenant(encoded: &str) -> Cow<'_, str> {
    let mut bytes = [0; TENANT_BYTES];
    if encoded.len() == TENANT_ENCODED
        && URL_SAFE_NO_PAD.decode_slice(encoded, &mut bytes) == Ok(TENANT_BYTES)
    {
        return hex(&bytes).into();
    }
    match unhex::<TENANT_BYTES>(encoded.as_bytes()) {
        Some(bytes) => hex(&bytes).into(),
        None => encoded.into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(HEX[usize::from(digit)])).collect()
}

/// UUID to 22 characters; anything else unchanged.
pub fn encode_agent(agent: &str) -> Cow<'_, str> {
    match parse_uuid(agent) {
        Some(id) => URL_SAFE_NO_PAD.encode(id).into(),
        None => agent.into(),
    }
}

/// 22 base64url characters, or a UUID written out, to the UUID.
///
/// Only the canonical encoding counts: four spare bits would give every agent 16 topics.
pub fn decode_agent(encoded: &str) -> Option<AgentId> {
    let mut id = [0; 16];
    if encoded.len() == AGENT_ENCODED {
        return (URL_SAFE_NO_PAD.decode_slice(encoded, &mut id) == Ok(16)).then_some(id);
    }
    parse_uuid(encoded)
}
