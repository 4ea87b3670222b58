//! Counts of accepted messages, for the loss ledger.

use std::sync::{Mutex, MutexGuard, PoisonError};

use iotistica_core::accepted;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// Messages by agent.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Accepted(Mutex<accepted::Accepted>);

impl Accepted {
    /// A lock is poisoned only by a panic, and what it guards is whole between calls.
    fn lock(&self) -> MutexGuard<'_, accepted::Accepted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Accepted {
    #[new]
    #[pyo3(signature = (*entries))]
    fn new(entries: Vec<Bound<'_, PyList>>) -> PyResult<Self> {
        let mut counts = accepted::Accepted::default();
        for fields in entries {
            for header in fields.iter().step_by(2) {
                counts.count(header.cast::<PyBytes>()?.as_bytes());
            }
        }
        Ok(Self(Mutex::new(counts)))
    }

    fn add(&self, others: &Self) {
        let others = others.lock().clone();
        self.lock().add(&others);
    }

    fn __len__(&self) -> usize {
        self.lock().len()
    }

    fn agents(&self) -> Vec<String> {
        self.lock().agents().collect()
    }

    fn pack<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.lock().pack())
    }
}
