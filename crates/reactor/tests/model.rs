//! Registrations against a model, with real sockets that are opened, closed and reopened under
//! them.
//!
//! The model is epoll's: a kqueue does not refuse what it knows.

#![cfg(all(target_os = "linux", not(loom)))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use ropewalk_reactor::{Events, Plan, Reactor, Side, Token};

/// Descriptor numbers that the test opens and closes, far from those that the kernel gives.
const NUMBERS: RawFd = 800;
const PLACES: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Action {
    Open,
    Close,
    Watch(Side),
    Unwatch(Side),
    Attach,
    Detach,
    /// The peer writes.
    Feed,
    /// The test reads all there is.
    Empty,
    Look,
}

/// What the reactor believes of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Table {
    #[default]
    Vacant,
    Watched([Option<u32>; 2]),
    Attached(u32),
}

/// What the kernel knows of the open file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Kernel {
    #[default]
    Nothing,
    Level,
    Edge {
        news: bool,
    },
}

#[derive(Default)]
struct Place {
    /// Ours, at the number, and the peer's.
    open: Option<(UnixStream, UnixStream)>,
    has_bytes: bool,
    table: Table,
    kernel: Kernel,
    tokens: Vec<Token>,
}

fn action() -> impl Strategy<Value = (usize, Action)> {
    let side = prop_oneof![Just(Side::Read), Just(Side::Write)];
    let action = prop_oneof![
        3 => Just(Action::Open),
        2 => Just(Action::Close),
        4 => side.clone().prop_map(Action::Watch),
        2 => side.prop_map(Action::Unwatch),
        3 => Just(Action::Attach),
        1 => Just(Action::Detach),
        3 => Just(Action::Feed),
        1 => Just(Action::Empty),
        4 => Just(Action::Look),
    ];
    (0..PLACES, action)
}

