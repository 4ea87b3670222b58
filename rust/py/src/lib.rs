//! `iotistica._native`: what Python may see of the Rust side.

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _native {}
