//! UTF-8 validation tuned for what telemetry is made of: short ASCII names.
//!
//! The standard validator spends about 80 instructions on a name of ten bytes, and a reading
//! has fourteen of them; two overlapping words settle it in a dozen.

#![allow(unsafe_code)]

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The text of these bytes, if they are UTF-8.
#[inline]
pub(crate) fn from_utf8(bytes: &[u8]) -> Option<&str> {
    if is_ascii(bytes) {
        // SAFETY: every byte is below 0x80, and such bytes are UTF-8 (RFC 3629, section 3).
        return Some(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    std::str::from_utf8(bytes).ok()
}

#[inline]
fn is_ascii(bytes: &[u8]) -> bool {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) if bytes.len() <= 16 => {
            (u64::from_ne_bytes(*first) | u64::from_ne_bytes(*last)) & HIGH_BITS == 0
        }
        (None, _) => match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
            (Some(first), Some(last)) => {
                u64::from(u32::from_ne_bytes(*first) | u32::from_ne_bytes(*last)) & HIGH_BITS == 0
            }
            _ => bytes.iter().fold(0, |all, byte| all | byte) < 0x80,
        },
        _ => bytes.is_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(super::from_utf8(&bytes), std::str::from_utf8(&bytes).ok());
        }

        #[test]
        fn one_high_bit_anywhere_is_found(length in 1_usize..40, at in 0_usize..40) {
            let mut bytes = vec![b'a'; length];
            bytes[at % length] = 0xFF;
            prop_assert_eq!(super::from_utf8(&bytes), None);
        }
    }
}
