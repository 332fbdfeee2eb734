//! What has arrived and was not read yet.
//!
//! Most of what arrives is read at once and whole, so the usual form is the `bytes` object as it came from the
//! socket: `read` hands out the very object. What has to be joined goes into a vector. And whoever looks at
//! `reader._buffer`, as programs and tests do, gets a `bytearray`, which from then on *is* the buffer, so that
//! what they change in it counts.

use std::slice;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};
use pyo3::{Borrowed, ffi};

use crate::object::Obj;

/// A vector that grew larger than this is given back when it is empty.
const KEEP: usize = 64 * 1024;

enum Form {
    /// A `bytes` object, from an offset on; never empty.
    Whole(Obj, usize),
    /// Joined bytes, from an offset on.
    Joined(Vec<u8>, usize),
    /// The `bytearray` that Python code knows.
    Shared(Obj),
}

/// The bytes between a connection and its reader.
///
/// Nothing here runs Python code: what an operation puts out of use is handed out in [`Taken::old`].
pub(super) struct Buffer(Form);

/// Bytes on their way to the reader.
pub(super) struct Taken {
    pub(super) bytes: Obj,
    /// To be dropped where Python code may run.
    pub(super) old: Option<Obj>,
}

impl Buffer {
    pub(super) const fn new() -> Self {
        Self(Form::Joined(Vec::new(), 0))
    }

    /// What is there. Valid until the buffer is used again.
    pub(super) fn bytes(&self, py: Python<'_>) -> &[u8] {
        match &self.0 {
            Form::Whole(object, offset) => &whole(py, object)[*offset..],
            Form::Joined(bytes, offset) => &bytes[*offset..],
            Form::Shared(array) => {
                let array = array_of(py, array);
                // SAFETY: the memory is the array's, which we hold; nothing resizes it while nobody runs. With the
                // GIL that is so; free-threaded, a stream belongs to one thread, as asyncio's documentation says.
                unsafe { slice::from_raw_parts(array.data(), array.len()) }
            }
        }
    }

    #[inline]
    pub(super) fn len(&self, py: Python<'_>) -> usize {
        match &self.0 {
            Form::Joined(bytes, offset) => bytes.len() - offset,
            _ => self.bytes(py).len(),
        }
    }

    /// Appends a `bytes` object.
    ///
    /// # Errors
    /// `BufferError` or `MemoryError` if Python's `bytearray` cannot grow.
    #[inline]
    pub(super) fn push(&mut self, py: Python<'_>, object: Obj) -> PyResult<Option<Obj>> {
        match &mut self.0 {
            Form::Joined(bytes, offset) if bytes.len() == *offset => {
                self.0 = Form::Whole(object, 0);
                Ok(None)
            }
            Form::Shared(array) => {
                let array = array_of(py, array);
                let (before, new) = (array.len(), whole(py, &object));
                array.resize(before + new.len())?;
                // SAFETY: nobody else touches the array now, see `bytes`; it has just been made that long.
                unsafe { array.as_bytes_mut()[before..].copy_from_slice(new) };
                Ok(Some(object))
            }
            Form::Joined(bytes, _) => {
                bytes.extend_from_slice(whole(py, &object));
                Ok(Some(object))
            }
            Form::Whole(first, offset) => {
                let (rest, new) = (&whole(py, first)[*offset..], whole(py, &object));
                let mut joined = Vec::with_capacity(rest.len() + new.len());
                joined.extend_from_slice(rest);
                joined.extend_from_slice(new);
                let old = std::mem::replace(&mut self.0, Form::Joined(joined, 0));
                // Two bytes objects, whose end runs no code of anybody's.
                drop(old);
                Ok(Some(object))
            }
        }
    }

