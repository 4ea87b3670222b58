//! Takes content codings off request bodies, within the limit for bodies.

use std::io::{ErrorKind, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use tokio::task::yield_now;

use crate::body::Body;
use crate::refusal::Refusal;
use crate::request::Coding;

/// Bytes made at a time: what one body may cost the others before they have their turn.
const STEP: usize = 64 * 1024;

/// The plain body. A body that grows over `max_bytes` is refused, at the cost of `max_bytes`.
pub async fn inflate(coding: Coding, body: Body, max_bytes: usize) -> Result<Body, Refusal> {
    let mut plain = body.empty();
    match coding {
        Coding::Identity => return Ok(body),
        Coding::Gzip => read(MultiGzDecoder::new(body.bytes()), &mut plain, max_bytes).await?,
        Coding::Deflate => inflate_zlib(body.bytes(), &mut plain, max_bytes).await?,
        Coding::Brotli => inflate_brotli(body.bytes(), &mut plain, max_bytes).await?,
    }
    Ok(plain)
}

async fn read(mut decoder: impl Read, plain: &mut Body, max_bytes: usize) -> Result<(), Refusal> {
    let mut step = vec![0; STEP];
    loop {
        match decoder.read(&mut step) {
            Ok(0) => return Ok(()),
            Ok(count) => take(plain, &step[..count], max_bytes)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Refusal::CorruptBody),
        }
        yield_now().await;
    }
}

/// By hand, because flate2's reader takes a stream that was cut off for a whole one.
async fn inflate_zlib(mut input: &[u8], plain: &mut Body, max_bytes: usize) -> Result<(), Refusal> {
    let mut decoder = Decompress::new(true);
    let mut step = vec![0; STEP];
    loop {
        let (read, made) = (decoder.total_in(), decoder.total_out());
        let status = decoder
            .decompress(input, &mut step, FlushDecompress::None)
            .map_err(|_| Refusal::CorruptBody)?;
        let (read, made) = (decoder.total_in() - read, decoder.total_out() - made);
        input = input.get(read as usize..).unwrap_or_default();
        take(plain, step.get(..made as usize).unwrap_or_default(), max_bytes)?;
        match status {
            Status::StreamEnd if input.is_empty() => return Ok(()),
            Status::StreamEnd => return Err(Refusal::CorruptBody),
            _ if read == 0 && made == 0 => return Err(Refusal::CorruptBody),
            _ => yield_now().await,
        }
    }
}

/// By hand, because the reader overlooks what follows the stream.
async fn inflate_brotli(input: &[u8], plain: &mut Body, max_bytes: usize) -> Result<(), Refusal> {
    let alloc = StandardAlloc::default;
    let mut state = BrotliState::new(alloc(), alloc(), alloc());
    let mut step = vec![0; STEP];
    let (mut left, mut at, mut total) = (input.len(), 0, 0);
    loop {
        let (mut free, mut made) = (STEP, 0);
        let result = BrotliDecompressStream(
            &mut left, &mut at, input, &mut free, &mut made, &mut step, &mut total, &mut state,
        );
        take(plain, step.get(..made).unwrap_or_default(), max_bytes)?;
        match result {
            BrotliResult::ResultSuccess if left == 0 => return Ok(()),
            BrotliResult::NeedsMoreOutput => yield_now().await,
            _ => return Err(Refusal::CorruptBody),
        }
    }
}

fn take(plain: &mut Body, step: &[u8], max_bytes: usize) -> Result<(), Refusal> {
    if plain.bytes().len() + step.len() > max_bytes {
        return Err(Refusal::BodyTooLarge);
    }
    plain.extend(step)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use flate2::Compression;

    use super::*;
    use crate::body::Room;

    fn run(coding: Coding, bytes: &[u8], max_bytes: usize) -> Result<Vec<u8>, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut body = Body::new(&Arc::new(Room::new(1 << 20)));
        body.extend(bytes).unwrap();
        let plain = runtime.block_on(inflate(coding, body, max_bytes))?;
        Ok(plain.bytes().to_vec())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const BROTLI: &[u8] = b"\x0b\x05\x80hello world\x03";

    #[test]
    fn each_coding_comes_off() {
        let text = b"temperature ".repeat(20_000);
        assert_eq!(run(Coding::Gzip, &gzip(&text), text.len()), Ok(text.clone()));
        assert_eq!(run(Coding::Deflate, &zlib(&text), text.len()), Ok(text));
        assert_eq!(run(Coding::Brotli, BROTLI, 100), Ok(b"hello world".to_vec()));
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(run(Coding::Gzip, &two, 100), Ok(b"one two".to_vec()));
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_limit() {
        let bomb = vec![0; 1_000_000];
        for (coding, bytes) in [(Coding::Gzip, gzip(&bomb)), (Coding::Deflate, zlib(&bomb))] {
            assert_eq!(run(coding, &bytes, 99_999), Err(Refusal::BodyTooLarge), "{coding:?}");
        }
    }

    #[test]
    fn a_body_that_is_cut_off_or_followed_by_more_is_corrupt() {
        let text = b"0123456789".repeat(50);
        for (coding, bytes) in [
            (Coding::Gzip, gzip(&text)),
            (Coding::Deflate, zlib(&text)),
            (Coding::Brotli, BROTLI.to_vec()),
        ] {
            for end in 0..bytes.len() {
                assert_eq!(
                    run(coding, &bytes[..end], 1000),
                    Err(Refusal::CorruptBody),
                    "{coding:?} {end}"
                );
            }
            let more = [&bytes[..], b"x"].concat();
            assert_eq!(run(coding, &more, 1000), Err(Refusal::CorruptBody), "{coding:?}");
        }
    }
}
