//! How a call reaches us, and how ours reaches the driver.
//!
//! One rule: *our real function is always the driver's or glibc's own, and whoever looks a hooked name up gets the hook.*
//! So however many interposers there are, and in whatever order, nobody gets around us and nobody calls in a circle.
//!
//! - [`table`]: what a hook is, and the macro that declares them.
//! - [`call`]: a call whose arguments are words.
//! - [`driver`]: where the real functions are.
//! - [`glibc`]: the real `dlsym` and its kin.
//! - [`trampoline`]: the filters behind the exported `dlsym`, `dlvsym`, `dlopen` and `dlmopen`.
//! - [`lookup`], [`loading`]: what the filters decide.
//! - [`proc_address`]: the driver's own look-up, `cuGetProcAddress`.
//!
//! There is no lock here. Two threads that resolve the same function at once write the same address.

pub(crate) mod call;
pub(crate) mod driver;
pub(crate) mod glibc;
mod loading;
mod lookup;
pub(crate) mod proc_address;
pub(crate) mod table;
pub(crate) mod trampoline;
