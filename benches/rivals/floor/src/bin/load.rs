//! The load client: many connections, one request in flight on each.
//!
//! It stays connected and idle between windows, so that several servers can be measured in
//! turn, finely interleaved. Each line on its standard input asks for a number of requests; when
//! all of them are answered it prints the nanoseconds that took, or what went wrong.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use floor::epoll::{EPOLLET, EPOLLIN, EPOLLOUT, Epoll};
use floor::stream::Stream;
use floor::tls::Context;
use floor::{args, core};

struct Connection {
    stream: Stream,
    /// Bytes of the request that are not sent yet.
    unsent: usize,
    /// Bytes of the answer that have not come yet.
    unread: usize,
}

struct Load {
    epoll: Epoll,
    connections: Vec<Connection>,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

fn nonblocking(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

impl Load {
    fn connect(
        port: u16,
        count: usize,
        size: usize,
        tls: Option<&'static Context>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let mut connections = Vec::with_capacity(count);
        for token in 0..count {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(context) => {
                    let mut session = context.wrap(stream)?;
                    session.shake_hands()?;
                    Stream::Tls(session)
                }
            };
            stream.socket().set_nonblocking(true)?;
            epoll.add(&stream, token as u64, EPOLLIN | EPOLLOUT | EPOLLET)?;
            connections.push(Connection {
                stream,
                unsent: 0,
                unread: 0,
            });
        }
        Ok(Self {
            epoll,
            connections,
            // A period that divides no power of two: a shifted answer is a different answer.
            request: (0..size).map(|index| (index % 251) as u8).collect(),
            buffer: vec![0; 256 * 1024],
        })
    }

    fn send(&mut self, token: usize) -> io::Result<()> {
        let connection = &mut self.connections[token];
        while connection.unsent > 0 {
            let start = self.request.len() - connection.unsent;
            let Some(sent) = nonblocking(connection.stream.write(&self.request[start..]))? else {
                break;
            };
            connection.unsent -= sent;
        }
        Ok(())
    }

    fn begin(&mut self, token: usize) -> io::Result<()> {
        self.connections[token].unsent = self.request.len();
        self.connections[token].unread = self.request.len();
        self.send(token)
    }

    /// Read what has come. `true` when it completes the answer.
    fn receive(&mut self, token: usize, verify: bool) -> io::Result<bool> {
        let connection = &mut self.connections[token];
        while connection.unread > 0 {
            let Some(read) = nonblocking(connection.stream.read(&mut self.buffer))? else {
                return Ok(false);
            };
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let start = self.request.len() - connection.unread;
            let wanted = self.request.get(start..start + read);
            if wanted.is_none() || (verify && wanted != Some(&self.buffer[..read])) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            connection.unread -= read;
            // A short read has emptied a plain socket: what comes later is a new edge. TLS reads
            // record by record, and is empty only when it says so.
            let plain = matches!(connection.stream, Stream::Plain(_));
            if plain && connection.unread > 0 && read < self.buffer.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn run(&mut self, requests: usize, verify: bool) -> io::Result<()> {
        let first = requests.min(self.connections.len());
        for token in 0..first {
            self.begin(token)?;
        }
        let (mut begun, mut done) = (first, 0);
        while done < requests {
            for index in 0..self.epoll.wait()? {
                let token = self.epoll.event(index).0 as usize;
                if self.connections[token].unread == 0 {
                    continue;
                }
                self.send(token)?;
                if self.receive(token, verify)? {
                    done += 1;
                    if begun < requests {
                        begun += 1;
                        self.begin(token)?;
                    }
                }
            }
        }
        Ok(())
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
    let tls = match args::option::<String>("openssl") {
        Ok(libraries) => Some(&*Box::leak(Box::new(Context::client(&libraries)?))),
        Err(_) => None,
    };
    let connections = args::option("connections")?;
    let mut load = Load::connect(
        args::option("port")?,
        connections,
        args::option("size")?,
        tls,
    )?;
    load.run(connections, true)?;
    println!("{{\"ready\": true}}");
    for line in io::stdin().lock().lines() {
        let requests = line?.trim().parse().map_err(io::Error::other)?;
        let start = Instant::now();
        load.run(requests, false)?;
        println!("{{\"wall\": {}}}", start.elapsed().as_nanos());
    }
    Ok(())
}
