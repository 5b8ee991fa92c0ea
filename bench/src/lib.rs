//! `cuota-bench`: what GPU sharing costs and how well it isolates, system beside system.
//!
//! A run goes [`cli`] → [`run`] → [`runner`] (turns) → [`metrics`] (one file each) → [`system`] (a tenant is started)
//! → [`worker`] (what the tenant does, through [`gpu`]) and back through [`stats`] into [`results`] and [`report`].

pub mod affinity;
pub mod cli;
pub mod clock;
pub mod environment;
pub mod gpu;
pub mod interrupt;
pub mod list;
pub mod metrics;
pub mod nvml;
pub mod process;
pub mod report;
pub mod results;
pub mod run;
pub mod runner;
pub mod spawn;
pub mod stats;
pub mod system;
pub mod units;
pub mod worker;
