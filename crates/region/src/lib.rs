//! The shared memory of cuota: what stands in it, how a process joins, and how its death is seen.
//!
//! | file below the directory | who writes | what |
//! |---|---|---|
//! | `policy.v1` ([`policy`]) | the operator | limits, by tenant and GPU; tenants map it read-only |
//! | `tenant/NAME.v1` ([`tenant`]) | the tenant's processes | what each process has booked ([`ledger`]) and shares ([`share`]), and events |
//! | `tenant/NAME.v1.live` ([`member`]) | nobody | one record lock a process: the kernel drops it at death |
//! | `arena/GPU.v1` ([`arena`], [`seat`]) | all tenants of the GPU | whose turn it is |
//! | a file of another system's ([`hami`]) | a container's processes and its monitor | limits, and what HAMi's monitor shows |
//!
//! Every field is an atomic in a 64-byte slot. There is no mutex, semaphore or seqlock: a process that is killed
//! between any two instructions leaves nothing that the next one must repair. Every reader treats the files as hostile
//! input: lengths are checked against the mapping, indices are bounded, no loop depends on what a file says.
//!
//! This crate knows no CUDA. It runs inside tenants' processes, so it allocates nothing and leaves `errno` alone.

#![cfg_attr(not(any(test, loom)), no_std)]

#[doc(hidden)]
pub mod abi;
pub mod arena;
pub mod death;
pub mod event;
#[cfg(not(loom))]
pub mod hami;
pub mod header;
pub mod ledger;
#[cfg_attr(loom, path = "model/live.rs")]
mod live;
pub mod member;
#[cfg(loom)]
#[cfg_attr(not(test), allow(dead_code, reason = "only a model's tests run it"))]
mod model;
pub mod name;
pub mod path;
pub mod policy;
#[cfg(all(test, not(loom)))]
mod random_lives;
mod rejoin;
pub mod seat;
pub mod share;
mod sync;
pub mod sys;
pub mod tenant;
#[cfg(all(test, not(loom)))]
mod testing;
mod word;

/// Where the files are when `CUOTA_DIR` does not say.
pub const DEFAULT_DIR: &str = "/dev/shm/cuota";

/// The same for a system call.
pub const DEFAULT_PATH: &core::ffi::CStr = c"/dev/shm/cuota";

/// The environment variable that names the directory.
pub const DIR_VARIABLE: &str = "CUOTA_DIR";

/// The environment variable that, at `off`, keeps the limiter from having a thread.
pub const HELPER_VARIABLE: &str = "CUOTA_HELPER";

/// The environment variable that says, with `on` or `off`, whether a program takes turns with other tenants.
pub const TURNS_VARIABLE: &str = "CUOTA_TURNS";

/// The environment variable that names the tenant.
pub const TENANT_VARIABLE: &str = "CUOTA_TENANT";
