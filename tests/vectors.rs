//! The golden vectors of `tests/vectors/`, which `tests/unit/test_vectors.py` runs as well.

// A test may fail by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use bumpalo::Bump;
use iotistica_core::batch::{Batch, Encoder, Need, Options};
use iotistica_core::context::Context;
use iotistica_core::dictionary::Dictionary;
use iotistica_core::downsample;
use iotistica_core::entry::Entry;
use iotistica_core::expand::{self, Compact};
use iotistica_core::explain::explain;
use iotistica_core::inflate::{self, Inflater, Wrapping};
use iotistica_core::limits::Limits;
use iotistica_core::reading::Quality;
use iotistica_core::reject::Reject;
use iotistica_core::tally::{self, Tally};
use iotistica_core::topic::{self, Topic};
use iotistica_core::value::Value;
use iotistica_core::{decode, ids, marks};
use serde_json::{Value as Json, json};

const TENANT: &str = "73eddd385ce8";
const AGENT: &str = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01";
/// 2026-11-23T17:13:20Z
const NOW_MS: i64 = 1_795_454_000_000;

fn options(last: bool) -> Options {
    Options { now_ms: NOW_MS, last, divert_before_ms: None }
}

fn vectors(name: &str) -> Vec<Json> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/vectors/{name}.json"));
    let cases: Vec<Json> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(!cases.is_empty());
    cases
}

fn text<'c>(case: &'c Json, key: &str) -> &'c str {
    case[key].as_str().unwrap_or_else(|| panic!("{key} of {case}"))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn context() -> Context {
    let mut context = Context::new(TENANT, Limits::default());
    context.agents.insert(ids::parse_uuid(AGENT).unwrap());
    context
}

#[test]
fn topic() {
    for case in vectors("topic") {
        let parsed = Topic::parse(text(&case, "topic"));
        if let Some(error) = case["error"].as_str() {
            assert_eq!(parsed.unwrap_err().reason.name(), error, "{case}");
            continue;
        }
        let parsed = parsed.unwrap();
        assert_eq!(parsed.tenant, text(&case, "tenant"), "{case}");
        assert_eq!(parsed.raw_tenant, text(&case, "raw_tenant"), "{case}");
        assert_eq!(parsed.agent(), text(&case, "agent"), "{case}");
        assert_eq!(parsed.kind, text(&case, "kind"), "{case}");
        assert_eq!(parsed.rest, text(&case, "rest"), "{case}");
    }
}

#[test]
fn ids_both_ways() {
    for case in vectors("ids") {
        let (plain, encoded) = (text(&case, "plain"), text(&case, "encoded"));
        if case["kind"] == "tenant" {
            assert_eq!(ids::encode_tenant(plain), encoded);
            assert_eq!(ids::decode_tenant(encoded), plain);
            assert!(topic::format(plain, AGENT, "state").contains(encoded));
        } else {
            assert_eq!(ids::encode_agent(plain), encoded);
            let decoded = ids::decode_agent(encoded).map(|id| ids::format_uuid(&id));
            assert_eq!(decoded.unwrap_or_else(|| encoded.to_owned()), plain);
        }
    }
}

/// Inflate if it is deflated, then decode.
fn decoded(case: &Json) -> Result<Json, Reject> {
    let mut limits = Limits::default();
    if let Some(limit) = case["limit"].as_u64() {
        limits.inflated_bytes = limit as usize;
    }
    if let Some(elements) = case["elements"].as_u64() {
        limits.elements = elements as usize;
    }
    let payload = unhex(text(case, "payload"));
    let mut inflater = Inflater::new(limits.inflated_bytes);
    let payload = match inflate::is_deflated(&payload) {
        true => inflater.inflate(&payload, Wrapping::Zlib)?,
        false => &payload,
    };
    let arena = Bump::new();
    decode::decode(payload, &arena, &limits).map(|value| serde_json::to_value(value).unwrap())
}

fn check_decoded(case: &Json) {
    match (decoded(case), case["error"].as_str()) {
        (Ok(value), None) => assert_eq!(value, case["json"], "{}", case["name"]),
        (Err(reject), Some(error)) => assert_eq!(reject.reason.name(), error, "{}", case["name"]),
        (result, _) => panic!("{}: {result:?}", case["name"]),
    }
}

#[test]
fn inflate_stage() {
    for case in vectors("inflate") {
        check_decoded(&case);
    }
}

#[test]
fn decode_stage() {
    for case in vectors("decode") {
        check_decoded(&case);
    }
}

