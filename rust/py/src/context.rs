//! Limits, agents and dictionaries of one tenant.

use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use iotistica_core::batch::Encoder;
use iotistica_core::dictionary::Dictionary;
use iotistica_core::ids::{self, AgentId};
use iotistica_core::{context, limits};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What one message may be at the most.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Limits(pub limits::Limits);

#[pymethods]
impl Limits {
    #[new]
    #[pyo3(signature = (*, max_message_bytes = None, max_inflated_bytes = None, max_depth = None,
        max_elements = None, max_text_bytes = None, max_extra_bytes = None,
        retention_days = None, max_future_s = None, max_batch_rows = None))]
    #[allow(clippy::too_many_arguments)] // keywords in Python, each a setting of its own
    fn new(
        max_message_bytes: Option<usize>,
        max_inflated_bytes: Option<usize>,
        max_depth: Option<usize>,
        max_elements: Option<usize>,
        max_text_bytes: Option<usize>,
        max_extra_bytes: Option<usize>,
        retention_days: Option<u32>,
        max_future_s: Option<u32>,
        max_batch_rows: Option<usize>,
    ) -> Self {
        let default = limits::Limits::default();
        Self(limits::Limits {
            message_bytes: max_message_bytes.unwrap_or(default.message_bytes),
            inflated_bytes: max_inflated_bytes.unwrap_or(default.inflated_bytes),
            depth: max_depth.unwrap_or(default.depth),
            elements: max_elements.unwrap_or(default.elements),
            text_bytes: max_text_bytes.unwrap_or(default.text_bytes),
            extra_bytes: max_extra_bytes.unwrap_or(default.extra_bytes),
            retention_days: retention_days.unwrap_or(default.retention_days),
            future_s: max_future_s.unwrap_or(default.future_s),
            batch_rows: max_batch_rows.unwrap_or(default.batch_rows),
        })
    }
}

/// What decoding the messages of one tenant needs to know; shared between threads.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Context {
    state: RwLock<context::Context>,
    /// Encoders at rest: as many as calls ever ran at once.
    encoders: Mutex<Vec<Encoder>>,
}

impl Context {
    /// A lock is poisoned only by a panic, and what it guards is whole between calls.
    pub fn read(&self) -> RwLockReadGuard<'_, context::Context> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, change: impl FnOnce(&mut context::Context)) {
        change(&mut self.state.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Run with an encoder of one's own. One that panics is not used again.
    pub fn encoder<T>(&self, run: impl FnOnce(&mut Encoder) -> T) -> T {
        let resting = || self.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = resting().pop();
        let mut encoder = taken.unwrap_or_else(|| Encoder::new(&self.read()));
        let result = run(&mut encoder);
        resting().push(encoder);
        result
    }
}

fn uuid(text: &str) -> PyResult<AgentId> {
    ids::parse_uuid(text)
        .ok_or_else(|| PyValueError::new_err(format!("agent {text:?} is not a UUID")))
}

#[pymethods]
impl Context {
    #[new]
    #[pyo3(signature = (tenant, limits = None, *, key_compaction = true))]
    fn new(tenant: String, limits: Option<&Limits>, key_compaction: bool) -> Self {
        let limits = limits.map(|limits| limits.0.clone()).unwrap_or_default();
        let mut state = context::Context::new(tenant, limits);
        state.key_compaction = key_compaction;
        Self { state: RwLock::new(state), encoders: Mutex::default() }
    }

    #[getter]
    fn tenant(&self) -> String {
        self.read().tenant.clone()
    }

    fn add_agents(&self, agents: Vec<String>) -> PyResult<()> {
        let agents = agents.iter().map(|text| uuid(text)).collect::<PyResult<Vec<_>>>()?;
        self.write(|context| context.agents.extend(agents));
        Ok(())
    }

    fn remove_agents(&self, agents: Vec<String>) -> PyResult<()> {
        let agents = agents.iter().map(|text| uuid(text)).collect::<PyResult<Vec<_>>>()?;
        self.write(|context| {
            for &agent in &agents {
                context.agents.remove(&agent);
                context.forget_dictionaries(agent);
            }
        });
        Ok(())
    }

    fn put_dictionary(&self, agent: &str, version: i64, dictionary: &[u8]) -> PyResult<()> {
        let agent = uuid(agent)?;
        let dictionary = Dictionary::parse(version, dictionary).map_err(PyValueError::new_err)?;
        self.write(|context| context.put_dictionary(agent, dictionary));
        Ok(())
    }

    fn forget_dictionaries(&self, agents: Vec<String>) -> PyResult<()> {
        let agents = agents.iter().map(|text| uuid(text)).collect::<PyResult<Vec<_>>>()?;
        self.write(|context| {
            for &agent in &agents {
                context.forget_dictionaries(agent);
            }
        });
        Ok(())
    }
}
