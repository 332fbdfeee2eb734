//! An echo server on one thread: an attached listener, attached connections, a timer that watches
//! over it all, and a client on another thread that checks every byte and pushes the order to stop.
//!
//! ```console
//! $ cargo run --release -p ropewalk-reactor --example echo
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use ropewalk_reactor::{Events, Reactor, Readiness, Token, now};
use ropewalk_sys::stream;

const CONNECTIONS: usize = 20;
const MESSAGES: usize = 500;
const MESSAGE: usize = 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// What is to be called. A language binding would have a pointer to an object of its language here.
#[derive(Clone, Copy)]
enum Handle {
    Accept,
    Serve(RawFd),
    /// The client is done: how many bytes came back as they were sent.
    Stop(usize),
    GiveUp,
}

struct Connection {
    socket: OwnedFd,
    token: Token,
    /// Echoed, but not yet taken by the socket.
    unsent: VecDeque<u8>,
}

struct Server {
    reactor: Reactor<Handle>,
    listener: TcpListener,
    connections: HashMap<RawFd, Connection>,
    buffer: Box<[MaybeUninit<u8>]>,
    turns: u64,
}

impl Server {
    fn new() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let mut reactor = Reactor::new()?;
        reactor
            .attach(listener.as_raw_fd(), Handle::Accept)
            .map_err(|(e, _)| e)?;
        Ok(Self {
            reactor,
            listener,
            connections: HashMap::new(),
            buffer: vec![MaybeUninit::uninit(); 65536].into(),
            turns: 0,
        })
    }

    /// Turns, until the client says stop. Returns what it checked.
    fn run(&mut self) -> io::Result<usize> {
        let mut events = Events::new();
        let sleeper = self.reactor.sleeper();
        self.reactor.begin_run();
        loop {
            self.turns += 1;
            let plan = self.reactor.prepare(true);
            match sleeper.poll(&mut events, &plan) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => result?,
            }
            for _ in 0..self.reactor.collect(&mut events) {
                let Some(job) = self.reactor.pop() else { break };
                match job.handle {
                    Handle::Accept => self.accept()?,
                    Handle::Serve(fd) => self.serve(fd, job.readiness),
                    Handle::Stop(bytes) => return Ok(bytes),
                    Handle::GiveUp => return Err(ErrorKind::TimedOut.into()),
                }
            }
        }
    }

    /// Edge-triggered: takes connections until there are no more.
    fn accept(&mut self) -> io::Result<()> {
        loop {
            let socket = match stream::accept(self.listener.as_raw_fd()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                result => result?,
            };
            let fd = socket.as_raw_fd();
            stream::set_nodelay(fd)?;
            let token = self
                .reactor
                .attach(fd, Handle::Serve(fd))
                .map_err(|(e, _)| e)?;
            self.connections.insert(
                fd,
                Connection {
                    socket,
                    token,
                    unsent: VecDeque::new(),
                },
            );
        }
    }

    fn serve(&mut self, fd: RawFd, readiness: Readiness) {
        // A job may come after its connection is gone, if both became ready in one batch.
        let Some(connection) = self.connections.get_mut(&fd) else {
            return;
        };
        if connection.serve(&mut self.buffer, readiness).is_err() {
            // Detached before it is closed, while the number is still ours.
            self.reactor.detach(connection.token);
            self.connections.remove(&fd);
        }
    }
}

impl Connection {
    /// Reads and writes until the socket will not. The end of the stream is an error like any other
    /// here.
    fn serve(&mut self, buffer: &mut [MaybeUninit<u8>], readiness: Readiness) -> io::Result<()> {
        let fd = self.socket.as_raw_fd();
        if readiness.writable() {
            self.flush()?;
        }
        while readiness.readable() {
            let n = match stream::recv(fd, buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                result => result?,
            };
            // SAFETY: `recv` has initialised that many.
            self.unsent
                .extend(buffer[..n].iter().map(|byte| unsafe { byte.assume_init() }));
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match stream::send(self.socket.as_raw_fd(), self.unsent.as_slices().0) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Sends every connection its own bytes, again and again, and compares what comes back.
fn check(server: SocketAddr) -> io::Result<usize> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = TcpStream::connect(server)?;
        client.set_nodelay(true)?;
        client.set_read_timeout(Some(PATIENCE))?;
        clients.push(client);
    }
    let (mut back, mut bytes) = ([0; MESSAGE], 0);
    for i in 0..MESSAGES {
        for (j, client) in clients.iter_mut().enumerate() {
            client.write_all(&[(i * 31 + j) as u8; MESSAGE])?;
        }
        for (j, client) in clients.iter_mut().enumerate() {
            client.read_exact(&mut back)?;
            if back != [(i * 31 + j) as u8; MESSAGE] {
                return Err(io::Error::other(format!(
                    "message {i} of connection {j} came back changed"
                )));
            }
            bytes += back.len();
        }
    }
    Ok(bytes)
}

fn main() -> io::Result<()> {
    let mut server = Server::new()?;
    let address = server.listener.local_addr()?;
    let remote = server.reactor.remote();
    server
        .reactor
        .add_timer(now() + PATIENCE.as_nanos() as u64, Handle::GiveUp);

    let start = Instant::now();
    let client = std::thread::spawn(move || {
        let result = check(address);
        // The server sleeps by now: this wakes it. It refuses only if the server has given up.
        let _ = remote.push(Handle::Stop(result.as_ref().map_or(0, |&bytes| bytes)));
        result
    });
    let bytes = server.run()?;
    client
        .join()
        .map_err(|_| io::Error::other("the client panicked"))??;
    if bytes != CONNECTIONS * MESSAGES * MESSAGE {
        return Err(io::Error::other(format!("only {bytes} bytes came back")));
    }
    println!(
        "{} messages of {MESSAGE} bytes echoed on {CONNECTIONS} connections, in {} turns and {:?}",
        CONNECTIONS * MESSAGES,
        server.turns,
        start.elapsed(),
    );
    Ok(())
}
