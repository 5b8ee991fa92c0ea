//! The harness of the end-to-end tests: guest programs under the real `libcuota.so`.
//!
//! - [`build`]: the libraries under test and the guests, built once.
//! - [`guest`]: runs a guest and says what it printed.

pub mod build;
pub mod guest;
