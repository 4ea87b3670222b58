//! Any bytes to every unpacker: never panics, never exceeds its limit.
#![no_main]

use iotistica_core::entry::{self, Entry, Form};
use iotistica_core::inflate::{Inflater, Wrapping};
use iotistica_core::limits::Limits;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let mut inflater = Inflater::new(LIMIT);
    for wrapping in [Wrapping::Zlib, Wrapping::Gzip, Wrapping::Raw] {
        if let Ok(output) = inflater.inflate(data, wrapping) {
            assert!(output.len() <= LIMIT);
        }
    }
    let limits = Limits { inflated_bytes: LIMIT, message_bytes: LIMIT, ..Limits::default() };
    let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    for encoding in ["br", "gzip", "deflate", "identity"] {
        let fields: Vec<&[u8]> =
            vec![b"compressed", b"1", b"encoding", encoding.as_bytes(), b"payload", hex.as_bytes()];
        let entry = Entry { id: b"1-1", fields };
        let Form::Records(records) = entry::form(&entry) else { unreachable!() };
        if let Ok(output) = records.unpack(&mut inflater, &limits) {
            assert!(output.len() <= LIMIT);
        }
    }
});
