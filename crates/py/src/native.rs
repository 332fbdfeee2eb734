//! Raw types that Python code makes instances of: a Rust value inside an object, all the rest written once.
//!
//! A handle or a transport is made by us alone; a lock is made by calling its class, may be derived from and weakly
//! referenced. What such a type has of its own is a [`Body`]: a value that starts from its default, shared by all
//! threads, and what the collector must see of it.

use std::ffi::{CStr, c_int, c_void};
use std::mem::offset_of;
use std::ptr;
use std::sync::OnceLock;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::heap::{self, Plan, RawType, Ref};
use crate::object::Obj;

/// Room for an instance of `object`: 16 bytes, 32 free-threaded.
const HEADER: usize = 32;

/// What an instance holds.
pub(crate) trait Body: Default + Send + Sync + 'static {
    /// Where the type is kept.
    fn class() -> &'static OnceLock<RawType>;

    /// Whether a new instance needs no `__init__`, if there are no arguments.
    const BORN_READY: bool;

    /// Whether a program may derive from it.
    const SUBCLASSABLE: bool = true;

    /// Shows each reference to the collector, until it has seen enough (not 0).
    fn visit(&self, visit: &mut dyn FnMut(&Obj) -> c_int) -> c_int;

    /// Takes out what may be part of a cycle; it is dropped by the collector's caller.
    fn clear(&self, _py: Python<'_>) -> Vec<Obj> {
        Vec::new()
    }

    /// `__init__`.
    ///
    /// # Errors
    /// What a call of the class with wrong arguments raises.
    fn init(
        _this: Ref<'_, '_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()>;
}

#[repr(C)]
struct Instance<B> {
    header: [u64; HEADER / 8],
    /// The list of weak references, CPython's.
    weak: *mut ffi::PyObject,
    body: B,
}

/// The body of an instance.
///
/// # Safety
/// `object` is an instance of `B`'s type, as the receiver of its methods is.
#[inline]
pub(crate) unsafe fn body<'a, B: Body>(object: Ref<'a, '_>) -> &'a B {
    // SAFETY: an instance, alive for 'a; bodies are reached by shared reference alone until it dies.
    unsafe { &(*object.as_ptr().cast::<Instance<B>>()).body }
}

/// The body of the receiver, for a method's shortcut.
///
/// # Safety
/// `object` is a live instance of `B`'s type, for as long as the body is used.
#[inline]
pub(crate) unsafe fn raw_body<'a, B: Body>(object: *mut ffi::PyObject) -> &'a B {
    // SAFETY: says the caller; bodies are reached by shared reference alone until they die.
    unsafe { &(*object.cast::<Instance<B>>()).body }
}

/// Whether an object that may be anything is of exactly this type: a derived one may have other methods.
#[inline]
pub(crate) fn is_exactly<B: Body>(object: *mut ffi::PyObject) -> bool {
    let class = B::class().get().map(RawType::as_ptr);
    // SAFETY: a live object has a type.
    class == Some(unsafe { ffi::Py_TYPE(object) })
}

/// The body of an object that may be anything, if it is of exactly this type.
#[inline]
pub(crate) fn exactly<'a, B: Body>(object: Ref<'a, '_>) -> Option<&'a B> {
    // SAFETY: just checked.
    is_exactly::<B>(object.as_ptr()).then(|| unsafe { body(object) })
}

/// Makes an instance from Rust, as calling the class would do, without `__init__`.
pub(crate) fn make<B: Body>(py: Python<'_>) -> PyResult<Obj> {
    let class = B::class()
        .get()
        .ok_or_else(|| PyImportError::new_err("ropewalk._core is not initialised"))?;
    // SAFETY: our type; the reference is new.
    unsafe { Obj::from_owned(allocate::<B>(class.as_ptr())).ok_or_else(|| PyErr::fetch(py)) }
}

/// A type as its module describes it.
pub(crate) struct Description {
    pub(crate) name: &'static CStr,
    pub(crate) doc: &'static CStr,
    pub(crate) methods: Vec<ffi::PyMethodDef>,
    pub(crate) getters: Vec<ffi::PyGetSetDef>,
    pub(crate) slots: Vec<(c_int, *mut c_void)>,
}

