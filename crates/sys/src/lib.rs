//! What the operating system gives a runtime, one contract a module.
//!
//! Everything above this crate is written against these modules and never asks which system it runs
//! on:
//!
//! | module | promise |
//! |---|---|
//! | [`clock`] | one monotonic clock, in nanoseconds |
//! | [`poller`] | which descriptors are ready, over epoll or kqueue |
//! | [`waker`] | end another thread's wait |
//! | [`address`] | the two ends of a socket, as values |
//! | [`names`] | addresses of names, by the system's resolver |
//! | [`stream`] | non-blocking socket calls on raw descriptors, without allocation |
//! | [`datagram`] | the same where each message has an address |
//! | [`child`] | a descriptor that tells the end of a process, and reaping |
//! | [`fork`] | notice that this process is a forked copy |
//! | [`futex`] | sleep while a word has a value |
//! | [`awake`] | whether to look for a moment before a sleep |
//! | [`library`] | the functions of a library that is loaded already |
//!
//! # Raw descriptors
//!
//! A runtime for another language is handed descriptor *numbers*, whose owner is an object of that
//! language. So these modules take [`RawFd`](std::os::fd::RawFd) and leave ownership where it is. A
//! number that is not open comes back as an error (`EBADF`), never as undefined behaviour; keeping
//! a number from being closed and reused while a call or a registration is under way is the
//! caller's part.
//!
//! # Non-goals
//!
//! Windows; tasks, queues and callbacks (see `ropewalk-reactor`); owning sockets (see `socket2` or
//! `std::net`).

#![cfg(unix)]

pub mod address;
pub mod awake;
pub mod child;
pub mod clock;
pub mod datagram;
mod fd;
pub mod fork;
pub mod futex;
pub mod library;
pub mod names;
pub mod poller;
pub mod stream;
pub mod waker;
