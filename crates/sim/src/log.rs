//! The log of what the model does not know: `CUOTA_SIM_LOG=<file>`. Without the variable nothing is written.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

/// Appends one line with the process's pid. One `write` a line, so that processes can share the file.
pub fn line(text: &str) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let path = std::env::var_os("CUOTA_SIM_LOG").filter(|v| !v.is_empty())?;
        OpenOptions::new().append(true).create(true).open(path).ok()
    });
    if let Some(mut file) = file.as_ref() {
        // A log that cannot be written must not change what the program sees.
        let _ = file.write_all(format!("cuota-sim[{}]: {text}\n", std::process::id()).as_bytes());
    }
}

/// Appends `text` once a process, however often it is said.
pub fn once(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().insert(text.to_owned()) {
        line(text);
    }
}

/// Sends what the library would say of a panic of its own to the log: standard error is the program's.
pub fn take_panics() {
    std::panic::set_hook(Box::new(|panic| line(&panic.to_string())));
}
