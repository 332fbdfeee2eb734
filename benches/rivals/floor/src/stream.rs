//! A connection, with TLS or without.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use crate::tls::Session;

/// A connection, with TLS or without.
pub enum Stream {
    /// Bytes as they are.
    Plain(TcpStream),
    /// Bytes in records.
    Tls(Session),
}

impl Stream {
    /// Whether a read that returned `read` bytes of `room` may have left bytes that no readiness
    /// will tell of.
    #[must_use]
    pub fn more(&self, read: usize, room: usize) -> bool {
        match self {
            Self::Plain(_) => read == room,
            Self::Tls(session) => session.pending(),
        }
    }

    /// The socket below.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(session) => session.socket(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(session) => session.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        self.socket().as_raw_fd()
    }
}
