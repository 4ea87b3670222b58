//! Packets in a stream of bytes: found, bounded, decoded.

use bytes::{Buf, BytesMut};
use mqtt_proto::v5::{ErrorV5, Header, Packet};
use mqtt_proto::{Error, PollHeader, Protocol};

/// Why a stream cannot be read on.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// The fixed header announces more than is allowed; nothing of it was buffered.
    TooLarge,
    /// A client of MQTT 3.1 or 3.1.1.
    OldProtocol,
    /// A protocol that is neither of these nor MQTT 5.
    UnknownProtocol,
    Malformed,
}

/// Take the next complete packet out of `buffer`.
///
/// `None` means that more bytes are needed.
pub fn next(buffer: &mut BytesMut, max_bytes: u32) -> Result<Option<Packet>, Broken> {
    let Some((first, remaining, header_len)) = fixed_header(buffer)? else {
        return Ok(None);
    };
    let total = header_len + remaining;
    if total > max_bytes as usize {
        return Err(Broken::TooLarge);
    }
    let header =
        Header::new_with(first, remaining as u32, total as u32).map_err(|error| judge(&error))?;
    if buffer.len() < total {
        return Ok(None);
    }
    let packet = match header.build_empty_packet() {
        Some(packet) if remaining == 0 => packet,
        Some(_) if matches!(first >> 4, 12 | 13) => return Err(Broken::Malformed),
        _ => {
            let mut offset = 0;
            let body = &buffer[header_len..total];
            let packet = header.decode_buffer(body, &mut offset).map_err(|error| judge(&error))?;
            if offset != body.len() {
                return Err(Broken::Malformed);
            }
            packet
        }
    };
    buffer.advance(total);
    Ok(Some(packet))
}

/// First byte, remaining length and length of the fixed header itself.
fn fixed_header(buffer: &[u8]) -> Result<Option<(u8, usize, usize)>, Broken> {
    let Some((&first, rest)) = buffer.split_first() else {
        return Ok(None);
    };
    let mut remaining = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Ok(Some((first, remaining, index + 2)));
        }
    }
    if rest.len() < 4 { Ok(None) } else { Err(Broken::Malformed) }
}

fn judge(error: &ErrorV5) -> Broken {
    match error {
        ErrorV5::Common(Error::UnexpectedProtocol(Protocol::V310 | Protocol::V311)) => {
            Broken::OldProtocol
        }
        ErrorV5::Common(Error::InvalidProtocol(..)) => Broken::UnknownProtocol,
        _ => Broken::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Packet>, Broken> {
        next(&mut BytesMut::from(bytes), 1000)
    }

    #[test]
    fn a_length_over_the_limit_is_refused_from_the_fixed_header() {
        assert_eq!(read(b"\x10\xff\xff\xff\x7f"), Err(Broken::TooLarge));
        assert_eq!(read(b"\x30\xe9\x07"), Err(Broken::TooLarge));
        assert_eq!(read(b"\x30\xe5\x07"), Ok(None));
        assert_eq!(read(b"\x30\xff\xff\xff\xff"), Err(Broken::Malformed));
        assert_eq!(read(b"GET / HTTP/1.1"), Err(Broken::Malformed));
    }

    #[test]
    fn old_protocols_are_told_apart() {
        assert_eq!(read(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"), Err(Broken::OldProtocol));
        assert_eq!(
            read(b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x00"),
            Err(Broken::OldProtocol)
        );
        assert_eq!(
            read(b"\x10\x0d\x00\x04MQTT\x06\x02\x00\x3c\x00\x00\x00"),
            Err(Broken::UnknownProtocol)
        );
    }

    #[test]
    fn bytes_behind_the_end_of_a_packet_are_malformed() {
        assert_eq!(read(b"\xc0\x00"), Ok(Some(Packet::Pingreq)));
        assert_eq!(read(b"\xc0\x01\x00"), Err(Broken::Malformed));
        assert_eq!(read(b"\x40\x05\x00\x01\x00\x00\x00"), Err(Broken::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(
            first: u8, body in prop::collection::vec(any::<u8>(), 0..120)
        ) {
            let mut bytes = vec![first, body.len() as u8];
            bytes.extend_from_slice(&body);
            let _ = read(&bytes);
            let mut buffer = BytesMut::from(&body[..]);
            while let Ok(Some(_)) = next(&mut buffer, 1000) {}
        }

        #[test]
        fn a_connect_with_flipped_bytes_is_read_without_panic(
            flips in prop::collection::vec((0usize..60, any::<u8>()), 0..4)
        ) {
            let mut bytes =
                b"\x10\x2d\x00\x04MQTT\x05\xc6\x00\x3c\x05\x11\x00\x00\x00\x3c\x00\x02id\x00\x00\x01t\x00\x01p\x00\x04user\x00\x08password"
                    .to_vec();
            for (at, value) in flips {
                if let Some(byte) = bytes.get_mut(at + 2) { *byte = value; }
            }
            let _ = read(&bytes);
        }
    }
}
