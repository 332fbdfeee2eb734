//! The arguments of methods that may be called in every way in which a Python method may be.
//!
//! What fits is sorted here. What does not is left to Python to judge: a function with the same parameters is made,
//! and called with the same arguments. So the message is that of the running version, suggestions and all.

use std::ffi::CString;

use pyo3::Borrowed;
use pyo3::exceptions::PySystemError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::heap::{Arguments, Ref};

/// The values in the order of the parameters, absent ones `None`; `None` if they do not fit.
#[inline]
pub(super) fn sort<'a, 'py, const N: usize>(
    py: Python<'py>,
    given: Arguments<'a, 'py>,
    parameters: [&str; N],
) -> Option<[Option<Ref<'a, 'py>>; N]> {
    let mut found = [None; N];
    let positional = given.positional();
    if positional.len() > N {
        return None;
    }
    for (place, value) in found.iter_mut().zip(positional) {
        // SAFETY: an argument of the call that is being served.
        *place = Some(unsafe { Borrowed::from_ptr(py, *value) });
    }
    for (name, value) in given.by_name(py) {
        let name = name.to_str().ok()?;
        let place = parameters.iter().position(|known| *known == name)?;
        if found[place].replace(value).is_some() {
            return None;
        }
    }
    Some(found)
}

/// A method's parameters behind `self`, the required ones first.
pub(super) struct Signature<const N: usize> {
    /// As errors name it: `Queue.get`.
    pub(super) name: &'static str,
    pub(super) parameters: [&'static str; N],
    pub(super) required: usize,
}

impl<const N: usize> Signature<N> {
    /// The values, in the order of the parameters.
    ///
    /// # Errors
    /// Python's own `TypeError` where they do not fit.
    #[inline]
    pub(super) fn read<'a, 'py>(
        &self,
        py: Python<'py>,
        this: Ref<'_, 'py>,
        given: Arguments<'a, 'py>,
    ) -> PyResult<[Option<Ref<'a, 'py>>; N]> {
        match sort(py, given, self.parameters) {
            Some(found) if found[..self.required].iter().all(Option::is_some) => Ok(found),
            _ => Err(self.refuse(py, this, given)),
        }
    }

    /// What Python says of these arguments.
    #[cold]
    fn refuse<'py>(&self, py: Python<'py>, this: Ref<'_, 'py>, given: Arguments<'_, 'py>) -> PyErr {
        let judged = given.to_python(py).and_then(|(values, names)| {
            let values = PyTuple::new(py, [this])?
                .as_sequence()
                .concat(values.as_sequence())?;
            self.judge(&values.to_tuple()?, names.as_ref())
        });
        match judged {
            Ok(()) => PySystemError::new_err(format!("{}() refused good arguments", self.name)),
            Err(error) => error,
        }
    }

    /// Raises what Python raises for arguments that do not fit; `values` begin with the receiver.
    pub(super) fn judge<'py>(
        &self,
        values: &Bound<'py, PyTuple>,
        names: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<()> {
        let py = values.py();
        let mut text = String::from("lambda self");
        for (index, parameter) in self.parameters.iter().enumerate() {
            text.push_str(", ");
            text.push_str(parameter);
            if index >= self.required {
                text.push_str("=None");
            }
        }
        text.push_str(": None");
        let function = py.eval(&CString::new(text)?, None, None)?;
        function.setattr("__qualname__", self.name)?;
        function.call(values, names).map(drop)
    }
}
