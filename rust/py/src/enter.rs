//! The one door: release the GIL, run, and turn a reject into a named Python exception.

use iotistica_core::reject::{Reject, Stage};
use pyo3::create_exception;
use pyo3::exceptions::PyValueError;
use pyo3::marker::Ungil;
use pyo3::prelude::*;

create_exception!(iotistica._native, InvalidTopic, PyValueError);
create_exception!(iotistica._native, Undecodable, PyValueError);

/// Run pure code without the GIL.
pub fn enter<T: Ungil + Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T, Reject> + Ungil + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|reject| exception(&reject))
}

/// The Python exception of a reject.
pub fn exception(reject: &Reject) -> PyErr {
    match reject.reason.stage() {
        Stage::Topic => InvalidTopic::new_err(reject.detail.to_string()),
        _ => Undecodable::new_err(reject.to_string()),
    }
}
