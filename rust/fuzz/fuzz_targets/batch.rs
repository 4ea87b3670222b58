//! Entries of both forms from any bytes: never panics (not even where a panic would be caught),
//! every message has one outcome, a neighbor is always stored, and the buffers are whole and can be
//! divided.
#![no_main]

use std::cell::RefCell;

use iotistica_core::batch::{Encoder, Options};
use iotistica_core::context::Context;
use iotistica_core::dictionary::Dictionary;
use iotistica_core::entry::Entry;
use iotistica_core::limits::Limits;
use iotistica_core::reject::Reason;
use iotistica_core::{ids, suspects, tally, topic};
use libfuzzer_sys::fuzz_target;

const TENANT: &str = "73eddd385ce8";
const AGENT: &str = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01";
const NOW_MS: i64 = 1_795_454_000_000;

fn options(last: bool) -> Options {
    Options { now_ms: NOW_MS, last, divert_before_ms: None }
}
const NEIGHBOR: &[u8] = br#"{"metric":"neighbor-of-the-fuzz","value":1}"#;
const FIELDS: &[u8] = br#"{"fields":["messages","messages[].readings",
    "messages[].readings[].metric","messages[].readings[].value","a.b","m[0].x","quality","unit"],
    "enums":{"unit":{"C":1}},"metrics":{"modbus":{"t":1}},"devices":{"modbus":{"d":1}}}"#;

fn context() -> Context {
    let limits =
        Limits { inflated_bytes: 1 << 16, elements: 10_000, depth: 100, ..Limits::default() };
    let mut context = Context::new(TENANT, limits);
    let agent = ids::parse_uuid(AGENT).expect("a UUID");
    context.agents.insert(agent);
    let dictionary = Dictionary::parse(1, FIELDS).expect("a dictionary");
    context.put_dictionary(agent, dictionary);
    context
}

thread_local! {
    // Reused as in the service, so that nothing may leak from one batch into the next.
    static SERVICE: RefCell<(Context, Encoder)> = {
        let context = context();
        let encoder = Encoder::new(&context);
        RefCell::new((context, encoder))
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((&form, payload)) = data.split_first() else { return };
    let topic = topic::format(TENANT, AGENT, "endpoints/modbus");
    let (first, second) = (format!("{NOW_MS}-0 {topic}"), format!("{NOW_MS}-1 {topic}"));
    let fuzzed: Vec<&[u8]> = match form % 4 {
        0 => vec![first.as_bytes(), payload],
        1 => vec![b"data", payload, b"deviceUuid", AGENT.as_bytes()],
        2 => vec![
            b"compressed",
            b"1",
            b"encoding",
            b"identity",
            b"payload",
            payload,
            b"deviceUuid",
            AGENT.as_bytes(),
            b"contentType",
            b"application/x-ndjson",
        ],
        _ => payload.split(|&byte| byte == 0).collect(),
    };
    let entries = [
        Entry { id: b"1-0", fields: fuzzed },
        Entry { id: b"2-0", fields: vec![second.as_bytes(), NEIGHBOR] },
    ];
    let batch = SERVICE
        .with_borrow_mut(|(context, encoder)| encoder.encode(&entries, context, options(true)));
    assert!(batch.rejects.iter().all(|rejected| rejected.reject.reason != Reason::Panicked));
    assert!(batch.waiting.is_empty());
    let neighbor = batch.outcomes.iter().find(|outcome| outcome.entry == 1).expect("an outcome");
    assert_eq!(neighbor.rows, 1);
    let rows: u32 = batch.outcomes.iter().map(|outcome| outcome.rows).sum();
    assert_eq!(rows as usize, batch.copy.rows);
    assert!(
        batch.copy.bytes.starts_with(b"PGCOPY\n\xff\r\n\0")
            && batch.copy.bytes.ends_with(b"\xff\xff")
    );
    assert!(batch.latest.rows <= batch.copy.rows);
    for copy in [&batch.copy, &batch.latest] {
        assert_eq!(copy.walk().count(), copy.rows);
        assert_eq!(copy.agents().iter().map(|(_, rows)| rows).sum::<usize>(), copy.rows);
        assert!(copy.arrays().iter().all(|array| array.starts_with('{') && array.ends_with('}')));
    }
    let heads = suspects::heads(&batch.copy, &batch.sources);
    let found: Vec<usize> = (0..heads.rows).filter(|head| form >> (head % 8) & 1 == 1).collect();
    let (clean, suspect) = suspects::split(&batch.copy, &batch.sources, &found);
    assert_eq!(clean.rows + suspect.rows, batch.copy.rows);
    assert_eq!(suspect.rows > 0, !found.is_empty());
    let tallies = tally::tallies(&batch);
    assert_eq!(tallies.iter().map(|one| one.messages).sum::<u32>() as usize, batch.outcomes.len());
    for one in tallies {
        let counted = one.rows + one.duplicates + one.collisions + one.dropped + one.rejected;
        assert_eq!(one.readings, counted);
    }
});
