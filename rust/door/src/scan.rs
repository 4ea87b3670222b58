//! Finds the end of a head as its bytes arrive, and refuses what can never become one.
//!
//! The outcome is a function of the bytes alone, never of how they were split over reads.

use memchr::memchr2;

use crate::fields::is_token;
use crate::refusal::Refusal;

/// How long a head may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// First line with its CR LF.
    pub line_bytes: usize,
    /// All of it with the empty line.
    pub head_bytes: usize,
}

/// Where a head was found: `start..end` are its lines, each with CR LF; `next` is behind the empty
/// line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub start: usize,
    pub end: usize,
    pub next: usize,
}

/// Progress over one head. Give it the same bytes again, with more at their end.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Bytes before this one need not be looked at again.
    at: usize,
    /// Start of the line that `at` is in.
    line: usize,
    /// Start of the first line that is not empty.
    first: Option<usize>,
}

impl Scanner {
    /// The head, or None while its end is not there.
    pub fn scan(&mut self, bytes: &[u8], limits: HeadLimits) -> Result<Option<Found>, Refusal> {
        loop {
            self.check_first_byte(bytes)?;
            let (limit, too_long) = self.limit(limits);
            let window = bytes.get(..limit).unwrap_or(bytes);
            let rest = window.get(self.at..).unwrap_or_default();
            let ending = memchr2(b'\r', b'\n', rest).map(|offset| self.at + offset);
            self.at = ending.unwrap_or(window.len());
            match ending.map(|at| (window[at], window.get(at + 1))) {
                None | Some((b'\r', None)) if bytes.len() > limit => return Err(too_long),
                None | Some((b'\r', None)) => return Ok(None),
                Some((b'\r', Some(b'\n'))) => {}
                Some(_) => return Err(Refusal::LineEnd),
            }
            let line = self.line..self.at;
            self.at += 2;
            self.line = self.at;
            match (self.first, line.is_empty()) {
                (Some(start), true) => {
                    return Ok(Some(Found { start, end: line.start, next: self.at }));
                }
                (None, false) => self.first = Some(line.start),
                // One empty line may come before a request (RFC 9112 section 2.2).
                (None, true) if line.start > 0 => return Err(Refusal::RequestLine),
                _ => {}
            }
        }
    }

    /// TLS and other protocols are told so at once, not when the time for the head is over.
    fn check_first_byte(&self, bytes: &[u8]) -> Result<(), Refusal> {
        match bytes.get(self.line) {
            Some(&byte) if self.first.is_none() && !is_token(byte) && byte != b'\r' => {
                Err(Refusal::RequestLine)
            }
            _ => Ok(()),
        }
    }

    fn limit(&self, limits: HeadLimits) -> (usize, Refusal) {
        let line_limit = self.line + limits.line_bytes;
        match self.first {
            None if line_limit < limits.head_bytes => (line_limit, Refusal::TargetTooLong),
            _ => (limits.head_bytes, Refusal::HeadTooLarge),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: HeadLimits = HeadLimits { line_bytes: 24, head_bytes: 48 };

    fn scan(bytes: &[u8]) -> Result<Option<Found>, Refusal> {
        Scanner::default().scan(bytes, LIMITS)
    }

    #[test]
    fn a_head_ends_at_the_empty_line() {
        let found = scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest").unwrap().unwrap();
        assert_eq!(found, Found { start: 0, end: 22, next: 24 });
        let found = scan(b"\r\nGET /\r\n\r\n").unwrap().unwrap();
        assert_eq!(found, Found { start: 2, end: 9, next: 11 });
    }

    #[test]
    fn what_can_never_be_a_head_is_refused_early() {
        for (bytes, refusal) in [
            (&b"\x16\x03\x01"[..], Refusal::RequestLine),
            (b"\r\n\r\n", Refusal::RequestLine),
            (b" GET", Refusal::RequestLine),
            (b"\n", Refusal::RequestLine),
            (b"GET / HTTP/1.1\n", Refusal::LineEnd),
            (b"GET / HTTP/1.1\rX", Refusal::LineEnd),
            (b"GET /aaaaaaaaaaaaaaaaaaaaa", Refusal::TargetTooLong),
            (b"GET /\r\nA: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Refusal::HeadTooLarge),
        ] {
            assert_eq!(scan(bytes), Err(refusal), "{}", bytes.escape_ascii());
        }
        assert_eq!(scan(b"GET /\r"), Ok(None));
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(&b"\r\n"[..]),
            Just(&b"\r"[..]),
            Just(&b"\n"[..]),
            Just(&b"GET / HTTP/1.1"[..]),
            Just(&b"Host: x"[..]),
            Just(&b"\x00"[..]),
            Just(&b"a"[..]),
        ];
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(bytes in pieces(), cuts in prop::collection::vec(0usize..60, 0..6)) {
            let whole = scan(&bytes);
            let mut scanner = Scanner::default();
            let mut ends: Vec<usize> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
            ends.sort_unstable();
            ends.push(bytes.len());
            let mut split = Ok(None);
            for end in ends {
                split = scanner.scan(&bytes[..end], LIMITS);
                if split != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(split, whole);
        }
    }
}
