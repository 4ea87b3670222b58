//! Topics and identifiers.

use iotistica_core::{ids, topic};
use pyo3::prelude::*;

use crate::enter::exception;

/// A parsed topic; identifiers are decoded, and kept as they came beside.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Topic {
    #[pyo3(get)]
    tenant: String,
    #[pyo3(get)]
    raw_tenant: String,
    #[pyo3(get)]
    agent: String,
    #[pyo3(get)]
    kind: String,
    #[pyo3(get)]
    rest: String,
}

#[pymethods]
impl Topic {
    fn __repr__(&self) -> String {
        let Self { tenant, agent, kind, rest, .. } = self;
        format!("Topic(tenant={tenant:?}, agent={agent:?}, kind={kind:?}, rest={rest:?})")
    }
}

#[pyfunction]
pub fn parse_topic(topic: &str) -> PyResult<Topic> {
    let topic = topic::Topic::parse(topic).map_err(|reject| exception(&reject))?;
    Ok(Topic {
        agent: topic.agent().into_owned(),
        tenant: topic.tenant.into_owned(),
        raw_tenant: topic.raw_tenant.to_owned(),
        kind: topic.kind.into_owned(),
        rest: topic.rest.to_owned(),
    })
}

#[pyfunction]
pub fn format_topic(tenant: &str, agent: &str, rest: &str) -> String {
    topic::format(tenant, agent, rest)
}

#[pyfunction]
pub fn encode_tenant(tenant: &str) -> String {
    ids::encode_tenant(tenant).into_owned()
}

#[pyfunction]
pub fn decode_tenant(encoded: &str) -> String {
    ids::decode_tenant(encoded).into_owned()
}

#[pyfunction]
pub fn encode_agent(agent: &str) -> String {
    ids::encode_agent(agent).into_owned()
}

#[pyfunction]
pub fn decode_agent(encoded: &str) -> String {
    ids::decode_agent(encoded).map_or_else(|| encoded.to_owned(), |id| ids::format_uuid(&id))
}
