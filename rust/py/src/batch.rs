//! One crossing for each batch: entries in, buffers and outcomes out.

use std::borrow::Cow;

use iotistica_core::batch::{self as core, Need, Options};
use iotistica_core::entry::Entry;
use iotistica_core::{ids, marks, suspects, tally};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::buffer::CopyBuffer;
use crate::context::Context;
use crate::marks::Marks;

type GivenEntry = (PyBackedBytes, Vec<PyBackedBytes>);

#[pyfunction]
#[pyo3(signature = (entries, context, *, now_ms, r#final = false, divert_before_ms = None))]
pub fn encode_batch(
    py: Python<'_>,
    entries: Vec<GivenEntry>,
    context: &Context,
    now_ms: i64,
    r#final: bool,
    divert_before_ms: Option<i64>,
) -> PyResult<Batch> {
    let options = Options { now_ms, last: r#final, divert_before_ms };
    let (mut batch, tallies) = py.detach(|| {
        let borrowed: Vec<_> = entries.iter().map(|entry| borrow(entry)).collect();
        let batch = context.encoder(|encoder| encoder.encode(&borrowed, &context.read(), options));
        let tallies = tally::tallies(&batch);
        (batch, tallies)
    });
    let copy = Py::new(py, CopyBuffer::from(std::mem::take(&mut batch.copy)))?;
    let latest = Py::new(py, CopyBuffer::from(std::mem::take(&mut batch.latest)))?;
    Ok(Batch { copy, latest, entries, encoded: batch, tallies })
}

fn borrow((id, fields): &GivenEntry) -> Entry<'_> {
    Entry { id, fields: fields.iter().map(|field| &**field).collect() }
}

/// Result of `encode_batch`. Lists are made when they are asked for.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Batch {
    #[pyo3(get)]
    copy: Py<CopyBuffer>,
    #[pyo3(get)]
    latest: Py<CopyBuffer>,
    entries: Vec<GivenEntry>,
    encoded: core::Batch,
    tallies: Vec<tally::Tally>,
}

impl Batch {
    fn sum(&self, count: impl Fn(&core::Outcome) -> u32) -> u64 {
        self.encoded.outcomes.iter().map(|outcome| u64::from(count(outcome))).sum()
    }

    fn reject(&self, rejected: &core::Rejected) -> Reject {
        let empty = Vec::new();
        let fields = self.entries.get(rejected.entry as usize).map_or(&empty, |(_, fields)| fields);
        let own = |offset| fields.get(2 * rejected.message as usize + offset);
        let topic = own(0).and_then(|name| {
            let (_, topic) = std::str::from_utf8(name).ok()?.split_once(' ')?;
            Some(topic.to_owned())
        });
        // The reference's entries share one field among their records: all of it is kept.
        let named = |name: &[u8]| fields.iter().position(|field| **field == *name);
        let shared = || {
            let at = [b"data".as_slice(), b"payload_b64", b"payload"]
                .iter()
                .find_map(|name| named(name))?;
            fields.get(at + 1)
        };
        let payload = if topic.is_some() { own(1) } else { shared().or_else(|| own(1)) };
        Reject {
            entry: rejected.entry,
            message: rejected.message,
            agent: rejected.agent.as_ref().map(ids::format_uuid),
            topic,
            payload: payload.map(|bytes| bytes.to_vec()).unwrap_or_default(),
            stage: rejected.reject.reason.stage().name(),
            reason: rejected.reject.reason.name(),
            detail: rejected.reject.detail.to_string(),
            readings: rejected.readings,
        }
    }
}

#[pymethods]
impl Batch {
    #[getter]
    fn rows(&self) -> u64 {
        self.sum(|outcome| outcome.rows)
    }

    fn heads(&self, py: Python<'_>) -> CopyBuffer {
        let copy = &self.copy.get().copy;
        py.detach(|| suspects::heads(copy, &self.encoded.sources)).into()
    }

    fn split(&self, py: Python<'_>, found: Vec<usize>) -> (CopyBuffer, CopyBuffer) {
        let copy = &self.copy.get().copy;
        let (clean, suspect) = py.detach(|| suspects::split(copy, &self.encoded.sources, &found));
        (clean.into(), suspect.into())
    }

    #[getter]
    fn days(&self) -> Vec<i32> {
        marks::days(&self.encoded.parts)
    }

    fn unmarked(&self, marks: &Marks, closed_before: i32) -> (Vec<String>, Vec<i32>) {
        let mut marks = marks.lock();
        let missing = marks.missing(&self.encoded.parts, closed_before);
        missing.map(|&(agent, hour)| (ids::format_uuid(&agent), hour)).unzip()
    }

    fn marked(&self, marks: &Marks) {
        marks.lock().add(&self.encoded.parts);
    }

    #[getter]
    fn messages(&self) -> usize {
        self.encoded.outcomes.len()
    }

