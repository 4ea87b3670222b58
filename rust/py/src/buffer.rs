//! The finished COPY stream, lent to Python without a copy.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ptr;

use iotistica_core::copy::Copy;
use iotistica_core::ids;
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// A read-only buffer over a COPY stream that Rust allocated.
#[pyclass(frozen, module = "iotistica._native")]
pub struct CopyBuffer {
    pub copy: Copy,
}

impl From<Copy> for CopyBuffer {
    fn from(copy: Copy) -> Self {
        Self { copy }
    }
}

#[pymethods]
impl CopyBuffer {
    #[getter]
    fn rows(&self) -> usize {
        self.copy.rows
    }

    fn arrays<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, py.detach(|| self.copy.arrays()))
    }

    fn agents(&self, py: Python<'_>) -> HashMap<String, usize> {
        let agents = py.detach(|| self.copy.agents());
        agents.iter().map(|(agent, rows)| (ids::format_uuid(agent), *rows)).collect()
    }

    fn __len__(&self) -> usize {
        self.copy.bytes.len()
    }

    /// Fill a view of the bytes.
    ///
    /// # Safety
    /// `CPython` calls this with a `view` that it owns, as the buffer protocol defines.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("the view is missing"));
        }
        let bytes = &slf.get().copy.bytes;
        let length = bytes.len() as ffi::Py_ssize_t;
        let start = bytes.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: the class is frozen and never changes `bytes`, so pointer and length stay valid
        // while the view holds the reference to `slf` that PyBuffer_FillInfo takes; the view is
        // marked read-only, so nobody writes through the pointer.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, length, 1, flags) };
        if filled == -1 {
            // SAFETY: `view` is not null; a failed export must leave no owner behind.
            unsafe { (*view).obj = ptr::null_mut() };
            return Err(PyErr::fetch(slf.py()));
        }
        Ok(())
    }
}
