//! The thread that runs the host functions of streams, one after the other, as the driver's does.

use super::Gpu;
use crate::engine::HostCall;
use std::cell::Cell;
use std::sync::mpsc;

thread_local! {
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is in a host function.
pub(crate) fn is_inside() -> bool {
    IS_INSIDE.get()
}

impl Gpu {
    pub(super) fn send_host_call(&self, stream: u64, call: HostCall) {
        if let Some(sender) = self.host_calls.get() {
            // The receiver lives as long as the process.
            let _ = sender.send((stream, call));
        }
    }

    /// Starts the thread, once.
    pub(super) fn start_host_calls(&'static self) {
        self.host_calls.get_or_init(|| {
            let (sender, calls) = mpsc::channel::<(u64, HostCall)>();
            super::worker::spawn("cuota-sim-host", move || {
                for (stream, call) in calls {
                    IS_INSIDE.set(true);
                    call();
                    IS_INSIDE.set(false);
                    let mut engine = self.engine.lock();
                    engine.host_done(stream);
                    self.pump(&mut engine);
                    drop(engine);
                    self.wake_worker();
                }
            });
            sender
        });
    }
}
