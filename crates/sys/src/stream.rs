//! Non-blocking socket calls on raw descriptors, without allocation.
//!
//! What every call promises: it does not block if the descriptor is non-blocking (`WouldBlock` then
//! says "not now"), it is repeated when a signal interrupts it, and writing to a peer that is gone
//! is an error (`BrokenPipe`) and never a `SIGPIPE`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::retry_on_intr;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::fd::borrow;

/// Slices that [`send_vectored`] hands over in one call; Linux takes no more (`UIO_MAXIOV`).
pub const MAX_SLICES: usize = 1024;

#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::NOSIGNAL;
/// Apple has no `MSG_NOSIGNAL`; [`accept`] sets `SO_NOSIGPIPE`, and Python ignores the signal.
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::empty();

/// Receives into `buffer`. The bytes up to the returned count are initialised; 0 is the end of the
/// stream.
#[inline]
pub fn recv(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let fd = borrow(fd)?;
    retry_on_intr(|| {
        let (filled, _) = net::recv(fd, &mut *buffer, RecvFlags::empty())?;
        Ok(filled.0.len())
    })
    .map_err(io::Error::from)
}

/// Sends what the socket takes of `bytes` and returns how much that was.
#[inline]
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let fd = borrow(fd)?;
    Ok(retry_on_intr(|| net::send(fd, bytes, SEND))?)
}

/// Sends what the socket takes of `slices`, in order, and returns how many bytes that was.
///
/// No more than [`MAX_SLICES`] are looked at, so a longer list is a short write and not an error.
#[inline]
pub fn send_vectored(fd: RawFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let fd = borrow(fd)?;
    let slices = &slices[..slices.len().min(MAX_SLICES)];
    Ok(retry_on_intr(|| {
        net::sendmsg(fd, slices, &mut SendAncillaryBuffer::default(), SEND)
    })?)
}

/// Takes a connection from a listening socket: non-blocking, closed on exec.
#[inline]
pub fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    let fd = borrow(fd)?;
    #[cfg(not(target_vendor = "apple"))]
    {
        use rustix::net::SocketFlags;
        Ok(retry_on_intr(|| {
            net::accept_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
        })?)
    }
    #[cfg(target_vendor = "apple")] // no accept4
    {
        let connection = retry_on_intr(|| net::accept(fd))?;
        rustix::io::fcntl_setfd(&connection, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&connection, true)?;
        net::sockopt::set_socket_nosigpipe(&connection, true)?;
        Ok(connection)
    }
}

/// Ends our side of the stream: the peer reads to the end, we go on reading.
#[inline]
pub fn shutdown_write(fd: RawFd) -> io::Result<()> {
    Ok(net::shutdown(borrow(fd)?, net::Shutdown::Write)?)
}

/// Sends small segments at once (`TCP_NODELAY`). An error on what is not TCP.
#[inline]
pub fn set_nodelay(fd: RawFd) -> io::Result<()> {
    Ok(net::sockopt::set_tcp_nodelay(borrow(fd)?, true)?)
}

/// Takes the socket's pending error (`SO_ERROR`): after a non-blocking connect turns writable,
/// `None` means connected.
#[inline]
pub fn take_error(fd: RawFd) -> io::Result<Option<io::Error>> {
    Ok(net::sockopt::socket_error(borrow(fd)?)?
        .err()
        .map(io::Error::from))
}
