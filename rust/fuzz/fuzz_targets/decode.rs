//! Any bytes as MessagePack or JSON: never panics; what decodes can be written as JSON, and JSON
//! is accepted exactly where serde_json accepts it (within our depth).
#![no_main]

use bumpalo::Bump;
use iotistica_core::decode::{self, Format};
use iotistica_core::limits::Limits;
use iotistica_core::reject::Reason;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let arena = Bump::new();
    let limits = Limits { elements: 10_000, depth: 100, ..Limits::default() };
    let decoded = decode::decode(data, &arena, &limits);
    if let Ok(value) = &decoded {
        let json = serde_json::to_vec(value).expect("every value is JSON");
        assert!(decode::decode(&json, &arena, &Limits { depth: 100, ..Limits::default() }).is_ok());
    }
    if Format::sniff(data) == Format::Json {
        let ours_only = matches!(&decoded, Err(reject)
            if matches!(reject.reason, Reason::TooDeep | Reason::TooManyElements));
        let theirs = serde_json::from_slice::<serde_json::Value>(data);
        assert!(ours_only || decoded.is_ok() == theirs.is_ok());
    }
});