#[test]
fn expand_stage() {
    for case in vectors("expand") {
        let dictionary = case["dictionary"].to_string();
        let dictionary = Dictionary::parse(1, dictionary.as_bytes()).unwrap();
        let message = case["message"].to_string();
        let (arena, limits) = (Bump::new(), Limits::default());
        let value = decode::decode(message.as_bytes(), &arena, &limits).unwrap();
        let Some(compact) = Compact::recognize(value) else {
            assert_eq!(case["expanded"], Json::Null, "{}", case["name"]);
            continue;
        };
        if !compact.fits(&dictionary) {
            let reject = compact.misfit(&[dictionary.into()]);
            assert_eq!(case["error"], reject.reason.name(), "{}", case["name"]);
            continue;
        }
        match expand::expand(compact, &dictionary, &arena, &limits) {
            Ok(expanded) => {
                let value = serde_json::to_value(expanded.value).unwrap();
                assert_eq!(value, case["expanded"], "{}", case["name"]);
                assert_eq!(u64::from(expanded.unknown_fields), case["unknown_fields"]);
            }
            Err(reject) => assert_eq!(reject.reason.name(), case["error"], "{}", case["name"]),
        }
    }
}

#[test]
fn time() {
    for case in vectors("time") {
        let payload = json!({"metric": "t", "value": 1, "timestamp": case["given"]}).to_string();
        let report = explain(None, payload.as_bytes(), &context(), NOW_MS);
        match case["error"].as_str() {
            Some(error) => assert_eq!(report["rejects"][0]["reason"], error, "{case}"),
            None => assert_eq!(report["rows"][0]["time"], case["time"], "{case}"),
        }
    }
}

#[test]
fn quality() {
    for case in vectors("quality") {
        let given = case["given"].to_string();
        let (arena, limits) = (Bump::new(), Limits::default());
        let value = decode::decode(given.as_bytes(), &arena, &limits).unwrap();
        assert_eq!(Quality::parse(value).name(), text(&case, "quality"), "{case}");
    }
    assert_eq!(Quality::parse(Value::UInt(u64::MAX)), Quality::Unknown);
}

#[test]
fn normalize_stage() {
    for case in vectors("normalize") {
        let topic = topic::format(TENANT, AGENT, text(&case, "topic"));
        let payload = case["payload"].to_string();
        let report = explain(Some(&topic), payload.as_bytes(), &context(), NOW_MS);
        assert_eq!(report["rows"], case["rows"], "{}", case["name"]);
        for count in ["dropped", "duplicates", "collisions"] {
            assert_eq!(report[count], case[count], "{count} of {}", case["name"]);
        }
        let rejects: Vec<Json> = report["rejects"].as_array().unwrap().iter().map(reason).collect();
        assert_eq!(Json::from(rejects), case["rejects"], "{}", case["name"]);
    }
}

fn reason(reject: &Json) -> Json {
    json!({"reason": reject["reason"], "readings": reject["readings"]})
}

fn encode(case: &Json) -> Batch {
    let mut context = context();
    context.key_compaction = case["key_compaction"].as_bool().unwrap();
    let entries: Vec<Entry> = case["entries"].as_array().unwrap().iter().map(entry).collect();
    let last = case["final"].as_bool().unwrap();
    let divert_before_ms = case["divert_before_ms"].as_i64();
    Encoder::new(&context).encode(&entries, &context, Options { divert_before_ms, ..options(last) })
}

fn entry(case: &Json) -> Entry<'_> {
    let fields = case["fields"].as_array().unwrap();
    let fields = fields.iter().map(|field| field.as_str().unwrap().as_bytes()).collect();
    Entry { id: text(case, "id").as_bytes(), fields }
}

#[test]
fn entry_stage_and_batch() {
    for case in vectors("entry") {
        let batch = encode(&case);
        let outcomes: Vec<Json> = batch
            .outcomes
            .iter()
            .map(|outcome| {
                json!({
                    "entry": outcome.entry, "message": outcome.message,
                    "agent": outcome.agent.as_ref().map(ids::format_uuid), "rows": outcome.rows,
                    "duplicates": outcome.duplicates, "collisions": outcome.collisions,
                    "dropped": outcome.dropped, "rejected": outcome.rejected,
                })
            })
            .collect();
        assert_eq!(Json::from(outcomes), case["outcomes"], "{}", case["name"]);
        let rejects: Vec<Json> = batch
            .rejects
            .iter()
            .map(|rejected| {
                json!({
                    "entry": rejected.entry, "message": rejected.message,
                    "reason": rejected.reject.reason.name(), "readings": rejected.readings,
                })
            })
            .collect();
        assert_eq!(Json::from(rejects), case["rejects"], "{}", case["name"]);
        let waiting: Vec<Json> = batch
            .waiting
            .iter()
            .map(|waiting| {
                let (needs, agent, version, hash) = match &waiting.needs {
                    Need::Agent(agent) => ("agent", Some(agent), 0, None),
                    Need::Dictionary(agent, version, hash) => {
                        ("dictionary", Some(agent), *version, hash.as_deref())
                    }
                    Need::Room => ("room", None, 0, None),
                    Need::Backfill => ("backfill", None, 0, None),
                };
                json!({
                    "entry": waiting.entry, "message": waiting.message, "needs": needs,
                    "agent": agent.map(ids::format_uuid), "version": version, "hash": hash,
                })
            })
            .collect();
        assert_eq!(Json::from(waiting), case["waiting"], "{}", case["name"]);
        let tallies: Vec<Json> = tally::tallies(&batch).iter().map(tally_json).collect();
        assert_eq!(Json::from(tallies), case["tallies"], "{}", case["name"]);
    }
}

