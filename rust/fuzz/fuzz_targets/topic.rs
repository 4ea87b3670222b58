//! Any text as a topic: never panics, and what parses can be written and parsed again.
#![no_main]

use iotistica_core::ids;
use iotistica_core::topic::{self, Topic};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = ids::encode_tenant(text);
    let _ = ids::encode_agent(text);
    let Ok(parsed) = Topic::parse(text) else { return };
    let rest = match parsed.rest {
        "" => parsed.kind.to_string(),
        rest => format!("{}/{rest}", parsed.kind),
    };
    let written = topic::format(&parsed.tenant, &parsed.agent(), &rest);
    let again = Topic::parse(&written).expect("a written topic parses");
    assert_eq!(again.tenant, parsed.tenant);
    assert_eq!(again.agent(), parsed.agent());
    assert_eq!(again.kind, parsed.kind);
    assert_eq!(again.rest, parsed.rest);
});
