//! Socket addresses as the `socket` module shows them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};
use ropewalk_sys::address::{self, Address};

use crate::heap::Ref;

/// `None` for an address that could not be had, or of a family that only a socket object can show.
pub(crate) fn to_python(py: Python<'_>, address: Option<Address>) -> PyResult<Py<PyAny>> {
    match address {
        Some(Address::V4(address)) => (address.ip().to_string(), address.port()).into_py_any(py),
        Some(Address::V6(address)) => (
            address::text(address.ip()),
            address.port(),
            u32::from_be(address.flowinfo()),
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

/// `(family, address)` of a host and a port in numbers, or `None`.
#[pyfunction]
#[pyo3(signature = (host, port, /))]
pub(crate) fn numeric_address<'py>(
    host: &Bound<'py, PyAny>,
    port: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyTuple>>> {
    let py = host.py();
    let pair = PyTuple::new(py, [host, port])?;
    Ok(match numeric(pair.as_any().as_borrowed()) {
        Some(Address::V4(_)) => Some((address::INET, pair).into_pyobject(py)?),
        Some(Address::V6(_)) => {
            let whole = (host, port, 0, 0).into_pyobject(py)?;
            Some((address::INET6, whole).into_pyobject(py)?)
        }
        _ => None,
    })
}

/// The address that a tuple names in numbers: `(host, port)`, for IPv6 also with flow information and scope.
pub(crate) fn numeric(address: Ref<'_, '_>) -> Option<Address> {
    let address = address.cast_exact::<PyTuple>().ok()?;
    let length = address.len();
    if !(2..=4).contains(&length) {
        return None;
    }
    let host = address.get_borrowed_item(0).ok()?;
    let host = host.cast_exact::<PyString>().ok()?;
    let host = host.to_str().ok()?;
    let number = |place: usize| -> Option<u32> {
        if place >= length {
            return Some(0);
        }
        let value = address.get_borrowed_item(place).ok()?;
        value.is_exact_instance_of::<PyInt>().then_some(())?;
        value.extract().ok()
    };
    let port = u16::try_from(number(1)?).ok()?;
    if let Ok(host) = host.parse::<Ipv4Addr>() {
        return (length == 2).then(|| Address::V4(SocketAddrV4::new(host, port)));
    }
    let host = host.parse::<Ipv6Addr>().ok()?;
    let (flow, scope) = (number(2)?, number(3)?);
    (flow < 1 << 20).then(|| Address::V6(SocketAddrV6::new(host, port, flow.to_be(), scope)))
}