    #[getter]
    fn readings(&self) -> u64 {
        self.sum(|outcome| outcome.rows + outcome.duplicates + outcome.dropped + outcome.rejected)
    }

    #[getter]
    fn duplicates(&self) -> u64 {
        self.sum(|outcome| outcome.duplicates)
    }

    #[getter]
    fn collisions(&self) -> u64 {
        self.sum(|outcome| outcome.collisions)
    }

    #[getter]
    fn dropped(&self) -> u64 {
        self.sum(|outcome| outcome.dropped)
    }

    #[getter]
    fn rejected(&self) -> u64 {
        self.sum(|outcome| outcome.rejected)
    }

    #[getter]
    fn unknown_fields(&self) -> u32 {
        self.encoded.unknown_fields
    }

    #[getter]
    fn oldest_received_ms(&self) -> i64 {
        self.encoded.oldest_received_ms
    }

    #[getter]
    fn rejects(&self) -> Vec<Reject> {
        self.encoded.rejects.iter().map(|rejected| self.reject(rejected)).collect()
    }

    #[getter]
    fn waiting(&self) -> Vec<Waiting> {
        self.encoded.waiting.iter().map(Waiting::from).collect()
    }

    #[getter]
    fn tallies(&self) -> Vec<Tally> {
        self.tallies.iter().map(Tally::from).collect()
    }

    #[getter]
    fn outcomes(&self) -> Vec<Outcome> {
        self.encoded.outcomes.iter().map(|&outcome| Outcome(outcome)).collect()
    }
}

/// A message, or some of its readings, that can never pass.
#[pyclass(frozen, get_all, module = "iotistica._native")]
pub struct Reject {
    entry: u32,
    message: u32,
    agent: Option<String>,
    topic: Option<String>,
    payload: Vec<u8>,
    stage: &'static str,
    reason: &'static str,
    detail: String,
    readings: u32,
}

/// A message to encode again.
#[pyclass(frozen, get_all, module = "iotistica._native")]
pub struct Waiting {
    entry: u32,
    message: Option<u32>,
    needs: &'static str,
    agent: Option<String>,
    version: i64,
    hash: Option<String>,
}

impl From<&core::Waiting> for Waiting {
    fn from(waiting: &core::Waiting) -> Self {
        let (needs, agent, version, hash) = match &waiting.needs {
            Need::Agent(agent) => ("agent", Some(agent), 0, None),
            Need::Dictionary(agent, version, hash) => {
                ("dictionary", Some(agent), *version, hash.as_deref())
            }
            Need::Room => ("room", None, 0, None),
            Need::Backfill => ("backfill", None, 0, None),
        };
        let (agent, hash) = (agent.map(ids::format_uuid), hash.map(str::to_owned));
        Self { entry: waiting.entry, message: waiting.message, needs, agent, version, hash }
    }
}

/// The messages of one agent in one entry.
#[pyclass(frozen, get_all, module = "iotistica._native")]
pub struct Tally {
    entry: u32,
    agent: String,
    messages: u32,
    readings: u32,
    rows: u32,
    duplicates: u32,
    collisions: u32,
    dropped: u32,
    rejected: u32,
    reasons: Vec<(&'static str, bool, u32)>,
    numbers: Vec<(u64, u64)>,
}

impl From<&tally::Tally> for Tally {
    fn from(tally: &tally::Tally) -> Self {
        let reason = |one: &tally::Rejections| (one.reason.name(), one.whole, one.count);
        Self {
            entry: tally.entry,
            agent: tally.agent.as_ref().map(ids::format_uuid).unwrap_or_default(),
            messages: tally.messages,
            readings: tally.readings,
            rows: tally.rows,
            duplicates: tally.duplicates,
            collisions: tally.collisions,
            dropped: tally.dropped,
            rejected: tally.rejected,
            reasons: tally.reasons.iter().map(reason).collect(),
            numbers: tally.numbers.clone(),
        }
    }
}

/// What became of one message.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Outcome(core::Outcome);

#[pymethods]
impl Outcome {
    #[getter]
    fn entry(&self) -> u32 {
        self.0.entry
    }

    #[getter]
    fn message(&self) -> u32 {
        self.0.message
    }

    #[getter]
    fn agent(&self) -> Option<Cow<'static, str>> {
        self.0.agent.as_ref().map(|agent| ids::format_uuid(agent).into())
    }

    #[getter]
    fn rows(&self) -> u32 {
        self.0.rows
    }

    #[getter]
    fn duplicates(&self) -> u32 {
        self.0.duplicates
    }

    #[getter]
    fn collisions(&self) -> u32 {
        self.0.collisions
    }

    #[getter]
    fn dropped(&self) -> u32 {
        self.0.dropped
    }

    #[getter]
    fn rejected(&self) -> u32 {
        self.0.rejected
    }
}
