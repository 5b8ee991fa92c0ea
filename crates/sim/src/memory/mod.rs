//! Device memory: where it lies, who asked for it, and when its physical bytes come and go.

pub mod array;
mod backing;
pub mod blocks;
mod gaps;
pub mod graph_pool;
pub mod pool;
mod space;
pub mod sparse;
pub mod vmm;

pub use backing::{Access, Backing};
pub use space::{Space, Span};
