//! Socket calls: what they return, and what they never do (block, raise SIGPIPE).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use ropewalk_sys::stream;

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    (a, b)
}

fn recv(socket: &impl AsRawFd, room: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(room);
    let n = stream::recv(socket.as_raw_fd(), bytes.spare_capacity_mut())?;
    // SAFETY: `recv` has initialised that many.
    unsafe { bytes.set_len(n) };
    Ok(bytes)
}

#[test]
fn bytes_come_and_then_the_end() {
    let (a, mut b) = pair();
    assert_eq!(recv(&a, 16).unwrap_err().kind(), ErrorKind::WouldBlock);
    b.write_all(b"hello").unwrap();
    assert_eq!(recv(&a, 3).unwrap(), b"hel");
    assert_eq!(recv(&a, 16).unwrap(), b"lo");
    stream::shutdown_write(b.as_raw_fd()).unwrap();
    assert_eq!(recv(&a, 16).unwrap(), b"");
    assert_eq!(stream::send(a.as_raw_fd(), b"back").unwrap(), 4);
    let mut back = [0; 4];
    b.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"back");
}

#[test]
fn a_full_socket_takes_part_and_then_would_block() {
    let (a, _b) = pair();
    let megabyte = vec![0; 1 << 20];
    let taken = stream::send(a.as_raw_fd(), &megabyte).unwrap();
    assert!(taken < megabyte.len());
    let full =
        std::iter::repeat_with(|| stream::send(a.as_raw_fd(), &megabyte)).find_map(Result::err);
    assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);
}

#[test]
fn slices_go_in_order_and_too_many_are_a_short_write() {
    let (a, mut b) = pair();
    let slices = [
        IoSlice::new(b"one "),
        IoSlice::new(b""),
        IoSlice::new(b"two"),
    ];
    assert_eq!(stream::send_vectored(a.as_raw_fd(), &slices).unwrap(), 7);
    let mut bytes = [0; 7];
    b.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"one two");
    let many = vec![IoSlice::new(b"x"); stream::MAX_SLICES + 500];
    assert_eq!(
        stream::send_vectored(a.as_raw_fd(), &many).unwrap(),
        stream::MAX_SLICES
    );
}

#[test]
fn a_peer_that_is_gone_is_an_error_and_no_signal() {
    // Rust's runtime ignores SIGPIPE; a host that does not must live on all the same.
    // SAFETY: the default action is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let (a, b) = pair();
    drop(b);
    assert_eq!(
        stream::send(a.as_raw_fd(), b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
    let vectored = stream::send_vectored(a.as_raw_fd(), &[IoSlice::new(b"x")]);
    assert_eq!(vectored.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn an_accepted_connection_is_non_blocking_and_closed_on_exec() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        stream::accept(listener.as_raw_fd()).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connection = stream::accept(listener.as_raw_fd()).unwrap();
    stream::set_nodelay(connection.as_raw_fd()).unwrap();
    assert!(
        stream::take_error(connection.as_raw_fd())
            .unwrap()
            .is_none()
    );
    assert_eq!(
        recv(&connection, 1).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    // SAFETY: no pointer is passed.
    let flags = unsafe { libc::fcntl(connection.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

#[test]
fn a_refused_connect_is_a_pending_error_and_taken_once() {
    // A port that was just ours and listens no more.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let std::net::SocketAddr::V4(address) = address else {
        return;
    };
    use rustix::net;
    let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    rustix::io::ioctl_fionbio(&socket, true).unwrap();
    match net::connect(&socket, &address) {
        // The usual way: the refusal comes later.
        Err(rustix::io::Errno::INPROGRESS) => {
            let mut wait = [rustix::event::PollFd::new(
                &socket,
                rustix::event::PollFlags::OUT,
            )];
            rustix::event::poll(&mut wait, None).unwrap();
            let error = stream::take_error(socket.as_raw_fd()).unwrap().unwrap();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
        result => assert_eq!(result, Err(rustix::io::Errno::CONNREFUSED)),
    }
    assert!(stream::take_error(socket.as_raw_fd()).unwrap().is_none());
}

#[test]
fn what_is_not_open_is_an_error() {
    for fd in [-1, i32::MAX] {
        let ebadf = |e: std::io::Error| assert_eq!(e.raw_os_error(), Some(libc::EBADF));
        ebadf(stream::recv(fd, &mut [MaybeUninit::uninit()]).unwrap_err());
        ebadf(stream::send(fd, b"x").unwrap_err());
        ebadf(stream::send_vectored(fd, &[]).unwrap_err());
        ebadf(stream::accept(fd).unwrap_err());
        ebadf(stream::shutdown_write(fd).unwrap_err());
        ebadf(stream::set_nodelay(fd).unwrap_err());
        ebadf(stream::take_error(fd).unwrap_err());
    }
    let (a, _b) = pair();
    assert!(stream::set_nodelay(a.as_raw_fd()).is_err()); // not TCP
}
