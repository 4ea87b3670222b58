//! `iotistica._native`: what Python may see of the Rust side. Converts, releases the GIL, calls,
//! converts; every decision is made in the pure crates.

mod accepted;
mod batch;
mod broker;
mod buffer;
mod context;
mod door;
mod downsample;
mod enter;
mod marks;
mod payload;
mod topic;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
mod _native {
    use iotistica_core::copy;
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;

    #[pymodule_export]
    use crate::accepted::Accepted;
    #[pymodule_export]
    use crate::batch::{Batch, Outcome, Reject, Tally, Waiting, encode_batch};
    #[pymodule_export]
    use crate::broker::serve_broker;
    #[pymodule_export]
    use crate::buffer::CopyBuffer;
    #[pymodule_export]
    use crate::context::{Context, Limits};
    #[pymodule_export]
    use crate::door::serve_door;
    #[pymodule_export]
    use crate::downsample::lttb;
    #[pymodule_export]
    use crate::enter::{InvalidTopic, Undecodable};
    #[pymodule_export]
    use crate::marks::Marks;
    #[pymodule_export]
    use crate::payload::{decode, explain};
    #[pymodule_export]
    use crate::topic::{
        Topic, decode_agent, decode_tenant, encode_agent, encode_tenant, format_topic, parse_topic,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        let names =
            |columns: &[copy::Column]| PyTuple::new(py, columns.iter().map(|(name, _)| name));
        module.add("KEY_COLUMNS", names(&copy::KEY_COLUMNS)?)?;
        module.add("READINGS_COLUMNS", names(&copy::READINGS_COLUMNS)?)?;
        module.add("LATEST_COLUMNS", names(&copy::LATEST_COLUMNS)?)
    }
}
