//! What one process has marked, shared by its tenants.

use std::sync::{Mutex, MutexGuard, PoisonError};

use iotistica_core::marks;
use pyo3::prelude::*;

/// Remembers which hours of agents were marked for the rollups.
#[pyclass(frozen, module = "iotistica._native")]
pub struct Marks(Mutex<marks::Marks>);

impl Marks {
    /// A lock is poisoned only by a panic, and what it guards is whole between calls.
    pub fn lock(&self) -> MutexGuard<'_, marks::Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Marks {
    #[new]
    fn new() -> Self {
        Self(Mutex::default())
    }
}
