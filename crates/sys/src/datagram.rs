//! Non-blocking calls on sockets of messages, without allocation.
//!
//! What [`stream`](crate::stream) promises holds here: no call blocks, none is ended by a signal, none
//! raises one. A message that is longer than the buffer is cut off.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use rustix::io::retry_on_intr;
use rustix::net::{self, SocketAddrUnix};

use crate::address::Address;
use crate::fd::borrow;
use crate::stream::{RECV, SEND};

/// Receives one message into `buffer`, whose bytes up to the returned count are then initialised, and
/// tells from whom; `None` if the system does not say, as on a connected stream.
#[inline]
pub fn recv_from(
    fd: RawFd,
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<(usize, Option<Address>)> {
    let fd = borrow(fd)?;
    retry_on_intr(|| {
        let (filled, _, sender) = net::recvfrom(fd, &mut *buffer, RECV)?;
        Ok((filled.0.len(), sender.map(Address::from)))
    })
    .map_err(io::Error::from)
}

/// Sends one message, whole or not at all.
///
/// Fails with [`InvalidInput`](io::ErrorKind::InvalidInput) if the address is of a family that
/// [`Address`] cannot hold.
#[inline]
pub fn send_to(fd: RawFd, bytes: &[u8], address: &Address) -> io::Result<usize> {
    let fd = borrow(fd)?;
    let sent = match address {
        Address::V4(address) => retry_on_intr(|| net::sendto(fd, bytes, SEND, address)),
        Address::V6(address) => retry_on_intr(|| net::sendto(fd, bytes, SEND, address)),
        Address::Unix(path) => {
            let address = SocketAddrUnix::new(path.as_slice())?;
            retry_on_intr(|| net::sendto(fd, bytes, SEND, &address))
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Address::Abstract(name) => {
            let address = SocketAddrUnix::new_abstract_name(name)?;
            retry_on_intr(|| net::sendto(fd, bytes, SEND, &address))
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok(sent?)
}
