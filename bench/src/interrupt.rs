//! Ctrl-C: the first one ends the run in order (tenants are ended, what was measured is written, daemons are stopped), the
//! second one as always.

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    // Storing to an atomic is all that may be done here (signal-safety(7)).
    REQUESTED.store(true, Ordering::Relaxed);
}

/// From now on the first SIGINT or SIGTERM is noted instead of ending this process.
pub fn catch() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: a zeroed sigaction is valid: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        action.sa_sigaction = note as *const () as usize;
        // The second one meets the default action again.
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the action is initialised, its handler is async-signal-safe, the old one is not asked for.
        if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether the user asked for the end.
pub fn is_requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
