//! The books and the turns under every order of steps: the code that ships, run by loom (`RUSTFLAGS="--cfg loom"`).
//!
//! What stands in for the machine: a file of three places, one GPU and two notes a place; an arena of two seats; locks that fall when a process is
//! killed; a clock that the model sets; pauses that are fair ([`sync::stand_aside`]). A process is a thread that can be killed
//! before any of its accesses to shared memory.
//!
//! Where there are many orders, those are explored in which at most so many processes are interrupted that could have gone on
//! (`preemption_bound`: 1 to 3, as each model says); the rest is explored in full.
//!
//! Not modelled: the kernel's calls themselves, the log of events, `fork`, the GPUs' table, and rubbish in the file (tests
//! beside the code have that). Loom gives every thread an order of its own only where the memory model allows one; it does not
//! show loads that take values from the future, which Rust's model allows for relaxed atomics and no machine does.

/// A model's file: three processes, one GPU, two notes a process, and as many events as one life of each has.
pub const PROCESSES: usize = 3;
#[allow(missing_docs, reason = "as above")]
pub const GPUS: usize = 1;
#[allow(missing_docs, reason = "as above")]
pub const SHARES: usize = 2;
#[allow(missing_docs, reason = "as above")]
pub const EVENTS: usize = 4;

#[allow(missing_docs, reason = "as above")]
pub const SEATS: usize = 2;

pub(crate) mod process;
pub(crate) mod sync;
pub(crate) mod world;

#[cfg(test)]
mod death;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod rejoin;
#[cfg(test)]
mod share;
#[cfg(test)]
mod turns;
