//! What the epoll server (the floor) and the load client share.
//!
//! Both are as plain as the job allows: the server is what a loop would cost if Python cost
//! nothing, and the client must never be what limits the server.

#![warn(missing_docs)]

pub mod args;
pub mod core;
pub mod epoll;
pub mod stream;
pub mod tls;
