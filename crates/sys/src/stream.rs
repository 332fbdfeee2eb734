//! Non-blocking socket calls on raw descriptors, without allocation.
//!
//! What every call promises: it does not block (`WouldBlock` says "not now"; only [`accept`] relies on
//! the descriptor for that), it is repeated when a signal interrupts it, and writing to a peer that is
//! gone is an error (`BrokenPipe`) and never a `SIGPIPE`.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use rustix::io::retry_on_intr;
use rustix::net::{self, RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::address::Address;
use crate::fd::borrow;

/// Slices that [`send_vectored`] hands over in one call; Linux takes no more (`UIO_MAXIOV`).
pub const MAX_SLICES: usize = 1024;

/// Whether a descriptor blocks is a property of the open file, which another process may share and
/// change, so it is said with each call.
pub(crate) const RECV: RecvFlags = RecvFlags::DONTWAIT;
#[cfg(not(target_vendor = "apple"))]
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// Apple has no `MSG_NOSIGNAL`; [`accept`] sets `SO_NOSIGPIPE`, and Python ignores the signal.
#[cfg(target_vendor = "apple")]
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT;

/// Receives into `buffer`. The bytes up to the returned count are initialised; 0 is the end of the
/// stream.
#[inline]
pub fn recv(fd: RawFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let fd = borrow(fd)?;
    retry_on_intr(|| {
        let (filled, _) = net::recv(fd, &mut *buffer, RECV)?;
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
        Ok(retry_on_intr(|| net::accept_with(fd, ACCEPTED))?)
    }
    #[cfg(target_vendor = "apple")]
    {
        prepared(retry_on_intr(|| net::accept(fd))?)
    }
}

/// [`accept`], and where the connection is from.
pub fn accept_from(fd: RawFd) -> io::Result<(OwnedFd, Option<Address>)> {
    let fd = borrow(fd)?;
    #[cfg(not(target_vendor = "apple"))]
    let (connection, peer) = retry_on_intr(|| net::acceptfrom_with(fd, ACCEPTED))?;
    #[cfg(target_vendor = "apple")]
    let (connection, peer) = retry_on_intr(|| net::acceptfrom(fd))?;
    #[cfg(target_vendor = "apple")]
    let connection = prepared(connection)?;
    Ok((connection, peer.map(Address::from)))
}

#[cfg(not(target_vendor = "apple"))]
const ACCEPTED: net::SocketFlags = net::SocketFlags::NONBLOCK.union(net::SocketFlags::CLOEXEC);

/// Said together with a socket's type, makes a new object of it take the descriptor for non-blocking,
/// as [`accept`]'s is; 0 where a type cannot say that.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub const NONBLOCKING: i32 = libc::SOCK_NONBLOCK;
/// A type cannot say it here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub const NONBLOCKING: i32 = 0;

/// Apple has no `accept4`.
#[cfg(target_vendor = "apple")]
fn prepared(connection: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::fcntl_setfd(&connection, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&connection, true)?;
    net::sockopt::set_socket_nosigpipe(&connection, true)?;
    Ok(connection)
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

/// Whether the socket is a stream of bytes: not one of messages, which are cut off where a buffer
/// ends.
pub fn is_stream(fd: RawFd) -> io::Result<bool> {
    Ok(net::sockopt::socket_type(borrow(fd)?)? == net::SocketType::STREAM)
}

/// Whether a connect that ended with this error goes on by itself: wait until the socket is
/// writable, then [`take_error`].
#[must_use]
pub fn goes_on(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINPROGRESS | libc::EALREADY | libc::EAGAIN | libc::EINTR)
    )
}
