//! Everything that parses what a client, or a web process, sends. Any bytes: no panic, and the same
//! outcome however they are split.

#![no_main]

use iotistica_door::answer::Answer;
use iotistica_door::chunks::Dechunker;
use iotistica_door::fields::is_word;
use iotistica_door::refusal::Refusal;
use iotistica_door::request::{Length, Request};
use iotistica_door::scan::{Found, HeadLimits, Scanner};
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { line_bytes: 256, head_bytes: 1024 };

fn scan_split(bytes: &[u8], cut: usize) -> Result<Option<Found>, Refusal> {
    let mut scanner = Scanner::default();
    match scanner.scan(&bytes[..cut], LIMITS) {
        Ok(None) => scanner.scan(bytes, LIMITS),
        done => done,
    }
}

fn dechunk(pieces: [&[u8]; 2]) -> Result<(Vec<u8>, bool), Refusal> {
    let (mut dechunker, mut out) = (Dechunker::new(512, 64), Vec::new());
    for piece in pieces {
        dechunker.push(piece, &mut out)?;
    }
    assert!(out.len() <= 512);
    Ok((out, dechunker.is_done()))
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let cut = usize::from(cut).min(bytes.len());
    let found = Scanner::default().scan(bytes, LIMITS);
    assert_eq!(scan_split(bytes, cut), found);
    let _ = Answer::parse(bytes, cut % 2 == 0);
    if let Ok(Some(found)) = found {
        let _ = Answer::parse(&bytes[found.start..found.end], cut % 2 == 0);
        let Ok(request) = Request::parse(&bytes[found.start..found.end], 16) else { return };
        // What goes on can be read in one way only.
        assert!(request.fields.iter().all(|field| is_word(field.name)));
        assert!(request.fields.iter().all(|field| field.value.bytes().all(|b| b == b'\t' || (b' '..=b'~').contains(&b))));
        assert!(request.target.bytes().all(|byte| byte.is_ascii_graphic()));
        if request.length == Length::Chunked {
            let (first, second) = bytes[found.next..].split_at(cut.min(bytes.len() - found.next));
            let whole = dechunk([&bytes[found.next..], &[]]);
            match dechunk([first, &[]]) {
                Ok((_, false)) => assert_eq!(dechunk([first, second]), whole),
                done => assert_eq!(done.is_ok(), whole.is_ok()),
            }
        }
    }
});