fn tally_json(tally: &Tally) -> Json {
    let reasons: Vec<Json> =
        tally.reasons.iter().map(|one| json!([one.reason.name(), one.whole, one.count])).collect();
    json!({
        "entry": tally.entry,
        "agent": tally.agent.as_ref().map(ids::format_uuid).unwrap_or_default(),
        "messages": tally.messages, "readings": tally.readings, "rows": tally.rows,
        "duplicates": tally.duplicates, "collisions": tally.collisions,
        "dropped": tally.dropped, "rejected": tally.rejected,
        "reasons": reasons, "numbers": tally.numbers,
    })
}

#[test]
fn copy_stage() {
    for case in vectors("copy") {
        let name = format!("{NOW_MS}-0 {}", topic::format(TENANT, AGENT, "endpoints/x"));
        let payload = case["payload"].to_string();
        let entry = Entry { id: b"1-0", fields: vec![name.as_bytes(), payload.as_bytes()] };
        let context = context();
        let batch = Encoder::new(&context).encode(&[entry], &context, options(false));
        assert_eq!(hex(&batch.copy.bytes), text(&case, "copy"), "{}", case["name"]);
        assert_eq!(hex(&batch.latest.bytes), text(&case, "latest"), "{}", case["name"]);
        assert_eq!(json!(batch.copy.arrays()), case["arrays"], "{}", case["name"]);
        assert_eq!(json!(marks::days(&batch.parts)), case["days"], "{}", case["name"]);
    }
}

#[test]
fn a_full_batch_lets_the_rest_wait() {
    let limits = Limits { batch_rows: 1, ..Limits::default() };
    let mut context = context();
    context.limits = limits;
    let name = format!("{NOW_MS}-0 {}", topic::format(TENANT, AGENT, "endpoints/x"));
    let pair = [name.as_bytes(), br#"{"metric":"t","value":1}"#];
    let records = vec![&b"data"[..], b"[]"];
    let entries = [
        Entry { id: b"1-0", fields: [pair, pair].concat() },
        Entry { id: b"2-0", fields: records },
    ];
    let batch = Encoder::new(&context).encode(&entries, &context, options(true));
    let waiting: Vec<_> = batch.waiting.iter().map(|w| (w.entry, w.message, &w.needs)).collect();
    assert_eq!(waiting, [(0, Some(1), &Need::Room), (1, None, &Need::Room)]);
    assert_eq!(batch.copy.rows, 1);
}

#[test]
fn a_diverted_message_leaves_nothing_behind() {
    let mut context = context();
    let dictionary = Dictionary::parse(1, br#"{"fields":["metric","timestamp"]}"#).unwrap();
    context.put_dictionary(ids::parse_uuid(AGENT).unwrap(), dictionary);
    let name = format!("{NOW_MS}-0 {}", topic::format(TENANT, AGENT, "endpoints/x"));
    let old = format!(r#"{{"v":1,"p":[[0,"t"],[1,{}],[7,"?"]]}}"#, NOW_MS - 60_000);
    let entry = Entry { id: b"1-0", fields: vec![name.as_bytes(), old.as_bytes()] };
    let encode = |divert_before_ms| {
        let options = Options { divert_before_ms, ..options(false) };
        Encoder::new(&context).encode(std::slice::from_ref(&entry), &context, options)
    };
    let diverted = encode(Some(NOW_MS));
    assert_eq!(diverted.waiting[0].needs, Need::Backfill);
    assert_eq!((diverted.copy.rows, diverted.outcomes.len(), diverted.unknown_fields), (0, 0, 0));
    let decided = encode(Some(NOW_MS - 60_000));
    assert_eq!((decided.copy.rows, decided.outcomes.len(), decided.unknown_fields), (1, 1, 1));
}

#[test]
fn lttb() {
    for case in vectors("lttb") {
        let numbers = |key: &str| -> Vec<f64> {
            let values = case[key].as_array().unwrap().iter();
            values.map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
        };
        let points = case["points"].as_u64().unwrap() as usize;
        let chosen = downsample::lttb(&numbers("times"), &numbers("values"), points);
        assert_eq!(json!(chosen), case["chosen"], "{}", text(&case, "name"));
    }
}
