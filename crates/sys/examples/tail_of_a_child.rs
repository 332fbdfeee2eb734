//! Reads what a child writes and waits for its end, both on one poller: no thread, no SIGCHLD.
//!
//! ```console
//! $ cargo run -p ropewalk-sys --example tail_of_a_child
//! ```

#![allow(clippy::print_stdout, reason = "an example prints")]

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use ropewalk_sys::child::{ChildWatch, Exit, reap};
use ropewalk_sys::clock;
use ropewalk_sys::poller::{Events, Interest, Mode, Poller};

const OUTPUT: u64 = 0;
const END: u64 = 1;

fn main() -> io::Result<()> {
    let start = clock::now();
    let mut child = Command::new("sh")
        .args([
            "-c",
            "for i in 1 2 3; do echo line $i; sleep 0.05; done; exit 4",
        ])
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let Some(mut output) = child.stdout.take() else {
        return Err(io::Error::other("the child has no output"));
    };
    let watch = ChildWatch::open(pid)?;

    let poller = Poller::new()?;
    poller.add(output.as_raw_fd(), OUTPUT, Interest::READ, Mode::Level)?;
    poller.add(watch.as_raw_fd(), END, Interest::READ, Mode::Level)?;

    let (mut events, mut text, mut exit, mut open) = (Events::new(), String::new(), None, true);
    while open || exit.is_none() {
        match poller.wait(&mut events, None) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in events.iter() {
            if event.token == OUTPUT {
                let mut buffer = [0; 4096];
                let n = output.read(&mut buffer)?;
                if n == 0 {
                    poller.delete(output.as_raw_fd())?;
                    open = false;
                }
                text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            } else if event.token == END {
                poller.delete(watch.as_raw_fd())?;
                exit = reap(pid)?;
            }
        }
    }

    print!("{text}");
    println!(
        "ended with {exit:?} after {} ms",
        (clock::now() - start) / 1_000_000
    );
    if text != "line 1\nline 2\nline 3\n" || exit != Some(Exit::Code(4)) {
        return Err(io::Error::other("that was not what the child did"));
    }
    Ok(())
}
