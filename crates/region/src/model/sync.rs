//! Atomics that a model explores, each access a step after which a process may be dead; pauses and a clock in model time.

use super::process::step;
use super::world::World;
use crate::sync::Ordering;

macro_rules! stepped {
    ($name:ident of $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl Default for $name {
            /// Loom lets a sequentially consistent load pass over a newer store only where the older one was not of that kind, which
            /// the memory model does not allow: so what a word begins with is stored in that way.
            fn default() -> Self {
                let word = loom::sync::atomic::$name::new(0);
                word.store(0, Ordering::SeqCst);
                $name(word)
            }
        }

        #[allow(dead_code, reason = "both widths have the same operations")]
        impl $name {
            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }

            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_add(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_or(value, order)
            }

            #[track_caller]
            pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_max(value, order)
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                order: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(old, new, order, failure)
            }

            /// As the strong one: to fail for no reason and try again shows nothing new.
            #[track_caller]
            pub(crate) fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                order: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, order, failure)
            }
        }
    };
}
stepped!(AtomicU32 of u32);
stepped!(AtomicU64 of u64);

/// The model's clock.
pub(crate) fn monotonic_ns() -> u64 {
    World::current().now_ns()
}

/// The pause of a reservation that collided, as fair as it is with time: it lasts until every other process that was at an attempt
/// has ended it, and those above in the table have ended their reservations. On a machine an attempt takes less than a microsecond,
/// and the pauses grow to a millisecond together.
pub(crate) fn stand_aside(place: usize, _attempt: u32) {
    World::current().stand_aside(place);
}
