//! Socket addresses as the `socket` module shows them.

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use ropewalk_sys::address::Address;

/// `None` for an address that could not be had, or of a family that only a socket object can show.
pub(crate) fn to_python(py: Python<'_>, address: Option<Address>) -> PyResult<Py<PyAny>> {
    match address {
        Some(Address::V4(address)) => (address.ip().to_string(), address.port()).into_py_any(py),
        Some(Address::V6(address)) => (
            address.ip().to_string(),
            address.port(),
            address.flowinfo(),
            address.scope_id(),
        )
            .into_py_any(py),
        Some(Address::Unix(path)) => py
            .import("os")?
            .call_method1("fsdecode", (PyBytes::new(py, &path),))?
            .into_py_any(py),
        Some(Address::Abstract(name)) => {
            let mut whole = vec![0];
            whole.extend(name);
            PyBytes::new(py, &whole).into_py_any(py)
        }
        Some(Address::Other) | None => Ok(py.None()),
    }
}
