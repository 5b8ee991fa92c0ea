//! The two libraries as a program sees them: each test loads them in a process of its own, with a machine of its own.

mod arrays;
mod capture;
mod contexts;
mod device;
mod dma_bufs;
mod ends;
mod event_sharing;
mod execution;
mod external;
mod graph_nodes;
mod graph_updates;
mod graphs;
mod launches;
mod libraries;
mod memory;
mod mig;
mod multicast;
mod old_forms;
mod pools;
mod processes;
mod program;
mod sharing;
mod sparse;
mod sundries;
