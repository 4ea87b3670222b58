//! Where the frames of a WebSocket begin (RFC 6455 section 5.2), without looking into them.

/// "Going away", as a server says it: an unmasked frame.
pub const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xE9];

const SHORT: u8 = 126;
const LONG: u8 = 127;
const MASKED: u8 = 0x80;

/// Follows a stream of frames, however it is split.
#[derive(Debug, Default)]
pub struct Frames {
    head: Vec<u8>,
    /// Of the frame that has begun.
    payload_left: u64,
}

impl Frames {
    /// Take note of bytes that were passed on.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left == 0 {
                let (byte, rest) = bytes.split_at(1);
                self.head.extend_from_slice(byte);
                bytes = rest;
                if let Some(length) = payload_length(&self.head) {
                    self.head.clear();
                    self.payload_left = length;
                }
            } else {
                let count = usize::try_from(self.payload_left).unwrap_or(usize::MAX);
                let count = count.min(bytes.len());
                self.payload_left -= count as u64;
                bytes = bytes.get(count..).unwrap_or_default();
            }
        }
    }

    /// Whether a frame of ours may follow.
    pub fn is_between(&self) -> bool {
        self.head.is_empty() && self.payload_left == 0
    }
}

/// Once the head is whole.
fn payload_length(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let mask = if second & MASKED == 0 { 0 } else { 4 };
    let (length, size) = match second & !MASKED {
        SHORT => (u64::from(u16::from_be_bytes(*head.get(2..)?.first_chunk()?)), 4),
        LONG => (u64::from_be_bytes(*head.get(2..)?.first_chunk()?), 10),
        length => (u64::from(length), 2),
    };
    (head.len() == size + mask).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![0x81];
        match length {
            0..=125 => bytes.push(mask | length as u8),
            126..=0xFFFF => {
                bytes.push(mask | SHORT);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | LONG);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + if masked { 4 } else { 0 } + length, 0x88);
        bytes
    }

    #[test]
    fn a_frame_may_follow_only_where_one_has_ended() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 127, 300, 0xFFFF, 0x1_0000] {
                for piece in [1, 2, 3, 7, 1000, usize::MAX] {
                    let bytes = [frame(length, masked), frame(3, masked)].concat();
                    let (mut frames, mut passed) = (Frames::default(), 0);
                    let ends = [0, frame(length, masked).len(), bytes.len()];
                    for piece in bytes.chunks(piece.min(bytes.len())) {
                        frames.push(piece);
                        passed += piece.len();
                        assert_eq!(
                            frames.is_between(),
                            ends.contains(&passed),
                            "{length} {passed}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_farewell_is_a_frame() {
        let mut frames = Frames::default();
        frames.push(&GOING_AWAY);
        assert!(frames.is_between());
        assert_eq!(u16::from_be_bytes([GOING_AWAY[2], GOING_AWAY[3]]), 1001);
    }
}
