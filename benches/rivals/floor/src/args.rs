//! Command lines of the form `--name value`.

use std::io;
use std::str::FromStr;

/// The value of `--name` on the command line, or an error that names it.
///
/// # Errors
///
/// When the option is absent or its value does not parse.
pub fn option<T: FromStr>(name: &str) -> io::Result<T> {
    let wanted = format!("--{name}");
    let mut args = std::env::args().skip_while(|arg| *arg != wanted);
    args.nth(1)
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("hint: give {wanted} and a value"),
            )
        })
}
