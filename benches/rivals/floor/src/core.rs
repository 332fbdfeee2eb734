//! Which core this process runs on.

use std::{io, mem};

/// Keep this process on one core, so that server and client do not share theirs.
///
/// # Errors
///
/// When the kernel refuses, for instance because the core does not exist.
pub fn pin(core: usize) -> io::Result<()> {
    // SAFETY: `cpu_set_t` is a plain array of integers, for which all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if core >= 8 * size_of::<libc::cpu_set_t>() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `core` was just checked to lie inside the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set outlives the call, and its true size is given.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
