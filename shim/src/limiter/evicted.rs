//! Streams that gave up their place with work in flight. An event without timing behind it says when it has ended. From its beginning until
//! then it is charged by the host's clock, a GPU's time once, however many such streams there are.

use core::sync::atomic::{AtomicU32, Ordering};

use cuota_abi::cuda::CUresult;
use cuota_region::sys;

use super::Limiter;
use super::caps::{Ground, NEVER_NS};
use super::lock::Lock;
use super::per_thread::as_event;
use super::stream::{Books, InFlight, Stream};
use super::timeline::Mark;
use crate::process::device::DEVICES;
use crate::process::driver;

/// How many are followed at a time.
const FOLLOWED: usize = 1 << 14;

/// What such a stream had in flight.
#[derive(Clone, Copy)]
#[repr(C)]
struct Work {
    /// The event behind it; 0: it is gone with its context.
    event: u64,
    /// The event in front of it, where that was not reached.
    start: Option<Mark>,
    context: u8,
    device: u32,
    /// Since when it may have been on the GPU and is not charged, ns.
    since_ns: u64,
}

/// All-zero is none.
#[repr(C)]
pub(super) struct Evicted {
    count: AtomicU32,
    list: Lock<List>,
}

#[repr(C)]
struct List {
    count: usize,
    works: [Work; FOLLOWED],
}

impl List {
    fn at(&mut self, index: usize) -> Option<&mut Work> {
        let is_there = index < self.count;
        is_there.then_some(&mut self.works[index % FOLLOWED])
    }
}

impl Evicted {
    /// Whether there are any.
    pub(super) fn is_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) != 0
    }

    /// Forgets the events of a context that is gone: its work was on the GPU until now at most.
    pub(super) fn end_context(&self, context: u8) {
        let Some(mut list) = self.list.take().filter(|_| self.is_any()) else { return };
        let mut index = 0;
        while let Some(work) = list.at(index) {
            if work.context == context {
                (work.event, work.start) = (0, None);
            }
            index += 1;
        }
    }
}

impl Limiter {
    /// Follows what is in flight on a stream that is to give up its place. `false`: no event can be left behind it, or too many are
    /// followed.
    #[cold]
    #[inline(never)]
    pub(super) fn follow_evicted(&self, stream: &Stream, books: &mut Books) -> bool {
        let launches = books.launches.count();
        let is_left = (books.has_tail || stream.is_per_thread()) && stream.tail.is_behind(launches)
            || stream.is_reachable() && self.may_record(stream) && self.leave_tail(stream, launches);
        let Some(mut list) = self.evicted.list.take().filter(|list| is_left && list.count < FOLLOWED) else {
            return false;
        };
        let start = self.waits(stream, books);
        // From here on it is charged for here, and what is written off of its books is what was booked.
        let mut since_ns = core::mem::replace(&mut books.since_ns, NEVER_NS);
        let (event, device, context) = (stream.tail.take(), stream.device(), stream.context());
        if let Some(start) = start {
            self.line(context).hold(start);
            since_ns = sys::monotonic_ns();
        }
        let count = list.count;
        list.works[count % FOLLOWED] = Work { event, start, context, device, since_ns };
        list.count = count + 1;
        self.evicted.count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Charges such work for the time that has gone by since it began, where the driver may be asked, and says what of it is in flight. `false`:
    /// another thread is at it.
    #[cold]
    pub(super) fn time_evicted(&self, asks: bool, left: &mut [InFlight; DEVICES]) -> bool {
        let Some(mut list) = self.evicted.list.try_take() else { return false };
        let mut index = 0;
        while let Some(work) = list.at(index) {
            index += 1;
            let line = self.line(work.context);
            if let Some(visit) = line.visit().filter(|_| asks) {
                let has_ended = driver::query_event(as_event(work.event)) != CUresult::CUDA_ERROR_NOT_READY;
                if work.start.is_some_and(|start| !visit.is_reached(start)) {
                    work.since_ns = sys::monotonic_ns();
                } else if let Some(on) = Ground::of(work.device) {
                    on.charge_since(work.since_ns, 0);
                }
                if has_ended {
                    let ended = *work;
                    self.evicted.count.fetch_sub(1, Ordering::Relaxed);
                    driver::destroy_event(as_event(ended.event));
                    if let Some(start) = ended.start {
                        line.let_go(start);
                    }
                    index -= 1;
                    list.count -= 1;
                    list.works[index % FOLLOWED] = list.works[list.count % FOLLOWED];
                    continue;
                }
            }
            if let Some(left) = left.get_mut(work.device as usize) {
                left.add_since(work.since_ns);
            }
        }
        true
    }
}
