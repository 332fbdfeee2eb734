//! The methods of the stream classes: their arguments, and what each begins.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use pyo3::{ffi, intern};

use super::asyncmethod::Kind;
use super::search::Search;
use super::work::Work;
use super::{Stream, awaitable, bytes_of};
use crate::call::call_method;
use crate::heap::{self, Arguments, Ref, Returned, method};
use crate::{tls, transport};

/// What a call of such a method gives, by its kind; `wrapped` is the original.
#[inline]
pub(super) fn begin(
    py: Python<'_>,
    kind: Kind,
    wrapped: Ref<'_, '_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    let (work, name) = match kind {
        Kind::Read => (read(py, given)?, "StreamReader.read"),
        Kind::ReadExactly => (read_exactly(py, given)?, "StreamReader.readexactly"),
        Kind::ReadUntil => (read_until(py, given)?, "StreamReader.readuntil"),
        Kind::ReadLine => {
            given.named_or_positional(py, "StreamReader.readline", [])?;
            (Work::Line(Search::line()), "StreamReader.readline")
        }
        Kind::Drain => return drain(py, wrapped, this, given),
        Kind::Next => {
            given.named_or_positional(py, "StreamReader.__anext__", [])?;
            (Work::Next(Search::line()), "StreamReader.__anext__")
        }
    };
    Ok(awaitable::make(py, this, work, name)?.into_ptr())
}

/// A count of bytes: more than there can be is as good as all there can be.
fn count(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    value.extract::<i64>().or_else(|error| {
        let py = value.py();
        if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(py) {
            let least = value.lt(0)?;
            return Ok(if least { -1 } else { i64::MAX });
        }
        Err(error)
    })
}

fn read(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Work> {
    let [most] = given.named_or_positional(py, "StreamReader.read", ["n"])?;
    let Some(most) = most else {
        return Ok(Work::All(Vec::new()));
    };
    Ok(match count(&most) {
        Ok(most) => usize::try_from(most).map_or_else(|_| Work::All(Vec::new()), Work::Read),
        Err(error) => Work::Refused(error),
    })
}

fn read_exactly(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Work> {
    let name = "StreamReader.readexactly";
    let [exactly] = given.named_or_positional(py, name, ["n"])?;
    let exactly = exactly.ok_or_else(|| {
        PyTypeError::new_err(format!(
            "{name}() missing 1 required positional argument: 'n'"
        ))
    })?;
    Ok(match count(&exactly).map(usize::try_from) {
        Ok(Ok(exactly)) => Work::Exactly(exactly),
        Ok(Err(_)) => Work::Refused(PyValueError::new_err(
            "readexactly size can not be less than zero",
        )),
        Err(error) => Work::Refused(error),
    })
}

fn read_until(py: Python<'_>, given: Arguments<'_, '_>) -> PyResult<Work> {
    let [separator] = given.named_or_positional(py, "StreamReader.readuntil", ["separator"])?;
    let Some(separator) = separator else {
        return Ok(Work::Until(Search::line()));
    };
    let one = |separator: &Bound<'_, PyAny>| -> PyResult<Vec<u8>> {
        let bytes = bytes_of(separator)?;
        // SAFETY: `bytes_of` gives nothing else.
        Ok(unsafe { bytes.bind(py).cast_unchecked::<PyBytes>() }
            .as_bytes()
            .to_vec())
    };
    // A tuple of separators is understood from Python 3.13 on, and refused before, like anything without bytes.
    let all = if cfg!(Py_3_13) && separator.is_instance_of::<PyTuple>() {
        separator
            .try_iter()?
            .map(|separator| one(&separator?))
            .collect::<PyResult<Vec<_>>>()
    } else {
        one(&separator).map(|separator| vec![separator])
    };
    Ok(match all.and_then(Search::new) {
        Ok(search) => Work::Until(search),
        Err(error) => Work::Refused(error),
    })
}

/// `drain()`: nothing to wait for, as a rule. Otherwise the original waits.
fn drain(
    py: Python<'_>,
    wrapped: Ref<'_, '_>,
    this: Ref<'_, '_>,
    given: Arguments<'_, '_>,
) -> Returned {
    given.named_or_positional(py, "StreamWriter.drain", [])?;
    let flows = transport_of(this).is_ok_and(|transport| {
        let transport = transport.as_borrowed();
        transport::flows(transport).or_else(|| tls::flows(transport)) == Some(true)
    });
    if flows && healthy(this)? {
        let done = awaitable::make(py, this, Work::Nothing, "StreamWriter.drain")?;
        return Ok(done.into_ptr());
    }
    // SAFETY: live objects; a new reference or NULL with an exception set.
    unsafe {
        let waiting = ffi::PyObject_CallOneArg(wrapped.as_ptr(), this.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(py, waiting)?.into_ptr())
    }
}

/// Whether the writer's reader has no exception for `drain` to raise.
fn healthy(writer: Ref<'_, '_>) -> PyResult<bool> {
    let py = writer.py();
    let reader = writer.getattr(intern!(py, "_reader"))?;
    if reader.is_none() {
        return Ok(true);
    }
    match Stream::of(reader.as_borrowed()) {
        Ok(stream) => Ok(stream.get().with(py, |state| state.exception.is_none())),
        Err(_) => Ok(call_method(&reader, intern!(py, "exception"), [])?.is_none()),
    }
}

#[inline]
fn transport_of<'py>(writer: Ref<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    writer.getattr(intern!(writer.py(), "_transport"))
}

/// `StreamWriter.write(data)`
fn write(py: Python<'_>, writer: Ref<'_, '_>, data: Ref<'_, '_>) -> Returned {
    let transport = transport_of(writer)?;
    if transport::is_native(transport.as_borrowed()) {
        return transport::write(py, transport.as_borrowed(), data);
    }
    let done = call_method(&transport, intern!(py, "write"), [&data])?;
    drop(done);
    heap::none(py)
}

fn feed_data(py: Python<'_>, reader: Ref<'_, '_>, data: Ref<'_, '_>) -> Returned {
    Stream::of(reader)?.get().feed_data(&data)?;
    heap::none(py)
}

fn at_eof(py: Python<'_>, reader: Ref<'_, '_>) -> Returned {
    heap::boolean(py, Stream::of(reader)?.get().at_eof(py))
}

/// Puts the methods that are plain functions on the Python classes.
#[pyfunction]
fn _complete_streams(
    reader: &Bound<'_, pyo3::types::PyType>,
    writer: &Bound<'_, pyo3::types::PyType>,
) -> PyResult<()> {
    heap::add_methods(
        reader,
        vec![
            method!(c"feed_data", c"feed_data($self, data)\n--\n\nAppend bytes to the buffer and wake who waits for them.", one "data", feed_data),
            method!(c"at_eof", c"at_eof($self)\n--\n\nReturn True if the buffer is empty and feed_eof() was called.", noargs, at_eof),
        ],
    )?;
    heap::add_methods(
        writer,
        vec![
            method!(c"write", c"write($self, data)\n--\n\nWrite data to the transport at once, or buffer what it does not take.\n\nFollow it with ``await drain()``.", one "data", write),
        ],
    )
}

pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(_complete_streams, module)?)
}
