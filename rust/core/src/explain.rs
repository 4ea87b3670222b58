//! What each stage makes of one payload, as JSON for a person. Runs the production stages.

use bumpalo::Bump;
use serde_json::{Value as Json, json};

use crate::batch::{Encoder, Options, Rejected};
use crate::context::Context;
use crate::decode::{self, Format};
use crate::entry::Entry;
use crate::expand::{self, Compact};
use crate::ids::{self, AgentId};
use crate::inflate::{self, Inflater};
use crate::reject::Reject;
use crate::rows::{Row, Rows};
use crate::time;
use crate::topic::{self, Topic};

/// Stands in for the agent where no topic is given.
const NOBODY: AgentId = [0; 16];

/// Report on a payload that arrived under a topic, or under none. The agent counts as known.
pub fn explain(topic: Option<&str>, payload: &[u8], context: &Context, now_ms: i64) -> Json {
    let mut context = context.clone();
    let nobody = ids::format_uuid(&NOBODY);
    let assumed = topic::format(&context.tenant, &nobody, "endpoints/");
    let full_topic = topic.unwrap_or(&assumed);
    let parsed = Topic::parse(full_topic);
    let agent = parsed.as_ref().ok().and_then(Topic::agent_id);
    context.agents.extend(agent);
    let mut report = json!({
        "topic": topic.map(|_| describe_topic(&parsed)),
        "bytes": payload.len(),
    });
    layers(&mut report, payload, agent, &context);
    rows(&mut report, full_topic, payload, &context, now_ms);
    report
}

fn describe_topic(parsed: &Result<Topic<'_>, Reject>) -> Json {
    match parsed {
        Ok(topic) => json!({
            "tenant": topic.tenant, "agent": topic.agent(), "kind": topic.kind, "rest": topic.rest,
        }),
        Err(reject) => describe_reject(reject),
    }
}

fn describe_reject(reject: &Reject) -> Json {
    json!({
        "stage": reject.reason.stage().name(),
        "reason": reject.reason.name(),
        "detail": reject.detail,
    })
}

fn first_bytes(payload: &[u8]) -> String {
    payload.iter().take(2).map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

/// Inflate, decode and expand, as far as it goes.
fn layers(report: &mut Json, payload: &[u8], agent: Option<AgentId>, context: &Context) {
    let limits = &context.limits;
    let deflated = inflate::is_deflated(payload);
    report["wrapping"] = json!({
        "is": if deflated { "zlib" } else { "none" },
        "because": format!("the first bytes are {}", first_bytes(payload)),
    });
    let mut inflater = Inflater::new(limits.inflated_bytes);
    let Ok(inflated) = inflater.open(payload) else { return };
    report["inflated_bytes"] = inflated.len().into();
    report["format"] = json!({
        "is": Format::sniff(inflated).name(),
        "because": format!("the first byte is {}", first_bytes(&inflated[..inflated.len().min(1)])),
    });
    let arena = Bump::new();
    let Ok(decoded) = decode::decode(inflated, &arena, limits) else { return };
    report["decoded"] = json!(decoded);
    let Some(compact) = Compact::recognize(decoded) else { return };
    let known = agent.map_or(&[][..], |agent| context.dictionaries(agent));
    let fitting = known.iter().find(|dictionary| compact.fits(dictionary));
    report["compact"] = json!({
        "version": compact.version,
        "dictionary": fitting.or(known.first()).map(|dictionary| dictionary.version),
    });
    let Some(dictionary) = fitting else { return };
    if let Ok(expanded) = expand::expand(compact, dictionary, &arena, limits) {
        report["expanded"] = json!(expanded.value);
        report["unknown_fields"] = expanded.unknown_fields.into();
    }
}

fn rows(report: &mut Json, topic: &str, payload: &[u8], context: &Context, now_ms: i64) {
    let name = format!("{now_ms}-0 {topic}");
    let entry = Entry { id: b"0-0", fields: vec![name.as_bytes(), payload] };
    let mut encoder = Encoder::new(context);
    let batch =
        encoder.encode(&[entry], context, Options { now_ms, last: true, divert_before_ms: None });
    let (rows, kept) = encoder.rows();
    let outcome = batch.outcomes.first().copied().unwrap_or_default();
    report["rows"] = kept.iter().map(|&i| describe_row(rows, &rows.rows[i as usize])).collect();
    report["duplicates"] = outcome.duplicates.into();
    report["collisions"] = outcome.collisions.into();
    report["dropped"] = outcome.dropped.into();
    report["rejects"] = batch.rejects.iter().map(describe_rejected).collect();
}

fn describe_rejected(rejected: &Rejected) -> Json {
    let mut report = describe_reject(&rejected.reject);
    report["readings"] = rejected.readings.into();
    report
}

fn describe_row(rows: &Rows, row: &Row) -> Json {
    let series = rows.series[row.series as usize];
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    json!({
        "time": time::format(row.time_us),
        "agent_uuid": ids::format_uuid(&rows.agents[series.agent as usize]),
        "metric_name": text(rows.metrics.get(series.metric)),
        "value": row.value,
        "quality": row.quality.name(),
        "unit": row.unit.map(|unit| text(rows.units.get(unit))),
        "protocol": row.protocol.name(),
        "extra": serde_json::from_slice::<Json>(row.extra.of(&rows.bytes)).ok(),
        "anomaly_score": row.anomaly_score,
        "anomaly_threshold": row.anomaly_threshold,
    })
}
