//! Properties of the codecs: round trips, agreement with simpler references, and that no input
//! panics or passes a limit.

// A test may fail by panicking.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use bumpalo::Bump;
use iotistica_core::batch::{Batch, Encoder, Options};
use iotistica_core::context::Context;
use iotistica_core::copy::Copy;
use iotistica_core::decode;
use iotistica_core::dictionary::Dictionary;
use iotistica_core::downsample::lttb;
use iotistica_core::entry::Entry;
use iotistica_core::expand::{self, Compact};
use iotistica_core::ids;
use iotistica_core::inflate::{Inflater, Wrapping};
use iotistica_core::limits::Limits;
use iotistica_core::reject::Reason;
use iotistica_core::suspects;
use iotistica_core::tally;
use iotistica_core::topic::{self, Topic};
use iotistica_core::value::Value;
use jiff::Timestamp;
use libdeflater::{CompressionLvl, Compressor};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value as Json, json};

const TENANT: &str = "73eddd385ce8";
const AGENT: &str = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01";
const NOW_MS: i64 = 1_795_454_000_000;

fn options(last: bool) -> Options {
    Options { now_ms: NOW_MS, last, divert_before_ms: None }
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<f64>().prop_filter("JSON has no such number", |f| f.is_finite()).prop_map(Json::from),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 60, 10, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..10).prop_map(Json::from),
            btree_map(any::<String>(), inner, 0..10)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
        ]
    })
}

/// A MessagePack writer of the plainest kind: always the widest form.
fn pack(value: &Json, out: &mut Vec<u8>) {
    let length = |out: &mut Vec<u8>, marker: u8, length: usize| {
        out.push(marker);
        out.extend((length as u32).to_be_bytes());
    };
    match value {
        Json::Null => out.push(0xC0),
        Json::Bool(flag) => out.push(0xC2 + u8::from(*flag)),
        Json::Number(number) => {
            if let Some(number) = number.as_i64() {
                out.push(0xD3);
                out.extend(number.to_be_bytes());
            } else {
                out.push(0xCB);
                out.extend(number.as_f64().unwrap().to_be_bytes());
            }
        }
        Json::String(text) => {
            length(out, 0xDB, text.len());
            out.extend(text.as_bytes());
        }
        Json::Array(items) => {
            length(out, 0xDD, items.len());
            for item in items {
                pack(item, out);
            }
        }
        Json::Object(map) => {
            length(out, 0xDF, map.len());
            for (key, item) in map {
                pack(&Json::from(key.as_str()), out);
                pack(item, out);
            }
        }
    }
}

fn decoded(payload: &[u8]) -> Option<Json> {
    let arena = Bump::new();
    let value = decode::decode(payload, &arena, &Limits::default()).ok()?;
    Some(serde_json::to_value(value).unwrap())
}

fn context() -> Context {
    let mut context = Context::new(TENANT, Limits::default());
    context.agents.insert(ids::parse_uuid(AGENT).unwrap());
    context
}

fn encode(payloads: &[&[u8]]) -> Batch {
    let topic = topic::format(TENANT, AGENT, "endpoints/x");
    let names: Vec<String> = (0..payloads.len()).map(|i| format!("{NOW_MS}-{i} {topic}")).collect();
    let fields = names.iter().zip(payloads).flat_map(|(name, payload)| [name.as_bytes(), payload]);
    let entry = Entry { id: b"1-0", fields: fields.collect() };
    let context = context();
    Encoder::new(&context).encode(&[entry], &context, options(true))
}

/// Compact a value by the rules of the tuple form; names are given out as they come.
fn compact(value: &Json, names: &mut Vec<String>) -> Json {
    let Json::Object(map) = value else { return value.clone() };
    let pairs = map.iter().map(|(key, item)| {
        names.push(key.clone());
        let index = names.len() - 1;
        match item {
            Json::Array(items) if !items.is_empty() && items.iter().all(Json::is_object) => {
                let items: Vec<Json> = items.iter().map(|item| compact(item, names)).collect();
                json!(["a", index, items])
            }
            _ => json!([index, item]),
        }
    });
    pairs.collect()
}

/// Place of the column `value`.
const VALUE: usize = 3;

/// Rows by way of their array literals, whose elements must hold no comma.
fn columns(copy: &Copy) -> Vec<Vec<String>> {
    let arrays = copy.arrays();
    let columns: Vec<Vec<&str>> = arrays
        .iter()
        .map(|array| array[1..array.len() - 1].split(',').filter(|text| !text.is_empty()).collect())
        .collect();
    let row = |i| columns.iter().map(|column| String::from(column[i])).collect();
    (0..copy.rows).map(row).collect()
}

