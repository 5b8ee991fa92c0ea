//! The device's time on the host's clock, so that the turns of several processes can be laid beside one another.

use crate::clock;
use crate::cuda::{Event, Stream};

const TRIES: u32 = 40;

/// A timing event, and when it was reached by the host's clock.
#[derive(Clone, Copy)]
pub(crate) struct Anchor {
    event: Event,
    host_ns: u64,
}

impl Anchor {
    /// The narrowest of some tries, on a stream with nothing on it: some 5 µs off.
    pub(crate) fn drop_on(stream: Stream) -> Self {
        let tries = (0..TRIES).map(|_| {
            let event = Event::timing();
            let before_ns = clock::now_ns();
            event.record(stream);
            stream.synchronize();
            let width_ns = clock::now_ns() - before_ns;
            (width_ns, Self { event, host_ns: before_ns + width_ns / 2 })
        });
        tries.min_by_key(|(width_ns, _)| *width_ns).expect("some tries").1
    }
}

/// Two anchors: before and after.
pub(crate) struct Ruler {
    pub(crate) from: Anchor,
    pub(crate) to: Anchor,
}

impl Ruler {
    /// When an event was reached, ns of the host's clock.
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "seconds")]
    pub(crate) fn host_ns(&self, event: Event) -> u64 {
        let device_ns = self.to.event.since_ns(self.from.event).max(1) as f64;
        let host_ns = (self.to.host_ns - self.from.host_ns) as f64;
        let since_ns = (event.since_ns(self.from.event) as f64 * host_ns / device_ns) as i64;
        self.from.host_ns.saturating_add_signed(since_ns)
    }
}
