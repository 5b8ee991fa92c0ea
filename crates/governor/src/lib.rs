//! The decisions of cuota, and nothing else: numbers and the time go in, a verdict comes out.
//!
//! This crate knows neither CUDA nor shared memory. Whoever wants to know *whether* an allocation is granted opens
//! [`quota`]; how many bytes an allocation really takes from the GPU stands in [`physical`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod physical;
pub mod quota;
