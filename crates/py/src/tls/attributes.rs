//! What `Tls` shows Python: the attributes of CPython's `SSLProtocol` that the hot half shares, and the methods of it
//! that it does itself.

use std::sync::OnceLock;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::engine::Engine;
use super::receive::read;
use super::send::{Pace, control_app_writing, send_waiting};
use super::{Lower, Phase, State, Tls, fatal, transport};
use crate::call::call_method;
use crate::guard::Guarded;
use crate::object::Obj;
use crate::transport::{Style, TransportRef, style_of};

#[pymethods]
impl Tls {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self {
            state: Guarded::new(State {
                phase: Phase::Other,
                phase_object: None,
                app: None,
                style: Style::Data,
                lower: Lower::None,
                backlog: None,
                waiting: 0,
                busy: false,
                app_reading_paused: false,
                app_writing_paused: false,
                lower_reading_paused: false,
                lower_writing_paused: false,
                outgoing_high: 0,
                outgoing_low: 0,
                incoming_high: 0,
                incoming_low: 0,
            }),
            engine: OnceLock::new(),
        }
    }

    #[getter]
    fn _state(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let object = self.with(py, |state| state.phase_object.clone());
        object.map(|object| object.into_bound(py).unbind())
    }

    #[setter(_state)]
    fn set_state(slf: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let phase = match value
            .getattr(intern!(py, "value"))?
            .extract::<String>()?
            .as_str()
        {
            "WRAPPED" => Phase::Wrapped,
            "FLUSHING" => Phase::Flushing,
            _ => Phase::Other,
        };
        if phase == Phase::Wrapped && this.engine.get().is_none() {
            let engine = Engine::new(
                py,
                &slf.getattr(intern!(py, "_sslobj"))?,
                &slf.getattr(intern!(py, "_incoming"))?,
                &slf.getattr(intern!(py, "_outgoing"))?,
                slf.getattr(intern!(py, "wants_openssl"))?.is_truthy()?,
            )?;
            let _ = this.engine.set(engine);
        }
        let value = value.into();
        let old = this.with(py, |state| {
            state.phase = phase;
            state.phase_object.replace(value)
        });
        drop(old);
        Ok(())
    }

    #[getter]
    fn _app_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let app = self.with(py, |state| state.app.clone());
        app.map(|app| app.into_bound(py).unbind())
    }

    #[setter(_app_protocol)]
    fn set_app_protocol(&self, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let app = value.map(Obj::from);
        let style = match &app {
            Some(app) => style_of(py, app)?,
            None => Style::Data,
        };
        let old = self.with(py, |state| {
            state.style = style;
            std::mem::replace(&mut state.app, app)
        });
        drop(old);
        Ok(())
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let lower = self.with(py, |state| state.lower.clone());
        lower
            .object()
            .map(|lower| lower.bind(py).to_owned().unbind())
    }

    #[setter(_transport)]
    fn set_transport(&self, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) {
        let lower = match value {
            None => Lower::None,
            Some(value) => TransportRef::from_object(value)
                .map_or_else(|| Lower::Foreign(value.into()), Lower::Native),
        };
        let old = self.with(py, |state| std::mem::replace(&mut state.lower, lower));
        drop(old);
    }

    #[getter]
    fn _write_backlog(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let backlog = self.with(py, |state| state.backlog.clone());
        backlog.map(|backlog| backlog.into_bound(py).unbind())
    }

    #[setter(_write_backlog)]
    fn set_write_backlog(&self, value: &Bound<'_, PyAny>) {
        let backlog = value.into();
        let old = self.with(value.py(), |state| state.backlog.replace(backlog));
        drop(old);
    }

    #[getter]
    fn _write_buffer_size(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.waiting)
    }

    #[setter(_write_buffer_size)]
    fn set_write_buffer_size(&self, py: Python<'_>, value: usize) {
        self.with(py, |state| state.waiting = value);
    }

    #[getter]
    fn _app_reading_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.app_reading_paused)
    }

    #[setter(_app_reading_paused)]
    fn set_app_reading_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.app_reading_paused = value);
    }

    #[getter]
    fn _app_writing_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.app_writing_paused)
    }

    #[setter(_app_writing_paused)]
    fn set_app_writing_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.app_writing_paused = value);
    }

    #[getter]
    fn _ssl_reading_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.lower_reading_paused)
    }

    #[setter(_ssl_reading_paused)]
    fn set_ssl_reading_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.lower_reading_paused = value);
    }

    #[getter]
    fn _ssl_writing_paused(&self, py: Python<'_>) -> bool {
        self.with(py, |state| state.lower_writing_paused)
    }

    #[setter(_ssl_writing_paused)]
    fn set_ssl_writing_paused(&self, py: Python<'_>, value: bool) {
        self.with(py, |state| state.lower_writing_paused = value);
    }

    #[getter]
    fn _outgoing_high_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.outgoing_high)
    }

    #[setter(_outgoing_high_water)]
    fn set_outgoing_high_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.outgoing_high = value);
        Ok(())
    }

    #[getter]
    fn _outgoing_low_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.outgoing_low)
    }

    #[setter(_outgoing_low_water)]
    fn set_outgoing_low_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.outgoing_low = value);
        Ok(())
    }

    #[getter]
    fn _incoming_high_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.incoming_high)
    }

    #[setter(_incoming_high_water)]
    fn set_incoming_high_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.incoming_high = value);
        Ok(())
    }

    #[getter]
    fn _incoming_low_water(&self, py: Python<'_>) -> usize {
        self.with(py, |state| state.incoming_low)
    }

    #[setter(_incoming_low_water)]
    fn set_incoming_low_water(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let value = mark(value)?;
        self.with(py, |state| state.incoming_low = value);
        Ok(())
    }

    /// Which engine does the work: "openssl", "memory", or None before the handshake is done.
    #[getter]
    fn _engine(&self) -> Option<&'static str> {
        self.engine.get().map(Engine::name)
    }

    /// Hands over what was received and not read yet.
    fn _do_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        let reads = slf
            .get()
            .with(slf.py(), |state| state.phase != Phase::Other);
        match slf.get().engine.get() {
            Some(engine) if reads => read(slf, engine, &[]),
            _ => Ok(()),
        }
    }

    /// Encrypts and sends everything that was written, whether there is room for it or not.
    fn _do_write(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.get().engine.get() {
            Some(engine) => send_waiting(slf, engine, Pace::Regardless)
                .and_then(|()| control_app_writing(slf, engine)),
            // Nothing can be encrypted before the handshake; what OpenSSL has to say can be sent.
            None => call_method(slf, intern!(py, "_process_outgoing"), []).map(drop),
        }
    }

    /// The transport below has enough.
    fn pause_writing(&self, py: Python<'_>) {
        self.with(py, |state| state.lower_writing_paused = true);
    }

    /// The transport below wants more.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        slf.get()
            .with(py, |state| state.lower_writing_paused = false);
        let Some(engine) = slf.get().engine.get() else {
            return call_method(slf, intern!(py, "_process_outgoing"), []).map(drop);
        };
        match send_waiting(slf, engine, Pace::AsThereIsRoom) {
            Ok(()) => control_app_writing(slf, engine),
            Err(error) => fatal(slf, error),
        }
    }

    /// A transport of class `class` for the application.
    fn _make_app_transport(
        slf: &Bound<'_, Self>,
        class: &Bound<'_, PyType>,
    ) -> PyResult<Py<PyAny>> {
        transport::make(slf, class).map(|made| made.into_bound(slf.py()).unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        for object in self
            .engine
            .get()
            .into_iter()
            .flat_map(Engine::objects)
            .flatten()
        {
            visit.call(object.as_py())?;
        }
        self.state
            .try_look(|state| {
                [
                    state.phase_object.as_ref(),
                    state.app.as_ref(),
                    state.backlog.as_ref(),
                    state.lower.object(),
                ]
                .into_iter()
                .flatten()
                .try_for_each(|object| visit.call(object.as_py()))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let taken = self.with(py, |state| {
            (
                state.app.take(),
                state.backlog.take(),
                std::mem::replace(&mut state.lower, Lower::None),
            )
        });
        drop(taken);
    }
}

/// A water mark; one that no number of bytes reaches is as good as the largest.
fn mark(value: &Bound<'_, PyAny>) -> PyResult<usize> {
    let value = value.extract::<f64>()?;
    if value.is_nan() {
        return Err(PyValueError::new_err("a water mark is a number"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "`as` saturates, as said above"
    )]
    Ok(value as usize)
}
