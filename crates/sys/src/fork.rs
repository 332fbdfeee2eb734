//! Notice that this process is a forked copy.
//!
//! `fork()` copies memory and shares descriptors, and both are traps for a runtime:
//!
//! - An epoll instance is *shared*: an `epoll_ctl` in the child alters what the **parent** waits
//!   for, and the child would be told of the parent's events. The same goes for an eventfd: the
//!   child would wake the parent.
//! - A kqueue is *not inherited* at all: its number is free in the child, and closing it may close
//!   another file.
//! - Only the forking thread lives on. A lock that another thread held at that moment stays locked
//!   for ever.
//!
//! So what holds such things keeps the [`generation`] in which it was made and compares before it
//! acts.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Forks between the first process and this one, since the handler was registered.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// The thread that the last fork left alive; 0 where there was none.
static SURVIVOR: AtomicUsize = AtomicUsize::new(0);

/// Whether the handler could be registered.
static REGISTERED: OnceLock<bool> = OnceLock::new();

extern "C" fn in_child() {
    // Two atomic stores are all that is allowed here: the child of a threaded process may only do
    // what a signal handler may. Nobody else runs yet, so no ordering is needed.
    SURVIVOR.store(this_thread(), Ordering::Relaxed);
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A number that no other live thread has. A forked child's one thread keeps the number it had.
#[inline]
#[must_use]
pub fn this_thread() -> usize {
    // SAFETY: it cannot fail and touches nothing.
    let id = unsafe { libc::pthread_self() };
    id as usize
}

/// Whether a thread of an earlier [`generation`], known by its number, was not lost in the fork.
#[must_use]
pub fn survives(thread: usize) -> bool {
    thread == SURVIVOR.load(Ordering::Relaxed)
}

/// A number that differs in a forked child from what it was in the parent.
///
/// It costs two loads. It is kept by a `pthread_atfork` handler, so a bare `clone` or `vfork`
/// system call goes unnoticed; the only thing a child may do after those is to become another
/// program, which inherits nothing.
#[inline]
#[must_use]
pub fn generation() -> u64 {
    if *REGISTERED.get_or_init(register) {
        FORKS.load(Ordering::Relaxed)
    } else {
        u64::from(std::process::id()) // no memory for the handler: slower, and as true
    }
}

fn register() -> bool {
    // SAFETY: the handler is a function of this library, which is never unloaded (a Python
    // extension stays mapped), and it does only what is allowed in the child of a threaded process.
    unsafe { libc::pthread_atfork(None, None, Some(in_child)) == 0 }
}
