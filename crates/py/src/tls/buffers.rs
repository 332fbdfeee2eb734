//! Memory that the connections of a thread share: what came from the socket, what was decrypted, what was encrypted.
//!
//! A connection needs each only for the length of a call. Buffers of its own would cost it 200 KiB, and a server
//! with many busy connections its cache. None is as large as 128 KiB, which glibc would map and unmap each time.
//!
//! A buffer is taken out while it is used, so nothing is borrowed when Python code runs; who comes in between (a
//! callback of OpenSSL's that writes, say) gets a fresh one.

use std::cell::Cell;
use std::mem::MaybeUninit;

/// Memory that is filled by others.
pub(crate) type Space = Box<[MaybeUninit<u8>]>;

/// What one read from the socket takes at most.
const INPUT: usize = 120 * 1024;
/// What a read that is not worth a bytes object of its own is decrypted to.
pub(super) const PLAIN: usize = 64 * 1024;
/// What is encrypted before it is sent: seven full records.
pub(super) const PORTION: usize = 7 * 16 * 1024;
/// Room for a portion with what a record adds to each (22 bytes in TLS 1.3, up to 64 before).
const OUTPUT: usize = PORTION + 1024;

thread_local! {
    static SPACES: [Cell<Option<Space>>; 2] = const { [Cell::new(None), Cell::new(None)] };
    static OUTPUTS: Cell<Option<Vec<u8>>> = const { Cell::new(None) };
}

/// Lends the buffer for what comes from the socket.
pub(crate) fn with_input<R>(f: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    with_space(0, INPUT, f)
}

/// Lends the buffer for small decrypted data.
pub(super) fn with_plain<R>(f: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    with_space(1, PLAIN, f)
}

fn with_space<R>(index: usize, size: usize, f: impl FnOnce(&mut [MaybeUninit<u8>]) -> R) -> R {
    // A thread that ends has no buffers any more: a fresh one each time.
    let kept = SPACES
        .try_with(|spaces| spaces[index].take())
        .ok()
        .flatten();
    let mut space = kept.unwrap_or_else(|| Box::new_uninit_slice(size));
    let result = f(&mut space);
    let _ = SPACES.try_with(|spaces| spaces[index].set(Some(space)));
    result
}

/// Lends the buffer for encrypted data, empty.
pub(super) fn with_output<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let kept = OUTPUTS.try_with(Cell::take).ok().flatten();
    let mut output = kept.unwrap_or_else(|| Vec::with_capacity(OUTPUT));
    output.clear();
    let result = f(&mut output);
    // One that had to grow, which no portion makes it do, is not worth keeping.
    if output.capacity() < 2 * OUTPUT {
        let _ = OUTPUTS.try_with(|outputs| outputs.set(Some(output)));
    }
    result
}
