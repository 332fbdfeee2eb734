//! What a `Queue` object holds, and the attributes by which programs look into it.
//!
//! Programs do look: they clear `q.queue` under `q.mutex`, wait on `q.all_tasks_done`, change `q.maxsize`. So these are
//! the real things. The counts are plain numbers here, which only the holder of the mutex changes, but anybody reads.

use std::ffi::c_int;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};
use pyo3::{ffi, intern};

use super::arguments::Signature;
use super::container::{self, Kind, KindCache};
use super::monitor::{Monitor, Which};
use crate::call::call_method;
use crate::guard::Guarded;
use crate::heap::{self, RawType, Ref, Returned, attribute, getter};
use crate::native::{self, Body};
use crate::object::Obj;

static CLASS: OnceLock<RawType> = OnceLock::new();

/// `maxsize` is something that only Python can compare.
const ODD: i64 = -1;

#[derive(Default)]
pub(super) struct Queue {
    pub(super) monitor: Monitor,
    objects: Guarded<Objects>,
    /// The largest number of items; 0 for no limit, or [`ODD`].
    limit: AtomicI64,
    unfinished: AtomicI64,
    shut_down: AtomicBool,
    kind: KindCache,
    /// A hook was set on the object itself.
    overridden: AtomicBool,
}

#[derive(Default)]
struct Objects {
    container: Option<Obj>,
    maxsize: Option<Obj>,
}

impl Default for Guarded<Objects> {
    fn default() -> Self {
        Self::new(Objects::default())
    }
}

impl Body for Queue {
    const BORN_READY: bool = false;

