//! `libcuota.so`: the guest in the tenant's process.
//!
//! - [`arch`], [`elf`], [`interpose`]: how a call reaches us.
//! - [`hooks_table`]: which functions are hooked, one line each.
//! - [`hooks`]: what a call costs the tenant.
//! - [`limiter`]: when a launch waits.
//! - [`process`]: what this process is and holds.
//!
//! It may be preloaded into every process of a container, so it has no allocator, no thread-local storage, no signal
//! handler and no panic path, and a process that never touches CUDA notices nothing.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(
        dead_code,
        unused_imports,
        unused_macros,
        reason = "a unit test has no exports: nobody enters by them"
    )
)]

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
compile_error!("libcuota.so is for 64-bit Linux with glibc");

mod arch;
mod elf;
mod hooks;
mod hooks_table;
mod interpose;
mod limiter;
mod process;
#[cfg(not(test))]
mod runtime;

// The `libc` crate names the library only where no other crate of the same build asks for its feature `std`; without it the imports would have
// no versions.
#[link(name = "c")]
unsafe extern "C" {}

#[cfg(not(test))]
ctor::declarative::ctor! {
    /// Runs when the loader loads us. Nothing rests on it: constructors of other libraries may call us before.
    #[ctor(unsafe)]
    fn on_load() {
        process::settings::Settings::get();
        process::hami::announce();
    }
}
