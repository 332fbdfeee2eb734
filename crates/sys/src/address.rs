//! The two ends of a socket, as plain values that outlive it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

use rustix::net::{self, SocketAddrAny, SocketAddrUnix};

use crate::fd::borrow;

/// The family of Internet addresses, as the system numbers it.
pub const INET: i32 = libc::AF_INET;
/// That of the Internet's sixth version.
pub const INET6: i32 = libc::AF_INET6;
/// That of paths.
pub const UNIX: i32 = libc::AF_UNIX;

/// An address of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4: host, port.
    V4(SocketAddrV4),
    /// IPv6: host, port, flow information (in network order, as the system keeps it), scope.
    V6(SocketAddrV6),
    /// A Unix socket's path, empty if it is unnamed.
    Unix(Vec<u8>),
    /// A Unix socket in Linux's abstract namespace, without the leading zero.
    Abstract(Vec<u8>),
    /// Of another family.
    Other,
}

impl From<SocketAddrAny> for Address {
    fn from(address: SocketAddrAny) -> Self {
        if let Ok(address) = SocketAddr::try_from(address.clone()) {
            return match address {
                SocketAddr::V4(address) => Self::V4(address),
                SocketAddr::V6(address) => Self::V6(address),
            };
        }
        let Ok(address) = SocketAddrUnix::try_from(address) else {
            return Self::Other;
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // rustix 1.1 takes an unnamed socket's address for an abstract one without a name.
        if let Some(name) = address.abstract_name().filter(|name| !name.is_empty()) {
            return Self::Abstract(name.to_vec());
        }
        Self::Unix(
            address
                .path()
                .map_or_else(Vec::new, |path| path.to_bytes().to_vec()),
        )
    }
}

/// The socket's own address (`getsockname`).
pub fn local(fd: RawFd) -> io::Result<Address> {
    Ok(net::getsockname(borrow(fd)?)?.into())
}

/// The address of the other end (`getpeername`).
pub fn peer(fd: RawFd) -> io::Result<Address> {
    net::getpeername(borrow(fd)?)
        .map(|address| address.map_or(Address::Unix(Vec::new()), Into::into))
        .map_err(Into::into)
}

/// The address in letters as the system's `inet_ntop` writes it: as [`Display`](std::fmt::Display)
/// does, but for what is left of IPv4's addresses in IPv6 (`::1.2.3.4`).
#[must_use]
pub fn text(host: &Ipv6Addr) -> String {
    match host.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => host.to_string(),
    }
}
