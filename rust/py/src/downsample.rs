//! Series thinned out for plots.

use iotistica_core::downsample;
use pyo3::prelude::*;

#[pyfunction]
pub fn lttb(
    py: Python<'_>,
    times: Vec<f64>,
    values: Vec<Option<f64>>,
    points: usize,
) -> Vec<usize> {
    py.detach(|| {
        let values: Vec<_> = values.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        downsample::lttb(&times, &values, points)
    })
}
