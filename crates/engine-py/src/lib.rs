//! `pyflannel_engine`: the packet engine for Python. Packets never meet the interpreter.

use pyo3::prelude::*;

mod convert;
mod kernel;
mod user;

#[pymodule]
#[pyo3(name = "_native")]
fn native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<kernel::KernelEngine>()?;
    module.add_class::<user::UserEngine>()
}
