//! One benchmark for each stage and one for the composed batch, on the shape of the load tests:
//! 12 messages of 5 readings. `cargo bench` runs them.

use std::hint::black_box;

use bumpalo::Bump;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iotistica_core::batch::{Encoder, Options};
use iotistica_core::context::Context;
use iotistica_core::decode;
use iotistica_core::entry::Entry;
use iotistica_core::ids;
use iotistica_core::inflate::{Inflater, Wrapping};
use iotistica_core::limits::Limits;
use iotistica_core::topic::{self, Topic};
use libdeflater::{CompressionLvl, Compressor};
use serde_json::{Value as Json, json};

const TENANT: &str = "73eddd385ce8";
const AGENT: &str = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01";
const NOW_MS: i64 = 1_795_454_000_000;

fn options(last: bool) -> Options {
    Options { now_ms: NOW_MS, last, divert_before_ms: None }
}
const READINGS: u64 = 60;

fn payload() -> Vec<u8> {
    let reading = |i: i64, metric: &str| {
        json!({
            "metric": metric, "value": 20.5 + i as f64 / 7.0, "unit": "C", "quality": "good",
            "timestamp": NOW_MS - i, "protocol": "modbus",
        })
    };
    let message = |i: i64| {
        let metrics = ["temperature", "pressure", "voltage", "current", "flow"];
        let readings: Vec<Json> = metrics.iter().map(|metric| reading(i, metric)).collect();
        json!({
            "protocol": "modbus", "deviceUuid": AGENT, "deviceName": "modbus_plc_1",
            "timestamp": NOW_MS - i, "readings": readings,
        })
    };
    let messages: Vec<Json> = (0..12).map(message).collect();
    json!({"sensor": "plc", "messages": messages, "msgId": "x"}).to_string().into_bytes()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let length = compressor.zlib_compress(bytes, &mut packed).unwrap_or_default();
    packed.truncate(length);
    packed
}

fn stages(criterion: &mut Criterion) {
    let json = payload();
    let packed = deflate(&json);
    let limits = Limits::default();
    let topic = topic::format(TENANT, AGENT, "endpoints/modbus");
    let mut group = criterion.benchmark_group("message of 60 readings");
    group.throughput(Throughput::Elements(READINGS));
    group.bench_function("topic", |b| b.iter(|| Topic::parse(black_box(&topic))));
    let mut inflater = Inflater::new(limits.inflated_bytes);
    group.bench_function("inflate", |b| {
        b.iter(|| inflater.inflate(black_box(&packed), Wrapping::Zlib).map(<[u8]>::len));
    });
    let mut arena = Bump::new();
    group.bench_function("decode json", |b| {
        b.iter(|| {
            arena.reset();
            decode::decode(black_box(&json), &arena, &limits).is_ok()
        });
    });
    group.finish();
}

fn batch(criterion: &mut Criterion) {
    const MESSAGES: usize = 200;
    let packed = deflate(&payload());
    let mut context = Context::new(TENANT, Limits::default());
    let agents: Vec<String> = (0..20).map(|i| format!("{}{i:02}", &AGENT[..34])).collect();
    context.agents.extend(agents.iter().filter_map(|agent| ids::parse_uuid(agent)));
    let names: Vec<String> = (0..MESSAGES)
        .map(|i| format!("{NOW_MS}-{i} {}", topic::format(TENANT, &agents[i % 20], "endpoints/x")))
        .collect();
    let fields = names.iter().flat_map(|name| [name.as_bytes(), &packed]).collect();
    let entries = [Entry { id: b"1-0", fields }];
    let mut encoder = Encoder::new(&context);
    let mut group = criterion.benchmark_group("batch of 200 messages");
    group.throughput(Throughput::Elements(READINGS * MESSAGES as u64));
    group.bench_function("entries to copy", |b| {
        b.iter(|| encoder.encode(black_box(&entries), &context, options(true)).copy.rows);
    });
    let batch = encoder.encode(&entries, &context, options(true));
    assert_eq!(batch.copy.rows, 20 * READINGS as usize, "twenty agents, each repeated ten times");
    group.finish();
}

criterion_group!(benches, stages, batch);
criterion_main!(benches);