/// Makes the type of `B` and puts it into the module.
pub(crate) fn register<B: Body>(module: &Bound<'_, PyModule>, about: Description) -> PyResult<()> {
    let py = module.py();
    let object: Bound<'_, PyType> = py.import("builtins")?.getattr("object")?.cast_into()?;
    // SAFETY: an all-zero definition ends the table.
    let members: Vec<ffi::PyMemberDef> = vec![
        ffi::PyMemberDef {
            name: c"__weaklistoffset__".as_ptr(),
            type_code: SIZE_MEMBER,
            offset: isize::try_from(offset_of!(Instance<B>, weak))?,
            flags: READ_ONLY,
            doc: ptr::null(),
        },
        // SAFETY: pointers and numbers, for which zero is a value.
        unsafe { std::mem::zeroed() },
    ];
    let mut slots = about.slots;
    slots.extend([
        // The type points at the table for as long as the process lives.
        (ffi::Py_tp_members, Vec::leak(members).as_mut_ptr().cast()),
        (ffi::Py_tp_new, new::<B> as *mut c_void),
        (ffi::Py_tp_init, init::<B> as *mut c_void),
    ]);
    let raw = RawType::new(
        &object,
        Plan {
            name: about.name,
            doc: about.doc,
            header: HEADER,
            size: size_of::<Instance<B>>(),
            subclassable: B::SUBCLASSABLE,
            methods: about.methods,
            getters: about.getters,
            dealloc: dealloc::<B>,
            traverse: traverse::<B>,
            clear: clear::<B>,
            slots,
        },
    )?;
    let class = B::class().get_or_init(|| raw);
    if B::BORN_READY {
        // SAFETY: a ready type that nobody uses yet. Derived types do not inherit this field.
        unsafe { (*class.as_ptr()).tp_vectorcall = Some(call::<B>) };
    }
    let class = class.bind(py);
    module.add(class.name()?, class)
}

/// `Py_T_PYSSIZET` and `Py_READONLY`, which PyO3 names differently from version to version.
const SIZE_MEMBER: c_int = 19;
const READ_ONLY: c_int = 1;

/// A new instance with the default body, or NULL with an exception.
///
/// # Safety
/// `class` is `B`'s type or derived from it; attached.
#[inline]
unsafe fn allocate<B: Body>(class: *mut ffi::PyTypeObject) -> *mut ffi::PyObject {
    let value = B::default();
    // SAFETY: a ready heap type has `tp_alloc`, which gives zeroed memory of its size. The collector knows the
    // object at once, but no code runs before the body is written.
    unsafe {
        let Some(alloc) = (*class).tp_alloc else {
            return ptr::null_mut();
        };
        let object = alloc(class, 0);
        if !object.is_null() {
            (&raw mut (*object.cast::<Instance<B>>()).body).write(value);
        }
        object
    }
}

unsafe extern "C" fn new<B: Body>(
    class: *mut ffi::PyTypeObject,
    _args: *mut ffi::PyObject,
    _kwargs: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this for the type or one derived from it.
    unsafe { allocate::<B>(class) }
}

/// A call of the class itself, without the tuple of arguments that `__init__` would want to see.
unsafe extern "C" fn call<B: Body>(
    class: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: usize,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls this on the type, by the calling convention of PEP 590.
    unsafe {
        let positional = ffi::PyVectorcall_NARGS(count);
        if positional == 0 && names.is_null() {
            return allocate::<B>(class.cast());
        }
        heap::door(|py| {
            let given = heap::Arguments::new(py, values, positional, names);
            let (args, kwargs) = given.to_python(py)?;
            let object = Bound::from_owned_ptr_or_err(py, allocate::<B>(class.cast()))?;
            B::init(object.as_borrowed(), &args, kwargs.as_ref())?;
            Ok(object.into_ptr())
        })
    }
}

unsafe extern "C" fn init<B: Body>(
    this: *mut ffi::PyObject,
    args: *mut ffi::PyObject,
    kwargs: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: called by CPython on a live object, with a tuple, and a dict or NULL.
    let done = unsafe {
        heap::door(|py| {
            let args = pyo3::Borrowed::from_ptr(py, args).cast_unchecked::<PyTuple>();
            let kwargs = Bound::from_borrowed_ptr_or_opt(py, kwargs)
                .map(|kwargs| kwargs.cast_into_unchecked::<PyDict>());
            B::init(pyo3::Borrowed::from_ptr(py, this), &args, kwargs.as_ref())?;
            Ok(this)
        })
    };
    if done.is_null() { -1 } else { 0 }
}

unsafe extern "C" fn dealloc<B: Body>(object: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, on the last reference, with the thread attached. An instance of a derived
    // class comes here from that class's own dealloc; the type is then the derived one, whose reference goes here too.
    unsafe {
        ffi::PyObject_GC_UnTrack(object.cast());
        let instance = object.cast::<Instance<B>>();
        if !(*instance).weak.is_null() {
            ffi::PyObject_ClearWeakRefs(object);
        }
        ptr::drop_in_place(&raw mut (*instance).body);
        let class = ffi::Py_TYPE(object);
        if let Some(free) = (*class).tp_free {
            free(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

unsafe extern "C" fn traverse<B: Body>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut c_void,
) -> c_int {
    // SAFETY: the collector traverses live, tracked objects, whose body is written.
    unsafe {
        let answer = visit(ffi::Py_TYPE(object).cast(), arg);
        if answer != 0 {
            return answer;
        }
        (*object.cast::<Instance<B>>())
            .body
            .visit(&mut |held| visit(held.as_ptr(), arg))
    }
}

unsafe extern "C" fn clear<B: Body>(object: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector clears an unreachable but live object, attached.
    unsafe {
        let taken = (*object.cast::<Instance<B>>())
            .body
            .clear(Python::assume_attached());
        drop(taken);
    }
    0
}
