//! What the command shows.

use std::io::{ErrorKind, Write as _};

use crate::status;

/// Writes `text` to standard output. Returns the exit status: a reader that has seen enough (`| head`) is no error.
pub(crate) fn show(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("cuota: what was found cannot be written: {error}");
            status::PROBLEM
        }
        Ok(()) | Err(_) => status::OK,
    }
}
