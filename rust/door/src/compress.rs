//! Which answers are compressed, and the encoder.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::answer::{Answer, Framing};

/// Below this the head is most of the answer.
const LEAST_BYTES: u64 = 1024;
/// Half of the time of the usual 6, and 3 % more bytes on JSON of readings.
const LEVEL: u32 = 4;

/// Whether an answer gains by compression: then it also varies by Accept-Encoding.
pub fn is_compressible(answer: &Answer<'_>) -> bool {
    let is_long = match answer.framing {
        Framing::Empty => false,
        Framing::Length(length) => length >= LEAST_BYTES,
        Framing::Chunked | Framing::Close => true,
    };
    is_long && !answer.is_final_form && !answer.is_endless() && is_text(answer.media_type())
}

fn is_text(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    let kinds = [
        "application/json",
        "application/javascript",
        "application/xml",
        "application/x-ndjson",
        "application/ndjson",
        "application/openmetrics-text",
        "application/wasm",
        "application/manifest+json",
    ];
    media_type.starts_with("text/")
        || media_type.ends_with("+json")
        || media_type.ends_with("+xml")
        || kinds.contains(&media_type.as_str())
}

/// Makes one gzip stream of the pieces of a body.
pub struct Gzip(GzEncoder<Vec<u8>>);

impl Default for Gzip {
    fn default() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::new(LEVEL)))
    }
}

impl Gzip {
    /// Compress a piece; with `flush` the client can read all of it at once.
    pub fn push(&mut self, piece: &[u8], flush: bool) -> Vec<u8> {
        // Writing to a Vec cannot fail.
        let _ = self.0.write_all(piece);
        if flush && !piece.is_empty() {
            let _ = self.0.flush();
        }
        std::mem::take(self.0.get_mut())
    }

    /// What is left.
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn compressible(fields: &str) -> bool {
        is_compressible(
            &Answer::parse(format!("HTTP/1.1 200 OK\r\n{fields}").as_bytes(), false).unwrap(),
        )
    }

    #[test]
    fn long_text_is_compressed() {
        for (fields, expected) in [
            ("Content-Type: application/json; charset=utf-8\r\nContent-Length: 1024\r\n", true),
            ("Content-Type: application/json\r\nContent-Length: 1023\r\n", false),
            ("Content-Type: Application/Problem+JSON\r\nTransfer-Encoding: chunked\r\n", true),
            ("Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", false),
            ("Content-Type: image/png\r\nContent-Length: 9999\r\n", false),
            ("Content-Length: 9999\r\n", false),
            ("Content-Type: text/css\r\nContent-Encoding: br\r\nContent-Length: 9999\r\n", false),
            (
                "Content-Type: text/css\r\nCache-Control: private, no-transform\r\nContent-Length: 9999\r\n",
                false,
            ),
        ] {
            assert_eq!(compressible(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_flushed_piece_can_be_read_at_once() {
        let mut gzip = Gzip::default();
        let first = gzip.push(b"one ", true);
        let mut out = [0; 4];
        flate2::read::GzDecoder::new(&first[..]).read_exact(&mut out).unwrap();
        assert_eq!(&out, b"one ");
        let all = [first, gzip.push(b"two", false), gzip.finish()].concat();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&all[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
    }
}
