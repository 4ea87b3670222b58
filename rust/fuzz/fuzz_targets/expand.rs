//! A dictionary and a compacted message, separated by a NUL: never panics, never grows without
//! bound, and what is expanded is a value that can be written.
#![no_main]

use bumpalo::Bump;
use iotistica_core::decode;
use iotistica_core::dictionary::Dictionary;
use iotistica_core::expand::{self, Compact};
use iotistica_core::limits::Limits;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(at) = data.iter().position(|&byte| byte == 0) else { return };
    let Ok(dictionary) = Dictionary::parse(1, &data[..at]) else { return };
    let arena = Bump::new();
    let limits = Limits { elements: 10_000, depth: 100, ..Limits::default() };
    let Ok(value) = decode::decode(&data[at + 1..], &arena, &limits) else { return };
    let Some(compact) = Compact::recognize(value) else { return };
    if let Ok(expanded) = expand::expand(compact, &dictionary, &arena, &limits) {
        serde_json::to_vec(&expanded.value).expect("every value is JSON");
    }
});
