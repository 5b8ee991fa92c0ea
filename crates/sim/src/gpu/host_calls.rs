//! The thread that runs the host functions of streams, one after the other, as the driver's does.

use super::Gpu;
use crate::engine::HostCall;
use std::sync::mpsc;

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
                    call();
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