    fn class() -> &'static OnceLock<RawType> {
        &CLASS
    }

    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int {
        let answer = self
            .objects
            .try_look(|objects| {
                [&objects.container, &objects.maxsize]
                    .into_iter()
                    .flatten()
                    .map(&mut *visit)
                    .find(|answer| *answer != 0)
            })
            .flatten();
        match answer {
            Some(answer) => answer,
            None => self.monitor.visit(visit),
        }
    }

    fn clear(&self, py: Python<'_>) -> Vec<Obj> {
        let objects = self.objects.with(py, std::mem::take);
        [objects.container, objects.maxsize]
            .into_iter()
            .flatten()
            .collect()
    }

    fn init(
        this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        const INIT: Signature<1> = Signature {
            name: "Queue.__init__",
            parameters: ["maxsize"],
            required: 0,
        };
        let py = this.py();
        if native::exactly::<Self>(this).is_some() {
            return Err(PyTypeError::new_err(
                "ropewalk._core.Queue is only a base (hint: use ropewalk.queue.Queue)",
            ));
        }
        let named = kwargs.filter(|kwargs| !kwargs.is_empty());
        let maxsize = match (args.len(), named) {
            (0, None) => PyInt::new(py, 0).into_any(),
            (1, None) => args.get_item(0)?,
            (0, Some(named)) if named.len() == 1 && named.contains(intern!(py, "maxsize"))? => {
                named.as_any().get_item(intern!(py, "maxsize"))?
            }
            _ => {
                let values = PyTuple::new(py, [this])?
                    .as_sequence()
                    .concat(args.as_sequence())?
                    .to_tuple()?;
                return INIT.judge(&values, kwargs);
            }
        };
        let queue = Self::of(this);
        queue.set_maxsize(maxsize.as_borrowed());
        call_method(&this, intern!(py, "_init"), [&maxsize])?;
        queue.unfinished.store(0, Ordering::Relaxed);
        queue.shut_down.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Queue {
    #[inline]
    pub(super) fn of<'a>(this: Ref<'a, '_>) -> &'a Self {
        // SAFETY: methods of the type are called on its instances alone.
        unsafe { native::body(this) }
    }

    #[inline]
    pub(super) fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn unfinished(&self) -> i64 {
        self.unfinished.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn set_unfinished(&self, count: i64) {
        self.unfinished.store(count, Ordering::Relaxed);
    }

    /// The container, or the `AttributeError` that a queue without one deserves.
    #[inline]
    fn container(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Obj> {
        match self.objects.with(py, |objects| objects.container.clone()) {
            Some(container) => Ok(container),
            None => Err(missing(this, "queue")),
        }
    }

    #[inline]
    fn kind(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Kind> {
        if self.overridden.load(Ordering::Relaxed) {
            return Ok(Kind::Hooks);
        }
        // SAFETY: a live object.
        self.kind.kind(py, unsafe { ffi::Py_TYPE(this.as_ptr()) })
    }

    /// The container, if it is of the kind that is moved without hooks.
    #[inline]
    pub(super) fn native(
        &self,
        py: Python<'_>,
        this: Ref<'_, '_>,
    ) -> PyResult<Option<(Kind, Obj)>> {
        let kind = self.kind(py, this)?;
        if kind == Kind::Hooks {
            return Ok(None);
        }
        let container = self.container(py, this)?;
        Ok(container::is_native(kind, &container).then_some((kind, container)))
    }

    /// The size and the limit (0 for none), if they can be seen without the mutex: nobody holds it, and with the GIL
    /// nobody takes it before this is done. `None`: the mutex is needed.
    #[inline]
    pub(super) fn glance(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Option<(i64, i64)>> {
        let limit = self.limit.load(Ordering::Relaxed);
        if cfg!(Py_GIL_DISABLED) || limit == ODD || !self.monitor.is_free(py)? {
            return Ok(None);
        }
        let Some((_, container)) = self.native(py, this)? else {
            return Ok(None);
        };
        Ok(i64::try_from(container::len(py, &container)?)
            .ok()
            .map(|size| (size, limit)))
    }

    /// Whether there is no room for one more. With the mutex held.
    #[inline]
    pub(super) fn is_full(
        &self,
        py: Python<'_>,
        this: Ref<'_, '_>,
        native: Option<&(Kind, Obj)>,
    ) -> PyResult<bool> {
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Ok(false);
        }
        if limit > 0
            && let Some((_, container)) = native
        {
            let size = container::len(py, container)?;
            return Ok(i64::try_from(size).is_ok_and(|size| size >= limit));
        }
        let maxsize = self.maxsize(py, this)?;
        let maxsize = maxsize.bind(py);
        Ok(maxsize.gt(0)? && self.size(py, this)?.bind(py).ge(maxsize)?)
    }

    /// Whether there is a limit: `maxsize > 0`.
    pub(super) fn is_bounded(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<bool> {
        match self.limit.load(Ordering::Relaxed) {
            ODD => self.maxsize(py, this)?.bind(py).gt(0),
            limit => Ok(limit > 0),
        }
    }

    /// What `full()` gives: `0 < maxsize <= size`.
    pub(super) fn full(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<bool> {
        if self.limit.load(Ordering::Relaxed) == ODD {
            let maxsize = self.maxsize(py, this)?;
            let zero = PyInt::new(py, 0);
            return Ok(
                zero.lt(maxsize.bind(py))? && maxsize.bind(py).le(self.size(py, this)?.bind(py))?
            );
        }
        let native = self.native(py, this)?;
        self.is_full(py, this, native.as_ref())
    }

    /// What `_qsize()` gives.
    pub(super) fn size(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Obj> {
        if let Some((_, container)) = self.native(py, this)? {
            let size = container::len(py, &container)?;
            return Ok(size.into_pyobject(py)?.into_any().into());
        }
        Ok(call_method(&this, intern!(py, "_qsize"), [])?.into())
    }

    pub(super) fn maxsize(&self, py: Python<'_>, this: Ref<'_, '_>) -> PyResult<Obj> {
        match self.objects.with(py, |objects| objects.maxsize.clone()) {
            Some(maxsize) => Ok(maxsize),
            None => Err(missing(this, "maxsize")),
        }
    }

    fn set_maxsize(&self, maxsize: Ref<'_, '_>) {
        let py = maxsize.py();
        let limit = match maxsize.cast::<PyInt>() {
            Ok(number) => match number.extract::<i64>() {
                Ok(number) => number.max(0),
                // Beyond 64 bits: no limit, or one that is never reached.
                Err(_) if maxsize.lt(0).unwrap_or(false) => 0,
                Err(_) => i64::MAX,
            },
            Err(_) => ODD,
        };
        let new = Obj::from(maxsize.to_owned());
        let old = self
            .objects
            .with(py, |objects| objects.maxsize.replace(new));
        self.limit.store(limit, Ordering::Relaxed);
        drop(old);
    }
}

/// The error for an attribute that is not there: `__init__` was not called, or somebody deleted it.
#[cold]
fn missing(this: Ref<'_, '_>, name: &str) -> PyErr {
    match this.get_type().name() {
        Ok(class) => {
            PyAttributeError::new_err(format!("'{class}' object has no attribute '{name}'"))
        }
        Err(error) => error,
    }
}

fn get_container(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(Queue::of(this).container(py, this)?.into_ptr())
}

fn set_container(py: Python<'_>, this: Ref<'_, '_>, value: Option<Ref<'_, '_>>) -> PyResult<()> {
    let new = value.map(|value| Obj::from(value.to_owned()));
    let old = Queue::of(this)
        .objects
        .with(py, |objects| std::mem::replace(&mut objects.container, new));
    drop(old);
    Ok(())
}

fn get_maxsize(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(Queue::of(this).maxsize(py, this)?.into_ptr())
}

/// The value of an assignment; these attributes cannot be deleted.
fn assigned<'a, 'py>(value: Option<Ref<'a, 'py>>, name: &str) -> PyResult<Ref<'a, 'py>> {
    value.ok_or_else(|| PyAttributeError::new_err(format!("cannot delete attribute '{name}'")))
}

fn set_maxsize(_py: Python<'_>, this: Ref<'_, '_>, value: Option<Ref<'_, '_>>) -> PyResult<()> {
    Queue::of(this).set_maxsize(assigned(value, "maxsize")?);
    Ok(())
}

fn get_unfinished(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    let count = Queue::of(this).unfinished();
    Ok(count.into_pyobject(py)?.into_any().into_ptr())
}

fn set_unfinished(_py: Python<'_>, this: Ref<'_, '_>, value: Option<Ref<'_, '_>>) -> PyResult<()> {
    let count = assigned(value, "unfinished_tasks")?.extract()?;
    Queue::of(this).set_unfinished(count);
    Ok(())
}

fn get_shut_down(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    heap::boolean(py, Queue::of(this).is_shut_down())
}

fn set_shut_down(_py: Python<'_>, this: Ref<'_, '_>, value: Option<Ref<'_, '_>>) -> PyResult<()> {
    let value = assigned(value, "is_shutdown")?.is_truthy()?;
    Queue::of(this).shut_down.store(value, Ordering::Relaxed);
    Ok(())
}

fn mutex(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    Ok(Queue::of(this).monitor.mutex(py)?.clone().into_ptr())
}

fn condition(py: Python<'_>, this: Ref<'_, '_>, which: Which) -> Returned {
    let condition = Queue::of(this).monitor.condition(py, which)?;
    Ok(condition.clone().into_ptr())
}

fn not_empty(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    condition(py, this, Which::NotEmpty)
}

fn not_full(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    condition(py, this, Which::NotFull)
}

fn all_tasks_done(py: Python<'_>, this: Ref<'_, '_>) -> Returned {
    condition(py, this, Which::AllDone)
}

pub(super) fn getters() -> Vec<ffi::PyGetSetDef> {
    vec![
        attribute!(c"queue", get_container, set_container),
        attribute!(c"maxsize", get_maxsize, set_maxsize),
        attribute!(c"unfinished_tasks", get_unfinished, set_unfinished),
        attribute!(c"is_shutdown", get_shut_down, set_shut_down),
        getter!(c"mutex", mutex),
        getter!(c"not_empty", not_empty),
        getter!(c"not_full", not_full),
        getter!(c"all_tasks_done", all_tasks_done),
    ]
}

/// `tp_setattro`: as every object's, but that a hook set on the object is noticed.
pub(super) unsafe extern "C" fn set_attribute(
    this: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: called by CPython on live objects, with an instance of our type.
    unsafe {
        let done = heap::door(|py| {
            let name: Ref<'_, '_> = pyo3::Borrowed::from_ptr(py, name);
            if name
                .cast::<PyString>()
                .is_ok_and(|name| name == "_qsize" || name == "_put" || name == "_get")
            {
                let this = pyo3::Borrowed::from_ptr(py, this);
                Queue::of(this).overridden.store(true, Ordering::Relaxed);
            }
            Ok(this)
        });
        if done.is_null() {
            return -1;
        }
        ffi::PyObject_GenericSetAttr(this, name, value)
    }
}
