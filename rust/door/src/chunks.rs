//! Takes the chunked transfer coding off (RFC 9112 section 7.1), byte for byte as strict as the
//! grammar: no spaces, no bare line ends, no signs, no numbers above the limit.

use crate::fields::{self, Text};
use crate::refusal::Refusal;

/// Longest line: a size with its extensions, or one trailer field.
const LINE_BYTES: usize = 1024;

#[derive(Debug)]
enum State {
    /// In a line that gives the size of a chunk.
    Size,
    /// So many bytes of a chunk are still to come.
    Data(u64),
    /// CR LF behind the data; the number of its bytes seen.
    DataEnd(u8),
    Trailer,
    Done,
}

/// A chunked body on its way in.
#[derive(Debug)]
pub struct Dechunker {
    state: State,
    line: Vec<u8>,
    left: u64,
    overhead_left: usize,
}

impl Dechunker {
    /// For a body of at most `max_bytes`, with extensions and trailers of `max_overhead` in all.
    pub fn new(max_bytes: u64, max_overhead: usize) -> Self {
        Self { state: State::Size, line: Vec::new(), left: max_bytes, overhead_left: max_overhead }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Move what is in `input` to `out` without its framing; the number of bytes used, which is
    /// less than all only when the body is done.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        let mut at = 0;
        while let (Some(&byte), false) = (input.get(at), self.is_done()) {
            match self.state {
                State::Data(count) => {
                    let rest = &input[at..];
                    let taken = rest.len().min(usize::try_from(count).unwrap_or(usize::MAX));
                    out.extend_from_slice(&rest[..taken]);
                    at += taken;
                    self.state = match count - taken as u64 {
                        0 => State::DataEnd(0),
                        left => State::Data(left),
                    };
                }
                State::DataEnd(seen) => {
                    self.state = match (seen, byte) {
                        (0, b'\r') => State::DataEnd(1),
                        (1, b'\n') => State::Size,
                        _ => return Err(Refusal::Chunk),
                    };
                    at += 1;
                }
                State::Size | State::Trailer | State::Done => {
                    at += 1;
                    self.take_line_byte(byte)?;
                }
            }
        }
        Ok(at)
    }

    fn take_line_byte(&mut self, byte: u8) -> Result<(), Refusal> {
        let after_cr = self.line.last() == Some(&b'\r');
        match (byte, after_cr) {
            (b'\n', true) => {
                self.line.pop();
                let line = std::mem::take(&mut self.line);
                let result = self.end_line(&line);
                self.line = line;
                self.line.clear();
                return result;
            }
            (b'\n', false) | (_, true) => return Err(Refusal::Chunk),
            _ if self.line.len() >= LINE_BYTES => return Err(Refusal::ChunkOverhead),
            _ => self.line.push(byte),
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let line = std::str::from_utf8(line).map_err(|_| Refusal::Chunk)?;
        if matches!(self.state, State::Trailer) {
            if line.is_empty() {
                self.state = State::Done;
                return Ok(());
            }
            fields::parse(line, Text::Ascii).map_err(|_| Refusal::Chunk)?;
            return self.spend(line.len());
        }
        let (digits, extension) = line.split_at(line.find(';').unwrap_or(line.len()));
        if !extension.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            return Err(Refusal::Chunk);
        }
        self.spend(extension.len())?;
        let size = parse_size(digits)?;
        self.left = self.left.checked_sub(size).ok_or(Refusal::BodyTooLarge)?;
        self.state = match size {
            0 => State::Trailer,
            _ => State::Data(size),
        };
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.overhead_left = self.overhead_left.checked_sub(bytes).ok_or(Refusal::ChunkOverhead)?;
        Ok(())
    }
}

fn parse_size(digits: &str) -> Result<u64, Refusal> {
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::Chunk);
    }
    u64::from_str_radix(digits, 16).map_err(|_| Refusal::BodyTooLarge)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, bool), Refusal> {
        let (mut dechunker, mut out) = (Dechunker::new(40, 16), Vec::new());
        let used = dechunker.push(input, &mut out)?;
        Ok((out, used, dechunker.is_done()))
    }

    #[test]
    fn a_body_loses_its_framing() {
        let body = b"3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\n\r\nGET";
        let (out, used, done) = decode(body).unwrap();
        assert_eq!((out.as_slice(), used, done), (&b"abc0123456789"[..], body.len() - 3, true));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for (input, refusal) in [
            (&b"ZZ\r\n"[..], Refusal::Chunk),
            (b"\r\n", Refusal::Chunk),
            (b"-1\r\n", Refusal::Chunk),
            (b"+1\r\n", Refusal::Chunk),
            (b"0x1\r\n", Refusal::Chunk),
            (b"1 \r\n", Refusal::Chunk),
            (b" 1\r\n", Refusal::Chunk),
            (b"1\n", Refusal::Chunk),
            (b"1\rX", Refusal::Chunk),
            (b"1\r\r\n", Refusal::Chunk),
            (b"1;a\nb\r\n", Refusal::Chunk),
            (b"1;\x00\r\n", Refusal::Chunk),
            (b"1;\xff\r\n", Refusal::Chunk),
            (b"1\r\naX", Refusal::Chunk),
            (b"1\r\na\rX", Refusal::Chunk),
            (b"1\r\na\n", Refusal::Chunk),
            (b"0\r\nA : b\r\n", Refusal::Chunk),
            (b"0\r\n b\r\n", Refusal::Chunk),
            (b"29\r\n", Refusal::BodyTooLarge),
            (b"FFFFFFFFFFFFFFFFF\r\n", Refusal::BodyTooLarge),
            (b"1;aaaaaaaaaaaaaaaa\r\n", Refusal::ChunkOverhead),
            (b"0\r\nA: aaaaaaaaaaaaaaaa\r\n", Refusal::ChunkOverhead),
            (&[b'0'; LINE_BYTES + 1], Refusal::ChunkOverhead),
        ] {
            assert_eq!(decode(input), Err(refusal), "{}", input.escape_ascii());
        }
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\r\n".to_vec()),
            Just(b"1\r\na\r\n".to_vec()),
            Just(b"0\r\n".to_vec()),
            Just(b"5;x".to_vec()),
            prop::collection::vec(any::<u8>(), 1..5),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(bytes in pieces(), cut in 0usize..40) {
            let whole = decode(&bytes);
            let (mut dechunker, mut out) = (Dechunker::new(40, 16), Vec::new());
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let split = dechunker.push(first, &mut out).and_then(|used| {
                let rest = if used < first.len() { &[] } else { second };
                Ok(used + dechunker.push(rest, &mut out)?)
            });
            prop_assert_eq!(split.map(|used| (out, used, dechunker.is_done())), whole);
        }

        #[test]
        fn what_was_chunked_comes_out(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 0..4)) {
            let mut body: Vec<u8> = Vec::new();
            for part in &parts {
                body.extend(format!("{:x}\r\n", part.len()).bytes());
                body.extend(part);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            prop_assert_eq!(decode(&body), Ok((parts.concat(), body.len(), true)));
        }
    }
}
