//! Children: the end is told once and for all, and reaping says how it came. And the generation
//! that tells a forked copy apart.

#![allow(
    clippy::unwrap_used,
    clippy::zombie_processes,
    reason = "tests; what is spawned here is reaped by `reap`"
)]

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use ropewalk_sys::child::{ChildWatch, Exit, reap};
use ropewalk_sys::fork;
use ropewalk_sys::poller::{Events, Interest, Mode, Poller};

/// A child that ends when its standard input does.
fn spawn() -> std::process::Child {
    Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn has_ended(watch: &ChildWatch, timeout: Option<Duration>) -> bool {
    let (poller, mut events) = (Poller::new().unwrap(), Events::new());
    poller
        .add(watch.as_raw_fd(), 0, Interest::READ, Mode::Level)
        .unwrap();
    poller.wait(&mut events, timeout).unwrap();
    !events.is_empty()
}

#[test]
fn readable_when_it_has_ended() {
    let mut child = spawn();
    let pid = child.id() as i32;
    let watch = ChildWatch::open(pid).unwrap();
    assert!(!has_ended(&watch, Some(Duration::ZERO)));
    assert_eq!(reap(pid).unwrap(), None);
    drop(child.stdin.take());
    assert!(has_ended(&watch, None));
    assert!(has_ended(&ChildWatch::open(pid).unwrap(), None)); // opened after the end
    assert_eq!(reap(pid).unwrap(), Some(Exit::Code(0)));
    assert!(has_ended(&watch, Some(Duration::ZERO))); // stays so
    assert_eq!(reap(pid).unwrap_err().raw_os_error(), Some(libc::ECHILD));
}

#[test]
fn a_status_and_a_signal_are_told_apart() {
    let child = Command::new("sh").args(["-c", "exit 9"]).spawn().unwrap();
    let pid = child.id() as i32;
    assert!(has_ended(&ChildWatch::open(pid).unwrap(), None));
    assert_eq!(reap(pid).unwrap(), Some(Exit::Code(9)));

    let mut child = spawn();
    let pid = child.id() as i32;
    let watch = ChildWatch::open(pid).unwrap();
    child.kill().unwrap();
    assert!(has_ended(&watch, None));
    assert_eq!(reap(pid).unwrap(), Some(Exit::Signal(libc::SIGKILL)));
}

#[test]
fn what_is_no_process_is_an_error() {
    for pid in [0, -1, i32::MIN] {
        assert_eq!(
            ChildWatch::open(pid).unwrap_err().raw_os_error(),
            Some(libc::ESRCH)
        );
        assert_eq!(reap(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
    assert_eq!(reap(1).unwrap_err().raw_os_error(), Some(libc::ECHILD));
}

#[test]
fn a_watch_is_closed_on_exec() {
    let watch = ChildWatch::open(std::process::id() as i32).unwrap();
    // SAFETY: no pointer is passed.
    let flags = unsafe { libc::fcntl(watch.as_raw_fd(), libc::F_GETFD) };
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
}

#[test]
fn a_forked_copy_has_another_generation() {
    let before = fork::generation();
    // SAFETY: the child only reads two atomics and leaves.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let other = fork::generation() != before;
        // SAFETY: leaves without running anything of the parent's.
        unsafe { libc::_exit(i32::from(other)) };
    }
    assert_eq!(fork::generation(), before);
    assert!(has_ended(&ChildWatch::open(pid).unwrap(), None));
    assert_eq!(reap(pid).unwrap(), Some(Exit::Code(1)));
}
