//! The floor: an epoll echo server without Python.
//!
//! With TLS if it is given a certificate. Level-triggered, one thread, one buffer for all connections; it reads what has come, writes
//! it back at once, and keeps aside only what the socket would not take.

use std::io::{self, Read, Write};
use std::net::TcpListener;

use floor::epoll::{EPOLLIN, EPOLLOUT, Epoll};
use floor::stream::Stream;
use floor::tls::Context;
use floor::{args, core};

const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: Stream,
    /// What the socket has not taken yet; while there is some, nothing more is read.
    unsent: Vec<u8>,
}

impl Connection {
    /// Echo what has come. `false` when the connection is over.
    fn readable(&mut self, epoll: &Epoll, token: u64, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            };
            let written = match self.stream.write(&buffer[..read]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            if written < read {
                self.unsent.extend_from_slice(&buffer[written..read]);
                epoll.modify(&self.stream, token, EPOLLOUT)?;
                return Ok(true);
            }
            if !self.stream.more(read, buffer.len()) {
                return Ok(true);
            }
        }
    }

    /// Send what was kept aside; read again once it is gone. `false` when the connection is over.
    fn writable(&mut self, epoll: &Epoll, token: u64, buffer: &mut [u8]) -> io::Result<bool> {
        match self.stream.write(&self.unsent) {
            Ok(written) => self.unsent.drain(..written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        if !self.unsent.is_empty() {
            return Ok(true);
        }
        epoll.modify(&self.stream, token, EPOLLIN)?;
        // Of what TLS has read ahead, the socket does not tell.
        self.readable(epoll, token, buffer)
    }
}

fn main() {
    if let Err(error) = serve() {
        eprintln!("{error}");
        println!("{{\"error\": \"{:?}\"}}", error.kind());
    }
}

fn serve() -> io::Result<()> {
    core::pin(args::option("core")?)?;
    let tls = match args::option::<String>("certificate") {
        Ok(certificate) => {
            let libraries: String = args::option("openssl")?;
            let context = Context::server(&libraries, &certificate)?;
            Some(&*Box::leak(Box::new(context)))
        }
        Err(_) => None,
    };
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER, EPOLLIN)?;
    println!("{{\"port\": {}}}", listener.local_addr()?.port());

    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        for index in 0..epoll.wait()? {
            let (token, ready) = epoll.event(index);
            if token == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                epoll.add(&stream, connections.len() as u64, EPOLLIN)?;
                let stream = match tls {
                    None => Stream::Plain(stream),
                    Some(context) => Stream::Tls(context.wrap(stream)?),
                };
                connections.push(Some(Connection {
                    stream,
                    unsent: Vec::new(),
                }));
                continue;
            }
            let slot = &mut connections[token as usize];
            let Some(connection) = slot else { continue };
            let alive = if ready & EPOLLOUT != 0 {
                connection.writable(&epoll, token, &mut buffer)
            } else {
                connection.readable(&epoll, token, &mut buffer)
            };
            // A connection that broke is one that ended: dropping it closes it.
            if !alive.unwrap_or(false) {
                *slot = None;
            }
        }
    }
}