/// Every reading of every message is counted once, under one outcome.
fn check_tallies(batch: &Batch) -> Result<(), TestCaseError> {
    let tallies = tally::tallies(batch);
    for tally in &tallies {
        let outcomes =
            tally.rows + tally.duplicates + tally.collisions + tally.dropped + tally.rejected;
        prop_assert_eq!(tally.readings, outcomes);
        let rejected: u32 = tally.reasons.iter().filter(|r| !r.whole).map(|r| r.count).sum();
        prop_assert_eq!(rejected, tally.rejected);
    }
    let messages: u32 = tallies.iter().map(|tally| tally.messages).sum();
    prop_assert_eq!(messages as usize, batch.outcomes.len());
    let rows: u32 = tallies.iter().map(|tally| tally.rows).sum();
    prop_assert_eq!(rows as usize, batch.copy.rows);
    Ok(())
}

proptest! {
    #[test]
    fn json_round_trip(value in any_json()) {
        prop_assert_eq!(decoded(value.to_string().as_bytes()), Some(value));
    }

    #[test]
    fn messagepack_round_trip(value in vec(any_json(), 0..4).prop_map(Json::from)) {
        let mut packed = Vec::new();
        pack(&value, &mut packed);
        prop_assert_eq!(decoded(&packed), Some(value));
    }

    #[test]
    fn a_cut_payload_is_never_accepted(value in vec(any_json(), 1..4), cut in any::<prop::sample::Index>()) {
        let mut packed = Vec::new();
        pack(&Json::from(value), &mut packed);
        prop_assert_eq!(decoded(&packed[..cut.index(packed.len())]), None);
    }

    #[test]
    fn inflate_round_trip(bytes in vec(any::<u8>(), 0..2000), spare in 0_usize..10) {
        let mut compressor = Compressor::new(CompressionLvl::default());
        let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
        let length = compressor.zlib_compress(&bytes, &mut packed).unwrap();
        let mut inflater = Inflater::new(bytes.len() + spare);
        prop_assert_eq!(inflater.inflate(&packed[..length], Wrapping::Zlib).unwrap(), &bytes[..]);
        if let Some(short) = bytes.len().checked_sub(1) {
            let refused = Inflater::new(short).inflate(&packed[..length], Wrapping::Zlib).unwrap_err();
            prop_assert_eq!(refused.reason, Reason::InflateTooLarge);
        }
    }

    #[test]
    fn identifiers_round_trip(agent in any::<[u8; 16]>(), tenant in "[0-9a-f]{12}") {
        let text = ids::format_uuid(&agent);
        prop_assert_eq!(ids::parse_uuid(&text), Some(agent));
        prop_assert_eq!(ids::parse_uuid(&text.replace('-', "").to_uppercase()), Some(agent));
        prop_assert_eq!(ids::decode_agent(&ids::encode_agent(&text)), Some(agent));
        let encoded = ids::encode_tenant(&tenant);
        prop_assert_eq!(&*ids::decode_tenant(&encoded), &tenant);
    }

    #[test]
    fn topics_round_trip(tenant in "[0-9a-f]{12}|[a-z]{9,12}", agent in any::<[u8; 16]>(), rest in "[a-z]{1,9}(/[^+#]{0,9}){0,3}") {
        let agent = ids::format_uuid(&agent);
        let written = topic::format(&tenant, &agent, &rest);
        let parsed = Topic::parse(&written).unwrap();
        let (kind, tail) = rest.split_once('/').unwrap_or((&rest, ""));
        prop_assert_eq!((&*parsed.tenant, &*parsed.agent()), (&*tenant, &*agent));
        prop_assert_eq!((&*parsed.kind, parsed.rest), (kind, tail));
    }

    #[test]
    fn times_agree_with_jiff(micros in -62_000_000_000_000_000_i64..250_000_000_000_000_000) {
        let time = Timestamp::from_microsecond(micros).unwrap();
        prop_assert_eq!(iotistica_core::time::parse(Value::Text(&time.to_string())), Some(micros));
    }

    #[test]
    fn no_text_is_a_time_that_jiff_denies(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]Z") {
        let ours = iotistica_core::time::parse(Value::Text(&text));
        let theirs = text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
        // 24:00:00 is ISO 8601, though not RFC 3339; jiff accepts neither it nor year 0.
        let known_apart = text.contains("T24:00:00") || text.starts_with("0000");
        prop_assert!(ours == theirs || known_apart, "{text}: {ours:?}, {theirs:?}");
    }

    #[test]
    fn expansion_undoes_compaction(map in btree_map("[a-z]{1,6}", any_json(), 0..6)) {
        let whole = Json::Object(map.into_iter().collect());
        let mut names = Vec::new();
        let pairs = compact(&whole, &mut names);
        // Names that hold path characters are paths, and these are not.
        prop_assume!(!names.iter().any(|name| name.contains(['.', '['])));
        prop_assume!(!names.iter().any(|name| ["quality", "unit", "metric"].contains(&&**name)));
        let dictionary = json!({"fields": names}).to_string();
        let Ok(dictionary) = Dictionary::parse(1, dictionary.as_bytes()) else { return Ok(()) };
        let message = json!({"v": 1, "p": pairs}).to_string();
        let (arena, limits) = (Bump::new(), Limits::default());
        let value = decode::decode(message.as_bytes(), &arena, &limits).unwrap();
        let compacted = Compact::recognize(value).unwrap();
        let expanded = expand::expand(compacted, &dictionary, &arena, &limits).unwrap();
        prop_assert_eq!(serde_json::to_value(expanded.value).unwrap(), whole);
        prop_assert_eq!(expanded.unknown_fields, 0);
    }

    #[test]
    fn a_longer_dictionary_reads_what_was_written_with_a_shorter_one(
        names in vec("[a-z]{1,4}", 1..8),
        more in vec("[a-z]{1,4}", 0..4),
        values in vec(any::<i32>(), 8),
    ) {
        let grown: Vec<&String> = names.iter().chain(&more).collect();
        let parse = |names: Json| {
            Dictionary::parse(1, json!({"fields": names}).to_string().as_bytes()).unwrap()
        };
        let (shorter, longer) = (parse(json!(names)), parse(json!(grown)));
        let indices: Vec<usize> = (0..names.len()).collect();
        let pairs: Vec<_> = indices.iter().zip(&values).collect();
        for message in [
            json!({"v": 1, "p": pairs}),
            json!({"v": 1, "i": indices, "d": values[..names.len()]}),
        ] {
            let (message, arena, limits) = (message.to_string(), Bump::new(), Limits::default());
            let value = decode::decode(message.as_bytes(), &arena, &limits).unwrap();
            let compacted = Compact::recognize(value).unwrap();
            let old = expand::expand(compacted, &shorter, &arena, &limits).unwrap();
            let new = expand::expand(compacted, &longer, &arena, &limits).unwrap();
            prop_assert_eq!(old.value, new.value);
            prop_assert_eq!((old.unknown_fields, new.unknown_fields), (0, 0));
        }
    }

    #[test]
    fn a_context_finds_the_last_dictionary_that_fits(
        learned in vec((0_i64..2, prop::option::of("[ab]")), 1..12),
        version in 0_i64..3,
        hash in prop::option::of("[ab]"),
    ) {
        let mut context = context();
        let agent = ids::parse_uuid(AGENT).unwrap();
        for (version, hash) in &learned {
            let json = json!({"fields": [], "hash": hash}).to_string();
            context.put_dictionary(agent, Dictionary::parse(*version, json.as_bytes()).unwrap());
        }
        let message = json!({"v": version, "h": hash, "p": []}).to_string();
        let arena = Bump::new();
        let value = decode::decode(message.as_bytes(), &arena, &Limits::default()).unwrap();
        let compacted = Compact::recognize(value).unwrap();
        let found = context.dictionaries(agent).iter().find(|one| compacted.fits(one));
        let mut kept: Vec<(i64, Option<String>)> = Vec::new();
        for one in learned.iter().rev() {
            if kept.len() < 2 && !kept.contains(one) {
                kept.push(one.clone());
            }
        }
        let fits = |one: &&(i64, Option<String>)| {
            one.0 == version && (hash.is_none() || one.1.is_none() || one.1 == hash)
        };
        let expected = kept.iter().find(fits);
        prop_assert_eq!(found.map(|one| (one.version, one.hash.clone())), expected.cloned());
    }

    #[test]
    fn dedup_agrees_with_a_map(readings in vec(("[a-c]{1,2}", 0_i64..4, any::<i32>()), 0..60)) {
        let list: Vec<Json> = readings
            .iter()
            .map(|(metric, time, value)| json!({"metric": metric, "timestamp": NOW_MS + time, "value": value}))
            .collect();
        let payload = json!({"readings": list}).to_string();
        let kept: BTreeMap<(&str, i64), f64> =
            readings.iter().map(|(metric, time, value)| ((&**metric, *time), f64::from(*value))).collect();
        let report = iotistica_core::explain::explain(
            Some(&topic::format(TENANT, AGENT, "endpoints/x")), payload.as_bytes(), &context(), NOW_MS,
        );
        let values: Vec<f64> =
            report["rows"].as_array().unwrap().iter().map(|row| row["value"].as_f64().unwrap()).collect();
        prop_assert_eq!(values, kept.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn a_batch_is_divided_by_whole_messages(
        messages in vec(vec(("[a-c]", 0_i64..9), 0..8), 0..8),
        found in btree_set(0_usize..8, 0..8),
    ) {
        let messages: Vec<String> = messages
            .iter()
            .enumerate()
            .map(|(message, readings)| {
                let readings = readings.iter().map(|(metric, time)| {
                    json!({"metric": metric, "timestamp": NOW_MS + time, "value": message})
                });
                json!({"readings": readings.collect::<Vec<_>>()}).to_string()
            })
            .collect();
        let batch = encode(&messages.iter().map(String::as_bytes).collect::<Vec<_>>());
        let rows = columns(&batch.copy);
        let mut order: Vec<&str> = Vec::new();
        let mut keys = Vec::new();
        for row in &rows {
            if !order.contains(&row[VALUE].as_str()) {
                order.push(&row[VALUE]);
                keys.push(vec![row[1].clone(), row[2].clone(), row[0].clone()]);
            }
        }
        prop_assert_eq!(columns(&suspects::heads(&batch.copy, &batch.sources)), keys);
        let found: Vec<usize> = found.into_iter().collect();
        let (clean, suspect) = suspects::split(&batch.copy, &batch.sources, &found);
        let is_suspect = |row: &Vec<String>| {
            order.iter().position(|&message| message == row[VALUE]).is_some_and(|i| found.contains(&i))
        };
        let (there, new): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(is_suspect);
        prop_assert_eq!((clean.rows, suspect.rows), (new.len(), there.len()));
        prop_assert_eq!((columns(&clean), columns(&suspect)), (new, there));
        prop_assert_eq!(clean.agents().iter().map(|(_, rows)| rows).sum::<usize>(), clean.rows);
    }

    #[test]
    fn every_reading_is_counted_once(
        messages in vec(vec(("[a-c]?", 0_i64..4, "[x-z]", any::<bool>()), 0..8), 0..8)
    ) {
        let messages: Vec<String> = messages
            .iter()
            .map(|readings| {
                let readings: Vec<Json> = readings
                    .iter()
                    .map(|(metric, time, device, good)| {
                        let time = if *good { json!(NOW_MS + time) } else { json!("never") };
                        json!({"metric": metric, "timestamp": time, "deviceName": device})
                    })
                    .collect();
                json!({"readings": readings}).to_string()
            })
            .collect();
        let payloads: Vec<&[u8]> = messages.iter().map(String::as_bytes).collect();
        check_tallies(&encode(&payloads))?;
    }

    #[test]
    fn every_message_has_one_outcome(payloads in vec(vec(any::<u8>(), 0..60), 0..10)) {
        let payloads: Vec<&[u8]> = payloads.iter().map(Vec::as_slice).collect();
        let batch = encode(&payloads);
        check_tallies(&batch)?;
        prop_assert_eq!(batch.outcomes.len(), payloads.len().max(1));
        prop_assert!(batch.rejects.iter().all(|rejected| rejected.reject.reason != Reason::Panicked));
    }

    #[test]
    fn no_field_panics(fields in vec(vec(any::<u8>(), 0..40), 0..8)) {
        let context = context();
        let entry = Entry { id: b"1-0", fields: fields.iter().map(Vec::as_slice).collect() };
        let batch = Encoder::new(&context).encode(&[entry], &context, options(true));
        prop_assert!(batch.rejects.iter().all(|rejected| rejected.reject.reason != Reason::Panicked));
    }
}

/// Points of a series: some have no value, some are as large as numbers get.
fn points() -> impl Strategy<Value = Vec<f64>> {
    let value = prop_oneof![
        8 => -1e6..1e6,
        1 => Just(f64::NAN),
        1 => prop_oneof![Just(f64::INFINITY), Just(f64::MAX), Just(f64::MIN)],
    ];
    vec(value, 0..300)
}

proptest! {
    #[test]
    fn downsampling_keeps_the_ends_and_the_number(values in points(), most in 0usize..60) {
        let times: Vec<f64> = (0..values.len()).map(|i| i as f64).collect();
        let there: Vec<usize> = (0..values.len()).filter(|&i| values[i].is_finite()).collect();
        let chosen = lttb(&times, &values, most);
        prop_assert_eq!(chosen.len(), there.len().min(most));
        prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(chosen.iter().all(|i| there.contains(i)));
        if most >= 2 && !there.is_empty() {
            prop_assert_eq!(chosen.first(), there.first());
            prop_assert_eq!(chosen.last(), there.last());
        }
    }

    #[test]
    fn downsampling_finds_a_lonely_peak(len in 50usize..300, at in 1usize..49, most in 3usize..40) {
        let times: Vec<f64> = (0..len).map(|i| i as f64).collect();
        let mut values = vec![0.0; len];
        values[at] = 1.0;
        prop_assert!(lttb(&times, &values, most).contains(&at));
    }
}
