//! The harness of the end-to-end tests: guest programs under the real `libcuota.so`.
//!
//! - [`build`]: the libraries under test and the guests, built once.
//! - [`guest`]: runs a guest and says what it printed.
//! - [`console`]: a guest that makes the calls it is told to, one by one; [`driver`]: these calls by name.
//! - [`shape`], [`graph`], [`code`]: arrays, graphs that allocate and modules, as a console makes them.
//! - [`coverage`]: the driver's functions, as the coverage ledger lists them.
//! - [`machine`]: a GPU, software or real, and the tenants on it: where consoles start, and what the books say.
//! - [`wait`]: waiting for what comes by itself.

mod alone;
pub mod build;
pub mod code;
pub mod console;
pub mod coverage;
pub mod driver;
pub mod graph;
pub mod guest;
pub mod machine;
pub mod shape;
pub mod wait;