fn run(actions: Vec<(usize, Action)>) -> Result<(), TestCaseError> {
    let mut reactor: Reactor<u32> = Reactor::new().unwrap();
    let mut events = Events::new();
    let mut places: [Place; PLACES] = Default::default();
    let (mut ids, mut lost) = (0.., Vec::new());

    for (index, action) in actions {
        let fd = NUMBERS + index as RawFd;
        let place = &mut places[index];
        match action {
            Action::Open => {
                if place.open.is_none() {
                    let (ours, peer) = UnixStream::pair().unwrap();
                    // SAFETY: no pointer is passed, and the number is closed: nobody owns what is
                    // there.
                    let ours = unsafe {
                        assert_eq!(libc::dup2(ours.as_raw_fd(), fd), fd);
                        UnixStream::from_raw_fd(fd)
                    };
                    ours.set_nonblocking(true).unwrap();
                    place.open = Some((ours, peer));
                    place.has_bytes = false;
                    place.kernel = Kernel::Nothing;
                }
            }
            Action::Close => {
                place.open = None;
                place.kernel = Kernel::Nothing;
            }
            Action::Watch(side) => {
                let id = ids.next().unwrap();
                let result = reactor.watch(fd, side, id);
                let old = match place.table {
                    Table::Vacant => [None, None],
                    Table::Watched(sides) => sides,
                    Table::Attached(_) => {
                        let (error, handle) = result.unwrap_err();
                        prop_assert_eq!((error.kind(), handle), (ErrorKind::InvalidInput, id));
                        continue;
                    }
                };
                if place.open.is_none() {
                    let (error, handle) = result.unwrap_err();
                    prop_assert_eq!((error.raw_os_error(), handle), (Some(libc::EBADF), id));
                } else {
                    let mut new = old;
                    if place.kernel == Kernel::Nothing {
                        // Another file by now: the other side's handle waited for the old one.
                        lost.extend(new[1 - side as usize].take());
                    }
                    new[side as usize] = Some(id);
                    place.table = Table::Watched(new);
                    place.kernel = Kernel::Level;
                    prop_assert_eq!(result.unwrap(), old[side as usize]);
                }
            }
            Action::Unwatch(side) => {
                let expected = match &mut place.table {
                    Table::Watched(sides) => sides[side as usize].take(),
                    _ => None,
                };
                prop_assert_eq!(reactor.unwatch(fd, side), expected);
                if place.table == Table::Watched([None, None]) {
                    place.table = Table::Vacant;
                    place.kernel = Kernel::Nothing;
                }
            }
            Action::Attach => {
                let id = ids.next().unwrap();
                match reactor.attach(fd, id) {
                    Ok(token) => {
                        prop_assert!(place.open.is_some() && place.kernel == Kernel::Nothing);
                        match std::mem::replace(&mut place.table, Table::Attached(id)) {
                            Table::Vacant => {}
                            Table::Watched(sides) => lost.extend(sides.into_iter().flatten()),
                            Table::Attached(id) => lost.push(id),
                        }
                        place.kernel = Kernel::Edge { news: true };
                        place.tokens.push(token);
                    }
                    Err((error, handle)) => {
                        prop_assert_eq!(handle, id);
                        if place.open.is_some() {
                            prop_assert_ne!(place.kernel, Kernel::Nothing);
                            prop_assert_eq!(error.kind(), ErrorKind::InvalidInput);
                        } else {
                            prop_assert_eq!(error.raw_os_error(), Some(libc::EBADF));
                        }
                    }
                }
            }
            Action::Detach => {
                // Every token but the last is of the past.
                let last = place.tokens.pop();
                for token in place.tokens.drain(..) {
                    prop_assert_eq!(reactor.detach(token), None);
                }
                let Some(token) = last else { continue };
                let Table::Attached(id) = place.table else {
                    prop_assert_eq!(reactor.detach(token), None);
                    continue;
                };
                prop_assert_eq!(reactor.detach(token), Some(id));
                place.table = Table::Vacant;
                place.kernel = Kernel::Nothing;
            }
            Action::Feed => {
                if let Some((_, peer)) = &mut place.open {
                    peer.write_all(b"x").unwrap();
                    place.has_bytes = true;
                    if let Kernel::Edge { news } = &mut place.kernel {
                        *news = true;
                    }
                }
            }
            Action::Empty => {
                if let Some((ours, _)) = &mut place.open {
                    while ours.read(&mut [0; 64]).is_ok() {}
                    place.has_bytes = false;
                }
            }
            Action::Look => {
                let mut expected = Vec::new();
                for place in &mut places {
                    match (&mut place.kernel, place.table) {
                        (Kernel::Level, Table::Watched([read, write])) => {
                            expected.extend(read.filter(|_| place.has_bytes));
                            expected.extend(write);
                        }
                        (Kernel::Edge { news }, Table::Attached(id)) => {
                            expected.extend(std::mem::take(news).then_some(id));
                        }
                        (kernel, _) => prop_assert_eq!(*kernel, Kernel::Nothing),
                    }
                }
                reactor.sleeper().poll(&mut events, &Plan::Look).unwrap();
                reactor.collect(&mut events);
                let mut told: Vec<_> = std::iter::from_fn(|| reactor.pop())
                    .map(|job| job.handle)
                    .collect();
                told.sort_unstable();
                told.dedup(); // a backend may tell an attachment once for each side
                expected.sort_unstable();
                prop_assert_eq!(told, expected);
            }
        }
        let place = &places[index];
        let watched = [Side::Read, Side::Write].map(|side| reactor.watched(fd, side).copied());
        let attached = reactor.is_attached(fd);
        match place.table {
            Table::Vacant => prop_assert_eq!((watched, attached), ([None, None], false)),
            Table::Watched(sides) => prop_assert_eq!((watched, attached), (sides, false)),
            Table::Attached(_) => prop_assert_eq!((watched, attached), ([None, None], true)),
        }
    }

    for place in &places {
        match place.table {
            Table::Vacant => {}
            Table::Watched(sides) => lost.extend(sides.into_iter().flatten()),
            Table::Attached(id) => lost.push(id),
        }
    }
    let mut drained = reactor.drain();
    drained.sort_unstable();
    lost.sort_unstable();
    prop_assert_eq!(drained, lost);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn as_a_table_and_a_kernel_that_forgets_what_is_closed(
        actions in prop::collection::vec(action(), 0..150),
    ) {
        run(actions)?;
    }
}
