//! Single payloads: canonical JSON for the low-rate kinds, and the report for a person.

use std::borrow::Cow;

use bumpalo::Bump;
use iotistica_core::inflate::{self, Inflater, Wrapping};
use iotistica_core::reject::{Reason, Reject};
use iotistica_core::{decode as stage, explain as report, limits};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use crate::context::{Context, Limits};
use crate::enter::enter;

#[pyfunction]
#[pyo3(signature = (payload, limits = None))]
pub fn decode(
    py: Python<'_>,
    payload: PyBackedBytes,
    limits: Option<&Limits>,
) -> PyResult<Cow<'static, [u8]>> {
    let limits = limits.map(|limits| limits.0.clone()).unwrap_or_default();
    enter(py, || to_json(&payload, &limits).map(Cow::Owned))
}

fn to_json(payload: &[u8], limits: &limits::Limits) -> Result<Vec<u8>, Reject> {
    let mut inflater;
    let payload = if inflate::is_deflated(payload) {
        inflater = Inflater::new(limits.inflated_bytes);
        inflater.inflate(payload, Wrapping::Zlib)?
    } else {
        payload
    };
    let arena = Bump::new();
    let value = stage::decode(payload, &arena, limits)?;
    serde_json::to_vec(&value).map_err(|error| Reject::new(Reason::Json, error.to_string()))
}

#[pyfunction]
#[pyo3(signature = (topic, payload, context, *, now_ms))]
pub fn explain(
    py: Python<'_>,
    topic: Option<&str>,
    payload: PyBackedBytes,
    context: &Context,
    now_ms: i64,
) -> PyResult<Cow<'static, [u8]>> {
    enter(py, || {
        let report = report::explain(topic, &payload, &context.read(), now_ms);
        Ok(Cow::Owned(report.to_string().into_bytes()))
    })
}
