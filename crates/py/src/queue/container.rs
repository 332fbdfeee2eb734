//! Where a queue's items are: a real `deque` or `list`, which programs look into and change.
//!
//! How a kind of queue puts and takes is Python, four short hooks in `ropewalk.queue`, which a subclass may override.
//! As long as it does not, and the container is the one that the hooks made, what they do is done here, without them.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{ffi, intern};

use crate::call::vectorcall;
use crate::object::Obj;

/// Which hooks a class has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Those of `Queue`: a deque.
    Fifo,
    /// Those of `LifoQueue`: a list.
    Lifo,
    /// Those of `PriorityQueue`: a list that is a heap.
    Heap,
    /// Others: they are called.
    Hooks,
}

const NATIVE: [Kind; 3] = [Kind::Fifo, Kind::Lifo, Kind::Heap];

/// The hooks of one kind, as its class has them: `_qsize`, `_put`, `_get`.
type Hooks = [Obj; 3];

static HOOKS: [OnceLock<Hooks>; 3] = [const { OnceLock::new() }; 3];

/// What the containers are moved by.
struct Moves {
    deque: Obj,
    append: Obj,
    popleft: Obj,
    pop: Obj,
    push_heap: Obj,
    pop_heap: Obj,
}

static MOVES: OnceLock<Moves> = OnceLock::new();

fn hooks_of(class: &Bound<'_, PyType>) -> PyResult<Hooks> {
    let py = class.py();
    Ok([
        class.getattr(intern!(py, "_qsize"))?.into(),
        class.getattr(intern!(py, "_put"))?.into(),
        class.getattr(intern!(py, "_get"))?.into(),
    ])
}

/// Makes the hooks of three classes known: those of a `Queue`, a `LifoQueue`, a `PriorityQueue`.
pub(super) fn know(
    fifo: &Bound<'_, PyType>,
    lifo: &Bound<'_, PyType>,
    heap: &Bound<'_, PyType>,
) -> PyResult<()> {
    let py = fifo.py();
    let collections = py.import("collections")?;
    let heapq = py.import("heapq")?;
    let deque = collections.getattr("deque")?;
    let moves = Moves {
        append: deque.getattr("append")?.into(),
        popleft: deque.getattr("popleft")?.into(),
        pop: py.get_type::<pyo3::types::PyList>().getattr("pop")?.into(),
        push_heap: heapq.getattr("heappush")?.into(),
        pop_heap: heapq.getattr("heappop")?.into(),
        deque: deque.into(),
    };
    MOVES.get_or_init(|| moves);
    for (place, class) in HOOKS.iter().zip([fifo, lifo, heap]) {
        let hooks = hooks_of(class)?;
        place.get_or_init(|| hooks);
    }
    Ok(())
}

/// The kind of a class, looked up again only when the class or one of its bases has changed.
///
/// CPython gives each state of a class a version, and takes it away when anything about it changes.
#[derive(Default)]
pub(super) struct KindCache(AtomicU64);

impl KindCache {
    /// The kind of an object of `class`.
    #[inline]
    pub(super) fn kind(&self, py: Python<'_>, class: *mut ffi::PyTypeObject) -> PyResult<Kind> {
        // SAFETY: a live type; free-threaded the field is written while others read it, atomically.
        let version = unsafe { AtomicU32::from_ptr(&raw mut (*class).tp_version_tag) };
        let version = version.load(Ordering::Relaxed);
        let known = self.0.load(Ordering::Relaxed);
        if version != 0 && known >> 8 == u64::from(version) {
            return Ok(match known & 0xff {
                0 => Kind::Fifo,
                1 => Kind::Lifo,
                2 => Kind::Heap,
                _ => Kind::Hooks,
            });
        }
        self.look(py, class)
    }

    #[cold]
    fn look(&self, py: Python<'_>, class: *mut ffi::PyTypeObject) -> PyResult<Kind> {
        // SAFETY: the class of a live object.
        let class = unsafe { Bound::from_borrowed_ptr(py, class.cast()).cast_into_unchecked() };
        let version = |class: &Bound<'_, PyType>| {
            // SAFETY: as in `kind`.
            let version =
                unsafe { AtomicU32::from_ptr(&raw mut (*class.as_type_ptr()).tp_version_tag) };
            version.load(Ordering::Relaxed)
        };
        // The first look gives the class a version, if it had none. One that is the same before and after the
        // second look is that of what was found.
        hooks_of(&class)?;
        let before = version(&class);
        let found = hooks_of(&class)?;
        let kind = NATIVE
            .into_iter()
            .zip(&HOOKS)
            .find(|(_, known)| {
                known.get().is_some_and(|known| {
                    known
                        .iter()
                        .zip(&found)
                        .all(|(one, other)| one.as_ptr() == other.as_ptr())
                })
            })
            .map_or(Kind::Hooks, |(kind, _)| kind);
        if before == version(&class) {
            self.0
                .store(u64::from(before) << 8 | kind as u64, Ordering::Relaxed);
        }
        Ok(kind)
    }
}

/// A container of the kind that its hooks made; any other object is moved by the hooks alone.
#[inline]
pub(super) fn is_native(kind: Kind, container: &Obj) -> bool {
    // SAFETY: live objects.
    unsafe {
        let class = ffi::Py_TYPE(container.as_ptr());
        match kind {
            Kind::Fifo => MOVES
                .get()
                .is_some_and(|moves| class.cast() == moves.deque.as_ptr()),
            Kind::Lifo | Kind::Heap => class == &raw mut ffi::PyList_Type,
            Kind::Hooks => false,
        }
    }
}

/// How many items there are.
#[inline]
pub(super) fn len(py: Python<'_>, container: &Obj) -> PyResult<usize> {
    // SAFETY: a live object; no size is negative but for an error.
    let size = unsafe { ffi::PyObject_Size(container.as_ptr()) };
    usize::try_from(size).map_err(|_| PyErr::fetch(py))
}

fn moves() -> PyResult<&'static Moves> {
    MOVES
        .get()
        .ok_or_else(|| pyo3::exceptions::PyImportError::new_err("ropewalk.queue is not imported"))
}

/// Puts an item into a native container.
#[inline]
pub(super) fn put(
    py: Python<'_>,
    kind: Kind,
    container: &Obj,
    item: *mut ffi::PyObject,
) -> PyResult<()> {
    let function = match kind {
        Kind::Fifo => &moves()?.append,
        Kind::Heap => &moves()?.push_heap,
        Kind::Lifo | Kind::Hooks => {
            // SAFETY: a list, as `is_native` saw, and a live item.
            let failed = unsafe { ffi::PyList_Append(container.as_ptr(), item) } < 0;
            return if failed {
                Err(PyErr::fetch(py))
            } else {
                Ok(())
            };
        }
    };
    let mut values = [ptr::null_mut(), container.as_ptr(), item];
    vectorcall(py, function, &mut values, ptr::null_mut()).map(drop)
}

/// Takes an item out of a native container.
#[inline]
pub(super) fn take(py: Python<'_>, kind: Kind, container: &Obj) -> PyResult<Obj> {
    let function = match kind {
        Kind::Fifo => &moves()?.popleft,
        Kind::Heap => &moves()?.pop_heap,
        Kind::Lifo | Kind::Hooks => &moves()?.pop,
    };
    let mut values = [ptr::null_mut(), container.as_ptr()];
    Ok(vectorcall(py, function, &mut values, ptr::null_mut())?.into())
}