    /// Takes the first `count` bytes, or as many as there are.
    ///
    /// # Errors
    /// `MemoryError`; `BufferError` if somebody has exported Python's `bytearray`.
    pub(super) fn take(&mut self, py: Python<'_>, count: usize) -> PyResult<Taken> {
        let count = count.min(self.len(py));
        if let Form::Whole(object, 0) = &self.0
            && whole(py, object).len() == count
        {
            return Ok(match std::mem::replace(&mut self.0, Self::new().0) {
                Form::Whole(bytes, _) => Taken { bytes, old: None },
                other => Taken {
                    bytes: PyBytes::new(py, &[]).into_any().into(),
                    old: other.into_object(),
                },
            });
        }
        let bytes = new_bytes(py, &self.bytes(py)[..count])?;
        let old = self.skip(py, count)?;
        Ok(Taken { bytes, old })
    }

    /// Forgets the first `count` bytes, which are there.
    pub(super) fn skip(&mut self, py: Python<'_>, count: usize) -> PyResult<Option<Obj>> {
        let rest = self.len(py).saturating_sub(count);
        match &mut self.0 {
            Form::Whole(_, offset) if rest > 0 => *offset += count,
            Form::Joined(bytes, offset) if rest > 0 => {
                *offset += count;
                // Moved to the front when more is gone than left: each byte moves once at most, on average.
                if *offset > rest {
                    bytes.drain(..*offset);
                    *offset = 0;
                }
            }
            Form::Joined(bytes, offset) => {
                *offset = 0;
                bytes.clear();
                if bytes.capacity() > KEEP {
                    *bytes = Vec::new();
                }
            }
            Form::Shared(array) => {
                let array = array_of(py, array);
                // SAFETY: nobody else touches the array now, see `bytes`.
                unsafe { array.as_bytes_mut() }.copy_within(count.min(array.len()).., 0);
                array.resize(rest)?;
            }
            Form::Whole(..) => {
                return Ok(std::mem::replace(&mut self.0, Self::new().0).into_object());
            }
        }
        Ok(None)
    }

    /// The buffer as Python code sees and changes it.
    pub(super) fn share<'py>(&mut self, py: Python<'py>) -> (Bound<'py, PyAny>, Option<Obj>) {
        if let Form::Shared(array) = &self.0 {
            return (array.bind(py).to_owned(), None);
        }
        let array = PyByteArray::new(py, self.bytes(py)).into_any();
        let old = std::mem::replace(&mut self.0, Form::Shared((&array).into()));
        (array, old.into_object())
    }

    /// Puts another `bytearray` in the buffer's place.
    pub(super) fn replace(&mut self, array: Obj) -> Option<Obj> {
        std::mem::replace(&mut self.0, Form::Shared(array)).into_object()
    }

    /// The Python object that it holds, for the garbage collector.
    pub(super) fn object(&self) -> Option<&Obj> {
        match &self.0 {
            Form::Whole(object, _) | Form::Shared(object) => Some(object),
            Form::Joined(..) => None,
        }
    }
}

impl Form {
    fn into_object(self) -> Option<Obj> {
        match self {
            Self::Whole(object, _) | Self::Shared(object) => Some(object),
            Self::Joined(..) => None,
        }
    }
}

/// A new `bytes` object; a failure to allocate is an exception.
pub(super) fn new_bytes(py: Python<'_>, bytes: &[u8]) -> PyResult<Obj> {
    // SAFETY: reads that many bytes; a new reference or NULL with an exception set.
    unsafe {
        let object =
            ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len().cast_signed());
        Obj::from_owned(object).ok_or_else(|| PyErr::fetch(py))
    }
}

fn whole<'a>(py: Python<'_>, object: &'a Obj) -> &'a [u8] {
    // SAFETY: only `bytes` objects are kept as such; one never changes, and lives as long as the reference to it.
    unsafe {
        let bytes: Borrowed<'_, '_, PyBytes> = object.bind(py).cast_unchecked();
        slice::from_raw_parts(bytes.as_bytes().as_ptr(), bytes.as_bytes().len())
    }
}

fn array_of<'a, 'py>(py: Python<'py>, object: &'a Obj) -> Borrowed<'a, 'py, PyByteArray> {
    // SAFETY: `share` makes one, and `replace` is given one.
    unsafe { object.bind(py).cast_unchecked() }
}
